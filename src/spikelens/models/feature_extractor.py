"""A small classifier trained on the data set, whose features measure generated images."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from spikelens.arguments import require_integers
from spikelens.data.base import ImageSpec
from spikelens.models.optimization import BuildOptimizer, BuildScheduler, build_optimizer
from spikelens.weights import load_trained


def _convolution(in_channels: int, channels: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        # No bias: the normalisation has one. An even kernel gets the smaller padding.
        nn.Conv2d(in_channels, channels, kernel, stride, (kernel - 1) // 2, bias=False),
        nn.BatchNorm2d(channels),
    )


class ResidualBlock(nn.Module):
    """`relu(skip(x) + bn(conv3x3(relu(bn(conv3x3(x))))))`.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: 1 keeps the size of the map, 2 halves it, rounded up.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(in_channels, channels, 3, stride),
            nn.ReLU(),
            _convolution(channels, channels, 3, 1),
        )
        is_same = in_channels == channels and stride == 1
        self.skip = nn.Identity() if is_same else _convolution(in_channels, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Take maps `(N, in_channels, H, W)` to `(N, channels, H / stride, W / stride)`."""
        out: Tensor = F.relu(self.skip(x) + self.body(x))
        return out


def residual_body(in_channels: int, width: int, num_features: int) -> nn.Sequential:
    """Three residual blocks on maps 2, 4 and 8 times smaller than the image, globally pooled.

    The first convolution strides already: full-size maps would cost more than all the rest.

    Args:
        in_channels: Channels of the images.
        width: Channels of the middle block, even; the first has half as many.
        num_features: Channels of the last block.

    Returns:
        A module from images `(N, in_channels, H, W)` to features `(N, num_features)`, not negative.
    """
    return nn.Sequential(
        _convolution(in_channels, width // 2, 4, 2),
        nn.ReLU(),
        ResidualBlock(width // 2, width // 2, 1),
        ResidualBlock(width // 2, width, 2),
        ResidualBlock(width, num_features, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class FeatureExtractor(L.LightningModule):
    """Classify images; the features before the last layer are what fidelity is measured in.

    Values measured with it compare with each other only, never with published ones: see
    `spikelens.fidelity`. Logs `train/loss`, `train/accuracy`, `val/loss`, `val/accuracy`,
    `test/loss`, `test/accuracy` (accuracies in [0, 1]).

    Args:
        images: Channels, size and classes of the images.
        width: Channels of the middle block, a positive even number.
        num_features: Number of features, positive.
        optimizer: Builds the optimizer from the parameters; None for Adam(1e-3).
        scheduler: Builds a learning-rate scheduler, stepped once an epoch; None for none.

    Raises:
        ValueError: If an argument is out of its range.
    """

    image_size: Tensor

    def __init__(
        self,
        images: ImageSpec,
        width: int = 64,
        num_features: int = 128,
        optimizer: BuildOptimizer | None = None,
        scheduler: BuildScheduler | None = None,
    ) -> None:
        super().__init__()
        require_integers(1, width=width, num_features=num_features)
        if width % 2:
            raise ValueError(f"Argument `width` must be even, but got {width}.")
        self.images, num_classes = images, len(images.classes)
        self.optimizer, self.scheduler = optimizer, scheduler
        # The format in which convolutions run fastest on a CPU.
        self.body = residual_body(images.channels, width, num_features).to(
            memory_format=torch.channels_last
        )
        self.head = nn.Linear(num_features, num_classes)
        # No shape of the weights tells the size of the images they were trained on.
        self.register_buffer("image_size", torch.tensor(images.size))
        accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.accuracy = MetricCollection(
            {f"{stage}/accuracy": accuracy.clone() for stage in ("train", "val", "test")},
            compute_groups=False,  # each sees images of its own
        )

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "FeatureExtractor":
        """Rebuild a trained extractor from its state_dict alone; its classes are numbered.

        Raises:
            KeyError: If the state is not a feature extractor's.
        """
        stem, head = state["body.0.0.weight"], state["head.weight"]
        size, (num_classes, num_features) = int(state["image_size"]), head.shape
        model = cls(
            ImageSpec(stem.shape[1], size, tuple(str(label) for label in range(num_classes))),
            width=2 * stem.shape[0],
            num_features=num_features,
        )
        model.load_state_dict(state)
        return model

    def features(self, images: Tensor) -> Tensor:
        """Return the features `(N, num_features)` of images `(N, C, H, W)` in [0, 1]."""
        out: Tensor = self.body(images - 0.5)
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `(N, classes)` of images `(N, C, H, W)` in [0, 1]."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the cross-entropy of one batch of images and labels."""
        return self._score("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Score one batch of validation images."""
        self._score("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Score one batch of test images."""
        self._score("test", batch)

    def configure_optimizers(self) -> Any:
        """Build the optimizer and, where asked, its scheduler."""
        return build_optimizer(self.parameters(), self.optimizer, self.scheduler)

    def _score(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        accuracy = self.accuracy[f"{stage}/accuracy"]
        accuracy(logits, labels)
        self.log(f"{stage}/loss", loss, prog_bar=stage == "train", batch_size=len(labels))
        self.log(f"{stage}/accuracy", accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss


def load_feature_extractor(path: str) -> FeatureExtractor:
    """Load a trained feature extractor, frozen and in evaluation mode, on the CPU.

    Args:
        path: A Lightning checkpoint (`.ckpt`) of `FeatureExtractor`, or shipped weights
            (`.safetensors`) whose sha256 stands in the card beside them (`.json`).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no feature extractor, or is not the one its card describes.
    """
    extractor = load_trained(path, FeatureExtractor.from_state, "a feature extractor")
    return extractor.requires_grad_(False).eval()
