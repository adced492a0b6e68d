"""A spiking ResNet-18 for small images."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from spikelens.arguments import require_integers
from spikelens.models.encoding import Encoder
from spikelens.models.lif import Scan, SpikingLayer, Surrogate
from spikelens.models.spiking_network import SpikingNetwork
from spikelens.models.synapse import Convolution


class BasicBlock(nn.Module):
    """Two spiking layers, `mid` and `out`, and a shortcut past the first.

    For input spikes s, `mid` integrates `BN(conv(s))`, and `out` integrates
    `BN(conv(mid)) + shortcut(s)`; the shortcut is the identity where the shapes agree, else
    `BN(conv(s))` with a kernel of 1 and the block's stride.

    Args:
        in_channels: Channels before.
        units: Channels of both layers.
        stride: Step of the first convolution and of the shortcut.
        layer: Puts neurons behind a synapse.
    """

    def __init__(
        self, in_channels: int, units: int, stride: int, layer: Callable[..., SpikingLayer]
    ) -> None:
        super().__init__()
        self.mid = layer(Convolution(in_channels, units, 3, stride, padding=1))
        self.out = layer(Convolution(units, units, 3, padding=1))
        self.stride = stride
        is_same = stride == 1 and in_channels == units
        self.shortcut = nn.Identity() if is_same else Convolution(in_channels, units, 1)

    def forward(self, spikes: Tensor) -> Iterator[Scan]:
        """Yield the scans of `mid` and `out` for input spikes `(T, N, in_channels, H, W)`."""
        mid = self.mid(spikes)
        yield mid
        # A stride of the kernel itself would crash: oneDNN (issue 6035) writes past its memory in
        # the backward pass of strided 1 x 1 convolutions of fewer than 8 or 16 channels.
        seen = spikes[..., :: self.stride, :: self.stride]
        residual = self.shortcut(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
        yield self.out(mid.spikes, residual)


class SpikingResNet(SpikingNetwork):
    """A spiking layer `stem`, blocks with shortcuts, and a layer `output`.

    Args:
        stem: The first layer.
        blocks: Name and block, in order.
        output: The last layer, with one unit a class.
        encoder: Turns images into inputs over time.
    """

    stem: SpikingLayer
    output: SpikingLayer

    def __init__(
        self,
        stem: SpikingLayer,
        blocks: Mapping[str, BasicBlock],
        output: SpikingLayer,
        encoder: Encoder,
    ) -> None:
        super().__init__({"stem": stem, **blocks, "output": output}, encoder)
        self.block_names = tuple(blocks)

    def _run(self, signal: Tensor) -> Iterator[Scan]:
        scan = self.stem(signal)
        yield scan
        for name in self.block_names:
            signal = scan.spikes
            for scan in self.get_submodule(name)(signal):
                yield scan
        yield self.output(scan.spikes)


def resnet18(
    in_channels: int,
    image_size: int,
    num_classes: int,
    num_steps: int = 4,
    beta: float = 0.9,
    threshold: float = 1.0,
    surrogate: Surrogate | None = None,
    encoding: str = "direct",
    width: int = 64,
) -> SpikingResNet:
    """Build a ResNet-18 whose every ReLU is a layer of spiking neurons.

    Its stem is that for small images: a kernel of 3, no stride, no pooling. The output layer reads
    each map's mean.

    Args:
        in_channels: Channels C of the images.
        image_size: Side H = W of the images, at least 8.
        num_classes: Units of the output layer.
        num_steps: Time steps T; the paper takes 50.
        beta: Membrane decay a step.
        threshold: Firing threshold.
        surrogate: From `snntorch.surrogate`.
        encoding: `direct`, `rate` or `latency`.
        width: Channels of the stem and of the first two blocks; doubled after every two blocks.

    Returns:
        The network, with layers `stem`, `block1.mid`, `block1.out`, ..., `block8.out`, `output`.

    Raises:
        ValueError: If the images are too small, or the width is not positive.

    Source: He et al., "Deep residual learning for image recognition", 2016; in Pospelov et al.,
    Neurocomputing 2025 (arXiv 2401.10748), the network that is watched over its epochs.
    """
    require_integers(1, width=width)
    if image_size < 8:
        raise ValueError(
            f"Argument `image_size` must be at least 8 for resnet18, but got {image_size}."
        )
    layer = partial(
        SpikingLayer, num_steps=num_steps, beta=beta, threshold=threshold, surrogate=surrogate
    )
    widths = [width * 2 ** (block // 2) for block in range(8)]
    blocks = {
        f"block{i + 1}": BasicBlock(before, units, stride=1 + (units > before), layer=layer)
        for i, (before, units) in enumerate(pairwise([width, *widths]))
    }
    pooled = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes)
    )
    return SpikingResNet(
        stem=layer(Convolution(in_channels, width, 3, padding=1)),
        blocks=blocks,
        output=layer(pooled),
        encoder=Encoder(encoding, num_steps),
    )
