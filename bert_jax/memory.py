"""The memory of this process: the C library keeps what is freed, and the most it has been."""

import ctypes
import os
import resource
import sys
from functools import cache

# Where Linux has NVIDIA's, Google's (of two kinds) and AMD's devices.
ACCELERATORS = ("/dev/nvidiactl", "/dev/accel0", "/dev/vfio/0", "/dev/kfd")

_computes = True


def computes_nothing() -> None:
    """Makes `keep_freed` do nothing, in a process that will use no device: its threads are faster without it."""
    global _computes
    _computes = False


@cache
def keep_freed() -> None:
    """Makes the C library keep freed memory on Linux, if the CPU is what computes. A second call does nothing.

    XLA allocates all its working memory again at each step, and otherwise the kernel fills it with zeros, page by page:
    a third of a small model's step on a CPU. Threads that exist before the call have a memory of their own, which is
    still given back. So call this before anything touches a device or a bucket.

    All later threads share one memory, for which those of a tokenizer would wait longer than they save. So they are
    turned off, unless TOKENIZERS_PARALLELISM is set; `prepare` has processes instead. A notebook's kernel has threads
    already. There, steps are computed by the main thread, which keeps what it frees, while Python waits for it.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "gnu_get_libc_version") or has_accelerator() or not _computes:
        return
    arena_max, mmap_max, trim_threshold = -8, -4, -1  # of glibc's malloc.h
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    if "ipykernel" in sys.modules:
        import jax

        jax.config.update("jax_cpu_enable_async_dispatch", False)
    else:
        libc.mallopt(arena_max, 1)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def has_accelerator() -> bool:
    """Returns whether JAX will compute on a GPU or TPU, as far as can be known before it starts."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return platforms.split(",")[0] != "cpu" if platforms else any(os.access(path, os.F_OK) for path in ACCELERATORS)


def peak() -> int:
    """Returns the most bytes that this process has had in memory at one time."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
