"""Tables of what probes found: on the terminal, as Parquet, as CSV."""

import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import pyarrow
import pyarrow.csv
import pyarrow.parquet
from rich import box
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from spikelens.tracking import Row

MEASURES = (
    *("activation", "ratio", "realism"),
    *("class_selectivity", "auroc", "lifetime_sparseness"),
)
_COLUMNS = (
    ("neuron", "neuron"),
    ("activation", "found"),
    ("standard_error", "error"),
    ("natural_activation", "natural"),
    ("ratio", "ratio"),
    ("realism", "realism"),
    ("preferred", "class"),
    ("class_selectivity", "CSI"),
    ("auroc", "AUROC"),
    ("lifetime_sparseness", "sparse"),
)


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write rows as `path` with the suffixes `.parquet` and `.csv`, one column a field of `Row`."""
    columns = {f.name: [getattr(row, f.name) for row in rows] for f in fields(Row)}
    table = pyarrow.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path.with_suffix(".parquet"))
    pyarrow.csv.write_csv(table, path.with_suffix(".csv"))


def rows_table(rows: Sequence[Row], title: str = "") -> Table:
    """Lay rows out for the terminal; a silent neuron says so instead of NaN.

    If any activation has a standard error, it stands beside it and sparseness is left out, so that
    the table fits 80 characters. From a neuron's second stimulus on its number follows the name.
    """
    left_out = "sparse" if any(row.standard_error > 0 for row in rows) else "error"
    columns = [column for column in _COLUMNS if column[1] != left_out]
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for _, heading in columns:
        side: JustifyMethod = "left" if heading == "neuron" else "right"
        table.add_column(heading, justify=side, overflow="fold")  # a long sum is told whole
    for row in rows:
        values = asdict(row)
        if row.stimulus:
            values["neuron"] += f"#{row.stimulus + 1}"
        # Class names are the user's: Text keeps rich from reading markup in them.
        cells = [Text(_cell(values[name])) for name, _ in columns]
        if row.is_silent:
            cells[columns.index(("preferred", "class"))] = Text("silent")
        table.add_row(*cells)
    return table


def layer_means(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Average rows over the neurons of each layer, each with its first stimulus.

    Args:
        rows: Of one epoch.

    Returns:
        For each layer, or layer and read-out such as `conv2@max`, the mean of each of `MEASURES`
        over the neurons that have one (NaN if none has), and `fraction_silent`. Populations are a
        layer of their own, `population`, or `population@membrane` where a membrane takes part.
    """
    rows = [row for row in rows if row.stimulus == 0]
    layers: dict[str, dict[str, float]] = {}
    for layer in dict.fromkeys(_group(row) for row in rows):
        chosen = [row for row in rows if _group(row) == layer]
        layers[layer] = {name: _mean([getattr(row, name) for row in chosen]) for name in MEASURES}
        layers[layer]["fraction_silent"] = sum(row.is_silent for row in chosen) / len(chosen)
    return layers


def _group(row: Row) -> str:
    """Return what a neuron is averaged with: rates and membranes do not mix."""
    if row.unit < 0:  # a population
        return f"{row.layer}@membrane" if "@membrane" in row.neuron else row.layer
    return row.neuron.replace(f":{row.unit}", "")


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3f}"
    return str(value) or "-"
