"""Read-outs: from what a layer did over time to one number a neuron, and one that breaks ties."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from spikelens.am.neurons import window_of


class Course:
    """What some read-outs keep of a layer's spikes beyond their mean, told step by step.

    Args:
        readouts: Those of the layer; `latency` and windows of time such as `steps4-7` are kept.

    Attributes:
        num_steps: Time steps told so far.
        waited: Steps before the first spike, `(N, units, ...)`, as many as were told where there
            was none; None where latency is not read out.
        counts: Spikes in each window of time, `(N, units, ...)`, by read-out.
    """

    def __init__(self, readouts: Iterable[str]) -> None:
        asked = list(readouts)
        self._needs_latency = "latency" in asked
        windows = {readout: window_of(readout) for readout in asked}
        self._windows = {name: window for name, window in windows.items() if window is not None}
        self.is_needed = self._needs_latency or bool(self._windows)
        self.clear()

    def clear(self) -> None:
        """Forget what was told."""
        self.num_steps = 0
        self.waited: Tensor | None = None
        self._quiet: Tensor | None = None  # 1 as long as there was no spike
        self.counts: dict[str, Tensor] = {}

    def add(self, spikes: Tensor) -> None:
        """Take in the spikes `(N, units, ...)` of the next time step."""
        spikes = spikes.float()
        if self._needs_latency:
            quiet = 1.0 - spikes
            self._quiet = quiet if self._quiet is None else self._quiet * quiet
            self.waited = self._quiet if self.waited is None else self.waited + self._quiet
        for readout, window in self._windows.items():
            if self.num_steps in window:
                known = self.counts.get(readout)
                self.counts[readout] = spikes if known is None else known + spikes
        self.num_steps += 1


@dataclass(frozen=True)
class Record:
    """What a layer did.

    Attributes:
        rates: Mean spikes over time, float32 `(N, units, ...)`.
        membranes: Mean membrane over time, of that shape.
        num_steps: Time steps T.
        course: What else was kept, if a read-out needs it.
    """

    rates: Tensor
    membranes: Tensor
    num_steps: int
    course: Course


class Reading(NamedTuple):
    """What k neurons are read out as.

    Attributes:
        activations: `(N, k)`.
        levels: Membranes that tell equal activations apart, `(N, k)`.
        resolution: Activations are multiples of 1 / resolution; 0 where they may be any number.
    """

    activations: Tensor
    levels: Tensor
    resolution: int

    @property
    def scores(self) -> Tensor:
        """For ranking, `(N, k)`: equal activations in the order of their levels."""
        if not self.resolution:
            return self.activations
        return self.activations + tie_breaks(self.levels) / self.resolution


def tie_breaks(levels: Tensor) -> Tensor:
    """Squash membranes into (0, 0.5).

    A share of the step between activations that differ, added to them, it orders equal ones and
    never overturns unequal ones.
    """
    return (0.5 + levels.atan() / math.pi) * 0.5


def read(record: Record, readout: str, rows: Tensor) -> Reading:
    """Read k neurons of a layer out.

    Args:
        record: What the layer did.
        readout: See `spikelens.am.neurons.Neuron`.
        rows: Where the neurons' units are in the record, int64 `(k,)`. For `contrast` the record
            must be of all units.
    """
    if readout == "contrast":
        return _contrast(record, rows)
    membranes = _positions(record.membranes, rows)
    levels, num_steps = membranes.mean(2), record.num_steps
    if readout == "membrane":
        return Reading(levels, levels, 0)
    if readout == "latency":
        waited = record.course.waited
        assert waited is not None
        activations = 1.0 - _positions(waited, rows).amin(2) / num_steps
        return Reading(activations, levels, num_steps)
    window = window_of(readout)
    if window is not None:
        rates = _positions(record.course.counts[readout], rows) / len(window)
        return Reading(rates.mean(2), levels, len(window) * rates.shape[2])
    rates = _positions(record.rates, rows)
    if readout == "mean":
        return Reading(rates.mean(2), levels, num_steps * rates.shape[2])
    if readout == "max":
        return Reading(rates.amax(2), levels, num_steps)
    centre = _centre(record.rates.shape[2:])
    return Reading(rates[:, :, centre], membranes[:, :, centre], num_steps)


def _contrast(record: Record, rows: Tensor) -> Reading:
    """Subtract the mean of the other units, (sum - own) / (U - 1): (own - mean) U / (U - 1)."""
    num_units = record.rates.shape[1]
    maps = record.rates, record.membranes
    means = torch.stack([values.unsqueeze(2).flatten(2).mean(2) for values in maps])  # (2, N, U)
    own, mean = means.index_select(2, rows), means.mean(2, keepdim=True)
    rates, levels = (own - mean) * (num_units / (num_units - 1))
    num_positions = record.rates.shape[2:].numel()
    return Reading(rates, levels, record.num_steps * num_positions * (num_units - 1))


def _positions(values: Tensor, rows: Tensor) -> Tensor:
    """Pick units of `(N, units, ...)` and lay their map flat, `(N, k, positions)`."""
    picked = values.index_select(1, rows)
    return picked.unsqueeze(2) if picked.dim() == 2 else picked.flatten(2)


def _centre(sides: torch.Size) -> int:
    """Return the flat index of the middle of a map; 0 for a neuron without one."""
    place = 0
    for side in sides:
        place = place * side + side // 2
    return place
