"""Which scan runs where."""

from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Protocol

from torch import Tensor

from spikelens.kernels.dynamics import Dynamics

_COMPILERS = {"cpu": "numba", "cuda": "triton"}


class Backend(Protocol):
    """The leaky integrate-and-fire scan over time; `scan_torch` says what each function does."""

    def count(
        self,
        current: Tensor,
        num_steps: int,
        dynamics: Dynamics,
        spikes: Tensor | None,
        rate: Tensor,
        membrane: Tensor,
    ) -> None:
        """Scan without gradients and keep time means."""

    def record(
        self,
        current: Tensor,
        num_steps: int,
        dynamics: Dynamics,
        spikes: Tensor,
        membranes: Tensor,
        rested: Tensor | None,
    ) -> None:
        """Scan and keep what `backward` needs."""

    def backward(
        self,
        grad_spikes: Tensor,
        grad_rested: Tensor | None,
        membranes: Tensor,
        rested: Tensor | None,
        slope: Tensor,
        dynamics: Dynamics,
        grad_current: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Carry gradients back through a recorded scan."""


@cache
def compiler_of(device_type: str) -> str | None:
    """Return what compiles loops for a device, `numba` or `triton`; None where it is of no use.

    It is missing, or does not go with the numpy that is installed, or has nowhere to keep what it
    compiled.
    """
    compiler = _COMPILERS.get(device_type)
    if compiler is not None:
        with suppress(ImportError, RuntimeError):
            import_module(f"spikelens.kernels.scan_{compiler}")
            return compiler
    return None


@cache
def scan_of(device_type: str) -> Backend:
    """Return the fastest scan there is for a device: compiled, or in plain torch.

    Args:
        device_type: `cpu`, `cuda` or another of torch's.
    """
    compiler = compiler_of(device_type) or "torch"
    scan: Backend = import_module(f"spikelens.kernels.scan_{compiler}")
    return scan
