"""Checks of arguments, with one wording for all."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


def require_integers(least: int, **values: object) -> None:
    """Refuse values that are no integers of at least `least`.

    Args:
        least: Smallest value allowed.
        **values: Argument values by argument name.

    Raises:
        ValueError: If a value is no such integer.
    """
    wanted = "a positive integer" if least == 1 else f"an integer of at least {least}"
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"Argument `{name}` must be {wanted}, but got {value!r}.")


def require_fractions(**values: float) -> None:
    """Refuse values that are not strictly between 0 and 1.

    Args:
        **values: Argument values by argument name.

    Raises:
        ValueError: If a value is out of its range.
    """
    for name, value in values.items():
        if not _is_number(value) or not 0.0 < value < 1.0:
            raise ValueError(f"Argument `{name}` must lie between 0 and 1, but got {value!r}.")


def require_shares(**values: float) -> None:
    """Refuse values outside of [0, 1].

    Args:
        **values: Argument values by argument name.

    Raises:
        ValueError: If a value is no number in that range.
    """
    for name, value in values.items():
        if not _is_number(value) or not 0.0 <= value <= 1.0:
            raise ValueError(f"Argument `{name}` must lie in [0, 1], but got {value!r}.")


def require_amounts(**values: float) -> None:
    """Refuse values that are negative or infinite.

    Args:
        **values: Argument values by argument name.

    Raises:
        ValueError: If a value is no number in that range.
    """
    for name, value in values.items():
        if not _is_number(value) or not 0.0 <= value < math.inf:
            raise ValueError(
                f"Argument `{name}` must be finite and not negative, but got {value!r}."
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def to_tensor(values: Any) -> Tensor:
    """Return what a caller holds in a tensor, an array or nested lists as a tensor.

    Args:
        values: Numbers; a tensor is returned as it is, anything else is copied.

    Raises:
        TypeError: If they are no numbers.
        ValueError: If they are ragged.
    """
    # Not `torch.as_tensor`, which warns of arrays that cannot be written to.
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
