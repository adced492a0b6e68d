"""TTOpt: cross approximation by maximal volume, which keeps the best entry it meets."""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import teneva
import torch
from torch import Tensor

from spikelens.am.archive import Archive
from spikelens.am.optimizers.base import Optimizer
from spikelens.am.quantised import bits_of_modes, dequantise, quantise
from spikelens.arguments import require_integers
from spikelens.generators.base import LatentSpace

# Multi-indices `(m, d)`, of the smallest unsigned type that holds the largest symbol, as many of
# them are remembered; and scores.
_Points = npt.NDArray[Any]
_Scores = npt.NDArray[np.float64]

_MAXVOL_ACCURACY = 1.05  # of the volume, at least 1; see `teneva.maxvol`
_MAXVOL_STEPS = 100


class TTOpt(Optimizer):
    """Search along the fibres of a cross approximation, for each neuron on its own images.

    A sweep goes through the modes. At each it asks for all points that join a left part known from
    the modes before, any symbol, and a right part: the block `(r, n_j, r')`. Of its rows those of
    maximal volume become the left parts of the next mode, for a submatrix of maximal volume has an
    entry close to the largest of its matrix; the row with the best entry is always among them. The
    way back does the same for the right parts. After a sweep forth and back another one starts
    from other random right parts and those of the best point so far. What is known is not asked
    again. Start images and the pool are not used: they are no part of the method.

    Volumes care for magnitudes, so scores y become `pi / 2 - arctan((y_best - y) / s)`, largest for
    the best and 0 for what was not shown; the paper has s = 1, which suits no neuron's scale, and
    here it is the block's median gap to the best.

    A double sweep takes about `2 d n r**2` images: expect little from a budget that is smaller.

    Args:
        space: See `Optimizer`.
        archive: See `Optimizer`; not read.
        seed: See `Optimizer`.
        batch: See `Optimizer`. Where a block leaves a batch unfilled, draws of the space fill it.
        rank: Most left or right parts kept, positive.
        quantised: Split each mode of size 2**q into q binary modes (QTT), as the paper does;
            only for a latent whose modes all have the same size, a power of two.

    Raises:
        ValueError: If an argument is out of its range, or the latent cannot be quantised.

    Source: Sozykin et al., "TTOpt: a maximum volume quantized tensor train-based optimization and
    its application to reinforcement learning", 2022, algorithm 1.
    """

    def __init__(
        self,
        space: LatentSpace,
        archive: Archive,
        *,
        seed: int = 0,
        batch: int = 25,
        rank: int = 4,
        quantised: bool = True,
    ) -> None:
        super().__init__(space, archive, seed=seed, batch=batch)
        require_integers(1, rank=rank)
        self.num_bits = bits_of_modes(space.mode_sizes) if quantised else 0
        sizes = (2,) * (self.num_bits * len(space.mode_sizes)) or tuple(space.mode_sizes)
        self._dtype = np.min_scalar_type(max(sizes) - 1)
        self._searches = [CrossSearch(sizes, rank, self._draw) for _ in range(self.num_neurons)]

    def _propose(self) -> Tensor:
        wanted = [search.ask(self.batch) for search in self._searches]
        missing = [self.batch - len(points) for points in wanted]
        drawn = np.split(self._draw(sum(missing)), np.cumsum(missing)[:-1])
        self._asked = np.stack([np.concatenate(both) for both in zip(wanted, drawn, strict=True)])
        points = torch.from_numpy(self._asked.astype(np.int64)).to(self.device)
        return dequantise(points, self.num_bits) if self.num_bits else points

    def _learn(self, own: Tensor) -> None:
        scores = own.double().cpu().numpy()
        for search, asked, answers in zip(self._searches, self._asked, scores, strict=True):
            search.tell(asked, answers)

    def _draw(self, num: int) -> _Points:
        """Draw points of the space, in the modes that are searched."""
        points = self.space.sample(max(num, 1), self.random)[:num]
        bits = quantise(points, self.num_bits) if self.num_bits else points
        return bits.cpu().numpy().astype(self._dtype)


class CrossSearch:
    """The sweeps of one neuron, which may be followed a few points at a time.

    Args:
        sizes: Number of symbols of each mode.
        rank: Most left or right parts kept, positive.
        draw: Draws that many points `(m, d)`.

    Attributes:
        best: The best point so far, `(d,)`; None before one was scored.
        best_score: Its score; -inf before.
    """

    def __init__(self, sizes: Sequence[int], rank: int, draw: Callable[[int], _Points]) -> None:
        self.sizes, self.rank, self.draw = sizes, rank, draw
        self.best: _Points | None = None
        self.best_score = -np.inf
        self._known: dict[bytes, float] = {}
        self._requests = self._sweeps()
        self._wanted = next(self._requests)  # of the block in hand, not yet asked

    def ask(self, num: int) -> _Points:
        """Return the next points of the block in hand, `num` or as many as are left."""
        wanted, self._wanted = self._wanted[:num], self._wanted[num:]
        return wanted

    def tell(self, points: _Points, scores: _Scores) -> None:
        """Take in the scores `(m,)` of the points `(m, d)` asked last, and of any others."""
        for point, score in zip(points, scores, strict=True):
            self._known[point.tobytes()] = score
        top = scores.argmax()
        if scores[top] > self.best_score:
            self.best, self.best_score = points[top], scores[top]
        if not len(self._wanted):
            self._wanted = next(self._requests)

    def _sweeps(self) -> Iterator[_Points]:
        """Sweep forth and back for ever, each time from other right parts.

        Yields the points that must be known to go on.
        """
        while True:
            num_known = len(self._known)
            starts = self.draw(self.rank)
            if self.best is not None:
                starts[0] = self.best
            yield from self._sweep([np.unique(starts[:, j:], axis=0) for j in self._inner_bonds])
            if len(self._known) == num_known:  # nothing was left to ask: the batch is filled anyway
                yield self.draw(1)

    @property
    def _inner_bonds(self) -> range:
        """Bond j stands before mode j; the outer ones have one empty part."""
        return range(1, len(self.sizes))

    def _sweep(self, parts: list[_Points]) -> Iterator[_Points]:
        """Sweep from right parts `(r, d - j)` at each inner bond j."""
        empty = parts[0][:1, :0] if parts else self.draw(1)[:, :0]
        lefts, rights = [empty], [empty, *parts, empty]
        for mode in range(len(self.sizes) - 1):
            points, scores = yield from self._block(lefts[mode], mode, rights[mode + 1])
            rows = self._pivots(scores.reshape(-1, scores.shape[2]))
            lefts.append(points[:, :, 0, : mode + 1].reshape(-1, mode + 1)[rows])
        for mode in reversed(range(len(self.sizes))):
            points, scores = yield from self._block(lefts[mode], mode, rights[mode + 1])
            rows = self._pivots(scores.reshape(len(scores), -1).T)
            rights[mode] = points[0, :, :, mode:].reshape(-1, len(self.sizes) - mode)[rows]

    def _block(
        self, left: _Points, mode: int, right: _Points
    ) -> Generator[_Points, None, tuple[_Points, _Scores]]:
        """Return all points `(r, n, r', d)` that join the parts, and their scores."""
        points = join(left, self.sizes[mode], right)
        flat = points.reshape(-1, points.shape[3])
        keys = [point.tobytes() for point in flat]
        unknown = [place for place, key in enumerate(keys) if key not in self._known]
        if unknown:
            yield flat[unknown]
        return points, np.array([self._known[key] for key in keys]).reshape(points.shape[:3])

    def _pivots(self, scores: _Scores) -> npt.NDArray[np.int64]:
        """Choose rows of a matrix `(m, r)`: at most r, of maximal volume, the best one included."""
        if len(scores) <= scores.shape[1]:
            return np.arange(len(scores))
        basis, _ = np.linalg.qr(squash(scores, self.best_score))
        rows: npt.NDArray[np.int64] = teneva.maxvol(basis, _MAXVOL_ACCURACY, _MAXVOL_STEPS)[0]
        top = scores.max(1).argmax()
        if top not in rows:
            rows[-1] = top
        return rows


def join(left: _Points, size: int, right: _Points) -> _Points:
    """Join left parts `(r, l)`, each symbol and right parts `(r', l')`.

    Returns:
        Points `(r, size, r', l + 1 + l')`.
    """
    shape = len(left), size, len(right)
    symbols = np.arange(size, dtype=left.dtype)
    parts = left[:, None, None], symbols[None, :, None, None], right[None, None]
    return np.concatenate([np.broadcast_to(p, (*shape, p.shape[3])) for p in parts], axis=3)


def squash(scores: _Scores, best: float) -> _Scores:
    """Map scores to `[0, pi / 2]`, increasing: `pi / 2` for the best there is, 0 for -inf.

    Half of those below the best come above `pi / 4`.

    Args:
        scores: Finite or -inf, at most `best`.
        best: The best score; -inf if there is none.
    """
    if not np.isfinite(best):
        return np.zeros_like(scores)
    gaps = best - scores
    positive = gaps[(gaps > 0) & np.isfinite(gaps)]
    scale = np.median(positive) if len(positive) else 1.0
    squashed: _Scores = np.pi / 2 - np.arctan(gaps / scale)
    return squashed
