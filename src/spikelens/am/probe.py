"""One probe: natural responses, the search, and what both say about each neuron."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spikelens.am.activations import Recorder, Response, layer_shapes
from spikelens.am.archive import Archive
from spikelens.am.natural import NaturalImages
from spikelens.am.neurons import Neuron, parse_neurons
from spikelens.am.objective import Objective, unit_range
from spikelens.am.optimizers.base import Optimizer
from spikelens.am.search import Progress, SearchResult, maximize
from spikelens.arguments import require_integers
from spikelens.generators.base import Generator, check_fit, check_points
from spikelens.selectivity import Selectivity, measure


@dataclass(frozen=True)
class SearchPlan:
    """How each neuron is searched.

    Attributes:
        budget: Images shown for each neuron, at least 1.
        num_starts: The best natural images of each neuron that are encoded and looked at first,
            not negative; they count.
        num_elites: Elites kept for each neuron, positive.
        num_top: Best natural images kept beside the stimulus, positive.
        chunk: Images shown at once.
        is_pooled: Whether a neuron profits from images proposed for others.
        seed: Seed of the search.
    """

    budget: int = 100
    num_starts: int = 8
    num_elites: int = 32
    num_top: int = 4
    chunk: int = 64
    is_pooled: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        require_integers(1, budget=self.budget, num_elites=self.num_elites, num_top=self.num_top)
        require_integers(1, chunk=self.chunk)
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
        is_silent: Neither a natural image nor the stimulus made the neuron spike, bool `(K,)`;
            False where the membrane is read out, which tells nothing of spikes.
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
        progress: See `maximize`.

    Returns:
        Stimuli, activations and selectivity of each neuron.

    Raises:
        ValueError: If `previous` does not fit the generator.
    """
    with Recorder(network, neurons) as recorder:
        objective = Objective(generator, recorder, plan.chunk)
        answers = objective.of_images(natural.images)
        top = answers.scores.topk(min(max(plan.num_top, plan.num_starts), len(natural.images)), 0)
        top_images = natural.images[top.indices.T.cpu()]  # (K, top, C, H, W)
        start = _starts(generator, top_images[:, : plan.num_starts], previous, objective.device)
        num_modes = len(generator.mode_sizes)
        archive = Archive(len(neurons), num_modes, plan.num_elites, objective.device)
        ceiling = torch.tensor([neuron.ceiling for neuron in neurons], device=objective.device)
        searcher = optimizer(generator, archive, seed=plan.seed)
        result = maximize(
            objective, searcher, archive, plan.budget, start, ceiling, plan.is_pooled, progress
        )
        final = objective(result.indices)
    activations = final.activations.diagonal().cpu()
    natural_activations = answers.activations.amax(0).cpu()
    return Probe(
        neurons=tuple(neurons),
        stimuli=generator.decode(result.indices).float().cpu(),
        activations=activations,
        natural_activations=natural_activations,
        natural_top=top_images[:, : plan.num_top],
        is_silent=((activations <= 0) & (natural_activations <= 0) & ceiling.isfinite().cpu()),
        classes=natural.classes,
        selectivity=_selectivity(answers, natural),
        elites=archive.indices.cpu(),
        search=result,
    )


def find_neurons(
    network: nn.Module,
    generator: Generator,
    names: str | Sequence[str],
    image_shape: tuple[int, int, int],
) -> list[Neuron]:
    """Check that a generator fits, and find neurons by name.

    Args:
        network: See `spiking_layers`.
        generator: Must draw images of `image_shape`.
        names: See `parse_neurons`.
        image_shape: Shape `(C, H, W)` of the images the network takes.

    Raises:
        ValueError: If the generator does not fit, or the network has no such neuron.
    """
    check_fit(generator, image_shape)
    num_units = {name: shape[0] for name, shape in layer_shapes(network, image_shape).items()}
    return parse_neurons(names, num_units)


def _starts(
    generator: Generator, images: Tensor, previous: Tensor | None, device: torch.device
) -> Tensor | None:
    """Encode natural images `(K, m, C, H, W)` and put the previous elites before them."""
    parts = []
    if previous is not None:
        check_points(generator, previous)
        parts.append(previous.to(device))
    if images.shape[1]:
        codes = generator.encode(unit_range(images.flatten(0, 1)).to(device))
        parts.append(codes.unflatten(0, images.shape[:2]))
    start = torch.cat(parts, 1) if parts else None
    return start if start is not None and start.shape[1] else None


def _selectivity(answers: Response, natural: NaturalImages) -> Selectivity:
    # Membrane read-outs may be negative; the measures speak of rates.
    rates = answers.activations.clamp_min(0.0)
    return measure(rates, natural.labels, len(natural.classes))
