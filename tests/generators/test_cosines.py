import math
from functools import partial

import pytest
import scipy.fft
import torch

from spikelens.am.neurons import Neuron
from spikelens.am.optimizers.elite_tt import EliteTT
from spikelens.am.probe import SearchPlan, find_neurons, probe_neurons
from spikelens.generators.cosines import (
    Cosines,
    colour_axes,
    cosine_basis,
    natural_amplitudes,
    zigzag,
)


def near_grey(generator, num=20):
    """Points close to the middle of the grid, whose images are clamped nowhere."""
    random = torch.Generator().manual_seed(0)
    middle = generator.mode_sizes[0] // 2
    return torch.randint(middle - 4, middle + 4, (num, len(generator.mode_sizes)), generator=random)


@pytest.mark.parametrize(("num", "side"), [(1, 1), (8, 8), (5, 13), (8, 32)])
def test_the_basis_is_orthonormal_and_scipy_s(num, side):
    basis = cosine_basis(num, side)
    torch.testing.assert_close(basis @ basis.T, torch.eye(num), rtol=0, atol=1e-6)
    wanted = torch.from_numpy(scipy.fft.dct(torch.eye(side).numpy(), axis=0, norm="ortho"))
    torch.testing.assert_close(basis, wanted[:num], rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_axes_are_orthonormal_and_the_first_is_grey(channels):
    axes = colour_axes(channels)
    torch.testing.assert_close(axes @ axes.T, torch.eye(channels))
    torch.testing.assert_close(axes[0], torch.full((channels,), channels**-0.5))


@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_the_zigzag_goes_from_low_to_high_in_small_steps(side):
    path = zigzag(side)
    assert sorted(path.tolist()) == list(range(side * side))
    steps = torch.stack([path // side, path % side])
    assert (steps.sum(0).diff() >= 0).all()
    assert all(step.abs().max() <= 1 for step in steps.diff(dim=1).T)


def test_the_order_keeps_the_colours_of_a_frequency_together():
    generator = Cosines(3, 8, 4)
    axis, frequency = generator.order // 16, generator.order % 16
    assert sorted(generator.order.tolist()) == list(range(48))
    assert torch.equal(frequency, zigzag(4).repeat_interleave(3))
    assert axis.view(16, 3)[:2].tolist() == [[0, 1, 2], [2, 1, 0]]


def test_amplitudes_fall_like_one_over_f():
    amplitudes = natural_amplitudes((3, 32, 32), 8)
    assert amplitudes.shape == (3, 8, 8)
    torch.testing.assert_close(amplitudes[0, 0, 1], torch.tensor(0.14 * 32))
    torch.testing.assert_close(amplitudes[:, 0, 1:], amplitudes[:, 0, 1:2] / torch.arange(1, 8))
    torch.testing.assert_close(amplitudes[:, 3, 4], amplitudes[:, 0, 1] / 5)
    torch.testing.assert_close(amplitudes, amplitudes.transpose(1, 2))
    # The image's standard deviation does not depend on its size: variance ~ sum / (H W).
    larger = natural_amplitudes((3, 64, 64), 8)
    torch.testing.assert_close(larger, 2 * amplitudes)
    # On a wide image a column's cosine is slower than a row's of the same number.
    wide = natural_amplitudes((1, 16, 64), 8)[0]
    torch.testing.assert_close(wide[1, 0] * 4, wide[0, 1])
    torch.testing.assert_close(wide[1, 0], wide[0, 4])


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 3)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_coefficient_in_closed_form(axis, row, column):
    height, width = 6, 8
    generator = Cosines(3, (height, width), 4, num_nodes=65)
    points = torch.full((1, 48), 32)  # the middle: z = 0
    grey = generator.decode(points)
    torch.testing.assert_close(grey, torch.full((1, 3, height, width), 0.5))
    points[0, axis * 16 + row * 4 + column] = 40
    z = generator.grid.nodes[40] * generator.amplitudes[axis, row, column]
    y, x = torch.arange(height)[:, None], torch.arange(width)[None]
    wave = torch.cos(math.pi * row * (2 * y + 1) / (2 * height)) * torch.cos(
        math.pi * column * (2 * x + 1) / (2 * width)
    )
    norm = math.sqrt((2 if row else 1) * (2 if column else 1) / (height * width))
    colour = torch.tensor(
        [[3**-0.5] * 3, [2**-0.5, -(2**-0.5), 0], [-(6**-0.5), -(6**-0.5), 2 * 6**-0.5]]
    )[axis]
    wanted = 0.5 + z * norm * wave * colour[:, None, None]
    torch.testing.assert_close(generator.decode(points)[0], wanted.clamp(0, 1))


@pytest.mark.parametrize(
    "arguments",
    [(1, 8, 8), (3, 32), (3, (9, 20), 5), (1, (20, 9), 9), (1, 7, 1), (3, [8, 8], 3, 16)],
    ids=str,
)
def test_encoding_inverts_decoding(arguments):
    generator = Cosines(*arguments)
    points = near_grey(generator)
    images = generator.decode(points)
    assert images.shape[1:] == generator.image_shape
    is_clamped = ((images <= 0) | (images >= 1)).flatten(1).any(1)
    assert not is_clamped.any()
    assert torch.equal(generator.encode(images), points)
    assert torch.equal(generator.decode(generator.encode(images)), images)


def test_any_image_is_encoded_within_a_quantile_cell_of_its_projection():
    generator = Cosines(1, 12, 4)
    random = torch.Generator().manual_seed(1)
    images = 0.5 + 0.1 * torch.randn(30, 1, 12, 12, generator=random)
    planes = torch.from_numpy(
        scipy.fft.dctn((images[:, 0] - 0.5).numpy(), axes=(1, 2), norm="ortho")
    )
    z = (planes[:, :4, :4] / generator.amplitudes[0]).flatten(1)
    points, borders = generator.encode(images), generator.grid.edges
    lower = torch.cat([torch.tensor([-torch.inf]), borders])[points]
    upper = torch.cat([borders, torch.tensor([torch.inf])])[points]
    assert ((z >= lower - 1e-4) & (z <= upper + 1e-4)).all()


def test_it_cannot_tell_what_is_natural():
    assert Cosines(1, 16, 4).realism(torch.rand(3, 1, 16, 16)).isnan().tolist() == [True] * 3


def test_draws_from_the_prior_look_natural():
    generator = Cosines(3, 32)
    random = torch.Generator().manual_seed(0)
    images = generator.decode(torch.randint(0, 64, (300, 192), generator=random))
    assert images.min() >= 0.0
    assert images.max() <= 1.0
    # CIFAR-10: mean .48, standard deviation .25, channels correlate by .81 to .93.
    assert images.mean() == pytest.approx(0.5, abs=0.02)
    assert images.std() == pytest.approx(0.23, abs=0.03)
    correlation = torch.corrcoef(images.transpose(0, 1).flatten(1))
    assert correlation.min() > 0.75


def test_neurons_are_probed_through_it(tiny_network, natural):
    generator = Cosines(1, 8, 4)
    neurons = find_neurons(tiny_network, generator, ["conv1:0", "fc1:5"], (1, 8, 8), EliteTT, 2)
    plan = SearchPlan(budget=20, num_starts=2, chunk=16)
    assert neurons[0] == Neuron("conv1", 0)
    probe = probe_neurons(tiny_network, generator, neurons, natural, EliteTT, plan)
    torch.testing.assert_close(probe.stimuli, generator.decode(probe.search.indices))
    assert not generator.decode(probe.search.indices).requires_grad


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (partial(Cosines, channels=2), "`channels` must be 1 or 3, but got 2"),
        (partial(Cosines, image_size=7), "smaller side, 7, but got 8"),
        (partial(Cosines, image_size=(32, 4)), "smaller side, 4, but got 8"),
        (partial(Cosines, image_size=[32]), "must be a side, or height and width"),
        (partial(Cosines, image_size=(32, 0)), "`image_size` must be a positive integer"),
        (partial(Cosines, num_frequencies=0), "`num_frequencies` must be a positive integer"),
        (partial(Cosines, num_nodes=1), "`num_nodes` must be an integer of at least 2"),
    ],
)
def test_wrong_arguments_are_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()
