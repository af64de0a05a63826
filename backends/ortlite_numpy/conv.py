"""Convolutions with channels last in memory, whatever the axes say: products of matrices, block by block in the cache.

`X` (N, C, *spatial) is seen as (N, *spatial, C), and so is the result: what comes back is a transposed view. A block is
some rows of windows, one image's or whole small images'. Its columns (`copied`, the elements under each window side
by side) are multiplied by the weights; a convolution of every channel by itself multiplies and adds whole rows instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import chain, pairwise
from math import prod
from typing import Any, TypeAlias

from ortlite.derived import at_once, lasting
from ortlite.namespace import Namespace
from ortlite.ops import conv as kernels
from ortlite.ops.contrib import fused
from ortlite.ops.helpers import require_shape
from ortlite.primitives import window
from ortlite.primitives.window import output_shape
from ortlite.provider import CPU, create
from ortlite_numpy import products
from ortlite_numpy.blas import turned
from ortlite_numpy.elementwise import LINE, swish_fill
from ortlite_numpy.record import numpy as np
from ortlite_numpy.record import opaque, recording
from ortlite_numpy.threads import pays, split
from ortlite_numpy.windows import Pads, Windows, copied, in_blocks, most_windows, padded, scratch, seen

__all__ = ["OVERRIDES", "channels_first", "channels_last", "conv", "convolved", "weight_columns"]

Finish: TypeAlias = Callable[[Any, Any], None]  # changes a block of the result, given the same block of Z
Times: TypeAlias = Callable[[Any, Any, int], object]  # puts the product of rows with the weights into a result

COLUMNS = 1 << 18  # elements of a block's columns, which the product finds in the cache
ROWS = 192  # of a block: with fewer, packing the weights costs as much as the product
SMALL = 1 << 16  # elements of a block that is multiplied and added place by place
APART = 1 << 20  # multiplications from which on a group is better off by itself, where there is one block
REWRITTEN = 256  # windows from which on weights that were not prepared are worth being brought into another order
CHANNELS = 32  # whose weights are brought into order together: they stay in the cache
WIDE = 64  # channels from which on a place's own are a row that is long enough
COPIED = 4e-10  # seconds an element takes to be copied to its column
TOUCHED = 2.5e-10  # and to be multiplied and added
BYTES = 1e10  # bytes a second that a product of few channels reads and writes


def channels_last(x: Any) -> Any:
    """`x` (N, C, *spatial) as (N, *spatial, C)."""
    return x.transpose(0, *range(2, x.ndim), 1)


def channels_first(y: Any) -> Any:
    """`y` (N, *spatial, C) as (N, C, *spatial)."""
    return y.transpose(0, y.ndim - 1, *range(1, y.ndim - 1))


def weight_columns(w: Any, groups: int) -> Any:
    """`w` (M, C / groups, *size) as what columns are multiplied by: (groups, prod(size) · C / groups, M / groups)."""
    each, c, places = w.shape[0] // groups, w.shape[1], prod(w.shape[2:])
    if groups == places == 1:
        return turned(w.reshape(each, c))[None]
    result = np.empty((groups, places, c, each), w.dtype)
    for group, rows in enumerate(w.reshape(groups, each, c * places)):
        for i in range(0, c, CHANNELS):
            part = turned(rows[:, i * places : (i + CHANNELS) * places])
            result[group, :, i : i + CHANNELS] = part.reshape(min(CHANNELS, c - i), places, each).swapaxes(0, 1)
    return result.reshape(groups, places * c, each)


def weight_lines(w: Any, repeats: int) -> Any:
    """`w` (M, 1, *size) as one line of `repeats` times M elements for each place of the kernel."""
    return np.tile(np.ascontiguousarray(w.reshape(w.shape[0], -1).T), (1, repeats))


def convolved(
    x: Any,
    w: Any,
    *,
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
    groups: int,
    threads: int,
    derived: Any = at_once,
    finish: Finish | None = None,
    z: Any = None,
    columns: Callable[..., Any] | None = None,
    times: Times | None = None,
) -> Any:
    """The convolution of `x` with `w`, floats of one dtype. `columns`, by default ours, copies what windows show, and
    `times` multiplies it by the weights where there is one group.

    `finish` changes every block of it while that is in the cache. `z`, where given, is an array that broadcasts to the
    result, whose blocks `finish` is given, too.
    """
    size, m, c = w.shape[2:], w.shape[0], x.shape[1]
    out = output_shape(x.shape[2:], size, strides, dilations, pads)
    y = np.empty((x.shape[0], *out, m), x.dtype)
    if y.size == 0:
        return channels_first(y)
    images = channels_last(x)
    other = None if z is None else channels_last(np.broadcast_to(z, (x.shape[0], m, *out)))
    if groups > 1 and w.shape[1] == 1:
        if m > c:
            images = np.repeat(images, m // c, axis=-1)
        if len(size) == 1:  # rows of one window each, so that there is something to divide into blocks
            images, y = images[:, :, None], y[:, :, None]
            other = None if other is None else other[:, :, None]
            size, strides, dilations, pads = (*size, 1), (*strides, 1), (*dilations, 1), (*pads, (0, 0))
        _depthwise(images, w, y, Windows(size, strides, pads, dilations), threads, derived, finish, other)
        y = y if y.ndim == x.ndim else y[:, :, 0]
    elif groups == 1 and all(k == 1 for k in size) and not any(map(any, pads)):
        images = images[(slice(None), *(slice(None, None, s) for s in strides))]
        _pointwise(images, times or _times(derived(weight_columns, w, 1)[0]), y, threads, finish, other)
    else:
        windows = Windows(size, strides, pads, dilations)
        if groups == 1:
            times = times or _times(derived(weight_columns, w, 1)[0])
            _dense(images, times, y, windows, 1, threads, finish, other, columns or copied)
        else:
            weights = derived(weight_columns, w, groups)
            if weights.size * prod(out) * y.shape[0] < groups * APART or prod(out) * y.shape[0] > ROWS:
                _dense(images, _grouped(weights), y, windows, groups, threads, finish, other, columns or copied)
            else:
                _by_group(images, weights, y, windows, threads, finish, other, columns or copied)
    return channels_first(y)


def _times(weights: Any) -> Times:
    return lambda a, out, threads: products.multiply(a, weights, out, threads)


def _grouped(weights: Any) -> Times:
    """Of every group its own columns, by its own weights."""
    groups, _, m = weights.shape

    def times(a: Any, out: Any, threads: int) -> None:
        out.reshape(-1, groups, m)[...] = np.matmul(a, weights).transpose(1, 0, 2)

    return times


def _pointwise(images: Any, times: Times, y: Any, threads: int, finish: Finish | None, z: Any) -> None:
    """A kernel of one place: one product, of an image with channels first by its transpose, without a copy."""
    c, m = images.shape[-1], y.shape[-1]
    if images.flags.c_contiguous or images.shape[0] > 1:
        a = images.reshape(-1, c)
    else:
        a = images[0].transpose(images.ndim - 2, *range(images.ndim - 2)).reshape(c, -1).T
    rows, result = a.shape[0], y.reshape(-1, m)
    other = None if z is None else z.reshape(-1, m)

    def finished(start: int, stop: int) -> None:
        if finish is not None:
            finish(result[start:stop], None if other is None else other[start:stop])

    def block(start: int, stop: int) -> None:
        count = max(round((stop - start) / max(ROWS, COLUMNS // max(c, m))), 1) if finish is not None else 1
        for i, j in pairwise(start + (stop - start) * part // count for part in range(count + 1)):
            times(a[i:j], result[i:j], 1)
            finished(i, j)

    cost = products.seconds(rows, c, m, y.itemsize)
    moved = y.itemsize * rows * (c + m) / BYTES + (TOUCHED * result.size if finish is not None else 0)
    if threads < 2 or not pays(cost) or not products.by_columns(rows, m):
        split(block, rows, cost + moved, threads)
    else:
        times(a, result, threads)
        split(finished, rows, TOUCHED * result.size, threads)


def _dense(
    images: Any,
    times: Times,
    y: Any,
    windows: Windows,
    groups: int,
    threads: int,
    finish: Finish | None,
    z: Any,
    columns: Callable[..., Any],
) -> None:
    """Columns of a block of windows, then a product for each group."""
    m = y.shape[-1]
    depth = prod(windows.size) * images.shape[-1]
    out = y.shape[1:-1]
    cost = products.seconds(prod(y.shape[:-1]), depth // groups, m, y.itemsize)
    cost += COPIED * depth * prod(y.shape[:-1])
    blocks = in_blocks(y.shape[0], out, most_windows(COLUMNS // depth, out, cost, threads), ROWS, threads)
    wide = len(blocks) == 1 and groups == 1 and threads > 1  # one block: its columns are shared out instead

    def some(start: int, stop: int) -> None:
        for some_images, first, last in blocks[start:stop]:
            result = y[some_images, first:last]
            cols = columns(images[some_images], first, last, out, *windows, groups)
            flat = result.reshape(-1, m)  # neighbours in memory: whole images, or rows of one
            times(cols if groups > 1 else cols[0], flat, threads if wide else 1)
            if finish is not None:
                finish(flat, None if z is None else z[some_images, first:last].reshape(flat.shape))

    if wide:
        some(0, 1)
    else:
        split(some, len(blocks), cost, threads)


def _by_group(
    images: Any,
    weights: Any,
    y: Any,
    windows: Windows,
    threads: int,
    finish: Finish | None,
    z: Any,
    columns: Callable[..., Any],
) -> None:
    """Few windows and much to do for each group: one after the other, so that their columns stay in the cache."""
    out, (groups, depth, m), c = y.shape[1:-1], weights.shape, images.shape[-1]
    flat, each = y.reshape(-1, y.shape[-1]), c // groups

    def some(start: int, stop: int) -> None:
        for group in range(start, stop):
            shown = images[..., group * each : (group + 1) * each]
            cols = columns(shown, 0, out[0], out, *windows, 1)
            np.matmul(cols[0], weights[group], out=flat[:, group * m : (group + 1) * m])

    cost = groups * (products.seconds(flat.shape[0], depth, m, y.itemsize) + COPIED * depth * flat.shape[0])
    split(some, groups, cost, threads)
    if finish is not None:
        finish(flat, None if z is None else z.reshape(flat.shape))


def _depthwise(
    images: Any,
    w: Any,
    y: Any,
    windows: Windows,
    threads: int,
    derived: Callable[..., Any],
    finish: Finish | None,
    z: Any,
) -> None:
    """Every channel by itself: for each place of the kernel a product of whole rows, added up in one pass by einsum.

    Columns of few channels that are a stride apart are brought side by side first: a row of the result meets whole rows
    then.
    """
    n, out, c = y.shape[0], y.shape[1:-1], y.shape[-1]
    size, strides, _, dilations = windows
    width = out[-1]
    alone = strides[-1] > 1 and c >= WIDE
    repeats = next(t for t in range(1, width + 1) if width % t == 0 and (t * c >= LINE or t == width))
    repeats = 1 if alone else repeats
    lines = derived(weight_lines, w, repeats)
    cost = TOUCHED * y.size * prod(size)
    blocks = in_blocks(n, out, most_windows(SMALL // c, out, cost, threads), 1, threads)
    rank = len(size)
    axes, kernel = list(range(2 * rank + 2)), list(range(rank))
    lines = lines.reshape(*size, -1)

    def some(start: int, stop: int) -> None:
        for some_images, first, last in blocks[start:stop]:
            x = padded(images[some_images], first, last, out, *windows)
            if strides[-1] == 1 or alone:
                x = x if x.flags.c_contiguous else np.ascontiguousarray(x)
                images_apart, *apart, between, _ = x.strides
                aside, along = dilations[-1] * between, repeats * strides[-1] * between
            else:
                shape = (size[-1], *x.shape[:-2], width, c)
                beside = scratch("beside", shape, x.dtype)
                for k in range(size[-1]):
                    beside[k] = x[..., k * dilations[-1] :: strides[-1], :][..., :width, :]
                x = beside
                aside, images_apart, *apart, between, _ = x.strides
                along = repeats * between
            result = y[some_images, first:last]
            flat = result.reshape(*result.shape[:-2], width // repeats, repeats * c)
            shown = seen(
                x,
                (*size, *flat.shape),
                (
                    *(b * d for b, d in zip(apart, dilations, strict=False)), aside, images_apart,
                    *(b * s for b, s in zip(apart, strides, strict=False)), along, y.itemsize,
                ),
            )  # fmt: skip
            np.einsum(shown, axes, lines, [*kernel, axes[-1]], axes[rank:], out=flat)
            if finish is not None:
                block = result.reshape(-1, c)
                finish(block, None if z is None else z[some_images, first:last].reshape(block.shape))

    split(some, len(blocks), cost, threads)


def conv(
    xp: Namespace,
    x: Any,
    w: Any,
    *,
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
    groups: int = 1,
) -> Any:
    """The primitive, for what other operators are made of."""
    windows = x.shape[0] * prod(output_shape(x.shape[2:], w.shape[2:], strides, dilations, pads))
    plain = windows < REWRITTEN or (groups > 1 and w.shape[1] > 1)  # better as it is, with channels first
    if x.dtype not in products.FLOATS or w.dtype != x.dtype or 0 in w.shape or (x.flags.c_contiguous and plain):
        return NotImplemented
    return convolved(x, w, strides=strides, pads=pads, dilations=dilations, groups=groups, threads=xp.threads)


def conv_node(
    xp: Namespace,
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
    """Convolution with the bias added block by block, and its weights prepared once."""
    return fused_conv(
        xp, X, W, B, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads,
        strides=strides, derived=derived,
    )  # fmt: skip


def fused_conv(
    xp: Namespace,
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
    """Convolution with bias, what is added and the activation applied to every block while it is in the cache."""
    if X.dtype not in products.FLOATS or W.dtype != X.dtype or 0 in W.shape:
        return NotImplemented
    finish = _finish(xp, B, Z, activation, fused.parameters(activation, activation_params))
    return finished(
        X, W, B, Z, finish, xp.threads, derived, auto_pad, group, kernel_shape, strides, dilations, pads
    )  # fmt: skip


def finished(
    x: Any, w: Any, bias: Any, z: Any, finish: Finish | None, threads: int, derived: Any, auto_pad: str, group: int,
    kernel_shape: Any, strides: Any, dilations: Any, pads: Any, columns: Callable[..., Any] | None = None,
    times: Times | None = None,
) -> Any:  # fmt: skip
    """The convolution of a node, whose blocks `finish` gives what is to be added, and the activation."""
    given = map(_hashable, (kernel_shape, strides, dilations, pads))
    strides, dilations, padding = fitting_windows(x.shape, w.shape, group, *given, auto_pad)
    require_shape("the bias B", bias, w.shape[0])
    return convolved(
        x, w, strides=strides, pads=padding, dilations=dilations, groups=group, threads=threads, derived=derived,
        finish=finish, z=z, columns=columns, times=times,
    )  # fmt: skip


fitting_windows = lru_cache(maxsize=1024)(kernels.fitting_windows)


def _hashable(numbers: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if numbers is None else tuple(numbers)


def _finish(xp: Namespace, bias: Any, z: Any, activation: str, params: Sequence[float]) -> Finish | None:
    """What adds the bias and `z`, and activates, in place."""
    if bias is None and z is None and not activation:
        return None

    def finish(block: Any, other: Any) -> None:
        if bias is not None:
            block += bias
        if other is not None:
            block += other
        if activation == "Relu":
            np.maximum(block, 0, out=block)
        elif activation == "Clip":
            np.clip(block, *map(block.dtype.type, params), out=block)
        elif activation == "QuickGelu":
            swish_fill(params[0])(block, block)
        elif activation:
            block[...] = fused.activated(xp, block, activation, params)

    return finish


def transposed(w: Any, strides: tuple[int, ...], dilations: tuple[int, ...], groups: int, then: Any, *rest: Any) -> Any:
    """What `then` prepares from the weights of the convolution that makes the result of a transposed one.

    Of `stride` neighbours in the result each has its own part of the kernel, every stride-th element: it is a
    convolution that makes them as channels, which then go between each other. No zeros go between those of `x`.
    """
    xp, rank = create(CPU).xp, w.ndim - 2
    if any(s > 1 for s in strides):
        for axis, dilation in enumerate(dilations, 2):
            w = window.spread(xp, w, axis, dilation)
    (c, m), size = w.shape[:2], w.shape[2:]
    parts = [-(-k // s) for k, s in zip(size, strides, strict=True)]
    w = window.padded(xp, w, [(0, p * s - k) for p, s, k in zip(parts, strides, size, strict=True)])
    w = xp.reshape(w, (groups, c // groups, m, *chain.from_iterable(zip(parts, strides, strict=True))))
    w = xp.permute_dims(w, (0, 2, *range(4, 4 + 2 * rank, 2), 1, *range(3, 3 + 2 * rank, 2)))
    kernel = xp.reshape(w, (groups * m * prod(strides), c // groups, *parts))
    return then(xp.flip(kernel, axis=tuple(range(2, 2 + rank))), *rest)


def conv_transpose(
    xp: Namespace,
    X: Any,
    W: Any,
    B: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    group: int = 1,
    kernel_shape: Any = None,
    output_padding: Any = None,
    output_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
    derived: Any = at_once,
) -> Any:
    """As the default body, with weights prepared once, and neighbours put between each other with channels last."""
    if X.dtype not in products.FLOATS or W.dtype != X.dtype or X.size == 0:
        return NotImplemented
    strides, dilations, padding = kernels.transposed_windows(
        X.shape, W.shape, group, kernel_shape, strides, dilations, pads, auto_pad, output_shape, output_padding
    )
    channels = W.shape[1] * group
    require_shape("the bias B", B, channels)
    spread = any(s > 1 for s in strides)
    windows = zip(X.shape[2:], strides, W.shape[2:], dilations, strict=True)
    full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in windows]
    given = (tuple(strides), tuple(dilations), group)
    steps = [1 if spread else d for d in dilations]
    reaches = [(k - 1) * d + 1 if spread else k for k, d in zip(W.shape[2:], dilations, strict=True)]
    parts = [-(-k // s) for k, s in zip(reaches, strides, strict=True)]
    shape = (channels * prod(strides), X.shape[1] // group, *parts)
    around = [((p - 1) * d, (p - 1) * d) for p, d in zip(parts, steps, strict=True)]
    out = [n + (p - 1) * d for n, p, d in zip(X.shape[2:], parts, steps, strict=True)]
    lengths = [o * s for o, s in zip(out, strides, strict=True)]
    ends = [(-lo, f - hi - o) for (lo, hi), f, o in zip(padding, full, lengths, strict=True)]
    if any(more > 0 for pair in ends for more in pair):  # beyond what the windows reach there is the bias alone
        return NotImplemented
    y = convolved(
        X, np.broadcast_to(X.dtype.type(0), shape), strides=(1,) * len(parts), pads=around, dilations=steps,
        groups=group, threads=xp.threads, derived=lambda fn, _, *rest: derived(transposed, W, *given, fn, *rest),
    )  # fmt: skip
    rank = len(parts)
    apart = channels_last(y).reshape(X.shape[0], *out, channels, *strides)
    between = [axis for i in range(rank) for axis in (1 + i, 2 + rank + i)]
    y = apart.transpose(0, *between, 1 + rank).reshape(X.shape[0], *lengths, channels)
    y = y[(slice(None), *(slice(-lo, o + hi) for (lo, hi), o in zip(ends, lengths, strict=True)))]
    plain = lasting(derived, W) and derived(finite, W)
    if not plain or has_gaps(W.shape[2:], strides, dilations):
        mend = partial(mended, xp, plain, strides=strides, pads=padding, dilations=dilations, groups=group)
        opaque(mend, channels_first(y), X, W) if recording() else mend(channels_first(y), X, W)
    if B is not None:
        y += B
    return channels_first(y)


def has_gaps(size: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> bool:
    """Whether `transposed` puts zeros into the weights: infinity times those would be NaN."""
    windows = zip(size, strides, dilations, strict=True)
    return any(s > 1 for s in strides) and any(k % s or (d > 1 and k > 1) for k, s, d in windows)


def mended(xp: Namespace, plain: bool, y: Any, x: Any, w: Any, **given: Any) -> None:
    """Where `x` or `w` is not finite, write to `y` what the default body gives: it multiplies neither by the zeros
    around `x` and within the weights. `plain`: `w` is known to be finite.
    """
    if not (finite(x) and (plain or finite(w))):
        y[...] = window.conv_transpose(xp, x, w, **given)


def finite(x: Any) -> bool:
    """Whether no element is infinite or NaN."""
    return bool(np.isfinite(x).all())


OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "Conv", 1): conv_node,
    ("", "ConvTranspose", 1): conv_transpose,
    ("com.microsoft", "FusedConv", 1): fused_conv,
}
PRIMITIVES: dict[str, Callable[..., Any]] = {"conv": conv}
