"""One probe: natural responses, the search, and what both say about each neuron."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spikelens.am.activations import Recorder, Response, layer_shapes, layer_steps
from spikelens.am.archive import Archive
from spikelens.am.natural import NaturalImages
from spikelens.am.neurons import Neuron, parse_neurons
from spikelens.am.objective import Objective
from spikelens.am.optimizers.base import Optimizer
from spikelens.am.search import Progress, SearchResult, search
from spikelens.arguments import require_integers
from spikelens.data.base import unit_range
from spikelens.generators.base import Generator, check_can_encode, check_fit, check_points
from spikelens.precision import is_half, require_precision
from spikelens.selectivity import Selectivity, measure

# Best images of a search in bfloat16 that are compared once more in float32.
_NUM_CHECKED = 4


@dataclass(frozen=True)
class SearchPlan:
    """How each neuron is searched.

    Attributes:
        budget: Images shown for each neuron, at least 1.
        num_starts: The best natural images of each neuron that are encoded and looked at first,
            not negative; they count.
        num_elites: Elites kept for each neuron, positive.
        num_top: Best natural images kept beside the stimulus, positive.
        chunk: Images shown at once, at most; None for what fits the working set, see
            `spikelens.am.objective.fitting_chunk`.
        is_pooled: Whether a neuron profits from images proposed for others.
        precision: Of the search: `float32`, `bfloat16`, or `auto`, which is bfloat16 where the
            device is faster in it. What is reported is float32 in any case.
        seed: Seed of the search.
    """

    budget: int = 100
    num_starts: int = 8
    num_elites: int = 32
    num_top: int = 4
    chunk: int | None = None
    is_pooled: bool = True
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        require_integers(1, budget=self.budget, num_elites=self.num_elites, num_top=self.num_top)
        if self.chunk is not None:
            require_integers(1, chunk=self.chunk)
        require_precision(self.precision)
        require_integers(0, num_starts=self.num_starts, seed=self.seed)


@dataclass(frozen=True)
class Probe:
    """What a probe found for K neurons; tensors are on the CPU.

    Attributes:
        neurons: The K neurons.
        stimuli: Optimal stimulus of each, float32 `(K, C, H, W)` in [0, 1].
        activations: Its activation, shown once more in float32, `(K,)`.
        natural_activations: Activation of the best natural image, `(K,)`.
        natural_top: The best natural images, uint8 `(K, num_top, C, H, W)`, best first.
        realism: Share of the natural images that look no more natural to the generator than the
            stimulus, `(K,)` in [0, 1]; NaN where the generator cannot tell.
        is_silent: Neither a natural image nor the stimulus made the neuron spike, bool `(K,)`;
            False where activations may be negative, and tell nothing of spikes (a membrane, a
            contrast, a population with such a neuron or a negative weight).
        classes: Name of each class of the natural images.
        selectivity: On the natural images.
        elites: Best multi-indices, int64 `(K, R, d)`: where a later search may start.
        search: The search itself.
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

    @property
    def ratio(self) -> Tensor:
        """Activation / that of the best natural image, `(K,)`; NaN where that is not positive."""
        ratio = self.activations / self.natural_activations
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
    """Find the image that excites each neuron most, and how selective it is.

    Args:
        network: In evaluation mode, on any device; the generator is on the same one.
        generator: Draws the images.
        neurons: The K neurons.
        natural: Images to compare with and to start from.
        optimizer: Builds an optimizer from a latent space, an archive and `seed`.
        plan: Budget, starts, seed.
        previous: Multi-indices to look at first as well, int64 `(K, m, d)` (warm start).
        progress: Called after each chunk with images shown, images allowed in total, natural
            ones included, and the mean best activation of the search.

    Returns:
        Stimuli, activations and selectivity of each neuron.

    Raises:
        ValueError: If `previous` does not fit the generator.
    """
    device = next(network.parameters()).device
    num_checked = min(_NUM_CHECKED, plan.num_elites) if is_half(plan.precision, device) else 1
    count = _Count(len(natural.images) + len(neurons) * (plan.budget + num_checked), progress)
    with Recorder(network, neurons) as recorder:
        objective = Objective(generator, recorder, plan.chunk, count.add)
        answers = objective.of_images(natural.images)
        top = answers.scores.topk(min(max(plan.num_top, plan.num_starts), len(natural.images)), 0)
        best = top.indices.T.cpu()  # (K, top)
        start = _starts(objective, natural.images, best[:, : plan.num_starts], previous)
        archive, result = _search(objective, optimizer, plan, start, count)
        indices, shown = _best_again(objective, archive, num_checked)
    activations, natural_activations = shown.cpu(), answers.activations.amax(0).cpu()
    is_rate = torch.tensor([neuron.is_rate for neuron in neurons])
    stimuli = torch.cat([generator.decode(i).float().cpu() for i in indices.split(64)])
    return Probe(
        neurons=tuple(neurons),
        stimuli=stimuli,
        activations=activations,
        natural_activations=natural_activations,
        natural_top=natural.images[best[:, : plan.num_top]],
        realism=_realism(objective, stimuli, natural.images),
        is_silent=((activations <= 0) & (natural_activations <= 0) & is_rate),
        classes=natural.classes,
        selectivity=measure(
            answers.activations, natural.labels, len(natural.classes), is_rate.to(device)
        ),
        elites=archive.indices.cpu(),
        search=result,
    )


def _search(
    objective: Objective,
    optimizer: Callable[..., Optimizer],
    plan: SearchPlan,
    start: Tensor | None,
    count: "_Count",
) -> tuple[Archive, SearchResult]:
    """Search in the plan's precision; the objective is left as it was."""
    generator, neurons, chunk = objective.generator, objective.recorder.neurons, objective.chunk
    num_modes = len(generator.mode_sizes)
    archive = Archive(len(neurons), num_modes, plan.num_elites, objective.device)
    searcher = optimizer(generator, archive, seed=plan.seed)
    ceiling = torch.tensor([neuron.ceiling for neuron in neurons])
    # Few neurons propose few images a round: a chunk is not filled up beyond that.
    objective.chunk = min(chunk, len(neurons) * searcher.batch)
    objective.precision = plan.precision
    result = search(
        objective, searcher, archive, plan.budget, start, ceiling, plan.is_pooled, count.note
    )
    objective.chunk, objective.precision = chunk, "float32"
    return archive, result


def _best_again(objective: Objective, archive: Archive, num: int) -> tuple[Tensor, Tensor]:
    """Show each neuron's best few once more, and return the best `(K, d)` and its activation."""
    elites = archive.indices[:, :num]
    own = torch.arange(len(elites), device=elites.device)[:, None, None]
    # Of what is shown for a neuron its own answers count: (K, num).
    answers = Response(
        *(
            values.unflatten(0, elites.shape[:2]).gather(2, own.expand(-1, num, -1)).squeeze(2)
            for values in objective(elites.flatten(0, 1))
        )
    )
    is_known = archive.scores[:, :num].isfinite()
    best = answers.scores.where(is_known, -torch.inf).argmax(1, keepdim=True)
    chosen = elites.gather(1, best[..., None].expand(-1, -1, elites.shape[2])).squeeze(1)
    return chosen, answers.activations.gather(1, best).squeeze(1)


def _realism(objective: Objective, stimuli: Tensor, natural: Tensor) -> Tensor:
    """Return the share of natural images that look no more natural than each stimulus, `(K,)`."""
    judge, device = objective.generator.realism, objective.device
    of_stimuli, of_natural = (
        torch.cat([judge(unit_range(part).to(device)) for part in images.split(objective.chunk)])
        for images in (stimuli, natural)
    )
    share = (of_natural <= of_stimuli[:, None]).float().mean(1)
    return share.where(of_stimuli.isfinite(), torch.nan).cpu()


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
        optimizer: See `probe_neurons`; built once and dropped, so that wrong settings show
            before any work is done.
        num_starts: Natural images that the search is to start from; for more than 0 the generator
            must be able to encode.

    Raises:
        ValueError: If the generator does not fit or cannot encode, the network has no such neuron,
            or the optimizer refuses its settings.
    """
    check_fit(generator, image_shape)
    if num_starts:
        check_can_encode(generator)
    try:
        optimizer(generator, Archive(1, len(generator.mode_sizes)), seed=0)
    except TypeError as error:
        raise ValueError(
            f"Argument `optimizer` must have only settings it knows, but {error}."
        ) from error
    num_units = {name: shape[0] for name, shape in layer_shapes(network, image_shape).items()}
    return parse_neurons(names, num_units, layer_steps(network, image_shape))


class _Count:
    """Images a probe has shown, told to its caller chunk by chunk."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total, self.progress = total, progress
        self.shown, self.activation = 0, 0.0

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
