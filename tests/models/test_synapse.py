import copy
import itertools
from unittest import mock

import pytest
import torch
from torch import nn

from spikelens.kernels import event_convolution
from spikelens.models import synapse
from spikelens.models.synapse import Convolution


@pytest.mark.parametrize(
    ("arguments", "kinds"),
    [
        ({}, [nn.Conv2d, nn.BatchNorm2d]),
        ({"pool": 2}, [nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d]),
        ({"has_norm": False}, [nn.Conv2d]),
        ({"has_norm": False, "pool": 2}, [nn.Conv2d, nn.MaxPool2d]),
    ],
)
def test_a_bias_only_where_no_norm_follows(arguments, kinds):
    convolution = Convolution(2, 5, 3, **arguments)
    assert [type(part) for part in convolution] == kinds
    assert (convolution[0].bias is None) == (nn.BatchNorm2d in kinds)


def test_it_is_what_torch_computes():
    convolution = Convolution(2, 5, 3, stride=2, padding=1, pool=3).eval()
    with torch.no_grad():
        convolution[1].running_mean.fill_(0.2)
        convolution[1].running_var.fill_(4.0)
        images = torch.rand(3, 2, 12, 12)
        maps = nn.functional.conv2d(images, convolution[0].weight, stride=2, padding=1)
        wanted = nn.functional.max_pool2d((maps - 0.2) / (4.0 + 1e-5) ** 0.5, 3)
        torch.testing.assert_close(convolution(images), wanted)
    assert wanted.shape == (3, 5, 2, 2)


def statistics(convolution):
    """Give BatchNorm statistics and parameters that are not the identity."""
    norm, random = convolution[1], torch.Generator().manual_seed(7)
    with torch.no_grad():
        for values in (norm.weight, norm.running_var):
            values.copy_(0.5 + torch.rand(values.shape, generator=random))
        for values in (norm.bias, norm.running_mean):
            values.copy_(torch.randn(values.shape, generator=random))
    return convolution


def draw_spikes(*shape, density=0.03, seed=0):
    random = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=random) < density).float()


def whole_numbers(convolution):
    """Give small whole weights: sums of spikes are exact in float32, in any order."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for values in convolution[0].parameters():
            values.copy_(torch.randint(-4, 5, values.shape, generator=random))
    return convolution


@pytest.fixture
def event_calls(monkeypatch):
    """Shapes of what was convolved by events."""
    calls, convolve = [], event_convolution.convolve

    def spy(spikes, *rest, **kwargs):
        calls.append(tuple(spikes.shape))
        return convolve(spikes, *rest, **kwargs)

    monkeypatch.setattr(event_convolution, "convolve", spy)
    return calls


def part_by_part(convolution, inputs):
    """Run the convolution, the normalisation and the pooling one after the other."""
    return nn.Sequential.forward(convolution, inputs)


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
@pytest.mark.parametrize("pool", [1, 2])
def test_a_folded_norm_changes_nothing(kind, pool):
    convolution = statistics(Convolution(5, 4, 3, stride=2, padding=1, pool=pool)).eval()
    inputs = draw_spikes(3, 5, 9, 8, density=0.3).to(kind)
    with torch.no_grad():
        folded = convolution(inputs)
        wanted = part_by_part(convolution, inputs.float())
    # A current is a sum of 46 terms: at most about 46 roundings, each of half a unit in the last
    # place of a partial sum below 8.
    assert wanted.abs().max() < 8
    torch.testing.assert_close(folded, wanted, rtol=0.0, atol=46 * 2**-24 * 8)


def test_a_norm_that_is_not_positive_is_folded_before_pooling():
    # A negative scale turns the largest of a square into the smallest.
    convolution = Convolution(1, 2, 1, pool=2).eval()
    with torch.no_grad():
        convolution[0].weight.fill_(1.0)
        convolution[1].weight.copy_(torch.tensor([-1.0, 0.0]))
        convolution[1].bias.fill_(3.0)
        found = convolution(torch.tensor([[1, 0], [1, 1]], dtype=torch.uint8).view(1, 1, 2, 2))
    assert found.flatten().tolist() == [3.0, 3.0]


@pytest.mark.parametrize("pool", [1, 2])
def test_with_gradients_or_in_training_the_norm_is_not_folded(monkeypatch, pool):
    def refuse(*_):
        raise AssertionError("folded")

    monkeypatch.setattr(synapse, "_fold", refuse)
    convolution = statistics(Convolution(2, 4, 3, padding=1, pool=pool))
    twin, images = copy.deepcopy(convolution), torch.rand(3, 2, 6, 6)
    for is_training in (True, False):
        found = convolution.train(is_training)(images)
        wanted = part_by_part(twin.train(is_training), images)
        assert torch.equal(found, wanted)
        for module, output in ((convolution, found), (twin, wanted)):
            module.zero_grad()
            (output**2).sum().backward()
        for ours, theirs in zip(convolution.parameters(), twin.parameters(), strict=True):
            assert theirs.grad.abs().max() > 0
            assert torch.equal(ours.grad, theirs.grad)
    with torch.no_grad():
        assert torch.equal(convolution.train()(images), part_by_part(twin.train(), images))
    assert torch.equal(convolution[1].running_mean, twin[1].running_mean)
    assert torch.equal(convolution[1].running_var, twin[1].running_var)
    assert convolution[1].num_batches_tracked == 2
    with torch.no_grad(), pytest.raises(AssertionError, match="folded"):
        convolution.eval()(images)


def test_evaluation_does_not_touch_parameters_or_statistics():
    convolution = statistics(Convolution(2, 4, 3)).eval()
    before = copy.deepcopy(convolution.state_dict())
    with torch.no_grad():
        convolution(draw_spikes(2, 2, 5, 5).byte())
        convolution(torch.rand(2, 2, 5, 5))
    for name, values in convolution.state_dict().items():
        assert torch.equal(values, before[name])


CASES = [
    {"has_norm": False},
    {"has_norm": False, "pool": 2},
    {"has_norm": False, "stride": 2, "pool": 3},
    {"has_norm": False, "padding": 2, "stride": 3},
    {},
    {"padding": 1, "pool": 2},
]


@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_sparse_inputs_by_events_have_the_same_outputs_and_gradients(event_calls, arguments):
    convolution = whole_numbers(Convolution(6, 5, 3, **arguments)).train()
    twin = copy.deepcopy(convolution)
    ours = draw_spikes(4, 6, 11, 12, density=0.03).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    found, wanted = convolution(ours), part_by_part(twin, theirs)
    assert event_calls == [(4, 6, 11, 12)]
    random = torch.Generator().manual_seed(2)
    grad = torch.randint(-4, 5, wanted.shape, generator=random).float()
    found.backward(grad)
    wanted.backward(grad)
    if not convolution.has_norm:
        # Whole numbers: exact, whatever the order.
        assert torch.equal(found, wanted)
    # A norm's sums of some 10^3 float32 terms come in another order.
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    pairs = [(ours.grad, theirs.grad)]
    pairs += [
        (p.grad, q.grad) for p, q in zip(convolution.parameters(), twin.parameters(), strict=True)
    ]
    assert len(pairs) == 3 + convolution.has_norm
    for gradient, expected in pairs:
        scale = float(expected.abs().max())
        assert scale > 0
        rtol = 1e-5 if convolution.has_norm else 0.0
        torch.testing.assert_close(gradient, expected, rtol=rtol, atol=rtol * scale)


def test_gradients_are_slopes(event_calls):
    # The output is linear in weight, bias and input: a difference of any size is exact.
    convolution = whole_numbers(Convolution(2, 3, 3, stride=2, padding=1, has_norm=False))
    inputs = draw_spikes(2, 2, 5, 6).requires_grad_()
    weights = torch.randint(-3, 4, (2, 3, 3, 3), generator=torch.Generator().manual_seed(4)).float()

    def loss():
        return (convolution(inputs) * weights).sum()

    loss().backward()
    for values in (inputs, *convolution.parameters()):
        slopes = torch.empty_like(values)
        for at in itertools.product(*map(range, values.shape)):
            ends = []
            for step in (1.0, -2.0):
                values.data[at] += step
                ends.append(loss().item())
            values.data[at] += 1.0
            slopes[at] = (ends[0] - ends[1]) / 2
        assert torch.equal(values.grad, slopes)
    assert event_calls


def test_graded_and_negative_sparse_inputs_go_by_events_too(event_calls):
    convolution = whole_numbers(Convolution(6, 5, 3, has_norm=False))
    graded = draw_spikes(2, 6, 7, 7) * torch.tensor([0.5, -1.0, 2.0, -0.25, 1.0, 0.0]).view(6, 1, 1)
    assert torch.equal(convolution(graded), part_by_part(convolution, graded))
    assert len(event_calls) == 1
    # Large of both signs: their sum is 0, but they are not sparse.
    dense = torch.tensor([1.0, -1.0]).repeat(2, 6, 7, 4)
    assert dense.sum() == 0
    convolution(dense)
    assert len(event_calls) == 1


def test_only_what_pays_goes_by_events(event_calls):
    convolution = Convolution(3, 4, 3).eval()
    images, spikes = torch.rand(2, 3, 6, 6), draw_spikes(2, 3, 6, 6)
    with torch.no_grad():
        convolution(spikes.byte())  # nothing was measured yet
    convolution.density.fill_(0.03)
    convolution(images)
    convolution(draw_spikes(2, 3, 6, 6, density=0.5))
    with torch.no_grad():
        # Floats are never looked into: an image's output would depend on its batch.
        convolution(images)
        convolution(spikes)
        assert event_calls == []
        convolution(spikes.byte())
        convolution(torch.ones(1, 3, 6, 6, dtype=torch.uint8))
        assert len(event_calls) == 2
    convolution.train()(images)
    convolution(draw_spikes(2, 3, 6, 6, density=0.5))
    assert len(event_calls) == 2
    convolution(draw_spikes(2, 3, 6, 6, density=0.03))
    assert len(event_calls) == 3


def test_autocast_is_left_to_torch(event_calls):
    convolution = Convolution(3, 4, 3, has_norm=False)
    spikes = draw_spikes(2, 3, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolution(spikes).dtype == torch.bfloat16
    assert event_calls == []


def test_bytes_without_a_compiler(event_calls, monkeypatch):
    monkeypatch.setattr(synapse, "compiler_of", lambda device_type: None)
    convolution, spikes = (
        whole_numbers(Convolution(3, 4, 3, has_norm=False)),
        draw_spikes(2, 3, 6, 6),
    )
    assert torch.equal(convolution(spikes.byte()), part_by_part(convolution, spikes))
    assert event_calls == []


def test_an_image_does_not_depend_on_its_batch():
    convolution = statistics(Convolution(3, 4, 3, pool=2)).eval()
    convolution.density.fill_(0.03)
    spikes = draw_spikes(20, 3, 6, 6).byte()
    with torch.no_grad():
        whole = convolution(spikes)
        for image, wanted in zip(spikes, whole, strict=True):
            assert torch.equal(convolution(image[None])[0], wanted)


@pytest.mark.parametrize("rate", [0.02, 0.5])
def test_evaluation_goes_by_events_if_training_was_sparse(rate):
    torch.manual_seed(0)
    layer = Convolution(3, 64, 3, padding=1)
    spikes = (torch.rand(6, 3, 8, 8) < rate).float()
    for _ in range(60):
        layer(spikes)
    assert layer.density.item() == pytest.approx(spikes.mean().item(), rel=0.01)
    layer.eval()
    with (
        torch.no_grad(),
        mock.patch.object(
            event_convolution, "convolve", wraps=event_convolution.convolve
        ) as convolve,
    ):
        by_bytes, by_floats = layer(spikes.to(torch.uint8)), layer(spikes)
    assert convolve.called == (rate < 0.1)
    torch.testing.assert_close(by_bytes, by_floats)
