from types import SimpleNamespace

import pytest
import torch
from conftest import Bars

from spikelens.am.activations import Response
from spikelens.am.distance import LatentDistance
from spikelens.am.finding import find_stimuli, num_settled
from spikelens.am.neurons import Neuron
from spikelens.am.optimizers.elite_tt import EliteTT
from spikelens.am.optimizers.random import RandomSearch
from spikelens.am.plan import SearchPlan
from spikelens.am.search import StopReason

NEURONS = [Neuron("fc1", 0, "membrane"), Neuron("fc1", 1, "membrane")]
PEAKS = torch.tensor([[0, 4], [3, 1]])[..., None].expand(2, 2, 16)  # two for each of two neurons


class Peaks:
    """Answers with the share of symbols at the nearest peak; the second is a tenth lower."""

    def __init__(self, sigma=0.0):
        self.generator, self.device = Bars(), torch.device("cpu")
        self.recorder = SimpleNamespace(neurons=NEURONS)
        self.is_noisy, self.sigma = sigma > 0, sigma
        self.chunk, self.precision, self.repeats = 50, "float32", []

    def mean(self, indices):
        shares = (indices[:, None, None] == PEAKS).float().mean(3)  # (N, K, peaks)
        return (shares * torch.tensor([1.0, 0.9])).amax(2)

    def __call__(self, indices, repeat=0):
        self.repeats.append(repeat)
        weights = torch.randn(2, 16, generator=torch.Generator().manual_seed(repeat))
        noise = self.sigma * (indices[:, None] / 4.0 - 0.5).mul(weights).sum(2)
        values = self.mean(indices) + noise
        return Response(values, values)


def find(objective, candidates=None, optimizer=EliteTT, **plan):
    plan = SearchPlan(**({"budget": 1500, "precision": "float32"} | plan))
    return find_stimuli(objective, optimizer, plan, candidates, 3)


def test_both_peaks_are_found_and_far_from_each_other():
    # Natural images are somewhere near the peaks: three symbols of sixteen are others.
    candidates = PEAKS.clone()
    candidates[:, :, :3] = 2
    first, second = find(Peaks(), candidates, num_stimuli=2, min_distance=0.8)
    assert torch.equal(first.indices, PEAKS[:, 0])
    assert torch.equal(second.indices, PEAKS[:, 1])
    assert first.activations.tolist() == pytest.approx([1.0, 1.0])
    assert second.activations.tolist() == pytest.approx([0.9, 0.9])
    assert first.standard_errors.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("optimizer", [EliteTT, RandomSearch])
def test_all_pairs_of_stimuli_keep_their_distance(optimizer):
    candidates = torch.cat([PEAKS, PEAKS.roll(1, 0)], 1)
    found = find(Peaks(), candidates, optimizer, budget=60, num_stimuli=4, min_distance=0.6)
    distance = LatentDistance(Bars())
    points = torch.stack([finding.indices for finding in found], 1)  # (K, m, d)
    apart = distance(points, points) + torch.eye(4)
    assert apart.min() >= 0.6 - 1e-3
    assert found[0].distances.isnan().all()
    for number in range(1, 4):
        nearest = distance(points, points)[:, number, :number].amin(1)
        torch.testing.assert_close(found[number].distances, nearest, atol=1e-3, rtol=1e-3)
        assert found[number].search.presentations.tolist() == [60, 60]


def test_the_first_stimulus_is_the_same_however_many_are_sought():
    (alone,) = find(Peaks(), budget=80)
    first, _ = find(Peaks(), budget=80, num_stimuli=2)
    assert torch.equal(alone.indices, first.indices)
    assert torch.equal(alone.search.curve, first.search.curve)


def test_allowed_candidates_are_looked_at_first():
    # One image a neuron: the second search starts from the peak that is left.
    first, second = find(Peaks(), PEAKS, budget=2, num_stimuli=2, min_distance=0.5)
    assert torch.equal(first.indices, PEAKS[:, 0])
    assert torch.equal(second.indices, PEAKS[:, 1])


def test_a_neuron_without_an_allowed_point_has_nan():
    # Both neurons' corner excludes, at distance 1, all but points far on the other side.
    corner = torch.full((2, 1, 16), 2)
    first, second = find(Peaks(), corner, RandomSearch, budget=1, num_stimuli=2, min_distance=1.0)
    assert torch.equal(first.indices, corner[:, 0])
    assert second.activations.isnan().all()
    assert second.stimuli.isnan().all()
    assert second.distances.isnan().all()
    assert second.standard_errors.isnan().all()


def test_downward_the_least_is_found_and_a_floor_ends_nothing():
    objective = Peaks()
    objective.recorder = SimpleNamespace(neurons=[Neuron("fc1", 0), Neuron("fc1", 1)])
    (found,) = find(objective, budget=200, direction="minimize")
    assert (found.activations <= 1 / 16).all()  # at most one of the 16 symbols is a peak's
    assert found.activations.min() == 0.0
    assert found.search.presentations.tolist() == [200, 200]
    assert found.search.stop is StopReason.BUDGET
    assert torch.equal(found.search.curve, found.search.curve.cummin(0).values)


def test_under_noise_what_is_told_is_not_what_the_search_saw():
    objective = Peaks(sigma=0.05)
    (found,) = find(objective, budget=300, num_repeats=30)
    true = objective.mean(found.indices).diagonal()
    # Noise of a point: at most .05 / 2 times the root of 16 modes; of a mean of 30, 5 of it.
    assert (found.activations - true).abs().max() < 5 * 0.1 / 30**0.5
    assert (found.standard_errors > 0).all()
    assert found.standard_errors.max() < 2 * 0.1 / 30**0.5
    settled = num_settled(objective, SearchPlan(num_repeats=30))
    assert settled == (8 + 4 + 2) * 2 + 30
    told = objective.repeats[-30:]
    assert len(set(told)) == 30
    assert not set(told) & set(objective.repeats[:-30])  # none that a search or heat saw


def test_searches_for_several_stimuli_see_noise_of_their_own():
    objective = Peaks(sigma=0.05)
    find(objective, budget=30, num_stimuli=3, num_repeats=5)
    # Three rounds, 2 repeats in each of three heats, 5 for the winner: no repeat comes twice.
    assert len(set(objective.repeats)) == len(objective.repeats) == 3 * (3 + 6 + 5)
    assert 0 not in objective.repeats  # the natural images'


def test_a_network_that_answers_the_same_is_shown_again_once():
    objective = Peaks()
    find(objective, budget=20)
    rounds = 20 // 10
    assert len(objective.repeats) == rounds + 1
    assert num_settled(objective, SearchPlan(precision="float32")) == 1
    assert num_settled(objective, SearchPlan(precision="bfloat16")) == 4
