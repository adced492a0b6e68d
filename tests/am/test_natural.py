import pytest

from spikelens.am.natural import natural_images


def test_other_data_modules_are_refused():
    with pytest.raises(ValueError, match="must be a spikelens ImageData, but got NoneType"):
        natural_images(None, 3)


@pytest.mark.parametrize("number", [0, -5])
def test_their_number_must_be_positive(number):
    with pytest.raises(ValueError, match="`num_natural` must be a positive integer"):
        natural_images(None, number)
