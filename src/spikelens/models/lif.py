"""Leaky integrate-and-fire layers scanned over time, on snntorch's `Leaky` neuron."""

from collections.abc import Callable
from typing import NamedTuple

import snntorch
import torch
from torch import Tensor, nn

from spikelens.arguments import require_integers


class Scan(NamedTuple):
    """What a layer did over all time steps.

    Attributes:
        spikes: 0 or 1, float, `(T, N, ...)`.
        membrane: Mean over time of the membrane potential just before its reset, in units of
            the threshold's scale, `(N, ...)`; None where gradients are recorded, since training
            has no use for it.
    """

    spikes: Tensor
    membrane: Tensor | None


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons that always start at rest.

    `mem_t = beta * mem_{t-1} + I_t - spk_{t-1} * threshold`, `spk_t = [mem_t > threshold]`
    (reset by subtraction, one step late: snntorch's default).

    Args:
        num_steps: Number of time steps T, positive.
        beta: Membrane decay a step, in [0, 1].
        threshold: Membrane potential that makes a spike, positive.
        surrogate: Surrogate of the spike's derivative, from `snntorch.surrogate`; None for atan.
        reset: `subtract`, `zero` or `none`.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Eshraghian et al., "Training spiking neural networks using lessons from deep
    learning", Proc. IEEE 2023.
    """

    def __init__(
        self,
        num_steps: int,
        beta: float = 0.9,
        threshold: float = 1.0,
        surrogate: Callable[[Tensor], Tensor] | None = None,
        reset: str = "subtract",
    ) -> None:
        super().__init__()
        require_integers(1, num_steps=num_steps)
        if not 0.0 <= beta <= 1.0:
            raise ValueError(f"Argument `beta` must lie in [0, 1], but got {beta}.")
        if threshold <= 0.0:
            raise ValueError(f"Argument `threshold` must be positive, but got {threshold}.")
        if reset not in ("subtract", "zero", "none"):
            raise ValueError(
                f"Argument `reset` must be 'subtract', 'zero' or 'none', but got {reset!r}."
            )
        self.num_steps, self.reset = num_steps, reset
        self.leaky = snntorch.Leaky(
            beta=beta, threshold=threshold, spike_grad=surrogate, reset_mechanism=reset
        )

    def forward(self, current: Tensor) -> Scan:
        """Integrate a current and fire.

        Args:
            current: Input current, `(T, N, units, ...)`, or `(1, N, ...)` for a constant one.

        Returns:
            The spikes and the mean membrane potential, in that shape; units last in memory.
        """
        # Units last in memory, as the convolutions before and behind run fastest.
        steps = current.expand(self.num_steps, *current.shape[1:]).movedim(2, -1)
        scan = self._learn if torch.is_grad_enabled() else self._count
        spikes, membrane = scan(steps)
        return Scan(spikes.movedim(-1, 2), None if membrane is None else membrane.movedim(-1, 1))

    def _learn(self, steps: Tensor) -> Scan:
        """Scan by snntorch, with its surrogate gradient."""
        membrane = torch.zeros_like(steps[0])
        spikes = []
        for step in steps:
            spike, membrane = self.leaky(step, membrane)
            spikes.append(spike)
        # snntorch keeps the last membrane (and its graph) in the module: let go of it.
        self.leaky.mem = torch.zeros(0, device=steps.device)
        return Scan(torch.stack(spikes), None)

    def _count(self, steps: Tensor) -> Scan:
        """Scan without gradients: snntorch's arithmetic bit for bit, in place.

        A step of `snntorch.Leaky` makes about ten temporaries as large as the layer; searches
        live here, and this takes four passes over memory that stays in cache.
        """
        beta, threshold = self.leaky.beta.clamp(0, 1), self.leaky.threshold
        spikes = torch.empty(steps.shape, dtype=steps.dtype, device=steps.device)
        total = torch.zeros_like(spikes[0])
        # A slice of the batch at a time, about 2^16 neurons, is what a core's cache holds.
        rows = max(1, 2**16 // max(1, total[0].numel()))
        for part in range(0, len(total), rows):
            here = slice(part, part + rows)
            membrane = torch.zeros_like(total[here])
            for step, current in enumerate(steps[:, here]):
                if step and self.reset == "zero":
                    membrane.mul_(1.0 - spikes[step - 1, here])
                membrane.mul_(beta).add_(current)
                if step and self.reset == "subtract":
                    membrane.sub_(spikes[step - 1, here] * threshold)
                torch.gt(membrane, threshold, out=spikes[step, here])
                total[here] += membrane
        return Scan(spikes, total / self.num_steps)


class SpikingLayer(LIF):
    """A stateless synapse followed by LIF neurons; its dotted name is the layer's name.

    Args:
        synapse: Maps `(N, ...)` to currents `(N, units, ...)`; runs with time folded into the
            batch, and once only where its input is constant in time.
        num_steps: Number of time steps T.
        **neuron: `beta`, `threshold`, `surrogate`, `reset` of `LIF`.
    """

    def __init__(self, synapse: nn.Module, num_steps: int, **neuron: object) -> None:
        super().__init__(num_steps, **neuron)  # type: ignore[arg-type]
        self.synapse = synapse

    def forward(self, inputs: Tensor) -> Scan:
        """Scan the neurons over the currents that `inputs` `(T or 1, N, ...)` evoke."""
        current = self.synapse(inputs.flatten(0, 1))
        return super().forward(current.unflatten(0, inputs.shape[:2]))
