"""How a symbol mutates: to a neighbour, to a draw from the prior, or to any symbol."""

from importlib import import_module

import torch
from torch import Tensor

from spikelens.generators.base import LatentSpace
from spikelens.kernels.scan import compiler_of

# What becomes of a symbol.
KEEP, NEIGHBOUR, PRIOR, UNIFORM = -1, 0, 1, 2


class Moves:
    """Distributions of a mutated symbol, and of the same ones tilted by a weight for each symbol.

    Args:
        space: Mode sizes, prior and neighbours of the latent.
        device: Where it computes.
    """

    def __init__(self, space: LatentSpace, device: torch.device | str = "cpu") -> None:
        sizes, largest = torch.tensor(space.mode_sizes), max(space.mode_sizes)
        is_symbol = torch.arange(largest) < sizes[:, None]  # (d, n)
        self.uniform = (is_symbol / sizes[:, None]).to(device)
        self.prior = torch.zeros(len(sizes), largest, device=device)
        for row, share in zip(self.prior, space.prior, strict=True):
            row[: len(share)] = share.detach()
        # Modes with the same kernel share one: (number of kernels, n, n), padded with zeros.
        kernels = [space.neighbours(mode) for mode in range(len(sizes))]
        distinct = list({id(kernel): kernel for kernel in kernels}.values())
        number = {id(kernel): place for place, kernel in enumerate(distinct)}
        self.kernel_of_mode = torch.tensor([number[id(k)] for k in kernels], device=device)
        self.kernels = torch.zeros(len(distinct), largest, largest, device=device)
        for place, kernel in enumerate(distinct):
            self.kernels[place, : len(kernel), : len(kernel)] = kernel.detach()

    def masses(self, tilts: Tensor, elites: Tensor) -> Tensor:
        """Return the sum of each kind's tilted distribution, and the tilt of the symbol kept.

        Args:
            tilts: Weight of each symbol, `(K, d, n)`, positive.
            elites: The symbols that would mutate, multi-indices int64 `(K, R, d)`.

        Returns:
            `(4, K, d, R)`: kept, neighbour, prior, uniform.
        """
        parents = elites.transpose(1, 2)  # (K, d, R)
        kept, near = tilts.gather(2, parents), self._near(tilts).gather(2, parents)
        others = [(tilts * shares).sum(2, keepdim=True) for shares in (self.prior, self.uniform)]
        return torch.stack([kept, near, *(mass.expand_as(kept) for mass in others)])

    def deviation(self, values: Tensor, points: Tensor) -> Tensor:
        """Return the standard deviation of symbols' values among a point's neighbours.

        Args:
            values: `(K, d, n)`.
            points: A multi-index of each neuron, int64 `(K, d)`.

        Returns:
            `(K,)`, the root of the mean variance over modes.
        """
        if compiler_of(values.device.type) == "numba":
            compiled = import_module("spikelens.kernels.moves_numba")
            of_mode = self.kernel_of_mode
            found: Tensor = compiled.deviation(values, points.contiguous(), self.kernels, of_mode)
            return found
        near = self.kernels[self.kernel_of_mode, points]  # (K, d, n)
        mean = (near * values).sum(2, keepdim=True)
        return (near * (values - mean).square()).sum(2).mean(1).sqrt()

    def _near(self, values: Tensor) -> Tensor:
        """Return the mean of values over each symbol's neighbours, `(K, d, n)`."""
        if len(self.kernels) == 1:
            return values @ self.kernels[0].T
        means = torch.empty_like(values)
        for number, kernel in enumerate(self.kernels):
            modes = self.kernel_of_mode == number
            means[:, modes] = values[:, modes] @ kernel.T
        return means

    def draw(
        self,
        kinds: Tensor,
        parents: Tensor,
        modes: Tensor,
        tilts: Tensor,
        by: Tensor,
    ) -> Tensor:
        """Draw mutated symbols from tilted distributions.

        Args:
            kinds: NEIGHBOUR, PRIOR or UNIFORM, int64 `(M,)`.
            parents: Symbols that mutate, int64 `(M,)`.
            modes: Their modes, int64 `(M,)`.
            tilts: Weight of each symbol there, `(M, n)`, positive.
            by: What decides, `(M,)`: numbers drawn from [0, 1 - 4 eps], as running sums are
                rounded.

        Returns:
            int64 `(M,)`.
        """
        shares = torch.where(
            (kinds == NEIGHBOUR)[:, None],
            self.kernels[self.kernel_of_mode[modes], parents],
            torch.where((kinds == PRIOR)[:, None], self.prior[modes], self.uniform[modes]),
        )
        sums = (shares * tilts).cumsum(1)
        drawn = (sums <= by[:, None] * sums[:, -1:]).sum(1)
        return drawn.clamp_max(sums.shape[1] - 1)

    def mutate(self, indices: Tensor, kinds: Tensor, random: torch.Generator) -> Tensor:
        """Draw each symbol as its kind says, none tilted.

        Args:
            indices: Multi-indices int64 `(K, b, d)`.
            kinds: KEEP, NEIGHBOUR, PRIOR or UNIFORM, int64 `(K, b, d)`.
            random: On the same device.

        Returns:
            Multi-indices int64 `(K, b, d)`.
        """
        # To look for those that mutate makes the host wait for the device; but they are few.
        places = (kinds != KEEP).nonzero(as_tuple=True)
        mutated = indices.clone()
        even = self.uniform.new_ones(1, 1)
        # Strictly below 1 even after rounding.
        by = torch.rand(len(places[0]), generator=random, device=even.device) * (1 - 2**-21)
        mutated[places] = self.draw(kinds[places], indices[places], places[2], even, by)
        return mutated


def draw_kinds(mix: Tensor, rates: Tensor, num_modes: int, random: torch.Generator) -> Tensor:
    """Choose which symbols mutate, and how.

    Args:
        mix: Shares of NEIGHBOUR, PRIOR and UNIFORM of each neuron, `(K, 3)`, not negative.
        rates: Probability that a symbol of a proposal mutates, `(K, b)`.
        num_modes: Length d of a multi-index.
        random: On the device of the shares.

    Returns:
        Kinds, int64 `(K, b, d)`, KEEP where nothing mutates.
    """
    shape = (*rates.shape, num_modes)
    kinds = torch.multinomial(mix, shape[1] * num_modes, replacement=True, generator=random)
    draws = torch.rand(shape, generator=random, device=mix.device)
    return kinds.view(shape).masked_fill(draws >= rates[..., None], KEEP)


def check_mix(mix: tuple[float, ...]) -> None:
    """Refuse shares of the three kinds that are no shares.

    Raises:
        ValueError: If they are not three, one is negative, or they do not sum to 1.
    """
    if len(mix) != 3 or min(mix) < 0.0 or abs(sum(mix) - 1.0) > 1e-6:
        raise ValueError(
            f"Argument `mix` must be three shares, not negative, that sum to 1, but got {mix}."
        )
