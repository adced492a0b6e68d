"""A vector-quantised auto-encoder: networks, codebook, and the LightningModule that trains it."""

import math
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from spikelens.data.base import ImageSpec, unit_range
from spikelens.models.code_prior import CodePrior
from spikelens.models.codebook import Codebook
from spikelens.models.optimization import BuildOptimizer, BuildScheduler, build_optimizer


class Residual(nn.Module):
    """`x + conv1x1(relu(conv3x3(relu(x))))` on maps `(N, channels, H, W)`."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, hidden, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's output to its input."""
        out: Tensor = x + self.body(x)
        return out


def _residuals(num: int, hidden: int, residual_hidden: int) -> list[nn.Module]:
    return [Residual(hidden, residual_hidden) for _ in range(num)]


def _encoder(
    channels: int, code_size: int, num_residuals: int, hidden: int, residual_hidden: int
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, hidden // 2, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(hidden // 2, hidden, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 3, padding=1),
        *_residuals(num_residuals, hidden, residual_hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, code_size, 1),
    )


def _decoder(
    channels: int, code_size: int, num_residuals: int, hidden: int, residual_hidden: int
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(code_size, hidden, 3, padding=1),
        *_residuals(num_residuals, hidden, residual_hidden),
        nn.ReLU(),
        nn.ConvTranspose2d(hidden, hidden // 2, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(hidden // 2, channels, 4, stride=2, padding=1),
    )


class VQVAE(L.LightningModule):
    """Auto-encoder whose latent is a map of codes, 4 times smaller than the image.

    Logs `train/loss`, `val/relative_mse` (mean squared error / variance of the training pixels:
    0 is perfect, 1 is the mean image), `val/perplexity` (exp of the entropy in nats of the code
    frequencies over the epoch, in [1, num_codes]), `val/used_codes`, `test/relative_mse`.

    Args:
        images: Channels and size of the images; the size a multiple of 4.
        hidden: Channels of the hidden maps.
        residual_hidden: Channels inside a residual block.
        num_residuals: Residual blocks on either side.
        num_codes: Codebook size n.
        code_size: Length of a code vector.
        beta: Weight of the commitment loss.
        decay: Decay of the codebook's moving averages.
        optimizer: Builds the optimizer from the parameters; None for Adam(1e-3).
        scheduler: Builds a learning-rate scheduler, stepped once an epoch; None for none.

    Raises:
        ValueError: If the image size is no multiple of 4.

    Source: van den Oord et al., "Neural discrete representation learning", 2017.
    """

    variance: Tensor

    def __init__(
        self,
        images: ImageSpec,
        hidden: int = 128,
        residual_hidden: int = 32,
        num_residuals: int = 2,
        num_codes: int = 512,
        code_size: int = 64,
        beta: float = 0.25,
        decay: float = 0.99,
        optimizer: BuildOptimizer | None = None,
        scheduler: BuildScheduler | None = None,
    ) -> None:
        super().__init__()
        if images.size % 4:
            raise ValueError(
                f"Argument `images` must have a size divisible by 4, but got {images.size}."
            )
        self.images, self.beta = images, beta
        self.optimizer, self.scheduler = optimizer, scheduler
        self.code_side = images.size // 4
        blocks = num_residuals, hidden, residual_hidden
        self.encoder = _encoder(images.channels, code_size, *blocks)
        self.decoder = _decoder(images.channels, code_size, *blocks)
        self.codebook = Codebook(num_codes, code_size, decay)
        # What the codes of the last training epoch were.
        self.prior = CodePrior(self.code_side, num_codes)
        self.register_buffer("variance", torch.ones(()))
        self.squared_error = MeanMetric()
        self.epoch_counts: Tensor | None = None

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "VQVAE":
        """Rebuild a trained VQ-VAE from its state_dict alone: the shapes tell its sizes.

        Raises:
            KeyError: If the state is not a VQ-VAE's.
        """
        first, code_vectors = state["encoder.0.weight"], state["codebook.vectors"]
        blocks = [name for name in state if name.startswith("encoder.") and ".body.1." in name]
        residual = state[blocks[0]] if blocks else torch.empty(1)
        size = 4 * math.isqrt(len(state["prior.place_counts"]))
        model = cls(
            ImageSpec(channels=first.shape[1], size=size, classes=()),
            hidden=state["encoder.2.weight"].shape[0],
            residual_hidden=residual.shape[0],
            num_residuals=len(blocks),
            num_codes=code_vectors.shape[0],
            code_size=code_vectors.shape[1],
        )
        model.load_state_dict(state)
        return model

    def encode(self, images: Tensor) -> Tensor:
        """Return the codes of images `(N, C, H, W)` in [0, 1]: int64 `(N, side * side)`."""
        return self._quantise(self._features(images)).view(len(images), -1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the images `(N, C, H, W)` in [0, 1] of codes int64 `(N, side * side)`."""
        return self.draw(F.embedding(codes, self.codebook.vectors))

    def draw(self, vectors: Tensor) -> Tensor:
        """Return the images `(N, C, H, W)` in [0, 1] of vectors `(N, side * side, code_size)`."""
        maps = vectors.unflatten(1, (self.code_side, self.code_side)).permute(0, 3, 1, 2)
        return self._paint(maps).clamp(0.0, 1.0)

    def drawn(self, images: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """Reconstruct images `(N, C, H, W)` in [0, 1], and draw as many from the prior.

        Args:
            images: What is reconstructed.
            random: On the module's device.

        Returns:
            `reconstruction` and `sample`, each `(N, C, H, W)` in [0, 1].
        """
        sample = self.decode(self.prior.sample(len(images), random))
        return {"reconstruction": self(images), "sample": sample}

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images `(N, C, H, W)` in [0, 1]."""
        return self.decode(self.encode(images))

    def on_fit_start(self) -> None:
        """Measure the pixel variance that relates the reconstruction error to the data."""
        pixels = self.trainer.datamodule.split("train").images  # type: ignore[attr-defined]
        sample = unit_range(pixels[:4096])
        self.variance.copy_(sample.var(dim=(0, 2, 3)).mean())

    def on_train_epoch_start(self) -> None:
        """Count codes anew."""
        self.prior.reset()

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return reconstruction error / variance + beta * commitment error of one batch."""
        images = batch[0]
        features = self._features(images)
        codes = self._quantise(features)
        vectors = F.embedding(codes, self.codebook.vectors).permute(0, 3, 1, 2)
        commitment = F.mse_loss(features, vectors)
        passed = features + (vectors - features).detach()  # straight-through gradient
        reconstruction = F.mse_loss(self._paint(passed), images) / self.variance
        # The averages move only after their old values were used for this batch.
        self.codebook.update(features.detach().permute(0, 2, 3, 1).flatten(0, 2), codes.flatten())
        self.prior.count(codes)
        loss = reconstruction + self.beta * commitment
        self.log("train/loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the codes counted before."""
        self.epoch_counts = torch.zeros_like(self.prior.place_counts[0])

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Measure the reconstruction of one batch and count its codes."""
        images = batch[0]
        codes = self.encode(images)
        error = F.mse_loss(self.decode(codes), images)
        self.squared_error(error, weight=len(images))
        if self.epoch_counts is not None:
            self.epoch_counts += torch.bincount(codes.flatten(), minlength=len(self.epoch_counts))

    def on_validation_epoch_end(self) -> None:
        """Log the reconstruction error and the codes' perplexity over the epoch."""
        relative = self.squared_error.compute() / self.variance
        self.squared_error.reset()
        self.log("val/relative_mse", relative, prog_bar=True)
        if self.epoch_counts is not None:
            share = self.epoch_counts / self.epoch_counts.sum()
            self.log("val/perplexity", torch.special.entr(share).sum().exp(), prog_bar=True)
            self.log("val/used_codes", (share > 0).float().sum())

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Measure the reconstruction of one batch of test images."""
        error = F.mse_loss(self(batch[0]), batch[0])
        self.log("test/relative_mse", error / self.variance, batch_size=len(batch[0]))

    def configure_optimizers(self) -> Any:
        """Build the optimizer and, where asked, its scheduler."""
        return build_optimizer(self.parameters(), self.optimizer, self.scheduler)

    def _features(self, images: Tensor) -> Tensor:
        out: Tensor = self.encoder(images - 0.5)
        return out

    def _paint(self, vectors: Tensor) -> Tensor:
        out: Tensor = self.decoder(vectors) + 0.5
        return out

    def _quantise(self, features: Tensor) -> Tensor:
        channels_last = features.permute(0, 2, 3, 1)
        return self.codebook.assign(channels_last.flatten(0, 2)).view(channels_last.shape[:3])
