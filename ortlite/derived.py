"""What overrides derive from constants: packed, transposed, transformed weights, each made once a session."""

from __future__ import annotations

import inspect
import mmap
import threading
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from ortlite.forks import renewed_after_fork
from ortlite.room import laid

__all__ = ["Derived", "WithConstants", "at_once", "lasting", "nbytes", "takes_derived"]


def at_once(make: Callable[..., Any], *args: Any) -> Any:
    """`make(*args)`: the default of the keyword `derived`, for whoever calls an override himself. Nothing is kept."""
    return make(*args)


def lasting(derived: Callable[..., Any], value: Any) -> bool:
    """Whether what `derived` makes of an array is kept: an override may then spend more on it."""
    holds = getattr(derived, "holds", None)
    return bool(holds and holds(value))


@cache
def takes_derived(override: Callable[..., Any]) -> bool:
    """Whether an override declares the keyword `derived`."""
    return "derived" in inspect.signature(override).parameters


class Derived:
    """Results of pure functions of constants, kept as long as the session.

    An override that declares the keyword `derived` is given one: `derived(transposed, W, 2)` is `transposed(W, 2)`,
    made in the first run where W is a constant of the model, in every run where it is not. Arguments are arrays and
    hashable values; the result is read by many runs, so nobody may write to it, and lies where reading it takes least
    time (`ortlite.room`). Each is made once, by one thread.
    """

    def __init__(self, constants: Iterable[Any] = ()):
        self._constants: dict[int, Any] = {}  # by id, which holds as long as its object is held
        self._made: dict[Any, Any] = {}
        renewed_after_fork(self, "_lock", threading.RLock)
        self.watch(constants)

    _lock: threading.RLock

    def watch(self, constants: Iterable[Any]) -> None:
        """Take these arrays for constants; they are held from now on."""
        self._constants.update((id(value), value) for value in constants if hasattr(value, "shape"))

    def __call__(self, make: Callable[..., Any], *args: Any) -> Any:
        """`make(*args)`, kept where all arrays among `args` are constants."""
        key = (make, *(id(arg) if hasattr(arg, "shape") else arg for arg in args))
        if key in self._made:
            return self._made[key]
        if any(hasattr(arg, "shape") and id(arg) not in self._constants for arg in args):
            return make(*args)
        with self._lock:
            if key not in self._made:
                made = make(*args)
                self._made[key] = made if any(made is arg for arg in args) else laid(made)
                for arg in args:
                    _let_go(arg)
        return self._made[key]

    def holds(self, value: Any) -> bool:
        """Whether an array is a constant."""
        return id(value) in self._constants

    @property
    def nbytes(self) -> int:
        """The memory that the results hold."""
        return sum(map(nbytes, self._made.values()))


class WithConstants:
    """An override on NumPy's arrays, and those of its inputs, at `places`, that are constants: what it derives of these
    is kept.
    """

    __slots__ = ("constants", "fn", "keywords", "places")

    def __init__(
        self, fn: Callable[..., Any], places: tuple[int, ...], keywords: Any, constants: list[np.ndarray | None]
    ):
        self.places, self.keywords, self.constants = places, dict(keywords), constants
        kept = Derived([x for x in constants if x is not None])
        self.fn = partial(fn, derived=kept) if takes_derived(fn) else fn

    def inputs(self, others: Iterable[Any]) -> list[Any]:
        """All inputs in their order."""
        given = list(others)
        rest, constants = iter(given), iter(self.constants)
        return [next(constants if i in self.places else rest) for i in range(len(given) + len(self.places))]


def _let_go(value: Any) -> None:
    """Give back the memory of an array that lies in a file: what was derived from it is used in its place, mostly.

    Whoever reads it again finds it in the file.
    """
    if not isinstance(value, np.ndarray) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    base: Any = value
    while isinstance(base.base, np.ndarray):
        base = base.base
    file = base.base.obj if isinstance(base.base, memoryview) else base.base
    if not isinstance(file, mmap.mmap) or not memoryview(file).readonly or not value.size:
        return  # what was written to a private map would be lost
    low, high = byte_bounds(value)
    start = np.frombuffer(file, np.uint8).__array_interface__["data"][0]
    first, last = -(-(low - start) // mmap.PAGESIZE), (high - start) // mmap.PAGESIZE
    if last > first:
        file.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)


def nbytes(value: Any) -> int:
    """The memory that a value holds: an array's, or that of the arrays in a sequence."""
    return sum(map(nbytes, value)) if isinstance(value, tuple | list) else int(getattr(value, "nbytes", 0))
