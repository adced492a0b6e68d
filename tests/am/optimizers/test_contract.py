"""What holds for every optimizer.

One that is added to `OPTIMIZERS` is tested by all that is below.
"""

import random
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from spikelens.am.activations import Response
from spikelens.am.archive import Archive
from spikelens.am.box import Box
from spikelens.am.optimizers.cma import Cma
from spikelens.am.optimizers.elite_tt import EliteTT
from spikelens.am.optimizers.genetic import Genetic
from spikelens.am.optimizers.nevergrad_search import NevergradSearch
from spikelens.am.optimizers.protes import PRESETS, Protes
from spikelens.am.optimizers.random import RandomSearch
from spikelens.am.optimizers.surrogate_tt import SurrogateTT
from spikelens.am.optimizers.ttopt import TTOpt
from spikelens.am.search import search


def one_power_of_two(sizes):
    return len(set(sizes)) == 1 and sizes[0] in (2, 4, 8)


def elite_tt_with_relations(space, archive, **settings):
    """Search a space of which each mode stands beside the next."""
    places = torch.arange(len(space.mode_sizes))
    space.relations = [torch.stack([places[:-1], places[1:]], 1)]
    return EliteTT(space, archive, **settings)


# An optimizer, or a pair of one and of which mode sizes it takes; all, where nothing is said.
OPTIMIZERS = {
    "cma": Cma,
    "elite_tt": EliteTT,
    "elite_tt with relations": elite_tt_with_relations,
    "genetic": Genetic,
    "random": RandomSearch,
    "surrogate_tt": SurrogateTT,
    "surrogate_tt_als": partial(SurrogateTT, rank=3, order=2, num_sweeps=2, refit_every=2),
    "ttopt": partial(TTOpt, batch=10, rank=2, quantised=False),
    **{name: partial(Protes, preset=name, quantised=False) for name in PRESETS},
    "quantised tt": (partial(Protes, preset="tt"), one_power_of_two),
}
if find_spec("nevergrad"):  # an optional extra
    OPTIMIZERS["nevergrad"] = partial(NevergradSearch, algorithm="Portfolio", budget=400)
SPACES = [(3, 3, 3), (4, 4), (2, 2, 2, 2), (5, 1, 2, 7), (4,), (1, 1), (1,)]
PAIRS = {
    name: entry if isinstance(entry, tuple) else (entry, lambda sizes: True)
    for name, entry in OPTIMIZERS.items()
}
space = partial(Box, is_ordered=True)  # what every optimizer takes


def pairs(*spaces, is_taken=True):
    """Parametrize `build` and `sizes`: every optimizer with the spaces that it takes, or not."""
    chosen = [
        pytest.param(build, sizes, id=f"{name}-{'x'.join(map(str, sizes))}")
        for name, (build, takes) in PAIRS.items()
        for sizes in spaces or SPACES
        if takes(sizes) == is_taken
    ]
    return pytest.mark.parametrize(("build", "sizes"), chosen)


def tell(optimizer, archive, asked, own):
    """Archive what each neuron's own proposals scored, the same for all neurons, and tell it."""
    scores = own.flatten()[:, None].expand(-1, len(own))
    archive.add(asked.flatten(0, 1), Response(scores, scores))
    optimizer.watch(asked, own)
    optimizer.tell(own)


def assert_in_box(asked, optimizer, sizes):
    assert asked.shape == (optimizer.num_neurons, optimizer.batch, len(sizes))
    assert asked.dtype == torch.int64
    assert (asked >= 0).all()
    assert (asked < torch.tensor(sizes, device=asked.device)).all()


@pytest.fixture(params=list(PAIRS))
def build(request):
    return PAIRS[request.param][0]


@pairs()
@pytest.mark.parametrize("num_neurons", [1, 3])
def test_proposals_lie_in_the_box(build, sizes, num_neurons):
    archive = Archive(num_neurons, len(sizes))
    optimizer = build(space(sizes), archive, seed=1)
    for _ in range(4):
        asked = optimizer.ask()
        assert_in_box(asked, optimizer, sizes)
        tell(optimizer, archive, asked, torch.rand(num_neurons, optimizer.batch))


@pairs(is_taken=False)
def test_a_space_that_will_not_do_is_refused(build, sizes):
    with pytest.raises(ValueError, match=r"Argument `\w+` must"):
        build(space(sizes), Archive(1, len(sizes)))


def test_order_of_calls_is_kept(build):
    optimizer = build(space([4, 4]), Archive(2, 2))
    with pytest.raises(RuntimeError, match="tell was called without"):
        optimizer.tell(torch.zeros(2, optimizer.batch))
    optimizer.ask()
    with pytest.raises(RuntimeError, match="called twice"):
        optimizer.ask()
    optimizer.tell(torch.zeros(2, optimizer.batch))
    with pytest.raises(RuntimeError, match="tell was called without"):
        optimizer.tell(torch.zeros(2, optimizer.batch))


def test_scores_of_another_shape_are_refused_and_then_forgiven(build):
    optimizer = build(space([4, 4]), Archive(2, 2))
    optimizer.ask()
    batch = optimizer.batch
    for shape in [(2, batch + 1), (batch, 2), (2 * batch,), (2, batch, 1), (1, batch), ()]:
        with pytest.raises(ValueError, match=r"\(neurons, batch\) = "):
            optimizer.tell(torch.zeros(shape))
    optimizer.tell(torch.zeros(2, batch))
    optimizer.ask()


# Answers to points of mean symbol `mean` `(N,)`, by the number of rounds so far.
FEEDBACK = {
    "healthy": lambda mean, rounds: mean,
    "nan": lambda mean, rounds: torch.full_like(mean, torch.nan),
    "inf": lambda mean, rounds: torch.full_like(mean, torch.inf),
    "-inf": lambda mean, rounds: torch.full_like(mean, -torch.inf),
    "constant": lambda mean, rounds: torch.zeros_like(mean),
    "two values": lambda mean, rounds: (mean > 1).float(),
    "now and then nan": lambda mean, rounds: mean if rounds % 3 else mean * torch.nan,
    "mixed": lambda mean, rounds: mean.where(mean > 1, torch.nan).where(mean < 2, -torch.inf),
    "huge": lambda mean, rounds: (mean - 1) * 2e38,
    "tiny": lambda mean, rounds: mean * 1e-42,
    "ever better": lambda mean, rounds: torch.full_like(mean, float(rounds)),
    "ever worse": lambda mean, rounds: torch.full_like(mean, -float(rounds)),
}


@pairs((4, 4), (5, 1, 2, 7))
def test_degenerate_feedback_does_no_harm(build, sizes):
    """Each neuron answers in its own way, long enough to wear rates and trains down to nothing."""
    num_neurons = len(FEEDBACK)
    archive = Archive(num_neurons, len(sizes), capacity=4)
    optimizer = build(space(sizes), archive)
    for rounds in range(80):
        asked = optimizer.ask()
        assert_in_box(asked, optimizer, sizes)
        pool = asked.flatten(0, 1)
        answers = [answer(pool.float().mean(1), rounds) for answer in FEEDBACK.values()]
        scores = torch.stack(answers, 1)  # (K b, K)
        archive.add(pool, Response(scores, scores))
        optimizer.watch(pool[None], scores.T)
        own = scores.unflatten(0, (num_neurons, -1))
        optimizer.tell(torch.stack([own[k, :, k] for k in range(num_neurons)]))
    assert archive.best[0] == (torch.tensor(sizes) - 1).float().mean()


def test_what_is_finite_among_what_is_not_is_learned_from(build):
    """Every other answer is lost: with what is left the search must still beat chance."""
    archive = Archive(1, 8)
    optimizer = build(space([4] * 8), archive)
    for _ in range(-(-800 // optimizer.batch)):
        asked = optimizer.ask()
        values = (asked == 2).float().mean(2)
        values[:, ::2] = torch.nan
        tell(optimizer, archive, asked, values)
    # See `test_known_maxima_are_approached`: of 400 uniform proposals the best has 6 of 8.
    assert archive.best >= 0.6


def run(build, seed=0, dtype=torch.float32, change=lambda asked: None, archive=None):
    """Three rounds; returns what was asked, as it was before the caller's `change` to it."""
    archive = Archive(2, 6) if archive is None else archive
    optimizer = build(space([4] * 6), archive, seed=seed)
    found = []
    for _ in range(3):
        asked = optimizer.ask()
        found.append(asked.clone())
        change(asked)
        tell(optimizer, archive, found[-1], found[-1].to(dtype).mean(2))
    return torch.stack(found)


def test_the_seed_decides_and_the_global_state_does_not(build):
    first = run(build)
    assert torch.equal(first, run(build, change=lambda asked: torch.rand(3)))
    assert not torch.equal(first, run(build, seed=1))


def test_global_random_states_are_left_alone(build):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    run(build)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scores_may_come_in_any_precision(build, dtype):
    archive = Archive(2, 6)
    optimizer = build(space([4] * 6), archive)
    for _ in range(3):
        asked = optimizer.ask()
        tell(optimizer, archive, asked, asked.float().mean(2).to(dtype))
    assert archive.scores.dtype == torch.float32


def test_an_archive_may_be_in_double_precision(build):
    """Half numbers are exact in both: so must be what comes of them."""
    archives = Archive(2, 6), Archive(2, 6, dtype=torch.float64)
    scale = lambda asked: asked.float().sum(2)  # noqa: E731
    optimizers = [build(space([4] * 6), archive) for archive in archives]
    for _ in range(3):
        single, double = (optimizer.ask() for optimizer in optimizers)
        assert torch.equal(single, double)
        for optimizer, archive in zip(optimizers, archives, strict=True):
            tell(optimizer, archive, single, scale(single).to(archive.scores))


def test_what_the_caller_does_to_proposals_does_not_matter(build):
    assert torch.equal(run(build), run(build, change=lambda asked: asked.zero_()))


def test_proposals_and_scores_are_the_callers(build):
    archive = Archive(2, 6)
    optimizer = build(space([4] * 6), archive)
    seen = []
    for _ in range(3):
        asked = optimizer.ask()
        for earlier, copy in seen:
            assert earlier.untyped_storage().data_ptr() != asked.untyped_storage().data_ptr()
            assert torch.equal(earlier, copy)
        seen.append((asked, asked.clone()))
        scores = asked.float().mean(2)
        scores[0, 0] = torch.nan
        told = scores.clone()
        tell(optimizer, archive, asked, told)
        torch.testing.assert_close(told, scores, equal_nan=True)


def test_the_archive_is_read_only(build):
    """Whoever runs the loop adds to it; an optimizer looks."""
    archive = Archive(2, 6, capacity=5)
    optimizer = build(space([4] * 6), archive)
    for _ in range(3):
        before = archive.indices.clone(), archive.scores.clone(), archive.activations.clone()
        asked = optimizer.ask()
        optimizer.tell(asked.float().mean(2))
        after = archive.indices, archive.scores, archive.activations
        assert all(map(torch.equal, before, after))
        archive.add(asked[0], Response(*[torch.rand(optimizer.batch, 2)] * 2))


@pairs((4, 4), (5, 1, 2, 7))
@pytest.mark.parametrize("capacity", [1, 2, 200])
@pytest.mark.parametrize("num_starts", [0, 1, 6])
def test_any_archive_will_do(build, sizes, capacity, num_starts):
    """Empty, with fewer points than are wanted, or for one neuron only."""
    archive = Archive(2, len(sizes), capacity)
    if num_starts:
        starts = space(sizes).sample(num_starts, torch.Generator().manual_seed(0))
        scores = torch.rand(num_starts, 2)
        scores[:, 1] = torch.nan
        archive.add(starts, Response(scores, scores))
    optimizer = build(space(sizes), archive)
    for _ in range(5):
        asked = optimizer.ask()
        assert_in_box(asked, optimizer, sizes)
        tell(optimizer, archive, asked, asked.float().mean(2))


@pytest.mark.parametrize("num_neurons", [1, 2])
@pytest.mark.parametrize("budget", ["1", "batch - 1", "batch", "batch + 1", "2 * batch + 3"])
def test_the_budget_is_spent_to_the_last_image(build, num_neurons, budget):
    archive = Archive(num_neurons, 3)
    optimizer = build(space([4] * 3), archive)
    allowed = max(1, eval(budget, {"batch": optimizer.batch}))
    shown = []

    def objective(indices):
        shown.append(len(indices))
        return separable(3, 4, num_neurons)(indices)

    result = search(objective, optimizer, archive, allowed, ceiling=torch.inf)
    assert sum(shown) == num_neurons * allowed
    assert result.presentations.tolist() == [allowed] * num_neurons


@pairs()
def test_a_constant_has_any_maximum(build, sizes):
    archive = Archive(2, len(sizes))

    def objective(indices):
        values = torch.full((len(indices), 2), 0.5)
        return Response(values, values)

    result = search(objective, build(space(sizes), archive), archive, 25)
    assert result.activations.tolist() == [0.5, 0.5]
    assert (result.indices < torch.tensor(sizes)).all()


@pairs((4,), (1,), (1, 1), (2, 2))
def test_a_box_of_few_points_is_searched_through(build, sizes):
    """Whatever an optimizer believes, 300 proposals among 4 points at most miss none of them."""
    archive = Archive(1, len(sizes))

    def objective(indices):
        values = (indices == torch.tensor(sizes) - 1).float().mean(1, keepdim=True)
        return Response(values, values)

    result = search(objective, build(space(sizes), archive), archive, 300)
    assert result.activations.tolist() == [1.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_proposals_live_where_the_archive_does(build):
    archive = Archive(2, 6, device="cuda")
    optimizer = build(space([4] * 6), archive)
    for _ in range(3):
        asked = optimizer.ask()
        assert asked.device == archive.scores.device
        tell(optimizer, archive, asked, asked.float().mean(2))


@pytest.mark.parametrize("grad", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_any_grad_mode_will_do(build, grad):
    archive = Archive(1, 4)
    with grad():
        optimizer = build(space([4] * 4), archive)
        result = search(separable(4, 4, 1), optimizer, archive, 60)
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
    result = search(separable(8, 4, 3), build(space([4] * 8), archive), archive, 400)
    assert (result.activations >= 0.6).all()


def test_a_batch_must_be_positive():
    with pytest.raises(ValueError, match="`batch` must be a positive integer, but got 0"):
        RandomSearch(space([2]), Archive(1, 1), batch=0)
