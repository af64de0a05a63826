"""What many kernels need: checks of attributes, shapes and values; axes; indices; vectors along one axis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ortlite.dtypes import DType
from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array

__all__ = [
    "aligned",
    "along",
    "clamped",
    "distinct_axes",
    "folded_axes",
    "from_front",
    "normal_axis",
    "one_of",
    "require_broadcast",
    "require_lengths",
    "require_shape",
    "wide_integers",
    "wrapped",
]


def wide_integers(dtypes: Sequence[DType | None]) -> tuple[str, ...]:
    """The `needs` of a kernel that computes in float64 where its first input is of integers."""
    return ("float64",) if dtypes and dtypes[0] is not None and dtypes[0].kind in "iu" else ()


def one_of(name: str, value: object, *allowed: object) -> None:
    """Raises ValueError when the attribute `name` has another value than those `allowed`."""
    if value not in allowed:
        *first, last = allowed
        raise ValueError(f"{name} is {', '.join(map(str, first))} or {last}, not {value!r}")


def require_shape(name: str, x: Array | None, *shape: int) -> None:
    """Raises ValueError when the input `name`, if given, has another shape: some would broadcast by accident."""
    if x is not None and tuple(x.shape) != shape:
        raise ValueError(f"{name} must have the shape {list(shape)}, not {list(x.shape)}")


def require_rank(rank: int, **given: Array | None) -> None:
    """Raises ValueError when one of the inputs `given` by name has another number of axes."""
    for name, x in given.items():
        if x is not None and x.ndim != rank:
            raise ValueError(f"{name} must have {rank} axes, not the shape {list(x.shape)}")


def require_broadcast(name: str, x: Array, shape: tuple[int, ...]) -> None:
    """Raises ValueError when the input `name` cannot be broadcast to `shape`: a larger one would enlarge the result."""
    pairs = zip(reversed(x.shape), reversed(shape), strict=False)
    if x.ndim > len(shape) or any(n not in {1, m} for n, m in pairs):
        raise ValueError(f"{name} of shape {list(x.shape)} cannot be broadcast to {list(shape)}")


def require_lengths(name: str, given: Sequence[int]) -> None:
    """Raises ValueError when one of the `given` lengths of axes, or numbers of repetitions, is negative."""
    if min(given, default=0) < 0:
        raise ValueError(f"{name} {list(given)} must not be negative")


def normal_axis(axis: int, rank: int) -> int:
    """`axis` counted from the front. Raises ValueError when a tensor of `rank` has no such axis."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is not an axis of a tensor of rank {rank}")
    return axis + rank if axis < 0 else axis


def distinct_axes(axes: Iterable[int], rank: int) -> tuple[int, ...]:
    """`axes` counted from the front. Raises ValueError for an axis that does not exist or comes twice."""
    given = tuple(axes)
    chosen = tuple(normal_axis(a, rank) for a in given)
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"axes {list(given)} name an axis of a tensor of rank {rank} twice")
    return chosen


def folded_axes(axes: Iterable[int], rank: int) -> tuple[int, ...]:
    """`distinct_axes`, except that a scalar also has the axes 0 and -1: exports of PyTorch rely on it."""
    given = tuple(axes)
    return () if rank == 0 and given in {(0,), (-1,)} else distinct_axes(given, rank)


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


def wrapped(xp: Namespace, indices: Array, size: int) -> Array:
    """Indices as int64, negative ones counted from the end of an axis of `size` elements.

    Raises ValueError for an index out of range, where values are readable.
    """
    xp.require_range(f"indices into an axis of {size} elements", indices, -size, size - 1)
    return from_front(xp, indices, size)


def from_front(xp: Namespace, indices: Array, size: int) -> Array:
    """Indices as int64, negative ones counted from the end of an axis of `size` elements."""
    indices = xp.astype(indices, xp.int64)
    return xp.where(indices < 0, indices + size, indices)


def clamped(xp: Namespace, x: Array, dtype: object) -> Array:
    """Floats as `dtype`; as integers truncated, and clamped at the limits of their type."""
    if x.dtype == dtype or not xp.isdtype(dtype, "integral"):
        return xp.astype(x, dtype)
    limits = xp.iinfo(dtype)
    above = x >= float(limits.max)  # rounded to float32, the largest integer of 32 bits is one that they do not hold
    whole = xp.astype(xp.where(above, xp.zeros_like(x), xp.clip(x, float(limits.min))), dtype)
    return xp.where(above, xp.asarray(limits.max, dtype=dtype), whole)
