"""Reading the checkpoints that train.py writes, without running code from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# A configuration names what it builds; a checkpoint may only name what a run of ours is made of.
_TRUSTED = (
    "spikelens.",
    "callbacks.",
    "snntorch.surrogate.",
    "snntorch.functional.",
    "torch.optim.",
)


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
                f"The checkpoint's weights must fit its configuration, but {error}"
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

    def start_of(self, neurons: Sequence[str]) -> Tensor | None:
        """Return what the run's last probe of just these neurons started from, `(K, m, d)`."""
        history = self.history
        if history is None or list(neurons) != list(
            dict.fromkeys(row["neuron"] for row in history["rows"])
        ):
            return None
        start: Tensor | None = history["start"]
        return start


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint with `weights_only=True`.

    Args:
        path: A `.ckpt` file written by train.py.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no such checkpoint, or its configuration names a class or function
            that no run of train.py needs.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"Argument `ckpt` must be a checkpoint, but found no file {path}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        config, weights = content["hyper_parameters"], content["state_dict"]
        config["model"]["_target_"]
    except Exception as error:
        raise ValueError(
            f"Argument `ckpt` must be a checkpoint written by train.py, but {path} is not one."
        ) from error
    for target in _targets(
        {name: config.get(name) for name in ("data", "model", "generator", "am")}
    ):
        if not target.startswith(_TRUSTED):
            raise ValueError(
                f"Argument `ckpt` must name only parts of Spikelens, but {path} names {target}."
            )
    states = [
        state
        for name, state in content.get("callbacks", {}).items()
        if name.startswith("ActivationMaximizationCallback")
    ]
    return Checkpoint(config, weights, states[0] if states else None, content["epoch"])


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for child in node.values():
            yield from _targets(child)
    elif isinstance(node, list):
        for child in node:
            yield from _targets(child)
