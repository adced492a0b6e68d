"""Optimizer and learning-rate schedule as every LightningModule here takes them."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

BuildOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
BuildScheduler = Callable[[torch.optim.Optimizer], Any]


def build_optimizer(
    parameters: Iterable[Tensor],
    optimizer: BuildOptimizer | None,
    scheduler: BuildScheduler | None,
) -> Any:
    """Return what `LightningModule.configure_optimizers` wants.

    Args:
        parameters: What is trained.
        optimizer: Builds the optimizer; None for Adam(1e-3).
        scheduler: Builds a scheduler that is stepped once an epoch; None for none.
    """
    built = optimizer(parameters) if optimizer else torch.optim.Adam(parameters)
    if scheduler is None:
        return built
    return {"optimizer": built, "lr_scheduler": scheduler(built)}
