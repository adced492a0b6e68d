import pytest
import torch

from spikelens.models.code_prior import CodePrior


@pytest.fixture
def prior():
    prior = CodePrior(side=3, num_codes=4)
    random = torch.Generator().manual_seed(0)
    prior.count(torch.randint(0, 4, (500, 3, 3), generator=random))
    return prior


def test_counts_by_hand():
    prior = CodePrior(side=2, num_codes=3)
    prior.count(torch.tensor([[[0, 1], [2, 1]], [[0, 2], [2, 1]]]))
    assert prior.place_counts.tolist() == [[2, 0, 0], [0, 1, 1], [0, 0, 2], [0, 2, 0]]
    assert prior.right_counts.tolist() == [[0, 1, 1], [0, 0, 0], [0, 2, 0]]
    assert prior.below_counts.tolist() == [[0, 0, 2], [0, 1, 0], [0, 1, 0]]
    prior.reset()
    assert not any(counts.any() for counts in prior.buffers())


def test_pairs_are_as_many_as_the_map_has(prior):
    assert prior.place_counts.sum() == 500 * 9
    assert prior.right_counts.sum() == prior.below_counts.sum() == 500 * 6


def test_probabilities_of_all_maps_sum_to_one():
    prior = CodePrior(side=2, num_codes=3)
    prior.count(torch.randint(0, 3, (20, 2, 2), generator=torch.Generator().manual_seed(1)))
    maps = torch.cartesian_prod(*[torch.arange(3)] * 4)
    total = (4 * prior.log_likelihood(maps)).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0))


def test_samples_come_as_often_as_they_are_likely():
    prior = CodePrior(side=2, num_codes=2)
    prior.count(torch.tensor([[[0, 0], [1, 1]]] * 6 + [[[1, 0], [0, 1]]] * 3))
    maps = torch.cartesian_prod(*[torch.arange(2)] * 4)
    wanted = (4 * prior.log_likelihood(maps)).exp()
    num = 20_000
    drawn = prior.sample(num, torch.Generator().manual_seed(0))
    places = (drawn * torch.tensor([8, 4, 2, 1])).sum(1)
    found = torch.bincount(places, minlength=16) / num
    # Five standard errors of a share of at most 1/2.
    assert (found - wanted).abs().max() < 5 * (0.25 / num) ** 0.5


def test_a_chequered_world_is_drawn_chequered():
    board = (torch.arange(16).view(4, 4) + torch.arange(4)[:, None]) % 2
    prior = CodePrior(side=4, num_codes=2)
    prior.count(torch.stack([board, 1 - board]).repeat(500, 1, 1))
    drawn = prior.sample(50, torch.Generator().manual_seed(0)).view(50, 4, 4)
    odd = (drawn.diff(dim=1) == 0).sum() + (drawn.diff(dim=2) == 0).sum()
    assert odd < 0.02 * 50 * 24  # pseudo-counts leave a few
    likely = prior.log_likelihood(torch.stack([board.flatten(), torch.zeros(16, dtype=int)]))
    assert likely[0] > likely[1] + 1.0


def test_the_same_random_numbers_draw_the_same(prior):
    one, two = (prior.sample(7, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == (7, 9)
    assert one.dtype == torch.int64
    assert (one >= 0).all()
    assert (one < 4).all()


def test_an_untrained_prior_is_uniform():
    prior = CodePrior(side=3, num_codes=4)
    codes = prior.sample(5, torch.Generator().manual_seed(0))
    wanted = torch.full((5,), -torch.log(torch.tensor(4.0)))
    torch.testing.assert_close(prior.log_likelihood(codes), wanted)
