"""Low cosines with natural amplitudes: a generator that needs no training."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spikelens.arguments import require_integers
from spikelens.generators.gaussian_grid import GaussianGrid, OverGrid

# Standard deviation of the orthonormal coefficient at frequency 1 (half a period over the image)
# for each colour axis, over the square root of the number of pixels: measured on 2000 images of
# CIFAR-10, whose luma keeps to 1/f within 15 % up to frequency 8.
_AMPLITUDES = {1: (0.08,), 3: (0.14, 0.022, 0.03)}
_MEAN_FREQUENCY = 0.6  # at which 1/f gives the spread of the mean
_GREY = 0.5


class Cosines(OverGrid):
    """Mean grey plus the k x k lowest cosines of each colour axis (orthonormal DCT-II).

    Each coefficient is one mode: a Gaussian quantile times an amplitude that falls like 1/f, as in
    natural images. The axes of colour images are luma, red-green and blue-yellow, on which they are
    nearly uncorrelated. Modes are numbered by axis, row and column of the coefficient.

    Args:
        channels: 1 (grey) or 3 (RGB).
        image_size: Side in pixels, or height and width.
        num_frequencies: Cosines k a direction, from 1 to the image's smaller side.
        num_nodes: Symbols a coefficient, at least 2.
        reach: Standard deviation of a neighbour's distance in shares of the symbols, between 0
            and 1.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Field 1987 (1/f); Ruderman et al. 1998 (colour axes).
    """

    rows: Tensor
    columns: Tensor
    axes: Tensor
    amplitudes: Tensor

    def __init__(
        self,
        channels: int = 3,
        image_size: int | Sequence[int] = 32,
        num_frequencies: int = 8,
        num_nodes: int = 64,
        reach: float = 1 / 16,
    ) -> None:
        if channels not in _AMPLITUDES:
            raise ValueError(f"Argument `channels` must be 1 or 3, but got {channels!r}.")
        height, width = _sides(image_size)
        require_integers(1, num_frequencies=num_frequencies)
        if num_frequencies > min(height, width):
            raise ValueError(
                "Argument `num_frequencies` must be at most the image's smaller side, "
                f"{min(height, width)}, but got {num_frequencies}."
            )
        super().__init__(GaussianGrid(channels * num_frequencies**2, num_nodes, reach))
        self.image_shape = (channels, height, width)
        # From one frequency to the next all axes of one, so that their order alternates too.
        path = zigzag(num_frequencies)[:, None] + num_frequencies**2 * torch.arange(channels)
        path[1::2] = path[1::2].flip(1)
        self.order = path.flatten()
        for name, value in {
            "rows": cosine_basis(num_frequencies, height),
            "columns": cosine_basis(num_frequencies, width),
            "axes": colour_axes(channels),
            "amplitudes": natural_amplitudes(self.image_shape, num_frequencies),
        }.items():
            self.register_buffer(name, value, persistent=False)

    def decode(self, indices: Tensor) -> Tensor:
        """Draw images float32 `(N, C, H, W)` in [0, 1] from multi-indices int64 `(N, d)`."""
        return self.draw(self.embed(indices))

    def draw(self, embedding: Tensor) -> Tensor:
        """Draw what `decode` does from coordinates `(N, d, 1)`; differentiable."""
        latent = self.grid.placed(embedding.squeeze(-1)).view(-1, *self.amplitudes.shape)
        coefficients = latent * self.amplitudes  # (N, C, k, k)
        planes = self.rows.T @ coefficients @ self.columns  # (N, C, H, W)
        return (torch.einsum("nahw,ac->nchw", planes, self.axes) + _GREY).clamp(0.0, 1.0)

    def encode(self, images: Tensor) -> Tensor:
        """Project images `(N, C, H, W)` in [0, 1] on the cosines; the nearest quantiles `(N, d)`.

        Inverts `decode` wherever that clamped nothing.
        """
        planes = torch.einsum("nchw,ac->nahw", images - _GREY, self.axes)
        coefficients = self.rows @ planes @ self.columns.T
        return self.grid.to_indices((coefficients / self.amplitudes).flatten(1))

    def realism(self, images: Tensor) -> Tensor:
        """Return NaN for each of the images `(N, C, H, W)`: it has learned from none."""
        return images.new_full((len(images),), torch.nan)


def cosine_basis(num_frequencies: int, side: int) -> Tensor:
    """Return the lowest rows of the orthonormal DCT-II, `(k, side)`.

    Row u is sqrt(2 / side) cos(pi u (2 x + 1) / (2 side)), and row 0 sqrt(1 / side).

    >>> cosine_basis(2, 2)
    tensor([[ 0.7071,  0.7071],
            [ 0.7071, -0.7071]])
    """
    frequency = torch.arange(num_frequencies, dtype=torch.float64)[:, None]
    place = 2 * torch.arange(side, dtype=torch.float64) + 1
    basis = math.sqrt(2 / side) * torch.cos(math.pi * frequency * place / (2 * side))
    basis[0] = math.sqrt(1 / side)
    return basis.float()


def colour_axes(channels: int) -> Tensor:
    """Return orthonormal axes `(C, C)` in the rows: luma, red-green, blue-yellow; or grey."""
    if channels == 1:
        return torch.ones(1, 1)
    axes = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [-1.0, -1.0, 2.0]])
    return nn.functional.normalize(axes)


def natural_amplitudes(image_shape: tuple[int, int, int], num_frequencies: int) -> Tensor:
    """Return the standard deviation of each coefficient, `(C, k, k)`: 1/f.

    Frequencies of images that are not square are measured as if on the square of the same area.
    """
    channels, height, width = image_shape
    index = torch.arange(num_frequencies, dtype=torch.float32)
    frequency = torch.hypot(index[:, None] / height, index / width) * math.sqrt(height * width)
    frequency[0, 0] = _MEAN_FREQUENCY
    constants = torch.tensor(_AMPLITUDES[channels])[:, None, None] * math.sqrt(height * width)
    return constants / frequency


def zigzag(side: int) -> Tensor:
    """Walk a `(side, side)` map from its first corner to its last, diagonal by diagonal.

    Returns:
        Positions in row-major numbering, int64 `(side * side,)`.

    >>> zigzag(3).tolist()
    [0, 1, 3, 6, 4, 2, 5, 7, 8]
    """
    path: list[int] = []
    for total in range(2 * side - 1):
        rows = range(max(0, total - side + 1), min(side, total + 1))
        diagonal = [row * side + total - row for row in rows]
        path += diagonal if total % 2 else diagonal[::-1]
    return torch.tensor(path)


def _sides(image_size: int | Sequence[int]) -> tuple[int, int]:
    sides = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
    if len(sides) != 2:
        raise ValueError(
            f"Argument `image_size` must be a side, or height and width, but got {sides}."
        )
    require_integers(1, image_size=sides[0])
    require_integers(1, image_size=sides[1])
    return sides[0], sides[1]
