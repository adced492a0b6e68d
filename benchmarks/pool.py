"""Does it pay to show every neuron what was proposed for the others?

    python -m benchmarks.pool --ckpt weights/classifier_shapes.safetensors \
        --generator vqvae=weights/vqvae_shapes.safetensors

Neurons of a layer are searched at the same total number of images: each as if alone, in pools of
some of them, and all in one pool. Prints the mean activation, a row for each way, a column for each
budget of a neuron, averaged over seeds, with the standard error of the mean difference to
searching alone (over neurons, seeds averaged).
"""

import argparse
import sys
from functools import partial

import torch
from torch import Tensor

from benchmarks.ingredients import (
    Drawn,
    Trained,
    add_options,
    draw_neurons,
    load_generator,
    load_trained,
)
from spikelens.allocator import keep_freed_memory
from spikelens.am.activations import Recorder
from spikelens.am.archive import Archive
from spikelens.am.objective import Objective
from spikelens.am.optimizers.elite_tt import EliteTT
from spikelens.am.search import search
from spikelens.data.base import unit_range
from spikelens.generators.base import Generator


def found(
    trained: Trained,
    generator: Generator,
    drawn: Drawn,
    codes: Tensor,
    args: argparse.Namespace,
    setting: tuple[int, int, float],
) -> Tensor:
    """Search once; return the best activation of each neuron, `(K,)`.

    Args:
        trained: The network.
        generator: Draws the images.
        drawn: The K neurons.
        codes: Natural images of each neuron to start from, `(K, m, d)`.
        args: See `main`.
        setting: Images for each neuron; neurons in a pool, 1 for each alone; guidance of `EliteTT`.
    """
    budget, pool, guidance = setting
    optimizer = partial(EliteTT, batch=args.batch, guidance=guidance)
    best = []
    pools = torch.arange(len(drawn.neurons)).split(len(drawn.neurons) if pool == 1 else pool)
    for seed in range(args.seeds):
        parts = []
        for members in pools:
            neurons = [drawn.neurons[k] for k in members.tolist()]
            archive = Archive(len(neurons), codes.shape[2])
            with Recorder(trained.network, neurons) as recorder:
                objective = Objective(generator, recorder, precision="auto")
                objective.chunk = min(objective.chunk, len(neurons) * args.batch)
                searcher = optimizer(generator, archive, seed=seed)
                start = codes[members, : min(args.starts, budget)]
                result = search(objective, searcher, archive, budget, start, is_pooled=pool > 1)
            parts.append(result.activations)
        best.append(torch.cat(parts))
    return torch.stack(best).mean(0)


def main() -> None:
    """Search each way at each budget and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--generator", required=True, help="name=path")
    add_options(parser, neurons=32, natural=1000, below=0.8)
    parser.add_argument("--budgets", default="20,50,100,300,1000", help="images for each neuron")
    parser.add_argument("--pools", default="1,4,32", help="neurons in a pool; 1: each alone")
    parser.add_argument("--guidances", default="4,0", help="of the search; 0: no model")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--batch", type=int, default=10)
    args = parser.parse_args()
    name, _, path = args.generator.partition("=")
    generator = load_generator(name, path)
    trained = load_trained(args.ckpt, args.natural)
    drawn = draw_neurons(trained, generator, args.layers.split(","), args.neurons, args.below)
    chosen, places = drawn.ranking[:, : args.starts].unique(return_inverse=True)
    parts = trained.natural.images[chosen].split(50)
    codes = torch.cat([generator.encode(unit_range(part)) for part in parts])[places]
    budgets = [int(budget) for budget in args.budgets.split(",")]
    print(f"{len(drawn.neurons)} neurons, {args.seeds} seeds, natural {drawn.best.mean():.3f}\n")
    print("| guidance | neurons in a pool |" + "".join(f" {budget} |" for budget in budgets))
    print("|---|---|" + "---|" * len(budgets))
    for guidance in (float(number) for number in args.guidances.split(",")):
        alone: dict[int, Tensor] = {}
        for pool in (int(pool) for pool in args.pools.split(",")):
            cells = []
            for budget in budgets:
                value = found(trained, generator, drawn, codes, args, (budget, pool, guidance))
                gain = value - alone.setdefault(budget, value)
                error = float(gain.std() / len(gain) ** 0.5)
                cells.append(f"{value.mean():.3f} ({gain.mean():+.3f} ± {error:.3f})")
            print(f"| {guidance:g} | {pool} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
