import pytest
import torch

from spikelens.am.additive_model import AdditiveModel, symbol_features
from spikelens.am.box import Box


def points_of(num, sizes, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, (num,), generator=random) for size in sizes], 1)


def gains(table, sizes):
    """What each symbol adds, beside the mean of its mode's."""
    return [row[:size] - row[:size].mean() for row, size in zip(table, sizes, strict=True)]


@pytest.mark.parametrize("is_pooled", [True, False])
def test_an_additive_function_is_learned(is_pooled):
    sizes = (4, 3, 6)
    values = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    model = AdditiveModel(Box(sizes), 2, ridge=1e-4)
    points = torch.stack([points_of(200, sizes, seed) for seed in range(1 if is_pooled else 2)])
    scores = values[:, torch.arange(3), points].diagonal(dim1=0, dim2=1).movedim(-1, 0).sum(-1)
    if is_pooled:
        scores = values[:, torch.arange(3), points[0]].sum(-1)
    model.add(points, scores)
    units = (scores - scores[:, :1]).abs().amax(1)[:, None, None]
    for table, value in zip(units * model.table(), values, strict=True):
        for found, wanted in zip(gains(table, sizes), gains(value, sizes), strict=True):
            torch.testing.assert_close(found, wanted, atol=0.01, rtol=0)


def weighted_ridge(sizes, points, scores, shares, ridge):
    """The regression by the book: a weight for each point, an intercept that is not shrunk."""
    features = symbol_features(Box(sizes))  # (d, n, e)
    rows = features[torch.arange(len(sizes)), points].flatten(1)
    rows = rows - (shares[:, None] * rows).sum(0) / shares.sum()
    gram = rows.T @ (shares[:, None] * rows)
    penalty = ridge * gram.trace() / shares.sum()
    residuals = scores - (shares * scores).sum() / shares.sum()
    slopes = torch.linalg.solve(
        gram + penalty * torch.eye(len(gram)), rows.T @ (shares * residuals)
    )
    return torch.einsum("de,dne->dn", slopes.view(len(sizes), -1), features)


@pytest.mark.parametrize("window", [10**6, 20])
def test_it_is_a_ridge_regression_in_which_old_points_fade(window):
    sizes, num = (3, 5), 60
    points, scores = points_of(num, sizes), torch.linspace(-1, 2, num).square()
    model = AdditiveModel(Box(sizes), 1, window=window, ridge=0.3)
    for part in torch.arange(num).split(10):
        model.add(points[None, part], scores[None, part])
        table = model.table()
    shares = (-torch.arange(num - 1, -1, -1) / window).exp()
    wanted = weighted_ridge(sizes, points, scores, shares, 0.3)
    unit = (scores - scores[0]).abs().max()
    torch.testing.assert_close(table[0] * unit, wanted, atol=1e-4, rtol=1e-4)


def test_it_is_fitted_anew_when_a_tenth_of_the_points_is_new():
    sizes, points = (3, 5), points_of(120, (3, 5))
    model = AdditiveModel(Box(sizes), 1)
    scores = points.float().sum(1).square()
    model.add(points[None, :100], scores[None, :100])
    first = model.table()
    model.add(points[None, 100:109], scores[None, 100:109])
    assert model.table() is first  # 9 of 109
    model.add(points[None, 109:112], scores[None, 109:112])
    assert not torch.equal(model.table(), first)  # 12 of 112


def test_useless_scores_teach_nothing():
    model = AdditiveModel(Box((3, 3)), 2)
    points = points_of(20, (3, 3))
    scores = torch.stack([torch.full((20,), torch.nan), torch.full((20,), 0.5)])
    model.add(points[None], scores)
    torch.testing.assert_close(model.table(), torch.zeros(2, 2, 3))


def test_symbols_share_what_their_look_alikes_taught():
    space = Box((9,), is_ordered=True)
    model = AdditiveModel(space, 1)
    points = torch.tensor([[[0], [1], [7], [8]]])
    model.add(points, points[..., 0].float())
    table = model.table()[0, 0]
    assert (table.diff() > 0).all()  # the symbols between were never shown


def test_a_large_common_part_costs_no_digits():
    points = points_of(30, (3, 3))
    tables = []
    for common in (0.0, 1e9):
        model = AdditiveModel(Box((3, 3)), 1)
        model.add(points[None], points.double().sum(1)[None] + common)
        tables.append(model.table())
    torch.testing.assert_close(*tables, atol=1e-5, rtol=1e-5)


def test_huge_scores_do_not_overflow():
    points = points_of(30, (3, 3))
    model = AdditiveModel(Box((3, 3)), 1)
    model.add(points[None], 2e37 * points.float().sum(1)[None])
    small = AdditiveModel(Box((3, 3)), 1)
    small.add(points[None], points.float().sum(1)[None])
    torch.testing.assert_close(model.table(), small.table())
