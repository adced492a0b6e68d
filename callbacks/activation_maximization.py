"""Activation maximization at epoch ends, logged next to accuracy."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from PIL import Image
from torch import nn

from spikelens.am.natural import natural_images
from spikelens.am.neurons import Neuron
from spikelens.am.optimizers.base import Optimizer
from spikelens.am.probe import Probe, SearchPlan, find_neurons, probe_neurons
from spikelens.arguments import require_integers
from spikelens.generators.base import Generator, check_points
from spikelens.report.figures import filmstrip, layer_panel
from spikelens.report.progress import SearchBar
from spikelens.report.tables import MEASURES, layer_means, write_rows
from spikelens.report.tensorboard import log_picture, save_picture
from spikelens.tracking import History, Row
from spikelens.undisturbed import undisturbed


class ActivationMaximizationCallback(L.Callback):
    """Show what neurons want to see while they form.

    At the end of an epoch the neurons are probed; training is the same, bit for bit, as without
    the callback. Logs at accuracy's step, per layer (means over its probed neurons) and, with the
    prefix `am_neurons/` and the suffix `.<unit>` or `.<unit>.<readout>`, per neuron:

    - `am/activation/<layer>`: of the optimal stimulus; mean spike rate in [0, 1], or what else is
      read out.
    - `am/ratio/<layer>`: the former / activation of the best natural image.
    - `am/realism/<layer>`: share of natural images that look no more natural to the generator than
      the stimulus, in [0, 1].
    - `am/class_selectivity/<layer>`, `am/auroc/<layer>`, `am/lifetime_sparseness/<layer>`: on the
      natural images, in [0, 1]; see `spikelens.selectivity`.
    - `am/fraction_silent/<layer>`: neurons that nothing made spike, in [0, 1] (layers only).
    - pictures `am/<layer>` (stimuli beside natural images) and `am/filmstrip`.

    With `direction: minimize` in the search, tags begin with `am_minimize/` and
    `am_minimize_neurons/`. Of several stimuli a neuron, the first is logged and in the filmstrip.

    Neurons that are not read by their mean rate are averaged apart: `am/activation/<layer>.max`.
    Populations are averaged as the layer `population`, and have their terms for a suffix: that of
    `0.5*conv2:3+conv2:7` is `0.5_conv2.3_conv2.7`, as TensorBoard would write it.
    The pictures, and a table of all neurons and epochs, are saved under `folder` too.

    Args:
        neurons: Names like `conv2:0-15`, `fc1:*`; see `spikelens.am.neurons`. They are looked for
            in the module's `network`, or in the module itself if it has none.
        generator: Draws the images; same channels and size as the data.
        optimizer: Builds an optimizer from a latent space, an archive and `seed`.
        search: Budget, starts, seed.
        every_n_epochs: Probe at the end of every n-th epoch, positive.
        num_natural: Validation images to compare with, positive; the first of the split.
        num_previous: Elites of the probe before that the next one starts from (warm start).
        folder: Where pictures and tables are saved; None for nowhere.

    Raises:
        ValueError: If an argument is out of its range; in `setup`, if the network has no such
            neuron, or generator or optimizer do not fit; see `spikelens.am.probe.find_neurons`.
    """

    def __init__(
        self,
        neurons: Sequence[str] | str,
        generator: Generator,
        optimizer: Callable[..., Optimizer],
        search: SearchPlan,
        every_n_epochs: int = 1,
        num_natural: int = 1000,
        num_previous: int = 4,
        folder: str | None = None,
    ) -> None:
        require_integers(1, every_n_epochs=every_n_epochs, num_natural=num_natural)
        require_integers(0, num_previous=num_previous)
        self.names, self.generator = neurons, generator
        self.optimizer, self.search = optimizer, search
        self.every_n_epochs, self.num_natural = every_n_epochs, num_natural
        self.num_previous = num_previous
        self.folder = None if folder is None else Path(folder)
        self.history = History()
        self.neurons: list[Neuron] = []
        self.stage = ""
        self.root = "am" if search.direction == "maximize" else f"am_{search.direction}"

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check neurons, generator, data and optimizer before anything is trained."""
        self.stage = stage
        if stage != "fit":
            return
        self.natural = natural_images(trainer.datamodule, self.num_natural)  # type: ignore[attr-defined]
        shape = trainer.datamodule.spec.image_shape  # type: ignore[attr-defined]
        network, num_starts = _network(pl_module), self.search.num_starts
        self.neurons = find_neurons(
            network, self.generator, self.names, shape, self.optimizer, num_starts
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Probe and log."""
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        start = None if self.history.elites is None else self.history.elites[:, : self.num_previous]
        with undisturbed(pl_module), SearchBar(f"AM epoch {trainer.current_epoch}") as bar:
            probe = probe_neurons(
                _network(pl_module),
                self.generator.to(pl_module.device),
                self.neurons,
                self.natural,
                self.optimizer,
                self.search,
                start,
                bar.show,
            )
        rows = self.history.append(probe, trainer.current_epoch, start)
        self._log(trainer, pl_module, probe, rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the history, so that a resumed run goes on with it."""
        return self.history.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the history of an interrupted run; one that only tests or validates needs none.

        Raises:
            ValueError: If that run watched other neurons, or searched another latent or the other
                direction.
        """
        if self.stage != "fit":
            return
        self.history.load_state_dict(state_dict, self.neurons, self.search.direction)
        check_points(self.generator, self.history.elites)

    def _log(
        self, trainer: L.Trainer, pl_module: L.LightningModule, probe: Probe, rows: Sequence[Row]
    ) -> None:
        for layer, means in layer_means(rows).items():
            pl_module.log_dict(
                {_tag(self.root, name, layer): value for name, value in means.items()}
            )
        for row in (row for row in rows if row.stimulus == 0):
            for name in MEASURES:
                pl_module.log(_tag(f"{self.root}_neurons", name, row.neuron), getattr(row, name))
        epoch = f"_epoch{trainer.current_epoch:03d}"
        for layer in dict.fromkeys(neuron.layer for neuron in self.neurons):
            self._show(trainer, layer, layer_panel(probe, layer), epoch)
        self._show(trainer, "filmstrip", filmstrip(self.history, probe.natural_top))
        if self.folder is not None and trainer.is_global_zero:
            write_rows(self.history.rows, self.folder / "neurons")

    def _show(self, trainer: L.Trainer, name: str, picture: Image.Image, suffix: str = "") -> None:
        log_picture(trainer.loggers, f"{self.root}/{name}", picture, trainer.global_step - 1)
        if self.folder is not None and trainer.is_global_zero:
            save_picture(picture, self.folder / f"{name}{suffix}.png")


def _tag(*parts: str) -> str:
    name = "/".join(parts).replace(":", ".").replace("@", ".")
    return re.sub(r"[^-/\w.]", "_", name)  # what TensorBoard takes


def _network(module: nn.Module) -> nn.Module:
    network = getattr(module, "network", module)
    return network if isinstance(network, nn.Module) else module
