"""Few numbers that tell what a symbol stands for."""

import torch
from torch import Tensor

from spikelens.generators.base import LatentSpace

_LARGEST = 16  # an embedding of no more numbers is taken as it is
_NUM_FEATURES = 8  # of a larger one
_WIDTH = 2.0  # of the Gaussian kernel, in units of the distance between two natural symbols
_NUM_LANDMARKS = 1024


def symbol_features(space: LatentSpace) -> Tensor:
    """Return what each symbol of each mode stands for, `(d, n, e)`, centred.

    A large embedding is reduced to its first kernel principal components under the prior, with a
    Gaussian kernel: near symbols have near features, and far ones do not pull on each other.
    Modes of fewer than n symbols repeat their last one.

    Source: Schoelkopf, Smola & Mueller, "Nonlinear component analysis as a kernel eigenvalue
    problem", 1998.
    """
    sizes = torch.tensor(space.mode_sizes)
    symbols = torch.arange(int(sizes.max()))[:, None].minimum(sizes - 1)  # (n, d)
    embedding = space.embed(symbols.to(space.prior[0].device)).detach().float()  # (n, d, e)
    if embedding.shape[2] > _LARGEST:
        shares = embedding.new_zeros(embedding.shape[:2])
        for mode, prior in enumerate(space.prior):
            shares[: len(prior), mode] = prior.detach()
        # Modes mostly share one embedding.
        distinct, which = embedding.flatten(0, 1).unique(dim=0, return_inverse=True)
        shares = shares.new_zeros(len(distinct)).index_add(0, which, shares.flatten())
        embedding = _kernel_components(distinct, shares)[which].view(*embedding.shape[:2], -1)
    else:
        embedding = embedding - embedding.mean(0)
    return embedding.transpose(0, 1).contiguous()


def _kernel_components(vectors: Tensor, shares: Tensor) -> Tensor:
    """Return the first kernel principal components of vectors `(U, e)` that have shares `(U,)`."""
    marks = shares.topk(min(len(shares), _NUM_LANDMARKS)).indices
    share = (shares[marks] / shares[marks].sum()).double()
    distances = torch.cdist(vectors.double(), vectors[marks].double()).square()  # (U, m)
    unit = (share @ distances[marks] @ share).clamp_min(1e-12)
    kernel = (distances / (-2.0 * _WIDTH**2 * unit)).exp()
    mean = kernel[marks] @ share
    kernel = kernel - (kernel @ share)[:, None] - mean + share @ mean
    root = share.sqrt()
    values, directions = torch.linalg.eigh(root[:, None] * kernel[marks] * root)
    values, directions = values[-_NUM_FEATURES:], directions[:, -_NUM_FEATURES:]
    scaled = root[:, None] * directions / values.clamp_min(1e-12).sqrt()
    components: Tensor = (kernel @ scaled).float()
    return components
