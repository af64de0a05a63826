"""Convolutions and pooling over windows of (N, C, *spatial) arrays.

All take strides, dilations and pads, one entry a spatial axis (a pair for pads). The default bodies loop
over positions in a window alone, those of `conv` over all, those of pooling axis by axis: each is one strided slice of
the padded input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from itertools import chain, product
from math import prod
from typing import Any

from ortlite.primitives.base import Namespace

__all__ = ["conv", "conv_transpose", "max_pool", "sum_pool"]

Pads = Sequence[tuple[int, int]]


def output_shape(
    spatial: Sequence[int], size: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Pads
) -> tuple[int, ...]:
    """How many windows fit along each axis."""
    return tuple(
        max((n + lo + hi - (k - 1) * d - 1) // s + 1, 0)
        for n, k, s, d, (lo, hi) in zip(spatial, size, strides, dilations, pads, strict=True)
    )


def window_slices(
    out: Sequence[int], size: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Iterator[tuple[slice, ...]]:
    """For each position of the kernel, what the windows show there: slices of the padded spatial axes."""
    for position in product(*map(range, size)):
        yield tuple(
            slice(k * d, k * d + (n - 1) * s + 1, s) if n else slice(0, 0)
            for k, n, s, d in zip(position, out, strides, dilations, strict=True)
        )


def padded(xp: Namespace, x: Any, pads: Pads, value: Any = 0) -> Any:
    """`x` with its spatial axes padded."""
    return xp.pad(x, ((0, 0), (0, 0), *pads), "constant", value) if any(map(any, pads)) else x


def conv(
    xp: Namespace,
    x: Any,
    w: Any,
    *,
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
    groups: int = 1,
) -> Any:
    """Cross-correlation: `x` (N, C, *spatial) with `w` (M, C / groups, *size) gives (N, M, *windows)."""
    size = w.shape[2:]
    out = output_shape(x.shape[2:], size, strides, dilations, pads)
    n, c, m = x.shape[0], x.shape[1], w.shape[0]
    x = padded(xp, x, pads)
    if all(k == 1 for k in size) and all(s == 1 for s in strides):
        columns = x
    else:
        slices = window_slices(out, size, strides, dilations)
        columns = xp.stack([x[(slice(None), slice(None), *key)] for key in slices], axis=2)
    depth = c // groups * prod(size)
    columns = xp.reshape(columns, (n, groups, depth, prod(out)))
    kernel = xp.reshape(w, (1, groups, m // groups, depth))
    return xp.reshape(xp.matmul(kernel, columns), (n, m, *out))


def conv_transpose(
    xp: Namespace,
    x: Any,
    w: Any,
    *,
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
    groups: int = 1,
) -> Any:
    """The transpose of `conv`: `x` (N, C, *spatial) with `w` (C, M / groups, *size) gives (N, M, *out).

    out = (spatial - 1) · stride + (size - 1) · dilation + 1, less the `pads`; a negative pad extends it.

    Windows are added up: no zero is multiplied, so that infinity in `x` or `w` spreads no further.
    """
    n, (c, m), size, spatial = x.shape[0], w.shape[:2], w.shape[2:], x.shape[2:]
    kernel = xp.permute_dims(xp.reshape(w, (1, groups, c // groups, m * prod(size))), (0, 1, 3, 2))
    images = xp.reshape(x, (n, groups, c // groups, prod(spatial)))
    columns = kernel * images if c == groups else xp.matmul(kernel, images)
    columns = xp.reshape(columns, (n, groups * m, *size, *spatial))
    return fold(xp, columns, strides=strides, pads=pads, dilations=dilations)


def fold(xp: Namespace, x: Any, *, strides: Sequence[int], pads: Pads, dilations: Sequence[int]) -> Any:
    """Windows `x` (N, C, *size, *spatial) added up where they stand: (N, C, *out), as long as `conv_transpose` has it.

    Of `stride` neighbours in the result each has its own elements of a window, every stride-th: they are added up side
    by side, and then go between each other.
    """
    rank = len(strides)
    size, spatial = x.shape[2 : 2 + rank], x.shape[2 + rank :]
    full = _whole(spatial, size, strides, dilations)
    if any(s > 1 for s in strides):
        for axis, dilation in enumerate(dilations, 2):
            x = spread(xp, x, axis, dilation)
        size, dilations = x.shape[2 : 2 + rank], (1,) * rank
    parts = [-(-k // s) for k, s in zip(size, strides, strict=True)]
    summands = []
    for place in product(*map(range, parts)):
        key = [slice(i * s, min((i + 1) * s, k)) for i, s, k in zip(place, strides, size, strict=True)]
        part = x[(slice(None), slice(None), *key, ...)]
        beside = [(0, s - k) for s, k in zip(strides, part.shape[2:], strict=False)]
        around = [(i * d, (p - 1 - i) * d) for i, p, d in zip(place, parts, dilations, strict=True)]
        summands.append(padded(xp, part, [*beside, *around]))
    y = _interleaved(xp, reduce(xp.add, summands), strides)
    return padded(xp, y, [(-lo, f - hi - o) for (lo, hi), f, o in zip(pads, full, y.shape[2:], strict=True)])


def _whole(spatial: Sequence[int], size: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """The lengths of what windows add up to, all of it."""
    windows = zip(spatial, size, strides, dilations, strict=True)
    return [max((n - 1) * s + (k - 1) * d + 1, 0) for n, k, s, d in windows]


def _interleaved(xp: Namespace, y: Any, strides: Sequence[int]) -> Any:
    """`y` (N, C, *strides, *spatial) with neighbours put between each other: (N, C, *(spatial · stride))."""
    rank, out = len(strides), y.shape[2 + len(strides) :]
    order = chain.from_iterable((2 + rank + i, 2 + i) for i in range(rank))
    lengths = (o * s for o, s in zip(out, strides, strict=True))
    return xp.reshape(xp.permute_dims(y, (0, 1, *order)), (*y.shape[:2], *lengths))


def spread(xp: Namespace, x: Any, axis: int, gap: int) -> Any:
    """`x` with `gap` - 1 zeros between neighbours along `axis`."""
    if gap == 1 or x.shape[axis] < 2:
        return x
    shape = x.shape
    x = xp.expand_dims(x, axis=axis + 1)
    x = xp.pad(x, [(0, gap - 1) if i == axis + 1 else (0, 0) for i in range(x.ndim)])
    x = xp.reshape(x, (*shape[:axis], shape[axis] * gap, *shape[axis + 1 :]))
    return x[(*(slice(None),) * axis, slice(0, (shape[axis] - 1) * gap + 1), ...)]


def max_pool(
    xp: Namespace,
    x: Any,
    size: Sequence[int],
    *,
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
    indices: bool = False,
) -> tuple[Any, Any]:
    """The maximum of every window, and with `indices` its position among the window's elements, int64 (else None).

    Padding never wins, not even over the lowest number there is; in a tie the first element does, and NaN over numbers.
    """
    floating, spatial = xp.isdtype(x.dtype, "real floating"), x.shape[2:]
    x = padded(xp, x, pads, float("-inf") if floating else xp.iinfo(x.dtype).min)
    if not indices:
        return _fold(xp.max, xp.maximum, x, size, strides, dilations), None
    where = inside = None  # the best element's position, and whether it is none of the padding
    if any(map(any, pads)):
        inside = padded(xp, xp.ones((1, 1, *spatial), dtype=xp.uint8), pads) != 0
    for axis in reversed(range(len(size))):  # rows are compared last, so that in a tie the first of the first row wins
        rows = list(_along(x, axis, size, strides, dilations))
        positions = None if where is None else list(_along(where, axis, size, strides, dilations))
        places = None if inside is None else list(_along(inside, axis, size, strides, dilations))
        x = rows[0]
        where = xp.zeros(x.shape, dtype=xp.int64) if positions is None else positions[0]
        inside = None if places is None else places[0]
        for number in range(1, size[axis]):
            first = number * prod(size[axis + 1 :])
            here = xp.asarray(first, dtype=xp.int64) if positions is None else positions[number] + first
            better = rows[number] > x
            if floating:
                better = better | (xp.isnan(rows[number]) & xp.logical_not(xp.isnan(x)))
            if places is not None and inside is not None:
                better = better | (places[number] & xp.logical_not(inside))
                inside = inside | places[number]
            where = xp.where(better, here, where)
            x = xp.maximum(x, rows[number])
    return x, where


def first_max_pool(
    xp: Namespace, x: Any, size: Sequence[int], *, strides: Sequence[int], pads: Pads, dilations: Sequence[int]
) -> Any:
    """The maximum of every window, picked: in a tie the first element has the derivative; `max_pool` may share it."""

    def whole(x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
        for along in reversed(axis):
            x = xp.take_along_axis(x, xp.argmax(x, axis=along, keepdims=True), axis=along)
        return x

    def pair(first: Any, second: Any) -> Any:
        return xp.where((second > first) | xp.isnan(second), second, first)

    return _fold(whole, pair, padded(xp, x, pads, float("-inf")), size, strides, dilations)


def sum_pool(
    xp: Namespace, x: Any, size: Sequence[int], *, strides: Sequence[int], pads: Pads, dilations: Sequence[int]
) -> Any:
    """The sum of every window."""
    return _fold(partial(xp.sum, dtype=x.dtype), xp.add, padded(xp, x, pads), size, strides, dilations)


def _fold(
    whole: Callable[..., Any],
    pair: Callable[[Any, Any], Any],
    x: Any,
    size: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Any:
    """Every window combined: axes along which there is one window by `whole`, the others one by one by `pair`."""
    out = output_shape(x.shape[2:], size, strides, dilations, [(0, 0)] * len(size))
    single = [axis for axis, n in enumerate(out) if n == 1]
    if single:
        reach = [
            slice(0, (k - 1) * d + 1, d) if n == 1 else slice(None)
            for n, k, d in zip(out, size, dilations, strict=True)
        ]
        x = whole(x[(slice(None), slice(None), *reach)], axis=tuple(axis + 2 for axis in single), keepdims=True)
    for axis in reversed(range(len(size))):
        if axis not in single:
            if size[axis] * out[axis] > 2 * size[axis].bit_length() * x.shape[axis + 2]:
                x = _doubled(pair, x, axis, out[axis], size[axis], strides[axis], dilations[axis])
            else:
                x = reduce(pair, _along(x, axis, size, strides, dilations))
    return x


def _doubled(
    pair: Callable[[Any, Any], Any], x: Any, axis: int, out: int, size: int, stride: int, dilation: int
) -> Any:
    """Windows of many elements along one axis, combined from runs of 1, 2, 4, … elements."""
    before = (slice(None),) * (axis + 2)
    windows, start, length = [], 0, 1
    while True:
        if size & length:
            windows.append(x[(*before, slice(start, start + (out - 1) * stride + 1, stride), ...)])
            start += length * dilation
        length *= 2
        if length > size:
            return reduce(pair, windows)
        step = length // 2 * dilation
        x = pair(x[(*before, slice(0, x.shape[axis + 2] - step), ...)], x[(*before, slice(step, None), ...)])


def _along(x: Any, axis: int, size: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Iterator[Any]:
    """For each position within the windows along one spatial axis, the elements of `x` there."""
    k, s, d = [size[axis]], [strides[axis]], [dilations[axis]]
    out = output_shape([x.shape[axis + 2]], k, s, d, [(0, 0)])
    for (key,) in window_slices(out, k, s, d):
        yield x[(*(slice(None),) * (axis + 2), key, ...)]
