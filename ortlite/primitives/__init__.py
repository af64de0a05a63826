"""Default bodies of the primitives: pure functions of `xp` and arrays, in the Array API standard alone.

Each module's `__all__` lists the primitives it adds to every namespace; everything else is private to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ortlite.primitives import control, gradient, interpolate, linalg, math, pad, random, scatter, sort, window

__all__ = ["DEFAULTS"]

_MODULES = (math, linalg, pad, window, interpolate, scatter, sort, random, control, gradient)

# Name -> default body (`fn(xp, ...)`) of every primitive.
DEFAULTS: dict[str, Callable[..., Any]] = {
    name: getattr(module, name) for module in _MODULES for name in module.__all__
}
