import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.reconstruction_panels import ReconstructionPanels
from spikelens.models.vqvae import VQVAE


def test_panels_are_logged_and_saved(stripes, fit, tmp_path):
    model = VQVAE(stripes.spec, hidden=8, residual_hidden=4, num_residuals=1, num_codes=6)
    logger = TensorBoardLogger(tmp_path, name="tb")
    fit(model, stripes, [ReconstructionPanels(4, str(tmp_path / "panels"))], logger=logger)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    events.Reload()
    steps = [event.step for event in events.Scalars("val/relative_mse")]
    assert [event.step for event in events.Images("vqvae/panel")] == steps
    first, last = sorted((tmp_path / "panels").glob("reconstruction_epoch*.png"))
    top = [Image.open(path).crop((100, 0, 400, 80)).tobytes() for path in (first, last)]
    assert top[0] == top[1]  # the originals are the same each time


def test_other_modules_are_refused(stripes, build_model, fit):
    with pytest.raises(ValueError, match="must be a VQ-VAE"):
        fit(build_model(), stripes, [ReconstructionPanels()])
