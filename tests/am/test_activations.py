import pytest
import snntorch
import torch
from conftest import Boom
from torch import nn

from spikelens.am.activations import Recorder, layer_shapes, spiking_layers
from spikelens.am.neurons import Neuron, parse_neurons
from spikelens.models.encoding import Encoder
from spikelens.models.lif import SpikingLayer
from spikelens.models.spiking_cnn import SpikingCNN, small


def constant_network(currents, num_steps=4):
    """A 'network' whose map neurons get given constant currents, whatever the image."""

    class Currents(nn.Module):
        def __init__(self):
            super().__init__()
            self.values = nn.Parameter(torch.tensor(currents))

        def forward(self, images):
            return self.values.expand(len(images), *self.values.shape)

    layer = SpikingLayer(Currents(), num_steps, beta=1.0, threshold=1.0)
    return SpikingCNN({"layer": layer}, Encoder("direct", num_steps)).eval()


def respond(network, names, images):
    neurons = parse_neurons(names, {k: s[0] for k, s in layer_shapes(network, (1, 2, 2)).items()})
    with Recorder(network, neurons) as recorder:
        return recorder.respond(images)


def test_rates_by_hand():
    # beta 1, reset by subtraction one step late: current 1.5 makes mem 1.5, 2, 2.5, 3: rate 1.
    # Current .6: .6, 1.2*, .8, 1.4*: rate 1/2. Current .1: never.
    network = constant_network([[[1.5, 0.6], [0.1, 0.1]], [[0.1, 0.1], [0.1, 1.5]]])
    images = torch.zeros(3, 1, 2, 2)
    response = respond(network, ["layer:*", "layer:*@max", "layer:*@centre"], images)
    expected = torch.tensor([1.5 / 4, 1 / 4, 1.0, 1.0, 0.0, 1.0]).expand(3, -1)
    torch.testing.assert_close(response.activations, expected)
    membrane = respond(network, "layer:1@membrane", images).activations
    mean = ((0.1 + 0.2 + 0.3 + 0.4) / 4 * 3 + (1.5 + 2.0 + 2.5 + 3.0) / 4) / 4
    torch.testing.assert_close(membrane, torch.full((3, 1), mean))


def test_ties_are_broken_by_the_membrane_and_unequal_rates_are_not():
    network = constant_network([[0.1, 0.1], [0.2, 0.2], [-9.0, 1.5]])
    response = respond(network, "layer:*", torch.zeros(1, 1, 2, 2))
    rates, scores = response.activations[0], response.scores[0]
    assert rates[0] == rates[1] == 0.0
    assert scores[0] < scores[1]  # silent both, but the second is nearer to its threshold
    assert rates[2] > rates[1]
    assert scores[2] > scores[1]  # though its mean membrane is far lower


def test_one_pass_yields_all_neurons_and_batches_do_not_matter(tiny_network):
    images = torch.rand(9, 1, 8, 8)
    names = ["conv1:*", "fc1:0-9", "output:1@membrane", "conv2:3@centre"]
    units = {name: shape[0] for name, shape in layer_shapes(tiny_network, (1, 8, 8)).items()}
    with Recorder(tiny_network, parse_neurons(names, units)) as recorder:
        whole = recorder.respond(images)
        parts = [recorder.respond(part) for part in images.flip(0).split(4)]
    assert whole.activations.shape == (9, 4 + 10 + 1 + 1)
    for each, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(each, torch.cat(pieces).flip(0))


class Stepwise(nn.Module):
    """A network as snntorch's tutorials write it."""

    def __init__(self, init_hidden):
        super().__init__()
        self.init_hidden = init_hidden
        self.fc = nn.Linear(4, 5)
        self.lif = snntorch.Leaky(beta=0.9, init_hidden=init_hidden)

    def forward(self, images):
        membrane = None if self.init_hidden else torch.zeros(len(images), 5)
        out = []
        for _ in range(6):
            current = self.fc(images.flatten(1) * 5)
            if self.init_hidden:
                out.append(self.lif(current))
            else:
                spike, membrane = self.lif(current, membrane)
                out.append(spike)
        return torch.stack(out)


@pytest.mark.parametrize("init_hidden", [True, False])
def test_stepwise_snntorch_networks_are_recorded_and_start_at_rest(init_hidden):
    torch.manual_seed(0)
    network = Stepwise(init_hidden)
    images = torch.rand(3, 1, 2, 2)
    first = respond(network, "lif:*", images)
    second = respond(network, "lif:*", images)
    torch.testing.assert_close(first.activations, second.activations)
    network.lif.mem = torch.zeros(0)
    with torch.no_grad():
        spikes = network(images)
    torch.testing.assert_close(first.activations, spikes.mean(0))
    assert first.activations.max() > 0


def num_hooks(network):
    return sum(len(module._forward_hooks) for module in network.modules())


def test_hooks_are_removed_after_success_and_failure(tiny_network):
    neurons = [Neuron("conv1", 0)]
    with Recorder(tiny_network, neurons) as recorder:
        assert num_hooks(tiny_network) == 1
        recorder.respond(torch.rand(2, 1, 8, 8))
    assert num_hooks(tiny_network) == 0
    with pytest.raises(KeyError), Recorder(tiny_network, [Neuron("conv1", 0), Neuron("no", 1)]):
        pass
    assert num_hooks(tiny_network) == 0
    tiny_network.conv1.synapse = Boom()
    with pytest.raises(ArithmeticError), Recorder(tiny_network, neurons) as recorder:
        recorder.respond(torch.rand(2, 1, 8, 8))
    assert num_hooks(tiny_network) == 0
    with pytest.raises(ArithmeticError):
        layer_shapes(tiny_network, (1, 8, 8))
    assert num_hooks(tiny_network) == 0


def test_shapes_leave_modes_and_statistics_alone():
    network = small(1, 8, 3, width=4).train()
    network.conv2.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shapes = layer_shapes(network, (1, 8, 8))
    assert shapes == {
        "conv1": (4, 4, 4),
        "conv2": (8, 2, 2),
        "conv3": (8, 1, 1),
        "fc1": (128,),
        "output": (3,),
    }
    assert network.training
    assert network.conv1.training
    assert not network.conv2.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_networks_without_spikes_are_refused():
    with pytest.raises(ValueError, match="must have spiking layers"):
        spiking_layers(nn.Linear(2, 2))


def test_recording_needs_an_open_context(tiny_network):
    with pytest.raises(RuntimeError, match="inside `with"):
        Recorder(tiny_network, [Neuron("conv1", 0)]).respond(torch.rand(1, 1, 8, 8))
