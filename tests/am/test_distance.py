import pytest
import torch
from conftest import Bars

from spikelens.am.distance import LatentDistance


def test_by_hand():
    # Symbols 0 … 4 as likely as each other have the variance 2; 16 modes.
    space = Bars()
    distance = LatentDistance(space)
    points = torch.zeros(2, 16).long()
    points[1, :3] = torch.tensor([1, 2, 4])
    others = torch.stack([points[0], torch.full((16,), 4)])
    away = (1 + 4 + 16) ** 0.5
    wanted = torch.tensor([[0.0, 16.0], [away, (9 + 4 + 0 + 13 * 16) ** 0.5]]) / 8.0
    # The unit is taken from 256 draws: their variance is known to about 1.5 % for each of 16 modes.
    torch.testing.assert_close(distance(points, others), wanted, rtol=0.05, atol=1e-3)


def test_one_is_as_far_as_two_draws(bars):
    points = bars.sample(400, torch.Generator().manual_seed(3))
    squared = LatentDistance(bars)(points[:200], points[200:]).square()
    assert float(squared.mean()) == pytest.approx(1.0, abs=0.03)


def test_neurons_are_measured_each_for_itself(bars):
    random = torch.Generator().manual_seed(4)
    points, others = bars.sample(15, random).view(3, 5, 16), bars.sample(6, random).view(3, 2, 16)
    distance = LatentDistance(bars)
    batched = distance(points, others)
    assert batched.shape == (3, 5, 2)
    for own, mine, theirs in zip(batched, points, others, strict=True):
        torch.testing.assert_close(own, distance(mine, theirs))


def test_a_space_of_one_point_is_refused():
    with pytest.raises(ValueError, match="draw points that differ, but all those of Bars"):
        LatentDistance(Bars(num_symbols=1))
