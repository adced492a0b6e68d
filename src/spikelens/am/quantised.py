"""Modes of size 2**q as q binary modes each: the quantised tensor train's view of a latent.

The order is teneva's (`teneva.ind_tt_to_qtt`): the lowest bit of a symbol comes first.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def bits_of_modes(mode_sizes: Sequence[int]) -> int:
    """Return the number q of binary modes that stand for one mode.

    Args:
        mode_sizes: Number of symbols n_j of each mode.

    Raises:
        ValueError: Unless all modes have one size, a power of two of at least 2.
    """
    size = mode_sizes[0]
    if set(mode_sizes) != {size} or size < 2 or size & (size - 1):
        raise ValueError(
            "Argument `quantised` must be False unless all modes have one size, a power of two, "
            f"but the mode sizes are {sorted(set(mode_sizes))}."
        )
    return size.bit_length() - 1


def quantise(indices: Tensor, num_bits: int) -> Tensor:
    """Split modes of size 2**num_bits into binary modes; the inverse of `dequantise`.

    Args:
        indices: Multi-indices, int64 `(..., d)`.
        num_bits: Binary modes q that make one mode, positive.

    Returns:
        Bits, int64 `(..., d * q)`.

    Example:
        >>> quantise(torch.tensor([6, 1]), 3).tolist()
        [0, 1, 1, 1, 0, 0]
    """
    shifts = torch.arange(num_bits, device=indices.device)
    return ((indices.unsqueeze(-1) >> shifts) & 1).flatten(-2)


def dequantise(bits: Tensor, num_bits: int) -> Tensor:
    """Join groups of binary modes into modes of size 2**num_bits.

    Args:
        bits: Bits, int64 `(..., d * q)`.
        num_bits: Binary modes q that make one mode, positive.

    Returns:
        Multi-indices, int64 `(..., d)`.

    Example:
        >>> dequantise(torch.tensor([0, 1, 1, 1, 0, 0]), 3).tolist()
        [6, 1]
    """
    shifts = torch.arange(num_bits, device=bits.device)
    groups = bits.reshape(*bits.shape[:-1], bits.shape[-1] // num_bits, num_bits)
    return torch.sum(groups << shifts, dim=-1)
