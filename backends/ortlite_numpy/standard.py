"""NumPy's names of the Array API standard, without array_api_compat, which takes 0.1 s to import and a wrapper a call.

From 2.1 on NumPy has the standard's functions itself. What differs is here: `clip` keeps the dtype whatever its bounds
are, `argsort` and `sort` know `descending`, what orders numbers takes those of ml_dtypes as well, and many floats are
added in parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from ortlite import dtypes
from ortlite_numpy.record import numpy, recording

__all__ = ["added", "argsort", "clip", "library", "mean", "sort", "take_along_axis"]

NAMES = (
    "abs acos acosh add all any arange argmax argmin asin asinh atan atan2 atanh bitwise_and bitwise_invert "
    "bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor bool broadcast_arrays broadcast_shapes broadcast_to "
    "can_cast ceil complex128 complex64 concat conj copysign cos cosh cumulative_prod cumulative_sum diff divide e "
    "empty empty_like equal exp expand_dims expm1 eye fft finfo flip float32 float64 floor floor_divide from_dlpack "
    "full full_like greater greater_equal hypot iinfo imag inf int16 int32 int64 int8 isfinite isin isinf isnan less "
    "less_equal linalg linspace log log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor matmul "
    "matrix_transpose max maximum meshgrid min minimum moveaxis multiply nan negative newaxis nextafter nonzero "
    "not_equal ones ones_like permute_dims pi positive pow prod real reciprocal remainder repeat reshape result_type "
    "roll round searchsorted sign signbit sin sinh sqrt square squeeze stack std subtract take tan tanh tensordot "
    "tril triu trunc uint16 uint32 uint64 uint8 unique_all unique_counts unique_inverse unique_values unstack var "
    "vecdot where zeros zeros_like"
).split()
MANY = 1024  # numbers that are added one by one at most
_REGISTERED = 2  # what numpy.dtype.isbuiltin is for a dtype of ml_dtypes


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
    """NumPy's own; where a kernel is being recorded, the record's."""
    if device is None and copy is None:
        return numpy.asarray(obj, dtype) if recording() else np.asarray(obj, dtype)
    return np.asarray(obj, dtype=dtype, device=device, copy=copy)


def astype(x: Any, dtype: Any, /, *, copy: bool = True) -> Any:
    """NumPy's own takes no scalars."""
    return x.astype(dtype, copy=copy)


@cache
def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The least and the largest integer of a dtype."""
    logical = dtypes.of_numpy(dtype)
    if logical.kind == "u":
        return 0, (1 << logical.bits) - 1
    return -(1 << logical.bits - 1), (1 << logical.bits - 1) - 1


def _bound(bound: Any, dtype: np.dtype[Any], inwards: Any) -> Any:
    """A bound for numbers of `dtype`, float or integer: as one of them that leaves the same numbers inside."""
    kind = type(bound)
    if kind is int or kind is float:
        if dtype.kind == "f":
            return float(bound)
        least, largest = _limits(dtype)
        if kind is float and not math.isinf(bound):
            bound = int(inwards(bound))
        return min(max(bound, least), largest)
    bound = numpy.asarray(bound)
    if bound.dtype == dtype:
        return bound
    bound = _wide(bound)
    if dtype.kind != "f" and bound.dtype.kind != "b":
        least, largest = _limits(dtype)
        if bound.dtype.kind == "f":
            bound = inwards(bound)
            lowest, highest = (bound.dtype.type(limit) for limit in (least, largest))
            if int(highest) > largest:  # 2**63 - 1 is no float
                highest = np.nextafter(highest, bound.dtype.type(0))
            bound = np.clip(bound, lowest, highest)
        elif not np.can_cast(bound.dtype, dtype):
            own = _limits(bound.dtype)
            bound = np.clip(bound, max(least, own[0]), min(largest, own[1]))
    return bound.astype(dtype)


def _wide(x: Any) -> Any:
    """Numbers of ml_dtypes, whose NaN NumPy does not sort and whose small integers it does not compare, as NumPy's."""
    if x.dtype.isbuiltin != _REGISTERED:
        return x
    return x.astype(np.float32 if dtypes.of_numpy(x.dtype).kind == "f" else np.int16)


def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
    """The numbers of `x`, moved between the bounds, in the dtype of `x`; NaN where `x` or a bound is.

    A bound may be of another dtype, also beyond what that of `x` holds.
    """
    if x.dtype.isbuiltin == _REGISTERED:
        y = clip(_wide(x), min, max)
        return (y if y.dtype.kind == "f" else np.clip(y, *_limits(x.dtype))).astype(x.dtype)
    low = None if min is None else _bound(min, x.dtype, np.ceil)
    high = None if max is None else _bound(max, x.dtype, np.floor)
    if low is None:
        return x.copy("K") if high is None else np.minimum(x, high)
    return np.maximum(x, low) if high is None else np.clip(x, low, high)


def argsort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """The places of the numbers in order; equal ones keep theirs. NaN are last, descending they are first."""
    x = _wide(x)
    kind: Any = "stable" if stable else None
    if not descending:
        return np.argsort(x, axis=axis, kind=kind)
    last = x.shape[axis] - 1
    return last - np.flip(np.argsort(np.flip(x, axis=axis), axis=axis, kind=kind), axis=axis)


def sort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """The numbers in order. NaN are last, descending they are first."""
    y = np.sort(_wide(x), axis=axis, kind="stable" if stable else None)
    return (np.flip(y, axis=axis) if descending else y).astype(x.dtype, copy=False)


def take_along_axis(x: Any, indices: Any, /, *, axis: int = -1) -> Any:
    """NumPy's own, which has no default axis before 2.3."""
    return np.take_along_axis(x, indices, axis)


def count_nonzero(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """NumPy's own, as an array."""
    return numpy.asarray(np.count_nonzero(x, axis=axis, keepdims=keepdims))


def added(x: Any, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
    """NumPy's own, but that many floats are added in parts."""
    axes, many = _many(x, axis)
    if many and (dtype is None or dtype == x.dtype):
        return _in_parts(x, axes, keepdims)
    return np.sum(x, axis=axis, dtype=dtype, keepdims=keepdims)


def mean(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    """NumPy's own, but that many floats are added in parts."""
    axes, many = _many(x, axis)
    if many:
        return _in_parts(x, axes, keepdims) / math.prod([x.shape[a] for a in axes])
    return np.mean(x, axis=axis, keepdims=keepdims)


def _many(x: Any, axis: Any) -> tuple[tuple[int, ...], bool]:
    """The axes, and whether over them lie more floats than NumPy should add one by one."""
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return tuple(axes), x.dtype.char in "fdFD" and math.prod([x.shape[a] for a in axes]) > MANY


def _in_parts(x: Any, axes: Sequence[int], keepdims: bool) -> Any:
    """The sum, whose error does not grow with how many numbers there are.

    NumPy adds by halves what lies side by side in memory, and one by one along the other axes: of equal numbers, all
    roundings go the same way. There the sums of parts are added.
    """
    order = sorted((a for a in range(x.ndim) if x.shape[a] > 1), key=lambda a: abs(x.strides[a]))
    summed = {a % x.ndim for a in axes}
    inner: list[int] = []
    for a in order:
        if a not in summed or (inner and x.strides[a] != x.strides[inner[-1]] * x.shape[inner[-1]]):
            break
        inner.append(a)
    outer = [a for a in order if a in summed and a not in inner]
    if math.prod([x.shape[a] for a in outer]) <= MANY:
        return np.sum(x, axis=tuple(axes), keepdims=keepdims)
    y = np.add.reduce(x, axis=tuple(inner), keepdims=True) if inner else x
    for a in outer:
        y = _along(y, a)
    return y if keepdims else y.reshape([n for a, n in enumerate(x.shape) if a not in summed])


def _along(x: Any, axis: int) -> Any:
    """The sum over one axis, which stays: of as many parts as each of them has numbers."""
    n = x.shape[axis]
    if n <= MANY:
        return np.add.reduce(x, axis=axis, keepdims=True)
    size = math.isqrt(n)
    count, before = n // size, (slice(None),) * axis
    parts = x[(*before, slice(count * size))].reshape((*x.shape[:axis], count, size, *x.shape[axis + 1 :]))
    y = _along(np.add.reduce(parts, axis=axis + 1), axis)
    return y if count * size == n else y + _along(x[(*before, slice(count * size, None))], axis)


@cache
def library() -> ModuleType:
    """The standard's namespace."""
    made = ModuleType("numpy")
    made.__dict__.update({name: getattr(np, name) for name in NAMES})
    own = (asarray, astype, clip, argsort, sort, take_along_axis, count_nonzero, mean)
    made.__dict__.update({fn.__name__: fn for fn in own})
    made.__dict__["sum"] = added
    made.__dict__["isdtype"] = cache(np.isdtype)  # what a dtype is takes NumPy 2 µs to say
    return made
