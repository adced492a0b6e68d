"""Pictures of what an SN-GAN draws, at epoch ends."""

from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from spikelens.arguments import require_integers
from spikelens.data.base import unit_range
from spikelens.models.sngan import SNGAN
from spikelens.report.figures import image_grid
from spikelens.report.tensorboard import log_picture, save_picture
from spikelens.undisturbed import undisturbed


class SamplePanels(L.Callback):
    """Log `sngan/panel`: samples of z that stay the same, a walk between two, encoded images.

    Args:
        num_images: Images a row, at least 2.
        folder: Where `samples_epoch*.png` is saved; None for nowhere.

    Raises:
        ValueError: If `num_images` is less than 2; in `setup`, if the module is no SN-GAN.
    """

    def __init__(self, num_images: int = 10, folder: str | None = None) -> None:
        require_integers(2, num_images=num_images)
        self.num_images = num_images
        self.folder = None if folder is None else Path(folder)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse other modules before training starts."""
        if not isinstance(pl_module, SNGAN):
            raise ValueError(
                f"Argument `model` must be an SN-GAN for these panels, but got {type(pl_module)}."
            )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw and log."""
        if not isinstance(pl_module, SNGAN):
            return  # for the type checker: `setup` has made sure
        images = trainer.datamodule.split("val").images[: self.num_images]  # type: ignore[attr-defined]
        num, size = self.num_images, pl_module.z_size
        z = torch.randn(4 * num, size, generator=torch.Generator().manual_seed(0))
        walk = spherical_walk(z[0], z[1], num)
        with undisturbed(pl_module):
            images = unit_range(images).to(pl_module.device)
            rows = [("sample", pl_module(part.to(pl_module.device))) for part in z.split(num)]
            rows.append(("walk", pl_module(walk.to(pl_module.device))))
            rows.append(("image", images))
            rows.append(("encoded", pl_module(pl_module.encode(images))))
            picture = image_grid(rows)
        # Not `global_step`, which counts each of the three optimizers: metrics go by batches.
        step = trainer.fit_loop.total_batch_idx
        log_picture(trainer.loggers, "sngan/panel", picture, step)
        if self.folder is not None and trainer.is_global_zero:
            name = f"samples_epoch{trainer.current_epoch:03d}.png"
            save_picture(picture, self.folder / name)


def spherical_walk(begin: Tensor, end: Tensor, num_steps: int) -> Tensor:
    """Walk from one z `(d,)` to another on a great circle, the length changing evenly.

    A straight line would lead through short z, that normal draws avoid.

    Returns:
        `(num_steps, d)`, both ends included.

    Source: White, "Sampling generative networks", 2016.
    """
    angle = torch.arccos(torch.cosine_similarity(begin, end, dim=0).clamp(-1.0, 1.0))
    share = torch.linspace(0.0, 1.0, num_steps)[:, None]
    if torch.sin(angle) < 1e-3:  # on one line, as all z of size 1: there is no such circle
        return torch.lerp(begin, end, share)
    along = torch.sin((1.0 - share) * angle) * begin + torch.sin(share * angle) * end
    return along / torch.sin(angle)
