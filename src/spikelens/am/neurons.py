"""Neurons by name: `conv2:7`, `conv2:0-15`, `fc1:*`, `conv1:3@centre`, `*:0-7`."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

READOUTS = ("mean", "centre", "max", "membrane")
_NAME = re.compile(r"(?P<layer>[\w.]+|\*):(?P<units>\*|\d+(-\d+)?)(@(?P<readout>\w+))?")


@dataclass(frozen=True)
class Neuron:
    """One unit of one layer, and how its activation is read.

    Attributes:
        layer: Dotted name of the spiking layer.
        unit: Channel or feature index.
        readout: `mean` spike rate over time and map; `centre` spike rate at the map's centre;
            `max` largest spike rate over the map; `membrane` mean membrane over time and map.
    """

    layer: str
    unit: int
    readout: str = "mean"

    @property
    def ceiling(self) -> float:
        """The largest activation there is: 1 for a spike rate, infinity for a membrane."""
        return math.inf if self.readout == "membrane" else 1.0

    def __str__(self) -> str:
        suffix = "" if self.readout == "mean" else f"@{self.readout}"
        return f"{self.layer}:{self.unit}{suffix}"


def parse_neurons(names: str | Iterable[str], num_units: Mapping[str, int]) -> list[Neuron]:
    """Turn names into neurons.

    Args:
        names: One name or several: `layer:unit`, `layer:first-last` (inclusive) or `layer:*`,
            each with an optional `@readout`. The layer `*` stands for every layer, and takes
            those of the units that the layer has.
        num_units: Units of each spiking layer the network has.

    Returns:
        The neurons in the order named, each once.

    Raises:
        ValueError: If a name has another form, or names a layer, unit or read-out that the
            network does not have.

    >>> [str(n) for n in parse_neurons("fc1:0-1@membrane", {"fc1": 8})]
    ['fc1:0@membrane', 'fc1:1@membrane']
    """
    found: dict[Neuron, None] = {}
    for name in [names] if isinstance(names, str) else names:
        found.update(dict.fromkeys(_parse(str(name).strip(), num_units)))
    if not found:
        raise ValueError("Argument `neurons` must name at least one neuron, but got an empty list.")
    return list(found)


def _parse(name: str, num_units: Mapping[str, int]) -> list[Neuron]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            "Argument `neurons` must hold names like conv2:7, conv2:0-15, fc1:* or "
            f"conv1:3@centre, but got {name!r}."
        )
    layer, readout = match["layer"], match["readout"] or "mean"
    if layer != "*" and layer not in num_units:
        listed = ", ".join(f"{known} (0-{units - 1})" for known, units in num_units.items())
        raise ValueError(
            f"Argument `neurons` must name a spiking layer of the network: {listed}; got {name!r}."
        )
    if readout not in READOUTS:
        raise ValueError(
            f"Argument `neurons` must read out {', '.join(READOUTS)}, but got {name!r}."
        )
    if layer != "*":
        units = _units(match["units"], name, num_units[layer])
        return [Neuron(layer, unit, readout) for unit in units]
    units = _units(match["units"], name, max(num_units.values()))
    return [
        Neuron(layer, unit, readout)
        for layer, count in num_units.items()
        for unit in units
        if unit < count
    ]


def _units(units: str, name: str, count: int) -> range:
    if units == "*":
        return range(count)
    first, _, last = units.partition("-")
    chosen = range(int(first), int(last or first) + 1)
    if not chosen or chosen[-1] >= count:
        raise ValueError(
            f"Argument `neurons` must name units from 0 to {count - 1} there, "
            f"first before last, but got {name!r}."
        )
    return chosen
