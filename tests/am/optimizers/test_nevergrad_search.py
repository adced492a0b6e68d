from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spikelens.am.activations import Response
from spikelens.am.archive import Archive
from spikelens.am.optimizers import nevergrad_search
from spikelens.am.optimizers.nevergrad_search import NevergradSearch
from spikelens.am.search import search
from spikelens.generators.base import sample_prior
from spikelens.generators.gaussian_grid import GaussianGrid, OverGrid

pytest.importorskip("nevergrad")


def choices(*sizes):
    """A latent whose symbols stand for nothing but themselves."""
    prior = [torch.full((n,), 1 / n) for n in sizes]
    return SimpleNamespace(
        mode_sizes=sizes,
        prior=prior,
        sample=partial(sample_prior, prior),
        embed=lambda indices: torch.nn.functional.one_hot(indices, max(sizes)).float(),
    )


def matches(target):
    def objective(indices):
        share = (indices == torch.tensor(target)).float().mean(1, keepdim=True)
        return Response(share, share)

    return objective


def test_symbols_of_all_mode_sizes_come_back():
    space = choices(7, 1, 3, 5)
    optimizer = NevergradSearch(space, Archive(1, 4))
    every = torch.cartesian_prod(*[torch.arange(n) for n in space.mode_sizes])[None]
    values = torch.from_numpy(optimizer._to_values(every))
    assert torch.equal(optimizer._to_indices(values), every)
    # All choices there are, and what share of them each symbol has.
    found = optimizer._to_indices(torch.arange(7.0)[None, :, None].expand(1, 7, 4))[0]
    assert [torch.bincount(mode).tolist() for mode in found.T] == [
        [1] * 7,
        [7],
        [3, 2, 2],
        [2, 1, 2, 1, 1],
    ]


@pytest.mark.parametrize("algorithm", ["NGOpt", "Portfolio", "DiscreteOnePlusOne", "DE", "PSO"])
def test_choices_are_searched(algorithm):
    space, archive = choices(4, 3, 4, 2, 4, 4), Archive(1, 6)
    optimizer = NevergradSearch(space, archive, algorithm=algorithm, budget=105)
    result = search(matches([3, 2, 0, 1, 1, 2]), optimizer, archive, 105)
    # A random image matches 1.8 of six; the best of 105 four or more.
    assert result.activations.item() >= 4 / 6 - 1e-6


@pytest.mark.parametrize("algorithm", ["CMA", "OnePlusOne", "NGOpt"])
def test_points_on_a_line_are_searched(algorithm):
    space, archive = OverGrid(GaussianGrid(40, 256)), Archive(1, 40)

    def objective(indices):
        score = -(space.grid.to_latent(indices) - 2.0).square().mean(1, keepdim=True)
        return Response(score, score)

    optimizer = NevergradSearch(space, archive, algorithm=algorithm, budget=300)
    result = search(objective, optimizer, archive, 300)
    # z = 0, where it starts, has -4; draws have -5 with a standard deviation of .67.
    assert result.activations.item() > -3.0


@pytest.mark.parametrize("space", [choices(*[9] * 30), OverGrid(GaussianGrid(30, 9))])
def test_it_starts_from_the_images_known(space):
    target = torch.full((1, 30), 7)
    target[0, ::3] = 1
    archive = Archive(1, 30)
    archive.add(target, Response(torch.ones(1, 1), torch.ones(1, 1)))
    archive.add(8 - target, Response(torch.zeros(1, 1), torch.zeros(1, 1)))
    optimizer = NevergradSearch(space, archive, algorithm="OnePlusOne", budget=20)
    distances = []
    for _ in range(2):
        asked = optimizer.ask()[0]
        distances.append((asked - target).abs().float().mean(1))
        optimizer.tell(-distances[-1][None])
        assert not (asked == target).all(1).any()  # it is not shown once more
    # A random image is 3.5 symbols away in the mean.
    assert torch.cat(distances).median() < 2.5


def test_random_states_of_others_stay_as_they_are_and_do_not_matter():
    def run():
        archive = Archive(1, 6)
        optimizer = NevergradSearch(choices(*[5] * 6), archive, seed=2, algorithm="Portfolio")
        return search(matches([4] * 6), optimizer, archive, 60).indices

    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first = run()
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    assert torch.equal(run(), first)


def test_a_quasi_random_part_goes_on_beyond_its_points():
    optimizer = NevergradSearch(
        OverGrid(GaussianGrid(4, 16)), Archive(1, 4), algorithm="HammersleySearch", budget=20
    )
    for _ in range(3):
        assert optimizer.ask().shape == (1, 10, 4)
        optimizer.tell(torch.zeros(1, 10))


def test_what_was_not_shown_is_told_as_no_worse_than_the_rest(monkeypatch):
    optimizer = NevergradSearch(choices(3, 3), Archive(2, 2), batch=3, algorithm="OnePlusOne")
    optimizer.ask()
    told = [[], []]
    for one, losses in zip(optimizer._searches, told, strict=True):
        monkeypatch.setattr(one, "tell", lambda _, loss, losses=losses: losses.append(loss))
    unknown = [torch.nan, -torch.inf, torch.nan]
    optimizer.tell(torch.tensor([[1.0, torch.nan, 2.0], unknown]))
    assert told == [[-1.0, -1.0, -2.0], []]


@pytest.mark.parametrize("broken", ["_internal_ask_candidate", "tell"])
def test_an_algorithm_that_breaks_down_is_named(monkeypatch, broken):
    optimizer = NevergradSearch(choices(3, 3), Archive(1, 2), algorithm="OnePlusOne")

    def show():
        optimizer.ask()
        optimizer.tell(torch.zeros(1, 10))

    show()
    monkeypatch.setattr(optimizer._searches[0], broken, lambda *_: 1 / 0)
    with pytest.raises(ValueError, match=r"OnePlusOne broke down \(division by zero\): choose"):
        show()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"budget": 0}, "`budget` must be a positive integer, but got 0"),
        ({"algorithm": "Best"}, "`algorithm` must be a name in nevergrad's registry, .* 'Best'"),
    ],
)
def test_misuse_is_named(arguments, says):
    with pytest.raises(ValueError, match=says):
        NevergradSearch(choices(2), Archive(1, 1), **arguments)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(nevergrad_search.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'spikelens\[bench\]'"):
        NevergradSearch(choices(2), Archive(1, 1))
