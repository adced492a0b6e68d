"""The LightningModule that trains an SN-GAN, and an encoder beside it."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from spikelens.arguments import require_integers
from spikelens.data.base import ImageSpec
from spikelens.models.optimization import BuildOptimizer
from spikelens.models.sngan_networks import LatentEncoder, ResNetDiscriminator, ResNetGenerator
from spikelens.precision import autocast, require_precision


class SNGAN(L.LightningModule):
    """Train a generator against a discriminator whose weights have spectral norm 1.

    An encoder learns to tell z from the images that the generator draws on the way: a search over
    z can begin at natural images. The generator's weights are averaged over its steps; what is
    drawn, shipped and searched is drawn by the average.

    Logs `train/discriminator_loss` and `train/generator_loss` (hinge), `train/encoder_loss` (mean
    squared error of z: 1 for knowing nothing), and over validation images `val/score` and
    `val/score_sample` (mean discriminator score of real and of drawn images) and
    `val/encoder_relative_mse` (mean squared error of an image drawn from its encoding / variance
    of the pixels); the same under `test/`.

    Args:
        images: Channels and size of the images, 28 to 64 pixels; see `bottom_side`.
        z_size: Length of z.
        generator_width: Channels of the generator's maps; the paper takes 256.
        discriminator_width: Channels of the discriminator's maps; the paper takes 128.
        encoder_width: Channels of the encoder's first map.
        num_discriminator_steps: Discriminator steps for each generator step (the paper's n_dis).
        ema_decay: Decay a generator step of the averaged weights, in [0, 1); 0 for no average.
        precision: `float32`, `bfloat16`, or `auto`, which is bfloat16 where the device is faster
            in it. It holds for forward passes; in float32 gradients are convolved as torch does by
            default, in TF32 on a GPU. Losses and weights are float32.
        is_decayed: Whether learning rates fall linearly to 0 at the end of the training.
        optimizer: Builds each of the three optimizers; None for Adam(2e-4, betas=(0, .9)).

    Raises:
        ValueError: If an argument is out of its range.

    Source: Miyato et al., "Spectral normalization for generative adversarial networks", 2018.
    """

    def __init__(
        self,
        images: ImageSpec,
        z_size: int = 128,
        generator_width: int = 256,
        discriminator_width: int = 128,
        encoder_width: int = 32,
        num_discriminator_steps: int = 5,
        ema_decay: float = 0.999,
        precision: str = "auto",
        is_decayed: bool = True,
        optimizer: BuildOptimizer | None = None,
    ) -> None:
        super().__init__()
        require_integers(1, z_size=z_size, generator_width=generator_width)
        require_integers(1, discriminator_width=discriminator_width, encoder_width=encoder_width)
        require_integers(1, num_discriminator_steps=num_discriminator_steps)
        require_precision(precision)
        if not 0.0 <= ema_decay < 1.0:
            raise ValueError(f"Argument `ema_decay` must lie in [0, 1), but got {ema_decay}.")
        self.automatic_optimization = False
        self.images, self.z_size, self.precision = images, z_size, precision
        self.num_discriminator_steps, self.is_decayed = num_discriminator_steps, is_decayed
        self.optimizer = optimizer
        shape = images.channels, images.size
        self.generator = ResNetGenerator(z_size, generator_width, *shape)
        self.discriminator = ResNetDiscriminator(discriminator_width, *shape)
        self.encoder = LatentEncoder(z_size, encoder_width, *shape)
        self.to(memory_format=torch.channels_last)
        self.average = AveragedModel(
            self.generator, multi_avg_fn=get_ema_multi_avg_fn(ema_decay), use_buffers=True
        )

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "SNGAN":
        """Rebuild a trained SN-GAN from its state_dict, or from what `shipped_state` leaves of it.

        Raises:
            KeyError: If the state is not an SN-GAN's.
        """
        drawing = "average.module."
        first, last = state[f"{drawing}first.weight"], state[f"{drawing}last.weight"]
        blocks = [name for name in state if name.startswith(f"{drawing}blocks.")]
        num_blocks = 1 + max(int(name.split(".")[3]) for name in blocks)
        width = last.shape[1]
        side = round((first.shape[0] / width) ** 0.5)
        model = cls(
            ImageSpec(channels=last.shape[0], size=side * 2**num_blocks, classes=()),
            z_size=first.shape[1],
            generator_width=width,
            discriminator_width=state["discriminator.last.parametrizations.weight.original"].shape[
                1
            ],
            encoder_width=state["encoder.maps.0.0.weight"].shape[0],
        )
        own = {name.replace(drawing, "generator."): value for name, value in state.items()}
        model.load_state_dict({**own, **state})
        return model

    def shipped_state(self) -> dict[str, Tensor]:
        """Return the state without the generator of the last step: its average draws."""
        state: dict[str, Tensor] = self.state_dict()
        return {name: value for name, value in state.items() if not name.startswith("generator.")}

    def forward(self, z: Tensor) -> Tensor:
        """Draw images `(N, C, H, W)` in [0, 1] from z `(N, z_size)`, standard normal."""
        out: Tensor = 0.5 * (self.average(z) + 1.0)
        return out

    def score(self, images: Tensor) -> Tensor:
        """Return the discriminator's score `(N,)` of images `(N, C, H, W)` in [0, 1]."""
        out: Tensor = self.discriminator(2.0 * images - 1.0)
        return out

    def encode(self, images: Tensor) -> Tensor:
        """Guess z `(N, z_size)` of images `(N, C, H, W)` in [0, 1]."""
        out: Tensor = self.encoder(2.0 * images - 1.0)
        return out

    def drawn(self, images: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """Draw images `(N, C, H, W)` in [0, 1], by the average and by the last step's weights.

        Args:
            images: As many are drawn, `(N, C, H, W)`.
            random: On the module's device.

        Returns:
            `sample` and `last_step_sample`, drawn from the same z.
        """
        z = torch.randn(len(images), self.z_size, generator=random, device=random.device)
        z = z.to(self.device)
        return {"sample": self(z), "last_step_sample": 0.5 * (self.generator(z) + 1.0)}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Step the discriminator and the encoder, and at every n-th batch the generator."""
        real = 2.0 * batch[0] - 1.0
        of_discriminator, of_generator, of_encoder = self.optimizers()  # type: ignore[attr-defined]
        with autocast(self.precision, self.device):
            z = torch.randn(len(real), self.z_size, device=self.device)
            with torch.no_grad():
                fake = self.generator(z).float()
            # In one batch: one power iteration for each weight.
            on_real, on_fake = self.discriminator(torch.cat([real, fake])).float().chunk(2)
            loss = F.relu(1.0 - on_real).mean() + F.relu(1.0 + on_fake).mean()
            encoder_loss = F.mse_loss(self.encoder(fake).float(), z)
        self._step(of_discriminator, loss)
        self._step(of_encoder, encoder_loss)
        self.log("train/discriminator_loss", loss, prog_bar=True)
        self.log("train/encoder_loss", encoder_loss)
        if self.trainer.fit_loop.total_batch_idx % self.num_discriminator_steps == 0:
            self._step_generator(of_generator, len(real))
        if self.is_decayed:
            for scheduler in self.lr_schedulers():  # type: ignore[union-attr]
                scheduler.step()

    def _step_generator(self, optimizer: Any, num_images: int) -> None:
        # Toggled: gradients of the discriminator's weights would be computed for nothing.
        with self.toggled_optimizer(optimizer):
            with autocast(self.precision, self.device):
                z = torch.randn(num_images, self.z_size, device=self.device)
                loss = -self.discriminator(self.generator(z)).float().mean()
            self._step(optimizer, loss)
        self.average.update_parameters(self.generator)
        self.log("train/generator_loss", loss, prog_bar=True)

    def _step(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Score one batch of validation images."""
        self._score("val", batch[0])

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Score one batch of test images."""
        self._score("test", batch[0])

    def configure_optimizers(self) -> Any:
        """Build an optimizer each for discriminator, generator and encoder, and their schedules."""
        build = self.optimizer or _adam
        parts = (self.discriminator, self.generator, self.encoder)
        optimizers = [build(part.parameters()) for part in parts]
        if not self.is_decayed:
            return optimizers
        if self.trainer.max_steps != -1:
            raise ValueError(
                "Argument `max_steps` must be -1 for an SN-GAN whose learning rate falls, as it "
                f"counts the steps of three optimizers, but got {self.trainer.max_steps}: say "
                "trainer.max_epochs."
            )
        num_batches = self.trainer.estimated_stepping_batches

        def left(batch: int) -> float:
            return max(0.0, 1.0 - batch / num_batches)

        return optimizers, [LambdaLR(optimizer, left) for optimizer in optimizers]

    def _score(self, stage: str, images: Tensor) -> None:
        error = F.mse_loss(self(self.encode(images)), images)
        random = torch.Generator(self.device).manual_seed(0)  # the same z at each epoch
        z = torch.randn(len(images), self.z_size, generator=random, device=self.device)
        values = {
            "score": self.score(images).mean(),
            "score_sample": self.score(self(z)).mean(),
            "encoder_relative_mse": error / images.var(dim=(0, 2, 3)).mean(),
        }
        self.log_dict({f"{stage}/{n}": v for n, v in values.items()}, batch_size=len(images))


def _adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.0, 0.9))
