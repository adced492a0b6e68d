"""Convolution of spikes by their events: weights are added where a spike is, and nowhere else.

A dense convolution multiplies every zero. Spiking layers are mostly zeros, so that adding a slice
of the weights for each spike is several times less work; benchmarks/throughput.py measures it.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spikelens.kernels.parallel import in_parallel

# Bytes of running sums that a thread keeps at hand.
_CACHE = 2**17

# Without the interpreter's lock: `in_parallel` runs them on threads.
_compiled: Any = numba.njit(nogil=True, cache=True)

Array = NDArray[np.generic]


class Pooling(NamedTuple):
    """A convolution's stride and padding, and the max-pooling behind it.

    Attributes:
        stride: Of the convolution, in both directions.
        padding: Zeros around each map.
        pool: Side and stride of the max-pooling; 1 for none.
    """

    stride: int
    padding: int
    pool: int


def convolve(
    spikes: Tensor, weight: Tensor, bias: Tensor | None, pooling: Pooling, marks: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Convolve spikes and pool.

    Every output is summed in the order of channels, then rows, then columns, whatever batch it is
    in.

    Args:
        spikes: `(F, C, H, W)`, uint8 0 or 1, or float32: any values, of which most should be 0.
        weight: float32 `(K, C, kh, kw)`.
        bias: float32 `(K,)`; None for 0.
        pooling: Stride, padding and pooling.
        marks: Whether to say which output of each pooled square was the largest.

    Returns:
        float32 `(F, K, H', W')`, channels last in memory, and the marks, uint8 `(F, H', W', K)`.
    """
    stride, padding, pool = pooling
    rows, columns = sides(spikes, weight, pooling)
    num_frames, num_units = len(spikes), len(weight)
    out = torch.empty(num_frames, rows // pool, columns // pool, num_units)
    largest = torch.empty(out.shape, dtype=torch.uint8) if marks else None
    start = np.zeros(num_units, np.float32) if bias is None else bias.detach().numpy()
    fixed = (
        _frames(spikes),
        _places(spikes.shape[2:], weight.shape[2:], columns, num_units, stride, padding),
        _runs(weight.detach(), stride).numpy(),
        start,
        out.numpy(),
        None if largest is None else largest.numpy(),
    )
    sizes = _block(rows, columns, num_units), rows, columns, stride, pool
    in_parallel(lambda *items: _convolve(*items, *fixed, *sizes), num_frames)
    return out.permute(0, 3, 1, 2), largest


def weight_gradient(spikes: Tensor, grad: Tensor, weight: Tensor, pooling: Pooling) -> Tensor:
    """Return the gradient with respect to the weight.

    Args:
        spikes: What was convolved, `(F, C, H, W)`.
        grad: Gradient with respect to the convolution, before pooling, `(F, K, rows, columns)`.
        weight: Any tensor of the weight's shape.
        pooling: Stride, padding and pooling.
    """
    stride, padding, _ = pooling
    rows, columns = grad.shape[2:]
    num_units, _, _, width = weight.shape
    places = _places(spikes.shape[2:], weight.shape[2:], columns, num_units, stride, padding)
    frames = _frames(spikes)
    given = grad.permute(0, 2, 3, 1).flatten(2).contiguous().numpy()
    block = _block(rows, columns, num_units)
    runs = _runs(weight.detach(), stride)
    parts: dict[int, Tensor] = {}

    def work(start: int, stop: int) -> None:
        parts[start] = torch.zeros_like(runs)
        _gradient(start, stop, frames, places, given, parts[start].numpy(), block, stride)

    in_parallel(work, len(spikes))
    total = sum((parts[start] for start in sorted(parts)), torch.zeros_like(runs))
    taps = -(-width // stride)
    unrolled = total.unflatten(2, (stride, taps, num_units)).flip(3).permute(4, 0, 1, 3, 2)
    out: Tensor = unrolled.flatten(3)[..., :width].contiguous()
    return out


def unpool(grad: Tensor, largest: Tensor, sides: tuple[int, int], pool: int) -> Tensor:
    """Return the gradient before pooling: that of each square goes to its largest output.

    Args:
        grad: Gradient with respect to the pooled outputs, `(F, K, H', W')`.
        largest: The marks of `convolve`.
        sides: Rows and columns before pooling.
        pool: Side of a square.

    Returns:
        `(F, K, rows, columns)`, channels last in memory.
    """
    out = torch.zeros(len(grad), *sides, grad.shape[1])
    given = grad.permute(0, 2, 3, 1).contiguous()
    fixed = given.numpy(), largest.numpy(), out.numpy(), pool
    in_parallel(lambda *items: _unpool(*items, *fixed), len(grad))
    return out.permute(0, 3, 1, 2)


def spike_gradient(
    grad: Tensor, largest: Tensor, weight: Tensor, sides: torch.Size, pooling: Pooling
) -> Tensor:
    """Return the gradient with respect to the spikes, through the pooling.

    One output of each square has a gradient: the weights are added where these are, and nowhere
    else.

    Args:
        grad: Gradient with respect to the pooled outputs, `(F, K, H', W')`.
        largest: The marks of `convolve`.
        weight: float32 `(K, C, kh, kw)`.
        sides: Height and width of the spikes' maps.
        pooling: Stride, which must be 1, padding and pooling.

    Returns:
        `(F, C, H, W)`, channels last in memory.
    """
    out = torch.zeros(len(grad), *sides, weight.shape[1])
    given = grad.permute(0, 2, 3, 1).contiguous()
    runs = weight.detach().permute(0, 2, 3, 1).flatten(2).contiguous()  # (K, kh, kw * C)
    fixed = given.numpy(), largest.numpy(), runs.numpy(), out.numpy()
    in_parallel(lambda *items: _spread(*items, *fixed, pooling.padding, pooling.pool), len(grad))
    return out.permute(0, 3, 1, 2)


def sides(spikes: Tensor, weight: Tensor, pooling: Pooling) -> tuple[int, int]:
    """Return the rows and columns of the convolution, before pooling."""
    height, width = (
        (side + 2 * pooling.padding - kernel) // pooling.stride + 1
        for side, kernel in zip(spikes.shape[2:], weight.shape[2:], strict=True)
    )
    return height, width


def _frames(spikes: Tensor) -> Array:
    return spikes.detach().permute(0, 2, 3, 1).flatten(1, 2).contiguous().numpy()


def _block(rows: int, columns: int, num_units: int) -> int:
    """Return how many frames' sums a thread keeps at hand."""
    return max(1, min(16, _CACHE // (4 * num_units * rows * columns)))


def _runs(weight: Tensor, stride: int) -> Tensor:
    """Order weights `(K, C, kh, kw)` as spikes add them: `(C, kh, stride * taps * K)`.

    The outputs that a spike reaches in one row lie side by side. They take every `stride`-th
    column of the kernel, from right to left, so that what is added is one run of memory.
    """
    taps = -(-weight.shape[3] // stride)
    padded = functional.pad(weight, (0, taps * stride - weight.shape[3]))
    runs = padded.unflatten(3, (taps, stride)).permute(1, 2, 4, 3, 0).flip(3)
    out: Tensor = runs.flatten(2).contiguous()
    return out


def _places(
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


@_compiled
def _sort(frame, word, events, begins, places, values):
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


@_compiled
def _lists(size, num_channels, block):
    """Allocate what `_sort` writes to for a block of frames of `size` neurons."""
    word = np.zeros((num_channels + 7) // 8 * 8, np.uint8)
    events, places = np.empty((size + 1, 2), np.int32), np.empty((block, size), np.int32)
    begins = np.empty((block, num_channels + 2), np.int32)
    return word, events, begins, places, np.empty((block, size), np.float32)


@_compiled
def _convolve(
    start, stop, spikes, table, runs, bias, out, largest, block, rows, columns, stride, pool
):
    num_channels, num_units = len(runs), len(bias)
    sums = np.empty((block, rows, columns * num_units), np.float32)
    lists = _lists(spikes.shape[1] * num_channels, num_channels, block)
    word, events, begins, places, values = lists
    for first in range(start, stop, block):
        num_frames = min(block, stop - first)
        for b in range(num_frames):
            _sort(spikes[first + b], word, events, begins[b], places[b], values[b])
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


@_compiled
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


@_compiled
def _gradient(start, stop, spikes, table, grad, runs, block, stride):
    num_channels, rows = len(runs), grad.shape[1]
    lists = _lists(spikes.shape[1] * num_channels, num_channels, block)
    word, events, begins, places, values = lists
    for first in range(start, stop, block):
        num_frames = min(block, stop - first)
        for b in range(num_frames):
            _sort(spikes[first + b], word, events, begins[b], places[b], values[b])
        for channel in range(num_channels):
            for b in range(num_frames):
                for event in range(begins[b, channel], begins[b, channel + 1]):
                    place, value = table[places[b, event]], values[b, event]
                    row, to, since, length = place[0], place[2], place[3], place[4]
                    for i in range(place[1], runs.shape[1], stride):
                        if 0 <= row < rows:
                            into = runs[channel, i, since : since + length]
                            given = grad[first + b, row, to : to + length]
                            for k in range(length):
                                into[k] += value * given[k]
                        row -= 1


@_compiled
def _unpool(start, stop, grad, largest, out, pool):
    for frame in range(start, stop):
        for y in range(grad.shape[1]):
            for x in range(grad.shape[2]):
                for k in range(grad.shape[3]):
                    mark = largest[frame, y, x, k]
                    row, column = y * pool + mark // pool, x * pool + mark % pool
                    out[frame, row, column, k] = grad[frame, y, x, k]


@_compiled
def _group(grad, largest, square, units, values, begins):
    """List the units and gradients of each output before pooling, in fours filled up by zeros.

    Args:
        grad: Gradients of pooled outputs `(H', W', K)`.
        largest: Which output of its square each belongs to.
        square: Outputs in a square.
        units: Takes the units.
        values: Takes the gradients.
        begins: Takes where the list of each output begins, square by square.
    """
    num = 0
    for y in range(grad.shape[0]):
        for x in range(grad.shape[1]):
            for mark in range(square):
                begins[(y * grad.shape[1] + x) * square + mark] = num
                for k in range(grad.shape[2]):
                    units[num], values[num] = k, grad[y, x, k]
                    num += largest[y, x, k] == mark
                while num % 4:
                    units[num], values[num] = 0, np.float32(0)
                    num += 1
    begins[-1] = num


@_compiled
def _spread(start, stop, grad, largest, runs, out, padding, pool):
    squares, square = grad.shape[1] * grad.shape[2], pool * pool
    most = squares * (grad.shape[3] + 4 * square) + 1
    units, values = np.empty(most, np.int32), np.empty(most, np.float32)
    begins = np.empty(squares * square + 1, np.int32)
    num_channels = out.shape[3]
    height, width = out.shape[1:3]
    kernel_height, kernel_width = runs.shape[1], runs.shape[2] // num_channels
    for frame in range(start, stop):
        _group(grad[frame], largest[frame], square, units, values, begins)
        rows = out[frame].reshape(height, width * num_channels)
        for output in range(squares * square):
            cell, mark = output // square, output % square
            y = cell // grad.shape[2] * pool + mark // pool - padding
            x = cell % grad.shape[2] * pool + mark % pool - padding
            first, behind = max(0, -x), min(kernel_width, width - x)
            to, since = (x + first) * num_channels, first * num_channels
            length = max(0, behind - first) * num_channels
            # Four units at a time: the sums are read and written once for them.
            for event in range(begins[output], begins[output + 1], 4):
                p, q, r, s = values[event], values[event + 1], values[event + 2], values[event + 3]
                for i in range(max(0, -y), min(kernel_height, height - y)):
                    into = rows[y + i, to : to + length]
                    a = runs[units[event], i, since : since + length]
                    b = runs[units[event + 1], i, since : since + length]
                    c = runs[units[event + 2], i, since : since + length]
                    d = runs[units[event + 3], i, since : since + length]
                    for k in range(length):
                        into[k] += p * a[k] + q * b[k] + r * c[k] + s * d[k]
