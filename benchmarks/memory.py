"""Does memory grow while a search goes on? Resident memory over many evaluations.

python -m benchmarks.memory                                # 100 000 images through `small`
python -m benchmarks.memory --net csnn --num 20000 --steps 16
"""

import argparse
import os
import sys
from pathlib import Path

import torch

from benchmarks.subject import NETS
from spikelens.allocator import keep_freed_memory
from spikelens.am.activations import Recorder, layer_shapes
from spikelens.am.neurons import parse_neurons
from spikelens.am.objective import Objective
from spikelens.generators.vq_codes import load_vq_codes


def resident() -> float:
    """Return this process's resident memory in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Evaluate random codes in rounds of 1000 and print the memory ten times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--net", choices=NETS, default="small")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--num", type=int, default=100_000)
    parser.add_argument("--generator", default="weights/vqvae_shapes.safetensors")
    args = parser.parse_args()
    torch.manual_seed(0)
    generator = load_vq_codes(args.generator)
    network = NETS[args.net](*generator.image_shape[:2], 10, num_steps=args.steps).eval()
    shapes = layer_shapes(network, generator.image_shape)
    neurons = parse_neurons("*:0-7", {name: shape[0] for name, shape in shapes.items()})
    print(f"| images | resident MiB ({args.net}, T = {args.steps}) |\n|---|---|")
    print(f"| 0 | {resident():.0f} |")
    with Recorder(network, neurons) as recorder:
        objective = Objective(generator, recorder)
        for done in range(1000, args.num + 1, 1000):
            objective(torch.randint(generator.mode_sizes[0], (1000, len(generator.mode_sizes))))
            if done == 1000 or done % max(1000, args.num // 10) == 0:
                print(f"| {done} | {resident():.0f} |", flush=True)


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
