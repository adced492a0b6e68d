"""Probe the same neurons through several generators, side by side.

    python -m benchmarks.generators --ckpt CLASSIFIER \
        --generators vqvae=weights/vqvae_cifar10.safetensors,sngan=weights/sngan_cifar10.safetensors

Prints, for each generator, the mean activation of the optimal stimuli, their ratio to the best
natural image, and how natural they look to each of the generators (share of the natural images that
look no more natural); draws the stimuli of each neuron beside its best natural images to --out.
Then what is lost when natural images are encoded: relative mean squared error of the images drawn
from their codes.
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.ingredients import add_options, draw_neurons, load_generator, load_trained
from spikelens.allocator import keep_freed_memory
from spikelens.am.natural import NaturalImages
from spikelens.am.optimizers.elite_tt import EliteTT
from spikelens.am.probe import Probe, SearchPlan, probe_neurons
from spikelens.data.base import unit_range
from spikelens.generators.base import Generator
from spikelens.report.figures import image_grid
from spikelens.report.progress import SearchBar
from spikelens.report.tensorboard import save_picture


def load(names: str) -> dict[str, Generator]:
    """Load `name=path,name=path`; `cosines` needs no path."""
    generators: dict[str, Generator] = {}
    for one in names.split(","):
        name, _, path = one.partition("=")
        generators[name] = load_generator(name, path)
    return generators


def realism(judge: Generator, images: torch.Tensor, natural: torch.Tensor) -> float:
    """Return the mean share of natural images that look no more natural to a judge, or NaN."""
    scores = judge.realism(images)
    if scores.isnan().any():
        return float("nan")
    return float((judge.realism(natural) <= scores[:, None]).float().mean())


def encoding_loss(generator: Generator, images: torch.Tensor) -> float:
    """Return the relative mean squared error of images drawn from their encodings."""
    error = (generator.decode(generator.encode(images)) - images).square().mean()
    return float(error / images.var(dim=(0, 2, 3)).mean())


def main() -> None:
    """Probe, draw, print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--generators", required=True)
    add_options(parser, neurons=8, natural=500, below=0.6)
    parser.add_argument("--budget", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("outputs/generators.png"))
    args = parser.parse_args()
    if args.out.suffix != ".png":
        parser.error(f"--out must be a .png file, but got {args.out}")
    trained, generators = load_trained(args.ckpt, args.natural), load(args.generators)
    network, natural = trained.network, trained.natural
    first, layers = next(iter(generators.values())), args.layers.split(",")
    neurons = draw_neurons(trained, first, layers, args.neurons, args.below).neurons
    probes = {}
    for name, generator in generators.items():
        with SearchBar(name) as bar:
            plan = SearchPlan(args.budget)
            probes[name] = probe_neurons(
                network, generator, neurons, natural, EliteTT, plan, progress=bar.show
            )
    print_tables(probes, generators, natural)
    rows = []
    for k, neuron in enumerate(neurons):
        own = torch.stack([probe.stimuli[k] for probe in probes.values()])
        best = unit_range(next(iter(probes.values())).natural_top[k])
        rows.append((str(neuron), torch.cat([own, best])))
    save_picture(image_grid(rows), args.out)


def print_tables(
    probes: dict[str, Probe], generators: dict[str, Generator], natural: NaturalImages
) -> None:
    """Print what the searches found, and what encoding loses."""
    images = unit_range(natural.images)
    judges = " | ".join(f"realism to {name}" for name in generators)
    print(f"| generator | mean activation | mean ratio | {judges} | encoding's relative MSE |")
    print("|---" * (4 + len(generators)) + "|")
    for name, probe in probes.items():
        seen = [realism(judge, probe.stimuli, images) for judge in generators.values()]
        loss = encoding_loss(generators[name], images[:100])
        values = [float(probe.activations.mean()), float(probe.ratio.nanmean()), *seen, loss]
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    best = next(iter(probes.values())).natural_activations
    print(f"\nmean activation of the best natural image: {float(best.mean()):.3f}")


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
