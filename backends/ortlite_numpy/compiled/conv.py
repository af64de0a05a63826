"""Convolutions of few channels a group: depthwise, grouped, and small ones, where a product of matrices does not pay.

Images keep their layout. With channels last, `depthwise` computes the channels of a pixel side by side. With channels
first, an image is padded and parted by the strides, so that every element of the kernel adds one long vector to the
result. A loop reads from at most eight places at once: for more, LLVM does not prove that they are apart from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any

from ortlite.derived import Derived, at_once, lasting
from ortlite.ops.contrib.fused import parameters
from ortlite.ops.conv import fitting_windows
from ortlite.primitives.window import output_shape
from ortlite_numpy import conv as dense
from ortlite_numpy.compiled import products, winograd
from ortlite_numpy.compiled.depthwise import depthwise, vectors
from ortlite_numpy.compiled.jit import FREE, foreign_team, loops, own, owned, share
from ortlite_numpy.compiled.table import FLOATS, Call, override
from ortlite_numpy.compiled.vectors import vector_bytes
from ortlite_numpy.compiled.windows import (
    HELD,
    KINDS,
    activate,
    columns_first,
    columns_last,
    multiply_lines,
    multiply_windows,
)
from ortlite_numpy.record import aside
from ortlite_numpy.record import numpy as np
from ortlite_numpy.windows import copied, scratch

MS = "com.microsoft"
MULTIPLY, DEPTHWISE = 0.1e-9, 0.05e-9  # seconds
# Without groups, seconds: here, for one weight and each image, for one multiplication, and for each element of an image
# with channels last; as a product, more at the beginning, and for each window.
WEIGHT, PRODUCT, TURN, SETUP, ROW = 5e-9, 7.5e-11, 1.7e-9, 1e-5, 2e-9
FEW = 8  # channels of a group below which a product does not pay; twice as many where weights change
FEW_WINDOWS = 96  # below which all threads had better not read all weights
FEW_COLUMNS = 8  # windows of a line below which they are better copied side by side
LINES, TILES = 16, 14  # with fewer lines, a line is shared out, so many tiles at a time
TURNED = 16  # channels from which on an image is brought into another order before it is copied window by window
CHANNELS, PIXELS = 32, 49  # of convolutions by tiles, in and out, and of the result
TILED, FEW_TILES = 1 << 16, 32  # elements that are multiplied of a block of tiles, and tiles that it has at least
STRIP = 1 << 16  # elements of the lines that a strip of the result sees, which stay in the cache


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


@loops()
def channels_first(x, w, bias, steps, groups, kind, alpha, beta, y, start, stop):
    """Groups [start, stop), counted through all images: x (N · C, H, W), w (M, C / groups, kh, kw), y (N · M, oh, ow).

    `steps` are strides, dilations and the pads before, each for rows and columns; the activation is as for `activate`.
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
            activate(total, kind, alpha, beta)
            plane = y[item * out + m]
            for r in range(oh):
                for j in range(ow):
                    plane[r, j] = total[r * wide + j]


def columns(
    images: Any, first: int, last: int, out: Sequence[int], size: Sequence[int], strides: Sequence[int],
    pads: Sequence[tuple[int, int]], dilations: Sequence[int], groups: int,
) -> Any:  # fmt: skip
    """`ortlite_numpy.windows.copied` of lines and images without groups, in either layout; by that itself elsewhere."""
    if groups > 1 or len(size) > 2:
        return copied(images, first, last, out, size, strides, pads, dilations, groups)
    x = images if len(size) == 2 else images[:, :, None]
    n, c = x.shape[0], x.shape[-1]
    width = out[1] if len(size) == 2 else 1
    kernel = np.array([*size, 1][:2], np.int64)
    steps = np.array([*_two(strides, 1), *_two(dilations, 1), *_two([lo for lo, _ in pads], 0)], np.int64)
    depth, windows = prod(size) * c, n * (last - first) * width
    planes = x.transpose(0, 3, 1, 2)
    if planes.flags.c_contiguous and not x.flags.c_contiguous:
        y = scratch("columns", (depth, windows), x.dtype)
        columns_first(own(planes), kernel, steps, width, first, last, y)
        return y.T[None]
    y = scratch("columns", (windows, depth), x.dtype)
    columns_last(own(x), kernel, steps, width, first * width, last * width, y)
    return y[None]


def _two(numbers: Sequence[int], default: int) -> Sequence[int]:
    return [*numbers, default][:2]


@loops()
def finish_rows(y, bias, z, kind, alpha, beta):
    """Rows of y, in place: activation(y + bias + z). Where nothing is added, z has no rows."""
    for r in range(y.shape[0]):
        row = y[r]
        for i in range(row.size):
            row[i] += bias[i]
        if z.shape[0]:
            other = z[r]
            for i in range(row.size):
                row[i] += other[i]
        activate(row, kind, alpha, beta)


def last(W: Any) -> Any:
    """Weights of a depthwise convolution with the channels last: (kh, kw, C)."""
    w = W[:, 0] if W.ndim == 4 else W[:, 0, None]
    return np.ascontiguousarray(w.transpose(1, 2, 0))


def kind_of(name: str, params: Sequence[float], dtype: Any) -> tuple[int, Any, Any] | None:
    """What the kernels know an activation by; None where they do not have it in this dtype."""
    kind = KINDS.get(name)
    if kind is None or (kind != HELD and dtype.char != "f"):
        return None
    given = {"": (-np.inf, np.inf), "Relu": (0.0, np.inf)}.get(name, (*params, 0.0, 0.0)[:2])
    return kind, *map(dtype.type, given)


@lru_cache(maxsize=512)
@aside
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


def _better_as_product(w: Any, images: int, windows: int, turned: int) -> bool:
    """Whether a convolution without groups takes less time as a product of what windows show and panels of weights.

    So many elements would have to be `turned` to bring the images' channels first.
    """
    lanes = products.width(w.dtype) // products.VECTORS
    here = w.size * (images * WEIGHT + windows * PRODUCT) + turned * TURN
    multiplied = w.size // w.shape[0] * -(-w.shape[0] // lanes) * lanes
    return bool(SETUP + windows * (multiplied * w.itemsize / (2 * products.RATE) + ROW) < here)


def convolved(
    xp: Any, X: Any, W: Any, B: Any, activation: str, params: Sequence[float], auto_pad: str, dilations: Any,
    group: int, kernel_shape: Any, pads: Any, strides: Any, derived: Any,
) -> Any:  # fmt: skip
    """`activation`(Conv(X, W, B)) where the kernels do that; NotImplemented elsewhere."""
    rank = X.ndim
    if X.dtype.char not in "fd" or W.dtype != X.dtype or rank not in {3, 4} or W.ndim != rank or 0 in X.shape:
        return NotImplemented
    per = W.shape[1]
    if group > 1 and per >= (FEW if lasting(derived, W) else 2 * FEW):
        return NotImplemented
    activated = kind_of(activation, params, X.dtype)
    if activated is None:
        return NotImplemented
    n, m = X.shape[0], W.shape[0]
    windows = (None if v is None else tuple(v) for v in (kernel_shape, strides, dilations, pads))
    out, steps, work = placed(X.shape, W.shape, auto_pad, group, *windows)
    if group == 1 and _better_as_product(W, n, n * prod(out), 0 if X.flags.c_contiguous else X.size):
        return NotImplemented
    if not work or (B is not None and (B.shape != (m,) or B.dtype != X.dtype)):
        return NotImplemented
    one = rank == 3
    shape = (n, m, 1, *out) if one else (n, m, *out)
    bias = np.zeros(m, X.dtype) if B is None else owned(B, derived)
    if per == 1 and group == m and X.shape[1] > 7:
        x = X[:, :, None, :] if one else X
        x = x.transpose(0, 2, 3, 1)
        if x.flags.c_contiguous and not X.flags.c_contiguous:
            x = own(x)
            height, width = x.shape[1:3]
            y = np.empty((n * shape[2], shape[3], m), X.dtype)
            size, lanes = np.array([height, shape[2]], np.int64), vector_bytes() // X.itemsize
            most = max(STRIP // (steps[0] * width * m), 1)
            by_channels = n * shape[2] < LINES
            args = (
                x.reshape(n * height, width, m),
                derived(last, W),
                bias,
                steps,
                size,
                lanes,
                vectors(),
                most,
                by_channels,
            )
            count = -(-m // (vectors() * lanes)) if by_channels else n * shape[2]
            share(xp, depthwise, (*args, *activated, y), count, work * DEPTHWISE)
            y = y.reshape(n, shape[2], shape[3], m).transpose(0, 3, 1, 2)
            return y[:, :, 0, :] if one else y
    x = own(X)
    w = owned(W, derived)
    w = w.reshape(m, per, 1, -1) if one else w
    y = np.empty((n * m, shape[2], shape[3]), X.dtype)
    spatial = (1, X.shape[2]) if one else X.shape[2:]
    given = (x.reshape(-1, *spatial), w, bias, steps, group, *activated, y)
    share(xp, channels_first, given, n * group, work * MULTIPLY)
    return y.reshape(n, m, *out)


def finished(
    xp: Any, X: Any, W: Any, B: Any, Z: Any, activation: str, params: Sequence[float], auto_pad: str, dilations: Any,
    group: int, kernel_shape: Any, pads: Any, strides: Any, derived: Any,
) -> Any:  # fmt: skip
    """NumPy's convolution, every block of which is finished in one pass."""
    given = [v for v in (B, Z) if v is not None]
    if X.dtype.char not in "fd" or any(v.dtype != X.dtype for v in (W, *given)):
        return NotImplemented
    activated = kind_of(activation, params, X.dtype)
    if activated is None:
        return NotImplemented
    if group == 1 or W.shape[1] > 1:
        y = _by_windows(xp, X, W, B, Z, activated, (auto_pad, group, kernel_shape, strides, dilations, pads), derived)
        if y is not NotImplemented:
            return y
    if foreign_team(xp) is not None:  # whose library has products of its own
        return NotImplemented
    bias = np.zeros(W.shape[0], X.dtype) if B is None else owned(B, derived)
    nothing = np.empty((0, 0), X.dtype)

    def finish(block: Any, other: Any) -> None:
        finish_rows(block, bias, nothing if other is None else own(other), *activated)

    threads = getattr(xp, "threads", 1)
    times = products.times(xp, derived(weight_panels, W, 1), W.shape[0]) if group == 1 else None
    if group == 1 and X.shape[1] >= TURNED and X.flags.c_contiguous and prod(W.shape[2:]) > 1:
        X = dense.channels_first(np.ascontiguousarray(dense.channels_last(X)))
    return dense.finished(
        X, W, B, Z, finish if given or activation else None, threads, derived, auto_pad, group, kernel_shape, strides,
        dilations, pads, columns, times,
    )  # fmt: skip


def _by_windows(
    xp: Any, X: Any, W: Any, B: Any, Z: Any, activated: tuple[int, Any, Any], windows: tuple[Any, ...], derived: Any
) -> Any:
    """All of a convolution by one kernel: by tiles, by lines, or by windows copied side by side."""
    n, c = X.shape[:2]
    m, one = W.shape[0], X.ndim == 3
    auto_pad, group, *given = windows
    out, steps, work = placed(X.shape, W.shape, auto_pad, group, *(None if v is None else tuple(v) for v in given))
    if X.ndim > 4 or not work or (B is not None and B.shape != (m,)):
        return NotImplemented
    height, width = (1, *out)[-2:]
    kh, kw = (1, *W.shape[2:])[-2:]
    plain = kh == kw == 1 and out == X.shape[2:] and c >= TURNED
    by_lines = group > 1 or ((steps[3] == 1 or kw == 1) and width >= FEW_COLUMNS and not plain)
    first = by_lines and group == 1 and X.flags.c_contiguous and c < TURNED  # many are read faster side by side
    x = X if first else dense.channels_last(X)
    if one:
        x = x[:, :, None] if first else x[:, None]
    x, z = own(x), np.empty(0, X.dtype)
    if Z is not None:
        z = own(dense.channels_last(np.broadcast_to(Z, (n, m, *out)))).reshape(-1)
    y = np.empty((n, *out, m), X.dtype)
    end = (derived(products.filled, B, m, X.dtype), z, *activated, y.reshape(-1))
    seconds = max(work * X.dtype.itemsize / (2 * products.RATE), W.size * W.itemsize / products.BYTES)
    by_tiles = lasting(derived, W) and _by_tiles(X, W, group, steps, height, width)
    if by_tiles and derived(winograd.no_zero, W):
        _multiply_tiles(xp, x, W, end, steps, height, width, seconds, derived)
        return dense.channels_first(y)
    b = derived(weight_panels, W, group)
    by_panels = n * prod(out) < max(FEW_WINDOWS, m)  # then threads share out the weights
    args = (np.array([kh, kw], np.int64), steps, b, *end, height, width)
    if by_lines:
        _multiply_lines(xp, x, first, group, args, by_panels, seconds)
    else:
        _multiply_windows(xp, x, args, m, by_panels, seconds)
    return dense.channels_first(y)


def _by_tiles(X: Any, W: Any, group: int, steps: Any, height: int, width: int) -> bool:
    """Whether tiles of 4 × 4 pixels take less time: of enough channels, and without much of them outside."""
    lanes = products.width(X.dtype) // products.VECTORS
    m, c = W.shape[:2]
    fits = X.dtype.char == "f" and group == 1 and W.shape[2:] == (3, 3) and steps[:4].tolist() == [1, 1, 1, 1]
    return fits and c % lanes == 0 and min(c, m) >= CHANNELS and height * width >= PIXELS


def _multiply_tiles(
    xp: Any, x: Any, W: Any, end: tuple[Any, ...], steps: Any, height: int, width: int, seconds: float, derived: Any
) -> None:
    """`winograd.multiply_tiles`, in blocks whose products stay in the cache."""
    n, (m, c) = x.shape[0], W.shape[:2]
    down, along = -(-height // 2), -(-width // 2)
    by_panels = n * down * along < m
    blocks = -(-down // max(TILED // (winograd.POINTS * along * c), -(-FEW_TILES // along)))
    threads = getattr(xp, "threads", 1)
    if not by_panels and n * blocks < LINES:  # as many for each
        blocks = min(-(-n * blocks // threads) * threads // n, down)
    b = derived(winograd.tile_panels, W)
    count = len(b) if by_panels else n * blocks
    top, left = steps[4:].tolist()
    args = (x, owned(W, derived), b, *end, top, left, height, width, blocks, by_panels, *products.sizes()[:2])
    share(xp, winograd.multiply_tiles, args, count, seconds / 2)


def _multiply_lines(
    xp: Any, x: Any, first: bool, group: int, args: tuple[Any, ...], by_panels: bool, seconds: float
) -> None:
    """`multiply_lines`, in strips whose lines of the image stay in the cache; long lines are cut."""
    kernel, steps, b, *_, height, width = args
    (kh, kw), (sh, sw, dh, dw) = kernel.tolist(), steps[:4].tolist()
    n, c = x.shape[0], x.shape[1 if first else 3]
    tall, deep, _ = products.sizes()
    cut = width
    if width > tall * TILES and (n * height < LINES or width * sw * c > dense.COLUMNS):
        threads = getattr(xp, "threads", 1)
        cuts = -(-width // (tall * TILES * threads)) * threads  # as many for each
        cut = -(-width // (cuts * tall)) * tall
    rows = dense.COLUMNS // (((cut - 1) * sw + (kw - 1) * dw + 1) * c)
    most = min(max((rows - (kh - 1) * dh - 1) // sh + 1, 1), height)
    count = len(b) if by_panels else n * height * -(-width // cut)
    share(xp, multiply_lines, (x, first, group, *args, cut, most, by_panels, tall, deep), count, seconds)


def _multiply_windows(xp: Any, x: Any, args: tuple[Any, ...], m: int, by_panels: bool, seconds: float) -> None:
    """`multiply_windows`, so many at once that they and their results stay in the cache."""
    _, _, b, *_, height, width = args
    tall, deep, block = products.sizes()
    most = max(dense.COLUMNS // max(b.shape[1], m) // tall, -(-block // tall)) * tall
    count = len(b) if by_panels else -(-x.shape[0] * height * width // tall)
    unit = 0 if by_panels else tall
    share(xp, multiply_windows, (x, *args, most, unit, tall, deep, block), count, seconds)


def weight_panels(W: Any, groups: int) -> Any:
    """The weights by which columns are multiplied, in panels, one group's after the other's."""
    return products.turned_panels(W.reshape(*W.shape[:2], -1), groups)


def _examples(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    activation = {k: v for k, v in attributes.items() if k in {"activation", "activation_params"}}
    x, w = np.zeros((1, 8, 3, 3), dtype), np.zeros((8, 1, 2, 2), dtype)
    yield (x, w), {"group": 8, **activation}
    if attributes.get("group", 8) > 1:
        yield (np.zeros((1, 3, 3, 8), dtype).transpose(0, 3, 1, 2), w), {"group": 8, **activation}
    if attributes.get("group", 1) == 1:
        _products(np.dtype(dtype), activation.get("activation", ""), tuple(activation.get("activation_params") or ()))


@lru_cache
def _products(dtype: Any, activation: str, params: tuple[float, ...]) -> None:
    """Make what convolutions need that are products: where something is added, a small one is."""
    given = {"activation": activation, "activation_params": params}
    w = np.zeros((2, 2, 2, 2), dtype)
    for width in (2, FEW_COLUMNS):
        z = np.zeros((1, 2, 2, width), dtype)
        for x in (np.zeros((1, 2, 3, width + 1), dtype), np.zeros((1, 3, width + 1, 2), dtype).transpose(0, 3, 1, 2)):
            fused_conv(None, x, w, w[:, 0, 0, 0], z, **given)
    if dtype.char == "f":
        w = np.ones((CHANNELS, CHANNELS, 3, 3), dtype)
        x = np.zeros((1, 9, 9, CHANNELS), dtype).transpose(0, 3, 1, 2)
        fused_conv(None, x, w, **given, derived=Derived([w]))


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
    return fused_conv(
        xp, X, W, B, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads,
        strides=strides, derived=derived,
    )  # fmt: skip


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
    """Directly, with the activation on the way, or NumPy's with a block finished in one pass."""
    if 0 in W.shape:
        return NotImplemented
    params = parameters(activation, activation_params)
    given = (activation, params, auto_pad, dilations, group, kernel_shape, pads, strides, derived)
    y = NotImplemented if Z is not None else convolved(xp, X, W, B, *given)
    return finished(xp, X, W, B, Z, *given) if y is NotImplemented else y
