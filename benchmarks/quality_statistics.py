"""What is computed from runs: means, areas, intervals, wins; a part of benchmarks/quality.py.

A neuron's activations are divided by the best value that any method, seed and budget reached for
it through the same generator. Intervals are 95 % bootstrap intervals: neurons are drawn with
replacement, and for each of them seeds, drawn anew for each method.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality_runs import Run

Floats = NDArray[np.float64]
Cell = tuple[str, str, str]  # net, generator, layer
Interval = tuple[float, float]

FIRST = 10  # images from which areas count: what comes first is the start
_NUM_DRAWS = 2000
_TIE = 1e-6  # activations this near are equal


@dataclass(frozen=True)
class Summary:
    """One method in one cell at one budget, means over neurons and seeds.

    Attributes:
        cell: Net, generator, layer.
        method: The method.
        budget: Images a neuron.
        num_neurons: Neurons.
        num_seeds: Seeds.
        activation: Best activation.
        share: Best activation / the best value known for the neuron.
        share_interval: Of `share`.
        area: Area under the best-so-far curve of shares from `FIRST` images to the budget, over
            the logarithm of images, divided by its width.
        below_natural: Share of runs that are below the neuron's best natural image.
        seconds: Wall time a neuron, of the largest budget.
    """

    cell: Cell
    method: str
    budget: int
    num_neurons: int
    num_seeds: int
    activation: float
    share: float
    share_interval: Interval
    area: float
    below_natural: float
    seconds: float


class Grid:
    """All runs of one cell, by method, neuron and seed.

    Args:
        cell: Net, generator, layer.
        runs: Its runs.
    """

    def __init__(self, cell: Cell, runs: Sequence[Run]) -> None:
        self.cell = cell
        self.neurons = list(dict.fromkeys(run.neuron for run in runs))
        self.methods = list(dict.fromkeys(run.method for run in runs))
        known = dict.fromkeys(self.neurons, 0.0)
        for run in runs:
            known[run.neuron] = max(known[run.neuron], run.found)
        self.known = np.array(list(known.values()))  # (K,)
        natural = {run.neuron: run.natural for run in runs}
        self.natural = np.array([natural[neuron] for neuron in self.neurons])  # (K,)
        self._activations: dict[tuple[str, int], Floats] = {}
        self._runs = {(run.method, run.neuron, run.seed): run for run in runs}

    def runs(self, method: str) -> list[list[Run]]:
        """Return a method's runs, `(K, S)`."""
        seeds = sorted({seed for name, _, seed in self._runs if name == method})
        return [[self._runs[method, neuron, seed] for seed in seeds] for neuron in self.neurons]

    def activations(self, method: str, budget: int) -> Floats:
        """Return best activations with a budget, `(K, S)`."""
        if (method, budget) not in self._activations:
            self._activations[method, budget] = np.array(
                [[value_at(run, budget) for run in row] for row in self.runs(method)]
            )
        return self._activations[method, budget]

    def shares(self, method: str, budget: int) -> Floats:
        """Return best activations / the best known ones, `(K, S)`."""
        return normalised(self.activations(method, budget), self.known)


def grids_of(runs: Sequence[Run]) -> list[Grid]:
    """Sort runs into cells."""
    cells: dict[Cell, list[Run]] = {}
    for run in runs:
        cells.setdefault((run.net, run.generator, run.layer), []).append(run)
    return [Grid(cell, part) for cell, part in cells.items()]


def value_at(run: Run, budget: int) -> float:
    """Return the best activation among a run's first `budget` images."""
    return run.best[np.searchsorted(run.shown, budget, side="right") - 1]


def normalised(values: Floats, known: Floats) -> Floats:
    """Divide `(K, S)` by the best values known `(K,)`; where nothing is known all are as good."""
    return np.divide(values, known[:, None], out=np.ones_like(values), where=known[:, None] > 0)


def area(run: Run, budget: int, first: int = FIRST) -> float:
    """Return the mean of a best-so-far curve over the logarithm of images, first to budget.

    The curve is a step: after n images its value is the best of these n.
    """
    if budget <= first:
        return value_at(run, budget)
    steps = [count for count in run.shown if first < count < budget]
    edges = np.array([first, *steps, budget], dtype=float)
    heights = [value_at(run, int(edge)) for edge in edges[:-1]]
    return float(np.dot(heights, np.diff(np.log(edges))) / math.log(budget / first))


def resampled(values: Floats, random: np.random.Generator, neurons: NDArray[np.int64]) -> Floats:
    """Average seeds drawn with replacement, for neurons drawn already.

    Args:
        values: `(K, S)`.
        random: Draws the seeds.
        neurons: Places of the neurons, `(draws, K)`.

    Returns:
        `(draws, K)`.
    """
    seeds = random.integers(values.shape[1], size=(*neurons.shape, values.shape[1]))
    averages: Floats = values[neurons[..., None], seeds].mean(2)
    return averages


def interval(draws: Floats) -> Interval:
    """Return the 2.5 and 97.5 % points of bootstrap draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def mean_interval(values: Floats, seed: int = 0) -> Interval:
    """Return the bootstrap interval of the mean of `(K, S)`."""
    random = np.random.default_rng(seed)
    neurons = random.integers(len(values), size=(_NUM_DRAWS, len(values)))
    return interval(resampled(values, random, neurons).mean(1))


def wins(ours: Floats, theirs: Floats) -> Floats:
    """Return 1 where we are better, 1/2 where equal, 0 where worse; any shape."""
    gap = ours - theirs
    return np.where(np.abs(gap) <= _TIE, 0.5, (gap > 0).astype(float))


def win_rate(ours: Floats, theirs: Floats, seed: int = 0) -> tuple[float, Interval]:
    """Return the share of neurons at which our mean over seeds is better, and its interval.

    Args:
        ours: `(K, S)`.
        theirs: `(K, S')`, of the same neurons.
        seed: Of the bootstrap.
    """
    random = np.random.default_rng(seed)
    neurons = random.integers(len(ours), size=(_NUM_DRAWS, len(ours)))
    draws = wins(resampled(ours, random, neurons), resampled(theirs, random, neurons)).mean(1)
    return float(wins(ours.mean(1), theirs.mean(1)).mean()), interval(draws)


def summarise(grid: Grid, budgets: Sequence[int]) -> list[Summary]:
    """Return a summary of each method at each budget."""
    return [_summary(grid, method, budget) for method in grid.methods for budget in budgets]


def _summary(grid: Grid, method: str, budget: int) -> Summary:
    runs = grid.runs(method)
    values, shares = grid.activations(method, budget), grid.shares(method, budget)
    areas = np.array([[area(run, budget) for run in row] for row in runs])
    natural = np.array([[run.natural for run in row] for row in runs])
    return Summary(
        cell=grid.cell,
        method=method,
        budget=budget,
        num_neurons=len(runs),
        num_seeds=len(runs[0]),
        activation=float(values.mean()),
        share=float(shares.mean()),
        share_interval=mean_interval(shares),
        area=float(normalised(areas, grid.known).mean()),
        below_natural=float((values < natural).mean()),
        seconds=float(np.mean([[run.seconds for run in row] for row in runs])),
    )


def shortfall(
    summaries: Sequence[Summary], method: str, rivals: Sequence[str], budget: int
) -> tuple[float, str]:
    """Return by how much the best rival's mean share exceeds a method's in a cell, and its name.

    Negative where the method is ahead of all; NaN and no name without a rival.
    """
    shares = {s.method: s.share for s in summaries if s.budget == budget}
    others = {name: shares[name] for name in rivals if name in shares and name != method}
    if not others or method not in shares:
        return math.nan, ""
    best = max(others, key=others.__getitem__)
    return others[best] - shares[method], best
