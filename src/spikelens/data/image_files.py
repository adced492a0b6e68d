"""Which image files a folder holds, and which split each belongs to."""

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True, order=True)
class ImageFile:
    """One image file as it lay when the folder was scanned.

    Attributes:
        path: Where it lies.
        num_bytes: Its size.
        changed: Its modification time in nanoseconds.
        label: Index of its class.
    """

    path: str
    num_bytes: int
    changed: int
    label: int


@dataclass(frozen=True)
class ImageFiles:
    """The files of a folder.

    Attributes:
        classes: Names in alphabetical order; a label is an index into it.
        files: By `train`, `test` and maybe `val`, or by `all` where the folder does not split.
            Sorted by path.
    """

    classes: tuple[str, ...]
    files: dict[str, tuple[ImageFile, ...]]


def find_image_files(root: Path) -> ImageFiles:
    """Look through class folders, or through `train/`, `test/` and maybe `val/` holding them.

    Folders and files that begin with a dot are passed over; class folders may have subfolders.

    Args:
        root: The folder.

    Raises:
        ValueError: If the folder is missing, has no class folders, has `train/` but no `test/`,
            if a class folder has no image, or a class of `test/` or `val/` is not in `train/`.
    """
    if not root.is_dir():
        raise ValueError(f"Argument `root` must be an existing folder, but got {str(root)!r}.")
    if not _folders(root / "train"):
        classes = _classes(root)
        return ImageFiles(classes, {"all": _labelled(root, classes, classes)})
    if not (root / "test").is_dir():
        raise ValueError(f"Folder {root} has train/ but no test/; both are needed, or neither.")
    classes = _classes(root / "train")
    names = [name for name in ("train", "val", "test") if (root / name).is_dir()]
    files = {name: _labelled(root / name, _classes(root / name), classes) for name in names}
    return ImageFiles(classes, files)


def assign_splits(
    files: dict[str, tuple[ImageFile, ...]], val_fraction: float, test_fraction: float, seed: int
) -> dict[str, list[ImageFile]]:
    """Split by seed and class what is not split yet, and shuffle.

    Any first few files of a split are balanced over the classes, as far as these reach.

    Args:
        files: As in `ImageFiles`.
        val_fraction: Part of each class for `val`, in (0, 1), where the folder has none.
        test_fraction: The same for `test`.
        seed: The splits are a function of the files and the seed.

    Returns:
        Files of `train`, `val` and `test`; at least one of each class in those drawn here.

    Raises:
        ValueError: If a class has too few images to be split.
    """
    rng = random.Random(seed)
    given = {name: _shuffled_by_class(group, rng) for name, group in files.items()}
    splits = {"train": given["all"] if "all" in given else given["train"]}
    for name, fraction in (("val", val_fraction), ("test", test_fraction)):
        splits[name] = given[name] if name in given else _take(splits["train"], fraction)
    return {name: _deal(groups, rng) for name, groups in splits.items()}


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _classes(folder: Path) -> tuple[str, ...]:
    names = _folders(folder)
    if not names:
        raise ValueError(
            f"Folder {folder} has no class folders; wanted is <root>/<class>/*.jpg, or "
            "<root>/train/<class>/*.jpg and <root>/test/<class>/*.jpg."
        )
    return tuple(names)


def _labelled(folder: Path, names: Sequence[str], classes: Sequence[str]) -> tuple[ImageFile, ...]:
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise ValueError(f"Folder {folder} has classes that train/ lacks: {', '.join(unknown)}.")
    found: list[ImageFile] = []
    for name in names:
        own = list(_images_below(folder / name, classes.index(name)))
        if not own:
            raise ValueError(
                f"Class folder {folder / name} has no image; known are {', '.join(SUFFIXES)}."
            )
        found += own
    return tuple(sorted(found))


def _images_below(folder: str | Path, label: int) -> Iterator[ImageFile]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _images_below(entry.path, label)
            elif entry.name.lower().endswith(SUFFIXES):
                status = entry.stat()
                yield ImageFile(entry.path, status.st_size, status.st_mtime_ns, label)


def _shuffled_by_class(
    files: tuple[ImageFile, ...], rng: random.Random
) -> dict[int, list[ImageFile]]:
    by_class: dict[int, list[ImageFile]] = {}
    for file in files:
        by_class.setdefault(file.label, []).append(file)
    for group in by_class.values():
        rng.shuffle(group)
    return by_class


def _take(by_class: dict[int, list[ImageFile]], fraction: float) -> dict[int, list[ImageFile]]:
    """Take a fraction of each class out of it, at least one file."""
    taken = {}
    for label, group in by_class.items():
        count = max(1, round(len(group) * fraction))
        if count >= len(group):
            raise ValueError(
                f"Folder {Path(group[0].path).parent} has too few images to be split; add some, or "
                "make `val_fraction` and `test_fraction` smaller."
            )
        taken[label], by_class[label] = group[:count], group[count:]
    return taken


def _deal(by_class: dict[int, list[ImageFile]], rng: random.Random) -> list[ImageFile]:
    """Mix the classes in rounds, one file of each class a round, in random order."""
    dealt: list[ImageFile] = []
    for dealt_round in zip_longest(*by_class.values()):
        hand = [file for file in dealt_round if file is not None]
        rng.shuffle(hand)
        dealt += hand
    return dealt
