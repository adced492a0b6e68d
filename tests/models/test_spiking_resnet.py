import pytest
import snntorch
import torch

from spikelens.models.lif import LIF
from spikelens.models.spiking_resnet import resnet18

NAMES = ["stem", *(f"block{i}.{part}" for i in range(1, 9) for part in ("mid", "out")), "output"]


def trained(encoding="direct"):
    """A network in evaluation mode whose BatchNorm statistics are those of random images."""
    torch.manual_seed(0)
    network = resnet18(2, 8, 3, num_steps=5, width=4, encoding=encoding).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.output.synapse[2].weight.mul_(10.0)
        network(torch.rand(16, 2, 8, 8))
    return network.eval()


def step_by_step(network, images):
    """Each layer's spikes by the plain double loop: for each time step, for each layer."""
    leaky = {name: snntorch.Leaky(beta=0.9) for name in NAMES}
    membranes, spikes = {}, {name: [] for name in NAMES}

    def fire(name, current):
        membrane = membranes.get(name, torch.zeros_like(current))
        spike, membranes[name] = leaky[name](current, membrane)
        spikes[name].append(spike)
        return spike

    signal = network.encoder(images)
    for t in range(network.encoder.num_steps):
        x = fire("stem", network.stem.synapse(signal[t] if len(signal) > 1 else signal[0]))
        for i in range(1, 9):
            block = network.get_submodule(f"block{i}")
            mid = fire(f"block{i}.mid", block.mid.synapse(x))
            stride = 2 if i in (3, 5, 7) else 1
            shortcut = block.shortcut(x[:, :, ::stride, ::stride])
            x = fire(f"block{i}.out", block.out.synapse(mid) + shortcut)
        fire("output", network.output.synapse(x))
    return {name: torch.stack(steps) for name, steps in spikes.items()}


def test_names_and_shapes():
    network = trained()
    assert list(network.layer_names) == NAMES
    with torch.no_grad():
        scans = network.scans(torch.rand(2, 2, 16, 16))
    assert list(scans) == NAMES
    shapes = [(4, 16, 16)] * 5 + [(8, 8, 8)] * 4 + [(16, 4, 4)] * 4 + [(32, 2, 2)] * 4 + [(3,)]
    assert [tuple(scan.spikes.shape) for scan in scans.values()] == [(5, 2, *s) for s in shapes]


def test_it_has_the_parameters_of_resnet18():
    # Convolutions 3 x 3: the stem, then of each width w from a block's input u: 9 (u w + 3 w w),
    # and 1 x 1 where u < w. Two BatchNorm parameters a channel, behind 5, 5, 5, 5 convolutions of
    # each width (stem or shortcut with the first block). Linear: 512 10 + 10.
    wanted = 3 * 64 * 9 + 9 * 4 * 64 * 64 + 512 * 10 + 10
    wanted += sum(9 * (w // 2 * w + 3 * w * w) + w // 2 * w for w in (128, 256, 512))
    wanted += sum(2 * 5 * w for w in (64, 128, 256, 512))
    network = resnet18(3, 32, 10)
    assert sum(p.numel() for p in network.parameters()) == wanted == 11_173_962
    assert network.block8.mid.synapse[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("encoding", ["direct", "rate", "latency"])
def test_time_folds_into_the_batch(encoding):
    network, images = trained(encoding), torch.rand(3, 2, 8, 8)
    with torch.no_grad():
        wanted = step_by_step(network, images)
        scans = network.scans(images)
        output = network(images)
    for name, scan in scans.items():
        assert 0.0 < scan.rate.mean() < 1.0, name
        # Sums in another order: a membrane at its threshold may fall on either side.
        assert (scan.spikes != wanted[name]).float().mean() < 1e-3, name
    assert torch.equal(output, scans["output"].spikes.float())


def test_a_shortcut_strides_as_a_strided_kernel_does():
    network = trained()
    block, spikes = network.block3, (torch.rand(5, 2, 4, 8, 8) < 0.3).float()
    kernel, norm = block.shortcut
    with torch.no_grad():
        for parameter in block.out.synapse[1].parameters():
            parameter.zero_()  # the shortcut alone is left
        _, out = block(spikes)
        current = norm(torch.nn.functional.conv2d(spikes.flatten(0, 1), kernel.weight, stride=2))
        wanted = LIF(num_steps=5)(current.unflatten(0, (5, 2)))
    assert out.rate.mean() > 0.01
    assert (out.spikes != wanted.spikes).float().mean() < 1e-3


def test_every_layer_fires_at_the_start_and_every_parameter_learns():
    torch.manual_seed(0)
    network = resnet18(3, 16, 10, num_steps=4, width=8)
    scans = network.scans(torch.rand(8, 3, 16, 16))
    for name, scan in scans.items():
        assert 0.0 < scan.spikes.mean() < 0.5, name
    scans["output"].spikes.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_neuron_arguments_reach_every_layer():
    surrogate = snntorch.surrogate.fast_sigmoid(slope=10)
    network = resnet18(1, 8, 2, 5, beta=0.8, threshold=0.6, surrogate=surrogate, width=2)
    for name in network.layer_names:
        layer = network.get_submodule(name)
        assert layer.num_steps == 5
        assert layer.leaky.beta.item() == pytest.approx(0.8)
        assert layer.leaky.threshold.item() == pytest.approx(0.6)
        assert layer.leaky.spike_grad is surrogate


def test_images_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="at least 8 for resnet18, but got 7"):
        resnet18(1, 7, 2)
