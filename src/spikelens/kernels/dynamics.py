"""The constants of a layer of leaky integrate-and-fire neurons, as every scan takes them."""

from typing import NamedTuple

from torch import Tensor


class Dynamics(NamedTuple):
    """How M leaky integrate-and-fire neurons decay, fire and reset.

    Attributes:
        beta: Membrane decay a step, already clamped to [0, 1], `(M,)` float32.
        threshold: Membrane potential above which a neuron fires, `(M,)` float32.
        reset: `subtract`, `zero` or `none`.
        is_delayed: Whether the reset comes one step after its spike (snntorch's
            `reset_delay=True`, the default) rather than with it.
    """

    beta: Tensor
    threshold: Tensor
    reset: str
    is_delayed: bool
