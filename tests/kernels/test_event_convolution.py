"""The convolution by events against torch's dense one.

Values and weights are small integers: every sum of theirs is exact in float32, in any order.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn import functional

from spikelens.kernels import event_convolution as events
from spikelens.kernels import event_gradient
from spikelens.kernels.event_convolution import convolve
from spikelens.kernels.event_gradient import of_weight, unpool
from spikelens.kernels.pooling import Pooling

FRAMES, HEIGHT, WIDTH = 3, 11, 14
KINDS = ["uint8", "float32"]


def draw_spikes(kind, *shape, density=0.3, seed=0):
    """Bytes 0 and 1, or floats that are mostly 0 and else from -3 to 3."""
    random = torch.Generator().manual_seed(seed)
    fired = torch.rand(shape, generator=random) < density
    if kind == "uint8":
        return fired.byte()
    return fired * torch.randint(-3, 4, shape, generator=random).float()


def draw(*shape, seed=1):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 5, shape, generator=random).float()


def dense(spikes, weight, bias, pooling):
    maps = functional.conv2d(spikes.float(), weight, bias, pooling.stride, pooling.padding)
    return functional.max_pool2d(maps, pooling.pool)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize(
    "kernel", [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (1, 4), (5, 2)], ids=str
)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_torch_s_convolution_bit_for_bit(kind, stride, padding, kernel):
    spikes = draw_spikes(kind, FRAMES, 5, HEIGHT, WIDTH)
    weight, bias = draw(3, 5, *kernel), draw(3, seed=2)
    for pool in (1, 2, 3):
        pooling = Pooling(stride, padding, pool)
        wanted = dense(spikes, weight, bias, pooling)
        for marks in (False, True):
            found, largest = convolve(spikes, weight, bias, pooling, marks)
            assert torch.equal(found, wanted)
            assert found.is_contiguous(memory_format=torch.channels_last)
            assert (largest is not None) == marks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 7, 8, 9, 17])
@pytest.mark.parametrize("units", [1, 8, 13])
def test_any_number_of_channels(kind, channels, units):
    pooling = Pooling(1, 1, 2)
    spikes, weight = draw_spikes(kind, FRAMES, channels, 5, 7), draw(units, channels, 3, 3)
    for bias in (None, draw(units)):
        wanted = dense(spikes, weight, bias, pooling)
        assert torch.equal(convolve(spikes, weight, bias, pooling)[0], wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sides", [(1, 1), (1, 6), (6, 1), (2, 2), (40, 3), (190, 190)])
def test_maps_smaller_than_the_kernel_and_large_ones(kind, sides):
    spikes, weight = draw_spikes(kind, FRAMES, 2, *sides), draw(4, 2, 5, 5)
    for stride in (1, 2, 3):
        pooling = Pooling(stride, 2, 1)
        wanted = dense(spikes, weight, None, pooling)
        assert torch.equal(convolve(spikes, weight, None, pooling)[0], wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
def test_memory_order_does_not_matter(kind, order):
    spikes = draw_spikes(kind, FRAMES, 4, 6, 5).contiguous(memory_format=order)
    weight = draw(3, 4, 3, 3).contiguous(memory_format=order)
    pooling = Pooling(1, 1, 2)
    found, _ = convolve(spikes, weight, None, pooling)
    assert torch.equal(found, dense(spikes, weight, None, pooling))
    # Every second frame of a longer recording, and a mirrored map.
    apart = spikes[::2].flip(3)
    assert torch.equal(
        convolve(apart, weight, None, pooling)[0], dense(apart, weight, None, pooling)
    )


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_silence_gives_the_bias(kind):
    silence = torch.zeros(2, 3, 6, 6, dtype=getattr(torch, kind))
    bias = torch.tensor([0.5, -2.0])
    found, marks = convolve(silence, draw(2, 3, 3, 3), bias, Pooling(1, 1, 2), is_marked=True)
    assert torch.equal(found, bias.view(1, 2, 1, 1).expand(2, 2, 3, 3))
    assert marks.count_nonzero() == 0
    assert convolve(silence, draw(2, 3, 3, 3), None, Pooling(1, 1, 2))[0].count_nonzero() == 0


def test_all_spikes_give_the_sums_of_the_weights():
    weight = draw(3, 4, 3, 3)
    found, _ = convolve(torch.ones(2, 4, 6, 5, dtype=torch.uint8), weight, None, Pooling(1, 0, 1))
    assert torch.equal(found, weight.sum((1, 2, 3)).view(1, 3, 1, 1).expand(2, 3, 4, 3))


def test_no_frames():
    weight, pooling = draw(3, 2, 3, 3), Pooling(1, 1, 2)
    none = torch.zeros(0, 2, 6, 4, dtype=torch.uint8)
    found, marks = convolve(none, weight, None, pooling, is_marked=True)
    assert found.shape == (0, 3, 3, 2)
    assert unpool(found, marks, (6, 4), 2).shape == (0, 3, 6, 4)
    zero = of_weight(none, torch.zeros(0, 3, 6, 4), weight, pooling)
    assert torch.equal(zero, torch.zeros_like(weight))


# Weights 1 to 9, a spike in row 2, column 3 of a 5 x 5 map, padding 1. An output in row y and
# column x takes the weight in row 2 + 1 - stride y and column 3 + 1 - stride x, if there is one.
# stride 1: rows 1 to 3, columns 2 to 4, the kernel turned by 180 degrees.
# stride 2: row 3 - 2 y is 1 for y = 1; column 4 - 2 x is 2 for x = 1 and 0 for x = 2.
# stride 3: row 3 - 3 y is 0 for y = 1; column 4 - 3 x is 1 for x = 1.
BY_HAND = {
    1: [[0, 0, 0, 0, 0], [0, 0, 9, 8, 7], [0, 0, 6, 5, 4], [0, 0, 3, 2, 1], [0, 0, 0, 0, 0]],
    2: [[0, 0, 0], [0, 6, 4], [0, 0, 0]],
    3: [[0, 0], [0, 2]],
}


@pytest.mark.parametrize("value", [1, -2.5])
@pytest.mark.parametrize("stride", BY_HAND)
def test_a_single_spike_by_hand(stride, value):
    spikes = torch.zeros(1, 1, 5, 5, dtype=torch.uint8 if value == 1 else torch.float32)
    spikes[0, 0, 2, 3] = value
    weight = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    found, _ = convolve(spikes, weight, None, Pooling(stride, 1, 1))
    assert torch.equal(found[0, 0], value * torch.tensor(BY_HAND[stride]).float())


def test_pooling_by_hand():
    # Weight 1 alone; squares (1 5 / 5 2) and (0 0 / 0 3); a column and a row are left over.
    spikes = torch.tensor([[1.0, 5, 0, 0, 9], [5, 2, 0, 3, 9], [9, 9, 9, 9, 9]]).view(1, 1, 3, 5)
    found, marks = convolve(spikes, torch.ones(1, 1, 1, 1), None, Pooling(1, 0, 2), is_marked=True)
    assert found.flatten().tolist() == [5, 3]
    assert marks.flatten().tolist() == [1, 3]  # the first of equals, row by row
    back = unpool(torch.tensor([7.0, 8.0]).view(1, 1, 1, 2), marks, (3, 5), 2)
    assert back[0, 0].tolist() == [[0, 7, 0, 0, 0], [0, 0, 0, 8, 0], [0] * 5]


@pytest.fixture
def recording():
    """More frames than three blocks; weights whose sums round."""
    random = torch.Generator().manual_seed(5)
    weight = torch.randn(6, 9, 3, 3, generator=random)
    return draw_spikes("uint8", 50, 9, 7, 6), weight, torch.randn(6, generator=random)


def test_a_frame_does_not_depend_on_its_batch_block_or_thread(recording, set_threads, monkeypatch):
    spikes, weight, bias = recording
    pooling = Pooling(1, 1, 2)
    alone = torch.cat([convolve(frame[None], weight, bias, pooling)[0] for frame in spikes])
    torch.testing.assert_close(alone, dense(spikes, weight, bias, pooling))
    for num_threads in (1, 2, 3):
        set_threads(num_threads)
        assert torch.equal(convolve(spikes, weight, bias, pooling)[0], alone)
        for block in (1, 3, 50):
            monkeypatch.setattr(events, "frames_at_once", lambda *_, block=block: block)
            assert torch.equal(convolve(spikes, weight, bias, pooling)[0], alone)
            assert torch.equal(convolve(spikes[7:20], weight, bias, pooling)[0], alone[7:20])
            assert torch.equal(convolve(spikes.flip(0), weight, bias, pooling)[0], alone.flip(0))
        monkeypatch.undo()


def test_bytes_and_floats_are_summed_alike(recording):
    spikes, weight, bias = recording
    for pooling in (Pooling(1, 1, 1), Pooling(2, 0, 2)):
        for marks in (False, True):
            found, _ = convolve(spikes, weight, bias, pooling, marks)
            assert torch.equal(convolve(spikes.float(), weight, bias, pooling, True)[0], found)


def test_python_threads_convolve_at_once(recording, set_threads):
    spikes, weight, bias = recording
    pooling, num_callers = Pooling(1, 1, 2), 4
    wanted, _ = convolve(spikes, weight, bias, pooling)
    barrier = threading.Barrier(num_callers)

    def call(_):
        set_threads(3)
        barrier.wait(30.0)
        return [convolve(spikes, weight, bias, pooling)[0] for _ in range(5)]

    with ThreadPoolExecutor(num_callers) as callers:
        for found in callers.map(call, range(num_callers)):
            assert all(torch.equal(one, wanted) for one in found)


def test_nothing_given_is_written_to(recording):
    spikes, weight, bias = recording
    pooling = Pooling(1, 1, 2)
    copies = [x.clone() for x in recording]
    found, marks = convolve(spikes, weight, bias, pooling, is_marked=True)
    copies += [found.clone(), marks.clone()]
    grad = unpool(found, marks, (7, 6), 2)
    kept = grad.clone()
    of_weight(spikes, grad, weight, pooling)
    for given, copy in zip((*recording, found, marks, grad), (*copies, kept), strict=True):
        assert torch.equal(given, copy)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (5, 5), (1, 4), (5, 2)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_weight_gradient_is_autograd_s_bit_for_bit(kind, stride, padding, kernel):
    spikes, weight = draw_spikes(kind, FRAMES, 5, HEIGHT, WIDTH), draw(3, 5, *kernel)
    weight.requires_grad_()
    maps = functional.conv2d(spikes.float(), weight, None, stride, padding)
    grad = draw(*maps.shape, seed=3)
    (wanted,) = torch.autograd.grad(maps, weight, grad)
    assert wanted.count_nonzero() > 0
    for order in (torch.contiguous_format, torch.channels_last):
        given = grad.contiguous(memory_format=order)
        found = of_weight(spikes, given, weight, Pooling(stride, padding, 1))
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_weight_gradients_of_threads_and_blocks_add_up(recording, set_threads, num_threads):
    set_threads(num_threads)
    spikes, weight, _ = recording
    weight = weight.requires_grad_()
    maps = functional.conv2d(spikes.float(), weight, None, 1, 1)
    grad = draw(*maps.shape)
    (wanted,) = torch.autograd.grad(maps, weight, grad)
    found = [of_weight(spikes, grad, weight, Pooling(1, 1, 2)) for _ in range(2)]
    assert torch.equal(found[0], wanted)
    assert torch.equal(found[1], wanted)


@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_unpool_is_torch_s_also_where_outputs_tie(kind, pool):
    spikes, weight = draw_spikes(kind, FRAMES, 5, HEIGHT, WIDTH, density=0.05), draw(3, 5, 3, 3)
    pooling = Pooling(1, 1, pool)
    _, marks = convolve(spikes, weight, None, pooling, is_marked=True)
    maps = functional.conv2d(spikes.float(), weight, None, 1, 1).requires_grad_()
    pooled = functional.max_pool2d(maps, pool)
    grad = draw(*pooled.shape)
    (wanted,) = torch.autograd.grad(pooled, maps, grad)
    squares = maps.unfold(2, pool, pool).unfold(3, pool, pool).flatten(4)
    assert pool == 1 or ((squares == pooled[..., None]).sum(4) > 1).float().mean() > 0.1
    assert torch.equal(unpool(grad, marks, (HEIGHT, WIDTH), pool), wanted)


@pytest.mark.parametrize("pool", [2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (1, 4)], ids=str)
@pytest.mark.parametrize("units", [1, 4, 6])
def test_spike_gradient_is_autograd_s_bit_for_bit(pool, padding, kernel, units):
    spikes, weight = draw_spikes("float32", FRAMES, 5, HEIGHT, WIDTH), draw(units, 5, *kernel)
    pooling = Pooling(1, padding, pool)
    spikes.requires_grad_()
    pooled = dense(spikes, weight, None, pooling)
    grad = draw(*pooled.shape)
    (wanted,) = torch.autograd.grad(pooled, spikes, grad)
    _, marks = convolve(spikes, weight, None, pooling, is_marked=True)
    found = event_gradient.of_spikes(grad, marks, weight, spikes.shape[2:], pooling)
    assert wanted.abs().max() > 0
    assert torch.equal(found, wanted)
