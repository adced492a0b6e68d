"""Sums over the neighbours of symbols compiled by numba."""

from typing import Any

import numba
import numpy as np
from torch import Tensor

from spikelens.kernels.parallel import in_parallel

# Without the interpreter's lock: `in_parallel` runs them on threads. Sums may be reordered, so that
# they use vector instructions.
compiled: Any = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})

ZERO, ONE = np.float32(0.0), np.float32(1.0)


def deviation(values: Tensor, points: Tensor, kernels: Tensor, kernel_of_mode: Tensor) -> Tensor:
    """Return the standard deviation of symbols' values among a point's neighbours.

    Args:
        values: float32 `(K, d, n)`, contiguous.
        points: int64 `(K, d)`, contiguous.
        kernels: float32 `(number of kernels, n, n)`.
        kernel_of_mode: int64 `(d,)`.

    Returns:
        `(K,)`; see `spikelens.am.moves.Moves.deviation`.
    """
    out = values.new_empty(len(values))
    arrays = [part.numpy() for part in (values, points, kernels, kernel_of_mode, out)]
    in_parallel(lambda start, stop: _deviation(start, stop, *arrays), len(out))
    return out


@compiled
def _deviation(start, stop, values, points, kernels, kernel_of_mode, out):
    num_modes, num_symbols = values.shape[1:]
    for k in range(start, stop):
        variance = ZERO
        for j in range(num_modes):
            row, near = values[k, j], kernels[kernel_of_mode[j], points[k, j]]
            mean = dot(row, near)
            total = ZERO
            for i in range(num_symbols):
                total += near[i] * (row[i] - mean) * (row[i] - mean)
            variance += total
        out[k] = np.sqrt(variance / np.float32(num_modes))


@compiled
def dot(x, y):
    """Return the inner product of two vectors."""
    total = ZERO
    for i in range(len(x)):
        total += x[i] * y[i]
    return total
