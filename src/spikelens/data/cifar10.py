"""CIFAR-10, downloaded by torchvision."""

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

from spikelens.arguments import require_integers
from spikelens.data.base import ImageData, Split

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


class DownloadError(ConnectionError, RuntimeError):
    """CIFAR-10 is neither there nor to be had."""


class CIFAR10(ImageData):
    """60 000 photographs, 32x32 RGB, of ten classes (A. Krizhevsky, 2009).

    Args:
        root: Folder of `cifar-10-batches-py`; downloaded into it if it is not there.
        num_train: Largest number of training images, positive; None for all.
        num_val: Training images set aside for validation, positive; drawn by the seed.
        num_test: Largest number of test images, positive; None for all.
        **base: Arguments of `ImageData`.

    Raises:
        ValueError: If an argument is out of its range; in `setup`, if no training image is left.
        DownloadError: In `prepare_data` or `setup`, a RuntimeError: if there are no data.
    """

    channels, image_size = 3, 32

    def __init__(
        self,
        *,
        root: str = "data/cifar10",
        num_train: int | None = None,
        num_val: int = 5000,
        num_test: int | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        limits = {"num_train": num_train, "num_test": num_test}
        given = {name: limit for name, limit in limits.items() if limit is not None}
        require_integers(1, num_val=num_val, **given)
        self.root, self.num_val = Path(root), num_val
        self.num_train, self.num_test = num_train, num_test

    def prepare_data(self) -> None:
        """Download unless the files are there."""
        if not self.is_set_up:
            self._read(train=True, download=True)

    def _class_names(self) -> tuple[str, ...]:
        return CLASSES

    def _load(self) -> dict[str, Split]:
        images, labels = self._read(train=True, download=False)
        if self.num_val >= len(labels):
            raise ValueError(
                f"Argument `num_val` must be less than the {len(labels)} training images, "
                f"but got {self.num_val}."
            )
        random = torch.Generator().manual_seed(self.seed)
        val, train = torch.randperm(len(labels), generator=random).tensor_split([self.num_val])
        train = train[: self.num_train]
        test_images, test_labels = self._read(train=False, download=False)
        return {
            "train": Split(images[train], labels[train]),
            "val": Split(images[val], labels[val]),
            "test": Split(test_images[: self.num_test], test_labels[: self.num_test]),
        }

    def _read(self, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        """Read images uint8 `(N, 3, 32, 32)` and labels int64 `(N,)` in torchvision's order."""
        try:
            data = torchvision.datasets.CIFAR10(str(self.root), train=train, download=download)
        except Exception as error:  # network, disk, archive, checksum: one remedy for all
            raise DownloadError(
                f"CIFAR-10 is not in {self.root} and cannot be downloaded ({error}): check the "
                f"network, or put the extracted folder cifar-10-batches-py into {self.root}, or "
                "use data=image_folder with a copy of CIFAR-10 as image files."
            ) from None
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        return images, torch.tensor(data.targets, dtype=torch.int64)
