"""Probe the neurons of a checkpoint that train.py wrote: table, pictures, Parquet.

python probe.py ckpt=PATH list=true                                 # which neurons there are
python probe.py ckpt=logs/…/checkpoints/last.ckpt                   # what the run itself watched
python probe.py ckpt=PATH neurons='[conv2:0-7,fc1:*]' budget=1000
python probe.py ckpt=PATH generator=vqvae generator.path=PATH       # another, or one of your own
python probe.py ckpt=PATH am/optimizer=genetic am.optimizer.batch=5 # another search
python probe.py ckpt=PATH am.optimizer.batch=5                      # the run's, set otherwise
"""

import sys
from typing import Any

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from spikelens.allocator import keep_freed_memory
from spikelens.am.activations import layer_shapes
from spikelens.am.natural import natural_images
from spikelens.am.probe import Probe, find_neurons, probe_neurons
from spikelens.checkpoints import Checkpoint, read_checkpoint
from spikelens.data.base import ImageData
from spikelens.report.progress import SearchBar
from spikelens.report.terminal import one_sentence_errors, print_layers, report_probe


def rebuild(checkpoint: Checkpoint) -> tuple[nn.Module, ImageData]:
    """Build the trained network and its data, not yet set up, from the checkpoint alone."""
    run = OmegaConf.create(checkpoint.config)
    data = instantiate(run.data)
    model = instantiate(run.model, _partial_=True, _convert_="all")(images=data.spec)
    network = checkpoint.network_of(model)
    checkpoint.load_into(model)
    return network, data


def adjust(run: DictConfig, cfg: DictConfig) -> None:
    """Change in `run.am`, how a run probed its neurons, what `cfg` asks otherwise."""
    if "am" not in run:  # its ${generator} and ${seed} become the run's
        run.am = hydra.compose("train", ["+am=enabled"]).am
    if "budget" in run.am.optimizer:  # one that plans ahead; the checkpoint holds the run's
        run.am.optimizer.budget = "${..search.budget}"
    asked = cfg.get("am", {})
    if "_target_" in asked.get("optimizer", {}):  # another one: nothing of the run's is for it
        del run.am.optimizer
    run.am = OmegaConf.merge(run.am, asked)
    of_search = {"budget", "num_starts", "seed", "precision", "chunk", "direction"}
    of_search |= {"num_stimuli", "min_distance", "num_repeats"}
    for key in ("neurons", "generator", "num_natural", *sorted(of_search)):
        if cfg.get(key) is not None:
            place = f"search.{key}" if key in of_search else key
            OmegaConf.update(run.am, place, cfg[key], merge=False, force_add=True)


def probe(cfg: DictConfig) -> Probe:
    """Do what the run's own callback did, on its checkpoint, but for what `cfg` asks otherwise."""
    # The user's own classes come from the command line, never from a file.
    checkpoint = read_checkpoint(cfg.ckpt, needs_generator=not cfg.get("generator"))
    run = OmegaConf.create(checkpoint.config)
    adjust(run, cfg)
    am: Any = OmegaConf.to_container(run.am, resolve=True)
    network, data = rebuild(checkpoint)
    is_gpu = torch.cuda.is_available() and run.trainer.accelerator != "cpu"
    device = torch.device("cuda" if is_gpu else "cpu")
    network, generator = network.to(device), instantiate(am["generator"]).to(device)
    optimizer = instantiate(am["optimizer"], _convert_="all")
    plan, shape = instantiate(am["search"]), data.spec.image_shape
    neurons = find_neurons(network, generator, am["neurons"], shape, optimizer, plan.num_starts)
    data.prepare_data()
    data.setup()
    natural = natural_images(data, am["num_natural"])
    # What the run started from are points of its own generator's latent.
    start = (
        None
        if cfg.get("generator")
        else checkpoint.start_of([str(n) for n in neurons], plan.direction)
    )
    start = None if start is None else start[:, : am["num_previous"]]
    with SearchBar("AM") as bar:
        return probe_neurons(network, generator, neurons, natural, optimizer, plan, start, bar.show)


def list_layers(ckpt: str) -> None:
    """Print which neurons a checkpoint's network has."""
    network, data = rebuild(read_checkpoint(ckpt, needs_generator=False))
    print_layers(layer_shapes(network, data.spec.image_shape))


@hydra.main(version_base="1.3", config_path="configs", config_name="probe")
def main(cfg: DictConfig) -> None:
    """Probe, then print the table and say where the pictures lie."""
    with one_sentence_errors():
        if cfg.list:
            list_layers(cfg.ckpt)
        else:
            report_probe(probe(cfg), cfg.folder)


if __name__ == "__main__":
    keep_freed_memory()
    # Settings of the run's own optimizer: Hydra, which sees no checkpoint, knows of none to change.
    sys.argv = [f"++{arg}" if arg.startswith("am.optimizer.") else arg for arg in sys.argv]
    main()
