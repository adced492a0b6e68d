import pytest
import torch

from spikelens.am.activations import Response
from spikelens.am.archive import Archive
from spikelens.am.optimizers.elite_tt import EliteTT
from spikelens.am.optimizers.random import RandomSearch
from spikelens.am.search import StopReason, search


class Count:
    """Neuron k answers with the share of symbols that equal k; counts what it was shown."""

    def __init__(self, num_neurons):
        self.num_neurons, self.shown = num_neurons, 0

    def __call__(self, indices):
        self.shown += len(indices)
        shares = [(indices == k).float().mean(1) for k in range(self.num_neurons)]
        return Response(torch.stack(shares, 1), torch.stack(shares, 1))


@pytest.mark.parametrize("budget", [1, 7, 10, 25])
@pytest.mark.parametrize("num_starts", [0, 3, 30])
def test_the_budget_is_spent_to_the_last_image(bars, budget, num_starts):
    objective, archive = Count(3), Archive(3, 16)
    start = torch.full((3, num_starts, 16), 4) if num_starts else None
    seen = []
    result = search(
        objective,
        RandomSearch(bars, archive, batch=10),
        archive,
        budget,
        start,
        progress=lambda *args: seen.append(args),
    )
    assert objective.shown == 3 * budget
    assert result.presentations.tolist() == [budget] * 3
    assert result.stop is StopReason.BUDGET
    assert seen[-1][:2] == (3 * budget, 3 * budget)
    assert len(result.curve) == len(seen)
    assert torch.equal(result.curve, result.curve.cummax(0).values)
    torch.testing.assert_close(objective(result.indices).activations.diagonal(), result.activations)


def test_neurons_at_their_ceiling_ask_for_nothing_more(bars):
    objective, archive = Count(2), Archive(2, 16)
    start = torch.stack([torch.zeros(1, 16), torch.full((1, 16), 4)]).long()
    result = search(objective, RandomSearch(bars, archive, batch=5), archive, 21, start)
    assert result.activations[0] == 1.0
    assert result.presentations.tolist() == [1, 21]
    assert result.stop is StopReason.BUDGET


def test_the_search_ends_when_all_are_at_their_ceiling(bars):
    objective, archive = Count(2), Archive(2, 16)
    start = torch.stack([torch.zeros(1, 16), torch.ones(1, 16)]).long()
    result = search(objective, RandomSearch(bars, archive), archive, 1000, start)
    assert result.stop is StopReason.SATURATED
    assert objective.shown == 2


def test_a_ceiling_may_be_infinite(bars):
    objective, archive = Count(1), Archive(1, 16)
    start = torch.zeros(1, 1, 16).long()
    optimizer = RandomSearch(bars, archive, batch=5)
    result = search(objective, optimizer, archive, 11, start, ceiling=torch.inf)
    assert result.presentations.tolist() == [11]


def test_failures_of_the_objective_are_passed_over(bars):
    count = Count(1)

    def sometimes(indices):
        response = count(indices)
        broken = indices[:, :1] == 0
        return Response(*(values.masked_fill(broken, torch.nan) for values in response))

    archive = Archive(1, 16)
    result = search(sometimes, EliteTT(bars, archive), archive, 300)
    assert result.activations.isfinite().all()
    assert (result.indices[:, 0] != 0).all()
    assert result.activations > 0.5


def test_the_optimizer_is_told_what_is_searched_before_it_is_asked(bars):
    calls = []

    class Told(RandomSearch):
        def open(self, objective):
            calls.append(objective)

        def ask(self):
            calls.append("ask")
            return super().ask()

    objective, archive = Count(1), Archive(1, 16)
    search(objective, Told(bars, archive, batch=2), archive, 4)
    assert calls == [objective, "ask", "ask"]


def test_a_budget_must_be_positive(bars):
    archive = Archive(1, 16)
    with pytest.raises(ValueError, match="`budget` must be a positive integer, but got 0"):
        search(Count(1), RandomSearch(bars, archive), archive, 0)


def test_alone_a_neuron_knows_only_its_own_images(bars):
    archive = Archive(2, 16)
    # Neuron 1's start image is what neuron 0 wants: alone, neuron 0 never hears of it.
    start = torch.stack([torch.ones(1, 16), torch.zeros(1, 16)]).long()
    optimizer = RandomSearch(bars, archive)
    result = search(Count(2), optimizer, archive, 1, start, is_pooled=False)
    assert result.activations.tolist() == [0.0, 0.0]
    archive = Archive(2, 16)
    result = search(Count(2), optimizer, archive, 1, start)
    assert result.activations.tolist() == [1.0, 1.0]


def test_alone_neurons_with_the_same_start_keep_it_each(bars):
    archive = Archive(3, 16)
    start = torch.ones(3, 1, 16).long()
    result = search(Count(3), RandomSearch(bars, archive), archive, 1, start, is_pooled=False)
    assert archive.best.tolist() == [0.0, 1.0, 0.0]
    assert result.presentations.tolist() == [1, 1, 1]
