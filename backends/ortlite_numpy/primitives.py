"""Primitives for which NumPy has something faster than the default body, and those that have no default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ortlite import dtypes
from ortlite.namespace import Namespace


def bit_view(xp: Namespace, x: Any, dtype: Any) -> Any:
    """The bits of `x` as another dtype of the same width. Types of less than a byte live in the low bits of one."""
    x = np.asarray(x)
    target = dtypes.of_numpy(dtype)
    if target.bits >= 8:
        return x.view(dtype)
    low = x.view(np.uint8) & (2**target.bits - 1)
    if target.kind != "i":
        return low.view(dtype)
    sign = 2 ** (target.bits - 1)
    return ((low.astype(np.int8) ^ sign) - sign).astype(dtype)


PRIMITIVES: dict[str, Callable[..., Any]] = {"bit_view": bit_view}
