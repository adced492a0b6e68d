"""Mutation of multi-indices: a symbol's neighbour, a draw from the prior, or any symbol."""

import torch
from torch import Tensor

from spikelens.generators.base import LatentSpace

# How a symbol is drawn.
KEEP, NEIGHBOUR, PRIOR, UNIFORM = -1, 0, 1, 2


class Mutation:
    """Draw symbols anew, each in a way of its own.

    Args:
        space: Mode sizes, prior and neighbours of the latent.
        device: Where the multi-indices live.
    """

    def __init__(self, space: LatentSpace, device: torch.device) -> None:
        self.sizes = torch.tensor(space.mode_sizes, device=device)
        self._tables(space, device)

    def _tables(self, space: LatentSpace, device: torch.device) -> None:
        """Stack the distributions that symbols are drawn from: a row a kernel's, then the prior's.

        The row of a mode's symbol is `kernel_of_mode[mode] + symbol`, that of its prior
        `prior_of_mode[mode]`.
        """
        num_modes, largest = len(space.mode_sizes), max(space.mode_sizes)
        kernels: dict[int, Tensor] = {}
        which = []
        for mode in range(num_modes):
            kernel = space.neighbours(mode)
            kernels.setdefault(id(kernel), kernel)
            which.append(largest * list(kernels).index(id(kernel)))
        rows = torch.ones(largest * len(kernels) + num_modes, largest)
        for start, kernel in enumerate(kernels.values()):
            rows[largest * start : largest * start + len(kernel), : len(kernel)] = kernel.cumsum(1)
        for mode, prior in enumerate(space.prior):
            rows[largest * len(kernels) + mode, : len(prior)] = prior.cumsum(0)
        self.kernel_of_mode = torch.tensor(which, device=device)
        self.prior_of_mode = torch.arange(num_modes, device=device) + len(rows) - num_modes
        self.largest = largest
        # One sorted list of them all: the row's number, then the cumulated share in 2^-31.
        self.table = _place(torch.arange(len(rows))[:, None], rows).flatten().to(device)

    def __call__(self, indices: Tensor, kinds: Tensor, random: torch.Generator) -> Tensor:
        """Draw each symbol as its kind says.

        Args:
            indices: Multi-indices, int64 `(..., d)`.
            kinds: KEEP, NEIGHBOUR, PRIOR or UNIFORM, int64 `(..., d)`.
            random: On the device of the multi-indices.

        Returns:
            Multi-indices, int64 `(..., d)`.
        """
        # Every symbol is drawn anew and most are not kept: to look for the few that mutate would
        # make the host wait for the device.
        draws = torch.rand(indices.shape, generator=random, device=indices.device)
        rows = torch.where(
            kinds == NEIGHBOUR,
            self.kernel_of_mode + indices,
            self.prior_of_mode.expand_as(indices),
        )
        places = torch.searchsorted(self.table, _place(rows, draws), right=True)
        symbols = torch.where(
            kinds == UNIFORM, (draws * self.sizes).long(), places - rows * self.largest
        )
        return torch.where(kinds == KEEP, indices, symbols.minimum(self.sizes - 1))


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


def _place(rows: Tensor, shares: Tensor) -> Tensor:
    """Return integers that are ordered by row, then by share in [0, 1]."""
    return (rows << 32) + (shares * 2**31).long()
