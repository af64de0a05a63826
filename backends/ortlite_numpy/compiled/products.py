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
from ortlite.schema import OWN
from ortlite_numpy.compiled.jit import Emitted, loops, own, share
from ortlite_numpy.compiled.table import FLOATS, Call, override
from ortlite_numpy.compiled.vectors import Vectors, vector_bytes
from ortlite_numpy.record import numpy as np

__all__ = ["multiplied", "panels", "times"]

VECTORS = 2
STEPS = 4  # rows of a panel that are read in one turn of the loop
LINE = 64  # bytes that the cache fetches at once
GROUP = 3  # rows of a tile that are reached from the first of them
FEW = 24  # panels up to which it does not pay to copy rows of the left matrix
SMALL = 1 << 17  # multiplications up to which BLAS is as fast
TURNED = 64  # numbers of a row that are written down a panel in one turn: what is written stays in the cache
FILL = 1e-9  # seconds for each number that is brought into a panel
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
    typing: Any, rows: Any, across: Any, y: Any, y_at: Any, y_row: Any, a: Any, a_at: Any, a_row: Any, a_part: Any,
    parts: Any, b: Any, b_at: Any, depth: Any, ahead: Any, given: Any, given_at: Any, given_row: Any, z: Any, z_at: Any,
    added: Any, low: Any, high: Any,
) -> Any:  # fmt: skip
    """Of `rows` rows, the first `across` columns of a panel: y[r] = given[r] + the sum over k of a[r, k] · b[k].

    The arrays are flat; `_at` is the element to begin with, `_row` how far rows are apart. A row of `a` has `parts`,
    `a_part` apart, of `depth` elements. What lies `ahead` of a row of the panel is fetched into the cache on the way.
    Where `added` is 1, not 0, z is added, whose rows are as far apart as those of y. No result is below `low` or above
    `high`.
    """
    from numba import types

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(context, builder, y.dtype)
        pointers = (v.pointer(signature.args[i], args[i], args[i + 1]) for i in (2, 5, 10, 14, 17))
        results, left, panel, start, more = pointers
        rows, across, y_row, a_row, a_part, parts = (args[i] for i in (0, 1, 4, 7, 8, 9))
        depth, ahead, given_row, added, low, high = (args[i] for i in (12, 13, 16, 19, 20, 21))
        bounds = v.spread(low), v.spread(high)

        def write(rows: int, masks: Sequence[Any]) -> None:
            """The code for so many rows, and a vector for each mask."""
            each = len(masks)
            places = [(r, v.i64(i * v.lanes), mask) for r in range(rows) for i, mask in enumerate(masks)]
            for r, column, _ in places:  # what is far away arrives while the products are added up
                v.fetch(v.further(results, r, y_row), column, to_write=True)

            def fetch_more(_: Any, before: Sequence[Any]) -> Sequence[Any]:
                for r, column, _ in places:
                    v.fetch(v.further(more, r, y_row), column)
                return before

            v.loop(added, [], fetch_more, perhaps=True)
            # From row to row LLVM would take an addition each: it must not see how far they are apart.
            firsts = [v.hidden(builder.ptrtoint(v.further(left, r, a_row), v.i64)) for r in range(0, rows, GROUP)]
            apart = [v.hidden(builder.mul(a_row, v.i64(r * v.bytes))) for r in range(GROUP)]

            def part(_: Any, before: Sequence[Any]) -> list[Any]:
                along, row, *so_far = before

                def turn(steps: int, _: Any, carried: Sequence[Any]) -> list[Any]:
                    row, groups, sums = carried[0], carried[1 : 1 + len(firsts)], list(carried[1 + len(firsts) :])
                    groups = [v.hidden(group) for group in groups]
                    for step in range(steps):
                        read = builder.mul(builder.add(row, v.i64(step)), v.i64(VECTORS * v.lanes))
                        right = [v.load(panel, builder.add(read, v.i64(i * v.lanes))) for i in range(each)]
                        for line in range(0, VECTORS * v.lanes, LINE // v.bytes):
                            v.fetch(panel, builder.add(read, builder.add(ahead, v.i64(line))))
                        for r in range(rows):
                            place = (
                                builder.add(groups[r // GROUP], apart[r % GROUP]) if r % GROUP else groups[r // GROUP]
                            )
                            one = v.spread(v.number_at(builder.add(place, v.i64(step * v.bytes))))
                            for i, x in enumerate(right):
                                sums[r * each + i] = v.add_product(one, x, sums[r * each + i])
                    groups = [builder.add(group, v.i64(steps * v.bytes)) for group in groups]
                    return [builder.add(row, v.i64(steps)), *groups, *sums]

                offset = builder.mul(along, v.i64(v.bytes))
                carried = [row, *(builder.add(first, offset) for first in firsts), *so_far]
                for steps, turns in ((STEPS, builder.udiv), (1, builder.urem)):
                    carried = v.loop(turns(depth, v.i64(STEPS)), carried, partial(turn, steps), perhaps=True)
                return [builder.add(along, a_part), carried[0], *carried[1 + len(firsts) :]]

            def add_more(_: Any, totals: Sequence[Any]) -> list[Any]:
                other = [v.load(v.further(more, r, y_row), column, mask) for r, column, mask in places]
                return [builder.fadd(total, one) for total, one in zip(totals, other, strict=True)]

            _, _, *totals = v.loop(parts, [v.i64(0), v.i64(0), *[v.zero] * (rows * each)], part)
            totals = v.loop(added, totals, add_more, perhaps=True)
            for total, (r, column, mask) in zip(totals, places, strict=True):
                whole = builder.fadd(total, v.load(v.further(start, r, given_row), column, mask))
                v.store(v.held(whole, *bounds), v.further(results, r, y_row), column, mask)

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
    return types.none(i, i, y, i, i, a, i, i, i, i, b, i, i, i, given, i, i, z, i, i, dtype, dtype), code


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
    a, a_row, a_step, b, bias, z, low, high, y, y_row, rows, columns, tall, deep, block, by_rows, start, stop
):
    """The products of a matrix of `rows` rows and the panels `b`, plus `bias`, as wide as all panels, and z, to `y`.

    The matrix, `y`, and z, which is like `y` or empty, are flat; `tall`, `deep` and `block` are `sizes`; no result is
    below `low` or above `high`. Of the panels or, `by_rows`, of the rows in steps of `tall`, [start, stop) are made.
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
            if end - begin < FEW and a_step == 1:
                source, before, apart = a, first * a_row + k, a_row
            else:  # rows far apart in memory meet in few lines of the cache
                copy_rows(a, first * a_row + k * a_step, a_row, a_step, some, many, copied)
                source, before, apart = copied, 0, many
            whole = k + many == depth
            least, most = (low, high) if whole else (lowest, highest)
            added = 1 if whole and z.size else 0
            for panel in range(begin, end):
                column, right = panel * width, (panel * depth + k) * width
                across, row = min(columns - column, width), 0
                for t in range(tiles):
                    n = (some - row + tiles - t - 1) // (tiles - t)
                    left, to = before + row * apart, (first + row) * y_row + column
                    given, at, row_apart = (bias, column, 0) if k == 0 else (y, to, y_row)
                    tile(
                        n, across, y, to, y_row, source, left, apart, 0, 1, flat, right, many, depth * width,
                        given, at, row_apart, z, to, added, least, most,
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


@loops()
def fill_turned(w, groups, y, start, stop):
    """Panels [start, stop), counted through all groups, of rows w (M, C, size): y (panels, size · C, columns of one).

    The M / groups rows of a group are the columns of its panels.
    """
    m, channels, size = w.shape
    each = y.shape[0] // groups
    for panel in range(start, stop):
        to = y[panel]
        column = panel % each * to.shape[1]
        some = min(to.shape[1], m // groups - column)
        begin = panel // each * (m // groups) + column
        for first in range(0, channels, max(TURNED // size, 1)):
            last = min(first + max(TURNED // size, 1), channels)
            for i in range(some):
                row = w[begin + i]
                for c in range(first, last):
                    for k in range(size):
                        to[k * channels + c, i] = row[c, k]
        for r in range(to.shape[0]):
            for i in range(some, to.shape[1]):
                to[r, i] = 0


def width(dtype: Any) -> int:
    """The columns of a panel."""
    return VECTORS * vector_bytes() // int(dtype.itemsize)


def panels(b: Any) -> Any:
    """A matrix as panels (count, rows, columns of one), the last one filled up with zeros."""
    if not b.flags.c_contiguous:
        return turned_panels(b.T[:, :, None], 1)
    each = width(b.dtype)
    rows, columns = b.shape
    result = np.zeros((-(-columns // each), rows, each), b.dtype)
    share(None, fill_panels, (own(b), result), rows, b.size * FILL)
    return result


def turned_panels(w: Any, groups: int) -> Any:
    """The panels of a matrix of M columns, one for each row of w (M, C, size); of each of `groups` of them.

    What a place of `size` multiplies, C numbers, stands together.
    """
    m, channels, size = w.shape
    each = width(w.dtype)
    result = np.empty((groups * -(-m // groups // each), size * channels, each), w.dtype)
    share(None, fill_turned, (own(w), groups, result), len(result), w.size * FILL)
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
    args = (a, a_row, a_step, b, bias, y[:0], *bounds, y, columns, rows, columns, tall, deep, block, by_rows)
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
    fits = alike and A.shape[-1] == depth and A.size * B.size > SMALL * depth
    return fits and lasting(derived, B)


def _examples(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    b = np.zeros((64, 33), dtype)
    yield (np.zeros((64, 64), dtype), b), {"derived": Derived([b])}


def _examples_plus(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    row = np.zeros(33, dtype)
    for (a, b), keywords in _examples(dtype, attributes):
        keywords["derived"] = Derived([b, row])
        yield (a, b, row), keywords


@override("MatMul", examples=_examples, dtypes=FLOATS)
def matmul(xp: Any, A: Any, B: Any, *, derived: Any = at_once) -> Any:
    """With a constant B, in its panels."""
    if not _fits(A, B, B.shape[0] if B.ndim == 2 else 0, derived):
        return NotImplemented
    return multiplied(xp, A, derived(panels, B), derived(filled, None, B.shape[1], B.dtype), B.shape[1])


@override((OWN, "Linear", 1), examples=_examples_plus, dtypes=FLOATS)
def linear(xp: Any, X: Any, W: Any, B: Any, *, derived: Any = at_once) -> Any:
    """With constant W and B: what the products are added to is the row."""
    if W.ndim != 2 or B.dtype != X.dtype or B.shape != W.shape[1:] or not lasting(derived, B):
        return NotImplemented
    if not _fits(X, W, W.shape[0], derived):
        return NotImplemented
    return multiplied(xp, X, derived(panels, W), derived(filled, B, B.size, B.dtype), B.size)


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
