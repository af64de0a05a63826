"""Convolutions."""

from __future__ import annotations

from math import prod

from ortlite.namespace import Namespace
from ortlite.ops._window import Pads, defaults, fixed_pads, kernel_size, window_pads
from ortlite.ops.annotations import Array, Int, Ints, Text
from ortlite.ops.helpers import along, require_shape
from ortlite.ops.registry import op
from ortlite.primitives.window import fold
from ortlite.primitives.window import output_shape as window_count


def add_bias(xp: Namespace, y: Array, B: Array | None) -> Array:
    """`y` plus one element of `B` a channel (axis 1). Raises ValueError when there are not as many."""
    require_shape("the bias B", B, y.shape[1])
    return y if B is None else y + along(xp, B, 1, y.ndim)


def fitting_windows(
    x: tuple[int, ...],
    w: tuple[int, ...],
    group: int,
    kernel_shape: Ints | None,
    strides: Ints | None,
    dilations: Ints | None,
    pads: Ints | None,
    auto_pad: str,
) -> tuple[tuple[int, ...], tuple[int, ...], Pads]:
    """Strides, dilations and pads of a convolution of shape `x` (N, C, *spatial) with `w` (M, C / group, *kernel).

    Raises ValueError when channels, groups or `kernel_shape` do not fit, for a kernel of 0 elements, and for one larger
    than the padded axis.
    """
    rank, size = len(x) - 2, w[2:]
    if rank < 1 or len(w) != len(x) or group < 1 or x[1] != w[1] * group or w[0] % group:
        raise ValueError(f"X {tuple(x)} and W {tuple(w)} do not fit together with group {group}")
    if kernel_shape is not None and tuple(kernel_shape) != tuple(size):
        raise ValueError(f"kernel_shape {list(kernel_shape)} is not that of W {list(w)}")
    kernel_size(size, rank)
    strides, dilations = defaults("strides", strides, rank), defaults("dilations", dilations, rank)
    padding = window_pads(x[2:], size, strides, dilations, pads, auto_pad)
    for n, k, d, (lo, hi) in zip(x[2:], size, dilations, fixed_pads(rank, pads, auto_pad), strict=True):
        if n and not auto_pad.startswith("SAME") and (k - 1) * d + 1 > n + lo + hi:
            raise ValueError(f"a kernel of {(k - 1) * d + 1} is larger than an axis of {n} padded by {lo} and {hi}")
    return strides, dilations, padding


@op("Conv")
def conv(
    xp: Namespace,
    X: Array,
    W: Array,
    B: Array | None = None,
    *,
    auto_pad: Text = "NOTSET",
    dilations: Ints | None = None,
    group: Int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Convolve `X` (N, C, *spatial) with `W` (M, C / `group`, *kernel) and add `B` (M).

    Raises ValueError for shapes that do not fit, and for a kernel larger than the padded image.
    """
    strides, dilations, padding = fitting_windows(
        X.shape, W.shape, group, kernel_shape, strides, dilations, pads, auto_pad
    )
    return add_bias(xp, xp.conv(X, W, strides=strides, pads=padding, dilations=dilations, groups=group), B)


def transposed_windows(
    x: tuple[int, ...],
    w: tuple[int, ...],
    group: int,
    kernel_shape: Ints | None,
    strides: Ints | None,
    dilations: Ints | None,
    pads: Ints | None,
    auto_pad: str,
    output_shape: Ints | None,
    output_padding: Ints | None,
) -> tuple[tuple[int, ...], tuple[int, ...], Pads]:
    """Strides, dilations and pads of a transposed convolution of shape `x` with `w` (C, M / group, *kernel).

    Raises ValueError for shapes that do not fit.
    """
    rank, size = len(x) - 2, w[2:]
    if rank < 1 or len(w) != len(x) or group < 1 or x[1] != w[0] or w[0] % group:
        raise ValueError(f"X {tuple(x)} and W {tuple(w)} do not fit together with group {group}")
    if kernel_shape is not None and tuple(kernel_shape) != tuple(size):
        raise ValueError(f"kernel_shape {list(kernel_shape)} is not that of W {list(w)}")
    kernel_size(size, rank)
    strides, dilations = defaults("strides", strides, rank), defaults("dilations", dilations, rank)
    extra = tuple(output_padding) if output_padding else (0,) * rank
    if len(extra) != rank or min(extra) < 0:
        raise ValueError(
            f"output_padding {list(extra)} must have one entry, 0 or more, for each of {rank} spatial axes"
        )
    ends = fixed_pads(rank, pads, auto_pad)
    full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(x[2:], strides, size, dilations, strict=True)]
    if output_shape or auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
        wanted = output_shape[-rank:] if output_shape else [n * s for n, s in zip(x[2:], strides, strict=True)]
        if len(wanted) != rank or min(wanted) < 0:
            raise ValueError(f"output_shape {list(wanted)} must have one length for each of {rank} spatial axes")
        padding = []
        for have, more, want in zip(full, extra, wanted, strict=True):
            total = have + more - want
            half = max(total, 0) // 2
            lo = half if auto_pad == "SAME_UPPER" else max(total, 0) - half
            padding.append((lo, have - want - lo))
    else:
        padding = [(lo, hi - more) for (lo, hi), more in zip(ends, extra, strict=True)]
    return strides, dilations, padding


@op("ConvTranspose")
def conv_transpose(
    xp: Namespace,
    X: Array,
    W: Array,
    B: Array | None = None,
    *,
    auto_pad: Text = "NOTSET",
    dilations: Ints | None = None,
    group: Int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """The transposed convolution of `X` (N, C, *spatial) with `W` (C, M / `group`, *kernel), plus `B` (M).

    `output_shape` (the spatial part counts) decides the pads, whose smaller half comes first with SAME_UPPER alone;
    `output_padding` extends the end. Raises ValueError for shapes that do not fit.
    """
    strides, dilations, padding = transposed_windows(
        X.shape, W.shape, group, kernel_shape, strides, dilations, pads, auto_pad, output_shape, output_padding
    )
    return add_bias(xp, xp.conv_transpose(X, W, strides=strides, pads=padding, dilations=dilations, groups=group), B)


@op("Col2Im", since=18, views=True)
def col2im(
    xp: Namespace,
    input: Array,
    image_shape: Ints,
    block_shape: Ints,
    *,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Add the columns (N, C · block, windows) up where their windows stand: (N, C, *image)."""
    if xp.isdtype(input.dtype, "bool"):  # the standard multiplies no booleans: count, and see whether there is any
        counts = col2im(
            xp, xp.astype(input, xp.int32), image_shape, block_shape, dilations=dilations, pads=pads, strides=strides
        )
        return counts != 0
    rank, (n, depth, columns) = len(image_shape), input.shape
    strides, dilations = defaults("strides", strides, rank), defaults("dilations", dilations, rank)
    block = prod(block_shape)
    padding = fixed_pads(rank, pads)
    windows = [
        (size + lo + hi - (k - 1) * d - 1) // s + 1
        for size, k, s, d, (lo, hi) in zip(image_shape, block_shape, strides, dilations, padding, strict=True)
    ]
    if depth % block or prod(windows) != columns:
        raise ValueError(
            f"columns {list(input.shape)} are not {prod(windows)} blocks {list(block_shape)} of {list(image_shape)}"
        )
    # what windows do not reach at the end is extended back
    ends = [
        (lo, (w - 1) * s + (k - 1) * d + 1 - lo - size)
        for size, k, s, d, w, (lo, _) in zip(
            image_shape, block_shape, strides, dilations, windows, padding, strict=True
        )
    ]
    x = xp.reshape(input, (n, depth // block, *block_shape, *windows))
    return fold(xp, x, strides=strides, pads=ends, dilations=dilations)


@op("DeformConv", since=19)
def deform_conv(
    xp: Namespace,
    X: Array,
    W: Array,
    offset: Array,
    B: Array | None = None,
    mask: Array | None = None,
    *,
    dilations: Ints | None = None,
    group: Int = 1,
    kernel_shape: Ints | None = None,
    offset_group: Int = 1,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Convolution with its kernel positions moved by `offset` (N, groups · kernel · rank, *out), weighted by `mask`.

    Between the elements of `X` it interpolates linearly; beyond its edges there is 0.
    """
    rank, size = X.ndim - 2, W.shape[2:]
    strides, dilations, padding = fitting_windows(
        X.shape, W.shape, group, kernel_shape, strides, dilations, pads, "NOTSET"
    )
    n, c = X.shape[:2]
    out, count = window_count(X.shape[2:], size, strides, dilations, padding), prod(size)
    if offset_group < 1 or c % offset_group:
        raise ValueError(f"{c} channels cannot be divided into {offset_group} groups of offsets")
    require_shape("offset", offset, n, offset_group * count * rank, *out)
    require_shape("mask", mask, n, offset_group * count, *out)
    moves = xp.reshape(offset, (n, offset_group, count, rank, *out))
    coordinates = []
    for axis in range(rank):
        start = along(xp, xp.arange(out[axis], dtype=X.dtype) * strides[axis] - padding[axis][0], axis, rank)
        reach = along(xp, xp.arange(size[axis], dtype=X.dtype) * dilations[axis], axis, rank)
        reach = xp.reshape(xp.broadcast_to(reach, size), (count, *(1,) * rank))
        coordinates.append(moves[:, :, :, axis, ...] + (start + reach))
    image = xp.reshape(X, (n, offset_group, c // offset_group, *X.shape[2:]))
    sampled = interpolate(xp, image, coordinates)
    if mask is not None:
        sampled = sampled * xp.expand_dims(xp.reshape(mask, (n, offset_group, count, *out)), axis=2)
    columns = xp.reshape(sampled, (n, group, c // group * count, prod(out)))
    kernel = xp.reshape(W, (1, group, W.shape[0] // group, c // group * count))
    return add_bias(xp, xp.reshape(xp.matmul(kernel, columns), (n, W.shape[0], *out)), B)


def interpolate(xp: Namespace, image: Array, coordinates: list[Array]) -> Array:
    """Linear interpolation of `image` (N, G, C, *spatial) at float coordinates (N, G, *points): (N, G, C, *points).

    Outside the image there is 0.
    """
    n, g, c, *spatial = image.shape
    flat = xp.reshape(image, (n, g, c, prod(spatial)))
    points = coordinates[0].shape[2:]
    total = xp.zeros((n, g, c, prod(points)), dtype=image.dtype)
    corners = 2 ** len(spatial)
    for corner in range(corners):
        weight = inside = flat_index = None
        for axis, (x, length) in enumerate(zip(coordinates, spatial, strict=True)):
            low = xp.floor(x)
            share = x - low
            index = low + 1.0 if corner >> axis & 1 else low
            share = share if corner >> axis & 1 else 1.0 - share
            here = (index >= 0) & (index <= length - 1)
            index = xp.astype(xp.clip(index, 0, max(length - 1, 0)), xp.int64)
            weight = share if weight is None else weight * share
            inside = here if inside is None else inside & here
            flat_index = index if flat_index is None else flat_index * length + index
        weight = xp.where(inside, weight, xp.zeros_like(weight))
        indices = xp.broadcast_to(xp.reshape(flat_index, (n, g, 1, prod(points))), total.shape)
        total = total + xp.take_along_axis(flat, indices, axis=3) * xp.reshape(weight, (n, g, 1, prod(points)))
    return xp.reshape(total, (n, g, c, *points))
