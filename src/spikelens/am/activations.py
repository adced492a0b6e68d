"""Recording what neurons answer: hooks on spiking layers, one forward pass, all neurons at once."""

import math
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

import torch
from snntorch._neurons.neurons import SpikingNeuron
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spikelens.am.neurons import Neuron
from spikelens.models.lif import LIF, Scan
from spikelens.models.spiking_network import SpikingNetwork

# What snntorch's neurons remember from call to call.
_STATES = ("mem", "syn", "syn_exc", "syn_inh", "spk")


class Response(NamedTuple):
    """How K neurons answered N images.

    Attributes:
        activations: By each neuron's read-out, float32 `(N, K)`; spike rates in [0, 1].
        scores: For ranking, `(N, K)`: the activation, ties broken by the membrane.
    """

    activations: Tensor
    scores: Tensor


def spiking_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Find the layers whose neurons can be recorded.

    Args:
        network: Any module with `spikelens.models.lif.LIF` layers, or snntorch neurons that are
            called once a time step with `(N, ...)`.

    Returns:
        The layers by dotted name, in order of registration.

    Raises:
        ValueError: If there are none.
    """
    scanned = {id(m.leaky) for m in network.modules() if isinstance(m, LIF)}
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, LIF | SpikingNeuron) and id(module) not in scanned
    }
    if not layers:
        raise ValueError(
            "Argument `network` must have spiking layers (LIF or snntorch neurons), but "
            f"{type(network).__name__} has none."
        )
    return layers


class _Tally:
    """Sums over time of one layer's spikes and membranes at the asked units."""

    def __init__(self, units: Tensor | None) -> None:
        self.units = units
        self.num_steps = 0
        self.num_sums = 1  # what the sums are divided by: a scanned layer gives means
        self.spikes: Tensor | None = None  # (N, units, ...)
        self.membrane: Tensor | None = None

    def hook(self, module: nn.Module, _: Any, output: Any) -> None:
        """Take in the means of a scanned layer, or one step of a stepwise one."""
        if isinstance(output, Scan):
            if output.rate is not None and output.membrane is not None:
                self.num_steps, self.num_sums = module.num_steps, 1  # type: ignore[assignment]
                self.spikes, self.membrane = self._pick(output.rate), self._pick(output.membrane)
            return
        spikes = output[0] if isinstance(output, tuple) else output
        self.num_steps += 1
        self.num_sums = self.num_steps
        self.spikes = self._add(self.spikes, spikes)
        self.membrane = self._add(self.membrane, module.mem)  # type: ignore[arg-type]

    def _add(self, total: Tensor | None, step: Tensor) -> Tensor:
        step = self._pick(step)
        return step.clone() if total is None else total + step

    def _pick(self, values: Tensor) -> Tensor:
        return values if self.units is None else values.index_select(1, self.units)

    def means(self) -> tuple[Tensor, Tensor]:
        if self.spikes is None or self.membrane is None:
            raise RuntimeError("A recorded layer did not take part in the forward pass.")
        return self.spikes.float() / self.num_sums, self.membrane.float() / self.num_sums

    def clear(self) -> None:
        """Forget what was seen, by a pass that failed midway too."""
        self.num_steps = 0
        self.spikes = self.membrane = None


class Recorder:
    """Record neurons of a network while the context is open.

    The hooks are removed when the context closes, whatever happened in it.

        with Recorder(network, neurons) as recorder:
            response = recorder.respond(images)  # (N, K)

    Args:
        network: See `spiking_layers`.
        neurons: The K neurons; from `parse_neurons`.
    """

    def __init__(self, network: nn.Module, neurons: Sequence[Neuron]) -> None:
        self.network, self.neurons = network, list(neurons)
        self._tallies: dict[str, _Tally] = {}
        # By layer and read-out: columns of the response, and rows of what the tally picks. On the
        # device, so that reading makes the host wait for nothing.
        self._places: dict[tuple[str, str], tuple[Tensor, ...]] = {}
        self._handles: list[RemovableHandle] = []

    @torch.inference_mode(False)  # gradients may need its tensors
    def __enter__(self) -> "Recorder":
        known = spiking_layers(self.network)
        # All layers are looked up before the first hook is set: a wrong name leaves none behind.
        asked = {neuron.layer: known[neuron.layer] for neuron in self.neurons}
        layers = {name: layer for name, layer in known.items() if name in asked}  # in their order
        device = next(self.network.parameters()).device
        for name, layer in layers.items():
            units = sorted({neuron.unit for neuron in self.neurons if neuron.layer == name})
            self._tallies[name] = _Tally(torch.tensor(units, device=device))
            for readout in {n.readout for n in self.neurons if n.layer == name}:
                columns = [
                    k for k, n in enumerate(self.neurons) if (n.layer, n.readout) == (name, readout)
                ]
                rows = [units.index(self.neurons[k].unit) for k in columns]
                self._places[name, readout] = tuple(torch.tensor([columns, rows], device=device))
            self._handles.append(layer.register_forward_hook(self._tallies[name].hook))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._tallies = [], {}

    def respond(self, images: Tensor, has_gradient: bool = False) -> Response:
        """Show images `(N, C, H, W)` in [0, 1] and read all neurons.

        With gradients LIF layers must keep their means; see `spikelens.am.slopes`.

        Raises:
            RuntimeError: If the context is not open.
        """
        if not self._handles:
            raise RuntimeError("Recorder.respond must be called inside `with Recorder(...)`.")
        with torch.set_grad_enabled(has_gradient):
            for tally in self._tallies.values():
                tally.clear()
            _rest(self.network)
            if isinstance(self.network, SpikingNetwork):
                self.network.count(images, until=next(reversed(self._tallies)))
            else:
                self.network(images)
            return self._read(images)

    def _read(self, images: Tensor) -> Response:
        shape = len(images), len(self.neurons)
        activations = torch.empty(shape, device=images.device)
        scores = torch.empty_like(activations)
        for (layer, readout), (columns, rows) in self._places.items():
            tally = self._tallies[layer]
            rates, membranes = (means.index_select(1, rows) for means in tally.means())
            read, score = _reduce(rates, membranes, readout, tally.num_steps)
            activations.index_copy_(1, columns, read)
            scores.index_copy_(1, columns, score)
        return Response(activations, scores)


def layer_shapes(
    network: nn.Module, image_shape: tuple[int, int, int]
) -> dict[str, tuple[int, ...]]:
    """Return the shape `(units, ...)` of one image's spikes in each spiking layer.

    Args:
        network: See `spiking_layers`; left in the mode it was in.
        image_shape: `(C, H, W)`.
    """
    tallies = {name: _Tally(None) for name in spiking_layers(network)}
    layers = spiking_layers(network)
    handles = [layers[name].register_forward_hook(tally.hook) for name, tally in tallies.items()]
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        _rest(network)
        with torch.no_grad():
            network(torch.zeros(1, *image_shape, device=next(network.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
        _rest(network)
    return {name: tuple(tally.means()[0].shape[1:]) for name, tally in tallies.items()}


def _rest(network: nn.Module) -> None:
    """Put stepwise snntorch neurons to rest: they would remember the batch before."""
    for module in network.modules():
        if isinstance(module, SpikingNeuron):
            for state in _STATES:
                value = getattr(module, state, None)
                if isinstance(value, Tensor):  # an empty one is made anew in the input's shape
                    setattr(module, state, torch.zeros(0, device=value.device))


def _reduce(
    rates: Tensor, membranes: Tensor, readout: str, num_steps: int
) -> tuple[Tensor, Tensor]:
    """Reduce maps `(N, k, ...)` to activations and scores `(N, k)`."""
    if rates.dim() == 2:
        rates, membranes = rates.unsqueeze(2), membranes.unsqueeze(2)
    sides = rates.shape[2:]
    rates, membranes = rates.flatten(2), membranes.flatten(2)
    level = membranes.mean(2)
    if readout == "membrane":
        return level, level
    resolution = num_steps
    if readout == "mean":
        resolution *= rates.shape[2]
        activation = rates.mean(2)
    elif readout == "max":
        activation = rates.amax(2)
    else:
        centre = int(torch.arange(rates.shape[2]).view(sides)[tuple(side // 2 for side in sides)])
        activation, level = rates[:, :, centre], membranes[:, :, centre]
    # Rates are multiples of 1 / resolution; half of that, scaled by the membrane squashed into
    # (0, 1), orders equal rates and never overturns unequal ones.
    return activation, activation + (0.5 + level.atan() / math.pi) * 0.5 / resolution
