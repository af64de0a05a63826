"""What kernels derive from a node's attributes: made in its first run and kept with the node, as long as its session.

A kernel that declares the keyword `memo` is given a dictionary that belongs to its node in one session. What goes in
follows from the attributes alone and holds no array of a library, which might be one that is being traced.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ParamSpec, TypeAlias, TypeVar

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array

__all__ = ["Memo", "constant", "listed", "once", "vector"]

Memo: TypeAlias = dict[Hashable, Any] | None  # None, for whoever calls a kernel himself: nothing is kept

P = ParamSpec("P")
R = TypeVar("R")

CODES = {"float32": "f", "float64": "d", "int64": "q"}


def once(memo: Memo, key: Hashable, make: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """`make(*args, **kwargs)`, kept under `key`. Two threads may make it twice; both get the one that is kept."""
    if memo is None:
        return make(*args, **kwargs)
    if key not in memo:
        memo.setdefault(key, make(*args, **kwargs))
    result: R = memo[key]
    return result


def listed(values: Any) -> list[Any]:
    """The elements of an attribute that is a list or a tensor."""
    result: list[Any] = values.reshape(-1).tolist() if hasattr(values, "reshape") else list(values)
    return result


def constant(xp: Namespace, table: Sequence[Any], dtype: str) -> Array:
    """The vector of the numbers in `table`, which is best an `array`: no walk over Python's numbers then."""
    return xp.asarray(table, dtype=xp.dtype(dtype)) if len(table) else xp.zeros((0,), dtype=xp.dtype(dtype))


def vector(xp: Namespace, memo: Memo, name: str, values: Sequence[Any], dtype: str) -> Array:
    """The vector of the numbers in the attribute `name`."""
    return constant(xp, once(memo, (name, dtype), array, CODES[dtype], values), dtype)
