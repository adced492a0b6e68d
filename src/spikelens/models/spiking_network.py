"""What every spiking network offers to training and probes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from spikelens.models.encoding import Encoder
from spikelens.models.lif import LIF, Scan


class SpikingNetwork(nn.Module, ABC):
    """Spiking layers behind an encoder; `layer_names` has their dotted names, in order.

    Every layer sees all time steps at once, so that convolutions run over `T * N` maps in one
    call, and over `N` only where the input is constant in time (direct encoding).

    Args:
        parts: Name and module, in order; each is or has spiking layers, the last of which has one
            unit a class.
        encoder: Turns images into inputs over time.
    """

    def __init__(self, parts: Mapping[str, nn.Module], encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        for name, part in parts.items():
            self.add_module(name, part)
        self.layer_names = tuple(
            name for name, module in self.named_modules() if isinstance(module, LIF)
        )
        # The format in which convolutions and poolings run fastest, on a CPU too.
        self.to(memory_format=torch.channels_last)

    @abstractmethod
    def _run(self, signal: Tensor) -> Iterator[Scan]:
        """Yield the scan of each layer in the order of `layer_names`.

        Args:
            signal: Encoded images, `(T, N, C, H, W)`, or `(1, N, ...)` where constant.
        """

    def run(self, images: Tensor) -> Iterator[tuple[str, Scan]]:
        """Run layer by layer.

        Args:
            images: `(N, C, H, W)` in [0, 1].

        Yields:
            The name of each layer, in order, and what it did.
        """
        yield from zip(self.layer_names, self._run(self.encoder(images)), strict=True)

    def scans(self, images: Tensor) -> dict[str, Scan]:
        """Run every layer and keep what it did, by its name; see `run`."""
        return dict(self.run(images))

    def forward(self, images: Tensor) -> Tensor:
        """Return the output's spikes `(T, N, classes)` for images `(N, C, H, W)` in [0, 1]."""
        spikes = images
        # A layer's spikes are let go of as soon as the next layers have read them.
        for _, scan in self.run(images):
            spikes = scan.spikes
        return spikes.float()

    def count(self, images: Tensor, until: str, keeps_spikes: bool = False) -> None:
        """Run as far as a layer, for hooks that read means: its own spikes are not written.

        Args:
            images: `(N, C, H, W)` in [0, 1].
            until: Name of the last layer to run.
            keeps_spikes: Whether its spikes are written after all.
        """
        last = self.get_submodule(until)
        assert isinstance(last, LIF)
        last.keeps_spikes = keeps_spikes
        try:
            next(scan for name, scan in self.run(images) if name == until)
        finally:
            last.keeps_spikes = True
