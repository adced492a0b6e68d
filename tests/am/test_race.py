import pytest
import torch

from spikelens.am.activations import Response
from spikelens.am.race import num_showings, race


class Noisy:
    """Contender c of neuron k answers with its mean and the repeat's noise."""

    def __init__(self, means, sigma):
        self.means, self.sigma, self.shown = means, sigma, []

    def __call__(self, places, repeat):
        self.shown.append((tuple(places.shape), repeat))
        random = torch.Generator().manual_seed(repeat)
        noise = torch.randn(self.means.shape, generator=random) * self.sigma
        values = (self.means + noise).gather(1, places)
        return Response(values, values)


def test_halves_are_shown_as_often_as_is_said():
    show = Noisy(torch.tensor([[0.1, 0.4, 0.3, 0.2, 0.0], [0.5, 0.1, 0.9, 0.2, 0.3]]), 0.0)
    verdict = race(show, torch.ones(2, 5, dtype=torch.bool), 4, 2, first_repeat=10)
    assert verdict.places.tolist() == [1, 2]
    assert verdict.activations.tolist() == pytest.approx([0.4, 0.9])
    assert verdict.standard_errors.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    sizes = [5, 5, 3, 3, 2, 2, 1, 1, 1, 1]
    assert show.shown == [((2, size), 10 + place) for place, size in enumerate(sizes)]
    assert num_showings(5, 4, 2) == sum(sizes)


def test_the_winner_is_better_than_that_of_one_look_and_is_told_without_bias():
    # Eight contenders a neuron, noise as large as the spread of their means.
    means = torch.randn(500, 8, generator=torch.Generator().manual_seed(99))
    show = Noisy(means, 1.0)
    everyone = torch.ones(500, 8, dtype=torch.bool)
    verdict = race(show, everyone, 8, 2, first_repeat=1)
    true = means.gather(1, verdict.places[:, None]).squeeze(1)
    look = show(torch.arange(8).expand(500, 8), 0).scores
    one_look = means.gather(1, look.argmax(1, keepdim=True)).squeeze(1)
    assert true.mean() > one_look.mean() + 0.2
    # Means of 8 draws of variance 1, over 500 neurons: five standard errors are .08.
    assert abs(float((verdict.activations - true).mean())) < 5 / (8 * 500) ** 0.5
    assert float((look.amax(1) - one_look).mean()) > 0.4  # what one look would have told
    # The standard error of 8 draws is 8 ** -.5, known to 1 / sqrt(2 * 7 * 500) = 1.2 % of it.
    assert float(verdict.standard_errors.square().mean()) == pytest.approx(1 / 8, rel=0.1)


def test_those_that_do_not_run_never_win():
    show = Noisy(torch.tensor([[0.1, 0.9, 0.3], [0.1, 0.2, torch.nan], [0.3, 0.2, 0.1]]), 0.0)
    running = torch.tensor([[True, False, True], [True, True, True], [False, False, False]])
    assert race(show, running, 2, 1).places.tolist()[:2] == [2, 1]


def test_one_repeat_has_no_standard_error():
    verdict = race(Noisy(torch.zeros(3, 1), 1.0), torch.ones(3, 1, dtype=torch.bool), 1, 2)
    assert verdict.standard_errors.isnan().all()
    assert verdict.activations.isfinite().all()
