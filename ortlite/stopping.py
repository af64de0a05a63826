"""How a run ends before its time: the caller's flag, or a deadline, looked at between steps.

A run that can be stopped is entered with `stoppable(stop)`; whoever runs steps takes `current()` once and calls it
before each. Subgraphs run in the same thread, so that loops stop between their iterations.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from ortlite.errors import Fail
from ortlite.limits import beyond

__all__ = ["RunTimeout", "current", "stop_of", "stoppable"]

Stop = Callable[[], None]  # raises Fail when the run is to end


class RunTimeout(Fail, TimeoutError):
    """A run took longer than the `timeout`, in seconds, that it was given: a Fail, and Python's TimeoutError."""


class _Current(threading.local):
    stop: Stop | None = None


_current = _Current()


def current() -> Stop | None:
    """What to call before each step of the run in this thread; None where nothing can stop it."""
    return _current.stop


@contextmanager
def stoppable(stop: Stop | None) -> Iterator[None]:
    """Runs within may be stopped by `stop`."""
    before, _current.stop = _current.stop, stop
    try:
        yield
    finally:
        _current.stop = before


def stop_of(options: Any, timeout: float | None, seconds: float | None = None) -> Stop | None:
    """A function that raises Fail once `options.terminate` is set, RunTimeout after `timeout` seconds from now.

    And LimitExceeded after `seconds`, the limit of that name.
    """
    if options is None and timeout is None and seconds is None:
        return None
    flags: dict[str, Any] = {} if options is None else options.__dict__
    end = None if timeout is None else perf_counter() + timeout
    last = None if seconds is None else perf_counter() + seconds

    def stop() -> None:
        if flags.get("terminate"):
            raise Fail("Exiting due to terminate flag being set to true.")
        if end is not None and perf_counter() > end:
            raise RunTimeout(f"The run was ended after its timeout of {timeout:g} seconds.")
        if last is not None and perf_counter() > last:
            raise beyond("seconds", seconds or 0, f"more than {seconds:g}", "seconds that have gone by")

    return stop
