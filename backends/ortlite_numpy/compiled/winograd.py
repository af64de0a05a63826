"""Convolutions with kernels of 3 × 3 by Winograd's minimal filtering F(2 × 2, 3 × 3): 16 products where there are 36.

Tiles of 4 × 4 pixels, two apart, become 16 sums of pixels; each is multiplied by a matrix made of the weights, once a
session; 16 results become 2 × 2 pixels. What one pixel sees it sees here, too, but infinity less infinity is NaN, and
numbers near the largest may overflow on the way: where a result is not finite, the block is computed by lines.

S. Winograd, Arithmetic Complexity of Computations, 1980; A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural
Networks, 2015, https://arxiv.org/abs/1509.09308.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ortlite_numpy.compiled.jit import Emitted, loops
from ortlite_numpy.compiled.products import panels, tile
from ortlite_numpy.compiled.vectors import Vectors
from ortlite_numpy.compiled.windows import bounds, fill_lines, finish, multiply_lines
from ortlite_numpy.record import numpy as np

__all__ = ["multiply_tiles", "no_zero", "tile_panels"]

SIDE = 4  # pixels of a tile; two neighbours share two
POINTS = SIDE * SIDE


def _before(v: Any, d: Sequence[Any]) -> list[Any]:
    """What is multiplied, of four pixels."""
    b = v.builder
    return [b.fsub(d[0], d[2]), b.fadd(d[1], d[2]), b.fsub(d[2], d[1]), b.fsub(d[1], d[3])]


def _after(v: Any, p: Sequence[Any]) -> list[Any]:
    """Two results, of four products."""
    b = v.builder
    return [b.fadd(b.fadd(p[0], p[1]), p[2]), b.fsub(b.fsub(p[1], p[2]), p[3])]


def _both_ways(fn: Any, v: Any, square: Sequence[Sequence[Any]]) -> list[Any]:
    """`fn` of each column, and then of each row of what comes out; row by row."""
    columns = [fn(v, column) for column in zip(*square, strict=True)]
    return [value for row in zip(*columns, strict=True) for value in fn(v, row)]


def _forward(
    typing: Any, count: Any, x: Any, at: Any, row: Any, pixel: Any, y: Any, to: Any, apart: Any
) -> Any:  # fmt: skip
    """`count` vectors of a tile: its rows and pixels so far apart in x, its 16 sums so far `apart` in y, both flat."""
    from numba import types

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(context, builder, x.dtype)
        source, target = v.pointer(x, args[1], args[2]), v.pointer(y, args[5], args[6])
        _, _, _, row, pixel, _, _, apart = args
        lines = [v.further(source, a, row) for a in range(SIDE)]
        seen = [[v.further(line, b, pixel) for b in range(SIDE)] for line in lines]
        targets = [v.further(target, point, apart) for point in range(POINTS)]

        def vector(i: Any, _: Any) -> list[Any]:
            offset = builder.mul(i, v.i64(v.lanes))
            sums = _both_ways(_before, v, [[v.load(place, offset) for place in line] for line in seen])
            for place, value in zip(targets, sums, strict=True):
                v.store(value, place, offset)
            return []

        v.loop(args[0], [], vector)
        return context.get_dummy_value()

    i = types.int64
    return types.none(i, x, i, i, i, y, i, i), code


def _backward(
    typing: Any, across: Any, rows: Any, pixels: Any, x: Any, at: Any, apart: Any, bias: Any, bias_at: Any, z: Any,
    added: Any, y: Any, to: Any, row: Any, pixel: Any, low: Any, high: Any,
) -> Any:  # fmt: skip
    """`rows` by `pixels` (1 or 2) results of `across` channels, at `to` in y, of 16 products, so far `apart` in x.

    A bias is added, and z, which is like y, where `added` is 1. No result is below `low` or above `high`. Not 0 where
    one was not a finite number before z was added.
    """
    from llvmlite import ir
    from numba import types

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(context, builder, y.dtype)
        across, rows, pixels, added = (args[i] for i in (0, 1, 2, 9))
        source, shift = v.pointer(x, args[3], args[4]), v.pointer(bias, args[6], args[7])
        more, target = v.pointer(z, args[8], builder.mul(args[11], added)), v.pointer(y, args[10], args[11])
        apart, row, pixel, limits = args[5], args[12], args[13], (v.spread(args[14]), v.spread(args[15]))
        nowhere, odd = ir.Constant(v.mask_type, None), v.zero
        inside = [
            builder.and_(builder.icmp_signed("<", v.i64(a), rows), builder.icmp_signed("<", v.i64(b), pixels))
            for a in range(2)
            for b in range(2)
        ]
        places = [builder.add(builder.mul(row, v.i64(a)), builder.mul(pixel, v.i64(b))) for a in (0, 1) for b in (0, 1)]
        for column in (v.i64(0), v.i64(v.lanes)):
            mask = v.first(builder.sub(across, column))
            given = [v.load(v.further(source, point, apart), column) for point in range(POINTS)]
            square = [given[SIDE * a : SIDE * a + SIDE] for a in range(SIDE)]
            extra = v.load(shift, column, mask)
            for result, place, there in zip(_both_ways(_after, v, square), places, inside, strict=True):
                which = builder.select(there, mask, nowhere)
                total = builder.fadd(result, extra)
                odd = builder.fadd(odd, builder.fsub(total, total))
                seen = builder.select(builder.icmp_signed(">", added, v.i64(0)), which, nowhere)
                total = builder.fadd(total, v.load(more, builder.add(builder.mul(place, added), column), seen))
                v.store(v.held(total, *limits), target, builder.add(place, column), which)
        bits = builder.bitcast(builder.fcmp_unordered("uno", odd, odd), ir.IntType(v.lanes))
        return builder.zext(bits, v.i64)

    i, dtype = types.int64, y.dtype
    return types.int64(i, i, i, x, i, i, bias, i, z, i, y, i, i, i, dtype, dtype), code


forward, backward = Emitted(_forward), Emitted(_backward)


@loops()
def fill_weights(w, y):
    """The weights (M, C, 3, 3) as the panels (count, 9 · C, lanes) that lines are multiplied by."""
    count, depth, lanes = y.shape
    m, c = w.shape[0], w.shape[1]
    for panel in range(count):
        for row in range(depth):
            for lane in range(lanes):
                k = panel * lanes + lane
                y[panel, row, lane] = w[k, row % c, row // c // 3, row // c % 3] if k < m else 0


@loops()
def multiply_tiles(x, w, b, bias, z, kind, alpha, beta, y, top, left, height, width, blocks, by_panels, tall, deep,
                   start, stop):  # fmt: skip
    """A convolution of x (N, H, W, C) by w (M, C, 3, 3), whose `tile_panels` are b (count, 16, C, lanes).

    Of the `blocks` of rows of tiles of each image or, `by_panels`, of the panels, [start, stop) are computed. The rest
    is as for `windows.multiply_lines`.
    """
    n, c = x.shape[0], x.shape[3]
    count, lanes = b.shape[0], b.shape[3]
    m = y.size // (n * height * width)
    down, along = (height + 1) // 2, (width + 1) // 2  # tiles
    most, columns = (down + blocks - 1) // blocks, 2 * along + 2
    source = np.empty((2 * most + 2) * columns * c, x.dtype)
    apart = most * along
    sums, results = np.empty(POINTS * apart * c, x.dtype), np.empty(POINTS * apart * lanes, x.dtype)
    nothing, matrices = np.zeros(lanes, x.dtype), b.reshape(b.size)
    low, high = bounds(y, kind, alpha, beta)
    lowest, highest = y.dtype.type(-np.inf), y.dtype.type(np.inf)
    first, after, begin, end = (0, n * blocks, start, stop) if by_panels else (start, stop, 0, count)
    for block in range(first, after):
        image, part = block // blocks, block % blocks
        t0, t1 = part * down // blocks, (part + 1) * down // blocks
        tiles, odd = (t1 - t0) * along, 0
        fill_lines(x, False, image, 2 * t0 - top, 2 * (t1 - t0) + 2, -left, columns, source)
        for t in range(tiles):
            at = (t // along * columns + t % along) * 2 * c
            forward(c * 2 // lanes, source, at, columns * c, c, sums, t * c, apart * c)
        for panel in range(begin, end):
            for point in range(POINTS):
                right = (panel * POINTS + point) * c * lanes
                for k in range(0, c, deep):
                    many, row, steps = min(deep, c - k), 0, (tiles + tall - 1) // tall
                    for step in range(steps):
                        rows = (tiles - row + steps - step - 1) // (steps - step)
                        at, to = (point * apart + row) * c + k, (point * apart + row) * lanes
                        given, given_at, given_row = (nothing, 0, 0) if k == 0 else (results, to, lanes)
                        tile(
                            rows, lanes, results, to, lanes, sums, at, c, 0, 1, matrices, right + k * lanes, many,
                            c * lanes, given, given_at, given_row, z, 0, 0, lowest, highest,
                        )  # fmt: skip
                        row += rows
            column = panel * lanes
            for t in range(tiles):
                i, j = 2 * (t0 + t // along), t % along * 2
                odd |= backward(
                    min(m - column, lanes), min(height - i, 2), min(width - j, 2), results, t * lanes, apart * lanes,
                    bias, column, z, 1 if z.size else 0, y, ((image * height + i) * width + j) * m + column, width * m,
                    m, low, high,
                )  # fmt: skip
        line, lines = image * height + 2 * t0, min(2 * t1, height) - 2 * t0
        if odd != 0:
            weights = np.empty((count, 9 * c, lanes), x.dtype)
            fill_weights(w, weights)
            kernel, way = np.array([3, 3]), np.array([1, 1, 1, 1, top, left])
            one = x[image : image + 1]
            whole = height * width * m
            more = z[image * whole : (image + 1) * whole] if z.size else z
            done, line = y[image * whole : (image + 1) * whole], line - image * height
            here, there = (begin, end) if by_panels else (line, line + lines)
            multiply_lines(
                one, False, 1, kernel, way, weights, bias, more, kind, alpha, beta, done, height, width, width, 1,
                by_panels, tall, deep, here, there,
            )  # fmt: skip
        else:
            done = y[line * width * m : (line + lines) * width * m]
            finish(done, m, begin * lanes, min(end * lanes, m), kind, alpha, beta)


def no_zero(w: Any) -> bool:
    """Whether no weight is zero: of a pixel that a result does not see, a large one, tiles would leave a trace."""
    return bool(np.all(w != 0))


def tile_panels(w: Any) -> Any:
    """The weights (M, C, 3, 3) as panels (count, 16, C, lanes), by which the sums of tiles are multiplied."""
    g = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    m, c = w.shape[:2]
    points = (w.reshape(m * c, 9).astype(np.float64) @ np.kron(g, g).T).astype(w.dtype)  # (M · C, 16)
    return np.stack([panels(np.ascontiguousarray(point.reshape(m, c).T)) for point in points.T], axis=1)
