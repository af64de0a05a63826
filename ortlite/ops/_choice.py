"""Attributes that name one of a few."""

from __future__ import annotations

__all__ = ["one_of"]


def one_of(name: str, value: object, *allowed: object) -> None:
    """Raises ValueError when the attribute `name` has none of the values that ONNX gives it."""
    if value not in allowed:
        *first, last = allowed
        raise ValueError(f"{name} is {', '.join(map(str, first))} or {last}, not {value!r}")
