"""Train a spiking classifier or a generator; with `+am=enabled` watch what its neurons want to see.

python train.py +am=enabled                        # spiking CNN on shapes, neurons tracked
python train.py +am=enabled am.neurons='[conv2:0-15]' am.search.budget=300
python train.py model=vqvae data=image_folder data.root=PATH
python train.py +am=enabled ckpt_path=logs/…/checkpoints/last.ckpt     # resume
"""

import shlex
import sys

import hydra
import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from spikelens.allocator import keep_freed_memory
from spikelens.checkpoints import check_resumable
from spikelens.report.terminal import one_sentence_errors, print_closing
from spikelens.weights import round_to_half, ship_weights, weights_path


def train(cfg: DictConfig) -> dict[str, float]:
    """Fit and test what the configuration describes; return the last value of each metric."""
    if cfg.export:
        weights_path(cfg.export)
    L.seed_everything(cfg.seed, verbose=False)
    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    model = instantiate(cfg.model, _partial_=True, _convert_="all")(images=data.spec)
    if cfg.ckpt_path:
        check_resumable(cfg.ckpt_path, model)
    # The checkpoint carries the whole configuration: probe.py rebuilds the run from it alone.
    model.save_hyperparameters(OmegaConf.to_container(cfg, resolve=True))
    callbacks = [*cfg.callbacks.values(), *([cfg.am] if "am" in cfg else [])]
    trainer = instantiate(
        cfg.trainer,
        logger=instantiate(cfg.logger),
        callbacks=[instantiate(callback, _convert_="all") for callback in callbacks],
    )
    trainer.fit(model, datamodule=data, ckpt_path=cfg.ckpt_path, weights_only=True)
    metrics = dict(trainer.callback_metrics)
    if cfg.export_half:
        round_to_half(model)  # what is tested is what ships
    trainer.test(model, datamodule=data, verbose=False)
    metrics.update(trainer.callback_metrics)
    if cfg.export:
        command = shlex.join(["python", *sys.argv])
        ship_weights(model, cfg.export, command, model.hparams, metrics, cfg.export_half)
    return {name: float(value) for name, value in metrics.items()}


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> None:
    """Train, then say what came out and where it lies."""
    with one_sentence_errors(cfg.folder):
        print_closing(train(cfg), cfg.folder)


if __name__ == "__main__":
    keep_freed_memory()
    # `am` is no default, so Hydra wants `+am=enabled`; take `am=enabled` for the same.
    sys.argv = [f"+{arg}" if arg.startswith("am=") else arg for arg in sys.argv]
    main()
