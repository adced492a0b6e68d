# Triton gives annotations a meaning of its own, and its compile-time arguments are in capitals.
# ruff: noqa: N803
# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, untyped-decorator"
"""The leaky integrate-and-fire scan over time as Triton kernels, for tensors on a GPU.

The same functions and equations as in `spikelens.kernels.scan_torch`, in one pass over time: a
program holds a block of neurons in registers, and each current and each spike crosses memory
once. Needs the package `triton`: import this module only where it is installed.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from spikelens.kernels.dynamics import Dynamics

# A neuron a thread: the scan waits for memory, which many small programs hide best.
BLOCK = 128
# By default the compiler contracts `beta * m + I` to one rounding; torch rounds twice, and one
# last bit is enough to move a spike.
OPTIONS = {"BLOCK": BLOCK, "num_warps": BLOCK // 32, "enable_fp_fusion": False}


def count(
    current: Tensor,
    num_steps: int,
    dynamics: Dynamics,
    spikes: Tensor | None,
    rate: Tensor,
    membrane: Tensor,
) -> None:
    """Scan without gradients and keep time means; arguments as in `scan_torch.count`."""
    _launch(_count, rate, (current, spikes, rate, membrane), num_steps, len(current), dynamics)


def record(
    current: Tensor,
    num_steps: int,
    dynamics: Dynamics,
    spikes: Tensor,
    membranes: Tensor,
    rested: Tensor | None,
) -> None:
    """Scan and keep what `backward` needs; arguments as in `scan_torch.record`."""
    tensors = (current, spikes, membranes, rested)
    _launch(_record, membranes[0], tensors, num_steps, len(current), dynamics)


def backward(
    grad_spikes: Tensor,
    grad_rested: Tensor | None,
    membranes: Tensor,
    rested: Tensor | None,
    slope: Tensor,
    dynamics: Dynamics,
    grad_current: Tensor,
) -> tuple[Tensor, Tensor]:
    """Carry gradients back through a recorded scan; arguments as in `scan_torch.backward`.

    Returns:
        The gradients with respect to beta and to the threshold, each `(M,)` float32. Summed over
        the batch by torch rather than by atomics, so that two runs agree to the bit.
    """
    grad_beta, grad_threshold = torch.empty_like(slope[0]), torch.empty_like(slope[0])
    states = membranes if rested is None else rested
    inputs, outputs = (
        (grad_spikes, grad_rested, membranes, states, slope),
        (grad_beta, grad_threshold),
    )
    tensors = (*inputs, grad_current, *outputs)
    _launch(_backward, slope[0], tensors, len(slope), len(grad_current), dynamics)
    return grad_beta.sum(0), grad_threshold.sum(0)


def _launch(
    kernel: Any,
    layer: Tensor,
    tensors: tuple[Tensor | None, ...],
    num_steps: int,
    num_frames: int,
    dynamics: Dynamics,
) -> None:
    """Run a kernel over the neurons of `layer`, `(N, M)`."""
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(layer):
        kernel[(triton.cdiv(layer.numel(), BLOCK),)](
            *tensors,
            dynamics.beta,
            dynamics.threshold,
            layer.numel(),
            layer.shape[1],
            num_steps,
            IS_CONSTANT=num_frames == 1,
            RESET=dynamics.reset,
            IS_DELAYED=dynamics.is_delayed,
            **OPTIONS,
        )


@triton.jit
def _block(beta, threshold, size, num_units, BLOCK: tl.constexpr):
    """Return the neurons of this program, which of them exist, and their constants."""
    neuron = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = neuron < size
    unit = neuron % num_units
    return neuron, inside, tl.load(beta + unit, mask=inside), tl.load(threshold + unit, mask=inside)


@triton.jit
def _charge(state, current, resets, beta, threshold, RESET: tl.constexpr):
    """Return `pre_t`, from `m_{t-1}`."""
    if RESET == "zero":
        state = (1.0 - resets) * state
    state = beta * state + current
    if RESET == "subtract":
        state = state - resets * threshold
    return state


@triton.jit
def _rest(charged, fired, resets, threshold, RESET: tl.constexpr):
    """Return `m_t` after an immediate reset, from `pre_t`."""
    if RESET == "subtract":
        charged = charged - (fired - resets) * threshold
    elif RESET == "zero":
        charged = charged - (fired - resets) * charged
    return charged


@triton.jit
def _count(
    current,
    spikes,
    rate,
    membrane,
    beta,
    threshold,
    size,
    num_units,
    num_steps,
    IS_CONSTANT: tl.constexpr,
    RESET: tl.constexpr,
    IS_DELAYED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The kernel of `count`."""
    neuron, inside, beta, threshold = _block(beta, threshold, size, num_units, BLOCK)
    drive = tl.load(current + neuron, mask=inside).to(tl.float32)
    state = tl.zeros([BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    fires = tl.zeros([BLOCK], tl.float32)
    for step in range(num_steps):
        # In 64 bits: T * N * M may pass 2^31.
        at = neuron + tl.cast(step, tl.int64) * size
        if not IS_CONSTANT:
            drive = tl.load(current + at, mask=inside).to(tl.float32)
        resets = (state > threshold).to(tl.float32)
        state = _charge(state, drive, resets, beta, threshold, RESET)
        fired = (state > threshold).to(tl.float32)
        total += state
        fires += fired
        if spikes is not None:
            tl.store(spikes + at, fired.to(spikes.dtype.element_ty), mask=inside)
        if not IS_DELAYED:
            state = _rest(state, fired, resets, threshold, RESET)
    # The operator `/` is not rounded to nearest on a GPU.
    tl.store(rate + neuron, tl.math.div_rn(fires, num_steps * 1.0), mask=inside)
    tl.store(membrane + neuron, tl.math.div_rn(total, num_steps * 1.0), mask=inside)


@triton.jit
def _record(
    current,
    spikes,
    membranes,
    rested,
    beta,
    threshold,
    size,
    num_units,
    num_steps,
    IS_CONSTANT: tl.constexpr,
    RESET: tl.constexpr,
    IS_DELAYED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The kernel of `record`."""
    neuron, inside, beta, threshold = _block(beta, threshold, size, num_units, BLOCK)
    drive = tl.load(current + neuron, mask=inside).to(tl.float32)
    state = tl.zeros([BLOCK], tl.float32)
    for step in range(num_steps):
        at = neuron + tl.cast(step, tl.int64) * size
        if not IS_CONSTANT:
            drive = tl.load(current + at, mask=inside).to(tl.float32)
        resets = (state > threshold).to(tl.float32)
        state = _charge(state, drive, resets, beta, threshold, RESET)
        fired = (state > threshold).to(tl.float32)
        tl.store(membranes + at, state, mask=inside)
        tl.store(spikes + at, fired.to(spikes.dtype.element_ty), mask=inside)
        if not IS_DELAYED:
            state = _rest(state, fired, resets, threshold, RESET)
            tl.store(rested + at, state, mask=inside)


@triton.jit
def _step_back(mu, q, d, resets, charged, threshold, RESET: tl.constexpr, IS_DELAYED: tl.constexpr):
    """Return the gradient with respect to `pre_t`, and what the threshold's loses to s_t and r_t.

    Of `mu` with respect to `m_t`, `q` to `s_t` but for the reset, the slope `d`, and `pre_t`.
    """
    lam = mu
    taken = 0.0 * mu
    if not IS_DELAYED:
        owed = (charged > threshold).to(tl.float32) - resets
        if RESET == "subtract":
            q -= threshold * mu
            taken = owed * mu
        elif RESET == "zero":
            q -= charged * mu
            lam = mu * (1.0 - owed)
    lam += q * d
    if RESET == "subtract":
        taken += resets * lam
    return lam, q * d, taken


@triton.jit
def _backward(
    grad_spikes,
    grad_rested,
    membranes,
    states,
    slope,
    grad_current,
    grad_beta,
    grad_threshold,
    beta,
    threshold,
    size,
    num_units,
    num_steps,
    IS_CONSTANT: tl.constexpr,
    RESET: tl.constexpr,
    IS_DELAYED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The kernel of `backward`; `states` is `rested`, or `membranes` if the reset is delayed."""
    neuron, inside, beta, threshold = _block(beta, threshold, size, num_units, BLOCK)
    carry = tl.zeros([BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for_beta = tl.zeros([BLOCK], tl.float32)
    for_threshold = tl.zeros([BLOCK], tl.float32)
    for back in range(num_steps):
        step = num_steps - 1 - back
        at = neuron + tl.cast(step, tl.int64) * size
        q = tl.load(grad_spikes + at, mask=inside).to(tl.float32)
        d = tl.load(slope + at, mask=inside)
        before = tl.load(states + at - size, mask=inside & (at >= size), other=0.0)
        resets = (before > threshold).to(tl.float32)
        mu = carry
        if grad_rested is not None:
            mu += tl.load(grad_rested + at, mask=inside).to(tl.float32)
        charged = before
        if not IS_DELAYED:
            charged = tl.load(membranes + at, mask=inside)
        kept = 1.0 - resets if RESET == "zero" else 1.0
        lam, through, taken = _step_back(mu, q, d, resets, charged, threshold, RESET, IS_DELAYED)
        for_threshold -= through + taken
        for_beta += lam * kept * before
        carry = beta * lam * kept
        if IS_CONSTANT:
            total += lam
        else:
            tl.store(grad_current + at, lam.to(grad_current.dtype.element_ty), mask=inside)
    if IS_CONSTANT:
        tl.store(grad_current + neuron, total.to(grad_current.dtype.element_ty), mask=inside)
    tl.store(grad_beta + neuron, for_beta, mask=inside)
    tl.store(grad_threshold + neuron, for_threshold, mask=inside)
