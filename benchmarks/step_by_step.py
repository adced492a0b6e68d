"""The three networks as snntorch's tutorials write them: one call a time step.

Layers are torch's own and `snntorch.Leaky(init_hidden=True)`, which remembers its membrane from
call to call; `snntorch.utils.reset` puts it to rest. Everything is float32. This is what the
engine is measured against, and tested against in tests/benchmarks.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import snntorch
import snntorch.utils
import torch
from torch import Tensor, nn

from spikelens.models.lif import LIF
from spikelens.models.spiking_network import SpikingNetwork

Neurons = Callable[[], nn.Module]


def csnn(in_channels: int, num_flat: int, num_classes: int, neurons: Neurons) -> nn.Sequential:
    """200C5-P2-64C5-P2-FC100-FC."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 200, 5),
        nn.MaxPool2d(2),
        neurons(),
        nn.Conv2d(200, 64, 5),
        nn.MaxPool2d(2),
        neurons(),
        nn.Flatten(),
        nn.Linear(num_flat, 100),
        neurons(),
        nn.Linear(100, num_classes),
        nn.ReLU(),
        neurons(),
    )


def small(
    in_channels: int, width: int, num_flat: int, num_classes: int, neurons: Neurons
) -> nn.Sequential:
    """Three convolutions with batch normalisation, FC128."""
    widths = [in_channels, width, 2 * width, 2 * width]
    layers: list[nn.Module] = []
    for before, units in pairwise(widths):
        convolution = nn.Conv2d(before, units, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(units), nn.MaxPool2d(2), neurons()]
    last = [nn.Linear(num_flat, 128), neurons(), nn.Linear(128, num_classes), neurons()]
    return nn.Sequential(*layers, nn.Flatten(), *last)


class BasicBlock(nn.Module):
    """Two spiking layers and a shortcut past the first."""

    def __init__(self, before: int, units: int, stride: int, neurons: Neurons) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, units, 3, stride, padding=1, bias=False)
        self.norm1, self.mid = nn.BatchNorm2d(units), neurons()
        self.conv2 = nn.Conv2d(units, units, 3, padding=1, bias=False)
        self.norm2, self.out = nn.BatchNorm2d(units), neurons()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != units:
            kernel = nn.Conv2d(before, units, 1, stride, bias=False)
            self.shortcut = nn.Sequential(kernel, nn.BatchNorm2d(units))

    def forward(self, x: Tensor) -> Tensor:
        """Return the spikes of one step."""
        spikes = self.mid(self.norm1(self.conv1(x)))
        return self.out(self.norm2(self.conv2(spikes)) + self.shortcut(x))


def resnet18(in_channels: int, width: int, num_classes: int, neurons: Neurons) -> nn.Sequential:
    """A ResNet-18 for small images whose every ReLU is a layer of spiking neurons."""
    widths = [width] + [width * 2 ** (block // 2) for block in range(8)]
    blocks = [
        BasicBlock(before, units, 1 + (units > before), neurons)
        for before, units in pairwise(widths)
    ]
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        neurons(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(widths[-1], num_classes),
        neurons(),
    )


def name_of(engine: SpikingNetwork) -> str:
    """Return which of the three networks one is."""
    names = engine.layer_names
    return "resnet18" if "stem" in names else "small" if "conv3" in names else "csnn"


def rewrite(engine: SpikingNetwork) -> nn.Sequential:
    """Write a network of ours step by step: same weights, statistics and neurons, same mode."""
    convolutions, linears = (
        [m for m in engine.modules() if isinstance(m, kind)] for kind in (nn.Conv2d, nn.Linear)
    )
    first, last = convolutions[0], linears[-1]
    width, num_flat = first.out_channels, linears[0].in_features
    leaky = next(m.leaky for m in engine.modules() if isinstance(m, LIF))
    neurons = partial(
        snntorch.Leaky,
        beta=leaky.beta.detach().clone(),
        threshold=leaky.threshold.detach().clone(),
        spike_grad=leaky.spike_grad,
        init_hidden=True,
    )
    build = {
        "csnn": partial(csnn, first.in_channels, num_flat),
        "small": partial(small, first.in_channels, width, num_flat),
        "resnet18": partial(resnet18, first.in_channels, width),
    }[name_of(engine)]
    net = build(last.out_features, neurons)
    for kind in (nn.Conv2d, nn.BatchNorm2d, nn.Linear, snntorch.Leaky):
        ours, theirs = ([m for m in n.modules() if isinstance(m, kind)] for n in (engine, net))
        for source, target in zip(ours, theirs, strict=True):
            target.load_state_dict(source.state_dict())
    return net.to(first.weight.device).train(engine.training)


class StepByStep:
    """A network run step by step, and hooks that sum the spikes of its layers.

    Args:
        engine: The network to rewrite; its encoding must be direct.
        num_units: How many units of each layer are summed, from the first; None for all.
    """

    def __init__(self, engine: SpikingNetwork, num_units: int | None = None) -> None:
        if engine.encoder.encoding != "direct":
            raise ValueError(
                f"Argument `engine` must have direct encoding, but got {engine.encoder.encoding!r}."
            )
        self.net, self.num_units = rewrite(engine), num_units
        self.sums: dict[str, Tensor] = {}
        layers = [m for m in self.net.modules() if isinstance(m, snntorch.Leaky)]
        for name, layer in zip(engine.layer_names, layers, strict=True):
            layer.register_forward_hook(partial(self._add, name))

    def rest(self) -> None:
        """Put all neurons to rest and forget the sums."""
        snntorch.utils.reset(self.net)
        self.sums = {}

    def rates(self, num_steps: int) -> dict[str, Tensor]:
        """Return each layer's spikes a step at the summed units, `(N, units, ...)`."""
        return {name: total / num_steps for name, total in self.sums.items()}

    def _add(self, name: str, _: nn.Module, __: object, spikes: Tensor) -> None:
        if torch.is_grad_enabled():
            return  # training reads the output alone
        spikes = spikes[:, : self.num_units]
        before = self.sums.get(name)
        self.sums[name] = spikes.clone() if before is None else before + spikes
