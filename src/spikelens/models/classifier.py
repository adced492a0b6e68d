"""The LightningModule that trains a spiking network to classify images."""

from collections.abc import Callable
from typing import Any

import lightning as L
import snntorch.functional
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from spikelens.data.base import ImageSpec
from spikelens.models.optimization import BuildOptimizer, BuildScheduler, build_optimizer
from spikelens.models.spiking_network import SpikingNetwork


class SpikingClassifier(L.LightningModule):
    """Train a spiking network; the class whose output neuron spikes most wins.

    Logs `train/loss`, `train/accuracy`, `val/loss`, `val/accuracy`, `test/loss`, `test/accuracy`
    (accuracies in [0, 1]), and over the validation images `rate/<layer>` (mean spikes a neuron and
    time step, in [0, 1]) and `silent/<layer>` (fraction of units that never spiked).

    Args:
        images: Channels, size and classes of the images.
        network: Builds the network from `in_channels`, `image_size`, `num_classes`.
        loss: Loss of output spikes `(T, N, classes)` and labels `(N,)`, from
            `snntorch.functional`; None for the rate cross-entropy.
        optimizer: Builds the optimizer from the parameters; None for Adam(1e-3).
        scheduler: Builds a learning-rate scheduler, stepped once an epoch; None for none.
    """

    def __init__(
        self,
        images: ImageSpec,
        network: Callable[..., SpikingNetwork],
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        optimizer: BuildOptimizer | None = None,
        scheduler: BuildScheduler | None = None,
    ) -> None:
        super().__init__()
        self.images = images
        num_classes = len(images.classes)
        self.network = network(
            in_channels=images.channels, image_size=images.size, num_classes=num_classes
        )
        self.loss = loss or snntorch.functional.ce_rate_loss()
        self.optimizer, self.scheduler = optimizer, scheduler
        accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.accuracy = MetricCollection(
            {f"{stage}/accuracy": accuracy.clone() for stage in ("train", "val", "test")},
            compute_groups=False,  # each sees images of its own
        )
        # A list: torch's dictionaries of modules refuse the dots in a layer's name.
        self.rates = nn.ModuleList(MeanMetric() for _ in self.network.layer_names)
        self.unit_rates: dict[str, Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Return the spike rate of each class, `(N, classes)` in [0, 1]."""
        spikes: Tensor = self.network(images)
        return spikes.mean(0)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss of one batch of images and labels."""
        spikes = self.network(batch[0])
        return self._score("train", spikes, batch[1])

    def on_validation_epoch_start(self) -> None:
        """Forget the rates summed before."""
        self.unit_rates = {}

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Score one batch and count every unit's spikes."""
        spikes = torch.empty(0)
        # A layer's spikes are let go of before the next layer but one runs.
        for (name, scan), rate in zip(self.network.run(batch[0]), self.rates, strict=True):
            assert scan.rate is not None  # validation records no gradients
            rate(scan.rate.mean(), weight=len(scan.rate))
            units = scan.rate.sum([dim for dim in range(scan.rate.dim()) if dim != 1])
            self.unit_rates[name] = self.unit_rates.get(name, torch.zeros_like(units)) + units
            spikes = scan.spikes
        self._score("val", spikes.float(), batch[1])

    def on_validation_epoch_end(self) -> None:
        """Log how much each layer fires and how many of its units never do."""
        names = [f"rate/{name}" for name in self.network.layer_names]
        self.log_dict(dict(zip(names, self.rates, strict=True)))  # type: ignore[arg-type]
        for name, rate in self.unit_rates.items():
            self.log(f"silent/{name}", (rate == 0).float().mean())

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Score one batch of test images."""
        self._score("test", self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        """Build the optimizer and, where asked, its scheduler."""
        return build_optimizer(self.network.parameters(), self.optimizer, self.scheduler)

    def _score(self, stage: str, spikes: Tensor, labels: Tensor) -> Tensor:
        loss = self.loss(spikes, labels).squeeze()  # snntorch returns one element in a vector
        accuracy = self.accuracy[f"{stage}/accuracy"]
        accuracy(spikes.mean(0), labels)
        is_eval = stage != "train"
        self.log(f"{stage}/loss", loss, prog_bar=not is_eval, batch_size=len(labels))
        self.log(f"{stage}/accuracy", accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss
