"""A model of scores in what symbols stand for and which of them meet, fitted as one goes."""

import torch
from torch import Tensor

from spikelens.am.normal_scores import normal_scores
from spikelens.am.pairs import Pairs
from spikelens.am.symbol_features import symbol_features
from spikelens.generators.base import LatentSpace

WINDOW = 400  # points of a function's own that are remembered, where nothing else is said
# Rounding of the Gram matrix: what an update loses in float32, of a unit of its trace, and what may
# be lost of the mean squared distance from the points' mean.
_LOST, _TOLERATED = 1e-6, 0.01
_FEW = 256  # columns whose equations cost next to nothing
_RENEWED = 0.1  # share of the points remembered that must be new before it is fitted anew


class PairwiseModel:
    """Ridge regression of K functions of multi-indices x on features e of their symbols.

    It learns the normal scores of what was shown: their order alone counts, so that a function that
    saturates is as easy as any. Where images are searched the worst sixth have one score, for how
    bad they are tells little of what is best.

    `f(x) = c + sum_j <A_j, e_j> + <B, sum_j e_j> + sum_g sum_{(i, j) in g} e_i^T C_g e_j` with
    `e_j = e(x_j)`: what a symbol adds at its own place; what it adds at any place; and what two
    symbols add that meet, for each group g of pairs of modes that stand in the same relation
    (`relations` of the space). A space without relations has the first sum alone. B and C_g are
    learned from all places at once, which is why few points will do.

    The last `window` points count. The normal equations are those of the columns, or, if the
    window is smaller, of the points: their dual. The Gram matrix of either is kept up to date. A
    model of no more than 256 columns is fitted for each new point.

    Args:
        space: `embed` says what symbols stand for, `relations` which modes belong together.
        num_neurons: Number of functions K.
        window: Points remembered of each function's own, positive.
        is_pairwise: Whether the relations of the space count.
        is_ranked: Whether it learns normal scores; else scores, in units of the largest magnitude.
        least: Normal score that worse points have as well; -inf for none.
        pool_window: Points remembered where they are the same for several functions, positive.
        ridge: Penalty in units of the mean squared distance of a point from the points' mean,
            positive.
        device: Where it computes.

    Source: Hoerl & Kennard, "Ridge regression", 1970; Saunders et al., "Ridge regression learning
    algorithm in dual variables", 1998.
    """

    def __init__(
        self,
        space: LatentSpace,
        num_neurons: int,
        window: int = WINDOW,
        is_pairwise: bool = True,
        is_ranked: bool = True,
        least: float = -1.0,
        pool_window: int = 1000,
        ridge: float = 0.1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.windows, self.ridge = (window, pool_window), ridge
        self.is_ranked, self.least = is_ranked, least
        self.features = symbol_features(space).to(device)  # (d, n, e)
        self.pairs = Pairs(getattr(space, "relations", ()) if is_pairwise else (), device)
        d, _, e = self.features.shape
        num_groups = len(self.pairs.groups)
        self._widths = [d * e, *([e, *[e * e] * num_groups] if num_groups else [])]
        self.num_seen = self.num_fits = self.window = 0
        self.scores = torch.zeros(num_neurons, 0, device=device)  # (K, window)
        self._reference = torch.zeros(0)  # point that the others are counted from, (G, 1, columns)
        self.indices = torch.zeros(0, dtype=torch.int64, device=device)  # (G, window, d)
        self.points = torch.zeros(0)  # their columns, (G, window, columns)
        self.gram = torch.zeros(0)  # of columns or points, (G, m, m)
        self._largest_trace = torch.zeros(0)  # of it since it was computed whole, (G,)
        self._num_new = self._num_rounds = 0  # points since it was fitted, and how often some came
        self._solution = torch.zeros(0)  # (1, K, columns), or of own points (K, 1, columns)
        self._own = torch.zeros(0)  # A_j + B, (K, d, e)
        self._couplings = torch.zeros(0)  # all C_g, see `Pairs.wide`

    def add(self, points: Tensor, scores: Tensor) -> None:
        """Remember evaluated points, in place of the oldest ones.

        Args:
            points: Multi-indices int64 `(G, M, d)`: each function's own (G = K), or the same for
                all of them (G = 1).
            scores: `(K, M)`; what is not finite counts as the function's mean.
        """
        if not self.window:
            self._make_room(len(points), scores.dtype)
        if points.shape[1] > self.window:  # of each neuron's some
            some = torch.linspace(0, points.shape[1] - 1, self.window, device=points.device).long()
            points, scores = points[:, some], scores[:, some]
        columns = self._columns(self._embedded(points))
        if not self.num_seen:
            self._reference = columns.mean(1, keepdim=True)
        rows = columns - self._reference
        places = (self.num_seen + torch.arange(rows.shape[1], device=rows.device)) % self.window
        self._replace(places, rows)
        self.indices[:, places] = points
        self.scores[:, places] = scores.where(scores.isfinite(), torch.nan).to(self.scores)
        self.num_seen += rows.shape[1]
        self._num_new += rows.shape[1]
        self._num_rounds += 1

    def forget(self) -> None:
        """Forget all points: those to come may be each function's own, where they were not."""
        self.num_seen = self.num_fits = self.window = self._num_new = self._num_rounds = 0

    @property
    def bytes_of_own(self) -> int:
        """Memory that points of each function's own take."""
        return 4 * len(self.scores) * self.windows[0] * sum(self._widths)

    def fit(self) -> None:
        """Learn from the points remembered, if enough are new.

        That is any; or, if columns are many, a tenth, and of a full window not in two rounds
        running: in a pool of many neurons it costs most, and a round's points are many.
        """
        num = min(self.num_seen, self.window)
        renewed, rounds = 1.0, 1
        if not self._has_few_columns:
            renewed, rounds = max(1.0, _RENEWED * num), 2 if self.num_seen > self.window else 1
        if self.num_fits and (self._num_new < renewed or self._num_rounds < rounds):
            return
        self._solution = self._solve(num)
        own, *shared = self._solution.split(self._widths, 2)
        d, _, e = self.features.shape
        self._own = own.reshape(-1, d, e)
        if shared:
            self._own = self._own + shared[0].reshape(-1, 1, e)
            self._couplings = self.pairs.wide([part.reshape(-1, e, e) for part in shared[1:]])
        self.num_fits, self._num_new, self._num_rounds = self.num_fits + 1, 0, 0

    def slopes(self, points: Tensor) -> Tensor:
        """Return the derivative of f by the features of each symbol, `(K, b, d, e)`.

        `fit` must have been called.

        Args:
            points: Multi-indices of each function, int64 `(K, b, d)`.
        """
        slopes = self._own[:, None].repeat(1, points.shape[1], 1, 1)
        if self.pairs.groups:
            self.pairs.add_slopes(slopes, self._embedded(points), self._couplings)
        return slopes

    def has_own(self, num: int) -> bool:
        """Tell whether the last `num` points remembered are each function's own."""
        return len(self.points) == len(self.scores) and num <= min(self.num_seen, self.window)

    def latest(self, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the last points remembered of each function's own, no more than `num`.

        `fit` must have been called.

        Returns:
            Multi-indices int64 `(K, m, d)`; scores `(K, m)`, NaN for what was not finite; and f
            there `(K, m)`, but for a constant.
        """
        places = self._last(num)
        fitted = (self.points[:, places] @ self._solution.mT).squeeze(2)
        return self.indices[:, places], self.scores[:, places], fitted

    def _last(self, num: int) -> Tensor:
        """Return where the last points lie, no more than `num`, in the order they came."""
        first = self.num_seen - min(num, self.num_seen, self.window)
        return torch.arange(first, self.num_seen, device=self.points.device) % self.window

    def _replace(self, places: Tensor, rows: Tensor) -> None:
        if self._is_dual:
            self.points[:, places] = rows
            products = rows @ self.points.mT
            self.gram[:, places], self.gram[:, :, places] = products, products.mT
        else:
            old = self.points[:, places]  # zeros at first
            self.points[:, places] = rows
            # (r - o)' (r + o): beside r'r - o'o what it has in excess is antisymmetric.
            self.gram.baddbmm_((rows - old).mT, rows + old)
        self._largest_trace = self._trace().maximum(self._largest_trace)

    def _trace(self) -> Tensor:
        return self.gram.diagonal(dim1=1, dim2=2).sum(1)

    @property
    def _has_few_columns(self) -> bool:
        return sum(self._widths) <= _FEW

    @property
    def _is_dual(self) -> bool:
        return self.window < self.points.shape[2]

    def _make_room(self, num_groups: int, dtype: torch.dtype) -> None:
        num_neurons = len(self.scores)
        self.window = self.windows[num_groups < num_neurons]
        dtype = torch.promote_types(dtype, torch.float32)
        self.scores = self.scores.new_zeros(num_neurons, self.window, dtype=dtype)
        self.indices = self.indices.new_zeros(num_groups, self.window, len(self.features))
        self.points = self.features.new_zeros(num_groups, self.window, sum(self._widths))
        num = min(self.points.shape[1:])
        self.gram = self.features.new_zeros(num_groups, num, num)
        self._largest_trace = self._trace()

    def _refer_to_mean(self) -> None:
        """Count from the points' mean.

        They gather around elites, far from where they began: seen from there, differences between
        them would drown in rounding.
        """
        num = min(self.num_seen, self.window)
        mean = self.points[:, :num].mean(1, keepdim=True)
        self.points[:, :num] -= mean
        self._reference = self._reference + mean
        rows = self.points if self._is_dual else self.points.mT
        torch.bmm(rows, rows.mT, out=self.gram)
        self._largest_trace = self._trace()

    def _embedded(self, points: Tensor) -> Tensor:
        return self.features[torch.arange(len(self.features), device=points.device), points]

    def _columns(self, parts: Tensor) -> Tensor:
        """Return the columns `(G, M, columns)` of features `(G, M, d, e)`."""
        shared = [parts.sum(2), *self.pairs.products(parts)] if self.pairs.groups else []
        return torch.cat([parts.flatten(2), *shared], 2)

    def _solve(self, num: int) -> Tensor:
        # Twice, as what rounding leaves of a mean would be taken for a slope: points have one too.
        scores = self._targets(self.scores[:, :num])
        scores = scores - scores.nanmean(1, keepdim=True)
        scores = (scores - scores.nanmean(1, keepdim=True)).nan_to_num(0.0).to(self.points)
        targets = scores.T[None] if len(self.points) == 1 else scores[..., None]  # (G, M, K or 1)
        gram, penalty = self._centred_gram(num)
        gram.diagonal(dim1=1, dim2=2).add_(penalty[:, None])
        root = torch.linalg.cholesky(gram)
        rows = self.points[:, :num]
        if self._is_dual:
            return torch.cholesky_solve(targets, root).mT @ rows
        return torch.cholesky_solve((targets.mT @ rows).mT, root).mT

    def _targets(self, scores: Tensor) -> Tensor:
        if self.is_ranked:
            return normal_scores(scores).clamp_min(self.least)
        largest = scores.abs().nan_to_num(0.0).amax(1, keepdim=True)
        return scores / largest.clamp_min(torch.finfo(scores.dtype).tiny)  # sums stay finite

    def _centred_gram(self, num: int) -> tuple[Tensor, Tensor]:
        """Return the Gram matrix of distances from the points' mean, and the ridge."""
        gram = self._gram_about_mean(num)
        distance = gram.diagonal(dim1=1, dim2=2).sum(1) / num  # mean, squared
        if (_LOST * self._largest_trace > _TOLERATED * distance).any():
            self._refer_to_mean()
            gram = self._gram_about_mean(num)
            distance = gram.diagonal(dim1=1, dim2=2).sum(1) / num
        return gram, (self.ridge * distance).clamp_min(1e-6)

    def _gram_about_mean(self, num: int) -> Tensor:
        if self._is_dual:
            gram = self.gram[:, :num, :num]
            mean = gram.mean(1, keepdim=True)
            return gram - mean - mean.mT + mean.mean(2, keepdim=True)
        mean = self.points.sum(1, keepdim=True) / num  # those that are not there are zeros
        gram = torch.baddbmm(self.gram, mean.mT, mean, alpha=-num)
        return (gram + gram.mT).mul_(0.5)
