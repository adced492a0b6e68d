"""Draws from a tilted elite train compiled by numba: see `spikelens.am.tilted_train`."""

from typing import Any

import numba
import numpy as np
from torch import Tensor

from spikelens.kernels.parallel import in_parallel

# Without the interpreter's lock: `in_parallel` runs them on threads. Sums may be reordered, so that
# they use vector instructions.
_compiled: Any = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


def draw(num_plain: int, *parts: Tensor, out: Tensor) -> None:
    """Fill `out` `(K, b, d)`; see `spikelens.am.tilted_train.TiltedTrain.draw`.

    Args:
        num_plain: Proposals that are not tilted; they come first.
        *parts: Contiguous: elites, weights, tilts, mutation, switch, mix, kernels,
            kernel_of_mode, prior, uniform, order, and the numbers to draw by.
        out: int64.
    """
    arrays = [part.numpy() for part in (*parts, out)]
    in_parallel(lambda start, stop: _draw(start, stop, num_plain, *arrays), len(out))


def deviation(values: Tensor, points: Tensor, kernels: Tensor, kernel_of_mode: Tensor) -> Tensor:
    """Return `(K,)`; see `spikelens.am.moves.Moves.deviation`."""
    out = values.new_empty(len(values))
    arrays = [part.numpy() for part in (values, points, kernels, kernel_of_mode, out)]
    in_parallel(lambda start, stop: _deviation(start, stop, *arrays), len(out))
    return out


@_compiled
def _deviation(start, stop, values, points, kernels, kernel_of_mode, out):
    num_modes, num_symbols = values.shape[1:]
    for k in range(start, stop):
        variance = _ZERO
        for j in range(num_modes):
            row, near = values[k, j], kernels[kernel_of_mode[j], points[k, j]]
            mean = _dot(row, near)
            total = _ZERO
            for i in range(num_symbols):
                total += near[i] * (row[i] - mean) * (row[i] - mean)
            variance += total
        out[k] = np.sqrt(variance / np.float32(num_modes))


@_compiled
def _dot(x, y):
    total = _ZERO
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@_compiled
def _place(masses, draw):
    """Return the first place whose running sum is above the draw; the last one with a mass."""
    total, last = _ZERO, 0
    for i in range(len(masses)):
        if masses[i] > _ZERO:
            total += masses[i]
            last = i
            if total > draw:
                return i
    return last


@_compiled
def _draw(
    start,
    stop,
    num_plain,
    elites,
    weights,
    tilts,
    mutation,
    switch,
    mix,
    kernels,
    kernel_of_mode,
    prior,
    uniform,
    order,
    draws,
    out,
):
    num_elites, num_modes = elites.shape[1:]
    num_proposals, num_symbols = out.shape[1], tilts.shape[2]
    # Masses of a symbol: kept, near, from the prior, any; for those that are not tilted all 1.
    sums = np.ones((2, num_modes, num_elites, 4), np.float32)
    ahead = np.empty((num_modes, num_elites), np.float32)
    z = np.empty(num_elites, np.float32)
    masses = np.empty(num_elites, np.float32)
    shares, kinds = np.empty(4, np.float32), np.empty(4, np.float32)
    symbols, by_kernel = np.empty((2, num_symbols), np.float32)
    last_mode = np.full(num_symbols, -1)
    for k in range(start, stop):
        w = weights[k]
        if num_plain < num_proposals:
            for j in range(num_modes):
                row, kernel = tilts[k, j], kernels[kernel_of_mode[j]]
                by_prior, by_any = _dot(row, prior[j]), _dot(row, uniform[j])
                for r in range(num_elites):
                    symbol = elites[k, r, j]
                    if last_mode[symbol] != k * num_modes + j:  # elites have many in common
                        last_mode[symbol] = k * num_modes + j
                        by_kernel[symbol] = _dot(row, kernel[symbol])
                    one = sums[1, j, r]
                    one[0], one[1] = row[symbol], by_kernel[symbol]
                    one[2], one[3] = by_prior, by_any
        for m in range(num_proposals):
            is_tilted = m >= num_plain
            own, chi = sums[1 if is_tilted else 0], switch[k, m]
            stay = _ONE - chi
            shares[0] = _ONE - mutation[k, m]
            for kind in range(3):
                shares[1 + kind] = mix[kind] * mutation[k, m]
            z[:] = _ONE
            for t in range(num_modes - 1, -1, -1):
                here, front = own[order[t]], ahead[t]
                jump = _ZERO
                for r in range(num_elites):
                    front[r] = _dot(shares, here[r]) * z[r]
                    jump += w[r] * front[r]
                jump *= chi
                largest = _ZERO
                for r in range(num_elites):
                    z[r] = stay * front[r] + jump
                    largest = max(largest, z[r])
                scale = _ONE / max(largest, np.float32(1e-30))
                for r in range(num_elites):
                    z[r] *= scale
            state = 0
            for t in range(num_modes):
                j = order[t]
                total = _ZERO
                for r in range(num_elites):
                    masses[r] = w[r] * ahead[t, r]
                    if t:
                        masses[r] *= chi
                        if r == state:
                            masses[r] += stay * ahead[t, r]
                    total += masses[r]
                state = _place(masses, draws[0, k, m, t] * total)
                parent = elites[k, state, j]
                total = _ZERO
                for kind in range(4):
                    kinds[kind] = shares[kind] * own[j, state, kind]
                    total += kinds[kind]
                kind = _place(kinds, draws[1, k, m, t] * total)
                out[k, m, j] = parent
                if kind:
                    if kind == 1:
                        near = kernels[kernel_of_mode[j], parent]
                    elif kind == 2:
                        near = prior[j]
                    else:
                        near = uniform[j]
                    for i in range(num_symbols):
                        symbols[i] = near[i] * tilts[k, j, i] if is_tilted else near[i]
                    drawn = draws[2, k, m, t] * own[j, state, kind]
                    out[k, m, j] = _place(symbols, drawn)
