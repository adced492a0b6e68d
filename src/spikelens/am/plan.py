"""What a search is told: budget, starts, direction, precision, seed."""

from dataclasses import dataclass

from spikelens.am.target import DIRECTIONS
from spikelens.arguments import require_integers, require_shares
from spikelens.precision import require_precision


@dataclass(frozen=True)
class SearchPlan:
    """How each neuron is searched.

    Attributes:
        budget: Images shown for each neuron and stimulus, at least 1.
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
        direction: `maximize`, or `minimize` for the least exciting stimuli; the best natural
            images are then those that excite a neuron least.
        num_stimuli: Distinct stimuli m sought for each neuron, positive. One search after the
            other, each with the whole budget, so that a probe's first is the same whatever m is.
            The next probe's need not be: a warm start takes the best of every stimulus in turn.
        min_distance: Least distance between a neuron's stimuli, in [0, 1], see
            `spikelens.am.distance`: 0 for equal ones, 1 for two unrelated natural-looking points.
        num_repeats: Fresh draws of noise that what is reported is averaged over, positive. Only
            for networks that draw their input at random; others are shown once.
    """

    budget: int = 100
    num_starts: int = 8
    num_elites: int = 32
    num_top: int = 4
    chunk: int | None = None
    is_pooled: bool = True
    precision: str = "auto"
    seed: int = 0
    direction: str = "maximize"
    num_stimuli: int = 1
    min_distance: float = 0.5
    num_repeats: int = 8

    def __post_init__(self) -> None:
        require_integers(1, budget=self.budget, num_elites=self.num_elites, num_top=self.num_top)
        require_integers(1, num_stimuli=self.num_stimuli, num_repeats=self.num_repeats)
        if self.chunk is not None:
            require_integers(1, chunk=self.chunk)
        require_precision(self.precision)
        require_integers(0, num_starts=self.num_starts, seed=self.seed)
        if self.direction not in DIRECTIONS:
            raise ValueError(
                f"Argument `direction` must be one of {', '.join(DIRECTIONS)}, but got "
                f"{self.direction!r}."
            )
        require_shares(min_distance=self.min_distance)
