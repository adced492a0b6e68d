"""Measurements in the middle of training that leave it as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode; afterwards every mode and random state is as it was."""
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        with isolate_rng(), torch.no_grad():
            yield
    finally:
        for child, mode in modes.items():
            child.training = mode
