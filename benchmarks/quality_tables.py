"""Markdown of what runs say, for RESULTS.md; a part of benchmarks/quality.py."""

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.quality_methods import CHAMPION, METHODS
from benchmarks.quality_statistics import (
    FIRST,
    Grid,
    Summary,
    normalised,
    shortfall,
    summarise,
    win_rate,
)

_RANKED = ("champion", "rival", "baseline")


def rivals_of(methods: Sequence[str]) -> list[str]:
    """Return those that the champion must not fall short of: no ablations, no reference."""
    return [name for name in methods if METHODS[name].role in ("rival", "baseline")]


def report_budget(budgets: Sequence[int]) -> int:
    """Return the budget at which methods are compared in one number: 3000, or the next smaller."""
    return max((budget for budget in budgets if budget <= 3000), default=min(budgets))


def markdown(grids: Sequence[Grid], budgets: Sequence[int], notes: Sequence[str]) -> str:
    """Lay out one table for all cells, one for each of them, and the notes."""
    summaries = {grid.cell: summarise(grid, budgets) for grid in grids}
    lines = [*_overview(grids, summaries, report_budget(budgets)), ""]
    for grid in grids:
        lines += [*_of_cell(grid, summaries[grid.cell], budgets), ""]
    return "\n".join([*lines, *_how_to_read(budgets), *notes, ""])


def _overview(
    grids: Sequence[Grid], summaries: dict[tuple[str, str, str], list[Summary]], budget: int
) -> Iterator[str]:
    """Yield the table over all cells, with each method's worst one."""
    yield f"### All cells, {budget} images a neuron\n"
    yield "| search | cells | share of best known | worst shortfall against a rival, where |"
    yield "|---|---|---|---|"
    for method in dict.fromkeys(name for grid in grids for name in grid.methods):
        cells = [grid for grid in grids if method in grid.methods]
        shares = np.mean([grid.shares(method, budget).mean() for grid in cells])
        gaps = [
            (
                *shortfall(summaries[grid.cell], method, rivals_of(grid.methods), budget),
                " ".join(grid.cell),
            )
            for grid in cells
        ]
        known = [gap for gap in gaps if gap[1]]
        worst = "-"
        if known and METHODS[method].role in _RANKED:
            gap, rival, cell = max(known)
            worst = f"{gap:+.3f} to {rival}, {cell}"
        yield f"| {method} | {len(cells)} | {shares:.3f} | {worst} |"


def _of_cell(grid: Grid, summaries: Sequence[Summary], budgets: Sequence[int]) -> Iterator[str]:
    at = report_budget(budgets)
    net, generator, layer = grid.cell
    share = normalised(grid.natural[:, None], grid.known).mean()
    yield (
        f"### {net}, {generator}, {layer}: {len(grid.neurons)} neurons\n\nThe best natural image, "
        f"as it is: activation {grid.natural.mean():.3f}, share {share:.3f}.\n"
    )
    heads = " | ".join(f"share at {budget}" for budget in budgets)
    yield (
        f"| search | start | seeds | {heads} | activation at {at} | area to {at} "
        f"| {CHAMPION} wins at {at} | below natural at {at} | s a neuron |"
    )
    yield "|---" * (8 + len(budgets)) + "|"
    for method in grid.methods:
        mine = {s.budget: s for s in summaries if s.method == method}
        shares = " | ".join(
            f"{mine[b].share:.3f} [{mine[b].share_interval[0]:.3f}, "
            f"{mine[b].share_interval[1]:.3f}]"
            for b in budgets
        )
        one = mine[at]
        yield (
            f"| {method} | {METHODS[method].start} | {one.num_seeds} | {shares} "
            f"| {one.activation:.3f} | {one.area:.3f} | {_wins(grid, method, at)} "
            f"| {100 * one.below_natural:.0f} % | {one.seconds:.2f} |"
        )


def _wins(grid: Grid, method: str, budget: int) -> str:
    if method == CHAMPION or CHAMPION not in grid.methods:
        return "-"
    rate, (low, high) = win_rate(grid.shares(CHAMPION, budget), grid.shares(method, budget))
    return f"{100 * rate:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def _how_to_read(budgets: Sequence[int]) -> Iterator[str]:
    yield (
        "Share: best activation so far / the best that any search here reached for the neuron "
        "through the same generator, shown again in float32. Brackets: 95 % bootstrap intervals, "
        "neurons drawn with replacement and seeds within them. Area: under the curve of shares "
        f"over the logarithm of images from {FIRST} on. Wins: share of neurons, seeds averaged, "
        "ties count half. Below natural: share of runs that found less than the best natural "
        "image evokes. Smaller budgets are read off runs of the largest one, "
        f"{max(budgets)}: a method that plans ahead, NGOpt say, planned for that. Each neuron is "
        "searched as if it were alone. Started searches look first at the same encoded natural "
        "images, which are the neuron's best of all natural ones: that choice took one look at "
        "each natural image and is not counted. Random search shows one set of images to all "
        "neurons of a layer. `gradient` sees through the network: a reference, no rival. The "
        "worst shortfall is to rivals and baselines, negative if ahead of them all."
    )
