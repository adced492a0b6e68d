"""Leaky integrate-and-fire layers scanned over time, with snntorch's `Leaky` semantics."""

import math
from collections.abc import Callable
from inspect import getclosurevars
from typing import Any, NamedTuple

import snntorch
import snntorch.surrogate
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spikelens.arguments import require_integers
from spikelens.kernels.dynamics import Dynamics
from spikelens.kernels.scan import compiler_of, scan_of
from spikelens.models.synapse import Convolution

Surrogate = Callable[[Tensor], Tensor]


class Scan(NamedTuple):
    """What a layer did over all time steps.

    Attributes:
        spikes: 0 or 1, `(T, N, ...)`: float where gradients are recorded or a convolution wants
            it, else uint8. None where only the means were asked for.
        rate: Mean over time of the spikes, float32 `(N, ...)` in [0, 1]; None where gradients are
            recorded, since training has no use for it (but see `LIF.keeps_means`), or where
            `membranes` were asked for.
        membrane: Mean over time of the membrane potential just before its reset (where gradients
            are recorded, behind an immediate one), in units of the threshold's scale, float32
            `(N, ...)`; None where `rate` is.
        membranes: Membrane potential at the end of each step, as snntorch returns it, float32
            `(T, N, ...)`; None unless asked for.
    """

    spikes: Tensor
    rate: Tensor | None = None
    membrane: Tensor | None = None
    membranes: Tensor | None = None


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons that always start at rest.

    `mem_t = beta * mem_{t-1} + I_t - spk_{t-1} * threshold`, `spk_t = [mem_t > threshold]`
    (reset by subtraction, one step late: snntorch's default).

    Args:
        num_steps: Number of time steps T, positive.
        beta: Membrane decay a step, in [0, 1]; one, or one a neuron: a tensor that can be
            expanded to one image's neurons `(units, ...)`.
        threshold: Membrane potential that makes a spike, positive; one, or one a neuron.
        surrogate: Surrogate of the spike's derivative, from `snntorch.surrogate`; None for atan.
        reset: `subtract`, `zero` or `none`.
        is_delayed: Whether the reset comes one step after the spike.
        learns_beta: Whether `beta` is a parameter; it is clamped to [0, 1] when used.
        learns_threshold: Whether `threshold` is a parameter.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Eshraghian et al., "Training spiking neural networks using lessons from deep
    learning", Proc. IEEE 2023.
    """

    def __init__(
        self,
        num_steps: int,
        beta: float | Tensor = 0.9,
        threshold: float | Tensor = 1.0,
        surrogate: Surrogate | None = None,
        reset: str = "subtract",
        is_delayed: bool = True,
        learns_beta: bool = False,
        learns_threshold: bool = False,
    ) -> None:
        super().__init__()
        require_integers(1, num_steps=num_steps)
        decay, level = torch.as_tensor(beta), torch.as_tensor(threshold)
        if not bool(((decay >= 0.0) & (decay <= 1.0)).all()):
            raise ValueError(f"Argument `beta` must lie in [0, 1], but got {beta}.")
        if not bool((level > 0.0).all()):
            raise ValueError(f"Argument `threshold` must be positive, but got {threshold}.")
        if reset not in ("subtract", "zero", "none"):
            raise ValueError(
                f"Argument `reset` must be 'subtract', 'zero' or 'none', but got {reset!r}."
            )
        self.num_steps, self.reset, self.is_delayed = num_steps, reset, is_delayed
        # Without gradients: whether spikes are written, or their means alone.
        self.keeps_spikes = True
        # With gradients: whether the means are kept too, to be differentiated themselves.
        self.keeps_means = False
        # Holds the constants and the surrogate; its own step by step forward is never called.
        self.leaky = snntorch.Leaky(
            beta=beta,
            threshold=threshold,
            spike_grad=surrogate,
            learn_beta=learns_beta,
            learn_threshold=learns_threshold,
            reset_mechanism=reset,
            reset_delay=is_delayed,
        )

    def forward(self, current: Tensor, keeps_membranes: bool = False) -> Scan:
        """Integrate a current and fire.

        Args:
            current: Input current, float `(T, N, units, ...)`, or `(1, N, ...)` for a constant one.
            keeps_membranes: Whether membranes are wanted.

        Returns:
            What the neurons did, in that shape; units last in memory, as the convolutions before
            and behind run fastest.

        Raises:
            ValueError: If the current has neither 1 nor T steps.
        """
        if len(current) not in (1, self.num_steps):
            raise ValueError(
                f"Argument `current` must have {self.num_steps} time steps, or 1 if constant, "
                f"but got {len(current)}."
            )
        units_last = current.movedim(2, -1)
        neurons = units_last.shape[2:]
        frames = units_last.flatten(2).contiguous()  # (T or 1, N, M)
        constants = (
            self._of_each(self.leaky.beta.clamp(0, 1), neurons),
            self._of_each(self.leaky.threshold, neurons),
        )
        if torch.is_grad_enabled() or keeps_membranes:
            scan = self._record(frames, constants, keeps_membranes)
        else:
            scan = self._count(frames, constants)
        steps = [
            None if x is None else x.unflatten(-1, neurons).movedim(-1, x.dim() - 1) for x in scan
        ]
        return Scan(*steps)  # type: ignore[arg-type]

    @staticmethod
    def _of_each(values: Tensor, neurons: torch.Size) -> Tensor:
        """Expand constants to `(M,)` for neurons `(..., units)`, units last."""
        shape = neurons[-1:] + neurons[:-1]
        out: Tensor = values.float().expand(shape).movedim(0, -1).flatten().contiguous()
        return out

    def _record(
        self, frames: Tensor, constants: tuple[Tensor, Tensor], keeps_membranes: bool
    ) -> Scan:
        reset = self.reset, self.is_delayed
        spikes, membranes = _Record.apply(
            frames, *constants, self.num_steps, reset, self.leaky.spike_grad
        )
        rate = membrane = None
        if self.keeps_means:
            rate, membrane = spikes.float().mean(0), membranes.mean(0)
        return Scan(spikes, rate, membrane, membranes if keeps_membranes else None)

    def _count(self, frames: Tensor, constants: tuple[Tensor, Tensor]) -> Scan:
        dynamics = Dynamics(*constants, self.reset, self.is_delayed)
        rate, membrane = torch.empty(
            (2, *frames.shape[1:]), dtype=torch.float32, device=frames.device
        )
        spikes = None
        if self.keeps_spikes:
            shape = self.num_steps, *rate.shape
            spikes = torch.empty(shape, dtype=spike_type(frames.device), device=frames.device)
        scan_of(frames.device.type).count(frames, self.num_steps, dynamics, spikes, rate, membrane)
        return Scan(spikes, rate, membrane)  # type: ignore[arg-type]


def spike_type(device: torch.device) -> torch.dtype:
    """Return the type in which the convolutions of a device read spikes fastest, without gradients.

    It is that of autocast where that is on, bytes where convolutions go by events, else float32.
    """
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return torch.uint8 if device.type == "cpu" and compiler_of("cpu") else torch.float32


class _Record(torch.autograd.Function):
    """The scan of `(T or 1, N, M)` currents, and its gradient by the surrogate."""

    @staticmethod
    def forward(
        ctx: Any,
        frames: Tensor,
        beta: Tensor,
        threshold: Tensor,
        num_steps: int,
        reset: tuple[str, bool],
        surrogate: Surrogate,
    ) -> tuple[Tensor, Tensor]:
        shape = num_steps, *frames.shape[1:]
        spikes = torch.empty(shape, dtype=frames.dtype, device=frames.device)
        membranes = torch.empty(shape, dtype=torch.float32, device=frames.device)
        rested = None if reset[1] else torch.empty_like(membranes)
        dynamics = Dynamics(beta, threshold, *reset)
        scan_of(frames.device.type).record(frames, num_steps, dynamics, spikes, membranes, rested)
        ctx.save_for_backward(membranes, rested, beta, threshold)
        ctx.set_materialize_grads(False)
        ctx.reset, ctx.surrogate, ctx.frames = reset, surrogate, (frames.shape, frames.dtype)
        return spikes, membranes if rested is None else rested

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_rested: Tensor | None) -> Any:
        membranes, rested, beta, threshold = ctx.saved_tensors
        if grad_spikes is None:
            grad_spikes = torch.zeros_like(membranes)
        shape, dtype = ctx.frames
        grad_current = torch.empty(shape, dtype=dtype, device=membranes.device)
        grad_beta, grad_threshold = scan_of(membranes.device.type).backward(
            grad_spikes.contiguous(),
            None if grad_rested is None else grad_rested.contiguous(),
            membranes,
            rested,
            _slope(ctx.surrogate, membranes, threshold),
            Dynamics(beta, threshold, *ctx.reset),
            grad_current,
        )
        return grad_current, grad_beta, grad_threshold, None, None, None


def _slope(surrogate: Surrogate, membranes: Tensor, threshold: Tensor) -> Tensor:
    """Differentiate a surrogate at membranes `(T, N, M)`."""
    slope = torch.empty_like(membranes)
    # A slice at a time, about 2^16 neurons, is what a core's cache holds; a GPU takes all at once.
    rows = max(1, 2**16 // len(threshold)) if membranes.device.type == "cpu" else membranes.numel()
    derivative = _derivative(surrogate)
    for part, out in zip(
        membranes.flatten(0, 1).split(rows), slope.flatten(0, 1).split(rows), strict=True
    ):
        derivative(torch.sub(part, threshold, out=out))
    return slope


def _derivative(surrogate: Surrogate) -> Callable[[Tensor], object]:
    """Return a function that replaces distances from the threshold by the surrogate's slope.

    snntorch's usual surrogates are closures whose backward pass takes ten temporaries: their
    formulas are applied in place. Any other one is differentiated by its own backward pass.
    """
    kind = getattr(surrogate, "__qualname__", "").removesuffix(".<locals>.inner")
    if getattr(surrogate, "__module__", "") == snntorch.surrogate.__name__:
        constants = getclosurevars(surrogate).nonlocals
        if kind == "atan":  # a / 2 / (1 + (pi a x / 2)^2)
            half = constants["alpha"] / 2
            return lambda x: x.mul_(math.pi * half).square_().add_(1).reciprocal_().mul_(half)
        if kind == "fast_sigmoid":  # 1 / (1 + k |x|)^2
            return lambda x: x.abs_().mul_(constants["slope"]).add_(1).square_().reciprocal_()

    def differentiate(x: Tensor) -> None:
        with torch.enable_grad():
            distance = x.clone().requires_grad_()
            spikes = surrogate(distance)
        x.copy_(torch.autograd.grad(spikes, distance, torch.ones_like(spikes))[0])

    return differentiate


class SpikingLayer(LIF):
    """A stateless synapse followed by LIF neurons; its dotted name is the layer's name.

    Args:
        synapse: Maps `(N, ...)` to currents `(N, units, ...)`; runs with time folded into the
            batch, and once only where its input is constant in time.
        num_steps: Number of time steps T.
        **neuron: `beta`, `threshold`, `surrogate`, `reset` and the like of `LIF`.
    """

    def __init__(self, synapse: nn.Module, num_steps: int, **neuron: object) -> None:
        super().__init__(num_steps, **neuron)  # type: ignore[arg-type]
        self.synapse = synapse

    def forward(  # type: ignore[override]
        self, inputs: Tensor, residual: Tensor | None = None
    ) -> Scan:
        """Scan the neurons over the currents that `inputs` `(T or 1, N, ...)` evoke.

        A residual current `(T or 1, N, units, ...)` is added to them.
        """
        folded = inputs.flatten(0, 1)
        if folded.dtype == torch.uint8 and not isinstance(self.synapse, Convolution):
            folded = folded.float()
        current = self.synapse(folded).unflatten(0, inputs.shape[:2])
        return super().forward(current if residual is None else current + residual)
