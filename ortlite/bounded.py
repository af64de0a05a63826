"""A namespace whose functions make no array of more elements than a limit allows: what kernels get in bounded runs.

It sees what a kernel makes on its way to its result, in default bodies and in operators that nobody knows the sizes
of. Runs without limits get the namespace itself, so they pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from math import ceil, isfinite, prod
from typing import Any

from ortlite.limits import beyond
from ortlite.primitives.base import Namespace
from ortlite.sizes import size, together

__all__ = ["bounded"]


def bounded(xp: Namespace, limit: str, most: int) -> Namespace:
    """`xp`, whose functions raise LimitExceeded, naming `limit`, before they make more than `most` elements."""
    made = Namespace(xp.library, xp.__dict__)
    for name, value in xp.__dict__.items():
        if isinstance(value, partial) and value.args and value.args[0] is xp:  # a primitive: its body sees the bound
            made.__dict__[name] = partial(value.func, made, *value.args[1:], **value.keywords)
    for name, count in COUNTS.items():
        if hasattr(made, name):
            made.__dict__[name] = _checked(getattr(made, name), name, count, limit, most)
    return made


def _checked(fn: Callable[..., Any], name: str, count: Callable[..., float], limit: str, most: int) -> Any:
    @wraps(fn)
    def call(*args: Any, **keywords: Any) -> Any:
        try:
            found = count(*args, **keywords)
        except (TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError, OverflowError):
            found = 0  # arguments that do not fit: the function says how
        if found > most:
            raise beyond(limit, most, int(found) if isfinite(found) else "no end", f"elements of what {name} makes")
        return fn(*args, **keywords)

    return call


def _of_shape(shape: int | Sequence[int], *_: Any, **__: Any) -> int:
    return shape if isinstance(shape, int) else prod(shape)


def _arange(start: float, stop: float | None = None, step: float = 1, **_: Any) -> float:
    first, last = (0, start) if stop is None else (start, stop)
    return max(ceil((last - first) / step), 0)


def _repeat(x: Any, repeats: Any, *, axis: int | None = None) -> float:
    if isinstance(repeats, int):
        return size(x) * repeats
    total = int(repeats.sum())
    return total if axis is None else total * (size(x) // x.shape[axis])


def _take(x: Any, indices: Any, *, axis: int | None = None) -> int:
    return size(indices) * (1 if axis is None else size(x) // max(int(x.shape[axis]), 1))


def _matmul(a: Any, b: Any, **_: Any) -> int:
    rows: int = a.shape[-2] if len(a.shape) > 1 else 1
    columns: int = b.shape[-1] if len(b.shape) > 1 else 1
    return together([tuple(a.shape[:-2]), tuple(b.shape[:-2])]) * rows * columns


def _tensordot(a: Any, b: Any, *, axes: Any = 2) -> int:
    shared: int = prod(a.shape[len(a.shape) - axes :]) if isinstance(axes, int) else prod(a.shape[i] for i in axes[0])
    return size(a) * size(b) // max(shared, 1) ** 2


def _padded(x: Any, widths: Sequence[tuple[int, int]], *_: Any, **__: Any) -> int:
    return prod(max(n + lo + hi, 0) for n, (lo, hi) in zip(x.shape, widths, strict=True))


def _resampled(x: Any, axis: int, indices: Sequence[Any], *_: Any) -> int:
    return size(x) // max(int(x.shape[axis]), 1) * len(indices[0])


# How many elements a function's result has, from its arguments.
COUNTS: dict[str, Callable[..., float]] = {
    **dict.fromkeys(("zeros", "ones", "full", "empty"), _of_shape),
    "arange": _arange,
    "linspace": lambda start, stop, num, **_: num,
    "eye": lambda rows, columns=None, **_: rows * (rows if columns is None else columns),
    "broadcast_to": lambda x, shape: prod(shape),
    "meshgrid": lambda *arrays, **_: prod(map(size, arrays)) * len(arrays),
    "tile": lambda x, repetitions: size(x) * prod(repetitions),
    "repeat": _repeat,
    **dict.fromkeys(("concat", "stack"), lambda arrays, **_: size(tuple(arrays))),
    "take": _take,
    "where": lambda *arrays: together([tuple(getattr(x, "shape", ())) for x in arrays]),
    "matmul": _matmul,
    "tensordot": _tensordot,
    "pad": _padded,
    "resample": _resampled,
}
