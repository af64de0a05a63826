"""Resampled images, floats: the rows first, line by line, then along the line while it is in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import prod
from typing import Any

from ortlite.ops.resize import asked, rule_10_of, rule_of, tables
from ortlite.primitives.resample import Filter
from ortlite_numpy.compiled.jit import loops, own, share
from ortlite_numpy.compiled.table import FLOATS, Call, override
from ortlite_numpy.layout import inverse, order_of
from ortlite_numpy.record import aside
from ortlite_numpy.record import numpy as np

TAP = 0.3e-9  # seconds an element takes for one tap
SHORT = 256  # elements of a line
FEW = 16  # channels, last in memory, that are no stretch worth a loop


@loops()
def weigh(x, weight, first, y):
    """`weight` times x into y, which it is added to unless it is the first."""
    if first:
        for i in range(y.size):
            y[i] = x[i] * weight
    else:
        for i in range(y.size):
            y[i] += x[i] * weight


@loops()
def resample_lines(x, rows, row_weights, columns, column_weights, y, height, start, stop):
    """Lines [start, stop) of the images y, `height` each, flat, made of x (images, H, W, C).

    Row r of an image is made of those that rows[:, r] counts, each times its weight; likewise the columns. Of
    short lines no slices are made.
    """
    h, w, c = x.shape[1], x.shape[2], x.shape[3]
    taps, width = columns.shape
    flat, line = x.reshape(x.size), np.empty(w * c, x.dtype)
    for unit in range(start, stop):
        image, r = unit // height, unit % height
        for tap in range(rows.shape[0]):
            at, weight = (image * h + rows[tap, r]) * w * c, row_weights[tap, r]
            if w * c >= SHORT:
                weigh(flat[at : at + w * c], weight, tap == 0, line)
            else:
                for i in range(w * c):
                    value = flat[at + i] * weight
                    line[i] = value if tap == 0 else line[i] + value
        to = unit * width * c
        if c > 1:
            for j in range(width):
                place = y[to + j * c : to + (j + 1) * c]
                for tap in range(taps):
                    at = columns[tap, j] * c
                    weigh(line[at : at + c], column_weights[tap, j], tap == 0, place)
        elif taps == 2:
            for j in range(width):
                left, right = np.uintp(columns[0, j]), np.uintp(columns[1, j])
                y[to + j] = line[left] * column_weights[0, j] + line[right] * column_weights[1, j]
        else:
            for j in range(width):
                total = line[np.uintp(columns[0, j])] * column_weights[0, j]
                for tap in range(1, taps):
                    total += line[np.uintp(columns[tap, j])] * column_weights[tap, j]
                y[to + j] = total


@lru_cache(maxsize=64)
@aside
def planned(
    shape: tuple[int, ...], roi: Any, scales: Any, sizes: Any, axes: Any, policy: str, rule: Filter, dtype: Any
) -> dict[int, tuple[Any, Any]] | None:
    """What the axes that change are made of: indices and weights (taps, elements). None where some lie outside."""
    wanted, factors, regions = asked(shape, roi, scales, sizes, axes, policy)
    found = {}
    for axis, table in tables(shape, wanted, factors, rule, regions).items():
        if table.outside is not None:
            return None
        weights = table.weights or (np.ones(wanted[axis]),)
        found[axis] = np.array(table.indices, np.int64), np.array(weights, dtype)
    return found


def _resampled(
    xp: Any, x: Any, roi: Any, scales: Any, sizes: Any, chosen: Any, policy: str, rule: Filter
) -> Any:  # fmt: skip
    """Two axes that are neighbours in memory, or one."""
    given = (None if v is None else tuple(v) for v in (roi, scales, sizes, chosen))
    axes = planned(x.shape, *given, policy, rule, x.dtype)
    if axes is None or not x.size or not all(indices.size for indices, _ in axes.values()):
        return NotImplemented
    order = order_of(x)
    places = sorted(order.index(axis) for axis in axes)
    if not places or places[-1] - places[0] != len(places) - 1 or len(places) > 2:
        return NotImplemented
    turned, first, last = own(x.transpose(order)), places[0], places[-1] + 1
    shape = [axes[axis][0].shape[1] if axis in axes else x.shape[axis] for axis in order]
    h, w, c = turned.shape[first], prod(turned.shape[first + 1 : last]), prod(shape[last:])
    rows, row_weights = axes[order[first]]
    columns, weights = axes[order[first + 1]] if len(places) > 1 else (np.zeros((1, 1), np.int64), np.ones((1, 1)))
    if c < FEW:  # each element of a line has an index then
        columns = (columns[:, :, None] * c + np.arange(c)).reshape(len(columns), -1)
        weights, w, c = np.repeat(weights, c, axis=1), w * c, 1
    y = np.empty(shape, x.dtype)
    lines, images = prod(shape[: first + 1]), prod(shape[:first])
    seconds = TAP * (len(rows) * lines * w * c + len(columns) * y.size)
    sides = rows, row_weights, columns, weights.astype(x.dtype)
    share(xp, resample_lines, (turned.reshape(images, h, w, c), *sides, y.reshape(-1), shape[first]), lines, seconds)
    return y.transpose(inverse(order))


def _examples(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.ones((1, 1, 2, 2), dtype), None, (1.0, 1.0, 2.0, 2.0)), {}


@override(("", "Resize", 11), examples=_examples, dtypes=FLOATS)
def resize(
    xp: Any,
    X: Any,
    roi: Any = None,
    scales: Any = None,
    sizes: Any = None,
    *,
    antialias: int = 0,
    axes: Any = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Any:
    """Floats of which two axes that are neighbours in memory change, or one."""
    if X.dtype.char not in "fd":
        return NotImplemented
    rule = rule_of(mode, coordinate_transformation_mode, nearest_mode, cubic_coeff_a, exclude_outside, antialias)
    return _resampled(xp, X, roi, scales, sizes, axes, keep_aspect_ratio_policy, rule)


def _old_examples(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.ones((1, 1, 2, 2), dtype), (1.0, 1.0, 2.0, 2.0)), {}


@override(("", "Resize", 10), ("", "Upsample", 7), examples=_old_examples, dtypes=FLOATS)
def resize_10(xp: Any, X: Any, scales: Any, *, mode: str = "nearest") -> Any:
    """The same."""
    if X.dtype.char not in "fd":
        return NotImplemented
    return _resampled(xp, X, None, scales, None, None, "stretch", rule_10_of(mode))
