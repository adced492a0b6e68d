"""How far two points of a latent are from each other."""

import torch
from torch import Tensor

from spikelens.generators.base import LatentSpace

# Draws that the unit is taken from: every pair counts, so that it is known to about 1 %.
_NUM_DRAWS = 256


class LatentDistance:
    """Measure points by what their symbols stand for, in units of two unrelated points.

    The root mean square, over modes, of the difference of embeddings, divided by that of two draws
    of the space's `sample`: 0 for points that draw the same, 1 for two that have no more to do with
    each other than natural-looking ones do.

    Args:
        space: Embeds its points.
        device: Where the points live.

    Raises:
        ValueError: If all draws of the space are the same.

    Example:
        >>> from spikelens.generators.cosines import Cosines
        >>> space = Cosines(1, 8, num_frequencies=8)
        >>> points = space.sample(200, torch.Generator().manual_seed(1))
        >>> round(float(LatentDistance(space)(points, points.flip(0)).square().mean()), 1)
        1.0
    """

    def __init__(self, space: LatentSpace, device: torch.device | str = "cpu") -> None:
        self.space = space
        random = torch.Generator(device).manual_seed(0)
        draws = self._embed(space.sample(_NUM_DRAWS, random).to(device))
        # The mean squared difference of two independent draws is twice their variance.
        self.unit = (2.0 * draws.var(0).sum()).sqrt()
        if not self.unit > 0.0:
            raise ValueError(
                "Argument `space` must draw points that differ, but all those of "
                f"{type(space).__name__} are the same."
            )

    def __call__(self, points: Tensor, others: Tensor) -> Tensor:
        """Return how far each of `points` is from each of `others`.

        Args:
            points: int64 `(..., N, d)`.
            others: int64 `(..., M, d)`.

        Returns:
            Not negative, float32 `(..., N, M)`.
        """
        # By a matrix product whatever N and M are: near 0 it is good to three digits only, but ten
        # times as fast as by differences.
        mode = "use_mm_for_euclid_dist"
        return torch.cdist(self._embed(points), self._embed(others), compute_mode=mode) / self.unit

    def _embed(self, points: Tensor) -> Tensor:
        return self.space.embed(points).float().flatten(-2)
