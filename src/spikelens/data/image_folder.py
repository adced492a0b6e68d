"""Any folder of class folders of image files."""

import hashlib
import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from spikelens.arguments import require_fractions, require_integers
from spikelens.data.base import ImageData, Split
from spikelens.data.image_decoding import Decoded, decode_files
from spikelens.data.image_files import ImageFile, ImageFiles, assign_splits, find_image_files
from spikelens.data.tensor_cache import read_tensors, write_tensors

_VERSION = 1  # of the decoding; part of the cache's key
_logger = logging.getLogger(__name__)


class ImageFolder(ImageData):
    """Image files of any size, `<root>/<class>/…` or `<root>/{train,test}/<class>/…`.

    What the folder does not split is split by seed, class by class. Images are resized by their
    shorter side, centre cropped, and kept decoded in a cache.

    Args:
        root: The folder; `val/` beside `train/` and `test/` is taken if it is there.
        image_size: Side of the images in pixels, positive.
        channels: 3 for RGB, 1 for grey.
        num_train: At most so many training images, balanced over classes; None for all.
        num_val: The same for validation.
        num_test: The same for testing.
        val_fraction: Part of the training images for validation, in (0, 1).
        test_fraction: Part of all images for testing, in (0, 1).
        cache_dir: Folder where the decoded images are kept.
        skip_broken: Whether files that cannot be read are left out, with a logged warning.
        **base: Arguments of `ImageData`.

    Raises:
        ValueError: If an argument is out of its range; in `prepare_data` or `setup`, if the folder
            is missing or badly laid out, a file cannot be read, or a split stays empty.
    """

    def __init__(
        self,
        *,
        root: str,
        image_size: int = 32,
        channels: int = 3,
        num_train: int | None = None,
        num_val: int | None = None,
        num_test: int | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        cache_dir: str = "data/cache",
        skip_broken: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        limits = {"num_train": num_train, "num_val": num_val, "num_test": num_test}
        given = {name: limit for name, limit in limits.items() if limit is not None}
        require_integers(1, image_size=image_size, **given)
        require_fractions(val_fraction=val_fraction, test_fraction=test_fraction)
        if channels not in (1, 3):
            raise ValueError(f"Argument `channels` must be 1 or 3, but got {channels!r}.")
        self.root, self.cache_dir = Path(root), Path(cache_dir)
        self.image_size, self.channels, self.limits = image_size, channels, limits
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.skip_broken = skip_broken

    def prepare_data(self) -> None:
        """Decode the chosen files unless they are in the cache."""
        if not self.is_set_up:
            self._decoded()

    @property
    def cache_path(self) -> Path:
        """File that the decoded images are kept in; named by a hash of what they depend on."""
        key = repr((_VERSION, self.image_size, self.channels, self._chosen))
        digest = hashlib.sha256(key.encode()).hexdigest()[:24]
        return self.cache_dir / f"image_folder_{digest}.safetensors"

    @cached_property
    def _found(self) -> ImageFiles:
        return find_image_files(self.root.resolve())

    @cached_property
    def _assigned(self) -> dict[str, list[ImageFile]]:
        splits = assign_splits(self._found.files, self.val_fraction, self.test_fraction, self.seed)
        return {name: files[: self.limits[f"num_{name}"]] for name, files in splits.items()}

    @cached_property
    def _chosen(self) -> list[ImageFile]:
        """The files to decode; sorted, so that another seed can use the same cache."""
        return sorted(file for files in self._assigned.values() for file in files)

    def _class_names(self) -> tuple[str, ...]:
        return self._found.classes

    def _load(self) -> dict[str, Split]:
        decoded = self._decoded()
        broken = {self._chosen[i].path for i in decoded.broken.tolist()}
        if broken:
            _logger.warning("Left out %s.", _named(sorted(broken)))
        row_by_path = {file.path: row for row, file in enumerate(self._chosen)}
        splits = {}
        for name, files in self._assigned.items():
            sound = [file for file in files if file.path not in broken]
            if not sound:
                raise ValueError(f"Folder {self.root} has no readable image for the {name} split.")
            rows = torch.tensor([row_by_path[file.path] for file in sound])
            splits[name] = Split(decoded.images[rows], torch.tensor([file.label for file in sound]))
        return splits

    def _decoded(self) -> Decoded:
        tensors = read_tensors(self.cache_path, {"images", "broken"})
        if tensors is not None and (self.skip_broken or not len(tensors["broken"])):
            return Decoded(tensors["images"], tensors["broken"])
        paths = [file.path for file in self._chosen]
        decoded = decode_files(paths, self.image_size, self.channels)
        if len(decoded.broken) and not self.skip_broken:
            names = _named([paths[i] for i in decoded.broken.tolist()])
            raise ValueError(f"Found {names}; remove them or set `skip_broken`.")
        write_tensors(self.cache_path, {"images": decoded.images, "broken": decoded.broken})
        return decoded


def _named(paths: list[str]) -> str:
    """Name the count and the first five."""
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    noun = "file" if len(paths) == 1 else "files"
    return f"{len(paths)} {noun} unreadable as an image: {', '.join(paths[:5])}{more}"
