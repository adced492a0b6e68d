"""A linear model of scores in what symbols stand for: a train of rank 2, fitted as one goes."""

import torch
from torch import Tensor

from spikelens.generators.base import LatentSpace

_NUM_FEATURES = 8  # of a symbol: the first principal components of an embedding larger than
_LARGEST = 16  # this
_RENEWED = 0.05  # share of the points remembered that must be new before it is fitted anew


class AdditiveModel:
    """Ridge regression of K functions: `f(x) = c + sum_j <A_j, e(x_j)>`.

    The features `e` of a symbol are the first principal components of what it stands for, so that
    what is learned of one symbol holds for its look-alikes. The last `window` points count. The
    normal equations are those of the features, or, if the window is smaller, of the points: their
    dual, whose Gram matrix is kept up to date.

    Args:
        space: `embed` says what symbols stand for.
        num_neurons: Number of functions K.
        window: Points remembered of each function's own, positive.
        pool_window: Points remembered where they are the same for several functions, positive:
            one Gram matrix then serves all, and can be larger.
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
        window: int = 400,
        pool_window: int = 1000,
        ridge: float = 0.1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.windows, self.ridge = (window, pool_window), ridge
        self.features = symbol_features(space).to(device)  # (d, n, e)
        self.num_seen = self.window = 0
        self.scores = torch.zeros(num_neurons, 0, device=device)  # (K, window)
        self.points = torch.zeros(0)  # (G, window, d * e)
        self.gram = torch.zeros(0)  # (G, window, window)
        self._table: Tensor | None = None
        self._num_new = 0  # points since it was fitted

    def add(self, points: Tensor, scores: Tensor) -> None:
        """Remember evaluated points, in place of the oldest ones.

        Args:
            points: Multi-indices int64 `(G, M, d)`: each function's own (G = K), or the same for
                all of them (G = 1).
            scores: `(K, M)`; what is not finite counts as the function's mean.
        """
        if not self.window:
            self._make_room(len(points))
        points, scores = points[:, -self.window :], scores[:, -self.window :]
        modes = torch.arange(len(self.features), device=points.device)
        rows = self.features[modes, points].flatten(2)  # (G, M, d * e)
        places = (self.num_seen + torch.arange(rows.shape[1], device=rows.device)) % self.window
        self.points[:, places] = rows
        if self._is_dual:
            products = rows @ self.points.mT
            self.gram[:, places], self.gram[:, :, places] = products, products.mT
        scores = scores.float()
        self.scores[:, places] = scores.where(scores.isfinite(), torch.nan)
        self.num_seen += rows.shape[1]
        self._num_new += rows.shape[1]

    def _make_room(self, num_groups: int) -> None:
        d, _, e = self.features.shape
        num_neurons = len(self.scores)
        self.window = self.windows[num_groups < num_neurons]
        self.scores = self.scores.new_zeros(num_neurons, self.window)
        self.points = self.features.new_zeros(num_groups, self.window, d * e)
        if self._is_dual:
            self.gram = self.features.new_zeros(num_groups, self.window, self.window)

    def table(self) -> Tensor:
        """Return what each symbol adds to a score, `(K, d, n)`, contiguous.

        Up to a constant of each mode, and in units of the function's largest magnitude. A few new
        points do not change it: it is fitted anew when they are a twentieth of those remembered.
        """
        num = min(self.num_seen, self.window)
        if self._table is None or self._num_new >= _RENEWED * num:
            self._table, self._num_new = self._fitted(num), 0
        return self._table

    @property
    def _is_dual(self) -> bool:
        return self.window < self.points.shape[2]

    def _fitted(self, num: int) -> Tensor:
        scores = self.scores[:, :num]
        largest = scores.abs().nan_to_num(0.0).amax(1, keepdim=True)
        scores = scores / largest.clamp_min(torch.finfo(scores.dtype).tiny)  # sums stay finite
        scores = (scores - scores.nanmean(1, keepdim=True)).nan_to_num(0.0)  # (K, M)
        targets = scores.T[None] if len(self.points) == 1 else scores[..., None]  # (G, M, K or 1)
        rows = self.points[:, :num]
        rows = rows - rows.mean(1, keepdim=True)
        if self._is_dual:
            gram = self.gram[:, :num, :num]
            mean = gram.mean(1, keepdim=True)
            dual = self._solved(gram - mean - mean.mT + mean.mean(2, keepdim=True), targets, rows)
            slopes = dual.mT @ rows
        else:
            slopes = self._solved(rows.mT @ rows, rows.mT @ targets, rows).mT
        d, _, e = self.features.shape  # slopes are (1, K, d * e) or (K, 1, d * e)
        slopes = slopes.reshape(-1, d, e)
        # Contiguous, for those that read it symbol by symbol.
        return torch.einsum("kde,dne->kdn", slopes, self.features).contiguous()

    def _solved(self, gram: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        penalty = self.ridge * rows.square().sum(2).mean(1)
        gram.diagonal(dim1=1, dim2=2).add_(penalty.clamp_min(1e-6)[:, None])
        return torch.cholesky_solve(targets, torch.linalg.cholesky(gram))


def symbol_features(space: LatentSpace) -> Tensor:
    """Return the first principal components of what symbols stand for, `(d, n, e)`."""
    sizes = torch.tensor(space.mode_sizes)
    symbols = torch.arange(int(sizes.max()))[:, None].minimum(sizes - 1)  # (n, d)
    embedding = space.embed(symbols.to(space.prior[0].device)).detach().float()  # (n, d, e)
    embedding = embedding - embedding.mean(0)
    if embedding.shape[2] > _LARGEST:
        flat = embedding.flatten(0, 1)
        _, vectors = torch.linalg.eigh(flat.T @ flat)
        embedding = embedding @ vectors[:, -_NUM_FEATURES:]
    return embedding.transpose(0, 1).contiguous()
