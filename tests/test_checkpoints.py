import os

import pytest
import torch
from torch import nn

from spikelens.checkpoints import Checkpoint, check_resumable, read_checkpoint
from spikelens.weights import ship_weights

HISTORY = {
    "epochs": [0, 1],
    "stimuli": [],
    "start": torch.arange(12).view(2, 2, 3),
    "elites": torch.zeros(2, 4, 3, dtype=torch.int64),
    "rows": [{"neuron": name} for name in ("conv1:0", "fc1:3")] * 2,
}


def content(**config):
    """A checkpoint as train.py and Lightning write it."""
    model = {
        "_target_": "spikelens.models.classifier.SpikingClassifier",
        "network": {"_target_": "spikelens.models.spiking_cnn.small", "_partial_": True},
        "loss": {"_target_": "snntorch.functional.ce_rate_loss"},
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-3},
        "scheduler": {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 3},
    }
    plain = {
        "seed": 3,
        "data": {"_target_": "spikelens.data.shapes.Shapes"},
        "model": model,
        "trainer": {"_target_": "lightning.Trainer"},
        "callbacks": {"bar": {"_target_": "lightning.pytorch.callbacks.TQDMProgressBar"}},
    }
    return {
        "epoch": 1,
        "hyper_parameters": {**plain, **config},
        "state_dict": {"weight": torch.ones(2, 3), "bias": torch.zeros(2)},
        "callbacks": {"ModelCheckpoint{}": {}, "ActivationMaximizationCallback": HISTORY},
    }


@pytest.fixture
def save(tmp_path):
    def write(thing):
        torch.save(thing, tmp_path / "last.ckpt")
        return tmp_path / "last.ckpt"

    return write


def test_a_checkpoint_is_read(save):
    written = content()
    for path in (save(written), str(save(written))):
        found = read_checkpoint(path)
        assert found.config == written["hyper_parameters"]
        assert found.epoch == 1
        assert list(found.weights) == ["weight", "bias"]
        assert torch.equal(found.weights["weight"], torch.ones(2, 3))
        assert torch.equal(found.history["start"], HISTORY["start"])


def test_a_run_without_probes_has_no_history(save):
    written = content()
    del written["callbacks"]["ActivationMaximizationCallback"]
    found = read_checkpoint(save(written))
    assert found.history is None
    assert found.start_of(["conv1:0"]) is None
    del written["callbacks"]
    assert read_checkpoint(save(written)).history is None


def ship(path, **config):
    config = {"folder": "mine", **content(**config)["hyper_parameters"]}
    config["trainer"] = {"max_epochs": 7, "accelerator": "cpu", "logger": EVIL}
    ship_weights(nn.Linear(3, 2), path, "python train.py", config, {})
    return path


def test_shipped_weights_with_their_card_are_a_checkpoint(tmp_path):
    path = ship(tmp_path / "net.safetensors")
    for name in (path, str(path)):
        found = read_checkpoint(name)
        wanted = content()["hyper_parameters"]
        assert found.config == {
            **{part: wanted[part] for part in ("seed", "data", "model")},
            "trainer": {"max_epochs": 7, "accelerator": "cpu"},
            "folder": str(tmp_path),
        }
        assert found.epoch == 6  # the last
        assert found.history is None
        assert found.start_of(["conv1:0"]) is None
        found.load_into(nn.Linear(3, 2))


def test_shipped_weights_are_trusted_no_further(tmp_path):
    path = ship(tmp_path / "net.safetensors", model=model_with(part=EVIL))
    with pytest.raises(ValueError, match=r"only parts of Spikelens, but .* names os\.system"):
        read_checkpoint(path)
    path = ship(tmp_path / "net.safetensors", generator=EVIL)
    with pytest.raises(ValueError, match=r"names os\.system as its generator: give that anew"):
        read_checkpoint(path)
    assert "generator" not in read_checkpoint(path, needs_generator=False).config


def test_shipped_weights_that_cannot_be_told_are_refused(tmp_path):
    path = ship(tmp_path / "net.safetensors")
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ValueError, match="must have its card's sha256"):
        read_checkpoint(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"must have a card beside it, net\.json"):
        read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="must be a checkpoint, but found no file"):
        read_checkpoint(tmp_path / "none.safetensors")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    for path in (tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(FileNotFoundError, match="must be a checkpoint, but found no file"):
            read_checkpoint(path)


def without(*names):
    return {name: value for name, value in content().items() if name not in names}


@pytest.mark.parametrize(
    "thing",
    [
        torch.zeros(2),
        [1, 2],
        {},
        without("hyper_parameters"),
        without("state_dict"),
        without("epoch"),
        content(model=None),
        content(model={"network": 1}),
    ],
    ids=["tensor", "list", "empty", "no config", "no weights", "no epoch", "None", "no target"],
)
def test_other_files_of_torch_are_refused(save, thing):
    with pytest.raises(ValueError, match=r"written by train\.py, but .*last\.ckpt is not one"):
        read_checkpoint(save(thing))


@pytest.mark.parametrize("text", ["", "this is a sentence, no checkpoint"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "last.ckpt"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not one"):
        read_checkpoint(path)


class Mischief:
    """Unpickling this makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_code_in_a_pickle_is_not_run(save, tmp_path):
    path = save({**content(), "extra": Mischief(tmp_path / "pwned")})
    with pytest.raises(ValueError, match="is not one"):
        read_checkpoint(path)
    assert not (tmp_path / "pwned").exists()


EVIL = {"_target_": "os.system", "_args_": ["true"]}


def model_with(**parts):
    return {"_target_": "spikelens.models.classifier.SpikingClassifier", **parts}


@pytest.mark.parametrize(
    "config",
    [
        {"model": EVIL},
        {"data": EVIL},
        {"generator": EVIL},
        {"am": {"search": {"_target_": "spikelens.am.probe.SearchPlan"}, "optimizer": EVIL}},
        {"model": model_with(network={"surrogate": EVIL})},
        {"model": model_with(trainer=EVIL)},
        {"model": model_with(layers=[1, [EVIL]])},
        {"model": model_with(layers=(1, EVIL))},
        {"am": {"generator": {"callbacks": {"logger": EVIL}}}},
        {"model": model_with(layers={"deep": ({"er": (EVIL,)},)})},
    ],
    ids=[
        "model",
        "data",
        "generator",
        "am",
        "dict",
        "trainer",
        "list",
        "tuple",
        "callbacks",
        "tuple in dict",
    ],
)
def test_untrusted_targets_are_refused_wherever_they_stand(save, config):
    with pytest.raises(ValueError, match=r"only parts of Spikelens, but .* names os\.system"):
        read_checkpoint(save(content(**config)))


@pytest.mark.parametrize(
    "target",
    [
        "spikelens_evil.run",
        "torch.load",
        "torch.optimism",
        "builtins.eval",
        "hydra.utils.get_method",
        "spikelens.models",  # a module
        "spikelens.models.nothing.Here",
        "spikelens.models.vqvae.nothing",
        # What a trusted module imports is not part of it.
        "spikelens.report.terminal.os.system",
        "spikelens.report.terminal.sys.exit",
        "torch.optim.optimizer.torch.load",
    ],
)
def test_only_parts_of_spikelens_are_trusted(save, target):
    with pytest.raises(ValueError, match="must name only parts of Spikelens"):
        read_checkpoint(save(content(model=model_with(part={"_target_": target}))))


TORCHSCRIPT = {"_target_": "spikelens.generators.model_files.load_torchscript", "path": "x.pt"}


@pytest.mark.parametrize(
    ("module", "named"),
    [
        ({"_target_": "my_package.Gan"}, "my_package.Gan"),
        # It would run what lies in the file.
        (TORCHSCRIPT, "spikelens.generators.model_files.load_torchscript"),
    ],
)
def test_a_generator_of_the_user_s_own_is_to_be_given_anew(save, module, named):
    generator = {"_target_": "spikelens.generators.external.ExternalLatent", "module": module}
    am = {"generator": generator, "budget": 3}
    path = save(content(generator=generator, am=am))
    with pytest.raises(ValueError, match=f"names {named} as its generator: give that anew"):
        read_checkpoint(path)
    config = read_checkpoint(path, needs_generator=False).config
    assert "generator" not in config
    assert config["am"] == {"budget": 3}
    path = save(content(generator=generator, am=am, model=EVIL))
    for needs_generator in (False, True):
        with pytest.raises(ValueError, match=r"only parts of Spikelens, but"):
            read_checkpoint(path, needs_generator)
    with pytest.raises(ValueError, match=r"names os\.system\.$"):
        read_checkpoint(path, needs_generator=False)


def test_an_interpolation_cannot_fetch_a_target_from_elsewhere(save):
    # OmegaConf would put the node `evil` in the place of the string.
    config = {"evil": EVIL, "model": model_with(part="${evil}")}
    with pytest.raises(ValueError, match="Argument `ckpt`"):
        read_checkpoint(save(content(**config)))


def test_the_network_is_the_module_s_own_in_evaluation_mode(save):
    found, module = read_checkpoint(save(content())), nn.Module()
    module.network = nn.Sequential(nn.Dropout())
    assert found.network_of(module) is module.network
    assert not module.network.training
    assert not module.network[0].training


def test_training_goes_on_only_from_a_checkpoint_of_the_same_module(save, tmp_path):
    path = save(content())
    check_resumable(path, nn.Linear(3, 2))
    with pytest.raises(ValueError, match="weights must fit the model"):
        check_resumable(path, nn.Linear(4, 2))
    with pytest.raises(FileNotFoundError, match="`ckpt_path` must be a checkpoint, but found no"):
        check_resumable(tmp_path / "none.ckpt", nn.Linear(3, 2))


def test_a_module_without_a_network_cannot_be_probed(save):
    found, other = read_checkpoint(save(content())), nn.Linear(3, 2)
    with pytest.raises(ValueError, match="of a spiking classifier, but it is that of a Linear"):
        found.network_of(other)
    other.network = "conv"
    with pytest.raises(ValueError, match="of a spiking classifier"):
        found.network_of(other)


def test_the_start_belongs_to_just_these_neurons(save):
    found = read_checkpoint(save(content()))
    assert torch.equal(found.start_of(["conv1:0", "fc1:3"]), HISTORY["start"])
    assert torch.equal(found.start_of(("conv1:0", "fc1:3")), HISTORY["start"])
    for others in (["fc1:3", "conv1:0"], ["conv1:0"], ["conv1:0", "fc1:3", "fc1:4"], []):
        assert found.start_of(others) is None


def test_the_start_belongs_to_its_direction(save):
    found = read_checkpoint(save(content()))
    for row in found.history["rows"]:
        row["direction"] = "minimize"
    assert found.start_of(["conv1:0", "fc1:3"]) is None
    assert torch.equal(found.start_of(["conv1:0", "fc1:3"], "minimize"), HISTORY["start"])


def test_the_first_probe_started_from_nothing():
    found = Checkpoint({}, {}, {**HISTORY, "start": None}, 0)
    assert found.start_of(["conv1:0", "fc1:3"]) is None


def test_weights_are_loaded_into_what_they_fit(save):
    found = read_checkpoint(save(content()))
    module = nn.Linear(3, 2)
    found.load_into(module)
    assert torch.equal(module.weight, torch.ones(2, 3))
    for other in (nn.Linear(4, 2), nn.Linear(3, 2, bias=False), nn.Sequential(nn.Linear(3, 2))):
        with pytest.raises(ValueError, match="weights must fit the model"):
            found.load_into(other)
