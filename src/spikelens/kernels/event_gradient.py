"""The gradient of a convolution by events: with respect to its weights, and to its spikes."""

import numpy as np
import torch
from torch import Tensor

from spikelens.kernels.event_convolution import (
    compiled,
    event_lists,
    flat_frames,
    frames_at_once,
    places_of,
    runs_of,
    sort_events,
)
from spikelens.kernels.parallel import in_parallel
from spikelens.kernels.pooling import Pooling


def of_weight(spikes: Tensor, grad: Tensor, weight: Tensor, pooling: Pooling) -> Tensor:
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
    places = places_of(spikes.shape[2:], weight.shape[2:], columns, num_units, stride, padding)
    frames = flat_frames(spikes)
    given = grad.permute(0, 2, 3, 1).flatten(2).contiguous().numpy()
    block = frames_at_once(rows, columns, num_units)
    runs = runs_of(weight.detach(), stride)
    parts: dict[int, Tensor] = {}

    def work(start: int, stop: int) -> None:
        parts[start] = torch.zeros_like(runs)
        _add_weights(start, stop, frames, places, given, parts[start].numpy(), block, stride)

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


def of_spikes(
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


@compiled
def _add_weights(start, stop, spikes, table, grad, runs, block, stride):
    num_channels, rows = len(runs), grad.shape[1]
    lists = event_lists(spikes.shape[1] * num_channels, num_channels, block)
    word, events, begins, places, values = lists
    for first in range(start, stop, block):
        num_frames = min(block, stop - first)
        for b in range(num_frames):
            sort_events(spikes[first + b], word, events, begins[b], places[b], values[b])
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


@compiled
def _unpool(start, stop, grad, largest, out, pool):
    for frame in range(start, stop):
        for y in range(grad.shape[1]):
            for x in range(grad.shape[2]):
                for k in range(grad.shape[3]):
                    mark = largest[frame, y, x, k]
                    row, column = y * pool + mark // pool, x * pool + mark % pool
                    out[frame, row, column, k] = grad[frame, y, x, k]


@compiled
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


@compiled
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
