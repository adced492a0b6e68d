import pytest
import torch

from spikelens.am.activations import Response
from spikelens.am.archive import Archive
from spikelens.am.box import Box
from spikelens.am.guided_moves import GuidedMoves
from spikelens.am.moves import Moves
from spikelens.am.optimizers.elite_tt import EliteTT

SIZES = (3, 2, 3)
NEAR = 0.6
FEATURES = torch.randn(3, 3, 2, generator=torch.Generator().manual_seed(0))


def guided():
    return GuidedMoves(Moves(Box(SIZES)), NEAR, FEATURES)


def mutate(moves, parent, slopes, rate, num):
    parents = torch.tensor(parent).expand(1, num, 3).clone()
    random = torch.Generator().manual_seed(1)
    return moves.mutate(parents, slopes.expand(1, num, 3, 2), rate, random)[0]


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


def lopsided():
    """Moves of which no kernel is symmetric."""
    moves = Moves(Box(SIZES))
    moves.kernels[0] = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.1, 0.9, 0.0]])
    return moves


def test_a_typical_gain_is_that_of_look_alikes():
    slopes = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(2))
    points, moves = torch.tensor([[0, 1, 2], [2, 0, 1]]), lopsided()
    squares = torch.zeros(2, 3)
    for neuron, point in enumerate(points.tolist()):
        for mode, own in enumerate(point):
            gains = (FEATURES[mode] - FEATURES[mode, own]) @ slopes[neuron, mode]
            kernel = moves.kernels[moves.kernel_of_mode[mode], own]
            squares[neuron, mode] = (kernel * gains.square()).sum()
    found = GuidedMoves(moves, NEAR, FEATURES).typical_gain(slopes, points)
    torch.testing.assert_close(found, squares.mean(1).sqrt())


def test_of_many_symbols_some_are_candidates(monkeypatch):
    """Two of three: children follow the distribution by hand, given which they are."""
    monkeypatch.setattr("spikelens.am.guided_moves._NUM_CANDIDATES", 2)
    base, num, parent, rate = lopsided(), 50_000, (1, 0, 2), 0.3
    moves = GuidedMoves(base, NEAR, FEATURES)
    candidates, _ = drawn = moves._candidates(torch.Generator().manual_seed(3))
    monkeypatch.setattr(moves, "_candidates", lambda random: drawn)
    slopes = torch.randn(3, 2, generator=torch.Generator().manual_seed(2))
    children = mutate(moves, parent, slopes, rate, num)
    for mode, (size, own) in enumerate(zip(SIZES, parent, strict=True)):
        kernel = base.kernel_of_mode[mode]
        promises = FEATURES[mode, :size] @ slopes[mode]
        mixture = NEAR * base.kernels[kernel, own, :size] + (1 - NEAR) / size
        chosen = [symbol for symbol in candidates[kernel].tolist() if symbol < size]
        wanted = torch.zeros(size)
        for symbol in chosen:
            gain = (promises[symbol] - promises[own]).exp()
            wanted[symbol] = rate * mixture[symbol] * size / len(chosen) * gain
        wanted[own] += 1 - rate
        found = torch.bincount(children[:, mode], minlength=size) / num
        # Standard error at most .0022; 5 sigma.
        torch.testing.assert_close(found, wanted / wanted.sum(), atol=0.011, rtol=0)


def test_candidates_weigh_what_all_symbols_do():
    """A mode of 200 symbols, of which there are 64 at a time, and one of 30, which are all."""
    space, num_draws = Box((200, 30), is_ordered=True), 2000
    moves = GuidedMoves(Moves(space), NEAR, torch.zeros(2, 200, 1))
    random = torch.Generator().manual_seed(0)
    total = torch.zeros_like(moves.mixture)
    for _ in range(num_draws):
        candidates, weights = moves._candidates(random)
        assert candidates.shape == (2, 64)
        total.scatter_add_(2, candidates[:, None].expand_as(weights), weights)
    # One of 200 is there with probability .32: a relative error of 1.46 / sqrt(2000); 5 sigma.
    torch.testing.assert_close(total[0] / num_draws, moves.mixture[0], atol=0, rtol=0.17)
    torch.testing.assert_close(total[1] / num_draws, moves.mixture[1])


def test_symbols_with_one_look_alike_are_no_reason_for_infinite_guidance():
    """Bits: what the chain drew still counts, however sure the model is."""
    archive = Archive(1, 30)
    optimizer = EliteTT(Box([2] * 30), archive, batch=40, explore=0.0)
    points = torch.randint(2, (300, 30), generator=torch.Generator().manual_seed(0))
    scores = points.float().mean(1, keepdim=True)
    archive.add(points, Response(scores, scores))
    optimizer.watch(points[None], scores.T)
    children = optimizer.ask()[0]
    assert len(children.unique(dim=0)) > 20
    assert children.float().mean() > points[scores[:, 0].topk(20).indices].float().mean()


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
    moves.mutate(parents, torch.ones(*parents.shape, 2), 1.0, torch.Generator().manual_seed(0))
    assert not parents.any()


def test_each_child_has_its_own_slopes():
    """Two neurons with two children each, of which each likes a symbol of its own."""
    moves = GuidedMoves(Moves(Box((3, 3, 3))), NEAR, torch.eye(3).expand(3, 3, 3))
    liked = torch.tensor([[1, 0], [0, 2]])
    slopes = 25.0 * torch.eye(3)[liked][:, :, None].expand(2, 2, 3, 3)
    parents = torch.zeros(2, 2, 3, dtype=torch.int64)
    drawn = moves.mutate(parents, slopes, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, liked[..., None].expand(2, 2, 3))
