import pytest

from spikelens.am.natural import natural_images


def test_other_data_modules_are_refused():
    with pytest.raises(ValueError, match="must be a spikelens ImageData, but got NoneType"):
        natural_images(None, 3)
