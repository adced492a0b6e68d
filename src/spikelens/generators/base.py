"""The contract of a generator: a box of integers that decodes to images."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class LatentSpace(Protocol):
    """What a search may know of a discretised latent: d modes of n_j symbols.

    Attributes:
        mode_sizes: Number of symbols n_j of each of the d modes.
        order: A path through the modes, int64 `(d,)`: modes that are neighbours in the image are
            neighbours on the path.
        relations: Optional. Groups of pairs of modes that stand in the same relation, each int64
            `(m, 2)`: one right of the other in the image, say. Then what a symbol stands for must
            not depend on its mode: what is learned at one place is believed of all others.
        prior: For each mode how often each symbol occurs for natural images, `(n_j,)`, sum 1.
    """

    mode_sizes: tuple[int, ...]
    order: Tensor
    prior: Sequence[Tensor]

    def neighbours(self, mode: int) -> Tensor:
        """Return `(n_j, n_j)`, rows sum to 1: which symbols look like the row's symbol.

        Modes with the same kernel return the same tensor object.
        """

    def embed(self, indices: Tensor) -> Tensor:
        """Return what symbols stand for, float `(..., d, e)`, of multi-indices int64 `(..., d)`.

        Points of which many symbols stand for nearly the same are near each other.
        """

    def sample(self, num_images: int, random: torch.Generator) -> Tensor:
        """Draw points int64 `(num_images, d)` that look as natural as may be."""


class Generator(LatentSpace, Protocol):
    """A latent space whose points can be drawn.

    Attributes:
        image_shape: Shape `(C, H, W)` of the images it draws.
    """

    image_shape: tuple[int, int, int]

    def decode(self, indices: Tensor) -> Tensor:
        """Draw images float32 `(N, C, H, W)` in [0, 1] from multi-indices int64 `(N, d)`."""

    def encode(self, images: Tensor) -> Tensor:
        """Find multi-indices int64 `(N, d)` that draw images much like `(N, C, H, W)` in [0, 1].

        A generator that has no way to do so says it by an attribute `can_encode`, False.
        """

    def realism(self, images: Tensor) -> Tensor:
        """Score how much images `(N, C, H, W)` in [0, 1] are like those it learned from, `(N,)`.

        Larger is more natural; the scale is the generator's own, and NaN means that it cannot tell.
        """

    def to(self, device: Any) -> Any:
        """Move the generator to a device, as `nn.Module.to` does."""


class DifferentiableGenerator(Generator, Protocol):
    """A generator that draws between its points too, so that gradients come back through it.

    One that has these methods but cannot keep their promise says it by an attribute `can_draw`,
    False.
    """

    def draw(self, embedding: Tensor) -> Tensor:
        """Draw images `(N, C, H, W)` in [0, 1] from what symbols stand for, float `(N, d, e)`.

        `decode(indices)` draws the same as `draw(embed(indices))`.
        """

    def nearest(self, embedding: Tensor) -> Tensor:
        """Return the multi-indices int64 `(..., d)` that stand for about `(..., d, e)`.

        `nearest(embed(indices))` are the same indices.
        """


def even_kernel(num_symbols: int) -> Tensor:
    """Make every other symbol as near as any, `(n, n)`; rows sum to 1."""
    if num_symbols == 1:
        return torch.ones(1, 1)
    return torch.full((num_symbols, num_symbols), 1 / (num_symbols - 1)).fill_diagonal_(0.0)


def sample_prior(prior: Sequence[Tensor], num_images: int, random: torch.Generator) -> Tensor:
    """Draw the symbol of each mode from its prior, independently of the others.

    Args:
        prior: See `LatentSpace`.
        num_images: Number of points.
        random: On the device of the points.

    Returns:
        int64 `(num_images, d)`.
    """
    modes = [
        torch.multinomial(share.to(random.device), num_images, replacement=True, generator=random)
        for share in prior
    ]
    return torch.stack(modes, 1)


def check_fit(generator: Generator, image_shape: tuple[int, ...]) -> None:
    """Refuse a generator whose images a model cannot take.

    Args:
        generator: Draws images.
        image_shape: Shape `(C, H, W)` of the images the model takes.

    Raises:
        ValueError: If the shapes differ, or the generator lacks a part of the protocol.
    """
    parts = ("decode", "embed", "encode", "neighbours", "realism", "sample", "to")
    missing = [name for name in parts if not callable(getattr(generator, name, None))]
    if missing:
        raise ValueError(
            f"Argument `generator` must have the methods {', '.join(parts)}, but "
            f"{type(generator).__name__} lacks {', '.join(missing)}."
        )
    if tuple(generator.image_shape) != tuple(image_shape):
        raise ValueError(
            f"Argument `generator` must draw images like the data's, {tuple(image_shape)}, but "
            f"{type(generator).__name__} draws {tuple(generator.image_shape)} (channels, height, "
            "width)."
        )


def check_can_encode(generator: object) -> None:
    """Refuse a generator that cannot encode natural images.

    Args:
        generator: A search is to start from its encodings.

    Raises:
        ValueError: If its attribute `can_encode` is False.
    """
    if not getattr(generator, "can_encode", True):
        raise no_encoder(generator)


def check_can_draw(generator: object) -> None:
    """Refuse a generator through which no gradient comes back.

    Args:
        generator: A search is to follow its gradient; see `DifferentiableGenerator`.

    Raises:
        ValueError: If it lacks `draw` or `nearest`, or its attribute `can_draw` is False.
    """
    has_methods = all(callable(getattr(generator, name, None)) for name in ("draw", "nearest"))
    if not has_methods or not getattr(generator, "can_draw", True):
        raise ValueError(
            "Argument `optimizer` must not be gradient for this "
            f"{type(generator).__name__}, which cannot be differentiated (it needs the methods "
            "draw and nearest): say am/optimizer=elite_tt."
        )


def no_encoder(generator: object) -> ValueError:
    """Return what to raise where a generator that cannot encode is asked to."""
    return ValueError(
        f"Argument `num_starts` must be 0 for this {type(generator).__name__}, which cannot encode "
        "natural images: say am.search.num_starts=0 to train.py, num_starts=0 to probe.py."
    )


def check_points(generator: LatentSpace, points: Tensor | None) -> None:
    """Refuse multi-indices of another latent.

    Args:
        generator: The latent that is searched.
        points: Multi-indices `(..., d)`; None passes.

    Raises:
        ValueError: If their length or a symbol does not fit the generator's modes.
    """
    sizes = torch.tensor(generator.mode_sizes)
    if points is not None and (points.shape[-1] != len(sizes) or bool((points >= sizes).any())):
        raise ValueError(
            f"Argument `generator` must be that of the run before: its {len(sizes)} modes do not "
            "hold the points that run found."
        )
