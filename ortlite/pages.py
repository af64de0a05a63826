"""The heap in huge pages, where a library has taken seconds to compile: that takes tenths of one more.

A model's weights and what its runs make are many megabytes, in more pages than a processor knows the places of; to find
one again takes up to 0.2 microseconds in a virtual machine. In pages of 2 MB compiled runs took up to 13 % less time.
Memory that is huge from the start takes longer to get, and to put pages together takes 1 to 3 ms for each: both would
delay answers where nothing is compiled. Linux does it from 6.1 on, unless `transparent_hugepage/enabled` is "never".
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from time import perf_counter

__all__ = ["put_together"]

SIZE = 1 << 21  # bytes of a huge page
ADVICE, COLLAPSE = 14, 25  # Linux's MADV_HUGEPAGE and MADV_COLLAPSE
ENABLED, MAPS = Path("/sys/kernel/mm/transparent_hugepage/enabled"), Path("/proc/self/maps")


def put_together(seconds: float) -> int:
    """Put the heap's pages together, its end first, until so much time has passed; how many are huge now."""
    if sys.platform != "linux":
        return 0
    madvise, until, count = ctypes.CDLL(None).madvise, perf_counter() + seconds, 0
    for start, end in _heap():
        first, behind = -(-start // SIZE) * SIZE, end // SIZE * SIZE
        if first < behind and madvise(ctypes.c_void_p(first), ctypes.c_size_t(behind - first), ADVICE):
            break
        for address in range(behind - SIZE, first - 1, -SIZE):
            if perf_counter() > until:
                return count
            count += not madvise(ctypes.c_void_p(address), ctypes.c_size_t(SIZE), COLLAPSE)
    return count


def _heap() -> list[tuple[int, int]]:
    """Where the parts of the C library's heap begin and end, the last first."""
    try:
        if "[never]" in ENABLED.read_text():
            return []
        lines = [line.split()[0].split("-") for line in MAPS.read_text().splitlines() if line.endswith("[heap]")]
    except OSError:
        return []
    return [(int(start, 16), int(end, 16)) for start, end in lines[::-1]]
