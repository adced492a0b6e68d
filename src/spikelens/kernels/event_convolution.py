"""Convolution of spikes by their events: weights are added where a spike is, and nowhere else.

A dense convolution multiplies every zero. Spiking layers are mostly zeros, so that adding a slice
of the weights for each spike is several times less work: benchmarks/event_convolution.py.
"""

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spikelens.kernels.parallel import in_parallel
from spikelens.kernels.pooling import Pooling

# Bytes of running sums that a thread keeps at hand.
_CACHE = 2**17

# Without the interpreter's lock: `in_parallel` runs them on threads.
compiled: Any = numba.njit(nogil=True, cache=True)

Array = NDArray[np.generic]


def convolve(
    spikes: Tensor, weight: Tensor, bias: Tensor | None, pooling: Pooling, is_marked: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Convolve spikes and pool.

    Every output is summed in the order of channels, then rows, then columns, whatever batch it is
    in.

    Args:
        spikes: `(F, C, H, W)`, uint8 0 or 1, or float32: any values, of which most should be 0.
        weight: float32 `(K, C, kh, kw)`.
        bias: float32 `(K,)`; None for 0.
        pooling: Stride, padding and pooling.
        is_marked: Whether to say which output of each pooled square was the largest.

    Returns:
        float32 `(F, K, H', W')`, channels last in memory, and the marks, uint8 `(F, H', W', K)`.
    """
    stride, padding, pool = pooling
    rows, columns = pooling.sides(spikes, weight)
    num_frames, num_units = len(spikes), len(weight)
    out = torch.empty(num_frames, rows // pool, columns // pool, num_units)
    largest = torch.empty(out.shape, dtype=torch.uint8) if is_marked else None
    start = np.zeros(num_units, np.float32) if bias is None else bias.detach().numpy()
    fixed = (
        flat_frames(spikes),
        places_of(spikes.shape[2:], weight.shape[2:], columns, num_units, stride, padding),
        runs_of(weight.detach(), stride).numpy(),
        start,
        out.numpy(),
        None if largest is None else largest.numpy(),
    )
    sizes = frames_at_once(rows, columns, num_units), rows, columns, stride, pool
    in_parallel(lambda *items: _convolve(*items, *fixed, *sizes), num_frames)
    return out.permute(0, 3, 1, 2), largest


def flat_frames(spikes: Tensor) -> Array:
    """Return spikes `(F, C, H, W)` as an array `(F, H * W, C)`."""
    return spikes.detach().permute(0, 2, 3, 1).flatten(1, 2).contiguous().numpy()


def frames_at_once(rows: int, columns: int, num_units: int) -> int:
    """Return how many frames' sums a thread keeps at hand."""
    return max(1, min(16, _CACHE // (4 * num_units * rows * columns)))


def runs_of(weight: Tensor, stride: int) -> Tensor:
    """Order weights `(K, C, kh, kw)` as spikes add them: `(C, kh, stride * taps * K)`.

    The outputs that a spike reaches in one row lie side by side. They take every `stride`-th
    column of the kernel, from right to left, so that what is added is one run of memory.
    """
    taps = -(-weight.shape[3] // stride)
    padded = functional.pad(weight, (0, taps * stride - weight.shape[3]))
    runs = padded.unflatten(3, (taps, stride)).permute(1, 2, 4, 3, 0).flip(3)
    out: Tensor = runs.flatten(2).contiguous()
    return out


def places_of(
    sides: torch.Size, kernel: torch.Size, columns: int, num_units: int, stride: int, padding: int
) -> NDArray[np.int64]:
    """Say for a spike at each place of a map which weights it adds where.

    Returns:
        `(H * W, 5)`: the last output row that it reaches, the first kernel row; where in a row of
        `columns * K` outputs the run begins, where in `stride * taps * K` weights; its length.
    """
    (row, column), (top, left) = np.divmod(np.indices(sides).reshape(2, -1) + padding, stride)
    taps = -(-kernel[1] // stride)
    last = np.minimum((kernel[1] - left - 1) // stride, column)
    length = np.maximum(0, last - np.maximum(0, column - columns + 1) + 1)
    since = np.where(length > 0, left * taps + taps - 1 - last, 0)
    to = np.where(length > 0, column - last, 0)
    return np.stack([row, top, to * num_units, since * num_units, length * num_units], 1)


@compiled
def sort_events(frame, word, events, begins, places, values):
    """List the places of a frame's spikes `(H * W, C)` channel by channel.

    Args:
        frame: Spikes.
        word: Scratch of C bytes, filled up to a multiple of 8 by zeros.
        events: Scratch `(H * W * C + 1, 2)`.
        begins: Takes where the list of each channel begins, and where the last one ends.
        places: Takes the list.
        values: Takes the spikes' values.
    """
    num_places, num_channels = frame.shape
    num = 0
    begins[:] = 0
    for place in range(num_places):
        for channel in range(num_channels):
            word[channel] = frame[place, channel] != 0
        for i, eight in enumerate(word.view(np.uint64)):
            if eight:  # most eights of neurons are silent
                for j in range(8):
                    # Written in any case and kept if there is a spike: no branch to mispredict.
                    events[num, 0] = place
                    events[num, 1] = 8 * i + j
                    num += np.int64((eight >> np.uint64(8 * j)) & np.uint64(1))  # type: ignore[assignment]
    for event in range(num):
        begins[events[event, 1] + 2] += 1
    for channel in range(num_channels):
        begins[channel + 2] += begins[channel + 1]
    for event in range(num):
        place, channel = events[event, 0], events[event, 1]
        at = begins[channel + 1]
        places[at], values[at] = place, frame[place, channel]
        begins[channel + 1] += 1


@compiled
def event_lists(size, num_channels, block):
    """Allocate what `sort_events` writes to for a block of frames of `size` neurons."""
    word = np.zeros((num_channels + 7) // 8 * 8, np.uint8)
    events, places = np.empty((size + 1, 2), np.int32), np.empty((block, size), np.int32)
    begins = np.empty((block, num_channels + 2), np.int32)
    return word, events, begins, places, np.empty((block, size), np.float32)


@compiled
def _convolve(
    start, stop, spikes, table, runs, bias, out, largest, block, rows, columns, stride, pool
):
    num_channels, num_units = len(runs), len(bias)
    sums = np.empty((block, rows, columns * num_units), np.float32)
    lists = event_lists(spikes.shape[1] * num_channels, num_channels, block)
    word, events, begins, places, values = lists
    for first in range(start, stop, block):
        num_frames = min(block, stop - first)
        for b in range(num_frames):
            sort_events(spikes[first + b], word, events, begins[b], places[b], values[b])
            for row in range(rows):
                for column in range(columns):
                    sums[b, row, column * num_units : (column + 1) * num_units] = bias
        # A channel's weights stay in the cache while every frame of the block takes them.
        for channel in range(num_channels):
            for b in range(num_frames):
                for event in range(begins[b, channel], begins[b, channel + 1]):
                    place, value = table[places[b, event]], values[b, event]
                    row, to, since, length = place[0], place[2], place[3], place[4]
                    for i in range(place[1], runs.shape[1], stride):
                        if 0 <= row < rows:
                            into = sums[b, row, to : to + length]
                            given = runs[channel, i, since : since + length]
                            for k in range(length):
                                into[k] += value * given[k]
                        row -= 1
        for b in range(num_frames):
            _pool(sums[b], out[first + b], largest, first + b, pool)


@compiled
def _pool(sums, out, largest, frame, pool):
    """Write the largest of each square of the sums (rows, columns * K) to (H', W', K)."""
    num_units = out.shape[2]
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            into = out[y, x]
            for i in range(pool):
                for j in range(pool):
                    since = (x * pool + j) * num_units
                    given = sums[y * pool + i, since : since + num_units]
                    if i + j == 0:
                        into[:] = given
                        if largest is not None:
                            largest[frame, y, x] = 0
                    elif largest is None:
                        for k in range(num_units):
                            into[k] = max(into[k], given[k])
                    else:
                        for k in range(num_units):
                            if given[k] > into[k]:
                                into[k], largest[frame, y, x, k] = given[k], i * pool + j
