from functools import partial
from types import SimpleNamespace

import pytest
import torch

from spikelens.am.activations import Response
from spikelens.am.archive import Archive
from spikelens.am.optimizers.genetic import Genetic
from spikelens.am.search import search
from spikelens.generators.base import sample_prior

NUM_MODES, NUM_SYMBOLS = 6, 5


def space():
    prior = [torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1])] * NUM_MODES
    ring = torch.eye(NUM_SYMBOLS).roll(1, 1)  # the next symbol is the only neighbour
    return SimpleNamespace(
        mode_sizes=(NUM_SYMBOLS,) * NUM_MODES,
        order=torch.arange(NUM_MODES),
        prior=prior,
        sample=partial(sample_prior, prior),
        neighbours=lambda mode: ring,
    )


def archive_of(elites, num_neurons=1):
    archive = Archive(num_neurons, NUM_MODES)
    scores = torch.linspace(1.0, 0.5, len(elites))[:, None].expand(-1, num_neurons)
    archive.add(torch.tensor(elites), Response(scores, scores))
    return archive


def test_children_of_one_parent_are_its_neighbours():
    parent = [0, 1, 2, 3, 4, 0]
    optimizer = Genetic(
        space(), archive_of([parent]), batch=200, mutations=0.0, mix=(1.0, 0.0, 0.0)
    )
    steps = (optimizer.ask()[0] - torch.tensor(parent)) % NUM_SYMBOLS
    # At least one symbol mutates, and with no more mutations it is one.
    assert (steps.sum(1) == 1).all()
    assert steps.amax(0).tolist() == [1] * NUM_MODES


def test_crossover_takes_symbols_of_both_parents_equally_often():
    elites = [[0] * NUM_MODES, [3] * NUM_MODES]
    arguments = {"batch": 20_000, "tournament": 1, "mutations": 0.0, "mix": (1.0, 0.0, 0.0)}
    asked = Genetic(space(), archive_of(elites), **arguments).ask()[0]
    is_second = asked >= 3  # mutated or not: symbols 0 and 1, 3 and 4
    # Four pairs of parents, two of them mixed: a mode and its neighbour differ in a quarter of
    # the children; standard error sqrt(.19 / 2e4) = .003, five of them.
    assert is_second.float().mean() == pytest.approx(0.5, abs=0.015)
    differ = (is_second[:, 0] != is_second[:, 1]).float().mean()
    assert differ == pytest.approx(0.25, abs=0.016)
    asked = Genetic(space(), archive_of(elites), crossover=0.0, **arguments).ask()[0]
    is_second = asked >= 3
    assert (is_second.all(1) | ~is_second.any(1)).all()


def test_the_winner_of_a_tournament_is_the_best_of_those_drawn():
    elites = [[n] * NUM_MODES for n in range(4)]
    optimizer = Genetic(space(), archive_of(elites), batch=40_000, tournament=3)
    optimizer.ask()
    shares = torch.bincount(optimizer._parents()[0, :, 0], minlength=4) / 40_000  # by elite
    # Best of three among four: P(place >= i) = (1 - i/4)^3.
    beyond = (1 - torch.arange(5) / 4) ** 3
    # Standard error at most .0025; five of them.
    torch.testing.assert_close(shares, beyond[:-1] - beyond[1:], atol=0.0125, rtol=0)


def test_mutations_are_drawn_in_the_shares_of_the_mix():
    parent = [1] * NUM_MODES
    optimizer = Genetic(
        space(), archive_of([parent]), batch=50_000, mutations=NUM_MODES, mix=(0.5, 0.3, 0.2)
    )
    shares = torch.bincount(optimizer.ask().flatten(), minlength=NUM_SYMBOLS) / (50_000 * NUM_MODES)
    wanted = 0.5 * space().neighbours(0)[1] + 0.3 * space().prior[0] + 0.2 / NUM_SYMBOLS
    # 3e5 symbols: standard error below .001; five of them.
    torch.testing.assert_close(shares, wanted, atol=0.005, rtol=0)


def test_without_a_start_the_first_population_is_drawn_from_the_space():
    optimizer = Genetic(space(), Archive(2, NUM_MODES), batch=10, population=20)
    drawn = []
    for _ in range(2):
        drawn.append(optimizer.ask())
        optimizer.tell(drawn[-1].float().mean(2))
    assert optimizer._num_random == 0
    share = (torch.cat(drawn) == 0).float().mean()
    assert share == pytest.approx(0.5, abs=5 * (0.25 / 240) ** 0.5)
    # From here on children: bred from the best, they score better than draws do (mean 1.1).
    assert optimizer.ask().float().mean() > 1.3


def test_the_best_distinct_ones_survive():
    optimizer = Genetic(space(), archive_of([[4, 4, 4, 4, 0, 0]], 2), batch=4, population=3)
    optimizer.ask()
    children = torch.tensor([[1] * 6, [2] * 6, [1] * 6, [3] * 6])
    optimizer._children = children.expand(2, 4, 6)
    optimizer.tell(torch.tensor([[0.1, 0.9, 0.1, torch.nan], [2.0, 0.2, 2.0, 3.0]]))
    assert optimizer.individuals[..., 0].tolist() == [[4, 2, 1], [3, 1, 4]]
    torch.testing.assert_close(optimizer.scores, torch.tensor([[1.0, 0.9, 0.1], [3.0, 2.0, 1.0]]))


def test_what_comes_into_the_archive_later_is_not_looked_at():
    def run(others):
        archive = archive_of([[0] * NUM_MODES])
        optimizer = Genetic(space(), archive, seed=4)
        for _ in range(5):
            asked = optimizer.ask()
            if others:
                best = torch.ones(1, 1)
                archive.add(torch.full((1, NUM_MODES), 3), Response(9 * best, 9 * best))
            optimizer.tell(asked.float().mean(2))
        return asked

    assert torch.equal(run(False), run(True))


def test_a_known_maximum_is_found_from_a_poor_start():
    target = torch.tensor([4, 0, 3, 1, 2, 2])

    def objective(indices):
        share = (indices == target).float().mean(1, keepdim=True)
        return Response(share, share)

    archive = archive_of([[0] * NUM_MODES])
    archive.scores[:], archive.activations[:] = -torch.inf, 0.0
    # Random search would need 5^6 images.
    result = search(objective, Genetic(space(), archive), archive, 600)
    assert result.activations.item() == 1.0
    assert torch.equal(result.indices[0], target)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"population": 1}, "`population` must be an integer of at least 2, but got 1"),
        ({"tournament": 0}, "`tournament` must be a positive integer, but got 0"),
        ({"crossover": 1.5}, r"`crossover` must lie in \[0, 1\], but got 1.5"),
        ({"mutations": -1.0}, "`mutations` must be finite and not negative, but got -1.0"),
        ({"mix": (0.5, 0.5)}, "`mix` must be three shares"),
    ],
)
def test_misuse_is_named(arguments, says):
    with pytest.raises(ValueError, match=says):
        Genetic(space(), Archive(1, NUM_MODES), **arguments)
