"""At which density of spikes is a convolution by events as fast as a dense one?

python -m benchmarks.event_convolution
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from spikelens.allocator import keep_freed_memory
from spikelens.kernels.event_convolution import convolve
from spikelens.kernels.pooling import Pooling

# channels, units, kernel, side, stride, padding, pool, frames
LAYERS = {
    "csnn conv2": (200, 64, 5, 14, 1, 0, 2, 128),
    "small conv2": (32, 64, 3, 16, 1, 1, 2, 256),
    "small conv2, width 16": (16, 32, 3, 16, 1, 1, 2, 256),
    "resnet18, 64": (64, 64, 3, 32, 1, 1, 1, 64),
    "resnet18, 128, stride 2": (64, 128, 3, 32, 2, 1, 1, 64),
    "resnet18, 128": (128, 128, 3, 16, 1, 1, 1, 64),
    "resnet18, 256": (256, 256, 3, 8, 1, 1, 1, 128),
    "resnet18, 512": (512, 512, 3, 4, 1, 1, 1, 256),
}
DENSITIES = (0.01, 0.05, 0.1, 0.2, 0.3)


def median(work: Callable[[], object]) -> float:
    """Return the median seconds of five calls behind one."""
    found = []
    for _ in range(6):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])


def ratio(layer: tuple[int, ...], density: float) -> float:
    """Return how many times faster events are; both read bytes and pool."""
    channels, units, kernel, side, stride, padding, pool, num_frames = layer
    weight, bias = torch.randn(units, channels, kernel, kernel), torch.randn(units)
    spikes = (torch.rand(num_frames, channels, side, side) < density).to(torch.uint8)
    spikes = spikes.contiguous(memory_format=torch.channels_last)

    def dense() -> Tensor:
        currents = functional.conv2d(spikes.float(), weight, bias, stride, padding)
        return functional.max_pool2d(currents, pool) if pool > 1 else currents

    weight = weight.contiguous(memory_format=torch.channels_last)
    pooling = Pooling(stride, padding, pool)
    return median(dense) / median(lambda: convolve(spikes, weight, bias, pooling))


def main() -> None:
    """Print a row for each layer."""
    print("| layer | run | " + " | ".join(map(str, DENSITIES)) + " |")
    print("|---" * (2 + len(DENSITIES)) + "|")
    torch.manual_seed(0)
    for name, layer in LAYERS.items():
        row = " | ".join(f"{ratio(layer, density):.2f}" for density in DENSITIES)
        print(f"| {name} | {layer[1] * layer[2]} | {row} |", flush=True)


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
