"""Tensor-train algebra, batched over neurons.

A train over d modes is a list of cores: core j is float `(K, r_{j-1}, n_j, r_j)` for K neurons,
mode size n_j and ranks r_0 = r_d = 1. Its entry at a multi-index i is the product of the matrices
`G_j[:, i_j, :]`. Multi-indices are int64 `(K, M, d)`. Here, and nowhere else, names follow the
field: d modes, n symbols, r rank, K neurons, M multi-indices; Q is a product from the left and Z
one from the right.

Products of hundreds of cores leave the range of a float, so running products are rescaled at every
mode. The scale is a constant to autograd: conditional probabilities do not depend on it, and so
neither do their gradients.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def random_cores(
    num_neurons: int,
    mode_sizes: Sequence[int],
    rank: int,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """Draw cores with entries uniform in [0, 1).

    Args:
        num_neurons: Number of neurons K.
        mode_sizes: Number of symbols n_j of each mode.
        rank: Every rank but the outer two, which are 1.
        generator: Source of the numbers and of the device; None for torch's own, on the CPU.

    Returns:
        d cores, float32.
    """
    device = None if generator is None else generator.device
    ranks = [1] + [rank] * (len(mode_sizes) - 1) + [1]
    return [
        torch.rand(num_neurons, left, size, right, generator=generator, device=device)
        for left, size, right in zip(ranks, mode_sizes, ranks[1:], strict=False)
    ]


@torch.no_grad()
def sample(cores: Sequence[Tensor], num: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw multi-indices from left to right, one mode at a time.

    The symbol i of mode j has a probability proportional to `|Q_j G_j[:, i, :] Z_j|`. For
    non-negative cores these are draws from the tensor normalised to sum 1. Where every symbol has
    probability 0 the last one is taken.

    Args:
        cores: d cores.
        num: Number of multi-indices M a neuron.
        generator: Source of the numbers, on the cores' device; None for torch's own.

    Returns:
        Multi-indices, int64 `(K, M, d)`.

    Source: Batsheva et al., 2023.
    """
    d, k = len(cores), len(cores[0])
    # Strictly below 1 even after rounding: a threshold at the total would pick the last symbol
    # whatever its probability.
    uniform = torch.rand(
        d, k, num, 1, generator=generator, dtype=cores[0].dtype, device=cores[0].device
    )
    uniform *= 1 - 4 * torch.finfo(uniform.dtype).eps
    interfaces = _suffixes([core.sum(2) for core in cores])
    indices = torch.empty(d, k, num, dtype=torch.int64, device=uniform.device)
    product = uniform.new_ones(k, num, 1, 1)  # Q
    for j, (core, interface) in enumerate(zip(cores, interfaces, strict=True)):
        r, n = core.shape[1:3]
        slices = core.transpose(1, 2).contiguous()  # (K, n, r, r')
        tail = (slices.view(k, n * r, -1) @ interface.unsqueeze(-1)).view(k, n, r)
        mass = (product.squeeze(2) @ tail.mT).abs_().cumsum(-1)  # (K, M, n)
        symbols = (mass <= uniform[j] * mass[..., -1:]).sum(-1).clamp_(max=n - 1)
        product = _rescale(product @ _select(slices, symbols))
        indices[j] = symbols
    return indices.permute(1, 2, 0)


def log_likelihood(cores: Sequence[Tensor], indices: Tensor) -> Tensor:
    """Return the log-probability with which `sample` draws some multi-indices.

    `sum_j log(|Q_j G_j[:, i_j, :] Z_j| / sum_i |Q_j G_j[:, i, :] Z_j|)`. Differentiable in the
    cores, also through Q and Z. A probability of 0 counts as the smallest normal float and has
    gradient 0.

    Args:
        cores: d cores.
        indices: Multi-indices, int64 `(K, M, d)`.

    Returns:
        Natural logarithms, float `(K, M)`.

    Source: Batsheva et al., 2023.
    """
    k, m, d = indices.shape
    stacked = _stack(cores)  # (d, K, r, n, r)
    r, n = stacked.shape[2:4]
    symbols = indices.permute(2, 0, 1)  # (d, K, M)
    slices = stacked.transpose(2, 3).reshape(d * k, n, r, r)
    chosen = _select(slices, symbols.reshape(d * k, m)).view(d, k * m, r, r)
    # Left and right products run through one loop, the right ones mirrored: half the kernels.
    mirrored = stacked.sum(3).flip(0).mT  # (d, K, r, r)
    products = _products(torch.cat([chosen, mirrored], 1).unbind(0))
    rows = torch.stack(products).squeeze(2)  # (d, K M + K, r)
    left = rows[:, : k * m].view(d, k, m, r)
    right = rows[:, k * m :].flip(0)
    tails = (stacked.flatten(2, 3) @ right.unsqueeze(-1)).view(d, k, r, n)
    mass = (left @ tails).abs()  # (d, K, M, n)
    tiny = torch.finfo(mass.dtype).tiny
    own = mass.gather(-1, symbols.unsqueeze(-1)).squeeze(-1).clamp_min(tiny)
    return (own.log() - mass.sum(-1).clamp_min(tiny).log()).sum(0)


def _select(slices: Tensor, symbols: Tensor) -> Tensor:
    """Return the matrices of symbols, float `(K, M, r, r')`.

    Args:
        slices: A core with its symbols first, float `(K, n, r, r')`.
        symbols: int64 `(K, M)`.
    """
    k, n, r, right = slices.shape
    rows = symbols + torch.arange(0, k * n, n, device=symbols.device).unsqueeze(1)
    # `index_select` on whole matrices: ten times faster than advanced indexing on a CPU.
    chosen = slices.reshape(k * n, r * right).index_select(0, rows.flatten())
    return chosen.view(*symbols.shape, r, right)


def _stack(cores: Sequence[Tensor]) -> Tensor:
    """Return all cores as one tensor `(d, K, r, n, r)`, padded with zeros to the largest core."""
    r = max(core.shape[3] for core in cores)
    n = max(core.shape[2] for core in cores)
    padded = []
    for core in cores:
        _, left, size, right = core.shape
        missing = (0, r - right, 0, n - size, 0, r - left)
        padded.append(F.pad(core, missing) if any(missing) else core)
    return torch.stack(padded)


def _rescale(vectors: Tensor) -> Tensor:
    """Divide each vector by its largest magnitude, which is a constant to autograd."""
    # Not `vector_norm`, which is ten times slower on rows this short.
    scale = vectors.detach().abs().amax(-1, keepdim=True)
    return vectors / scale.clamp_min(torch.finfo(scale.dtype).tiny)


def _products(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return `e_1`, `e_1 A_1`, `e_1 A_1 A_2`, ..., rescaled, for all but the last matrix.

    Args:
        matrices: d tensors, float `(B, r_{j-1}, r_j)`. Row 1 of the first stands for the whole of
            it: either r_0 = 1, or the other rows are padding.

    Returns:
        d row vectors, float `(B, 1, r_{j-1})`.
    """
    row = matrices[0].new_zeros(len(matrices[0]), 1, matrices[0].shape[1])
    row[..., 0] = 1
    rows = [row]
    for matrix in matrices[:-1]:
        rows.append(_rescale(rows[-1] @ matrix))
    return rows


def _suffixes(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return what stands to the right of each matrix, rescaled: d vectors, float `(B, r_j)`."""
    mirrored = [matrix.transpose(1, 2) for matrix in reversed(matrices)]
    return [row.squeeze(1) for row in reversed(_products(mirrored))]
