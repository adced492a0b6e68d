"""Every configuration composes, and what it names can be built."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(autouse=True)
def configs():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def choices(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def targets(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for child in node.values():
            yield from targets(child)


MODULE = "generator.module._target_=conftest.LinearImages"
REQUIRED = {  # of generators
    "external": [MODULE, "generator.z_size=5"],
    "external_codes": [MODULE, "generator.mode_sizes=[3,3]"],
    "torchscript": ["generator.module.path=p", "generator.z_size=5"],
    "onnx": ["generator.module.path=p", "generator.z_size=5"],
}

# The output folder is known to a running program alone.
FOLDER = ["folder=x", "name=y"]


@pytest.mark.parametrize(
    "override",
    [f"{group}={name}" for group in ("data", "model", "generator") for name in choices(group)]
    + [f"+am=enabled am/optimizer={name}" for name in choices("am/optimizer")]
    + [f"experiment={name}" for name in choices("experiment")]
    + [f"debug={name}" for name in choices("debug")],
)
def test_every_choice_composes_and_names_what_exists(override):
    required = ["data.root=r"] if override in ("data=image_folder",) else []
    required += REQUIRED.get(override.removeprefix("generator="), [])
    cfg = compose("train", [*override.split(), *required, *FOLDER])
    found = set(targets(OmegaConf.to_container(cfg, resolve=True)))
    assert found
    for target in found:
        assert get_object(target) is not None


@pytest.mark.parametrize("group", ["experiment", "debug", "generator"])
def test_a_misspelt_choice_is_refused(group):
    with pytest.raises(ConfigCompositionException, match=f"Could not find '{group}/bogus'"):
        compose("train", overrides=[f"{group}=bogus"])


def test_no_choice_is_forgotten():
    tested = {"data", "model", "generator", "am", "experiment", "debug"}
    always = {"callbacks", "logger", "panels", "trainer"}
    assert {path.name for path in CONFIGS.iterdir() if path.is_dir()} == tested | always


@pytest.mark.parametrize("name", choices("panels"))
def test_panels_can_be_added(name):
    cfg = compose("train", [f"+panels@callbacks.more={name}", *FOLDER])
    more = OmegaConf.to_container(cfg.callbacks, resolve=True)["more"]
    assert get_object(more["_target_"]) is not None


def test_fidelity_is_measured_by_the_shipped_extractor():
    chosen = ["+panels@callbacks.fidelity=fidelity", "shipped=cifar10"]
    cfg = compose("train", [*chosen, *FOLDER])
    assert cfg.callbacks.fidelity.extractor == "weights/features_cifar10.safetensors"


@pytest.mark.parametrize(
    ("choice", "modes"), [("cosines", 192), ("external", 5), ("external_codes", 16)]
)
def test_generators_that_need_no_file_are_built(choice, modes):
    required = REQUIRED.get(choice, [])
    if choice == "external_codes":
        required = [
            "generator.module._target_=conftest.Palette",
            f"generator.mode_sizes={[8] * 16}".replace(" ", ""),
        ]
    cfg = compose("train", [f"generator={choice}", *required, *FOLDER])
    generator = instantiate(cfg.generator, _convert_="all")
    assert len(generator.mode_sizes) == modes
    points = torch.zeros(2, modes, dtype=torch.int64)
    assert generator.decode(points).shape == (2, *generator.image_shape)


def test_am_is_off_unless_asked_for():
    assert "am" not in compose("train", FOLDER)


def test_required_values_are_marked():
    cfg = compose("train", ["data=image_folder", *FOLDER])
    assert OmegaConf.is_missing(cfg.data, "root")
    assert OmegaConf.is_missing(compose("probe", ["folder=x"]), "ckpt")
    external = compose("train", ["generator=external", *FOLDER]).generator
    assert OmegaConf.is_missing(external, "z_size")
    assert OmegaConf.is_missing(external.module, "_target_")
    for name in ("torchscript", "onnx"):
        assert OmegaConf.is_missing(
            compose("train", [f"generator={name}"]).generator.module, "path"
        )


@pytest.mark.parametrize("generator", ["vqvae", "sngan"])
@pytest.mark.parametrize("data", ["shapes", "cifar10", "cifar10_jpeg"])
def test_generators_ship_for_the_data_sets(data, generator):
    cfg = compose("train", [f"data={data}", f"generator={generator}", *FOLDER])
    assert cfg.generator.path == f"weights/{generator}_{data.removesuffix('_jpeg')}.safetensors"


@pytest.mark.parametrize("typo", ["am.budgett=3", "model.network.num_step=3", "epochs=2"])
def test_typos_are_refused(typo):
    with pytest.raises(ConfigCompositionException, match=typo.split("=")[0].split(".")[-1]):
        compose("train", ["+am=enabled", typo, *FOLDER])


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_the_last_epoch_of_a_recipe_is_saved_and_measured(experiment):
    cfg = compose("train", [f"experiment={experiment}", *FOLDER])
    for callback in cfg.callbacks.values():
        assert cfg.trainer.max_epochs % callback.get("every_n_epochs", 1) == 0
