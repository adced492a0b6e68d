"""PROTES against the published update, written down a second time in plain numpy for two modes.

A train over two modes is a matrix `A B` with rows a_i of A `(n_1, r)` and columns b_j of B
`(r, n_2)`. With `z = sum_j b_j` the method samples i with a probability proportional to `|a_i z|`
and then j with one proportional to `|a_i b_j|`.
"""

from functools import partial

import numpy as np
import pytest
import torch
from latents import ring_latent

from spikelens.am import tensor_train
from spikelens.am.activations import Response
from spikelens.am.archive import Archive
from spikelens.am.box import Box
from spikelens.am.optimizers import protes
from spikelens.am.optimizers.protes import Preset, Protes
from spikelens.am.quantised import quantise

A = np.array([[1.0, 0.0], [2.0, -1.0]])
B = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])


def probabilities(a, b):
    first = np.abs(a @ b.sum(1))
    second = np.abs(a @ b)
    return (first / first.sum())[:, None] * second / second.sum(1, keepdims=True)


def gradient(a, b, i, j):
    """Differentiate `log(|a_i z| |a_i b_j| / (sum_k |a_k z| sum_l |a_i b_l|))` by hand."""
    z = b.sum(1)
    first, second = a @ z, a[i] @ b
    by_a, by_b = np.zeros_like(a), np.zeros_like(b)
    by_a[i] += z / first[i] + b[:, j] / second[j]
    by_a[i] -= b @ np.sign(second) / np.abs(second).sum()
    by_a -= np.sign(first)[:, None] * z / np.abs(first).sum()
    by_b += (a[i] / first[i] - np.sign(first) @ a / np.abs(first).sum())[:, None]  # all l, by z
    by_b[:, j] += a[i] / second[j]
    by_b -= a[i][:, None] * np.sign(second) / np.abs(second).sum()
    return by_a, by_b


class PlainAdam:
    """Ascend by Kingma & Ba's algorithm 1 with its own constants."""

    def __init__(self, learning_rate):
        self.learning_rate, self.step = learning_rate, 0
        self.means, self.squares = [0.0, 0.0], [0.0, 0.0]

    def ascend(self, parameters, gradients):
        self.step += 1
        moved = []
        for place, (parameter, slope) in enumerate(zip(parameters, gradients, strict=True)):
            self.means[place] = 0.9 * self.means[place] + 0.1 * slope
            self.squares[place] = 0.999 * self.squares[place] + 0.001 * slope**2
            mean = self.means[place] / (1 - 0.9**self.step)
            square = self.squares[place] / (1 - 0.999**self.step)
            moved.append(parameter + self.learning_rate * mean / (np.sqrt(square) + 1e-8))
        return moved


def plain_round(a, b, adam, elites, num_steps):
    for _ in range(num_steps):
        slopes = [gradient(a, b, i, j) for i, j in elites]
        a, b = adam.ascend((a, b), [np.mean(parts, 0) for parts in zip(*slopes, strict=True)])
    return a, b


def set_cores(optimizer, a, b):
    with torch.no_grad():
        optimizer.train.cores[0].copy_(torch.from_numpy(a)[None, None])
        optimizer.train.cores[1].copy_(torch.from_numpy(b)[None, :, :, None])


def build(monkeypatch, num_steps=1, num_samples=12, num_top=2, archive=None, **options):
    preset = Preset(num_samples, num_top, learning_rate=0.05, rank=2, num_steps=num_steps)
    monkeypatch.setitem(protes.PRESETS, "plain", preset)
    archive = Archive(1, 2) if archive is None else archive
    return Protes(ring_latent((2, 3)), archive, preset="plain", quantised=False, **options)


def test_probabilities_are_those_worked_out_by_hand(monkeypatch):
    # z = (2, 2); |a_1 z| = |a_2 z| = 2; |a_1 B| = (1, 0, 1); |a_2 B| = (2, 1, 1).
    by_hand = np.array([[1 / 4, 0, 1 / 4], [1 / 4, 1 / 8, 1 / 8]])
    np.testing.assert_allclose(probabilities(A, B), by_hand)
    num = 40_000
    optimizer = build(monkeypatch, num_samples=num)
    set_cores(optimizer, A, B)
    cells = optimizer.ask()[0] @ torch.tensor([3, 1])
    found = np.bincount(cells.numpy(), minlength=6).reshape(2, 3) / num
    # Five binomial standard errors; the impossible cell stays empty.
    error = np.sqrt(by_hand * (1 - by_hand) / num)
    assert (np.abs(found - by_hand) <= 5 * error).all()


def test_likelihoods_are_those_worked_out_by_hand():
    cores = [torch.from_numpy(A)[None, None], torch.from_numpy(B)[None, :, :, None]]
    indices = torch.tensor([[[0, 0], [0, 2], [1, 0], [1, 1], [1, 2]]])
    found = tensor_train.log_likelihood(cores, indices).exp()
    wanted = torch.tensor([[1 / 4, 1 / 4, 1 / 4, 1 / 8, 1 / 8]], dtype=torch.double)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("i", "j"), [(0, 0), (1, 0), (1, 1), (1, 2)])
def test_the_plain_gradient_equals_differences(i, j):
    a, b = A + 0.1, B - 0.05  # off the kinks of the magnitudes
    slopes = gradient(a, b, i, j)
    step = 1e-6
    for which, slope in enumerate(slopes):
        for place in np.ndindex(slope.shape):
            both = []
            for sign in (1, -1):
                moved = [a.copy(), b.copy()]
                moved[which][place] += sign * step
                both.append(np.log(probabilities(*moved)[i, j]))
            assert slope[place] == pytest.approx((both[0] - both[1]) / (2 * step), abs=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2])
def test_rounds_are_the_published_ones(monkeypatch, num_steps):
    optimizer = build(monkeypatch, num_steps)
    a, b = A + 0.1, B - 0.05
    set_cores(optimizer, a, b)
    adam = PlainAdam(learning_rate=0.05)
    values = np.array([[0.1, 0.4, 0.2], [0.6, 0.3, 0.5]])  # the tensor that is searched
    for _ in range(3):
        asked = optimizer.ask()[0].numpy()
        scores = values[asked[:, 0], asked[:, 1]]
        elites = asked[np.argsort(-scores, kind="stable")[:2]]
        before = np.mean([np.log(probabilities(a, b)[i, j]) for i, j in elites])
        optimizer.tell(torch.from_numpy(scores).float()[None])
        a, b = plain_round(a, b, adam, elites, num_steps)
        assert np.mean([np.log(probabilities(a, b)[i, j]) for i, j in elites]) > before
        # float32 gradients of about 1 are exact to 1e-6; Adam passes on their ratios.
        np.testing.assert_allclose(optimizer.train.cores[0][0, 0].detach(), a, atol=2e-5)
        np.testing.assert_allclose(optimizer.train.cores[1][0, :, :, 0].detach(), b, atol=2e-5)


def elites_in(archive, indices, scores):
    scores = torch.tensor(scores)
    archive.add(torch.tensor(indices), Response(scores, scores))


def test_warm_steps_ascend_on_the_finite_elites_alone(monkeypatch):
    archive = Archive(1, 2, capacity=5)
    elites_in(archive, [[1, 2], [0, 1], [1, 1]], [[0.9], [0.5], [torch.nan]])
    optimizer = build(monkeypatch, archive=archive, num_warm_steps=4)
    a, b = A + 0.1, B - 0.05
    set_cores(optimizer, a, b)
    asked = optimizer.ask()[0].numpy()
    a, b = plain_round(a, b, PlainAdam(0.05), [(1, 2), (0, 1)], num_steps=4)
    np.testing.assert_allclose(optimizer.train.cores[0][0, 0].detach(), a, atol=2e-5)
    # From there on it is the published method, with moments of its own.
    scores = np.arange(len(asked), dtype=np.float32)
    optimizer.tell(torch.from_numpy(scores)[None])
    a, b = plain_round(a, b, PlainAdam(0.05), asked[-2:], num_steps=1)
    np.testing.assert_allclose(optimizer.train.cores[0][0, 0].detach(), a, atol=2e-5)
    np.testing.assert_allclose(optimizer.train.cores[1][0, :, :, 0].detach(), b, atol=2e-5)


def test_without_elites_warm_steps_change_nothing():
    cold, warm = (
        Protes(ring_latent((4, 4)), Archive(2, 2), num_warm_steps=steps, seed=3) for steps in (0, 5)
    )
    assert torch.equal(cold.ask(), warm.ask())


def test_a_warm_train_samples_what_the_archive_holds():
    archive = Archive(2, 6)
    wanted = torch.tensor([[0, 1, 2, 3, 0, 1], [3, 3, 0, 0, 1, 2]])
    archive.add(wanted, Response(torch.eye(2), torch.eye(2)))
    archive.scores[:, 1:] = -torch.inf  # each neuron knows its own alone
    optimizer = Protes(ring_latent([4] * 6), archive, num_warm_steps=100)
    # Untrained, one draw in 4**6 = 4096 hits.
    assert ((optimizer.ask() == wanted[:, None]).all(2).float().mean(1) > 0.5).all()


def test_best_of_the_archive_may_be_learned_instead_of_the_sample_s():
    archive = Archive(1, 3)
    wanted = torch.tensor([[3, 0, 2]])
    archive.add(wanted, Response(torch.ones(1, 1), torch.ones(1, 1)))
    chances = []
    for keeps_best in (False, True):
        optimizer = Protes(ring_latent((4, 4, 4)), archive, preset="tt", keeps_best=keeps_best)
        for _ in range(20):
            optimizer.ask()
            optimizer.tell(torch.full((1, optimizer.batch), torch.nan))
        likelihood = partial(tensor_train.log_likelihood, optimizer.train.cores)
        chances.append(likelihood(quantise(wanted, 2)[None]).exp().item())
    # One in 64 by chance; 20 steps on the archive's only elite make it likely.
    assert chances[0] < 0.2 < 0.5 < chances[1]


@pytest.mark.parametrize("value", [-1, 1.5])
def test_warm_steps_must_be_a_number_of_steps(value):
    with pytest.raises(ValueError, match="`num_warm_steps` must be an integer of at least 0"):
        Protes(ring_latent((4, 4)), Archive(1, 2), num_warm_steps=value)


def test_what_was_refused_is_not_learned():
    """A neuron whose points all scored -inf keeps its train; the other one learns."""
    optimizer = Protes(Box([4, 4]), Archive(2, 2), preset="tt_b")
    before = [core.clone() for core in optimizer.train.cores]
    optimizer.ask()
    scores = torch.full((2, optimizer.batch), -torch.inf)
    scores[1, 0] = 1.0
    optimizer.tell(scores)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(before, optimizer.train.cores, strict=True))
    assert not torch.equal(before[0][1], optimizer.train.cores[0][1])
