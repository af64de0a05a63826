"""How values cross between two providers: by DLPack where both agree, else through NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ortlite.provider import CPU, ExecutionProvider, traced

__all__ = ["TransferStats", "transfer"]

ROUND = 64  # bytes: libraries share memory that starts at a multiple, or copy


@dataclass(slots=True)
class TransferStats:
    """What the last value that crossed one border was like: `nbytes`, and whether both sides share its memory.

    It is found out anew where the layout changes, or, where the target shares what lies at a round address alone,
    that: `layout` are the strides of the NumPy array that was looked at, () in C order, None where it is not to be
    trusted; `offset` the bytes from such an address.
    """

    nbytes: int | None = None
    shared: bool | None = None
    layout: tuple[int, ...] | None = None
    offset: int | None = None


def transfer(
    value: Any, source: ExecutionProvider, target: ExecutionProvider, stats: TransferStats | None = None
) -> Any:
    """Move a value between two providers: through DLPack where both agree, else through NumPy.

    Sequences and optionals are moved element by element; maps and strings stay on the host. Writes what it
    cost to `stats`.
    """
    if source is target or value is None or isinstance(value, dict):
        return value
    if isinstance(value, tuple):
        parts = [TransferStats() for _ in value]
        items = tuple(transfer(item, source, target, part) for item, part in zip(value, parts, strict=True))
        if stats is not None:
            stats.nbytes = sum(part.nbytes or 0 for part in parts)
            stats.shared = all(part.shared is not False for part in parts)
        return items
    moved = _carry(value, source, target)
    if stats is not None:
        like = moved if target.name == CPU else value
        layout = None
        if isinstance(like, np.ndarray | np.generic) and like.size:
            layout = () if like.flags.c_contiguous else like.strides
        offset = like.__array_interface__["data"][0] % ROUND if target.immutable and layout is not None else None
        if layout is not None and layout == stats.layout and offset == stats.offset:
            stats.nbytes = int(getattr(moved, "nbytes", like.nbytes))
        else:
            _measure(value, moved, source, target, stats)
            stats.layout, stats.offset = layout, offset
    return moved


def _measure(
    value: Any, moved: Any, source: ExecutionProvider, target: ExecutionProvider, stats: TransferStats
) -> None:
    if traced(target, moved):  # a tracer value has no memory
        return
    stats.nbytes = int(getattr(moved, "nbytes", getattr(value, "nbytes", 0)))
    here = source.pointer(value)
    stats.shared = stats.nbytes == 0 or (here is not None and here == target.pointer(moved))


def _carry(value: Any, source: ExecutionProvider, target: ExecutionProvider) -> Any:
    if target.name == CPU:
        if traced(source, value):
            raise ValueError(
                f"the values of {value.dtype}{list(value.shape)} are needed on the host, but {source.library} is "
                "tracing: pass them as a NumPy array or, where it traces NumPy's too, as Python numbers, or keep the "
                "node on one library"
            )
        return source.to_numpy(value)
    if source.name != CPU:
        try:
            return target.from_dlpack(value)
        except (BufferError, TypeError, ValueError, RuntimeError):
            value = source.to_numpy(value)
    return target.from_numpy(np.asarray(value))  # NumPy makes numbers of arrays without axes
