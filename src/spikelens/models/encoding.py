"""How an image becomes an input over time: direct, rate (Poisson) and latency codes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from snntorch import spikegen
from torch import Tensor, nn

ENCODINGS = ("direct", "rate", "latency")


class Encoder(nn.Module):
    """Turn images in [0, 1] into inputs over time.

    `direct` shows the same image at each step, as a constant current. `rate` draws a spike at
    each step with the pixel's value as probability. `latency` lets each pixel spike once, bright
    ones first. In evaluation mode `rate` uses noise that is frozen by `seed` and `repeat` and
    shared by all images, so that an image evokes the same response whatever batch it is in.

    Args:
        encoding: `direct`, `rate` or `latency`.
        num_steps: Number of time steps T; at least 2 for `latency`.
        seed: Seed of the frozen noise.

    Attributes:
        repeat: Which draw of the noise an evaluation sees, from 0; see `repeated`.

    Raises:
        ValueError: If the encoding is unknown, or T too small for it.

    Source: snntorch.spikegen; Auge et al., "A survey of encoding techniques for signal
    processing in spiking neural networks", 2021.
    """

    def __init__(self, encoding: str, num_steps: int, seed: int = 0) -> None:
        super().__init__()
        if encoding not in ENCODINGS:
            raise ValueError(
                f"Argument `encoding` must be one of {', '.join(ENCODINGS)}, but got {encoding!r}."
            )
        if encoding == "latency" and num_steps < 2:
            raise ValueError(
                f"Argument `num_steps` must be at least 2 for latency codes, but got {num_steps}."
            )
        self.encoding, self.num_steps, self.seed = encoding, num_steps, seed
        self.repeat = 0

    @property
    def is_noisy(self) -> bool:
        """Whether an image's spikes depend on the draw."""
        return self.encoding == "rate"

    def forward(self, images: Tensor) -> Tensor:
        """Encode images `(N, C, H, W)` as `(T, N, C, H, W)`, or `(1, ...)` where constant."""
        if self.encoding == "direct":
            return images.unsqueeze(0)
        images = images.clamp(0.0, 1.0)
        if self.encoding == "latency":
            # spikegen checks a range that a rounding error would leave, hence the clamp above.
            spikes: Tensor = spikegen.latency(
                images, num_steps=self.num_steps, normalize=True, linear=True
            )
            return spikes
        if self.training:
            rate: Tensor = spikegen.rate(images, num_steps=self.num_steps)
            return rate
        random = torch.Generator().manual_seed(_seed_of(self.seed, self.repeat))
        noise = torch.rand(self.num_steps, 1, *images.shape[1:], generator=random)
        return (noise.to(images.device) < images).to(images.dtype)


def _seed_of(seed: int, repeat: int) -> int:
    """Mix seed and number of a draw into 32 bits: torch's generator on the CPU takes no more.

    Source: Steele et al., "Fast splittable pseudorandom number generators", 2014 (SplitMix64).
    """
    if repeat == 0:
        return seed
    mixed = (seed + repeat * 0x9E3779B97F4A7C15) % 2**64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
    return mixed >> 32


def noisy_encoders(network: nn.Module) -> list[Encoder]:
    """Find the encoders that make a network's answers depend on a draw of noise."""
    return [m for m in network.modules() if isinstance(m, Encoder) and m.is_noisy]


@contextmanager
def repeated(encoders: Sequence[Encoder], repeat: int) -> Iterator[None]:
    """Let encoders in evaluation mode see another draw of their noise while the context is open.

    Args:
        encoders: From `noisy_encoders`.
        repeat: Number of the draw, not negative; 0 is what they see otherwise.
    """
    before = [encoder.repeat for encoder in encoders]
    try:
        for encoder in encoders:
            encoder.repeat = repeat
        yield
    finally:
        for encoder, number in zip(encoders, before, strict=True):
            encoder.repeat = number
