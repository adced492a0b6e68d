import numpy as np
import pytest
import torch

from spikelens.am.box import Box


def test_a_plain_box_prefers_nothing():
    box = Box([3, 1, 2])
    assert box.mode_sizes == (3, 1, 2)
    assert box.order.tolist() == [0, 1, 2]
    for mode, size in enumerate(box.mode_sizes):
        torch.testing.assert_close(box.prior[mode], torch.full((size,), 1 / size))
        kernel = box.neighbours(mode)
        torch.testing.assert_close(kernel.sum(1), torch.ones(size))
        assert size == 1 or kernel.diagonal().eq(0).all()
    assert box.neighbours(0)[0].tolist() == [0.0, 0.5, 0.5]
    assert box.neighbours(1).tolist() == [[1.0]]


@pytest.mark.parametrize("is_ordered", [False, True])
def test_modes_of_one_size_share_their_kernel(is_ordered):
    box = Box([4, 5, 4], is_ordered=is_ordered)
    assert box.neighbours(0) is box.neighbours(2)
    assert box.neighbours(0) is not box.neighbours(1)
    table = torch.rand(4, 4)
    given = Box([4, 4], neighbours=[table, table])
    assert given.neighbours(0) is given.neighbours(1)


def test_of_amounts_the_nearest_are_neighbours():
    box = Box([9, 1], is_ordered=True)
    row = box.neighbours(0)[4]
    assert row[4] == 0
    assert (row[:4].diff() > 0).all()
    torch.testing.assert_close(row, row.flip(0))
    assert box.neighbours(1).tolist() == [[1.0]]


def test_amounts_are_embedded_on_a_line_and_names_apart():
    points = torch.tensor([[0, 2], [1, 0]])
    line = Box([2, 5], is_ordered=True).embed(points)
    assert line.tolist() == [[[0.0], [0.5]], [[1.0], [0.0]]]
    assert Box([1], is_ordered=True).embed(torch.zeros(1, 1).long()).tolist() == [[[0.0]]]
    names = Box([2, 5]).embed(points)
    assert names.shape == (2, 2, 5)
    assert names.argmax(-1).tolist() == points.tolist()
    assert names.sum(-1).eq(1).all()


def test_the_prior_is_scaled_and_drawn_from():
    box = Box([2, 3], prior=[[3, 1], [0, 0, 2]])
    assert box.prior[0].tolist() == [0.75, 0.25]
    drawn = box.sample(40_000, torch.Generator().manual_seed(0))
    assert drawn.shape == (40_000, 2)
    assert drawn[:, 1].eq(2).all()
    # Standard error sqrt(.75 * .25 / 40 000) = .0022; 5 sigma.
    assert drawn[:, 0].float().mean() == pytest.approx(0.25, abs=0.011)


def test_kernels_are_scaled():
    assert Box([2], neighbours=[[[1, 3], [2, 0]]]).neighbours(0).tolist() == [[0.25, 0.75], [1, 0]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"mode_sizes": []}, "`mode_sizes` must hold at least one size, but is empty"),
        ({"mode_sizes": [2, 0]}, r"`mode_sizes\[1\]` must be a positive integer, but got 0"),
        ({"mode_sizes": [2.5]}, r"`mode_sizes\[0\]` must be a positive integer, but got 2.5"),
        ({"mode_sizes": torch.tensor([2.5])}, r"`mode_sizes\[0\]` must be a positive integer"),
        ({"prior": [[1, 1]]}, "`prior` must hold one table for each of the 2 modes, but got 1"),
        ({"prior": [[1, 1], [1]]}, r"`prior\[1\]` must have the shape \(3,\), but got \(1,\)"),
        ({"prior": [[1, 1], [1, -1, 1]]}, r"`prior\[1\]` must hold shares that are finite"),
        ({"prior": [[0, 0], [1, 1, 1]]}, r"`prior\[0\]` must hold .* not all 0 in a row"),
        ({"prior": [[1, torch.nan], [1, 1, 1]]}, r"`prior\[0\]` must hold shares"),
        ({"neighbours": [[1, 1], [1, 1, 1]]}, r"`neighbours\[0\]` must have the shape \(2, 2\)"),
        ({"neighbours": [], "is_ordered": True}, "`neighbours` must be None where `is_ordered`"),
        ({"order": [1, 1]}, r"`order` must hold each of 0 to 1 once, but got \[1, 1\]"),
        ({"order": [0]}, r"`order` must hold each of 0 to 1 once, but got \[0\]"),
    ],
)
def test_misuse_is_named(arguments, says):
    with pytest.raises(ValueError, match=says):
        Box(**{"mode_sizes": [2, 3]} | arguments)


@pytest.mark.parametrize("make", [torch.eye, np.eye])
def test_tables_may_be_rows_of_one_array(make):
    box = Box([3, 3, 3], prior=make(3))
    assert torch.equal(torch.stack(box.prior), torch.eye(3))
