import pytest

from spikelens.am.neurons import Neuron, parse_neurons

UNITS = {"conv1": 4, "block.0.lif": 16}


def test_names_become_neurons():
    assert parse_neurons("conv1:2", UNITS) == [Neuron("conv1", 2)]
    assert parse_neurons(["block.0.lif:3-5"], UNITS) == [
        Neuron("block.0.lif", u) for u in (3, 4, 5)
    ]
    assert parse_neurons("conv1:*@max", UNITS) == [Neuron("conv1", u, "max") for u in range(4)]


def test_a_star_is_every_layer_and_takes_the_units_it_has():
    found = parse_neurons("*:2-5@max", UNITS)
    assert [str(n) for n in found] == [
        *(f"conv1:{u}@max" for u in (2, 3)),
        *(f"block.0.lif:{u}@max" for u in (2, 3, 4, 5)),
    ]
    assert len(parse_neurons("*:*", UNITS)) == 4 + 16


def test_each_neuron_once_in_order():
    found = parse_neurons(["conv1:2", "conv1:1-3", "conv1:2@centre"], UNITS)
    assert [str(n) for n in found] == ["conv1:2", "conv1:1", "conv1:3", "conv1:2@centre"]


def test_a_name_parses_to_itself():
    for neuron in parse_neurons(["conv1:*", "block.0.lif:7@membrane"], UNITS):
        assert parse_neurons(str(neuron), UNITS) == [neuron]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("conv9:0", r"conv1 \(0-3\), block.0.lif \(0-15\); got 'conv9:0'"),
        ("conv1:4", "from 0 to 3"),
        ("*:12-16", "from 0 to 15"),
        ("conv1:3-1", "first before last"),
        ("conv1", "names like conv2:7"),
        ("conv1:1,2", "names like conv2:7"),
        ("conv1:1@loud", "mean, centre, max, membrane"),
    ],
)
def test_what_is_wrong_is_said(name, says):
    with pytest.raises(ValueError, match=says):
        parse_neurons(name, UNITS)


def test_no_neuron_is_refused():
    with pytest.raises(ValueError, match="at least one neuron"):
        parse_neurons([], UNITS)
