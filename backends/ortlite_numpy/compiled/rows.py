"""Softmax and normalisations: what is computed from whole rows, a row at a time while it is in the cache.

The kernels see `(rows, width)`. Sums are of many partial sums, which are as exact as NumPy's pairwise ones; means and
variances are taken in two passes, for one pass over large numbers would cancel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from ortlite.derived import at_once
from ortlite_numpy.compiled.elementwise import one_by_one
from ortlite_numpy.compiled.functions import exp, larger
from ortlite_numpy.compiled.jit import FREE, loops, own, owned, share, wide, with_names
from ortlite_numpy.compiled.table import FLOATS, Call, override
from ortlite_numpy.record import numpy as np

MS = "com.microsoft"
ELEMENT = 1e-9  # seconds
PIXELS = 64  # whose sums are added up in the precision of the image
TOGETHER = 1 << 12  # elements of rows that stay in the nearest cache
STRIPE, STRIPED = 64, 1 << 16  # channels and elements that a part of an image with channels last has at least
F = np.float32

# e^y in place: of some rows at once, for what is left over of a vector takes as long as a vector
exponentials = with_names(one_by_one, "exponentials", function=exp)


@loops()
def highest(row):
    """The largest element; NaN where there is one."""
    top = row[0]
    for i in range(1, row.size):
        top = larger(top, row[i])
    return top


@loops(FREE)
def total(y):
    """The sum of a row."""
    s = y.dtype.type(0)
    for i in range(y.size):
        s += y[i]
    return s


@loops()
def softmax_rows(x, y, start, stop):
    """Softmax of rows [start, stop)."""
    wide()
    width = x.shape[1]
    flat = y.reshape(y.size)
    some = max(TOGETHER // width, 1)
    for begin in range(start, stop, some):
        end = min(begin + some, stop)
        for r in range(begin, end):
            row, to = x[r], y[r]
            top = highest(row)
            for i in range(to.size):
                to[i] = row[i] - top
        exponentials(flat[begin * width : end * width])
        for r in range(begin, end):
            row = y[r]
            scale = F(1) / total(row)
            for i in range(row.size):
                row[i] *= scale


@loops()
def log_softmax_rows(x, y, start, stop):
    """The logarithm of the softmax of rows [start, stop)."""
    for r in range(start, stop):
        row, to = x[r], y[r]
        top = highest(row)
        for i in range(to.size):
            to[i] = row[i] - top
        exponentials(to)
        shift = F(np.log(total(to)))
        for i in range(to.size):
            to[i] = (row[i] - top) - shift


@loops(FREE)
def moments(x, r, epsilon):
    """The mean of row r and 1 / standard deviation."""
    n = x.shape[1]
    s = x.dtype.type(0)
    for i in range(n):
        s += x[r, i]
    mean = s / x.dtype.type(n)
    v = x.dtype.type(0)
    for i in range(n):
        d = x[r, i] - mean
        v += d * d
    return mean, x.dtype.type(1 / np.sqrt(v / x.dtype.type(n) + x.dtype.type(epsilon)))


@loops()
def normalise_rows(x, scale, shift, epsilon, y, means, inverses, start, stop):
    """Layer normalisation of rows [start, stop); `shift` may be empty."""
    wide()
    for r in range(start, stop):
        mean, inverse = moments(x, r, epsilon)
        means[r] = mean
        inverses[r] = inverse
        if shift.size:
            for i in range(x.shape[1]):
                y[r, i] = (x[r, i] - mean) * inverse * scale[i] + shift[i]
        else:
            for i in range(x.shape[1]):
                y[r, i] = (x[r, i] - mean) * inverse * scale[i]


@loops(FREE)
def inverse_root(x, r, epsilon):
    """1 / the root of the mean square of row r."""
    v = x.dtype.type(0)
    for i in range(x.shape[1]):
        v += x[r, i] * x[r, i]
    return x.dtype.type(1 / np.sqrt(v / x.dtype.type(x.shape[1]) + x.dtype.type(epsilon)))


@loops()
def rms_rows(x, scale, epsilon, y, inverses, start, stop):
    """Rows [start, stop) over their root mean square, scaled."""
    wide()
    for r in range(start, stop):
        inverse = inverse_root(x, r, epsilon)
        inverses[r] = inverse
        for i in range(x.shape[1]):
            y[r, i] = x[r, i] * inverse * scale[i]


@loops()
def add_rows(x, skip, bias, y, start, stop):
    """Y = x + skip + bias, rows of `skip` used over and over; `bias` may be empty."""
    for r in range(start, stop):
        k = r % skip.shape[0]
        if bias.size:
            for i in range(x.shape[1]):
                y[r, i] = x[r, i] + skip[k, i] + bias[i]
        else:
            for i in range(x.shape[1]):
                y[r, i] = x[r, i] + skip[k, i]


@loops()
def normalise_channels(x, scale, shift, per, epsilon, y, start, stop):
    """Rows [start, stop) normalised, each made of channels of `per` elements that are scaled and shifted one by one.

    Row r has the channels r · channels and on, counted round and round in `scale`.
    """
    channels = x.shape[1] // per
    for r in range(start, stop):
        mean, inverse = moments(x, r, epsilon)
        for c in range(channels):
            at = (r * channels + c) % scale.size
            factor = inverse * scale[at]
            offset = shift[at]
            for i in range(c * per, (c + 1) * per):
                y[r, i] = (x[r, i] - mean) * factor + offset


def _rows(x: Any, axis: int) -> tuple[int, int] | None:
    """How many rows there are of how many elements, the axes from `axis` on as one; None where there are none."""
    rank = x.ndim
    if not -rank <= axis < rank or not x.size:
        return None
    width = x.shape[-1] if axis in {-1, rank - 1} else prod(x.shape[axis:])
    return x.size // width, width


def _row(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.linspace(-3, 3, 4, dtype=dtype).reshape(1, 4),), {}


def _scaled(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.linspace(-3, 3, 4, dtype=dtype).reshape(1, 4), np.ones(4, dtype)), {}


def _skipping(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    x = np.linspace(-3, 3, 4, dtype=dtype).reshape(1, 4)
    yield (x, x, np.ones(4, dtype)), {}


def _over_rows(xp: Any, kernel: Any, x: Any, axis: int) -> Any:
    """The kernel over rows, which are the last axis or, where that is cheap, another one."""
    if x.dtype.char != "f" or not x.ndim or not x.size or not -x.ndim <= axis < x.ndim:
        return NotImplemented
    if axis not in {-1, x.ndim - 1}:
        y = _over_rows(xp, kernel, np.moveaxis(x, axis, -1), -1)
        return np.moveaxis(y, -1, axis)
    x = own(x)
    width = x.shape[-1]
    rows = x.size // width
    y = np.empty((rows, width), F)
    share(xp, kernel, (x.reshape(rows, width), y), rows, x.size * ELEMENT)
    return y.reshape(x.shape)


@override("Softmax", since=13, examples=_row)
def softmax(xp: Any, input: Any, *, axis: int = -1) -> Any:
    """Row by row."""
    return _over_rows(xp, softmax_rows, input, axis)


@override("LogSoftmax", since=13, examples=_row)
def log_softmax(xp: Any, input: Any, *, axis: int = -1) -> Any:
    """Row by row."""
    return _over_rows(xp, log_softmax_rows, input, axis)


def _flattened(xp: Any, kernel: Any, x: Any, axis: int) -> Any:
    if x.dtype.char != "f" or (found := _rows(x, axis)) is None:
        return NotImplemented
    return _over_rows(xp, kernel, own(x).reshape(found), -1).reshape(x.shape)


@override("Softmax", examples=_row)
def softmax_1(xp: Any, input: Any, *, axis: int = 1) -> Any:
    """Row by row, all axes from `axis` on as one."""
    return _flattened(xp, softmax_rows, input, axis)


@override("LogSoftmax", examples=_row)
def log_softmax_1(xp: Any, input: Any, *, axis: int = 1) -> Any:
    """Row by row, all axes from `axis` on as one."""
    return _flattened(xp, log_softmax_rows, input, axis)


def _vector(v: Any, x: Any, width: int, derived: Any) -> Any:
    """A scale or shift of a row as a vector; None where it is another one for every row, or of another dtype."""
    if v.dtype != x.dtype:
        return None
    if v.size == width and v.shape == x.shape[x.ndim - v.ndim :]:
        return owned(v, derived).reshape(width)
    return None


def _normalised(xp: Any, x: Any, axis: int, scale: Any, shift: Any, epsilon: float, derived: Any) -> Any:
    """y, means and inverse deviations, `(rows, width)` and `(rows,)`; None for what the kernel does not take."""
    if x.dtype.char not in "fd" or (found := _rows(x, axis)) is None:
        return None
    rows, width = found
    factor = _vector(scale, x, width, derived)
    offset = np.empty(0, x.dtype) if shift is None else _vector(shift, x, width, derived)
    if factor is None or offset is None:
        return None
    x = own(x).reshape(rows, width)
    y, means, inverses = np.empty_like(x), np.empty(rows, x.dtype), np.empty(rows, x.dtype)
    share(xp, normalise_rows, (x, factor, offset, float(epsilon), y, means, inverses), rows, x.size * ELEMENT)
    return y, means, inverses


@override("LayerNormalization", ("", "LayerNormalization", 17), examples=_scaled, dtypes=FLOATS)
def layer_normalization(
    xp: Any,
    X: Any,
    Scale: Any,
    B: Any = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: Any = None,
    derived: Any = at_once,
) -> Any:
    """Row by row."""
    if stash_type is not None and stash_type.name != "float32":
        return NotImplemented
    found = _normalised(xp, X, axis, Scale, B, epsilon, derived)
    if found is None:
        return NotImplemented
    y, means, inverses = found
    shape = X.shape[:axis] + (1,) * len(X.shape[axis:])
    stash = [v.reshape(shape).astype(F, copy=False) for v in (means, inverses)]
    return y.reshape(X.shape), *stash


def _by_root(xp: Any, x: Any, axis: int, scale: Any, epsilon: float, derived: Any) -> Any:
    if x.dtype.char not in "fd" or (found := _rows(x, axis)) is None:
        return None
    rows, width = found
    if (factor := _vector(scale, x, width, derived)) is None:
        return None
    x = own(x).reshape(rows, width)
    y, inverses = np.empty_like(x), np.empty(rows, x.dtype)
    share(xp, rms_rows, (x, factor, float(epsilon), y, inverses), rows, x.size * ELEMENT)
    return y, inverses


@override("RMSNormalization", since=23, examples=_scaled, dtypes=FLOATS)
def rms_normalization(
    xp: Any,
    X: Any,
    scale: Any,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: Any = None,
    derived: Any = at_once,
) -> Any:
    """Row by row."""
    if stash_type is not None and stash_type.name != "float32":
        return NotImplemented
    found = _by_root(xp, X, axis, scale, epsilon, derived)
    return NotImplemented if found is None else found[0].reshape(X.shape)


@override("SimplifiedLayerNormalization", examples=_scaled, dtypes=FLOATS)
def simplified_layer_normalization(
    xp: Any,
    X: Any,
    scale: Any,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: Any = None,
    derived: Any = at_once,
) -> Any:
    """Row by row."""
    found = _by_root(xp, X, axis, scale, epsilon, derived)
    if found is None:
        return NotImplemented
    shape = X.shape[:axis] + (1,) * len(X.shape[axis:])
    return found[0].reshape(X.shape), found[1].reshape(shape).astype(F, copy=False)


def _skipped(xp: Any, x: Any, skip: Any, bias: Any, derived: Any) -> Any:
    """X + skip + bias; None where they do not meet row by row."""
    if x.dtype.char not in "fd" or not x.size or x.ndim < 1 or skip.dtype != x.dtype:
        return None
    width = x.shape[-1]
    trimmed = skip.shape
    while len(trimmed) > 1 and trimmed[0] == 1:
        trimmed = trimmed[1:]
    if trimmed != x.shape[x.ndim - len(trimmed) :] and skip.shape != x.shape:
        return None
    if bias is not None and (bias.dtype != x.dtype or bias.shape != (width,)):
        return None
    rows = x.size // width
    x = own(x).reshape(rows, width)
    y = np.empty_like(x)
    last = np.empty(0, x.dtype) if bias is None else owned(bias, derived)
    share(xp, add_rows, (x, own(skip).reshape(-1, width), last, y), rows, x.size * ELEMENT)
    return y


@override((MS, "SkipLayerNormalization", 1), examples=_skipping, dtypes=FLOATS)
def skip_layer_normalization(
    xp: Any,
    input: Any,
    skip: Any,
    gamma: Any,
    beta: Any = None,
    bias: Any = None,
    *,
    epsilon: float = 1e-12,
    derived: Any = at_once,
) -> Any:
    """Row by row."""
    total = _skipped(xp, input, skip, bias, derived)
    found = None if total is None else _normalised(xp, total, -1, gamma, beta, epsilon, derived)
    if found is None:
        return NotImplemented
    shape = (*input.shape[:-1], 1)
    y, means, inverses = found
    return y.reshape(input.shape), means.reshape(shape), inverses.reshape(shape), total.reshape(input.shape)


@override((MS, "SkipSimplifiedLayerNormalization", 1), examples=_skipping, dtypes=FLOATS)
def skip_simplified_layer_normalization(
    xp: Any, input: Any, skip: Any, gamma: Any, bias: Any = None, *, epsilon: float = 1e-12, derived: Any = at_once
) -> Any:
    """Row by row."""
    total = _skipped(xp, input, skip, bias, derived)
    found = None if total is None else _by_root(xp, total, -1, gamma, epsilon, derived)
    if found is None:
        return NotImplemented
    inverses = found[1].reshape(*input.shape[:-1], 1)
    return found[0].reshape(input.shape), np.zeros_like(inverses), inverses, total.reshape(input.shape)


@loops(FREE)
def normalise_pixels(x, groups, stripes, scale, shift, epsilon, y, start, stop):
    """Images x (N, pixels, C) normalised by groups of channels: [start, stop) of the `stripes` of groups of each."""
    pixels, each = x.shape[1], x.shape[2] // groups
    for unit in range(start, stop):
        image, stripe = unit // stripes, unit % stripes
        begin, end = stripe * groups // stripes, (stripe + 1) * groups // stripes
        left, right = begin * each, end * each
        sums, part = np.empty(right - left, np.float64), np.empty(right - left, x.dtype)
        mean, factor = np.empty(right - left, x.dtype), np.empty(right - left, x.dtype)
        for moment in range(2):
            sums[:] = 0
            for first in range(0, pixels, PIXELS):
                part[:] = 0
                for p in range(first, min(first + PIXELS, pixels)):
                    row = x[image, p, left:right]
                    if moment == 0:
                        for c in range(part.size):
                            part[c] += row[c]
                    else:
                        for c in range(part.size):
                            part[c] += (row[c] - mean[c]) * (row[c] - mean[c])
                for c in range(part.size):
                    sums[c] += part[c]
            for g in range(end - begin):
                s = 0.0
                for c in range(g * each, (g + 1) * each):
                    s += sums[c]
                s /= each * pixels
                for c in range(g * each, (g + 1) * each):
                    if moment == 0:
                        mean[c] = s
                    else:
                        factor[c] = scale[left + c] / np.sqrt(s + epsilon)
        offset = shift[left:right]
        for p in range(pixels):
            row, to = x[image, p, left:right], y[image, p, left:right]
            for c in range(to.size):
                to[c] = (row[c] - mean[c]) * factor[c] + offset[c]


def _grouped(xp: Any, x: Any, groups: int, scale: Any, shift: Any, epsilon: float, derived: Any) -> Any:
    """Groups of channels normalised; scale and shift one a channel."""
    if x.dtype.char not in "fd" or x.ndim < 2 or not x.size or scale.dtype != x.dtype or shift.dtype != x.dtype:
        return NotImplemented
    channels = x.shape[1]
    if scale.shape != (channels,) or shift.shape != (channels,) or groups < 1 or channels % groups:
        return NotImplemented
    rows = x.shape[0] * groups
    width = x.size // rows
    last = np.moveaxis(x, 1, -1)
    stripes = max(min(groups, channels // STRIPE, x.size // x.shape[0] // STRIPED), 1)
    if last.flags.c_contiguous and not x.flags.c_contiguous:
        pixels = own(last).reshape(x.shape[0], -1, channels)
        z = np.empty_like(pixels)
        args = (pixels, groups, stripes, owned(scale, derived), owned(shift, derived), float(epsilon), z)
        share(xp, normalise_pixels, args, len(z) * stripes, x.size * ELEMENT)
        return np.moveaxis(z.reshape(last.shape), -1, 1)
    x2 = own(x).reshape(rows, width)
    y = np.empty_like(x2)
    per = x.size // x.shape[0] // channels
    share(
        xp,
        normalise_channels,
        (x2, owned(scale, derived), owned(shift, derived), per, float(epsilon), y),
        rows,
        x.size * ELEMENT,
    )
    return y.reshape(x.shape)


def _image(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.linspace(-3, 3, 8, dtype=dtype).reshape(1, 2, 4), np.ones(2, dtype), np.ones(2, dtype)), {}


def _images(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    for (x, *factors), _ in _image(dtype, attributes):
        yield (x, *factors), {"num_groups": 2}
        yield (np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1), *factors), {"num_groups": 2}


@override("InstanceNormalization", examples=_image, dtypes=FLOATS)
def instance_normalization(
    xp: Any, input: Any, scale: Any, B: Any, *, epsilon: float = 1e-5, derived: Any = at_once
) -> Any:
    """Channel by channel."""
    return _grouped(xp, input, input.shape[1] if input.ndim > 1 else 0, scale, B, epsilon, derived)


@override("GroupNormalization", since=21, examples=_images, dtypes=FLOATS)
def group_normalization(
    xp: Any,
    X: Any,
    scale: Any,
    bias: Any,
    *,
    epsilon: float = 1e-5,
    num_groups: int,
    stash_type: Any = None,
    derived: Any = at_once,
) -> Any:
    """Group by group."""
    if stash_type is not None and stash_type.name != "float32":
        return NotImplemented
    return _grouped(xp, X, num_groups, scale, bias, epsilon, derived)


@override("GroupNormalization", since=18, examples=_images, dtypes=FLOATS)
def group_normalization_18(
    xp: Any, X: Any, scale: Any, bias: Any, *, epsilon: float = 1e-5, num_groups: int, derived: Any = at_once
) -> Any:
    """Group by group; scale and bias are one a group."""
    if X.ndim < 2 or num_groups < 1 or scale.shape != (num_groups,) or bias.shape != scale.shape:
        return NotImplemented
    each = X.shape[1] // num_groups
    return _grouped(xp, X, num_groups, np.repeat(scale, each), np.repeat(bias, each), epsilon, derived)
