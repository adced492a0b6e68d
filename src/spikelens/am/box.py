"""A plain latent: a box of integers that stand for nothing but themselves."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spikelens.arguments import require_integers, to_tensor
from spikelens.generators.base import even_kernel, sample_prior
from spikelens.generators.gaussian_grid import near_kernel

# Standard deviation of a neighbour's distance, as a share of an ordered mode's symbols: that of
# the grid under an SN-GAN.
_REACH = 1 / 16


class Box:
    """A latent space (see `LatentSpace`) for a function of integers that has no generator.

    Args:
        mode_sizes: Number of symbols n_j of each of the d modes, each at least 1.
        prior: For each mode how often each symbol is to be expected, `(n_j,)`, not negative, not
            all 0; it is scaled to sum 1. None for equally often.
        neighbours: For each mode which symbols are like the row's symbol, `(n_j, n_j)`, not
            negative, each row not all 0; rows are scaled to sum 1. None for all others.
        order: A path through the modes that passes related ones one after another: a permutation
            of 0 ... d - 1. None for the modes as they stand.
        is_ordered: Whether symbols are amounts, so that the nearest ones are neighbours.

    Raises:
        ValueError: If an argument is out of its range or does not fit the mode sizes.
    """

    def __init__(
        self,
        mode_sizes: Sequence[int],
        *,
        prior: Sequence[Any] | None = None,
        neighbours: Sequence[Any] | None = None,
        order: Sequence[int] | Tensor | None = None,
        is_ordered: bool = False,
    ) -> None:
        self.mode_sizes = _sizes(mode_sizes)
        self.is_ordered = is_ordered
        sizes = self.mode_sizes
        if neighbours is not None and is_ordered:
            raise ValueError(
                "Argument `neighbours` must be None where `is_ordered` already tells them."
            )
        self.prior = (
            _per_mode(sizes, lambda size: torch.full((size,), 1 / size))
            if prior is None
            else _given("prior", prior, [(size,) for size in sizes])
        )
        self.kernels = (
            _per_mode(sizes, _nearest if is_ordered else even_kernel)
            if neighbours is None
            else _given("neighbours", neighbours, [(size, size) for size in sizes])
        )
        self.order = _path(order, len(sizes))

    def neighbours(self, mode: int) -> Tensor:
        """Return `(n_j, n_j)`, rows sum to 1: which symbols are like the row's symbol."""
        return self.kernels[mode]

    def embed(self, indices: Tensor) -> Tensor:
        """Return the symbols `(..., d, 1)` of multi-indices, each mode's scaled to [0, 1].

        Where they are no amounts, one 0 or 1 a symbol, `(..., d, n)` with the largest size n.
        """
        if not self.is_ordered:
            return F.one_hot(indices, max(self.mode_sizes)).float()
        largest = torch.tensor(self.mode_sizes, device=indices.device) - 1
        return (indices / largest.clamp_min(1)).unsqueeze(-1)

    def sample(self, num_images: int, random: torch.Generator) -> Tensor:
        """Draw points int64 `(num_images, d)` from the prior."""
        return sample_prior(self.prior, num_images, random)


def _sizes(mode_sizes: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(map(_as_integer, mode_sizes))
    if not sizes:
        raise ValueError("Argument `mode_sizes` must hold at least one size, but is empty.")
    for mode, size in enumerate(sizes):
        require_integers(1, **{f"mode_sizes[{mode}]": size})
    return sizes


def _as_integer(size: Any) -> Any:
    """Return numpy's integers and tensors of one integer as such, all else as it is."""
    try:
        return size if isinstance(size, bool) else operator.index(size)
    except TypeError:
        return size


def _per_mode(sizes: tuple[int, ...], make: Callable[[int], Tensor]) -> list[Tensor]:
    """Make what a mode of each size has; modes of one size share the tensor."""
    made = {size: make(size) for size in set(sizes)}
    return [made[size] for size in sizes]


def _nearest(size: int) -> Tensor:
    return torch.ones(1, 1) if size == 1 else near_kernel(size, max(1.0, _REACH * size))


def _given(name: str, values: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Check weights of the caller, one tensor a mode, and scale their rows to sum 1."""
    values = list(values)  # rows of an array are made anew each time they are asked for
    if len(values) != len(shapes):
        raise ValueError(
            f"Argument `{name}` must hold one table for each of the {len(shapes)} modes, but got "
            f"{len(values)}."
        )
    scaled: dict[int, Tensor] = {}  # one table given for many modes stays one
    for mode, (value, shape) in enumerate(zip(values, shapes, strict=True)):
        table = to_tensor(value).detach().to("cpu", torch.float32)
        if tuple(table.shape) != shape:
            raise ValueError(
                f"Argument `{name}[{mode}]` must have the shape {shape}, but got "
                f"{tuple(table.shape)}."
            )
        total = table.sum(-1, keepdim=True)
        if not (table.min() >= 0 and total.min() > 0 and total.isfinite().all()):
            raise ValueError(
                f"Argument `{name}[{mode}]` must hold shares that are finite, not negative and "
                "not all 0 in a row."
            )
        scaled.setdefault(id(value), table / total)
    return [scaled[id(value)] for value in values]


def _path(order: Sequence[int] | Tensor | None, num_modes: int) -> Tensor:
    path = torch.arange(num_modes) if order is None else to_tensor(order)
    if sorted(path.tolist()) != list(range(num_modes)):
        raise ValueError(
            f"Argument `order` must hold each of 0 to {num_modes - 1} once, but got "
            f"{path.tolist()}."
        )
    return path.long()
