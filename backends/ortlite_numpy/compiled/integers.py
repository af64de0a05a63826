"""Exact products of bytes in int32: panels of weights, a tile in registers, and what becomes of the sums.

A word is as many numbers as one instruction multiplies and adds up in each lane: four bytes where the processor has
that (vpdpbusd: unsigned by signed), else two numbers of 16 bits (vpmaddwd, which is exact for bytes and their
differences). Panels hold the weights word by word in the order in which a tile reads them; what they are multiplied by
is copied line by line, with the zero point where there is a border, so that a window is some stretches of memory.
Signed bytes are taken for unsigned ones with another zero point.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache, partial
from typing import Any

from ortlite.room import aligned
from ortlite_numpy.compiled.jit import Emitted, Loops, loops, share, wide, with_names
from ortlite_numpy.compiled.products import VECTORS
from ortlite_numpy.compiled.vectors import Vectors, vector_bytes
from ortlite_numpy.record import numpy as np

__all__ = [
    "AS_WRITTEN", "BYTE", "PAIR", "ROUND", "filled", "finish", "finish_sums", "limits", "multiply", "nothing", "packed",
    "totals", "word_type",
]  # fmt: skip

F = np.float32
ROUND = F(12582912.0)  # 1.5 · 2^23: what is added to it is rounded, half to even
ROUND_BITS = 0x4B400000
AS_WRITTEN: frozenset[str] = frozenset()  # every number is rounded, as NumPy rounds it
BYTE, PAIR = np.dtype(np.uint8), np.dtype(np.int16)  # what words are made of: four, or two
HELD = 1 << 17  # bytes of lines, and of sums, that are worked on at once
LANES_A_SECOND = {BYTE: 2.5e11, PAIR: 6e10}  # multiplications at 64 bytes a vector
PASS = 1e10  # bytes copied, or sums finished, a second
STREAM = 2e10  # bytes of panels a second


@cache
def four_bytes() -> bool:
    """Whether the processor multiplies and adds up four bytes in one instruction."""
    from llvmlite import binding

    has = binding.get_host_cpu_features()
    return vector_bytes() == 64 and bool(has.get("avx512vnni"))


def tall() -> int:
    """The rows of a tile: with AVX-512 there are 32 registers, else 16."""
    return 12 if vector_bytes() == 64 else 6


def _added(builder: Any, sums: Any, a: Any, b: Any, lanes: int, *, four: bool) -> Any:
    """`sums` plus the products of the numbers in the words of a and b."""
    from llvmlite import ir

    words = sums.type
    name = f"llvm.x86.avx512.vpdpbusd.{lanes * 32}" if four else None
    if four:
        fn = builder.module.globals.get(name) or ir.Function(builder.module, ir.FunctionType(words, [words] * 3), name)
        return builder.call(fn, [sums, a, b])
    pairs = ir.VectorType(ir.IntType(16), 2 * lanes)
    name = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}[lanes]
    if madd(lanes):
        kind = ir.FunctionType(words, [pairs] * 2)
        fn = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        return builder.add(sums, builder.call(fn, [builder.bitcast(v, pairs) for v in (a, b)]))
    half = ir.Constant(words, [16] * lanes)
    low = [builder.ashr(builder.shl(v, half), half) for v in (a, b)]
    high = [builder.ashr(v, half) for v in (a, b)]
    return builder.add(sums, builder.add(builder.mul(*low), builder.mul(*high)))


@cache
def madd(lanes: int) -> bool:
    """Whether the processor multiplies and adds up pairs of 16 bits in vectors of so many words."""
    from llvmlite import binding

    has = binding.get_host_cpu_features()
    return bool(has.get({4: "sse2", 8: "avx2", 16: "avx512bw"}[lanes]))


def _tile(
    typing: Any, n: Any, y: Any, y_at: Any, y_row: Any, a: Any, a_at: Any, a_row: Any, a_part: Any, parts: Any, b: Any,
    b_at: Any, words: Any, given: Any, given_at: Any,
) -> Any:  # fmt: skip
    """Of `n` rows, each as wide as a panel: y[r] = given + the sum over parts and words of a[r] · b.

    The arrays are flat; `_at` is the element to begin with, `_row` how far rows are apart. A row of `a` has `parts`,
    `a_part` apart, of `words` words side by side; the panel `b` has them one after the other.
    """
    from llvmlite import ir
    from numba import types

    word = ir.IntType(32).as_pointer()

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(context, builder, types.int32)
        results, left, panel, start = (v.pointer(signature.args[i], args[i], args[i + 1]) for i in (1, 4, 9, 12))
        y_row, a_row, a_part, parts, words = (args[i] for i in (3, 6, 7, 8, 11))
        panel = builder.bitcast(panel, word)

        def write(rows: int) -> None:
            """The code for so many rows."""
            lines = [v.further(left, r, a_row) for r in range(rows)]
            begun = [v.load(start, v.i64(i * v.lanes)) for i in range(VECTORS)]

            def part(_: Any, before: Sequence[Any]) -> list[Any]:
                first, read, *so_far = before
                places = [builder.bitcast(builder.gep(line, [first]), word) for line in lines]

                def step(k: Any, carried: Sequence[Any]) -> list[Any]:
                    read, *sums = carried
                    right = [v.load(panel, builder.add(read, v.i64(i * v.lanes))) for i in range(VECTORS)]
                    new = [builder.add(read, v.i64(VECTORS * v.lanes))]
                    for r, place in enumerate(places):
                        one = v.spread(v.number(place, k))
                        for x, total in zip(right, sums[r * VECTORS :], strict=False):
                            new.append(_added(builder, total, one, x, v.lanes, four=a.dtype.bitwidth == 8))
                    return new

                return [builder.add(first, a_part), *v.loop(words, [read, *so_far], step)]

            _, _, *totals = v.loop(parts, [v.i64(0), v.i64(0), *begun * rows], part)
            for i, total in enumerate(totals):
                v.store(total, v.further(results, i // VECTORS, y_row), v.i64(i % VECTORS * v.lanes))

        cases = [partial(write, rows) for rows in range(1, tall() + 1)]
        v.choose(builder.sub(args[0], v.i64(1)), cases)
        return context.get_dummy_value()

    i = types.int64
    return types.none(i, y, i, i, a, i, i, i, i, b, i, i, given, i), code


tile = Emitted(_tile)


@loops()
def turn_run(x, at, flip, y, to, count):
    """`count` bytes of x from `at` on, signed ones as unsigned ones, to y."""
    source, out = x[at : at + count], y[to : to + count]
    for i in range(out.size):
        out[i] = source[i] ^ flip


@loops()
def fill_run(y, to, count, value):
    """`count` times one value."""
    out = y[to : to + count]
    for i in range(out.size):
        out[i] = value


@loops()
def fill_lines(x, first, flip, pad, image, row, rows, column, columns, y):
    """Rows and columns of an image from `row` and `column` on, `pad` where there are none: y, flat, channels last."""
    c, h, w = (x.shape[1], x.shape[2], x.shape[3]) if first else (x.shape[3], x.shape[1], x.shape[2])
    flat = x.reshape(x.size)
    begin = min(max(-column, 0), columns)
    end = max(min(w - column, columns), begin)
    for r in range(rows):
        to, i = r * columns * c, row + r
        if i < 0 or i >= h:
            fill_run(y, to, columns * c, pad)
            continue
        if begin:
            fill_run(y, to, begin * c, pad)
        if first:
            for channel in range(c):
                line = x[image, channel, i]
                for j in range(begin, end):
                    y[to + j * c + channel] = line[column + j] ^ flip
        else:
            turn_run(flat, ((image * h + i) * w + column + begin) * c, flip, y, to + begin * c, (end - begin) * c)
        if end < columns:
            fill_run(y, to + end * c, (columns - end) * c, pad)


def _finish_vectors(
    typing: Any, s: Any, s_at: Any, factor: Any, factor_at: Any, low: Any, high: Any, zero: Any, out: Any, at: Any,
    count: Any,
) -> Any:  # fmt: skip
    """`count` sums, at least a vector of them: times a factor, between two bounds, rounded, plus the zero point.

    Of what does not fill a vector, the last one does some once more.
    """
    from llvmlite import ir
    from numba import types

    i8, i32, i64, f32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
    lanes = vector_bytes() // 4
    whole = isinstance(s.dtype, types.Integer)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def pointer(array: int, kind: Any) -> Any:
            data = context.make_array(signature.args[array])(context, builder, args[array]).data
            return builder.bitcast(builder.gep(data, [args[array + 1]]), kind.as_pointer())

        def all_of(value: Any) -> Any:
            one = builder.insert_element(ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined), value, i32(0))
            return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(i32, lanes), [0] * lanes))

        def load(place: Any, kind: Any) -> Any:
            value = builder.load(builder.bitcast(place, kind.as_pointer()))
            value.align = 4
            return value

        words, floats = ir.VectorType(i32, lanes), ir.VectorType(f32, lanes)
        sums, factors, to = pointer(0, i32), pointer(2, f32), pointer(7, i8)
        low, high, count = all_of(args[4]), all_of(args[5]), args[9]
        # what is added to the float leaves the number in its last bits
        zero = all_of(builder.sub(args[6], i32(ROUND_BITS)))
        shift = ir.Constant(floats, [float(ROUND)] * lanes)
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        last = builder.sub(count, i64(lanes))
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(i64)
        place = builder.gep(sums, [k])
        value = builder.sitofp(load(place, words), floats) if whole else load(place, floats)
        value = builder.fmul(value, load(builder.gep(factors, [k]), floats))
        value = builder.select(builder.fcmp_ordered(">", value, low), value, low)
        value = builder.select(builder.fcmp_ordered("<", value, high), value, high)
        value = builder.add(builder.bitcast(builder.fadd(value, shift), words), zero)
        few = builder.trunc(value, ir.VectorType(i8, lanes))
        builder.store(few, builder.bitcast(builder.gep(to, [k]), few.type.as_pointer())).align = 1
        then = builder.add(k, i64(lanes))
        near = builder.icmp_signed("<", then, last)
        k.add_incoming(i64(0), before)
        k.add_incoming(builder.select(near, then, last), loop)
        builder.cbranch(builder.icmp_signed("<", k, last), loop, after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    i, f = types.int64, types.float32
    return types.none(s, i, factor, i, f, f, types.int32, out, i, i), code


finish_vectors = Emitted(_finish_vectors)


@loops()
def finish(s, s_at, factor, shift, first, low, high, zero, lanes, out, at, count):
    """`count` sums as whole numbers of few bits: times the factors from `first` on, between two bounds, rounded, plus
    the zero point.
    """
    if count >= lanes:
        finish_vectors(s, s_at, factor, first, low, high, zero, out, at, count)
    else:
        for i in range(count):
            v = min(max(F(s[s_at + i]) * factor[first + i], low), high)
            out[at + i] = np.int32((v + ROUND) - ROUND) + zero


@loops()
def multiply_lines(x, first, flip, pad, kernel, steps, b, start_at, factor, shift, low, high, zero, y, m, height, width,
                   cut, most, by_panels, rows_of_tile, source_type, start, stop):  # fmt: skip
    """Windows without gaps between their columns times panels of weights, finished: y, flat, `m` columns.

    x is (N, H, W, C), or with its channels `first`; the bytes of a border are `pad`. Of the lines, or `cut` windows of
    one at a time, or `by_panels` of the panels, [start, stop) are computed; up to `most` lines at once have what they
    need of the image around them.
    """
    n, h, w, c = x.shape
    if first:
        c, h, w = h, w, c
    kh, kw, sh, sw, dh, top, left = kernel[0], kernel[1], steps[0], steps[1], steps[2], steps[4], steps[5]
    count, words, lanes = b.shape[0], b.shape[2], b.shape[3]
    panels, whole = b.reshape(b.size), b.shape[1] * words * lanes * b.shape[4]
    columns = (min(cut, width) - 1) * sw + kw
    per = b.shape[4]
    # the last words of a window may reach beyond the lines: what is there is multiplied by zeros
    source = np.empty(((most - 1) * sh + (kh - 1) * dh + 1) * columns * c + words * per, source_type.dtype)
    cuts = (width + cut - 1) // cut
    unit, after, begin, end = (0, n * height * cuts, start, stop) if by_panels else (start, stop, 0, count)
    begin_column, end_column = begin * lanes, min(end * lanes, m)
    pitch = (end - begin) * lanes
    sums = np.empty(most * min(cut, width) * pitch, np.int32)
    while unit < after:
        line, j0 = unit // cuts, unit % cuts * cut
        j1 = min(j0 + cut, width)
        image, i = line // height, line % height
        some = min(most, after - unit, height - i) if cuts == 1 else 1
        rows = (some - 1) * sh + (kh - 1) * dh + 1
        across = (j1 - j0 - 1) * sw + kw
        fill_lines(x, first, flip, pad, image, i * sh - top, rows, j0 * sw - left, across, source)
        tiles = (j1 - j0 + rows_of_tile - 1) // rows_of_tile
        for panel in range(begin, end):
            for l in range(some):
                j = j0
                for t in range(tiles):
                    many = (j1 - j + tiles - t - 1) // (tiles - t)
                    tile(
                        many, sums, (l * (j1 - j0) + j - j0) * pitch + (panel - begin) * lanes, pitch,
                        source, (l * sh * across + (j - j0) * sw) * c, sw * c, dh * across * c, kh,
                        panels, panel * whole, words, start_at, panel * lanes,
                    )  # fmt: skip
                    j += many
        to = line * width + j0
        for r in range(some * (j1 - j0)):
            finish(
                sums, r * pitch, factor, shift, begin_column, low, high, zero, lanes // VECTORS, y,
                (to + r) * m + begin_column, end_column - begin_column,
            )  # fmt: skip
        unit += some


@loops()
def finish_floats(s, s_at, factor, shift, first, low, high, zero, lanes, out, at, count):
    """Sums as floats: times a factor."""
    wide()
    o, row = out[at : at + count], s[s_at : s_at + count]
    f = factor[first : first + count]
    for i in range(o.size):
        o[i] = F(row[i]) * f[i]


@loops(AS_WRITTEN)
def finish_biased(s, s_at, factor, shift, first, low, high, zero, lanes, out, at, count):
    """Sums as floats: times a factor, plus a shift."""
    wide()
    o, row = out[at : at + count], s[s_at : s_at + count]
    f, g = factor[first : first + count], shift[first : first + count]
    for i in range(o.size):
        o[i] = F(row[i]) * f[i] + g[i]


@loops()
def finish_sums(s, s_at, factor, shift, first, low, high, zero, lanes, out, at, count):
    """The sums themselves."""
    wide()
    o, row = out[at : at + count], s[s_at : s_at + count]
    for i in range(o.size):
        o[i] = row[i]


KERNELS: dict[str, Loops] = {
    "bytes": multiply_lines,
    "floats": with_names(multiply_lines, "multiply_to_floats", finish=finish_floats),
    "biased": with_names(multiply_lines, "multiply_to_biased", finish=finish_biased),
    "int32": with_names(multiply_lines, "multiply_to_sums", finish=finish_sums),
}


def word_type(w: Any) -> Any:
    """What words are made of for weights less their zero points: bytes where these are, and the processor can."""
    small = not w.size or (w.min() >= -128 and w.max() <= 127)
    return BYTE if four_bytes() and small else PAIR


def packed(w: Any, kind: Any) -> Any:
    """Weights (parts, depth, columns) as panels: (panels, parts, words, columns of one, numbers of a word)."""
    parts, depth, m = w.shape
    per = 4 // kind.itemsize
    words, each = -(-depth // per), VECTORS * vector_bytes() // 4
    count = -(-m // each)
    full = np.zeros((parts, words * per, count * each), np.int8 if kind == BYTE else np.int16)
    full[:, :depth, :m] = w
    turned = full.reshape(parts, words, per, count, each).transpose(3, 0, 1, 4, 2)
    y = aligned(turned.shape, full.dtype, full.nbytes)
    y[...] = turned
    return y


def filled(v: Any, m: int, dtype: Any) -> Any:
    """One number, or one a column, for whole panels."""
    each = VECTORS * vector_bytes() // 4
    y = np.zeros(-(-m // each) * each, dtype)
    y[:m] = v
    return y


def totals(w: Any) -> Any:
    """The sums of columns of weights (parts, depth, columns), negative, for whole panels; modulo 2^32 as int32 is."""
    return filled((-w.sum(axis=(0, 1), dtype=np.int64)).astype(np.int32), w.shape[-1], np.int32)


@lru_cache(maxsize=64)
def nothing(m: int) -> Any:
    """A factor for sums that are taken as they are."""
    return filled(0, m, F)


def limits(zero_point: Any) -> tuple[Any, Any, Any]:
    """Between which numbers a result is held before its zero point is added, and that."""
    zero, dtype = int(zero_point.reshape(-1)[0]), np.iinfo(zero_point.dtype)
    return F(dtype.min - zero), F(dtype.max - zero), np.int32(zero)


def multiply(
    xp: Any, to: str, x: Any, first: bool, flip: int, zero: int, place: tuple[Any, Any, int, int, int], b: Any,
    start: Any, finish: tuple[Any, ...], y: Any, m: int, by_panels: bool,
) -> None:  # fmt: skip
    """All of `multiply_lines`, on the threads that are worth it; `place` is (kernel, steps, images, height, width)."""
    kernel, steps, n, height, width = place
    c = x.shape[1] if first else x.shape[3]
    count, parts, words, lanes, per = b.shape
    (kh, kw), (sh, sw, dh) = kernel.tolist(), steps.tolist()[:3]
    each = 4 // per  # bytes
    rows, columns = tall(), count * lanes
    windows = max(HELD // (4 * columns) // rows, 1) * rows
    if height == kh == kw == 1:
        windows = max(min(windows, HELD // (c * each * sw) // rows * rows), rows)
        windows = max(min(windows, -(-n * width // (8 * rows)) * rows), 4 * rows)
    cut = min(width, windows)
    held = HELD // (((cut - 1) * sw + kw) * c * each)  # lines of the image
    most = max(min(windows // cut, height, (held - (kh - 1) * dh - 1) // sh + 1), 1)
    units = count if by_panels else n * height * -(-width // cut)
    kind = BYTE if per == 4 else PAIR
    seconds = n * height * width * (parts * words * per * columns / rate(kind) + (c * kh + m) / PASS)
    share(
        xp, KERNELS[to],
        (x, first, np.uint8(flip), np.uint8(zero), kernel, steps, b, start, *finish, y, m, height, width, cut, most,
         by_panels, rows, EMPTY[kind]),
        units, max(seconds, b.nbytes / STREAM),
    )  # fmt: skip


EMPTY = {kind: np.empty(0, kind) for kind in (BYTE, PAIR)}


@cache
def rate(kind: Any) -> float:
    """Multiplications a second."""
    return LANES_A_SECOND[kind] * vector_bytes() / 64
