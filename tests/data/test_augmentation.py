import pytest
import torch

from spikelens.data.augmentation import Augmentation


@pytest.fixture
def images():
    return torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def ramp(num_images):
    """Images whose pixel values are their own column (channel 0) and row (channel 1)."""
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    return (torch.stack([columns, rows]) / 7.0).repeat(num_images, 1, 1, 1)


def test_nothing_asked_changes_nothing(images):
    assert torch.equal(Augmentation(pad=0, flip=False)(images), images)


def test_flip_alone_mirrors_some_images_and_keeps_the_others(images):
    changed = Augmentation(pad=0, flip=True)(images.repeat(8, 1, 1, 1))
    same = (changed == images.repeat(8, 1, 1, 1)).flatten(1).all(1)
    mirrored = (changed == images.repeat(8, 1, 1, 1).flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert same.any()
    assert mirrored.any()


def test_a_shift_is_one_and_the_same_for_a_whole_image():
    shifted = (Augmentation(pad=3, flip=False)(ramp(64)) * 7.0).round().long()
    # Reflection maps column c to |c + s|, and to 14 - (c + s) beyond the last one.
    wanted = 7 - (7 - (torch.arange(8) + torch.arange(-3, 4)[:, None]).abs()).abs()  # (7, 8)
    columns, rows = shifted[:, 0, 0], shifted[:, 1, :, 0]
    assert (shifted[:, 0] == columns[:, None]).all()
    assert (shifted[:, 1] == rows[:, :, None]).all()
    for found in (columns, rows):
        matches = (found[:, None] == wanted).all(2)
        assert matches.any(1).all()
        assert matches.any(0).all()  # 64 draws of 7: each is missed with (6/7)**64 < 1e-4


def test_brightness_scales_each_image_and_stays_in_range(images):
    torch.manual_seed(0)
    changed = Augmentation(pad=0, flip=False, brightness=0.5)(images * 0.6)
    factors = (changed / (images * 0.6)).flatten(1)
    assert torch.allclose(factors, factors[:, :1].expand_as(factors), atol=1e-4)
    assert factors.min() >= 0.5 - 1e-4
    assert factors.max() <= 1.5 + 1e-4
    assert factors[:, 0].unique().numel() > 10
    bright = Augmentation(brightness=1.0)(images)
    assert 0.0 <= bright.min() <= bright.max() <= 1.0


def test_it_repeats_by_torchs_global_seed(images):
    augmentation = Augmentation(pad=2, brightness=0.2)
    torch.manual_seed(3)
    first = augmentation(images)
    second = augmentation(images)
    torch.manual_seed(3)
    assert torch.equal(augmentation(images), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"pad": -1}, "pad"),
        ({"pad": 1.5}, "pad"),
        ({"brightness": -0.1}, "brightness"),
        ({"brightness": 1.1}, "brightness"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, name):
    with pytest.raises(ValueError, match=f"Argument `{name}` must .*, but got"):
        Augmentation(**arguments)


def test_a_shift_as_large_as_the_image_is_refused(images):
    with pytest.raises(ValueError, match=r"`pad` must be less than the image side 8, but got 8\."):
        Augmentation(pad=8)(images)
