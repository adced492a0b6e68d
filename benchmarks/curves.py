"""Draw the training curves of a run from its TensorBoard log.

    python -m benchmarks.curves --runs logs/sngan_shapes/… --tags \
        'train/*_loss;fidelity/*sample/fid_spikelens;val/encoder_relative_mse' --out curves.png

Each pattern, as the shell knows them, is one panel; several runs are drawn one after another.
"""

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# Okabe and Ito's colours, which the colour-blind tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def scalars(run: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Read steps and values of each scalar of a run."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        series = events.Scalars(tag)
        found[tag] = [event.step for event in series], [event.value for event in series]
    return found


def draw(runs: Sequence[Path], patterns: Sequence[str], path: Path) -> None:
    """Draw a row of panels for each run."""
    size = 3.4 * len(patterns), 2.6 * len(runs)
    figure, rows = plt.subplots(len(runs), len(patterns), figsize=size, squeeze=False, dpi=110)
    for run, panels in zip(runs, rows, strict=True):
        known = scalars(run)
        for panel, pattern in zip(panels, patterns, strict=True):
            tags = sorted(tag for tag in known if fnmatch(tag, pattern))
            for tag, colour in zip(tags, _COLOURS, strict=False):
                panel.plot(*known[tag], color=colour, linewidth=1.2, label=tag)
            if tags:
                panel.legend(fontsize=6, frameon=False)
            panel.set_xlabel("optimizer step", fontsize=7)
            panel.set_title(run.name, fontsize=8)
            panel.tick_params(labelsize=6)
            panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", required=True, help="folders of runs, separated by commas")
    parser.add_argument("--tags", required=True, help="patterns, separated by semicolons")
    parser.add_argument("--out", type=Path, default=Path("outputs/curves.png"))
    args = parser.parse_args()
    draw([Path(run) for run in args.runs.split(",")], args.tags.split(";"), args.out)


if __name__ == "__main__":
    sys.exit(main())
