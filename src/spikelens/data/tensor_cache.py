"""Named tensors in a file: written as a whole or not at all, and read only when sound."""

import os
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


def read_tensors(path: Path, names: set[str]) -> dict[str, Tensor] | None:
    """Read a cache file.

    Args:
        path: Where it lies, or will lie.
        names: The tensors it must hold.

    Returns:
        The tensors by name; None where the file is missing, damaged or holds others.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError):
        return None
    if tensors.keys() != names:
        return None
    # What was loaded is a view of the file: who shortens the file would crash the program.
    return {name: tensor.clone() for name, tensor in tensors.items()}


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a cache file; another process sees the old file or the whole new one.

    Args:
        path: Where to; its folder is made.
        tensors: Contiguous tensors by name.

    Raises:
        OSError: If the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        save_file(tensors, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
