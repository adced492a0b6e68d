import dataclasses
import functools

import pytest
import torch
from conftest import Bars
from PIL import Image

from spikelens.am.finding import Finding
from spikelens.am.neurons import Neuron, Population, Term
from spikelens.am.optimizers.random import RandomSearch
from spikelens.am.probe import SearchPlan, probe_neurons
from spikelens.report.figures import filmstrip, image_grid, layer_panel, to_tensor
from spikelens.tracking import History

# No text has these colours: what has them was pasted.
RED, GREEN, BLUE, CYAN = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 255, 255)
PINK = (255, 0, 255)


def flat(colour, size=2):
    return torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1).repeat(1, size, size)


def corner_of(picture, colour, side):
    """Top left corner of the one `side x side` square that has a colour."""
    rows, columns = (to_tensor(picture) == flat(colour, 1)).all(0).nonzero().T
    assert len(rows) == side * side, f"{len(rows)} pixels have the colour"
    assert rows.max() - rows.min() == columns.max() - columns.min() == side - 1
    return int(columns.min()), int(rows.min())


def probe_of(network, natural, neurons):
    plan = SearchPlan(budget=5, num_starts=2)
    optimizer = functools.partial(RandomSearch, batch=2)
    return probe_neurons(network, Bars(side=8), neurons, natural, optimizer, plan)


@pytest.fixture
def grey_probe(tiny_network, natural):
    neurons = [Neuron("conv1", 0), Neuron("conv1", 1), Neuron("conv1", 2), Neuron("fc1", 3)]
    return probe_of(tiny_network, natural, neurons)


@pytest.fixture
def probe(grey_probe):
    """The four neurons want red, yellow, white and cyan; the natural images are black."""
    colours = [RED, (255, 255, 0), (255, 255, 255), CYAN]
    return dataclasses.replace(
        grey_probe,
        stimuli=torch.stack([flat(colour) for colour in colours]) / 255,
        natural_top=torch.zeros(4, 4, 3, 2, 2, dtype=torch.uint8),
    )


def test_a_panel_has_a_cell_for_each_neuron_of_the_layer(probe):
    side = 40
    panel = layer_panel(probe, "conv1", columns=2, side=side)
    assert panel.mode == "RGB"
    # Three neurons: 2 x 2 cells. A cell is 2 sides (+ 2) wide, a side and two lines of 13 high;
    # gaps of 6 around and between; above them a title of one line and 4 pixels.
    assert panel.size == (max(360, 6 + 2 * (82 + 6)), 6 + 13 + 4 + 2 * (40 + 26 + 6))
    assert layer_panel(probe, "conv1", columns=9, side=100).width == 6 + 3 * (202 + 6)
    assert corner_of(panel, RED, side) == (6, 23)
    assert corner_of(panel, (255, 255, 0), side) == (6 + 82 + 6, 23)
    assert (to_tensor(panel) == flat(CYAN, 1)).all(0).sum() == 0  # of another layer
    corner_of(layer_panel(probe, "fc1", side=side), CYAN, side)


def other_of(probe, colours, activations):
    """A further stimulus of each neuron, of a colour, .75 from the first."""
    stimuli = torch.stack([flat(colour) for colour in colours]) / 255
    activations = torch.tensor(activations)
    return Finding(
        indices=probe.search.indices,
        stimuli=stimuli,
        activations=activations,
        standard_errors=torch.zeros(4),
        distances=torch.full((4,), 0.75),
        elites=probe.elites,
        search=probe.search,
    )


def test_further_stimuli_stand_between_the_first_and_natural_images(probe):
    black = (0, 0, 0)
    others = [
        other_of(probe, [GREEN, black, black, black], [0.5] * 4),
        other_of(probe, [BLUE, PINK, black, black], [0.5, torch.nan, 0.5, 0.5]),
    ]
    natural = probe.natural_top.clone()
    natural[0, 0] = flat(CYAN)
    probe = dataclasses.replace(probe, others=tuple(others), natural_top=natural)
    panel = layer_panel(probe, "conv1", columns=4, side=40)
    # Four sides a neuron instead of two: two neurons in a row instead of four.
    assert panel.size == (max(360, 6 + 2 * (3 * 42 + 40 + 6)), 23 + 2 * (40 + 26 + 6))
    x, y = corner_of(panel, RED, 40)
    found = [corner_of(panel, colour, 40) for colour in (GREEN, BLUE)]
    assert found == [(x + 42, y), (x + 84, y)]
    assert corner_of(panel, CYAN, 20) == (x + 126, y)
    assert (to_tensor(panel) == flat(PINK, 1)).all(0).sum() == 0  # none was found there


def test_titles_tell_the_direction(probe):
    def titles(probe):
        history = History()
        history.append(probe, 0, None)
        pictures = layer_panel(probe, "conv1"), filmstrip(history, probe.natural_top)
        return [to_tensor(picture)[:, :20] for picture in pictures]

    down = titles(dataclasses.replace(probe, direction="minimize"))
    for one, other in zip(titles(probe), down, strict=True):
        assert not torch.equal(one, other)


def test_natural_images_stand_in_a_square_beside_the_stimulus(probe):
    natural = probe.natural_top.clone()
    for rank, colour in enumerate((GREEN, BLUE, CYAN, PINK)):
        natural[0, rank] = flat(colour)
    panel = layer_panel(dataclasses.replace(probe, natural_top=natural), "conv1", side=40)
    x, y = corner_of(panel, RED, 40)
    found = [corner_of(panel, colour, 20) for colour in (GREEN, BLUE, CYAN, PINK)]
    assert found == [(x + 42, y), (x + 62, y), (x + 42, y + 20), (x + 62, y + 20)]


def test_fewer_natural_images_leave_their_places_white(probe):
    natural = probe.natural_top[:, :1].clone()
    natural[0, 0] = flat(GREEN)
    panel = layer_panel(dataclasses.replace(probe, natural_top=natural), "conv1", side=40)
    x, y = corner_of(panel, GREEN, 20)
    beside = to_tensor(panel)[:, y : y + 40, x + 20 : x + 40]
    assert (beside == 255).all()


def test_pixels_are_enlarged_without_blur(probe):
    # 2 x 2 pixels of four colours on 40 x 40: four squares of 20.
    stimuli = probe.stimuli.clone()
    quarters = [(RED, 0, 0), (GREEN, 0, 1), (BLUE, 1, 0), (PINK, 1, 1)]
    for colour, row, column in quarters:
        stimuli[0, :, row, column] = flat(colour, 1).view(3) / 255
    panel = layer_panel(dataclasses.replace(probe, stimuli=stimuli), "conv1", side=40)
    x, y = corner_of(panel, RED, 20)
    for colour, row, column in quarters:
        assert corner_of(panel, colour, 20) == (x + 20 * column, y + 20 * row)


def test_grey_images_and_values_out_of_range():
    image = torch.tensor([[-1.0, 0.0], [0.5, 7.0]]).view(1, 1, 2, 2)
    grid = to_tensor(image_grid([("grey", image)], side=2))
    # A grid's left margin is 100 pixels and the gap of 6; its title leaves 23 above.
    assert grid[:, 23:25, 106:108].tolist() == [[[0, 0], [128, 255]]] * 3


def test_a_grey_probe_is_drawn(grey_probe):
    panel = to_tensor(layer_panel(grey_probe, "fc1", side=16))
    wanted = (grey_probe.stimuli[3] * 255).round().to(torch.uint8)
    wanted = wanted.repeat_interleave(2, 1).repeat_interleave(2, 2).expand(3, -1, -1)
    assert torch.equal(panel[:, 23 : 23 + 16, 6 : 6 + 16], wanted)


def test_captions_differ_and_survive_nan(probe):
    def caption(k, **values):
        changed = dataclasses.replace(probe, **values)
        panel = to_tensor(layer_panel(changed, "conv1", columns=1, side=40))
        top = 23 + k * (40 + 26 + 6) + 40 + 13  # the second line below the stimulus
        return panel[:, top : top + 13]

    ones = torch.ones(4)
    loud = {"activations": ones, "natural_activations": ones / 2, "is_silent": ones == 0}
    silent = {"activations": 0 * ones, "natural_activations": 0 * ones, "is_silent": ones == 1}
    only_stimulus = {**loud, "natural_activations": 0 * ones}
    drawn = [caption(0, **values) for values in (loud, silent, only_stimulus)]
    assert all((each < 255).any() for each in drawn)
    assert not any(torch.equal(drawn[a], drawn[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert torch.equal(caption(1, **silent), drawn[1])


def test_a_filmstrip_has_a_row_a_neuron_and_a_column_an_epoch(probe):
    history = History()
    for epoch, colours in ((0, [RED, GREEN]), (3, [BLUE, CYAN])):
        stimuli = probe.stimuli.clone()
        for k, colour in enumerate(colours):
            stimuli[k] = flat(colour) / 255
        stimuli[2:] = 0.0
        history.append(dataclasses.replace(probe, stimuli=stimuli), epoch, None)
    natural = torch.zeros(4, 3, 3, 2, 2, dtype=torch.uint8)
    natural[1, 0], natural[0, 2] = flat(PINK), flat((255, 255, 0))
    side = 80
    strip = filmstrip(history, natural, side=side)
    # Four rows, two epochs and two natural images; cells are a line of 13 higher than wide, names
    # take 76 pixels on the left, the title and the headings 23 + 13 above.
    assert strip.size == (6 + 76 + 4 * (80 + 6), 36 + 4 * (80 + 13 + 6))
    left, top, right, down = 82, 36, 86, 99
    assert corner_of(strip, RED, side) == (left, top)
    assert corner_of(strip, GREEN, side) == (left, top + down)
    assert corner_of(strip, BLUE, side) == (left + right, top)
    assert corner_of(strip, CYAN, side) == (left + right, top + down)
    assert corner_of(strip, PINK, side) == (left + 2 * right, top + down)
    assert (to_tensor(strip) == flat((255, 255, 0), 1)).all(0).sum() == 0  # third natural image


@pytest.mark.parametrize("num_terms", [2, 40])
def test_long_names_stand_beside_the_strip_and_under_a_cell_only(tiny_network, natural, num_terms):
    terms = [Term(0.25, Neuron("conv1", k % 4)) for k in range(num_terms)]
    probe = probe_of(tiny_network, natural, [Neuron("conv1", 0), Population(tuple(terms))])
    probe = dataclasses.replace(probe, stimuli=torch.zeros(2, 3, 2, 2))
    probe.stimuli[1] = flat(RED) / 255
    history = History()
    history.append(probe, epoch=0, start=None)
    strip = filmstrip(history, torch.zeros(2, 0, 3, 2, 2, dtype=torch.uint8), side=60)
    left, top = corner_of(strip, RED, 60)  # whole: no name was written on it
    assert 6 + 76 < left <= 6 + 190
    assert top == 36 + 60 + 13 + 6
    beside = to_tensor(strip)[:, top : top + 60, left - 6 : left]
    assert (beside == 255).all()
    panel = layer_panel(probe, "population", columns=1, side=40)
    name = to_tensor(panel)[:, 23 + 40 : 23 + 40 + 13]  # the first line below the stimulus
    assert (name < 255).any()
    assert (name[:, :, 6 + 82 :] == 255).all()


def test_a_negative_natural_activation_is_told(probe):
    def caption(natural):
        natural_activations = torch.full((4,), natural)
        changed = dataclasses.replace(
            probe, natural_activations=natural_activations, is_silent=torch.zeros(4).bool()
        )
        return to_tensor(layer_panel(changed, "fc1", columns=1, side=40))

    assert not torch.equal(caption(-0.25), caption(0.0))  # "natural: none"
    assert not torch.equal(caption(-0.25), caption(-0.5))


def test_of_many_epochs_twelve_are_drawn(probe):
    history = History()
    for epoch in range(24):
        stimuli = torch.zeros_like(probe.stimuli)
        stimuli[0] = flat(GREEN if epoch == 23 else RED if epoch == 0 else (0, 0, epoch)) / 255
        history.append(dataclasses.replace(probe, stimuli=stimuli), epoch, None)
    strip = filmstrip(history, torch.zeros(4, 0, 3, 2, 2, dtype=torch.uint8), side=20)
    assert strip.width == 6 + 76 + 12 * 26
    assert corner_of(strip, RED, 20) == (82, 36)
    assert corner_of(strip, GREEN, 20) == (82 + 11 * 26, 36)


def test_many_neurons_over_few_epochs_stand_side_by_side(tiny_network, natural):
    many = probe_of(tiny_network, natural, [Neuron("fc1", unit) for unit in range(22)])
    stimuli = torch.zeros(22, 3, 2, 2)
    stimuli[10], stimuli[11] = flat(RED) / 255, flat(GREEN) / 255
    history = History()
    history.append(dataclasses.replace(many, stimuli=stimuli), epoch=0, start=None)
    strip = filmstrip(history, torch.zeros(22, 1, 3, 2, 2, dtype=torch.uint8), side=20)
    # Two columns of 26 and 22 rows of 39: sixteen times as tall as wide, so four blocks.
    block = 76 + 2 * 26
    assert strip.size == (6 + 4 * block, 36 + 6 * 39)
    assert corner_of(strip, RED, 20) == (82 + block, 36 + 4 * 39)
    assert corner_of(strip, GREEN, 20) == (82 + block, 36 + 5 * 39)


def test_a_grid_of_rows_of_different_lengths():
    rows = [
        ("two", torch.stack([flat(RED), flat(GREEN)])),
        ("three", torch.stack([flat(BLUE), flat(CYAN), flat(PINK)]) / 255),
    ]
    grid = image_grid(rows, side=30)
    assert grid.size == (max(360, 106 + 3 * 36), 23 + 2 * 36)
    assert corner_of(grid, GREEN, 30) == (106 + 36, 23)
    assert corner_of(grid, PINK, 30) == (106 + 72, 23 + 36)


def test_a_picture_becomes_a_tensor():
    picture = Image.new("RGB", (3, 2), (1, 2, 3))
    picture.putpixel((2, 1), (7, 8, 9))
    pixels = to_tensor(picture)
    assert pixels.shape == (3, 2, 3)
    assert pixels.dtype == torch.uint8
    assert pixels[:, 1, 2].tolist() == [7, 8, 9]
    assert pixels[:, 0, 0].tolist() == [1, 2, 3]
