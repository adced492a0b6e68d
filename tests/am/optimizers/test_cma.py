import cmaes
import numpy as np
import pytest
import torch

from spikelens.am.activations import Response
from spikelens.am.archive import Archive
from spikelens.am.optimizers.cma import KINDS, Cma
from spikelens.am.search import search
from spikelens.generators.gaussian_grid import GaussianGrid, OverGrid


def grid(z_size=3, num_nodes=1024):
    return OverGrid(GaussianGrid(z_size, num_nodes))


def scores_of(latent, target):
    return -(latent - target).square().sum(-1)


@pytest.mark.parametrize("kind", list(KINDS))
def test_on_a_fine_grid_it_is_the_plain_library(kind):
    space, archive = grid(num_nodes=4096), Archive(1, 3)
    target = torch.tensor([0.5, -0.3, 0.8], dtype=torch.float64)
    optimizer = Cma(space, archive, seed=7, kind=kind)
    seed = torch.randint(2**31, (1,), generator=torch.Generator().manual_seed(7))
    plain = KINDS[kind](mean=np.zeros(3), sigma=1.0, seed=int(seed), population_size=10)
    for _ in range(12):
        samples = np.stack([plain.ask() for _ in range(10)])
        asked = optimizer.ask()[0]
        assert torch.equal(asked, space.grid.to_indices(torch.from_numpy(samples).float()))
        # The plain one sees its own samples, ours what they are rounded to.
        losses = -scores_of(torch.from_numpy(samples), target)
        plain.tell(list(zip(samples, losses.tolist(), strict=True)))
        optimizer.tell(scores_of(space.grid.to_latent(asked), target)[None])
    # They have learned something: the distribution has moved to the target.
    assert np.abs(plain.mean - target.numpy()).max() < 0.3


def test_the_last_of_a_batch_are_those_not_shown():
    space = grid()
    optimizer = Cma(space, Archive(1, 3), seed=3)
    seed = torch.randint(2**31, (1,), generator=torch.Generator().manual_seed(3))
    plain = cmaes.CMA(mean=np.zeros(3), sigma=1.0, seed=int(seed), population_size=10)
    samples = [plain.ask() for _ in range(10)]
    optimizer.ask()
    optimizer.tell(torch.tensor([[3.0, 2.0, 5.0, 1.0, 4.0, *[torch.nan] * 5]]))
    plain.tell(list(zip(samples, [-3.0, -2.0, -5.0, -1.0, -4.0, 9, 9, 9, 9, 9], strict=True)))
    wanted = np.stack([plain.ask() for _ in range(10)])
    assert torch.equal(optimizer.ask()[0], space.grid.to_indices(torch.from_numpy(wanted).float()))


def test_each_neuron_starts_around_its_best_image():
    space, archive = grid(16), Archive(2, 16)
    starts = torch.tensor([80, 940])[:, None].expand(-1, 16)
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    archive.add(starts, Response(scores, scores))
    asked = space.grid.to_latent(Cma(space, archive, batch=50, sigma=0.2).ask().flatten(0, 1))
    means = asked.view(2, 50 * 16).mean(1)
    # Standard error .2 / sqrt(800) = .007; five of them.
    torch.testing.assert_close(means, space.grid.nodes[[80, 940]], atol=0.036, rtol=0)
    spread = asked.view(2, 50 * 16).std(1)
    torch.testing.assert_close(spread, torch.full((2,), 0.2), atol=0.026, rtol=0)


def test_on_the_sphere_all_have_its_length():
    space, archive = grid(9), Archive(1, 9)
    archive.add(torch.full((1, 9), 620), Response(torch.ones(1, 1), torch.ones(1, 1)))
    asked = Cma(space, archive, batch=30, is_sphere=True).ask()[0]
    lengths = space.grid.to_latent(asked).norm(dim=1)
    # A coordinate at 2.5 is rounded by up to .03 (half of 1 / 1024 / density) on the grid of 1024,
    # which moves a length of 3 by .03 * 2.5 / 3.
    torch.testing.assert_close(lengths, torch.full((30,), 3.0), atol=0.025, rtol=0)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_known_maximum_is_found(kind):
    space, archive = grid(6), Archive(2, 6)
    targets = torch.tensor([[0.5, -1.0, 0.2, 0.9, -0.4, 0.0], [-1.0, 1.0, 0.0, 0.3, 0.6, -0.7]])

    def objective(indices):
        scores = scores_of(space.grid.to_latent(indices)[:, None], targets)
        return Response(scores, scores)

    result = search(objective, Cma(space, archive, kind=kind), archive, 600, is_pooled=False)
    # The prior's best of 600 lies about 1 away, squared.
    assert (result.activations > -0.02).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"batch": 3}, "`batch` must be an integer of at least 4, but got 3"),
        ({"kind": "xnes"}, "`kind` must be one of cma, sep_cma, but got 'xnes'"),
        ({"sigma": 0.0}, "`sigma` must be positive, but got 0.0"),
    ],
)
def test_misuse_is_named(arguments, says):
    with pytest.raises(ValueError, match=says):
        Cma(grid(), Archive(1, 3), **arguments)


def test_a_single_mode_is_nothing_to_separate():
    with pytest.raises(ValueError, match="`kind` must be 'cma' for a latent of one mode"):
        Cma(grid(1), Archive(1, 1), kind="sep_cma")
