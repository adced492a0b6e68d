from unittest import mock

import pytest
import torch
from torch import nn

from spikelens.kernels import event_convolution
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


@pytest.mark.parametrize("rate", [0.02, 0.5])
def test_evaluation_goes_by_events_if_training_was_sparse(rate):
    torch.manual_seed(0)
    layer = Convolution(3, 64, 3, padding=1)
    spikes = (torch.rand(6, 3, 8, 8) < rate).float()
    for _ in range(60):
        layer(spikes)
    assert layer.density.item() == pytest.approx(spikes.mean().item(), rel=0.01)
    layer.eval()
    with (
        torch.no_grad(),
        mock.patch.object(
            event_convolution, "convolve", wraps=event_convolution.convolve
        ) as convolve,
    ):
        by_bytes, by_floats = layer(spikes.to(torch.uint8)), layer(spikes)
    assert convolve.called == (rate < 0.1)
    torch.testing.assert_close(by_bytes, by_floats)
