"""Products of matrices on NumPy's BLAS, of which every thread of ours has one of its own.

BLAS's threads wait on one another: beside one busy process a product of a millisecond takes thirty. Columns or rows
that are split over threads of ours take what they take, and what the other thread has not begun is done by this one.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from ortlite.derived import at_once, lasting
from ortlite.namespace import Namespace
from ortlite.ops.contrib import fused
from ortlite.ops.helpers import require_broadcast
from ortlite.schema import OWN
from ortlite_numpy.blas import reads_small, turned
from ortlite_numpy.record import numpy as np
from ortlite_numpy.threads import pays, split

__all__ = ["FLOATS", "OVERRIDES", "everywhere", "multiply", "product"]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
RATE = 6e10  # multiplications and additions of float32 a second on one thread
BYTES = 2e10  # bytes of a matrix a second, where there are few rows to multiply it with
SMALL = 1 << 17  # multiplications up to which nothing is gained by looking closer
LOOPED = 3  # rows up to which each is a product of its own,
LARGE = 1 << 16  # with a matrix of so many elements
# What BLAS multiplies as it lies, of rows by a matrix whose columns lie side by side: up to so many
UNPACKED, RESULTS = 1_000_000, 1_200  # multiplications, and elements of the result, of
DEPTH, NARROW, BROAD = 32, 16, 64  # at least so deep a matrix, and so many columns together
TURNED = 24  # rows up to which that is faster than what it does with larger ones
LEFT, WEIGHTS = 48, 1 << 19  # rows up to which so many weights whose columns lie side by side are the left factor
FEW = 96  # rows up to which columns are split: every part reads all rows, but only its own columns


def seconds(rows: int, depth: int, columns: int, itemsize: int) -> float:
    """About what a product takes on one thread."""
    return itemsize * max(rows * depth * columns / (2 * RATE), depth * columns / BYTES)


def by_columns(rows: int, columns: int) -> bool:
    """Whether a product had better be split by columns."""
    return rows <= FEW or rows * 4 < columns


def multiply(a: Any, b: Any, out: Any, threads: int) -> Any:
    """The product of the matrices `a` and `b` in `out`, on up to `threads` threads."""
    (rows, depth), columns = a.shape, b.shape[1]
    if threads < 2 or not pays(cost := seconds(rows, depth, columns, a.itemsize)):
        return np.matmul(a, b, out=out)
    if by_columns(rows, columns):
        split(lambda i, j: np.matmul(a, b[:, i:j], out=out[:, i:j]), columns, cost, threads)
    else:
        split(lambda i, j: np.matmul(a[i:j], b, out=out[i:j]), rows, cost, threads)
    return out


def blas_reads(x: Any) -> bool:
    """Whether BLAS takes the last two axes as they lie: one of them side by side, the other in steps that skip them."""
    (rows, columns), (down, aside), size = x.shape[-2:], x.strides[-2:], x.itemsize
    return bool((aside == size and down >= columns * size) or (down == size and aside >= rows * size))


def readable(x: Any) -> Any:
    """`x` as BLAS takes it; NumPy's own loop for the rest is slower than a copy."""
    return x if x.ndim < 2 or blas_reads(x) else np.ascontiguousarray(x)


def few_rows(a: Any, b: Any, out: Any, threads: int) -> Any:
    """Up to `LOOPED` rows one by one: BLAS packs a matrix for a product, and reads it as it is for one row."""
    (rows, depth), columns = a.shape, b.shape[1]

    def some(start: int, stop: int) -> None:
        for row in range(rows):
            np.matmul(a[row], b[:, start:stop], out=out[row, start:stop])

    split(some, columns, seconds(rows, depth, columns, b.itemsize), threads)
    return out


def columns_unpacked(a: Any, b: Any) -> int:
    """How many columns of `b` together BLAS multiplies by a few rows as they lie; 0 where that is not to be had."""
    rows, depth = a.shape
    if not 1 < rows <= TURNED or depth < DEPTH or b.size <= LARGE or a.dtype != np.float32 or not reads_small():
        return 0
    step = min(RESULTS // rows, UNPACKED // (rows * depth), BROAD)
    return step if step >= NARROW else 0


def by_columns_unpacked(a: Any, w: Any, out: Any, step: int) -> None:
    """The product of `a` and the transpose of `w`, some columns at a time, in one call: no thread waits for the GIL."""
    (count, depth), rows = w.shape, a.shape[0]
    whole = count - count % step
    parts = w[:whole].reshape(-1, step, depth).transpose(0, 2, 1)
    np.matmul(a[None], parts, out=out[:, :whole].reshape(rows, -1, step).transpose(1, 0, 2))
    if whole < count:
        np.matmul(a, w[whole:].T, out=out[:, whole:])


def from_the_left(a: Any, w: Any, out: Any) -> None:
    """The same, with `w` as the left factor: BLAS brings that into its order in less time than the right one."""
    out[...] = np.matmul(w, a.T).T


def multiply_turned(a: Any, w: Any, out: Any, step: int, threads: int) -> None:
    """The product of `a` and the transpose of `w`, `step` columns at a time, or from the left where that is 0."""
    (rows, depth), columns = a.shape, w.shape[0]
    unit = step or BROAD  # threads begin where a part does: how results are rounded depends on their place in one

    def some(start: int, stop: int) -> None:
        part = slice(start * unit, stop * unit)
        if step:
            by_columns_unpacked(a, w[part], out[:, part], step)
        else:
            from_the_left(a, w[part], out[:, part])

    split(some, -(-columns // unit), seconds(rows, depth, columns, a.itemsize), threads)


def product(a: Any, b: Any, threads: int, derived: Any = at_once) -> Any:
    """`a` @ `b` of one floating dtype, as numpy.matmul has it."""
    if a.ndim < 2 or b.ndim < 2 or a.size * b.shape[-1] <= SMALL or b.size == 0 or a.shape[-1] != b.shape[-2]:
        matrices = a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0]
        return np.dot(a, b) if matrices else np.matmul(a, b)  # dot begins half a microsecond sooner
    if b.ndim == 2:
        rows = a.shape[0] if a.ndim == 2 else prod(a.shape[:-1])
        out = np.empty((rows, b.shape[1]), a.dtype)
        flat = readable(a.reshape(rows, a.shape[-1]))
        step = columns_unpacked(flat, b)
        b = readable(b)
        if b.T.flags.c_contiguous and (step or (1 < rows <= LEFT and b.size >= WEIGHTS and reads_small())):
            multiply_turned(flat, b.T, out, step, threads)
        elif step and lasting(derived, b):
            multiply_turned(flat, derived(turned, b), out, step, threads)
        elif rows <= LOOPED and b.size >= LARGE:
            few_rows(flat, b, out, threads)
        else:
            multiply(flat, b, out, threads)
        return out if a.ndim == 2 else out.reshape(*a.shape[:-1], b.shape[1])
    a, b = readable(a), readable(b)
    each = seconds(a.shape[-2], a.shape[-1], b.shape[-1], a.itemsize)
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    if threads < 2 or not pays(each * prod(batch)):
        return np.matmul(a, b)
    axis = max(range(len(batch)), key=batch.__getitem__)
    out = np.empty((*batch, a.shape[-2], b.shape[-1]), a.dtype)
    a, b = (np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
    before = (slice(None),) * axis

    def some(start: int, stop: int) -> None:
        part = (*before, slice(start, stop))
        np.matmul(a[part], b[part], out=out[part])

    split(some, batch[axis], each * prod(batch), threads)
    return out


def everywhere(threads: int) -> Callable[[Any, Any], Any]:
    """The namespace's matmul, for kernels that multiply matrices among other things."""

    def matmul(x1: Any, x2: Any, /) -> Any:
        return product(x1, x2, threads) if x1.dtype in FLOATS and x1.dtype == x2.dtype else np.matmul(x1, x2)

    return matmul


def matmul(xp: Namespace, A: Any, B: Any, *, derived: Any = at_once) -> Any:
    """Rows of all matrices of `A` at once where `B` is one; few rows one by one; the large ones on threads."""
    return product(A, B, xp.threads, derived) if A.dtype in FLOATS and A.dtype == B.dtype else NotImplemented


def gemm(
    xp: Namespace,
    A: Any,
    B: Any,
    C: Any = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    derived: Any = at_once,
) -> Any:
    """As MatMul; what is scaled and added, in place."""
    a, b = A.T if transA else A, B.T if transB else B
    alike = A.dtype in FLOATS and all(v.dtype == A.dtype for v in (B, C) if v is not None)
    if not alike or A.ndim != 2 or B.ndim != 2 or a.shape[1] != b.shape[0]:
        return NotImplemented  # the kernel says what is wrong
    if C is not None:
        require_broadcast("C", C, (a.shape[0], b.shape[1]))
    y = product(a, b, xp.threads, derived)
    if alpha != 1.0:
        y *= y.dtype.type(alpha)
    if C is not None and beta != 0.0:
        y += C if beta == 1.0 else C * y.dtype.type(beta)
    return y


def linear(xp: Namespace, X: Any, W: Any, B: Any, *, derived: Any = at_once) -> Any:
    """As MatMul; the row is added in place."""
    if X.dtype not in FLOATS or not X.dtype == W.dtype == B.dtype:
        return NotImplemented
    y = product(X, W, xp.threads, derived)
    y += B
    return y


def fused_matmul(
    xp: Namespace,
    A: Any,
    B: Any,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Any:
    """As MatMul, scaled in place."""
    if A.dtype not in FLOATS or A.dtype != B.dtype:
        return NotImplemented
    y = product(fused.turned(xp, A, transA, transBatchA), fused.turned(xp, B, transB, transBatchB), xp.threads)
    return y if alpha == 1.0 else np.multiply(y, y.dtype.type(alpha), out=y if isinstance(y, np.ndarray) else None)


OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "MatMul", 1): matmul,
    ("", "Gemm", 7): gemm,
    ("com.microsoft", "FusedMatMul", 1): fused_matmul,
    (OWN, "Linear", 1): linear,
}
