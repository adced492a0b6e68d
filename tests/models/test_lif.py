import copy

import pytest
import snntorch
import torch
from torch import nn

from spikelens.models.lif import LIF, SpikingLayer

RESETS = ["subtract", "zero", "none"]


def snntorch_scan(current, num_steps, **neuron):
    """Spikes and membranes of `snntorch.Leaky`, called once a step as its tutorials do."""
    leaky = snntorch.Leaky(**neuron)
    membrane, spikes, membranes = torch.zeros_like(current[0]), [], []
    for t in range(num_steps):
        spike, membrane = leaky(current[t if len(current) > 1 else 0], membrane)
        spikes.append(spike)
        membranes.append(membrane)
    return torch.stack(spikes), torch.stack(membranes)


def currents(num_frames, *shape):
    random = torch.Generator().manual_seed(3)
    return 0.2 + 0.6 * torch.randn(num_frames, *shape, generator=random)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("num_frames", [128, 1])
def test_spikes_are_those_of_snntorch_bit_for_bit(reset, num_frames):
    current = currents(num_frames, 5, 3, 4, 4)
    layer = LIF(128, beta=0.93, threshold=0.7, reset=reset)
    spikes, membranes = snntorch_scan(current, 128, beta=0.93, threshold=0.7, reset_mechanism=reset)
    assert 0.05 < spikes.mean() < 0.95
    learned = layer(current)
    assert learned.membrane is None
    assert torch.equal(learned.spikes, spikes)
    with torch.no_grad():
        counted = layer(current)
    assert torch.equal(counted.spikes.float(), spikes)
    torch.testing.assert_close(counted.rate, spikes.mean(0))
    torch.testing.assert_close(counted.membrane, membranes.mean(0))


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("num_frames", [16, 1])
def test_gradients_are_those_of_snntorch(reset, num_frames):
    ours = currents(num_frames, 4, 6).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    weights = torch.randn(16, 4, 6, generator=torch.Generator().manual_seed(1))
    surrogate = snntorch.surrogate.fast_sigmoid(slope=10)
    (LIF(16, 0.8, surrogate=surrogate, reset=reset)(ours).spikes * weights).sum().backward()
    spikes, _ = snntorch_scan(theirs, 16, beta=0.8, spike_grad=surrogate, reset_mechanism=reset)
    (spikes * weights).sum().backward()
    assert theirs.grad.abs().max() > 0
    torch.testing.assert_close(ours.grad, theirs.grad)


# Current 3/4, beta 1/2, threshold 1: every number is exact in binary.
# subtract: 3/4, 9/8*, 9/16 + 3/4 - 1 = 5/16, 29/32, 77/64*, 77/128 + 3/4 - 1 = 45/128.
# zero:     3/4, 9/8*, 3/4, 9/8*, 3/4, 9/8*.
# none:     3/4, 9/8*, 21/16*, 45/32*, 93/64*, 189/128*.
BY_HAND = {
    "subtract": ([0, 1, 0, 0, 1, 0], [3 / 4, 9 / 8, 5 / 16, 29 / 32, 77 / 64, 45 / 128]),
    "zero": ([0, 1, 0, 1, 0, 1], [3 / 4, 9 / 8] * 3),
    "none": ([0, 1, 1, 1, 1, 1], [3 / 4, 9 / 8, 21 / 16, 45 / 32, 93 / 64, 189 / 128]),
}


@pytest.mark.parametrize("reset", RESETS)
def test_six_steps_by_hand(reset):
    spikes, membranes = BY_HAND[reset]
    layer = LIF(6, beta=0.5, reset=reset)
    current = torch.full((1, 1, 1), 0.75)
    assert layer(current).spikes.flatten().tolist() == spikes
    with torch.no_grad():
        scan = layer(current)
    assert scan.spikes.flatten().tolist() == spikes
    torch.testing.assert_close(scan.membrane.item(), sum(membranes) / 6)


def test_a_membrane_at_the_threshold_is_silent():
    with torch.no_grad():
        assert LIF(5, beta=0.0)(torch.ones(1, 1, 1)).spikes.sum() == 0
    assert LIF(5, beta=0.0)(torch.ones(1, 1, 1)).spikes.sum() == 0


def test_every_call_starts_at_rest():
    layer = LIF(12)
    first, other = currents(12, 3, 4), currents(12, 5, 2) + 1.0
    learned = layer(first).spikes
    layer(other)
    with torch.no_grad():
        counted = layer(first)
        layer(other)
        again = layer(first)
    assert torch.equal(layer(first).spikes, learned)
    assert torch.equal(counted.spikes, learned)
    assert torch.equal(again.membrane, counted.membrane)


def test_the_module_holds_no_graph_after_a_training_step():
    layer = SpikingLayer(nn.Linear(3, 2), 4)
    layer(torch.rand(1, 5, 3)).spikes.sum().backward()
    # torch refuses to copy a tensor that belongs to a graph.
    twin = copy.deepcopy(layer)
    assert twin.leaky.mem.numel() == 0
    assert all(not name.endswith("mem") for name in layer.state_dict())


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("shape", [(3, 2**16 + 5), (7, 2**14 + 1), (2**16 + 3, 1)])
def test_slices_of_the_batch_change_nothing(reset, shape):
    current = currents(3, *shape)
    layer = LIF(3, reset=reset)
    with torch.no_grad():
        scan = layer(current)
    spikes, membranes = snntorch_scan(current, 3, beta=0.9, reset_mechanism=reset)
    assert torch.equal(scan.spikes, spikes)
    torch.testing.assert_close(scan.membrane, membranes.mean(0))


def test_the_synapse_sees_time_folded_and_a_constant_input_once():
    class Spy(nn.Module):
        def forward(self, inputs):
            self.seen = tuple(inputs.shape)
            return inputs * 2.0

    layer = SpikingLayer(Spy(), 4, beta=0.5)
    frames = currents(4, 3, 2)
    scan = layer(frames)
    assert layer.synapse.seen == (12, 2)
    assert torch.equal(scan.spikes, LIF(4, beta=0.5)(frames * 2.0).spikes)
    still = layer(frames[:1]).spikes
    assert layer.synapse.seen == (3, 2)
    assert torch.equal(still, layer(frames[:1].expand(4, -1, -1)).spikes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be a positive integer, but got 0"),
        ({"num_steps": -2}, "`num_steps` must be a positive integer, but got -2"),
        ({"beta": 1.1}, r"`beta` must lie in \[0, 1\], but got 1.1"),
        ({"beta": -0.1}, r"`beta` must lie in \[0, 1\], but got -0.1"),
        ({"beta": float("nan")}, r"`beta` must lie in \[0, 1\], but got nan"),
        ({"threshold": 0.0}, "`threshold` must be positive, but got 0.0"),
        ({"reset": "hard"}, "`reset` must be 'subtract', 'zero' or 'none', but got 'hard'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LIF(**{"num_steps": 4, **arguments})
