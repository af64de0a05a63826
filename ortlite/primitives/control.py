"""Control flow: the places where a library that traces (JAX) must see a branch or a loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ortlite.primitives.base import Namespace

__all__ = ["concrete_value", "cond", "readable", "require_range", "scan", "while_loop"]

State = tuple[Any, ...]  # of arrays, sequences of arrays, or None
BLOCK = 1024  # slices that a scan makes at a time


def concrete_value(xp: Namespace, x: Any) -> Any:
    """The one element of `x` as a Python number; None where a library traces and there is no value yet."""
    if not hasattr(x, "dtype"):
        return x
    x = x if x.ndim == 0 else xp.reshape(x, ())
    if x.dtype == xp.bool:
        return bool(x)
    return int(x) if xp.isdtype(x.dtype, "integral") else float(x)


def readable(xp: Namespace, x: Any) -> bool:
    """Whether a look at the values of `x` is cheap, to check them: not where a library traces, nor on a device."""
    return True


def require_range(xp: Namespace, name: str, x: Any, lowest: int, highest: int) -> None:
    """Raises ValueError when an element of the integers `x` is out of range; not checked where none is readable."""
    if not all(x.shape) or not xp.readable(x):
        return
    for found in (int(xp.min(x)), int(xp.max(x))):
        if not lowest <= found <= highest:
            raise ValueError(f"{name} must lie from {lowest} to {highest}, not be {found}")


class UndecidedError(ValueError):
    """What decides a branch or a loop has no value yet."""


def _decided(xp: Namespace, x: Any) -> Any:
    """What `known` says. Raises UndecidedError where it says nothing."""
    value = xp.concrete_value(x)
    if value is None:
        raise UndecidedError(
            "what decides a branch or a loop has no value under a trace; if it is an input, give it as a Python number"
        )
    return value


def cond(
    xp: Namespace, pred: Any, then: Callable[..., State], otherwise: Callable[..., State], *operands: Any
) -> State:
    """`then(*operands)` where the one element of `pred` is true, else `otherwise(*operands)`; only one runs."""
    return then(*operands) if _decided(xp, pred) else otherwise(*operands)


def while_loop(
    xp: Namespace,
    step: Callable[[Any, Any, State], tuple[Any, State, State]],
    trips: Any,
    going: Any,
    state: State,
) -> tuple[State, State]:
    """Repeat `going, state, row = step(index, going, state)` while `going`, at most `trips` times (None: no limit).

    `trips` and `going` are Python numbers or arrays of one element. Returns the last state, and the members of all rows
    stacked along a new first axis: none after no step. A library that traces may refuse rows when their number depends
    on values.
    """
    limit = None if trips is None else _decided(xp, trips)
    rows: list[State] = []
    index = 0
    while (limit is None or index < limit) and (going is True or _decided(xp, going)):
        going, state, row = step(index, going, state)
        if row:
            rows.append(row)
        index += 1
    return state, _stacked(xp, rows)


def scan(
    xp: Namespace,
    step: Callable[[State, State], tuple[State, State]],
    state: State,
    xs: Sequence[Any],
    reverse: bool = False,
) -> tuple[State, State]:
    """Fold `state, row = step(state, slices)` over the first axes of `xs`, which are of one length.

    With `reverse` from the end. Returns the last state, and the members of all rows, stacked in the order of `xs`: none
    when there are no slices.
    """
    length = xs[0].shape[0]
    rows: list[State] = [()] * length
    order = slice(None, None, -1 if reverse else 1)
    for start in range(0, length, BLOCK)[order]:  # all slices at once would take seconds in which no run can be stopped
        indices = range(start, min(start + BLOCK, length))
        parts = xs if length <= BLOCK else [x[start : indices.stop, ...] for x in xs]
        columns = [xp.unstack(x) if x.ndim > 1 else [x[i, ...] for i in range(len(indices))] for x in parts]
        for index, *slices in list(zip(indices, *columns, strict=True))[order]:
            state, rows[index] = step(state, tuple(slices))
    return state, _stacked(xp, rows)


def _stacked(xp: Namespace, rows: Sequence[State]) -> State:
    return tuple(xp.stack(list(column)) for column in zip(*rows, strict=True))
