"""What runs where a compiler is missing, and that it makes no difference."""

import importlib
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from spikelens.kernels import scan, scan_numba, scan_torch
from spikelens.models.lif import LIF, spike_type
from spikelens.models.spiking_cnn import small


@pytest.fixture
def without_compilers():
    """A context in which no compiler is found but those named."""

    def forget():
        scan.compiler_of.cache_clear()
        scan.scan_of.cache_clear()

    def find(but, name):
        compiler = name.rpartition("_")[2]
        if compiler != "torch" and compiler not in but:
            raise ImportError(name)
        return importlib.import_module(name)

    @contextmanager
    def context(*but):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scan, "import_module", partial(find, but))
            forget()
            try:
                yield
            finally:
                forget()

    return context


def test_each_device_has_its_scan(without_compilers):
    assert scan.compiler_of("cpu") == "numba"
    assert scan.scan_of("cpu") is scan_numba
    with without_compilers():
        for device in ("cpu", "cuda", "mps"):
            assert scan.compiler_of(device) is None
            assert scan.scan_of(device) is scan_torch
    assert scan.compiler_of("mps") is None
    assert scan.scan_of("mps") is scan_torch
    assert scan.scan_of("cpu") is scan_numba


def test_one_device_s_compiler_is_no_other_s(without_compilers):
    with without_compilers("triton"):
        assert scan.compiler_of("cuda") == "triton"
        assert scan.compiler_of("cpu") is None


def test_spikes_are_bytes_only_where_convolutions_go_by_events(without_compilers):
    assert spike_type(torch.device("cpu")) == torch.uint8
    with without_compilers():
        assert spike_type(torch.device("cpu")) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert spike_type(torch.device("cpu")) == torch.bfloat16


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("is_delayed", [True, False])
def test_neurons_do_the_same(without_compilers, reset, is_delayed):
    random = torch.Generator().manual_seed(0)
    beta, threshold = torch.rand(2, 3, 1, generator=random) + torch.tensor([[[0.0]], [[0.5]]])
    layer = LIF(16, beta, threshold, None, reset, is_delayed, True, True)
    current = torch.rand(16, 2, 3, 4, generator=random).requires_grad_()
    weights = torch.randn(2, 16, 2, 3, 4, generator=random)

    def run():
        with torch.no_grad():
            counted = layer(current)
        learned = layer(current, keeps_membranes=True)
        given = torch.stack([learned.spikes, learned.membranes])
        inputs = [current, layer.leaky.beta, layer.leaky.threshold]
        return counted, learned, torch.autograd.grad((given * weights).sum(), inputs)

    (counted, learned, grads) = run()
    with without_compilers():
        (plain, plainly_learned, plain_grads) = run()
    assert (counted.spikes.dtype, plain.spikes.dtype) == (torch.uint8, torch.float32)
    assert 0.05 < plain.spikes.mean() < 0.95
    assert torch.equal(counted.spikes.float(), plain.spikes)
    assert torch.equal(counted.rate, plain.rate)
    torch.testing.assert_close(counted.membrane, plain.membrane)
    assert torch.equal(learned.spikes, plainly_learned.spikes)
    assert torch.equal(learned.membranes, plainly_learned.membranes)
    for found, wanted in zip(grads, plain_grads, strict=True):
        torch.testing.assert_close(found, wanted)


def dyadic_network(is_training):
    """A network whose sums of spikes are exact in any order, and so its folded weights.

    Weights are multiples of 1/16, and BatchNorm in evaluation halves and shifts by such.
    """
    torch.manual_seed(0)
    network = small(2, 16, 3, num_steps=6, threshold=0.75, width=5)
    with torch.no_grad():
        for name in ("conv1", "conv2", "conv3"):
            convolution, norm, _ = network.get_submodule(name).synapse
            convolution.weight.copy_(torch.randint(-6, 7, convolution.weight.shape) / 16)
            norm.eps = norm.eps if is_training else 1e-30  # lost beside the variance
            norm.running_var.fill_(4.0)
            norm.running_mean.copy_(torch.randint(-8, 2, norm.running_mean.shape) / 16)
        network.fc1.synapse[1].weight.mul_(5.0)
        network.output.synapse[0].weight.mul_(5.0)
    return network.train(is_training)


@pytest.mark.parametrize("is_training", [True, False])
def test_a_network_does_the_same(without_compilers, is_training):
    network = dyadic_network(is_training)
    images = torch.rand(4, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(2))

    def run():
        with torch.no_grad():
            counted = network.scans(images)
        learned = network.scans(images)
        loss = (learned["output"].spikes * weights).sum()
        return counted, learned, torch.autograd.grad(loss, list(network.parameters()))

    counted, learned, grads = run()
    with without_compilers():
        plain, plainly_learned, plain_grads = run()
    for name in network.layer_names:
        assert counted[name].spikes.dtype == torch.uint8
        assert plain[name].spikes.dtype == torch.float32
        assert 0.01 < plain[name].spikes.mean() < 0.99, name
        assert torch.equal(counted[name].spikes.float(), plain[name].spikes), name
        assert torch.equal(learned[name].spikes, plainly_learned[name].spikes), name
    for found, wanted in zip(grads, plain_grads, strict=True):
        # Sums of some 10^3 float32 terms in another order: some 10 units in the last place of
        # the largest of them.
        scale = float(wanted.abs().max())
        assert scale > 0.0
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * scale)
