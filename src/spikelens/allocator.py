"""Memory that is freed stays with the process, ready for the next large tensor."""

import ctypes
import sys

# glibc's <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_KEEP_ALL = 2**31 - 1


def keep_freed_memory() -> bool:
    """Stop glibc from giving large freed blocks back to the system.

    Networks scanned over time make temporaries of tens of megabytes. By default each is mapped
    anew and its pages are faulted in one by one, which can take many times longer than the
    arithmetic (benchmarks/allocator.py measures it). The peak memory of the process is the same.

    Returns:
        Whether it was done: only on Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _KEEP_ALL))
