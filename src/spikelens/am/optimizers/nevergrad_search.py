"""Any search of the library nevergrad, one object a neuron."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikelens.am.archive import Archive
from spikelens.am.line import Line, is_line
from spikelens.am.optimizers.base import Optimizer
from spikelens.arguments import require_integers
from spikelens.generators.base import LatentSpace

_LARGEST_LOSS = 1e20


class NevergradSearch(Optimizer):
    """Search by nevergrad; each neuron learns from its own images.

    Where symbols stand for points on a line (see `spikelens.am.line.Line`), z is searched, and
    rounded to the grid for the objective alone; elsewhere the symbols themselves, as choices. The
    search is told the images that the archive holds at the first `ask`, and starts from the best;
    where it holds none, from z = 0, or a draw from the space.

    MetaModel, which NGOpt takes for z, breaks down on numpy 2.4 once it has seen about d^2 / 2
    images.

    Args:
        space: See `Optimizer`.
        archive: See `Optimizer`; read at the first `ask` alone.
        seed: See `Optimizer`.
        batch: See `Optimizer`.
        algorithm: A name in nevergrad's registry; `NGOpt` chooses one by size and budget,
            `Portfolio` runs several.
        budget: Images a neuron is going to be shown, positive; several algorithms plan by it.

    Raises:
        ValueError: If an argument is out of its range, nevergrad knows no such algorithm, it is not
            installed, or, by `ask` and `tell`, if the algorithm breaks down.

    Source: Rapin & Teytaud, "Nevergrad", 2018.
    """

    def __init__(
        self,
        space: LatentSpace,
        archive: Archive,
        *,
        seed: int = 0,
        batch: int = 10,
        algorithm: str = "NGOpt",
        budget: int = 100,
    ) -> None:
        super().__init__(space, archive, seed=seed, batch=batch)
        require_integers(1, budget=budget)
        registry = _nevergrad().optimizers.registry
        if algorithm not in registry:
            raise ValueError(
                "Argument `algorithm` must be a name in nevergrad's registry, such as NGOpt, "
                f"Portfolio, CMA or OnePlusOne, but got {algorithm!r}."
            )
        self.algorithm, self.budget = registry[algorithm], budget
        self.line = Line(space, self.device) if is_line(space, self.device) else None
        self.largest = max(space.mode_sizes)
        self.sizes = torch.tensor(space.mode_sizes, device=self.device)
        self._searches: list[Any] = []
        self._state = np.random.RandomState(seed).get_state()

    def _propose(self) -> Tensor:
        with self._own_state():
            if not self._searches:
                self._searches = self._start()
            self._asked = [[self._ask(one) for _ in range(self.batch)] for one in self._searches]
        values = np.array([[candidate.value for candidate in asked] for asked in self._asked])
        return self._to_indices(torch.from_numpy(values).to(self.device))

    def _learn(self, own: Tensor) -> None:
        # Its own limit is 5e20; it clips, and warns.
        losses = -own.double().clamp(-_LARGEST_LOSS, _LARGEST_LOSS).cpu().numpy()
        known = own.isfinite().cpu().numpy()
        rounds = zip(self._searches, self._asked, losses, known, strict=True)
        with self._own_state():
            for search, asked, loss, is_known in rounds:
                if not is_known.any():
                    continue  # none was shown: there is nothing to learn
                worst = loss[is_known].max()  # what was not shown is no worse than what was
                for candidate, one in zip(asked, np.where(is_known, loss, worst), strict=True):
                    self._tell(search, candidate, float(one))

    def _ask(self, search: Any) -> Any:
        """Return one candidate of a search."""
        try:
            try:
                return search.ask()
            except AssertionError:
                # Portfolio settles on its best part; if that is the quasi-random one, its points
                # end with its share of the budget. It goes on at random.
                search.suggest(search.parametrization.sample().value)
                return search.ask()
        except Exception as error:  # whatever its many algorithms raise
            raise _broken(search, error) from error

    def _tell(self, search: Any, candidate: Any, loss: float) -> None:
        try:
            search.tell(candidate, loss)
        except Exception as error:  # as above
            raise _broken(search, error) from error

    def _start(self) -> list[Any]:
        seeds = torch.randint(2**31, (self.num_neurons,), generator=self.random, device=self.device)
        is_known = self.archive.scores.isfinite()
        elites, losses = self.archive.indices.clone(), -self.archive.scores.double()
        losses = losses.clamp(-_LARGEST_LOSS, _LARGEST_LOSS)
        if self.line is None and not is_known[:, 0].all():
            drawn = self.space.sample(self.num_neurons, self.random)
            elites[:, 0] = elites[:, 0].where(is_known[:, :1], drawn)
        values = self._to_values(elites)
        nums = is_known.sum(1).tolist()
        return [
            self._build(values[k], losses[k, : nums[k]].tolist(), int(seeds[k]))
            for k in range(self.num_neurons)
        ]

    def _build(self, elites: np.ndarray, losses: list[float], seed: int) -> Any:
        """Build one neuron's search from elites `(R, d)`, the first of which have losses."""
        parameter = self._parameter(elites[0] if losses else np.zeros_like(elites[0]))
        parameter.random_state = np.random.RandomState(seed)
        # A round's last images may be beyond the budget, and are then not shown.
        budget = len(losses) + -(-self.budget // self.batch) * self.batch
        search = self.algorithm(parametrization=parameter, budget=budget, num_workers=self.batch)
        for elite, loss in zip(elites, losses, strict=False):
            search.suggest(elite)
            self._tell(search, self._ask(search), loss)  # seen before: it costs no image
        if not losses and self.line is None:
            search.suggest(elites[0])
        return search

    def _parameter(self, first: np.ndarray) -> Any:
        """Return what nevergrad is to search, starting at z = `first` `(d,)` if it is z."""
        library = _nevergrad()
        if self.line is not None:
            return library.p.Array(init=first)
        # The choices' numbers alone: with each candidate 512 choices for each of 64 modes would
        # be copied, two hundred times slower, for the same images. They must not start elsewhere:
        # algorithms take the middle for the centre of all choices.
        choice = library.p.TransitionChoice(self.largest, repetitions=len(first))
        return choice.indices.copy()

    def _to_values(self, indices: Tensor) -> np.ndarray:
        """Return what nevergrad searches of multi-indices `(K, R, d)`."""
        if self.line is not None:
            values = self.line.to_latent(indices.flatten(0, 1)).view(indices.shape)
        else:  # the first choice that stands for the symbol
            values = -(-indices * self.largest // self.sizes)
        return values.double().cpu().numpy()

    def _to_indices(self, values: Tensor) -> Tensor:
        """Return multi-indices int64 of nevergrad's values `(K, b, d)`."""
        if self.line is not None:
            return self.line.to_indices(values.flatten(0, 1)).view(values.shape)
        # All modes have as many choices as the largest; they are shared out among its symbols.
        return values.long() * self.sizes // self.largest

    @contextmanager
    def _own_state(self) -> Iterator[None]:
        """Give nevergrad a global random state of its own: some algorithms draw from numpy's."""
        others = np.random.get_state()  # noqa: NPY002 (theirs, not ours)
        np.random.set_state(self._state)  # noqa: NPY002
        try:
            yield
        finally:
            self._state = np.random.get_state()  # noqa: NPY002
            np.random.set_state(others)  # noqa: NPY002


def _broken(search: Any, error: Exception) -> ValueError:
    return ValueError(
        f"nevergrad's {search.name} broke down ({error}): choose another `algorithm`, such as "
        "Portfolio or CMA."
    )


def _nevergrad() -> Any:
    if importlib.util.find_spec("nevergrad") is None:
        raise ValueError(
            "Argument `optimizer` must not be nevergrad here, which is not installed: "
            "pip install 'spikelens[bench]'."
        )
    import nevergrad  # only here: an extra, and it imports much

    return nevergrad
