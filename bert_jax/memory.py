"""The memory of this process: the C library keeps what is freed, and the most it has been."""

import ctypes
import resource
import sys
from functools import cache


@cache
def keep_freed() -> None:
    """Makes the C library keep freed memory on Linux. A second call does nothing.

    XLA allocates all its working memory again at each step, and otherwise the kernel fills it with zeros, page by page:
    a third of a small model's step on a CPU. Threads that exist before the call have a memory of their own, which is
    still given back. So call this before anything touches a device or a bucket.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc and hasattr(libc, "gnu_get_libc_version"):
        arena_max, mmap_max, trim_threshold = -8, -4, -1  # of glibc's malloc.h
        libc.mallopt(arena_max, 1)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def peak() -> int:
    """Returns the most bytes that this process has had in memory at one time."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
