import pytest
import torch

from spikelens.am.box import Box
from spikelens.am.pairwise_model import PairwiseModel
from spikelens.am.symbol_features import symbol_features


def points_of(num, sizes, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, (num,), generator=random) for size in sizes], 1)


class Row(Box):
    """A row of places that all hold the same symbols, each beside the next."""

    def __init__(self, num_modes, num_symbols):
        super().__init__([num_symbols] * num_modes)
        places = torch.arange(num_modes)
        self.relations = [torch.stack([places[:-1], places[1:]], 1)]


def table(model):
    """What each symbol adds where nothing meets, `(K, d, n)`."""
    model.fit()
    points = torch.zeros(len(model.scores), 1, len(model.features), dtype=torch.int64)
    return torch.einsum("kde,dne->kdn", model.slopes(points)[:, 0], model.features)


def learned(model, points, scores):
    model.add(points, scores)
    model.fit()
    return model


def learned_at(model):
    model.fit()
    return model


def promises(model, points=None):
    """What each symbol adds beside the mean of its mode's, `(K, b, d, n)`, in units of scores."""
    if points is None:
        points = torch.zeros(len(model.scores), 1, len(model.features), dtype=torch.int64)
    found = torch.einsum("kbde,dne->kbdn", model.slopes(points), model.features)
    return found - found.mean(3, keepdim=True)


@pytest.mark.parametrize("is_pooled", [True, False])
def test_an_additive_function_is_learned(is_pooled):
    values = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    values[:, 1, 4:] = values[:, 1, 3:4]  # a mode of four symbols repeats its last one
    num_groups = 1 if is_pooled else 2
    points = torch.stack([points_of(200, (6, 4, 6), seed) for seed in range(num_groups)])
    each = points.expand(2, -1, -1)
    scores = values.gather(2, each.mT).sum(1)
    model = learned(PairwiseModel(Box((6, 4, 6)), 2, ridge=1e-4, is_ranked=False), points, scores)
    found = scores.abs().amax(1)[:, None, None] * promises(model, each[:, :1])[:, 0]
    wanted = values - values.mean(2, keepdim=True)
    torch.testing.assert_close(found, wanted, atol=0.01, rtol=0)


def test_what_symbols_add_that_meet_is_learned_from_all_places():
    """A score that no additive model can tell, and a place where a symbol was never shown."""
    num_modes, num_symbols = 6, 4
    random = torch.Generator().manual_seed(0)
    coupling = torch.randn(num_symbols, num_symbols, generator=random)
    points = points_of(300, [num_symbols] * num_modes)[None]
    points[0, :, 3] = points[0, :, 3].clamp_max(2)
    scores = coupling[points[..., :-1], points[..., 1:]].sum(2)
    model = PairwiseModel(Row(num_modes, num_symbols), 1, ridge=1e-4, is_ranked=False)
    learned(model, points, scores)
    at = torch.tensor([[[0, 1, 2, 3, 1, 0]]])
    found = scores.abs().max() * promises(model, at)[0, 0, 3]
    wanted = coupling[2] + coupling[:, 1]  # between its neighbours
    torch.testing.assert_close(found, wanted - wanted.mean(), atol=0.1, rtol=0)


@pytest.mark.parametrize("window", [400, 12])
def test_it_is_the_ridge_regression_in_the_primal_and_in_the_dual(window):
    space, num = Row(2, 5), 12  # 10 + 5 + 25 columns, more than there are points
    points, scores = points_of(num, (5, 5)), torch.linspace(-1, 2, num).square()
    model = PairwiseModel(space, 1, pool_window=window, ridge=0.3, is_ranked=False)
    learned(model, points[None], scores[None])
    features = symbol_features(space)  # (2, 5, e)
    parts = features[torch.arange(2), points]
    meet = parts[:, 0, :, None] * parts[:, 1, None]
    rows = torch.cat([parts.flatten(1), parts.sum(1), meet.flatten(1)], 1)
    rows = rows - rows.mean(0)
    penalty = 0.3 * rows.square().sum(1).mean()
    solution = torch.linalg.solve(
        rows.T @ rows + penalty * torch.eye(rows.shape[1]), rows.T @ (scores - scores.mean())
    )
    own, shared, coupling = solution.split([10, 5, 25])
    coupling = coupling.view(5, 5)
    slopes = own.view(2, 5) + shared
    at = features[torch.arange(2), points[3]]
    wanted = slopes + torch.stack([coupling @ at[1], coupling.T @ at[0]])
    found = model.slopes(points[None, 3:4])[0, 0] * scores.abs().max()
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("piece", [1, 7, 29])
@pytest.mark.parametrize(("num_neurons", "num_groups"), [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("num_symbols", [4, 2])  # 36 and 14 columns: dual and primal
def test_the_oldest_points_are_forgotten(piece, num_neurons, num_groups, num_symbols):
    space = Row(4, num_symbols)
    points = torch.stack([points_of(90, [num_symbols] * 4, seed) for seed in range(num_groups)])
    scores = torch.rand(num_neurons, 90, generator=torch.Generator().manual_seed(9))
    whole, last = (PairwiseModel(space, num_neurons, window=30, pool_window=30) for _ in range(2))
    for start in range(0, 90, piece):  # in pieces that do not divide the window
        part = slice(start, start + piece)
        whole.add(points[:, part], scores[:, part])
    last.add(points[:, -30:], scores[:, -30:])
    found, wanted = (promises(learned_at(model)) for model in (whole, last))
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)  # normal scores: up to 2.1


def test_more_points_than_are_remembered_are_thinned_out_evenly():
    model = PairwiseModel(Box((5, 5)), 2, pool_window=10)
    model.add(points_of(99, (5, 5))[None], torch.arange(99.0).expand(2, -1))
    assert model.scores[0].tolist() == [float(int(98 * place / 9)) for place in range(10)]


def test_one_of_many_columns_is_fitted_anew_when_a_tenth_of_the_points_is_new(monkeypatch):
    monkeypatch.setattr("spikelens.am.pairwise_model._FEW", 1)
    sizes, points = (3, 5), points_of(120, (3, 5))
    model = PairwiseModel(Box(sizes), 1)
    scores = points.float().sum(1).square()
    model.add(points[None, :100], scores[None, :100])
    model.fit()
    model.add(points[None, 100:108], scores[None, 100:108])
    model.fit()
    assert model.num_fits == 1  # 8 of 108 are new
    model.add(points[None, 108:114], scores[None, 108:114])
    model.fit()
    assert model.num_fits == 2  # 14 of 114


def test_one_of_many_columns_and_a_full_window_is_fitted_in_every_other_round(monkeypatch):
    monkeypatch.setattr("spikelens.am.pairwise_model._FEW", 1)
    model = PairwiseModel(Box((3, 5)), 1, window=40)
    fits = []
    for seed in range(6):
        learned(model, points_of(20, (3, 5), seed)[None], torch.rand(1, 20))
        fits.append(model.num_fits)
    assert fits == [1, 2, 2, 3, 3, 4]


def test_one_of_few_columns_is_fitted_whenever_there_is_a_new_point():
    points = points_of(120, (3, 5))[None]
    model = PairwiseModel(Box((3, 5)), 1)
    learned(model, points[:, :119], points[:, :119, 0])
    model.fit()
    assert model.num_fits == 1
    learned(model, points[:, 119:], points[:, 119:, 0])
    assert model.num_fits == 2


@pytest.mark.parametrize("window", [400, 30])
def test_the_last_points_come_back_in_order_with_what_was_learned_of_them(window):
    """Additive functions, of points of their own, in pieces that do not divide the window."""
    values = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(1))
    points = torch.stack([points_of(91, (5, 5), seed) for seed in range(2)])
    scores = values.gather(2, points.mT).sum(1)
    model = PairwiseModel(Box((5, 5)), 2, window=window, ridge=1e-4, is_ranked=False)
    for start in range(0, 91, 7):
        model.add(points[:, start : start + 7], scores[:, start : start + 7])
    assert model.has_own(30)
    assert not model.has_own(92)
    model.fit()
    indices, known, fitted = model.latest(12)
    assert torch.equal(indices, points[:, -12:])
    assert torch.equal(known, scores[:, -12:])
    found = fitted * model.scores.abs().amax(1, keepdim=True)
    constant = (known - found).mean(1, keepdim=True)
    torch.testing.assert_close(found + constant, known, atol=0.01, rtol=0)


def test_points_of_a_pool_are_nobodys_own():
    model = PairwiseModel(Box((3, 5)), 2)
    assert not model.has_own(1)
    model.add(points_of(20, (3, 5))[None], torch.rand(2, 20))
    assert not model.has_own(1)


def test_after_a_pool_points_may_be_each_functions_own():
    scores = torch.rand(2, 20, generator=torch.Generator().manual_seed(0))
    pooled, own = (PairwiseModel(Box((3, 5)), 2, window=7, pool_window=9) for _ in range(2))
    learned(pooled, points_of(20, (3, 5))[None], scores)
    pooled.forget()
    points = torch.stack([points_of(20, (3, 5), seed) for seed in range(2)])
    for model in (pooled, own):
        model.add(points, scores)
    assert pooled.has_own(7)
    assert torch.equal(table(pooled), table(own))
    assert own.bytes_of_own == own.points.nbytes


@pytest.mark.parametrize(("num_groups", "window"), [(2, 7), (1, 9)])
def test_more_points_are_remembered_where_they_are_the_same_for_all(num_groups, window):
    model = PairwiseModel(Box((3, 5)), 2, window=7, pool_window=9)
    points = torch.stack([points_of(20, (3, 5))] * num_groups)
    model.add(points, torch.rand(2, 20))
    assert model.window == window


def test_useless_scores_teach_nothing():
    model = PairwiseModel(Box((3, 3)), 2)
    points = points_of(20, (3, 3))
    scores = torch.stack([torch.full((20,), torch.nan), torch.full((20,), 0.5)])
    model.add(points[None], scores)
    torch.testing.assert_close(table(model), torch.zeros(2, 2, 3))


def test_symbols_share_what_their_look_alikes_taught():
    space = Box((9,), is_ordered=True)
    model = PairwiseModel(space, 1)
    points = torch.tensor([[[0], [1], [7], [8]]])
    model.add(points, points[..., 0].float())
    assert (table(model)[0, 0].diff() > 0).all()  # the symbols between were never shown


@pytest.mark.parametrize("window", [150, 300])  # of 264 columns: dual and primal
def test_points_that_hardly_differ_are_no_failure(window):
    model = PairwiseModel(Row(24, 8), 1, window=window)
    model.add(points_of(150, (8,) * 24)[None], torch.rand(1, 150))  # far away
    points = torch.zeros(1, 50, 24, dtype=torch.int64)
    points[0, ::7, 3] = 5
    for _ in range(100):
        model.add(points, points[..., 3].float())
        assert table(model).isfinite().all()


@pytest.mark.parametrize("window", [400, 1000])  # of 584 columns: dual and primal
def test_points_gathered_far_from_where_they_began_are_told_apart(window):
    """Around an elite of equal symbols, whose shared columns are large, two symbols differ."""
    space = Row(64, 8)
    model = PairwiseModel(space, 1, window=window, is_ranked=False)
    model.add(points_of(20, [8] * 64)[None], torch.rand(1, 20))
    for seed in range(120):
        points = torch.zeros(1, 10, 64, dtype=torch.int64)
        points[0, :, :2] = points_of(10, (8, 8), seed)
        learned(model, points, points[..., 0].float())
    found = promises(model, torch.zeros(1, 1, 64, dtype=torch.int64))[0, 0, 0] * 7
    # The ridge shrinks it to some nine tenths.
    torch.testing.assert_close(found, torch.arange(8) - 3.5, atol=0.7, rtol=0)


@pytest.mark.parametrize("window", [400, 1000])
def test_a_large_mean_score_is_taken_for_no_slope(window):
    """Points drift away from the reference; what rounding leaves of the mean must not matter."""
    space = Row(64, 8)
    models = [PairwiseModel(space, 1, window=window, is_ranked=False) for _ in range(2)]
    for seed in range(60):
        points = points_of(20, [8] * 64, seed)[None]
        points[..., :40] = points[..., :40].minimum(torch.tensor(seed // 8))
        scores = points[..., 3].float() / 7
        for model, offset in zip(models, (0.0, 1000.0), strict=True):
            learned(model, points, scores + offset)
    at = torch.zeros(1, 1, 64, dtype=torch.int64)
    plain, offset = (promises(model, at)[0, 0] for model in models)
    torch.testing.assert_close(offset * 1001, plain, atol=0.02, rtol=0)


@pytest.mark.parametrize("grown", [lambda x: x + 1e6, lambda x: 1e37 * x, lambda x: x.exp()])
@pytest.mark.parametrize("window", [100, 1000])  # of 264 columns: dual and primal
def test_the_order_of_scores_alone_counts(grown, window):
    models = [PairwiseModel(Row(24, 8), 2, pool_window=window) for _ in range(2)]
    points = points_of(80, (8,) * 24)[None]
    scores = points[0, :, :2].T.double()
    plain, other = (
        promises(learned(model, points, values))
        for model, values in zip(models, (scores, grown(scores)), strict=True)
    )
    assert torch.equal(plain, other)
    assert plain[0, 0, 0, 7] > plain[0, 0, 0, 0] + 0.5


def test_points_that_are_worse_than_the_least_count_alike():
    points = torch.arange(20)[None, :, None]
    scores = torch.arange(20.0)[None]
    shuffled = torch.cat([scores[:, :3].flip(1), scores[:, 3:]], 1)  # the worst three of twenty
    tables = []
    for least in (-1.0, -torch.inf):
        for values in (scores, shuffled):
            model = PairwiseModel(Box((20,)), 1, least=least)
            model.add(points, values)
            tables.append(table(model))
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[2], tables[3])


def test_what_was_shown_is_not_kept_by_reference():
    points = points_of(30, (3, 3))
    scores = points.float().sum(1)
    model, spoiled = (PairwiseModel(Box((3, 3)), 1) for _ in range(2))
    model.add(points[None], scores[None])
    lent = points.clone()
    spoiled.add(lent[None], scores[None])
    lent.zero_()
    assert torch.equal(table(model), table(spoiled))


@pytest.mark.parametrize("is_ranked", [True, False])
def test_huge_scores_do_not_overflow(is_ranked):
    points = points_of(30, (3, 3))
    model = PairwiseModel(Box((3, 3)), 1, is_ranked=is_ranked)
    model.add(points[None], 2e37 * points.float().sum(1)[None])
    small = PairwiseModel(Box((3, 3)), 1, is_ranked=is_ranked)
    small.add(points[None], points.float().sum(1)[None])
    torch.testing.assert_close(table(model), table(small))
