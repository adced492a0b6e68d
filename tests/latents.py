"""Latent spaces that need no generator, for tests of optimizers."""

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace

import torch

from spikelens.generators.base import sample_prior


def ring_latent(sizes: Sequence[int]) -> SimpleNamespace:
    """A latent with modes of these sizes, a uniform prior and neighbours on a ring."""
    rings = {n: torch.eye(n).roll(1, 0) if n > 1 else torch.ones(1, 1) for n in set(sizes)}
    prior = [torch.full((n,), 1 / n) for n in sizes]
    return SimpleNamespace(
        mode_sizes=tuple(sizes),
        order=torch.arange(len(sizes)),
        prior=prior,
        sample=partial(sample_prior, prior),
        neighbours=lambda mode: rings[sizes[mode]],
        embed=lambda indices: indices.float().unsqueeze(-1),
    )
