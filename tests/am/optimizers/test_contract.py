"""What holds for every optimizer."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from spikelens.am.activations import Response
from spikelens.am.archive import Archive
from spikelens.am.optimizers.elite_tt import EliteTT
from spikelens.am.optimizers.protes import PRESETS, Protes
from spikelens.am.optimizers.random import RandomSearch
from spikelens.am.optimizers.surrogate_tt import SurrogateTT
from spikelens.am.optimizers.ttopt import TTOpt
from spikelens.am.search import search
from spikelens.generators.base import sample_prior

OPTIMIZERS = {
    "elite_tt": EliteTT,
    "random": RandomSearch,
    "surrogate_tt": SurrogateTT,
    "surrogate_tt_als": partial(SurrogateTT, rank=3, order=2, num_sweeps=2, refit_every=2),
    "ttopt": partial(TTOpt, batch=10, rank=2, quantised=False),
    **{name: partial(Protes, preset=name, quantised=False) for name in PRESETS},
}


def space(*sizes):
    """A latent with modes of these sizes, a uniform prior and neighbours on a ring."""
    rings = {n: torch.eye(n).roll(1, 0) if n > 1 else torch.ones(1, 1) for n in set(sizes)}
    prior = [torch.full((n,), 1 / n) for n in sizes]
    return SimpleNamespace(
        mode_sizes=sizes,
        order=torch.arange(len(sizes)),
        prior=prior,
        sample=partial(sample_prior, prior),
        neighbours=lambda mode: rings[sizes[mode]],
    )


def tell(optimizer, archive, asked, own):
    """Archive what each neuron's own proposals scored, the same for all neurons, and tell it."""
    scores = own.flatten()[:, None].expand(-1, len(own))
    archive.add(asked.flatten(0, 1), Response(scores, scores))
    optimizer.tell(own)


@pytest.fixture(params=list(OPTIMIZERS))
def build(request):
    return OPTIMIZERS[request.param]


@pytest.mark.parametrize("sizes", [(3, 3, 3), (5, 1, 2, 7), (4,), (1, 1)])
@pytest.mark.parametrize("num_neurons", [1, 3])
def test_proposals_lie_in_the_box(build, sizes, num_neurons):
    archive = Archive(num_neurons, len(sizes))
    optimizer = build(space(*sizes), archive, seed=1)
    for _ in range(4):
        asked = optimizer.ask()
        assert asked.shape == (num_neurons, optimizer.batch, len(sizes))
        assert asked.dtype == torch.int64
        assert (asked >= 0).all()
        assert (asked < torch.tensor(sizes)).all()
        scores = torch.rand(num_neurons, optimizer.batch)
        tell(optimizer, archive, asked, scores)


def test_order_of_calls_is_kept(build):
    optimizer = build(space(3, 3), Archive(2, 2))
    with pytest.raises(RuntimeError, match="tell was called without"):
        optimizer.tell(torch.zeros(2, optimizer.batch))
    optimizer.ask()
    with pytest.raises(RuntimeError, match="called twice"):
        optimizer.ask()
    with pytest.raises(ValueError, match=r"\(neurons, batch\) = "):
        optimizer.tell(torch.zeros(2, optimizer.batch + 1))
    optimizer.tell(torch.zeros(2, optimizer.batch))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 0.0])
def test_useless_scores_do_no_harm(build, value):
    archive = Archive(2, 3)
    optimizer = build(space(3, 3, 3), archive)
    for _ in range(3):
        asked = optimizer.ask()
        tell(optimizer, archive, asked, torch.full((2, optimizer.batch), value))
    assert (optimizer.ask() < 3).all()


def test_the_seed_decides_and_the_global_state_does_not(build):
    def run(seed):
        archive = Archive(2, 6)
        optimizer = build(space(*[4] * 6), archive, seed=seed)
        found = []
        for _ in range(3):
            asked = optimizer.ask()
            tell(optimizer, archive, asked, asked.float().mean(2))
            found.append(asked)
            torch.rand(3)
        return torch.stack(found)

    state = torch.get_rng_state()
    first = run(0)
    torch.set_rng_state(state)
    assert torch.equal(first, run(0))
    assert not torch.equal(first, run(1))


@pytest.mark.parametrize("grad", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_any_grad_mode_will_do(build, grad):
    archive = Archive(1, 4)
    with grad():
        optimizer = build(space(3, 3, 3, 3), archive)
        result = search(separable(4, 3, 1), optimizer, archive, 60)
    assert result.activations > 0


def separable(num_modes, num_symbols, num_neurons):
    """Neuron k wants symbol (j + k) mod n at mode j; its activation is the share that is right."""
    wanted = (torch.arange(num_modes) + torch.arange(num_neurons)[:, None]) % num_symbols

    def objective(indices):
        shares = (indices[:, None] == wanted).float().mean(2)
        return Response(shares, shares)

    return objective


def test_known_maxima_are_approached(build):
    # Uniform proposals match 8 * 1/4 of the symbols; the best of 400 about 6 of 8 (binomial tail
    # P(>= 6) = .004); every optimizer must do at least as well.
    archive = Archive(3, 8)
    result = search(separable(8, 4, 3), build(space(*[4] * 8), archive), archive, 400)
    assert (result.activations >= 0.6).all()


def test_a_batch_must_be_positive():
    with pytest.raises(ValueError, match="`batch` must be a positive integer, but got 0"):
        RandomSearch(space(2), Archive(1, 1), batch=0)
