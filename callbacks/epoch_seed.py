"""Random numbers that depend on the epoch alone, so that a resumed run equals an unbroken one."""

import lightning as L
import torch

from spikelens.arguments import require_integers


class EpochSeed(L.Callback):
    """Reseed torch at the start of each training epoch from seed and epoch.

    Args:
        seed: Seed of the run, not negative.

    Raises:
        ValueError: If the seed is no such integer.
    """

    def __init__(self, seed: int) -> None:
        require_integers(0, seed=seed)
        self.seed = seed

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reseed."""
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch)
