import pytest
import torch
from conftest import Boom

from spikelens.models.spiking_resnet import resnet18


@pytest.fixture
def images():
    return torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tiny_resnet():
    torch.manual_seed(0)
    return resnet18(1, 8, 3, num_steps=3, width=4).eval()


@pytest.fixture(params=["tiny_network", "tiny_resnet"])
def network(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def seen(network):
    """What each layer that ran gave back, in order."""
    outputs = {}
    for name in network.layer_names:
        layer = network.get_submodule(name)
        layer.register_forward_hook(lambda _, __, scan, name=name: outputs.update({name: scan}))
    return outputs


def keeps(network):
    return [network.get_submodule(name).keeps_spikes for name in network.layer_names]


def test_run_goes_layer_by_layer(network, images, seen):
    steps = network.run(images)
    assert not seen
    for i, (name, scan) in enumerate(steps):
        assert name == network.layer_names[i]
        assert list(seen) == list(network.layer_names[: i + 1])
        assert seen[name] is scan


def test_count_stops_at_the_layer_and_gives_the_means_of_a_full_run(network, images, seen):
    with torch.no_grad():
        whole = network.scans(images)
    for i, until in enumerate(network.layer_names):
        seen.clear()
        with torch.no_grad():
            assert network.count(images, until) is None
        assert list(seen) == list(network.layer_names[: i + 1])
        assert seen[until].spikes is None
        assert torch.equal(seen[until].rate, whole[until].rate)
        assert torch.equal(seen[until].membrane, whole[until].membrane)
        assert all(seen[name].spikes is not None for name in network.layer_names[:i])
        assert all(keeps(network))
        with torch.no_grad():
            network.count(images, until, keeps_spikes=True)
        assert torch.equal(seen[until].spikes, whole[until].spikes)
        assert torch.equal(seen[until].rate, whole[until].rate)


def test_layers_behind_need_not_even_work(network, images):
    last = network.layer_names[1]
    network.output.synapse = Boom()
    with torch.no_grad():
        network.count(images, last)
        with pytest.raises(ArithmeticError, match="boom"):
            network.count(images, "output")
        with pytest.raises(ArithmeticError, match="boom"):
            network(images)


@pytest.mark.parametrize("at", [0, 1])
def test_a_failure_leaves_nothing_behind(network, images, at):
    broken, until = network.layer_names[at], network.layer_names[1]
    with torch.no_grad():
        wanted = network(images)
    layer = network.get_submodule(broken)
    synapse, layer.synapse = layer.synapse, Boom()
    with pytest.raises(ArithmeticError, match="boom"), torch.no_grad():
        network.count(images, until)
    assert all(keeps(network))
    layer.synapse = synapse
    with torch.no_grad():
        assert torch.equal(network(images), wanted)


def test_a_failing_hook_leaves_nothing_behind(network, images):
    def fail(*_):
        raise ArithmeticError("hook")

    network.get_submodule(network.layer_names[0]).register_forward_hook(fail)
    with pytest.raises(ArithmeticError, match="hook"), torch.no_grad():
        network.count(images, network.layer_names[0])
    assert all(keeps(network))


def test_an_unknown_layer_is_refused(network, images):
    with pytest.raises(AttributeError, match="nowhere"):
        network.count(images, "nowhere")
