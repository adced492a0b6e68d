"""Torch's CPU threads, where fewer are faster."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch's CPU operations on one thread while the context is open.

    For long chains of small operations: a second thread gains little on an idle machine, and on a
    busy one waiting for it makes each of them many times slower.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
