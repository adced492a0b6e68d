"""What lies in weights/ is what its cards say, and works."""

from pathlib import Path

import pytest
import torch

from spikelens.checkpoints import read_checkpoint
from spikelens.generators.gan_latent import load_gan_latent
from spikelens.generators.vq_codes import load_vq_codes
from spikelens.models.feature_extractor import load_feature_extractor
from spikelens.weights import read_card, read_weights

FILES = sorted((Path(__file__).parents[1] / "weights").glob("*.safetensors"))


def of(kind):
    return [path for path in FILES if path.name.startswith(kind)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_card_tells_what_it_is(path):
    card = read_card(path)
    assert card["bytes"] == path.stat().st_size
    assert card["recipe"].startswith("python train.py experiment=")
    assert card["config"]["shipped"] == path.stem.split("_")[1]
    assert any(name.startswith("test/") for name in card["metrics"])
    assert all(value.isfinite().all() for value in read_weights(path).values())


def test_all_of_it_is_small():
    assert sum(path.stat().st_size for path in FILES) <= 24e6


@pytest.mark.parametrize("path", of("vqvae") + of("sngan"), ids=lambda path: path.stem)
def test_generators_draw_and_tell_what_is_natural(path):
    generator = (load_vq_codes if path.name.startswith("vqvae") else load_gan_latent)(str(path))
    points = generator.sample(8, torch.Generator().manual_seed(0))
    images = generator.decode(points)
    assert images.shape == (8, 3, 32, 32)
    assert images.min() >= 0.0
    assert images.max() <= 1.0
    assert images.flatten(1).std(0).mean() > 0.05  # not all the same
    metrics = read_card(path)["metrics"]
    if path.name.startswith("vqvae"):
        noise = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        assert generator.realism(noise).mean() < generator.realism(images).mean()
    else:  # a discriminator tells real images from drawn ones, and may take noise for either
        assert metrics["test/score_sample"] < metrics["test/score"]
        drawn = generator.decode(generator.sample(64, torch.Generator().manual_seed(1)))
        assert float(generator.realism(drawn).mean()) < metrics["test/score"]
    assert {name.split("/")[1] for name in metrics if name.startswith("test_fidelity/")} >= {
        "control",
        "sample",
    }


@pytest.mark.parametrize("path", of("features"), ids=lambda path: path.stem)
def test_extractors_measure(path):
    extractor = load_feature_extractor(str(path))
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert extractor.features(images).shape == (3, 128)


@pytest.mark.parametrize("path", of("classifier"), ids=lambda path: path.stem)
def test_classifiers_are_checkpoints(path):
    checkpoint = read_checkpoint(path)
    assert checkpoint.config["model"]["_target_"].endswith("SpikingClassifier")
    assert any(name.startswith("network.conv1") for name in checkpoint.weights)
