"""The best of a few by a race: under noise, the winner of one showing was lucky."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from spikelens.am.activations import Response

# Shows each neuron's own contenders: places int64 (K, c) and the number of a repeat -> (K, c).
Heat = Callable[[Tensor, int], Response]


class Verdict(NamedTuple):
    """Who won, and how the winner answers.

    Attributes:
        places: Place of each neuron's winner among its contenders, int64 `(K,)`.
        activations: Its mean activation over fresh repeats, `(K,)`.
        standard_errors: Of that mean, `(K,)`; NaN for one repeat.
    """

    places: Tensor
    activations: Tensor
    standard_errors: Tensor


def race(
    show: Heat, is_running: Tensor, num_repeats: int, heat_repeats: int, first_repeat: int = 0
) -> Verdict:
    """Find each neuron's best contender by sequential halving, and measure it afresh.

    All contenders are shown equally often, the better half goes on, until one is left. All of them
    see the same noise. The winner is measured on repeats that no heat saw: the mean that made it
    win leans to the high side.

    Args:
        show: Answers of contenders; the better one has the larger score.
        is_running: Which contenders there are, bool `(K, c)`; a neuron without any gets place 0.
        num_repeats: Repeats that the winner is measured on, positive.
        heat_repeats: Repeats a heat, positive.
        first_repeat: Number of the first heat's first repeat.

    Returns:
        The winners.

    Source: Karnin, Koren, Somekh, "Almost optimal exploration in multi-armed bandits", 2013.
    """
    places = torch.arange(is_running.shape[1], device=is_running.device).expand(is_running.shape)
    sums = torch.zeros(is_running.shape, device=is_running.device)
    repeat = first_repeat
    while places.shape[1] > 1:
        for _ in range(heat_repeats):
            sums = sums + show(places, repeat).scores
            repeat += 1
        known = sums.where(is_running.gather(1, places) & sums.isfinite(), -torch.inf)
        ahead = known.topk((places.shape[1] + 1) // 2, 1).indices
        places, sums = places.gather(1, ahead), sums.gather(1, ahead)
    measured = torch.cat([show(places, repeat + r).activations for r in range(num_repeats)], 1)
    errors = measured.std(1) / num_repeats**0.5 if num_repeats > 1 else measured[:, 0] * torch.nan
    return Verdict(places[:, 0], measured.mean(1), errors)


def num_showings(num_contenders: int, num_repeats: int, heat_repeats: int) -> int:
    """Return how many images a race shows for each neuron."""
    shown = num_repeats
    while num_contenders > 1:
        shown += num_contenders * heat_repeats
        num_contenders = (num_contenders + 1) // 2
    return shown
