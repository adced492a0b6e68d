"""Maximize any function of integers: a search without networks or images."""

from collections.abc import Callable, Sequence
from functools import partial
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor

from spikelens.am.activations import Response
from spikelens.am.archive import Archive
from spikelens.am.box import Box
from spikelens.am.optimizers.base import Optimizer
from spikelens.am.optimizers.elite_tt import EliteTT
from spikelens.am.search import Progress, SearchResult, search
from spikelens.arguments import require_integers, to_tensor

# Of a rugged function the best points matter, not where the last ones lead; and of a simple one
# the worst tell as much as the best.
DEFAULT = partial(EliteTT, recent=None, least=-torch.inf)


def maximize(
    objective: Callable[[Tensor], Any],
    mode_sizes: Sequence[int],
    budget: int,
    *,
    num_functions: int = 1,
    optimizer: Callable[..., Optimizer] = DEFAULT,
    start: Any = None,
    prior: Sequence[Any] | None = None,
    neighbours: Sequence[Any] | None = None,
    order: Sequence[int] | Tensor | None = None,
    is_ordered: bool = False,
    batch: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SearchResult:
    """Search for the multi-index at which a function, or each of K functions, is largest.

    Example:
        >>> best = maximize(lambda x: -(x - torch.tensor([3, 1, 4])).abs().sum(1), [6, 6, 6], 200)
        >>> best.indices.tolist(), best.activations.tolist()
        ([[3, 1, 4]], [0.0])

    Args:
        objective: Multi-indices int64 `(N, d)` to values `(N,)`, or `(N, K)` of K functions; a
            tensor, an array or a list. What is not finite (an infeasible point, say) counts as
            never seen.
        mode_sizes: Number of symbols n_j of each of the d modes; mode j takes 0 ... n_j - 1.
        budget: Points evaluated on behalf of each function, at least 1: `K * budget` in all, and
            each function profits from all of them.
        num_functions: Number of functions K.
        optimizer: Builds an optimizer from a latent space, an archive and `seed`: a class of
            `spikelens.am.optimizers`, or a `functools.partial` of one. The default is `EliteTT`
            with elites of all times, whose model learns from the worst points too.
        start: Points to evaluate first, `(m, d)`; they count.
        prior: See `spikelens.am.box.Box`.
        neighbours: See `Box`.
        order: See `Box`.
        is_ordered: See `Box`.
        batch: Points proposed a round for each function; None for the optimizer's own, and for
            one that names them otherwise.
        seed: Seed of the search: the same seed gives the same result.
        progress: See `spikelens.am.search.search`.

    Returns:
        The best point of each function, `indices` `(K, d)`, and its values, `activations`
        float64 `(K,)`; -inf for a function of which no value was finite.

    Raises:
        ValueError: If an argument is out of its range, or values have another shape.
        RuntimeError: If the objective raises.
    """
    require_integers(1, budget=budget, num_functions=num_functions)
    require_integers(0, seed=seed)
    space = Box(mode_sizes, prior=prior, neighbours=neighbours, order=order, is_ordered=is_ordered)
    archive = Archive(num_functions, len(space.mode_sizes), dtype=torch.float64)
    if batch is not None:
        _check_takes_batch(optimizer, batch)
    settings = {} if batch is None else {"batch": batch}
    return search(
        lambda points: _evaluate(objective, points, num_functions),
        optimizer(space, archive, seed=seed, **settings),
        archive,
        budget,
        None if start is None else _deal(_points(start, space), space, num_functions, seed),
        ceiling=torch.inf,
        progress=progress,
    )


def _check_takes_batch(optimizer: Callable[..., Optimizer], batch: int) -> None:
    """Refuse an optimizer to which `batch` means nothing."""
    takes = signature(optimizer).parameters
    if "batch" in takes or Parameter.VAR_KEYWORD in {one.kind for one in takes.values()}:
        return
    name = getattr(getattr(optimizer, "func", optimizer), "__name__", str(optimizer))
    known = ", ".join(one for one in takes if one not in ("space", "archive", "seed"))
    advice = f", which takes {known}: give it these by `functools.partial`" if known else ""
    raise ValueError(
        f"Argument `batch` must be None for an optimizer that does not take it, but got {batch} "
        f"for {name}{advice}."
    )


def _evaluate(objective: Callable[[Tensor], Any], points: Tensor, num_functions: int) -> Response:
    try:
        # A copy: what the objective does to its argument must not reach the archive.
        values = to_tensor(objective(points.clone()))
    except Exception as error:
        raise RuntimeError(
            f"Argument `objective` must evaluate {tuple(points.shape)} multi-indices, but raised "
            f"{type(error).__name__}: {error}"
        ) from error
    wanted = len(points), num_functions
    if tuple(values.shape) != wanted and (num_functions > 1 or values.shape != wanted[:1]):
        raise ValueError(
            "Argument `objective` must return values of the shape (points, functions) = "
            f"{wanted}, but got {tuple(values.shape)}; argument `num_functions` says how many "
            "functions there are."
        )
    values = values.detach().to(points.device, torch.float64).view(wanted)
    return Response(values, values)


def _points(start: Any, space: Box) -> Tensor:
    """Check points of the caller, and return them as int64 `(m, d)`."""
    points = to_tensor(start)
    num_modes = len(space.mode_sizes)
    if points.ndim != 2 or points.shape[1] != num_modes or not len(points):
        raise ValueError(
            f"Argument `start` must have the shape (points, modes) = (m, {num_modes}) with at "
            f"least one point, but got {tuple(points.shape)}."
        )
    if points.is_floating_point() or points.dtype == torch.bool:
        raise ValueError(f"Argument `start` must hold integers, but got {points.dtype}.")
    is_outside = (points < 0) | (points >= torch.tensor(space.mode_sizes))
    if is_outside.any():
        row, mode = is_outside.nonzero()[0].tolist()
        raise ValueError(
            f"Argument `start` must lie in 0 to {space.mode_sizes[mode] - 1} at mode {mode}, but "
            f"point {row} has {int(points[row, mode])} there."
        )
    return points.long()


def _deal(points: Tensor, space: Box, num_functions: int, seed: int) -> Tensor:
    """Deal points `(m, d)` out to the functions in turn, `(K, ceil(m / K), d)`.

    All functions see all points, so that it does not matter whose they are. Where K does not
    divide m, the last round is filled up by draws from the prior.
    """
    missing = -len(points) % num_functions
    drawn = space.sample(missing, torch.Generator().manual_seed(seed)) if missing else points[:0]
    rounds = torch.cat([points, drawn]).view(-1, num_functions, points.shape[1])
    return rounds.transpose(0, 1)
