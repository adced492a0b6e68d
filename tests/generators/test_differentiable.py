"""What holds for every generator that draws between its points."""

from functools import partial

import pytest
import torch
from conftest import Bars, LinearImages, Palette
from torch import nn

from spikelens.data.base import ImageSpec
from spikelens.generators.base import check_can_draw
from spikelens.generators.cosines import Cosines
from spikelens.generators.external import ExternalCodes, ExternalLatent
from spikelens.generators.gan_latent import GanLatent
from spikelens.generators.vq_codes import VQCodes
from spikelens.models.sngan import SNGAN
from spikelens.models.vqvae import VQVAE


def vq_codes():
    spec = ImageSpec(1, 12, ())
    sizes = {"hidden": 8, "residual_hidden": 4, "num_residuals": 1, "num_codes": 5, "code_size": 3}
    return VQCodes(VQVAE(spec, **sizes))


def gan_latent(is_sphere):
    widths = {"generator_width": 4, "discriminator_width": 4, "encoder_width": 4}
    return GanLatent(SNGAN(ImageSpec(1, 8, ()), z_size=6, **widths), is_sphere=is_sphere)


BUILDERS = {
    "bars": Bars,
    "vq_codes": vq_codes,
    "gan_latent": partial(gan_latent, is_sphere=False),
    "gan_latent on the sphere": partial(gan_latent, is_sphere=True),
    "cosines": partial(Cosines, channels=3, image_size=(8, 12), num_frequencies=4),
    "external": partial(ExternalLatent, LinearImages(), 5),
    "external on the sphere": partial(ExternalLatent, LinearImages(), 5, is_sphere=True),
}


@pytest.fixture(params=list(BUILDERS))
def generator(request):
    torch.manual_seed(0)
    return BUILDERS[request.param]()


@pytest.fixture
def indices(generator):
    return generator.sample(6, torch.Generator().manual_seed(1))


def test_at_its_points_it_draws_what_it_decodes(generator, indices):
    check_can_draw(generator)
    embedding = generator.embed(indices)
    assert embedding.shape[:2] == indices.shape
    assert torch.equal(generator.draw(embedding), generator.decode(indices))
    assert not generator.decode(indices).requires_grad


def test_the_nearest_symbols_of_a_point_are_its_own(generator, indices):
    embedding = generator.embed(indices)
    assert torch.equal(generator.nearest(embedding), indices)
    assert generator.nearest(embedding).dtype == torch.int64
    near = generator.nearest(embedding.view(2, 3, *embedding.shape[1:]) + 1e-4)
    assert torch.equal(near, indices.view(2, 3, -1))


def test_gradients_are_those_of_small_differences(generator, indices):
    embedding = generator.embed(indices).requires_grad_()
    direction = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(2))
    # A sum over pixels that knows where each of them is.
    weights = torch.linspace(0.5, 1.5, generator.decode(indices)[0].numel())

    def total(points):
        return (generator.draw(points).flatten(1).double() * weights).sum()

    (gradient,) = torch.autograd.grad(total(embedding), embedding)
    assert gradient.flatten(1).any(1).all()
    with torch.no_grad():
        step = 1e-3 * direction
        difference = total(embedding + step) - total(embedding - step)
    # float32 images, and kinks (clamps, ReLUs) on the way: a few per cent.
    expected = float((gradient * direction).sum()) * 2e-3
    scale = float((gradient * direction).abs().sum()) * 2e-3
    assert float(difference) == pytest.approx(expected, abs=0.03 * scale)


class Detached(nn.Module):
    """A network that cuts the gradient."""

    def __init__(self):
        super().__init__()
        self.images = LinearImages()

    def forward(self, z):
        return self.images(z).detach()


@pytest.mark.parametrize(
    "build",
    [partial(ExternalCodes, Palette(), (8,) * 16), partial(ExternalLatent, Detached(), 5)],
    ids=["codes", "detached"],
)
def test_generators_that_cannot_are_refused(build):
    with pytest.raises(ValueError, match=r"for this External.*say am/optimizer=elite_tt"):
        check_can_draw(build())
