"""Convolutions of bytes: those without groups as products of windows and panels, depthwise ones channel by channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

from ortlite.derived import at_once
from ortlite_numpy import conv as dense
from ortlite_numpy import quant
from ortlite_numpy.compiled import integers
from ortlite_numpy.compiled.conv import FEW_WINDOWS, TURNED, placed
from ortlite_numpy.compiled.integers import finish, finish_sums
from ortlite_numpy.compiled.jit import Emitted, Loops, loops, own, share, with_names
from ortlite_numpy.compiled.table import Call, override
from ortlite_numpy.compiled.vectors import Vectors, vector_bytes
from ortlite_numpy.record import Traced, opaque
from ortlite_numpy.record import numpy as np

F = np.float32
BYTES = ("uint8", "int8")
MULTIPLY = 3e-11  # seconds, of a depthwise convolution
PIXELS = 8  # side by side, whose sums stay in registers


@loops()
def float_run(x, at, flip, zero, y, to, count):
    """`count` bytes of x from `at` on, less their zero point, as floats."""
    source, out = x[at : at + count], y[to : to + count]
    for i in range(out.size):
        out[i] = F(np.int32(source[i] ^ flip) - zero)


def _tap(
    typing: Any, n: Any, y: Any, y_at: Any, y_row: Any, x: Any, x_at: Any, x_step: Any, places: Any, w: Any, rows: Any,
    w_at: Any, w_row: Any, count: Any, bias: Any, bias_at: Any,
) -> Any:  # fmt: skip
    """A vector of channels of `n` pixels: y = bias + the sum over `count` places of x, each times its row of w."""
    from numba import types

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = Vectors(context, builder, y.dtype)
        n, y_step, x_step, w_row, count = (args[i] for i in (0, 3, 6, 11, 12))
        to, image, weights, shift = (
            v.pointer(signature.args[i], args[i], args[at]) for i, at in ((1, 2), (4, 5), (8, 10), (13, 14))
        )
        place_of, row_of = (v.pointer(signature.args[i], args[i], v.i64(0)) for i in (7, 9))
        begun = v.load(shift, v.i64(0))

        def write(pixels: int) -> None:
            steps = [builder.mul(x_step, v.i64(p)) for p in range(pixels)]

            def add(k: Any, sums: Sequence[Any]) -> list[Any]:
                factor = v.load(weights, builder.mul(v.number(row_of, k), w_row))
                place = v.number(place_of, k)
                seen = [v.load(image, builder.add(place, step)) for step in steps]
                return [v.add_product(one, factor, total) for one, total in zip(seen, sums, strict=True)]

            for p, total in enumerate(v.loop(count, [begun] * pixels, add, perhaps=True)):
                v.store(total, v.further(to, p, y_step), v.i64(0))

        v.choose(builder.sub(n, v.i64(1)), [partial(write, pixels) for pixels in range(1, PIXELS + 1)])
        return context.get_dummy_value()

    i = types.int64
    return types.none(i, y, i, i, x, i, i, places, w, rows, i, i, i, bias, i), code


tap = Emitted(_tap)


@loops()
def depthwise_lines(x, flip, zero_x, w, bias, steps, size, factor, shift, low, high, zero, lanes, y, start, stop):
    """Rows [start, stop), counted through all images, of a depthwise convolution of x (N · H, W, C), channels last.

    The rows of the image that a row of the result needs stay as floats, which hold the sums exactly, without the zero
    point, which makes zeros of a border. w is (kh · kw, C); `size` are the heights before and after, and kh and kw.
    """
    sh, sw, dh, dw, top, left = steps[0], steps[1], steps[2], steps[3], steps[4], steps[5]
    height, oh, kh, kw = size[0], size[1], size[2], size[3]
    width, c = x.shape[1], x.shape[2]
    ow = y.shape[1]
    flat, out, weights = x.reshape(x.size), y.reshape(y.size), w.reshape(w.size)
    columns = (ow - 1) * sw + (kw - 1) * dw + 1
    begin = min(max(left, 0), columns)
    end = max(min(width + left, columns), begin)
    kept = (kh - 1) * dh + 1
    lines = np.zeros(kept * columns * c, F)
    holds = np.full(kept, -1, np.int64)
    places, rows = np.empty(kh * kw, np.int64), np.empty(kh * kw, np.int64)
    total = np.empty(ow * c, F)
    for line in range(start, stop):
        image, i = line // oh, line % oh
        count = 0
        for a in range(kh):
            r = i * sh + a * dh - top
            if r < 0 or r >= height:
                continue
            row = image * height + r
            slot = row % kept
            if holds[slot] != row:
                holds[slot] = row
                float_run(
                    flat, (row * width + begin - left) * c, flip, zero_x, lines, (slot * columns + begin) * c,
                    (end - begin) * c,
                )  # fmt: skip
            for b in range(kw):
                places[count] = (slot * columns + b * dw) * c
                rows[count] = a * kw + b
                count += 1
        if c >= lanes:
            channel = 0
            while True:
                for j in range(0, ow, PIXELS):
                    tap(
                        min(PIXELS, ow - j), total, j * c + channel, c, lines, j * sw * c + channel, sw * c, places,
                        weights, rows, channel, c, count, bias, channel,
                    )  # fmt: skip
                if channel == c - lanes:
                    break
                channel = min(channel + lanes, c - lanes)
        else:
            for j in range(ow):
                for k in range(c):
                    total[j * c + k] = bias[k]
                for t in range(count):
                    at, row = places[t] + j * sw * c, rows[t] * c
                    for k in range(c):
                        total[j * c + k] += lines[at + k] * weights[row + k]
        for j in range(ow):
            finish(total, j * c, factor, shift, 0, low, high, zero, lanes, out, (line * ow + j) * c, c)


DEPTHWISE: dict[str, Loops] = {
    "bytes": depthwise_lines,
    "int32": with_names(depthwise_lines, "depthwise_to_sums", finish=finish_sums),
}


def centred(w: Any, zero: Any) -> Any:
    """Weights less their zero points in 16 bits."""
    y = w.astype(np.int16)
    return y if zero is None else y - zero.astype(np.int16).reshape(-1, *(1,) * (w.ndim - 1))


def by_windows(w: Any, zero: Any) -> Any:
    """Weights (M, C, kh, kw) or (M, C, kw) as (kh, kw · C, M)."""
    y = centred(w, zero)
    y = y[:, :, None] if y.ndim == 3 else y
    return y.transpose(2, 3, 1, 0).reshape(y.shape[2], -1, y.shape[0])


def panels(w: Any, zero: Any) -> Any:
    """Weights in panels."""
    y = by_windows(w, zero)
    return integers.packed(y, integers.word_type(y))


def totals(w: Any, zero: Any) -> Any:
    """The sums of windows of weights, negative, for whole panels."""
    return integers.totals(by_windows(w, zero))


def bias_of(bias: Any, m: int) -> Any:
    """A bias for whole panels."""
    return integers.filled(bias, m, np.int32)


def taps(w: Any, zero: Any) -> Any:
    """Weights of a depthwise convolution: (kh · kw, C)."""
    return np.ascontiguousarray(centred(w, zero).reshape(w.shape[0], -1).T.astype(F))


def holds_sums(w: Any, zero: Any, bias: Any) -> bool:
    """Whether floats hold the sums of a depthwise convolution, and its bias."""
    sums = quant.LARGEST * np.abs(centred(w, zero)).reshape(w.shape[0], -1).sum(axis=1, dtype=np.int64)
    return bool((sums if bias is None else sums + np.abs(bias.astype(np.int64))).max(initial=0) < quant.EXACT)


def floats_of(bias: Any, m: int) -> Any:
    """The bias as floats; zeros for none."""
    return np.zeros(m, F) if bias is None else bias.astype(F).reshape(-1)


def factor_of(x_scale: Any, w_scale: Any, y_scale: Any, m: int) -> Any:
    """What sums are multiplied by: one a channel."""
    return integers.filled((x_scale.reshape(()) * w_scale.reshape(-1) / y_scale.reshape(())).astype(F), m, F)


def number(v: Any) -> int:
    """A zero point."""
    return 0 if v is None else int(v.reshape(-1)[0])


def convolved(
    xp: Any, x: Any, x_zero: Any, w: Any, w_zero: Any, bias: Any, auto_pad: str, dilations: Any, group: int,
    kernel_shape: Any, pads: Any, strides: Any, derived: Any, to: str, finish: tuple[Any, ...], dtype: Any,
) -> Any:  # fmt: skip
    """The sums of the convolution plus `bias`, finished; NotImplemented for what the kernels do not take."""
    rank, dtypes = x.ndim, (x.dtype.name, w.dtype.name)
    if rank not in {3, 4} or w.ndim != rank or 0 in x.shape or 0 in w.shape or not {*dtypes} <= {*BYTES}:
        return NotImplemented
    n, m, c = x.shape[0], w.shape[0], x.shape[1]
    for v, kind, most in ((x_zero, x.dtype, 1), (w_zero, w.dtype, m)):
        if v is not None and (v.dtype != kind or v.ndim > 1 or v.size not in {1, most}):
            return NotImplemented
    windows = (None if v is None else tuple(v) for v in (kernel_shape, strides, dilations, pads))
    out, steps, work = placed(x.shape, w.shape, auto_pad, group, *windows)
    if not work or (bias is not None and (bias.dtype.name != "int32" or bias.shape != (m,))):
        return NotImplemented
    flip = 128 if x.dtype.name == "int8" else 0
    kh, kw = (1, *w.shape[2:])[-2:]
    height, width = (1, *out)[-2:]
    sh, sw, _, dw, top, left = steps.tolist()
    factor, shift, *limits = finish
    source = x.view(np.uint8)
    if group > 1:
        if not (group == m == c and w.shape[1] == 1) or not derived(holds_sums, w, w_zero, bias):
            return NotImplemented
        last = own(dense.channels_last(source)).reshape(-1, x.shape[-1], c)
        y = np.empty((n * height, width, m), dtype)
        size = np.array([last.shape[0] // n, height, kh, kw], np.int64)
        weights, start = derived(taps, w, w_zero), derived(floats_of, bias, m)
        args = (weights, start, steps, size, factor[:m], shift[:m], *limits, vector_bytes() // 4, y)
        _when_known(_by_channels, x_zero, xp, to, last, flip, args, n * height, work * MULTIPLY)
        return dense.channels_first(y.reshape(n, *out, m))
    if dw > 1 and kw > 1:
        return NotImplemented
    plain = kh == kw == sh == sw == 1 and out == x.shape[2:] and not top and not left
    first = not plain and c < TURNED and source.flags.c_contiguous
    source = own(source if first else dense.channels_last(source))
    if plain:
        source = source.reshape(1, 1, -1, c)
        height, width = 1, source.shape[2]
    elif rank == 3:
        source = source[:, :, None] if first else source[:, None]
    b, start = derived(panels, w, w_zero), derived(totals, w, w_zero)
    y = np.empty((n, *out, m), dtype)
    place = (np.array([kh, kw], np.int64), steps, (1 if plain else n), height, width)
    few = n * prod(out) < FEW_WINDOWS
    more = None if bias is None else derived(bias_of, bias, m)
    args = (place, b, start, more, (factor, shift, *limits), y.reshape(-1), m, few)
    _when_known(_by_windows, x_zero, xp, to, source, first, flip, *args)
    return dense.channels_first(y)


def _when_known(run: Any, zero: Any, *args: Any) -> None:
    """`run(zero, *args)`: a zero point that a run of the model gives is a number only then, and so are its kin."""
    if isinstance(zero, Traced):
        opaque(run, zero, *args)
    else:
        run(zero, *args)


def _by_channels(
    zero: Any, xp: Any, to: str, x: Any, flip: int, args: tuple[Any, ...], count: int, seconds: float
) -> None:
    share(xp, DEPTHWISE[to], (x, np.uint8(flip), np.int32(number(zero) + flip), *args), count, seconds)


def _by_windows(
    zero: Any, xp: Any, to: str, x: Any, first: bool, flip: int, place: Any, b: Any, totals: Any, bias: Any,
    finish: tuple[Any, ...], y: Any, m: int, few: bool,
) -> None:  # fmt: skip
    known = number(zero) + flip
    start = totals * np.int32(known)
    if bias is not None:
        start += bias
    integers.multiply(xp, to, x, first, flip, known, place, b, start, finish, y, m, few)


def _examples(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    one, zero = np.ones((), F), np.zeros((), dtype)
    group = attributes.get("group")
    for kind in BYTES:
        for c, m, g in ((2, 3, 1), (2, 2, 2)):
            if group is None or (g == 1) == (group == 1):
                w = np.zeros((m, c // g, 2, 2), kind)
                given = (np.zeros((1, c, 3, 3), dtype), one, zero, w, one, np.zeros((), kind), one, zero)
                yield given, {"group": g}


@override("QLinearConv", since=10, examples=_examples, dtypes=BYTES)
def qlinear_conv(
    xp: Any,
    x: Any,
    x_scale: Any,
    x_zero_point: Any,
    w: Any,
    w_scale: Any,
    w_zero_point: Any,
    y_scale: Any,
    y_zero_point: Any,
    B: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    group: int = 1,
    kernel_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
    derived: Any = at_once,
) -> Any:
    """In int32, finished while the sums are in the cache."""
    if any(v.dtype.char != "f" for v in (x_scale, w_scale, y_scale)) or x_scale.size != 1 or y_scale.size != 1:
        return NotImplemented
    if w_scale.ndim > 1 or w_scale.size not in {1, *w.shape[:1]} or y_zero_point.dtype.name not in BYTES:
        return NotImplemented
    if y_zero_point.size != 1:
        return NotImplemented
    factor = derived(factor_of, x_scale, w_scale, y_scale, w.shape[0])
    return convolved(
        xp, x, x_zero_point, w, w_zero_point, B, auto_pad, dilations, group, kernel_shape, pads, strides, derived,
        "bytes", (factor, factor, *integers.limits(y_zero_point)), y_zero_point.dtype,
    )  # fmt: skip


def _sums(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    for (x, _, x_zero, w, _, w_zero, *_), keywords in _examples(dtype, attributes):
        yield (x, w, x_zero, w_zero), keywords


@override("ConvInteger", since=10, examples=_sums, dtypes=BYTES)
def conv_integer(
    xp: Any,
    x: Any,
    w: Any,
    x_zero_point: Any = None,
    w_zero_point: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    group: int = 1,
    kernel_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
    derived: Any = at_once,
) -> Any:
    """In int32."""
    nothing = integers.nothing(w.shape[0])
    return convolved(
        xp, x, x_zero_point, w, w_zero_point, None, auto_pad, dilations, group, kernel_shape, pads, strides, derived,
        "int32", (nothing, nothing, F(0), F(0), np.int32(0)), np.int32,
    )  # fmt: skip
