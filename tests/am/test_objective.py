import pytest
import torch
from conftest import Bars

from spikelens.am.activations import Recorder, layer_shapes
from spikelens.am.neurons import parse_neurons
from spikelens.am.objective import Objective
from spikelens.models.spiking_cnn import small


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
