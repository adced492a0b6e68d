import pytest
import torch
from torch import nn

from spikelens.models.synapse import Convolution


@pytest.mark.parametrize(
    ("arguments", "kinds"),
    [
        ({}, [nn.Conv2d, nn.BatchNorm2d]),
        ({"pool": 2}, [nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d]),
        ({"has_norm": False}, [nn.Conv2d]),
        ({"has_norm": False, "pool": 2}, [nn.Conv2d, nn.MaxPool2d]),
    ],
)
def test_a_bias_only_where_no_norm_follows(arguments, kinds):
    convolution = Convolution(2, 5, 3, **arguments)
    assert [type(part) for part in convolution] == kinds
    assert (convolution[0].bias is None) == (nn.BatchNorm2d in kinds)


def test_it_is_what_torch_computes():
    convolution = Convolution(2, 5, 3, stride=2, padding=1, pool=3).eval()
    with torch.no_grad():
        convolution[1].running_mean.fill_(0.2)
        convolution[1].running_var.fill_(4.0)
        images = torch.rand(3, 2, 12, 12)
        maps = nn.functional.conv2d(images, convolution[0].weight, stride=2, padding=1)
        wanted = nn.functional.max_pool2d((maps - 0.2) / (4.0 + 1e-5) ** 0.5, 3)
        torch.testing.assert_close(convolution(images), wanted)
    assert wanted.shape == (3, 5, 2, 2)
