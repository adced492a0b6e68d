import torch

from spikelens.am.normal_scores import normal_scores


def quantile(share):
    return torch.special.ndtri(torch.as_tensor(share)).float()


def test_they_are_quantiles_of_ranks():
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    values = torch.stack([order.double(), -(order.double().exp())])
    wanted = torch.special.ndtri((torch.arange(50, dtype=torch.float64) + 0.5) / 50)[order].float()
    torch.testing.assert_close(normal_scores(values), torch.stack([wanted, -wanted]))


def test_equal_values_have_their_mean_rank():
    found = normal_scores(torch.tensor([[0.0, 5.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]]))
    # Ranks 1 to 3 and 4 of 4; all of them 2.5.
    low, high = quantile(1.5 / 4), quantile(3.5 / 4)
    wanted = torch.stack([torch.stack([low, high, low, low]), torch.zeros(4)])
    torch.testing.assert_close(found, wanted)


def test_what_is_not_finite_has_none_and_changes_nothing():
    values = torch.tensor([[1.0, torch.nan, 3.0, torch.inf, 2.0, -torch.inf]])
    found = normal_scores(values)
    assert found.isnan().tolist() == [[False, True, False, True, False, True]]
    known = values.isfinite()
    torch.testing.assert_close(found[known], normal_scores(values[known][None])[0])
    assert normal_scores(torch.full((2, 3), torch.nan)).isnan().all()
