import re

import pytest
import torch
from conftest import LinearImages
from torch import nn

from spikelens.generators.image_module import ImageModule

POINTS = torch.linspace(-1, 1, 15).view(3, 5)


class Draws(nn.Module):
    """A network that is any function of its points."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw
        self.weight = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, points):
        return self.draw(points)


def levels(points):
    """Grey images 2 x 2 of the points' first number, from -1 to 1."""
    return points[:, :1, None, None].expand(-1, 1, 2, 2)


@pytest.mark.parametrize(
    ("draw", "value_range"),
    [
        (lambda p: (levels(p) + 1) / 2, [0, 1]),
        (levels, (-1.0, 1.0)),
        (lambda p: 10 * levels(p) + 5, [-5, 15]),
        (lambda p: ((levels(p) + 1) / 2).double(), [0, 1]),
    ],
)
def test_images_are_scaled_from_their_range(draw, value_range):
    images = ImageModule(Draws(draw), POINTS, value_range)
    drawn = images.draw(POINTS)
    torch.testing.assert_close(drawn, (levels(POINTS) + 1) / 2)
    assert images.image_shape == (1, 2, 2)
    assert images.has_gradient


def test_bytes_are_known_by_their_type():
    images = ImageModule(Draws(lambda p: (100 * levels(p) + 100).byte()), POINTS, [-1, 1])
    wanted = (100 * levels(POINTS) + 100).byte().float() / 255
    torch.testing.assert_close(images.draw(POINTS), wanted)
    assert not images.has_gradient


def test_a_slight_excess_is_clamped():
    images = ImageModule(Draws(lambda p: 0.52 * levels(p) + 0.5), POINTS)
    assert images.draw(torch.full((1, 5), 2.0)).max() == 1.0
    assert images(torch.full((1, 5), 2.0)).max() == pytest.approx(1.54)


def test_the_network_is_frozen_in_evaluation_mode_and_float32():
    module = Draws(levels).train()
    images = ImageModule(module, POINTS, [-1, 1])
    assert not module.training
    assert not module.weight.requires_grad
    assert module.weight.dtype == torch.float32
    assert not images.draw(POINTS.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda p: (levels(p),), "one tensor of images, but draws a tuple"),
        (lambda p: levels(p)[:, 0], "1 or 3 channels, but draws (3, 2, 2)"),
        (lambda p: levels(p).expand(-1, 2, 2, 2), "1 or 3 channels, but draws (3, 2, 2, 2)"),
        (lambda p: levels(p).expand(-1, 4, 2, 2), "1 or 3 channels, but draws (3, 4, 2, 2)"),
        (lambda p: levels(p).long(), "float or uint8 images, but draws torch.int64"),
        (levels, "in its `value_range`, [0, 1], but draws -1 to 0.429."),
        (lambda p: 255 * levels(p).abs(), "[0, 1], but draws 72.9 to 255."),
        (lambda p: levels(p) / 0 * 0, "[0, 1], but draws nan to nan."),
        (lambda p: levels(p).abs().where(levels(p) < 0, torch.nan), "but draws nan to nan."),
        (lambda p: (levels(p) - levels(p).mean(0)) / 2 + 0.5, "from its own point alone"),
        (lambda p: levels(p)[:1].abs(), "from its own point alone"),
        (lambda p: torch.rand(len(p), 1, 2, 2), "from one call to the next"),
        (lambda p: nn.Linear(7, 2)(p), "from float32 (3, 5), but it says: "),
        (lambda p: p.no_such_thing, "(3, 5), but it says: 'Tensor' object has no attribute"),
    ],
)
def test_what_a_network_must_not_draw(draw, says):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        ImageModule(Draws(draw), POINTS)
    assert str(caught.value).startswith("Argument `module` must draw ")
    assert "\n" not in str(caught.value)


def test_a_batch_of_one_size_is_refused():
    def draw(points):
        if len(points) != 3:
            raise RuntimeError("fixed batch")
        return levels(points).abs()

    with pytest.raises(ValueError, match=r"from float32 \(1, 5\), but it says: fixed batch"):
        ImageModule(Draws(draw), POINTS)


@pytest.mark.parametrize("value_range", [[1, 0], [0.5, 0.5], [0], [0, 1, 2], [0, float("inf")]])
def test_ranges_are_checked(value_range):
    with pytest.raises(ValueError, match="`value_range` must be the darkest and the brightest"):
        ImageModule(LinearImages(), POINTS, value_range)


def test_other_things_are_no_networks():
    with pytest.raises(TypeError, match=r"`module` must be an nn\.Module, but got a function"):
        ImageModule(levels, POINTS)
