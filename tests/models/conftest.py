"""A data set small enough to train on in a test."""

from collections.abc import Callable

import lightning as L
import pytest
import torch
from torch import Tensor

from spikelens.data.base import ImageData, Split


class FakeData(ImageData):
    """The given images as all three splits, `val` cut to `num_val`."""

    def __init__(self, images: Tensor, labels: Tensor, num_val: int | None = None, **kwargs: int):
        super().__init__(**kwargs)
        self.given, self.num_val = Split(images, labels), num_val
        self.channels, self.image_size = images.shape[1:3]

    def _load(self) -> dict[str, Split]:
        val = Split(self.given.images[: self.num_val], self.given.labels[: self.num_val])
        return {"train": self.given, "val": val, "test": self.given}

    def _class_names(self) -> tuple[str, ...]:
        return tuple("abcdefgh"[: int(self.given.labels.max()) + 1])


@pytest.fixture
def fake_data() -> Callable[..., FakeData]:
    """Build and set up a data module from uint8 images `(N, C, H, W)` and labels."""

    def build(images: Tensor, labels: Tensor, **kwargs: int) -> FakeData:
        data = FakeData(images, labels, **kwargs)
        data.setup()
        return data

    return build


@pytest.fixture
def halves(fake_data) -> FakeData:
    """32 grey images 8 x 8: class 0 is bright on the left, class 1 on the right."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 64, (32, 1, 8, 8), generator=random, dtype=torch.uint8)
    labels = torch.arange(32) % 2
    images[labels == 0, ..., :4] += 180
    images[labels == 1, ..., 4:] += 180
    return fake_data(images, labels, batch_size=8)


@pytest.fixture
def quiet_trainer() -> Callable[..., L.Trainer]:
    """Build a Trainer for the CPU that writes nothing."""

    def build(**kwargs) -> L.Trainer:
        return L.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **kwargs,
        )

    return build
