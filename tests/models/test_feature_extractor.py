import pytest
import safetensors.torch
import torch
from torch import nn

from spikelens.data.base import ImageSpec
from spikelens.models.feature_extractor import (
    FeatureExtractor,
    ResidualBlock,
    load_feature_extractor,
)
from spikelens.models.vqvae import VQVAE
from spikelens.weights import ship_weights


def build(channels=3, size=32, seed=0, num_classes=10, **kwargs):
    torch.manual_seed(seed)
    images = ImageSpec(channels, size, tuple(str(label) for label in range(num_classes)))
    return FeatureExtractor(images, **{"width": 8, "num_features": 6, **kwargs}).eval()


def pictures(num, channels=3, size=32, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.rand(num, channels, size, size, generator=random)


def test_a_residual_block_by_hand():
    block = ResidualBlock(1, 1, 1).eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-30  # lost beside a variance of 1: with a mean of 0 nothing is changed
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1.0)
    # The sum of the 3 x 3 surroundings (here: all four) is 2, relu, its sum is 8; plus x, relu.
    x = torch.tensor([[-9.0, 5.0], [6.0, 0.0]]).view(1, 1, 2, 2)
    assert torch.equal(block(x), torch.tensor([[0.0, 13.0], [14.0, 8.0]]).view(1, 1, 2, 2))


def test_a_block_that_changes_nothing_but_channels_has_a_skip_of_its_own():
    assert isinstance(ResidualBlock(4, 4, 1).skip, nn.Identity)
    assert ResidualBlock(4, 6, 2)(torch.zeros(2, 4, 7, 7)).shape == (2, 6, 4, 4)
    assert ResidualBlock(4, 4, 2)(torch.zeros(2, 4, 8, 8)).shape == (2, 4, 4, 4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 33, 64])
def test_any_size_gives_features_that_the_head_classifies(channels, size):
    extractor, images = build(channels, size), pictures(3, channels, size)
    features = extractor.features(images)
    assert features.shape == (3, 6)
    assert (features >= 0).all()
    assert torch.equal(extractor(images), extractor.head(features))


def test_images_are_measured_each_by_itself():
    extractor, images = build(), pictures(5)
    alone = torch.cat([extractor.features(image[None]) for image in images])
    torch.testing.assert_close(extractor.features(images), alone)


def test_the_cost_of_the_default_size():
    extractor = FeatureExtractor(ImageSpec(3, 32, tuple("abcdefghij")))
    products = []

    def count(module, _, output):
        products.append(module.weight[0].numel() * output[0].numel())

    for module in extractor.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    extractor.eval().features(pictures(1))
    assert sum(products) < 13e6


def test_it_learns(halves, quiet_trainer):
    torch.manual_seed(0)
    extractor = FeatureExtractor(halves.spec, width=8, num_features=6)
    trainer = quiet_trainer(max_epochs=12)
    trainer.fit(extractor, datamodule=halves)
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy"} <= set(
        trainer.callback_metrics
    )
    trainer.test(extractor, datamodule=halves, verbose=False)
    assert trainer.callback_metrics["test/accuracy"] > 0.9
    assert "test/loss" in trainer.callback_metrics


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize(("channels", "size", "num_classes"), [(1, 28, 3), (3, 32, 10)])
def test_the_state_alone_rebuilds_it(tmp_path, suffix, channels, size, num_classes):
    extractor = build(channels, size, num_classes=num_classes)
    images, path = pictures(2, channels, size), tmp_path / f"weights{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": extractor.state_dict()}, path)
    else:
        card = {
            "seed": 0,
            "data": {},
            "model": {},
            "trainer": {"max_epochs": 1, "accelerator": "auto"},
        }
        ship_weights(extractor, path, "a test", card, {})
    loaded = load_feature_extractor(str(path))
    assert torch.equal(loaded(images), extractor(images))
    assert loaded.images.image_shape == (channels, size, size)
    assert len(loaded.images.classes) == num_classes
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_another_state_is_refused():
    vqvae = VQVAE(ImageSpec(1, 8, ()), hidden=8, residual_hidden=4, num_codes=6, code_size=3)
    with pytest.raises(KeyError):
        FeatureExtractor.from_state(vqvae.state_dict())


def test_files_of_something_else_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a feature extractor, but found no missing"):
        load_feature_extractor("missing.ckpt")
    (tmp_path / "text.ckpt").write_text("no weights, but a sentence")
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    for name in ("text.ckpt", "x.safetensors"):
        with pytest.raises(ValueError, match="holds something else"):
            load_feature_extractor(str(tmp_path / name))


def test_weights_other_than_the_card_s_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    card = {"seed": 0, "data": {}, "model": {}, "trainer": {"max_epochs": 1, "accelerator": "auto"}}
    ship_weights(build(), path, "a test", card, {})
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="its card's sha256"):
        load_feature_extractor(str(path))


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ({"width": 7}, "`width` must be even, but got 7"),
        ({"width": 0}, "`width` must be a positive integer"),
        ({"num_features": -1}, "`num_features` must be a positive integer"),
    ],
)
def test_arguments_out_of_range_are_refused(argument, says):
    with pytest.raises(ValueError, match=says):
        build(**argument)
