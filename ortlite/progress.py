"""What long work is at, for whoever shows it: the command line's bars, or a listener of one's own.

Work tells of its steps by `each` and `say`, which cost nothing where nobody listens in this thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias, TypeVar

__all__ = ["Listener", "each", "listening", "say"]

# Called with what is going on, how much of it is done, and of how much: None where that is not known.
Listener: TypeAlias = Callable[[str, int, int | None], None]

_T = TypeVar("_T")
_listener: ContextVar[Listener | None] = ContextVar("ortlite progress", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` what goes on within.

    Example:
        >>> with listening(lambda what, done, total: print(what, done, total)):
        ...     found = list(each("reading", "ab"))
        reading 0 2
        reading 1 2
        reading 2 2

    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def say(what: str, done: int = 0, total: int | None = None) -> None:
    """Tell what is going on now."""
    listener = _listener.get()
    if listener is not None:
        listener(what, done, total)


def each(what: str, items: Sequence[_T]) -> Iterator[_T]:
    """The items, one after the other, each told of."""
    if _listener.get() is None:
        yield from items
        return
    for done, item in enumerate(items):
        say(what, done, len(items))
        yield item
    say(what, len(items), len(items))
