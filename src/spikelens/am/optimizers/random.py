"""Random search: the baseline that learns nothing."""

from torch import Tensor

from spikelens.am.optimizers.base import Optimizer


class RandomSearch(Optimizer):
    """Draw what the space holds for natural, whatever was seen.

    Args are those of `Optimizer`.
    """

    def _propose(self) -> Tensor:
        drawn = self.space.sample(self.num_neurons * self.batch, self.random)
        return drawn.view(self.num_neurons, self.batch, -1)

    def _learn(self, own: Tensor) -> None:
        pass
