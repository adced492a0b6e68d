"""Generators that are not ours: any network that draws images from z or from codes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikelens.arguments import require_integers
from spikelens.generators.base import check_can_encode, even_kernel, no_encoder, sample_prior
from spikelens.generators.gaussian_grid import GaussianGrid, OverGrid
from spikelens.generators.image_module import ImageModule

# Points drawn to see whether a network keeps its promises.
_NUM_TRIED = 4
_RATE = 0.1  # first step width of the encoder, in standard deviations of z


class ExternalLatent(OverGrid):
    """A network z -> image over a grid of Gaussian quantiles: one mode a coordinate of z.

    Natural images are encoded by descending the squared error through the network, if it can be
    differentiated (see `encode`); if not, `can_encode` and `can_draw` are False and a search starts
    without them.

    Args:
        module: Draws images `(N, C, H, W)` from z float32 `(N, d)`; see `ImageModule`.
        z_size: Number of coordinates d of z, positive.
        value_range: Darkest and brightest value of float images; uint8 images have 0 and 255.
        is_map: Whether the network takes z as `(N, d, 1, 1)`.
        num_nodes: Symbols a coordinate, at least 2.
        reach: Standard deviation of a neighbour's distance in shares of the symbols, between 0
            and 1.
        is_sphere: Whether z has the length sqrt(d); see `GaussianGrid`.
        num_encode_steps: Descent steps for an image, positive.

    Raises:
        TypeError: If `module` is no `nn.Module`.
        ValueError: If an argument is out of its range, or the network does not draw such images.
    """

    def __init__(
        self,
        module: nn.Module,
        z_size: int,
        value_range: Sequence[float] = (0.0, 1.0),
        is_map: bool = False,
        num_nodes: int = 64,
        reach: float = 1 / 16,
        is_sphere: bool = False,
        num_encode_steps: int = 200,
    ) -> None:
        require_integers(1, num_encode_steps=num_encode_steps)
        super().__init__(GaussianGrid(z_size, num_nodes, reach, is_sphere))
        self.is_map, self.num_encode_steps = is_map, num_encode_steps
        latent = self.grid.to_latent(_some_points(self.mode_sizes))
        self.images = ImageModule(module, self._shaped(latent), value_range)
        self.image_shape = self.images.image_shape
        self.can_encode = self.can_draw = self.images.has_gradient

    def decode(self, indices: Tensor) -> Tensor:
        """Draw images float32 `(N, C, H, W)` in [0, 1] from multi-indices int64 `(N, d)`."""
        return self.images.draw(self._shaped(self.grid.to_latent(indices)))

    def draw(self, embedding: Tensor) -> Tensor:
        """Draw what `decode` does from coordinates `(N, d, 1)`; differentiable if `can_draw`."""
        z = self.grid.placed(embedding.squeeze(-1))
        images: Tensor = self.images(self._shaped(z))
        return images.clamp(0.0, 1.0)

    def encode(self, images: Tensor) -> Tensor:
        """Find multi-indices int64 `(N, d)` of images `(N, C, H, W)` in [0, 1] by Adam on z.

        It starts at z = 0, where the prior is densest, and keeps z within the grid; an image's
        answer depends on that image alone, and nothing is drawn at random.

        Raises:
            ValueError: If the network cannot be differentiated.
        """
        check_can_encode(self)
        with torch.enable_grad():
            latent = self._start(images).requires_grad_()
            optimizer = torch.optim.Adam([latent], lr=_RATE)
            for step in range(self.num_encode_steps):
                optimizer.param_groups[0]["lr"] = _RATE * (1.0 - step / self.num_encode_steps)
                latent.grad = self._slope(self._placed(latent), latent, images)
                optimizer.step()
                with torch.no_grad():
                    latent.copy_(self._placed(latent))
        return self.grid.to_indices(latent.detach())

    def realism(self, images: Tensor) -> Tensor:
        """Return NaN for each image `(N, C, H, W)`: it cannot tell."""
        return torch.full((len(images),), torch.nan, device=images.device)

    def _shaped(self, latent: Tensor) -> Tensor:
        return latent[:, :, None, None] if self.is_map else latent

    def _placed(self, latent: Tensor) -> Tensor:
        """Put z `(N, d)` where the grid has points."""
        if self.grid.is_sphere:
            return self.grid.on_sphere(latent)
        nodes = self.grid.nodes
        return latent.clamp(nodes[0], nodes[-1])

    def _start(self, images: Tensor) -> Tensor:
        """Return z = 0 `(N, d)`, or on the sphere the point in whose direction 0 descends most."""
        origin = torch.zeros(len(images), self.grid.z_size, device=images.device)
        if not self.grid.is_sphere:
            return origin
        origin.requires_grad_()
        return self.grid.on_sphere(-self._slope(origin, origin, images))

    def _slope(self, latent: Tensor, origin: Tensor, images: Tensor) -> Tensor:
        """Return the gradient `(N, d)` of the squared error of z's images at `origin`."""
        error = (self.images(self._shaped(latent)) - images).square().sum()
        return torch.autograd.grad(error, origin)[0]


class ExternalCodes(nn.Module):
    """A network codes -> image: one mode a code, every symbol as likely and as near as another.

    It has no encoder: a search of it starts without natural images.

    Args:
        module: Draws images `(N, C, H, W)` from codes int64 `(N, d)`; see `ImageModule`. Codes that
            follow each other should be neighbours in the image.
        mode_sizes: Number of symbols of each of the d codes, positive.
        value_range: Darkest and brightest value of float images; uint8 images have 0 and 255.

    Raises:
        TypeError: If `module` is no `nn.Module`.
        ValueError: If an argument is out of its range, or the network does not draw such images.
    """

    can_encode = False

    def __init__(
        self,
        module: nn.Module,
        mode_sizes: Sequence[int],
        value_range: Sequence[float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        if not len(mode_sizes):
            raise ValueError("Argument `mode_sizes` must name at least one mode, but got none.")
        for size in mode_sizes:
            require_integers(1, mode_sizes=size)
        self.mode_sizes = tuple(mode_sizes)
        self.order = torch.arange(len(self.mode_sizes))
        self.prior = [torch.full((size,), 1.0 / size) for size in self.mode_sizes]
        self._kernel_by_size = {size: even_kernel(size) for size in set(self.mode_sizes)}
        self.images = ImageModule(module, _some_points(self.mode_sizes), value_range)
        self.image_shape = self.images.image_shape

    def decode(self, indices: Tensor) -> Tensor:
        """Draw images float32 `(N, C, H, W)` in [0, 1] from codes int64 `(N, d)`."""
        return self.images.draw(indices)

    def encode(self, images: Tensor) -> Tensor:
        """Refuse: there is no way back from an image to its codes.

        Raises:
            ValueError: Always.
        """
        raise no_encoder(self)

    def realism(self, images: Tensor) -> Tensor:
        """Return NaN for each image `(N, C, H, W)`: it cannot tell."""
        return torch.full((len(images),), torch.nan, device=images.device)

    def sample(self, num_images: int, random: torch.Generator) -> Tensor:
        """Draw points int64 `(num_images, d)` from the prior."""
        return sample_prior(self.prior, num_images, random)

    def embed(self, indices: Tensor) -> Tensor:
        """Return one-hot vectors `(..., d, n)`: any two symbols are as far from each other."""
        return F.one_hot(indices, max(self.mode_sizes)).float()

    def neighbours(self, mode: int) -> Tensor:
        """Return `(n_j, n_j)`, rows sum to 1: all symbols but the row's own alike."""
        return self._kernel_by_size[self.mode_sizes[mode]]


def _some_points(mode_sizes: Sequence[int]) -> Tensor:
    """Draw a few multi-indices int64 `(N, d)`, the same every time."""
    random = torch.Generator().manual_seed(0)
    shares = torch.rand(_NUM_TRIED, len(mode_sizes), generator=random)
    return (shares * torch.tensor(mode_sizes)).long()
