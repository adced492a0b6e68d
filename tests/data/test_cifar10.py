import numpy as np
import pytest
import torch
import torchvision

from spikelens.data.cifar10 import CIFAR10


class FakeCIFAR10:
    """Images numbered by their first pixels; 40 to train, 10 to test."""

    def __init__(self, root, train, download):
        count, first = (40, 0) if train else (10, 40)
        self.data = np.zeros((count, 32, 32, 3), dtype=np.uint8)
        self.data[:, 0, 0, 2] = first + np.arange(count)
        self.targets = [i % 10 for i in range(count)]


def raise_no_network(*args, **kwargs):
    raise OSError("no network")


@pytest.fixture
def build(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FakeCIFAR10)

    def build(**arguments):
        data = CIFAR10(**({"num_val": 8} | arguments))
        data.prepare_data()
        data.setup()
        return data

    return build


def numbers(data, name):
    return data.split(name).images[:, 2, 0, 0].tolist()


def test_images_are_channels_first_and_labels_stay_with_them(build):
    data = build()
    assert data.spec.image_shape == (3, 32, 32)
    assert data.spec.classes[0] == "airplane"
    assert data.spec.classes[9] == "truck"
    for name in ("train", "val", "test"):
        split = data.split(name)
        assert split.images.dtype == torch.uint8
        assert split.labels.tolist() == [number % 10 for number in numbers(data, name)]


def test_splits_are_disjoint_complete_and_a_function_of_the_seed(build):
    data = build()
    assert len(numbers(data, "val")) == 8
    assert sorted(numbers(data, "train") + numbers(data, "val")) == list(range(40))
    assert numbers(data, "test") == list(range(40, 50))
    assert numbers(build(), "val") == numbers(data, "val")
    assert numbers(build(seed=1), "val") != numbers(data, "val")


def test_the_number_of_images_can_be_limited(build):
    data = build(num_train=5, num_test=3)
    assert numbers(data, "train") == numbers(build(), "train")[:5]
    assert numbers(data, "test") == [40, 41, 42]
    with pytest.raises(ValueError, match="`num_test` must be a positive integer, but got 0"):
        build(num_test=0)


def test_preparing_again_reads_nothing(build, monkeypatch):
    data = build()
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", raise_no_network)
    data.prepare_data()
    data.setup()


@pytest.mark.parametrize("method", ["prepare_data", "setup"])
def test_no_data_is_one_sentence_that_says_what_to_do(monkeypatch, tmp_path, method):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", raise_no_network)
    with pytest.raises(RuntimeError, match="cannot be downloaded") as caught:
        getattr(CIFAR10(root=str(tmp_path)), method)()
    message = str(caught.value)
    for part in ("no network", "check the network", "cifar-10-batches-py", "image_folder"):
        assert part in message
    assert str(tmp_path) in message
    assert "\n" not in message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_too_many_validation_images_are_refused(build):
    with pytest.raises(ValueError, match="less than the 40 training images, but got 40"):
        build(num_val=40)
    with pytest.raises(ValueError, match="Argument `num_val` must be a positive integer"):
        build(num_val=0)
