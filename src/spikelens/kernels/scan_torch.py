"""The leaky integrate-and-fire scan over time in plain torch, on any device.

With `r_t = [m_{t-1} > th]` (`m_{-1} = 0`), `d_t` the surrogate's slope, and every operation in
float32 and rounded on its own, as in `snntorch.Leaky`:

    pre_t = beta m_{t-1} + I_t - r_t th             reset by subtraction
    pre_t = beta (1 - r_t) m_{t-1} + I_t            reset to zero
    s_t   = [pre_t > th]
    m_t   = pre_t                                   delayed reset
    m_t   = pre_t - (s_t - r_t) (th or pre_t)       immediate reset, by subtraction or to zero

`pre` is the `membranes` of the functions below, `m` the `rested`. Nothing here is recorded by
autograd: call it where gradients are off.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from spikelens.kernels.dynamics import Dynamics


def count(
    current: Tensor,
    num_steps: int,
    dynamics: Dynamics,
    spikes: Tensor | None,
    rate: Tensor,
    membrane: Tensor,
) -> None:
    """Scan without gradients and keep time means.

    Args:
        current: Input current, `(F, N, M)` float32, bfloat16 or float16; F is `num_steps`, or
            1 for a constant current.
        num_steps: Number of time steps T.
        dynamics: Constants of the M neurons.
        spikes: Filled with 0 and 1, `(T, N, M)` uint8, bfloat16, float16 or float32; None to
            leave them out.
        rate: Filled with the mean over time of the spikes, `(N, M)` float32, in [0, 1].
        membrane: Filled with the mean over time of the membrane just before its reset,
            `(N, M)` float32.
    """
    for rows in _parts(rate):
        total, fires = membrane[rows].zero_(), rate[rows].zero_()
        state, fired = torch.zeros_like(total), torch.empty_like(total)
        resets = fired if dynamics.is_delayed else torch.empty_like(total)
        torch.gt(state, dynamics.threshold, out=fired)
        for step in range(num_steps):
            if not dynamics.is_delayed:
                torch.gt(state, dynamics.threshold, out=resets)
            _charge(state, current[min(step, len(current) - 1), rows], resets, dynamics, state)
            total += state
            # With a delayed reset these are also the next step's resets.
            torch.gt(state, dynamics.threshold, out=fired)
            fires += fired
            if spikes is not None:
                spikes[step, rows] = fired
            if not dynamics.is_delayed:
                _rest(state, fired, resets, dynamics, state)
        total /= num_steps
        fires /= num_steps


def record(
    current: Tensor,
    num_steps: int,
    dynamics: Dynamics,
    spikes: Tensor,
    membranes: Tensor,
    rested: Tensor | None,
) -> None:
    """Scan and keep what `backward` needs.

    Args:
        current: Input current, `(F, N, M)` float32, bfloat16 or float16; F is `num_steps`, or
            1 for a constant current.
        num_steps: Number of time steps T.
        dynamics: Constants of the M neurons.
        spikes: Filled with 0 and 1, `(T, N, M)`.
        membranes: Filled with the membranes before their reset, `(T, N, M)` float32.
        rested: Filled with the membranes after an immediate reset, `(T, N, M)` float32; None
            if the reset is delayed, as the two are then the same.
    """
    states = membranes if rested is None else rested
    for rows in _parts(membranes[0]):
        state = torch.zeros_like(membranes[0, rows])
        fired, resets = torch.empty_like(state), torch.empty_like(state)
        for step in range(num_steps):
            charged = membranes[step, rows]
            torch.gt(state, dynamics.threshold, out=resets)
            _charge(state, current[min(step, len(current) - 1), rows], resets, dynamics, charged)
            torch.gt(charged, dynamics.threshold, out=fired)
            spikes[step, rows] = fired
            state = states[step, rows]
            if rested is not None:
                _rest(charged, fired, resets, dynamics, state)


def backward(
    grad_spikes: Tensor,
    grad_rested: Tensor | None,
    membranes: Tensor,
    rested: Tensor | None,
    slope: Tensor,
    dynamics: Dynamics,
    grad_current: Tensor,
) -> tuple[Tensor, Tensor]:
    """Carry gradients back through a recorded scan.

    Resets are constants to the gradient, as in snntorch, but what they take away is not: the
    threshold, and with an immediate reset the spike that sets it off, learn from it.

    Args:
        grad_spikes: Gradient with respect to the spikes, `(T, N, M)`.
        grad_rested: Gradient with respect to the membranes at the end of each step (`rested`,
            or `membranes` if the reset is delayed), `(T, N, M)`; None for zero.
        membranes: Membranes before their reset, from `record`, `(T, N, M)` float32.
        rested: Membranes after an immediate reset, from `record`; None if it is delayed.
        slope: The surrogate's derivative at `membranes - threshold`, `(T, N, M)` float32.
        dynamics: Constants of the M neurons.
        grad_current: Filled with the gradient with respect to the current, `(F, N, M)`, summed
            over time where F is 1.

    Returns:
        The gradients with respect to beta and to the threshold, each `(M,)` float32.
    """
    states = membranes if rested is None else rested
    grad_beta, grad_threshold = torch.zeros_like(states[0]), torch.zeros_like(states[0])
    is_constant = len(grad_current) < len(slope)
    for rows in _parts(membranes[0]):
        carry, zero = torch.zeros_like(states[0, rows]), torch.zeros_like(states[0, rows])
        sums = (grad_beta[rows], grad_threshold[rows])
        total = torch.zeros_like(carry)
        for step in reversed(range(len(slope))):
            mu = carry if grad_rested is None else carry + grad_rested[step, rows]
            before = states[step - 1, rows] if step else zero
            now = (grad_spikes[step, rows], membranes[step, rows], slope[step, rows])
            lam, carry = _step_back(mu, before, now, dynamics, sums)
            if is_constant:
                total += lam
            else:
                grad_current[step, rows] = lam
        if is_constant:
            grad_current[0, rows] = total
    return grad_beta.sum(0), grad_threshold.sum(0)


def _parts(layer: Tensor) -> Iterator[slice]:
    """Slices of the batch of about 2^16 neurons, what a core's cache holds; a GPU takes all."""
    is_cpu = layer.device.type == "cpu"
    num_rows = max(1, 2**16 // max(1, layer.shape[1]) if is_cpu else len(layer))
    for start in range(0, len(layer), num_rows):
        yield slice(start, start + num_rows)


def _charge(
    state: Tensor, current: Tensor, resets: Tensor, dynamics: Dynamics, out: Tensor
) -> None:
    """Write `pre_t` to `out`, which may be `state`, `m_{t-1}`.

    Products with `resets`, 0 or 1, are exact, so `addcmul` rounds once however it is compiled.
    """
    if dynamics.reset == "zero":
        state = torch.addcmul(state, resets, state, value=-1, out=out)
    torch.mul(state, dynamics.beta, out=out).add_(current)
    if dynamics.reset == "subtract":
        out.addcmul_(resets, dynamics.threshold, value=-1)


def _rest(charged: Tensor, fired: Tensor, resets: Tensor, dynamics: Dynamics, out: Tensor) -> None:
    """Write `m_t` after an immediate reset to `out`, which may be `charged`, `pre_t`."""
    if dynamics.reset == "none":
        out.copy_(charged)
        return
    taken = dynamics.threshold if dynamics.reset == "subtract" else charged
    # A neuron still above its threshold after its reset has already paid at this step's start.
    torch.addcmul(charged, fired - resets, taken, value=-1, out=out)


def _step_back(
    mu: Tensor,
    before: Tensor,
    now: tuple[Tensor, Tensor, Tensor],
    dynamics: Dynamics,
    sums: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Go one step back in time.

    Args:
        mu: Gradient with respect to `m_t`, `(N, M)`.
        before: `m_{t-1}`, `(N, M)`.
        now: Gradient with respect to `s_t`, then `pre_t`, then `d_t`, each `(N, M)`.
        dynamics: Constants of the M neurons.
        sums: Gradients with respect to beta and the threshold, `(N, M)`, added to.

    Returns:
        The gradients with respect to `pre_t` (and so to `I_t`) and to `m_{t-1}`.
    """
    q, charged, slope = now
    beta, threshold, reset, is_delayed = dynamics
    resets = (before > threshold).to(before.dtype)
    lam = mu
    if not is_delayed and reset != "none":
        owed = (charged > threshold).to(before.dtype) - resets
        q = q - mu * (threshold if reset == "subtract" else charged)
        if reset == "subtract":
            sums[1].sub_(owed * mu)
        else:
            lam = mu * (1 - owed)
    through = q * slope
    lam = lam + through
    sums[1].sub_(through)
    if reset == "subtract":
        sums[1].sub_(resets * lam)
    kept = 1 - resets if reset == "zero" else torch.ones_like(resets)
    sums[0].add_(lam * kept * before)
    return lam, beta * lam * kept
