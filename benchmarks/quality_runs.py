"""One search of one layer's neurons and what is kept of it; a part of benchmarks/quality.py."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import pyarrow
import pyarrow.parquet
import safetensors.torch
import torch
from torch import Tensor

from benchmarks.ingredients import Drawn, Trained
from benchmarks.quality_methods import Method, optimizer_of
from spikelens.am.activations import Recorder, Response
from spikelens.am.archive import Archive
from spikelens.am.objective import Objective
from spikelens.am.optimizers.base import Optimizer
from spikelens.am.search import Progress, search
from spikelens.data.base import unit_range
from spikelens.generators.base import Generator
from spikelens.precision import is_half

_NUM_ELITES = 32
_NUM_CHECKED = 4  # best images of a search in bfloat16 that are compared once more in float32
_ENCODED_AT_ONCE = 50


@dataclass(frozen=True)
class Run:
    """What one method found for one neuron with one seed.

    Attributes:
        net: Name of the network.
        generator: Name of the generator.
        layer: The neuron's layer.
        method: One of `quality_methods.METHODS`.
        seed: Of the search.
        neuron: The neuron's name.
        natural: Activation of the best natural image.
        found: Activation of the best image found with the largest budget, in float32.
        shown: Images shown when a better one than all before appeared, rising, from 1.
        best: Its activation, in the precision of the search, rising.
        seconds: Wall time a neuron; the neurons of a layer are searched side by side.
        device: Where, and in which precision.
    """

    net: str
    generator: str
    layer: str
    method: str
    seed: int
    neuron: str
    natural: float
    found: float
    shown: list[int]
    best: list[float]
    seconds: float
    device: str


class Ledger(Archive):
    """An archive that keeps what each neuron was shown, in order: curves exact to the image.

    Args are those of `Archive`.
    """

    def __init__(
        self, num_neurons: int, num_modes: int, capacity: int, device: torch.device
    ) -> None:
        super().__init__(num_neurons, num_modes, capacity, device)
        self._seen: list[Tensor] = []

    def add(self, indices: Tensor, response: Response) -> None:
        """Take in activations `(N, K)`; NaN is what a neuron was not shown."""
        self._seen.append(response.activations)
        super().add(indices, response)

    def curves(self) -> list[tuple[list[int], list[float]]]:
        """Return, for each neuron, how many images it had seen at each new best one, and that."""
        return [_rises(values[~values.isnan()]) for values in torch.cat(self._seen).T.cpu()]


def _rises(values: Tensor) -> tuple[list[int], list[float]]:
    best = values.cummax(0).values
    is_new = torch.ones_like(best, dtype=torch.bool)
    is_new[1:] = best[1:] > best[:-1]
    return (is_new.nonzero().flatten() + 1).tolist(), best[is_new].tolist()


class Encoded:
    """A generator and all natural images as its multi-indices.

    Args:
        name: The generator's name.
        generator: The generator, on its device.
        trained: Whose natural images.
        cache: File that the multi-indices are kept in, if any; its name tells what they depend on.
    """

    def __init__(
        self, name: str, generator: Generator, trained: Trained, cache: Path | None = None
    ) -> None:
        self.name, self.generator, self.trained, self.cache = name, generator, trained, cache
        self.device = next(trained.network.parameters()).device

    @cached_property
    def codes(self) -> Tensor:
        """Multi-indices int64 `(N, d)`; an SN-GAN takes its time."""
        if self.cache is not None and self.cache.is_file():
            return safetensors.torch.load_file(self.cache)["codes"].to(self.device)
        parts = self.trained.natural.images.split(_ENCODED_AT_ONCE)
        codes = torch.cat(
            [self.generator.encode(unit_range(part).to(self.device)) for part in parts]
        )
        if self.cache is not None:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self.cache.with_suffix(f".{os.getpid()}")
            safetensors.torch.save_file({"codes": codes.cpu().contiguous()}, unfinished)
            unfinished.replace(self.cache)
        return codes


@dataclass(frozen=True)
class Plan:
    """How neurons are searched.

    Attributes:
        budget: Images for each neuron, positive.
        num_starts: Natural images that started searches look at first; they count.
        precision: Of the search, see `spikelens.precision`.
    """

    budget: int
    num_starts: int
    precision: str

    def budget_of(self, method: Method, num_natural: int, num_neurons: int) -> int:
        """Return the budget to ask `search` for."""
        if not method.is_search:
            return min(self.budget, num_natural)
        return -(-self.budget // num_neurons) if method.is_pooled else self.budget


def perform(
    method: Method, seed: int, encoded: Encoded, drawn: Drawn, plan: Plan, progress: Progress
) -> list[tuple[float, list[int], list[float], float]]:
    """Search all neurons, each as if it were alone.

    Returns:
        For each neuron what `Run` calls found, shown, best and seconds.
    """
    generator, device = encoded.generator, encoded.device
    num_neurons, num_natural = drawn.ranking.shape
    num_starts = plan.num_starts if method.is_search else num_natural
    budget = plan.budget_of(method, num_natural, num_neurons)
    build: Callable[..., Optimizer] = optimizer_of(method, plan.budget)
    ledger = Ledger(num_neurons, len(generator.mode_sizes), _NUM_ELITES, device)
    optimizer = build(generator, ledger, seed=seed)
    start = None
    if method.is_started:
        start = encoded.codes[drawn.ranking[:, : min(num_starts, budget)].to(device)]
    with Recorder(encoded.trained.network, drawn.neurons) as recorder:
        objective = Objective(generator, recorder, precision=plan.precision)
        # Few neurons propose few images a round: a chunk is not filled up beyond that.
        objective.chunk = min(objective.chunk, num_neurons * optimizer.batch)
        began = time.perf_counter()
        search(
            objective,
            optimizer,
            ledger,
            budget,
            start=start,
            is_pooled=method.is_pooled,
            progress=progress,
        )
        seconds = (time.perf_counter() - began) / num_neurons
        curves = [_until(plan.budget, *curve) for curve in ledger.curves()]
        found = [best[-1] for _, best in curves]
        if is_half(plan.precision, device):
            objective.precision = "float32"
            found = _again(objective, ledger).tolist()
    return [(found[k], *curves[k], seconds) for k in range(num_neurons)]


def _again(objective: Objective, ledger: Ledger) -> Tensor:
    """Show each neuron's best few once more and return the best activation, `(K,)`."""
    elites = ledger.indices[:, :_NUM_CHECKED]
    shown = objective(elites.flatten(0, 1)).activations.unflatten(0, elites.shape[:2])
    own = shown.diagonal(dim1=0, dim2=2).T  # (K, checked)
    is_known = ledger.scores[:, :_NUM_CHECKED].isfinite()
    return own.where(is_known, -torch.inf).amax(1).cpu()


def _until(budget: int, shown: list[int], best: list[float]) -> tuple[list[int], list[float]]:
    """Drop what lies beyond the budget: pooled rounds may overshoot it."""
    num = sum(count <= budget for count in shown)
    return shown[:num], best[:num]


def write_part(runs: Sequence[Run], path: Path) -> None:
    """Write runs as Parquet; a file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {f.name: [asdict(run)[f.name] for run in runs] for f in fields(Run)}
    unfinished = path.with_suffix(".unfinished")
    pyarrow.parquet.write_table(pyarrow.table(columns), unfinished)
    unfinished.replace(path)


def read_part(path: Path) -> list[Run]:
    """Read what `write_part` wrote."""
    return [Run(**row) for row in pyarrow.parquet.read_table(path).to_pylist()]
