import itertools

import numpy as np
import pytest
import teneva
import torch
from latents import ring_latent

from spikelens.am.activations import Response
from spikelens.am.archive import Archive
from spikelens.am.optimizers.surrogate_tt import Memory, SurrogateTT, balance, fit, largest
from spikelens.am.search import search

SETTINGS = {"rank": 3, "order": 1, "num_sweeps": 0, "ridge": 10.0, "seed": 0}


def all_points(sizes):
    return np.array(list(itertools.product(*map(range, sizes))))


def test_memory_keeps_distinct_finite_points_in_order():
    memory = Memory(2)
    memory.add(np.array([[0, 1], [2, 3], [0, 1], [4, 4]]), np.array([0.1, 0.2, 0.1, -np.inf]))
    points, scores = memory.latest(10)
    assert points.tolist() == [[0, 1], [2, 3]]
    assert scores.tolist() == [0.1, 0.2]
    assert memory.latest(1)[0].tolist() == [[2, 3]]
    assert memory.unseen(np.array([[4, 4], [2, 3]])).tolist() == [[4, 4]]
    assert Memory(3).latest(5)[0].shape == (0, 3)


@pytest.mark.parametrize("num_sweeps", [0, 2])
def test_a_sum_over_modes_is_fitted_exactly_from_all_its_entries(num_sweeps):
    points = all_points((3, 2, 4))
    effects = np.random.default_rng(0).random((3, 4))
    scores = effects[np.arange(3), points].sum(1)
    cores, symbols = fit(points, scores, **{**SETTINGS, "num_sweeps": num_sweeps})
    assert [list(seen) for seen in symbols] == [[0, 1, 2], [0, 1], [0, 1, 2, 3]]
    wanted = 1 + (scores - scores.mean()) / scores.std()
    # Exact for the ANOVA; the sweeps start from it with noise of 0.01 in one rank, and stay there.
    atol = 0.05 if num_sweeps else 1e-6
    np.testing.assert_allclose(teneva.get_many(cores, points), wanted, atol=atol)


def test_sweeps_see_what_a_sum_over_modes_cannot():
    points = all_points((2, 2, 3))
    scores = (points[:, 0] ^ points[:, 1]).astype(float)  # no symbol has an effect of its own
    errors = []
    for num_sweeps in (0, 30):
        cores, _ = fit(points, scores, **{**SETTINGS, "num_sweeps": num_sweeps, "ridge": 0.01})
        wanted = 1 + (scores - scores.mean()) / scores.std()
        errors.append(np.abs(teneva.get_many(cores, points) - wanted).mean())
    assert errors[0] == pytest.approx(1.0)
    assert errors[1] < 0.1


def test_only_symbols_that_were_seen_have_a_place():
    points = np.array([[5, 500], [7, 3], [5, 3]])
    cores, symbols = fit(points, np.array([0.0, 0.5, 1.0]), **{**SETTINGS, "num_sweeps": 1})
    assert [list(seen) for seen in symbols] == [[5, 7], [3, 500]]
    assert [core.shape[1] for core in cores] == [2, 2]


def test_balance_changes_the_cores_and_not_the_tensor():
    cores = teneva.rand([3, 4, 2], 2, seed=0)
    skewed = [1e-4 * cores[0], 1e6 * cores[1], 1e-2 * cores[2]]
    even = balance(skewed)
    np.testing.assert_allclose(teneva.full(even), teneva.full(cores))
    sizes = [np.linalg.norm(core) / np.sqrt(core.shape[1]) for core in even]
    np.testing.assert_allclose(sizes, sizes[0])


@pytest.mark.parametrize("offset", [0.0, -3.0])
def test_the_largest_entries_come_first_whatever_their_sign(offset):
    cores = teneva.add(teneva.rand([3, 4, 5], 2, seed=1), offset)
    table = teneva.full(cores)
    found = largest(cores, 60)
    # A beam as wide as the tensor misses nothing.
    assert len(np.unique(found, axis=0)) == 60
    np.testing.assert_allclose(table[tuple(found.T)], np.sort(table.ravel())[::-1])


def test_a_narrow_beam_finds_the_best_of_a_sum_over_modes():
    effects = np.random.default_rng(2).normal(size=(20, 6))
    points = np.random.default_rng(3).integers(6, size=(3000, 20))
    cores, _ = fit(points, effects[np.arange(20), points].sum(1), **SETTINGS)
    gaps = np.sort(effects, 1)[:, -1] - np.sort(effects, 1)[:, -2]
    # 3000 points know each effect to about sqrt(20 * 6 / 3000) = 0.2: larger gaps are not missed.
    is_right = largest(cores, 10)[0] == effects.argmax(1)
    assert is_right[gaps > 0.6].all()
    assert (gaps > 0.6).sum() >= 5


def test_a_train_of_zeros_has_entries_too():
    cores = [np.zeros((1, 3, 2)), np.zeros((2, 4, 1))]
    found = largest(cores, 5)
    assert ((found >= 0) & (found < [3, 4])).all()


def offer(archive, indices, scores):
    scores = torch.tensor(scores)[:, None].expand(-1, len(archive.scores))
    archive.add(torch.tensor(indices), Response(scores, scores))


def test_first_come_the_best_predictions_not_yet_seen():
    archive = Archive(1, 3)
    # Symbol 1 is worth 1, symbol 0 nothing; (1, 1, 1) has not been seen, nor have the pairs.
    offer(archive, [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], [0.0, 1.0, 1.0, 1.0])
    optimizer = SurrogateTT(ring_latent((2, 2, 2)), archive, batch=8, share=0.5)
    asked = optimizer.ask()[0]
    assert asked[0].tolist() == [1, 1, 1]
    assert {tuple(point) for point in asked[1:4].tolist()} == {(1, 1, 0), (1, 0, 1), (0, 1, 1)}
    scores = asked.float().sum(1)[None]
    archive.add(asked, Response(scores.T, scores.T))
    optimizer.tell(scores)
    # All eight are known by now: only mutants of elites are left.
    assert optimizer._memories[0].unseen(all_points((2, 2, 2))).shape == (0, 3)
    assert optimizer.ask().shape == (1, 8, 3)


def test_between_fits_the_beam_s_next_ones_are_proposed():
    archive = Archive(1, 6, capacity=1000)
    seen = torch.randint(0, 4, (600, 6), generator=torch.Generator().manual_seed(0))
    offer(archive, seen.tolist(), seen.float().mean(1).tolist())
    optimizer = SurrogateTT(ring_latent([4] * 6), archive, batch=4, share=1.0, refit_every=3)
    sums, num_fits, plain_fit = [], [], optimizer._fit
    optimizer._fit = lambda *args: num_fits.append(len(sums)) or plain_fit(*args)
    for _ in range(4):
        asked = optimizer.ask()
        assert not (asked[0][:, None] == seen).all(2).any()
        sums.append(asked[0].float().sum(1))
        optimizer.tell(asked.float().mean(2))
    assert num_fits == [0, 3]
    assert sums[0][0] == 18
    # The noise of a symbol's effect is less than a step of the sum: 600 points, 4 symbols a mode.
    assert sums[0].mean() > sums[1].mean() > sums[2].mean()


def test_an_empty_archive_gets_natural_samples():
    latent = ring_latent((5, 5))
    latent.sample = lambda num, random: torch.full((num, 2), 3)
    assert (SurrogateTT(latent, Archive(2, 2)).ask() == 3).all()


def test_mutants_differ_from_their_elite_in_few_symbols():
    archive = Archive(1, 40, capacity=2)
    offer(archive, [[1] * 40], [1.0])
    latent = ring_latent([4] * 40)
    latent.sample = lambda num, random: torch.full((num, 40), 3)
    optimizer = SurrogateTT(latent, archive, batch=2000, share=0.0, mutations=2.0)
    asked = optimizer.ask()[0]
    assert set(asked.unique().tolist()) == {1, 3}
    changed = (asked == 3).sum(1).float()
    assert changed.min() >= 1
    # The one that each has, which is the least of 40 chances and so nearly always (1 - .95**40 =
    # .87) redrawn anyway: 2 + .13, five standard errors of sqrt(2 / 2000).
    assert changed.mean() == pytest.approx(2.13, abs=0.16)


@pytest.mark.parametrize("settings", [{}, {"rank": 3, "num_sweeps": 1, "refit_every": 5}])
def test_separable_maxima_are_found(settings):
    wanted = torch.randint(0, 6, (2, 10), generator=torch.Generator().manual_seed(0))

    def objective(indices):
        shares = (indices[:, None] == wanted).float().mean(2)
        return Response(shares, shares)

    archive = Archive(2, 10)
    optimizer = SurrogateTT(ring_latent([6] * 10), archive, **settings)
    result = search(objective, optimizer, archive, 500)
    assert torch.equal(result.indices, wanted)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("rank", 1, "an integer of at least 2"),
        ("order", 3, "1 or 2"),
        ("num_sweeps", -1, "an integer of at least 0"),
        ("ridge", 0.0, "positive"),
        ("share", 1.5, "in [0, 1]"),
        ("mutations", -0.1, "not negative"),
        ("refit_every", 0, "a positive integer"),
    ],
)
def test_settings_out_of_range_are_refused(name, value, wanted):
    with pytest.raises(ValueError, match=f"`{name}` must .*got {value}") as error:
        SurrogateTT(ring_latent((2, 2)), Archive(1, 2), **{name: value})
    assert wanted in str(error.value)
