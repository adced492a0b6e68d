"""Parts with answers known by hand, for tests of fidelity."""

import torch
from torch import Tensor, nn

from spikelens.data.base import ImageSpec


class Quadrants(nn.Module):
    """An extractor with the mean brightness of each quadrant as features, and as logits too.

    Args:
        size: Side of the images, even.
        channels: Of the images.
        sureness: What the logits are multiplied by.
    """

    def __init__(self, size: int = 4, channels: int = 1, sureness: float = 1.0) -> None:
        super().__init__()
        self.images = ImageSpec(channels, size, tuple("abcd"))
        self.sureness, self.device = sureness, torch.device("cpu")
        self.eval()

    def features(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 2).flatten(1)

    def head(self, features: Tensor) -> Tensor:
        return self.sureness * features
