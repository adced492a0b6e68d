"""Reading the checkpoints that train.py writes, without running code from them."""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikelens.weights import read_card, read_weights

# A configuration names what it builds; a checkpoint may only name what a run of ours is made of.
_TRUSTED = (
    "callbacks.",
    "snntorch.functional.",
    "snntorch.surrogate.",
    "spikelens.am.",
    "spikelens.data.",
    "spikelens.generators.",
    "spikelens.models.",
    "torch.optim.",
)
# Ours, but it runs whatever program lies in the file.
_RUNS_FILES = ("spikelens.generators.model_files.load_torchscript",)
_NEVER_BUILT = ("callbacks", "logger", "trainer")


@dataclass(frozen=True)
class Checkpoint:
    """What a run left behind.

    Attributes:
        config: The run's whole configuration, plain dicts and lists.
        weights: The module's state_dict.
        history: State of `spikelens.tracking.History`; None for a run without probes.
        epoch: The epoch it was saved at the end of.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    history: dict[str, Any] | None
    epoch: int

    def load_into(self, module: nn.Module) -> None:
        """Load the weights into a module built from the same configuration.

        Raises:
            ValueError: If the module is another one.
        """
        try:
            module.load_state_dict(self.weights)
        except RuntimeError as error:
            raise ValueError(
                f"The checkpoint's weights must fit the model, but {_one_line(error)}"
            ) from error

    def network_of(self, module: nn.Module) -> nn.Module:
        """Return the module's spiking network, in evaluation mode.

        Raises:
            ValueError: If the module has none: it is a generator, say.
        """
        network = getattr(module, "network", None)
        if not isinstance(network, nn.Module):
            raise ValueError(
                "Argument `ckpt` must be the checkpoint of a spiking classifier, but it is that of "
                f"a {type(module).__name__}."
            )
        return network.eval()

    def start_of(self, neurons: Sequence[str], direction: str = "maximize") -> Tensor | None:
        """Return what the run's last probe of these neurons started from, `(K, m, d)`.

        None if it was of other neurons, or searched the other direction.
        """
        history = self.history
        if history is None or list(neurons) != list(
            dict.fromkeys(row["neuron"] for row in history["rows"])
        ):
            return None
        if any(row.get("direction", direction) != direction for row in history["rows"]):
            return None
        start: Tensor | None = history["start"]
        return start


def read_checkpoint(path: str | Path, needs_generator: bool = True) -> Checkpoint:
    """Read a checkpoint with `weights_only=True`, or shipped weights with their card.

    Args:
        path: A `.ckpt` file written by train.py, or a `.safetensors` file that it exported.
        needs_generator: Whether its generator is to be built; if not, its configuration is
            dropped unread, and may name anything.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no such checkpoint, or its configuration names a class or function
            that no run of train.py needs.
    """
    is_shipped = Path(path).suffix == ".safetensors" and Path(path).is_file()
    checkpoint = _read_shipped(path) if is_shipped else _read(path, "ckpt")
    if not needs_generator:
        checkpoint = replace(checkpoint, config=_without_generator(checkpoint.config))
    # Logger, trainer and their callbacks are Lightning's; a probe never builds them.
    built = {name: part for name, part in checkpoint.config.items() if name not in _NEVER_BUILT}
    for target in _untrusted(built):
        is_generator = target not in _untrusted(_without_generator(built))
        way_out = " as its generator: give that anew, generator=…" if is_generator else ""
        raise ValueError(
            f"Argument `ckpt` must name only parts of Spikelens, but {path} names {target}"
            f"{way_out}."
        )
    return checkpoint


def check_resumable(path: str | Path, module: nn.Module) -> None:
    """Refuse a checkpoint that the training of a module cannot go on from.

    Args:
        path: A `.ckpt` file written by train.py.
        module: What is to be trained; it takes the checkpoint's weights.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such checkpoint, or that of another module.
    """
    _read(path, "ckpt_path").load_into(module)


def _read_shipped(path: str | Path) -> Checkpoint:
    # Its run's folder is not on the card; what it would write goes beside the weights.
    config = {**read_card(path)["config"], "folder": str(Path(path).parent)}
    return Checkpoint(config, read_weights(path), None, config["trainer"]["max_epochs"] - 1)


def _read(path: str | Path, argument: str) -> Checkpoint:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"Argument `{argument}` must be a checkpoint, but found no file {path}."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        config, weights, epoch = (content[k] for k in ("hyper_parameters", "state_dict", "epoch"))
        config["model"]["_target_"]
    except Exception as error:
        raise ValueError(
            f"Argument `{argument}` must be a checkpoint written by train.py, but {path} is not "
            "one."
        ) from error
    states = [
        state
        for name, state in content.get("callbacks", {}).items()
        if name.startswith("ActivationMaximizationCallback")
    ]
    return Checkpoint(config, weights, states[0] if states else None, epoch)


def _without_generator(config: dict[str, Any]) -> dict[str, Any]:
    """Drop the generator wherever a run's configuration has it."""
    config = {name: part for name, part in config.items() if name != "generator"}
    if isinstance(config.get("am"), dict):
        config["am"] = {name: part for name, part in config["am"].items() if name != "generator"}
    return config


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _untrusted(node: Any, is_target: bool = False) -> Iterator[str]:
    """Yield what the configuration must not contain, however deep."""
    if isinstance(node, dict):
        for name, child in node.items():
            yield from _untrusted(child, name == "_target_")
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _untrusted(child)
    elif isinstance(node, str) and "${" in node:
        yield node  # it would be replaced by something that was not looked at
    elif is_target and not _is_ours(str(node)):
        yield str(node)


def _is_ours(target: str) -> bool:
    """Tell whether a target is defined in a trusted package, not merely imported by one."""
    if not target.startswith(_TRUSTED):
        return False
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return False
    real = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    return real.startswith(_TRUSTED) and real not in _RUNS_FILES
