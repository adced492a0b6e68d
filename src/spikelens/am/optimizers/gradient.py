"""Ascent through the surrogate gradient: what a search could do that sees into the network."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from spikelens.am.activations import Response
from spikelens.am.archive import Archive
from spikelens.am.objective import Objective, fitting_chunk
from spikelens.am.optimizers.base import Optimizer
from spikelens.am.slopes import check_slopes, slopes
from spikelens.arguments import require_shares
from spikelens.generators.base import DifferentiableGenerator, LatentSpace, check_can_draw

# Adam's decays, as published, and points of the latent that tell its scale.
_DECAYS = 0.9, 0.999
_NUM_SCALED = 64
_TINY = 1e-20  # far below any gradient: the step must not depend on the scale of activations
# Share of the images shown at once: with gradients the spikes and membranes of all layers are kept.
_SHARE = 4


class Gradient(Optimizer):
    """Climb the score of each neuron by Adam on what symbols stand for: a white-box reference.

    Each neuron has b ascents at once. Their states live between the symbols; proposed are the
    symbols nearest to them, the gradient is taken at these and moves the states (straight-through).
    They start from the elites that the archive has, else from natural-looking draws; an ascent that
    feels no gradient begins anew at another draw.

    The budget counts the images that are shown. Beyond that, the gradient shows each proposal once
    more, forward and backward, which is not counted: compare wall time too. Under a rate code it
    sees the noise of the showing before, another in each round where repeats go on.

    Args:
        space: See `Optimizer`; a `DifferentiableGenerator`.
        archive: See `Optimizer`; read once, for the start.
        seed: See `Optimizer`.
        batch: Ascents b a neuron, positive. Few long ones do better than many short ones.
        learning_rate: Step size of Adam, in standard deviations of the embedding; positive.
        commitment: Share of the way that a state is drawn to its symbols after a step, in [0, 1]:
            keeps it from drifting to where they no longer change.

    Raises:
        ValueError: If an argument is out of its range, or the space cannot be differentiated; from
            `open`, if the network cannot.
        TypeError: From `open`, if the objective is no `Objective`.
        RuntimeError: If `ask` comes before `open`.

    Source: Bengio et al., "Estimating or propagating gradients through stochastic neurons", 2013;
    Kingma & Ba, "Adam", 2015; van den Oord et al. 2017 (commitment).
    """

    def __init__(
        self,
        space: LatentSpace,
        archive: Archive,
        *,
        seed: int = 0,
        batch: int = 2,
        learning_rate: float = 1.0,
        commitment: float = 0.3,
    ) -> None:
        super().__init__(space, archive, seed=seed, batch=batch)
        check_can_draw(space)
        if not learning_rate > 0.0:
            raise ValueError(f"Argument `learning_rate` must be positive, but got {learning_rate}.")
        require_shares(commitment=commitment)
        self.generator = cast(DifferentiableGenerator, space)
        self.learning_rate, self.commitment = learning_rate, commitment
        self.objective: Objective | None = None
        self.states = torch.empty(0)  # (K, b, d, e) from the first proposal on

    def open(self, objective: Callable[[Tensor], Response]) -> None:
        """Keep the objective, whose network is to be differentiated.

        It may be wrapped by what has it as its `objective`; where that turns scores round, says
        `minimize` as its `direction`; and where repeats go on, has the next one's number as its
        `repeat`.
        """
        self.target = objective
        self.sign = -1.0 if getattr(objective, "direction", "maximize") == "minimize" else 1.0
        objective = getattr(objective, "objective", objective)
        if not isinstance(objective, Objective):
            raise TypeError(
                "Argument `objective` must be an Objective, whose network can be differentiated, "
                f"but got a {type(objective).__name__}: search it without the gradient."
            )
        self.objective = objective
        network, shape = objective.recorder.network, objective.generator.image_shape
        check_slopes(network, objective.recorder.neurons, shape)
        self.chunk = max(1, fitting_chunk(network, shape) // _SHARE)

    def _propose(self) -> Tensor:
        if not len(self.states):
            self._begin()
        self._climb()
        return self.symbols

    def _learn(self, own: Tensor) -> None:
        # The gradient can wait for the next proposal: after the last one nobody asks for it.
        self._is_shown = own.isfinite()

    def _begin(self) -> None:
        """Put the ascents on the archive's elites, and the rest on draws."""
        drawn = self._draw()
        num_elites = min(self.batch, self.archive.scores.shape[1])
        is_known = self.archive.scores[:, :num_elites, None].isfinite()
        elites = self.archive.indices[:, :num_elites]
        drawn[:, :num_elites] = elites.where(is_known, drawn[:, :num_elites])
        self.symbols, self.states = drawn, self.generator.embed(drawn)
        self._is_shown = torch.ones_like(drawn[..., 0], dtype=torch.bool)
        self._means, self._squares = torch.zeros_like(self.states), torch.zeros_like(self.states)
        self._ages = torch.zeros_like(self.states[:, :, :1, :1])
        natural = self.generator.sample(_NUM_SCALED, self.random)
        self._step = self.learning_rate * self.generator.embed(natural).std()

    def _draw(self) -> Tensor:
        """Draw natural-looking points int64 `(K, b, d)`."""
        drawn = self.generator.sample(self.num_neurons * self.batch, self.random)
        return drawn.view(self.num_neurons, self.batch, -1)

    def _climb(self) -> None:
        """Move states and symbols up the gradient at the symbols."""
        gradient = self._gradient()
        is_flat = (gradient == 0.0).flatten(2).all(2)[..., None, None]
        self.states = self.states + self._step * self._adam(gradient)
        for moment in (self._means, self._squares, self._ages):
            moment.masked_fill_(is_flat, 0.0)
        self.states = self.generator.embed(self._draw()).where(is_flat, self.states)
        self.symbols = self.generator.nearest(self.states)
        self.states = self.states.lerp(self.generator.embed(self.symbols), self.commitment)

    def _gradient(self) -> Tensor:
        """Differentiate each neuron's scores of its own symbols; 0 for what was not shown."""
        if self.objective is None:
            raise RuntimeError("Gradient.ask was called before Gradient.open.")
        neurons, places = self._is_shown.nonzero(as_tuple=True)
        gradient = torch.zeros_like(self.states)
        if len(neurons):
            at = self.generator.embed(self.symbols[neurons, places])
            # Not the next repeat: the proposals would be scored in the noise they were fitted to.
            repeat = max(0, getattr(self.target, "repeat", 0) - 1)
            gradient[neurons, places] = slopes(self.objective, neurons, at, self.chunk, repeat)
        return self.sign * gradient.where(gradient.isfinite(), 0.0)

    def _adam(self, gradient: Tensor) -> Tensor:
        """Return Adam's direction; ascents have ages of their own."""
        self._ages += 1
        self._means.lerp_(gradient, 1.0 - _DECAYS[0])
        self._squares.lerp_(gradient.square(), 1.0 - _DECAYS[1])
        mean = self._means / (1.0 - _DECAYS[0] ** self._ages)
        square = self._squares / (1.0 - _DECAYS[1] ** self._ages)
        return mean / (square.sqrt() + _TINY)
