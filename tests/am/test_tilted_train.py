import pytest
import torch

from spikelens.am.box import Box
from spikelens.am.moves import Moves
from spikelens.am.tilted_train import TiltedTrain
from spikelens.kernels.scan import compiler_of

compiled = pytest.mark.skipif(compiler_of("cpu") != "numba", reason="nothing is compiled here")


BELOW_ONE = 1 - 4 * torch.finfo(torch.float32).eps


def draws_for(train, seed):
    shape = 3, *train.switch.shape, len(train.order)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * BELOW_ONE


def train_of(sizes, num_neurons=3, num_elites=4, batch=200, num_plain=80, seed=0):
    random = torch.Generator().manual_seed(seed)
    space = Box(sizes, order=torch.randperm(len(sizes), generator=random))
    n = max(sizes)
    weights = torch.rand(num_neurons, num_elites, generator=random)
    elites = torch.stack(
        [torch.randint(size, (num_neurons, num_elites), generator=random) for size in sizes], 2
    )
    return TiltedTrain(
        Moves(space),
        space.order,
        elites,
        weights / weights.sum(1, keepdim=True),
        torch.randn(num_neurons, len(sizes), n, generator=random).exp(),
        num_plain,
        torch.rand(num_neurons, batch, generator=random),
        torch.rand(num_neurons, batch, generator=random),
        torch.tensor([0.5, 0.3, 0.2]),
    )


@compiled
@pytest.mark.parametrize("sizes", [(4, 4, 4), (2, 5, 1, 3), (7,), (70,) * 20])
@pytest.mark.parametrize("num_plain", [0, 80, 200])
def test_compiled_loops_draw_what_torch_draws(sizes, num_plain):
    train = train_of(sizes, num_plain=num_plain)
    draws = draws_for(train, 1)
    found, wanted = train.draw_compiled(draws), train.draw_in_torch(draws)
    # A number next to a border may fall on either side of it.
    assert (found == wanted).all(2).float().mean() > 0.995
    assert (found >= 0).all()
    assert (found < torch.tensor(sizes)).all()


@compiled
def test_compiled_loops_know_the_deviation_of_neighbours():
    moves = Moves(Box((9, 5), is_ordered=True))
    values = torch.randn(4, 2, 9, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[0, 1], [8, 4], [3, 3], [5, 0]])
    near = moves.kernels[moves.kernel_of_mode, points]
    mean = (near * values).sum(2, keepdim=True)
    wanted = (near * (values - mean).square()).sum(2).mean(1).sqrt()
    torch.testing.assert_close(moves.deviation(values, points), wanted)


def test_draws_in_torch_follow_weights_of_symbols():
    """One mode, one elite: its distribution by hand."""
    train = train_of((5,), num_neurons=1, num_elites=1, batch=60_000, num_plain=0)
    mutation = torch.full_like(train.mutation, 0.4)
    train = TiltedTrain(**{**vars(train), "mutation": mutation})
    kernel = 0.4 * (0.5 * train.moves.kernels[0] + 0.3 * train.moves.prior + 0.2 / 5)
    kernel += 0.6 * torch.eye(5)
    wanted = kernel[train.elites[0, 0, 0]] * train.tilts[0, 0]
    found = torch.bincount(train.draw_in_torch(draws_for(train, 0)).flatten(), minlength=5) / 60_000
    # Standard error at most .5 / sqrt(6e4) = .0020; 5 sigma.
    torch.testing.assert_close(found, wanted / wanted.sum(), atol=0.0105, rtol=0)


@pytest.mark.parametrize("how", ["draw_in_torch", pytest.param("draw_compiled", marks=compiled)])
def test_an_elite_without_weight_leaves_the_draw_as_it_is(how):
    """However much the symbols' weights like it, over many modes."""
    given = vars(train_of((3,) * 60, num_neurons=1, num_elites=2, batch=4000, num_plain=0))
    tilts = torch.ones(1, 60, 3)
    tilts[..., 2] = 200.0
    elites = torch.tensor([[[0] * 60, [2] * 60]])
    rates = {"mutation": torch.full((1, 4000), 0.1), "switch": torch.full((1, 4000), 0.2)}
    train = TiltedTrain(
        **{
            **given,
            **rates,
            "tilts": tilts,
            "elites": elites,
            "weights": torch.tensor([[1.0, 0.0]]),
        }
    )
    found = getattr(train, how)(draws_for(train, 0))
    near, prior, uniform = 0.5 / 2, 0.3 / 3, 0.2 / 3
    masses = torch.tensor([0.9 + 0.1 * (prior + uniform), *[0.1 * (near + prior + uniform)] * 2])
    wanted = masses * tilts[0, 0]
    # Modes are independent: standard error at most .5 / sqrt(2.4e5) = .0010; 5 sigma.
    share = torch.bincount(found.flatten(), minlength=3) / found.numel()
    torch.testing.assert_close(share, wanted / wanted.sum(), atol=0.0051, rtol=0)


@compiled
def test_without_weights_of_symbols_all_are_plain():
    given = vars(train_of((4, 4), num_plain=200))
    draws = draws_for(TiltedTrain(**given), 0)
    bare = TiltedTrain(**{**given, "tilts": None, "num_plain": 0})
    assert torch.equal(bare.draw_compiled(draws), TiltedTrain(**given).draw_compiled(draws))
