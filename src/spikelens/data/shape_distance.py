"""Signed distance functions of ten shapes that stay distinct under any rotation.

Points are `(M, P, 2)`, x to the right and y up, in units of the shape's radius: every shape fits
into the unit circle around the origin. Distances are `(M, P)`, negative inside.

Source: I. Quilez, "2D distance functions", https://iquilezles.org/articles/distfunctions2d.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Vertices = tuple[tuple[float, float], ...]


def _spokes(*radii: float, num_spokes: int) -> Vertices:
    """Corners around the origin, from the top on, their radii repeated in turn."""
    step = 2.0 * math.pi / num_spokes
    corners = ((radii[i % len(radii)], i * step) for i in range(num_spokes))
    return tuple((radius * math.sin(angle), radius * math.cos(angle)) for radius, angle in corners)


_ARM, _TIP = 0.3, 0.88  # half the width and the length of a cross's arm
_POLYGONS: dict[str, Vertices] = {
    "triangle": _spokes(0.94, num_spokes=3),
    "square": ((-0.64, -0.64), (0.64, -0.64), (0.64, 0.64), (-0.64, 0.64)),
    "star": _spokes(0.95, 0.42, num_spokes=10),
    "cross": (
        *((_ARM, _TIP), (_ARM, _ARM), (_TIP, _ARM), (_TIP, -_ARM), (_ARM, -_ARM), (_ARM, -_TIP)),
        *((-_ARM, -_TIP), (-_ARM, -_ARM), (-_TIP, -_ARM), (-_TIP, _ARM), (-_ARM, _ARM)),
        (-_ARM, _TIP),
    ),
    "hourglass": ((-0.6, 0.72), (0.6, 0.72), (0.1, 0.0), (0.6, -0.72), (-0.6, -0.72), (-0.1, 0.0)),
    "arrow": (
        *((0.0, 0.94), (0.76, 0.12), (0.26, 0.12), (0.26, -0.86)),
        *((-0.26, -0.86), (-0.26, 0.12), (-0.76, 0.12)),
    ),
}
_ROUNDING = 0.05  # radius of the polygons' corners


def _polygon(points: Tensor, vertices: Vertices) -> Tensor:
    x, y = points.unbind(-1)
    squared = torch.full_like(x, torch.inf)
    is_inside = torch.zeros_like(x, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(vertices, vertices[1:] + vertices[:1], strict=True):
        ex, ey = bx - ax, by - ay
        px, py = x - ax, y - ay
        along = ((px * ex + py * ey) / (ex * ex + ey * ey)).clamp(0.0, 1.0)
        squared = torch.minimum(squared, (px - along * ex) ** 2 + (py - along * ey) ** 2)
        # Even-odd rule: count the edges that a ray to the right crosses.
        is_spanned = (y < ay) != (y < by)
        is_left = (px * ey < py * ex) if ey > 0 else (px * ey > py * ex)
        is_inside ^= is_spanned & is_left
    distance = squared.sqrt()
    return torch.where(is_inside, -distance, distance) - _ROUNDING


def _circle(points: Tensor) -> Tensor:
    x, y = points.unbind(-1)
    return torch.hypot(x, y) - 0.86


def _ring(points: Tensor) -> Tensor:
    x, y = points.unbind(-1)
    return (torch.hypot(x, y) - 0.7).abs() - 0.22


def _crescent(points: Tensor) -> Tensor:
    x, y = points.unbind(-1)
    outer = torch.hypot(x, y) - 0.95
    inner = torch.hypot(x - 0.5, y) - 0.74
    return torch.maximum(outer, -inner)


def _heart(points: Tensor) -> Tensor:
    scale = 0.66  # the formula's heart is about 1.2 wide and stands on the origin
    x, y = (points * scale).unbind(-1)
    x, y = x.abs(), y + 0.58
    lobe = torch.hypot(x - 0.25, y - 0.75) - math.sqrt(2.0) / 4.0
    foot = 0.5 * (x + y).clamp_min(0.0)
    sides = torch.minimum(torch.hypot(x, y - 1.0), torch.hypot(x - foot, y - foot))
    return torch.where(x + y > 1.0, lobe, sides * torch.sign(x - y)) / scale


_CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "circle": _circle,
    "ring": _ring,
    "crescent": _crescent,
    "heart": _heart,
}
SHAPES: tuple[str, ...] = (*_CURVES, *_POLYGONS)


def signed_distance(shapes: Tensor, points: Tensor) -> Tensor:
    """Distance of points to the outlines of shapes, each image with its own shape.

    Args:
        shapes: int64 `(N,)`, indices into `SHAPES`.
        points: float32 `(N, P, 2)` in units of the radius.

    Returns:
        float32 `(N, P)`, negative inside.
    """
    distance = torch.empty_like(points[..., 0])
    for index, name in enumerate(SHAPES):
        rows = (shapes == index).nonzero().squeeze(1)
        own = points[rows]
        distance[rows] = _CURVES[name](own) if name in _CURVES else _polygon(own, _POLYGONS[name])
    return distance
