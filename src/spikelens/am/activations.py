"""Recording what neurons answer: hooks on spiking layers, one forward pass, all neurons at once."""

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import torch
from snntorch._neurons.neurons import SpikingNeuron
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spikelens.am.neurons import Neuron, Population, check_readout, single_neurons
from spikelens.am.populations import PopulationSums
from spikelens.am.readouts import Course, Record, read
from spikelens.models.lif import LIF, Scan
from spikelens.models.spiking_network import SpikingNetwork

# What snntorch's neurons remember from call to call.
_STATES = ("mem", "syn", "syn_exc", "syn_inh", "spk")


class Response(NamedTuple):
    """How K neurons answered N images.

    Attributes:
        activations: By each neuron's read-out, float32 `(N, K)`; see `Neuron`.
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
    """Sums over time of one layer's spikes and membranes at the asked units; None for all."""

    def __init__(self, units: Tensor | None, readouts: Iterable[str] = ()) -> None:
        self.units, self.course = units, Course(readouts)
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
            if self.course.is_needed:
                for step in output.spikes:
                    self.course.add(self._pick(step))
            return
        spikes = output[0] if isinstance(output, tuple) else output
        self.num_steps += 1
        self.num_sums = self.num_steps
        self.spikes = self._add(self.spikes, spikes)
        self.membrane = self._add(self.membrane, module.mem)  # type: ignore[arg-type]
        if self.course.is_needed:
            self.course.add(self._pick(spikes))

    def _add(self, total: Tensor | None, step: Tensor) -> Tensor:
        step = self._pick(step)
        return step.clone() if total is None else total + step

    def _pick(self, values: Tensor) -> Tensor:
        return values if self.units is None else values.index_select(1, self.units)

    def record(self) -> Record:
        if self.spikes is None or self.membrane is None:
            raise RuntimeError("A recorded layer did not take part in the forward pass.")
        rates, membranes = (x.float() / self.num_sums for x in (self.spikes, self.membrane))
        return Record(rates, membranes, self.num_steps, self.course)

    def clear(self) -> None:
        """Forget what was seen, by a pass that failed midway too."""
        self.num_steps = 0
        self.spikes = self.membrane = None
        self.course.clear()


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
        self._singles = single_neurons(self.neurons)
        self._sums: PopulationSums | None = None
        self._order: Tensor | None = None  # of the neurons among single ones, then populations
        self._tallies: dict[str, _Tally] = {}
        # By layer and read-out: columns among the single neurons, and rows of what the tally picks.
        # On the device, so that reading makes the host wait for nothing.
        self._places: dict[tuple[str, str], tuple[Tensor, ...]] = {}
        self._handles: list[RemovableHandle] = []

    @torch.inference_mode(False)  # gradients may need its tensors
    def __enter__(self) -> "Recorder":
        known = spiking_layers(self.network)
        # All layers are looked up before the first hook is set: a wrong name leaves none behind.
        asked = {neuron.layer: known[neuron.layer] for neuron in self._singles}
        layers = {name: layer for name, layer in known.items() if name in asked}  # in their order
        device = next(self.network.parameters()).device
        for name, layer in layers.items():
            self._tallies[name] = self._tally(name, device)
            self._handles.append(layer.register_forward_hook(self._tallies[name].hook))
        whole = [one for one in dict.fromkeys(self.neurons) if isinstance(one, Population)]
        if whole:
            self._sums = PopulationSums(whole, self._singles, device)
        if self.neurons != self._singles:
            place = {neuron: k for k, neuron in enumerate([*self._singles, *whole])}
            self._order = torch.tensor([place[neuron] for neuron in self.neurons], device=device)
        return self

    def _tally(self, layer: str, device: torch.device) -> _Tally:
        """Count what is asked of a layer, and note where it is found."""
        columns_by_readout: dict[str, list[int]] = {}
        for column, neuron in enumerate(self._singles):
            if neuron.layer == layer:
                columns_by_readout.setdefault(neuron.readout, []).append(column)
        units = sorted({neuron.unit for neuron in self._singles if neuron.layer == layer})
        is_whole = "contrast" in columns_by_readout  # which is with all the layer's units
        for readout, columns in columns_by_readout.items():
            chosen = [self._singles[column].unit for column in columns]
            rows = chosen if is_whole else [units.index(unit) for unit in chosen]
            self._places[layer, readout] = tuple(torch.tensor([columns, rows], device=device))
        picked = None if is_whole else torch.tensor(units, device=device)
        return _Tally(picked, columns_by_readout)

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
                name, tally = next(reversed(self._tallies.items()))
                self.network.count(images, until=name, keeps_spikes=tally.course.is_needed)
            else:
                self.network(images)
            return self._read(images)

    def _read(self, images: Tensor) -> Response:
        shape = len(images), len(self._singles)
        activations, scores, levels = (torch.empty(shape, device=images.device) for _ in range(3))
        resolutions: dict[tuple[str, str], int] = {}
        records = {layer: tally.record() for layer, tally in self._tallies.items()}
        for (layer, readout), (columns, rows) in self._places.items():
            record = records[layer]
            check_readout(readout, layer, record.rates.shape[1], record.num_steps)
            reading = read(record, readout, rows)
            activations.index_copy_(1, columns, reading.activations)
            scores.index_copy_(1, columns, reading.scores)
            levels.index_copy_(1, columns, reading.levels)
            resolutions[layer, readout] = reading.resolution
        of_each = [resolutions[single.layer, single.readout] for single in self._singles]
        return self._as_asked(activations, scores, levels, of_each)

    def _as_asked(
        self, activations: Tensor, scores: Tensor, levels: Tensor, resolutions: Sequence[int]
    ) -> Response:
        """Put the single neurons' columns, and the sums of populations, in the order asked for."""
        found = [activations, scores]
        if self._sums is not None:
            sums = self._sums(activations, levels, resolutions)
            found = [torch.cat(both, 1) for both in zip(found, sums, strict=True)]
        if self._order is not None:
            found = [values.index_select(1, self._order) for values in found]
        return Response(*found)


class Extent(NamedTuple):
    """How far a layer extends.

    Attributes:
        shape: Of one image's spikes, `(units, ...)`.
        num_steps: Time steps it takes.
    """

    shape: tuple[int, ...]
    num_steps: int


def layer_extents(network: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, Extent]:
    """Return the shape and the number of time steps of each spiking layer, by one blank image.

    Args:
        network: See `spiking_layers`; left in the mode it was in.
        image_shape: `(C, H, W)`.
    """
    records = blank_records(network, image_shape)
    return {
        name: Extent(tuple(record.rates.shape[1:]), record.num_steps)
        for name, record in records.items()
    }


def layer_shapes(
    network: nn.Module, image_shape: tuple[int, int, int]
) -> dict[str, tuple[int, ...]]:
    """Return the shape `(units, ...)` of each spiking layer; see `layer_extents`."""
    return {name: shape for name, (shape, _) in layer_extents(network, image_shape).items()}


def blank_records(
    network: nn.Module, image_shape: tuple[int, int, int], has_gradient: bool = False
) -> dict[str, Record]:
    """Record what each spiking layer does at one blank image.

    Args:
        network: See `spiking_layers`; left in the mode it was in.
        image_shape: `(C, H, W)`.
        has_gradient: Whether the image is a leaf that gradients come back to; see
            `Recorder.respond`.
    """
    layers = spiking_layers(network)
    tallies = {name: _Tally(None) for name in layers}
    handles = [layers[name].register_forward_hook(tally.hook) for name, tally in tallies.items()]
    modes = {module: module.training for module in network.modules()}
    device = next(network.parameters()).device
    try:
        network.eval()
        _rest(network)
        with torch.set_grad_enabled(has_gradient):
            network(torch.zeros(1, *image_shape, device=device, requires_grad=has_gradient))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
        _rest(network)
    return {name: tally.record() for name, tally in tallies.items()}


def _rest(network: nn.Module) -> None:
    """Put stepwise snntorch neurons to rest: they would remember the batch before."""
    for module in network.modules():
        if isinstance(module, SpikingNeuron):
            for state in _STATES:
                value = getattr(module, state, None)
                if isinstance(value, Tensor):  # an empty one is made anew in the input's shape
                    setattr(module, state, torch.zeros(0, device=value.device))
