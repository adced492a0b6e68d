"""What all data modules share: splits in memory, batches, order of training, conversion."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from spikelens.arguments import require_integers
from spikelens.data.augmentation import Augmentation

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ImageSpec:
    """What a model has to know about a data set.

    Attributes:
        channels: Number of channels C.
        size: Side of the square images in pixels.
        classes: Name of each class; a label is an index into it.
    """

    channels: int
    size: int
    classes: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape `(C, H, W)` of an image."""
        return (self.channels, self.size, self.size)


@dataclass(frozen=True)
class Split:
    """The images of one split; any first few of them are a fair sample.

    Attributes:
        images: uint8 `(N, C, H, W)`.
        labels: int64 `(N,)`.
        factors: True generative factors by name, each `(N,)`; None where they are unknown.
    """

    images: Tensor
    labels: Tensor
    factors: dict[str, Tensor] | None = None


class EpochSampler(Sampler[int]):
    """Shuffle as a pure function of seed and epoch, so that a resumed run sees the same order.

    Args:
        num_images: Number of indices to shuffle, positive.
        seed: Seed of the order, not negative.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, num_images: int, seed: int) -> None:
        require_integers(1, num_images=num_images)
        require_integers(0, seed=seed)
        self.num_images, self.seed, self.epoch = num_images, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration is for; the Trainer calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.num_images, generator=random).tolist())

    def __len__(self) -> int:
        return self.num_images


class _SplitDataset(Dataset[Batch]):
    """Serve a split, a whole batch by one indexing operation."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split.labels)

    def __getitem__(self, index: int) -> Batch:
        return self.split.images[index], self.split.labels[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        # numpy copies in one thread; torch would wait for all of its threads, which on a busy
        # machine takes milliseconds instead of microseconds.
        images, labels = self.split.images.numpy(), self.split.labels.numpy()
        return torch.from_numpy(images[indices]), torch.from_numpy(labels[indices])


def unit_range(images: Tensor) -> Tensor:
    """Scale uint8 images to float32 in [0, 1]; leave float images alone."""
    return images.float() / 255.0 if images.dtype == torch.uint8 else images


def _as_is(batch: Any) -> Any:
    return batch


class ImageData(L.LightningDataModule, ABC):
    """Square images with class labels, kept in memory as uint8.

    Batches leave the loaders as uint8 and become float32 in [0, 1] on the device, where training
    batches are augmented too. A subclass tells `channels` and `image_size` (pixels) of its images.

    Args:
        batch_size: Images in a training batch, positive; the last batch may be smaller.
        eval_batch_size: Images in a validation or test batch, positive.
        seed: Seed of splits and training order, not negative.
        augmentation: Applied to training batches; None for none.

    Raises:
        ValueError: If an argument is out of its range.
    """

    channels: int
    image_size: int

    def __init__(
        self,
        *,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        seed: int = 0,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__()
        require_integers(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        require_integers(0, seed=seed)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.seed, self.augmentation = seed, augmentation
        self._splits: dict[str, Split] = {}

    @abstractmethod
    def _load(self) -> dict[str, Split]:
        """Return the splits `train`, `val` and `test`; called once, by `setup`."""

    @abstractmethod
    def _class_names(self) -> tuple[str, ...]:
        """Return the name of each class; may be called before `_load`."""

    @property
    def is_set_up(self) -> bool:
        """Whether the splits are in memory."""
        return bool(self._splits)

    def setup(self, stage: str | None = None) -> None:
        """Load all splits; a second call does nothing."""
        if not self.is_set_up:
            self._splits = self._load()

    @property
    def spec(self) -> ImageSpec:
        """Shape of the images and names of the classes, known before any image is read."""
        return ImageSpec(self.channels, self.image_size, self._class_names())

    def split(self, name: str) -> Split:
        """Return the split `train`, `val` or `test`.

        Raises:
            RuntimeError: Before `setup`.
            ValueError: If there is no such split.
        """
        if not self.is_set_up:
            raise RuntimeError(f"Call `setup` of {type(self).__name__} before asking for a split.")
        if name not in self._splits:
            raise ValueError(
                f"Argument `name` must be one of {', '.join(self._splits)}, but got {name!r}."
            )
        return self._splits[name]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Serve the training split, shuffled by seed and epoch."""
        sampler = EpochSampler(len(self.split("train").labels), self.seed)
        return self._loader("train", self.batch_size, sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Serve the validation split in order."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Serve the test split in order."""
        return self._loader("test", self.eval_batch_size)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Batch:
        """Make images float32 in [0, 1]; augment them in training."""
        images, labels = batch
        images = unit_range(images)
        is_training = self.trainer is not None and self.trainer.training
        if is_training and self.augmentation is not None:
            images = self.augmentation(images)
        return images, labels

    def _loader(
        self, name: str, batch_size: int, sampler: Sampler[int] | None = None
    ) -> DataLoader[Batch]:
        return DataLoader(
            _SplitDataset(self.split(name)),
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=_as_is,
            # A loader draws a seed for workers; its own generator keeps torch's state untouched.
            generator=torch.Generator().manual_seed(self.seed),
        )
