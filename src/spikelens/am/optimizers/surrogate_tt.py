"""A tensor train fitted to what was seen, and its largest entries as the next proposals."""

from functools import partial

import numpy as np
import numpy.typing as npt
import teneva
import torch
from torch import Tensor

from spikelens.am.archive import Archive
from spikelens.am.optimizers.base import Optimizer
from spikelens.arguments import require_amounts, require_integers, require_shares
from spikelens.generators.base import LatentSpace

_Points = npt.NDArray[np.int64]  # (m, d)
_Scores = npt.NDArray[np.float64]  # (m,)
_Cores = list[npt.NDArray[np.float64]]

_SHIFT_WIDTH = 8  # of the beam that only looks how large the train's entries get
_NOISE = 1e-2  # what cores start from in the ranks that ANOVA leaves empty, for ALS to fill


class SurrogateTT(Optimizer):
    """Propose the points that a regression train predicts to be the best.

    For each neuron a train is fitted to its own proposals and its elites in the pool: the mean
    effect of each symbol (ANOVA), then a few sweeps of alternating least squares. A beam through
    the train finds its largest entries. Those not yet seen are proposed, best first; the rest of a
    batch are mutants of the elites, which bring in symbols that were never seen: the train knows
    of no others. An empty archive: natural samples of the space.

    The fits run in numpy on the CPU, one neuron after the other.

    Args:
        space: See `Optimizer`.
        archive: See `Optimizer`; its elites are data and the parents of mutants.
        seed: See `Optimizer`.
        batch: See `Optimizer`.
        rank: Rank of the train, at least 2.
        order: Of the ANOVA: 1, or 2 for pairs of modes too, which costs `d**2 n**2` steps and
            rounds as many trains: seconds a fit for 16 modes of 8 symbols.
        num_sweeps: Sweeps of alternating least squares, not negative; 0 keeps the ANOVA. They pay
            where modes have few symbols: each takes a solution of r**2 unknowns a symbol.
        ridge: How much the sweeps hold to the ANOVA, positive: a number of points that speak for
            it at each symbol.
        share: Share of a batch that the train may propose, in [0, 1].
        num_candidates: Width of the beam, positive.
        num_points: Points fitted at most, the latest, positive.
        refit_every: Rounds from one fit to the next, positive: bounds the cost.
        num_elites: Elites that mutants descend from, positive.
        mutations: Expected number of symbols a mutant has redrawn beside the one that each has,
            not negative.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Chertkov, Ryzhakov & Oseledets, "Black box approximation in the tensor train format
    initialized by ANOVA decomposition", 2022, for the fit; Chertkov et al., "Optimization of
    functions given in the tensor train format", 2022, for the beam.
    """

    def __init__(
        self,
        space: LatentSpace,
        archive: Archive,
        *,
        seed: int = 0,
        batch: int = 10,
        rank: int = 2,
        order: int = 1,
        num_sweeps: int = 0,
        ridge: float = 10.0,
        share: float = 0.5,
        num_candidates: int = 50,
        num_points: int = 2000,
        refit_every: int = 1,
        num_elites: int = 10,
        mutations: float = 1.0,
    ) -> None:
        super().__init__(space, archive, seed=seed, batch=batch)
        _check(rank, order, ridge, share, mutations)
        require_integers(0, num_sweeps=num_sweeps)
        require_integers(1, num_candidates=num_candidates, num_points=num_points)
        require_integers(1, refit_every=refit_every, num_elites=num_elites)
        self._fit = partial(
            fit, rank=rank, order=order, num_sweeps=num_sweeps, ridge=ridge, seed=seed
        )
        self.num_predicted = int(share * batch)
        self.num_candidates, self.num_points = num_candidates, num_points
        self.num_elites = min(num_elites, archive.scores.shape[1])
        self.refit_every, self.num_rounds = refit_every, 0
        self.mutation = min(mutations / len(space.mode_sizes), 1.0)
        self._memories = [Memory(len(space.mode_sizes)) for _ in range(self.num_neurons)]
        self._candidates: list[_Points] = []

    def _propose(self) -> Tensor:
        if self.num_rounds % self.refit_every == 0:
            self._recall_elites()
            self._candidates = [self._predict(memory) for memory in self._memories]
        self.num_rounds += 1
        self._asked = self._mutants().cpu().numpy()
        for place, memory in enumerate(self._memories):
            unseen = memory.unseen(self._candidates[place])
            chosen, self._candidates[place] = np.split(unseen, [self.num_predicted])
            self._asked[place, : len(chosen)] = chosen
        return torch.from_numpy(self._asked).to(self.device)

    def _learn(self, own: Tensor) -> None:
        for memory, asked, scores in zip(
            self._memories, self._asked, own.double().cpu().numpy(), strict=True
        ):
            memory.add(asked, scores)

    def _recall_elites(self) -> None:
        """Take the pool's elites among the data."""
        elites, scores = self.archive.indices.cpu().numpy(), self.archive.scores.double().cpu()
        for memory, points, answers in zip(self._memories, elites, scores.numpy(), strict=True):
            memory.add(points, answers)

    def _predict(self, memory: "Memory") -> _Points:
        """Return the points `(k, d)` of which a fit to the memory expects most, best first."""
        points, scores = memory.latest(self.num_points)
        if not len(points) or not self.num_predicted:
            return points[:0]
        # A train needs two modes: a constant one is put behind a single one.
        is_single = points.shape[1] == 1
        padded = np.pad(points, ((0, 0), (0, int(is_single))))
        cores, symbols = self._fit(padded, scores)
        best = largest(cores, self.num_candidates)
        columns = [symbols[j][best[:, j]] for j in range(points.shape[1])]
        return np.stack(columns, 1).astype(np.int64)

    def _mutants(self) -> Tensor:
        """Copy elites `(K, b, d)`, drawn by rank, and redraw symbols as in natural samples."""
        drawn = self.space.sample(self.num_neurons * self.batch, self.random)
        drawn = drawn.view(self.num_neurons, self.batch, -1)
        is_known = self.archive.scores[:, : self.num_elites].isfinite()
        ranks = torch.arange(1, self.num_elites + 1, device=self.device)
        weights = is_known / ranks
        weights[:, 0] += ~is_known[:, 0]  # no elite: any will do, all symbols are redrawn
        places = torch.multinomial(weights, self.batch, replacement=True, generator=self.random)
        parents = self.archive.indices.gather(1, places[..., None].expand(-1, -1, drawn.shape[2]))
        chances = torch.rand(drawn.shape, generator=self.random, device=self.device)
        is_redrawn = (chances < self.mutation) | (chances == chances.amin(2, keepdim=True))
        is_redrawn |= ~is_known[:, :1, None]
        return torch.where(is_redrawn, drawn, parents)


class Memory:
    """The distinct points one neuron has answered to, in the order they came.

    Args:
        num_modes: Length d of a multi-index.
    """

    def __init__(self, num_modes: int) -> None:
        self.num_modes = num_modes
        self._score_by_point: dict[bytes, float] = {}

    def add(self, points: _Points, scores: _Scores) -> None:
        """Take in points `(m, d)` and scores `(m,)`; those without a finite score are left out."""
        for point, score in zip(points, scores, strict=True):
            if np.isfinite(score):
                self._score_by_point[point.tobytes()] = score

    def latest(self, num: int) -> tuple[_Points, _Scores]:
        """Return the `num` latest points and their scores, or as many as there are."""
        points = np.frombuffer(b"".join(list(self._score_by_point)[-num:]), dtype=np.int64)
        scores = np.array(list(self._score_by_point.values())[-num:], dtype=np.float64)
        return points.reshape(-1, self.num_modes), scores

    def unseen(self, points: _Points) -> _Points:
        """Return those of the points that have no score yet."""
        is_new = [point.tobytes() not in self._score_by_point for point in points]
        unseen: _Points = points[np.array(is_new, dtype=bool)]
        return unseen


def fit(
    points: _Points,
    scores: _Scores,
    rank: int,
    order: int,
    num_sweeps: int,
    ridge: float,
    seed: int,
) -> tuple[_Cores, list[npt.NDArray[np.int64]]]:
    """Fit a train to the scores of points of at least two modes.

    Its modes hold the symbols that were seen and no others, for nothing is known of those. Scores
    are brought to mean 1 and standard deviation 1, to which the ridge refers. It draws each core
    towards what it was before: drawn towards 0, or not at all, a train fitted to a few hundred
    points predicts nonsense wherever it has seen none.

    Args:
        points: `(m, d)`.
        scores: `(m,)`, finite.
        rank: Of the train.
        order: Of the ANOVA.
        num_sweeps: Of alternating least squares.
        ridge: Of the least squares, positive.
        seed: Of the noise that the sweeps start from.

    Returns:
        d cores, and the symbols seen in each mode, ascending.
    """
    pairs = [np.unique(column, return_inverse=True) for column in points.T]
    places = np.stack([inverse for _, inverse in pairs], 1)
    values = 1.0 + (scores - scores.mean()) / (scores.std() or 1.0)
    noise = _NOISE if num_sweeps else 0.0
    cores: _Cores = teneva.anova(places, values, rank, order, noise, seed)
    if num_sweeps:
        start = balance(cores)
        cores = teneva.als(
            places, values, start, nswp=num_sweeps, info={}, lamb=ridge, update_sol=True
        )
    return cores, [symbols for symbols, _ in pairs]


def balance(cores: _Cores) -> _Cores:
    """Give all cores the same mean square a symbol; the tensor stays as it is.

    Order 2 leaves the whole norm in one core. The products of the others are then so small that
    the regularisation of the least squares would take them all to 0.
    """
    sizes = np.array([np.linalg.norm(core) / np.sqrt(core.shape[1]) for core in cores])
    mean = np.exp(np.log(sizes).mean())
    return [core * (mean / size) for core, size in zip(cores, sizes, strict=True)]


def largest(cores: _Cores, num: int) -> _Points:
    """Find about the `num` largest entries of a train, largest first, `(<= num, d)`.

    A beam finds the entries of largest magnitude: a constant is added so that all are positive.
    """
    with np.errstate(invalid="ignore"):  # 0 everywhere: any entry is the largest
        extreme = teneva.optima_tt_beam(cores, _SHIFT_WIDTH)
    shift = abs(teneva.get(cores, extreme)) + 1.0
    ones = [np.ones((1, core.shape[1], 1)) for core in cores]
    shifted = teneva.add(cores, [shift * ones[0], *ones[1:]])
    best = teneva.optima_tt_beam(shifted, num, ret_all=True)
    order = np.argsort(-teneva.get_many(cores, best), kind="stable")
    found: _Points = best[order]
    return found


def _check(rank: int, order: int, ridge: float, share: float, mutations: float) -> None:
    require_integers(2, rank=rank)
    if order not in (1, 2):
        raise ValueError(f"Argument `order` must be 1 or 2, but got {order!r}.")
    if not ridge > 0.0:
        raise ValueError(f"Argument `ridge` must be positive, but got {ridge}.")
    require_shares(share=share)
    require_amounts(mutations=mutations)
