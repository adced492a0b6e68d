"""What benchmarks of searches are made of: a network, natural images, neurons, generators."""

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from probe import rebuild
from spikelens.am.activations import Recorder, layer_shapes
from spikelens.am.natural import NaturalImages, natural_images
from spikelens.am.neurons import Neuron, parse_neurons
from spikelens.am.objective import Objective
from spikelens.checkpoints import read_checkpoint
from spikelens.generators.base import Generator
from spikelens.generators.cosines import Cosines
from spikelens.generators.gan_latent import load_gan_latent
from spikelens.generators.vq_codes import load_vq_codes


@dataclass(frozen=True)
class Trained:
    """A trained network and the natural images it is probed with.

    Attributes:
        name: The file's name without its suffix.
        path: The file.
        data_name: What its data set is called in the names of shipped weights: `shapes`, say;
            empty where the run did not tell.
        network: In evaluation mode.
        natural: The first validation images.
    """

    name: str
    path: Path
    data_name: str
    network: nn.Module
    natural: NaturalImages


@dataclass(frozen=True)
class Drawn:
    """Neurons drawn for a benchmark, and what natural images did to them.

    Attributes:
        neurons: The K neurons.
        best: Activation of each neuron's best natural image, float32 `(K,)`.
        ranking: All natural images of each neuron, best first, int64 `(K, N)`.
    """

    neurons: list[Neuron]
    best: Tensor
    ranking: Tensor


def add_options(parser: argparse.ArgumentParser, neurons: int, natural: int, below: float) -> None:
    """Add the options that say which neurons are searched; the numbers are defaults."""
    parser.add_argument("--layers", default="conv2", help="comma-separated; * for all of them")
    parser.add_argument("--below", type=float, default=below, help="best natural rate: room above")
    parser.add_argument("--neurons", type=int, default=neurons)
    parser.add_argument("--natural", type=int, default=natural, help="natural images")


def load_trained(path: str | Path, num_natural: int, device: str = "cpu") -> Trained:
    """Load a classifier, `.ckpt` of train.py or shipped `.safetensors`, and its natural images.

    Args:
        path: The file.
        num_natural: Natural images, positive.
        device: Where the network is to be.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no classifier's.
    """
    # Its generator is given by name: what the run itself searched through does not matter.
    checkpoint = read_checkpoint(path, needs_generator=False)
    network, data = rebuild(checkpoint)
    data.prepare_data()
    data.setup()
    natural = natural_images(data, num_natural)
    name = str(checkpoint.config.get("shipped") or "")
    return Trained(Path(path).stem, Path(path), name, network.to(device), natural)


def draw_neurons(
    trained: Trained,
    generator: Generator,
    layers: Sequence[str],
    num: int,
    below: float,
) -> Drawn:
    """Draw neurons, by a fixed seed, that are neither silent nor saturated on natural images.

    Args:
        trained: The network and its natural images.
        generator: One that draws images like them.
        layers: Names of the layers that are drawn from, all together.
        num: How many neurons at most, positive.
        below: The best natural image evokes a rate above 0 and below this.

    Raises:
        ValueError: If there is no such layer.
    """
    shapes = layer_shapes(trained.network, generator.image_shape)
    names = [f"{layer}:*" for layer in layers]
    known = parse_neurons(names, {name: shape[0] for name, shape in shapes.items()})
    with Recorder(trained.network, known) as recorder:
        answers = Objective(generator, recorder).of_images(trained.natural.images)
    best = answers.activations.amax(0)
    lively = ((best > 0) & (best < below)).nonzero().flatten()
    order = torch.randperm(len(lively), generator=torch.Generator().manual_seed(0))
    chosen = lively[order[:num].sort().values.to(lively.device)]
    ranking = answers.scores[:, chosen].argsort(dim=0, descending=True, stable=True).T
    return Drawn([known[k] for k in chosen.tolist()], best[chosen].cpu(), ranking.cpu())


def load_generator(name: str, path: str | Path = "", num_nodes: int = 64) -> Generator:
    """Load a generator.

    Args:
        name: `vqvae`, `sngan`, or `cosines`, which needs no path.
        path: Its weights.
        num_nodes: Symbols a coordinate of z; only for `sngan`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the name is another one, or the file does not fit.
    """
    if name == "cosines":
        return Cosines()
    if name == "vqvae":
        return load_vq_codes(str(path))
    if name == "sngan":
        return load_gan_latent(str(path), num_nodes)
    raise ValueError(f"Argument `name` must be vqvae, sngan or cosines, but got {name!r}.")


def digest_of(path: str | Path) -> str:
    """Return what tells a file's content from others'."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
