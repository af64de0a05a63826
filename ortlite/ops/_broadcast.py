"""Shapes that broadcast, and those that must not: a vector along one axis, and what opsets below 7 do on request."""

from __future__ import annotations

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array

__all__ = ["aligned", "along", "require_broadcast", "require_shape"]


def along(xp: Namespace, v: Array, axis: int, rank: int) -> Array:
    """The vector `v` along `axis`, counted from the front, of a tensor of `rank`."""
    return xp.reshape(v, (*(1,) * axis, -1, *(1,) * (rank - axis - 1)))


def require_shape(name: str, x: Array | None, *shape: int) -> None:
    """Raises ValueError when the input `name`, if given, has another `shape`: one by accident would broadcast."""
    if x is not None and tuple(x.shape) != shape:
        raise ValueError(f"{name} must have the shape {list(shape)}, not {list(x.shape)}")


def require_broadcast(name: str, x: Array, shape: tuple[int, ...]) -> None:
    """Raises ValueError when the input `name` cannot be broadcast to `shape`, but would stretch what has it."""
    pairs = zip(reversed(x.shape), reversed(shape), strict=False)
    if x.ndim > len(shape) or any(n not in {1, m} for n, m in pairs):
        raise ValueError(f"{name} of shape {list(x.shape)} cannot be broadcast to {list(shape)}")


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
