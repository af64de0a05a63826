"""Reductions over axes, and the places of extrema."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Flag, Int, Ints
from ortlite.ops.helpers import folded_axes, wide_integers
from ortlite.ops.registry import op

Fold = Callable[[Namespace, Array, tuple[int, ...], bool], Array]


def _reduced(
    xp: Namespace, data: Array, axes: tuple[int, ...] | None, keepdims: int, fold: Fold, before: Any = None
) -> Array:
    """`fold` over `axes` (all when None). `before` maps each element first, even over no axes.

    Raises ValueError for an axis that there is not or that comes twice; a scalar has 0 and -1.
    """
    x = data if before is None else before(data)
    chosen = tuple(range(x.ndim)) if axes is None else folded_axes(axes, x.ndim)
    return fold(xp, x, chosen, bool(keepdims))


def _over(axes: tuple[int, ...] | None, noop: int) -> tuple[int, ...] | None:
    """No axes given means all of them, unless the node asks for none."""
    return axes or (() if noop else None)


def _sum(xp: Namespace, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    return xp.sum(x, axis=axes, keepdims=keepdims, dtype=x.dtype)


def _prod(xp: Namespace, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    return xp.prod(x, axis=axes, keepdims=keepdims, dtype=x.dtype)


def _mean(xp: Namespace, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    count = prod(x.shape[axis] for axis in axes)
    if xp.isdtype(x.dtype, "real floating"):
        if not count:  # libraries warn of the mean of nothing, which ONNX lets be NaN
            return xp.sum(x, axis=axes, keepdims=keepdims, dtype=x.dtype) * float("nan")
        return xp.mean(x, axis=axes, keepdims=keepdims)
    # integers: the sum, divided as integers are, towards zero
    total = xp.sum(x, axis=axes, keepdims=keepdims, dtype=xp.uint64 if x.dtype == xp.uint64 else xp.int64)
    if not count:
        return xp.astype(total, x.dtype)
    return xp.astype(xp.trunc_divide(total, xp.asarray(count, dtype=total.dtype)), x.dtype)


def _extreme(name: str, largest: bool) -> Fold:
    def fold(xp: Namespace, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
        if x.dtype == xp.bool:
            return (xp.any if largest else xp.all)(x, axis=axes, keepdims=keepdims)
        if not all(x.shape[axis] for axis in axes):  # the neutral element of an empty set
            if xp.isdtype(x.dtype, "real floating"):
                neutral = float("-inf") if largest else float("inf")
            else:
                neutral = xp.iinfo(x.dtype).min if largest else xp.iinfo(x.dtype).max
            shape = [1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes]
            return xp.full(tuple(shape), neutral, dtype=x.dtype)
        return getattr(xp, name)(x, axis=axes, keepdims=keepdims)

    return fold


_max, _min = _extreme("max", True), _extreme("min", False)


def _through_float(xp: Namespace, x: Array, fold: Fold, axes: tuple[int, ...], keepdims: bool) -> Array:
    """Integers are folded as float64 and truncated back."""
    if xp.isdtype(x.dtype, "real floating"):
        return fold(xp, x, axes, keepdims)
    return xp.astype(fold(xp, xp.astype(x, xp.float64), axes, keepdims), x.dtype)


def _norm(xp: Namespace, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    return _through_float(xp, x, lambda n, v, a, k: n.root(_sum(n, v * v, a, k)), axes, keepdims)


def _log_sum(xp: Namespace, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    return _through_float(xp, x, lambda n, v, a, k: n.log(_sum(n, v, a, k)), axes, keepdims)


def _log_sum_exp(xp: Namespace, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    def fold(xp: Namespace, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
        top = _max(xp, x, axes, True)
        top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))  # inf - inf would be NaN
        total = _sum(xp, xp.exp(x - top), axes, True)
        none = total == 0  # of -inf alone: the logarithm's derivative there would be infinite
        total = xp.log(xp.where(none, xp.ones_like(total), total)) + top
        total = xp.where(none, xp.full_like(total, float("-inf")), total)
        return total if keepdims else xp.squeeze(total, axis=axes)

    return _through_float(xp, x, fold, axes, keepdims)


@op("ReduceSum")
def reduce_sum(
    xp: Namespace, data: Array, axes: Ints | None = None, *, keepdims: Flag = 1, noop_with_empty_axes: Flag = 0
) -> Array:
    """Sum over `axes` (all when empty); 0 over none. Integers wrap."""
    return _reduced(xp, data, _over(axes, noop_with_empty_axes), keepdims, _sum)


@op("ReduceMean")
def reduce_mean(
    xp: Namespace, data: Array, axes: Ints | None = None, *, keepdims: Flag = 1, noop_with_empty_axes: Flag = 0
) -> Array:
    """Mean over `axes` (all when empty); NaN over none. Integers are truncated."""
    return _reduced(xp, data, _over(axes, noop_with_empty_axes), keepdims, _mean)


@op("ReduceProd")
def reduce_prod(
    xp: Namespace, data: Array, axes: Ints | None = None, *, keepdims: Flag = 1, noop_with_empty_axes: Flag = 0
) -> Array:
    """Product over `axes` (all when empty); 1 over none. Integers wrap."""
    return _reduced(xp, data, _over(axes, noop_with_empty_axes), keepdims, _prod)


@op("ReduceMax", views=True)
def reduce_max(
    xp: Namespace, data: Array, axes: Ints | None = None, *, keepdims: Flag = 1, noop_with_empty_axes: Flag = 0
) -> Array:
    """Maximum over `axes` (all when empty); the lowest value over none. NaN wins; true is above false."""
    return _reduced(xp, data, _over(axes, noop_with_empty_axes), keepdims, _max)


@op("ReduceMin", views=True)
def reduce_min(
    xp: Namespace, data: Array, axes: Ints | None = None, *, keepdims: Flag = 1, noop_with_empty_axes: Flag = 0
) -> Array:
    """Minimum over `axes` (all when empty); the highest value over none. NaN wins; false is below true."""
    return _reduced(xp, data, _over(axes, noop_with_empty_axes), keepdims, _min)


@op("ReduceL1")
def reduce_l1(
    xp: Namespace, data: Array, axes: Ints | None = None, *, keepdims: Flag = 1, noop_with_empty_axes: Flag = 0
) -> Array:
    """Sum of magnitudes over `axes` (all when empty)."""
    signed = not xp.isdtype(data.dtype, "unsigned integer")
    return _reduced(xp, data, _over(axes, noop_with_empty_axes), keepdims, _sum, xp.abs if signed else None)


@op("ReduceL2", needs=wide_integers)
def reduce_l2(
    xp: Namespace, data: Array, axes: Ints | None = None, *, keepdims: Flag = 1, noop_with_empty_axes: Flag = 0
) -> Array:
    """Square root of the sum of squares over `axes` (all when empty)."""
    return _reduced(xp, data, _over(axes, noop_with_empty_axes), keepdims, _norm)


@op("ReduceSumSquare")
def reduce_sum_square(
    xp: Namespace, data: Array, axes: Ints | None = None, *, keepdims: Flag = 1, noop_with_empty_axes: Flag = 0
) -> Array:
    """Sum of squares over `axes` (all when empty)."""
    return _reduced(xp, data, _over(axes, noop_with_empty_axes), keepdims, _sum, xp.square)


@op("ReduceLogSum", needs=wide_integers)
def reduce_log_sum(
    xp: Namespace, data: Array, axes: Ints | None = None, *, keepdims: Flag = 1, noop_with_empty_axes: Flag = 0
) -> Array:
    """Logarithm of the sum over `axes` (all when empty); -inf over none."""
    return _reduced(xp, data, _over(axes, noop_with_empty_axes), keepdims, _log_sum)


@op("ReduceLogSumExp", needs=wide_integers)
def reduce_log_sum_exp(
    xp: Namespace, data: Array, axes: Ints | None = None, *, keepdims: Flag = 1, noop_with_empty_axes: Flag = 0
) -> Array:
    """Logarithm of the sum of exponentials over `axes` (all when empty), without overflow; -inf over none."""
    return _reduced(xp, data, _over(axes, noop_with_empty_axes), keepdims, _log_sum_exp)


def _arg(xp: Namespace, name: str, data: Array, axis: int, keepdims: int, last: int) -> Array:
    find = getattr(xp, name)
    axes = folded_axes((axis,), data.ndim)
    if data.ndim == 0:  # its one element is the largest and the smallest
        return xp.zeros((), dtype=xp.int64)
    (axis,) = axes
    shape = (*data.shape[:axis], *(1,) * bool(keepdims), *data.shape[axis + 1 :])
    if 0 in shape:  # libraries look for something to choose from first
        return xp.zeros(shape, dtype=xp.int64)
    if not last:
        return xp.astype(find(data, axis=axis, keepdims=bool(keepdims)), xp.int64)
    size = data.shape[axis]
    return size - 1 - xp.astype(find(xp.flip(data, axis=axis), axis=axis, keepdims=bool(keepdims)), xp.int64)


@op("ArgMax")
def argmax(xp: Namespace, data: Array, *, axis: Int = 0, keepdims: Flag = 1, select_last_index: Flag = 0) -> Array:
    """Index of the maximum along `axis`: the first one of a tie, or the last with `select_last_index`."""
    return _arg(xp, "argmax", data, axis, keepdims, select_last_index)


@op("ArgMin")
def argmin(xp: Namespace, data: Array, *, axis: Int = 0, keepdims: Flag = 1, select_last_index: Flag = 0) -> Array:
    """Index of the minimum along `axis`: the first one of a tie, or the last with `select_last_index`."""
    return _arg(xp, "argmin", data, axis, keepdims, select_last_index)
