"""The search loop: ask, show, pool, tell, until the budget is spent."""

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spikelens.am.activations import Response
from spikelens.am.archive import Archive
from spikelens.am.optimizers.base import Optimizer
from spikelens.arguments import require_integers

Progress = Callable[[int, int, float], None]


class StopReason(enum.Enum):
    """Why a search ended."""

    BUDGET = "budget spent"
    SATURATED = "every neuron at its ceiling"


@dataclass(frozen=True)
class SearchResult:
    """What a search found for K neurons.

    Attributes:
        indices: Best multi-index of each neuron, int64 `(K, d)`.
        activations: Its activation as the search saw it, `(K,)`.
        curve: Activation of the best after each round, `(rounds, K)`.
        presentations: Images proposed and shown for each neuron, int64 `(K,)`; all neurons saw
            the sum of them.
        stop: Why the search ended.
        seconds: Wall time.
    """

    indices: Tensor
    activations: Tensor
    curve: Tensor
    presentations: Tensor
    stop: StopReason
    seconds: float


def search(
    objective: Callable[[Tensor], Response],
    optimizer: Optimizer,
    archive: Archive,
    budget: int,
    start: Tensor | None = None,
    ceiling: Tensor | float = 1.0,
    is_pooled: bool = True,
    progress: Progress | None = None,
) -> SearchResult:
    """Search for the multi-index of the largest score for each neuron.

    All images proposed for any neuron are scored for all of them (pooled), unless each is to be
    searched as if it were alone. A neuron at its ceiling asks for no further images; what is not
    finite counts as never seen.

    Args:
        objective: Multi-indices int64 `(N, d)` to activations and scores `(N, K)`.
        optimizer: Proposes; it reads its elites from `archive`.
        archive: Where the pool's elites are kept; may hold some already.
        budget: Images shown for each neuron, at least 1.
        start: Multi-indices to look at first, int64 `(K, m, d)`; they count.
        ceiling: Largest activation there is, a number or `(K,)`.
        is_pooled: Whether a neuron profits from images proposed for others.
        progress: Called after each round with images shown, images allowed in total, and the
            mean best activation.

    Returns:
        The best found for each neuron.

    Raises:
        ValueError: If the budget is not positive.
    """
    require_integers(1, budget=budget)
    began = time.perf_counter()
    left = torch.full((len(archive.scores),), budget)
    ceilings = torch.as_tensor(ceiling, dtype=torch.float32).cpu()
    curve: list[Tensor] = []
    stop = StopReason.BUDGET
    activations, scores = _state(archive)
    optimizer.open(objective)
    while left.any():
        is_active = (activations < ceilings) | ~scores.isfinite()
        if not is_active.any():
            stop = StopReason.SATURATED
            break
        asked = optimizer.ask() if start is None else start
        is_shown = is_active[:, None] & (torch.arange(asked.shape[1]) < left[:, None])  # (K, b)
        if not is_shown.any():
            break  # those with budget left are at their ceiling
        shown, answers, scores = _show(objective, asked, is_shown, archive, is_pooled)
        optimizer.watch(*((shown[None], scores) if is_pooled else (asked, answers)))
        if start is None:
            optimizer.tell(answers)
        start = None
        left -= is_shown.sum(1)
        activations, scores = _state(archive)
        curve.append(activations)
        if progress is not None:
            progress(int((budget - left).sum()), budget * len(left), float(activations.mean()))
    curves = torch.stack(curve) if curve else torch.zeros(0, len(left))
    best = archive.indices[:, 0], archive.activations[:, 0]
    return SearchResult(*best, curves, budget - left, stop, time.perf_counter() - began)


def _show(
    objective: Callable[[Tensor], Response],
    asked: Tensor,
    is_shown: Tensor,
    archive: Archive,
    is_pooled: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluate what is to be shown of `asked` `(K, b, d)` and archive it.

    Returns:
        The N points shown, `(N, d)`; what each neuron answered to its own proposals, `(K, b)`, NaN
        for what was not shown; and what each answered to all points, `(K, N)`.
    """
    neurons, places = (index.to(asked.device) for index in is_shown.nonzero(as_tuple=True))
    shown = asked[neurons, places]
    response = objective(shown)
    answers = response.scores.new_full(is_shown.shape, torch.nan)
    answers[neurons, places] = response.scores.gather(1, neurons[:, None]).squeeze(1)
    if not is_pooled:
        is_own = neurons[:, None] == torch.arange(len(asked), device=asked.device)  # (N, K)
        response = Response(*(values.where(is_own, torch.nan) for values in response))
    archive.add(shown, response)
    return shown, answers, response.scores.T


def _state(archive: Archive) -> Tensor:
    """Fetch each neuron's best activation and score, `(2, K)`: the one wait for the device."""
    return torch.stack([archive.activations[:, 0], archive.best]).cpu()
