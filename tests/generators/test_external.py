from functools import partial

import pytest
import torch
from conftest import LinearImages, Palette
from torch import nn

from spikelens.am.neurons import Neuron
from spikelens.am.optimizers.elite_tt import EliteTT
from spikelens.am.probe import SearchPlan, find_neurons, probe_neurons
from spikelens.generators.external import ExternalCodes, ExternalLatent


class Sines(nn.Module):
    """A curved network z -> image in (-1, 1)."""

    def __init__(self):
        super().__init__()
        self.linear = LinearImages()

    def forward(self, z):
        return torch.sin(20.0 * (self.linear(z.flatten(1)) - 0.5))


def some(generator, num=6, seed=0):
    random = torch.Generator().manual_seed(seed)
    shares = torch.rand(num, len(generator.mode_sizes), generator=random)
    return (shares * torch.tensor(generator.mode_sizes)).long()


def test_symbols_are_quantiles_of_the_network_s_z():
    generator = ExternalLatent(LinearImages(), 5, num_nodes=4)
    assert generator.mode_sizes == (4,) * 5
    assert generator.image_shape == (1, 8, 8)
    points = some(generator)
    # Quantiles 1/8, 3/8, 5/8, 7/8 of the normal distribution.
    z = torch.tensor([-1.1503494, -0.3186394, 0.3186394, 1.1503494])[points]
    torch.testing.assert_close(generator.decode(points), LinearImages()(z).detach())
    for share in generator.prior:
        torch.testing.assert_close(share, torch.full((4,), 0.25))
    kernel = generator.neighbours(3)
    torch.testing.assert_close(kernel.sum(1), torch.ones(4))
    assert (kernel[0].argsort(descending=True) == torch.tensor([1, 2, 3, 0])).all()


def test_encoding_is_the_known_projection():
    generator = ExternalLatent(LinearImages(), 5, num_nodes=32)
    random = torch.Generator().manual_seed(3)
    noise = 0.2 * torch.randn(7, 1, 8, 8, generator=random)
    z = 0.8 * torch.randn(7, 5, generator=random)
    images = LinearImages()(z).detach() + noise
    best = 10.0 * (images - 0.5).flatten(1) @ LinearImages().rows.detach().T
    found = generator.encode(images)
    assert found.dtype == torch.int64
    # The descent may end a hair beside a border between two symbols.
    assert (found - generator.grid.to_indices(best)).abs().max() <= 1
    assert (found == generator.grid.to_indices(best)).float().mean() > 0.9


@pytest.mark.parametrize("is_sphere", [False, True])
def test_what_was_drawn_is_found_again(is_sphere):
    generator = ExternalLatent(
        Sines(), 5, [-1, 1], num_nodes=16, is_sphere=is_sphere, num_encode_steps=300
    )
    images = generator.decode(some(generator))
    error = (generator.decode(generator.encode(images)) - images).square().mean((1, 2, 3))
    blank = (generator.images.draw(torch.zeros(1, 5)) - images).square().mean((1, 2, 3))
    assert (error < 0.05 * blank).all()


def test_encoding_is_pure_and_draws_nothing():
    generator = ExternalLatent(Sines(), 5, [-1, 1], num_encode_steps=20)
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    state = torch.get_rng_state()
    with torch.no_grad():  # as a callback calls it
        found = generator.encode(images)
    assert torch.equal(found, generator.encode(images))
    assert torch.equal(found[[2]], generator.encode(images[[2]]))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert all(p.grad is None and not p.requires_grad for p in generator.parameters())


def test_z_can_be_a_map():
    seen = []

    class Maps(LinearImages):
        def forward(self, z):
            seen.append(tuple(z.shape[1:]))
            return super().forward(z.flatten(1))

    generator = ExternalLatent(Maps(), 5, is_map=True, num_encode_steps=2)
    flat = ExternalLatent(LinearImages(), 5, num_encode_steps=2)
    points = some(flat)
    assert torch.equal(generator.decode(points), flat.decode(points))
    images = flat.decode(points)
    assert torch.equal(generator.encode(images), flat.encode(images))
    assert set(seen) == {(5, 1, 1)}


def test_z_on_the_sphere():
    generator = ExternalLatent(LinearImages(), 5, is_sphere=True)
    z = 10.0 * (generator.decode(some(generator)) - 0.5).flatten(1) @ LinearImages().rows.T
    torch.testing.assert_close(z.norm(dim=1), torch.full((6,), 5.0**0.5))


def test_codes_are_drawn_as_they_are():
    generator = ExternalCodes(Palette(), [8] * 15 + [3])
    assert generator.mode_sizes == (8,) * 15 + (3,)
    assert generator.image_shape == (1, 8, 8)
    points = some(generator)
    drawn = generator.decode(points)
    torch.testing.assert_close(drawn[:, 0, ::2, 1::2].flatten(1), points / 7.0)
    assert torch.equal(generator.order, torch.arange(16))
    assert generator.neighbours(0) is generator.neighbours(14)
    for mode, size in enumerate(generator.mode_sizes):
        kernel = generator.neighbours(mode)
        torch.testing.assert_close(kernel.sum(1), torch.ones(size))
        assert torch.equal(kernel.diagonal(), torch.zeros(size))
        torch.testing.assert_close(generator.prior[mode], torch.full((size,), 1.0 / size))


def test_a_code_of_one_symbol_stays():
    generator = ExternalCodes(Palette(), [8] * 15 + [1])
    assert torch.equal(generator.neighbours(15), torch.ones(1, 1))


class Bytes(LinearImages):
    def forward(self, z):
        return (255 * super().forward(z)).clamp(0, 255).byte()


WITHOUT_ENCODER = [
    partial(ExternalCodes, Palette(), [8] * 16),
    partial(ExternalLatent, Bytes(), 5),
]


@pytest.mark.parametrize("build", WITHOUT_ENCODER)
def test_who_cannot_encode_says_how_to_do_without(build, tiny_network):
    generator = build()
    says = r"`num_starts` must be 0 for this External.*am\.search\.num_starts=0 to train\.py"
    with pytest.raises(ValueError, match=says):
        generator.encode(torch.rand(2, 1, 8, 8))
    with pytest.raises(ValueError, match=says):
        find_neurons(tiny_network, generator, "fc1:0", (1, 8, 8), EliteTT, num_starts=1)
    assert find_neurons(tiny_network, generator, "fc1:0", (1, 8, 8), EliteTT, num_starts=0)


@pytest.mark.parametrize(
    ("build", "num_starts"),
    [(partial(ExternalLatent, Sines(), 5, [-1, 1], num_encode_steps=5), 2)]
    + [(build, 0) for build in WITHOUT_ENCODER],
)
def test_neurons_are_probed_through_it(build, num_starts, tiny_network, natural):
    generator = build()
    neurons = [Neuron("conv1", 0), Neuron("fc1", 5)]
    # In bfloat16 the best few are shown again, and another may be best.
    plan = SearchPlan(budget=20, num_starts=num_starts, chunk=16, precision="float32")
    probe = probe_neurons(tiny_network, generator, neurons, natural, EliteTT, plan)
    drawn = generator.decode(probe.search.indices)
    torch.testing.assert_close(probe.stimuli, drawn)
    assert probe.search.presentations.tolist() == [20, 20]
    assert generator.realism(probe.stimuli).isnan().all()
    assert generator.realism(probe.stimuli).shape == (2,)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (partial(ExternalLatent, LinearImages(), 4), r"float32 \(4, 4\), but it says: .*mat1 and"),
        (partial(ExternalLatent, LinearImages(), 5, is_map=True), r"float32 \(4, 5, 1, 1\), but"),
        (partial(ExternalLatent, LinearImages(), 0), "`z_size` must be a positive integer"),
        (partial(ExternalLatent, LinearImages(), 5, num_encode_steps=0), "`num_encode_steps` must"),
        (partial(ExternalCodes, Palette(), [8] * 15), r"draw images from int64 \(4, 15\), but"),
        (partial(ExternalCodes, Palette(), []), "`mode_sizes` must name at least one mode"),
        (partial(ExternalCodes, Palette(), [8] * 15 + [0]), "`mode_sizes` must be a positive int"),
        (partial(ExternalCodes, Palette(), [80] * 16), r"\[0, 1\], but draws"),
    ],
)
def test_wrong_arguments_are_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()


@pytest.mark.gpu
def test_it_moves_to_a_gpu():
    generator = ExternalLatent(Sines(), 5, [-1, 1]).to("cuda")
    points = some(generator)
    drawn = generator.decode(points.cuda())
    assert drawn.device.type == generator.encode(drawn).device.type == "cuda"
    on_cpu = ExternalLatent(Sines(), 5, [-1, 1]).decode(points)
    torch.testing.assert_close(drawn.cpu(), on_cpu, rtol=0, atol=1e-4)
