import json

import pytest
import torch
from torch import nn

from spikelens.weights import load_trained, read_card, read_weights, round_to_half, ship_weights

CONFIG = {
    "seed": 3,
    "data": {"a": 1},
    "model": {"_target_": "b"},
    "trainer": {"max_epochs": 3, "accelerator": "auto", "logger": "mine"},
    "folder": "/home/me",
}


def ship(path, module=None, is_half=False):
    module = module or nn.Linear(3, 2)
    metrics = {"test/loss": torch.tensor(0.25)}
    ship_weights(module, path, "python train.py", CONFIG, metrics, is_half)
    return module


def test_weights_come_back_and_the_card_tells_of_them(tmp_path):
    module = ship(tmp_path / "w" / "net.safetensors")
    state = read_weights(tmp_path / "w" / "net.safetensors")
    assert torch.equal(state["weight"], module.weight)
    card = json.loads((tmp_path / "w" / "net.json").read_text())
    assert card["metrics"] == {"test/loss": 0.25}
    assert card["bytes"] == (tmp_path / "w" / "net.safetensors").stat().st_size
    assert card["recipe"] == "python train.py"
    assert card["config"] == {
        "seed": 3,
        "data": {"a": 1},
        "model": {"_target_": "b"},
        "trainer": {"max_epochs": 3, "accelerator": "auto"},
    }
    assert read_card(tmp_path / "w" / "net.safetensors") == card
    assert "/home" not in str(card)


def test_other_weights_than_the_card_s_are_refused(tmp_path):
    ship(tmp_path / "net.safetensors")
    card = (tmp_path / "net.json").read_text()
    ship(tmp_path / "net.safetensors")
    (tmp_path / "net.json").write_text(card)
    with pytest.raises(ValueError, match="must have its card's sha256"):
        read_weights(tmp_path / "net.safetensors")


def test_the_suffix_is_checked(tmp_path):
    with pytest.raises(ValueError, match=r"`export` must be a .safetensors file, but got"):
        ship(tmp_path / "net.pt")


def test_half_precision_is_for_parameters_alone(tmp_path):
    module = nn.BatchNorm1d(2)
    module.weight.data.copy_(torch.tensor([0.1, 3.0]))
    module.running_var.fill_(1e5)  # beyond float16
    ship(tmp_path / "full.safetensors", module)
    ship(tmp_path / "half.safetensors", module, is_half=True)
    assert read_card(tmp_path / "half.safetensors")["parameters"] == "float16"
    state = read_weights(tmp_path / "half.safetensors")
    assert torch.equal(state["weight"], module.weight.half().float())
    assert torch.equal(state["running_var"], module.running_var)
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < sizes[1]
    round_to_half(module)
    assert torch.equal(state["weight"], module.weight)


def test_a_module_may_choose_what_ships(tmp_path):
    module = nn.Linear(3, 2)
    module.shipped_state = lambda: {"bias": module.bias}
    ship(tmp_path / "net.safetensors", module)
    assert list(read_weights(tmp_path / "net.safetensors")) == ["bias"]


@pytest.mark.parametrize("content", [None, "no card", "{}", '{"config": {"model": 1}}'])
def test_weights_without_a_card_rebuild_no_run(tmp_path, content):
    ship(tmp_path / "net.safetensors")
    (tmp_path / "net.json").unlink()
    if content is not None:
        (tmp_path / "net.json").write_text(content)
    with pytest.raises(ValueError, match=r"must have a card beside it, net\.json"):
        read_card(tmp_path / "net.safetensors")


@pytest.mark.parametrize("error", [KeyError, RuntimeError, ValueError])
def test_whatever_a_module_refuses_is_something_else(tmp_path, error):
    def refuse(state):
        raise error("no")

    ship(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"weights of a net, but .* holds something else"):
        load_trained(tmp_path / "net.safetensors", refuse, "a net")
