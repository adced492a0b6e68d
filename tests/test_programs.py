"""train.py and probe.py as a user runs them, on tiny data."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from probe import adjust, list_layers, probe
from spikelens.tracking import rows_of
from train import train

ROOT = Path(__file__).parents[1]
# A search as small as can be; weights and caches where the program finds them from the root.
TINY = [
    "debug=tiny",
    "am.neurons=[conv1:0-2,conv2:1,fc1:5,output:3]",
    "am.search.budget=14",
    "model.network.width=8",
    "+trainer.enable_progress_bar=false",
    "~callbacks.progress",
]


def configure(program, folder, *overrides):
    more = [f"data.cache_dir={folder / 'cache'}", "name=tiny"] if program == "train" else []
    return compose(program, [f"folder={folder}", *more, *overrides])


@pytest.fixture(scope="module", autouse=True)
def hydra():
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        export = f"export={folder / 'own.safetensors'}"
        metrics = train(configure("train", folder, "+am=enabled", *TINY, export))
    return folder, metrics


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_training_leaves_metrics_pictures_tables_and_checkpoints(run):
    folder, metrics = run
    for name in ("train/loss", "val/accuracy", "test/accuracy", "am/activation/conv1"):
        assert name in metrics
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    names = {path.name for path in (folder / "panels").iterdir()}
    assert {"conv1_epoch001.png", "filmstrip.png", "neurons.csv"} <= names
    table = pyarrow.parquet.read_table(folder / "panels" / "neurons.parquet").to_pylist()
    assert len(table) == 2 * 6
    mean = sum(row["activation"] for row in table[6:9]) / 3
    assert metrics["am/activation/conv1"] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_probe_of_a_checkpoint_equals_the_callback(run, epoch):
    folder, _ = run
    ckpt = folder / "checkpoints" / f"epoch{epoch:03d}.ckpt"
    found = rows_of(probe(configure("probe", folder, f"ckpt={ckpt}")), epoch)
    table = pyarrow.parquet.read_table(folder / "panels" / "neurons.parquet").to_pylist()
    wanted = [row for row in table if row["epoch"] == epoch]
    assert [str(vars(row)) for row in found] == [str(row) for row in wanted]


def test_a_probe_takes_other_neurons_budget_and_seed(run):
    folder, _ = run
    ckpt = folder / "checkpoints" / "last.ckpt"
    overrides = [f"ckpt={ckpt}", "neurons=[conv3:0-1@max]", "budget=9", "seed=4", "num_natural=5"]
    result = probe(configure("probe", folder, *overrides))
    assert [str(neuron) for neuron in result.neurons] == ["conv3:0@max", "conv3:1@max"]
    assert result.search.presentations.tolist() == [9, 9]


def test_a_checkpoint_lists_its_neurons_without_data_or_generator(run, tmp_path, capsys):
    checkpoint = torch.load(run[0] / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["data"]["cache_dir"] = str(tmp_path / "cache")
    checkpoint["hyper_parameters"]["generator"]["path"] = "missing.ckpt"
    torch.save(checkpoint, tmp_path / "last.ckpt")
    list_layers(str(tmp_path / "last.ckpt"))
    listed = capsys.readouterr().out
    for name in ("conv1:0-7", "conv3:0-15", "16 x 16", "fc1:0-127", "output:0-9"):
        assert name in listed
    assert not (tmp_path / "cache").exists()


def test_a_run_without_am_can_be_probed_too(tmp_path):
    train(configure("train", tmp_path, *[o for o in TINY if not o.startswith("am.")]))
    ckpt = tmp_path / "checkpoints" / "last.ckpt"
    result = probe(configure("probe", tmp_path, f"ckpt={ckpt}", "neurons=conv1:0-1", "budget=4"))
    assert result.stimuli.shape == (2, 3, 32, 32)
    with pytest.raises(InstantiationException, match="`budget` must be a positive integer"):
        probe(configure("probe", tmp_path, f"ckpt={ckpt}", "budget=0"))


def test_a_probe_keeps_to_the_run_s_generator(tmp_path):
    vqvae = ["model=vqvae", "model.hidden=8", "model.num_codes=16", "model.code_size=4"]
    shared = [o for o in TINY if not o.startswith(("am.", "model."))]
    train(configure("train", tmp_path / "g", *vqvae, *shared))
    own = ["generator=vqvae", f"generator.path={tmp_path}/g/checkpoints/last.ckpt"]
    train(configure("train", tmp_path, *own, *shared))
    ckpt = tmp_path / "checkpoints" / "last.ckpt"
    result = probe(configure("probe", tmp_path, f"ckpt={ckpt}", "neurons=conv1:0", "budget=4"))
    assert result.search.indices.max() < 16  # the shipped generator has 256 codes


def test_a_vqvae_of_ones_own_is_a_generator(run, tmp_path):
    overrides = ["model=vqvae", "model.hidden=8", "model.num_codes=16", "model.code_size=4"]
    shared = [o for o in TINY if not o.startswith(("am.", "model."))]
    exported = tmp_path / "own.safetensors"
    train(configure("train", tmp_path, *overrides, *shared, f"export={exported}"))
    assert (tmp_path / "panels" / "reconstruction_epoch001.png").is_file()
    run_ckpt = run[0] / "checkpoints" / "last.ckpt"
    stimuli = []
    for path in (tmp_path / "checkpoints" / "last.ckpt", exported):
        own = ["generator=vqvae", f"generator.path={path}"]
        cfg = configure("probe", tmp_path, f"ckpt={run_ckpt}", *own, "budget=4")
        stimuli.append(probe(cfg).stimuli)
    assert torch.equal(*stimuli)


def test_exported_weights_are_probed_like_the_checkpoint(run, tmp_path, capsys):
    folder, _ = run
    # Others than the run's, whose search a checkpoint goes on from.
    few = ["neurons=[conv1:3-4,output:1]", "budget=6", "seed=2", "num_natural=20"]
    found, wanted = (
        rows_of(probe(configure("probe", tmp_path, f"ckpt={folder / path}", *few)), 1)
        for path in ("own.safetensors", "checkpoints/last.ckpt")
    )
    assert [str(vars(row)) for row in found] == [str(vars(row)) for row in wanted]
    list_layers(str(folder / "own.safetensors"))
    assert "conv1:0-7" in capsys.readouterr().out


def test_an_sngan_of_ones_own_is_a_generator(run, tmp_path):
    widths = [f"model.{part}_width=4" for part in ("generator", "discriminator", "encoder")]
    sngan = ["model=sngan", "model.z_size=6", *widths, "trainer.max_epochs=1"]
    shared = [o for o in TINY if not o.startswith(("am.", "model."))]
    exported = tmp_path / "own.safetensors"
    metrics = train(configure("train", tmp_path, *sngan, *shared, f"export={exported}"))
    assert {"train/generator_loss", "val/score", "test/encoder_relative_mse"} <= set(metrics)
    assert (tmp_path / "panels" / "samples_epoch000.png").is_file()
    few = [f"ckpt={run[0]}/checkpoints/last.ckpt", "neurons=[conv1:0-1]", "budget=4"]
    few += ["num_natural=9", "num_starts=1"]
    probes = []
    for path in (tmp_path / "checkpoints" / "last.ckpt", exported):
        own = ["generator=sngan", f"generator.path={path}"]
        probes.append(probe(configure("probe", tmp_path, *few, *own)))
    assert torch.equal(probes[0].stimuli, probes[1].stimuli)
    assert torch.equal(probes[0].realism, probes[1].realism)
    assert probes[0].search.indices.shape == (2, 6)
    assert probes[0].realism.isfinite().all()
    for path in (tmp_path / "checkpoints" / "last.ckpt", exported):
        with pytest.raises(ValueError, match="classifier, but it is that of a SNGAN"):
            probe(configure("probe", tmp_path, f"ckpt={path}"))
    exported.with_suffix(".json").unlink()  # weights alone are a generator, but no run
    probe(configure("probe", tmp_path, *few, *own))
    with pytest.raises(ValueError, match="must have a card beside it"):
        probe(configure("probe", tmp_path, f"ckpt={exported}"))


# What a network of the user's own is, without a file of its own.
TANH = "generator.module._target_=torch.nn.Tanh generator.z_size=5"
EXTERNAL = [
    "generator=external",
    "generator.module._target_=conftest.LinearImages",
    "+generator.module.side=32",
    "+generator.module.channels=3",
    "generator.z_size=5",
    "generator.num_encode_steps=3",
]


def test_a_generator_of_another_kind_is_named_anew_for_a_probe(tmp_path):
    train(configure("train", tmp_path, "+am=enabled", *EXTERNAL, *TINY))
    ckpt = tmp_path / "checkpoints" / "last.ckpt"
    list_layers(str(ckpt))
    few = ["neurons=[conv1:0]", "budget=4"]
    with pytest.raises(ValueError, match=r"names conftest\.LinearImages as its generator: give"):
        probe(configure("probe", tmp_path, f"ckpt={ckpt}", *few))
    for generator, num_modes in ((EXTERNAL, 5), (["generator=cosines"], 192)):
        result = probe(configure("probe", tmp_path, f"ckpt={ckpt}", *few, *generator))
        assert result.search.indices.shape == (1, num_modes)
        assert result.search.presentations.tolist() == [4]


def test_a_probe_takes_another_direction_and_number_of_stimuli(run, tmp_path):
    few = [f"ckpt={run[0]}/checkpoints/last.ckpt", "neurons=[conv1:0-1]", "budget=12"]
    options = ["direction=minimize", "num_stimuli=2", "min_distance=0.7", "num_repeats=3"]
    result = probe(configure("probe", tmp_path, *few, *options))
    assert result.direction == "minimize"
    assert (result.activations <= result.natural_activations).all()
    assert len(result.others) == 1
    assert (result.others[0].distances >= 0.7 - 1e-3).all()


@pytest.mark.parametrize("before", ["elite_tt", "nevergrad", "protes"])
@pytest.mark.parametrize(
    "after", ["cma", "elite_tt", "gradient", "nevergrad", "protes", "random", "ttopt"]
)
def test_another_search_is_chosen_as_for_training(tmp_path, before, after):
    def of_run(search, *more):
        cfg = configure("train", tmp_path, "+am=enabled", f"am/optimizer={search}", *more)
        return OmegaConf.to_container(cfg, resolve=True)

    def adjusted(run, cfg):
        run = OmegaConf.create(run)
        adjust(run, cfg)
        return OmegaConf.to_container(run.am, resolve=True)

    run = of_run(before)
    chosen = f"am/optimizer={after}"
    cfg = configure("probe", tmp_path, "ckpt=x", chosen, "budget=9", "num_starts=3")
    wanted = of_run(after, "am.search.budget=9", "am.search.num_starts=3")["am"]
    if before == "protes":  # the run's own, unless the choice has one too
        wanted["num_previous"] = 0
    assert adjusted(run, cfg) == wanted
    cfg = configure("probe", tmp_path, "ckpt=x", "+am.optimizer.seed=4")
    own = adjusted(run, cfg)
    assert own["optimizer"] == run["am"]["optimizer"] | {"seed": 4}
    if after == "nevergrad":  # which plans by the search's budget, unless told otherwise
        told = configure("probe", tmp_path, "ckpt=x", chosen, "am.optimizer.budget=7", "budget=9")
        assert adjusted(run, told)["optimizer"]["budget"] == 7
    del run["am"]
    cfg = configure("probe", tmp_path, "ckpt=x", chosen)
    assert adjusted(run, cfg) == of_run(after)["am"]


def test_a_probe_takes_another_search(run, tmp_path):
    # The neurons are the run's: it has elites to start from, which PROTES is not to be given.
    chosen = ["am/optimizer=protes", "am.optimizer.preset=tt_s", "budget=10"]
    ckpt = f"ckpt={run[0]}/checkpoints/last.ckpt"
    result = probe(configure("probe", tmp_path, ckpt, *chosen))
    assert result.search.curve.shape == (2, 6)  # rounds of five, and none to start from


@pytest.mark.parametrize("chosen", [[], ["am/optimizer=genetic"]])
@pytest.mark.parametrize("setting", ["am.optimizer.batch=2", "am.optimizer.btach=2"])
def test_a_probe_takes_settings_of_the_run_s_search_or_another(run, tmp_path, chosen, setting):
    few = [f"ckpt={run[0]}/checkpoints/last.ckpt", "neurons=[conv1:0]", "budget=4"]
    command = [sys.executable, "probe.py", *few, *chosen, setting, f"hydra.run.dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr + done.stdout
    if "btach" in setting:
        assert done.stderr.startswith("Error: Argument `optimizer` must take its settings, but ")
        assert "'btach'" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("choice", ["am/optimizer", "generator"])
def test_a_probe_lists_the_choices_where_there_is_none_of_a_name(tmp_path, choice):
    command = [sys.executable, "probe.py", "ckpt=x", f"{choice}=genetik"]
    command += [f"hydra.run.dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"Could not find '{choice}/genetik'" in done.stderr
    assert f"Available options in '{choice}':" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_probe_can_do_without_natural_images_to_start_from(run, tmp_path):
    codes = [
        "generator=external_codes",
        "generator.module._target_=conftest.Palette",
        "+generator.module.channels=3",
        "+generator.module.scale=8",
        f"generator.mode_sizes={[8] * 48}".replace(" ", ""),
    ]
    few = [f"ckpt={run[0]}/checkpoints/last.ckpt", "neurons=[conv1:0]", "budget=4", *codes]
    with pytest.raises(ValueError, match=r"num_starts=0 to probe\.py"):
        probe(configure("probe", tmp_path, *few))
    result = probe(configure("probe", tmp_path, *few, "num_starts=0"))
    assert result.search.presentations.tolist() == [4]


@pytest.mark.parametrize(
    ("program", "arguments", "says"),
    [
        ("train.py", ["am=enabled", "am.neurons=[conv9:0]"], "conv1 (0-15), conv2 (0-31)"),
        ("train.py", ["am=enabled", "generator=external", TANH], "must draw images (N, C, H, W)"),
        ("probe.py", ["ckpt=missing.ckpt"], "found no file missing.ckpt"),
        ("probe.py", ["ckpt=missing.ckpt", "list=true"], "found no file missing.ckpt"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, program, arguments, says):
    folder = [f"hydra.run.dir={tmp_path}"]
    if program == "train.py":
        folder += ["debug=tiny", f"data.cache_dir={tmp_path}"]
    command = [sys.executable, program, *" ".join(arguments).split(), *folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert "Traceback" not in done.stderr + done.stdout
