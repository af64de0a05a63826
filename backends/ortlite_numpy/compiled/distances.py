"""Distances of rows to rows: the second matrix column by column, so that its rows are side by side in vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ortlite.derived import at_once
from ortlite_numpy.compiled.jit import loops, own, share
from ortlite_numpy.compiled.table import FLOATS, Call, override
from ortlite_numpy.record import numpy as np

MULTIPLY = 0.15e-9  # seconds


@loops()
def square_distances(a, b, root, y, start, stop):
    """Rows [start, stop) of y (M, N): squares of the distances of rows of a (M, K) to columns of b, or their roots."""
    for i in range(start, stop):
        row = y[i]
        for j in range(row.size):
            row[j] = 0
        for k in range(a.shape[1]):
            v, column = a[i, k], b[k]
            for j in range(row.size):
                d = v - column[j]
                row[j] += d * d
        if root:
            for j in range(row.size):
                row[j] = np.sqrt(row[j])


def turned(b: Any) -> Any:
    """The transpose, in C order."""
    return own(b.T)


def _examples(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.zeros((2, 3), dtype), np.zeros((4, 3), dtype)), {}


@override(("com.microsoft", "CDist", 1), examples=_examples, dtypes=FLOATS)
def cdist(xp: Any, A: Any, B: Any, *, metric: str = "sqeuclidean", derived: Any = at_once) -> Any:
    """Without the differences in memory."""
    if A.ndim != 2 or B.ndim != 2 or A.shape[1] != B.shape[1] or metric not in {"euclidean", "sqeuclidean"}:
        return NotImplemented
    if A.dtype.char not in "fd" or B.dtype != A.dtype or not A.size or not B.size:
        return NotImplemented
    y = np.empty((A.shape[0], B.shape[0]), A.dtype)
    args = (own(A), derived(turned, B), metric == "euclidean", y)
    share(xp, square_distances, args, A.shape[0], y.size * A.shape[1] * MULTIPLY)
    return y
