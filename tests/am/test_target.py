import pytest
import torch

from spikelens.am.activations import Response
from spikelens.am.distance import LatentDistance
from spikelens.am.target import Target, oriented, own_answers


def sums(indices, repeat):
    """Two neurons: the sum of symbols, and that plus the repeat's number."""
    total = indices.sum(1).float()
    return Response(torch.stack([total, total + repeat], 1), torch.stack([total, total * 2], 1))


def test_each_call_is_the_next_repeat():
    target = Target(sums, first_repeat=5)
    points = torch.ones(3, 16).long()
    assert [float(target(points).activations[0, 1]) for _ in range(3)] == [21.0, 22.0, 23.0]
    assert target.repeat == 8


def test_downward_scores_are_turned_and_activations_are_not():
    points = torch.arange(5)[:, None].expand(5, 16)
    up, down = Target(sums)(points), Target(sums, "minimize")(points)
    assert torch.equal(up.activations, down.activations)
    assert torch.equal(up.scores, -down.scores)
    assert oriented(up, "maximize") is up


def test_what_is_too_near_is_ruled_out_for_that_neuron_alone(bars):
    found = torch.stack([torch.zeros(1, 16), torch.full((1, 16), 4)]).long()
    target = Target(sums, found=found, distance=LatentDistance(bars), min_distance=0.5)
    points = torch.tensor([[0] * 16, [4] * 16, [2] * 16, [0, *[1] * 15]])
    # Symbols' variance is 2: 16 modes that differ by 1 are at .5, by 2 at 1; 15 at less than .5.
    allowed = [[False, True], [True, False], [True, True], [False, True]]
    assert target.allows(points).tolist() == allowed
    assert target(points).scores.isfinite().tolist() == allowed
    assert target(points).activations.isfinite().all()
    own = torch.stack([points[[0, 2]], points[[1, 3]]])
    assert target.allows_own(own).tolist() == [[False, True], [False, True]]
    near = target.nearest(torch.stack([points[2], points[1]])).tolist()
    assert near == pytest.approx([1.0, 0.0], abs=0.02)


def test_nothing_found_rules_nothing_out(bars):
    target = Target(sums)
    points = torch.zeros(2, 3, 16).long()
    assert target.allows_own(points).all()
    assert target.nearest(points[:, 0]).isnan().all()


def test_own_answers_by_hand():
    values = torch.arange(12.0).view(6, 2)  # two neurons, three points each
    own = own_answers(Response(values, values), 3)
    assert own.scores.tolist() == [[0.0, 2.0, 4.0], [7.0, 9.0, 11.0]]
