"""Curves and win rates as PNG; a part of benchmarks/quality.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.quality_methods import CHAMPION, METHODS
from benchmarks.quality_statistics import FIRST, Grid, mean_interval, win_rate

matplotlib.use("Agg")
from matplotlib import pyplot

# Okabe & Ito's colours, which the colour-blind can tell apart; black is the champion's.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
_DASHES = ("-", "--", ":", "-.")
_MARKERS = "osD^vPX*"
_POINTS = 40  # of a curve
_SPREAD = 1.15  # ratio of images at which a budget's last and first interval are drawn
_WIDTH, _DPI = 8.0, 150


def draw_all(grids: Sequence[Grid], budgets: Sequence[int], folder: Path) -> list[Path]:
    """Draw curves of each cell, its ablations apart, and win rates over all cells.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for grid in grids:
        name = "_".join(grid.cell)
        parts = {
            "curves": [m for m in grid.methods if METHODS[m].role != "ablation"],
            "ablations": [m for m in grid.methods if METHODS[m].role in ("champion", "ablation")],
        }
        for part, methods in parts.items():
            if part == "curves" or len(methods) > 1:
                paths.append(folder / f"{part}_{name}.png")
                _save(_curves(grid, methods, budgets), paths[-1])
    if any(CHAMPION in grid.methods and len(grid.methods) > 1 for grid in grids):
        paths.append(folder / "win_rates.png")
        _save(_win_rates(grids, budgets), paths[-1])
    return paths


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=_DPI)
    pyplot.close(figure)


def _curves(grid: Grid, methods: Sequence[str], budgets: Sequence[int]) -> Any:
    """Draw mean shares over images shown; bars at the budgets are 95 % intervals."""
    figure, axes = pyplot.subplots(figsize=(_WIDTH + 2.5, 5.5), layout="constrained")
    evenly = np.geomspace(min(FIRST, *budgets), max(budgets), _POINTS).round().astype(int)
    counts = np.union1d(evenly, budgets)
    ordered = sorted(methods, key=lambda name: -grid.shares(name, max(budgets)).mean())
    for place, method in enumerate(ordered):
        style = _style(method, list(METHODS).index(method))
        means = [grid.shares(method, int(count)).mean() for count in counts]
        axes.plot(counts, means, label=method, **style)
        # Shifted a little, so that the bars of all methods can be seen.
        shift = _SPREAD ** ((place + 0.5) / len(ordered) - 0.5)
        intervals = [mean_interval(grid.shares(method, budget)) for budget in budgets]
        lows, highs = zip(*intervals, strict=True)
        places = [budget * shift for budget in budgets]
        axes.vlines(places, lows, highs, color=style["color"], linewidth=1.2, alpha=0.7)
    axes.set_xscale("log")
    ticks = [tick for tick in (10, 30) if tick < min(budgets)] + list(budgets)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("images shown for a neuron")
    axes.set_ylabel("best activation / best known")
    axes.set_title(f"{', '.join(grid.cell)}: {len(grid.neurons)} neurons", fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    return figure


def _style(method: str, place: int) -> dict[str, Any]:
    """Return colour, dashes and marker, the same for a method in all figures."""
    if method == CHAMPION:
        return {"color": "black", "linewidth": 2.6, "zorder": 5}
    return {
        "color": _COLOURS[place % len(_COLOURS)],
        "linestyle": _DASHES[place // len(_COLOURS) % len(_DASHES)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "markevery": (place % 5, 6),
        "markersize": 5,
        "linewidth": 1.4,
    }


def _win_rates(grids: Sequence[Grid], budgets: Sequence[int]) -> Any:
    """Draw how often the champion beats each method, neurons of all cells together."""
    methods = dict.fromkeys(m for grid in grids for m in grid.methods if CHAMPION in grid.methods)
    others = [name for name in methods if name != CHAMPION]
    figure, panels = pyplot.subplots(
        1,
        len(budgets),
        sharey=True,
        squeeze=False,
        figsize=(2.5 + 2.2 * len(budgets), 1.4 + 0.32 * len(others)),
        layout="constrained",
    )
    for axes, budget in zip(panels[0], budgets, strict=True):
        for place, method in enumerate(others):
            rate, (low, high) = _pooled_win_rate(grids, method, budget)
            axes.barh(place, 100 * rate, color="#56B4E9" if rate >= 0.5 else "#E69F00")
            axes.hlines(place, 100 * low, 100 * high, color="black", linewidth=1.4)
        axes.axvline(50, color="black", linewidth=0.8, linestyle="--")
        axes.set_xlim(-2, 102)
        axes.set_xticks([0, 50, 100])
        axes.set_title(f"{budget} images", fontsize=10)
    panels[0, 0].set_yticks(range(len(others)), others, fontsize=9)
    panels[0, 0].set_ylim(len(others) - 0.4, -0.6)  # the first method on top
    figure.supxlabel(f"% of neurons at which {CHAMPION} found more (ties half)", fontsize=10)
    return figure


def _pooled_win_rate(
    grids: Sequence[Grid], method: str, budget: int
) -> tuple[float, tuple[float, float]]:
    """Return the win rate over the neurons of all cells that both methods ran in."""
    both = [grid for grid in grids if {CHAMPION, method} <= set(grid.methods)]
    ours, theirs = (
        np.concatenate([grid.shares(name, budget)[:, :num] for grid in both])
        for name, num in (
            (CHAMPION, min(grid.shares(CHAMPION, budget).shape[1] for grid in both)),
            (method, min(grid.shares(method, budget).shape[1] for grid in both)),
        )
    )
    return win_rate(ours, theirs)
