import pytest
import snntorch
import torch

from spikelens.models.spiking_cnn import csnn, small


def step_by_step(network, images):
    """Each layer's spikes by the plain double loop: for each time step, for each layer."""
    signal = network.encoder(images)
    names = [name for name, _ in network.named_children() if name != "encoder"]
    leaky = {name: snntorch.Leaky(beta=0.9) for name in names}
    membranes = dict.fromkeys(names)
    spikes = {name: [] for name in names}
    for t in range(network.encoder.num_steps):
        x = signal[t] if len(signal) > 1 else signal[0]
        for name in names:
            current = network.get_submodule(name).synapse(x)
            if membranes[name] is None:
                membranes[name] = torch.zeros_like(current)
            x, membranes[name] = leaky[name](current, membranes[name])
            spikes[name].append(x)
    return {name: torch.stack(steps) for name, steps in spikes.items()}


def with_statistics(network):
    """Give BatchNorm statistics that are not the identity; returns it in evaluation mode."""
    torch.manual_seed(2)
    network.train()
    with torch.no_grad():
        for _ in range(5):
            network(torch.rand(8, 2, 8, 8))
    return network.eval()


def test_csnn_is_the_paper_s_network():
    network = csnn(in_channels=3, image_size=32, num_classes=10, num_steps=2).eval()
    assert network.layer_names == ("conv1", "conv2", "fc1", "output")
    with torch.no_grad():
        scans = network.scans(torch.rand(1, 3, 32, 32))
    assert {name: tuple(scan.spikes.shape) for name, scan in scans.items()} == {
        "conv1": (2, 1, 200, 14, 14),
        "conv2": (2, 1, 64, 5, 5),
        "fc1": (2, 1, 100),
        "output": (2, 1, 10),
    }
    # 200 (3 25 + 1), 64 (200 25 + 1), 100 (64 25 + 1), 10 (100 + 1).
    wanted = 200 * 76 + 64 * 5001 + 100 * 1601 + 10 * 101
    assert sum(p.numel() for p in network.parameters()) == wanted


def test_small_has_three_convolutions():
    network = small(in_channels=2, image_size=20, num_classes=5, num_steps=3, width=4)
    with torch.no_grad():
        scans = network.scans(torch.rand(2, 2, 20, 20))
    assert list(scans) == list(network.layer_names)
    assert {name: tuple(scan.spikes.shape) for name, scan in scans.items()} == {
        "conv1": (3, 2, 4, 10, 10),
        "conv2": (3, 2, 8, 5, 5),
        "conv3": (3, 2, 8, 2, 2),
        "fc1": (3, 2, 128),
        "output": (3, 2, 5),
    }


def synapse_keys(network, layer):
    return set(network.get_submodule(layer).synapse.state_dict())


def test_checkpoints_know_the_parameters_by_these_names():
    # A name that changes makes old checkpoints useless.
    plain, behind_flatten = {"0.weight", "0.bias"}, {"1.weight", "1.bias"}
    network = csnn(3, 16, 2)
    for layer in ("conv1", "conv2"):
        assert synapse_keys(network, layer) == plain | {"density"}
    assert synapse_keys(network, "fc1") == behind_flatten
    assert synapse_keys(network, "output") == plain
    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    network = small(3, 8, 2, width=4)
    for layer in ("conv1", "conv2", "conv3"):
        assert (
            synapse_keys(network, layer)
            == {"0.weight", "1.weight", "1.bias", "density"} | statistics
        )


def test_a_checkpoint_older_than_the_density_loads():
    network, state = small(3, 8, 2, width=4), small(3, 8, 2, width=4).state_dict()
    old = {name: value for name, value in state.items() if not name.endswith("density")}
    assert len(old) == len(state) - 3
    network.load_state_dict(old)
    assert torch.equal(network.conv2.synapse[0].weight, state["conv2.synapse.0.weight"])
    assert network.conv2.synapse.density == -1


@pytest.mark.parametrize(("build", "least"), [(csnn, 16), (small, 8)])
def test_images_that_are_too_small_are_refused(build, least):
    with torch.no_grad():
        network = build(1, least, 2, num_steps=1).eval()
        assert network(torch.rand(1, 1, least, least)).shape == (1, 1, 2)
    with pytest.raises(ValueError, match=f"at least {least} for .*, but got {least - 1}"):
        build(1, least - 1, 2)


def test_neuron_arguments_reach_every_layer():
    surrogate = snntorch.surrogate.fast_sigmoid(slope=10)
    for build, size in ((csnn, 16), (small, 8)):
        network = build(1, size, 2, 5, beta=0.8, threshold=0.6, surrogate=surrogate)
        for name in network.layer_names:
            layer = network.get_submodule(name)
            assert layer.num_steps == 5
            assert layer.leaky.beta.item() == pytest.approx(0.8)
            assert layer.leaky.threshold.item() == pytest.approx(0.6)
            assert layer.leaky.spike_grad is surrogate


@pytest.mark.parametrize("encoding", ["direct", "rate", "latency"])
def test_time_folds_into_the_batch(encoding):
    network = with_statistics(small(2, 8, 3, num_steps=5, width=4, encoding=encoding))
    images = torch.rand(3, 2, 8, 8)
    with torch.no_grad():
        wanted = step_by_step(network, images)
        scans = network.scans(images)
        output = network(images)
    assert wanted["conv1"].mean() > 0.01
    for name, scan in scans.items():
        # Sums in another order: a membrane at its threshold may fall on either side.
        assert (scan.spikes != wanted[name]).float().mean() < 1e-3, name
    assert torch.equal(output, scans["output"].spikes.float())


def test_gradients_flow_to_every_parameter(tiny_network):
    torch.manual_seed(0)
    network = tiny_network.train()
    spikes = network(torch.rand(6, 1, 8, 8))
    assert spikes.shape == (4, 6, 3)
    spikes.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_a_still_input_equals_the_image_at_every_step():
    network = with_statistics(small(2, 8, 3, num_steps=4, width=4))
    images = torch.rand(3, 2, 8, 8)
    with torch.no_grad():
        once = network.conv1(images[None])
        repeated = network.conv1(images[None].repeat(4, 1, 1, 1, 1))
    assert torch.equal(once.spikes, repeated.spikes)
    torch.testing.assert_close(once.membrane, repeated.membrane)
