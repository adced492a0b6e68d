"""Spiking convolutional networks, written layer by layer with time folded into the batch."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from spikelens.models.encoding import Encoder
from spikelens.models.lif import Scan, SpikingLayer
from spikelens.models.synapse import Convolution

Surrogate = Callable[[Tensor], Tensor]


class SpikingCNN(nn.Module):
    """A chain of spiking layers behind an encoder.

    Every layer sees all time steps at once, so that convolutions run over `T * N` maps in one
    call, and over `N` only where the input is constant in time (direct encoding).

    Args:
        layers: Name and layer, in order; the last one has one unit a class.
        encoder: Turns images into inputs over time.
    """

    def __init__(self, layers: Mapping[str, SpikingLayer], encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.layer_names = tuple(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)
        # The format in which convolutions and poolings run fastest, on a CPU too.
        self.to(memory_format=torch.channels_last)

    def scans(self, images: Tensor) -> dict[str, Scan]:
        """Run every layer and keep what it did.

        Args:
            images: `(N, C, H, W)` in [0, 1].

        Returns:
            The scan of each layer by its name, in order.
        """
        signal = self.encoder(images)
        scans = {}
        for name in self.layer_names:
            scans[name] = self.get_submodule(name)(signal)
            signal = scans[name].spikes
        return scans

    def forward(self, images: Tensor) -> Tensor:
        """Return the output's spikes `(T, N, classes)` for images `(N, C, H, W)` in [0, 1]."""
        signal: Tensor = self.encoder(images)
        for name in self.layer_names:
            signal = self.get_submodule(name)(signal).spikes
        return signal.float()


def csnn(
    in_channels: int,
    image_size: int,
    num_classes: int,
    num_steps: int = 16,
    beta: float = 0.9,
    threshold: float = 1.0,
    surrogate: Surrogate | None = None,
    encoding: str = "direct",
) -> SpikingCNN:
    """Build the network of the paper: 200C5-P2-64C5-P2-FC100-FC.

    Args:
        in_channels: Channels C of the images.
        image_size: Side H = W of the images, at least 16.
        num_classes: Units of the output layer.
        num_steps: Time steps T.
        beta: Membrane decay a step.
        threshold: Firing threshold.
        surrogate: From `snntorch.surrogate`; the paper takes `fast_sigmoid(slope=10)`.
        encoding: `direct`, `rate` or `latency`.

    Returns:
        The network, with layers `conv1`, `conv2`, `fc1`, `output`.

    Raises:
        ValueError: If the images are too small.

    Source: Pospelov et al., Neurocomputing 2025 (arXiv 2401.10748), section 4.
    """
    side = ((image_size - 4) // 2 - 4) // 2
    if side < 1:
        raise ValueError(
            f"Argument `image_size` must be at least 16 for csnn, but got {image_size}."
        )

    layer = partial(
        SpikingLayer, num_steps=num_steps, beta=beta, threshold=threshold, surrogate=surrogate
    )

    return SpikingCNN(
        {
            "conv1": layer(Convolution(in_channels, 200, 5, has_norm=False, pool=2)),
            "conv2": layer(Convolution(200, 64, 5, has_norm=False, pool=2)),
            "fc1": layer(nn.Sequential(nn.Flatten(), nn.Linear(64 * side * side, 100))),
            "output": layer(nn.Sequential(nn.Linear(100, num_classes), nn.ReLU())),
        },
        Encoder(encoding, num_steps),
    )


def small(
    in_channels: int,
    image_size: int,
    num_classes: int,
    num_steps: int = 4,
    beta: float = 0.9,
    threshold: float = 1.0,
    surrogate: Surrogate | None = None,
    encoding: str = "direct",
    width: int = 32,
) -> SpikingCNN:
    """Build the default for two CPU cores: three convolutions with batch normalisation, FC128.

    Args:
        in_channels: Channels C of the images.
        image_size: Side H = W of the images, at least 8.
        num_classes: Units of the output layer.
        num_steps: Time steps T.
        beta: Membrane decay a step.
        threshold: Firing threshold.
        surrogate: From `snntorch.surrogate`.
        encoding: `direct`, `rate` or `latency`.
        width: Channels of `conv1`; `conv2` and `conv3` have twice as many.

    Returns:
        The network, with layers `conv1`, `conv2`, `conv3`, `fc1`, `output`.

    Raises:
        ValueError: If the images are too small.
    """
    side = image_size // 8
    if side < 1:
        raise ValueError(
            f"Argument `image_size` must be at least 8 for small, but got {image_size}."
        )

    layer = partial(
        SpikingLayer, num_steps=num_steps, beta=beta, threshold=threshold, surrogate=surrogate
    )

    return SpikingCNN(
        {
            "conv1": layer(Convolution(in_channels, width, 3, padding=1, pool=2)),
            "conv2": layer(Convolution(width, 2 * width, 3, padding=1, pool=2)),
            "conv3": layer(Convolution(2 * width, 2 * width, 3, padding=1, pool=2)),
            "fc1": layer(nn.Sequential(nn.Flatten(), nn.Linear(2 * width * side * side, 128))),
            "output": layer(nn.Sequential(nn.Linear(128, num_classes))),
        },
        Encoder(encoding, num_steps),
    )
