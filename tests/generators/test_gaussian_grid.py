import math

import pytest
import torch
from torch.distributions import Normal

from spikelens.generators.gaussian_grid import GaussianGrid, near_kernel


@pytest.mark.parametrize("num_nodes", [2, 7, 64, 500])
def test_nodes_are_quantiles_of_the_normal_distribution(num_nodes):
    grid = GaussianGrid(3, num_nodes)
    normal = Normal(torch.zeros((), dtype=torch.float64), 1.0)
    middles = (torch.arange(num_nodes, dtype=torch.float64) + 0.5) / num_nodes
    torch.testing.assert_close(grid.nodes.double(), normal.icdf(middles), rtol=1e-6, atol=1e-7)
    borders = torch.arange(1, num_nodes, dtype=torch.float64) / num_nodes
    torch.testing.assert_close(grid.edges.double(), normal.icdf(borders), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(grid.nodes, -grid.nodes.flip(0))
    assert grid.nodes.dtype == torch.float32


def test_quartiles_by_hand():
    # Four symbols: the quantiles 1/8, 3/8, 5/8, 7/8 of a normal distribution, from a table.
    wanted = torch.tensor([-1.150349, -0.318639, 0.318639, 1.150349])
    torch.testing.assert_close(GaussianGrid(2, 4).nodes, wanted)


def test_one_mode_a_coordinate():
    grid = GaussianGrid(3, 5)
    assert grid.mode_sizes == (5, 5, 5)
    assert grid.order.tolist() == [0, 1, 2]
    assert len(grid.prior) == 3
    for share in grid.prior:
        torch.testing.assert_close(share, torch.full((5,), 0.2))
    assert not grid.state_dict()  # it is rebuilt from its arguments


@pytest.mark.parametrize("num_nodes", [2, 9, 64])
def test_indices_of_nodes_are_the_symbols_themselves(num_nodes):
    grid = GaussianGrid(4, num_nodes)
    symbols = torch.arange(num_nodes)
    indices = torch.stack([symbols, symbols.flip(0), symbols.roll(1), symbols], 1)
    latent = grid.to_latent(indices)
    assert latent.shape == (num_nodes, 4)
    assert latent.dtype == torch.float32
    found = grid.to_indices(latent)
    assert found.dtype == torch.int64
    assert torch.equal(found, indices)
    # However far out: the outermost symbols.
    far = torch.tensor([[-99.0, 99.0, -torch.inf, torch.inf]])
    assert grid.to_indices(far).tolist() == [[0, num_nodes - 1] * 2]


def test_normal_draws_are_uniform_symbols():
    num_nodes, z_size, num = 8, 3, 4000
    z = torch.randn(num, z_size, generator=torch.Generator().manual_seed(0))
    found = GaussianGrid(z_size, num_nodes).to_indices(z)
    wanted = num / num_nodes
    for coordinate in found.T:
        counts = torch.bincount(coordinate, minlength=num_nodes)
        chi_square = float((counts - wanted).square().sum() / wanted)
        # Seven degrees of freedom: mean 7, variance 14; five standard deviations beyond.
        assert chi_square < 7 + 5 * 14**0.5


def test_uniform_symbols_are_as_long_as_normal_draws():
    grid = GaussianGrid(256, 64)
    random = torch.Generator().manual_seed(0)
    lengths = grid.to_latent(torch.randint(0, 64, (50, 256), generator=random)).norm(dim=1)
    # |z| has mean about sqrt(d) and variance 1/2; 64 middles of quantiles lack some of the tails.
    assert lengths.mean() == pytest.approx(16.0, rel=0.02)


def test_on_the_sphere_all_have_the_length_of_normal_draws():
    flat, sphere = GaussianGrid(9, 16), GaussianGrid(9, 16, is_sphere=True)
    indices = torch.randint(0, 16, (20, 9), generator=torch.Generator().manual_seed(0))
    latent = sphere.to_latent(indices)
    torch.testing.assert_close(latent.norm(dim=1), torch.full((20,), 3.0))
    # The same direction.
    cosine = torch.cosine_similarity(latent, flat.to_latent(indices))
    torch.testing.assert_close(cosine, torch.ones(20))
    torch.testing.assert_close(sphere.on_sphere(latent), latent)
    assert torch.equal(sphere.on_sphere(torch.zeros(1, 9)), torch.zeros(1, 9))  # no direction


@pytest.mark.parametrize("reach", [1e-22, 0.5, 4.0, 1e6])
@pytest.mark.parametrize("num_symbols", [2, 3, 20])
def test_near_symbols_are_likelier(num_symbols, reach):
    kernel = near_kernel(num_symbols, reach)
    assert kernel.shape == (num_symbols, num_symbols)
    torch.testing.assert_close(kernel.sum(1), torch.ones(num_symbols))
    assert torch.equal(kernel.diagonal(), torch.zeros(num_symbols))
    # The grid is the same from either end; before rows are normalised, so are both directions.
    torch.testing.assert_close(kernel, kernel.flip(0, 1))
    for row in range(num_symbols):
        for side in (kernel[row, :row].flip(0), kernel[row, row + 1 :]):
            assert (side.diff() <= 0).all()
        both = min(row, num_symbols - 1 - row)
        below, above = kernel[row, row - both : row].flip(0), kernel[row, row + 1 : row + 1 + both]
        torch.testing.assert_close(below, above)


def test_kernel_by_hand():
    # Distances 1 and 2 at a reach of 2: weights exp(-1/8) and exp(-1/2).
    near, far = math.exp(-1 / 8), math.exp(-1 / 2)
    total = near + far
    wanted = [[0, near / total, far / total], [0.5, 0, 0.5], [far / total, near / total, 0]]
    torch.testing.assert_close(near_kernel(3, 2.0), torch.tensor(wanted))
    assert torch.equal(near_kernel(2, 4.0), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    # A reach of almost nothing leaves the nearest ones.
    torch.testing.assert_close(near_kernel(3, 1e-3)[0], torch.tensor([0.0, 1.0, 0.0]))
    assert torch.equal(GaussianGrid(2, 3, reach=0.5).kernel, near_kernel(3, 1.5))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"z_size": 0}, "`z_size` must be a positive integer, but got 0"),
        ({"num_nodes": 1}, "`num_nodes` must be an integer of at least 2, but got 1"),
        ({"reach": 0.0}, "`reach` must lie between 0 and 1, but got 0.0"),
        ({"reach": -1.0}, "`reach` must lie between 0 and 1, but got -1.0"),
        ({"reach": math.nan}, "`reach` must lie between 0 and 1, but got nan"),
    ],
)
def test_bad_arguments_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        GaussianGrid(**{"z_size": 3, **arguments})
