"""Time the steps of an SN-GAN's training against the machine's matrix rate.

python -m benchmarks.sngan_step --widths 32,64 --batch 64

Operations are counted by torch, forward and backward, and divided by the time of a step and by the
rate of a large matrix product in the same precision, measured in the same run.
"""

import argparse
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import describe, fastest, matrix_rate
from spikelens.allocator import keep_freed_memory
from spikelens.data.base import ImageSpec
from spikelens.models.sngan import SNGAN
from spikelens.precision import autocast, is_half


def steps_of(model: SNGAN, images: torch.Tensor, precision: str) -> dict[str, Callable[[], None]]:
    """Return the discriminator's and the generator's step, as `SNGAN.training_step` takes them."""
    device = images.device
    optimizers = {
        part: torch.optim.Adam(part.parameters(), lr=2e-4, betas=(0.0, 0.9))
        for part in (model.discriminator, model.generator)
    }

    def draw() -> torch.Tensor:
        drawn: torch.Tensor = model.generator(torch.randn(len(images), model.z_size).to(device))
        return drawn.float()

    def step(part: torch.nn.Module, loss: torch.Tensor) -> None:
        optimizers[part].zero_grad()
        loss.backward()
        optimizers[part].step()

    def discriminator() -> None:
        with autocast(precision, device):
            with torch.no_grad():
                fake = draw()
            scores = model.discriminator(torch.cat([2.0 * images - 1.0, fake])).float()
            real, drawn = scores.chunk(2)
            loss = F.relu(1.0 - real).mean() + F.relu(1.0 + drawn).mean()
        step(model.discriminator, loss)

    def generator() -> None:
        model.discriminator.requires_grad_(False)
        with autocast(precision, device):
            loss = -model.discriminator(draw()).float().mean()
        step(model.generator, loss)
        model.discriminator.requires_grad_(True)

    return {"discriminator": discriminator, "generator": generator}


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--widths", default="32,64")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if is_half(args.precision, device) else torch.float32
    rate = matrix_rate(dtype, device)
    print(describe(device))
    print(f"matrix product, {dtype}: {rate / 1e9:.0f} GFLOP/s\n")
    print("| width | step | GFLOP | s | share of the matrix rate |")
    print("|---|---|---|---|---|")
    for width in map(int, args.widths.split(",")):
        spec = ImageSpec(3, 32, ())
        model = SNGAN(spec, generator_width=width, discriminator_width=width).to(device)
        images = torch.rand(args.batch, 3, 32, 32, device=device)
        for name, step in steps_of(model, images, args.precision).items():
            with FlopCounterMode(display=False) as counter:
                step()
            seconds = fastest(step, device)
            work = counter.get_total_flops()
            share = work / seconds / rate
            print(
                f"| {width} | {name} | {work / 1e9:.1f} | {seconds:.3f} | {share:.2f} |", flush=True
            )


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
