import math

import pytest

from spikelens.am.neurons import Neuron, Population, Term, parse_neurons, single_neurons

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


def test_time_steps_are_a_read_out():
    steps = {"conv1": 8, "block.0.lif": 8}
    found = parse_neurons("conv1:0-1@steps04-7", UNITS, steps)
    assert found == [Neuron("conv1", 0, "steps4-7"), Neuron("conv1", 1, "steps4-7")]
    assert [str(neuron) for neuron in found] == ["conv1:0@steps4-7", "conv1:1@steps4-7"]
    assert parse_neurons("conv1:0@steps4-99", UNITS)  # unchecked, as the steps are not known


A, B = Neuron("conv1", 3), Neuron("block.0.lif", 7)
LATE, EARLY = Neuron("conv1", 3, "latency"), Neuron("block.0.lif", 7, "steps0-2")


@pytest.mark.parametrize(
    ("name", "terms", "written"),
    [
        ("0.5*conv1:3+0.50*block.0.lif:7", [(0.5, A), (0.5, B)], "0.5*conv1:3+0.5*block.0.lif:7"),
        ("conv1:3 + conv1:3 - 1*block.0.lif:7", [(1, A), (1, A), (-1, B)], None),
        ("conv1:3@latency-2.0*block.0.lif:7@steps0-2", [(1, LATE), (-2, EARLY)], None),
        ("block.0.lif:7@steps0-2-2*conv1:3", [(1, EARLY), (-2, A)], None),
        ("-conv1:3", [(-1, A)], "-conv1:3"),
        ("- 10 * conv1:3", [(-10, A)], "-10*conv1:3"),
        (
            ".00001*conv1:3+1000000*conv1:3",
            [(1e-5, A), (1e6, A)],
            "0.00001*conv1:3+1000000*conv1:3",
        ),
    ],
)
def test_sums_are_populations_and_parse_to_themselves(name, terms, written):
    (found,) = parse_neurons(name, UNITS, {"conv1": 4, "block.0.lif": 4})
    assert found == Population(tuple(Term(*term) for term in terms))
    assert (found.layer, found.unit) == ("population", -1)
    assert written is None or str(found) == written
    assert parse_neurons(str(found), UNITS) == [found]
    assert " " not in str(found)


def test_layers_with_numbers_for_names_can_be_summed():
    units = {"1": 4, "0.lif": 4}
    (found,) = parse_neurons("1:3-2*0.lif:1-1:2", units)
    assert [(weight, str(one)) for weight, one in found.terms] == [
        *((1.0, "1:3"), (-2.0, "0.lif:1"), (-1.0, "1:2"))
    ]
    assert [str(one) for one in parse_neurons("1:2-3", units)] == ["1:2", "1:3"]


def test_a_sum_of_one_is_that_neuron():
    assert parse_neurons(["conv1:3", "+conv1:3", "1.0*conv1:3", "+1*conv1:3"], UNITS) == [A]


def test_single_neurons_are_those_of_populations_too():
    found = parse_neurons(["conv1:2", "conv1:3+conv1:2-block.0.lif:7", "conv1:3"], UNITS)
    assert list(map(str, single_neurons(found))) == ["conv1:2", "conv1:3", "block.0.lif:7"]


@pytest.mark.parametrize(
    ("name", "floor", "ceiling"),
    [
        *(("conv1:3", 0, 1), ("conv1:3@latency", 0, 1), ("conv1:3@steps0-1", 0, 1)),
        *(("conv1:3@contrast", -1, 1), ("conv1:3@membrane", -math.inf, math.inf)),
        *(("0.5*conv1:3+2*conv1:2@max", 0, 2.5), ("0.5*conv1:3-2*conv1:2", -2, 0.5)),
        *(("-conv1:3", -1, 0), ("conv1:1-0.5*conv1:3@contrast", -0.5, 1.5)),
        ("conv1:1-0.5*conv1:3@membrane", -math.inf, math.inf),
    ],
)
def test_what_activations_can_be(name, floor, ceiling):
    (neuron,) = parse_neurons(name, UNITS)
    assert (neuron.floor, neuron.ceiling) == (floor, ceiling)
    assert neuron.is_rate == (floor == 0)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("conv9:0", r"conv1 \(0-3\), block.0.lif \(0-15\), one \(0-0\); got 'conv9:0'"),
        ("conv1:4", "from 0 to 3"),
        ("*:12-16", "from 0 to 15"),
        ("conv1:3-1", "first before last"),
        ("conv1", "names like conv2:7"),
        ("conv1:1,2", "names like conv2:7"),
        (
            "conv1:1@loud",
            "mean, centre, max, membrane, latency, contrast or time steps like steps4-7",
        ),
        ("conv1:1@steps3", "time steps like steps4-7, but got 'conv1:1@steps3'"),
        (
            "conv1:1@steps2-4",
            "time steps from 0 to 3 in conv1, first before last, but got 'steps2-4'",
        ),
        ("conv1:1@steps2-1", "first before last, but got 'steps2-1'"),
        ("conv1:1+conv1:2@steps0-4", "time steps from 0 to 3 in conv1"),
        ("one:0@contrast", "two units or more, but one has one"),
        ("conv1:0-1+conv1:2", "sums of single units"),
        ("conv1:*+conv1:2", "sums of single units"),
        ("conv1:1+", "sums of single units"),
        ("2*", "sums of single units"),
        ("", "sums of single units"),
        ("conv1:1 conv1:2", "sums of single units"),
        ("0*conv1:1+conv1:2", "weights other than 0, but got '0"),
        ("conv1:1+conv1:4", "from 0 to 3 there, first before last, but got 'conv1:4'"),
        ("conv1:1+conv9:0", "name a spiking layer .*; got 'conv9:0'"),
    ],
)
def test_what_is_wrong_is_said(name, says):
    with pytest.raises(ValueError, match=says):
        parse_neurons(name, UNITS | {"one": 1}, {"conv1": 4, "block.0.lif": 4, "one": 4})


def test_no_neuron_is_refused():
    with pytest.raises(ValueError, match="at least one neuron"):
        parse_neurons([], UNITS)
