"""Random search: the baseline that learns nothing."""

import torch
from torch import Tensor

from spikelens.am.optimizers.base import Optimizer


class RandomSearch(Optimizer):
    """Draw every symbol uniformly, independent of all that was seen.

    Args are those of `Optimizer`.
    """

    def _propose(self) -> Tensor:
        sizes = torch.tensor(self.space.mode_sizes, device=self.device)
        shape = (self.num_neurons, self.batch, len(sizes))
        draws = torch.rand(shape, generator=self.random, device=self.device)
        return (draws * sizes).long().minimum(sizes - 1)  # the product may be rounded up

    def _learn(self, own: Tensor) -> None:
        pass
