"""Mutations that a model of scores guides; `spikelens.am.moves` has those without one."""

import torch
from torch import Tensor

from spikelens.am.moves import Moves, places_of

_NUM_CANDIDATES = 64  # symbols of a mode that are weighed at once
_LARGEST_GAIN = 30.0  # of a symbol's logarithm; its exponential stays far inside a float
# Weights that are computed at once: on a CPU they stay in a core's cache.
_CHUNK, _CHUNK_OF_GPU = 2**18, 2**24


class GuidedMoves:
    """Mutate each symbol with a probability that grows with what the model promises.

    A symbol s becomes x with probability proportional to `mu M(x | s) exp(g(x) - g(s))`, and stays
    with one proportional to 1 - mu, where M is the mixture of look-alikes and of all symbols, and g
    what the model promises there. Modes are drawn independently of each other.

    Of modes of more than 64 symbols each call weighs 64 that it draws for all parents, with the
    weight of all: what is found is the same (benchmarks/RESULTS.md), at an eighth of the cost for
    512 symbols. The distribution above is then that given the candidates.

    Args:
        moves: Distributions of a mutated symbol.
        near: Share of mutations to a look-alike, in [0, 1].
        features: What symbols stand for, `(d, n, e)`.
    """

    def __init__(self, moves: Moves, near: float, features: Tensor) -> None:
        self.features, self.kernel_of_mode = features, moves.kernel_of_mode
        self._modes = torch.arange(len(features), device=features.device)[:, None]
        numbers = moves.kernel_of_mode.tolist()
        modes = [numbers.index(number) for number in range(len(moves.kernels))]
        even = moves.uniform[modes][:, None]  # modes of one kernel are of one size
        self.mixture = near * moves.kernels + (1.0 - near) * even  # (kernels, n, n)
        self._sizes = (even > 0).sum(2)  # (kernels, 1)
        # Modes mostly share one kernel and one table of features.
        tables, table_of_mode = features.unique(dim=0, return_inverse=True)
        pairs = list(zip(numbers, table_of_mode.tolist(), strict=True))
        distinct = sorted(set(pairs))
        self._gains = torch.stack(  # (pairs, n, e, e)
            [_squared_steps(moves.kernels[kernel], tables[table]) for kernel, table in distinct]
        )
        places = [distinct.index(pair) for pair in pairs]
        self._gain_of_mode = torch.tensor(places, device=features.device)

    def typical_gain(self, slopes: Tensor, points: Tensor) -> Tensor:
        """Return what a mutation to a look-alike is promised, more or less than its parent.

        Args:
            slopes: What one unit of each feature promises, `(K, d, e)`.
            points: A multi-index of each neuron, int64 `(K, d)`.

        Returns:
            `(K,)`, the root mean square over modes and their symbol's look-alikes.
        """
        squares = self._gains[self._gain_of_mode, points]  # (K, d, e, e)
        gains = slopes[:, :, None] @ squares @ slopes[..., None]  # (K, d, 1, 1)
        return gains.flatten(1).mean(1).clamp_min(0.0).sqrt()

    @torch.no_grad()
    def mutate(
        self, parents: Tensor, slopes: Tensor, rate: float, random: torch.Generator
    ) -> Tensor:
        """Draw a child of each parent.

        Args:
            parents: Multi-indices int64 `(K, b, d)`.
            slopes: What one unit of each feature promises, `(K, b, d, e)`.
            rate: mu, in [0, 1].
            random: On the parents' device.

        Returns:
            Multi-indices int64 `(K, b, d)`.
        """
        k, b, d = parents.shape
        candidates, mixture = self._candidates(random)  # (kernels, c), (kernels, n, c)
        draws = torch.rand(2, d, k * b, generator=random, device=parents.device)
        draws *= 1 - 2**-21  # strictly below 1 even after rounding
        symbols = parents.permute(2, 0, 1).reshape(d, k * b).clone()
        slopes = slopes.permute(2, 0, 1, 3).reshape(d, k * b, -1)
        present = (slopes * self.features[self._modes, symbols]).sum(2, keepdim=True)
        features = self.features[self._modes, candidates[self.kernel_of_mode]].mT  # (d, e, c)
        chunk = _CHUNK if parents.device.type == "cpu" else _CHUNK_OF_GPU
        step = max(1, chunk // (k * b * candidates.shape[1]))
        for start in range(0, d, step):
            part = slice(start, min(start + step, d))
            kernels = self.kernel_of_mode[part, None]
            weights = torch.baddbmm(present[part], slopes[part], features[part], beta=-1)
            weights.clamp_(-_LARGEST_GAIN, _LARGEST_GAIN).exp_()
            weights *= mixture[kernels, symbols[part]]  # (m, K b, c)
            mass = rate * weights.sum(2)
            is_hit = draws[0, part] * (1.0 - rate + mass) < mass
            places = is_hit.nonzero(as_tuple=True)  # they are few
            drawn = places_of(weights[places], draws[1, part][places])
            symbols[part][places] = candidates[kernels[places[0], 0], drawn]
        return symbols.view(d, k, b).permute(1, 2, 0)

    def _candidates(self, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return symbols of the modes of each kernel, `(kernels, c)`, and their weights."""
        num, device = self.mixture.shape[1], self.mixture.device
        if num <= _NUM_CANDIDATES:
            return torch.arange(num, device=device).expand(len(self._sizes), num), self.mixture
        keys = torch.rand(len(self._sizes), num, generator=random, device=device)
        keys += torch.arange(num, device=device) >= self._sizes  # what is no symbol comes last
        candidates = keys.topk(_NUM_CANDIDATES, 1, largest=False).indices
        mixture = self.mixture.gather(2, candidates[:, None].expand(-1, num, -1))
        return candidates, mixture * (self._sizes / _NUM_CANDIDATES).clamp_min(1.0)[..., None]


def _squared_steps(kernel: Tensor, features: Tensor) -> Tensor:
    """Return the mean outer square of steps from features `(n, e)` under each row of a kernel.

    `sum_x kernel[s, x] (e_x - e_s) (e_x - e_s)^T`, as `(n, e, e)`.
    """
    squares = features[:, :, None] * features[:, None]  # (n, e, e)
    mean = kernel @ features
    crossed = mean[:, :, None] * features[:, None]
    total = (kernel @ squares.flatten(1)).view_as(squares)
    return total - crossed - crossed.mT + kernel.sum(1)[:, None, None] * squares
