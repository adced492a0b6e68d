"""What a search in bfloat16 sees differently from float32: the argmax, and the rates.

python -m benchmarks.precision --ckpt RUN/checkpoints/last.ckpt --layers conv2 --images 200
"""

import argparse
import sys
import time

import torch
from hydra.utils import instantiate

from probe import rebuild
from spikelens.allocator import keep_freed_memory
from spikelens.am.activations import Recorder, Response, layer_shapes
from spikelens.am.natural import natural_images
from spikelens.am.neurons import parse_neurons
from spikelens.am.objective import Objective
from spikelens.checkpoints import read_checkpoint
from spikelens.data.base import unit_range


def row(layer: str, columns: list[int], exact: Response, rounded: Response) -> str:
    """Compare a layer's responses, its neurons in `columns`."""
    found, other = exact.activations[:, columns], rounded.activations[:, columns]
    lively = found.amax(0) > 0
    best = rounded.scores[:, columns].argmax(0, keepdim=True)
    is_other = (best != exact.scores[:, columns].argmax(0, keepdim=True)).squeeze(0) & lively
    lost = (found.amax(0) - found.gather(0, best).squeeze(0))[lively]
    off = (found - other).abs()
    return (
        f"| {layer} | {int(lively.sum())} of {len(columns)} "
        f"| {int(is_other.sum())} | {lost.mean():.4f} | {found[:, lively].mean():.4f} "
        f"| {off[:, lively].mean():.4f} | {off.max():.4f} |"
    )


def main() -> None:
    """Show the same images in both precisions: half reconstructions, half of random codes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--layers", default="*")
    parser.add_argument("--images", type=int, default=200)
    args = parser.parse_args()
    checkpoint = read_checkpoint(args.ckpt)
    network, data = rebuild(checkpoint)
    data.prepare_data()
    data.setup()
    generator = instantiate(checkpoint.config["generator"])
    shapes = layer_shapes(network, generator.image_shape)
    names = [f"{layer}:*" for layer in args.layers.split(",")]
    neurons = parse_neurons(names, {name: shape[0] for name, shape in shapes.items()})
    half = args.images // 2
    natural = generator.encode(unit_range(natural_images(data, half).images))
    random = torch.stack([torch.randint(size, (half,)) for size in generator.mode_sizes], 1)
    codes, found, seconds = torch.cat([natural, random]), {}, {}
    with Recorder(network, neurons) as recorder:
        for precision in ("float32", "bfloat16"):
            objective = Objective(generator, recorder, precision=precision)
            objective(codes[:1])
            began = time.perf_counter()
            found[precision] = objective(codes)
            seconds[precision] = time.perf_counter() - began
    exact, rounded = found["float32"], found["bfloat16"]
    print(f"{len(codes)} images; seconds: {seconds}")
    print(
        "| layer | neurons that spike | another argmax | its rate lost | mean rate | mean | max |"
    )
    print("|---|---|---|---|---|---|---|")
    for layer in dict.fromkeys(neuron.layer for neuron in neurons):
        columns = [place for place, neuron in enumerate(neurons) if neuron.layer == layer]
        print(row(layer, columns, exact, rounded))


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
