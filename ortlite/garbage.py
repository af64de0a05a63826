"""Python's garbage collector, which looks at all that is young again and again while much is made that stays."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ortlite.forks import in_child

__all__ = ["uncollected"]

_lock = threading.Lock()
_inside = 0
_was_on = False


@contextmanager
def uncollected() -> Iterator[None]:
    """Within, nothing is collected. The last of several puts things back as the first found them."""
    global _inside, _was_on  # noqa: PLW0603  (there is one collector a process)
    with _lock:
        if not _inside:
            _was_on = gc.isenabled()
        _inside += 1  # while the collector is off, also at a fork in between
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            if _inside <= 1 and _was_on:
                if not gc.get_freeze_count():  # what is there now counts as old, so that nobody looks at it soon
                    gc.freeze()
                    gc.unfreeze()
                gc.enable()
            _inside -= _inside > 0  # in a forked child those of the parent's threads are forgotten


def _forget() -> None:
    """The parent's other threads do not come back in the child."""
    global _lock, _inside  # noqa: PLW0603
    _lock = threading.Lock()
    if _inside and _was_on:
        gc.enable()
    _inside = 0


in_child(_forget)
