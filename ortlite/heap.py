"""Freed memory stays in the process, where the C library is glibc.

Torch takes the memory of every result from malloc and gives it back, as NumPy does. Where glibc hands what is free at
the end of its heap on to the system at once, the next run pays for every page again: a quarter of the time of a small
convolutional net on torch, and half of it where an environment variable asks glibc to do so always.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping
from functools import cache

__all__ = ["keep_all", "keep_freed", "keep_large"]

TRIM, MMAP, MMAPS, ARENAS = -1, -3, -4, -8  # mallopt's names for what is below
KEPT = 1 << 28  # bytes that may be free at the end of the heap
MOST = 1 << 30  # the same, where all blocks are taken from it
LARGE = 1 << 25  # bytes from which on memory is the system's own; what glibc arrives at by itself


@cache
def keep_freed(kept: int = KEPT, overruled: frozenset[tuple[str, str]] = frozenset()) -> bool:
    """Ask for it, once a process. Whoever has set an environment variable of malloc's keeps what he has set.

    `overruled` are variables and values that nobody chose, since some framework sets them for all its processes.
    """
    return _asked({MMAP: LARGE, TRIM: kept}, overruled)


@cache
def keep_large() -> bool:
    """The same of blocks of any size.

    Those come from the heap as long as it has room at its end, which what a compiler leaves behind may have used up.
    """
    return _asked({MMAPS: 0, TRIM: KEPT})


@cache
def keep_all() -> bool:
    """The same of blocks of any size, of threads that have not taken memory before: all share one heap.

    XLA takes one block for all that a run has between its inputs and its outputs, in a thread of its own. Threads' own
    heaps have no room for more than 64 MiB; what is larger was the system's own, whatever the threshold.
    """
    return _asked({MMAPS: 0, ARENAS: 1, TRIM: MOST})


def _asked(settings: Mapping[int, int], overruled: frozenset[tuple[str, str]] = frozenset()) -> bool:
    """Whether glibc took the settings; it is not asked where somebody has chosen some."""
    if platform.libc_ver()[0] != "glibc":
        return False
    chosen = {item for item in os.environ.items() if item[0].startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    if not chosen <= overruled:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) for name, value in settings.items())
