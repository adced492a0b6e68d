"""Draws from a tilted elite train compiled by numba: see `spikelens.am.tilted_train`."""

import numpy as np
from torch import Tensor

from spikelens.kernels.moves_numba import ONE, ZERO, compiled, dot
from spikelens.kernels.parallel import in_parallel

_LEAST = np.float32(1e-30)  # divides no interface by 0
_NUM_KINDS = 4  # what becomes of a symbol: kept, neighbour, prior, uniform


def draw(
    train: tuple[Tensor, ...], moves: tuple[Tensor, ...], num_plain: int, draws: Tensor, out: Tensor
) -> None:
    """Fill `out`; see `spikelens.am.tilted_train.TiltedTrain.draw_compiled`.

    Args:
        train: Contiguous, floats are float32: order `(d,)`, elites `(K, R, d)`, weights `(K, R)`,
            tilts `(K, d, n)`, mutation and switch `(K, b)`, mix `(3,)`.
        moves: Likewise: kernels, kernel of each mode, prior, uniform; see `spikelens.am.moves`.
        num_plain: Proposals that are not tilted; they come first.
        draws: float32 `(3, K, b, d)`.
        out: int64 `(K, b, d)`.
    """
    given, fixed = (tuple(part.numpy() for part in parts) for parts in (train, moves))
    arrays = given, fixed, num_plain, draws.numpy(), out.numpy()
    in_parallel(lambda start, stop: _draw(start, stop, *arrays), len(out))


@compiled
def _draw(start, stop, train, moves, num_plain, draws, out):
    order, elites, weights, tilts, mutation, switch, mix = train
    num_elites, num_modes = elites.shape[1:]
    # Masses of the kinds for each elite's symbol; those of what is not tilted are 1.
    plain = np.ones((num_modes, num_elites, _NUM_KINDS), np.float32)
    tilted = np.empty_like(plain)
    ahead = np.empty((num_modes, num_elites), np.float32)
    states, shares = np.empty(num_modes, np.int64), np.empty(_NUM_KINDS, np.float32)
    for k in range(start, stop):
        if num_plain < out.shape[1]:
            _sum(k, elites, tilts, moves, tilted)
        for m in range(out.shape[1]):
            sums = plain if m < num_plain else tilted
            shares[0], shares[1:] = ONE - mutation[k, m], mix * mutation[k, m]
            _look_ahead(order, weights[k], switch[k, m], shares, sums, ahead)
            _follow(weights[k], switch[k, m], ahead, draws[0, k, m], states)
            for t in range(num_modes):
                j, r = order[t], states[t]
                kind = _place(shares * sums[j, r], draws[1, k, m, t])
                out[k, m, j] = elites[k, r, j]
                if kind:
                    masses = _masses(kind, j, elites[k, r, j], moves)
                    if m >= num_plain:
                        masses = masses * tilts[k, j]
                    out[k, m, j] = _place(masses, draws[2, k, m, t])


@compiled
def _sum(k, elites, tilts, moves, sums):
    """Sum each kind's tilted distribution for each elite's symbol, `(d, R, kinds)`."""
    kernels, kernel_of_mode, prior, uniform = moves
    num_elites, num_modes = elites.shape[1:]
    last_mode, by_kernel = np.full(tilts.shape[2], -1), np.empty(tilts.shape[2], np.float32)
    for j in range(num_modes):
        row, kernel = tilts[k, j], kernels[kernel_of_mode[j]]
        by_prior, by_any = dot(row, prior[j]), dot(row, uniform[j])
        for r in range(num_elites):
            symbol = elites[k, r, j]
            if last_mode[symbol] != j:  # elites have many in common
                last_mode[symbol], by_kernel[symbol] = j, dot(row, kernel[symbol])
            one = sums[j, r]
            one[0], one[1], one[2], one[3] = row[symbol], by_kernel[symbol], by_prior, by_any


@compiled
def _look_ahead(order, weights, chi, shares, sums, ahead):
    """Fill `c_j(s) Z_j(s)` along the path, `(d, R)`, each mode's up to a factor."""
    num_modes, num_elites = ahead.shape
    z = np.ones(num_elites, np.float32)
    for t in range(num_modes - 1, -1, -1):
        here, front = sums[order[t]], ahead[t]
        jump, largest = ZERO, _LEAST
        for r in range(num_elites):
            # An elite without weight is no state; left in, it could drown the others in rounding.
            front[r] = dot(shares, here[r]) * z[r] if weights[r] > ZERO else ZERO
            jump += weights[r] * front[r]
        for r in range(num_elites):
            z[r] = (ONE - chi) * front[r] + chi * jump
            largest = max(largest, z[r])
        for r in range(num_elites):
            z[r] /= largest


@compiled
def _follow(weights, chi, ahead, draws, states):
    """Draw the elite that each step of the path follows."""
    masses = np.empty_like(weights)
    for t in range(len(ahead)):
        for r in range(len(weights)):
            masses[r] = weights[r] * ahead[t, r]
            if t:
                masses[r] *= chi
                if r == states[t - 1]:
                    masses[r] += (ONE - chi) * ahead[t, r]
        states[t] = _place(masses, draws[t])


@compiled
def _masses(kind, mode, parent, moves):
    kernels, kernel_of_mode, prior, uniform = moves
    if kind == 1:
        return kernels[kernel_of_mode[mode], parent]
    return prior[mode] if kind == 2 else uniform[mode]


@compiled
def _place(masses, draw):
    """Return the first place whose running sum is above a share of it all."""
    total, last = ZERO, 0
    for mass in masses:
        total += mass
    threshold, total = draw * total, ZERO
    for i in range(len(masses)):
        if masses[i] > ZERO:
            total += masses[i]
            last = i
            if total > threshold:
                return i
    return last  # rounding
