"""The order of axes in memory: what NumPy's ufuncs keep by themselves, for functions that would not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ortlite_numpy.record import numpy as np

__all__ = ["empty_as", "take"]


def order_of(x: Any) -> list[int]:
    """The axes of `x` from the farthest apart in memory to those side by side."""
    return sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))


def empty_as(x: Any, shape: Sequence[int]) -> Any:
    """A new array of that shape and of as many axes as `x`, which lie in memory as those of `x` do."""
    if x.flags.c_contiguous:
        return np.empty(shape, x.dtype)
    order = order_of(x)
    return np.empty([shape[axis] for axis in order], x.dtype).transpose(inverse(order))


def inverse(order: Sequence[int]) -> list[int]:
    """The permutation that undoes one."""
    return sorted(range(len(order)), key=order.__getitem__)


def take(x: Any, indices: Any, axis: int | None = None) -> Any:
    """numpy.take along one axis, in the layout of `x`."""
    if axis is None or x.flags.c_contiguous or indices.ndim != 1:
        return np.take(x, indices, axis=axis)
    order = order_of(x)
    return np.take(x.transpose(order), indices, axis=order.index(axis % x.ndim)).transpose(inverse(order))
