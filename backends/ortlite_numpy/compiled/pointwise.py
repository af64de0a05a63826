"""A convolution by points, which widens, and a depthwise one of what it gives: panel by panel of channels.

What the first makes of a panel, of some lines of the image, is read by the second while it is in the cache, and by the
thread that made it. All channels would not fit there: networks widen so that a pixel has six times as many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from ortlite.derived import Derived, at_once, lasting
from ortlite.ops.contrib.fused import parameters
from ortlite.schema import OWN
from ortlite_numpy import conv as dense
from ortlite_numpy.compiled import conv, products
from ortlite_numpy.compiled.depthwise import convolve, vectors
from ortlite_numpy.compiled.jit import loops, most_threads, own, share
from ortlite_numpy.compiled.products import tile
from ortlite_numpy.compiled.table import FLOATS, Call, both, override
from ortlite_numpy.compiled.vectors import vector_bytes
from ortlite_numpy.compiled.windows import HELD, bounds, finish
from ortlite_numpy.record import numpy as np

SCRATCH = 1 << 16  # elements between the two, which stay in the cache
LARGE = 1 << 19  # elements between the two from which on the cache does not help
TWICE = 8  # lines that a strip makes for each that the strip before has made, too
EVEN = 6  # units for each thread, below which they had better be as many for each


@loops()
def multiply_panel(x, at, rows, depth, b, right, width, bias, column, kind, alpha, beta, y, across, tall, deep):
    """An activation of the product of so many rows of x, which is flat, from `at` on, and the panel of b at `right`.

    Of its `width` columns the first are made, `across` of them.
    """
    low, high = bounds(y, kind, alpha, beta)
    lowest, highest = y.dtype.type(-np.inf), y.dtype.type(np.inf)
    tiles = (rows + tall - 1) // tall
    for k in range(0, depth, deep):
        many = min(deep, depth - k)
        least, most = (low, high) if k + many == depth else (lowest, highest)
        row = 0
        for t in range(tiles):
            n = (rows - row + tiles - t - 1) // (tiles - t)
            given, given_at, apart = (bias, column, 0) if k == 0 else (y, row * across, across)
            tile(
                n, across, y, row * across, across, x, at + row * depth + k, depth, 0, 1, b, right + k * width, many,
                depth * width, given, given_at, apart, y, 0, 0, least, most,
            )  # fmt: skip
            row += n
    finish(y[: rows * across], across, 0, across, kind, alpha, beta)


@loops()
def widen_and_convolve(
    x, b, bias, kind, alpha, beta, w, shift, steps, last_kind, last_alpha, last_beta, strips, lanes, many, tall, deep,
    y, start, stop,
):  # fmt: skip
    """Depthwise convolution by w (panels, kh, kw, width) of an activation of x (N, H, W, C) by panels b (…, C, width).

    The result y is (N, oh, ow, M). Of the panels of each of so many `strips` of its lines, [start, stop) are computed.
    """
    _, height, across, depth = x.shape
    _, oh, ow, m = y.shape
    count, kh, _, width = w.shape
    sh, dh, top = steps[0], steps[2], steps[4]
    source, panels, out = x.reshape(x.size), b.reshape(b.size), y.reshape(y.size)
    lines = ((oh + strips - 1) // strips - 1) * sh + (kh - 1) * dh + 1  # that a strip sees at most
    wide = np.empty(min(lines, height) * across * width, y.dtype)
    done = np.empty(0 if last_kind == HELD else (oh + strips - 1) // strips * ow * width, y.dtype)
    here, size = steps.copy(), np.empty(2, np.int64)
    for unit in range(start, stop):
        panel, strip, image = unit % count, unit // count % strips, unit // count // strips
        o0, o1 = oh * strip // strips, oh * (strip + 1) // strips
        i0 = min(max(o0 * sh - top, 0), height)
        i1 = max(min((o1 - 1) * sh - top + (kh - 1) * dh + 1, height), i0)
        rows, columns = (i1 - i0) * across, min(m - panel * width, width)
        seen = max(i1 - i0, 1)  # of no lines, where a strip sees pads alone, no array can be made
        made = wide[: seen * across * columns]
        multiply_panel(
            source, (image * height + i0) * across * depth, rows, depth, panels, panel * depth * width, width, bias,
            panel * width, kind, alpha, beta, made, columns, tall, deep,
        )  # fmt: skip
        here[4], size[0], size[1] = top + i0 - o0 * sh, i1 - i0, o1 - o0
        begin, each = (image * oh + o0) * ow * m + panel * width, (o1 - o0) * ow
        if last_kind == HELD:
            to, first, apart = out, begin, m
        else:  # an activation takes less time where it is of one stretch
            to, first, apart = done[: each * columns], 0, columns
        convolve(
            made.reshape((seen, across, columns)), w[panel], shift[panel * width :], here, size, lanes, many, 0,
            columns, 0, o1 - o0, last_kind, last_alpha, last_beta, to, first, ow, apart,
        )  # fmt: skip
        if last_kind != HELD:
            for pixel in range(each):
                row = done[pixel * columns : (pixel + 1) * columns]
                place = out[begin + pixel * m : begin + pixel * m + columns]
                for c in range(columns):
                    place[c] = row[c]


def panels_last(W: Any) -> Any:
    """Weights (M, 1, kh, kw) of a depthwise convolution in panels of channels (count, kh, kw, width), 0 for those that
    are missing.
    """
    m, _, kh, kw = W.shape
    width = products.width(W.dtype)
    count = -(-m // width)
    result = np.zeros((kh, kw, count * width), W.dtype)
    result[:, :, :m] = conv.last(W)
    return np.ascontiguousarray(result.reshape(kh, kw, count, width).transpose(2, 0, 1, 3))


def _at_once(
    xp: Any, X: Any, W: Any, V: Any, B: Any, C: Any, first: tuple[str, Any], second: tuple[str, Any], auto_pad: str,
    windows: tuple[Any, ...], derived: Any,
) -> Any:  # fmt: skip
    """Both by one kernel; NotImplemented for what it does not take."""
    given = [v for v in (B, C) if v is not None]
    if X.ndim != 4 or X.dtype.char not in "fd" or any(v.dtype != X.dtype for v in (W, V, *given)) or 0 in X.shape:
        return NotImplemented
    m = W.shape[0]
    fits = W.shape == (m, X.shape[1], 1, 1) and V.ndim == 4 and V.shape[:2] == (m, 1) and lasting(derived, W)
    kind, last_kind = (conv.kind_of(name, parameters(name, params), X.dtype) for name, params in (first, second))
    if not fits or kind is None or last_kind is None or any(v.shape != (m,) for v in given):
        return NotImplemented
    x = own(dense.channels_last(X))
    n, height, width, _ = x.shape
    as_keys = (None if v is None else tuple(v) for v in windows)
    out, steps, work = conv.placed((n, m, height, width), V.shape, auto_pad, m, None, *as_keys)
    if not work:
        return NotImplemented
    b = derived(conv.weight_panels, W, 1)
    (kh, _), count, threads = V.shape[2:], len(b), most_threads(xp)
    down, reach = int(steps[0]), (kh - 1) * int(steps[2]) + 1
    most = max((SCRATCH // (width * b.shape[2]) - reach) // down + 1, -(-TWICE * (reach - down) // down), 1)
    if min((most - 1) * down + reach, height) * width * b.shape[2] > LARGE:
        return NotImplemented
    strips = -(-out[0] // most)
    if n * count * strips % threads and n * count * strips < EVEN * threads:
        strips = min(-(-strips // threads) * threads, out[0])
    y = np.empty((n, *out, m), X.dtype)
    tall, deep, _ = products.sizes()
    args = (
        x, b, derived(products.filled, B, m, X.dtype), *kind, derived(panels_last, V),
        derived(products.filled, C, m, X.dtype), steps, *last_kind, strips, vector_bytes() // X.itemsize, vectors(),
        tall, deep, y,
    )  # fmt: skip
    seconds = m * prod(x.shape) * X.itemsize / (2 * products.RATE) + work * conv.DEPTHWISE
    share(xp, widen_and_convolve, args, n * strips * count, seconds)
    return dense.channels_first(y)


def _examples(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    x, w, v = (
        np.zeros((1, 3, 3, 2), dtype).transpose(0, 3, 1, 2),
        np.zeros((3, 2, 1, 1), dtype),
        np.zeros((3, 1, 2, 2), dtype),
    )
    yield (x, w, v), {"derived": Derived([w, v])}


_conv = both(conv.fused_conv, dense.fused_conv)


@override((OWN, "PointwiseDepthwiseConv", 1), examples=_examples, dtypes=FLOATS)
def pointwise_depthwise_conv(
    xp: Any,
    X: Any,
    W: Any,
    V: Any,
    B: Any = None,
    C: Any = None,
    *,
    activation: str = "",
    activation_params: Any = None,
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    last_activation: str = "",
    last_activation_params: Any = None,
    pads: Any = None,
    strides: Any = None,
    derived: Any = at_once,
) -> Any:
    """By one kernel, or one after the other."""
    first, second = (activation, activation_params), (last_activation, last_activation_params)
    y = _at_once(xp, X, W, V, B, C, first, second, auto_pad, (strides, dilations, pads), derived)
    if y is not NotImplemented:
        return y
    wide = _conv(xp, X, W, B, activation=activation, activation_params=activation_params, derived=derived)
    if wide is NotImplemented:
        return NotImplemented
    return _conv(
        xp, wide, V, C, activation=last_activation, activation_params=last_activation_params, auto_pad=auto_pad,
        dilations=dilations, group=V.shape[0], pads=pads, strides=strides, derived=derived,
    )  # fmt: skip
