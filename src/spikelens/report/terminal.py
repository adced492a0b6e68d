"""What the two programs say: their last lines, and one sentence for a user's mistake."""

import math
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.table import Table

from spikelens.am.probe import Probe
from spikelens.report.figures import layer_panel
from spikelens.report.tables import rows_table, write_rows
from spikelens.report.tensorboard import save_picture
from spikelens.tracking import rows_of

_USER_ERRORS = (ValueError, FileNotFoundError, ConnectionError, MisconfigurationException)

_SIGTERM_STATUS = 128 + 15

# Metrics that are too many to print.
_PER_NEURON = ("am_neurons/", "am_minimize_neurons/", "rate/", "silent/")


@contextmanager
def one_sentence_errors(folder: str | Path | None = None) -> Iterator[None]:
    """End the program with the message alone where the user's input is at fault.

    Hydra wraps what a constructor raises; the cause is what counts. With `HYDRA_FULL_ERROR=1` in
    the environment the traceback is shown. A run that SIGTERM ended says how to go on and exits
    with 143, as shells expect.

    Args:
        folder: Where the run keeps its `checkpoints`.
    """
    try:
        yield
    except SIGTERMException:
        last = Path(folder or ".") / "checkpoints" / "last.ckpt"
        go_on = f"To go on: the same command with ckpt_path={last}"
        print("Interrupted.", go_on if last.is_file() else "Nothing was saved.", file=sys.stderr)
        sys.exit(_SIGTERM_STATUS)
    except Exception as error:
        cause = error.__cause__ if error.__cause__ is not None else error
        mistakes = [one for one in (error, cause) if _is_mistake(one)]
        if not mistakes or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        # Lines after the first are where in the configuration, in omegaconf's own terms.
        lines = str(mistakes[0]).splitlines() or [type(mistakes[0]).__name__]
        sys.exit(f"Error: {lines[0]}")


def _is_mistake(error: BaseException) -> bool:
    # Configuration errors are known by where they come from: src/ does not import omegaconf.
    return isinstance(error, _USER_ERRORS) or type(error).__module__.startswith("omegaconf.")


def print_closing(metrics: Mapping[str, float], folder: str | Path) -> None:
    """Print the metrics that matter, where everything lies and how to look at it."""
    folder = Path(folder)
    for name in sorted(metrics):
        if not name.startswith(_PER_NEURON):
            print(f"  {name:<40} {metrics[name]:.4f}")
    panels = folder / "panels"
    pictures = [*panels.glob("filmstrip.png")] or sorted(panels.glob("*.png"))
    if pictures:
        print(f"Pictures and tables: {panels} (begin with {pictures[-1].name})")
    last = folder / "checkpoints" / "last.ckpt"
    if last.is_file():
        print(f"Use it: {_python()} {_use(metrics, shlex.quote(str(last)))}")
    logs = shlex.quote(str(folder))
    print(f"Curves and panels: {_python()} -m tensorboard.main --logdir {logs}")


def _use(metrics: Mapping[str, float], ckpt: str) -> str:
    """Return the command that a checkpoint is for; what it holds shows in what it logged."""
    for name, logged in (("vqvae", "val/relative_mse"), ("sngan", "val/encoder_relative_mse")):
        if logged in metrics:
            return f"train.py +am=enabled data=… generator={name} generator.path={ckpt}"
    if any(name.startswith("rate/") for name in metrics):
        return f"probe.py ckpt={ckpt}"
    measured = f"+panels@callbacks.fidelity=fidelity callbacks.fidelity.extractor={ckpt}"
    return f"train.py model=sngan data=… {measured}"


def _python() -> str:
    """Name this interpreter as it can be typed here: no environment has to be activated."""
    path = Path(sys.executable)
    is_near = path.is_relative_to(Path.cwd())
    return str(path.relative_to(Path.cwd()) if is_near else path)


def print_layers(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Print the shape `(units, ...)` of each spiking layer, and how to name its neurons."""
    table = Table("layer", "units", "map", "neurons", title="Spiking layers")
    for name, (units, *sides) in shapes.items():
        sides_text = " x ".join(map(str, sides)) or "-"
        table.add_row(name, str(units), sides_text, f"{name}:0-{units - 1}")
    Console().print(table)


def report_probe(probe: Probe, folder: str | Path) -> None:
    """Print a probe's table; write it and a panel for each layer into a folder."""
    folder, rows = Path(folder), rows_of(probe, epoch=-1)
    is_upward = probe.direction == "maximize"
    title = "What excites these neurons" if is_upward else "What excites these neurons least"
    Console().print(rows_table(rows, title))
    write_rows(rows, folder / "neurons")
    for layer in dict.fromkeys(neuron.layer for neuron in probe.neurons):
        save_picture(layer_panel(probe, layer), folder / f"{layer}.png")
    for row in rows:
        if math.isnan(row.activation):
            print(
                f"{row.neuron}: no stimulus #{row.stimulus + 1} found far enough from the others."
            )
    searches = [probe.search, *(finding.search for finding in probe.others)]
    shown = sum(int(search.presentations.sum()) for search in searches)
    stops = ", ".join(dict.fromkeys(search.stop.value for search in searches))
    print(f"{shown} images shown in {sum(s.seconds for s in searches):.1f} s ({stops}).")
    print(f"Pictures and tables: {folder}")
