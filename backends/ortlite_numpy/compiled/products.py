"""Products with a constant matrix, whose columns are brought into the order in which they are read, once a session.

A panel is as many columns as two vectors of the processor hold, row by row, so that a product reads one stretch of
memory. A tile, some rows of the result by one panel, stays in registers while the products of some rows of the
panel are added up; then it is added to the result. BLAS brings the matrix into order in every call, which for few rows
takes as long as the product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from math import prod
from types import SimpleNamespace
from typing import Any

from ortlite.derived import Derived, at_once, lasting
from ortlite.ops.helpers import require_broadcast
from ortlite_numpy.compiled.jit import Emitted, loops, own, share
from ortlite_numpy.compiled.table import FLOATS, Call, override
from ortlite_numpy.compiled.vectors import Vectors, vector_bytes
from ortlite_numpy.record import numpy as np

__all__ = ["multiplied", "panels", "times"]

VECTORS = 2
FEW = 24  # panels up to which it does not pay to copy rows of the left matrix
FEW_ROWS = 2  # for which BLAS reads the matrix as it is
SMALL = 1 << 17  # multiplications up to which BLAS is as fast
RATE = 8e10  # multiplications and additions of float32 a second
BYTES = 2e10  # bytes of panels a second


@cache
def sizes() -> tuple[int, int, int]:
    """The rows of a tile, the rows of a panel whose products are added up in registers, and the rows of a block.

    Of sixteen registers, two vectors of six rows take twelve; AVX-512 has 32. That much of a panel stays in the nearest
    cache, and a block, rows of the left matrix, as deep, in the next one while the panels go by.
    """
    return (12, 256, 336) if vector_bytes() == 64 else (6, 384, 168)


def _tile(
    typing: Any, rows: Any, across: Any, y: Any, y_at: Any, y_row: Any, a: Any, a_at: Any, a_row: Any, a_step: Any,
    a_part: Any, parts: Any, b: Any, b_at: Any, depth: Any, ahead: Any, given: Any, given_at: Any, given_row: Any,
    low: Any, high: Any,
) -> Any:  # fmt: skip
    """Of `rows` rows, the first `across` columns of a panel: y[r] = given[r] + the sum over k of a[r, k] · b[k].

    The arrays are flat; `_at` is the element to begin with, `_row` how far rows are apart. A row of `a` has `parts`,
    `a_part` apart, of `depth` elements that are `a_step` apart. What lies `ahead` of a row of the panel is fetched into
    the cache on the way. No result is below `low` or above `high`.
    """
    from numba import types

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(context, builder, y.dtype)
        results, left, panel, start = (v.pointer(signature.args[i], args[i], args[i + 1]) for i in (2, 5, 11, 15))
        rows, across, y_row, a_row, a_step, a_part, parts = (args[i] for i in (0, 1, 4, 7, 8, 9, 10))
        depth, ahead, given_row, low, high = (args[i] for i in (13, 14, 17, 18, 19))
        bounds = v.spread(low), v.spread(high)

        def write(rows: int, masks: Sequence[Any]) -> None:
            """The code for so many rows, and a vector for each mask."""
            lines = [v.further(left, r, a_row) for r in range(rows)]
            each = len(masks)

            def part(_: Any, before: Sequence[Any]) -> list[Any]:
                first, row, *so_far = before

                def step(_: Any, carried: Sequence[Any]) -> list[Any]:
                    along, k, *sums = carried
                    read = builder.mul(k, v.i64(VECTORS * v.lanes))
                    right = [v.load(panel, builder.add(read, v.i64(i * v.lanes))) for i in range(each)]
                    v.fetch(panel, builder.add(read, ahead))
                    new = [builder.add(along, a_step), builder.add(k, v.i64(1))]
                    for r, line in enumerate(lines):
                        one = v.spread(v.number(line, along))
                        new += [v.add_product(one, x, s) for x, s in zip(right, sums[r * each :], strict=False)]
                    return new

                _, row, *sums = v.loop(depth, [first, row, *so_far], step)
                return [builder.add(first, a_part), row, *sums]

            _, _, *totals = v.loop(parts, [v.i64(0), v.i64(0), *[v.zero] * (rows * each)], part)
            for i, total in enumerate(totals):
                r, at = i // each, v.i64(i % each * v.lanes)
                mask = masks[i % each]
                whole = builder.fadd(total, v.load(v.further(start, r, given_row), at, mask))
                v.store(v.held(whole, *bounds), v.further(results, r, y_row), at, mask)

        lanes = v.i64(v.lanes)
        masks = [v.first(across), v.first(builder.sub(across, lanes))]
        kinds = [(None, None), (None, masks[1]), (masks[0],)]  # all columns, more than those of one vector, fewer
        tall = sizes()[0]
        narrow = builder.select(builder.icmp_signed("<=", across, lanes), v.i64(2 * tall), v.i64(tall))
        kind = builder.select(builder.icmp_signed("==", across, v.i64(VECTORS * v.lanes)), v.i64(0), narrow)
        cases = [partial(write, n, which) for which in kinds for n in range(1, tall + 1)]
        v.choose(builder.add(kind, builder.sub(rows, v.i64(1))), cases)
        return context.get_dummy_value()

    i, dtype = types.int64, y.dtype
    return types.none(i, i, y, i, i, a, i, i, i, i, i, b, i, i, i, given, i, i, dtype, dtype), code


tile = Emitted(_tile)
ONE_THREAD = SimpleNamespace(threads=1)


@loops()
def copy_rows(a, at, a_row, a_step, rows, depth, y):
    """A stretch of rows of a flat matrix, side by side."""
    if a_step == 1:
        for r in range(rows):
            row, to = a[at + r * a_row : at + r * a_row + depth], y[r * depth : (r + 1) * depth]
            for k in range(to.size):
                to[k] = row[k]
    else:
        for first in range(0, rows, 16):  # as many as share a line of memory, where rows lie side by side
            some = min(16, rows - first)
            for k in range(depth):
                left = at + first * a_row + k * a_step
                for r in range(some):
                    y[(first + r) * depth + k] = a[left + r * a_row]


@loops()
def multiply_rows(
    a, a_row, a_step, b, bias, low, high, y, y_row, rows, columns, tall, deep, block, by_rows, start, stop
):
    """The products of a matrix of `rows` rows and the panels `b`, plus `bias`, as wide as all panels, to `y`.

    The matrix and `y` are flat; `tall`, `deep` and `block` are `sizes`; no result is below `low` or above `high`. Of
    the panels or, `by_rows`, of the rows in steps of `tall`, [start, stop) are computed.
    """
    count, depth, width = b.shape
    flat = b.reshape(b.size)
    copied = np.empty(min(block, rows) * min(deep, depth), y.dtype)
    begin, end = (0, count) if by_rows else (start, stop)
    first, last = (start * tall, min(stop * tall, rows)) if by_rows else (0, rows)
    lowest, highest = y.dtype.type(-np.inf), y.dtype.type(np.inf)
    while first < last:
        some = min(block, last - first)
        tiles = (some + tall - 1) // tall
        for k in range(0, depth, deep):
            many = min(deep, depth - k)
            if end - begin < FEW:
                source, before, apart, step = a, first * a_row + k * a_step, a_row, a_step
            else:  # rows far apart in memory meet in few lines of the cache
                copy_rows(a, first * a_row + k * a_step, a_row, a_step, some, many, copied)
                source, before, apart, step = copied, 0, many, 1
            least, most = (low, high) if k + many == depth else (lowest, highest)
            for panel in range(begin, end):
                column, right = panel * width, (panel * depth + k) * width
                across, row = min(columns - column, width), 0
                for t in range(tiles):
                    n = (some - row + tiles - t - 1) // (tiles - t)
                    left, to = before + row * apart, (first + row) * y_row + column
                    given, at, row_apart = (bias, column, 0) if k == 0 else (y, to, y_row)
                    tile(
                        n, across, y, to, y_row, source, left, apart, step, 0, 1, flat, right, many, depth * width,
                        given, at, row_apart, least, most,
                    )  # fmt: skip
                    row += n
        first += some


@loops()
def fill_panels(b, y, start, stop):
    """Panels of the rows [start, stop) of a matrix, a few rows at a time, so that whole lines of memory are written."""
    count, _, width = y.shape
    columns = b.shape[1]
    for first in range(start, stop, 8):
        for panel in range(count):
            some = min(width, columns - panel * width)
            for r in range(first, min(first + 8, stop)):
                row, to = b[r, panel * width : panel * width + some], y[panel, r]
                for c in range(some):
                    to[c] = row[c]


def width(dtype: Any) -> int:
    """The columns of a panel."""
    return VECTORS * vector_bytes() // int(dtype.itemsize)


def panels(b: Any) -> Any:
    """A matrix as panels (count, rows, columns of one), the last one filled up with zeros."""
    each = width(b.dtype)
    rows, columns = b.shape
    result = np.zeros((-(-columns // each), rows, each), b.dtype)
    if b.flags.c_contiguous:
        share(None, fill_panels, (own(b), result), rows, b.size * 1e-9)
        return result
    whole = columns // each
    result[:whole] = b[:, : whole * each].reshape(rows, whole, each).transpose(1, 0, 2)
    if whole * each < columns:
        result[whole, :, : columns - whole * each] = b[:, whole * each :]
    return result


def filled(bias: Any, columns: int, dtype: Any) -> Any:
    """A bias of one number or one a column, as wide as whole panels; zeros for None."""
    each = width(dtype)
    result = np.zeros(-(-columns // each) * each, dtype)
    if bias is not None:
        result[:columns] = bias.reshape(-1)
    return result


def add_rows(xp: Any, a: Any, a_row: int, a_step: int, b: Any, bias: Any, y: Any, rows: int, columns: int) -> None:
    """`multiply_rows` of all rows, on the threads that are worth it."""
    count, depth, _ = b.shape
    tall, deep, most = sizes()
    block = -(-rows // (-(-rows // most) * tall)) * tall  # all as large
    by_rows = count < FEW and rows > columns  # else each thread had better read some of the panels
    work = max(rows * depth * columns * b.itemsize / (2 * RATE), depth * columns * b.itemsize / BYTES)
    bounds = b.dtype.type(-np.inf), b.dtype.type(np.inf)
    args = (a, a_row, a_step, b, bias, *bounds, y, columns, rows, columns, tall, deep, block, by_rows)
    share(xp, multiply_rows, args, -(-rows // tall) if by_rows else count, work)


def times(xp: Any, b: Any, columns: int) -> Any:
    """What puts the product of a matrix with the panels `b` into another one, on some threads."""
    nothing = filled(None, columns, b.dtype)

    def product(a: Any, out: Any, threads: int) -> None:
        if a.T.flags.c_contiguous:
            flat, a_row, a_step = own(a.T).reshape(-1), 1, a.shape[0]
        else:
            flat, a_row, a_step = own(a).reshape(-1), a.shape[1], 1
        add_rows(xp if threads > 1 else ONE_THREAD, flat, a_row, a_step, b, nothing, out.reshape(-1), *out.shape)

    return product


def multiplied(xp: Any, a: Any, b: Any, bias: Any, columns: int) -> Any:
    """`a` (…, depth) by the panels `b`, plus a `filled` bias."""
    rows = prod(a.shape[:-1])
    y = np.empty((*a.shape[:-1], columns), a.dtype)
    add_rows(xp, own(a).reshape(-1), a.shape[-1], 1, b, bias, y.reshape(-1), rows, columns)
    return y


def _fits(A: Any, B: Any, depth: int, derived: Any) -> bool:
    alike = A.dtype == B.dtype and A.dtype.char in "fd" and B.ndim == 2 and A.ndim > 0
    if not alike or A.shape[-1] != depth or A.size <= FEW_ROWS * depth:
        return False
    return A.size * B.size > SMALL * depth and lasting(derived, B)


def _examples(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    b = np.zeros((64, 33), dtype)
    yield (np.zeros((64, 64), dtype), b), {"derived": Derived([b])}


@override("MatMul", examples=_examples, dtypes=FLOATS)
def matmul(xp: Any, A: Any, B: Any, *, derived: Any = at_once) -> Any:
    """With a constant B, in its panels."""
    if not _fits(A, B, B.shape[0] if B.ndim == 2 else 0, derived):
        return NotImplemented
    return multiplied(xp, A, derived(panels, B), derived(filled, None, B.shape[1], B.dtype), B.shape[1])


@override(("", "Gemm", 7), examples=_examples, dtypes=FLOATS)
def gemm(
    xp: Any,
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
    """With a constant B, in its panels; a bias is what the products are added to."""
    if alpha != 1.0 or transA or A.ndim != 2 or B.ndim != 2:
        return NotImplemented
    columns, depth = B.shape if transB else B.shape[::-1]
    if not _fits(A, B, depth, derived) or (C is not None and C.dtype != A.dtype):
        return NotImplemented
    if C is not None:
        require_broadcast("C", C, (A.shape[0], columns))
    held = C is not None and beta == 1.0 and C.size in {1, columns} and C.shape[:-1] in {(), (1,)}
    if C is not None and beta and not held:
        return NotImplemented
    bias = derived(filled, C if held else None, columns, B.dtype)
    return multiplied(xp, A, derived(_turned, B) if transB else derived(panels, B), bias, columns)


def _turned(b: Any) -> Any:
    return panels(b.T)
