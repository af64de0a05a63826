"""Depthwise convolutions with channels last: tiles of some pixels by some channels, which stay in registers.

Of all that the pixels of a tile see of the image, each vector is read once for each element of the kernel; the weights
of the element once for all pixels of the tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ortlite_numpy.compiled.functions import held
from ortlite_numpy.compiled.jit import Emitted, loops
from ortlite_numpy.compiled.vectors import Vectors
from ortlite_numpy.compiled.windows import bounds, finish

__all__ = ["depthwise"]

TALL = 6  # pixels of a tile of two vectors: twelve of sixteen registers
WIDE = 8  # vectors of a tile of one pixel


def _taps(
    typing: Any, pixels: Any, across: Any, y: Any, y_at: Any, y_step: Any, x: Any, x_at: Any, x_step: Any, x_row: Any,
    x_column: Any, rows: Any, columns: Any, w: Any, w_at: Any, w_row: Any, w_column: Any, bias: Any, bias_at: Any,
    low: Any, high: Any,
) -> Any:  # fmt: skip
    """Of `pixels`, `across` channels: y = bias + the sum over `rows` and `columns` of the kernel of x · w.

    The arrays are flat; `_at` is the element to begin with, `_step` how far pixels are apart, `_row` and `_column` what
    the next row and column of the kernel see. No result is below `low` or above `high`.
    """
    from numba import types

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(context, builder, y.dtype)
        pixels, across, y_step, x_step, x_row, x_column, rows, columns = (args[i] for i in (0, 1, 4, 7, 8, 9, 10, 11))
        to, image, weights, shift = (v.pointer(signature.args[i], args[i], args[i + 1]) for i in (2, 5, 12, 16))
        w_row, w_column, bounds = args[14], args[15], (v.spread(args[18]), v.spread(args[19]))

        def write(count: int, masks: Sequence[Any]) -> None:
            """The code for so many pixels, and a vector for each mask."""
            sources = [v.further(image, p, x_step) for p in range(count)]
            places = [v.i64(i * v.lanes) for i in range(len(masks))]

            def row(a: Any, before: Sequence[Any]) -> list[Any]:
                x_first, w_first = builder.mul(a, x_row), builder.mul(a, w_row)

                def column(b: Any, sums: Sequence[Any]) -> list[Any]:
                    x_from = builder.add(x_first, builder.mul(b, x_column))
                    w_from = builder.add(w_first, builder.mul(b, w_column))
                    at = [builder.add(w_from, place) for place in places]
                    factors = [v.load(weights, i, mask) for i, mask in zip(at, masks, strict=True)]
                    seen = [
                        v.load(source, builder.add(x_from, place), mask)
                        for source in sources
                        for place, mask in zip(places, masks, strict=True)
                    ]
                    return [v.add_product(one, f, s) for one, f, s in zip(seen, factors * count, sums, strict=True)]

                return v.loop(columns, before, column)

            begin = [v.load(shift, place, mask) for place, mask in zip(places, masks, strict=True)]
            totals = iter(v.loop(rows, begin * count, row))
            for p in range(count):
                for place, mask in zip(places, masks, strict=True):
                    v.store(v.held(next(totals), *bounds), v.further(to, p, y_step), place, mask)

        some = (v.first(across),)
        cases = [partial(write, n, masks) for masks in ((None, None), some) for n in range(1, TALL + 1)]
        narrow = builder.icmp_signed("<", across, v.i64(2 * v.lanes))
        number = builder.add(builder.sub(pixels, v.i64(1)), builder.select(narrow, v.i64(TALL), v.i64(0)))
        wide = builder.icmp_signed("==", across, v.i64(WIDE * v.lanes))
        v.choose(
            builder.select(wide, v.i64(2 * TALL), number),
            [*cases, partial(write, 1, (None,) * WIDE)],
        )
        return context.get_dummy_value()

    i, dtype = types.int64, y.dtype
    return types.none(i, i, y, i, i, x, i, i, i, i, i, i, w, i, i, i, bias, i, dtype, dtype), code


taps = Emitted(_taps)


@loops()
def seen(first, step, count, size):
    """Of `count` places from `first` on, `step` apart, those that lie in [0, `size`): from which to which."""
    lo = min(max((step - 1 - first) // step, 0), count)
    return lo, max(min((size - 1 - first) // step + 1, count), lo)


@loops()
def depthwise(x, w, bias, steps, size, lanes, most, by_channels, kind, alpha, beta, y, start, stop):
    """A depthwise convolution of x (N · H, W, C) by w (kh, kw, C) to y (N · oh, ow, C).

    Of the rows of all images or, `by_channels`, of the pairs of vectors of `lanes` channels, [start, stop) are
    computed. `steps` are strides, dilations and the pads before, each for rows and columns; `size` are the heights of
    the images before and after. Up to `most` rows at once stay in the cache while their channels go by. The activation
    is as for `activate`.
    """
    sh, sw, dh, dw, top, left = steps[0], steps[1], steps[2], steps[3], steps[4], steps[5]
    height, oh = size[0], size[1]
    kh, kw, channels = w.shape
    width, ow = x.shape[1], y.shape[1]
    source, weights, out, none = x.reshape(x.size), w.reshape(w.size), y.reshape(y.size), y[:0, 0, 0]
    low, high = bounds(y, kind, none, alpha, beta)
    first = min(max((left + sw - 1) // sw, 0), ow)  # of the pixels that see all columns of the kernel, and the end
    last = max(min((width - 1 + left - (kw - 1) * dw) // sw + 1, ow), first)
    c0, c1, line, after = 0, channels, start, stop
    if by_channels:
        c0, c1, line, after = 2 * lanes * start, min(2 * lanes * stop, channels), 0, y.shape[0]
    while line < after:
        until = min(line + most, after)
        for inner in range(2):
            c = c0
            while c < c1:
                across = 2 * lanes
                if not inner and c1 - c >= WIDE * lanes:
                    across = WIDE * lanes
                elif c1 - c < across:
                    across = min(c1 - c, lanes)
                for r in range(line, until):
                    row, i = r // oh * height, r % oh * sh - top
                    a0, a1 = seen(i, dh, kh, height)
                    j, end = (first, last) if inner else (0, ow)
                    tiles = (last - first + TALL - 1) // TALL
                    while j < end:
                        if not inner and j == first:
                            j = last
                            continue
                        b0, b1, many = 0, kw, 1
                        if inner:
                            many = (end - j + tiles - 1) // tiles
                            tiles -= 1
                        else:
                            b0, b1 = seen(j * sw - left, dw, kw, width)
                        to = (r * ow + j) * channels + c
                        if a0 == a1 or b0 == b1:
                            for pixel in range(many):
                                for k in range(across):
                                    out[to + pixel * channels + k] = held(bias[c + k], low, high)
                        else:
                            at = ((row + i + a0 * dh) * width + j * sw - left + b0 * dw) * channels + c
                            taps(
                                many, across, out, to, channels, source, at, sw * channels, dh * width * channels,
                                dw * channels, a1 - a0, b1 - b0, weights, (a0 * kw + b0) * channels + c, kw * channels,
                                channels, bias, c, low, high,
                            )  # fmt: skip
                        j += many
                c += across
        done = out[line * ow * channels : until * ow * channels]
        finish(done, none, 0, channels, c0, c1, kind, alpha, beta)
        line = until
