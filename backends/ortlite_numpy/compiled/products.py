"""Products with a constant matrix, whose columns are brought into the order in which they are read, once a session.

A panel is as many columns as two vectors of the processor hold, row by row, so that a product reads one stretch of
memory. A tile, some rows of the result by one panel, stays in registers while the products of some rows of the
panel are added up; then it is added to the result. BLAS brings the matrix into order in every call, which for few rows
takes as long as the product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from math import prod
from types import SimpleNamespace
from typing import Any

from ortlite.derived import Derived, at_once, lasting
from ortlite.ops.helpers import require_broadcast
from ortlite_numpy.compiled.jit import Emitted, loops, own, share
from ortlite_numpy.compiled.table import FLOATS, Call, override
from ortlite_numpy.record import numpy as np

__all__ = ["multiplied", "panels", "times"]

VECTORS = 2
FEW = 24  # panels up to which it does not pay to copy rows of the left matrix
FEW_ROWS = 2  # for which BLAS reads the matrix as it is
SMALL = 1 << 17  # multiplications up to which BLAS is as fast
RATE = 8e10  # multiplications and additions of float32 a second
BYTES = 2e10  # bytes of panels a second


@cache
def vector_bytes() -> int:
    """The width of this processor's vectors."""
    from llvmlite import binding

    has = binding.get_host_cpu_features()
    return 64 if has.get("avx512f") else 32 if has.get("avx") else 16


@cache
def sizes() -> tuple[int, int, int]:
    """The rows of a tile, the rows of a panel whose products are added up in registers, and the rows of a block.

    Of sixteen registers, two vectors of six rows take twelve; AVX-512 has 32. That much of a panel stays in the nearest
    cache, and a block, rows of the left matrix, as deep, in the next one while the panels go by.
    """
    return (12, 256, 336) if vector_bytes() == 64 else (6, 384, 168)


def _tile(
    typing: Any, n: Any, y: Any, y_at: Any, y_row: Any, a: Any, a_at: Any, a_row: Any, a_step: Any, a_part: Any,
    parts: Any, b: Any, b_at: Any, depth: Any, ahead: Any, given: Any, given_at: Any, given_row: Any,
) -> Any:  # fmt: skip
    """Of `n` rows, each as wide as a panel: y[r] = given[r] + the sum over k of a[r, k] · b[k].

    The arrays are flat; `_at` is the element to begin with, `_row` how far rows are apart. A row of `a` has `parts`,
    `a_part` apart, of `depth` elements that are `a_step` apart. What lies `ahead` of a row of the panel is fetched into
    the cache on the way.
    """
    from llvmlite import ir
    from numba import types

    i8, i32, i64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
    bits = y.dtype.bitwidth
    lanes = vector_bytes() * 8 // bits

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def pointer(array: int) -> Any:
            data = context.make_array(signature.args[array])(context, builder, args[array]).data
            return builder.gep(data, [args[array + 1]])

        def further(base: Any, count: int, step: Any) -> Any:
            return builder.gep(base, [builder.mul(step, i64(count))])

        def vector_at(base: Any, index: Any) -> Any:
            return builder.bitcast(builder.gep(base, [index]), vector.as_pointer())

        def load(place: Any) -> Any:
            value = builder.load(place)
            value.align = bits // 8
            return value

        vector = ir.VectorType(context.get_data_type(y.dtype), lanes)
        results, left, panel, start = map(pointer, (1, 4, 10, 14))
        y_row, a_row, a_step, a_part, parts, depth, ahead, given_row = (args[i] for i in (3, 6, 7, 8, 9, 12, 13, 16))
        name = f"llvm.fmuladd.v{lanes}f{bits}"
        fma = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(vector, [vector] * 3), name
        )
        fetched = ir.FunctionType(ir.VoidType(), [i8.as_pointer(), i32, i32, i32])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [i8.as_pointer()], fetched)

        def write(rows: int, end: Any) -> None:
            """The code for so many rows."""
            lines = [further(left, r, a_row) for r in range(rows)]
            zero = ir.Constant(vector, None)
            before, outer, loop, next_part, after = (builder.block, *(builder.append_basic_block() for _ in range(4)))
            builder.branch(outer)
            builder.position_at_end(outer)
            part, first, row_of_panel = builder.phi(i64), builder.phi(i64), builder.phi(i64)
            so_far = [[builder.phi(vector) for _ in range(VECTORS)] for _ in range(rows)]
            end_of_part = builder.add(row_of_panel, depth)
            builder.branch(loop)
            builder.position_at_end(loop)
            along, at = builder.phi(i64), builder.phi(i64)
            sums = [[builder.phi(vector) for _ in range(VECTORS)] for _ in range(rows)]
            read = builder.mul(at, i64(VECTORS * lanes))
            right = [load(vector_at(panel, builder.add(read, i64(v * lanes)))) for v in range(VECTORS)]
            next_panel = builder.bitcast(builder.gep(panel, [builder.add(read, ahead)]), i8.as_pointer())
            builder.call(fetch, [next_panel, i32(0), i32(2), i32(1)])
            totals = []
            for line, old in zip(lines, sums, strict=True):
                one = load(builder.gep(line, [along]))
                many = builder.insert_element(ir.Constant(vector, ir.Undefined), one, i32(0))
                many = builder.shuffle_vector(many, many, ir.Constant(ir.VectorType(i32, lanes), [0] * lanes))
                totals.append([builder.call(fma, [many, x, s]) for x, s in zip(right, old, strict=True)])
            next_row = builder.add(at, i64(1))
            inner = [(along, first, builder.add(along, a_step)), (at, row_of_panel, next_row)]
            for old, begun, new in zip(sums, so_far, totals, strict=True):
                inner += zip(old, begun, new, strict=True)
            for phi, begun, then in inner:
                phi.add_incoming(begun, outer)
                phi.add_incoming(then, loop)
            builder.cbranch(builder.icmp_signed("<", next_row, end_of_part), loop, next_part)
            builder.position_at_end(next_part)
            one_more = builder.add(part, i64(1))
            around = [
                (part, i64(0), one_more),
                (first, i64(0), builder.add(first, a_part)),
                (row_of_panel, i64(0), next_row),
            ]
            for old, new in zip(so_far, totals, strict=True):
                around += [(s, zero, t) for s, t in zip(old, new, strict=True)]
            for phi, begun, then in around:
                phi.add_incoming(begun, before)
                phi.add_incoming(then, next_part)
            builder.cbranch(builder.icmp_signed("<", one_more, parts), outer, after)
            builder.position_at_end(after)
            for r, total in enumerate(totals):
                to, given_row_at = further(results, r, y_row), further(start, r, given_row)
                for v, value in enumerate(total):
                    whole = builder.fadd(value, load(vector_at(given_row_at, i64(v * lanes))))
                    builder.store(whole, vector_at(to, i64(v * lanes))).align = bits // 8
            builder.branch(end)

        end = builder.append_basic_block()
        blocks = [builder.append_basic_block() for _ in range(sizes()[0])]
        switch = builder.switch(args[0], blocks[-1])
        for rows, block in enumerate(blocks, 1):
            switch.add_case(i64(rows), block)
            builder.position_at_end(block)
            write(rows, end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    i = types.int64
    return types.none(i, y, i, i, a, i, i, i, i, i, b, i, i, i, given, i, i), code


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
def multiply_rows(a, a_row, a_step, b, bias, y, y_row, rows, columns, tall, deep, block, by_rows, start, stop):
    """The products of a matrix of `rows` rows and the panels `b`, plus `bias`, as wide as all panels, to `y`.

    The matrix and `y` are flat; `tall`, `deep` and `block` are `sizes`. Of the panels or, `by_rows`, of the rows in
    steps of `tall`, [start, stop) are computed.
    """
    count, depth, width = b.shape
    flat = b.reshape(b.size)
    spare = np.empty(tall * width, y.dtype)
    copied = np.empty(min(block, rows) * min(deep, depth), y.dtype)
    begin, end = (0, count) if by_rows else (start, stop)
    first, last = (start * tall, min(stop * tall, rows)) if by_rows else (0, rows)
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
            for panel in range(begin, end):
                column, right = panel * width, (panel * depth + k) * width
                row = 0
                for t in range(tiles):
                    n = (some - row + tiles - t - 1) // (tiles - t)
                    left, to = before + row * apart, (first + row) * y_row + column
                    if columns - column < width:
                        for r in range(n):
                            for c in range(columns - column):
                                spare[r * width + c] = bias[column + c] if k == 0 else y[to + r * y_row + c]
                        tile(
                            n, spare, 0, width, source, left, apart, step, 0, 1, flat, right, many, 0, spare, 0, width
                        )  # fmt: skip
                        for r in range(n):
                            for c in range(columns - column):
                                y[to + r * y_row + c] = spare[r * width + c]
                    else:
                        given, at, row_apart = (bias, column, 0) if k == 0 else (y, to, y_row)
                        tile(
                            n, y, to, y_row, source, left, apart, step, 0, 1, flat, right, many, depth * width, given,
                            at, row_apart,
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
    args = (a, a_row, a_step, b, bias, y, columns, rows, columns, tall, deep, block, by_rows)
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
