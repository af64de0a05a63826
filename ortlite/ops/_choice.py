"""Attributes that name one of a few, and numbers that must lie in a range."""

from __future__ import annotations

from math import prod

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array

__all__ = ["one_of", "require_range"]


def one_of(name: str, value: object, *allowed: object) -> None:
    """Raises ValueError when the attribute `name` has none of the values that ONNX gives it."""
    if value not in allowed:
        *first, last = allowed
        raise ValueError(f"{name} is {', '.join(map(str, first))} or {last}, not {value!r}")


def require_range(xp: Namespace, name: str, x: Array, lowest: int, highest: int) -> None:
    """Raises ValueError where an element of the integers `x` is out of range; nothing where they are not readable."""
    if not prod(x.shape) or not xp.readable(x):
        return
    for found in (int(xp.min(x)), int(xp.max(x))):
        if not lowest <= found <= highest:
            raise ValueError(f"{name} must lie from {lowest} to {highest}, not be {found}")
