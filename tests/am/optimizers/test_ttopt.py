import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from latents import ring_latent

from spikelens.am.activations import Response
from spikelens.am.archive import Archive
from spikelens.am.optimizers.ttopt import CrossSearch, TTOpt, join, squash
from spikelens.am.search import search


def drawer(sizes, seed=0):
    random = np.random.default_rng(seed)
    return lambda num: random.integers(sizes, size=(num, len(sizes))).astype(np.uint8)


def follow(sizes, values, num, rank=2, batch=7, seed=0):
    """Follow a search over a table of values; returns it and every point it was shown."""
    cross = CrossSearch(sizes, rank, drawer(sizes, seed))
    asked = []
    for _ in range(num):
        asked.append(cross.ask(batch))
        cross.tell(asked[-1], values[tuple(asked[-1].T)])
    return cross, np.concatenate(asked)


def test_join_makes_all_combinations_in_order():
    left, right = np.array([[0, 1], [2, 3]]), np.array([[4], [5], [6]])
    wanted = [[*a, i, *b] for a in left for i in range(2) for b in right]
    assert join(left, 2, right).reshape(-1, 4).tolist() == wanted


def test_squash_is_increasing_and_free_of_the_scale():
    scores = np.array([-np.inf, 0.1, 0.3, 0.7, 0.9])
    # Gaps of 0.8, 0.6 and 0.2 to the best: the median is 0.6.
    wanted = [0, math.pi / 2 - math.atan(0.8 / 0.6), math.pi / 4, math.pi / 2 - math.atan(1 / 3)]
    np.testing.assert_allclose(squash(scores, 0.9), [*wanted, math.pi / 2], atol=1e-12)
    np.testing.assert_allclose(squash(5 * scores - 2, 5 * 0.9 - 2), squash(scores, 0.9))
    assert squash(np.full(3, -np.inf), -np.inf).tolist() == [0, 0, 0]
    np.testing.assert_allclose(squash(np.full(3, 0.4), 0.4), math.pi / 2)


def test_pivots_span_the_largest_volume_and_hold_the_best():
    cross = CrossSearch((2, 2), 2, drawer((2, 2)))
    random = np.random.default_rng(1)
    for _ in range(20):
        scores = random.random((6, 2))
        cross.best_score = scores.max()
        values = squash(scores, cross.best_score)
        volume = {
            rows: abs(np.linalg.det(values[list(rows)]))
            for rows in itertools.combinations(range(6), 2)
        }
        rows = cross._pivots(scores)
        assert scores.max(1).argmax() in rows
        if max(volume, key=volume.get) == tuple(sorted(rows)):
            continue
        # Maxvol stops at a submatrix of dominant volume, which for r = 2 is at least a half of the
        # largest (r**(-r/2), Goreinov et al. 2010); else a row made place for the best one.
        assert volume[tuple(sorted(rows))] >= 0.5 * max(volume.values()) or (
            scores.max(1).argmax() == rows[-1]
        )


def test_a_short_matrix_keeps_all_its_rows():
    cross = CrossSearch((2, 2), 2, drawer((2, 2)))
    assert cross._pivots(np.zeros((2, 2))).tolist() == [0, 1]
    assert cross._pivots(np.zeros((1, 3))).tolist() == [0]


@pytest.mark.parametrize("seed", range(4))
def test_a_matrix_of_rank_one_gives_its_largest_entry_in_one_sweep(seed):
    random = np.random.default_rng(seed)
    values = np.outer(random.random(20), random.random(30))
    # Whatever the first column, the best row of it is that of the largest entry; the way back asks
    # for the whole of this row: 20 + 30 points, one of them twice.
    cross, asked = follow((20, 30), values, num=7, rank=1, seed=seed)
    assert cross.best_score == values.max()
    assert values[tuple(cross.best)] == values.max()
    assert len(np.unique(asked[:, 1])) > 20


@pytest.mark.parametrize("sizes", [(6,), (3, 4), (2, 3, 1, 4), (1, 1)])
def test_small_tensors_are_searched_to_the_last_entry(sizes):
    values = np.random.default_rng(0).random(sizes)
    cross, asked = follow(sizes, values, num=80)
    assert cross.best_score == values.max()
    assert len(np.unique(asked, axis=0)) == values.size


def test_nothing_known_is_wanted_again():
    sizes = (5,) * 6
    values = np.random.default_rng(0).random(sizes)
    cross = CrossSearch(sizes, 2, drawer(sizes))
    seen = set()
    for _ in range(60):
        asked = cross.ask(10)
        wanted = {point.tobytes() for point in asked}
        assert len(wanted) == len(asked) > 0
        assert not wanted & seen
        seen |= wanted
        cross.tell(asked, values[tuple(asked.T)])


def test_the_batch_does_not_change_the_sweep():
    values = np.random.default_rng(2).random((4,) * 5)
    (_, one), (_, many) = (follow((4,) * 5, values, num=100, batch=size) for size in (1, 9))
    assert one.tolist() == many[:100].tolist()


def test_what_was_not_shown_counts_as_the_worst():
    sizes = (3, 4, 3)
    values = np.random.default_rng(3).random(sizes)
    values[:, 1] = -np.inf
    cross, _ = follow(sizes, values, num=40)
    assert cross.best_score == values.max()
    assert cross.best[1] != 1


def test_the_next_sweep_goes_through_the_best_point():
    sizes = (4,) * 4
    values = np.random.default_rng(4).random(sizes)
    cross, _ = follow(sizes, values, num=30, rank=1, batch=1, seed=5)
    sweep = cross._sweep  # the parts that a sweep begins with, seen from outside
    begun = []
    cross._sweep = lambda parts: begun.append((parts, cross.best)) or sweep(parts)
    while not begun:
        asked = cross.ask(1)
        cross.tell(asked, values[tuple(asked.T)])
    parts, best = begun[0]
    for bond, part in enumerate(parts, start=1):
        assert part.tolist() == [best[bond:].tolist()]


def separable(wanted):
    def objective(indices):
        shares = (indices[:, None] == wanted).float().mean(2)
        return Response(shares, shares)

    return objective


@pytest.mark.parametrize("quantised", [False, True])
def test_separable_maxima_are_found(quantised):
    wanted = torch.randint(0, 8, (2, 6), generator=torch.Generator().manual_seed(0))
    archive = Archive(2, 6)
    optimizer = TTOpt(ring_latent([8] * 6), archive, rank=4, quantised=quantised)
    result = search(separable(wanted), optimizer, archive, 800, is_pooled=False)
    assert torch.equal(result.indices, wanted)


def test_neurons_are_searched_each_on_its_own_answers():
    archive = Archive(2, 4)
    optimizer = TTOpt(ring_latent([4] * 4), archive, batch=8)
    for _ in range(6):
        asked = optimizer.ask().float()
        optimizer.tell(torch.stack([asked[0].mean(1), -asked[1].mean(1)]))
    first, second = (search.best for search in optimizer._searches)
    assert first.mean() > second.mean()


def test_an_uneven_latent_cannot_be_quantised():
    build = partial(TTOpt, archive=Archive(1, 2))
    with pytest.raises(ValueError, match="`quantised` must be False"):
        build(ring_latent((3, 4)))
    with pytest.raises(ValueError, match="`rank` must be a positive integer, but got 0"):
        build(ring_latent((4, 4)), rank=0)
