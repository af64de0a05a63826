"""Depthwise convolutions with channels last: tiles of some pixels by some channels, which stay in registers.

Of all that the pixels of a tile see of the image, each vector is read once for each element of the kernel; the weights
of the element once for all pixels of the tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

from ortlite_numpy.compiled.functions import held
from ortlite_numpy.compiled.jit import Emitted, loops
from ortlite_numpy.compiled.vectors import Vectors, vector_bytes
from ortlite_numpy.compiled.windows import bounds, finish

__all__ = ["convolve", "depthwise", "vectors"]

TALL, WIDE = 6, 8  # pixels of a tile, and vectors of one that has a single pixel
# Columns of kernels that have code of their own, and how many of them further on what the next pixel sees begins.
SIDES = (3, 1), (5, 1), (7, 1), (3, 2), (5, 2)
WHOLE, PART, SIDE, LONE = 0, 1, 2, 2 + len(SIDES)  # kinds of tiles: all vectors, one of them or less, and see above


@cache
def vectors() -> int:
    """Of a tile of several pixels: with AVX-512 there are registers for two and the weights of a row."""
    return 2 if vector_bytes() == 64 else 1


def _taps(
    typing: Any, kind: Any, pixels: Any, across: Any, y: Any, y_at: Any, y_step: Any, x: Any, x_at: Any, x_step: Any,
    x_row: Any, x_column: Any, rows: Any, columns: Any, w: Any, w_at: Any, w_row: Any, w_column: Any, bias: Any,
    bias_at: Any, low: Any, high: Any,
) -> Any:  # fmt: skip
    """Of `pixels`, `across` channels: y = bias + the sum over `rows` and `columns` of the kernel of x · w.

    The arrays are flat; `_at` is the element to begin with, `_step` how far pixels are apart, `_row` and `_column` what
    the next row and column of the kernel see. No result is below `low` or above `high`.
    """
    from numba import types

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(context, builder, y.dtype)
        kind, pixels, across, y_step, x_step, x_row, x_column = (args[i] for i in (0, 1, 2, 5, 8, 9, 10))
        rows, columns, w_row, w_column, bounds = *(args[i] for i in (11, 12, 15, 16)), tuple(map(v.spread, args[19:21]))
        to, image, weights, shift = (v.pointer(signature.args[i], args[i], args[i + 1]) for i in (3, 6, 13, 17))

        def read(base: Any, at: Any, masks: Sequence[Any]) -> list[Any]:
            return [v.load(base, builder.add(at, v.i64(i * v.lanes)), mask) for i, mask in enumerate(masks)]

        def add(sums: list[Any], p: int, seen: Sequence[Any], factors: Sequence[Any]) -> None:
            for i, (one, factor) in enumerate(zip(seen, factors, strict=True), p * len(seen)):
                sums[i] = v.add_product(one, factor, sums[i])

        def write(count: int, masks: Sequence[Any], side: int = 0, stride: int = 1) -> None:
            """The code for so many pixels, and a vector for each mask."""
            steps = [builder.mul(x_step, v.i64(p)) for p in range(count)]
            beside = [builder.mul(x_column, v.i64(b)) for b in range(stride * (count - 1) + side)]
            factor_at = [builder.mul(w_column, v.i64(b)) for b in range(side)]

            def row(_: Any, before: Sequence[Any]) -> list[Any]:
                x_first, w_first, *sums = before
                if side:
                    factors = [read(weights, builder.add(w_first, at), masks) for at in factor_at]
                    for q, at in enumerate(beside):
                        seen = read(image, builder.add(x_first, at), masks)
                        for p in range(count):
                            if 0 <= (b := q - stride * p) < side:
                                add(sums, p, seen, factors[b])
                else:
                    _, _, *sums = v.loop(columns, before, column)
                return [builder.add(x_first, x_row), builder.add(w_first, w_row), *sums]

            def column(_: Any, carried: Sequence[Any]) -> list[Any]:
                x_from, w_from, *sums = carried
                factors = read(weights, w_from, masks)
                for p, at in enumerate(steps):
                    add(sums, p, read(image, builder.add(x_from, at), masks), factors)
                return [builder.add(x_from, x_column), builder.add(w_from, w_column), *sums]

            start = [v.i64(0), v.i64(0), *read(shift, v.i64(0), masks) * count]
            _, _, *totals = v.loop(rows, start, row)
            for i, total in enumerate(totals):
                p, which = divmod(i, len(masks))
                v.store(v.held(total, *bounds), v.further(to, p, y_step), v.i64(which * v.lanes), masks[which])

        whole = (None,) * vectors()
        kinds: list[Any] = [(whole,), ((v.first(across),),), *((whole, *side) for side in SIDES)]
        cases = [partial(write, n, *which) for which in kinds for n in range(1, TALL + 1)]
        number = builder.add(builder.mul(kind, v.i64(TALL)), builder.sub(pixels, v.i64(1)))
        v.choose(number, [*cases, partial(write, 1, (None,) * WIDE)])
        return context.get_dummy_value()

    i, dtype = types.int64, y.dtype
    return types.none(i, i, i, y, i, i, x, i, i, i, i, i, i, w, i, i, i, bias, i, dtype, dtype), code


taps = Emitted(_taps)


@loops()
def seen(first, step, count, size):
    """Of `count` places from `first` on, `step` apart, those that lie in [0, `size`): from which to which."""
    lo = min(max((step - 1 - first) // step, 0), count)
    return lo, max(min((size - 1 - first) // step + 1, count), lo)


@loops()
def depthwise(x, w, bias, steps, size, lanes, many, most, by_channels, kind, alpha, beta, y, start, stop):
    """A depthwise convolution of x (N · H, W, C) by w (kh, kw, C) to y (N · oh, ow, C).

    Of the rows of all images or, `by_channels`, of blocks of them, `many` vectors of `lanes`, [start, stop) are
    computed. `steps` are strides, dilations and the pads before, each for rows and columns; `size` are the heights of
    the images before and after. Up to `most` rows at once stay in the cache while their channels go by. The activation
    is as for `activate`.
    """
    rows, width, channels = y.shape
    line, after, c0, c1 = start, stop, 0, channels
    if by_channels:
        line, after, c0, c1 = 0, rows, many * lanes * start, min(many * lanes * stop, channels)
    out = y.reshape(y.size)
    while line < after:
        until = min(line + most, after)
        convolve(x, w, bias, steps, size, lanes, many, c0, c1, line, until, kind, alpha, beta, out, 0, width, channels)
        line = until


@loops()
def convolve(
    x, w, bias, steps, size, lanes, many, c0, c1, line, until, kind, alpha, beta, out, begin, ow, apart
):  # fmt: skip
    """Channels [c0, c1) of rows [line, until) of that, `ow` pixels each, `apart` in `out`, which is flat, from `begin`
    on.
    """
    sh, sw, dh, dw, top, left = steps[0], steps[1], steps[2], steps[3], steps[4], steps[5]
    height, oh, block = size[0], size[1], many * lanes
    kh, kw, channels = w.shape
    _, width, beside = x.shape
    source, weights = x.reshape(x.size), w.reshape(w.size)
    low, high = bounds(out, kind, alpha, beta)
    first = min(max((left + sw - 1) // sw, 0), ow)  # of the pixels that see all columns of the kernel, and the end
    last = max(min((width - 1 + left - (kw - 1) * dw) // sw + 1, ow), first)
    usual = WHOLE
    for i, (side, stride) in enumerate(SIDES):
        if kw == side and sw == stride * dw:
            usual = SIDE + i
    for inner in range(2):
        c = c0
        while c < c1:
            tile, across = usual if inner else WHOLE, block
            if not inner and c1 - c >= WIDE * lanes:
                tile, across = LONE, WIDE * lanes
            elif c1 - c < block:
                tile, across = PART, min(c1 - c, lanes)
            for r in range(line, until):
                row, i = r // oh * height, r % oh * sh - top
                a0, a1 = seen(i, dh, kh, height)
                j, end = (first, last) if inner else (0, ow)
                tiles = (last - first + TALL - 1) // TALL
                while j < end:
                    if not inner and first <= j < last:
                        j = last
                        continue
                    b0, b1, pixels = 0, kw, 1
                    if inner:
                        pixels = (end - j + tiles - 1) // tiles
                        tiles -= 1
                    else:
                        b0, b1 = seen(j * sw - left, dw, kw, width)
                    to = begin + (r * ow + j) * apart + c
                    if a0 == a1 or b0 == b1:
                        for pixel in range(pixels):
                            for k in range(across):
                                out[to + pixel * apart + k] = held(bias[c + k], low, high)
                    else:
                        at = ((row + i + a0 * dh) * width + j * sw - left + b0 * dw) * beside + c
                        taps(
                            tile, pixels, across, out, to, apart, source, at, sw * beside, dh * width * beside,
                            dw * beside, a1 - a0, b1 - b0, weights, (a0 * kw + b0) * channels + c, kw * channels,
                            channels, bias, c, low, high,
                        )  # fmt: skip
                    j += pixels
            c += across
    done = out[begin + line * ow * apart : begin + until * ow * apart]
    finish(done, apart, c0, c1, kind, alpha, beta)
