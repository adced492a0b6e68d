"""Somebody else's network that draws images, checked once and brought to our terms."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

# What a network without a last squashing may exceed its range by, as a share of the range.
_TOLERANCE = 0.05


class ImageModule(nn.Module):
    """A network points -> images whose images are float32 `(N, C, H, W)` in about [0, 1].

    It is put in evaluation mode and float32, on the CPU until `to` moves it; its parameters are
    frozen. A few points show whether it keeps its promises.

    Args:
        module: Draws images `(N, C, H, W)` of 1 or 3 channels from points `(N, ...)`, each from its
            own point alone.
        points: At least two points to try, on the CPU.
        value_range: Darkest and brightest value of its float images; uint8 images have 0 and 255.

    Attributes:
        image_shape: Shape `(C, H, W)` of the images.
        has_gradient: Whether images can be differentiated with respect to points.

    Raises:
        TypeError: If `module` is no `nn.Module`.
        ValueError: If an argument is out of its range, or the images are not as they must be.
    """

    def __init__(
        self, module: nn.Module, points: Tensor, value_range: Sequence[float] = (0.0, 1.0)
    ) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"Argument `module` must be an nn.Module, but got a {type(module).__name__}."
            )
        self.low, self.high = _checked_range(value_range)
        self.module = module.cpu().float().eval()
        for parameter in self.module.parameters():  # TorchScript has no `requires_grad_`
            parameter.requires_grad_(False)
        with torch.no_grad():
            raw = self._try(points)
            self._check(raw)
            # Rows may differ in their last bits, which depend on the size of a batch.
            alone = [self._scaled(self._try(point[None])) for point in points]
        if not torch.allclose(torch.cat(alone), self._scaled(raw), rtol=0.0, atol=1e-3):
            raise ValueError(
                "Argument `module` must draw an image from its own point alone, but its images "
                "change with the other points, or from one call to the next."
            )
        self.image_shape: tuple[int, int, int] = (raw.shape[1], raw.shape[2], raw.shape[3])
        self.has_gradient = points.is_floating_point() and self._is_differentiable(points)

    def forward(self, points: Tensor) -> Tensor:
        """Draw images float32 `(N, C, H, W)` of points `(N, ...)`, scaled but not clamped."""
        images: Tensor = self.module(points)
        return self._scaled(images)

    def draw(self, points: Tensor) -> Tensor:
        """Draw images float32 `(N, C, H, W)` in [0, 1] of points `(N, ...)`, without gradients."""
        with torch.no_grad():
            images: Tensor = self(points)
        return images.clamp(0.0, 1.0)

    def _scaled(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            return images.float() / 255.0
        return (images.float() - self.low) / (self.high - self.low)

    def _try(self, points: Tensor) -> Any:
        try:
            return self.module(points)
        except Exception as error:  # each network fails in its own way on what it does not take
            lines = str(error).splitlines() or [type(error).__name__]
            reason = lines[-1 if isinstance(error, RuntimeError) else 0]  # TorchScript: at the end
            dtype = str(points.dtype).removeprefix("torch.")
            raise ValueError(
                f"Argument `module` must draw images from {dtype} {tuple(points.shape)}, but it "
                f"says: {reason}"
            ) from error

    def _check(self, images: Any) -> None:
        """Refuse images of another type, shape or range."""
        must = "Argument `module` must draw"
        if not isinstance(images, Tensor):
            raise ValueError(f"{must} one tensor of images, but draws a {type(images).__name__}.")
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"{must} images (N, C, H, W) of 1 or 3 channels, but draws {tuple(images.shape)}."
            )
        if images.dtype == torch.uint8:
            return
        if not images.is_floating_point():
            raise ValueError(f"{must} float or uint8 images, but draws {images.dtype}.")
        darkest, brightest = images.min().item(), images.max().item()
        slack = _TOLERANCE * (self.high - self.low)
        # Written so that NaN is refused.
        if not (darkest >= self.low - slack and brightest <= self.high + slack):
            raise ValueError(
                f"{must} values in its `value_range`, [{self.low:g}, {self.high:g}], but draws "
                f"{darkest:.3g} to {brightest:.3g}."
            )

    def _is_differentiable(self, points: Tensor) -> bool:
        with torch.enable_grad():
            try:
                return bool(self(points.clone().requires_grad_()).requires_grad)
            except Exception:  # numpy inside, say
                return False


def _checked_range(value_range: Sequence[float]) -> tuple[float, float]:
    values = [float(value) for value in value_range]
    if len(values) != 2 or not all(map(math.isfinite, values)) or values[0] >= values[1]:
        raise ValueError(
            "Argument `value_range` must be the darkest and the brightest value, but got "
            f"{list(value_range)}."
        )
    return values[0], values[1]
