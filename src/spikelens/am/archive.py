"""The best multi-indices seen so far, for every neuron, from a common pool."""

import torch
from torch import Tensor

from spikelens.am.activations import Response
from spikelens.arguments import require_integers


class Archive:
    """Keep each neuron's elites: its `capacity` best distinct multi-indices.

    Every evaluation is offered to every neuron, whoever proposed it.

    Args:
        num_neurons: Number of neurons K.
        num_modes: Length d of a multi-index.
        capacity: Elites R kept for each neuron, positive.
        device: Where the elites live.
        dtype: Type of scores and activations, floating.

    Attributes:
        indices: int64 `(K, R, d)`, best first.
        scores: `(K, R)`, descending; -inf where nothing is kept yet.
        activations: `(K, R)`, of the same elites.

    Raises:
        ValueError: If an argument is not positive.
    """

    def __init__(
        self,
        num_neurons: int,
        num_modes: int,
        capacity: int = 32,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        require_integers(1, num_neurons=num_neurons, num_modes=num_modes, capacity=capacity)
        self.indices = torch.zeros(
            num_neurons, capacity, num_modes, dtype=torch.int64, device=device
        )
        shape = num_neurons, capacity
        self.scores = torch.full(shape, -torch.inf, dtype=dtype, device=device)
        self.activations = torch.zeros(shape, dtype=dtype, device=device)
        # Multi-indices are compared by a random 64-bit linear hash (wrap-around arithmetic).
        random = torch.Generator().manual_seed(0)
        self._multipliers = torch.randint(
            -(2**62), 2**62, (num_modes,), generator=random, dtype=torch.int64
        ).to(device)
        self._hashes = self._hash(self.indices)

    @property
    def best(self) -> Tensor:
        """The best score of each neuron, `(K,)`."""
        return self.scores[:, 0]

    def add(self, indices: Tensor, response: Response) -> None:
        """Offer evaluated multi-indices to every neuron.

        Args:
            indices: int64 `(N, d)`.
            response: Activations and scores `(N, K)`; what is not finite is never kept.
        """
        indices, scores, activations = self._distinct(indices, response)  # (N, d), (K, N), (K, N)
        num_kept = self.scores.shape[1]
        hashes = torch.cat([self._hashes, self._hash(indices).expand(len(scores), -1)], 1)
        all_scores = torch.cat([self.scores, scores], 1)
        # At most as many as are kept come once more: what is kept is among twice as many.
        best, chosen = all_scores.topk(min(2 * num_kept, all_scores.shape[1]), 1)
        is_same = hashes.gather(1, chosen)[:, :, None] == self._hashes[:, None, :]
        is_known = (is_same & self.scores.isfinite()[:, None, :]).any(2) & (chosen >= num_kept)
        self.scores, places = best.masked_fill(is_known, -torch.inf).topk(num_kept, 1)
        chosen = chosen.gather(1, places)
        self.activations = torch.cat([self.activations, activations], 1).gather(1, chosen)
        self._hashes = hashes.gather(1, chosen)
        self.indices = self._gather(indices, chosen)

    def keep(self, is_kept: Tensor) -> None:
        """Forget the elites for which bool `(K, R)` is False."""
        scores = self.scores.where(is_kept, -torch.inf)
        self.scores, order = scores.sort(dim=1, descending=True, stable=True)
        activations = self.activations.where(is_kept, 0.0)
        self.activations = activations.gather(1, order)
        self._hashes = self._hashes.gather(1, order)
        self.indices = self.indices.gather(1, order[..., None].expand_as(self.indices))

    def _gather(self, candidates: Tensor, chosen: Tensor) -> Tensor:
        num_neurons, num_kept, num_modes = self.indices.shape
        own = torch.arange(num_neurons, device=chosen.device)[:, None] * num_kept
        rows = torch.where(chosen < num_kept, chosen + own, chosen + (num_neurons - 1) * num_kept)
        both = torch.cat([self.indices.view(-1, num_modes), candidates])  # (K R + N, d)
        return both.index_select(0, rows.flatten()).view(self.indices.shape)

    def _distinct(self, indices: Tensor, response: Response) -> tuple[Tensor, Tensor, Tensor]:
        """Merge equal multi-indices: each neuron keeps the best finite value of its own.

        As many as came are returned, those beyond the distinct ones without a finite value: to
        count the distinct ones would make the host wait for the device.
        """
        hashes, order = self._hash(indices).sort(stable=True)
        is_new = torch.ones_like(hashes, dtype=torch.bool)
        is_new[1:] = hashes[1:] != hashes[:-1]
        group = torch.empty_like(order).scatter_(0, order, is_new.cumsum(0) - 1)
        first = torch.zeros_like(order).scatter_(0, is_new.cumsum(0) - 1, order)
        # As it will be kept: what overflows in a narrower type is no longer finite.
        is_finite = response.scores.T.to(self.scores.dtype).isfinite()
        merged = []
        for values in response:  # one image evokes one response: the best is the only one
            best = self.scores.new_full((values.shape[1], len(order)), -torch.inf)
            finite = values.T.to(best.dtype).where(is_finite, -torch.inf)
            merged.append(best.scatter_reduce(1, group.expand(len(best), -1), finite, "amax"))
        activations, scores = merged
        return indices[first], scores, activations

    def _hash(self, indices: Tensor) -> Tensor:
        return (indices * self._multipliers).sum(-1)
