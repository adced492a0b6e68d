"""From multi-indices to activations: decode, show, count."""

from collections.abc import Callable

import torch
from torch import Tensor

from spikelens.am.activations import Recorder, Response
from spikelens.arguments import require_integers
from spikelens.data.base import unit_range
from spikelens.generators.base import Generator


class Objective:
    """The activations of K neurons as a function of the generator's multi-index.

    Pure: the same multi-index gives the same activations whatever is evaluated with it or came
    before. Work is cut into chunks of one size (the last one is filled up), because the kernels
    that libraries choose, and with them the last bits of a sum, depend on the batch size.

    Args:
        generator: Draws the images.
        recorder: An open recorder of the K neurons.
        chunk: Images shown at once, positive: bounds the memory used.
        on_shown: Called with the number of images after each chunk.

    Raises:
        ValueError: If `chunk` is not positive.
    """

    def __init__(
        self,
        generator: Generator,
        recorder: Recorder,
        chunk: int = 64,
        on_shown: Callable[[int], None] = lambda _: None,
    ) -> None:
        require_integers(1, chunk=chunk)
        self.generator, self.recorder, self.chunk = generator, recorder, chunk
        self.on_shown = on_shown
        self.device = next(recorder.network.parameters()).device

    def __call__(self, indices: Tensor) -> Response:
        """Evaluate multi-indices int64 `(N, d)`; returns activations and scores `(N, K)`."""
        return self._in_chunks(indices, self.generator.decode)

    def of_images(self, images: Tensor) -> Response:
        """Evaluate images `(N, C, H, W)`: float in [0, 1], or uint8 that is scaled to it."""
        return self._in_chunks(images, unit_range)

    def _in_chunks(self, inputs: Tensor, draw: Callable[[Tensor], Tensor]) -> Response:
        parts = []
        for part in inputs.split(self.chunk):
            filled = torch.cat([part, part[:1].expand(self.chunk - len(part), *part.shape[1:])])
            response = self.recorder.respond(draw(filled.to(self.device)))
            parts.append(Response(*(values[: len(part)] for values in response)))
            self.on_shown(len(part))
        return Response(*(torch.cat(values) for values in zip(*parts, strict=True)))
