"""From multi-indices to activations: decode, show, count."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from spikelens.am.activations import Recorder, Response, layer_shapes, spiking_layers
from spikelens.arguments import require_integers
from spikelens.data.base import unit_range
from spikelens.generators.base import Generator
from spikelens.models.encoding import noisy_encoders, repeated
from spikelens.models.lif import Scan
from spikelens.precision import autocast, require_precision

# Bytes that one chunk's spikes and currents may take, and most images in it, by device: beyond
# these a CPU gains nothing, and the last chunk of a round is filled up for nothing.
_LIMITS = {"cpu": (2**30, 50), "cuda": (2**32, 250)}

_DRAWS_A_SEED = 2**32  # draws of noise that belong to one seed


class Objective:
    """The activations of K neurons as a function of the generator's multi-index.

    Pure: the same multi-index gives the same activations whatever is evaluated with it or came
    before. A network that draws its input at random sees the draw that `seed` and the number
    `repeat` of an evaluation determine, one for all its images. Work is cut into chunks of one size
    (the last one is filled up), because the kernels that libraries choose, and with them the last
    bits of a sum, depend on the batch size. Where a GPU's memory does not suffice for a chunk, it
    is halved for good.

    Args:
        generator: Draws the images.
        recorder: An open recorder of the K neurons.
        chunk: Images shown at once, positive: bounds the memory used. None for what fits a working
            set of 1 GiB (4 GiB on a GPU), see `fitting_chunk`.
        on_shown: Called with the number of images after each chunk.
        precision: `float32`, `bfloat16` or `auto`; see `spikelens.precision`.
        seed: Seed of the noise, not negative.

    Attributes:
        is_noisy: Whether repeats differ: a network with rate encoding.

    Raises:
        ValueError: If `chunk` is not positive, or the precision unknown.
    """

    def __init__(
        self,
        generator: Generator,
        recorder: Recorder,
        chunk: int | None = None,
        on_shown: Callable[[int], None] = lambda _: None,
        precision: str = "float32",
        seed: int = 0,
    ) -> None:
        require_precision(precision)
        if chunk is None:
            chunk = fitting_chunk(recorder.network, generator.image_shape)
        require_integers(1, chunk=chunk)
        self.generator, self.recorder, self.chunk = generator, recorder, chunk
        self.on_shown, self.precision, self.seed = on_shown, precision, seed
        self._encoders = noisy_encoders(recorder.network)
        self.is_noisy = bool(self._encoders)
        self.device = next(recorder.network.parameters()).device

    def __call__(self, indices: Tensor, repeat: int = 0) -> Response:
        """Evaluate multi-indices int64 `(N, d)`; returns activations and scores `(N, K)`."""
        return self._repeat(indices, self.generator.decode, repeat)

    def of_images(self, images: Tensor, repeat: int = 0) -> Response:
        """Evaluate images `(N, C, H, W)`: float in [0, 1], or uint8 that is scaled to it."""
        return self._repeat(images, unit_range, repeat)

    def noise_of(self, repeat: int) -> AbstractContextManager[None]:
        """Let the network see the draw of noise of a repeat while the context is open."""
        return repeated(self._encoders, self.seed * _DRAWS_A_SEED + repeat)

    def _repeat(self, inputs: Tensor, draw: Callable[[Tensor], Tensor], repeat: int) -> Response:
        with self.noise_of(repeat):
            return self._in_chunks(inputs, draw)

    def _in_chunks(self, inputs: Tensor, draw: Callable[[Tensor], Tensor]) -> Response:
        parts, done = [], 0
        while done < len(inputs):
            part = inputs[done : done + self.chunk].to(self.device)
            try:
                response = self._show(part, draw)
            except torch.OutOfMemoryError:
                if self.chunk == 1:
                    raise
                self.chunk //= 2
                torch.cuda.empty_cache()  # pieces too small for the next attempt
                continue
            parts.append(response)
            done += len(part)
            self.on_shown(len(part))
        return Response(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _show(self, part: Tensor, draw: Callable[[Tensor], Tensor]) -> Response:
        filled = torch.cat([part, part[:1].expand(self.chunk - len(part), *part.shape[1:])])
        with autocast(self.precision, self.device):
            response = self.recorder.respond(draw(filled).float())
        return Response(*(values[: len(part)] for values in response))


def fitting_chunk(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return how many images at once fit the working set, from 1 to 50 (250 on a GPU).

    It depends on the network and the device alone, and not on what is free, so that a probe of a
    checkpoint gives what the run gave. The largest layer counts: its inputs and currents in
    float32, and its spikes. A network that is called step by step needs little.

    Args:
        network: See `spikelens.am.activations.spiking_layers`.
        image_shape: `(C, H, W)`.
    """
    device = next(network.parameters()).device
    needs: list[int] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        """Note the bytes of one image's inputs, currents and spikes."""
        if not isinstance(output, Scan) or output.rate is None:
            return
        frames, num_steps = len(inputs[0]), len(output.spikes)
        square = getattr(getattr(layer, "synapse", None), "pool", 1) ** 2  # currents before pooling
        neurons = output.rate.numel()
        # A residual is one more input, and its sum with the currents one more of these.
        currents = len(inputs) * frames * square * neurons
        needs.append(4 * (sum(x.numel() for x in inputs) + currents) + num_steps * neurons)

    handles = [layer.register_forward_hook(note) for layer in spiking_layers(network).values()]
    try:
        layer_shapes(network, image_shape)
    finally:
        for handle in handles:
            handle.remove()
    working_set, most = _LIMITS.get(device.type, _LIMITS["cpu"])
    if device.type == "cuda":
        working_set = min(working_set, torch.cuda.get_device_properties(device).total_memory // 8)
    return max(1, min(most, working_set // max(needs, default=1)))
