"""Pairs of modes that stand in the same relation: what their symbols' features have in common."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Pairs:
    """The bilinear forms `sum_g sum_{(i, j) in g} e_i^T C_g e_j` of features e of d modes.

    Args:
        relations: Groups g of pairs of modes, each int64 `(m, 2)`; see `LatentSpace`.
        device: Where it computes.
    """

    def __init__(self, relations: Sequence[Tensor], device: torch.device | str = "cpu") -> None:
        self.groups = [pairs.to(device).T for pairs in relations]
        # Each group from either end: a mode, and where among all modes' vectors, seen through all
        # ends, that of its partner is.
        ends = [end for left, right in self.groups for end in ((left, right), (right, left))]
        none = torch.zeros(0, dtype=torch.int64, device=device)
        self._modes = torch.cat([none, *(mode for mode, _ in ends)])
        places = (partner * len(ends) + end for end, (_, partner) in enumerate(ends))
        self._places = torch.cat([none, *places])

    def products(self, features: Tensor) -> list[Tensor]:
        """Return each group's sum of outer products `e_i e_j^T`, flat.

        Args:
            features: `(G, M, d, e)`.

        Returns:
            `(G, M, e * e)` of each group.
        """
        return [
            (features[:, :, left].mT @ features[:, :, right]).flatten(2)
            for left, right in self.groups
        ]

    def wide(self, couplings: Sequence[Tensor]) -> Tensor:
        """Return the couplings C_g `(K, e, e)` of all groups, from either end, `(K, e, 2 G e)`."""
        return torch.cat([end for coupling in couplings for end in (coupling.mT, coupling)], 2)

    def add_slopes(self, slopes: Tensor, features: Tensor, wide: Tensor) -> None:
        """Add the forms' derivatives by each mode's features.

        Args:
            slopes: What they are added to, `(K, b, d, e)`.
            features: Where, `(K, b, d, e)`.
            wide: See above.
        """
        k, b, _, e = features.shape
        through_ends = (features.flatten(1, 2) @ wide).view(k, b, -1, e)  # (K, b, 2 G d, e)
        slopes.index_add_(2, self._modes, through_ends[:, :, self._places])
