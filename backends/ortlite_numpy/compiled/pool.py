"""Pools of images and of lines: down the rows of a window first, element by element of a row, then along it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import prod
from typing import Any

from ortlite.ops.pool import pool_windows
from ortlite.primitives.window import output_shape
from ortlite_numpy.compiled.functions import larger
from ortlite_numpy.compiled.jit import FREE, loops, own, share
from ortlite_numpy.compiled.table import FLOATS, Call, override
from ortlite_numpy.record import aside
from ortlite_numpy.record import numpy as np

ELEMENT = 0.6e-9  # seconds
PART, PARTS = 1 << 15, 8  # elements of a part of an image with channels last, and how many parts it has at least
STRETCH = 256  # positions that are added up before their sum is added to that of others
WINDOW = 81  # elements; larger windows that overlap are better folded axis by axis


@loops()
def fold_largest(x, y):
    """The larger of each pair of elements into y."""
    for i in range(y.size):
        y[i] = larger(x[i], y[i])


@loops()
def fold_sum(x, y):
    """The sum of each pair of elements into y."""
    for i in range(y.size):
        y[i] += x[i]


@loops()
def along(x, stride, largest, y):
    """Fold every `stride`-th element of x into y; of the usual strides the compiler knows."""
    if largest and stride == 1:
        fold_largest(x, y)
    elif largest and stride == 2:
        for j in range(y.size):
            y[j] = larger(x[2 * j], y[j])
    elif largest:
        for j in range(y.size):
            y[j] = larger(x[stride * j], y[j])
    elif stride == 1:
        fold_sum(x, y)
    elif stride == 2:
        for j in range(y.size):
            y[j] += x[2 * j]
    else:
        for j in range(y.size):
            y[j] += x[stride * j]


@loops()
def channels_first(x, kernel, counts, largest, y, start, stop):
    """Images [start, stop) of x (images, H, W). Averages are sums over `counts`, by row and by column.

    `kernel` are the size, strides, dilations and pads before of windows, each for rows and columns.
    """
    kh, kw, sh, sw, dh, dw, top, left = kernel
    height, width = x.shape[1], x.shape[2]
    oh, ow = y.shape[1], y.shape[2]
    nothing = x.dtype.type(-np.inf if largest else 0)
    reach = max((ow - 1) * sw + (kw - 1) * dw + 1, left + width)
    padded = np.full(reach, nothing, x.dtype)
    column = padded[left : left + width]
    for image in range(start, stop):
        for i in range(oh):
            for j in range(width):
                column[j] = nothing
            for a in range(max(0, (top - i * sh + dh - 1) // dh), min(kh, (height + top - i * sh + dh - 1) // dh)):
                if largest:
                    fold_largest(x[image, i * sh + a * dh - top], column)
                else:
                    fold_sum(x[image, i * sh + a * dh - top], column)
            row = y[image, i]
            for j in range(ow):
                row[j] = nothing
            first, last = 0, kw
            if ow == 1:  # a window that may be much larger than the image
                first, last = (left + dw - 1) // dw, min(kw, (width + left + dw - 1) // dw)
            for b in range(first, last):
                along(padded[b * dw :], sw, largest, row)
            if not largest:
                for j in range(ow):
                    row[j] /= counts[0, i] * counts[1, j]


@loops()
def channels_last(x, kernel, counts, largest, y, start, stop):
    """The same for rows [start, stop), counted through all images, of x (N, H, W, C); y (N, oh, ow, C)."""
    kh, kw, sh, sw, dh, dw, top, left = kernel
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    oh, ow = y.shape[1], y.shape[2]
    for line in range(start, stop):
        image, i = line // oh, line % oh
        for j in range(ow):
            pixel = y[image, i, j]
            for c in range(channels):
                pixel[c] = -np.inf if largest else 0
            for a in range(kh):
                r = i * sh + a * dh - top
                if r >= 0 and r < height:
                    for b in range(kw):
                        q = j * sw + b * dw - left
                        if q >= 0 and q < width:
                            if largest:
                                fold_largest(x[image, r, q], pixel)
                            else:
                                fold_sum(x[image, r, q], pixel)
            if not largest:
                count = counts[0, i] * counts[1, j]
                for c in range(channels):
                    pixel[c] /= count


@loops(FREE)
def mean_rows(x, y, start, stop):
    """The means of rows [start, stop)."""
    for r in range(start, stop):
        s = x.dtype.type(0)
        for i in range(x.shape[1]):
            s += x[r, i]
        y[r] = s / x.shape[1]


@loops(FREE)
def sum_columns(x, parts, count, y, start, stop):
    """Sums over the second axis of x (N, positions, C), cut into so many `parts`, over `count`: y (N · parts, C).

    Of the rows of y, [start, stop) are computed. Four positions at once: to add to what was just stored takes longer.
    A stretch of them is added up apart: to a large sum, small numbers would be added without their last digits.
    """
    positions, stretch = x.shape[1], np.empty(x.shape[2], x.dtype)
    for unit in range(start, stop):
        n, part = unit // parts, unit % parts
        i, last = positions * part // parts, positions * (part + 1) // parts
        row = y[unit]
        for c in range(row.size):
            row[c] = 0
        while i < last:
            end = min(i + STRETCH, last)
            for c in range(stretch.size):
                stretch[c] = 0
            while i + 4 <= end:
                one, two, three, four = x[n, i], x[n, i + 1], x[n, i + 2], x[n, i + 3]
                for c in range(stretch.size):
                    stretch[c] += (one[c] + two[c]) + (three[c] + four[c])
                i += 4
            while i < end:
                fold_sum(x[n, i], stretch)
                i += 1
            fold_sum(stretch, row)
        for c in range(row.size):
            row[c] /= count


@lru_cache(maxsize=256)
@aside
def placed(
    x: tuple[int, ...], kernel_shape: Any, strides: Any, dilations: Any, pads: Any, auto_pad: str, ceil_mode: int,
    count_include_pad: int, dtype: str,
) -> tuple[tuple[int, ...], Any, Any]:  # fmt: skip
    """The spatial shape of a pool's result, the kernels' windows, and how many elements each window counts."""
    size, strides, dilations, padding = pool_windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    rank = len(size)
    out = output_shape(x[2:], size, strides, dilations, padding)
    fixed = [(0, 0)] * rank if auto_pad == "VALID" or not pads else list(zip(pads[:rank], pads[rank:], strict=True))
    plain = padding if auto_pad.startswith("SAME") else fixed
    found = []
    for n, k, s, d, o, (lo, hi) in zip(x[2:], size, strides, dilations, out, plain, strict=True):
        places = np.arange(o)[:, None] * s - lo + np.arange(k) * d
        first, last = (-lo, n + hi) if count_include_pad else (0, n)
        found.append(((places >= first) & (places < last)).sum(1))
    before = [lo for lo, _ in padding]
    if rank == 1:
        size, strides, dilations, before = (1, *size), (1, *strides), (1, *dilations), [0, *before]
        found.insert(0, np.ones(1))
    counts = np.ones((2, max(map(len, found))), dtype)
    for row, count in zip(counts, found, strict=True):
        row[: len(count)] = count
    return out, tuple(map(int, (*size, *strides, *dilations, *before))), counts


def _pooled(
    xp: Any, X: Any, largest: bool, kernel_shape: Any, strides: Any, dilations: Any, pads: Any, auto_pad: str,
    ceil_mode: int, include: int = 0,
) -> Any:  # fmt: skip
    if X.dtype.char not in "fd" or X.ndim not in {3, 4} or 0 in X.shape:
        return NotImplemented
    given = (None if v is None else tuple(v) for v in (kernel_shape, strides, dilations, pads))
    out, kernel, counts = placed(X.shape, *given, auto_pad, ceil_mode, include, X.dtype.char)
    if not prod(out) or (prod(kernel_shape) > WINDOW and prod(out) > 1):
        return NotImplemented
    one = X.ndim == 3
    n, c = X.shape[:2]
    oh, ow = (1, *out) if one else out
    seconds = n * c * oh * ow * min(prod(kernel_shape), prod(X.shape[2:])) * ELEMENT
    x = X[:, :, None, :] if one else X
    if c > 7 and not X.flags.c_contiguous and (last := x.transpose(0, 2, 3, 1)).flags.c_contiguous:
        y = np.empty((n, oh, ow, c), X.dtype)
        share(xp, channels_last, (own(last), kernel, counts, largest, y), n * oh, seconds)
        y = y.transpose(0, 3, 1, 2)
        return y[:, :, 0, :] if one else y
    y = np.empty((n * c, oh, ow), X.dtype)
    share(xp, channels_first, (own(x).reshape(n * c, *x.shape[2:]), kernel, counts, largest, y), n * c, seconds)
    return y.reshape(n, c, *out)


def _examples(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.zeros((1, 8, 2, 2), dtype),), {"kernel_shape": (2, 2)}
    yield (np.zeros((1, 2, 2, 8), dtype).transpose(0, 3, 1, 2),), {"kernel_shape": (2, 2)}


@override("MaxPool", examples=_examples, dtypes=FLOATS)
def max_pool(
    xp: Any,
    X: Any,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Any = None,
    kernel_shape: Any,
    pads: Any = None,
    storage_order: int = 0,
    strides: Any = None,
    n_outputs: int = 1,
) -> Any:
    """Without indices."""
    if n_outputs > 1:
        return NotImplemented
    y = _pooled(xp, X, True, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    return y if y is NotImplemented else (y, None)


@override("AveragePool", examples=_examples, dtypes=FLOATS)
def average_pool(
    xp: Any,
    X: Any,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Any = None,
    kernel_shape: Any,
    pads: Any = None,
    strides: Any = None,
) -> Any:
    """Sums over counts."""
    return _pooled(xp, X, False, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode, count_include_pad)


def _images(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.zeros((1, 8, 2, 2), dtype),), {}
    yield (np.zeros((1, 2, 2, 8), dtype).transpose(0, 3, 1, 2),), {}


@override("GlobalAveragePool", examples=_images, dtypes=FLOATS)
def global_average_pool(xp: Any, X: Any) -> Any:
    """Channel by channel, in the order of memory."""
    if X.dtype.char not in "fd" or X.ndim < 3 or 0 in X.shape:
        return NotImplemented
    n, c = X.shape[:2]
    shape = (n, c, *(1,) * (X.ndim - 2))
    if not X.flags.c_contiguous and (last := np.moveaxis(X, 1, -1)).flags.c_contiguous:
        x = own(last).reshape(n, -1, c)
        parts = X.size // (n * PART)
        if parts >= PARTS:  # then these are shared out
            sums = np.empty((n, parts, c), X.dtype)
            share(xp, sum_columns, (x, parts, 1, sums.reshape(n * parts, c)), n * parts, X.size * ELEMENT)
            x = sums
        y = np.empty((n, c), X.dtype)
        share(xp, sum_columns, (x, 1, X.size // (n * c), y), n, x.size * ELEMENT)
    else:
        y = np.empty(n * c, X.dtype)
        share(xp, mean_rows, (own(X).reshape(n * c, -1), y), n * c, X.size * ELEMENT)
    return y.reshape(shape)
