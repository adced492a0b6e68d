"""The latent of an SN-GAN as a grid of Gaussian quantiles."""

import torch
from torch import Tensor

from spikelens.arguments import require_integers
from spikelens.generators.gaussian_grid import GaussianGrid, OverGrid
from spikelens.models.sngan import SNGAN
from spikelens.weights import load_trained

_STEP = 0.1  # of Adam on z, in standard deviations of its prior
_PRIOR = 1e-3  # weight of |z|^2 / d beside the squared error of a pixel


class GanLatent(OverGrid):
    """One mode a coordinate of z, one symbol a quantile of its prior.

    Args:
        sngan: A trained SN-GAN.
        num_nodes: Symbols n a coordinate, at least 2.
        reach: See `GaussianGrid`.
        is_sphere: See `GaussianGrid`.
        num_refinements: Gradient steps on z by which the encoder's guess is brought nearer to an
            image; not negative.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Pospelov et al. 2025, section 3.2, on a grid of quantiles instead of a uniform one.
    """

    def __init__(
        self,
        sngan: SNGAN,
        num_nodes: int = 64,
        reach: float = 1 / 16,
        is_sphere: bool = False,
        num_refinements: int = 20,
    ) -> None:
        require_integers(0, num_refinements=num_refinements)
        super().__init__(GaussianGrid(sngan.z_size, num_nodes, reach, is_sphere))
        self.num_refinements = num_refinements
        # The format in which convolutions run fastest: decoding is part of every evaluation.
        self.sngan = sngan.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        self.image_shape = sngan.images.image_shape

    def decode(self, indices: Tensor) -> Tensor:
        """Draw images float32 `(N, C, H, W)` in [0, 1] from multi-indices int64 `(N, d)`."""
        with torch.no_grad():
            return self.draw(self.embed(indices))

    def draw(self, embedding: Tensor) -> Tensor:
        """Draw what `decode` does from coordinates `(N, d, 1)`; differentiable."""
        images: Tensor = self.sngan(self.grid.placed(embedding.squeeze(-1)))
        return images

    def encode(self, images: Tensor) -> Tensor:
        """Find multi-indices int64 `(N, d)` that draw much the same as `(N, C, H, W)` in [0, 1].

        The encoder guesses z; Adam then lowers each image's mean squared error + 1e-3 |z|^2 / d.
        """
        with torch.no_grad():
            latent = self.sngan.encode(images)
        return self.grid.to_indices(self._refined(latent, images))

    def realism(self, images: Tensor) -> Tensor:
        """Return the discriminator's score of images `(N, C, H, W)` in [0, 1], `(N,)`.

        It has learned to tell real images from those that this generator draws, and tells nothing
        of others: noise may score above both.
        """
        with torch.no_grad():
            return self.sngan.score(images)

    def _refined(self, latent: Tensor, images: Tensor) -> Tensor:
        latent = latent.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([latent], lr=_STEP)
        for _ in range(self.num_refinements):
            with torch.enable_grad():
                z = self.grid.on_sphere(latent) if self.grid.is_sphere else latent
                error = (self.sngan(z) - images).square().mean((1, 2, 3))
                loss = (error + _PRIOR * latent.square().mean(1)).sum()
            (latent.grad,) = torch.autograd.grad(loss, latent)
            optimizer.step()
        return latent.detach()


def load_gan_latent(
    path: str,
    num_nodes: int = 64,
    reach: float = 1 / 16,
    is_sphere: bool = False,
    num_refinements: int = 20,
) -> GanLatent:
    """Load the latent of a trained SN-GAN, on the CPU.

    Args:
        path: A Lightning checkpoint (`.ckpt`) of `SNGAN`, or shipped weights (`.safetensors`).
        num_nodes: See `GanLatent`, as the others.
        reach: See `GanLatent`.
        is_sphere: See `GanLatent`.
        num_refinements: See `GanLatent`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no SN-GAN, is not the one its card describes, or another
            argument is out of its range.
    """
    sngan = load_trained(path, SNGAN.from_state, "an SN-GAN")
    return GanLatent(sngan, num_nodes, reach, is_sphere, num_refinements)
