"""Resampling on NumPy: block by block, in the layout of the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from ortlite.namespace import Namespace
from ortlite_numpy.layout import inverse, order_of
from ortlite_numpy.products import FLOATS
from ortlite_numpy.record import numpy as np
from ortlite_numpy.threads import split

__all__ = ["PRIMITIVES"]

BLOCK = 1 << 15  # elements of a block of the result
COST = 1e-9  # seconds an element of the result takes a tap


def resample(xp: Namespace, x: Any, axis: int, indices: Sequence[Any], weights: Sequence[Any]) -> Any:
    """Taken, weighted and added up in place."""
    if x.dtype not in FLOATS or x.size == 0:
        return NotImplemented
    order = order_of(x)
    at = order.index(axis)
    turned = np.ascontiguousarray(x.transpose(order))
    before, after, out = prod(turned.shape[:at]), prod(turned.shape[at + 1 :]), len(indices[0])
    source = turned.reshape(before, x.shape[axis], after)
    result = np.empty((before, out, after), x.dtype)
    factors = [np.asarray(weight, x.dtype).reshape(-1, 1) for weight in weights]
    rows = min(max(BLOCK // max(out * after, 1), 1), before)
    columns = min(max(BLOCK // (rows * after), 1), max(out, 1))
    blocks = [(i, j) for i in range(0, before, rows) for j in range(0, out, columns)]

    def some(start: int, stop: int) -> None:
        for i, j in blocks[start:stop]:
            target, part = result[i : i + rows, j : j + columns], source[i : i + rows]
            if not factors:
                target[...] = np.take(part, indices[0][j : j + columns], axis=1)
            for number, factor in enumerate(factors):
                shown = np.take(part, indices[number][j : j + columns], axis=1)
                weight = factor[j : j + columns]
                if number == 0:
                    np.multiply(shown, weight, out=target)
                else:
                    np.multiply(shown, weight, out=shown)
                    np.add(target, shown, out=target)

    split(some, len(blocks), COST * result.size * len(indices), xp.threads)
    shape = [out if a == axis else x.shape[a] for a in order]
    return result.reshape(shape).transpose(inverse(order))


PRIMITIVES: dict[str, Callable[..., Any]] = {"resample": resample}
