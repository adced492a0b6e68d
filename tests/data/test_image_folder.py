import logging
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from spikelens.data import image_folder as image_folder_module
from spikelens.data.image_folder import ImageFolder

NAMES = ("train", "val", "test")
JPEGS = Path(__file__).parents[2] / "data" / "cifar10-jpeg"


@pytest.fixture
def build(tmp_path):
    def build(root, **arguments):
        wanted = {"image_size": 8, "cache_dir": str(tmp_path / "cache")} | arguments
        data = ImageFolder(root=str(root), **wanted)
        data.prepare_data()
        data.setup()
        return data

    return build


@pytest.fixture
def root(tmp_path, write_classes):
    return write_classes(tmp_path / "images")


def damage(root, *names):
    for name in names:
        (root / name).write_bytes(b"no image")


def test_a_folder_of_classes_is_split(build, root):
    data = build(root)
    assert data.spec.image_shape == (3, 8, 8)
    assert data.spec.classes == ("blue", "green", "red")
    counts = {name: data.split(name).labels.bincount().tolist() for name in NAMES}
    assert counts == {"train": [8] * 3, "val": [1] * 3, "test": [1] * 3}
    pictures = torch.cat([data.split(name).images for name in NAMES]).flatten(1)
    assert pictures.unique(dim=0).shape[0] == 30


def test_images_stay_with_their_labels(build, root):
    for name in NAMES:
        split = build(root).split(name)
        assert split.images.dtype == torch.uint8
        # Classes are blue, green, red: label k lights channel 2 - k.
        assert torch.equal(split.images[:, :, 4, 4].argmax(1), 2 - split.labels)


def test_given_splits_are_taken(build, tmp_path, write_classes):
    write_classes(tmp_path / "images" / "train", 10)
    write_classes(tmp_path / "images" / "test", 4)
    data = build(tmp_path / "images", val_fraction=0.3)
    assert [len(data.split(name).labels) for name in NAMES] == [21, 9, 12]
    write_classes(tmp_path / "images" / "val", 2)
    data = build(tmp_path / "images", val_fraction=0.3)
    assert [len(data.split(name).labels) for name in NAMES] == [30, 6, 12]


def test_limits_are_balanced_and_nothing_else_is_decoded(build, root):
    data = build(root, num_train=6, num_val=3, num_test=2)
    assert data.split("train").labels.bincount().tolist() == [2, 2, 2]
    assert [len(data.split(name).labels) for name in NAMES] == [6, 3, 2]
    damage(root, *(f"{name}/{i:03d}.png" for name in data.spec.classes for i in range(10)))
    with pytest.raises(ValueError, match="Found 11 files unreadable"):
        build(root, num_train=6, num_val=3, num_test=2)


def test_splits_are_a_function_of_the_seed(build, root):
    first, again, other = build(root), build(root), build(root, seed=1)
    for name in NAMES:
        assert torch.equal(first.split(name).images, again.split(name).images)
    assert not torch.equal(first.split("train").images, other.split("train").images)


def test_odd_sizes_and_grey(build, tmp_path, write_classes):
    root = write_classes(tmp_path / "images", 3, size=(21, 13), suffix=".jpg")
    data = build(root, channels=1, image_size=12)
    assert data.spec.image_shape == (1, 12, 12)
    levels = {data.spec.classes[k]: set() for k in range(3)}
    for name in NAMES:
        for image, label in zip(data.split(name).images, data.split(name).labels, strict=True):
            levels[data.spec.classes[label]].add(image.float().mean().item() // 30)
    # The luma of pure blue, green and red: 29, 150 and 76.
    assert levels["green"] <= {4.0, 5.0}
    assert levels["blue"] <= {0.0}
    assert levels["red"] <= {2.0}


def test_broken_files_are_named(build, root):
    damage(root, "red/001.png")
    with pytest.raises(ValueError, match=r"Found 1 file unreadable as an image: .*red/001\.png;"):
        build(root)
    damage(root, *(f"blue/{i:03d}.png" for i in range(6)))
    with pytest.raises(ValueError, match=r"7 files.*blue/000\.png.*004\.png and 2 more; remove"):
        build(root)


def test_broken_files_are_left_out_when_asked_and_told_each_time(build, root, caplog):
    damage(root, "red/001.png")
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            data = build(root, skip_broken=True)
        assert sum(len(data.split(name).labels) for name in NAMES) == 29
        assert len(caplog.records) == 1
        assert "Left out 1 file unreadable as an image" in caplog.text
        assert "red/001.png" in caplog.text
    with pytest.raises(ValueError, match="Found 1 file"):
        build(root)


def test_a_split_without_a_readable_image_is_refused(build, tmp_path, write_classes):
    root = tmp_path / "images"
    write_classes(root / "train", 5)
    write_classes(root / "test", 1, classes=("red",))
    damage(root, "test/red/000.png")
    with pytest.raises(ValueError, match="no readable image for the test split"):
        build(root, skip_broken=True)


def test_a_second_start_reads_the_cache_whatever_the_seed(build, root, monkeypatch):
    build(root)
    monkeypatch.setattr(image_folder_module, "decode_files", None)
    build(root)
    build(root, seed=1).prepare_data()


def test_a_changed_file_is_decoded_again(build, root):
    first = build(root)
    Image.new("RGB", (8, 8), "white").save(root / "red" / "000.png")
    os.utime(root / "red" / "000.png", (1, 1))
    second = build(root)
    assert first.cache_path != second.cache_path
    white = [(second.split(name).images.flatten(1).amin(1) == 255).sum().item() for name in NAMES]
    assert sum(white) == 1


def test_a_damaged_cache_is_made_again(build, root):
    first = build(root)
    first.cache_path.write_bytes(b"rubbish")
    assert torch.equal(build(root).split("train").images, first.split("train").images)


@pytest.mark.parametrize("changed", [{"image_size": 9}, {"channels": 1}, {"num_train": 3}])
def test_each_setting_has_its_own_cache(build, root, changed):
    assert build(root).cache_path != build(root, **changed).cache_path


@pytest.mark.parametrize(
    "arguments",
    [
        {"image_size": 0},
        {"channels": 2},
        {"num_train": 0},
        {"num_val": -1},
        {"num_test": 1.5},
        {"val_fraction": 0.0},
        {"test_fraction": 1.0},
    ],
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=f"Argument `{next(iter(arguments))}` must .*, but got"):
        ImageFolder(root="somewhere", **arguments)


def test_a_missing_root_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Argument `root` must be an existing folder"):
        ImageFolder(root=str(tmp_path / "nowhere")).prepare_data()


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning with torch 2.15
def test_a_trainer_runs_on_it(build, root, watcher, quiet_trainer):
    data = build(root, batch_size=4)
    module = watcher(data.spec)
    quiet_trainer(fast_dev_run=True).fit(module, datamodule=data)
    images, labels = module.seen["train"][0]
    assert images.shape == (4, 3, 8, 8)
    assert images.dtype == torch.float32
    assert images.max() <= 1.0
    assert torch.equal(images[:, :, 4, 4].argmax(1), 2 - labels)


@pytest.mark.skipif(not JPEGS.is_dir(), reason="CIFAR-10 (JPEG) is not unpacked in data/")
def test_real_photographs(build):
    data = build(JPEGS, image_size=32, num_train=40, num_val=20, num_test=20)
    assert data.spec.classes[3] == "cat"
    for name, count in zip(NAMES, (40, 20, 20), strict=True):
        assert data.split(name).labels.bincount().tolist() == [count // 10] * 10
    pixels = data.split("train").images.float()
    # Channel means of CIFAR-10 are 125, 123, 114 and its standard deviations 63, 62, 67.
    assert 90 < pixels.mean() < 150
    assert 45 < pixels.std() < 80
