import math

import pytest
import torch

from spikelens.data import shapes as shapes_module
from spikelens.data.shape_drawing import SIZES
from spikelens.data.shapes import FACTORS, Shapes

NAMES = ("train", "val", "test")


@pytest.fixture
def build(tmp_path):
    def build(**arguments):
        sizes = {"num_train": 60, "num_val": 20, "num_test": 30, "image_size": 16}
        data = Shapes(**(sizes | {"cache_dir": str(tmp_path)} | arguments))
        data.prepare_data()
        data.setup()
        return data

    return build


def test_splits_have_their_shapes_types_and_balanced_classes(build):
    data = build()
    assert data.spec.image_shape == (3, 16, 16)
    assert len(data.spec.classes) == 10
    for name, count in zip(NAMES, (60, 20, 30), strict=True):
        split = data.split(name)
        assert split.images.shape == (count, 3, 16, 16)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.labels.bincount().tolist() == [count // 10] * 10
        assert torch.equal(split.labels, split.factors["shape"])


def test_factors_have_their_ranges(build):
    factors = build(num_train=1000, image_size=8).split("train").factors
    assert tuple(factors) == FACTORS
    ranges = {"hue": (0.0, 1.0), "size": SIZES, "rotation": (0.0, 2 * math.pi)}
    ranges |= {"x": (-1.0, 1.0), "y": (-1.0, 1.0)}
    for name, (low, high) in ranges.items():
        # The range is filled: 1000 draws leave 2 % at an end empty with 0.98**1000 < 1e-8.
        margin = 0.02 * (high - low)
        assert low <= factors[name].min() < low + margin
        assert high - margin < factors[name].max() <= high
    for name, num_kinds in (("shape", 10), ("texture", 4), ("background", 4)):
        assert factors[name].dtype == torch.int64
        assert factors[name].unique().tolist() == list(range(num_kinds))


def test_factors_are_independent(build):
    factors = build(num_train=2000, image_size=8).split("train").factors
    correlation = torch.corrcoef(torch.stack([factors[name].float() for name in FACTORS]))
    # Standard deviation 1/sqrt(2000) = 0.022; 28 pairs stay within 4.5 of them.
    assert (correlation - torch.eye(len(FACTORS))).abs().max() < 0.1


def test_pictures_are_a_function_of_the_seed(build, tmp_path):
    first = build()
    again = build(cache_dir=str(tmp_path / "elsewhere"))
    other = build(seed=1)
    for name in NAMES:
        assert torch.equal(first.split(name).images, again.split(name).images)
        assert not torch.equal(first.split(name).images, other.split(name).images)


def test_splits_and_seeds_share_no_picture(build):
    images = [build(seed=seed).split(name).images for seed in (0, 1) for name in NAMES]
    assert torch.cat(images).flatten(1).unique(dim=0).shape[0] == 2 * (60 + 20 + 30)


def test_a_second_start_reads_the_cache(build, monkeypatch):
    first = build()
    monkeypatch.setattr(shapes_module, "draw", None)
    second = build()
    assert torch.equal(first.split("val").images, second.split("val").images)
    assert torch.equal(first.split("val").factors["hue"], second.split("val").factors["hue"])
    second.prepare_data()


def test_drawing_leaves_the_number_of_threads_alone(build):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        build()
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_each_setting_has_its_own_cache(build):
    paths = {build(**arguments).cache_path for arguments in ({}, {"seed": 1}, {"num_val": 10})}
    paths.add(build(image_size=8).cache_path)
    assert len(paths) == 4
    assert all(path.is_file() for path in paths)


def test_a_damaged_cache_is_drawn_again(build):
    first = build()
    first.cache_path.write_bytes(b"rubbish")
    assert torch.equal(build().split("train").images, first.split("train").images)


@pytest.mark.parametrize("name", ["num_train", "num_val", "num_test", "image_size"])
def test_arguments_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"Argument `{name}` must be .*, but got 0"):
        Shapes(**{name: 0})


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning with torch 2.15
def test_a_trainer_runs_on_it(build, watcher, quiet_trainer):
    data = build(batch_size=8)
    module = watcher(data.spec)
    quiet_trainer(fast_dev_run=True).fit(module, datamodule=data)
    images, labels = module.seen["train"][0]
    assert images.shape == (8, 3, 16, 16)
    assert images.dtype == torch.float32
    assert 0.0 <= images.min() <= images.max() <= 1.0
    assert labels.dtype == torch.int64
