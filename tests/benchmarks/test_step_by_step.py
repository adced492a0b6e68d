import pytest
import torch
from torch import nn

from benchmarks.step_by_step import StepByStep, name_of
from spikelens.models.spiking_cnn import csnn, small
from spikelens.models.spiking_resnet import resnet18

BUILDERS = {
    "csnn": lambda: csnn(2, 16, 3, num_steps=6),
    "small": lambda: small(2, 8, 3, num_steps=6, width=8),
    "resnet18": lambda: resnet18(2, 8, 3, num_steps=6, width=4),
}


@pytest.fixture(params=BUILDERS)
def engine(request):
    """A network whose every layer fires, BatchNorm statistics not the identity."""
    torch.manual_seed(0)
    network = BUILDERS[request.param]().train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        for module in network.modules():
            # Not normalised, and as first drawn too weak to make a neuron fire.
            if getattr(module, "bias", None) is not None and not isinstance(module, nn.BatchNorm2d):
                module.weight.mul_(5.0)
        network(torch.rand(16, *image_shape(network)))
    assert name_of(network) == request.param
    return network.eval()


def image_shape(network):
    return (2, 16, 16) if name_of(network) == "csnn" else (2, 8, 8)


def steps_of(loop, images, num_steps):
    """Each layer's spikes `(T, N, units, ...)`, from rest."""
    loop.rest()
    steps = {}
    for _ in range(num_steps):
        before = loop.rates(1)
        loop.net(images)
        for name, total in loop.rates(1).items():
            steps.setdefault(name, []).append(total - before[name] if before else total)
    return {name: torch.stack(spikes) for name, spikes in steps.items()}


@torch.no_grad()
def test_spikes_are_the_engine_s(engine):
    images = torch.rand(16, *image_shape(engine))
    wanted = engine.scans(images)
    steps = steps_of(StepByStep(engine), images, num_steps=6)
    assert list(steps) == list(engine.layer_names)
    for name, spikes in steps.items():
        assert 0.0 < wanted[name].rate.mean() < 1.0, name
        # Sums in another order: a membrane at its threshold may fall on either side.
        assert (spikes != wanted[name].spikes).float().mean() < 1e-3, name


@torch.no_grad()
def test_rest_forgets_the_batch_before(engine):
    loop, images = StepByStep(engine), torch.rand(4, *image_shape(engine))
    wanted = steps_of(loop, images, num_steps=6)
    steps_of(loop, torch.rand(3, *image_shape(engine)), num_steps=4)
    again = steps_of(loop, images, num_steps=6)
    for name, spikes in wanted.items():
        assert torch.equal(spikes, again[name]), name


@torch.no_grad()
def test_rates_are_those_of_the_first_units(engine):
    images = torch.rand(4, *image_shape(engine))
    loop, all_units = StepByStep(engine, num_units=2), StepByStep(engine)
    for run in (loop, all_units):
        run.rest()
        for _ in range(6):
            run.net(images)
    for name, rate in loop.rates(6).items():
        assert torch.equal(rate, all_units.rates(6)[name][:, :2]), name


def test_only_direct_encoding_is_measured():
    network = small(2, 8, 3, encoding="rate")
    with pytest.raises(ValueError, match="direct encoding, but got 'rate'"):
        StepByStep(network)
