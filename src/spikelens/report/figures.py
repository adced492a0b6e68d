"""Pictures of stimuli: a layer's panel, a generator's samples, the filmstrip neuron x epoch."""

import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from spikelens.am.probe import Probe
from spikelens.tracking import History

_PAPER, _INK, _FAINT = (255, 255, 255), (24, 24, 27), (113, 113, 122)
_GAP = 6
_LINE = 13  # pixels of one line of caption
_FONT_SIZE = 11
_MOST_EPOCHS = 12
_LEAST_MARGIN, _MOST_MARGIN = 76, 190


def layer_panel(probe: Probe, layer: str, columns: int = 4, side: int = 96) -> Image.Image:
    """Draw the optimal stimuli of a layer, each with its caption and its natural top images.

    A neuron's further stimuli stand to the right of the first; there are fewer neurons in a row
    then.

    Args:
        probe: What a probe found.
        layer: Which layer's neurons to draw.
        columns: Neurons in a row of the panel, if each has one stimulus.
        side: Pixels of a stimulus; four natural images stand beside it, half as large.

    Returns:
        The panel. A caption gives the neuron, the stimulus' activation and its ratio to the best
        natural image, or that image's own activation where it is negative.
    """
    chosen = [k for k, neuron in enumerate(probe.neurons) if neuron.layer == layer]
    num_others = len(probe.others)
    columns = max(1, 2 * columns // (2 + num_others))
    to_natural = (1 + num_others) * (side + 2)
    cell = (to_natural + side, side + 2 * _LINE)
    page = _Page(min(columns, len(chosen)), -(-len(chosen) // columns), cell)
    stimulus, images = _names(probe.direction)
    page.title(f"{layer}: {stimulus} (left), {images} (right)")
    for place, k in enumerate(chosen):
        x, y = page.corner(place % columns, place // columns)
        page.paste(probe.stimuli[k], x, y, side)
        for rank, natural in enumerate(probe.natural_top[k, :4]):
            half = side // 2
            page.paste(natural, x + to_natural + rank % 2 * half, y + rank // 2 * half, half)
        page.write(x, y + side, page.cut(str(probe.neurons[k]), cell[0]), _INK)
        page.write(x, y + side + _LINE, _caption(probe, k), _FAINT)
        _draw_others(page, probe, k, x + side + 2, y, side)
    return page.image


def _draw_others(page: "_Page", probe: Probe, k: int, x: int, y: int, side: int) -> None:
    """Draw a neuron's further stimuli, with their activations and how far they are from others."""
    for number, finding in enumerate(probe.others):
        left, activation = x + number * (side + 2), finding.activations[k]
        if activation.isnan():
            page.write(left, y + side, "none far enough", _FAINT)
            continue
        page.paste(finding.stimuli[k], left, y, side)
        # On the first line alone: the first stimulus' caption takes the second one up.
        text = f"{activation:.3f} at {finding.distances[k]:.2f}"
        page.write(left, y + side, text, _INK)


def filmstrip(history: History, natural: Tensor, side: int = 64) -> Image.Image:
    """Draw how stimuli change over epochs: a row a neuron, a column an epoch.

    Many neurons over few epochs stand in blocks side by side, so that the strip is about square;
    of many epochs twelve are drawn, evenly spaced.

    Args:
        history: The probes, with the activation written below each stimulus.
        natural: The neurons' best natural images now, uint8 `(K, m, C, H, W)`; the first two
            close each row.
        side: Pixels of a stimulus.

    Returns:
        The strip.
    """
    names, natural, activations = history.names, natural[:, :2], history.activations
    num_probes = len(history.epochs)
    probes = torch.linspace(0, num_probes - 1, min(num_probes, _MOST_EPOCHS)).round().int().tolist()
    columns, cell = len(probes) + natural.shape[1], (side, side + _LINE)
    blocks = max(1, math.isqrt(len(names) * (cell[1] + _GAP) // (columns * (side + _GAP))))
    rows = -(-len(names) // blocks)
    margin = _margin(names)
    page = _Page(columns, rows, cell, margin, header=_LINE, blocks=blocks)
    stimulus, images = _names(history.direction)
    page.title(f"{stimulus} by epoch, then {images}")
    headings = [f"epoch {history.epochs[probe]}" for probe in probes]
    headings += ["natural"] * natural.shape[1]
    for k, name in enumerate(names):
        block, row = divmod(k, rows)
        x, y = page.corner(0, row, block)
        page.write(x - margin, y + side // 2 - _LINE // 2, page.cut(name, margin - _GAP), _INK)
        for column, heading in enumerate(headings):
            x, y = page.corner(column, row, block)
            if row == 0:
                page.write(x, y - _LINE, heading, _INK)
            if column >= len(probes):
                page.paste(natural[k, column - len(probes)], x, y, side)
            else:
                page.paste(history.stimuli[probes[column]][k], x, y, side)
                page.write(x, y + side, f"{activations[probes[column], k]:.3f}", _FAINT)
    return page.image


def image_grid(rows: Sequence[tuple[str, Tensor]], side: int = 64) -> Image.Image:
    """Draw named rows of images `(N, C, H, W)`, uint8 or float in [0, 1]."""
    page = _Page(max(len(images) for _, images in rows), len(rows), (side, side), margin=100)
    for row, (name, images) in enumerate(rows):
        page.write(_GAP, page.corner(0, row)[1] + side // 2 - _LINE // 2, name, _INK)
        for column, image in enumerate(images):
            page.paste(image, *page.corner(column, row), side)
    return page.image


def to_tensor(picture: Image.Image) -> Tensor:
    """Return a picture as uint8 `(3, H, W)`."""
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.view(picture.height, picture.width, 3).permute(2, 0, 1)


def _names(direction: str) -> tuple[str, str]:
    """Return what stimuli and natural images of a probe in this direction are called."""
    if direction == "maximize":
        return "optimal stimulus", "best natural images"
    return "least exciting stimulus", "least exciting natural images"


def _caption(probe: Probe, k: int) -> str:
    if probe.is_silent[k]:
        return "silent"
    ratio = probe.ratio[k]
    natural = probe.natural_activations[k]
    alone = f"natural: {natural:.3f}" if natural < 0 else "natural: none"
    return f"{probe.activations[k]:.3f}   {alone if ratio.isnan() else f'{ratio:.2f} x natural'}"


def _margin(names: Sequence[str]) -> int:
    """Return the pixels that names take beside a strip, within reason."""
    font = ImageFont.load_default(_FONT_SIZE)
    widest = max((math.ceil(font.getlength(name)) for name in names), default=0)
    return min(max(_LEAST_MARGIN, widest + _GAP), _MOST_MARGIN)


class _Page:
    """White paper with a title and blocks of cells, each with a left margin for names."""

    def __init__(
        self,
        columns: int,
        rows: int,
        cell: tuple[int, int],
        margin: int = 0,
        header: int = 0,
        blocks: int = 1,
    ) -> None:
        self.cell, self.block = cell, margin + columns * (cell[0] + _GAP)
        self.left, self.top = _GAP + margin, _GAP + _LINE + 4 + header
        width = _GAP + blocks * self.block
        height = self.top + rows * (cell[1] + _GAP)
        self.image = Image.new("RGB", (max(width, 360), height), _PAPER)
        self._draw = ImageDraw.Draw(self.image)
        self._font = ImageFont.load_default(_FONT_SIZE)

    def corner(self, column: int, row: int, block: int = 0) -> tuple[int, int]:
        return (
            self.left + block * self.block + column * (self.cell[0] + _GAP),
            self.top + row * (self.cell[1] + _GAP),
        )

    def title(self, text: str) -> None:
        self.write(_GAP, _GAP, text, _INK)

    def write(self, x: int, y: int, text: str, colour: tuple[int, int, int]) -> None:
        self._draw.text((x, y), text, fill=colour, font=self._font)

    def cut(self, text: str, width: int) -> str:
        """Shorten a text to some pixels."""
        short = text
        while short and self._font.getlength(text) > width:
            short = short[:-1]
            text = f"{short}…"
        return text

    def paste(self, pixels: Tensor, x: int, y: int, side: int) -> None:
        if pixels.dtype != torch.uint8:
            pixels = (pixels.clamp(0.0, 1.0) * 255).round().to(torch.uint8)
        array = pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().cpu().numpy()
        picture = Image.fromarray(array).resize((side, side), Image.Resampling.NEAREST)
        self.image.paste(picture, (x, y))
