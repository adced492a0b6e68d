import hashlib
import json

import pytest
import safetensors.torch
import torch
from conftest import Bars

from spikelens.data.base import ImageSpec
from spikelens.generators.base import check_fit
from spikelens.generators.vq_codes import VQCodes, boustrophedon, codebook_kernel, load_vq_codes
from spikelens.models.vqvae import VQVAE


@pytest.fixture
def vqvae():
    torch.manual_seed(0)
    model = VQVAE(
        ImageSpec(1, 12, ()), hidden=8, residual_hidden=4, num_residuals=1, num_codes=5, code_size=3
    )
    model.prior.place_counts.copy_(torch.randint(0, 20, (9, 5)))
    return model


@pytest.fixture
def images():
    return torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(1))


def test_modes_are_positions_and_symbols_are_codes(vqvae, images):
    generator = VQCodes(vqvae)
    assert generator.mode_sizes == (5,) * 9
    assert generator.image_shape == (1, 12, 12)
    codes = generator.encode(images)
    assert codes.shape == (4, 9)
    assert codes.dtype == torch.int64
    drawn = generator.decode(codes)
    assert drawn.shape == images.shape
    assert drawn.dtype == torch.float32
    assert drawn.min() >= 0.0
    assert drawn.max() <= 1.0
    assert torch.equal(codes, vqvae.encode(images))
    assert torch.equal(drawn, vqvae.decode(codes))


def test_nothing_is_learned_any_more(vqvae, images):
    generator = VQCodes(vqvae.train())
    assert not any(module.training for module in generator.vqvae.modules())
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    assert not generator.decode(generator.encode(images)).requires_grad


@pytest.mark.parametrize("smoothing", [0.1, 2.0])
def test_the_prior_is_the_smoothed_share_of_each_code(vqvae, smoothing):
    counts = vqvae.prior.place_counts.clone()
    prior = VQCodes(vqvae, smoothing).prior
    assert len(prior) == 9
    for position, share in enumerate(prior):
        total = counts[position].sum() + 5 * smoothing
        torch.testing.assert_close(share, (counts[position] + smoothing) / total)
        torch.testing.assert_close(share.sum(), torch.tensor(1.0))
        assert (share > 0).all()
    assert torch.equal(vqvae.prior.place_counts, counts)


def test_an_untrained_prior_is_uniform(vqvae):
    vqvae.prior.place_counts.zero_()
    for share in VQCodes(vqvae).prior:
        torch.testing.assert_close(share, torch.full((5,), 0.2))


@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_the_order_is_a_walk_from_neighbour_to_neighbour(side):
    order = boustrophedon(side)
    assert sorted(order.tolist()) == list(range(side * side))
    steps = torch.stack([order // side, order % side]).diff(dim=1).abs().sum(0)
    assert (steps == 1).all()


def test_the_generator_walks_its_own_map(vqvae):
    assert torch.equal(VQCodes(vqvae).order, boustrophedon(3))


def test_relations_are_the_pairs_of_its_own_map(vqvae):
    beside, below, right, left = VQCodes(vqvae).relations
    assert beside.tolist() == [[0, 1], [1, 2], [3, 4], [4, 5], [6, 7], [7, 8]]
    assert below.tolist() == [[0, 3], [1, 4], [2, 5], [3, 6], [4, 7], [5, 8]]
    assert right.tolist() == [[0, 4], [1, 5], [3, 7], [4, 8]]
    assert left.tolist() == [[1, 3], [2, 4], [4, 6], [5, 7]]


def test_neighbours_look_alike(vqvae):
    generator = VQCodes(vqvae)
    kernel = generator.neighbours(0)
    assert kernel.shape == (5, 5)
    assert all(generator.neighbours(mode) is kernel for mode in range(9))
    torch.testing.assert_close(kernel.sum(1), torch.ones(5))
    assert torch.equal(kernel.diagonal(), torch.zeros(5))
    vectors = vqvae.codebook.vectors
    for row in range(5):
        near_first = (vectors - vectors[row]).square().sum(1).argsort()[1:]
        assert (kernel[row, near_first].diff() < 0).all()


def test_kernel_by_hand():
    # On a line at 0, 1, 3: squared distances 1 and 9; 1 and 4; 4 and 9. The farthest of both
    # (num_near is clipped to 2) are 9, 4, 9 away, so the temperature is 9.
    kernel = codebook_kernel(torch.tensor([[0.0], [1.0], [3.0]]))
    weights = torch.tensor([[0.0, 1.0, 9.0], [1.0, 0.0, 4.0], [9.0, 4.0, 0.0]]).div(-9).exp()
    weights.fill_diagonal_(0.0)
    torch.testing.assert_close(kernel, weights / weights.sum(1, keepdim=True))
    # The nearest ones are 1, 1, 4 away: temperature 1.
    sharp = codebook_kernel(torch.tensor([[0.0], [1.0], [3.0]]), num_near=1)
    wanted = torch.tensor([1.0, torch.e**-8]) / (1 + torch.e**-8)
    torch.testing.assert_close(sharp[0, 1:], wanted)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 50.0])
@pytest.mark.parametrize("num_codes", [2, 9, 40])
def test_the_scale_of_the_codebook_does_not_matter(scale, num_codes):
    vectors = torch.randn(num_codes, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        codebook_kernel(vectors * scale), codebook_kernel(vectors), rtol=1e-3, atol=1e-5
    )


def test_kernels_of_degenerate_codebooks():
    assert torch.equal(codebook_kernel(torch.ones(1, 4)), torch.ones(1, 1))
    same = codebook_kernel(torch.ones(3, 2))
    torch.testing.assert_close(same, torch.full((3, 3), 0.5).fill_diagonal_(0.0))


def ship(vqvae, path, sha256=None):
    content = safetensors.torch.save(vqvae.state_dict())
    path.write_bytes(content)
    if sha256 is not None:
        card = {"sha256": sha256 or hashlib.sha256(content).hexdigest()}
        path.with_suffix(".json").write_text(json.dumps(card))
    return str(path)


@pytest.mark.parametrize("sha256", [None, ""], ids=["no card", "matching card"])
def test_shipped_weights_are_loaded(vqvae, images, tmp_path, sha256):
    vqvae.eval()
    generator = load_vq_codes(ship(vqvae, tmp_path / "weights.safetensors", sha256))
    assert isinstance(generator, VQCodes)
    assert generator.image_shape == (1, 12, 12)
    codes = vqvae.encode(images)
    assert torch.equal(generator.encode(images), codes)
    assert torch.equal(generator.decode(codes), vqvae.decode(codes))
    for found, wanted in zip(generator.prior, VQCodes(vqvae).prior, strict=True):
        assert torch.equal(found, wanted)


def test_weights_that_are_not_the_card_s_are_refused(vqvae, tmp_path):
    path = ship(vqvae, tmp_path / "weights.safetensors", "0123456789abcdef")
    with pytest.raises(ValueError, match="sha256, 0123456789ab…, but has"):
        load_vq_codes(path)


def test_a_lightning_checkpoint_is_loaded(vqvae, images, tmp_path):
    path = tmp_path / "last.ckpt"
    content = {"state_dict": vqvae.state_dict(), "epoch": 3, "hyper_parameters": {"seed": 0}}
    torch.save(content, path)
    generator = load_vq_codes(str(path))
    assert torch.equal(generator.encode(images), vqvae.encode(images))


@pytest.mark.parametrize("name", ["none.ckpt", "none.safetensors", ""])
def test_a_missing_file_is_said_to_be_missing(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"\.safetensors file of a VQ-VAE"):
        load_vq_codes(str(tmp_path / name))


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {"network.weight": torch.zeros(2)}},
        {"state_dict": {}},
        {"weights": 1},
        [1, 2],
        torch.zeros(3),
    ],
    ids=["other model", "empty", "no state", "list", "tensor"],
)
def test_checkpoints_of_something_else_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="holds something else"):
        load_vq_codes(str(tmp_path / "last.ckpt"))


def test_a_state_that_lacks_a_part_is_refused(vqvae, tmp_path):
    state = vqvae.state_dict()
    del state["decoder.0.bias"]
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="holds something else"):
        load_vq_codes(str(tmp_path / "last.ckpt"))


@pytest.mark.parametrize("name", ["last.ckpt", "weights.safetensors"])
def test_files_of_another_format_are_refused(tmp_path, name):
    (tmp_path / name).write_text("these are no weights, but a sentence")
    with pytest.raises(ValueError, match="holds something else"):
        load_vq_codes(str(tmp_path / name))


def test_other_shipped_weights_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"fc.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="holds something else"):
        load_vq_codes(str(path))


def test_a_generator_must_draw_what_the_model_takes(vqvae):
    check_fit(Bars(side=8), (1, 8, 8))
    check_fit(VQCodes(vqvae), (1, 12, 12))
    with pytest.raises(ValueError, match=r"\(3, 8, 8\), but Bars draws \(1, 8, 8\)"):
        check_fit(Bars(side=8), (3, 8, 8))
    with pytest.raises(ValueError, match="VQCodes draws"):
        check_fit(VQCodes(vqvae), (1, 12, 16))
