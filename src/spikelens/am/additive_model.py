"""A linear model of scores in what symbols stand for: a train of rank 2, fitted as one goes."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from spikelens.generators.base import LatentSpace

_NUM_FEATURES = 512  # of a point, at most: so many for each symbol as that leaves
_MOST = 16  # of a symbol: its embedding's first principal components
_RENEWED = 0.1  # share of the points known that must be new before it is fitted anew


class AdditiveModel:
    """Ridge regression of K functions: `f(x) = c + sum_j <A_j, e(x_j)>`.

    The features `e` of a symbol are the first principal components of what it stands for, so that
    what is learned of one symbol holds for its look-alikes. What is kept of the points are the sums
    that the normal equations need, and old points fade from them.

    Args:
        space: `embed` says what symbols stand for.
        num_neurons: Number of functions K.
        window: Points after which one counts for 1 / e, of each function's own, positive.
        pool_window: The same where points are the same for all functions.
        ridge: Penalty in units of the mean squared distance of a point from the points' mean,
            positive.
        device: Where it computes.

    Source: Hoerl & Kennard, "Ridge regression", 1970.
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
        self.num_seen = 0
        self._new: list[tuple[Tensor, Tensor]] = []
        self._num_new = 0
        self._table: Tensor | None = None
        # Sums over points, of which each is features and a 1: (G, d * e + 1, d * e + 1) of their
        # products, (K, d * e + 1) of those with scores.
        self._products = self._targets = torch.zeros(0)
        self._largest = torch.zeros(num_neurons, 1, device=device)  # the scores' unit
        self._zero: Tensor | None = None  # a finite score of each function, (K, 1)

    def add(self, points: Tensor, scores: Tensor) -> None:
        """Take in evaluated points.

        Args:
            points: Multi-indices int64 `(G, M, d)`: each function's own (G = K), or the same for
                all of them (G = 1).
            scores: `(K, M)`; what is not finite counts as the function's mean.
        """
        self._new.append((points, self._from_zero(scores)))
        self._num_new += points.shape[1]
        self.num_seen += points.shape[1]

    def table(self) -> Tensor:
        """Return what each symbol adds to a score, `(K, d, n)`, contiguous.

        Up to a constant of each mode, and in units of the largest score, counted from the first
        one. A few new points do not change it: it is fitted anew when they are a tenth of those
        that count.
        """
        if self._table is None or self._num_new >= _RENEWED * min(self.num_seen, self._window):
            points, scores = (torch.cat(parts, 1) for parts in zip(*self._new, strict=True))
            self._new, self._num_new = [], 0
            self._absorb(points, scores)
            self._table = self._fitted()
        return self._table

    def _from_zero(self, scores: Tensor) -> Tensor:
        """Return scores less the first finite one: what all have in common costs no digits."""
        if self._zero is None:
            self._zero = scores.new_full((len(scores), 1), torch.nan)
        is_finite = scores.isfinite()
        first = scores.gather(1, is_finite.int().argmax(1, keepdim=True))
        first = first.where(is_finite.any(1, keepdim=True), torch.nan)
        self._zero = self._zero.where(self._zero.isfinite(), first)
        return (scores - self._zero).float()

    @property
    def _window(self) -> int:
        is_pooled = len(self._new[0][0]) < len(self._largest) if self._new else False
        return self.windows[is_pooled]

    def _absorb(self, points: Tensor, scores: Tensor) -> None:
        """Add points to the sums, in which older ones fade."""
        window = self.windows[len(points) < len(scores)]
        modes = torch.arange(len(self.features), device=points.device)
        rows = F.pad(self.features[modes, points].flatten(2), (0, 1), value=1.0)  # (G, M, d e + 1)
        num_points, size = rows.shape[1:]
        if not self._products.numel():
            self._products = rows.new_zeros(len(rows), size, size)
            self._targets = rows.new_zeros(len(scores), size)
        ages = torch.arange(num_points - 1, -1, -1, device=rows.device)
        shares = (-ages / window).exp()
        fading = math.exp(-num_points / window)
        scores = self._in_units(scores, shares, fading)
        self._products.baddbmm_(rows.mT, rows * shares[:, None], beta=fading)
        new = (scores * shares)[:, None] @ rows  # (K, 1, d e + 1)
        self._targets.mul_(fading).add_(new.squeeze(1))

    def _in_units(self, scores: Tensor, shares: Tensor, fading: float) -> Tensor:
        """Return finite scores in units of the largest one: their sums are finite too."""
        is_finite = scores.isfinite()
        scores = scores.where(is_finite, 0.0)
        largest = scores.abs().amax(1, keepdim=True).maximum(self._largest)
        largest = largest.clamp_min(torch.finfo(scores.dtype).tiny)
        self._targets *= self._largest / largest
        self._largest, scores = largest, scores / largest
        # The mean of all finite ones stands for the others.
        total = self._targets[:, -1] * fading + scores @ shares
        count = self._products[:, -1, -1] * fading + is_finite.float() @ shares
        return scores.where(is_finite, (total / count.clamp_min(1e-12))[:, None])

    def _fitted(self) -> Tensor:
        """Solve the normal equations, and return `table`."""
        count = self._products[:, -1, -1:]  # (G, 1)
        means = self._products[:, -1, :-1] / count  # (G, d e)
        gram = self._products[:, :-1, :-1] - count[..., None] * means[..., None] * means[:, None]
        diagonal = gram.diagonal(dim1=1, dim2=2)
        penalty = self.ridge * diagonal.sum(1, keepdim=True) / count
        diagonal.add_(penalty.clamp_min(1e-6))
        targets = self._targets[:, :-1] - self._targets[:, -1:] * means  # (K, d e)
        grouped = targets.T[None] if len(means) == 1 else targets[..., None]
        slopes = torch.cholesky_solve(grouped, torch.linalg.cholesky(gram)).mT
        slopes = slopes.reshape(-1, len(self.features), self.features.shape[2])
        return torch.einsum("kde,dne->kdn", slopes, self.features).contiguous()


def symbol_features(space: LatentSpace) -> Tensor:
    """Return the first principal components of what symbols stand for, `(d, n, e)`."""
    sizes = torch.tensor(space.mode_sizes)
    symbols = torch.arange(int(sizes.max()))[:, None].minimum(sizes - 1)  # (n, d)
    embedding = space.embed(symbols.to(space.prior[0].device)).float()  # (n, d, e)
    embedding = embedding - embedding.mean(0)
    most = min(_MOST, max(1, _NUM_FEATURES // len(sizes)))
    if embedding.shape[2] > most:
        flat = embedding.flatten(0, 1)
        _, vectors = torch.linalg.eigh(flat.T @ flat)
        embedding = embedding @ vectors[:, -most:]
    return embedding.transpose(0, 1).contiguous()
