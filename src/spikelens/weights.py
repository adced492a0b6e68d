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


def ship_weights(
    module: nn.Module, path: str | Path, recipe: str, config: Mapping[str, Any], metrics: Any
) -> None:
    """Write a module's state and its card.

    Args:
        module: The trained module.
        path: A `.safetensors` file; the card is the `.json` file of the same name.
        recipe: The command that made it.
        config: The run's configuration, of which data, model, epochs and seed go on
            the card.
        metrics: Name and value of what was measured on it.

    Raises:
        ValueError: If the path has another suffix.
    """
    path = weights_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    content = safetensors.torch.save(state)
    card = {
        "recipe": recipe,
        "seed": config["seed"],
        "metrics": {name: round(float(value), 5) for name, value in sorted(metrics.items())},
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        **{part: config[part] for part in ("data", "model")},
        "max_epochs": config["trainer"]["max_epochs"],
    }
    path.write_bytes(content)
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")


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
    return safetensors.torch.load(content)


def load_trained(
    path: str | Path, kind: str, from_state: Callable[[Mapping[str, Tensor]], Module]
) -> Module:
    """Rebuild a trained module from a file that holds its state.

    Args:
        path: A Lightning checkpoint (`.ckpt`), or shipped weights (`.safetensors`).
        kind: What the file should hold, for the messages.
        from_state: Builds the module from its state_dict; raises on another module's.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds something else, or is not the one its card describes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Argument `path` must be a {kind}'s .ckpt or .safetensors file, but found no {path}."
        )
    try:
        if path.suffix == ".safetensors":
            state = read_weights(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        return from_state(state)
    except ValueError:
        raise  # not the file its card describes
    except Exception as error:  # each format fails in its own way on something else
        raise ValueError(
            f"Argument `path` must name the weights of a {kind}, but {path} holds something else."
        ) from error
