"""Resampling of one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ortlite.primitives.base import Namespace

__all__ = ["resample"]


def resample(xp: Namespace, x: Any, axis: int, indices: Sequence[Any], weights: Sequence[Any]) -> Any:
    """`x` with `axis` made of the elements at `indices`, each times its weight, added up.

    Both are NumPy arrays of the new axis's length, one a tap; without weights there is one tap, taken as it is.
    """
    parts = [xp.take(x, xp.asarray(tap, dtype=xp.int64), axis=axis) for tap in indices]
    if not weights:
        return parts[0]
    total = None
    for part, weight in zip(parts, weights, strict=True):
        shape = (-1, *(1,) * (x.ndim - 1 - axis))
        part = part * xp.reshape(xp.asarray(weight, dtype=x.dtype), shape)
        total = part if total is None else total + part
    return total
