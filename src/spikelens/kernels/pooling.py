"""How a convolution of spikes moves over the map, and the max-pooling behind it."""

from typing import NamedTuple

from torch import Tensor


class Pooling(NamedTuple):
    """A convolution's stride and padding, and the max-pooling behind it.

    Attributes:
        stride: Of the convolution, in both directions.
        padding: Zeros around each map.
        pool: Side and stride of the max-pooling, at most 16; 1 for none.
    """

    stride: int
    padding: int
    pool: int

    def sides(self, spikes: Tensor, weight: Tensor) -> tuple[int, int]:
        """Return the rows and columns of the convolution, before pooling."""
        rows, columns = (
            (side + 2 * self.padding - kernel) // self.stride + 1
            for side, kernel in zip(spikes.shape[2:], weight.shape[2:], strict=True)
        )
        return rows, columns
