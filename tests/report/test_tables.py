import csv
import dataclasses
import math

import pyarrow.parquet
import pytest
from rich.console import Console

from spikelens.report.tables import MEASURES, layer_means, rows_table, write_rows
from spikelens.tracking import Row

NAN = math.nan
LOUD = Row(
    2, "conv1", 0, "conv1:0", 0.75, 0.5, 1.5, "cat, small", 0.25, 0.9, 0.125, False, 100, 0.375
)
SOFT = Row(2, "conv1", 1, "conv1:1@max", 0.25, 0.0, NAN, "dog", 0.75, 0.5, 0.5, False, 100)
MUTE = Row(2, "fc1", 3, "fc1:3", 0.0, 0.0, NAN, "", NAN, NAN, NAN, True, 7)


def same(one, other):
    return repr(dataclasses.asdict(one)) == repr(dataclasses.asdict(other))  # NaN equals NaN here


def test_parquet_gives_the_rows_back(tmp_path):
    write_rows([LOUD, SOFT, MUTE], tmp_path / "neurons")
    table = pyarrow.parquet.read_table(tmp_path / "neurons.parquet")
    assert table.column_names == [field.name for field in dataclasses.fields(Row)]
    found = [Row(**row) for row in table.to_pylist()]
    assert all(map(same, found, [LOUD, SOFT, MUTE]))
    assert table["is_silent"].type == "bool"
    assert table["activation"].null_count == table["ratio"].null_count == 0


def test_csv_gives_the_rows_back(tmp_path):
    write_rows([LOUD, SOFT, MUTE], tmp_path / "neurons")
    with (tmp_path / "neurons.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    kinds = {field.name: field.type for field in dataclasses.fields(Row)}
    read = {bool: lambda text: {"true": True, "false": False}[text]}
    found = [
        Row(**{name: read.get(kinds[name], kinds[name])(text) for name, text in line.items()})
        for line in lines
    ]
    assert all(map(same, found, [LOUD, SOFT, MUTE]))


def test_writing_again_replaces(tmp_path):
    write_rows([LOUD, SOFT], tmp_path / "neurons")
    write_rows([MUTE], tmp_path / "neurons")
    assert pyarrow.parquet.read_table(tmp_path / "neurons.parquet").num_rows == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["neurons.csv", "neurons.parquet"]


def test_read_outs_are_averaged_apart():
    means = layer_means([LOUD, SOFT])
    assert {name: mean["activation"] for name, mean in means.items()} == {
        "conv1": 0.75,
        "conv1@max": 0.25,
    }


def test_populations_are_averaged_apart_and_with_membranes_again():
    names = ["0.5*fc1:1+2*fc1:3", "fc1:1-fc1:3@max", "fc1:1+2*fc1:3@membrane"]
    rows = [
        dataclasses.replace(LOUD, layer="population", unit=-1, neuron=name, activation=float(k))
        for k, name in enumerate(names)
    ]
    means = layer_means([LOUD, *rows])
    assert {name: mean["activation"] for name, mean in means.items()} == {
        "conv1": 0.75,
        "population": 0.5,
        "population@membrane": 2.0,
    }


def test_a_long_name_is_told_whole():
    name = "0.5*conv2:3@latency-0.25*conv2:7@steps0-3+fc1:101@membrane"
    console = Console(width=80)
    with console.capture() as capture:
        console.print(rows_table([dataclasses.replace(LOUD, neuron=name)]))
    lines = capture.get().splitlines()
    assert "".join(line.strip().split(" ")[0] for line in lines[3:]) == name
    assert all(len(line.rstrip()) <= 80 for line in lines)


def test_layer_means_are_over_the_neurons_that_have_a_value():
    mute = dataclasses.replace(MUTE, layer="conv1", neuron="conv1:3")
    soft = dataclasses.replace(SOFT, neuron="conv1:1")
    means = layer_means([LOUD, MUTE, soft, mute])
    assert list(means) == ["conv1", "fc1"]
    assert set(means["conv1"]) == {*MEASURES, "fraction_silent"}
    wanted = {
        "activation": (0.75 + 0.25 + 0.0) / 3,
        "ratio": 1.5,
        "realism": 0.375,
        "class_selectivity": 0.5,
        "auroc": 0.7,
        "lifetime_sparseness": 0.3125,
        "fraction_silent": 1 / 3,
    }
    assert means["conv1"] == pytest.approx(wanted)
    assert means["fc1"]["activation"] == 0.0
    assert means["fc1"]["fraction_silent"] == 1.0
    assert all(math.isnan(means["fc1"][name]) for name in MEASURES[1:])


def test_no_rows_have_no_means():
    assert layer_means([]) == {}


def test_the_terminal_shows_numbers_and_says_silent():
    console = Console(width=160)
    with console.capture() as capture:
        console.print(rows_table([LOUD, MUTE], title="What they want"))
    lines = capture.get().splitlines()
    loud = next(line for line in lines if "conv1:0" in line)
    mute = next(line for line in lines if "fc1:3" in line)
    assert "What they want" in lines[0]
    for text in ("0.750", "0.500", "1.500", "cat, small", "0.250", "0.900", "0.125"):
        assert text in loud
    assert "silent" in mute
    assert "nan" not in mute
    assert mute.count("-") == 5  # ratio, realism and three measures


def test_noise_and_further_stimuli_show_in_the_table():
    second = dataclasses.replace(LOUD, stimulus=1, activation=0.625, standard_error=0.0125)
    console = Console(width=80)
    with console.capture() as capture:
        console.print(rows_table([LOUD, second]))
    heading, _, loud, other = [line for line in capture.get().splitlines() if line.strip()]
    assert " ".join(heading.split()) == "neuron found error natural ratio realism class CSI AUROC"
    assert loud.split()[:3] == ["conv1:0", "0.750", "-"]
    assert other.split()[:3] == ["conv1:0#2", "0.625", "0.013"]
    with console.capture() as capture:
        console.print(rows_table([LOUD]))
    assert "error" not in capture.get()
    assert "sparse" in capture.get()


def test_means_are_over_first_stimuli():
    second = dataclasses.replace(LOUD, stimulus=1, activation=0.25)
    assert layer_means([LOUD, second]) == layer_means([LOUD])
