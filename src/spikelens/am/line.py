"""Symbols on a line as quantiles of a normal distribution, for searches of real vectors."""

import torch
from torch import Tensor

from spikelens.generators.base import LatentSpace


class Line:
    """Coordinates z in R^d of a latent whose symbols stand for points on a line.

    A symbol is the Gaussian quantile in the middle of its share of the prior, in the order of the
    points: natural z are about standard normal. On a `GaussianGrid` these are its nodes.

    Args:
        space: Each of its symbols stands for one number; see `is_line`.
        device: Where the multi-indices live.

    Attributes:
        nodes: z of each symbol, float32 `(d, n)` with the largest mode size n.
    """

    def __init__(self, space: LatentSpace, device: torch.device) -> None:
        sizes = torch.tensor(space.mode_sizes)[:, None]
        places = torch.arange(int(sizes.max()))  # (n,)
        points = _points(space, torch.minimum(places, sizes - 1).to(device)).cpu()  # (d, n)
        # Modes of fewer symbols are filled up beyond their last one, out of reach.
        order = points.masked_fill(places >= sizes, torch.inf).argsort(dim=1, stable=True)
        share = torch.zeros(order.shape, dtype=torch.float64)
        for mode, prior in enumerate(space.prior):
            share[mode, : len(prior)] = prior.double().cpu()
        share = share.gather(1, order)
        above = share.cumsum(1)
        edges = _quantiles(above).masked_fill(places >= sizes - 1, torch.inf)[:, :-1]
        nodes = _quantiles(above - 0.5 * share).gather(1, order.argsort(1))
        self.order = order.to(device)
        self.edges, self.nodes = edges.float().to(device), nodes.float().to(device)

    def to_latent(self, indices: Tensor) -> Tensor:
        """Return z float32 `(N, d)` of multi-indices int64 `(N, d)`."""
        return self.nodes.gather(1, indices.T).T

    def to_indices(self, latent: Tensor) -> Tensor:
        """Return the multi-indices int64 `(N, d)` of z `(N, d)`: of whose shares it is one."""
        places = torch.searchsorted(self.edges, latent.to(self.edges).T.contiguous())
        indices: Tensor = self.order.gather(1, places).T.contiguous()
        return indices


def is_line(space: LatentSpace, device: torch.device) -> bool:
    """Return whether each symbol of a latent on `device` stands for one number."""
    first = torch.zeros(1, len(space.mode_sizes), dtype=torch.int64, device=device)
    return space.embed(first).shape[-1] == 1


def require_line(space: LatentSpace, optimizer: object, device: torch.device) -> Line:
    """Return the line of a latent, for an optimizer that needs one.

    Raises:
        ValueError: If its symbols stand for anything but one number each.
    """
    if not is_line(space, device):
        raise ValueError(
            f"Argument `optimizer` must not be {type(optimizer).__name__} for this "
            f"{type(space).__name__}: it searches latents whose symbols stand for points on a "
            "line, such as a GAN's z (sngan, external, onnx, torchscript) or cosines."
        )
    return Line(space, device)


def _points(space: LatentSpace, symbols: Tensor) -> Tensor:
    """Return what symbols `(d, n)` stand for, one number each."""
    return space.embed(symbols.T)[..., 0].T


def _quantiles(shares: Tensor) -> Tensor:
    """Return Gaussian quantiles, finite ones of shares 0 and 1 as well."""
    tiny = 2.0**-40
    quantiles: Tensor = torch.special.ndtri(shares.clamp(tiny, 1.0 - tiny))
    return quantiles
