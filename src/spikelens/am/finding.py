"""Stimuli of K neurons, found one after the other, each far from those before."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spikelens.am.activations import Response
from spikelens.am.archive import Archive
from spikelens.am.distance import LatentDistance
from spikelens.am.objective import Objective
from spikelens.am.optimizers.base import Optimizer
from spikelens.am.plan import SearchPlan
from spikelens.am.race import Verdict, num_showings, race
from spikelens.am.search import Progress, SearchResult, search
from spikelens.am.target import Target, oriented, own_answers
from spikelens.generators.base import LatentSpace
from spikelens.precision import is_half

# Best points of a search in bfloat16 that are compared once more in float32.
_NUM_CHECKED = 4
# Best points of a noisy network that race, and the repeats a heat of theirs takes.
NUM_RACED = 8
HEAT_REPEATS = 2


@dataclass(frozen=True)
class Finding:
    """One stimulus of each of K neurons, and the search for it; tensors are on the CPU.

    A neuron for which no point was found that may be its stimulus has NaN throughout.

    Attributes:
        indices: Multi-indices of the stimuli, int64 `(K, d)`.
        stimuli: Float32 `(K, C, H, W)` in [0, 1].
        activations: Shown once more in float32, `(K,)`; the mean over repeats if noisy.
        standard_errors: Of that mean, `(K,)`; 0 for a network that answers the same each time,
            NaN for a single repeat.
        distances: To the nearest of the neuron's stimuli found before, `(K,)`; NaN for the first.
        elites: Best multi-indices of the search, int64 `(K, R, d)`.
        search: The search itself.
    """

    indices: Tensor
    stimuli: Tensor
    activations: Tensor
    standard_errors: Tensor
    distances: Tensor
    elites: Tensor
    search: SearchResult


def find_stimuli(
    objective: Objective,
    optimizer: Callable[..., Optimizer],
    plan: SearchPlan,
    candidates: Tensor | None,
    num_starts: int,
    progress: Progress | None = None,
) -> list[Finding]:
    """Search for `plan.num_stimuli` stimuli of each neuron, one search after the other.

    Each search starts from the elites of the one before, which cost nothing more, and from the
    first candidates, both only where they are far enough from the stimuli found.

    Args:
        objective: Of the K neurons; left as it was.
        optimizer: Builds an optimizer from a latent space, an archive and `seed`.
        plan: Budget, direction, distance, seed.
        candidates: Points to look at first, int64 `(K, T, d)`, best first; None for none.
        num_starts: How many of them a search looks at.
        progress: See `search`.

    Returns:
        The stimuli in the order found.
    """
    generator, num_neurons = objective.generator, len(objective.recorder.neurons)
    shape = num_neurons, len(generator.mode_sizes), plan.num_elites
    archive = Archive(*shape, device=objective.device)
    distance = LatentDistance(generator, objective.device) if plan.num_stimuli > 1 else None
    findings: list[Finding] = []
    found: Tensor | None = None
    repeat = 1  # the natural images saw repeat 0
    for number in range(plan.num_stimuli):
        target = Target(objective, plan.direction, found, distance, plan.min_distance, repeat)
        archive.keep(target.allows_own(archive.indices))
        searcher = optimizer(generator, archive, seed=plan.seed + number)
        start = _start(target, generator, candidates, num_starts, searcher.random)
        result = _search(objective, target, searcher, plan, start, progress)
        finding = _finding(objective, target, archive, plan, result)
        findings.append(finding)
        mine = finding.indices.to(objective.device)[:, None]
        found = mine if found is None else torch.cat([found, mine], 1)
        repeat = target.repeat + num_showings(NUM_RACED, plan.num_repeats, HEAT_REPEATS)
    return findings


def num_settled(objective: Objective, plan: SearchPlan) -> int:
    """Return how many images are shown again, for each neuron and stimulus, after a search."""
    num = _num_contenders(objective, plan)
    return num_showings(num, plan.num_repeats, HEAT_REPEATS) if objective.is_noisy else num


def _num_contenders(objective: Objective, plan: SearchPlan) -> int:
    if objective.is_noisy:
        return min(NUM_RACED, plan.num_elites)
    return min(_NUM_CHECKED, plan.num_elites) if is_half(plan.precision, objective.device) else 1


def _start(
    target: Target,
    space: LatentSpace,
    candidates: Tensor | None,
    num_starts: int,
    random: torch.Generator,
) -> Tensor | None:
    """Choose the first candidates that are allowed; natural-looking draws where they run out."""
    if candidates is None or target.found is None:
        return None if candidates is None else candidates[:, :num_starts]
    is_allowed = target.allows_own(candidates)  # (K, T)
    order = (~is_allowed).byte().argsort(dim=1, stable=True)[:, :num_starts]
    chosen = candidates.gather(1, order[..., None].expand(-1, -1, candidates.shape[2]))
    drawn = space.sample(order.numel(), random).to(chosen).view(chosen.shape)
    return torch.where(is_allowed.gather(1, order)[..., None], chosen, drawn)


def _search(
    objective: Objective,
    target: Target,
    searcher: Optimizer,
    plan: SearchPlan,
    start: Tensor | None,
    progress: Progress | None,
) -> SearchResult:
    """Search in the plan's precision; the objective is left as it was."""
    neurons, chunk = objective.recorder.neurons, objective.chunk
    # No neuron can do with less than nothing: it goes on breaking ties by its membrane.
    is_upward = plan.direction == "maximize"
    ceiling = torch.tensor([neuron.ceiling if is_upward else torch.inf for neuron in neurons])
    # Few neurons propose few images a round: a chunk is not filled up beyond that.
    objective.chunk = asked = min(chunk, len(neurons) * searcher.batch)
    objective.precision = plan.precision
    archive, is_pooled = searcher.archive, plan.is_pooled
    try:
        return search(target, searcher, archive, plan.budget, start, ceiling, is_pooled, progress)
    finally:
        objective.precision = "float32"
        if objective.chunk == asked:  # else it was halved for want of memory, and stays so
            objective.chunk = chunk


def _finding(
    objective: Objective,
    target: Target,
    archive: Archive,
    plan: SearchPlan,
    result: SearchResult,
) -> Finding:
    """Show each neuron's best few once more, and take the best of them for its stimulus."""
    elites = archive.indices[:, : _num_contenders(objective, plan)]
    is_known = archive.scores[:, : elites.shape[1]].isfinite()

    def show(places: Tensor, repeat: int) -> Response:
        points = _pick(elites, places)
        answers = own_answers(objective(points.flatten(0, 1), repeat), points.shape[1])
        return oriented(answers, plan.direction)

    verdict = settle(show, is_known, objective.is_noisy, plan.num_repeats, target.repeat)
    indices = _pick(elites, verdict.places[:, None]).squeeze(1)
    generator = objective.generator
    stimuli = torch.cat([generator.decode(part).float().cpu() for part in indices.split(64)])
    has_none = ~is_known.any(1).cpu()
    return Finding(
        indices=indices.cpu(),
        stimuli=stimuli.masked_fill(has_none[:, None, None, None], torch.nan),
        activations=verdict.activations.cpu().masked_fill(has_none, torch.nan),
        standard_errors=verdict.standard_errors.cpu().masked_fill(has_none, torch.nan),
        distances=target.nearest(indices).cpu().masked_fill(has_none, torch.nan),
        elites=archive.indices.cpu(),
        search=result,
    )


def settle(
    show: Callable[[Tensor, int], Response],
    is_running: Tensor,
    is_noisy: bool,
    num_repeats: int,
    first_repeat: int,
) -> Verdict:
    """Find each neuron's best contender: by a race if the network is noisy, else at one look.

    Args:
        show: See `spikelens.am.race.race`.
        is_running: Which contenders there are, bool `(K, c)`.
        is_noisy: Whether answers differ from repeat to repeat.
        num_repeats: Repeats that a winner is measured on, positive.
        first_repeat: Number of the first repeat.
    """
    if is_noisy:
        return race(show, is_running, num_repeats, HEAT_REPEATS, first_repeat)
    places = torch.arange(is_running.shape[1], device=is_running.device).expand(is_running.shape)
    answers = show(places, 0)
    best = answers.scores.where(is_running, -torch.inf).argmax(1)
    activations = answers.activations.gather(1, best[:, None]).squeeze(1)
    return Verdict(best, activations, torch.zeros_like(activations))


def _pick(points: Tensor, places: Tensor) -> Tensor:
    """Take from points `(K, n, d)` those at places `(K, c)`."""
    return points.gather(1, places[..., None].expand(-1, -1, points.shape[2]))
