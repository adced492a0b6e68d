"""Random changes of training images, on the device and on whole batches."""

import torch
from torch import Tensor, nn

from spikelens.arguments import require_integers


class Augmentation(nn.Module):
    """Shift, mirror and brighten images, each image in its own way.

    Draws from torch's global random state only, so that seeding torch repeats it.

    Args:
        pad: Largest shift in pixels in each direction, not negative and less than the image
            side; what a shift uncovers is filled by reflection.
        flip: Whether half of the images are mirrored left to right.
        brightness: Largest relative change b of brightness in [0, 1]: each image is multiplied
            by a factor drawn from [1 - b, 1 + b] and clamped to [0, 1].

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, pad: int = 4, flip: bool = True, brightness: float = 0.0) -> None:
        super().__init__()
        require_integers(0, pad=pad)
        if not 0.0 <= brightness <= 1.0:
            raise ValueError(f"Argument `brightness` must lie in [0, 1], but got {brightness!r}.")
        self.pad, self.flip, self.brightness = pad, flip, brightness

    def forward(self, images: Tensor) -> Tensor:
        """Change float images `(N, C, H, W)` in [0, 1]; same shape and range.

        Raises:
            ValueError: If the images are not larger than the shift.
        """
        if self.pad >= min(images.shape[-2:]):
            raise ValueError(
                f"Argument `pad` must be less than the image side {min(images.shape[-2:])}, "
                f"but got {self.pad}."
            )
        if self.pad or self.flip:
            images = self._move(images)
        if self.brightness:
            images = self._brighten(images)
        return images

    def _move(self, images: Tensor) -> Tensor:
        num_images, num_channels, height, width = images.shape
        rows, columns = self._window(images, height), self._window(images, width)
        if self.flip:
            is_flipped = torch.rand(num_images, 1, device=images.device) < 0.5
            columns = torch.where(is_flipped, columns.flip(1), columns)
        image = torch.arange(num_images, device=images.device)[:, None, None, None]
        channel = torch.arange(num_channels, device=images.device)[:, None, None]
        return images[image, channel, rows[:, None, :, None], columns[:, None, None, :]]

    def _window(self, images: Tensor, side: int) -> Tensor:
        """Draw the source rows (or columns) of each image, int64 `(N, side)`."""
        device = images.device
        shifts = torch.randint(-self.pad, self.pad + 1, (len(images), 1), device=device)
        source = shifts + torch.arange(side, device=device)
        # Reflection about the first and the last pixel, without repeating them.
        return (side - 1) - ((side - 1) - source.abs()).abs()

    def _brighten(self, images: Tensor) -> Tensor:
        change = 2.0 * torch.rand(len(images), 1, 1, 1, device=images.device) - 1.0
        return (images * (1.0 + self.brightness * change)).clamp(0.0, 1.0)
