import dataclasses
import functools
import io
import math

import pytest
import torch
from conftest import Bars

from spikelens.am.neurons import Neuron, parse_neurons
from spikelens.am.optimizers.random import RandomSearch
from spikelens.am.probe import SearchPlan, probe_neurons
from spikelens.tracking import History, Row, rows_of

NEURONS = (Neuron("conv1", 0), Neuron("conv1", 2, "centre"), Neuron("fc1", 3))


@pytest.fixture
def probe(tiny_network, natural):
    optimizer = functools.partial(RandomSearch, batch=2)
    plan = SearchPlan(budget=5, num_starts=2, num_elites=4)
    return probe_neurons(tiny_network, Bars(side=8), NEURONS, natural, optimizer, plan)


@pytest.fixture
def start():
    return torch.randint(0, 5, (3, 2, 64), generator=torch.Generator().manual_seed(0))


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_a_row_says_what_the_probe_found(probe):
    rows = rows_of(probe, epoch=7)
    assert [row.neuron for row in rows] == ["conv1:0", "conv1:2@centre", "fc1:3"]
    assert [(row.layer, row.unit) for row in rows] == [("conv1", 0), ("conv1", 2), ("fc1", 3)]
    for k, row in enumerate(rows):
        assert row.epoch == 7
        assert row.activation == probe.activations[k].item()
        assert row.natural_activation == probe.natural_activations[k].item()
        if row.natural_activation > 0:
            wanted = row.activation / row.natural_activation
            assert row.ratio == pytest.approx(wanted, rel=1e-6)
        assert row.presentations == probe.search.presentations[k]
        assert row.presentations <= 5
    assert rows[0].preferred in ("a", "b", "c")


def test_each_further_stimulus_is_a_row_and_history_keeps_the_first(tiny_network, natural):
    optimizer = functools.partial(RandomSearch, batch=2)
    plan = SearchPlan(budget=5, num_starts=2, num_elites=4, num_stimuli=2, min_distance=0.5)
    generator = Bars(side=8)
    probe = probe_neurons(tiny_network, generator, NEURONS, natural, optimizer, plan)
    rows = rows_of(probe, 0)
    assert [row.stimulus for row in rows] == [0] * 3 + [1] * 3
    assert [row.neuron for row in rows[3:]] == [str(neuron) for neuron in NEURONS]
    (other,) = probe.others
    for k, (first, second) in enumerate(zip(rows[:3], rows[3:], strict=True)):
        assert second.activation == other.activations[k].item()
        assert second.presentations == 5
        assert second.distance >= 0.5 - 1e-3
        assert math.isnan(first.distance)
        assert first.standard_error == second.standard_error == 0.0
        assert second.realism == probe.other_realism[0][k].item()
        assert second.auroc == first.auroc or math.isnan(first.auroc)
        if first.natural_activation > 0:
            wanted = second.activation / first.natural_activation
            assert second.ratio == pytest.approx(wanted, rel=1e-6)
    history = History()
    history.append(probe, 0, None)
    assert torch.equal(history.activations[0], probe.activations)
    assert history.names == [str(neuron) for neuron in NEURONS]
    assert history.direction == "maximize"


def test_a_silent_neuron_has_no_class_and_no_ratio(probe):
    mute = dataclasses.replace(
        probe,
        natural_activations=torch.zeros(3),
        activations=torch.tensor([0.0, 0.5, 0.0]),
        is_silent=torch.tensor([True, False, True]),
        selectivity=dataclasses.replace(probe.selectivity, preferred=torch.tensor([-1, -1, 2])),
    )
    rows = rows_of(mute, epoch=0)
    assert [row.preferred for row in rows] == ["", "", "c"]
    assert [row.is_silent for row in rows] == [True, False, True]
    assert all(math.isnan(row.ratio) for row in rows)
    fields = dataclasses.asdict(rows[0])
    assert {type(value) for value in fields.values()} == {int, str, float, bool}


def test_populations_go_through_a_history(tiny_network, natural):
    names = ["conv1:0+0.5*fc1:3", "conv1:1@latency", "conv1:2@steps0-1", "-fc1:3@contrast"]
    neurons = parse_neurons(names, {"conv1": 4, "fc1": 128})
    plan = SearchPlan(budget=5, num_starts=2, num_elites=4)
    probe = probe_neurons(tiny_network, Bars(side=8), neurons, natural, RandomSearch, plan)
    history, twin = History(), History()
    rows = history.append(probe, 0, None)
    places = [("population", -1), ("conv1", 1), ("conv1", 2), ("population", -1)]
    assert [(row.layer, row.unit) for row in rows] == places
    twin.load_state_dict(through_a_file(history.state_dict()), neurons)
    assert twin.names == names
    with pytest.raises(ValueError, match="4 in all"):
        twin.load_state_dict(history.state_dict(), neurons[::-1])


def test_history_keeps_what_was_appended(probe, start):
    history = History()
    assert history.elites is None
    assert repr(history.append(probe, 0, None)) == repr(rows_of(probe, 0))  # NaN is not itself
    assert history.start is None
    louder = dataclasses.replace(probe, activations=probe.activations + 1.0)
    history.append(louder, 2, start)
    assert history.epochs == [0, 2]
    assert history.names == [str(neuron) for neuron in NEURONS]
    assert repr(history.rows) == repr(rows_of(probe, 0) + rows_of(louder, 2))
    wanted = torch.stack([probe.activations, probe.activations + 1.0])
    torch.testing.assert_close(history.activations, wanted)
    assert torch.equal(history.start, start)
    assert torch.equal(history.elites, probe.elites)
    assert [pixels.dtype for pixels in history.stimuli] == [torch.uint8] * 2
    difference = history.stimuli[0].float() / 255 - probe.stimuli
    assert difference.abs().max() <= 0.5 / 255 + 1e-6


def test_the_state_survives_a_weights_only_file(probe, start):
    history = History()
    history.append(probe, 0, None)
    history.append(probe, 1, start)
    twin = History()
    state = through_a_file(history.state_dict())
    twin.load_state_dict(state, NEURONS)
    assert twin.epochs == history.epochs
    assert twin.names == history.names
    assert len(twin.stimuli) == 2
    assert all(map(torch.equal, twin.stimuli, history.stimuli))
    assert torch.equal(twin.start, start)
    assert torch.equal(twin.elites, history.elites)
    assert all(isinstance(row, Row) for row in twin.rows)
    assert repr(twin.rows) == repr(history.rows)
    twin.append(probe, 2, start)
    assert twin.epochs == [0, 1, 2]
    assert state["epochs"] == history.epochs == [0, 1]  # nothing is shared
    assert len(state["stimuli"]) == len(state["rows"]) // 3 == 2


def test_an_empty_history_survives_and_fits_any_neurons():
    twin = History()
    twin.load_state_dict(through_a_file(History().state_dict()), NEURONS)
    assert (twin.epochs, twin.stimuli, twin.rows) == ([], [], [])
    assert twin.start is None
    assert twin.elites is None


def test_the_history_of_the_other_direction_is_refused(probe):
    history, twin = History(), History()
    history.append(probe, 0, None)
    with pytest.raises(
        ValueError, match=r"`direction` must be .* resumed \(maximize\), but got min"
    ):
        twin.load_state_dict(history.state_dict(), NEURONS, "minimize")
    assert twin.rows == []


@pytest.mark.parametrize(
    "neurons",
    [NEURONS[:2], NEURONS[::-1], (*NEURONS[:2], Neuron("fc1", 4)), [Neuron("conv1", 0)] * 3, ()],
)
def test_the_history_of_other_neurons_is_refused(probe, neurons):
    history, twin = History(), History()
    history.append(probe, 0, None)
    with pytest.raises(ValueError, match=r"resumed \(conv1:0 … fc1:3, 3 in all\)"):
        twin.load_state_dict(history.state_dict(), neurons)
    assert twin.rows == []
