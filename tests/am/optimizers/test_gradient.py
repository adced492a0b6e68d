from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import Bars
from torch import nn

from spikelens.am.activations import Recorder, Response
from spikelens.am.archive import Archive
from spikelens.am.neurons import Neuron
from spikelens.am.objective import Objective
from spikelens.am.optimizers.gradient import Gradient
from spikelens.am.optimizers.random import RandomSearch
from spikelens.am.probe import SearchPlan, probe_neurons
from spikelens.am.search import search
from spikelens.am.target import Target
from spikelens.models.encoding import Encoder
from spikelens.models.lif import SpikingLayer
from spikelens.models.spiking_cnn import SpikingCNN

SIGNS = torch.tensor([[1.0, -1.0] * 8, [-1.0, -1.0, 1.0, 1.0] * 4])


def signed(readout="membrane", weight=0.02, nonlinearity=None):
    """Two neurons that want the pixels whose weight is positive, and no others; and those."""
    linear = nn.Linear(16, 2, bias=False)
    linear.weight.data.copy_(weight * SIGNS)
    parts = [nn.Flatten(), linear] + ([nonlinearity] if nonlinearity else [])
    layer = SpikingLayer(nn.Sequential(*parts), num_steps=4)
    return SpikingCNN({"fc": layer}, Encoder("direct", 4)).eval(), [
        Neuron("fc", k, readout) for k in range(2)
    ]


@pytest.fixture
def objective():
    network, neurons = signed()
    with Recorder(network, neurons) as recorder:
        yield Objective(Bars(), recorder)


def opened(objective, archive=None, **settings):
    optimizer = Gradient(objective.generator, archive or Archive(2, 16), **settings)
    optimizer.open(objective)
    return optimizer


def tell(optimizer, asked):
    """Show what was asked, archive it, and tell each neuron's own scores `(K, b)`."""
    response = optimizer.objective(asked.flatten(0, 1))
    optimizer.archive.add(asked.flatten(0, 1), response)
    scores = response.scores.unflatten(0, asked.shape[:2])  # (K, b, K)
    own = torch.arange(len(asked))
    optimizer.tell(scores[own, :, own])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("commitment", [0.0, 0.3])
def test_the_known_optimum_is_found(objective, batch, commitment):
    archive = Archive(2, 16)
    optimizer = Gradient(Bars(), archive, batch=batch, commitment=commitment)
    search(objective, optimizer, archive, 10 * batch, ceiling=torch.inf, is_pooled=False)
    assert torch.equal(archive.indices[:, 0], 4 * (SIGNS > 0).long())


class Least:
    """An objective turned round."""

    direction = "minimize"

    def __init__(self, objective):
        self.objective = objective

    def __call__(self, indices):
        response = self.objective(indices)
        return Response(response.activations, -response.scores)


def test_the_least_exciting_is_found_where_scores_are_turned_round(objective):
    archive = Archive(2, 16)
    search(Least(objective), Gradient(Bars(), archive), archive, 20, ceiling=torch.inf)
    assert torch.equal(archive.indices[:, 0], 4 * (SIGNS < 0).long())


def test_each_step_sees_the_noise_of_the_showing_before():
    linear = nn.Linear(16, 2, bias=False)
    layer = SpikingLayer(nn.Sequential(nn.Flatten(), linear), num_steps=4)
    network = SpikingCNN({"fc": layer}, Encoder("rate", 4)).eval()
    seen = {True: [], False: []}

    def note(encoder, *_):
        seen[torch.is_grad_enabled()].append(encoder.repeat)

    network.encoder.register_forward_hook(note)
    archive, neurons = Archive(2, 16), [Neuron("fc", k, "membrane") for k in range(2)]
    with Recorder(network, neurons) as recorder:
        objective = Objective(Bars(), recorder, chunk=8, seed=3)
        target = Target(objective, first_repeat=5)
        search(target, Gradient(Bars(), archive, batch=2), archive, 8, ceiling=torch.inf)
    noise_of_seed = 3 * 2**32
    assert seen[False][-4:] == [noise_of_seed + repeat for repeat in (5, 6, 7, 8)]
    assert seen[True][-4:] == [noise_of_seed + repeat for repeat in (4, 5, 6, 7)]
    assert network.encoder.repeat == 0


def test_spikes_are_climbed_too():
    # A start of black images: silent, and only the surrogate tells which way is up.
    network, neurons = signed("mean", weight=0.2)
    archive, start = Archive(2, 16), torch.zeros(2, 1, 16).long()
    with Recorder(network, neurons) as recorder:
        objective = Objective(Bars(), recorder)
        result = search(objective, Gradient(Bars(), archive), archive, 30, start)
    # Eight bright pixels give a current of 1.6 a step, which is above the threshold at once.
    assert result.curve[0].tolist() == [0.0, 0.0]
    assert result.activations.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("batch", [1, 4])
def test_proposals_lie_in_the_box(objective, batch):
    optimizer = opened(objective, batch=batch, learning_rate=5.0)
    for _ in range(4):
        asked = optimizer.ask()
        assert asked.shape == (2, batch, 16)
        assert asked.dtype == torch.int64
        assert (asked >= 0).all()
        assert (asked < 5).all()
        tell(optimizer, asked)


def test_ascents_start_from_elites_and_then_from_draws(objective):
    archive = Archive(2, 16)
    elites = Bars().sample(2, torch.Generator().manual_seed(4))
    scores = torch.tensor([[1.0, 0.5], [0.5, torch.nan]])
    archive.add(elites, Response(scores, scores))
    # Steps of almost nothing stay where they start.
    asked = opened(objective, archive, batch=3, learning_rate=1e-6).ask()
    assert torch.equal(asked[0, :2], elites)
    assert torch.equal(asked[1, 0], elites[0])
    # Nothing starts from what is no elite.
    drawn = torch.cat([asked[0, 2:], asked[1, 1:]])
    assert not (drawn == 0).all(1).any()
    assert len(drawn.unique(dim=0)) == 3


def test_the_seed_decides_and_the_global_state_does_not(objective):
    def run(seed):
        optimizer = opened(objective, seed=seed)
        found = []
        for _ in range(3):
            asked = optimizer.ask()
            tell(optimizer, asked)
            found.append(asked)
            torch.rand(3)
        return torch.stack(found)

    first = run(0)
    assert torch.equal(first, run(0))
    assert not torch.equal(first, run(1))


@pytest.mark.parametrize("grad", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_any_grad_mode_will_do(objective, grad):
    with grad():
        archive = Archive(2, 16)
        search(objective, Gradient(Bars(), archive), archive, 20, ceiling=torch.inf)
    assert torch.equal(archive.indices[:, 0], 4 * (SIGNS > 0).long())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_was_not_shown_is_begun_anew(objective, value):
    optimizer = opened(objective, learning_rate=1e-6)
    first = optimizer.ask()
    own = torch.zeros(2, 2)
    own[0, 1] = value
    optimizer.tell(own)
    second = optimizer.ask()
    is_same = (first == second).all(2)
    assert is_same.tolist() == [[True, False], [True, True]]


def test_an_ascent_without_a_gradient_begins_anew():
    # Behind a ReLU a neuron has no gradient at what it wants least: the first one starts there.
    network, neurons = signed(nonlinearity=nn.ReLU())
    archive, start = Archive(2, 16), 4 * (SIGNS * torch.tensor([[-1.0], [1.0]]) > 0).long()
    scores = torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]])
    archive.add(start, Response(scores, scores))
    with Recorder(network, neurons) as recorder:
        optimizer = opened(Objective(Bars(), recorder), archive, batch=1, learning_rate=1e-6)
        asked = optimizer.ask()[:, 0]
    assert (asked == start).all(1).tolist() == [False, True]


def test_it_needs_an_objective_that_it_can_look_into():
    optimizer = Gradient(Bars(), Archive(1, 16))
    with pytest.raises(RuntimeError, match=r"ask was called before Gradient\.open"):
        optimizer.ask()
    with pytest.raises(TypeError, match=r"must be an Objective, whose .* but got a function"):
        optimizer.open(lambda indices: Response(indices, indices))
    black_box = SimpleNamespace(mode_sizes=(3, 3), sample=None)
    with pytest.raises(ValueError, match="this SimpleNamespace, which cannot be differentiated"):
        Gradient(black_box, Archive(1, 2))


def test_a_network_without_a_gradient_is_refused_before_anything_is_shown():
    layer = SpikingLayer(nn.Sequential(nn.Flatten(), nn.Linear(16, 1)), num_steps=4)
    network, archive = SpikingCNN({"fc": layer}, Encoder("latency", 4)).eval(), Archive(1, 16)
    shown = []
    with Recorder(network, [Neuron("fc", 0)]) as recorder:
        objective = Objective(Bars(), recorder, on_shown=shown.append)
        with pytest.raises(ValueError, match="`network` must be differentiable for the gradient"):
            search(objective, Gradient(Bars(), archive), archive, 9, torch.zeros(1, 2, 16).long())
    assert not shown


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"learning_rate": 0.0}, "`learning_rate` must be positive, but got 0.0"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be positive, but got nan"),
        ({"commitment": 1.1}, r"`commitment` must lie in \[0, 1\], but got 1.1"),
        ({"commitment": -0.1}, r"`commitment` must lie in \[0, 1\], but got -0.1"),
        ({"batch": 0}, "`batch` must be a positive integer, but got 0"),
    ],
)
def test_bad_arguments_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Gradient(Bars(), Archive(1, 16), **settings)


def test_order_of_calls_is_kept(objective):
    optimizer = opened(objective)
    with pytest.raises(RuntimeError, match="tell was called without"):
        optimizer.tell(torch.zeros(2, 2))
    optimizer.ask()
    with pytest.raises(RuntimeError, match="called twice"):
        optimizer.ask()


def test_a_probe_is_more_exciting_than_chance_and_leaves_the_network_alone(tiny_network, natural):
    generator = Bars(num_symbols=8, side=8)
    neurons = [Neuron("conv1", 0), Neuron("fc1", 5, "membrane"), Neuron("conv2", 1, "max")]
    before = {name: value.clone() for name, value in tiny_network.state_dict().items()}
    needed = [parameter.requires_grad for parameter in tiny_network.parameters()]
    plan = SearchPlan(budget=60, num_starts=2, precision="float32")
    run = partial(probe_neurons, tiny_network, generator, neurons, natural)
    probe, random = run(Gradient, plan), run(RandomSearch, plan)
    assert probe.search.presentations.tolist() == [60] * 3
    assert (probe.activations >= random.activations).all()
    assert probe.activations.sum() > random.activations.sum()
    assert [parameter.requires_grad for parameter in tiny_network.parameters()] == needed
    assert all(parameter.grad is None for parameter in tiny_network.parameters())
    for name, value in tiny_network.state_dict().items():
        assert torch.equal(value, before[name]), name
