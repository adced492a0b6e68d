"""The built-in data set: coloured, textured shapes whose generative factors are known."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikelens.arguments import require_integers
from spikelens.data.base import ImageData, Split
from spikelens.data.shape_distance import SHAPES
from spikelens.data.shape_drawing import Scenes, draw, sample_scenes
from spikelens.data.tensor_cache import read_tensors, write_tensors
from spikelens.threads import one_thread

FACTORS = ("shape", "hue", "texture", "size", "rotation", "x", "y", "background")
_SPLITS = ("train", "val", "test")
_VERSION = 1  # of the drawing; part of the cache's name
_CHUNK = 256  # images drawn at once; their temporaries fit into the processor's cache


class Shapes(ImageData):
    """Ten classes of shapes, drawn by the program itself; nothing is downloaded.

    Each picture shows one shape. Its class, hue, texture, size, rotation, position and the kind of
    background are independent of each other, and known: see `Scenes` for their ranges.

    Args:
        num_train: Training images, positive.
        num_val: Validation images, positive.
        num_test: Test images, positive.
        image_size: Side of the images in pixels, at least 8.
        cache_dir: Folder where the drawn images are kept.
        **base: Arguments of `ImageData`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    channels = 3

    def __init__(
        self,
        *,
        num_train: int = 12000,
        num_val: int = 2000,
        num_test: int = 2000,
        image_size: int = 32,
        cache_dir: str = "data/cache",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        require_integers(1, num_train=num_train, num_val=num_val, num_test=num_test)
        require_integers(8, image_size=image_size)
        self.num_images = dict(zip(_SPLITS, (num_train, num_val, num_test), strict=True))
        self.image_size, self.cache_dir = image_size, Path(cache_dir)

    @property
    def cache_path(self) -> Path:
        """File that the images are kept in; its name tells all they depend on."""
        sizes = "-".join(str(count) for count in self.num_images.values())
        name = f"shapes_v{_VERSION}_{sizes}_{self.image_size}px_seed{self.seed}.safetensors"
        return self.cache_dir / name

    def prepare_data(self) -> None:
        """Draw the images unless they are in the cache."""
        if not self.is_set_up:
            self._tensors()

    def _class_names(self) -> tuple[str, ...]:
        return SHAPES

    def _load(self) -> dict[str, Split]:
        tensors = self._tensors()
        return {name: _split_of(tensors, name) for name in _SPLITS}

    def _tensors(self) -> dict[str, Tensor]:
        names = {f"{split}.{part}" for split in _SPLITS for part in ("images", *FACTORS)}
        tensors = read_tensors(self.cache_path, names)
        if tensors is None:
            with one_thread():
                tensors = self._draw_all()
            write_tensors(self.cache_path, tensors)
        return tensors

    def _draw_all(self) -> dict[str, Tensor]:
        tensors = {}
        for stream, (name, num_images) in enumerate(self.num_images.items()):
            scenes = sample_scenes(num_images, seed=self.seed * len(_SPLITS) + stream)
            tensors[f"{name}.images"] = _draw_in_chunks(scenes, self.image_size)
            tensors |= {f"{name}.{factor}": getattr(scenes, factor) for factor in FACTORS}
        return tensors


def _draw_in_chunks(scenes: Scenes, image_size: int) -> Tensor:
    starts = range(0, len(scenes.shape), _CHUNK)
    return torch.cat([draw(scenes.rows(slice(i, i + _CHUNK)), image_size) for i in starts])


def _split_of(tensors: dict[str, Tensor], name: str) -> Split:
    factors = {factor: tensors[f"{name}.{factor}"] for factor in FACTORS}
    return Split(tensors[f"{name}.images"], factors["shape"], factors)
