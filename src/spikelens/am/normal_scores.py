"""Ranks in the place of values: what is learned from them depends on their order alone."""

import math

import torch
from torch import Tensor


def normal_scores(values: Tensor) -> Tensor:
    """Return the Gaussian quantile of each value's rank in its row, `Phi^-1((rank - 1/2) / m)`.

    The m finite values of a row have ranks 1 to m, equal ones their mean rank: whatever grows with
    the values has the same normal scores, and how far away an outlier lies does not count.

    Args:
        values: `(K, M)`.

    Returns:
        Float32 `(K, M)`, NaN where the value is not finite.

    Source: van der Waerden, "Order tests for the two-sample problem and their power", 1952.

    >>> normal_scores(torch.tensor([[3.0, -1.0, torch.nan, 900.0, 3.0]]))
    tensor([[ 0.0000, -1.1503,     nan,  1.1503,  0.0000]])
    """
    is_finite = values.isfinite()
    # What is not finite stands behind all others, and is counted with none of them.
    values = values.where(is_finite, torch.inf).contiguous()
    ordered = values.sort(1).values
    num_below = torch.searchsorted(ordered, values)
    num_not_above = torch.searchsorted(ordered, values, right=True)
    num = is_finite.sum(1, keepdim=True).clamp_min(1)
    shares = (num_below + num_not_above).float() / (2.0 * num)
    return (math.sqrt(2.0) * torch.erfinv(2.0 * shares - 1.0)).where(is_finite, torch.nan)
