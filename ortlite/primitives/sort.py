"""Sorting."""

from __future__ import annotations

from typing import Any

from ortlite.primitives.base import Namespace

__all__ = ["top_k"]


def top_k(xp: Namespace, x: Any, k: int, axis: int, largest: bool, sorted: bool) -> tuple[Any, Any]:
    """The `k` largest (or smallest) elements along `axis` and their int64 indices; the first ones of a tie.

    They come in order, `sorted` or not. NaN counts as the largest.
    """
    axis = axis % x.ndim
    if largest:
        # a stable descending order: sort the mirrored axis ascending, then mirror the result
        size = x.shape[axis]
        order = xp.flip(xp.argsort(xp.flip(x, axis=axis), axis=axis, stable=True), axis=axis)
        indices = size - 1 - xp.astype(order, xp.int64)
    else:
        indices = xp.astype(xp.argsort(x, axis=axis, stable=True), xp.int64)
    indices = indices[(*(slice(None),) * axis, slice(0, k), ...)]
    return xp.take_along_axis(x, indices, axis=axis), indices
