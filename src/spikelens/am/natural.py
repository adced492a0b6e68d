"""Natural images that a neuron's optimal stimulus is compared with."""

from dataclasses import dataclass

from torch import Tensor

from spikelens.arguments import require_integers
from spikelens.data.base import ImageData


@dataclass(frozen=True)
class NaturalImages:
    """Labelled images that the neurons are compared on.

    Attributes:
        images: uint8 `(N, C, H, W)`.
        labels: int64 `(N,)`.
        classes: Name of each class.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def natural_images(data: ImageData, num_images: int) -> NaturalImages:
    """Take the first validation images of a data set; the same ones each time.

    Args:
        data: Set up already.
        num_images: How many at most, positive.

    Raises:
        ValueError: If `data` is no image data module, or the number is not positive.
    """
    require_integers(1, num_natural=num_images)
    if not isinstance(data, ImageData):
        raise ValueError(
            "Argument `datamodule` of the Trainer must be a spikelens ImageData, but got "
            f"{type(data).__name__}."
        )
    split = data.split("val")
    return NaturalImages(split.images[:num_images], split.labels[:num_images], data.spec.classes)
