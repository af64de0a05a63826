"""Small work stays on the thread that asks for it.

Torch's products, norms and networks hand even a few rows to all threads of OpenMP, and wait for the last of them. Where
another process has taken one of the cores, that wait is a time slice of the system, milliseconds for microseconds of
work: a decoder of small products took eight times as long beside one busy process. On an idle machine one thread is as
fast for what is that small.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import torch

from ortlite_torch.record import opaque

__all__ = ["fit", "norm_work", "product_work"]

SMALL = 2_000_000  # operations that one thread does in some ten microseconds
TOUCHED = 64  # operations that reading, taking exponentials of and writing one element are worth


def _openmp() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """How many threads OpenMP gives to what this thread calls, and how to set it; None where torch has no OpenMP.

    torch.set_num_threads would set it for threads that start meanwhile, too.
    """
    try:
        library = ctypes.PyDLL(torch._C.__file__)  # noqa: SLF001  (its symbols, and those of what it is linked with)
        get, put = library.omp_get_max_threads, library.omp_set_num_threads
    except (AttributeError, OSError):
        return None
    get.argtypes, get.restype = [], ctypes.c_int
    put.argtypes, put.restype = [ctypes.c_int], None
    before = get()
    if before < 2 or torch.get_num_threads() != before:
        return None
    put(1)
    works = torch.get_num_threads() == 1
    put(before)
    return (get, put) if works else None


OPENMP = _openmp()


@cache
def _alone(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function on one thread."""
    assert OPENMP is not None
    get, put = OPENMP

    def call(*args: Any, **keywords: Any) -> Any:
        before = get()
        if before == 1:
            return fn(*args, **keywords)
        put(1)
        try:
            return fn(*args, **keywords)
        finally:
            put(before)

    return opaque(call)


def fit(fn: Callable[..., Any], work: float, x: Any) -> Callable[..., Any]:
    """A function of torch that makes new tensors, on as many threads as its work on tensors like `x` is worth."""
    if work >= SMALL or OPENMP is None or x.device.type != "cpu" or torch.compiler.is_compiling():
        return fn
    return _alone(fn)


def product_work(a: Any, b: Any) -> int:
    """The operations of a product of matrices."""
    return 2 * int(prod(a.shape)) * int(b.shape[-1] if b.ndim > 1 else 1)


def norm_work(x: Any) -> int:
    """Those of a norm or softmax."""
    return TOUCHED * int(prod(x.shape))
