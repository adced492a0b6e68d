import functools
import math

import lightning as L
import pytest
import torch

from spikelens.data.base import ImageSpec
from spikelens.models.classifier import SpikingClassifier
from spikelens.models.spiking_cnn import small
from spikelens.models.spiking_resnet import resnet18

LAYERS = ("conv1", "conv2", "conv3", "fc1", "output")
NETWORK = functools.partial(small, num_steps=4, width=4)


def build(data, **kwargs):
    torch.manual_seed(0)
    return SpikingClassifier(data.spec, NETWORK, **kwargs)


def test_a_separable_set_is_learned(halves, quiet_trainer):
    model = build(halves, optimizer=functools.partial(torch.optim.Adam, lr=1e-2))
    trainer = quiet_trainer(max_epochs=6)
    trainer.fit(model, datamodule=halves)
    metrics = dict(trainer.callback_metrics)
    assert metrics["train/accuracy"] >= 0.9
    assert metrics["val/accuracy"] >= 0.9
    assert metrics["train/loss"] < 0.6  # chance: log 2 = .69
    trainer.test(model, datamodule=halves, verbose=False)
    assert trainer.callback_metrics["test/accuracy"] >= 0.9
    # The same images as `val`, cut into the same batches: the same number.
    assert trainer.callback_metrics["test/accuracy"] == metrics["val/accuracy"]


def test_the_documented_metrics_are_logged_and_no_others(halves, quiet_trainer):
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1)
    model = build(halves)
    trainer.fit(model, datamodule=halves)
    per_layer = {f"{kind}/{name}" for kind in ("rate", "silent") for name in LAYERS}
    scores = {"train/loss", "train/accuracy", "val/loss", "val/accuracy"}
    assert set(trainer.callback_metrics) == scores | per_layer
    assert all(0.0 <= trainer.callback_metrics[name] <= 1.0 for name in per_layer)
    trainer.test(model, datamodule=halves, verbose=False)
    assert "test/accuracy" in trainer.callback_metrics


def test_layers_inside_blocks_are_logged_by_their_dotted_names(halves, quiet_trainer):
    network = functools.partial(resnet18, num_steps=2, width=2)
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    trainer.fit(SpikingClassifier(halves.spec, network), datamodule=halves)
    names = {"rate/stem", "rate/block1.mid", "silent/block8.out", "rate/output"}
    assert names <= set(trainer.callback_metrics)


@pytest.fixture
def uneven(fake_data):
    """Four images, three of class 0, in validation batches of three and one."""
    images = torch.randint(
        0, 256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    return fake_data(images, torch.tensor([0, 0, 1, 0]), eval_batch_size=3)


def test_rates_silence_loss_and_accuracy_by_hand(uneven, quiet_trainer):
    model = build(uneven)
    network = model.network
    with torch.no_grad():
        network.fc1.synapse[1].bias.fill_(-100.0)  # never reaches its threshold
        network.output.synapse[0].bias.copy_(torch.tensor([5.0, -5.0]))  # always, never
    metrics = quiet_trainer().validate(model, datamodule=uneven, verbose=False)[0]
    assert metrics["rate/fc1"] == 0.0
    assert metrics["silent/fc1"] == 1.0
    assert metrics["rate/output"] == 0.5
    assert metrics["silent/output"] == 0.5
    assert metrics["val/accuracy"] == 0.75
    # Cross-entropy of the spikes (1, 0) at each step: log(1 + 1/e) for class 0, log(1 + e) for 1.
    wanted = 0.75 * math.log1p(math.exp(-1)) + 0.25 * math.log1p(math.e)
    assert metrics["val/loss"] == pytest.approx(wanted, abs=1e-6)


def test_rates_and_silence_are_over_all_images_whatever_the_batches(uneven, quiet_trainer):
    model = build(uneven)
    with torch.no_grad():
        # Unit 0 of conv1 is dead: BatchNorm turns whatever it gets into -100.
        model.network.conv1.synapse[1].weight[0] = 0.0
        model.network.conv1.synapse[1].bias[0] = -100.0
    metrics = quiet_trainer().validate(model, datamodule=uneven, verbose=False)[0]
    model.eval()
    with torch.no_grad():
        scans = model.network.scans(uneven.split("val").images.float() / 255)
    assert scans["conv1"].spikes[:, :, 1:].sum() > 0
    for name, scan in scans.items():
        units = scan.spikes.movedim(2, 0).flatten(1)
        silent = (units.amax(1) == 0).float().mean().item()
        assert metrics[f"rate/{name}"] == pytest.approx(scan.rate.mean().item(), abs=1e-6)
        assert metrics[f"silent/{name}"] == pytest.approx(silent)
    assert metrics["silent/conv1"] >= 0.25


def test_silence_is_counted_anew_each_epoch(halves, quiet_trainer):
    class Mute(L.Callback):
        """Silence fc1 after the first epoch's validation."""

        def on_train_epoch_start(self, trainer, pl_module):
            seen.append({name: float(v) for name, v in trainer.callback_metrics.items()})
            if trainer.current_epoch == 1:
                with torch.no_grad():
                    pl_module.network.fc1.synapse[1].bias.fill_(-100.0)

    seen = []
    trainer = quiet_trainer(max_epochs=2, callbacks=[Mute()], num_sanity_val_steps=0)
    model = build(halves, optimizer=functools.partial(torch.optim.SGD, lr=0.0))
    trainer.fit(model, datamodule=halves)
    assert seen[1]["silent/fc1"] < 1.0
    assert seen[1]["rate/fc1"] > 0.0
    assert trainer.callback_metrics["silent/fc1"] == 1.0
    assert trainer.callback_metrics["rate/fc1"] == 0.0


def test_forward_is_the_rate_of_each_class(halves):
    model = build(halves).eval()
    images = halves.split("val").images[:5].float() / 255
    with torch.no_grad():
        rates = model(images)
        torch.testing.assert_close(rates, model.network(images).sum(0) / 4)
    assert rates.shape == (5, 2)


def test_optimizer_and_scheduler(halves, quiet_trainer):
    optimizer = build(halves).configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["lr"] == 1e-3

    model = build(
        halves,
        optimizer=functools.partial(torch.optim.SGD, lr=1.0),
        scheduler=functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
    )
    trainer = quiet_trainer(max_epochs=3, limit_train_batches=2, limit_val_batches=0)
    trainer.fit(model, datamodule=halves)
    # Once an epoch, not once a batch.
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5**3)


def test_a_loss_of_spikes_and_labels_can_be_given(halves, quiet_trainer):
    shapes = []

    def loss(spikes, labels):
        shapes.append((tuple(spikes.shape), tuple(labels.shape)))
        return spikes.sum() * 0.0 + 3.0

    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(build(halves, loss=loss), datamodule=halves)
    assert shapes == [((4, 8, 2), (8,))]
    assert trainer.callback_metrics["train/loss"] == 3.0


def test_the_network_is_built_from_the_images():
    model = SpikingClassifier(ImageSpec(3, 16, ("a", "b", "c", "d")), NETWORK)
    assert model.network.scans(torch.rand(1, 3, 16, 16))["output"].spikes.shape == (4, 1, 4)
