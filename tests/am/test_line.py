from functools import partial
from types import SimpleNamespace

import pytest
import torch

from spikelens.am.archive import Archive
from spikelens.am.line import Line, is_line
from spikelens.am.optimizers.cma import Cma
from spikelens.generators.base import sample_prior
from spikelens.generators.cosines import Cosines

CPU = torch.device("cpu")


def space(points, priors):
    """A latent whose mode j has the symbols' points and prior given."""
    largest = max(len(row) for row in points)
    table = torch.stack(
        [torch.tensor([*row, *[torch.nan] * (largest - len(row))]) for row in points]
    )
    prior = [torch.tensor(row) for row in priors]
    return SimpleNamespace(
        mode_sizes=tuple(len(row) for row in points),
        prior=prior,
        sample=partial(sample_prior, prior),
        embed=lambda indices: table[torch.arange(len(points)), indices].unsqueeze(-1),
    )


def test_on_a_gaussian_grid_it_is_the_grid():
    generator = Cosines(1, 8, num_frequencies=2, num_nodes=37)
    line = Line(generator, CPU)
    random = torch.Generator().manual_seed(0)
    indices = generator.sample(500, random)
    torch.testing.assert_close(line.to_latent(indices), generator.grid.to_latent(indices))
    latent = 1.5 * torch.randn(2000, 4, generator=random)
    assert torch.equal(line.to_indices(latent), generator.grid.to_indices(latent))


def test_symbols_are_quantiles_of_the_prior_in_the_order_of_their_points():
    # Mode 0: in order of points, symbols 2, 0, 1 with shares .25, .5, .25; mode 1: a single symbol.
    line = Line(space([[0.0, 5.0, -7.0], [3.0]], [[0.5, 0.25, 0.25], [1.0]]), CPU)
    found = line.to_latent(torch.tensor([[0, 0], [1, 0], [2, 0]]))
    # Quantiles .5, .875, .125 of a normal distribution, from a table.
    wanted = torch.tensor([[0.0, 0.0], [1.150349, 0.0], [-1.150349, 0.0]])
    torch.testing.assert_close(found, wanted)
    # Borders at the quartiles -.674490 and .674490.
    latent = torch.tensor([[-99.0, -9.0], [-0.68, 0.0], [-0.67, 9.0], [0.67, 0.0], [0.68, 0.0]])
    assert line.to_indices(latent).tolist() == [[2, 0], [2, 0], [0, 0], [0, 0], [1, 0]]
    assert line.to_indices(torch.full((1, 2), torch.inf)).tolist() == [[1, 0]]


def test_symbols_that_never_occur_stay_finite():
    line = Line(space([[0.0, 1.0, 2.0]], [[0.0, 1.0, 0.0]]), CPU)
    assert line.to_latent(torch.tensor([[0], [1], [2]])).isfinite().all()


def test_vectors_are_no_line():
    vectors = SimpleNamespace(
        mode_sizes=(4, 4), embed=lambda indices: indices.unsqueeze(-1).expand(-1, -1, 2).float()
    )
    assert not is_line(vectors, CPU)
    with pytest.raises(ValueError, match=r"must not be Cma for this .*points on a line, such as"):
        Cma(vectors, Archive(1, 2))
