"""Products of matrices on NumPy's BLAS, of which every thread of ours has one of its own.

BLAS's threads wait on one another: beside one busy process a product of a millisecond takes thirty. Columns or rows
that are split over threads of ours take what they take, and what the other thread has not begun is done by this one.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ortlite_numpy.threads import split

__all__ = ["FLOATS", "multiply"]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
RATE = 6e10  # multiplications and additions of float32 a second on one thread
BYTES = 1e10  # bytes of a matrix a second, where there are few rows to multiply it with
FEW = 96  # rows up to which columns are split: every part reads all rows, but only its own columns


def seconds(rows: int, depth: int, columns: int, itemsize: int) -> float:
    """About what a product takes on one thread."""
    return itemsize * max(rows * depth * columns / (2 * RATE), depth * columns / BYTES)


def multiply(a: Any, b: Any, out: Any, threads: int) -> Any:
    """The product of the matrices `a` and `b` in `out`, on up to `threads` threads."""
    (rows, depth), columns = a.shape, b.shape[1]
    if threads < 2 or (cost := seconds(rows, depth, columns, a.itemsize)) < 1e-3:
        return np.matmul(a, b, out=out)
    if rows <= FEW or rows * 4 < columns:
        split(lambda i, j: np.matmul(a, b[:, i:j], out=out[:, i:j]), columns, cost, threads)
    else:
        split(lambda i, j: np.matmul(a[i:j], b, out=out[i:j]), rows, cost, threads)
    return out


def flattened(x: Any, columns: int) -> Any:
    """`x` as a matrix of rows of `columns` elements, without a copy where its memory allows."""
    return x.reshape(prod(x.shape) // columns if columns else 0, columns)
