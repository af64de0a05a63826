"""Room for weights in the order in which they are read: side by side, in blocks that Linux backs by huge pages.

A run reads all weights, in more pages than the processor knows the places of. NumPy asks for huge pages where it makes
4 MB or more at once; the weights of one operator are less, mostly.
"""

from __future__ import annotations

import sys
import threading
import weakref
from typing import Any

import numpy as np

from ortlite.forks import renewed_after_fork

__all__ = ["aligned", "laid"]

BLOCK = 1 << 23  # bytes
LEAST = 1 << 15  # bytes of an array that goes there
LINE = 64  # bytes of the cache: an array begins with one, else long vectors are in two

_lock = threading.Lock()
renewed_after_fork(sys.modules[__name__], "_lock", threading.Lock)
_last: tuple[weakref.ref[Any], int] | None = None  # a block, while an array in it lives, and the bytes that are taken


def laid(value: Any) -> Any:
    """A copy there of an array that nobody else knows; anything else as it is."""
    if type(value) is tuple:
        return tuple(map(laid, value))
    if type(value) is not np.ndarray or not value.flags.c_contiguous or value.dtype.hasobject:
        return value
    if (base := value.base) is not None and not (type(base) is np.ndarray and base.nbytes == value.nbytes + LINE):
        return value  # another's memory; what `aligned` made has its own
    if not LEAST <= value.nbytes <= BLOCK - LINE:
        return value
    result = _room(value.shape, value.dtype, value.nbytes)
    result[...] = value
    result.flags.writeable = value.flags.writeable
    return result


def _room(shape: tuple[int, ...], dtype: Any, size: int) -> np.ndarray:
    global _last  # noqa: PLW0603
    with _lock:
        block, taken = (None, 0) if _last is None else (_last[0](), _last[1])
        if block is None or taken + size + LINE > BLOCK:
            block, taken = np.empty(BLOCK, np.uint8), 0
        _last = weakref.ref(block), taken + size + LINE
    return aligned(shape, dtype, size, block, taken)


def aligned(shape: tuple[int, ...], dtype: Any, size: int, memory: Any = None, taken: int = 0) -> np.ndarray:
    """An empty array, of so many bytes, that begins where a line of the cache does.

    It lies in `memory` of bytes behind those that are `taken`, where there is `size + LINE`; else in memory of its own.
    """
    if memory is None:
        memory = np.empty(size + LINE, np.uint8)
    address = memory.__array_interface__["data"][0] + taken
    return np.ndarray(shape, dtype, memory, taken + -address % LINE)
