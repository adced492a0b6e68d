import functools

import pytest
import torch
from conftest import Bars

from spikelens.am.activations import Recorder, layer_shapes
from spikelens.am.neurons import parse_neurons
from spikelens.am.objective import Objective, fitting_chunk
from spikelens.models.spiking_cnn import csnn, small


@pytest.fixture(params=["direct", "rate", "latency"])
def network(request):
    torch.manual_seed(0)
    return small(1, 8, 3, num_steps=5, width=4, encoding=request.param).eval()


def neurons_of(network):
    units = {name: shape[0] for name, shape in layer_shapes(network, (1, 8, 8)).items()}
    return parse_neurons(["conv1:*", "fc1:0-4@membrane", "output:*"], units)


def test_values_depend_on_the_multi_index_alone(network):
    generator = Bars(side=8)
    indices = torch.randint(0, 5, (23, 64))
    shuffled = torch.randperm(23)
    with Recorder(network, neurons_of(network)) as recorder:
        objective = Objective(generator, recorder, chunk=8)
        whole = objective(indices)
        torch.rand(7)  # the global random state is no input
        pieces = [objective(part) for part in indices[shuffled].split([1, 9, 13])]
        again = objective(indices)
    for each, parts, same in zip(whole, zip(*pieces, strict=True), again, strict=True):
        assert torch.equal(torch.cat(parts), each[shuffled])
        assert torch.equal(same, each)


def test_repeats_differ_for_rate_codes_alone_and_are_pure(network):
    generator, indices = Bars(side=8), torch.randint(0, 5, (9, 64))
    is_noisy = network.encoder.encoding == "rate"
    with Recorder(network, neurons_of(network)) as recorder:
        objective = Objective(generator, recorder, chunk=4)
        first, second = objective(indices, repeat=1), objective(indices, repeat=2)
        parts = [objective(part, repeat=1).scores for part in indices.split(2)]
        other_seed = Objective(generator, recorder, chunk=4, seed=1)(indices, repeat=1)
        images = objective.of_images(generator.decode(indices), repeat=2)
        plain = objective(indices)
    assert objective.is_noisy == is_noisy
    assert torch.equal(torch.cat(parts), first.scores)
    assert torch.equal(images.scores, second.scores)
    for one, other in ((first, second), (first, other_seed), (plain, first)):
        assert torch.equal(one.scores, other.scores) != is_noisy
    assert network.encoder.repeat == 0


def test_images_and_their_codes_agree(network):
    generator = Bars(num_symbols=256, side=8)
    codes = torch.randint(0, 256, (5, 64))
    images = codes.to(torch.uint8).view(5, 1, 8, 8)
    with Recorder(network, neurons_of(network)) as recorder:
        objective = Objective(generator, recorder)
        by_code, by_image = objective(codes), objective.of_images(images)
    torch.testing.assert_close(by_code.activations, by_image.activations)


def test_a_chunk_must_be_positive(tiny_network):
    with pytest.raises(ValueError, match="`chunk` must be a positive integer, but got 0"):
        Objective(Bars(side=8), Recorder(tiny_network, []), chunk=0)


def test_half_precision_rounds_weights_and_little_else(network):
    # Weights and currents keep 8 bits: of 5 steps some spikes move, and none appear from nowhere.
    indices = torch.randint(0, 5, (40, 64))
    with Recorder(network, neurons_of(network)[:4]) as recorder:
        exact = Objective(Bars(side=8), recorder)(indices)
        half = Objective(Bars(side=8), recorder, precision="bfloat16")(indices)
        again = Objective(Bars(side=8), recorder, precision="bfloat16")(indices)
    assert exact.activations.mean() > 0.01
    assert not torch.equal(half.scores, exact.scores)
    assert torch.equal(half.scores, again.scores)
    assert half.activations.dtype == torch.float32
    assert (half.activations - exact.activations).abs().mean() < 0.02


def test_a_chunk_that_does_not_fit_is_halved(tiny_network):
    class Small(Recorder):
        """A device with room for four images."""

        sizes: list

        def respond(self, images):
            self.sizes.append(len(images))
            if len(images) > 4:
                raise torch.OutOfMemoryError
            return super().respond(images)

    indices, shown = torch.randint(0, 5, (11, 64)), []
    with Small(tiny_network, neurons_of(tiny_network)) as recorder:
        recorder.sizes = []
        objective = Objective(Bars(side=8), recorder, chunk=16, on_shown=shown.append)
        found = objective(indices)
        assert recorder.sizes == [16, 8, 4, 4, 4]
        assert shown == [4, 4, 3]
        assert objective.chunk == 4
    with Recorder(tiny_network, neurons_of(tiny_network)) as recorder:
        wanted = Objective(Bars(side=8), recorder, chunk=4)(indices)
    assert torch.equal(found.activations, wanted.activations)


def test_one_image_that_does_not_fit_is_an_error(tiny_network):
    class Full(Recorder):
        def respond(self, images):
            raise torch.OutOfMemoryError

    with Full(tiny_network, []) as recorder, pytest.raises(torch.OutOfMemoryError):
        Objective(Bars(side=8), recorder, chunk=2)(torch.zeros(3, 64, dtype=torch.int64))


def test_the_fitting_chunk_shrinks_with_steps_and_layers():
    # The largest layer of csnn: it reads 200 x 14 x 14 spikes and makes 64 x 10 x 10 currents.
    wanted = 2**30 // (256 * (4 * (200 * 14 * 14 + 64 * 10 * 10) + 64 * 5 * 5))
    assert wanted == 22
    build = functools.partial(csnn, 3, 32, 10)
    assert fitting_chunk(build(num_steps=256), (3, 32, 32)) == wanted
    assert fitting_chunk(build(num_steps=4), (3, 32, 32)) == 50
    assert fitting_chunk(build(num_steps=2**14), (3, 32, 32)) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("encoding", ["direct", "latency"])
def test_a_gpu_counts_the_spikes_that_a_cpu_counts(encoding):
    """In float32; where a sum's last bits decide on a spike, the two may part."""
    torch.manual_seed(0)
    network = small(1, 8, 3, num_steps=16, width=8, encoding=encoding).eval()
    generator, indices, responses = Bars(side=8), torch.randint(0, 5, (200, 64)), []
    for device in ("cpu", "cuda"):
        network.to(device)
        with Recorder(network, neurons_of(network)) as recorder:
            response = Objective(generator, recorder)(indices.to(device))
        responses.append([values.cpu() for values in response])
    for ours, theirs in zip(*responses, strict=True):
        assert (ours - theirs).abs().gt(1e-4).float().mean() < 0.01
