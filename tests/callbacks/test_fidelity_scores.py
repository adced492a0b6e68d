import random

import lightning as L
import numpy as np
import pytest
import torch
from stubs import Quadrants
from torch import nn
from torch.utils.data import TensorDataset

from callbacks.fidelity_scores import FidelityScores
from spikelens.data.base import unit_range
from spikelens.fidelity import measure_fidelity
from spikelens.models.feature_extractor import FeatureExtractor

MEASURES = ("fid", "kid", "precision", "recall", "inception_score")


class Painter(L.LightningModule):
    """Draws the given images darker, and noise; its modes and its random numbers would tell."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.normalise, self.drop = nn.BatchNorm2d(1), nn.Dropout(0.5)
        self.calls = []

    def drawn(self, images, random):
        assert not torch.is_grad_enabled()
        torch.rand(5)
        self.normalise(self.drop(images))
        self.calls.append((len(images), self.normalise.training))
        noise = torch.rand(images.shape, generator=random, device=images.device)
        return {"dark": (images * self.scale).clamp(0, 1), "noise": noise}

    def training_step(self, batch):
        loss = (self.drop(self.normalise(batch[0])) * self.scale - batch[0]).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch):
        pass

    def test_step(self, batch):
        self.log("test/mean", batch[0].mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


def run_test(model, data, callback):
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options = dict.fromkeys(quiet, False)
    trainer = L.Trainer(accelerator="cpu", callbacks=[callback], **options)
    trainer.test(model, datamodule=data, verbose=False)
    return trainer.callback_metrics


def watch(extractor=None, **arguments):
    return FidelityScores(extractor or Quadrants(8), **{"kid_subsets": 2, **arguments})


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_training_is_the_same_with_and_without(stripes, fit):
    with_it, without = Painter(), Painter()
    extractor = FeatureExtractor(stripes.spec, width=4, num_features=3).eval()
    for model, callbacks in ((with_it, [watch(extractor)]), (without, [])):
        torch.manual_seed(5)
        fit(model, stripes, callbacks, max_epochs=3)
    assert with_it.calls
    for name, value in weights(without).items():
        assert torch.equal(value, weights(with_it)[name]), name


class Observer(L.Callback):
    """Note the random states and module modes around the end of an epoch."""

    def __init__(self):
        self.seen = []

    def on_train_epoch_end(self, trainer, pl_module):
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        self.seen.append((*states, [module.training for module in pl_module.modules()]))


def test_modes_and_random_states_are_put_back(stripes, fit):
    model, before, after = Painter(), Observer(), Observer()
    fit(model, stripes, [before, watch(), after], max_epochs=1)
    (a, b, c, modes), (d, e, f, modes_after) = before.seen[0], after.seen[0]
    assert torch.equal(a, d)
    assert (b, c, modes) == (e, f, modes_after)
    assert all(modes)
    assert not any(training for _, training in model.calls)


def test_validation_scores_of_every_name(stripes, fit):
    trainer = fit(Painter(), stripes, [watch(chunk=7)])
    found = trainer.callback_metrics
    wanted = {
        f"fidelity/{name}/{measure}_spikelens"
        for name in ("control", "dark", "noise")
        for measure in MEASURES
    }
    assert {name for name in found if name.startswith("fidelity/")} == wanted


def test_the_scores_are_those_of_the_images_drawn(stripes, fit):
    model = Painter()
    trainer = fit(model, stripes, [watch(num_images=20, chunk=9)])
    assert [num for num, _ in model.calls] == [9, 9, 2] * 2
    real = stripes.split("val").images[:20]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        chunks = [model.drawn(unit_range(part), generator) for part in real.split(9)]
    for name in ("dark", "noise"):
        images = torch.cat([chunk[name] for chunk in chunks])
        wanted = measure_fidelity(images, real, Quadrants(8), kid_subsets=2).named()
        for measure in MEASURES:
            logged = float(trainer.callback_metrics[f"fidelity/{name}/{measure}_spikelens"])
            assert logged == pytest.approx(wanted[f"{measure}_spikelens"], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("every", "num_calls"), [(1, 3), (2, 1), (3, 1), (4, 0)])
def test_every_n_epochs(stripes, fit, every, num_calls):
    model = Painter()
    fit(model, stripes, [watch(every_n_epochs=every)], max_epochs=3)
    assert len(model.calls) == num_calls


@pytest.mark.parametrize(("limit", "num"), [(None, 24), (15, 15), (1000, 24)])
def test_the_test_begins_with_a_control(stripes, limit, num):
    model = Painter()
    metrics = run_test(model, stripes, watch(num_test_images=limit))
    assert model.calls == [(num, False)]
    found = {k: float(v) for k, v in metrics.items() if k.startswith("test_fid")}
    assert len(found) == 3 * len(MEASURES)
    train, test = (stripes.split(name).images[:num] for name in ("train", "test"))
    control = measure_fidelity(train, test, Quadrants(8), kid_subsets=2).named()
    for measure in MEASURES:
        value = control[f"{measure}_spikelens"]
        assert found[f"test_fidelity/control/{measure}_spikelens"] == pytest.approx(value, rel=1e-5)
    assert found["test_fidelity/control/fid_spikelens"] < found["test_fidelity/dark/fid_spikelens"]


def test_inception_can_be_asked_for(stripes, fit, fake_inception):
    callback = watch("inception", inception_weights=str(fake_inception.path))
    trainer = fit(Painter(), stripes, [callback], max_epochs=1)
    assert "fidelity/dark/fid_inception" in trainer.callback_metrics
    assert "fidelity/dark/fid_spikelens" not in trainer.callback_metrics
    assert set(fake_inception.weights) == {str(fake_inception.path)}
    assert fake_inception.seen[0].dtype == torch.uint8


def test_an_extractor_is_loaded_from_its_file(stripes, fit, tmp_path):
    extractor = FeatureExtractor(stripes.spec, width=4, num_features=3)
    torch.save({"state_dict": extractor.state_dict()}, tmp_path / "x.ckpt")
    trainer = fit(Painter(), stripes, [watch(str(tmp_path / "x.ckpt"))], max_epochs=1)
    assert "fidelity/noise/recall_spikelens" in trainer.callback_metrics
    with pytest.raises(FileNotFoundError, match="found no missing"):
        watch("missing.safetensors")


class Mute(Painter):
    drawn = None


class Fewer(Painter):
    def drawn(self, images, random):
        return {"few": images[1:]}


class Loud(Painter):
    def drawn(self, images, random):
        return {"loud": images * 300}


@pytest.mark.parametrize(
    ("model", "arguments", "says"),
    [
        (Mute, {}, "must have a method `drawn` .* Mute has none"),
        (Painter, {"extractor": Quadrants(4)}, r"take images \(1, 8, 8\)"),
        (Painter, {"num_images": 5}, "at least 10 images"),
        (Fewer, {}, r"like the given ones, but 'few' has the shape \(23, 1, 8, 8\)"),
        (Loud, {}, "`loud` must be uint8, or float in"),
    ],
)
def test_what_cannot_be_measured_is_refused(stripes, fit, model, arguments, says):
    module = model()
    with pytest.raises(ValueError, match=says):
        fit(module, stripes, [watch(**arguments)], max_epochs=1)
    assert module.normalise.training


def test_other_data_are_refused():
    data = L.LightningDataModule.from_datasets(TensorDataset(torch.zeros(4, 1, 8, 8)))
    with pytest.raises(ValueError, match="must be a spikelens ImageData, but got LightningData"):
        run_test(Painter(), data, watch())


@pytest.mark.parametrize(
    "argument",
    [
        *({name: 0} for name in ("every_n_epochs", "num_images", "chunk", "kid_subsets")),
        {"num_test_images": 0},
        {"seed": -1},
    ],
)
def test_arguments_out_of_range_are_refused(argument):
    (name,) = argument
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        watch(**argument)
