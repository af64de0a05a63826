"""Small work stays on the thread that asks for it.

Torch's products, norms and networks hand even a few rows to all threads of OpenMP, and wait for the last of them. Where
another process has taken one of the cores, that wait is a time slice of the system, milliseconds for microseconds of
work: a decoder of small products took eight times as long beside one busy process. On an idle machine one thread is as
fast for what is that small.

The same is done to a whole run for `intra_op_num_threads`: what this thread calls is shared out to as many threads as a
session asks for, whatever other threads do meanwhile. torch.set_num_threads would set it for threads that start
meanwhile, too, and for good.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from math import prod
from threading import get_ident
from typing import Any

import torch

from ortlite.forks import in_child
from ortlite_torch.record import opaque

__all__ = ["On", "fit", "norm_work", "product_work"]

SMALL = 2_000_000  # operations that one thread does in some ten microseconds
TOUCHED = 64  # operations that reading, taking exponentials of and writing one element are worth


Setter = Callable[[int], Any]


def _setters() -> tuple[Setter, Setter | None] | None:
    """How to set how many threads of OpenMP what this thread calls gets; None where torch has no OpenMP.

    The second sets it for MKL, and gives what was there: 0 for as many as OpenMP's, any other number comes before that.
    """
    try:
        library = ctypes.PyDLL(torch._C.__file__)  # noqa: SLF001  (its symbols, and those of what it is linked with)
        put = library.omp_set_num_threads
    except (AttributeError, OSError):
        return None
    put.argtypes, put.restype = [ctypes.c_int], None
    by_mkl = getattr(library, "MKL_Set_Num_Threads_Local", None)
    if by_mkl is not None:
        by_mkl.argtypes, by_mkl.restype = [ctypes.c_int], ctypes.c_int
    before = torch.get_num_threads()
    put(before + 1)
    works = torch.get_num_threads() == before + 1
    put(before)
    return (put, by_mkl) if works else None


SETTERS = _setters()
get = torch.get_num_threads  # where a thread asks for the first time, it gets the process's number of threads
OPENMP = (get, SETTERS[0]) if SETTERS is not None and get() > 1 else None


_stale = 0  # the thread that forked this process


def _in_child() -> None:
    """One thread for the thread that forked: GNU's OpenMP would wait for the others, which the child has not."""
    global _stale  # noqa: PLW0603
    _stale = get_ident()
    if SETTERS is not None:
        SETTERS[0](1)


in_child(_in_child)


class On:
    """A context in which what this thread calls has so many threads of OpenMP and MKL, where torch has them."""

    __slots__ = ("before", "by_mkl", "count")

    def __init__(self, count: int):
        self.count = count

    def __enter__(self) -> None:
        self.before, self.by_mkl = get(), None
        if SETTERS is None:
            return
        put, by_mkl = SETTERS
        count = 1 if get_ident() == _stale else self.count
        if self.before != count:
            put(count)
        if by_mkl is not None:
            self.by_mkl = by_mkl(count)

    def __exit__(self, *_: object) -> None:
        if SETTERS is None:
            return
        put, by_mkl = SETTERS
        if self.before != self.count:
            put(self.before)
        if by_mkl is not None and self.by_mkl is not None:
            by_mkl(self.by_mkl)


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
    if OPENMP is None or x.device.type != "cpu" or torch.compiler.is_compiling() or work >= SMALL:
        return fn  # a tracer's sizes are not looked at: the comparison would hold for what it makes
    return _alone(fn)


def product_work(a: Any, b: Any) -> int:
    """The operations of a product of matrices."""
    work: int = 2 * prod(a.shape) * (b.shape[-1] if b.ndim > 1 else 1)
    return work


def norm_work(x: Any) -> int:
    """Those of a norm or softmax."""
    work: int = TOUCHED * prod(x.shape)
    return work
