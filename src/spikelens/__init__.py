"""Spikelens: show images to spiking neurons, count their spikes, find what excites them most."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikelens.am.maximize import maximize

__all__ = ["maximize"]


def __getattr__(name: str) -> Any:
    """Import what is exported when it is first asked for: torch takes seconds to import."""
    if name == "maximize":
        from spikelens.am.maximize import maximize

        return maximize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
