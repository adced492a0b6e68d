from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from stubs import Quadrants

from spikelens.data.base import ImageSpec
from spikelens.extractors import (
    Inception,
    InceptionWeightsError,
    fidelity_options,
    load_extractor,
    name_of,
    require_shape,
)
from spikelens.models.feature_extractor import FeatureExtractor


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Give torch an empty cache of its own."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_a_file_is_our_extractor(tmp_path):
    extractor = FeatureExtractor(ImageSpec(1, 8, ("a", "b")), width=4, num_features=3)
    torch.save({"state_dict": extractor.state_dict()}, tmp_path / "x.ckpt")
    loaded = load_extractor(str(tmp_path / "x.ckpt"))
    assert isinstance(loaded, FeatureExtractor)
    assert name_of(loaded) == "spikelens"


def test_inception_is_taken_from_a_file(fake_inception):
    extractor = load_extractor("inception", str(fake_inception.path))
    assert extractor == Inception(str(fake_inception.path))
    assert name_of(extractor) == "inception"


def test_inception_moves(fake_inception):
    extractor = Inception("file")
    assert not fidelity_options(extractor)["cuda"]
    assert fidelity_options(extractor.to(torch.device("cuda", 0)))["cuda"]
    assert not fidelity_options(extractor)["cuda"]


def test_inception_is_downloaded_once(cache, fake_inception, monkeypatch):
    calls = []

    def download(url, path, hash_prefix, progress):
        calls.append(url)
        Path(path).write_bytes(fake_inception.path.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    first, second = load_extractor("inception"), load_extractor("inception")
    assert first == second
    assert Path(first.weights).parent == cache
    assert len(calls) == 1


def test_without_a_network_a_sentence_says_what_to_do(cache, monkeypatch):
    def fail(*_, **__):
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(InceptionWeightsError, match="give the file as `inception_weights`") as info:
        load_extractor("inception")
    assert isinstance(info.value, ConnectionError)
    assert "\n" not in str(info.value)


def test_a_missing_file_of_inception_is_refused():
    with pytest.raises(FileNotFoundError, match="`inception_weights` must be a file"):
        load_extractor("inception", "missing.pth")


class Danger:
    """A pickle that runs code when it is loaded carelessly."""

    ran = False

    def __reduce__(self):
        return setattr, (Danger, "ran", True)


@pytest.mark.parametrize(
    "content",
    [{"fc.weight": torch.zeros(3)}, {"x": 1}, [1], Danger()],
    ids=["tensors", "numbers", "list", "code"],
)
def test_other_files_are_refused_and_run_nothing(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="holds something else"):
        load_extractor("inception", str(tmp_path / "x.pth"))
    assert not Danger.ran


def test_shapes_are_checked():
    require_shape(Quadrants(), (1, 4, 4))
    require_shape(Inception("file"), (3, 40, 40))
    with pytest.raises(ValueError, match=r"take images \(3, 4, 4\).* trained on \(1, 4, 4\)"):
        require_shape(Quadrants(), (3, 4, 4))
    with pytest.raises(ValueError, match="1 or 3 channels"):
        require_shape(Inception("file"), (2, 4, 4))
    with pytest.raises(ValueError, match="must have a shape"):
        require_shape(Inception("file"), (4, 4))
