"""Convolutions of few channels a group: depthwise, grouped, and small ones, where a product of matrices does not pay.

Images keep their layout. With channels last, the channels of a pixel are computed side by side. With channels first,
an image is padded and parted by the strides, so that every element of the kernel adds one long vector to the result.
A loop reads from at most eight places at once: for more, LLVM does not prove that they are apart from the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from ortlite.derived import at_once
from ortlite.ops.conv import fitting_windows
from ortlite.primitives.window import output_shape
from ortlite_numpy.compiled.elementwise import EACH, EACH_BY, mapped
from ortlite_numpy.compiled.functions import larger, smaller
from ortlite_numpy.compiled.jit import FREE, loops, own, owned, share
from ortlite_numpy.compiled.table import FLOATS, Call, override

MS = "com.microsoft"
MULTIPLY = 0.1e-9  # seconds
SMALL = 1.5e6  # multiplications up to which a convolution without groups is computed here
SHORT, MANY = 32, 8192  # but not results of so few pixels by so many weights, one weight at a time: a product is faster
FEW = 16  # channels of a group


@loops(FREE)
def add_scaled(x, places, weights, count, y, n):
    """Add `count` stretches of x, each by a number, to the first n of y."""
    k = 0
    while k + 8 <= count:
        a = x[places[k] : places[k] + n]
        b = x[places[k + 1] : places[k + 1] + n]
        c = x[places[k + 2] : places[k + 2] + n]
        d = x[places[k + 3] : places[k + 3] + n]
        e = x[places[k + 4] : places[k + 4] + n]
        f = x[places[k + 5] : places[k + 5] + n]
        g = x[places[k + 6] : places[k + 6] + n]
        h = x[places[k + 7] : places[k + 7] + n]
        s, t, u, v = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        o, p, q, r = weights[k + 4], weights[k + 5], weights[k + 6], weights[k + 7]
        for i in range(n):
            y[i] += (a[i] * s + b[i] * t + (c[i] * u + d[i] * v)) + (e[i] * o + f[i] * p + (g[i] * q + h[i] * r))
        k += 8
    while k + 3 <= count:
        a = x[places[k] : places[k] + n]
        b = x[places[k + 1] : places[k + 1] + n]
        c = x[places[k + 2] : places[k + 2] + n]
        s, t, u = weights[k], weights[k + 1], weights[k + 2]
        for i in range(n):
            y[i] += a[i] * s + b[i] * t + c[i] * u
        k += 3
    while k < count:
        a = x[places[k] : places[k] + n]
        s = weights[k]
        for i in range(n):
            y[i] += a[i] * s
        k += 1


@loops(FREE)
def add_products(x, places, w, rows, count, y):
    """Add `count` stretches of x, each times a row of w, to y. (Indices are those of slices: numbers that may be
    negative cost a test each.)
    """
    n = y.size
    k = 0
    while k + 3 <= count:
        a = x[places[k] : places[k] + n]
        b = x[places[k + 1] : places[k + 1] + n]
        c = x[places[k + 2] : places[k + 2] + n]
        s, t, u = w[rows[k]], w[rows[k + 1]], w[rows[k + 2]]
        for i in range(n):
            y[i] += a[i] * s[i] + b[i] * t[i] + c[i] * u[i]
        k += 3
    while k < count:
        a = x[places[k] : places[k] + n]
        s = w[rows[k]]
        for i in range(n):
            y[i] += a[i] * s[i]
        k += 1


@loops()
def held(x, y, low, high):
    """The elements of x, held between two bounds."""
    for i in range(y.size):
        y[i] = smaller(larger(x[i], low), high)


@loops()
def channels_first(x, w, bias, steps, groups, low, high, y, start, stop):
    """Groups [start, stop), counted through all images: x (N · C, H, W), w (M, C / groups, kh, kw), y (N · M, oh, ow).

    `steps` are strides, dilations and the pads before, each for rows and columns.
    """
    sh, sw, dh, dw, top, left = steps[0], steps[1], steps[2], steps[3], steps[4], steps[5]
    height, width = x.shape[1], x.shape[2]
    per, kh, kw = w.shape[1], w.shape[2], w.shape[3]
    out = w.shape[0] // groups
    oh, ow = y.shape[1], y.shape[2]
    tall, wide = oh + (kh - 1) * dh // sh + 1, ow + (kw - 1) * dw // sw + 1  # of a part: every sh-th row, sw-th column
    part = tall * wide
    image = sh * sw * part
    parts = np.zeros(per * image + wide, x.dtype)
    total = np.empty(oh * wide, x.dtype)
    count = per * kh * kw
    places, weights = np.empty(count, np.int64), np.empty(count, x.dtype)
    for k in range(count):
        c, a, b = k // (kh * kw), k // kw % kh * dh, k % kw * dw
        places[k] = c * image + (a % sh * sw + b % sw) * part + a // sh * wide + b // sw
    for item in range(start, stop):
        group = item % groups
        for c in range(per):
            plane = x[item * per + c]
            for r in range(height):
                i = r + top
                if i >= 0 and i // sh < tall:
                    base = c * image + i % sh * sw * part + i // sh * wide
                    if sw == 1:
                        first, last = max(-left, 0), min(width, wide - left)
                        stretch, row = parts[base + left + first : base + left + last], plane[r, first:last]
                        for j in range(stretch.size):
                            stretch[j] = row[j]
                    else:
                        for phase in range(sw):
                            # columns j with (j + left) % sw == phase
                            first = (phase - left) % sw
                            q = (first + left) // sw
                            row = base + phase * part
                            n = min((width - first + sw - 1) // sw, wide - q)
                            for j in range(max(-q, 0), n):
                                parts[row + q + j] = plane[r, first + j * sw]
        for m in range(out):
            k = 0
            for c in range(per):
                for a in range(kh):
                    for b in range(kw):
                        weights[k] = w[group * out + m, c, a, b]
                        k += 1
            shift = bias[group * out + m]
            for i in range(oh * wide):
                total[i] = shift
            add_scaled(parts, places, weights, count, total, oh * wide - (wide - ow))
            plane = y[item * out + m]
            for r in range(oh):
                for j in range(ow):
                    v = total[r * wide + j]
                    v = max(v, low)
                    plane[r, j] = min(v, high)


@loops()
def channels_last(x, w, bias, steps, size, low, high, y, start, stop):
    """Rows [start, stop), counted through all images, of a depthwise convolution of x (N · H, W, C) with w (kh, kw, C).

    `size` are the heights of the images before and after, `steps` as for channels first.
    """
    sh, sw, dh, dw, top, left = steps[0], steps[1], steps[2], steps[3], steps[4], steps[5]
    height, oh = size[0], size[1]
    width, channels = x.shape[1], x.shape[2]
    kh, kw = w.shape[0], w.shape[1]
    ow = y.shape[1]
    flat, weights = x.reshape(x.size), w.reshape(kh * kw, channels)
    shifts, rows = np.empty(kh * kw, np.int64), np.empty(kh * kw, np.int64)
    places = np.empty(kh * kw, np.int64)
    for line in range(start, stop):
        image, i = line // oh, line % oh
        count, before = 0, -1
        for j in range(ow):
            b0, b1 = 0, kw
            while b0 < kw and j * sw + b0 * dw - left < 0:
                b0 += 1
            while b1 > b0 and j * sw + (b1 - 1) * dw - left >= width:
                b1 -= 1
            if b0 * (kw + 1) + b1 != before:
                before, count = b0 * (kw + 1) + b1, 0
                for a in range(kh):
                    r = i * sh + a * dh - top
                    if r >= 0 and r < height:
                        for b in range(b0, b1):
                            shifts[count] = ((image * height + r) * width + b * dw - left) * channels
                            rows[count] = a * kw + b
                            count += 1
            for k in range(count):
                places[k] = shifts[k] + j * sw * channels
            pixel = y[line, j]
            for c in range(channels):
                pixel[c] = bias[c]
            add_products(flat, places, weights, rows, count, pixel)
            held(pixel, pixel, low, high)


def last(W: Any) -> Any:
    """Weights of a depthwise convolution with the channels last: (kh, kw, C)."""
    return np.ascontiguousarray(W[:, 0].transpose(1, 2, 0))


def _bounds(activation: str, params: Sequence[float]) -> tuple[float, float] | None:
    """Between which numbers an activation holds what comes out; None where it does something else."""
    if activation == "Relu":
        return 0.0, np.inf
    if activation == "Clip":
        return (params[0], params[1]) if len(params) == 2 else None
    return (-np.inf, np.inf)


def _activated(xp: Any, y: Any, activation: str, params: Sequence[float]) -> Any:
    """What the kernels do not do on their way."""
    if activation in {"", "Relu", "Clip"}:
        return y
    if activation in {"Sigmoid", "Tanh"}:
        return mapped(xp, EACH[activation.lower()], y)
    return mapped(xp, EACH_BY["hard_sigmoid"], y, *map(float, params))


@lru_cache(maxsize=512)
def placed(
    x: tuple[int, ...], w: tuple[int, ...], auto_pad: str, group: int, kernel_shape: Any, strides: Any, dilations: Any,
    pads: Any,
) -> tuple[tuple[int, ...], Any, int]:  # fmt: skip
    """The spatial shape of a convolution's result, the kernels' steps, and the number of multiplications."""
    strides, dilations, padding = fitting_windows(x, w, group, kernel_shape, strides, dilations, pads, auto_pad)
    out = output_shape(x[2:], w[2:], strides, dilations, padding)
    first = [lo for lo, _ in padding]
    steps = [1, strides[0], 1, dilations[0], 0, first[0]] if len(x) == 3 else [*strides, *dilations, *first]
    return out, np.array(steps, np.int64), prod(out) * x[0] * prod(w)


def convolved(
    xp: Any, X: Any, W: Any, B: Any, activation: str, params: Sequence[float], auto_pad: str, dilations: Any,
    group: int, kernel_shape: Any, pads: Any, strides: Any, derived: Any,
) -> Any:  # fmt: skip
    """`activation`(Conv(X, W, B)) where the kernels do that; NotImplemented elsewhere."""
    rank = X.ndim
    if X.dtype.char not in "fd" or W.dtype != X.dtype or rank not in {3, 4} or W.ndim != rank or 0 in X.shape:
        return NotImplemented
    per = W.shape[1]
    if per > FEW and group > 1:
        return NotImplemented
    bounds = _bounds(activation, params)
    if bounds is None or (activation not in {"", "Relu", "Clip"} and X.dtype.char != "f"):
        return NotImplemented
    if activation not in {"", "Relu", "Clip", "Sigmoid", "Tanh", "HardSigmoid"}:
        return NotImplemented
    n, m = X.shape[0], W.shape[0]
    given = (None if v is None else tuple(v) for v in (kernel_shape, strides, dilations, pads))
    out, steps, work = placed(X.shape, W.shape, auto_pad, group, *given)
    if group == 1 and (work > SMALL or (prod(out) < SHORT and W.size > MANY)):
        return NotImplemented
    if not work or (B is not None and (B.shape != (m,) or B.dtype != X.dtype)):
        return NotImplemented
    one = rank == 3
    shape = (n, m, 1, *out) if one else (n, m, *out)
    bias = np.zeros(m, X.dtype) if B is None else owned(B, derived)
    low, high = map(X.dtype.type, bounds)
    if per == 1 and group == m and X.shape[1] > 7:
        x = X[:, :, None, :] if one else X
        x = x.transpose(0, 2, 3, 1)
        if x.flags.c_contiguous and not X.flags.c_contiguous:
            x = own(x)
            weights = derived(_last_1 if one else last, W)
            height, width = x.shape[1], x.shape[2]
            y = np.empty((n * shape[2], shape[3], m), X.dtype)
            size = np.array([height, shape[2]], np.int64)
            args = (x.reshape(n * height, width, m), weights, bias, steps, size, low, high, y)
            share(xp, channels_last, args, n * shape[2], work * MULTIPLY)
            y = y.reshape(n, shape[2], shape[3], m).transpose(0, 3, 1, 2)
            return _activated(xp, y[:, :, 0, :] if one else y, activation, params)
    x = own(X)
    w = owned(W, derived)
    w = w.reshape(m, per, 1, -1) if one else w
    y = np.empty((n * m, shape[2], shape[3]), X.dtype)
    spatial = (1, X.shape[2]) if one else X.shape[2:]
    share(
        xp, channels_first, (x.reshape(-1, *spatial), w, bias, steps, group, low, high, y), n * group, work * MULTIPLY
    )
    return _activated(xp, y.reshape(n, m, *out), activation, params)


def _last_1(W: Any) -> Any:
    return np.ascontiguousarray(W[:, 0].T[None])


def _examples(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    activation = {k: v for k, v in attributes.items() if k in {"activation", "activation_params"}}
    x, w = np.zeros((1, 8, 3, 3), dtype), np.zeros((8, 1, 2, 2), dtype)
    yield (x, w), {"group": 8, **activation}
    if attributes.get("group", 8) > 1:
        yield (np.zeros((1, 3, 3, 8), dtype).transpose(0, 3, 1, 2), w), {"group": 8, **activation}


@override("Conv", examples=_examples, dtypes=FLOATS)
def conv(
    xp: Any,
    X: Any,
    W: Any,
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
    """Directly, for few channels a group and for small convolutions."""
    return convolved(xp, X, W, B, "", (), auto_pad, dilations, group, kernel_shape, pads, strides, derived)


@override((MS, "FusedConv", 1), examples=_examples, dtypes=FLOATS)
def fused_conv(
    xp: Any,
    X: Any,
    W: Any,
    B: Any = None,
    Z: Any = None,
    *,
    activation: str = "",
    activation_params: Any = None,
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    group: int = 1,
    kernel_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
    derived: Any = at_once,
) -> Any:
    """Directly, with the activation on the way."""
    if Z is not None:
        return NotImplemented
    params = activation_params or ()
    return convolved(xp, X, W, B, activation, params, auto_pad, dilations, group, kernel_shape, pads, strides, derived)
