"""Freed memory stays in the process, where the C library is glibc.

Torch takes the memory of every result from malloc and gives it back, as NumPy does. Where glibc hands what is free at
the end of its heap on to the system at once, the next run pays for every page again: a quarter of the time of a small
convolutional net on torch, and half of it in a worker of Dask, whose nanny asks glibc to do so.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

__all__ = ["keep_freed"]

TRIM, MMAP = -1, -3  # mallopt's names for what is below
KEPT = 1 << 28  # bytes that may be free at the end of the heap
LARGE = 1 << 25  # bytes from which on memory is the system's own; what glibc arrives at by itself
DASKS = {"MALLOC_TRIM_THRESHOLD_": "65536"}  # what a nanny of Dask sets for its workers, unless it is told otherwise


@cache
def keep_freed(kept: int = KEPT, *, in_worker: bool = False) -> bool:
    """Ask for it, once a process. Whoever has set an environment variable of malloc's keeps what he has set.

    `in_worker`: what Dask sets for all its workers is nobody's choice.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    chosen = {n: v for n, v in os.environ.items() if n.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    if chosen and not (in_worker and chosen == DASKS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(MMAP, LARGE)) and bool(mallopt(TRIM, kept))
