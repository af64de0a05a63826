"""Operators that move elements without changing them."""

from __future__ import annotations

from math import prod
from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Flag, Float, Int, Ints, Scalar, Text, Value
from ortlite.ops.helpers import distinct_axes, normal_axis, one_of, require_lengths, require_shape
from ortlite.ops.registry import op


@op("Identity", any_dtype=True, views=True)
def identity(xp: Namespace, input: Value) -> Value:
    """The input itself: a tensor, sequence, optional or map."""
    return input


@op("Shape", any_dtype=True)
def shape(xp: Namespace, data: Array, *, start: Int = 0, end: Int | None = None) -> Ints:
    """The dimensions of `data` from `start` to `end`."""
    return tuple(data.shape[start:end])


@op("Size", any_dtype=True)
def size(xp: Namespace, data: Array) -> Int:
    """The number of elements."""
    return prod(data.shape)


@op("Reshape", any_dtype=True, views=True)
def reshape(xp: Namespace, data: Array, shape: Ints = (), *, allowzero: Flag = 0) -> Array:
    """`data` in another shape: 0 keeps a dimension (unless `allowzero`), one -1 takes the remaining elements.

    Beside a kept dimension of 0, where any number would do, -1 is what it is beside another: a batch may be empty.
    Raises ValueError when the number of elements does not fit.
    """
    if min(shape, default=0) < -1 or shape.count(-1) > 1:
        raise ValueError(f"shape {list(shape)} may hold one -1 and no other negative dimension")
    if allowzero and -1 in shape and 0 in shape:
        raise ValueError(f"shape {list(shape)} has both a 0 and a -1, which could be anything, and allowzero is set")
    if not allowzero and [d for d in shape if d == 0] and len(shape) > data.ndim and 0 in shape[data.ndim :]:
        raise ValueError(f"shape {shape} keeps a dimension that data of shape {tuple(data.shape)} does not have")
    kept = set() if allowzero else {i for i, d in enumerate(shape) if d == 0}
    wanted = tuple(data.shape[i] if i in kept else d for i, d in enumerate(shape))
    if -1 in wanted and 0 in wanted:
        elements = prod(d for i, d in enumerate(data.shape) if i not in kept)
        others = prod(d for d in shape if d > 0)
        if elements % others:
            raise ValueError(f"data of shape {tuple(data.shape)} has too many or too few elements for shape {shape}")
        wanted = tuple(elements // others if d == -1 else d for d in wanted)
    return xp.reshape(data, wanted)


@op("Flatten", any_dtype=True, views=True)
def flatten(xp: Namespace, input: Array, *, axis: Int = 1) -> Array:
    """A matrix: the axes before `axis` as rows, the others as columns."""
    axis = axis if axis == input.ndim else normal_axis(axis, input.ndim)
    return xp.reshape(input, (prod(input.shape[:axis]), prod(input.shape[axis:])))


@op("Squeeze", any_dtype=True, views=True)
def squeeze(xp: Namespace, data: Array, axes: Ints | None = None) -> Array:
    """Remove `axes` of length 1, all of them when none are given. Raises ValueError for a longer axis."""
    chosen = distinct_axes([i for i, d in enumerate(data.shape) if d == 1] if axes is None else axes, data.ndim)
    if any(data.shape[a] != 1 for a in chosen):
        raise ValueError(f"axes {axes} of shape {tuple(data.shape)} are not all of length 1")
    return xp.squeeze(data, axis=chosen)


@op("Unsqueeze", any_dtype=True, views=True)
def unsqueeze(xp: Namespace, data: Array, axes: Ints = ()) -> Array:
    """Insert axes of length 1 so that they stand at `axes` of the result. Raises ValueError for a repeated axis."""
    rank = data.ndim + len(axes)
    inserted = distinct_axes(axes, rank)
    lengths = iter(data.shape)
    return xp.reshape(data, tuple(1 if i in inserted else next(lengths) for i in range(rank)))


@op("Transpose", any_dtype=True, views=True)
def transpose(xp: Namespace, data: Array, *, perm: Ints | None = None) -> Array:
    """Permute the axes by `perm`, by default reverse them."""
    if perm is not None and sorted(perm) != list(range(data.ndim)):
        raise ValueError(f"perm {list(perm)} is no permutation of the axes 0 to {data.ndim - 1}")
    return xp.permute_dims(data, tuple(range(data.ndim))[::-1] if perm is None else perm)


@op("Expand", since=8, any_dtype=True, views=True)
def expand(xp: Namespace, input: Array, shape: Ints) -> Array:
    """Broadcast `input` and `shape` with each other."""
    if input.shape == shape:
        return input
    require_lengths("shape", shape)
    rank = max(input.ndim, len(shape))
    have = (1,) * (rank - input.ndim) + tuple(input.shape)
    want = (1,) * (rank - len(shape)) + tuple(shape)
    if any(a != b and 1 not in {a, b} for a, b in zip(have, want, strict=True)):
        raise ValueError(f"shape {tuple(input.shape)} cannot be broadcast with {tuple(shape)}")
    return xp.broadcast_to(input, tuple(b if a == 1 else a for a, b in zip(have, want, strict=True)))


@op("Tile", since=6, any_dtype=True)
def tile(xp: Namespace, input: Array, repeats: Ints) -> Array:
    """Repeat `input` `repeats[axis]` times along each axis."""
    if len(repeats) != input.ndim:
        raise ValueError(f"repeats {repeats} must have one entry for each of {input.ndim} axes")
    require_lengths("repeats", repeats)
    return xp.tile(input, repeats)


@op("Tile", any_dtype=True)
def tile_1(xp: Namespace, input: Array, tiles: Int, axis: Int) -> Array:
    """Repeat `input` `tiles` times along `axis`."""
    axis = normal_axis(axis, input.ndim)
    require_lengths("tiles", (tiles,))
    return xp.tile(input, tuple(tiles if i == axis else 1 for i in range(input.ndim)))


@op("Concat", since=4, any_dtype=True)
def concat(xp: Namespace, *inputs: Array, axis: Int) -> Array:
    """Join tensors along `axis`."""
    front, rank = normal_axis(axis, inputs[0].ndim), inputs[0].ndim
    before, after = inputs[0].shape[:front], inputs[0].shape[front + 1 :]
    if any(x.ndim != rank or x.shape[:front] != before or x.shape[front + 1 :] != after for x in inputs[1:]):
        raise ValueError(f"shapes {[list(x.shape) for x in inputs]} differ in more than axis {axis}")
    return xp.concat(inputs, axis=axis)


@op("Concat", any_dtype=True)
def concat_1(xp: Namespace, *inputs: Array, axis: Int = 1) -> Array:
    """Join tensors along `axis`, by default the second."""
    return concat(xp, *inputs, axis=axis)


def cut(x: Array, sizes: tuple[int, ...], axis: int) -> tuple[Array, ...]:
    """Pieces of the given sizes along `axis`."""
    pieces, start, before = [], 0, (slice(None),) * axis
    for length in sizes:
        pieces.append(x[(*before, slice(start, start + length), ...)])
        start += length
    return tuple(pieces)


@op("Split", any_dtype=True, views=True)
def split(
    xp: Namespace,
    input: Array,
    split: Ints | None = None,
    *,
    axis: Int = 0,
    num_outputs: Int | None = None,
    n_outputs: Int = 1,
) -> tuple[Array, ...]:
    """Cut along `axis` into pieces of the lengths `split`, or into equal ones, the last one smaller if need be.

    Raises ValueError when the lengths do not add up to the axis.
    """
    axis = normal_axis(axis, input.ndim)
    length, count = input.shape[axis], num_outputs or n_outputs
    if num_outputs is not None and (split is not None or num_outputs != n_outputs):
        raise ValueError(f"num_outputs is {num_outputs}, and there are {n_outputs} outputs and the lengths {split}")
    if split is None:
        step = -(-length // count)
        if step * count != length and num_outputs is None:
            raise ValueError(f"an axis of {length} elements cannot be cut into {count} equal pieces")
        split = tuple(max(min(step, length - i * step), 0) for i in range(count))
    if sum(split) != length or min(split, default=0) < 0 or len(split) != n_outputs:
        raise ValueError(
            f"{n_outputs} pieces of {list(split)} elements do not add up to the {length} elements of axis {axis}"
        )
    return cut(input, split, axis)


def steps_along(n: int, start: int, end: int, step: int) -> range:
    """The indices that Slice takes along an axis of `n` elements, by the letter of ONNX.

    `n` is added to a negative start and end, which are then clamped: for a positive step both to 0 … n, for a negative
    one the start to 0 … n - 1 and the end to -1 … n - 1. Raises ValueError for a step of 0.
    """
    if step == 0:
        raise ValueError("a step of 0 goes nowhere")
    low, high = (0, n) if step > 0 else (-1, n - 1)
    start = min(max(start + n if start < 0 else start, 0), high)
    end = min(max(end + n if end < 0 else end, low), high)
    return range(start, end, step)


@op("Slice", since=10, any_dtype=True, views=True)
def slice_(
    xp: Namespace, data: Array, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None
) -> Array:
    """`data[start:end:step]` along each of `axes`; bounds out of range are clamped, see `steps_along`.

    Unlike in Python, an `end` below -n with a negative step is before the first element, and a `start` below -n is the
    first. Raises ValueError for a step of 0 and for numbers of them that differ.
    """
    chosen = distinct_axes(range(len(starts)) if axes is None else axes, data.ndim)
    strides = (1,) * len(starts) if steps is None else steps
    if not len(chosen) == len(starts) == len(ends) == len(strides):
        raise ValueError(
            f"starts {list(starts)}, ends {list(ends)}, axes {list(chosen)} and steps {list(strides)} differ in length"
        )
    key = [slice(None)] * data.ndim
    for axis, start, end, step in zip(chosen, starts, ends, strides, strict=True):
        n = data.shape[axis]
        indices = steps_along(n, start, end, step)
        if not indices:  # whatever the step: not every library can flip an empty axis
            key[axis] = slice(0, 0)
        elif step > 0:
            key[axis] = slice(indices.start, indices.stop, min(step, n))  # longer ones overflow in strides
        else:  # not every library counts backwards: forwards in the mirrored axis
            key[axis] = slice(n - 1 - indices.start, n - 1 - indices.stop, min(-step, n))
    backward = tuple(axis for axis, step in zip(chosen, strides, strict=True) if step < 0 and key[axis].stop)
    return (xp.flip(data, axis=backward) if backward else data)[tuple(key)]


@op("Slice", any_dtype=True, views=True)
def slice_1(xp: Namespace, data: Array, *, starts: Ints, ends: Ints, axes: Ints | None = None) -> Array:
    """`data[start:end]` along each of `axes`."""
    return slice_(xp, data, starts, ends, axes)


def _image(x: Array, blocksize: int) -> tuple[int, ...]:
    """The shape of an image (N, C, H, W). Raises ValueError for another rank, and for a block without elements."""
    if x.ndim != 4 or blocksize < 1:
        raise ValueError(f"blocks of {blocksize} by {blocksize} do not make or take up an image {list(x.shape)}")
    return tuple(x.shape)


@op("DepthToSpace", any_dtype=True, views=True)
def depth_to_space(xp: Namespace, input: Array, *, blocksize: Int, mode: Text = "DCR") -> Array:
    """Spread channels over blocks: (N, C, H, W) becomes (N, C / b², H · b, W · b).

    `mode` "DCR" takes the block from the slow part of the channels, "CRD" from the fast part. Raises ValueError for
    another, and for channels that do not fit.
    """
    one_of("mode", mode, "DCR", "CRD")
    b, (n, c, h, w) = blocksize, _image(input, blocksize)
    if c % (b * b):
        raise ValueError(f"{c} channels cannot be spread over blocks of {b} by {b}")
    if mode == "DCR":
        blocks = xp.permute_dims(xp.reshape(input, (n, b, b, c // b**2, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        blocks = xp.permute_dims(xp.reshape(input, (n, c // b**2, b, b, h, w)), (0, 1, 4, 2, 5, 3))
    return xp.reshape(blocks, (n, c // b**2, h * b, w * b))


@op("SpaceToDepth", any_dtype=True, views=True)
def space_to_depth(xp: Namespace, input: Array, *, blocksize: Int, mode: Text = "DCR") -> Array:
    """Gather blocks into channels: (N, C, H, W) becomes (N, C · b², H / b, W / b); see DepthToSpace for `mode`."""
    one_of("mode", mode, "DCR", "CRD")
    b, (n, c, h, w) = blocksize, _image(input, blocksize)
    if h % b or w % b:
        raise ValueError(f"an image of {h} by {w} is not made of blocks of {b} by {b}")
    blocks = xp.reshape(input, (n, c, h // b, b, w // b, b))
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return xp.reshape(xp.permute_dims(blocks, order), (n, c * b * b, h // b, w // b))


def _widths(rank: int, pads: tuple[int, ...], axes: tuple[int, ...] | None) -> list[tuple[int, int]]:
    """ONNX's list (all befores, then all afters) as a pair for each axis."""
    chosen = range(rank) if axes is None else distinct_axes(axes, rank)
    count = len(chosen)
    if len(pads) != 2 * count:
        raise ValueError(f"pads {pads} must have two entries for each of {count} axes")
    widths = [(0, 0)] * rank
    for i, axis in enumerate(chosen):
        widths[axis] = (pads[i], pads[i + count])
    return widths


@op("Pad", since=11, any_dtype=True, views=True)
def pad(
    xp: Namespace,
    data: Array,
    pads: Ints,
    constant_value: Scalar | None = None,
    axes: Ints | None = None,
    *,
    mode: Text = "constant",
) -> Array:
    """Put `pads` elements before and after `axes`; negative ones crop.

    `mode`: "constant" (`constant_value`, else 0 or ""), "edge", "reflect" or, from opset 19 on, "wrap". Pads longer
    than the axis reflect or wrap again. Raises ValueError for another mode, and to crop more than there is.
    """
    one_of("mode", mode, "constant", "edge", "reflect", "wrap")
    widths = _widths(data.ndim, pads, axes)
    for n, (lo, hi) in zip(data.shape, widths, strict=True):
        if n + min(lo, 0) + min(hi, 0) < 0:
            raise ValueError(f"pads {list(pads)} crop {-min(lo, 0) - min(hi, 0)} elements from an axis of {n}")
    return xp.pad(data, widths, mode, _filler(xp, data, constant_value))


def _filler(xp: Namespace, data: Array, value: Any) -> Any:
    if value is not None:
        return value
    kind = xp.dtype_name(data.dtype)
    return "" if kind == "string" else False if kind == "bool" else 0


@op("Pad", any_dtype=True, views=True)
def pad_1(xp: Namespace, data: Array, *, paddings: Ints, mode: Text = "constant", value: Float = 0.0) -> Array:
    """Pad with widths that stand in the attribute `paddings`."""
    return pad(xp, data, paddings, value, mode=mode)


@op("Pad", since=2, any_dtype=True, views=True)
def pad_2(xp: Namespace, data: Array, *, pads: Ints, mode: Text = "constant", value: Float = 0.0) -> Array:
    """Pad with widths that stand in the attribute `pads`."""
    return pad(xp, data, pads, value, mode=mode)


@op("CenterCropPad", since=18, any_dtype=True, views=True)
def center_crop_pad(xp: Namespace, input_data: Array, shape: Ints, *, axes: Ints | None = None) -> Array:
    """Crop or zero-pad `axes` to the lengths `shape`, keeping the centre where it is."""
    widths = [(0, 0)] * input_data.ndim
    chosen = distinct_axes(range(input_data.ndim) if axes is None else axes, input_data.ndim)
    require_lengths("shape", shape)
    if len(chosen) != len(shape):
        raise ValueError(f"shape {list(shape)} must have one length for each of the axes {list(chosen)}")
    for axis, wanted in zip(chosen, shape, strict=True):
        have = input_data.shape[axis]
        before = -((have - wanted) // 2) if wanted < have else (wanted - have) // 2
        widths[axis] = (before, wanted - have - before)
    return xp.pad(input_data, widths, "constant", _filler(xp, input_data, None))


@op("ReverseSequence", since=10, any_dtype=True)
def reverse_sequence(
    xp: Namespace, input: Array, sequence_lens: Array, *, time_axis: Int = 0, batch_axis: Int = 1
) -> Array:
    """Reverse the first `sequence_lens[b]` steps of each example; the rest stays."""
    axes = distinct_axes((time_axis, batch_axis), input.ndim)
    x = xp.moveaxis(input, axes, (0, 1))
    time, batch = x.shape[:2]
    require_shape("sequence_lens", sequence_lens, batch)
    xp.require_range("sequence_lens", sequence_lens, 0, time)
    steps = xp.reshape(xp.arange(time, dtype=xp.int64), (-1, 1))
    lengths = xp.reshape(xp.astype(sequence_lens, xp.int64), (1, -1))
    sources = xp.where(steps < lengths, lengths - 1 - steps, steps) * batch + xp.arange(batch, dtype=xp.int64)
    rows = xp.reshape(x, (time * batch, *x.shape[2:]))
    return xp.moveaxis(xp.reshape(xp.take(rows, xp.reshape(sources, (-1,)), axis=0), x.shape), (0, 1), axes)


@op("Trilu", since=14, any_dtype=True)
def trilu(xp: Namespace, input: Array, k: Int = 0, *, upper: Flag = 1) -> Array:
    """The triangle above (or below) the `k`-th diagonal of the last two axes, zeros elsewhere."""
    if input.ndim < 2:
        raise ValueError(f"a tensor of shape {list(input.shape)} has no diagonal")
    return xp.triu(input, k=k) if upper else xp.tril(input, k=k)
