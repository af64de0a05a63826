"""Shapes that broadcast: a vector along one axis; and, as below opset 7, on request and from an axis on."""

from __future__ import annotations

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array

__all__ = ["aligned", "along"]


def along(xp: Namespace, v: Array, axis: int, rank: int) -> Array:
    """The vector `v` along `axis`, counted from the front, of a tensor of `rank`."""
    return xp.reshape(v, (*(1,) * axis, -1, *(1,) * (rank - axis - 1)))


def aligned(xp: Namespace, A: Array, B: Array, axis: int | None, broadcast: int) -> Array:
    """`B` with axes of length 1 appended, so that its first axis meets `axis` of `A` (by default the last ones meet).

    Raises ValueError for unequal shapes when `broadcast` is not set.
    """
    if not broadcast:
        if A.shape != B.shape:
            raise ValueError(f"shapes {tuple(A.shape)} and {tuple(B.shape)} differ and broadcast is not set")
        return B
    if axis is None:
        return B
    axis = axis % A.ndim if A.ndim else 0
    return xp.reshape(B, (*B.shape, *(1,) * (A.ndim - axis - B.ndim)))
