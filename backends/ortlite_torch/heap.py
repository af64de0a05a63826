"""Freed memory stays in the process, where the C library is glibc.

Torch takes the memory of every result from malloc and gives it back. glibc hands what is free at the end of its heap on
to the system at once, and the next run pays for every page again: a quarter of the time of a small convolutional net.
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


@cache
def keep_freed() -> bool:
    """Ask for it, once a process. Whoever has set an environment variable of malloc's keeps what he has set."""
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(MMAP, LARGE)) and bool(mallopt(TRIM, KEPT))
