"""CMA-ES in the coordinates of a latent, one library object a neuron."""

import cmaes
import numpy as np
import torch
from torch import Tensor

from spikelens.am.archive import Archive
from spikelens.am.line import require_line
from spikelens.am.optimizers.base import Optimizer
from spikelens.arguments import require_integers
from spikelens.generators.base import LatentSpace

KINDS = {"cma": cmaes.CMA, "sep_cma": cmaes.SepCMA}
_LEAST_BATCH = 4  # from here on more than one of a batch is selected, as the library takes it


class Cma(Optimizer):
    """Adapt a normal distribution over z; each neuron learns from its own images.

    Only for latents whose symbols stand for points on a line (see `spikelens.am.line.Line`). The
    objective sees z rounded to the grid, the distribution learns as if it had seen z itself: a
    generator's `num_nodes=4096` makes the grid continuous for all purposes. Starts around the best
    image that the archive holds at the first `ask`; where it holds none, as the prior: from 0 with
    a step size of 1.

    Args:
        space: See `Optimizer`.
        archive: See `Optimizer`; read at the first `ask` alone.
        seed: See `Optimizer`.
        batch: See `Optimizer`: the population size, at least 4.
        kind: `cma` adapts all covariances; `sep_cma` variances alone, which it learns sooner.
        sigma: First step size around a start image, in standard deviations of the prior; positive.
        is_sphere: Whether z is scaled to the length sqrt(d) before it is rounded.

    Raises:
        ValueError: If an argument is out of its range, or the latent is no line.

    Source: Hansen 2016, "The CMA evolution strategy: a tutorial"; Ros & Hansen 2008 (separable);
        Wang & Ponce 2022 (on the sphere).
    """

    def __init__(
        self,
        space: LatentSpace,
        archive: Archive,
        *,
        seed: int = 0,
        batch: int = 10,
        kind: str = "cma",
        sigma: float = 0.5,
        is_sphere: bool = False,
    ) -> None:
        super().__init__(space, archive, seed=seed, batch=batch)
        _check(batch, kind, sigma, len(space.mode_sizes))
        self.line = require_line(space, self, self.device)
        self.kind, self.sigma, self.is_sphere = kind, sigma, is_sphere
        self._strategies: list[cmaes.CMA | cmaes.SepCMA] = []

    def _propose(self) -> Tensor:
        if not self._strategies:
            self._strategies = self._start()
        self._asked = np.stack(
            [[strategy.ask() for _ in range(self.batch)] for strategy in self._strategies]
        )  # (K, b, d)
        latent = torch.from_numpy(self._asked).to(self.device).flatten(0, 1)
        if self.is_sphere:
            length = latent.norm(dim=1, keepdim=True).clamp_min(1e-12)
            latent = latent * (latent.shape[1] ** 0.5 / length)
        return self.line.to_indices(latent).view(self._asked.shape)

    def _learn(self, own: Tensor) -> None:
        losses = -own.double().cpu().numpy()
        for strategy, asked, loss in zip(self._strategies, self._asked, losses, strict=True):
            if np.isfinite(loss).any():  # else none was shown: there is nothing to learn
                strategy.tell(list(zip(asked, loss.tolist(), strict=True)))

    def _start(self) -> list[cmaes.CMA | cmaes.SepCMA]:
        best = self.line.to_latent(self.archive.indices[:, 0]).double()
        has_start = self.archive.best.isfinite()
        means = best.where(has_start[:, None], 0.0).cpu().numpy()
        sigmas = torch.where(has_start, self.sigma, 1.0).tolist()
        return [
            KINDS[self.kind](mean=mean, sigma=sigma, seed=seed, population_size=self.batch)
            for mean, sigma, seed in zip(means, sigmas, self._seeds(), strict=True)
        ]

    def _seeds(self) -> list[int]:
        """Draw a seed for each neuron."""
        shape = (self.num_neurons,)
        seeds = torch.randint(2**31, shape, generator=self.random, device=self.device)
        return [int(seed) for seed in seeds]


def _check(batch: int, kind: str, sigma: float, num_modes: int) -> None:
    require_integers(_LEAST_BATCH, batch=batch)
    if kind not in KINDS:
        raise ValueError(f"Argument `kind` must be one of {', '.join(KINDS)}, but got {kind!r}.")
    if kind == "sep_cma" and num_modes == 1:
        raise ValueError(
            "Argument `kind` must be 'cma' for a latent of one mode: there is nothing to separate."
        )
    if not sigma > 0.0:
        raise ValueError(f"Argument `sigma` must be positive, but got {sigma}.")
