"""Mutations that a model of scores guides; `spikelens.am.moves` has those without one."""

import torch
from torch import Tensor

from spikelens.am.moves import Moves, places_of

_LARGEST_GAIN = 30.0  # of a symbol's logarithm; its exponential stays far inside a float
# Symbols that are weighed at once: on a CPU they stay in a core's cache.
_CHUNK, _CHUNK_OF_GPU = 2**18, 2**24


class GuidedMoves:
    """Mutate each symbol with a probability that grows with what the model promises.

    A symbol s becomes x with probability proportional to `mu M(x | s) exp(g(x) - g(s))`, and stays
    with one proportional to 1 - mu, where M is the mixture of look-alikes and of all symbols, and g
    what the model promises there. Modes are drawn independently of each other.

    Args:
        moves: Distributions of a mutated symbol.
        near: Share of mutations to a look-alike, in [0, 1].
        features: What symbols stand for, `(d, n, e)`.
    """

    def __init__(self, moves: Moves, near: float, features: Tensor) -> None:
        self.features, self.kernel_of_mode = features, moves.kernel_of_mode
        numbers = moves.kernel_of_mode.tolist()
        modes = [numbers.index(number) for number in range(len(moves.kernels))]
        even = moves.uniform[modes][:, None]  # modes of one kernel are of one size
        self.mixture = near * moves.kernels + (1.0 - near) * even  # (kernels, n, n)

    @torch.no_grad()
    def mutate(
        self, parents: Tensor, slopes: Tensor, rates: Tensor, random: torch.Generator
    ) -> Tensor:
        """Draw a child of each parent.

        Args:
            parents: Multi-indices int64 `(K, b, d)`.
            slopes: What one unit of each feature promises, `(K, b, d, e)`.
            rates: mu of each child, `(K, b)`, in [0, 1].
            random: On the parents' device.

        Returns:
            Multi-indices int64 `(K, b, d)`.
        """
        k, b, d = parents.shape
        draws = torch.rand(2, d, k * b, generator=random, device=parents.device)
        draws *= 1 - 2**-21  # strictly below 1 even after rounding
        symbols = parents.permute(2, 0, 1).reshape(d, k * b).clone()
        by_mode = slopes.permute(2, 0, 1, 3).reshape(d, k * b, -1)
        rate = rates.flatten()
        chunk = _CHUNK if parents.device.type == "cpu" else _CHUNK_OF_GPU
        step = max(1, chunk // (k * b * self.features.shape[1]))
        for start in range(0, d, step):
            part = slice(start, min(start + step, d))
            weights = self._weights(part, symbols[part], by_mode[part])  # (m, K b, n)
            mass = rate * weights.sum(2)
            is_hit = draws[0, part] * (1.0 - rate + mass) < mass
            places = is_hit.nonzero(as_tuple=True)  # they are few
            symbols[part][places] = places_of(weights[places], draws[1, part][places])
        return symbols.view(d, k, b).permute(1, 2, 0)

    def _weights(self, part: slice, symbols: Tensor, slopes: Tensor) -> Tensor:
        promises = slopes @ self.features[part].mT  # (m, K b, n)
        promises -= promises.gather(2, symbols[..., None])
        promises.clamp_(-_LARGEST_GAIN, _LARGEST_GAIN).exp_()
        return promises.mul_(self.mixture[self.kernel_of_mode[part, None], symbols])
