"""Logical and comparison operators."""

from __future__ import annotations

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array
from ortlite.ops.registry import op


@op("And", since=7)
def and_(xp: Namespace, A: Array, B: Array) -> Array:
    """`A` and `B`, broadcast."""
    return xp.logical_and(A, B)
