import numpy as np
import pytest
import torch

from spikelens.arguments import require_fractions, require_integers, to_tensor


def test_values_in_range_pass():
    require_integers(0, seed=0)
    require_integers(1, num_images=1, batch_size=7)
    require_fractions(part=0.5)


@pytest.mark.parametrize(
    ("least", "value", "message"),
    [
        (1, -3, r"Argument `budget` must be a positive integer, but got -3\."),
        (1, 2.0, r"must be a positive integer, but got 2\.0\."),
        (0, None, r"must be an integer of at least 0, but got None\."),
        (0, False, r"must be an integer of at least 0, but got False\."),
    ],
)
def test_other_integers_are_refused(least, value, message):
    with pytest.raises(ValueError, match=message):
        require_integers(least, budget=value)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, float("nan")])
def test_other_fractions_are_refused(value):
    with pytest.raises(ValueError, match="Argument `part` must lie between 0 and 1, but got"):
        require_fractions(part=value)


def test_numbers_in_any_form_become_a_tensor():
    tensor = torch.ones(2)
    assert to_tensor(tensor) is tensor
    array = np.arange(2)
    array.setflags(write=False)
    assert to_tensor(array).tolist() == [0, 1]
    assert to_tensor([[0.5], [1]]).dtype == torch.float64
    with pytest.raises(TypeError, match="str"):
        to_tensor("high")
