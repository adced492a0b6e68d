from types import SimpleNamespace

import pytest
import torch

from spikelens.am import tensor_train
from spikelens.am.activations import Response
from spikelens.am.archive import Archive
from spikelens.am.optimizers.elite_tt import EliteTT
from spikelens.am.search import search


def three_symbols(order=(0, 1, 2)):
    kernel = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.1, 0.9, 0.0]])
    priors = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    return SimpleNamespace(
        mode_sizes=(3, 3, 3),
        order=torch.tensor(order),
        prior=list(priors),
        neighbours=lambda mode: kernel,
    )


def archive_of(elites, capacity=4):
    archive = Archive(1, 3, capacity)
    scores = torch.linspace(1.0, 0.5, len(elites))[:, None]
    archive.add(torch.tensor(elites), Response(scores, scores))
    return archive


def frequencies(optimizer, rounds=1):
    asked = []
    for _ in range(rounds):
        asked.append(optimizer.ask().flatten(0, 1))
        optimizer.tell(torch.full((1, optimizer.batch), torch.nan))
    indices = torch.cat(asked)
    places = indices @ torch.tensor([9, 3, 1])
    return torch.bincount(places, minlength=27) / len(indices)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_samples_follow_the_dense_train(order):
    space = three_symbols(order)
    archive = archive_of([[0, 1, 2], [2, 2, 0], [1, 0, 0]])
    mu, chi, mix = 0.4, 0.3, (0.5, 0.3, 0.2)
    optimizer = EliteTT(
        space,
        archive,
        batch=200_000,
        num_elites=3,
        switch=chi,
        mutations=3 * mu,
        mix=mix,
        learning_rate=0.0,
        spread=0.0,
    )
    kernels = [
        (1 - mu) * torch.eye(3)
        + mu * (mix[0] * space.neighbours(0) + mix[1] * space.prior[j] + mix[2] / 3)
        for j in order
    ]
    path = torch.tensor(order)
    cores = tensor_train.elite_cores(
        archive.indices[:, :3, path],
        optimizer._weights(),
        [kernel[None] for kernel in kernels],
        torch.tensor([chi]),
    )
    # The train's modes come in the order of the path: bring them back.
    dense = tensor_train.dense(cores)[0].permute(torch.argsort(path).tolist()).flatten()
    # Standard error of a frequency is at most sqrt(p (1 - p) / 2e5) <= .0011; 27 cells, 5 sigma.
    torch.testing.assert_close(frequencies(optimizer), dense, atol=0.0056, rtol=0)


def test_without_switch_and_mutation_elites_come_back():
    elites = [[0, 1, 2], [2, 2, 0]]
    optimizer = EliteTT(
        three_symbols(), archive_of(elites), batch=50, switch=0.0, mutations=0.0, spread=0.0
    )
    asked = {tuple(index) for index in optimizer.ask()[0].tolist()}
    assert asked == {tuple(elite) for elite in elites}


def test_full_uniform_mutation_is_random_search():
    optimizer = EliteTT(
        three_symbols(),
        archive_of([[0, 0, 0]]),
        batch=100_000,
        mutations=3.0,
        mix=(0.0, 0.0, 1.0),
        spread=0.0,
    )
    # Standard error sqrt(1/27 * 26/27 / 1e5) = .0006; 27 cells, 5 sigma.
    expected = torch.full((27,), 1 / 27)
    torch.testing.assert_close(frequencies(optimizer), expected, atol=0.003, rtol=0)


def test_an_empty_archive_samples_the_prior():
    space = three_symbols()
    optimizer = EliteTT(space, Archive(1, 3), batch=100_000)
    a, b, c = space.prior
    expected = torch.einsum("i,j,k->ijk", a, b, c).flatten()
    # p <= .23: standard error at most .0014; 5 sigma.
    torch.testing.assert_close(frequencies(optimizer), expected, atol=0.007, rtol=0)


def test_rates_follow_what_succeeds():
    """An objective that rewards staying near one point calls for few mutations."""
    torch.manual_seed(0)
    num_modes = 32
    space = SimpleNamespace(
        mode_sizes=(8,) * num_modes,
        order=torch.arange(num_modes),
        prior=[torch.full((8,), 1 / 8)] * num_modes,
        neighbours=lambda mode: torch.full((8, 8), 1 / 8),
    )
    target = torch.randint(0, 8, (num_modes,))

    def objective(indices):
        share = (indices == target).float().mean(1, keepdim=True)
        return Response(share, share)

    archive = Archive(1, num_modes)
    optimizer = EliteTT(space, archive, mutations=16.0, learning_rate=0.3)
    before = float(optimizer.mutation)
    search(objective, optimizer, archive, 600)
    assert float(optimizer.mutation) < 0.5 * before
    assert optimizer.mix.sum() == pytest.approx(1.0)
    assert optimizer.mix.min() >= 0.01


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_elites": 0}, "`num_elites` must be a positive integer, but got 0"),
        ({"switch": 1.5}, r"`switch` must lie in \[0, 1\], but got 1.5"),
        ({"learning_rate": -0.1}, r"`learning_rate` must lie in \[0, 1\]"),
        ({"mutations": -1.0}, "`mutations` must not be negative"),
        ({"spread": -1.0}, "`spread` must not be negative"),
        ({"mix": (0.5, 0.5, 0.5)}, "`mix` must be three shares"),
    ],
)
def test_misuse_is_named(arguments, says):
    with pytest.raises(ValueError, match=says):
        EliteTT(three_symbols(), Archive(1, 3), **arguments)
