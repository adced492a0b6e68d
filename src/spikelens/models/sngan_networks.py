"""The residual networks of an SN-GAN: z to image, image to score, image to z."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

_SMALLEST = 4  # pixels: the maps that a generator begins with are at least so large
_SCORED = 8  # pixels: a discriminator halves its maps until they are no larger


def bottom_side(size: int) -> tuple[int, int]:
    """Return the side of the first map and how often it is doubled to give `size`.

    >>> [bottom_side(size) for size in (28, 32, 48, 64)]
    [(7, 2), (4, 3), (6, 3), (4, 4)]

    Raises:
        ValueError: If the size cannot be halved at all.
    """
    side, num_doublings = size, 0
    while side % 2 == 0 and side // 2 >= _SMALLEST:
        side, num_doublings = side // 2, num_doublings + 1
    if num_doublings == 0 or side > 2 * _SCORED:
        raise ValueError(
            "Argument `images` must have a size of 4 to 16 pixels times a power of two, but got "
            f"{size}."
        )
    return side, num_doublings


def _conv(in_channels: int, out_channels: int, kernel_size: int, gain: float) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    nn.init.xavier_uniform_(conv.weight, gain)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class UpBlock(nn.Module):
    """Double a map: (BN, ReLU, upsample, conv3, BN, ReLU, conv3) + shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.conv1 = _conv(channels, channels, 3, 2**0.5)
        self.conv2 = _conv(channels, channels, 3, 2**0.5)
        self.shortcut = _conv(channels, channels, 1, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, channels, H, W)` to `(N, channels, 2H, 2W)`."""
        hidden = self.conv1(_doubled(F.relu(self.norm1(x))))
        hidden = self.conv2(F.relu(self.norm2(hidden)))
        # A 1x1 convolution of a doubled map is the doubled convolution, at a quarter of the cost.
        out: Tensor = hidden + _doubled(self.shortcut(x))
        return out


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class DownBlock(nn.Module):
    """Under spectral norm: (ReLU, conv3, ReLU, conv3, mean of 2x2) + shortcut.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        is_first: Whether the input is an image: it is not rectified.
        is_halving: Whether the map is halved.
    """

    def __init__(
        self, in_channels: int, out_channels: int, is_first: bool = False, is_halving: bool = True
    ) -> None:
        super().__init__()
        self.is_first, self.is_halving = is_first, is_halving
        self.conv1 = spectral_norm(_conv(in_channels, out_channels, 3, 2**0.5))
        self.conv2 = spectral_norm(_conv(out_channels, out_channels, 3, 2**0.5))
        self.shortcut: nn.Module = nn.Identity()
        if is_halving or in_channels != out_channels:
            self.shortcut = spectral_norm(_conv(in_channels, out_channels, 1, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, in, H, W)` to `(N, out, H / 2, W / 2)`, or `(N, out, H, W)` without halving."""
        hidden = self.conv2(F.relu(self.conv1(x if self.is_first else F.relu(x))))
        if self.is_halving:
            # Mean and 1x1 convolution commute: the mean first is a quarter of the cost.
            hidden, x = F.avg_pool2d(hidden, 2), F.avg_pool2d(x, 2)
        out: Tensor = hidden + self.shortcut(x)
        return out


class ResNetGenerator(nn.Module):
    """Draw images from z.

    Args:
        z_size: Length of z, standard normal.
        width: Channels of all hidden maps; the paper takes 256.
        channels: Channels of the images.
        size: Side of the images: see `bottom_side`.

    Source: Miyato et al., "Spectral normalization for generative adversarial networks", 2018,
    table 4.
    """

    def __init__(self, z_size: int, width: int, channels: int, size: int) -> None:
        super().__init__()
        self.side, num_blocks = bottom_side(size)
        self.first = nn.Linear(z_size, width * self.side**2)
        self.blocks = nn.Sequential(*(UpBlock(width) for _ in range(num_blocks)))
        self.norm = nn.BatchNorm2d(width)
        self.last = _conv(width, channels, 3, 1.0)
        nn.init.xavier_uniform_(self.first.weight)
        nn.init.zeros_(self.first.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Draw `(N, channels, size, size)` in [-1, 1] from `(N, z_size)`."""
        maps = self.first(z).view(len(z), -1, self.side, self.side)
        maps = self.blocks(maps.contiguous(memory_format=torch.channels_last))
        return torch.tanh(self.last(F.relu(self.norm(maps))))


class ResNetDiscriminator(nn.Module):
    """Score images; all weights under spectral norm.

    Args:
        width: Channels of all hidden maps; the paper takes 128.
        channels: Channels of the images.
        size: Side of the images; maps are halved until they are no larger than 8 pixels, and two
            more blocks follow, as in the paper for 32 pixels.

    Source: as `ResNetGenerator`.
    """

    def __init__(self, width: int, channels: int, size: int) -> None:
        super().__init__()
        blocks = [DownBlock(channels, width, is_first=True)]
        side = size // 2
        while side > _SCORED:
            blocks.append(DownBlock(width, width))
            side //= 2
        blocks += [DownBlock(width, width, is_halving=False) for _ in range(2)]
        self.blocks = nn.Sequential(*blocks)
        last = nn.Linear(width, 1)
        nn.init.xavier_uniform_(last.weight)
        nn.init.zeros_(last.bias)
        self.last = spectral_norm(last)

    def forward(self, images: Tensor) -> Tensor:
        """Score images `(N, channels, size, size)` in [-1, 1]: `(N,)`, more for a real one."""
        with parametrize.cached():
            self._normalize()
            maps = self.blocks(images.contiguous(memory_format=torch.channels_last))
            out: Tensor = self.last(F.relu(maps).sum((2, 3))).squeeze(1)
        return out

    def _normalize(self) -> None:
        """Divide the weights by their norms in float32: autocast would take power iterations too.

        The results stay in the cache that the caller opened.
        """
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            for module in self.modules():
                if parametrize.is_parametrized(module):
                    _ = module.weight


class LatentEncoder(nn.Module):
    """Guess the z that an image was drawn from.

    Args:
        z_size: Length of z.
        width: Channels of the first hidden map; doubled as the maps are halved.
        channels: Channels of the images.
        size: Side of the images, at least 8.
    """

    def __init__(self, z_size: int, width: int, channels: int, size: int) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width]
        self.maps = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                )
                for before, after in pairwise(widths)
            )
        )
        self.last = nn.Linear(4 * width * (size // 8) ** 2, z_size)

    def forward(self, images: Tensor) -> Tensor:
        """Return `(N, z_size)` for images `(N, channels, size, size)` in [-1, 1]."""
        maps = self.maps(images.contiguous(memory_format=torch.channels_last))
        out: Tensor = self.last(maps.flatten(1))
        return out
