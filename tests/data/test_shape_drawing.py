import colorsys
import dataclasses
import math

import pytest
import torch

from spikelens.data.shape_distance import SHAPES
from spikelens.data.shape_drawing import (
    BACKGROUNDS,
    MAX_SHIFT,
    SIZES,
    TEXTURES,
    draw,
    hsv_to_rgb,
    sample_scenes,
)


def scenes_with(num_scenes=1, **values):
    """Plain scenes in the middle of a dark plain ground, but for the given fields."""
    scenes = sample_scenes(num_scenes, seed=0)
    wanted = {"texture": 0, "background": 0, "lightness": 0.0, "x": 0.0, "y": 0.0} | values
    fields = {name: torch.full_like(getattr(scenes, name), value) for name, value in wanted.items()}
    return dataclasses.replace(scenes, **fields)


def hues(picture):
    return [colorsys.rgb_to_hsv(*rgb)[0] for rgb in (picture / 255.0).flatten(1).T.tolist()]


def test_hsv_is_what_the_standard_library_makes_of_it():
    hue, saturation, value = torch.rand(3, 50, generator=torch.Generator().manual_seed(0))
    found = hsv_to_rgb(hue, saturation, value)
    for i in range(50):
        wanted = colorsys.hsv_to_rgb(hue[i].item(), saturation[i].item(), value[i].item())
        assert found[i].tolist() == pytest.approx(wanted, abs=1e-5)


def test_a_picture_depends_on_its_scene_alone():
    scenes = sample_scenes(12, seed=1)
    together = draw(scenes, 16)
    assert together.shape == (12, 3, 16, 16)
    assert together.dtype == torch.uint8
    assert torch.equal(together, draw(scenes, 16))
    assert torch.equal(together[4:5], draw(scenes.rows(slice(4, 5)), 16))


@pytest.mark.parametrize("name", SHAPES)
def test_the_centre_shows_the_hue_of_the_object_unless_it_is_hollow(name):
    scenes = scenes_with(shape=SHAPES.index(name), hue=0.6, contrast=0.0)
    hue = hues(draw(scenes, 33)[0, :, 16:17, 16:17])[0]
    assert hue == pytest.approx(0.1 if name in ("ring", "crescent") else 0.6, abs=0.02)


def test_size_is_the_radius():
    for size in SIZES:
        picture = draw(scenes_with(shape=SHAPES.index("circle"), hue=0.5, size=size), 64)[0]
        radius = math.sqrt(sum(abs(hue - 0.5) < 0.1 for hue in hues(picture)) / math.pi) / 64
        assert radius == pytest.approx(0.86 * size, abs=0.01)


def test_x_moves_right_and_y_moves_up():
    axis = torch.arange(64) / 64 - 0.5 + 1 / 128
    for name, sign, dimension in (("x", 1.0, 0), ("y", -1.0, 1)):
        scenes = scenes_with(shape=SHAPES.index("circle"), hue=0.5, **{name: 1.0})
        is_object = torch.tensor(hues(draw(scenes, 64)[0])).sub(0.5).abs().view(64, 64) < 0.1
        centre = (is_object.sum(dimension) * axis).sum() / is_object.sum()
        assert centre.item() == pytest.approx(sign * MAX_SHIFT, abs=0.005)


def test_rotation_turns_counter_clockwise():
    upright = draw(scenes_with(shape=SHAPES.index("arrow"), rotation=0.0), 32).int()
    turned = draw(scenes_with(shape=SHAPES.index("arrow"), rotation=math.pi / 2), 32).int()
    # A quarter turn of the pixel grid is exact but for rounding.
    assert (turned - upright.rot90(1, (2, 3))).abs().max() <= 3


@pytest.mark.parametrize("kind", range(1, len(TEXTURES)))
def test_textures_have_two_tones_and_solid_has_one(kind):
    circle = SHAPES.index("circle")
    solid, textured = (
        draw(scenes_with(shape=circle, texture=texture, size=0.4), 32)[0, :, 10:22, 10:22].float()
        for texture in (0, kind)
    )
    assert solid.flatten(1).std(1).max() < 1.0
    assert textured.flatten(1).std(1).max() > 15.0


@pytest.mark.parametrize("kind", range(1, len(BACKGROUNDS)))
def test_backgrounds_vary_and_plain_does_not(kind):
    plain, varied = (
        draw(scenes_with(background=background, lightness=0.5, size=0.1, slope=0.0), 32)[0, :, 0]
        for background in (0, kind)
    )
    assert plain.float().std(1).max() < 2.0
    assert varied.float().std(1).max() > 5.0


def test_the_object_stands_out_from_any_background():
    scenes = scenes_with(200, shape=SHAPES.index("circle"))
    scenes = dataclasses.replace(scenes, lightness=torch.linspace(0.0, 1.0, 200))
    pictures = draw(scenes, 32).float() / 255.0
    contrast = (pictures[:, :, 16, 16] - pictures[:, :, 0, 0]).abs().amax(1)
    assert contrast.min() > 0.2
