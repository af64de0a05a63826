"""Control flow: the places where a library that traces (JAX) must see a branch or a loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ortlite.namespace import Namespace

__all__ = ["cond", "while_loop"]

Branch = Callable[..., tuple[Any, ...]]


def cond(xp: Namespace, pred: Any, then: Branch, otherwise: Branch, *operands: Any) -> tuple[Any, ...]:
    """`then(*operands)` where the scalar `pred` is true, else `otherwise(*operands)`; only one runs."""
    return then(*operands) if bool(pred) else otherwise(*operands)


def while_loop(xp: Namespace, test: Callable[..., Any], body: Branch, init: Sequence[Any]) -> tuple[Any, ...]:
    """Start from `init`; while `test(*state)` is true, `state = body(*state)`. Returns the last state."""
    state = tuple(init)
    while bool(test(*state)):
        state = tuple(body(*state))
    return state
