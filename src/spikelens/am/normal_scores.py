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
    # What is not finite stands behind all others.
    ordered, order = values.where(is_finite, torch.inf).sort(1)
    num_below, num_not_above = _ends(ordered)
    num = is_finite.sum(1, keepdim=True).clamp_min(1)
    shares = (num_below + num_not_above) / (2.0 * num)
    scores = (math.sqrt(2.0) * torch.erfinv(2.0 * shares - 1.0)).float()
    return torch.empty_like(scores).scatter_(1, order, scores).where(is_finite, torch.nan)


def _ends(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many values are below each of rising ones `(K, M)`, and how many not above it."""
    num = ordered.shape[1]
    places = torch.arange(num + 1, device=ordered.device)
    is_other = torch.ones(len(ordered), num + 1, dtype=torch.bool, device=ordered.device)
    is_other[:, 1:-1] = ordered[:, 1:] != ordered[:, :-1]  # than the one before
    below = places[:-1].where(is_other[:, :-1], 0).cummax(1).values
    not_above = places[1:].where(is_other[:, 1:], num).flip(1).cummin(1).values.flip(1)
    return below, not_above
