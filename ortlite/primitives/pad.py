"""Padding and cropping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ortlite.primitives.base import Namespace

__all__ = ["pad"]


def pad(xp: Namespace, x: Any, widths: Sequence[tuple[int, int]], mode: str = "constant", value: Any = 0) -> Any:
    """Put `widths[axis] = (before, after)` elements around `x`; a negative width crops.

    `mode`: "constant" (`value`), "edge" (the outermost element), "reflect" (mirrored, the edge not
    repeated) or "wrap" (from the other end). Raises ValueError for another mode, or to pad an empty axis from itself.
    """
    crop = tuple(slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(x.shape, widths, strict=True))
    x = x[crop] if x.ndim else x
    for axis, (lo, hi) in enumerate(widths):
        if lo <= 0 and hi <= 0:
            continue
        lo, hi = max(lo, 0), max(hi, 0)
        if mode == "constant":
            edges = [xp.full((*x.shape[:axis], n, *x.shape[axis + 1 :]), value, dtype=x.dtype) for n in (lo, hi)]
            x = xp.concat([edges[0], x, edges[1]], axis=axis)
        else:
            x = xp.take(x, xp.asarray(_sources(mode, x.shape[axis], lo, hi), dtype=xp.int64), axis=axis)
    return x


def _sources(mode: str, size: int, lo: int, hi: int) -> list[int]:
    """Which element each position of a padded axis of `size` elements shows."""
    if size == 0:
        raise ValueError(f"an empty axis cannot be padded by mode {mode!r}")
    positions = range(-lo, size + hi)
    if mode == "edge":
        return [min(max(i, 0), size - 1) for i in positions]
    if mode == "wrap":
        return [i % size for i in positions]
    if mode == "reflect":
        period = max(2 * (size - 1), 1)
        return [min(i % period, period - i % period) if size > 1 else 0 for i in positions]
    raise ValueError(f"unknown padding mode {mode!r}")
