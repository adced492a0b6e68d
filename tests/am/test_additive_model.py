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
    units = scores.abs().amax(1)[:, None, None]
    for table, value in zip(units * model.table(), values, strict=True):
        for found, wanted in zip(gains(table, sizes), gains(value, sizes), strict=True):
            torch.testing.assert_close(found, wanted, atol=0.01, rtol=0)


@pytest.mark.parametrize("window", [400, 12])
def test_it_is_the_ridge_regression_in_the_primal_and_in_the_dual(window):
    sizes, num = (3, 17), 12  # 17 symbols: 8 features, more than there are points
    points, scores = points_of(num, sizes), torch.linspace(-1, 2, num).square()
    model = AdditiveModel(Box(sizes), 1, window=window, ridge=0.3)
    model.add(points[None], scores[None])
    features = symbol_features(Box(sizes))  # (2, 17, e)
    rows = features[torch.arange(2), points].flatten(1)
    rows = rows - rows.mean(0)
    penalty = 0.3 * rows.square().sum(1).mean()
    slopes = torch.linalg.solve(
        rows.T @ rows + penalty * torch.eye(rows.shape[1]), rows.T @ (scores - scores.mean())
    )
    wanted = torch.einsum("de,dne->dn", slopes.view(2, -1), features)
    torch.testing.assert_close(model.table()[0] * scores.abs().max(), wanted, atol=1e-4, rtol=1e-4)


def test_the_oldest_points_are_forgotten():
    sizes, points = (4, 4), points_of(90, (4, 4))
    scores = points.float().sum(1)
    whole, last = (AdditiveModel(Box(sizes), 1, window=30) for _ in range(2))
    for part in points.split(7):  # in pieces that do not divide the window
        whole.add(part[None], part.float().sum(1)[None])
    last.add(points[None, -30:], scores[None, -30:])
    torch.testing.assert_close(whole.table(), last.table(), atol=1e-4, rtol=1e-4)


def test_it_is_fitted_anew_when_a_twentieth_of_the_points_is_new():
    sizes, points = (3, 5), points_of(120, (3, 5))
    model = AdditiveModel(Box(sizes), 1)
    scores = points.float().sum(1).square()
    model.add(points[None, :100], scores[None, :100])
    first = model.table()
    model.add(points[None, 100:104], scores[None, 100:104])
    assert model.table() is first  # 4 of 104
    model.add(points[None, 104:107], scores[None, 104:107])
    assert not torch.equal(model.table(), first)  # 7 of 107


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


def test_points_that_hardly_differ_are_no_failure():
    model = AdditiveModel(Box((8,) * 20), 1)
    points = torch.zeros(1, 50, 20, dtype=torch.int64)
    points[0, ::7, 3] = 5
    for _ in range(100):
        model.add(points, points[..., 3].float())
        assert model.table().isfinite().all()


def test_what_was_shown_is_not_kept_by_reference():
    points = points_of(30, (3, 3))
    scores = points.float().sum(1)
    model, spoiled = (AdditiveModel(Box((3, 3)), 1) for _ in range(2))
    model.add(points[None], scores[None])
    lent = points.clone()
    spoiled.add(lent[None], scores[None])
    lent.zero_()
    assert torch.equal(model.table(), spoiled.table())


def test_huge_scores_do_not_overflow():
    points = points_of(30, (3, 3))
    model = AdditiveModel(Box((3, 3)), 1)
    model.add(points[None], 2e37 * points.float().sum(1)[None])
    small = AdditiveModel(Box((3, 3)), 1)
    small.add(points[None], points.float().sum(1)[None])
    torch.testing.assert_close(model.table(), small.table())
