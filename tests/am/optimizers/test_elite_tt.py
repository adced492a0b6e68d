from functools import partial
from types import SimpleNamespace

import pytest
import torch
import trains

from spikelens.am.activations import Response
from spikelens.am.archive import Archive
from spikelens.am.box import Box
from spikelens.am.maximize import maximize
from spikelens.am.optimizers.elite_tt import EliteTT, rank_weights

KERNEL = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.1, 0.9, 0.0]])
PRIORS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])


def three_symbols(order=(0, 1, 2)):
    return Box([3, 3, 3], prior=list(PRIORS), neighbours=[KERNEL] * 3, order=order)


def archive_of(elites, capacity=4):
    archive = Archive(1, 3, capacity)
    scores = torch.linspace(1.0, 0.5, len(elites))[:, None]
    archive.add(torch.tensor(elites), Response(scores, scores))
    return archive


def many_of(elites, order, switch, near, **settings):
    """An optimizer that asks for so many images that frequencies tell probabilities."""
    fixed = {"batch": 200_000, "num_elites": 3}
    space, archive = three_symbols(order), archive_of(elites)
    return EliteTT(space, archive, switch=switch, near=near, **fixed, **settings)


def model_of(slopes):
    """A model that knows the slopes `(K, d, e)` and need not learn."""

    def everywhere(points):
        return slopes[:, None].expand(-1, points.shape[1], -1, -1)

    return SimpleNamespace(
        num_seen=100,
        fit=lambda: None,
        slopes=everywhere,
        has_own=lambda num: num == 1,
    )


def frequencies(optimizer, rounds=1):
    asked = []
    for _ in range(rounds):
        asked.append(optimizer.ask().flatten(0, 1))
        optimizer.tell(torch.full((1, optimizer.batch), torch.nan))
    indices = torch.cat(asked)
    places = indices @ torch.tensor([9, 3, 1])
    return torch.bincount(places, minlength=27) / len(indices)


def dense_train(archive, order, weights, mu, chi, near):
    """The elite train as a whole tensor, modes in the latent's order."""
    kernels = [(1 - mu) * torch.eye(3) + mu * (near * KERNEL + (1 - near) / 3)] * 3
    path = torch.tensor(order)
    cores = trains.elite_cores(
        archive.indices[:, :3, path],
        weights,
        [kernel[None] for kernel in kernels],
        torch.tensor([chi]),
    )
    return trains.dense(cores)[0].permute(torch.argsort(path).tolist())


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_plain_proposals_follow_the_dense_train(order):
    mu, chi, near = 0.4, 0.3, 0.6
    elites = [[0, 1, 2], [2, 2, 0], [1, 0, 0]]
    optimizer = many_of(elites, order, chi, near, mutations=3 * mu, guidance=0.0)
    expected = dense_train(optimizer.archive, order, rank_weights(torch.ones(1, 3)), mu, chi, near)
    # Standard error of a frequency is at most sqrt(.25 / 2e5) = .0011; 27 cells, 5 sigma.
    found = frequencies(optimizer)
    torch.testing.assert_close(found, expected.flatten(), atol=0.0056, rtol=0)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_guided_proposals_follow_the_chain_and_then_the_model(order):
    mu, chi, near = 0.4, 0.3, 0.6
    settings = {"guided_mutations": 3 * mu, "guidance": 0.7, "explore": 0.0}
    optimizer = many_of([[0, 1, 2], [2, 2, 0]], order, chi, near, **settings)
    archive = optimizer.archive
    slopes = torch.tensor([[[1.0, 0.0, 2.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    optimizer.model = model_of(slopes)
    promises = torch.einsum("de,dne->dn", slopes[0], optimizer.guided_moves.features)
    eta = 0.7 / optimizer.guided_moves.typical_gain(slopes, archive.indices[:, 0])
    weights = rank_weights(archive.scores[:, :3].isfinite())
    parents = dense_train(archive, order, weights, 0.0, chi, near)
    expected = torch.zeros(3, 3, 3)
    for parent in parents.nonzero().tolist():
        rows = []
        for mode, own in enumerate(parent):
            gains = (eta * (promises[mode] - promises[mode, own])).exp()
            row = mu * (near * KERNEL[own] + (1 - near) / 3) * gains
            row[own] += 1 - mu
            rows.append(row / row.sum())
        expected += parents[tuple(parent)] * torch.einsum("i,j,k->ijk", *rows)
    # As above.
    found = frequencies(optimizer)
    torch.testing.assert_close(found, expected.flatten(), atol=0.0056, rtol=0)


def test_what_is_explored_is_not_guided():
    archive = archive_of([[0, 0, 0]])
    optimizer = EliteTT(
        three_symbols(), archive, batch=40_000, mutations=3.0, guided_mutations=3.0, explore=0.5
    )
    likes_two = torch.zeros(1, 3, 3)
    likes_two[..., 2] = 1.0
    optimizer.model = model_of(likes_two)
    explored, guided = optimizer.ask()[0].split(20_000)
    # Standard error at most sqrt(.25 / 2e4) = .0035; 5 sigma.
    shares = (explored == 2).float().mean(0)
    base = 0.75 * KERNEL[0, 2] + 0.25 / 3
    torch.testing.assert_close(shares, base.expand(3), atol=0.018, rtol=0)
    assert ((guided == 2).float().mean(0) > shares + 0.1).all()


def test_a_pool_learns_what_symbols_add():
    """Eight additive functions at once: what is shown for one teaches the models of all."""
    values = torch.randn(8, 20, 12, generator=torch.Generator().manual_seed(0))

    def share(guidance):
        found = maximize(
            lambda points: values[:, torch.arange(20), points].sum(-1).T,
            [12] * 20,
            150,
            num_functions=8,
            optimizer=partial(EliteTT, guidance=guidance),
        )
        return float((found.activations / values.amax(2).sum(1)).mean())

    # .90 against .73 with this seed.
    assert share(3.0) > 0.86
    assert share(0.0) < 0.80


@pytest.mark.parametrize("is_pooled", [True, False])
@pytest.mark.parametrize(("has_relations", "num"), [(True, 0), (False, 5)])
def test_how_many_proposals_are_plain(is_pooled, has_relations, num):
    """Plain ones change nothing here, guided ones nearly all."""
    space, archive = Box([8] * 20), Archive(2, 20)
    if has_relations:
        space.relations = [torch.tensor([[mode, mode + 1] for mode in range(19)])]
    optimizer = EliteTT(space, archive, switch=0.0, mutations=0.0, guided_mutations=20.0)
    points = torch.randint(8, (2, 12, 20), generator=torch.Generator().manual_seed(0))
    scores = torch.rand(24, 2, generator=torch.Generator().manual_seed(1))
    archive.add(points.flatten(0, 1), Response(scores, scores))
    if is_pooled:
        optimizer.watch(points.flatten(0, 1)[None], scores.T)
    else:
        optimizer.watch(points, scores.T[:, :12])
    is_elite = (optimizer.ask()[:, :, None] == archive.indices[:, None]).all(3).any(2)
    assert is_elite.sum(1).tolist() == [num, num]


def copied(optimizer):
    """What the search copies when it changes nothing, each once."""
    return set(map(tuple, optimizer.ask()[0].tolist()))


def after(points, scores, recent, capacity=4):
    """A search that copies its elites, and has been shown points with the scores `(M,)`."""
    archive = Archive(1, 3, capacity)
    optimizer = EliteTT(
        three_symbols(),
        archive,
        recent=recent,
        batch=500,
        switch=0.0,
        mutations=0.0,
        guided_mutations=0.0,
    )
    answers = scores[:, None]
    archive.add(points, Response(answers, answers))
    optimizer.watch(points[None], scores[None])
    return optimizer


def all_points():
    return torch.cartesian_prod(*[torch.arange(3)] * 3)


def test_elites_are_the_better_third_of_the_last_points_by_score_and_model():
    points = all_points()
    scores = points.sum(1).float()
    scores[0] = 100.0  # the best of all times, long ago
    scores[20] += 1.0  # by luck: (2, 0, 2) has 5
    optimizer = after(points, scores, recent=9)
    optimizer.model.fit()
    _, shown, fitted = optimizer.model.latest(9)
    by_both = (shown - shown.mean()) / shown.std() + (fitted - fitted.mean()) / fitted.std()
    wanted = points[18:][by_both[0].topk(3).indices]
    assert copied(optimizer) == set(map(tuple, wanted.tolist()))
    assert copied(after(points, scores, recent=None, capacity=1)) == {(0, 0, 0)}


def test_until_enough_was_shown_elites_are_those_of_all_times():
    points = all_points()
    scores = torch.linspace(1, 0, 27)
    assert copied(after(points, scores, recent=10)) == set(map(tuple, points[:4].tolist()))
    assert copied(after(points, scores, recent=9)) != set(map(tuple, points[:4].tolist()))


def show_pool(optimizer, scores_of):
    """Show two neurons nine images each; return which."""
    asked = optimizer.ask()
    pool = asked.flatten(0, 1)
    scores = scores_of(pool)
    optimizer.archive.add(pool, Response(scores, scores))
    optimizer.watch(pool[None], scores.T)
    optimizer.tell(torch.stack([scores[:9, 0], scores[9:, 1]]))
    return asked


def test_neurons_of_a_pool_part_when_each_was_shown_enough_of_its_own():
    optimizer = EliteTT(three_symbols(), Archive(2, 3), recent=9, batch=9)
    model = optimizer.model
    first, *_ = [show_pool(optimizer, lambda points: points[:, :2].float()) for _ in range(3)]
    assert model.num_seen == 27  # of each neuron's own
    assert torch.equal(model.indices[:, :9], first)
    assert torch.equal(model.scores[:, :9], torch.stack([first[0, :, 0], first[1, :, 1]]).float())
    asked = show_pool(optimizer, lambda points: -points[:, :2].float())
    assert model.num_seen == 27 + 9
    model.fit()
    found, scores, _ = model.latest(9)
    assert torch.equal(found, asked)
    assert torch.equal(scores, torch.stack([-asked[0, :, 0], -asked[1, :, 1]]).float())


def test_elites_after_parting_are_a_neurons_own():
    """More neurons than there are recent points: none goes on from what another proposed."""
    archive = Archive(12, 3)
    optimizer = EliteTT(
        Box([12] * 3), archive, recent=9, batch=9, switch=0.0, guided_mutations=0.0, mutations=2.0
    )
    rounds = []
    for _ in range(3):
        rounds.append(optimizer.ask())
        pool = rounds[-1].flatten(0, 1)
        scores = (pool[:, :, None] == torch.arange(12)).float().mean(1)  # (N, K)
        archive.add(pool, Response(scores, scores))
        optimizer.watch(pool[None], scores.T)
        optimizer.tell(scores.view(12, 9, 12).diagonal(dim1=0, dim2=2).T)
    optimizer.rate, optimizer.num_plain = 0.0, 0  # it copies
    is_own = (optimizer.ask()[:, :, None] == rounds[-1][:, None]).all(3).any(2)
    assert is_own.all()


def test_neurons_whose_models_would_be_too_large_do_not_part(monkeypatch):
    monkeypatch.setattr("spikelens.am.optimizers.elite_tt._MOST_PARTED", 1)
    optimizer = EliteTT(three_symbols(), Archive(2, 3), recent=9, batch=9)
    for _ in range(4):
        show_pool(optimizer, lambda points: points[:, :2].float())
    assert not optimizer.model.has_own(1)
    assert optimizer.model.num_seen == 4 * 18


def test_what_has_no_finite_score_is_no_elite():
    points = all_points()
    scores = torch.linspace(0, 1, 27)
    scores[18:26] = torch.nan
    assert copied(after(points, scores, recent=9)) == {(2, 2, 2)}
    scores[26] = -torch.inf  # none of the last ones: the best of all times
    assert copied(after(points, scores, recent=9)) == {tuple(points[17].tolist())}


@pytest.mark.parametrize("explore", [0.0, 0.5, 1.0])
def test_without_switch_and_mutation_elites_come_back(explore):
    elites = [[0, 1, 2], [2, 2, 0]]
    optimizer = EliteTT(
        three_symbols(), archive_of(elites), batch=50, switch=0.0, mutations=0.0, explore=explore
    )
    optimizer.model = model_of(torch.ones(1, 3, 3))
    asked = {tuple(index) for index in optimizer.ask()[0].tolist()}
    assert asked == {tuple(elite) for elite in elites}


def test_full_uniform_mutation_is_random_search():
    optimizer = EliteTT(
        three_symbols(),
        archive_of([[0, 0, 0]]),
        batch=100_000,
        mutations=3.0,
        near=0.0,
    )
    # Standard error sqrt(1/27 * 26/27 / 1e5) = .0006; 27 cells, 5 sigma.
    expected = torch.full((27,), 1 / 27)
    torch.testing.assert_close(frequencies(optimizer), expected, atol=0.003, rtol=0)


def test_an_empty_archive_samples_the_prior():
    optimizer = EliteTT(three_symbols(), Archive(1, 3), batch=100_000)
    a, b, c = PRIORS
    expected = torch.einsum("i,j,k->ijk", a, b, c).flatten()
    # p <= .23: standard error at most .0014; 5 sigma.
    torch.testing.assert_close(frequencies(optimizer), expected, atol=0.007, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_elites": 0}, "`num_elites` must be a positive integer, but got 0"),
        ({"recent": 7}, "`recent` must be an integer of at least 8, but got 7"),
        ({"switch": 1.5}, r"`switch` must lie in \[0, 1\], but got 1.5"),
        ({"mutations": -1.0}, "`mutations` must be finite and not negative"),
        ({"guided_mutations": -1.0}, "`guided_mutations` must be finite and not negative"),
        ({"guidance": float("inf")}, "`guidance` must be finite and not negative, but got inf"),
        ({"guidance": -1.0}, "`guidance` must be finite and not negative"),
        ({"least": 0.5}, "`least` must not be positive, but got 0.5"),
        ({"least": float("nan")}, "`least` must not be positive, but got nan"),
        ({"explore": 2.0}, r"`explore` must lie in \[0, 1\]"),
        ({"near": -0.5}, r"`near` must lie in \[0, 1\]"),
    ],
)
def test_misuse_is_named(arguments, says):
    with pytest.raises(ValueError, match=says):
        EliteTT(three_symbols(), Archive(1, 3), **arguments)
