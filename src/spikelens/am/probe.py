"""One probe: natural responses, the search, and what both say about each neuron."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spikelens.am.activations import Recorder, Response, layer_extents
from spikelens.am.archive import Archive
from spikelens.am.finding import (
    HEAT_REPEATS,
    NUM_RACED,
    Finding,
    find_stimuli,
    num_settled,
    settle,
)
from spikelens.am.natural import NaturalImages
from spikelens.am.neurons import Neuron, parse_neurons
from spikelens.am.objective import Objective
from spikelens.am.optimizers.base import Optimizer
from spikelens.am.plan import SearchPlan as SearchPlan  # where configurations look for it
from spikelens.am.race import num_showings
from spikelens.am.search import Progress, SearchResult
from spikelens.am.target import oriented, own_answers
from spikelens.data.base import unit_range
from spikelens.generators.base import Generator, check_can_encode, check_fit, check_points
from spikelens.precision import autocast
from spikelens.selectivity import Selectivity, measure

# Repeats of the natural images' race: none that a search of the same seed gets to.
_NATURAL_REPEAT = 2**31


@dataclass(frozen=True)
class Probe:
    """What a probe found for K neurons; tensors are on the CPU.

    "Best" means the least exciting where `direction` is `minimize`: the stimulus is compared with
    the natural image that excites the neuron least, and its activation is the smaller, the better
    the search. Activations are the neuron's own in either case.

    Attributes:
        neurons: The K neurons.
        stimuli: Optimal stimulus of each, float32 `(K, C, H, W)` in [0, 1].
        activations: Its activation, shown once more in float32, `(K,)`; of a noisy network the
            mean over fresh repeats.
        natural_activations: Activation of the best natural image, `(K,)`; of a noisy network that
            of the winner of a race of the best, likewise over fresh repeats.
        natural_top: The best natural images, uint8 `(K, num_top, C, H, W)`, best first, at one
            showing.
        realism: Share of the natural images that look no more natural to the generator than the
            stimulus, `(K,)` in [0, 1]; NaN where the generator cannot tell.
        is_silent: Neither a natural image nor the stimulus made the neuron spike, bool `(K,)`;
            False where activations may be negative, and tell nothing of spikes (a membrane, a
            contrast, a population with such a neuron or a negative weight).
        classes: Name of each class of the natural images.
        selectivity: On the natural images, at one showing.
        elites: Best multi-indices, int64 `(K, R, d)`: where a later search may start. Of several
            stimuli the best of each come first.
        search: The search itself; of several the first.
        direction: `maximize` or `minimize`.
        standard_errors: Of `activations`, `(K,)`; 0 for a network that answers the same each time,
            NaN for a single repeat.
        others: Further stimuli of each neuron, in the order found.
        other_realism: Realism of each of them, `(K,)` each.
    """

    neurons: tuple[Neuron, ...]
    stimuli: Tensor
    activations: Tensor
    natural_activations: Tensor
    natural_top: Tensor
    realism: Tensor
    is_silent: Tensor
    classes: tuple[str, ...]
    selectivity: Selectivity
    elites: Tensor
    search: SearchResult
    direction: str
    standard_errors: Tensor
    others: tuple[Finding, ...] = ()
    other_realism: tuple[Tensor, ...] = ()

    @property
    def ratio(self) -> Tensor:
        """Activation / that of the best natural image, `(K,)`; NaN where that is not positive."""
        return self.ratio_of(self.activations)

    def ratio_of(self, activations: Tensor) -> Tensor:
        """Compare activations `(K,)` of other stimuli with the best natural images as well."""
        ratio = activations / self.natural_activations
        return ratio.where(self.natural_activations > 0, torch.nan)


def probe_neurons(
    network: nn.Module,
    generator: Generator,
    neurons: Sequence[Neuron],
    natural: NaturalImages,
    optimizer: Callable[..., Optimizer],
    plan: SearchPlan,
    previous: Tensor | None = None,
    progress: Progress | None = None,
) -> Probe:
    """Find the images that excite each neuron most, or least, and how selective it is.

    Args:
        network: In evaluation mode, on any device; the generator is on the same one.
        generator: Draws the images.
        neurons: The K neurons.
        natural: Images to compare with and to start from.
        optimizer: Builds an optimizer from a latent space, an archive and `seed`.
        plan: Budget, starts, direction, seed.
        previous: Multi-indices to look at first as well, int64 `(K, m, d)` (warm start).
        progress: Called after each chunk with images shown, images allowed in total, natural
            ones included, and the mean best activation of the search.

    Returns:
        Stimuli, activations and selectivity of each neuron.

    Raises:
        ValueError: If `previous` does not fit the generator.
    """
    count = _Count(progress)
    device = next(network.parameters()).device
    # Starts, stimuli and realism are computed in float32 as well, whatever the search's precision.
    with Recorder(network, neurons) as recorder, autocast("float32", device):
        objective = Objective(generator, recorder, plan.chunk, count.add, seed=plan.seed)
        count.total = _num_images(objective, plan, len(natural.images))
        answers = objective.of_images(natural.images)
        best = _ranked(oriented(answers, plan.direction).scores)  # (K, N)
        num_starts = plan.num_starts * plan.num_stimuli  # some will be too near what was found
        candidates = _starts(objective, natural.images, best[:, :num_starts].cpu(), previous)
        num_looked_at = plan.num_starts + (0 if previous is None else previous.shape[1])
        findings = find_stimuli(objective, optimizer, plan, candidates, num_looked_at, count.note)
        return _told(objective, plan, natural, answers, best, findings)


def _told(
    objective: Objective,
    plan: SearchPlan,
    natural: NaturalImages,
    answers: Response,
    best: Tensor,
    findings: Sequence[Finding],
) -> Probe:
    """Compare what was found with the natural images, and measure selectivity on them.

    Args:
        objective: Of the K neurons, whose recorder is open.
        plan: Direction, repeats, images kept.
        natural: The natural images.
        answers: To them at one showing, `(N, K)`.
        best: Which of them are each neuron's best, best first, int64 `(K, N)`.
        findings: The stimuli in the order found, at least one.
    """
    neurons, (first, *others) = objective.recorder.neurons, findings
    is_rate = torch.tensor([neuron.is_rate for neuron in neurons])
    has_spiked = (first.activations > 0) | (answers.activations.amax(0).cpu() > 0)
    stimuli = torch.cat([finding.stimuli for finding in findings])
    realism = _realism(objective, stimuli, natural.images).split(len(neurons))
    return Probe(
        neurons=tuple(neurons),
        stimuli=first.stimuli,
        activations=first.activations,
        natural_activations=_natural(objective, plan, answers, natural.images, best).cpu(),
        natural_top=natural.images[best[:, : plan.num_top].cpu()],
        realism=realism[0],
        is_silent=~has_spiked & is_rate,
        classes=natural.classes,
        selectivity=measure(
            answers.activations, natural.labels, len(natural.classes), is_rate.to(objective.device)
        ),
        elites=torch.stack([finding.elites for finding in findings], 2).flatten(1, 2),
        search=first.search,
        direction=plan.direction,
        standard_errors=first.standard_errors,
        others=tuple(others),
        other_realism=realism[1:],
    )


def _ranked(scores: Tensor) -> Tensor:
    """Return the images by falling score `(N, K)` of each neuron, int64 `(K, N)`."""
    # Not `topk`: which of several equals it takes depends on how many are asked for.
    return scores.sort(dim=0, descending=True, stable=True).indices.T


def _num_images(objective: Objective, plan: SearchPlan, num_natural: int) -> int:
    """Return how many images a probe shows, if no search ends early."""
    each = plan.num_stimuli * (plan.budget + num_settled(objective, plan))
    if objective.is_noisy:
        each += num_showings(min(NUM_RACED, num_natural), plan.num_repeats, HEAT_REPEATS)
    return num_natural + len(objective.recorder.neurons) * each


def _natural(
    objective: Objective, plan: SearchPlan, answers: Response, images: Tensor, best: Tensor
) -> Tensor:
    """Return the activation of each neuron's best natural image, `(K,)`.

    Args:
        objective: Of the K neurons.
        plan: Direction and repeats.
        answers: To the natural images at one showing, `(N, K)`.
        images: The natural images, uint8 `(N, C, H, W)`.
        best: Which of them are each neuron's best, best first, int64 `(K, m)`.
    """
    if not objective.is_noisy:
        return answers.activations.gather(0, best[:, :1].T).squeeze(0)
    raced = best[:, :NUM_RACED]

    def show(places: Tensor, repeat: int) -> Response:
        chosen = images[raced.gather(1, places).flatten().cpu()]
        answers = own_answers(objective.of_images(chosen, repeat), places.shape[1])
        return oriented(answers, plan.direction)

    everyone = torch.ones_like(raced, dtype=torch.bool)
    return settle(show, everyone, True, plan.num_repeats, _NATURAL_REPEAT).activations


def _realism(objective: Objective, stimuli: Tensor, natural: Tensor) -> Tensor:
    """Return the share of natural images that look no more natural than each stimulus, `(K,)`."""
    judge, device = objective.generator.realism, objective.device
    of_stimuli, of_natural = (
        torch.cat([judge(unit_range(part).to(device)) for part in images.split(objective.chunk)])
        for images in (stimuli, natural)
    )
    share = (
        (of_natural <= of_stimuli[:, None]).float().mean(1).where(of_stimuli.isfinite(), torch.nan)
    )
    is_there = stimuli.flatten(1).isfinite().all(1)  # a generator may judge what is none
    return share.cpu().where(is_there, torch.nan)


def find_neurons(
    network: nn.Module,
    generator: Generator,
    names: str | Sequence[str],
    image_shape: tuple[int, int, int],
    optimizer: Callable[..., Optimizer],
    num_starts: int = 0,
) -> list[Neuron]:
    """Find neurons by name, and check that a generator and an optimizer will do for them.

    Args:
        network: See `spiking_layers`.
        generator: Must draw images of `image_shape`.
        names: See `parse_neurons`.
        image_shape: Shape `(C, H, W)` of the images the network takes.
        optimizer: See `probe_neurons`; built and opened once and dropped, so that wrong settings,
            or a network that it cannot search, show before any work is done.
        num_starts: Natural images that the search is to start from; for more than 0 the generator
            must be able to encode.

    Raises:
        ValueError: If the generator does not fit or cannot encode, the network has no such neuron,
            or the optimizer refuses its settings or the network.
    """
    check_fit(generator, image_shape)
    num_modes = len(generator.mode_sizes)
    device = generator.embed(torch.zeros(1, num_modes, dtype=torch.int64)).device
    if num_starts:
        check_can_encode(generator)
    try:
        trial = optimizer(generator, Archive(1, num_modes, device=device), seed=0)
    except TypeError as error:
        raise ValueError(f"Argument `optimizer` must take its settings, but {error}.") from error
    extents = layer_extents(network, image_shape)
    num_units = {name: extent.shape[0] for name, extent in extents.items()}
    num_steps = {name: extent.num_steps for name, extent in extents.items()}
    neurons = parse_neurons(names, num_units, num_steps)
    with Recorder(network, neurons) as recorder:
        trial.open(Objective(generator, recorder, chunk=1))
    return neurons


class _Count:
    """Images a probe has shown, told to its caller chunk by chunk."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.total, self.shown, self.activation = 0, 0, 0.0

    def add(self, num_images: int) -> None:
        self.shown += num_images
        if self.progress is not None:
            self.progress(self.shown, self.total, self.activation)

    def note(self, shown: int, total: int, activation: float) -> None:
        """Take in what the search says of itself; the form of `Progress`."""
        self.activation = activation


def _starts(
    objective: Objective, images: Tensor, chosen: Tensor, previous: Tensor | None
) -> Tensor | None:
    """Encode the chosen ones `(K, m)` of natural images, and put the previous elites before."""
    parts, generator, device = [], objective.generator, objective.device
    if previous is not None:
        check_points(generator, previous)
        parts.append(previous.to(device))
    if chosen.shape[1]:
        # Neurons share their best images, and to encode one may take many passes.
        distinct, place = chosen.unique(return_inverse=True)
        chunks = images[distinct].split(objective.chunk)
        codes = torch.cat([generator.encode(unit_range(chunk).to(device)) for chunk in chunks])
        parts.append(codes[place.to(device)])
    start = torch.cat(parts, 1) if parts else None
    return start if start is not None and start.shape[1] else None
