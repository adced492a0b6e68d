import os
import random
import signal
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import pyarrow.parquet
import pytest
import torch
from conftest import Bars, Boom, Palette
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.activation_maximization import ActivationMaximizationCallback
from callbacks.epoch_seed import EpochSeed
from spikelens.am.optimizers.elite_tt import EliteTT
from spikelens.am.optimizers.gradient import Gradient
from spikelens.am.optimizers.protes import Protes
from spikelens.am.probe import SearchPlan
from spikelens.generators.external import ExternalCodes
from spikelens.models.classifier import SpikingClassifier
from spikelens.models.spiking_cnn import small

NEURONS = ["conv1:0-1", "fc1:3", "output:*"]


def watch(neurons=NEURONS, generator=None, optimizer=EliteTT, budget=12, plan=None, **arguments):
    return ActivationMaximizationCallback(
        neurons,
        generator or Bars(side=8),
        optimizer,
        SearchPlan(budget=budget, num_starts=2, **(plan or {})),
        num_natural=20,
        **arguments,
    )


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.mark.parametrize("optimizer", [EliteTT, Protes, Gradient])
def test_training_is_the_same_with_and_without(stripes, build_model, fit, optimizer):
    with_it, without = build_model(), build_model()
    generator = Bars(num_symbols=4, side=8)
    torch.manual_seed(5)
    fit(with_it, stripes, [watch(generator=generator, optimizer=optimizer)])
    torch.manual_seed(5)
    fit(without, stripes)
    assert_same(weights(with_it), weights(without))


def test_a_latency_code_has_no_gradient_which_shows_before_any_training(stripes, fit):
    model = SpikingClassifier(stripes.spec, partial(small, width=4, encoding="latency"))
    before = weights(model)
    with pytest.raises(ValueError, match="`network` must be differentiable for the gradient"):
        fit(model, stripes, [watch(optimizer=Gradient)])
    assert_same(weights(model), before)
    fit(model, stripes, [watch()], max_epochs=1)


class Observer(L.Callback):
    """Note the random states and module modes around the end of an epoch."""

    def __init__(self):
        self.seen = []

    def on_train_epoch_end(self, trainer, pl_module):
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        self.seen.append((*states, [module.training for module in pl_module.modules()]))


def test_modes_and_random_states_are_put_back(stripes, build_model, fit):
    before, after = Observer(), Observer()
    fit(build_model(), stripes, [before, watch(), after], max_epochs=1)
    (a, b, c, modes), (d, e, f, modes_after) = before.seen[0], after.seen[0]
    assert torch.equal(a, d)
    assert (b, c, modes) == (e, f, modes_after)
    assert all(modes)


def test_modes_are_put_back_after_a_crash(stripes, build_model, fit):
    model = build_model()

    class Break(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            model.network.conv3.synapse = Boom()

    with pytest.raises(ArithmeticError):
        fit(model, stripes, [Break(), watch()])
    assert all(module.training for module in model.network.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_everything_is_logged_at_the_step_of_accuracy(stripes, build_model, fit, tmp_path):
    loggers = [CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="tb")]
    fit(build_model(), stripes, [watch(folder=str(tmp_path / "panels"))], logger=loggers)
    events = EventAccumulator(loggers[1].log_dir, size_guidance={"images": 0})
    events.Reload()
    steps = [event.step for event in events.Scalars("val/accuracy")]
    assert steps == [2, 5]  # 48 images in batches of 16: the last of 3 steps an epoch
    for name in ("activation", "ratio", "class_selectivity", "auroc", "lifetime_sparseness"):
        for tag in (f"am/{name}/conv1", f"am/{name}/output", f"am_neurons/{name}/fc1.3"):
            assert [event.step for event in events.Scalars(tag)] == steps, tag
    assert [event.step for event in events.Scalars("am/fraction_silent/fc1")] == steps
    for tag in ("am/conv1", "am/fc1", "am/output", "am/filmstrip"):
        assert [event.step for event in events.Images(tag)] == steps, tag
    names = {path.name for path in (tmp_path / "panels").iterdir()}
    assert {"conv1_epoch000.png", "filmstrip.png", "neurons.parquet"} <= names
    rows = pyarrow.parquet.read_table(tmp_path / "panels" / "neurons.parquet").to_pylist()
    assert len(rows) == 2 * 6
    logged = [event.value for event in events.Scalars("am_neurons/activation/conv1.1")]
    assert logged == pytest.approx([r["activation"] for r in rows if r["neuron"] == "conv1:1"])


def test_tags_and_files_take_every_form_of_a_name(stripes, build_model, fit, tmp_path):
    names = ["fc1:3@latency", "conv1:0@steps1-2", "conv1:1@contrast", "0.5*conv1:0+conv1:2-fc1:3"]
    logger = TensorBoardLogger(tmp_path, name="tb")
    callback = watch(names, folder=str(tmp_path / "panels"))
    trainer = fit(build_model(), stripes, [callback], logger=logger, max_epochs=1)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    events.Reload()
    own = ["fc1.3.latency", "conv1.0.steps1-2", "conv1.1.contrast", "0.5_conv1.0_conv1.2-fc1.3"]
    means = ["fc1.latency", "conv1.steps1-2", "conv1.contrast", "population"]
    for row, tag, mean in zip(callback.history.rows, own, means, strict=True):
        for name in (f"am_neurons/activation/{tag}", f"am/activation/{mean}"):
            assert name in trainer.callback_metrics  # under the name that TensorBoard shows
            assert [event.value for event in events.Scalars(name)] == pytest.approx(
                [row.activation]
            )
    assert {"am/population", "am/conv1", "am/fc1"} <= set(events.Tags()["images"])
    assert (tmp_path / "panels" / "population_epoch000.png").is_file()
    rows = pyarrow.parquet.read_table(tmp_path / "panels" / "neurons.parquet").to_pylist()
    assert [row["neuron"] for row in rows] == names


def test_downward_and_of_several_stimuli_the_first_is_logged(stripes, build_model, fit, tmp_path):
    plan = {"direction": "minimize", "num_stimuli": 2, "num_repeats": 2}
    callback = watch("conv1:0-1", folder=str(tmp_path), plan=plan)
    trainer = fit(build_model(), stripes, [callback], max_epochs=2)
    rows = pyarrow.parquet.read_table(tmp_path / "neurons.parquet").to_pylist()
    assert [row["stimulus"] for row in rows] == [0, 0, 1, 1] * 2
    assert {row["direction"] for row in rows} == {"minimize"}
    firsts = [row["activation"] for row in rows[4:6]]
    metrics = trainer.callback_metrics
    for name in metrics:
        assert not name.startswith(("am/", "am_neurons/"))
    assert metrics["am_minimize/activation/conv1"] == pytest.approx(sum(firsts) / 2)
    assert metrics["am_minimize_neurons/activation/conv1.1"] == pytest.approx(firsts[1])
    assert callback.history.activations.shape == (2, 2)


@pytest.mark.parametrize(("every", "epochs"), [(1, [0, 1, 2]), (2, [1]), (3, [2])])
def test_every_n_epochs(stripes, build_model, fit, every, epochs):
    callback = watch("conv1:0", budget=3, every_n_epochs=every)
    fit(build_model(), stripes, [callback], max_epochs=3)
    assert callback.history.epochs == epochs


def test_the_next_probe_starts_from_the_elites_of_the_one_before(stripes, build_model, fit):
    callback = watch(num_previous=3)
    fit(build_model(), stripes, [callback])
    assert callback.history.start.shape == (6, 3, 64)
    cold = watch(num_previous=0)
    fit(build_model(), stripes, [cold])
    assert cold.history.start.shape == (6, 0, 64)


class Terminate(L.Callback):
    """Send the process SIGTERM in the middle of an epoch, as a cluster's scheduler does."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == self.epoch and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_resumed_run_equals_an_unbroken_one(stripes, build_model, fit, tmp_path):
    def run(folder, *more, ckpt_path=None):
        model, callback = build_model(), watch()
        checkpoint = ModelCheckpoint(
            tmp_path / folder, save_last=True, save_on_train_epoch_end=True
        )
        callbacks = [EpochSeed(7), callback, *more, checkpoint]
        fit(model, stripes, callbacks, ckpt_path=ckpt_path, max_epochs=4)
        return model, callback.history.state_dict()

    whole, history = run("whole")
    with pytest.raises(SystemExit):
        run("broken", Terminate(epoch=2))
    resumed, resumed_history = run("broken", ckpt_path=tmp_path / "broken" / "last.ckpt")
    assert_same(weights(whole), weights(resumed))
    assert resumed_history["epochs"] == history["epochs"] == [0, 1, 2, 3]
    assert str(resumed_history["rows"]) == str(history["rows"])  # as text: NaN equals NaN
    assert torch.equal(resumed_history["elites"], history["elites"])
    assert torch.equal(torch.stack(resumed_history["stimuli"]), torch.stack(history["stimuli"]))


def test_a_run_cannot_be_resumed_with_other_neurons(stripes, build_model, fit, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=True)
    fit(build_model(), stripes, [watch(), checkpoint], max_epochs=1)
    with pytest.raises(ValueError, match="must be those of the run that is resumed"):
        fit(build_model(), stripes, [watch("conv1:0"), checkpoint], tmp_path / "last.ckpt")


def test_a_run_cannot_be_resumed_with_another_latent(stripes, build_model, fit, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=True)
    fit(build_model(), stripes, [watch(), checkpoint], max_epochs=1)
    other = watch(generator=Bars(num_symbols=2, side=8))
    with pytest.raises(ValueError, match="must be that of the run before"):
        fit(build_model(), stripes, [other, checkpoint], tmp_path / "last.ckpt")


def test_an_optimizer_s_wrong_setting_fails_before_training(stripes, build_model, fit):
    with pytest.raises(ValueError, match="take its settings"):
        fit(build_model(), stripes, [watch(optimizer=partial(EliteTT, batches=3))])


def test_validating_a_checkpoint_leaves_the_history_alone(stripes, build_model, fit, tmp_path):
    callback = watch()
    checkpoint = ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=True)
    model = build_model()
    fit(model, stripes, [callback, checkpoint])
    other = watch()
    trainer = L.Trainer(callbacks=[other, checkpoint], logger=False, accelerator="cpu")
    trainer.validate(
        model, stripes, ckpt_path=tmp_path / "last.ckpt", verbose=False, weights_only=True
    )
    assert other.history.epochs == []


@pytest.mark.parametrize(
    ("neurons", "generator", "says"),
    [
        ("conv9:0", None, r"a spiking layer of the network: conv1 \(0-3\), conv2 \(0-7\)"),
        ("conv1:4", None, "units from 0 to 3"),
        ("conv1:0", Bars(side=4), r"like the data's, \(1, 8, 8\), but Bars draws \(1, 4, 4\)"),
        ("conv1:0", Bars(side=8, channels=3), r"Bars draws \(3, 8, 8\)"),
        ("conv1:0", ExternalCodes(Palette(), [8] * 16), r"am\.search\.num_starts=0 to train\.py"),
    ],
)
def test_what_does_not_fit_fails_before_training(
    stripes, build_model, fit, neurons, generator, says
):
    model = build_model()
    before = weights(model)
    with pytest.raises(ValueError, match=says):
        fit(model, stripes, [watch(neurons, generator)])
    assert_same(before, weights(model))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"budget": 0}, "`budget` must be a positive integer, but got 0"),
        ({"budget": "many"}, "`budget` must be a positive integer, but got 'many'"),
        ({"every_n_epochs": 0}, "`every_n_epochs` must be a positive integer"),
        ({"num_previous": -1}, "`num_previous` must be an integer of at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        watch(**arguments)


def test_the_callback_stays_an_adapter():
    source = Path(__file__).parents[2] / "callbacks" / "activation_maximization.py"
    assert len(source.read_text().splitlines()) <= 170
