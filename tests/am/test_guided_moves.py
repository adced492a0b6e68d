import pytest
import torch

from spikelens.am.box import Box
from spikelens.am.guided_moves import GuidedMoves
from spikelens.am.moves import Moves

SIZES = (3, 2, 3)
NEAR = 0.6
FEATURES = torch.randn(3, 3, 2, generator=torch.Generator().manual_seed(0))


def guided():
    return GuidedMoves(Moves(Box(SIZES)), NEAR, FEATURES)


def mutate(moves, parent, slopes, rate, num):
    parents = torch.tensor(parent).expand(1, num, 3).clone()
    rates = torch.full((1, num), rate)
    random = torch.Generator().manual_seed(1)
    return moves.mutate(parents, slopes.expand(1, num, 3, 2), rates, random)[0]


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_children_follow_the_distribution_by_hand(rate):
    num, parent = 50_000, (1, 0, 2)
    slopes = torch.randn(3, 2, generator=torch.Generator().manual_seed(2))
    drawn = mutate(guided(), parent, slopes, rate, num)
    for mode, (size, own) in enumerate(zip(SIZES, parent, strict=True)):
        promises = FEATURES[mode, :size] @ slopes[mode]
        near = torch.full((size,), 1 / (size - 1))
        near[own] = 0.0
        wanted = rate * (NEAR * near + (1 - NEAR) / size) * (promises - promises[own]).exp()
        wanted[own] += 1 - rate
        found = torch.bincount(drawn[:, mode], minlength=size) / num
        # Standard error at most .5 / sqrt(5e4) = .0022; 5 sigma.
        torch.testing.assert_close(found, wanted / wanted.sum(), atol=0.011, rtol=0)


def test_deviation_is_that_of_look_alikes():
    slopes = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(2))
    points = torch.tensor([[0, 1, 2], [2, 0, 1]])
    variances = torch.zeros(2, 3)
    for neuron, point in enumerate(points.tolist()):
        for mode, own in enumerate(point):
            others = [symbol for symbol in range(SIZES[mode]) if symbol != own]
            promises = FEATURES[mode, others] @ slopes[neuron, mode]
            variances[neuron, mode] = promises.var(unbiased=False)
    found = guided().deviation(slopes, points)
    torch.testing.assert_close(found, variances.mean(1).sqrt())


def test_of_many_symbols_some_are_candidates_in_each_round():
    """A mode of 200 symbols beside one of 30: over many rounds the distribution is the same."""
    sizes, num_rounds = (200, 30), 3000
    features = torch.randn(2, 200, 2, generator=torch.Generator().manual_seed(0))
    moves = GuidedMoves(Moves(Box(sizes)), 0.0, features)
    parents, slopes = torch.zeros(1, 20, 2, dtype=torch.int64), torch.zeros(1, 20, 2, 2)
    rates, random = torch.full((1, 20), 0.5), torch.Generator().manual_seed(1)
    rounds = [moves.mutate(parents, slopes, rates, random)[0] for _ in range(num_rounds)]
    assert max(len(drawn[:, 0].unique()) for drawn in rounds) <= 20
    for mode, size in enumerate(sizes):
        wanted = torch.full((size,), 0.5 / size)
        wanted[0] += 0.5
        found = torch.bincount(torch.cat(rounds)[:, mode], minlength=size) / (20 * num_rounds)
        # A round's 20 children share its candidates: 5 sigma of 20 times the variance of 60 000.
        error = (20 * wanted * (1 - wanted) / (20 * num_rounds)).sqrt()
        assert ((found - wanted).abs() < 5 * error).all()


def test_modes_are_drawn_independently():
    drawn = mutate(guided(), (0, 0, 0), torch.zeros(3, 2), 0.5, 50_000)
    is_hit = (drawn != 0).float()
    both = (is_hit[:, 0] * is_hit[:, 2]).mean()
    # Standard error at most .0022; 5 sigma.
    assert float(both) == pytest.approx(float(is_hit[:, 0].mean() * is_hit[:, 2].mean()), abs=0.011)


def test_children_do_not_depend_on_how_many_are_weighed_at_once(monkeypatch):
    slopes = torch.randn(3, 2, generator=torch.Generator().manual_seed(2))
    whole = mutate(guided(), (1, 1, 1), slopes, 0.5, 500)
    monkeypatch.setattr("spikelens.am.guided_moves._CHUNK", 1)
    assert torch.equal(whole, mutate(guided(), (1, 1, 1), slopes, 0.5, 500))


def test_huge_promises_neither_overflow_nor_leave_the_symbols():
    drawn = mutate(guided(), (0, 1, 0), torch.full((3, 2), 1e30), 0.5, 200)
    assert (drawn < torch.tensor(SIZES)).all()
    best = (FEATURES.sum(2)[[0, 2]]).argmax(1)
    assert torch.equal(drawn[:, [0, 2]].mode(0).values, best)


@pytest.mark.parametrize(("num_neurons", "batch", "num_modes"), [(2, 5, 3), (1, 1, 3), (2, 5, 1)])
def test_parents_stay_as_they_are(num_neurons, batch, num_modes):
    moves = GuidedMoves(Moves(Box(SIZES[:num_modes])), NEAR, FEATURES[:num_modes])
    parents = torch.zeros(num_neurons, batch, num_modes, dtype=torch.int64)
    slopes, rates = torch.ones(*parents.shape, 2), torch.ones(num_neurons, batch)
    moves.mutate(parents, slopes, rates, torch.Generator().manual_seed(0))
    assert not parents.any()


def test_each_child_has_its_own_slopes_and_rate():
    """Two neurons with two children each: one that likes symbol 1, and one that never mutates."""
    features = torch.eye(3).expand(3, 3, 3)
    moves = GuidedMoves(Moves(Box((3, 3, 3))), NEAR, features)
    slopes = torch.zeros(2, 2, 3, 3)
    slopes[0, 0, :, 1] = slopes[1, 1, :, 2] = 25.0
    rates = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    parents = torch.zeros(2, 2, 3, dtype=torch.int64)
    drawn = moves.mutate(parents, slopes, rates, torch.Generator().manual_seed(0))
    assert drawn.tolist() == [[[1] * 3, [0] * 3], [[0] * 3, [2] * 3]]
