"""Probe the neurons of a checkpoint that train.py wrote: table, pictures, Parquet.

python probe.py ckpt=logs/…/checkpoints/last.ckpt                   # what the run itself watched
python probe.py ckpt=PATH neurons='[conv2:0-7,fc1:*]' budget=1000
python probe.py ckpt=PATH generator=vqvae generator.path=PATH
"""

from pathlib import Path

import hydra
import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from spikelens.allocator import keep_freed_memory
from spikelens.am.natural import natural_images
from spikelens.am.probe import Probe, find_neurons, probe_neurons
from spikelens.checkpoints import read_checkpoint
from spikelens.report.progress import SearchBar
from spikelens.report.terminal import one_sentence_errors, report_probe


def probe(cfg: DictConfig) -> Probe:
    """Rebuild data, model and generator from the checkpoint and probe its neurons."""
    checkpoint = read_checkpoint(cfg.ckpt)
    run = OmegaConf.create(checkpoint.config)
    am = run.am if "am" in run else compose("train", ["+am=enabled"]).am
    wanted = {"neurons": cfg.neurons, "generator": cfg.get("generator"), "search.seed": cfg.seed}
    wanted |= {"search.budget": cfg.budget, "num_natural": cfg.num_natural}
    for key, value in wanted.items():
        if value is not None:
            OmegaConf.update(am, key, value, merge=False)
    data = instantiate(run.data)
    data.prepare_data()
    data.setup()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = instantiate(run.model, _partial_=True, _convert_="all")(images=data.spec)
    checkpoint.load_into(model)
    network = model.eval().to(device).network
    generator = instantiate(am.generator).to(device)
    neurons = find_neurons(network, generator, list(am.neurons), data.spec.image_shape)
    natural = natural_images(data, am.num_natural)
    optimizer, plan = instantiate(am.optimizer, _convert_="all"), instantiate(am.search)
    # What the run started from are points of its own generator's latent.
    start = None if cfg.get("generator") else checkpoint.start_of([str(n) for n in neurons])
    with SearchBar("AM") as bar:
        return probe_neurons(network, generator, neurons, natural, optimizer, plan, start, bar.show)


@hydra.main(version_base="1.3", config_path="configs", config_name="probe")
def main(cfg: DictConfig) -> None:
    """Probe, then print the table and say where the pictures lie."""
    with one_sentence_errors():
        report_probe(probe(cfg), Path(cfg.folder))


if __name__ == "__main__":
    keep_freed_memory()
    main()
