"""Pictures of what a VQ-VAE reconstructs and draws, at epoch ends."""

from pathlib import Path

import lightning as L
import torch
from PIL import Image

from spikelens.arguments import require_integers
from spikelens.data.base import unit_range
from spikelens.models.vqvae import VQVAE
from spikelens.report.figures import image_grid
from spikelens.report.tensorboard import log_picture, save_picture


class ReconstructionPanels(L.Callback):
    """Log `vqvae/panel`: validation images, their reconstructions, and samples.

    A sample is a draw of `CodePrior`: neighbouring codes suit each other, far ones need not.

    Args:
        num_images: Images a row, positive.
        folder: Where `reconstruction_epoch*.png` is saved; None for nowhere.

    Raises:
        ValueError: If `num_images` is not positive; in `setup`, if the module is no VQ-VAE.
    """

    def __init__(self, num_images: int = 10, folder: str | None = None) -> None:
        require_integers(1, num_images=num_images)
        self.num_images = num_images
        self.folder = None if folder is None else Path(folder)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse other modules before training starts."""
        if not isinstance(pl_module, VQVAE):
            raise ValueError(
                f"Argument `model` must be a VQ-VAE for these panels, but got {type(pl_module)}."
            )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw and log."""
        if not isinstance(pl_module, VQVAE):
            return  # for the type checker: `setup` has made sure
        images = trainer.datamodule.split("val").images[: self.num_images]  # type: ignore[attr-defined]
        with torch.no_grad():
            images = unit_range(images).to(pl_module.device)
            random = torch.Generator(pl_module.device).manual_seed(0)
            samples = pl_module.decode(pl_module.prior.sample(self.num_images, random))
            rows = [("image", images), ("reconstruction", pl_module(images)), ("sample", samples)]
            picture: Image.Image = image_grid(rows)
        log_picture(trainer.loggers, "vqvae/panel", picture, trainer.global_step - 1)
        if self.folder is not None and trainer.is_global_zero:
            name = f"reconstruction_epoch{trainer.current_epoch:03d}.png"
            save_picture(picture, self.folder / name)
