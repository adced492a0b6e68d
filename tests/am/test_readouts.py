import pytest
import snntorch
import torch
from torch import nn

from spikelens.am.activations import Recorder, layer_extents
from spikelens.am.neurons import Neuron, parse_neurons
from spikelens.am.readouts import Course
from spikelens.models.encoding import Encoder
from spikelens.models.lif import LIF, SpikingLayer
from spikelens.models.spiking_cnn import SpikingCNN

IMAGE = 1, 2, 2


class Currents(nn.Module):
    """The same currents, whatever the image."""

    def __init__(self, currents):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(currents))

    def forward(self, images):
        return self.values.expand(len(images), *self.values.shape)


class StepByStep(nn.Module):
    """A synapse and snntorch neurons, called once a time step."""

    def __init__(self, synapse, num_steps, beta):
        super().__init__()
        self.synapse, self.num_steps = synapse, num_steps
        self.layer = snntorch.Leaky(beta=beta)

    def forward(self, images):
        current = self.synapse(images)
        membrane = torch.zeros_like(current)
        for _ in range(self.num_steps):
            spikes, membrane = self.layer(current, membrane)
        return spikes


def scanned(synapse, num_steps, beta):
    layer = SpikingLayer(synapse, num_steps, beta=beta)
    return SpikingCNN({"layer": layer}, Encoder("direct", num_steps)).eval()


BOTH = pytest.mark.parametrize("build", [scanned, StepByStep])


def respond(network, names, images=None):
    (extent,) = layer_extents(network, IMAGE).values()
    neurons = parse_neurons(names, {"layer": extent.shape[0]}, {"layer": extent.num_steps})
    with Recorder(network, neurons) as recorder:
        return recorder.respond(torch.zeros(2, *IMAGE) if images is None else images)


# beta 1, threshold 1, 4 steps; a current of 1.5 spikes at every step, .6 at steps 1 and 3 (membrane
# .6, 1.2, .8, 1.4), .4 at step 2 (.4, .8, 1.2, .6), .1 never.
MAPS = [[[1.5, 0.6], [0.1, 0.1]], [[0.4, 0.4], [0.4, 0.4]], [[0.1, 0.1], [0.1, 0.1]]]


@BOTH
@pytest.mark.parametrize(
    ("readout", "wanted"),
    [
        ("mean", [1.5 / 4, 1 / 4, 0.0]),
        ("latency", [1.0, 1 - 2 / 4, 0.0]),
        ("steps0-3", [1.5 / 4, 1 / 4, 0.0]),
        ("steps1-2", [(2 / 2 + 1 / 2) / 4, 1 / 2, 0.0]),
        ("steps0-0", [1 / 4, 0.0, 0.0]),
        ("contrast", [0.375 - 0.25 / 2, 0.25 - 0.375 / 2, 0.0 - (0.375 + 0.25) / 2]),
    ],
)
def test_maps_by_hand(build, readout, wanted):
    response = respond(build(Currents(MAPS), 4, 1.0), f"layer:*@{readout}")
    torch.testing.assert_close(response.activations, torch.tensor(wanted).expand(2, -1))


@BOTH
@pytest.mark.parametrize(
    ("readout", "wanted"),
    [
        ("latency", [0.5, 1.0, 0.75, 0.0]),
        ("steps2-3", [1 / 2, 1.0, 1 / 2, 0.0]),
        ("contrast", [0.25 - 1.5 / 3, 1.0 - 0.75 / 3, 0.5 - 1.25 / 3, 0.0 - 1.75 / 3]),
    ],
)
def test_features_by_hand(build, readout, wanted):
    response = respond(build(Currents([0.4, 1.5, 0.6, 0.1]), 4, 1.0), f"layer:*@{readout}")
    torch.testing.assert_close(response.activations, torch.tensor(wanted).expand(2, -1))


@BOTH
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("0.5*layer:0+0.5*layer:1", 0.5 * 0.375 + 0.5 * 0.25),
        ("layer:0+layer:1-layer:1@latency", 0.375 + 0.25 - 0.5),
        ("layer:0@contrast-2*layer:1@steps1-2+layer:0@max", 0.25 - 2 * 0.5 + 1.0),
        ("-layer:0", -0.375),
        ("0.5*layer:1@membrane-layer:2", 0.5 * (0.4 + 0.8 + 1.2 + 0.6) / 4),
    ],
)
def test_sums_by_hand(build, name, wanted):
    response = respond(build(Currents(MAPS), 4, 1.0), ["layer:2", name, "layer:0"])
    torch.testing.assert_close(
        response.activations, torch.tensor([0.0, wanted, 0.375]).expand(2, 3)
    )


READOUTS = ("latency", "steps0-2", "steps3-5", "contrast", "mean", "membrane")
MANY = [
    *(f"layer:*@{readout}" for readout in READOUTS),
    *("0.5*layer:0-2*layer:3@latency", "layer:1@contrast+layer:2@membrane+layer:4@steps1-1"),
]


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5))


def test_both_kinds_of_network_answer_alike():
    images = 3.0 * torch.rand(40, *IMAGE)
    found, wanted = (
        respond(build(linear(), 6, 0.9), MANY, images) for build in (scanned, StepByStep)
    )
    assert (found.activations[:, :10].std(0) > 0.1).any()  # they do answer, and not all alike
    torch.testing.assert_close(found.activations, wanted.activations)
    torch.testing.assert_close(found.scores, wanted.scores)


@BOTH
def test_batches_and_other_neurons_do_not_matter(build):
    network, images = build(linear(), 6, 0.9), 3.0 * torch.rand(11, *IMAGE)
    whole = respond(network, MANY, images)
    parts = [respond(network, MANY, part) for part in images.flip(0).split(4)]
    for each, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(each, torch.cat(pieces).flip(0))
    alone = [respond(network, name, images) for name in MANY]
    for each, pieces in zip(whole, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(each, torch.cat(pieces, 1))


@pytest.mark.parametrize("readout", ["latency", "steps0-1", "contrast"])
def test_membranes_order_equal_activations_and_no_others(readout):
    # Silent all but the last, which spikes at step 2 though its mean membrane is far the lowest.
    network = scanned(Currents([[0.1, 0.1], [0.2, 0.2], [-9.0, 0.4]]), 4, 1.0)
    readout = "steps2-3" if readout == "steps0-1" else readout
    response = respond(network, f"layer:*@{readout}")
    (low, high, late), scores = response.activations[0], response.scores[0]
    assert low == high < late
    assert scores[0] < scores[1] < scores[2]
    resolution = {"latency": 4, "steps2-3": 2 * 2, "contrast": 4 * 2 * 2}[readout]
    assert ((scores - response.activations[0]).abs() < 0.5 / resolution).all()


@pytest.mark.parametrize(
    ("name", "keeps"),
    [
        *(("fc1:0@latency", True), ("fc1:0@steps1-2", True), ("fc1:0-conv1:0@latency", False)),
        *(("fc1:0@contrast", False), ("fc1:0", False), ("2*fc1:0@steps1-2", True)),
    ],
)
def test_the_last_layers_spikes_are_written_only_where_they_are_read(tiny_network, name, keeps):
    seen = []
    handle = tiny_network.fc1.register_forward_hook(lambda *args: seen.append(args[2].spikes))
    (neuron,) = parse_neurons(name, {"conv1": 4, "fc1": 128})
    with Recorder(tiny_network, [neuron]) as recorder:
        response = recorder.respond(torch.rand(3, 1, 8, 8))
    handle.remove()
    assert response.activations.isfinite().all()
    assert [spikes is not None for spikes in seen] == [keeps]
    assert all(layer.keeps_spikes for layer in tiny_network.modules() if isinstance(layer, LIF))


def test_a_network_of_many_layers_answers_as_its_spikes_say(tiny_network):
    with torch.no_grad():
        tiny_network.conv1.synapse[1].bias.fill_(0.4)
        tiny_network.conv2.synapse[1].bias.fill_(0.4)
    images = torch.rand(7, 1, 8, 8) * torch.arange(7).view(-1, 1, 1, 1)
    names = ["conv2:3@latency", "conv1:1@steps1-2", "conv1:2@contrast", "conv2:5@steps1-1"]
    neurons = parse_neurons(names, {"conv1": 4, "conv2": 8})
    with Recorder(tiny_network, neurons) as recorder:
        found = recorder.respond(images).activations
    with torch.no_grad():
        spikes = {name: scan.spikes.float() for name, scan in tiny_network.scans(images).items()}
    fired = spikes["conv2"][:, :, 3].flatten(2).amax(2)  # (T, N)
    first = torch.where(fired.any(0), fired.argmax(0), 4)
    means = spikes["conv1"].mean((0, 3, 4))  # (N, U)
    wanted = [
        1 - first / 4,
        spikes["conv1"][1:3, :, 1].mean((0, 2, 3)),
        means[:, 2] - means[:, [0, 1, 3]].mean(1),
        spikes["conv2"][1, :, 5].mean((1, 2)),
    ]
    torch.testing.assert_close(found, torch.stack(wanted, 1))
    assert (found.std(0) > 0).all()


@BOTH
def test_time_steps_that_are_not_taken_are_refused_by_a_recorder_too(build):
    network = build(Currents(MAPS), 4, 1.0)
    assert layer_extents(network, IMAGE)["layer"].num_steps == 4
    says = "time steps from 0 to 3 in layer, first before last, but got 'steps2-4'"
    with (
        Recorder(network, [Neuron("layer", 0, "steps2-4")]) as recorder,
        pytest.raises(ValueError, match=says),
    ):
        recorder.respond(torch.zeros(1, *IMAGE))


def test_a_course_forgets():
    course = Course(["latency", "steps0-1", "mean"])
    assert course.is_needed
    for spikes in ([0.0, 1.0], [1.0, 1.0], [1.0, 0.0]):
        course.add(torch.tensor([spikes]))
    assert course.waited.tolist() == [[1.0, 0.0]]
    assert course.counts["steps0-1"].tolist() == [[1.0, 2.0]]
    course.clear()
    course.add(torch.tensor([[0.0, 0.0]]))
    assert course.num_steps == 1
    assert course.waited.tolist() == [[1.0, 1.0]]
    assert course.counts["steps0-1"].tolist() == [[0.0, 0.0]]
    assert not Course(["mean", "contrast", "membrane"]).is_needed
