"""Pooling."""

from __future__ import annotations

from functools import reduce
from itertools import product
from math import prod

from ortlite.namespace import Namespace
from ortlite.ops._window import Pads, clipped, defaults, fixed_pads, kernel_size, window_pads
from ortlite.ops.annotations import Array, Flag, Float, Int, Ints, Text
from ortlite.ops.helpers import along, require_shape
from ortlite.ops.registry import op


def pool_windows(
    x: tuple[int, ...],
    kernel_shape: Ints,
    strides: Ints | None,
    dilations: Ints | None,
    pads: Ints | None,
    auto_pad: str,
    ceil_mode: int,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], Pads]:
    """The size, strides, dilations and pads of windows over an image of shape `x` (N, C, *spatial).

    Raises ValueError for wrong numbers of them, lengths below 1, negative pads, and pads as large as the kernel, whose
    windows would see nothing but padding; and for an axis that is shorter than the window by more than one step.
    """
    rank = len(x) - 2
    if rank < 1:
        raise ValueError(f"an image is (N, C, *spatial), not {list(x)}")
    size = kernel_size(kernel_shape, rank)
    strides, dilations = defaults("strides", strides, rank), defaults("dilations", dilations, rank)
    for k, pair in zip(size, fixed_pads(rank, pads, auto_pad), strict=True):
        if not auto_pad.startswith("SAME") and not all(0 <= p < k for p in pair):
            raise ValueError(f"pads {list(pads or ())} must be 0 or more and less than the kernel {list(size)}")
    padding = window_pads(x[2:], size, strides, dilations, pads, auto_pad, ceil_mode)
    for n, k, s, d, (lo, hi) in zip(x[2:], size, strides, dilations, padding, strict=True):
        reach = (k - 1) * d + 1
        if n + lo + hi - reach + s < 0:  # a result of no windows is empty, of less than none it is a mistake
            raise ValueError(f"a window of {reach} is larger than an axis of {n} with pads {lo} and {hi}")
    return size, strides, dilations, padding


@op("MaxPool", views=True)
def max_pool(
    xp: Namespace,
    X: Array,
    *,
    auto_pad: Text = "NOTSET",
    ceil_mode: Flag = 0,
    dilations: Ints | None = None,
    kernel_shape: Ints,
    pads: Ints | None = None,
    storage_order: Flag = 0,
    strides: Ints | None = None,
    n_outputs: Int = 1,
) -> tuple[Array, Array]:
    """The maximum of each window, and its index in the flattened `X` (column by column with `storage_order` 1)."""
    size, strides, dilations, padding = pool_windows(
        X.shape, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode
    )
    size, padding = clipped(X.shape[2:], size, strides, dilations, padding)
    best, where = xp.max_pool(X, size, strides=strides, pads=padding, dilations=dilations, indices=n_outputs > 1)
    if where is None:
        return best, None
    indices = _flat_indices(xp, X, where, size, strides, dilations, padding, storage_order)
    return best, indices


def _flat_indices(
    xp: Namespace,
    X: Array,
    where: Array,
    size: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: Pads,
    by_columns: int,
) -> Array:
    """Positions within windows as positions in the flattened input."""
    spatial = X.shape[2:]
    positions = list(product(*map(range, size)))
    order = range(len(spatial))
    weights = [prod(spatial[:i]) if by_columns else prod(spatial[i + 1 :]) for i in order]
    shifts = [sum(p[i] * dilations[i] * weights[i] for i in order) for p in positions]
    flat = xp.take(xp.asarray(shifts, dtype=xp.int64), xp.reshape(where, (-1,)))
    flat = xp.reshape(flat, where.shape)
    for i in order:
        starts = xp.arange(where.shape[2 + i], dtype=xp.int64) * strides[i] - pads[i][0]
        flat = flat + along(xp, starts * weights[i], i, len(spatial))
    images = xp.arange(X.shape[0] * X.shape[1], dtype=xp.int64) * prod(spatial)
    return flat + xp.reshape(images, (*X.shape[:2], *(1,) * len(spatial)))


@op("AveragePool")
def average_pool(
    xp: Namespace,
    X: Array,
    *,
    auto_pad: Text = "NOTSET",
    ceil_mode: Flag = 0,
    count_include_pad: Flag = 0,
    dilations: Ints | None = None,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """The mean of each window, over the elements of `X`, or with `count_include_pad` over the pads too.

    What a window shows beyond the pads never counts.
    """
    rank = X.ndim - 2
    size, strides, dilations, padding = pool_windows(
        X.shape, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode
    )
    plain = padding if auto_pad.startswith("SAME") else fixed_pads(rank, pads, auto_pad)
    shown, around = clipped(X.shape[2:], size, strides, dilations, padding)
    total = xp.sum_pool(X, shown, strides=strides, pads=around, dilations=dilations)
    counts = []
    for i in range(rank):
        (lo, hi), n = plain[i], X.shape[2 + i]
        first, last = (-lo, n + hi) if count_include_pad else (0, n)
        starts = xp.arange(total.shape[2 + i], dtype=xp.int64) * strides[i] - lo
        # how many of a window's elements come before an edge: the quotient rounded up
        ahead = [starts - edge if dilations[i] == 1 else (starts - edge) // dilations[i] for edge in (first, last)]
        below, within = (xp.clip(-steps_on, 0, size[i]) for steps_on in ahead)
        counts.append(along(xp, xp.astype(within - below, X.dtype), i, rank))
    return total / reduce(xp.multiply, counts)


def _power_mean(xp: Namespace, total: Array, p: float) -> Array:
    return total if p == 1 else xp.root(total, 1 / p)


def _powers(xp: Namespace, X: Array, p: float) -> Array:
    if p == 2:
        return xp.square(X)
    if p == 1:
        return xp.abs(X)
    return xp.root(xp.abs(X), p) if p < 1 else xp.pow(xp.abs(X), xp.asarray(p, dtype=X.dtype))


@op("LpPool", since=2)
def lp_pool(
    xp: Namespace,
    X: Array,
    *,
    auto_pad: Text = "NOTSET",
    ceil_mode: Flag = 0,
    dilations: Ints | None = None,
    kernel_shape: Ints,
    p: Float = 2,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """The `p`-norm of each window."""
    size, strides, dilations, padding = pool_windows(
        X.shape, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode
    )
    size, padding = clipped(X.shape[2:], size, strides, dilations, padding)
    total = xp.sum_pool(_powers(xp, X, p), size, strides=strides, pads=padding, dilations=dilations)
    return _power_mean(xp, total, p)


@op("LpPool")
def lp_pool_1(
    xp: Namespace,
    X: Array,
    *,
    auto_pad: Text = "NOTSET",
    kernel_shape: Ints | None = None,
    p: Float = 2.0,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """The `p`-norm of each window; without `kernel_shape` of the whole image."""
    size = X.shape[2:] if kernel_shape is None else kernel_shape
    return lp_pool(xp, X, auto_pad=auto_pad, kernel_shape=size, p=p, pads=pads, strides=strides)


@op("GlobalAveragePool")
def global_average_pool(xp: Namespace, X: Array) -> Array:
    """The mean over all positions, kept as axes of length 1."""
    return xp.mean(X, axis=tuple(range(2, X.ndim)), keepdims=True)


@op("GlobalMaxPool")
def global_max_pool(xp: Namespace, X: Array) -> Array:
    """The maximum over all positions, kept as axes of length 1."""
    spatial, one = X.shape[2:], (1,) * (X.ndim - 2)
    return xp.max_pool(X, spatial, strides=one, pads=[(0, 0)] * len(one), dilations=one)[0]


@op("GlobalLpPool")
def global_lp_pool(xp: Namespace, X: Array, *, p: Float = 2) -> Array:
    """The `p`-norm over all positions, kept as axes of length 1."""
    axes = tuple(range(2, X.ndim))
    return _power_mean(xp, xp.sum(_powers(xp, X, p), axis=axes, keepdims=True, dtype=X.dtype), p)


@op("MaxUnpool", since=9)
def max_unpool(
    xp: Namespace,
    X: Array,
    I: Array,
    output_shape: Ints | None = None,
    *,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Put every element of `X` where `I`, the indices of MaxPool, says it came from; zeros elsewhere.

    The indices count in the image that `kernel_shape`, `strides` and `pads` imply; a larger `output_shape` extends it.
    """
    rank = X.ndim - 2
    size, strides, padding = kernel_size(kernel_shape, rank), defaults("strides", strides, rank), fixed_pads(rank, pads)
    implied = [(n - 1) * s - lo - hi + k for n, s, k, (lo, hi) in zip(X.shape[2:], strides, size, padding, strict=True)]
    shape = (*X.shape[:2], *implied)
    if min(shape) < 0 or (output_shape is not None and len(output_shape) != X.ndim):
        raise ValueError(f"X {list(X.shape)} was not pooled from {list(shape)} (output_shape {output_shape})")
    require_shape("the indices I", I, *X.shape)
    xp.require_range("the indices I", I, 0, prod(shape) - 1)
    flat = xp.zeros((prod(shape),), dtype=X.dtype)
    y = xp.reshape(xp.scatter(flat, xp.reshape(I, (-1,)), xp.reshape(X, (-1,)), 0, "none"), shape)
    if output_shape is None:
        return y
    return xp.pad(y, [(0, want - have) for want, have in zip(output_shape, y.shape, strict=True)])
