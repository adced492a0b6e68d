"""Weights that ship: a safetensors file and the card beside it."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)

# What rebuilds a run, or tells one from another; the rest says where its output went.
_ON_CARD = ("seed", "shipped", "data", "model", "generator")


def ship_weights(
    module: nn.Module,
    path: str | Path,
    recipe: str,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    is_half: bool = False,
) -> None:
    """Write a module's state and its card.

    Args:
        module: The trained module; what its `shipped_state` returns is written, if it has one,
            and else its state_dict.
        path: A `.safetensors` file; the card is the `.json` file of the same name.
        recipe: The command that made it.
        config: The run's configuration, of which what describes the module goes on the card.
        metrics: Name and value of what was measured on it.
        is_half: Whether the parameters are stored as float16; buffers keep their precision. What
            was measured should have been after `round_to_half`.

    Raises:
        ValueError: If the path has another suffix.
    """
    path = weights_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = getattr(module, "shipped_state", module.state_dict)()
    parameters = {name for name, _ in module.named_parameters()} if is_half else set()
    content = safetensors.torch.save(
        {
            name: value.detach()
            .to("cpu", torch.float16 if name in parameters else None)
            .contiguous()
            for name, value in state.items()
        }
    )
    trainer = config["trainer"]
    card = {
        "recipe": recipe,
        "metrics": {name: round(float(value), 5) for name, value in sorted(metrics.items())},
        "parameters": "float16" if is_half else "float32",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "config": {
            **{part: config[part] for part in _ON_CARD if part in config},
            "trainer": {name: trainer[name] for name in ("max_epochs", "accelerator")},
        },
    }
    path.write_bytes(content)
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")


def round_to_half(module: nn.Module) -> None:
    """Round a module's parameters to what float16 can hold; they stay what they are in type."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.half())


def weights_path(path: str | Path) -> Path:
    """Return where weights are to be written.

    Raises:
        ValueError: If the suffix is not `.safetensors`.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"Argument `export` must be a .safetensors file, but got {path}.")
    return path


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read shipped weights; if there is a card beside them they must be the ones it describes.

    Returns:
        The state; what was stored as float16 is float32.

    Raises:
        ValueError: If the file's sha256 is not its card's.
    """
    path = Path(path)
    content, card = path.read_bytes(), path.with_suffix(".json")
    if card.is_file():
        wanted = json.loads(card.read_text())["sha256"]
        found = hashlib.sha256(content).hexdigest()
        if wanted != found:
            raise ValueError(
                f"File {path} must have its card's sha256, {wanted[:12]}…, but has {found[:12]}…."
            )
    state = safetensors.torch.load(content)
    return {
        name: value.float() if value.dtype == torch.float16 else value
        for name, value in state.items()
    }


def load_trained(
    path: str | Path, from_state: Callable[[Mapping[str, Tensor]], Module], kind: str
) -> Module:
    """Rebuild a trained module from a file.

    Args:
        path: A Lightning checkpoint (`.ckpt`), or shipped weights (`.safetensors`) whose sha256
            stands in the card beside them (`.json`).
        from_state: Builds the module from its state_dict.
        kind: What it is, for messages: `a VQ-VAE`.

    Returns:
        The module, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds something else, or is not the one its card describes.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"Argument `path` must be a .ckpt or .safetensors file of {kind}, but found no {path}."
        )
    other = f"Argument `path` must name the weights of {kind}, but {path} holds something else."
    try:
        if file.suffix == ".safetensors":
            state = read_weights(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    except ValueError:
        raise  # not the file its card describes
    except Exception as error:  # each format fails in its own way on something else
        raise ValueError(other) from error
    try:
        return from_state(state)
    except Exception as error:
        raise ValueError(other) from error


def read_card(path: str | Path) -> dict[str, Any]:
    """Read the card beside shipped weights.

    Raises:
        ValueError: If there is none, or it is not one of ours.
    """
    card = Path(path).with_suffix(".json")
    try:
        content: dict[str, Any] = json.loads(card.read_text())
        content["config"]["model"]["_target_"]
    except Exception as error:
        raise ValueError(f"File {path} must have a card beside it, {card.name}.") from error
    return content
