"""Pools on NumPy: one axis after the other, block by block of rows, without a padded copy, in the input's layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from ortlite.namespace import Namespace
from ortlite.primitives.window import output_shape
from ortlite_numpy.conv import channels_last
from ortlite_numpy.layout import empty_as
from ortlite_numpy.record import numpy as np
from ortlite_numpy.threads import split

__all__ = ["PRIMITIVES"]

BLOCK = 1 << 17  # elements of the input that a block of windows shows: calls of NumPy cost more than half a megabyte
WHOLE = 1 << 10  # elements of an image up to which it is reduced at once, wherever its channels are
COST = 3e-10  # seconds an element takes at each place of the windows along an axis


def _windows(
    ufunc: Any, empty: Any, x: Any, axis: int, size: int, stride: int, dilation: int, lo: int, first: int, last: int
) -> Any:
    """Windows `first` to `last` along one axis of `x`, combined; what lies beyond its ends is `empty`."""
    n, before = x.shape[axis], (slice(None),) * axis
    count = last - first
    if count == 1:
        begin = first * stride - lo
        start = begin + -(min(begin, 0) // dilation) * dilation
        part = x[(*before, slice(start, max(begin + (size - 1) * dilation + 1, 0), dilation))]
        return ufunc.reduce(part, axis=axis, keepdims=True, dtype=x.dtype, initial=empty)
    parts = []
    for place in range(size):
        at = place * dilation - lo
        begin, end = max(first, -(at // stride)), min(last, (n - 1 - at) // stride + 1)
        if end > begin:
            shown = x[(*before, slice(begin * stride + at, (end - 1) * stride + at + 1, stride))]
            parts.append((begin - first, end - first, shown))
    parts.sort(key=lambda part: part[0] - part[1])  # the first shows something to all windows, if any does
    if len(parts) > 1 and parts[1][1] - parts[1][0] == count:
        y = ufunc(parts.pop(0)[2], parts.pop(0)[2])
    elif parts and parts[0][1] - parts[0][0] == count:
        y = np.array(parts.pop(0)[2], order="K")
    else:
        y = np.full((*x.shape[:axis], count, *x.shape[axis + 1 :]), empty, x.dtype)
    for begin, end, shown in parts:
        target = y[(*before, slice(begin, end))]
        ufunc(target, shown, out=target)
    return y


def _pool(
    ufunc: Any,
    empty: Any,
    x: Any,
    size: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
    threads: int,
) -> Any:
    """All windows combined by `ufunc`; NotImplemented for large ones, which the default body doubles."""
    out = output_shape(x.shape[2:], size, strides, dilations, pads)
    if 0 in {*x.shape, *out}:
        return NotImplemented
    if set(out) == {1} and (x.flags.c_contiguous or prod(size) <= WHOLE):
        return NotImplemented  # channels first are rows to the default body, and it has less to do before small ones
    for k, count, n in zip(size, out, x.shape[2:], strict=True):
        if count > 1 and k * count > 2 * k.bit_length() * n:
            return NotImplemented
    y = empty_as(x, (*x.shape[:2], *out))
    images, result = channels_last(x), channels_last(y)
    along = list(zip(size, strides, dilations, (lo for lo, _ in pads), strict=True))
    step = max(BLOCK * x.shape[2] // (x.size * strides[0]), 1)

    def some(start: int, stop: int) -> None:
        for first in range(start, stop, step):
            last = min(first + step, stop)
            block = _windows(ufunc, empty, images, 1, *along[0], first, last)
            for axis in range(2, len(size) + 1):
                block = _windows(ufunc, empty, block, axis, *along[axis - 1], 0, out[axis - 1])
            result[:, first:last] = block

    split(some, out[0], COST * x.size / strides[0] * sum(size), threads)
    return y


def max_pool(
    xp: Namespace,
    x: Any,
    size: Sequence[int],
    *,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
    indices: bool = False,
) -> Any:
    """In blocks; with indices as the default body."""
    if indices or x.dtype.kind not in "iuf":
        return NotImplemented
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    y = _pool(np.maximum, lowest, x, size, strides, pads, dilations, xp.threads)
    return y if y is NotImplemented else (y, None)


def sum_pool(
    xp: Namespace,
    x: Any,
    size: Sequence[int],
    *,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
) -> Any:
    """In blocks."""
    if x.dtype.kind not in "iuf":
        return NotImplemented
    return _pool(np.add, 0, x, size, strides, pads, dilations, xp.threads)


PRIMITIVES: dict[str, Callable[..., Any]] = {"max_pool": max_pool, "sum_pool": sum_pool}
