"""What every optimizer is: something that proposes multi-indices and learns from scores."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from spikelens.am.activations import Response
from spikelens.am.archive import Archive
from spikelens.arguments import require_integers
from spikelens.generators.base import LatentSpace


class Optimizer(ABC):
    """Maximise K functions of a multi-index at once, by ask and tell.

        optimizer = EliteTT(space, archive, seed=0)
        indices = optimizer.ask()                     # (K, b, d)
        pool = indices.flatten(0, 1)                  # every neuron sees every proposal
        response = objective(pool)                    # scores (K * b, K)
        archive.add(pool, response)
        optimizer.tell(scores_of_own_proposals)       # (K, b)

    Args:
        space: Mode sizes, prior, neighbours and order of the latent.
        archive: The pool's elites; whoever runs the loop adds to it before it tells.
        seed: Seed of the optimizer's own random generator.
        batch: Multi-indices b proposed for each neuron and round, positive.

    Raises:
        ValueError: If `batch` is not positive.
        RuntimeError: If `ask` is called twice in a row, or `tell` without `ask`.
    """

    def __init__(
        self, space: LatentSpace, archive: Archive, *, seed: int = 0, batch: int = 10
    ) -> None:
        require_integers(1, batch=batch)
        self.space, self.archive, self.batch = space, archive, batch
        self.num_neurons = len(archive.scores)
        self.device = archive.scores.device
        self.random = torch.Generator(self.device).manual_seed(seed)
        self._is_waiting = False

    def open(self, objective: Callable[[Tensor], Response]) -> None:  # noqa: B027 (most need it not)
        """Be told what is searched, before the first `ask`; white-box methods keep the objective.

        Args:
            objective: See `spikelens.am.search.search`.
        """

    def ask(self) -> Tensor:
        """Propose multi-indices int64 `(K, b, d)`."""
        if self._is_waiting:
            raise RuntimeError(
                "Optimizer.ask was called twice: tell the scores of the first batch."
            )
        self._is_waiting = True
        return self._propose().clone()  # what the caller does to it must not reach the optimizer

    def tell(self, scores: Tensor) -> None:
        """Learn from the scores of the batch asked last.

        Args:
            scores: `(K, b)`, what each neuron answered to its own proposals; what is not finite
                (not shown, say) counts as -inf.

        Raises:
            ValueError: If the shape is another one.
        """
        if not self._is_waiting:
            raise RuntimeError("Optimizer.tell was called without Optimizer.ask.")
        wanted = (self.num_neurons, self.batch)
        if tuple(scores.shape) != wanted:
            raise ValueError(
                f"Argument `scores` must have the shape (neurons, batch) = {wanted}, but got "
                f"{tuple(scores.shape)}."
            )
        self._is_waiting = False
        scores = scores.to(self.archive.scores)  # what overflows in its type is not finite either
        self._learn(scores.where(scores.isfinite(), -torch.inf))

    def watch(self, points: Tensor, scores: Tensor) -> None:  # noqa: B027
        """Take note of all that was shown, start images included; does nothing by default.

        Args:
            points: Multi-indices int64: each neuron's own, `(K, M, d)`, or in a pool `(1, M, d)`,
                shown for all of them.
            scores: What each neuron answered to them, `(K, M)`; NaN for what was not shown.
        """

    @abstractmethod
    def _propose(self) -> Tensor:
        """Return the next multi-indices int64 `(K, b, d)`."""

    @abstractmethod
    def _learn(self, own: Tensor) -> None:
        """Take in the scores `(K, b)` of each neuron's own proposals."""
