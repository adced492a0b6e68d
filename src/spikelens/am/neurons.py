"""Neurons by name: `conv2:7`, `conv2:0-15@max`, `fc1:*`, `*:0-7`, `conv1:3-0.5*fc1:1`."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

READOUTS = ("mean", "centre", "max", "membrane", "latency", "contrast")
_READOUT = r"steps\d+-\d+|\w+"
_NAME = re.compile(rf"(?P<layer>[\w.]+|\*):(?P<units>\*|\d+(-\d+)?)(@(?P<readout>{_READOUT}))?")
_TERM = re.compile(
    r"\s*(?P<sign>[+-]?)\s*((?P<weight>\d+(\.\d+)?|\.\d+)\s*\*\s*)?"
    rf"(?P<name>[\w.]+:\d+(@({_READOUT}))?)\s*"
)


@dataclass(frozen=True)
class Neuron:
    """One unit of one layer, and how its activation is read.

    Attributes:
        layer: Dotted name of the spiking layer.
        unit: Channel or feature index.
        readout: `mean` spike rate over time and map; `centre` spike rate at the map's centre;
            `max` largest spike rate over the map; `membrane` mean membrane over time and map;
            `latency` 1 - t / T where the first spike anywhere in the map comes at step t of T,
            from 0, and 0 without a spike; `contrast` own mean rate less the mean of those of the
            layer's other units; `steps4-7` mean spike rate over the map and time steps 4 to 7.
    """

    layer: str
    unit: int
    readout: str = "mean"

    @property
    def ceiling(self) -> float:
        """The largest activation there is: infinity for a membrane, else 1."""
        return math.inf if self.readout == "membrane" else 1.0

    @property
    def floor(self) -> float:
        """The smallest activation there is: -infinity for a membrane, -1 for a contrast, else 0."""
        return {"membrane": -math.inf, "contrast": -1.0}.get(self.readout, 0.0)

    @property
    def is_rate(self) -> bool:
        """Whether activations are never negative, and 0 says that nothing spiked."""
        return self.floor >= 0.0

    def __str__(self) -> str:
        suffix = "" if self.readout == "mean" else f"@{self.readout}"
        return f"{self.layer}:{self.unit}{suffix}"


class Term(NamedTuple):
    """A neuron in a population, and its weight, not 0."""

    weight: float
    neuron: Neuron


@dataclass(frozen=True)
class Population(Neuron):
    """A weighted sum of neurons, looked at as if it were one: `0.5*conv2:3-2*fc1:1@membrane`.

    Attributes:
        layer: `population`, a label for panels and tables.
        unit: -1.
        readout: `sum`.
        terms: The weights and neurons summed, at least one.

    Raises:
        ValueError: If there is no term.
    """

    layer: str = field(default="population", init=False)
    unit: int = field(default=-1, init=False)
    readout: str = field(default="sum", init=False)
    terms: tuple[Term, ...] = ()

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("Argument `terms` must hold at least one neuron, but got none.")

    @property
    def ceiling(self) -> float:
        """The largest activation there is: the sum of positive weights where all are rates."""
        return sum(max(_range_of(term)) for term in self.terms)

    @property
    def floor(self) -> float:
        """The smallest activation there is: the sum of negative weights where all are rates."""
        return sum(min(_range_of(term)) for term in self.terms)

    def __str__(self) -> str:
        text = "".join(f"{'+-'[weight < 0]}{_factor(weight)}{one}" for weight, one in self.terms)
        return text.removeprefix("+")


def _range_of(term: Term) -> tuple[float, float]:
    return term.weight * term.neuron.ceiling, term.weight * term.neuron.floor


def _factor(weight: float) -> str:
    # A float's shortest decimal, and never its exponent, which a name does not take.
    return "" if abs(weight) == 1.0 else f"{Decimal(repr(abs(weight))).normalize():f}*"


def parse_neurons(
    names: str | Iterable[str],
    num_units: Mapping[str, int],
    num_steps: Mapping[str, int] | None = None,
) -> list[Neuron]:
    """Turn names into neurons.

    Args:
        names: One name or several: `layer:unit`, `layer:first-last` (inclusive) or `layer:*`,
            each with an optional `@readout`. The layer `*` stands for every layer, and takes
            those of the units that the layer has. Or a sum of single units, each with an optional
            weight before it: `0.5*conv2:3+0.5*conv2:7-fc1:1@latency`.
        num_units: Units of each spiking layer the network has.
        num_steps: Time steps of each; None to leave windows of time unchecked.

    Returns:
        The neurons in the order named, each once.

    Raises:
        ValueError: If a name has another form, or names a layer, unit, read-out or time step that
            the network does not have, or the contrast of an only unit.

    >>> [str(n) for n in parse_neurons("fc1:0-1@membrane", {"fc1": 8})]
    ['fc1:0@membrane', 'fc1:1@membrane']
    """
    found: dict[Neuron, None] = {}
    for name in [names] if isinstance(names, str) else names:
        chosen = _parse(str(name).strip(), num_units)
        for neuron in single_neurons(chosen):
            layer = neuron.layer
            check_readout(neuron.readout, layer, num_units[layer], (num_steps or {}).get(layer))
        found.update(dict.fromkeys(chosen))
    if not found:
        raise ValueError("Argument `neurons` must name at least one neuron, but got an empty list.")
    return list(found)


def single_neurons(neurons: Iterable[Neuron]) -> list[Neuron]:
    """Return the single neurons among `neurons` and in its populations, each once, in order."""
    parts = [
        [term.neuron for term in neuron.terms] if isinstance(neuron, Population) else [neuron]
        for neuron in neurons
    ]
    return list(dict.fromkeys(single for part in parts for single in part))


def window_of(readout: str) -> range | None:
    """Return the time steps that a read-out such as `steps4-7` averages over; None for others.

    >>> window_of("steps4-7")
    range(4, 8)
    """
    match = re.fullmatch(r"steps(\d+)-(\d+)", readout)
    return None if match is None else range(int(match[1]), int(match[2]) + 1)


def check_readout(readout: str, layer: str, num_units: int, num_steps: int | None) -> None:
    """Refuse what a layer cannot be asked for.

    Args:
        readout: See `Neuron`.
        layer: Name of the layer.
        num_units: Units it has.
        num_steps: Time steps it takes; None if that is not known yet.

    Raises:
        ValueError: If it is the contrast of an only unit, or time steps that are none, or that
            the layer does not take.
    """
    if readout == "contrast" and num_units == 1:
        raise ValueError(
            "Argument `neurons` must read out contrast where there are two units or more, but "
            f"{layer} has one."
        )
    window = window_of(readout)
    if window is not None and (not window or window[-1] >= (num_steps or math.inf)):
        known = "" if num_steps is None else f" from 0 to {num_steps - 1}"
        raise ValueError(
            f"Argument `neurons` must read out time steps{known} in {layer}, first before last, "
            f"but got {readout!r}."
        )


def _parse(name: str, num_units: Mapping[str, int]) -> list[Neuron]:
    match = _NAME.fullmatch(name)
    if match is None:
        return [_parse_sum(name, num_units)]
    layer, readout = match["layer"], _readout(match["readout"] or "mean", name)
    if layer != "*" and layer not in num_units:
        listed = ", ".join(f"{known} (0-{units - 1})" for known, units in num_units.items())
        raise ValueError(
            f"Argument `neurons` must name a spiking layer of the network: {listed}; got {name!r}."
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


def _parse_sum(name: str, num_units: Mapping[str, int]) -> Neuron:
    terms: list[Term] = []
    end = 0
    while end < len(name) or not terms:
        match = _TERM.match(name, end)
        weight = float(match["weight"] or 1) if match else 0.0
        if match is None or not weight or (terms and not match["sign"]):
            raise ValueError(
                "Argument `neurons` must hold names like conv2:7, conv2:0-15, fc1:*, "
                "conv1:3@centre, or sums of single units like conv2:3-0.5*fc1:1 with weights "
                f"other than 0, but got {name!r}."
            )
        (neuron,) = _parse(match["name"], num_units)
        terms.append(Term(-weight if match["sign"] == "-" else weight, neuron))
        end = match.end()
    is_single = len(terms) == 1 and terms[0].weight == 1.0
    return terms[0].neuron if is_single else Population(tuple(terms))


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


def _readout(readout: str, name: str) -> str:
    window = window_of(readout)
    if window is None and readout not in READOUTS:
        raise ValueError(
            f"Argument `neurons` must read out {', '.join(READOUTS)} or time steps like steps4-7, "
            f"but got {name!r}."
        )
    return readout if window is None else f"steps{window.start}-{window.stop - 1}"
