"""Tiny networks and generators with answers known by hand."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
import torch_fidelity.registry
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from spikelens.am.natural import NaturalImages
from spikelens.models.spiking_cnn import SpikingCNN, small

# The tensors are tiny: a second thread only waits, long if the machine is busy.
torch.set_num_threads(1)


class Bars:
    """A generator of 4 x 4 grey images: mode j makes pixel j as bright as symbol / (n - 1)."""

    def __init__(self, num_symbols: int = 5, side: int = 4, channels: int = 1) -> None:
        num_modes = channels * side * side
        self.mode_sizes = (num_symbols,) * num_modes
        self.image_shape = (channels, side, side)
        self.order = torch.arange(num_modes)
        self.prior: Sequence[Tensor] = [torch.full((num_symbols,), 1 / num_symbols)] * num_modes
        near = torch.ones(num_symbols, num_symbols).fill_diagonal_(0)
        self._kernel = near / near.sum(1, keepdim=True)

    def embed(self, indices: Tensor) -> Tensor:
        return indices.float().unsqueeze(-1)

    def neighbours(self, mode: int) -> Tensor:
        return self._kernel

    def sample(self, num_images: int, random: torch.Generator) -> Tensor:
        shape = num_images, len(self.mode_sizes)
        return torch.randint(self.mode_sizes[0], shape, generator=random)

    def decode(self, indices: Tensor) -> Tensor:
        return (indices / (self.mode_sizes[0] - 1)).view(-1, *self.image_shape)

    def draw(self, embedding: Tensor) -> Tensor:
        return (embedding / (self.mode_sizes[0] - 1)).view(-1, *self.image_shape)

    def nearest(self, embedding: Tensor) -> Tensor:
        return embedding.squeeze(-1).round().clamp(0, self.mode_sizes[0] - 1).long()

    def encode(self, images: Tensor) -> Tensor:
        return (images.flatten(1) * (self.mode_sizes[0] - 1)).round().long()

    def realism(self, images: Tensor) -> Tensor:
        return -images.flatten(1).std(1)

    def to(self, device: object) -> "Bars":
        return self


class LinearImages(nn.Module):
    """z (N, d) -> 0.5 + z Q / 10 with orthonormal rows Q, so that encoding is a projection."""

    def __init__(self, z_size: int = 5, side: int = 8, channels: int = 1) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        directions = torch.randn(channels * side * side, z_size, generator=random)
        self.rows = nn.Parameter(torch.linalg.qr(directions).Q.T.contiguous())  # (d, C H W)
        self.image_shape = (channels, side, side)

    def forward(self, z: Tensor) -> Tensor:
        return (0.5 + 0.1 * z @ self.rows).view(-1, *self.image_shape)


class Palette(nn.Module):
    """Codes (N, channels * 16) -> 4 x 4 squares of `scale` pixels a side, symbol over 7."""

    def __init__(self, channels: int = 1, scale: int = 2) -> None:
        super().__init__()
        self.channels, self.scale = channels, scale

    def forward(self, codes: Tensor) -> Tensor:
        assert codes.dtype == torch.int64
        squares = codes.view(-1, self.channels, 4, 4) / 7.0
        return nn.functional.interpolate(squares, scale_factor=self.scale)


@pytest.fixture
def bars() -> Bars:
    return Bars()


@pytest.fixture
def tiny_network() -> SpikingCNN:
    torch.manual_seed(0)
    network = small(in_channels=1, image_size=8, num_classes=3, num_steps=4, width=4)
    return network.eval()


@pytest.fixture
def natural() -> NaturalImages:
    random = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (30, 1, 8, 8), generator=random, dtype=torch.uint8)
    return NaturalImages(images, torch.arange(30) % 3, ("a", "b", "c"))


class Boom(nn.Module):
    """A layer that fails."""

    def forward(self, x: Tensor) -> Tensor:
        raise ArithmeticError("boom")


@pytest.fixture
def fake_inception(tmp_path, monkeypatch):
    """Put a stub where torch-fidelity has Inception: its `seen` batches, the `path` of weights."""
    fake = SimpleNamespace(seen=[], weights=[], path=tmp_path / "inception.pth")
    torch.save({"fc.weight": torch.zeros(1).expand(1008, 2048)}, fake.path)

    class FakeInception(FeatureExtractorBase):
        def __init__(self, name, features_list, feature_extractor_weights_path, **_):
            super().__init__(name, features_list)
            fake.weights.append(feature_extractor_weights_path)

        @staticmethod
        def get_provided_features_list():
            return "2048", "logits_unbiased"

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "logits_unbiased" if metric == "isc" else "2048"

        def forward(self, images):
            fake.seen.append(images)
            means = images.float().mean(3).flatten(1)
            return tuple(means for _ in self.features_list)

    registry = torch_fidelity.registry.FEATURE_EXTRACTORS_REGISTRY
    monkeypatch.setitem(registry, "inception-v3-compat", FakeInception)
    return fake
