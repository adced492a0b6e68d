"""How selective a neuron is, from its responses to labelled natural images."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor


@dataclass(frozen=True)
class Selectivity:
    """Selectivity of K neurons; NaN for a neuron that answered no image.

    Attributes:
        preferred: Class with the largest mean response, int64 `(K,)`; -1 for a silent neuron.
        class_selectivity: `class_selectivity_index`, `(K,)` in [0, 1].
        auroc: Of the preferred class against the rest, `(K,)` in [0, 1].
        lifetime_sparseness: `lifetime_sparseness`, `(K,)` in [0, 1].
        is_silent: Whether the neuron answered no image at all, bool `(K,)`.
    """

    preferred: Tensor
    class_selectivity: Tensor
    auroc: Tensor
    lifetime_sparseness: Tensor
    is_silent: Tensor


def measure(
    responses: Tensor, labels: Tensor, num_classes: int, is_rate: Tensor | None = None
) -> Selectivity:
    """Measure the selectivity of K neurons.

    High selectivity is no merit: networks that are kept from it classify as well (Leavitt &
    Morcos 2020).

    Args:
        responses: `(N, K)`.
        labels: Class of each image, int64 `(N,)` in [0, num_classes).
        num_classes: Number of classes C; those without an image are left out.
        is_rate: Whether a neuron's responses are like spike rates, not negative, bool `(K,)`; None
            for all. Index and sparseness of others, membrane potentials or contrasts say, are NaN,
            and they are never silent.

    Returns:
        The measures of each neuron.

    Raises:
        ValueError: If there are not as many labels as responses.
    """
    if len(responses) != len(labels):
        raise ValueError(
            f"Argument `labels` must hold a label for each of the {len(responses)} responses, "
            f"but got {len(labels)}."
        )
    responses, labels = responses.detach().cpu().double(), labels.cpu()
    means = class_means(responses, labels, num_classes)
    rate = torch.ones(responses.shape[1], dtype=torch.bool) if is_rate is None else is_rate.cpu()
    is_silent = rate & (responses.amax(0) <= 0)
    preferred = means.nan_to_num(-torch.inf).argmax(0)
    return Selectivity(
        preferred=preferred.masked_fill(is_silent, -1),
        class_selectivity=class_selectivity_index(means).where(rate, torch.nan).float(),
        auroc=auroc(responses, labels, preferred).masked_fill(is_silent, torch.nan).float(),
        lifetime_sparseness=lifetime_sparseness(responses).where(rate, torch.nan).float(),
        is_silent=is_silent,
    )


def class_means(responses: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Average responses `(N, K)` within each class: `(C, K)`, NaN for a class without images."""
    sums = torch.zeros(num_classes, responses.shape[1], dtype=responses.dtype)
    sums.index_add_(0, labels, responses)
    return sums / torch.bincount(labels, minlength=num_classes)[:, None]


def class_selectivity_index(means: Tensor) -> Tensor:
    """Return (mu_max - mu_rest) / (mu_max + mu_rest), mu_rest the mean of the other classes' means.

    Args:
        means: Class means, not negative, `(C, K)`; NaN rows are left out.

    Returns:
        `(K,)` in [0, 1]; NaN where all means are 0.

    Source: Morcos et al., "On the importance of single directions for generalization", 2018.

    >>> class_selectivity_index(torch.tensor([[0.75], [0.25], [0.25]])).tolist()
    [0.5]
    """
    means = means[~means.isnan().any(1)]
    largest = means.amax(0)
    rest = (means.sum(0) - largest) / max(len(means) - 1, 1)
    return (largest - rest) / (largest + rest)


def auroc(responses: Tensor, labels: Tensor, preferred: Tensor) -> Tensor:
    """Return the area under the ROC curve of one class against the rest, mid-ranks for ties.

    Args:
        responses: `(N, K)`.
        labels: int64 `(N,)`.
        preferred: The class each neuron is asked to tell from the rest, int64 `(K,)`.

    Returns:
        `(K,)` in [0, 1]: the probability that an image of the class evokes more than another one
        (Mann-Whitney U / (n m)); NaN where either side has no image.
    """
    ranks = torch.from_numpy(np.asarray(rankdata(responses.numpy(), axis=0)))
    is_inside = labels[:, None] == preferred[None]
    inside = is_inside.sum(0).double()
    pairs = inside * (len(labels) - inside)
    above = (ranks * is_inside).sum(0) - inside * (inside + 1) / 2
    return above / pairs


def lifetime_sparseness(responses: Tensor) -> Tensor:
    """Return (1 - A) / (1 - 1/N) with A = mean(r)^2 / mean(r^2).

    Args:
        responses: Not negative, `(N, K)`.

    Returns:
        `(K,)` in [0, 1]: 0 for a neuron that answers all images alike, 1 for one that answers a
        single image; NaN for a silent one.

    Source: Vinje & Gallant, "Sparse coding and decorrelation in primary visual cortex during
    natural vision", 2000.
    """
    num_images = len(responses)
    activity = responses.mean(0).square() / responses.square().mean(0)
    return (1.0 - activity) / (1.0 - 1.0 / num_images)
