import copy

import pytest
import torch

from spikelens.data.base import ImageSpec
from spikelens.generators.gan_latent import GanLatent, load_gan_latent
from spikelens.models.sngan import SNGAN
from spikelens.weights import ship_weights

CONFIG = {"model": {"_target_": "spikelens.models.sngan.SNGAN"}}
CONFIG["trainer"] = {"max_epochs": 1, "accelerator": "cpu"}


@pytest.fixture
def sngan():
    torch.manual_seed(0)
    spec = ImageSpec(1, 8, ())
    model = SNGAN(spec, z_size=6, generator_width=4, discriminator_width=4, encoder_width=4)
    with torch.no_grad():
        model.average(torch.randn(16, 6))  # statistics of its own
    return model


@pytest.fixture
def indices():
    return torch.randint(0, 64, (5, 6), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def images():
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("is_sphere", [False, True])
def test_modes_are_coordinates_and_symbols_are_quantiles(sngan, images, indices, is_sphere):
    generator = GanLatent(sngan, is_sphere=is_sphere)
    assert generator.mode_sizes == (64,) * 6
    assert generator.image_shape == (1, 8, 8)
    assert torch.equal(generator.order, torch.arange(6))
    assert len(generator.prior) == 6
    found = generator.encode(images)
    assert found.shape == (4, 6)
    assert found.dtype == torch.int64
    assert found.min() >= 0
    assert found.max() < 64
    drawn = generator.decode(indices)
    assert drawn.shape == (5, 1, 8, 8)
    assert drawn.dtype == torch.float32
    assert drawn.min() >= 0.0
    assert drawn.max() <= 1.0
    z = generator.grid.nodes[indices]
    if is_sphere:
        z = z / z.norm(dim=1, keepdim=True) * 6**0.5
    torch.testing.assert_close(drawn, sngan(z))


def test_a_finer_or_wider_grid_is_the_user_s_choice(sngan):
    generator = GanLatent(sngan, num_nodes=5, reach=0.2)
    assert generator.mode_sizes == (5,) * 6
    kernel = generator.neighbours(0)
    assert all(generator.neighbours(mode) is kernel for mode in range(6))
    torch.testing.assert_close(kernel.sum(1), torch.ones(5))
    assert kernel[0, 1] > GanLatent(sngan, num_nodes=5, reach=0.9).neighbours(0)[0, 1]


def test_nothing_is_learned_any_more(sngan, images):
    generator = GanLatent(sngan.train())
    assert not any(module.training for module in generator.sngan.modules())
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    assert not generator.decode(generator.encode(images)).requires_grad
    assert not generator.realism(images).requires_grad


def test_the_same_points_draw_the_same_in_any_batch(sngan, images, indices):
    generator = GanLatent(sngan, num_refinements=3)
    drawn, found = generator.decode(indices), generator.encode(images)
    assert torch.equal(generator.decode(indices), drawn)
    assert torch.equal(generator.encode(images), found)
    parts = torch.cat([generator.decode(part) for part in indices.flip(0).split(2)]).flip(0)
    torch.testing.assert_close(parts, drawn)
    # Adam's steps are each number's own, and each image has an error of its own.
    parts = torch.cat([generator.encode(part) for part in images.flip(0).split(3)]).flip(0)
    assert torch.equal(parts, found)


@pytest.mark.parametrize("is_sphere", [False, True])
def test_refinements_bring_an_encoding_nearer_to_its_image(sngan, indices, is_sphere):
    errors = []
    for num_refinements in (0, 10, 60):
        generator = GanLatent(sngan, is_sphere=is_sphere, num_refinements=num_refinements)
        images = generator.decode(indices)
        again = generator.decode(generator.encode(images))
        errors.append(float((again - images).square().mean()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.2 * errors[0]


def test_refinements_look_for_what_the_sphere_can_draw(sngan, indices):
    sphere = GanLatent(sngan, is_sphere=True, num_refinements=60)
    # Far from the sphere: what is best off it is not best on it.
    images = GanLatent(sngan).decode(indices // 4 + 48)
    errors = [
        float((sphere.decode(generator.encode(images)) - images).square().mean())
        for generator in (sphere, GanLatent(sngan, num_refinements=60))
    ]
    assert errors[0] < errors[1]


def test_without_refinements_the_encoder_s_guess_stands(sngan, images):
    generator = GanLatent(sngan, num_refinements=0)
    guess = sngan.encode(images)
    assert torch.equal(generator.encode(images), generator.grid.to_indices(guess))


def test_encoding_leaves_everything_as_it_was(sngan, images):
    generator = GanLatent(sngan, num_refinements=2)
    before = copy.deepcopy(generator.sngan.state_dict())
    random, kept = torch.get_rng_state(), images.clone()
    found = generator.encode(images)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert torch.equal(generator.encode(images), found)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(images, kept)
    for name, value in generator.sngan.state_dict().items():
        assert torch.equal(value, before[name]), name
    for parameter in generator.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
    assert not found.requires_grad


def test_realism_is_the_discriminator_s_score(sngan, images):
    generator = GanLatent(sngan)
    score = generator.realism(images)
    assert score.shape == (4,)
    assert torch.equal(score, sngan.discriminator(2.0 * images - 1.0))
    assert score.unique().numel() == 4


def ship(sngan, path):
    ship_weights(sngan, path, "python train.py", CONFIG, {})


def save(sngan, path):
    torch.save({"state_dict": sngan.state_dict(), "epoch": 3}, path)


@pytest.mark.parametrize(("name", "write"), [("last.ckpt", save), ("gan.safetensors", ship)])
def test_trained_weights_are_loaded(sngan, images, indices, tmp_path, name, write):
    write(sngan, tmp_path / name)
    own = GanLatent(sngan, num_nodes=9, is_sphere=True, num_refinements=2)
    loaded = load_gan_latent(str(tmp_path / name), 9, is_sphere=True, num_refinements=2)
    assert loaded.mode_sizes == (9,) * 6
    assert torch.equal(loaded.decode(indices % 9), own.decode(indices % 9))
    assert torch.equal(loaded.encode(images), own.encode(images))
    assert torch.equal(loaded.realism(images), own.realism(images))


def test_weights_that_are_not_the_card_s_are_refused(sngan, tmp_path):
    ship(sngan, tmp_path / "gan.safetensors")
    card = (tmp_path / "gan.json").read_text()
    torch.nn.init.zeros_(sngan.encoder.last.bias)
    ship(sngan, tmp_path / "gan.safetensors")
    (tmp_path / "gan.json").write_text(card)
    with pytest.raises(ValueError, match="must have its card's sha256"):
        load_gan_latent(str(tmp_path / "gan.safetensors"))


@pytest.mark.parametrize("name", ["none.ckpt", "none.safetensors", ""])
def test_a_missing_file_is_said_to_be_missing(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"\.safetensors file of an SN-GAN, but found no"):
        load_gan_latent(str(tmp_path / name))


@pytest.mark.parametrize("lacking", ["average.module.first.weight", "encoder.last.bias"])
def test_a_state_that_lacks_a_part_is_refused(sngan, tmp_path, lacking):
    state = sngan.state_dict()
    del state[lacking]
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"weights of an SN-GAN, but .* holds something else"):
        load_gan_latent(str(tmp_path / "last.ckpt"))


@pytest.mark.parametrize("name", ["last.ckpt", "gan.safetensors"])
def test_files_of_another_format_are_refused(tmp_path, name):
    (tmp_path / name).write_text("these are no weights, but a sentence")
    with pytest.raises(ValueError, match="holds something else"):
        load_gan_latent(str(tmp_path / name))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_refinements": -1}, "`num_refinements` must be an integer of at least 0, but got -1"),
        ({"num_nodes": 1}, "`num_nodes` must be an integer of at least 2"),
        ({"reach": 0.0}, "`reach` must lie between 0 and 1, but got 0.0"),
        ({"reach": 4.0}, "`reach` must lie between 0 and 1, but got 4.0"),
    ],
)
def test_bad_arguments_are_refused(sngan, tmp_path, arguments, says):
    with pytest.raises(ValueError, match=says):
        GanLatent(sngan, **arguments)
    save(sngan, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=says):
        load_gan_latent(str(tmp_path / "last.ckpt"), **arguments)
