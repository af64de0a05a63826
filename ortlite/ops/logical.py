"""Logic, comparisons and selection."""

from __future__ import annotations

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Flag, Int
from ortlite.ops.helpers import aligned
from ortlite.ops.registry import op


@op("And", since=7)
def and_(xp: Namespace, A: Array, B: Array) -> Array:
    """`A` and `B`, broadcast."""
    return xp.logical_and(A, B)


@op("Or", since=7)
def or_(xp: Namespace, A: Array, B: Array) -> Array:
    """`A` or `B`, broadcast."""
    return xp.logical_or(A, B)


@op("Xor", since=7)
def xor(xp: Namespace, A: Array, B: Array) -> Array:
    """Either `A` or `B`, broadcast."""
    return xp.logical_xor(A, B)


@op("Not")
def not_(xp: Namespace, X: Array) -> Array:
    """Not `X`."""
    return xp.logical_not(X)


@op("Equal", since=7)
def equal(xp: Namespace, A: Array, B: Array) -> Array:
    """Where `A` equals `B`, broadcast; strings too."""
    return xp.astype(xp.equal(A, B), xp.bool)  # NumPy compares objects to objects


@op("Greater", since=7)
def greater(xp: Namespace, A: Array, B: Array) -> Array:
    """Where `A` is above `B`, broadcast."""
    return xp.greater(A, B)


@op("Less", since=7)
def less(xp: Namespace, A: Array, B: Array) -> Array:
    """Where `A` is below `B`, broadcast."""
    return xp.less(A, B)


@op("GreaterOrEqual", since=12)
def greater_or_equal(xp: Namespace, A: Array, B: Array) -> Array:
    """Where `A` is not below `B`, broadcast; false for NaN."""
    return xp.greater_equal(A, B)


@op("LessOrEqual", since=12)
def less_or_equal(xp: Namespace, A: Array, B: Array) -> Array:
    """Where `A` is not above `B`, broadcast; false for NaN."""
    return xp.less_equal(A, B)


@op("And")
def and_1(xp: Namespace, A: Array, B: Array, *, axis: Int | None = None, broadcast: Flag = 0) -> Array:
    """`A` and `B`; below opset 7 `B` is broadcast only on request, from `axis` on."""
    return and_(xp, A, aligned(xp, A, B, axis, broadcast))


@op("Or")
def or_1(xp: Namespace, A: Array, B: Array, *, axis: Int | None = None, broadcast: Flag = 0) -> Array:
    """`A` or `B`; below opset 7 `B` is broadcast only on request, from `axis` on."""
    return or_(xp, A, aligned(xp, A, B, axis, broadcast))


@op("Xor")
def xor_1(xp: Namespace, A: Array, B: Array, *, axis: Int | None = None, broadcast: Flag = 0) -> Array:
    """Either `A` or `B`; below opset 7 `B` is broadcast only on request, from `axis` on."""
    return xor(xp, A, aligned(xp, A, B, axis, broadcast))


@op("Equal")
def equal_1(xp: Namespace, A: Array, B: Array, *, axis: Int | None = None, broadcast: Flag = 0) -> Array:
    """Where `A` equals `B`; below opset 7 `B` is broadcast only on request, from `axis` on."""
    return equal(xp, A, aligned(xp, A, B, axis, broadcast))


@op("Greater")
def greater_1(xp: Namespace, A: Array, B: Array, *, axis: Int | None = None, broadcast: Flag = 0) -> Array:
    """Where `A` is above `B`; below opset 7 `B` is broadcast only on request, from `axis` on."""
    return greater(xp, A, aligned(xp, A, B, axis, broadcast))


@op("Less")
def less_1(xp: Namespace, A: Array, B: Array, *, axis: Int | None = None, broadcast: Flag = 0) -> Array:
    """Where `A` is below `B`; below opset 7 `B` is broadcast only on request, from `axis` on."""
    return less(xp, A, aligned(xp, A, B, axis, broadcast))


@op("Where", since=9, any_dtype=True)
def where(xp: Namespace, condition: Array, X: Array, Y: Array) -> Array:
    """`X` where `condition` is true, else `Y`; all three broadcast."""
    return xp.where(condition, X, Y)
