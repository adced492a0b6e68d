"""Draw scenes: one textured, coloured shape on a muted background, anti-aliased."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from spikelens.data.shape_distance import SHAPES, signed_distance

TEXTURES = ("solid", "stripes", "dots", "checker")
BACKGROUNDS = ("plain", "gradient", "two-tone", "noise")
SIZES = (0.30, 0.42)  # radius as a fraction of the image side
MAX_SHIFT = 0.08  # a fraction of the image side; the largest shape just stays inside
NOISE_GRID = 5  # nodes on a side of the coarse noise


@dataclass(frozen=True)
class Scenes:
    """All that determines N pictures, each field `(N,)` but for `noise`.

    Attributes:
        shape: int64, index into `SHAPES`.
        hue: float32 in [0, 1), 0 is red, 1/3 green, 2/3 blue.
        texture: int64, index into `TEXTURES`.
        size: float32, radius as a fraction of the image side.
        rotation: float32 in [0, 2 pi), counter-clockwise.
        x: float32 in [-1, 1], -1 is furthest left.
        y: float32 in [-1, 1], -1 is furthest down.
        background: int64, index into `BACKGROUNDS`.
        lightness: float32 in [0, 1], dark to light background.
        contrast: float32 in [-1, 1], the background's deviation from the complementary hue.
        slope: float32 in [0, 2 pi), direction of gradient and border.
        noise: float32 `(N, NOISE_GRID, NOISE_GRID)` in [-1, 1].
    """

    shape: Tensor
    hue: Tensor
    texture: Tensor
    size: Tensor
    rotation: Tensor
    x: Tensor
    y: Tensor
    background: Tensor
    lightness: Tensor
    contrast: Tensor
    slope: Tensor
    noise: Tensor

    def rows(self, rows: slice) -> "Scenes":
        """Some of the scenes."""
        return Scenes(*(getattr(self, field.name)[rows] for field in fields(self)))


def sample_scenes(num_scenes: int, seed: int) -> Scenes:
    """Draw independent factors; every shape occurs equally often.

    Args:
        num_scenes: Number of scenes N, positive.
        seed: The scenes are a function of N and the seed.
    """
    random = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *more: int) -> Tensor:
        return low + (high - low) * torch.rand(num_scenes, *more, generator=random)

    def choice(num_kinds: int) -> Tensor:
        return torch.randint(num_kinds, (num_scenes,), generator=random)

    return Scenes(
        shape=torch.randperm(num_scenes, generator=random) % len(SHAPES),
        hue=uniform(0.0, 1.0),
        texture=choice(len(TEXTURES)),
        size=uniform(*SIZES),
        rotation=uniform(0.0, 2.0 * math.pi),
        x=uniform(-1.0, 1.0),
        y=uniform(-1.0, 1.0),
        background=choice(len(BACKGROUNDS)),
        lightness=uniform(0.0, 1.0),
        contrast=uniform(-1.0, 1.0),
        slope=uniform(0.0, 2.0 * math.pi),
        noise=uniform(-1.0, 1.0, NOISE_GRID, NOISE_GRID),
    )


def draw(scenes: Scenes, image_size: int) -> Tensor:
    """Draw N scenes; a pure function.

    Args:
        scenes: What to draw.
        image_size: Side S of the square pictures in pixels, positive.

    Returns:
        uint8 `(N, 3, S, S)`.
    """
    pixels = _pixel_centres(image_size)  # (P, 2)
    points = _object_points(scenes, pixels)  # (N, P, 2)
    distance = signed_distance(scenes.shape, points) * scenes.size[:, None]
    coverage = (0.5 - distance * image_size).clamp(0.0, 1.0)[:, None]  # an edge one pixel wide
    # A soft shadow around the shape lifts it off light backgrounds.
    shadow = 1.0 - 0.45 * torch.exp(-distance.clamp_min(0.0) / 0.05)[:, None]
    ground = _background(scenes, pixels, image_size) * shadow
    colours = ground.lerp(_surface(scenes, points), coverage)
    bytes_ = (colours * 255.0).round().clamp(0.0, 255.0).to(torch.uint8)
    return bytes_.view(-1, 3, image_size, image_size)


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Convert colours.

    Args:
        hue: Any real number, one turn is 1.
        saturation: In [0, 1]; broadcasts against hue, as does value.
        value: In [0, 1].

    Returns:
        Colours in [0, 1] with a new dimension 1 of red, green and blue.
    """
    turns = torch.stack([hue * 6.0 + offset for offset in (5.0, 3.0, 1.0)], dim=1) % 6.0
    ramp = torch.minimum(turns, 4.0 - turns).clamp(0.0, 1.0)
    return value.unsqueeze(1) * (1.0 - saturation.unsqueeze(1) * ramp)


def _pixel_centres(image_size: int) -> Tensor:
    """Pixel centres `(P, 2)`, row by row, x right and y up, in [-1/2, 1/2]."""
    axis = (torch.arange(image_size, dtype=torch.float32) + 0.5) / image_size - 0.5
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def _object_points(scenes: Scenes, pixels: Tensor) -> Tensor:
    centres = MAX_SHIFT * torch.stack([scenes.x, scenes.y], dim=1)
    x, y = ((pixels - centres[:, None]) / scenes.size[:, None, None]).unbind(-1)
    cos, sin = scenes.rotation.cos()[:, None], scenes.rotation.sin()[:, None]
    return torch.stack([cos * x + sin * y, cos * y - sin * x], dim=2)


def _surface(scenes: Scenes, points: Tensor) -> Tensor:
    """Colours `(N, 3, P)` of the shapes: two tones of one hue, mixed by the texture."""
    x, y = points.unbind(-1)
    stripes = (5.5 * math.pi / 2.0 * (x + y) / math.sqrt(2.0)).sin()
    checker = (1.9 * math.pi * x).sin() * (1.9 * math.pi * y).sin() * 1.6
    dots = (2.6 * math.pi * x).cos() + (2.6 * math.pi * y).cos() - 0.55
    kinds = torch.stack([torch.full_like(x, -9.0), stripes, dots, checker])  # (4, N, P)
    pattern = kinds[scenes.texture, torch.arange(len(x))]
    tone = (0.5 + 1.3 * pattern).clamp(0.0, 1.0)
    saturation, value = 0.80 - 0.38 * tone, 0.93 + 0.07 * tone
    return hsv_to_rgb(scenes.hue[:, None], saturation, value)


def _background(scenes: Scenes, pixels: Tensor, image_size: int) -> Tensor:
    """Colours `(N, 3, P)` of the backgrounds: muted, around the complementary hue."""
    direction = torch.stack([scenes.slope.cos(), scenes.slope.sin()], dim=1)
    along = 1.4 * direction @ pixels.T  # (N, P), about [-1, 1] from edge to edge
    border = (along * image_size * 0.7).clamp(-1.0, 1.0)
    noise = F.interpolate(scenes.noise[:, None], size=image_size, mode="bicubic").flatten(1)
    kinds = torch.stack([torch.zeros_like(along), along, 0.7 * border, noise])
    change = kinds[scenes.background, torch.arange(len(along))]
    value = 0.24 + 0.52 * scenes.lightness[:, None] + 0.13 * change
    saturation = (0.42 - 0.20 * scenes.lightness)[:, None] - 0.05 * change
    hue = (scenes.hue + 0.5 + 0.14 * scenes.contrast)[:, None] + 0.05 * change
    return hsv_to_rgb(hue, saturation, value.clamp(0.0, 1.0))
