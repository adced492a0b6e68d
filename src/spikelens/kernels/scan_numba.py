"""The leaky integrate-and-fire scan compiled by numba: one pass over time, state in cache."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikelens.kernels.dynamics import Dynamics
from spikelens.kernels.parallel import in_parallel

# Neurons of one image that a thread scans together: their state, and a step's current and spikes,
# fit the first-level cache.
_BLOCK = 1024
_ZERO, _ONE = np.float32(0), np.float32(1)

# Without the interpreter's lock: `in_parallel` runs them on threads.
_compiled: Any = numba.njit(nogil=True, cache=True)

Floats = NDArray[np.float32]


def count(
    current: Tensor,
    num_steps: int,
    dynamics: Dynamics,
    spikes: Tensor | None,
    rate: Tensor,
    membrane: Tensor,
) -> None:
    """Scan without gradients; see `spikelens.kernels.scan_torch.count`."""
    frames, out, one = _array(current.float()), *_spike_array(spikes)
    fixed = (num_steps, *_arrays(dynamics), _array(rate), _array(membrane))
    _in_blocks(lambda *items: _count(*items, frames, *fixed, out, one), rate)


def record(
    current: Tensor,
    num_steps: int,
    dynamics: Dynamics,
    spikes: Tensor,
    membranes: Tensor,
    rested: Tensor | None,
) -> None:
    """Scan and keep what the gradient needs; see `spikelens.kernels.scan_torch.record`."""
    frames, out, one = _array(current.float()), *_spike_array(spikes)
    fixed = (num_steps, *_arrays(dynamics), _array(membranes), _array(rested))
    _in_blocks(lambda *items: _record(*items, frames, *fixed, out, one), membranes[0])


def backward(
    grad_spikes: Tensor,
    grad_rested: Tensor | None,
    membranes: Tensor,
    rested: Tensor | None,
    slope: Tensor,
    dynamics: Dynamics,
    grad_current: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run the gradient back in time; see `spikelens.kernels.scan_torch.backward`."""
    grad_beta, grad_threshold = torch.empty(2, *membranes.shape[1:])
    after = membranes if rested is None else rested
    # numpy has no bfloat16, and a sum over time must not be rounded at every step.
    is_float32 = grad_current.dtype == torch.float32
    total = grad_current if is_float32 else torch.empty(grad_current.shape)
    rests = None if grad_rested is None else grad_rested.float()
    given = [_array(x) for x in (grad_spikes.float(), rests, membranes, after, slope)]
    made = [_array(x) for x in (total, grad_beta, grad_threshold)]
    fixed = _arrays(dynamics)
    _in_blocks(lambda *items: _backward(*items, *given, *fixed, *made), grad_beta)
    if not is_float32:
        grad_current.copy_(total)
    return grad_beta.sum(0), grad_threshold.sum(0)


def _array(tensor: Tensor | None) -> NDArray[np.generic] | None:
    return None if tensor is None else tensor.detach().numpy()


def _spike_array(spikes: Tensor | None) -> tuple[NDArray[np.generic] | None, np.generic]:
    """Return where spikes go, and what a spike is there: numpy has no bfloat16, but its bits."""
    if spikes is None or spikes.dtype not in (torch.bfloat16, torch.float16):
        out = _array(spikes)
        return out, _ONE if out is None else out.dtype.type(1)
    bits = torch.ones((), dtype=spikes.dtype).view(torch.int16)
    return _array(spikes.view(torch.int16)), np.int16(bits.item())


def _arrays(dynamics: Dynamics) -> tuple[Floats, Floats, tuple[np.float32, ...] | None]:
    """Return beta, threshold, and which resets there are: 1 or 0 for each of four.

    They are: by subtraction and to zero, each one step late (in any case) and at once (if it is
    not delayed). Products with 1 and 0 are exact, so that one loop serves every reset. None stands
    for the usual one, late and by subtraction, which numba compiles apart: twice as fast.
    """
    beta, threshold = dynamics.beta.detach().numpy(), dynamics.threshold.detach().numpy()
    if dynamics.reset == "subtract" and dynamics.is_delayed:
        return beta, threshold, None
    late = [np.float32(dynamics.reset == name) for name in ("subtract", "zero")]
    return beta, threshold, (*late, *(_ZERO if dynamics.is_delayed else flag for flag in late))


def _in_blocks(work: Callable[..., None], layer: Tensor) -> None:
    in_parallel(work, len(layer) * -(-layer.shape[1] // _BLOCK))


@_compiled
def _place(item, num_neurons):
    """Return the image of a block, its first neuron and the one behind its last."""
    num_blocks = (num_neurons + _BLOCK - 1) // _BLOCK
    first = item % num_blocks * _BLOCK
    return item // num_blocks, first, min(first + _BLOCK, num_neurons)


@_compiled
def _step(state, drive, beta, threshold, resets):
    """Return one neuron's membrane before and after an immediate reset, and its spike."""
    if resets is None:
        before = beta * state + drive - (threshold if state > threshold else _ZERO)
        return before, before, _ONE if before > threshold else _ZERO
    reset = _ONE if state > threshold else _ZERO
    before = beta * ((_ONE - resets[1] * reset) * state) + drive
    before -= resets[0] * (reset * threshold)
    spike = _ONE if before > threshold else _ZERO
    excess = spike - reset
    after = before - resets[2] * (excess * threshold) - resets[3] * (excess * before)
    return before, after, spike


@_compiled
def _count(start, stop, current, num_steps, beta, threshold, resets, rate, membrane, spikes, one):
    state, fired, total = (
        np.empty(_BLOCK, np.float32),
        np.empty(_BLOCK, np.float32),
        np.empty(_BLOCK, np.float32),
    )
    silence = one - one
    for item in range(start, stop):
        n, lo, hi = _place(item, rate.shape[1])
        b, th = beta[lo:hi], threshold[lo:hi]
        state[:] = _ZERO
        fired[:] = _ZERO
        total[:] = _ZERO
        for t in range(num_steps):
            drive = current[min(t, len(current) - 1), n, lo:hi]
            if spikes is not None:
                out = spikes[t, n, lo:hi]
            for i in range(hi - lo):
                before, after, spike = _step(state[i], drive[i], b[i], th[i], resets)
                state[i] = after
                total[i] += before
                fired[i] += spike
                if spikes is not None:
                    out[i] = one if before > th[i] else silence
        for i in range(hi - lo):
            rate[n, lo + i] = fired[i] / np.float32(num_steps)
            membrane[n, lo + i] = total[i] / np.float32(num_steps)


@_compiled
def _record(
    start, stop, current, num_steps, beta, threshold, resets, membranes, rested, spikes, one
):
    state = np.empty(_BLOCK, np.float32)
    silence = one - one
    for item in range(start, stop):
        n, lo, hi = _place(item, membranes.shape[2])
        b, th = beta[lo:hi], threshold[lo:hi]
        state[:] = _ZERO
        for t in range(num_steps):
            drive = current[min(t, len(current) - 1), n, lo:hi]
            out, kept = spikes[t, n, lo:hi], membranes[t, n, lo:hi]
            if rested is not None:
                rest = rested[t, n, lo:hi]
            for i in range(hi - lo):
                before, after, _ = _step(state[i], drive[i], b[i], th[i], resets)
                state[i] = after
                kept[i] = before
                out[i] = one if before > th[i] else silence
                if rested is not None:
                    rest[i] = after


@_compiled
def _backward(
    start,
    stop,
    grad_spikes,
    grad_rested,
    membranes,
    rested,
    slope,
    beta,
    threshold,
    resets,
    grad_current,
    grad_beta,
    grad_threshold,
):
    sub, zero, sub_now, zero_now = (_ONE, _ZERO, _ZERO, _ZERO) if resets is None else resets
    carry = np.empty(_BLOCK, np.float32)
    first = np.zeros(_BLOCK, np.float32)
    for item in range(start, stop):
        n, lo, hi = _place(item, membranes.shape[2])
        b, th = beta[lo:hi], threshold[lo:hi]
        for_beta, for_threshold = grad_beta[n, lo:hi], grad_threshold[n, lo:hi]
        carry[:] = _ZERO
        for_beta[:] = _ZERO
        for_threshold[:] = _ZERO
        if len(grad_current) == 1:
            grad_current[0, n, lo:hi] = _ZERO
        for t in range(len(membranes) - 1, -1, -1):
            gs, pre, d = grad_spikes[t, n, lo:hi], membranes[t, n, lo:hi], slope[t, n, lo:hi]
            last = rested[t - 1, n, lo:hi] if t else first[: hi - lo]
            out = grad_current[min(t, len(grad_current) - 1), n, lo:hi]
            is_summed = len(grad_current) == 1
            if grad_rested is not None:
                gm = grad_rested[t, n, lo:hi]
            for i in range(hi - lo):
                mu = carry[i]
                if grad_rested is not None:
                    mu += gm[i]
                reset = _ONE if last[i] > th[i] else _ZERO
                excess = (_ONE if pre[i] > th[i] else _ZERO) - reset
                through = (gs[i] - sub_now * (th[i] * mu) - zero_now * (pre[i] * mu)) * d[i]
                lam = mu * (_ONE - zero_now * excess) + through
                back = lam * (_ONE - zero * reset)
                carry[i] = b[i] * back
                for_beta[i] += back * last[i]
                for_threshold[i] -= through + sub * (reset * lam) + sub_now * (excess * mu)
                out[i] = out[i] + lam if is_summed else lam
