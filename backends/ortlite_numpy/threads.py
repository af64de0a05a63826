"""A few threads beside the calling one, for blocks of work that release the GIL: NumPy's loops, products, kernels.

To wake a thread takes 0.03 to 0.3 ms on virtual machines. Where compiled code is there to wait in (`wait_by`), a
thread that has worked looks out for more for some milliseconds, without the GIL, and takes it within some microseconds;
then it sleeps. Nothing spins while nothing runs. What is compiled itself needs no Python to be handed over: `TEAM` is
what compiled callers and helpers know of one another, and `wake` all that they need from here.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import cache
from itertools import count, pairwise
from queue import SimpleQueue
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from ortlite.forks import in_child
from ortlite.processors import available
from ortlite_numpy.record import Ended, apart, recording

__all__ = [
    "BLOCKS", "CONTEXT", "DONE", "GIVEN", "HELPERS", "ROW", "SCHEDULE", "STATE", "TEAM", "TOGETHER", "YIELD", "Waiting",
    "another_team", "available", "limit", "pays", "pool_team", "split", "wait_by", "wake",
]  # fmt: skip

WOKEN = 2e-4  # seconds of work from which on another thread pays that must be woken,
SOON_AWAKE = 5e-4  # that must be woken, but will look out for what comes after this,
AWAKE = 4e-4  # that is looking out
PIECE = 2.5e-4  # seconds of a range, where there are more than threads
LONG = 5e-3  # seconds of work from which on it is not written out, call by call
LATELY = 1e-3  # seconds in which what helpers have missed counts


# The rows of TEAM: the first says how many helpers there are and where the system's function is by which a thread lets
# others run; then one a helper. Places are in bytes; what different threads write is in different lines of the cache.
# The team of another library has one row alone: TOGETHER, by what function all its threads call another; or SCHEDULE,
# by what its pool takes a task (0 once it has refused one), CONTEXT, what that wants to be given, and a block a task.
YIELD, HELPERS, TOGETHER, SCHEDULE, CONTEXT = 0, 8, 16, 24, 32
GIVEN, DONE, STATE, BLOCKS = 0, 128, 256, 64
ROW = 384
_team = np.zeros(((os.cpu_count() or 1) + 1, ROW // 8), np.int64)
TEAM = _team.ctypes.data
if hasattr(os, "sched_yield"):
    _team[0, YIELD // 8] = ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0


_others: list[np.ndarray[Any, Any]] = []


def another_team(together: int) -> int:
    """The address of the team of another library's threads.

    `together` is the address of a function that takes what GNU's GOMP_parallel takes: `void (*fn)(void *), void *data,
    unsigned threads, unsigned flags`; it calls fn(data) on the calling thread and on the others, and waits for them.
    """
    row = np.zeros(ROW // 8, np.int64)
    row[TOGETHER // 8] = together
    _others.append(row)
    return int(row.ctypes.data)


def pool_team() -> np.ndarray[Any, Any]:
    """The row of the team that one thread makes with another library's pool, whose SCHEDULE and CONTEXT it sets."""
    row = np.zeros(ROW // 8, np.int64)
    row[YIELD // 8] = _team[0, YIELD // 8]
    _others.append(row)  # a task may run long after its caller has gone on
    return row


class Waiting(Protocol):
    """Compiled functions that look at the row of a helper for a while, without the GIL, by its address."""

    def for_work(self, row: int, done: int) -> None:
        """Set DONE, and take part in what compiled code offers, until GIVEN is another number."""

    def for_result(self, row: int, given: int) -> None:
        """Look until DONE is `given`."""


_waiting: Waiting | None = None
_helpers: list[_Helper] = []
_idle: list[_Helper] = []  # each is taken and put back in one step, which no other thread can come between
_lock = threading.Lock()
_missed, _until = 0.0, 0.0  # seconds of work that helpers would have taken part in, had they not slept; counted so long


def wait_by(waiting: Waiting | None) -> None:
    """Let helpers look out for work, from now on."""
    global _waiting  # noqa: PLW0603  (one way a process)
    _waiting = waiting


@cache
def limit() -> int:
    """How many threads work together at most, as it was when this was first asked: one helper there always may be."""
    return min(max(2, available()), len(_team))


def pays(seconds: float) -> bool:
    """Whether so much work may be worth another thread."""
    return seconds >= (AWAKE if _waiting else WOKEN)


def split(fn: Callable[[int, int], object], count: int, seconds: float, threads: int, finely: bool = False) -> None:
    """Call `fn(start, stop)` on ranges that make up [0, `count`), on up to `threads` threads, and wait.

    `seconds` is what all of it would take one thread. What another thread has not begun when the calling one is ready
    is done by the calling one, so that calls from many threads neither wait for one another nor pile up. `finely`: in
    more ranges than threads, for one thread may be slower than another, where a range costs little to begin.
    """
    most = min(threads, count)
    if most > 1 and pays(seconds) and recording():
        _record(fn, count, seconds, most)
        return
    helpers: list[_Helper] = []
    before: list[int] = []
    try:
        _take(helpers, most, seconds)
        if helpers:
            parts = len(helpers) + 1
            if finely:
                parts = max(parts, min(4 * parts, count, int(seconds / PIECE)))
            edges = [count * part // parts for part in range(parts + 1)]
            work = _Work(fn, list(pairwise(edges))[::-1])
            before = [helper.given for helper in helpers]
            for helper in helpers:
                helper.begin(work)
    except BaseException:  # Control-C
        for index, helper in enumerate(helpers):
            helper.recover(begun=bool(before) and helper.given != before[index])
        raise
    if not helpers:
        fn(0, count)
        return
    work.do()
    work.wait(helpers)


def _record(fn: Callable[[int, int], object], count: int, seconds: float, most: int) -> None:
    """Note what each of up to `most` threads does."""
    if seconds > LONG:
        raise Ended("the Python around such calls does not matter")
    parts = 1
    while parts < min(most, limit()) and pays(seconds / parts):
        parts += 1
    apart(_together, fn, [count * part // parts for part in range(parts + 1)], seconds)


def _together(parts: Sequence[Callable[..., None]], seconds: float, *arrays: object) -> None:
    """Call each of `parts` with the arrays."""

    def some(start: int, stop: int) -> None:
        for part in parts[start:stop]:
            part(*arrays)

    split(some, len(parts), seconds, len(parts))


def _take(found: list[_Helper], most: int, seconds: float) -> None:
    """Put idle helpers for so much work into `found`: with the calling thread they are at most `most` threads."""
    while len(found) + 1 < most and pays(seconds / (len(found) + 1)):
        try:
            found.extend(map(list.pop, (_idle,)))  # in one step: no signal comes between
        except IndexError:
            made = _made_another()
            if made is None:
                break
            found.append(made)
        if not found[-1].awake and seconds < (SOON_AWAKE if _waiting else WOKEN):
            _idle.extend(map(list.pop, (found,)))
            break


class _Work:
    """The parts of one call. Whoever is free takes the next."""

    def __init__(self, fn: Callable[[int, int], object], parts: list[tuple[int, int]]):
        self.fn = fn
        self.parts = parts
        self.context = copy_context()  # NumPy's error state, among others, is that of the calling thread
        self.left = count(len(parts) - 1, -1)
        self.finished = threading.Lock()  # until the last part is
        self.finished.acquire()
        self.errors: list[BaseException] = []

    def do(self) -> None:
        """Part by part, what nobody has taken."""
        while True:
            try:
                part = self.parts.pop()
            except IndexError:
                return
            try:
                self.fn(*part)
            except BaseException as error:  # noqa: BLE001  (raised when no thread is at work any more)
                self.errors.append(error)
            if next(self.left) == 0:
                self.finished.release()

    def wait(self, helpers: list[_Helper]) -> None:
        """Until all parts are done; raise what one of them raised."""
        for helper in helpers:
            if self.finished.acquire(blocking=False):
                break
            helper.look()
        else:
            self.finished.acquire()
        if self.errors:
            try:
                raise self.errors[0]
            finally:
                self.errors.clear()  # its traceback leads here: a circle, which would hold all arrays of the call


class _Helper:
    """A thread that serves one call after the other."""

    def __init__(self, place: int) -> None:
        self.numbers = _team[place]
        self.row = TEAM + place * ROW
        self.numbers[:] = 0
        self.work: _Work | None = None
        self.called = self.awake = False
        self.begun: SimpleQueue[None] = SimpleQueue()  # wakes it: one too many does no harm
        threading.Thread(target=self.serve, name=f"ortlite_{place}", daemon=True).start()

    @property
    def given(self) -> int:
        """How many calls it was given."""
        return int(self.numbers[GIVEN // 8])

    def recover(self, begun: bool) -> None:
        """After an interrupt: serve what it was given, or be idle again."""
        if begun:
            self.begun.put(None)
        else:
            self.work = None
            _idle.append(self)

    def begin(self, work: _Work) -> None:
        self.work = work
        self.numbers[GIVEN // 8] += 1
        if not self.awake:
            self.begun.put(None)

    def call(self) -> None:
        self.called = True
        if not self.awake:
            self.begun.put(None)

    def look(self) -> None:
        if _waiting:
            _waiting.for_result(self.row, self.numbers[GIVEN // 8])

    def serve(self) -> None:
        given = 0
        while True:
            if self.numbers[GIVEN // 8] != given:
                work, self.work = self.work, None
                assert work is not None
                given += 1
                work.context.copy().run(work.do)
                del work  # and all arrays that it holds
                _idle.append(self)
            else:
                self.awake = False  # before the next look: who gives work, or calls, looks at this afterwards
                while self.numbers[GIVEN // 8] == given and not self.called:
                    self.begun.get()
                self.awake, self.called = True, False
            if _waiting:
                _waiting.for_work(self.row, given)


def _made_another() -> _Helper | None:
    """A new helper, if the process may keep another thread busy."""
    with _lock:
        if len(_helpers) + 1 >= limit():
            return None
        helper = _Helper(len(_helpers) + 1)
        _helpers.append(helper)
        _team[0, HELPERS // 8] = len(_helpers)
        return helper


def wake(seconds: float, most: int) -> None:
    """Have helpers look out for what compiled code offers, so that `most` threads work, if they have missed enough.

    `seconds` is what the caller is about to do, whether or not they help.
    """
    global _missed, _until  # noqa: PLW0603
    if _waiting is None:
        return
    now = perf_counter()
    if now > _until:
        _missed = 0.0
    _until = now + seconds + LATELY
    most = min(most, limit())
    wanted = _helpers[: most - 1]
    if len(wanted) == most - 1 and all(helper.awake for helper in wanted):
        return
    _missed += seconds
    if _missed < SOON_AWAKE:
        return
    _missed = 0.0
    for helper in wanted:
        helper.call()
    while len(_helpers) < most - 1 and (made := _made_another()):
        _idle.append(made)
        made.call()


def _forget() -> None:
    global _lock  # noqa: PLW0603
    limit.cache_clear()
    _lock = threading.Lock()
    _helpers.clear()  # a forked child has none of these threads
    _idle.clear()
    _team[0, HELPERS // 8] = 0


in_child(_forget)
