"""What the same neurons wanted to see, epoch after epoch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from spikelens.am.neurons import Neuron
from spikelens.am.probe import Probe


@dataclass(frozen=True)
class Row:
    """One stimulus of a neuron at one epoch, as it stands in the tables.

    Attributes:
        epoch: Epoch, from 0; -1 for a checkpoint probed by itself.
        layer: Layer name; `population` for a population.
        unit: Unit index; -1 for a population.
        neuron: The neuron's full name.
        activation: Activation of the optimal stimulus; in [0, 1] but for membranes, contrasts and
            populations.
        natural_activation: Activation of the best natural image; the least exciting one if
            `direction` is `minimize`.
        ratio: The former / the latter; NaN where the latter is not positive.
        preferred: Name of the class that excites the neuron most; empty for a silent one.
        class_selectivity: Class selectivity index in [0, 1]; NaN for a silent neuron, and where
            activations may be negative.
        auroc: Of the preferred class against the rest; NaN for a silent neuron.
        lifetime_sparseness: In [0, 1]; NaN where `class_selectivity` is.
        is_silent: Neither image nor stimulus made it spike; False where activations may be
            negative.
        presentations: Images shown on its behalf in the search for this stimulus.
        realism: Share of natural images that look no more natural to the generator than the
            stimulus, in [0, 1]; NaN where it cannot tell.
        direction: `maximize` or `minimize`.
        stimulus: Which of the neuron's stimuli, from 0, in the order found.
        standard_error: Of `activation` over repeats; 0 for a network that answers the same each
            time, NaN for a single repeat.
        distance: To the nearest of the neuron's stimuli found before; NaN for the first.
    """

    epoch: int
    layer: str
    unit: int
    neuron: str
    activation: float
    natural_activation: float
    ratio: float
    preferred: str
    class_selectivity: float
    auroc: float
    lifetime_sparseness: float
    is_silent: bool
    presentations: int
    realism: float = float("nan")  # this and what follows: unknown to runs of older versions
    direction: str = "maximize"
    stimulus: int = 0
    standard_error: float = float("nan")
    distance: float = float("nan")


def rows_of(probe: Probe, epoch: int) -> list[Row]:
    """Write a probe as one row a neuron and stimulus: the first of all neurons, the second, …."""
    rows = _first_rows(probe, epoch)
    for number, finding in enumerate(probe.others, 1):
        ratio, realism = probe.ratio_of(finding.activations), probe.other_realism[number - 1]
        rows += [
            replace(
                row,
                stimulus=number,
                activation=float(finding.activations[k]),
                standard_error=float(finding.standard_errors[k]),
                ratio=float(ratio[k]),
                realism=float(realism[k]),
                distance=float(finding.distances[k]),
                presentations=int(finding.search.presentations[k]),
            )
            for k, row in enumerate(rows[: len(probe.neurons)])
        ]
    return rows


def _first_rows(probe: Probe, epoch: int) -> list[Row]:
    ratio = probe.ratio
    chosen = probe.selectivity
    return [
        Row(
            epoch=epoch,
            layer=neuron.layer,
            unit=neuron.unit,
            neuron=str(neuron),
            activation=float(probe.activations[k]),
            natural_activation=float(probe.natural_activations[k]),
            ratio=float(ratio[k]),
            preferred=probe.classes[int(chosen.preferred[k])] if chosen.preferred[k] >= 0 else "",
            class_selectivity=float(chosen.class_selectivity[k]),
            auroc=float(chosen.auroc[k]),
            lifetime_sparseness=float(chosen.lifetime_sparseness[k]),
            is_silent=bool(probe.is_silent[k]),
            presentations=int(probe.search.presentations[k]),
            realism=float(probe.realism[k]),
            direction=probe.direction,
            standard_error=float(probe.standard_errors[k]),
        )
        for k, neuron in enumerate(probe.neurons)
    ]


class History:
    """The probes of one training run.

    Attributes:
        epochs: Epoch of each probe, ascending.
        stimuli: uint8 `(K, C, H, W)` of each probe; of several stimuli a neuron the first.
        start: What the last probe started from beside natural images, int64 `(K, m, d)`, so that
            it can be done again; None for the first probe.
        elites: Elites of the last probe, int64 `(K, R, d)`; None before the first.
        rows: One row a neuron, stimulus and probe, in order.
    """

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.stimuli: list[Tensor] = []
        self.start: Tensor | None = None
        self.elites: Tensor | None = None
        self.rows: list[Row] = []

    @property
    def names(self) -> list[str]:
        """Names of the K neurons."""
        return list(dict.fromkeys(row.neuron for row in self.rows))

    @property
    def activations(self) -> Tensor:
        """Activation of each neuron's first stimulus at each probe, `(epochs, K)`."""
        firsts = [row.activation for row in self.rows if row.stimulus == 0]
        return torch.tensor(firsts).view(len(self.epochs), -1)

    @property
    def direction(self) -> str:
        """Direction of the last probe, `maximize` or `minimize`."""
        return self.rows[-1].direction

    def append(self, probe: Probe, epoch: int, start: Tensor | None) -> list[Row]:
        """Add the probe of an epoch and what it started from; returns its rows."""
        rows = rows_of(probe, epoch)
        self.epochs.append(epoch)
        self.stimuli.append((probe.stimuli.nan_to_num() * 255).round().to(torch.uint8))
        self.start, self.elites = start, probe.elites
        self.rows += rows
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return lists, numbers and tensors only: loads with `weights_only=True`."""
        return {
            "epochs": list(self.epochs),
            "stimuli": list(self.stimuli),
            "start": self.start,
            "elites": self.elites,
            "rows": [asdict(row) for row in self.rows],
        }

    def load_state_dict(
        self, state: dict[str, Any], neurons: Sequence[Neuron], direction: str = "maximize"
    ) -> None:
        """Take over what `state_dict` returned.

        Args:
            state: The state.
            neurons: The neurons that will be probed from now on.
            direction: What will be searched from now on.

        Raises:
            ValueError: If the state is of other neurons, or of the other direction.
        """
        rows = [Row(**row) for row in state["rows"]]
        known = list(dict.fromkeys(row.neuron for row in rows))
        if known and known != [str(neuron) for neuron in neurons]:
            raise ValueError(
                "Argument `neurons` must be those of the run that is resumed "
                f"({known[0]} … {known[-1]}, {len(known)} in all), but got {len(neurons)} others."
            )
        if rows and rows[-1].direction != direction:
            raise ValueError(
                "Argument `direction` must be that of the run that is resumed "
                f"({rows[-1].direction}), but got {direction}."
            )
        self.rows, self.epochs = rows, list(state["epochs"])
        self.stimuli = list(state["stimuli"])
        self.start, self.elites = state["start"], state["elites"]
