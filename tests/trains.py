"""Trains written down whole, to hold searches and `spikelens.am.tensor_train` to."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from spikelens.am import tensor_train


def elite_cores(
    elites: Tensor, weights: Tensor, kernels: Sequence[Tensor], switch: Tensor
) -> list[Tensor]:
    """Write down the train that samples near given elites.

    A hidden Markov chain over elites: it starts at elite s with probability w_s, at each mode
    copies that elite's symbol through a mutation kernel, and before the next mode redraws the
    elite with probability chi. So `G_1[1, x, s] = w_s K_1(x | e_s1)` and
    `G_j[s', x, s] = T[s', s] K_j(x | e_sj)` with `T = (1 - chi) I + chi 1 w^T`; the last core is
    summed over s. Entries are probabilities and every right interface is a constant vector.

    Args:
        elites: Multi-indices, int64 `(K, R, d)`.
        weights: Probability w of each elite, float `(K, R)`, rows sum to 1.
        kernels: For each mode K_j(x | c), float `(K or 1, n_j, n_j)`, row c sums to 1.
        switch: Probability chi of redrawing the elite, float `(K,)`, in [0, 1].

    Returns:
        d cores of rank R.

    Raises:
        ValueError: If there is not one kernel a mode.
    """
    k, r, d = elites.shape
    if len(kernels) != d:
        raise ValueError(f"Argument `kernels` must hold d={d} tensors, but got {len(kernels)}.")
    stay = torch.eye(r, dtype=weights.dtype, device=weights.device)
    chi = switch[:, None, None]
    transition = (1 - chi) * stay + chi * weights[:, None, :]  # (K, R, R)
    cores = []
    for j, kernel in enumerate(kernels):
        n = kernel.shape[-1]
        parents = elites[:, :, j, None].expand(k, r, n)
        emission = kernel.expand(k, n, n).gather(1, parents)  # (K, R, n)
        jump = weights[:, None, :] if j == 0 else transition
        slices = jump[:, None] * emission.transpose(1, 2)[:, :, None, :]  # (K, n, s', s)
        cores.append(slices.transpose(1, 2))
    cores[-1] = cores[-1].sum(-1, keepdim=True)
    return cores


def evaluate(cores: Sequence[Tensor], indices: Tensor) -> Tensor:
    """Return the entries of the tensor at some multi-indices.

    Args:
        cores: d cores.
        indices: Multi-indices, int64 `(K, M, d)`.

    Returns:
        Entries, float `(K, M)`, neither rescaled nor guarded against overflow.
    """
    product = cores[0].new_ones(*indices.shape[:2], 1, 1)
    for core, symbols in zip(cores, indices.unbind(-1), strict=True):
        product = product @ tensor_train._select(core.transpose(1, 2), symbols)
    return product[..., 0, 0]


def dense(cores: Sequence[Tensor]) -> Tensor:
    """Return the whole tensor, float `(K, n_1, ..., n_d)`; for small trains only."""
    full = cores[0].flatten(1, 2)  # (K, n_1, r)
    for core in cores[1:]:
        full = (full @ core.flatten(2)).reshape(len(full), -1, core.shape[-1])
    return full.reshape(len(full), *(core.shape[2] for core in cores))


def right_interfaces(cores: Sequence[Tensor]) -> list[Tensor]:
    """Contract each mode's right side over all symbols.

    `Z_d = 1` and `Z_{j-1} = normalise(sum_i G_j[:, i, :] Z_j)` with the Euclidean norm.

    Args:
        cores: d cores.

    Returns:
        d vectors, float `(K, r_j)`: the j-th is what stands to the right of core j.

    Source: Batsheva et al., "PROTES: probabilistic optimization with tensor sampling", 2023.
    """
    return [F.normalize(z, dim=-1) for z in tensor_train._suffixes([core.sum(2) for core in cores])]
