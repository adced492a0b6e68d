import lightning as L
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


class Watcher(L.LightningModule):
    """Train a linear layer and remember what arrives."""

    def __init__(self, spec):
        super().__init__()
        channels, height, width = spec.image_shape
        self.network = nn.Linear(channels * height * width, len(spec.classes))
        self.seen = {"train": [], "val": [], "test": []}

    def training_step(self, batch, batch_idx):
        images, labels = batch
        self.seen["train"].append((images.clone(), labels))
        return F.cross_entropy(self.network(images.flatten(1)), labels)

    def validation_step(self, batch, batch_idx):
        self.seen["val"].append(batch)

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.fixture
def watcher():
    return Watcher


@pytest.fixture
def quiet_trainer(tmp_path):
    def build(**arguments):
        return L.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            **arguments,
        )

    return build


@pytest.fixture
def write_classes():
    """Write class folders of plain images; image i of a class has the level 255 - i."""

    def write(folder, num_images=10, size=(8, 8), suffix=".png", classes=tuple(COLOURS)):
        for name in classes:
            (folder / name).mkdir(parents=True, exist_ok=True)
            for i in range(num_images):
                colour = tuple(max(channel - i, 0) for channel in COLOURS[name])
                Image.new("RGB", size, colour).save(folder / name / f"{i:03d}{suffix}")
        return folder

    return write
