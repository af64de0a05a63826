"""Convolutions and pooling over windows of (N, C, *spatial) arrays.

All take strides, dilations and pads, one entry a spatial axis (a pair for pads). The default bodies loop over
the positions of the kernel alone: each is one strided slice of the padded input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any

from ortlite.namespace import Namespace

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
            slice(k * d, k * d + (n - 1) * s + 1 if n else k * d, s)
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
    """
    size = w.shape[2:]
    for axis, stride in enumerate(strides, 2):
        x = _spread(xp, x, axis, stride)
    c, m = w.shape[0], w.shape[1]
    kernel = xp.reshape(w, (groups, c // groups, m, *size))
    kernel = xp.permute_dims(kernel, (0, 2, 1, *range(3, 3 + len(size))))
    kernel = xp.flip(xp.reshape(kernel, (groups * m, c // groups, *size)), axis=tuple(range(2, 2 + len(size))))
    reach = [(k - 1) * d for k, d in zip(size, dilations, strict=True)]
    around = [(r - lo, r - hi) for r, (lo, hi) in zip(reach, pads, strict=True)]
    ones = (1,) * len(size)
    return xp.conv(
        padded(xp, x, around), kernel, strides=ones, pads=[(0, 0)] * len(size), dilations=dilations, groups=groups
    )


def _spread(xp: Namespace, x: Any, axis: int, stride: int) -> Any:
    """`x` with `stride` - 1 zeros between neighbours along `axis`."""
    if stride == 1 or x.shape[axis] < 2:
        return x
    shape = x.shape
    x = xp.expand_dims(x, axis=axis + 1)
    x = xp.pad(x, [(0, stride - 1) if i == axis + 1 else (0, 0) for i in range(x.ndim)])
    x = xp.reshape(x, (*shape[:axis], shape[axis] * stride, *shape[axis + 1 :]))
    return x[(*(slice(None),) * axis, slice(0, (shape[axis] - 1) * stride + 1), ...)]


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

    Padding never wins; of equals the first does.
    """
    out = output_shape(x.shape[2:], size, strides, dilations, pads)
    floating = xp.isdtype(x.dtype, "real floating")
    x = padded(xp, x, pads, float("-inf") if floating else xp.iinfo(x.dtype).min)
    best = where = None
    for number, key in enumerate(window_slices(out, size, strides, dilations)):
        here = x[(slice(None), slice(None), *key)]
        if best is None:
            best, where = here, xp.zeros(here.shape, dtype=xp.int64) if indices else None
            continue
        if indices:
            where = xp.where(here > best, xp.asarray(number, dtype=xp.int64), where)
        best = xp.maximum(best, here)
    return best, where


def sum_pool(
    xp: Namespace, x: Any, size: Sequence[int], *, strides: Sequence[int], pads: Pads, dilations: Sequence[int]
) -> Any:
    """The sum of every window."""
    out = output_shape(x.shape[2:], size, strides, dilations, pads)
    x = padded(xp, x, pads)
    total = None
    for key in window_slices(out, size, strides, dilations):
        here = x[(slice(None), slice(None), *key)]
        total = here if total is None else total + here
    return total
