"""How a symbol mutates: to a neighbour, to a draw from the prior, or to any symbol."""

import torch
from torch import Tensor

from spikelens.generators.base import LatentSpace

# What becomes of a symbol.
KEEP, NEIGHBOUR, PRIOR, UNIFORM = -1, 0, 1, 2


class Moves:
    """Distributions of a mutated symbol.

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

    def mutate(self, indices: Tensor, kinds: Tensor, random: torch.Generator) -> Tensor:
        """Draw each symbol as its kind says.

        Args:
            indices: Multi-indices int64 `(K, b, d)`.
            kinds: KEEP, NEIGHBOUR, PRIOR or UNIFORM, int64 `(K, b, d)`.
            random: On the same device.

        Returns:
            Multi-indices int64 `(K, b, d)`.
        """
        # To look for those that mutate makes the host wait for the device; but they are few.
        places = (kinds != KEEP).nonzero(as_tuple=True)
        kind, modes = kinds[places][:, None], places[2]
        shares = torch.where(
            kind == NEIGHBOUR,
            self.kernels[self.kernel_of_mode[modes], indices[places]],
            torch.where(kind == PRIOR, self.prior[modes], self.uniform[modes]),
        )
        mutated = indices.clone()
        # Strictly below 1 even after rounding.
        by = torch.rand(len(modes), generator=random, device=shares.device) * (1 - 2**-21)
        mutated[places] = places_of(shares, by)
        return mutated


def places_of(masses: Tensor, draws: Tensor) -> Tensor:
    """Draw a place of each row.

    Args:
        masses: Not negative, `(M, n)`; rows need not sum to 1.
        draws: What decides, `(M,)`: numbers drawn from [0, 1 - 2^-21], as running sums are rounded.

    Returns:
        int64 `(M,)`: the first place whose running sum is above its share of the total.
    """
    sums = masses.cumsum(1)
    return (sums <= draws[:, None] * sums[:, -1:]).sum(1).clamp_max(masses.shape[1] - 1)


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
