"""Pictures into TensorBoard and into files."""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from PIL import Image

from spikelens.report.figures import to_tensor


def log_picture(loggers: Sequence[Logger], tag: str, picture: Image.Image, step: int) -> None:
    """Show a picture in every TensorBoard log.

    Args:
        loggers: The Trainer's loggers; those that are no `TensorBoardLogger` are passed over.
        tag: TensorBoard tag.
        picture: What to show.
        step: Global step, the one accuracy is logged at.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, to_tensor(picture), step)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Save a picture; folders are made as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
