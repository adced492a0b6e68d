import dataclasses
import functools
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from conftest import Bars
from hydra import compose, initialize_config_dir
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import OmegaConf
from PIL import Image

from spikelens.am.finding import Finding
from spikelens.am.neurons import Neuron
from spikelens.am.optimizers.random import RandomSearch
from spikelens.am.probe import SearchPlan, probe_neurons
from spikelens.am.search import StopReason
from spikelens.report.terminal import (
    _use,
    one_sentence_errors,
    print_closing,
    print_layers,
    report_probe,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def probe(tiny_network, natural):
    neurons = [Neuron("conv1", 0), Neuron("conv1", 1), Neuron("fc1", 3)]
    plan = SearchPlan(budget=5, num_starts=2)
    optimizer = functools.partial(RandomSearch, batch=2)
    return probe_neurons(tiny_network, Bars(side=8), neurons, natural, optimizer, plan)


@pytest.fixture(autouse=True)
def _plain(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # the interpreter is not below
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setenv("COLUMNS", "160")


class InstantiationError(Exception):
    """What Hydra wraps a constructor's error in."""


MISTAKES = [
    ValueError("Argument `x` must be 1."),
    FileNotFoundError("No file here."),
    ConnectionError("No network."),
    MisconfigurationException("No such accelerator."),
]


@pytest.mark.parametrize("error", MISTAKES, ids=lambda error: type(error).__name__)
def test_a_mistake_ends_in_one_sentence(error):
    with pytest.raises(SystemExit) as caught, one_sentence_errors():
        raise error
    assert caught.value.code == f"Error: {error}"


@pytest.mark.parametrize("error", MISTAKES, ids=lambda error: type(error).__name__)
def test_a_wrapped_mistake_speaks_for_itself(error):
    with pytest.raises(SystemExit) as caught, one_sentence_errors():
        raise InstantiationError("Error in call to target 'spikelens'") from error
    assert caught.value.code == f"Error: {error}"


def test_a_mistake_with_a_technical_cause_keeps_its_own_words():
    with pytest.raises(SystemExit) as caught, one_sentence_errors():
        raise ValueError("Argument `path` must be a file.") from KeyError("state_dict")
    assert caught.value.code == "Error: Argument `path` must be a file."


def test_bugs_come_through():
    with pytest.raises(ZeroDivisionError), one_sentence_errors():
        _ = 1 / 0
    with pytest.raises(InstantiationError), one_sentence_errors():
        raise InstantiationError("wrapped") from ZeroDivisionError()
    with pytest.raises(KeyboardInterrupt), one_sentence_errors():
        raise KeyboardInterrupt


def test_an_error_while_a_mistake_was_handled_is_a_bug():
    # Without `from`, the mistake is context, not cause.
    def handle_badly():
        try:
            raise ValueError("handled")
        except ValueError:
            return 1 / 0

    with pytest.raises(ZeroDivisionError), one_sentence_errors():
        handle_badly()


def test_only_the_first_line_is_said():
    with pytest.raises(SystemExit) as caught, one_sentence_errors():
        raise InstantiationError("wrapped") from ValueError("The point.\n  full_key: model.loss")
    assert caught.value.code == "Error: The point."


def test_a_mistake_without_words_is_still_a_mistake():
    with pytest.raises(SystemExit), one_sentence_errors():
        raise ValueError


def test_a_configuration_that_lacks_a_value_is_a_mistake():
    with pytest.raises(SystemExit) as caught, one_sentence_errors():
        _ = OmegaConf.create({"ckpt": "???"}).ckpt
    assert caught.value.code == "Error: Missing mandatory value: ckpt"


@pytest.mark.parametrize("value", ["1", "0"])
def test_the_traceback_can_be_asked_for(monkeypatch, value):
    monkeypatch.setenv("HYDRA_FULL_ERROR", value)
    wanted = ValueError if value == "1" else SystemExit
    with pytest.raises(wanted), one_sentence_errors():
        raise ValueError("once more")


def test_no_error_no_words(capsys):
    with one_sentence_errors():
        pass
    assert capsys.readouterr() == ("", "")


def test_closing_lines_of_a_classifier(tmp_path, capsys):
    (tmp_path / "panels").mkdir()
    for name in ("conv1_epoch003.png", "filmstrip.png", "output_epoch003.png"):
        (tmp_path / "panels" / name).touch()
    (tmp_path / "checkpoints").mkdir()
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.touch()
    metrics = {"val/accuracy": 0.91239, "am/ratio/conv1": 1.5, "rate/conv1": 0.1}
    metrics |= {"silent/conv1": 0.25, "am_neurons/ratio/conv1.0": 2.0}
    print_closing(metrics, str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["am/ratio/conv1", "1.5000"],
        ["val/accuracy", "0.9124"],
    ]
    assert str(tmp_path / "panels") in lines[2]
    assert "(begin with filmstrip.png)" in lines[2]
    assert f"{sys.executable} probe.py ckpt={last}" in lines[3]
    assert lines[4].endswith(f"{sys.executable} -m tensorboard.main --logdir {tmp_path}")
    assert len(lines) == 5


def test_closing_lines_of_a_generator(tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.touch()
    print_closing({"val/relative_mse": 0.1}, tmp_path)
    out = capsys.readouterr().out
    assert f"train.py +am=enabled data=… generator=vqvae generator.path={last}" in out
    assert "probe.py" not in out
    assert "Pictures and tables" not in out


@pytest.mark.parametrize(
    ("metrics", "command"),
    [
        (
            {"val/relative_mse": 0.1, "val/perplexity": 9.0},
            "train.py +am=enabled data=… generator=vqvae generator.path=last.ckpt",
        ),
        (
            {"val/score": 0.1, "val/encoder_relative_mse": 0.5},
            "train.py +am=enabled data=… generator=sngan generator.path=last.ckpt",
        ),
        ({"val/accuracy": 0.9, "rate/conv1": 0.1}, "probe.py ckpt=last.ckpt"),
        (
            {"val/accuracy": 0.9},
            "train.py model=sngan data=… +panels@callbacks.fidelity=fidelity "
            "callbacks.fidelity.extractor=last.ckpt",
        ),
    ],
    ids=["VQ-VAE", "SN-GAN", "spiking classifier", "feature extractor"],
)
def test_each_kind_of_module_has_a_use(metrics, command):
    assert _use(metrics, "last.ckpt") == command
    # But for the data, which are the user's choice, it is a command that Hydra takes.
    program, *overrides = command.replace("data=…", "data=shapes").split()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        compose(program.removesuffix(".py"), overrides)


def test_closing_lines_of_a_run_that_kept_nothing(tmp_path, capsys):
    print_closing({}, tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        f"Curves and panels: {sys.executable} -m tensorboard.main --logdir {tmp_path}"
    ]


def test_an_environment_below_is_named_from_here(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    print_closing({}, "logs/a run")
    wanted = ".venv/bin/python -m tensorboard.main --logdir 'logs/a run'"
    assert capsys.readouterr().out == f"Curves and panels: {wanted}\n"


def test_layers_are_printed_with_the_names_of_their_neurons(capsys):
    print_layers({"conv1": (200, 14, 14), "block1.mid": (8, 3, 5), "fc1": (100,)})
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [[cell.strip() for cell in row[1:-1]] for row in rows] == [
        ["conv1", "200", "14 x 14", "conv1:0-199"],
        ["block1.mid", "8", "3 x 5", "block1.mid:0-7"],
        ["fc1", "100", "-", "fc1:0-99"],
    ]


def test_a_probe_is_printed_and_written(probe, tmp_path, capsys):
    search = dataclasses.replace(
        probe.search,
        presentations=torch.tensor([5, 4, 2]),
        seconds=1.26,
        stop=StopReason.SATURATED,
    )
    report_probe(dataclasses.replace(probe, search=search), tmp_path)
    out = capsys.readouterr().out
    for neuron in probe.neurons:
        assert str(neuron) in out
    assert "11 images shown in 1.3 s (every neuron at its ceiling)." in out
    assert f"Pictures and tables: {tmp_path}" in out
    table = pyarrow.parquet.read_table(tmp_path / "neurons.parquet")
    assert table["neuron"].to_pylist() == ["conv1:0", "conv1:1", "fc1:3"]
    assert table["epoch"].to_pylist() == [-1] * 3
    assert (tmp_path / "neurons.csv").is_file()
    for layer in ("conv1", "fc1"):
        with Image.open(tmp_path / f"{layer}.png") as picture:
            picture.verify()


def test_the_terminal_counts_all_searches_and_says_what_was_not_found(probe, tmp_path, capsys):
    search = dataclasses.replace(probe.search, presentations=torch.tensor([5, 4, 2]), seconds=1.0)
    nothing = torch.full((3,), torch.nan)
    other = Finding(
        search.indices,
        probe.stimuli * torch.nan,
        torch.tensor([0.5, torch.nan, 0.5]),
        *(nothing, nothing),
        probe.elites,
        search,
    )
    changed = {"others": (other,), "other_realism": (nothing,), "direction": "minimize"}
    report_probe(dataclasses.replace(probe, search=search, **changed), tmp_path)
    out = capsys.readouterr().out
    assert "22 images shown in 2.0 s (budget spent)." in out
    assert "conv1:1: no stimulus #2 found far enough from the others." in out
    assert out.count("no stimulus") == 1
    assert "What excites these neurons least" in out


def test_a_probe_makes_its_folder(probe, tmp_path, capsys):
    report_probe(probe, tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder" / "neurons.csv").is_file()


@pytest.mark.parametrize("is_saved", [True, False])
def test_an_interrupted_run_says_how_to_go_on(tmp_path, capsys, is_saved):
    last = tmp_path / "checkpoints" / "last.ckpt"
    if is_saved:
        last.parent.mkdir()
        last.touch()
    with pytest.raises(SystemExit) as caught, one_sentence_errors(tmp_path):
        raise SIGTERMException
    assert caught.value.code == 143
    said = capsys.readouterr().err
    assert (f"ckpt_path={last}" in said) == is_saved
    assert ("Nothing was saved" in said) != is_saved
