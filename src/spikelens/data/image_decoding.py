"""Image files of any size and mode to uint8 tensors of one shape."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

_CHUNK = 128  # files a thread decodes before it reports


@dataclass(frozen=True)
class Decoded:
    """What became of some image files.

    Attributes:
        images: uint8 `(N, C, S, S)`, zero where a file is broken.
        broken: int64 `(B,)`, ascending indices of the files that cannot be read.
    """

    images: Tensor
    broken: Tensor


def decode_files(paths: Sequence[str], image_size: int, channels: int) -> Decoded:
    """Decode files with all processors, behind a progress bar on standard error.

    Args:
        paths: N files.
        image_size: Side S of the images in pixels, positive.
        channels: 3 for RGB or 1 for grey.
    """
    images = torch.empty(len(paths), channels, image_size, image_size, dtype=torch.uint8)
    rows: NDArray[np.uint8] = images.numpy()

    def decode(chunk: range) -> list[int]:
        return [i for i in chunk if not _decode_into(rows[i], paths[i])]

    chunks = [range(len(paths))[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    # PIL releases the interpreter lock while it reads and resizes.
    with _progress() as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        task = progress.add_task("Decoding images", total=len(paths))
        broken: list[int] = []
        for chunk, failed in zip(chunks, pool.map(decode, chunks), strict=True):
            broken += failed
            progress.advance(task, len(chunk))
    return Decoded(images, torch.tensor(broken, dtype=torch.int64))


def load_image(path: str, image_size: int, channels: int) -> NDArray[np.uint8]:
    """Read one image: shorter side resized, centre cropped, transparency on white.

    Of an animation the first frame is taken; a photograph is turned as its camera noted.

    Args:
        path: The file.
        image_size: Side S in pixels, positive.
        channels: 3 for RGB or 1 for grey.

    Returns:
        uint8 `(C, S, S)`.

    Raises:
        Exception: Whatever PIL raises for a file that it cannot read.
    """
    with Image.open(path) as file:
        # JPEG decodes large photographs at a fraction of their size, still twice what we need.
        file.draft(None, (2 * image_size, 2 * image_size))
        image = ImageOps.exif_transpose(file)
        image = _flattened(image).convert("L" if channels == 1 else "RGB")
    if image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(image_size, image_size, -1).transpose(2, 0, 1)


def _decode_into(row: NDArray[np.uint8], path: str) -> bool:
    """Whether the file could be read; `row` is zero otherwise."""
    try:
        row[...] = load_image(path, row.shape[1], row.shape[0])
    except Exception:  # PIL has no common base for damage; the caller names every such file
        row[...] = 0
        return False
    return True


def _flattened(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # PIL would clip 16 bits, not scale them
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA"))


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
