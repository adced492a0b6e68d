import math

import pytest
import snntorch
import torch
from conftest import Bars, Boom
from torch import nn

from spikelens.am.activations import Recorder
from spikelens.am.neurons import Neuron
from spikelens.am.objective import Objective
from spikelens.am.slopes import check_slopes, slopes
from spikelens.models.encoding import Encoder
from spikelens.models.lif import LIF, SpikingLayer
from spikelens.models.spiking_cnn import SpikingCNN, small

BETA, WEIGHT = 0.5, 0.3


def one_layer(num_steps, weights, encoding="direct"):
    """A network of one spiking layer behind a matrix `(units, pixels)`."""
    linear = nn.Linear(weights.shape[1], len(weights), bias=False)
    linear.weight.data.copy_(weights)
    synapse = nn.Sequential(nn.Flatten(), linear)
    layer = SpikingLayer(synapse, num_steps, beta=BETA, surrogate=snntorch.surrogate.atan())
    return SpikingCNN({"fc": layer}, Encoder(encoding, num_steps)).eval()


def differentiate(network, neurons, indices, owners, generator=None, chunk=50):
    generator = generator or Bars()
    with Recorder(network, neurons) as recorder:
        objective = Objective(generator, recorder, max(chunk, 5))
        return slopes(objective, owners, generator.embed(indices), chunk)


def some(generator, num):
    return generator.sample(num, torch.Generator().manual_seed(2))


def test_the_membrane_s_gradient_by_hand():
    # No spike at these weights: mem_t = I (1 + beta + ... + beta^(t-1)), I = w . symbol / 4.
    weights = torch.stack([torch.full((16,), 0.01), torch.linspace(-0.02, 0.02, 16)])
    network = one_layer(3, weights)
    neurons = [Neuron("fc", 0, "membrane"), Neuron("fc", 1, "membrane")]
    owners = torch.tensor([1, 0, 1])
    found = differentiate(network, neurons, some(Bars(), 3), owners)
    mean = (1 + (1 + BETA) + (1 + BETA + BETA**2)) / 3
    torch.testing.assert_close(found, mean * weights[owners].unsqueeze(2) / 4)


@pytest.mark.parametrize("brightness", [0, 2, 4])
def test_the_rate_s_gradient_by_hand(brightness):
    # One step: mem = w . symbol / 4; score = [mem > 1] + (1/2 + atan(mem) / pi) / 2, and the
    # spike's slope is that of the surrogate, 1 / (1 + (pi (mem - 1))^2).
    weights = torch.full((1, 16), WEIGHT / 4)
    indices = torch.full((1, 16), brightness)
    found = differentiate(one_layer(1, weights), [Neuron("fc", 0)], indices, torch.zeros(1).long())
    membrane = 4 * WEIGHT * brightness / 4
    slope = 1 / (1 + (math.pi * (membrane - 1)) ** 2) + 0.5 / math.pi / (1 + membrane**2)
    torch.testing.assert_close(found, torch.full((1, 16, 1), slope * WEIGHT / 16))


def test_a_silent_neuron_has_a_gradient():
    network = one_layer(4, torch.full((1, 16), 1e-3))
    indices = some(Bars(), 2)
    found = differentiate(network, [Neuron("fc", 0)], indices, torch.zeros(2).long())
    with Recorder(network, [Neuron("fc", 0)]) as recorder:
        assert not recorder.respond(Bars().decode(indices)).activations.any()
    assert (found > 0).all()


@pytest.mark.parametrize("grad", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_each_image_has_its_owner_s_gradient_in_any_chunk(tiny_network, grad):
    generator = Bars(side=8)
    neurons = [Neuron("conv1", 0), Neuron("fc1", 5, "membrane"), Neuron("conv2", 1, "max")]
    neurons.append(Neuron("conv3", 2, "centre"))
    indices, owners = some(generator, 9), torch.arange(9) % 4
    network = tiny_network, neurons
    with grad():
        whole = differentiate(*network, indices, owners, generator, chunk=100)
        parts = differentiate(*network, indices, owners, generator, chunk=2)
        alone = [
            differentiate(tiny_network, [neurons[k]], one[None], torch.tensor([0]), generator)
            for k, one in zip(owners, indices, strict=True)
        ]
    assert whole.shape == (9, 64, 1)
    assert not whole.requires_grad
    assert whole.flatten(1).any(1).all()
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.cat(alone), whole)


class Stepwise(nn.Module):
    """The same as `one_layer`, called step by step."""

    def __init__(self, num_steps, weights, init_hidden):
        super().__init__()
        self.fc = nn.Linear(weights.shape[1], len(weights), bias=False)
        self.fc.weight.data.copy_(weights)
        surrogate = snntorch.surrogate.atan()
        self.lif = snntorch.Leaky(beta=BETA, spike_grad=surrogate, init_hidden=init_hidden)
        self.num_steps = num_steps

    def forward(self, images):
        membrane = () if self.lif.init_hidden else (self.lif.reset_mem(),)
        for _ in range(self.num_steps):
            out = self.lif(self.fc(images.flatten(1)), *membrane)
            membrane = () if self.lif.init_hidden else out[1:]


@pytest.mark.parametrize("init_hidden", [True, False])
@pytest.mark.parametrize("readout", ["mean", "membrane"])
def test_stepwise_networks_have_the_gradients_of_scanned_ones(init_hidden, readout):
    weights = torch.randn(2, 16, generator=torch.Generator().manual_seed(0)).abs() / 4
    indices, owners = some(Bars(), 6), torch.arange(6) % 2
    scanned, stepwise = (
        differentiate(network, [Neuron(layer, k, readout) for k in range(2)], indices, owners)
        for network, layer in (
            (one_layer(6, weights), "fc"),
            (Stepwise(6, weights, init_hidden), "lif"),
        )
    )
    torch.testing.assert_close(stepwise, scanned)


def state(network):
    """All that a network would train with."""
    return {
        "needed": [parameter.requires_grad for parameter in network.parameters()],
        "gradients": [parameter.grad for parameter in network.parameters()],
        "kept": [m.keeps_means for m in network.modules() if isinstance(m, LIF)],
        "hooks": [len(module._forward_hooks) for module in network.modules()],
        "modes": [module.training for module in network.modules()],
    }


def test_the_network_is_left_as_it_was(tiny_network):
    tiny_network.conv2.synapse[0].weight.requires_grad_(False)
    before = state(tiny_network)
    values = {name: value.clone() for name, value in tiny_network.state_dict().items()}
    random = torch.get_rng_state()
    generator, owners = Bars(side=8), torch.zeros(3).long()
    differentiate(tiny_network, [Neuron("fc1", 0)], some(generator, 3), owners, generator)
    assert state(tiny_network) == before
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in tiny_network.state_dict().items():
        assert torch.equal(value, values[name]), name
    tiny_network.conv3.synapse = Boom()
    before = state(tiny_network)
    with pytest.raises(ArithmeticError):
        differentiate(tiny_network, [Neuron("fc1", 0)], some(generator, 3), owners, generator)
    assert state(tiny_network) == before
    assert torch.is_grad_enabled()


def test_the_gradient_of_a_rate_is_passed_straight_through():
    # No spike at these weights: the membrane is linear in the input, whose slope is that of pixels.
    network = one_layer(3, torch.full((1, 16), 0.01), "rate")
    owners, neurons = torch.zeros(2).long(), [Neuron("fc", 0, "membrane")]
    found = differentiate(network, neurons, some(Bars(), 2), owners)
    mean = (1 + (1 + BETA) + (1 + BETA + BETA**2)) / 3
    torch.testing.assert_close(found, torch.full((2, 16, 1), mean * 0.01 / 4))


def test_rates_are_differentiated_and_latencies_refused():
    generator, owners = Bars(side=8), torch.zeros(2).long()
    neurons, indices = [Neuron("conv2", 1)], some(generator, 2)
    networks = [
        small(1, 8, 3, width=4, encoding=encoding).eval() for encoding in ("rate", "latency")
    ]
    assert differentiate(networks[0], neurons, indices, owners, generator).flatten(1).any(1).all()
    with pytest.raises(ValueError, match="`network` must be differentiable for the gradient"):
        differentiate(networks[1], neurons, indices, owners, generator)


class Cut(nn.Module):
    """A layer that no gradient comes through."""

    def forward(self, x):
        return x.detach()


def test_what_has_no_gradient_is_told_by_one_blank_image():
    shape = 1, 8, 8
    neurons = [Neuron("conv1", 0), Neuron("conv2", 1, "latency"), Neuron("fc1", 5, "membrane")]
    for encoding in ("direct", "rate"):
        check_slopes(small(1, 8, 3, width=4, encoding=encoding), neurons, shape)
    with pytest.raises(ValueError, match="no gradient comes back from conv1 of this SpikingCNN"):
        check_slopes(small(1, 8, 3, width=4, encoding="latency"), neurons, shape)
    network = small(1, 8, 3, width=4)
    network.conv3.synapse = nn.Sequential(Cut(), network.conv3.synapse)
    network.conv2.eval()
    before = state(network)
    values = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    with torch.inference_mode():
        check_slopes(network, neurons[:2], shape)
    with pytest.raises(ValueError, match="no gradient comes back from fc1 of this SpikingCNN"):
        check_slopes(network, neurons, shape)
    assert state(network) == before
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in network.state_dict().items():
        assert torch.equal(value, values[name]), name


@pytest.mark.parametrize("init_hidden", [True, False])
def test_stepwise_networks_are_told_too_and_left_at_rest(init_hidden):
    network = Stepwise(3, torch.ones(2, 16), init_hidden)
    check_slopes(network, [Neuron("lif", 0)], (1, 4, 4))
    assert not network.lif.mem.numel()
    network.fc = nn.Sequential(network.fc, Cut())
    with pytest.raises(ValueError, match="from lif of this Stepwise"):
        check_slopes(network, [Neuron("lif", 0)], (1, 4, 4))
