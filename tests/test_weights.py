import json

import pytest
import torch
from torch import nn

from spikelens.weights import read_weights, ship_weights

CONFIG = {
    "seed": 3,
    "data": {"a": 1},
    "model": {"b": 2},
    "trainer": {"max_epochs": 3},
    "folder": "/home/me",
}


def ship(path):
    module = nn.Linear(3, 2)
    ship_weights(module, path, "python train.py", CONFIG, {"test/loss": torch.tensor(0.25)})
    return module


def test_weights_come_back_and_the_card_tells_of_them(tmp_path):
    module = ship(tmp_path / "w" / "net.safetensors")
    state = read_weights(tmp_path / "w" / "net.safetensors")
    assert torch.equal(state["weight"], module.weight)
    card = json.loads((tmp_path / "w" / "net.json").read_text())
    assert card["metrics"] == {"test/loss": 0.25}
    assert card["bytes"] == (tmp_path / "w" / "net.safetensors").stat().st_size
    assert (card["recipe"], card["seed"], card["model"]) == ("python train.py", 3, {"b": 2})
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
