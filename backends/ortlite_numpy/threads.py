"""One small pool of threads for blocks of work that release the GIL: NumPy's loops, products, compiled kernels.

A thread of ours has to be woken, which costs 0.03 to 0.3 ms on virtual machines: work of less than 0.7 ms stays in the
thread that has it. Threads sleep when there is nothing to do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import copy_context
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["WORTHWHILE", "available", "split"]

WORTHWHILE = 7e-4  # seconds of work from which on another thread pays

_pool: ThreadPoolExecutor | None = None


def available() -> int:
    """How many threads this process may keep busy: the processors it may run on, less where a cgroup grants less."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup, or one without a quota
        return max(1, count)


def split(fn: Callable[[int, int], object], count: int, seconds: float, threads: int) -> None:
    """Call `fn(start, stop)` on ranges that make up [0, `count`), on up to `threads` threads, and wait.

    `seconds` is what all of it would take one thread. What another thread has not begun when the calling one is ready
    is done by the calling one, so that calls from many threads neither wait for one another nor pile up.
    """
    parts = min(threads, count, int(seconds / WORTHWHILE) + 1)
    if parts < 2:
        fn(0, count)
        return
    edges = [count * part // parts for part in range(parts + 1)]
    # NumPy's error state, among others, is that of the calling thread
    others = [_executor().submit(copy_context().run, fn, start, stop) for start, stop in pairwise(edges[1:])]
    try:
        fn(edges[0], edges[1])
    finally:
        for part, other in enumerate(others, 1):
            if other.cancel():
                fn(edges[part], edges[part + 1])
            else:
                other.result()


def _executor() -> ThreadPoolExecutor:
    global _pool  # noqa: PLW0603  (one pool a process)
    if _pool is None:
        from concurrent.futures import ThreadPoolExecutor

        _pool = ThreadPoolExecutor(max(1, available() - 1), "ortlite")
    return _pool


def _forget() -> None:
    global _pool  # noqa: PLW0603
    _pool = None  # a forked child has none of its threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
