"""What benchmarks/throughput.py measures: a network, a generator, natural images."""

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from probe import rebuild
from spikelens.checkpoints import read_checkpoint
from spikelens.data.base import ImageData, unit_range
from spikelens.data.shapes import Shapes
from spikelens.generators.base import check_fit
from spikelens.generators.vq_codes import VQCodes, load_vq_codes
from spikelens.models.encoding import Encoder
from spikelens.models.lif import LIF
from spikelens.models.spiking_cnn import csnn, small
from spikelens.models.spiking_network import SpikingNetwork
from spikelens.models.spiking_resnet import resnet18
from spikelens.models.synapse import Convolution

NETS = {"csnn": csnn, "small": small, "resnet18": resnet18}
# Passes, images in each, and time steps that the statistics of batch normalisation come from.
CALIBRATION = 2, 16, 16


@dataclass(frozen=True)
class Subject:
    """What one process measures.

    Attributes:
        network: In evaluation mode.
        generator: Draws the images.
        data: Natural images.
        device: Where they are.
        rate: FLOP/s of the roof.
        args: Options.
    """

    network: SpikingNetwork
    generator: VQCodes
    data: ImageData
    device: torch.device
    rate: float
    args: argparse.Namespace

    def codes(self, num_images: int) -> Tensor:
        """Draw multi-indices int64 `(N, d)` from the generator's prior, the same each time."""
        random = torch.Generator().manual_seed(0)
        draws = [
            torch.multinomial(shares.cpu(), num_images, replacement=True, generator=random)
            for shares in self.generator.prior
        ]
        return torch.stack(draws, 1).to(self.device)

    def batch(self, start: int, num_images: int) -> tuple[Tensor, Tensor]:
        """Take natural training images and labels."""
        split, rows = self.data.split("train"), slice(start, start + num_images)
        return unit_range(split.images[rows]).to(self.device), split.labels[rows].to(self.device)

    def set_steps(self, num_steps: int) -> None:
        """Make the network run for T steps."""
        for module in self.network.modules():
            if isinstance(module, LIF | Encoder):
                module.num_steps = num_steps


def prepare(args: argparse.Namespace) -> Subject:
    """Build or load network, generator and data."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    if args.ckpt:
        network, data = rebuild(read_checkpoint(args.ckpt))
    else:
        data = Shapes()
        spec = data.spec
        network = NETS[args.nets](spec.channels, spec.size, len(spec.classes))
    data.prepare_data()
    data.setup()
    generator = load_vq_codes(args.generator).to(device)
    check_fit(generator, data.spec.image_shape)
    subject = Subject(network.to(device), generator, data, device, args.rate, args)
    if not args.ckpt:
        calibrate(subject)
    network.eval()
    if args.ckpt:
        measure_density(subject)
    return subject


def calibrate(subject: Subject) -> None:
    """Set statistics of batch normalisation, and how dense inputs are, by a few natural images."""
    norms = [m for m in subject.network.modules() if isinstance(m, nn.BatchNorm2d)]
    subject.network.train()
    num_passes, num_images, num_steps = CALIBRATION
    subject.set_steps(num_steps)
    with torch.no_grad():
        for done in range(num_passes):
            for norm in norms:
                norm.momentum = 1 / (done + 1)  # a plain mean over the passes
            subject.network(subject.batch(done * num_images, num_images)[0])
    for norm in norms:
        norm.momentum = 0.1


@torch.no_grad()
def measure_density(subject: Subject) -> None:
    """Measure how dense inputs are, for a checkpoint older than that measurement."""
    layers = [m for m in subject.network.modules() if isinstance(m, Convolution)]

    def note(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        layer.density.copy_(inputs[0].count_nonzero() / inputs[0].numel())

    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    subject.network(subject.batch(0, CALIBRATION[1])[0])
    for handle in handles:
        handle.remove()
