import math

import pytest
import torch

from spikelens.data.shape_distance import SHAPES, signed_distance


def distance_at(name, *points):
    shapes = torch.tensor([SHAPES.index(name)])
    return signed_distance(shapes, torch.tensor([points], dtype=torch.float32))[0]


def grid(num_nodes=101):
    axis = torch.linspace(-1.2, 1.2, num_nodes)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_fits_the_unit_circle_and_fills_a_fair_part_of_it(name):
    points = grid()
    is_inside = distance_at(name, *points.tolist()) < 0
    assert points[is_inside].norm(dim=1).max() < 1.01
    assert points[is_inside].norm(dim=1).max() > 0.8
    assert is_inside.float().mean() * 2.4**2 > 0.25 * math.pi


@pytest.mark.parametrize("name", SHAPES)
def test_distances_change_no_faster_than_the_way(name):
    a, b = grid(31), grid(31).roll(1, 0)
    change = (distance_at(name, *a.tolist()) - distance_at(name, *b.tolist())).abs()
    assert (change <= (a - b).norm(dim=1) + 1e-4).all()


@pytest.mark.parametrize("name", SHAPES)
def test_the_centre_is_filled_but_for_ring_and_crescent(name):
    is_filled = (distance_at(name, (0.0, 0.0)) < 0).item()
    assert is_filled == (name not in ("ring", "crescent"))


def test_known_distances():
    assert distance_at("circle", (0.0, 0.0), (2.0, 0.0)).tolist() == pytest.approx([-0.86, 1.14])
    assert distance_at("ring", (0.7, 0.0), (0.0, 0.0)).tolist() == pytest.approx([-0.22, 0.48])
    # The square's half side is 0.64, its corners are rounded by 0.05.
    assert distance_at("square", (0.0, 0.0), (1.0, 0.0)).tolist() == pytest.approx([-0.69, 0.31])


def test_shapes_point_where_their_names_say():
    assert (distance_at("arrow", (0.6, 0.2), (0.6, -0.2)) < 0).tolist() == [True, False]
    assert (distance_at("heart", (0.4, 0.4), (0.0, 0.8)) < 0).tolist() == [True, False]
    assert (distance_at("crescent", (-0.6, 0.0), (0.6, 0.0)) < 0).tolist() == [True, False]
    assert (distance_at("hourglass", (0.0, 0.5), (0.5, 0.0)) < 0).tolist() == [True, False]
    assert (distance_at("cross", (0.8, 0.0), (0.6, 0.6)) < 0).tolist() == [True, False]


def test_a_shape_does_not_depend_on_its_company():
    points = grid(9).expand(len(SHAPES), -1, -1)
    together = signed_distance(torch.arange(len(SHAPES)), points)
    for index, name in enumerate(SHAPES):
        assert torch.equal(together[index], distance_at(name, *grid(9).tolist()))
