"""Spiking convolutional networks, written layer by layer with time folded into the batch."""

from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn

from spikelens.arguments import require_integers
from spikelens.models.encoding import Encoder
from spikelens.models.lif import Scan, SpikingLayer, Surrogate
from spikelens.models.spiking_network import SpikingNetwork
from spikelens.models.synapse import Convolution


class SpikingCNN(SpikingNetwork):
    """A chain of spiking layers behind an encoder.

    Args:
        parts: Name and layer, in order, each a `SpikingLayer`; the last one has one unit a class.
        encoder: Turns images into inputs over time.
    """

    def _run(self, signal: Tensor) -> Iterator[Scan]:
        for name in self.layer_names:
            scan = self.get_submodule(name)(signal)
            yield scan
            signal = scan.spikes


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
        ValueError: If the images are too small, or the width is not positive.
    """
    require_integers(1, width=width)
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
