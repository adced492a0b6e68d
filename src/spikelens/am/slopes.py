"""The gradient of each neuron's score with respect to what its own image is drawn from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from spikelens.am.activations import blank_records
from spikelens.am.neurons import Neuron, single_neurons
from spikelens.am.objective import Objective
from spikelens.generators.base import DifferentiableGenerator
from spikelens.models.encoding import Encoder
from spikelens.models.lif import LIF
from spikelens.precision import autocast


def slopes(
    objective: Objective, owners: Tensor, embedding: Tensor, chunk: int, repeat: int = 0
) -> Tensor:
    """Differentiate each neuron's score through the network's surrogates and the generator.

    Each image is shown once more, in float32, and the gradient comes back as in training; through
    a rate code it goes straight, as that of a spike's expectation, the pixel's value. The network
    is left as it was: its parameters gather no gradients.

    Args:
        objective: Its generator is a `DifferentiableGenerator`.
        owners: The neuron that each image is drawn for, int64 `(N,)`.
        embedding: What the images are drawn from, float `(N, d, e)`.
        chunk: Images shown at once, positive; the objective's own if that is smaller.
        repeat: Number of the objective's repeat whose noise is seen, not negative.

    Returns:
        The gradients of the owners' scores, float `(N, d, e)`.

    Raises:
        ValueError: If no gradient comes back from the neurons to the images.
    """
    size = min(chunk, objective.chunk)
    # Autograd refuses tensors born in a caller's inference mode: they are copied outside of it.
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        autocast("float32", objective.device),
        _traced(objective.recorder.network),
        objective.noise_of(repeat),
    ):
        pieces = zip(embedding.clone().split(size), owners.clone().split(size), strict=True)
        return torch.cat([_slopes_of_chunk(objective, own, points) for points, own in pieces])


def check_slopes(
    network: nn.Module, neurons: Sequence[Neuron], image_shape: tuple[int, int, int]
) -> None:
    """Refuse a network without a gradient from neurons to images, by one blank image.

    Args:
        network: See `spikelens.am.activations.spiking_layers`; left as it was.
        neurons: Those to be differentiated.
        image_shape: `(C, H, W)`.

    Raises:
        ValueError: If no gradient comes back from a neuron's layer.
    """
    with torch.inference_mode(False), _traced(network):
        records = blank_records(network, image_shape, has_gradient=True)
    for layer in dict.fromkeys(neuron.layer for neuron in single_neurons(neurons)):
        if not records[layer].membranes.requires_grad:
            raise _no_gradient(layer, network)


def _no_gradient(source: str, network: nn.Module) -> ValueError:
    return ValueError(
        "Argument `network` must be differentiable for the gradient optimizer, but no gradient "
        f"comes back from {source} of this {type(network).__name__} to its images (an encoding "
        "that cuts it, latency say)."
    )


def _slopes_of_chunk(objective: Objective, owners: Tensor, points: Tensor) -> Tensor:
    points = points.detach().requires_grad_()
    images = cast(DifferentiableGenerator, objective.generator).draw(points)
    scores = objective.recorder.respond(images.float(), has_gradient=True).scores
    own = scores.gather(1, owners[:, None]).sum()
    if not own.requires_grad:
        raise _no_gradient("the neurons", objective.recorder.network)
    return torch.autograd.grad(own, points)[0]


@contextmanager
def _traced(network: nn.Module) -> Iterator[None]:
    """Make means and rate codes differentiable, and parameters constants."""
    needed = {parameter: parameter.requires_grad for parameter in network.parameters()}
    layers = [module for module in network.modules() if isinstance(module, LIF)]
    encoders = [module for module in network.modules() if isinstance(module, Encoder)]
    rates = [encoder for encoder in encoders if encoder.encoding == "rate"]
    handles = [encoder.register_forward_hook(_pass_straight) for encoder in rates]
    try:
        for parameter in needed:
            parameter.requires_grad_(False)
        for layer in layers:
            layer.keeps_means = True
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, is_needed in needed.items():
            parameter.requires_grad_(is_needed)
        for layer in layers:
            layer.keeps_means = False


def _pass_straight(encoder: nn.Module, inputs: tuple[Tensor, ...], spikes: Tensor) -> Tensor:
    """Give spikes `(T, N, C, H, W)` of a rate code the gradient of its pixels."""
    return spikes + (inputs[0] - inputs[0].detach())
