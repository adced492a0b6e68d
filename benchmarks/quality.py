"""Compare searches on neurons of a trained network, each neuron searched as if it were alone.

    python -m benchmarks.quality --ckpt PATH --layers conv2 --neurons 16 --seeds 3

Neurons are drawn by seed among those that are neither silent nor saturated on natural images.
Every method gets the same budget and the same neurons. Random search shows one set of images to
all neurons, which for each of them is the same as a set of its own. Raw results go to --out as
Parquet, a table is printed in Markdown.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow
import pyarrow.parquet
import torch
from hydra.utils import instantiate
from torch import nn

from probe import rebuild
from spikelens.allocator import keep_freed_memory
from spikelens.am.activations import Recorder, layer_shapes
from spikelens.am.natural import NaturalImages, natural_images
from spikelens.am.neurons import Neuron, parse_neurons
from spikelens.am.objective import Objective
from spikelens.am.optimizers.base import Optimizer
from spikelens.am.optimizers.elite_tt import EliteTT
from spikelens.am.optimizers.protes import PRESETS, Protes
from spikelens.am.optimizers.random import RandomSearch
from spikelens.am.probe import SearchPlan, probe_neurons
from spikelens.checkpoints import read_checkpoint
from spikelens.generators.base import Generator
from spikelens.report.progress import SearchBar

# name: optimizer, number of natural images it starts from
METHODS: dict[str, tuple[Callable[..., Optimizer], int]] = {
    "elite_tt": (partial(EliteTT, batch=25), 15),
    "elite_tt, no natural start": (partial(EliteTT, batch=25), 0),
    **{f"protes {name}": (partial(Protes, preset=name), 0) for name in PRESETS},
    "random": (partial(RandomSearch, batch=25), 0),
}


def draw_neurons(
    network: nn.Module, generator: Generator, natural: NaturalImages, args: argparse.Namespace
) -> list[Neuron]:
    """Draw neurons whose best natural image evokes a rate above 0 and below `args.below`."""
    shapes = layer_shapes(network, generator.image_shape)
    names = [f"{layer}:*" for layer in args.layers.split(",")]
    known = parse_neurons(names, {name: shape[0] for name, shape in shapes.items()})
    with Recorder(network, known) as recorder:
        best = Objective(generator, recorder).of_images(natural.images).activations.amax(0)
    lively = [known[k] for k in ((best > 0) & (best < args.below)).nonzero().flatten().tolist()]
    order = torch.randperm(len(lively), generator=torch.Generator().manual_seed(0))
    return [lively[k] for k in sorted(order[: args.neurons].tolist())]


def main() -> None:
    """Run all methods on all seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--layers", default="conv2")
    parser.add_argument("--below", type=float, default=0.6, help="best natural rate: room above")
    parser.add_argument("--neurons", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--natural", type=int, default=1000)
    parser.add_argument("--methods", default=";".join(METHODS))
    parser.add_argument("--out", type=Path, default=Path("outputs/quality.parquet"))
    args = parser.parse_args()
    checkpoint = read_checkpoint(args.ckpt)
    network, data = rebuild(checkpoint)
    data.prepare_data()
    data.setup()
    generator, natural = (
        instantiate(checkpoint.config["generator"]),
        natural_images(data, args.natural),
    )
    neurons = draw_neurons(network, generator, natural, args)
    print("neurons:", ", ".join(map(str, neurons)))
    rows: list[dict[str, object]] = []
    for name in args.methods.split(";"):
        for seed in range(args.seeds):
            rows += run(name, seed, args.budget, (network, generator, neurons, natural))
            args.out.parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), args.out)
    print_table(rows)


def run(
    name: str,
    seed: int,
    budget: int,
    problem: tuple[nn.Module, Generator, list[Neuron], NaturalImages],
) -> list[dict[str, object]]:
    """Search every neuron by one method with one seed; returns a row a neuron."""
    optimizer, num_starts = METHODS[name]
    plan = SearchPlan(budget, num_starts=num_starts, seed=seed, is_pooled=False)
    if name == "random":
        plan = replace(plan, budget=-(-budget // len(problem[2])), is_pooled=True)
    with SearchBar(f"{name}, seed {seed}") as bar:
        probe = probe_neurons(*problem, optimizer, plan, progress=bar.show)
    mean, seconds = float(probe.activations.mean()), probe.search.seconds
    print(f"{name:<28} seed {seed}: {mean:.3f} in {seconds:.0f} s", flush=True)
    return [
        {
            "method": name,
            "seed": seed,
            "neuron": str(neuron),
            "activation": float(probe.activations[k]),
            "natural": float(probe.natural_activations[k]),
            "seconds": seconds,
            "presentations": int(
                probe.search.presentations.sum()
                if plan.is_pooled
                else probe.search.presentations[k]
            ),
        }
        for k, neuron in enumerate(probe.neurons)
    ]


def print_table(rows: list[dict[str, object]]) -> None:
    """Print means over neurons and seeds, and the share of each neuron's best known value."""
    table = {
        (row["method"], row["seed"], row["neuron"]): float(str(row["activation"])) for row in rows
    }
    best: dict[object, float] = {}
    for row in rows:
        value = max(float(str(row["activation"])), float(str(row["natural"])))
        best[row["neuron"]] = max(best.get(row["neuron"], 0.0), value)
    print("\n| search | mean activation | s.e. over seeds | share of best known | seconds |")
    print("|---|---|---|---|---|")
    for name in dict.fromkeys(row["method"] for row in rows):
        mine = [(key, value) for key, value in table.items() if key[0] == name]
        seeds = sorted({key[1] for key, _ in mine}, key=str)
        means = torch.tensor(
            [
                sum(v for key, v in mine if key[1] == seed) / (len(mine) / len(seeds))
                for seed in seeds
            ]
        )
        error = float(means.std() / len(seeds) ** 0.5) if len(seeds) > 1 else float("nan")
        share = sum(value / best[key[2]] for key, value in mine) / len(mine)
        seconds = sum(float(str(r["seconds"])) for r in rows if r["method"] == name) / len(mine)
        print(f"| {name} | {means.mean():.3f} | {error:.3f} | {share:.3f} | {seconds:.0f} |")


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
