"""A data set of 8 x 8 images in memory and a tiny classifier for it."""

from functools import partial

import lightning as L
import pytest
import torch

from spikelens.data.base import ImageData, Split
from spikelens.models.classifier import SpikingClassifier
from spikelens.models.spiking_cnn import small


class Stripes(ImageData):
    """Class c is brightest in the c-th third of the rows."""

    channels, image_size = 1, 8

    def _load(self):
        random = torch.Generator().manual_seed(self.seed)
        splits = {}
        for name, num in (("train", 48), ("val", 24), ("test", 24)):
            labels = torch.arange(num) % 3
            images = torch.randint(0, 100, (num, 1, 8, 8), generator=random)
            for image, label in zip(images, labels, strict=True):
                image[:, 3 * label : 3 * label + 2] += 150
            splits[name] = Split(images.to(torch.uint8), labels)
        return splits

    def _class_names(self):
        return ("top", "middle", "bottom")


@pytest.fixture
def stripes():
    data = Stripes(batch_size=16)
    data.prepare_data()
    data.setup()
    return data


@pytest.fixture
def build_model(stripes):
    def build():
        torch.manual_seed(3)
        return SpikingClassifier(stripes.spec, partial(small, width=4, encoding="rate"))

    return build


@pytest.fixture
def fit(tmp_path):
    """Fit on the CPU without printing anything; returns the trainer."""

    def run(model, data, callbacks=(), ckpt_path=None, max_epochs=2, logger=False):
        trainer = L.Trainer(
            max_epochs=max_epochs,
            accelerator="cpu",
            callbacks=list(callbacks),
            logger=logger,
            default_root_dir=tmp_path,
            enable_checkpointing=any("Checkpoint" in type(c).__name__ for c in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=1,
            log_every_n_steps=1,
        )
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
        return trainer

    return run
