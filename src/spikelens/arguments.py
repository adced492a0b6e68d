"""Checks of constructor arguments, with one wording for all."""


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
        if not 0.0 < value < 1.0:
            raise ValueError(f"Argument `{name}` must lie between 0 and 1, but got {value!r}.")
