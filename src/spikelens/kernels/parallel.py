"""Compiled loops on as many threads as torch uses."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import torch


@cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, thread_name_prefix="spikelens")


if hasattr(os, "register_at_fork"):
    # A child process has the pool, but not its threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)


def in_parallel(work: Callable[[int, int], object], num_items: int) -> None:
    """Split items into one run for each of torch's threads, and wait for all.

    Threads of our own, and not numba's: its default pool ends the process when two Python threads
    use it at once. The work must let go of the interpreter's lock (`nogil=True`).

    Args:
        work: Called with the first item and the one behind the last.
        num_items: Number of items, not negative.
    """
    num_threads = min(torch.get_num_threads(), num_items)
    if num_threads <= 1:
        work(0, num_items)
        return
    bounds = [num_items * part // num_threads for part in range(num_threads + 1)]
    pool = _pool(num_threads - 1)
    parts = [pool.submit(work, *bounds[part : part + 2]) for part in range(1, num_threads)]
    try:
        work(*bounds[:2])
    finally:
        wait(parts)
    for part in parts:
        part.result()
