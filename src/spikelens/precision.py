"""The precision of a search, by name."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

PRECISIONS = ("auto", "bfloat16", "float32")
# CPU instructions with which bfloat16 products are faster than float32 ones; without them torch
# emulates bfloat16, hundreds of times slower.
_FAST = ("amx_bf16", "avx512_bf16")


def require_precision(precision: str) -> None:
    """Refuse a precision that is not one of `PRECISIONS`.

    Raises:
        ValueError: If it is another one.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"Argument `precision` must be {', '.join(PRECISIONS)}, but got {precision!r}."
        )


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Open a context in which convolutions and matrix products run in a precision.

    In `bfloat16` spikes are exact, and membranes, their sums and thresholds stay float32; weights
    and currents are rounded to 8 bits. `auto` is bfloat16 where the device is faster in it. In
    `float32` a GPU, too, computes in float32: by itself it convolves in TF32, of 10 bits, which is
    enough to move spikes; torch's older flags, `allow_tf32` and those of
    `torch.backends.cudnn.flags`, cannot be read meanwhile.

    Args:
        precision: One of `PRECISIONS`.
        device: Where the work is done.

    Raises:
        ValueError: If the precision is unknown.
    """
    half = is_half(precision, device)
    plain = not half and device.type == "cuda"
    with (
        torch.autocast(device.type, torch.bfloat16, enabled=half),
        _without_tf32() if plain else nullcontext(),
    ):
        yield


@contextmanager
def _without_tf32() -> Iterator[None]:
    backends: list[Any] = [torch.backends.cudnn.conv, torch.backends.cuda.matmul]  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def is_half(precision: str, device: torch.device) -> bool:
    """Return whether a precision is bfloat16 on a device; arguments and errors as above."""
    require_precision(precision)
    return precision == "bfloat16" or (precision == "auto" and _has_fast_half(device))


def _has_fast_half(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Newer than the oldest torch we run on.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and any(capabilities.get(name, False) for name in _FAST)
