"""Time what a search costs beside the images that it shows.

    python -m benchmarks.search_overhead
    python -m benchmarks.search_overhead --device cuda --rounds 50

For 1, 10 and 40 neurons on the codes of a VQ-VAE (64 modes of 512) and the grid of an SN-GAN (128
modes of 64), pooled: milliseconds a round of ask, of watch and tell, and of `Archive.add`,
microseconds a proposed image, and the share of the loop where each image is also drawn and shown to
a network: the shipped classifier of shapes, and the paper's `csnn` of 16 time steps with random
weights. Search and objective take turns; an image's time is the least of all turns, which other
work disturbs least, the search's the mean of all rounds, as its model is not fitted in every round.
Scores are random, so that elites change each round. Of a round's images --images at most are shown,
and their time scaled. The table is Markdown.
"""

import argparse
import sys
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import nn

from benchmarks import machine
from probe import rebuild
from spikelens.allocator import keep_freed_memory
from spikelens.am.activations import Recorder, Response, layer_shapes
from spikelens.am.archive import Archive
from spikelens.am.neurons import parse_neurons
from spikelens.am.objective import Objective
from spikelens.am.optimizers.base import Optimizer
from spikelens.am.optimizers.elite_tt import EliteTT
from spikelens.checkpoints import read_checkpoint
from spikelens.generators.base import Generator
from spikelens.generators.gan_latent import load_gan_latent
from spikelens.generators.vq_codes import load_vq_codes
from spikelens.models.spiking_cnn import csnn

NUM_NEURONS, NUM_TURNS = (1, 10, 40), 3
NUM_SEEN = 1000  # points before the first round that is timed
TITLE = (
    "| latent | neurons | ask, ms | tell, ms | add, ms | us an image | network | its ms an image "
    "| share of the search | of `add` |"
)


@dataclass(frozen=True)
class Round:
    """Seconds of the parts of a round."""

    ask: float
    tell: float
    add: float

    @property
    def total(self) -> float:
        """Seconds of them all."""
        return self.ask + self.tell + self.add


def time_round(optimizer: Optimizer, random: torch.Generator) -> Round:
    """Time one round in which a neuron's own proposals answer no better than those of others."""
    archive, device = optimizer.archive, optimizer.device
    times = [machine.now(device)]
    asked = optimizer.ask()
    times.append(machine.now(device))
    num_neurons, batch, _ = asked.shape
    scores = torch.rand(num_neurons * batch, num_neurons, generator=random, device=device)
    own = scores[:, 0].view(num_neurons, batch)
    pool, response = asked.flatten(0, 1), Response(scores, scores)
    times.append(machine.now(device))
    archive.add(pool, response)
    times.append(machine.now(device))
    optimizer.watch(pool[None], scores.T)  # as in a pool, the default of runs
    optimizer.tell(own)
    times.append(machine.now(device))
    return Round(times[1] - times[0], times[4] - times[3], times[3] - times[2])


def time_image(
    network: nn.Module, generator: Generator, num_neurons: int, points: torch.Tensor
) -> float:
    """Return the seconds of an image, drawn from `points` and shown."""
    shapes = layer_shapes(network, generator.image_shape)
    known = parse_neurons("*:*", {name: shape[0] for name, shape in shapes.items()})
    with Recorder(network, known[:num_neurons]) as recorder:
        objective = Objective(generator, recorder)
        objective.chunk = min(objective.chunk, len(points))
        return machine.fastest(lambda: objective(points), objective.device, NUM_TURNS) / len(points)


def compare(
    latent: str,
    generator: Generator,
    networks: dict[str, nn.Module],
    num_neurons: int,
    args: argparse.Namespace,
) -> None:
    """Print a row for each network."""
    archive = Archive(num_neurons, len(generator.mode_sizes), device=args.device)
    optimizer = EliteTT(generator, archive, batch=args.batch)
    random = torch.Generator(args.device).manual_seed(0)
    # The model costs most once its memory is full.
    seen = torch.rand(num_neurons, NUM_SEEN, generator=random, device=args.device)
    optimizer.watch(generator.sample(NUM_SEEN, random)[None], seen)
    # Half the rounds before the objective and half after: a busy machine is busy for both.
    rounds = [time_round(optimizer, random) for _ in range(1 + args.rounds // 2)][1:]
    points = generator.sample(min(args.images, num_neurons * optimizer.batch), random)
    seconds = {
        name: time_image(network, generator, num_neurons, points)
        for name, network in networks.items()
    }
    rounds += [time_round(optimizer, random) for _ in range(args.rounds - args.rounds // 2)]
    ask, tell, add, total = (
        fmean(getattr(one, part) for one in rounds) for part in ("ask", "tell", "add", "total")
    )
    num_images = num_neurons * optimizer.batch
    for name, of_image in seconds.items():
        loop = total + num_images * of_image
        print(
            f"| {latent} | {num_neurons} | {1e3 * ask:.2f} | {1e3 * tell:.2f} | {1e3 * add:.2f} "
            f"| {1e6 * total / num_images:.0f} | {name} | {1e3 * of_image:.2f} "
            f"| {total / loop:.1%} | {add / loop:.1%} |",
            flush=True,
        )


def main() -> None:
    """Print machine and table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch", type=int, default=5, help="proposals a neuron and round")
    parser.add_argument("--images", type=int, default=50, help="of a round, shown at most")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    classifier, _ = rebuild(read_checkpoint("weights/classifier_shapes.safetensors"))
    networks = {
        "classifier of shapes": classifier.eval().to(device),
        "csnn": csnn(3, 32, 10).eval().to(device),
    }
    generators: dict[str, Generator] = {
        "VQ codes": load_vq_codes("weights/vqvae_cifar10.safetensors").to(device),
        "grid": load_gan_latent("weights/sngan_cifar10.safetensors").to(device),
    }
    print(f"{machine.describe(device)}\n\n{TITLE}")
    print("|---" * TITLE.count(" | ") + "|---|")
    for latent, generator in generators.items():
        for num_neurons in NUM_NEURONS:
            compare(latent, generator, networks, num_neurons, args)


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
