"""A continuous, normally distributed latent as a grid of integers."""

import torch
from torch import Tensor, nn

from spikelens.arguments import require_fractions, require_integers

# Symbols. With less the kernel is the same, until squares of distances overflow.
_LEAST_REACH = 0.05


class GaussianGrid(nn.Module):
    """Symbols for the coordinates of a latent z in R^d whose prior is standard normal.

    Symbol i of a coordinate stands for the Gaussian quantile (i + 1/2) / n, so that uniform symbols
    are draws from the prior. A uniform grid on [-4, 4] would draw |z| about 2.3 sqrt(d), far from
    every image that the generator has learned. Of 64 symbols the outermost stand for -2.4 and 2.4,
    of 4096 for -3.7 and 3.7: so far may a search go in every coordinate.

    Args:
        z_size: Number of coordinates d, positive.
        num_nodes: Symbols n a coordinate, at least 2.
        reach: Standard deviation of a neighbour's distance in shares of the symbols, between 0
            and 1.
        is_sphere: Whether z is scaled to the length sqrt(d), where normal draws of many
            coordinates lie.

    Raises:
        ValueError: If an argument is out of its range.
    """

    nodes: Tensor
    edges: Tensor

    def __init__(
        self, z_size: int, num_nodes: int = 64, reach: float = 1 / 16, is_sphere: bool = False
    ) -> None:
        super().__init__()
        require_integers(1, z_size=z_size)
        require_integers(2, num_nodes=num_nodes)
        require_fractions(reach=reach)
        self.z_size, self.is_sphere = z_size, is_sphere
        shares = (torch.arange(2 * num_nodes - 1, dtype=torch.float64) + 1) / (2 * num_nodes)
        quantiles = torch.special.ndtri(shares).float()
        # Nodes, and the borders between the quantiles that are nearest to them.
        self.register_buffer("nodes", quantiles[::2], persistent=False)
        self.register_buffer("edges", quantiles[1::2].contiguous(), persistent=False)
        self.mode_sizes = (num_nodes,) * z_size
        self.order = torch.arange(z_size)
        self.prior = [torch.full((num_nodes,), 1.0 / num_nodes)] * z_size
        self.kernel = near_kernel(num_nodes, reach * num_nodes)

    def to_latent(self, indices: Tensor) -> Tensor:
        """Return z float32 `(N, d)` of multi-indices int64 `(N, d)`."""
        return self.placed(self.nodes[indices])

    def placed(self, coordinates: Tensor) -> Tensor:
        """Return z `(N, d)` of coordinates `(N, d)`: the same, or on the sphere their direction."""
        return self.on_sphere(coordinates) if self.is_sphere else coordinates

    def to_indices(self, latent: Tensor) -> Tensor:
        """Return the multi-indices int64 `(N, d)` of z `(N, d)`: of whose quantiles it is one."""
        indices: Tensor = torch.bucketize(latent.contiguous(), self.edges)
        return indices

    def on_sphere(self, latent: Tensor) -> Tensor:
        """Scale z `(N, d)` to the length sqrt(d)."""
        length = latent.norm(dim=1, keepdim=True).clamp_min(1e-12)
        scaled: Tensor = latent * (self.z_size**0.5 / length)
        return scaled


class OverGrid(nn.Module):
    """What generators over a Gaussian grid share: all of `LatentSpace`.

    Args:
        grid: One mode a coordinate, one symbol a quantile.
    """

    def __init__(self, grid: GaussianGrid) -> None:
        super().__init__()
        self.grid = grid
        self.mode_sizes, self.order, self.prior = grid.mode_sizes, grid.order, grid.prior

    def sample(self, num_images: int, random: torch.Generator) -> Tensor:
        """Draw points int64 `(num_images, d)`: uniform symbols are normal z."""
        shape = num_images, len(self.mode_sizes)
        num_nodes = len(self.grid.nodes)
        return torch.randint(num_nodes, shape, generator=random, device=random.device)

    def embed(self, indices: Tensor) -> Tensor:
        """Return the coordinates `(..., d, 1)` of multi-indices int64 `(..., d)`."""
        return self.grid.nodes[indices].unsqueeze(-1)

    def nearest(self, embedding: Tensor) -> Tensor:
        """Return the multi-indices int64 `(..., d)` of coordinates `(..., d, 1)`."""
        return self.grid.to_indices(embedding.squeeze(-1))

    def neighbours(self, mode: int) -> Tensor:
        """Return `(n, n)`, rows sum to 1: the nearer two quantiles, the likelier; not itself."""
        return self.grid.kernel


def near_kernel(num_symbols: int, reach: float) -> Tensor:
    """Gaussian weights of the distance between symbols that stand on a line.

    Args:
        num_symbols: Number of symbols n, at least 2.
        reach: Standard deviation in symbols, positive.

    Returns:
        `(n, n)`, rows sum to 1, diagonal 0.
    """
    places = torch.arange(num_symbols, dtype=torch.float32)
    distance = (places[:, None] - places[None]) / max(reach, _LEAST_REACH)
    scores = (-0.5 * distance.square()).fill_diagonal_(-torch.inf)
    return torch.softmax(scores, dim=1)
