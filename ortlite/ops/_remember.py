"""Attributes of a model are the same Python objects in every run: what was made of them once can be kept."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array

__all__ = ["constant", "listed", "remember"]

P = ParamSpec("P")
R = TypeVar("R")

KEPT = 256  # results per function; the oldest go first
CODES = {"float32": "f", "float64": "d", "int64": "q"}


def remember(fn: Callable[P, R]) -> Callable[P, R]:
    """`fn`, its results kept for arguments that are the very same objects (hashing long tuples would cost more)."""
    kept: dict[tuple[int, ...], tuple[Any, R]] = {}
    lock = threading.Lock()

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        key = tuple(map(id, args))
        found = kept.get(key)
        if found is None:
            found = (args, fn(*args, **kwargs))  # holding the arguments keeps their ids theirs
            with lock:
                kept[key] = found
                while len(kept) > KEPT:
                    kept.pop(next(iter(kept)))
        return found[1]

    return call


@remember
def _buffer(values: Sequence[Any], code: str) -> array[Any]:
    return array(code, values)


@remember
def listed(tensor: Any) -> list[Any]:
    """The elements of an attribute that is a tensor."""
    values: list[Any] = tensor.reshape(-1).tolist()
    return values


def constant(xp: Namespace, values: Sequence[Any], dtype: str) -> Array:
    """The vector of `values`, numbers of an attribute or a table made from some, without a walk over them per run."""
    native = xp.dtype(dtype)
    if not len(values):
        return xp.zeros((0,), dtype=native)
    return xp.asarray(values if isinstance(values, array) else _buffer(values, CODES[dtype]), dtype=native)
