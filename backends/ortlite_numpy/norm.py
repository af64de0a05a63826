"""Softmax and normalisations by rows: blocks of rows go through all passes while they are in the cache."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops.helpers import normal_axis, require_broadcast, require_shape
from ortlite_numpy.elementwise import FLOATS, LINE, ROWS, rowwise
from ortlite_numpy.record import numpy as np
from ortlite_numpy.threads import split

__all__ = ["OVERRIDES", "PRIMITIVES"]

FLOAT32 = np.dtype(np.float32)
COST = 3e-9  # seconds an element takes in the passes of a softmax or a normalisation


def softmax(xp: Namespace, x: Any, axis: int) -> Any:
    """Each block of rows in place; over another axis than the last, blocks of what stands before that axis."""
    if x.dtype not in FLOATS or x.size == 0:
        return NotImplemented
    axis %= x.ndim
    if axis != x.ndim - 1 and prod(x.shape[axis + 1 :]) == 1:
        return softmax(xp, x.reshape(x.shape[: axis + 1]), axis).reshape(x.shape)
    last = axis == x.ndim - 1
    shape = (-1, x.shape[-1]) if last else (-1, x.shape[axis], prod(x.shape[axis + 1 :]))
    rows = x.reshape(shape)
    out = np.empty(rows.shape, x.dtype)

    def fill(block: Any, result: Any) -> None:
        np.subtract(block, block.max(axis=1, keepdims=True), out=result)
        np.exp(result, out=result)
        total = np.add.reduce(result, axis=1, keepdims=True)
        np.divide(result, total, out=result)

    rowwise(fill, rows, (out,), COST, xp.threads)
    return out.reshape(x.shape)


def _rows(x: Any, axis: int) -> Any:
    """`x` as a matrix: the axes before `axis`, and the others."""
    return np.ascontiguousarray(x).reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


def _vector(v: Any, shape: tuple[int, ...]) -> Any:
    """A scale or bias as one element a column; None where it differs from row to row."""
    if v is None or v.shape == shape:
        return None if v is None else v.reshape(-1)
    if v.ndim > len(shape) and any(n != 1 for n in v.shape[: v.ndim - len(shape)]):
        return NotImplemented
    return np.broadcast_to(v.reshape(v.shape[max(v.ndim - len(shape), 0) :]), shape).reshape(-1)


def normalised(
    rows: Any, scale: Any, bias: Any, epsilon: float, threads: int, added: tuple[Any, ...] = (), total: Any = None
) -> tuple[Any, Any, Any]:
    """Every row less its mean, over its standard deviation, scaled and shifted; also both as columns.

    Scale and bias are vectors, or columns. `added` are arrays or vectors that are added to the rows first; that sum is
    written to `total`.
    """
    n, width = rows.shape
    y, mean, inverse = np.empty_like(rows), np.empty((n, 1), rows.dtype), np.empty((n, 1), rows.dtype)
    step = max(ROWS // max(width, 1), 1)

    def some(start: int, stop: int) -> None:
        for i in range(start, stop, step):
            j = min(i + step, stop)
            block, out = rows[i:j], y[i:j]
            if total is not None:
                block = total[i:j]
                np.add(rows[i:j], _part(added[0], i, j), out=block)
                for more in added[1:]:
                    block += _part(more, i, j)
            middle = mean[i:j]
            np.add.reduce(block, axis=1, keepdims=True, out=middle)
            middle /= width
            np.subtract(block, middle, out=out)
            deviation = inverse[i:j]
            np.einsum("ij,ij->i", out, out, out=deviation[:, 0])
            deviation /= width
            deviation += epsilon
            np.sqrt(deviation, out=deviation)
            np.reciprocal(deviation, out=deviation)
            out *= deviation
            if scale is not None:
                out *= _part(scale, i, j)
            if bias is not None:
                out += _part(bias, i, j)

    split(some, n, COST * rows.size, threads)
    return y, mean, inverse


def _part(x: Any, start: int, stop: int) -> Any:
    """What belongs to some rows: of a vector, which belongs to every row, all."""
    return x if x.ndim == 1 else x[start:stop]


def layer_normalization(
    xp: Namespace,
    X: Any,
    Scale: Any,
    B: Any = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: Any = None,
) -> Any:
    """By rows, where the statistics have the dtype of `X`, and scale and bias one element a column."""
    axis = normal_axis(axis, X.ndim)
    inner, dtype = X.shape[axis:], X.dtype
    scale, bias = Scale, B
    if Scale.shape != inner or len(inner) > 1:
        require_broadcast("Scale", Scale, X.shape)
        scale = _vector(Scale, inner)
    if B is not None and (B.shape != inner or len(inner) > 1):
        require_broadcast("B", B, X.shape)
        bias = _vector(B, inner)
    stash = FLOAT32 if stash_type is None else xp.dtype(stash_type)
    alike = dtype == stash and Scale.dtype == dtype and (B is None or B.dtype == dtype)
    if dtype not in FLOATS or not alike or X.size == 0 or scale is NotImplemented or bias is NotImplemented:
        return NotImplemented
    y, mean, inverse = normalised(_rows(X, axis), scale, bias, epsilon, xp.threads)
    statistics = (*X.shape[:axis], *(1,) * (X.ndim - axis))
    return y.reshape(X.shape), mean.reshape(statistics), inverse.reshape(statistics)


def skip_layer_normalization(
    xp: Namespace,
    input: Any,
    skip: Any,
    gamma: Any,
    beta: Any = None,
    bias: Any = None,
    *,
    epsilon: float = 1e-12,
) -> Any:
    """The sum is made block by block, too."""
    if skip.shape != input.shape and np.broadcast_shapes(skip.shape, input.shape) != input.shape:
        return NotImplemented
    for name, v in (("bias", bias), ("gamma", gamma), ("beta", beta)):
        require_shape(name, v, input.shape[-1])
    given = [v for v in (skip, gamma, beta, bias) if v is not None]
    if input.dtype not in FLOATS or any(v.dtype != input.dtype for v in given) or input.size == 0:
        return NotImplemented
    axis = input.ndim - 1
    rows, other = _rows(input, axis), _rows(np.broadcast_to(skip, input.shape), axis)
    total = np.empty_like(rows)
    added = (other,) if bias is None else (other, bias)
    y, mean, inverse = normalised(rows, gamma, beta, epsilon, xp.threads, added, total)
    statistics = (*input.shape[:-1], 1)
    return y.reshape(input.shape), mean.reshape(statistics), inverse.reshape(statistics), total.reshape(input.shape)


def _mean_square(rows: Any, scale: Any, epsilon: float, threads: int) -> tuple[Any, Any]:
    """Every row over the root of its mean square, scaled; also the inverse of that root."""
    n, width = rows.shape
    y, inverse = np.empty_like(rows), np.empty((n, 1), rows.dtype)
    step = max(ROWS // max(width, 1), 1)

    def some(start: int, stop: int) -> None:
        for i in range(start, stop, step):
            j = min(i + step, stop)
            block, out, root = rows[i:j], y[i:j], inverse[i:j]
            np.einsum("ij,ij->i", block, block, out=root[:, 0])
            root /= width
            root += epsilon
            np.sqrt(root, out=root)
            np.reciprocal(root, out=root)
            np.multiply(block, root, out=out)
            out *= scale

    split(some, n, COST * rows.size, threads)
    return y, inverse


def rms_normalization(
    xp: Namespace, X: Any, scale: Any, *, axis: int = -1, epsilon: float = 1e-5, stash_type: Any = None
) -> Any:
    """By rows, where all is of one dtype and `scale` has one element a column."""
    axis = normal_axis(axis, X.ndim)
    require_broadcast("scale", scale, X.shape)
    stash = np.dtype(np.float32 if stash_type is None else xp.dtype(stash_type))
    factors = _vector(scale, X.shape[axis:])
    if X.dtype not in FLOATS or not X.dtype == scale.dtype == stash or X.size == 0 or factors is NotImplemented:
        return NotImplemented
    return _mean_square(_rows(X, axis), factors, epsilon, xp.threads)[0].reshape(X.shape)


def simplified_layer_normalization(
    xp: Namespace, X: Any, scale: Any, *, axis: int = -1, epsilon: float = 1e-5, stash_type: Any = None
) -> Any:
    """As RMSNormalization, with the inverse of the root."""
    axis = normal_axis(axis, X.ndim)
    require_broadcast("scale", scale, X.shape)
    factors = _vector(scale, X.shape[axis:])
    if X.dtype != np.float32 or scale.dtype != X.dtype or X.size == 0 or factors is NotImplemented:
        return NotImplemented
    y, inverse = _mean_square(_rows(X, axis), factors, epsilon, xp.threads)
    return y.reshape(X.shape), inverse.reshape(*X.shape[:axis], *(1,) * (X.ndim - axis))


def instance_normalization(xp: Namespace, input: Any, scale: Any, B: Any, *, epsilon: float = 1e-5) -> Any:
    """By rows with channels first in memory; with channels last by columns, a block of rows at a time."""
    require_shape("scale", scale, input.shape[1])
    require_shape("B", B, input.shape[1])
    if input.ndim < 3 or input.size == 0 or input.dtype not in FLOATS or not input.dtype == scale.dtype == B.dtype:
        return NotImplemented
    n, c = input.shape[:2]
    last = input.transpose(0, *range(2, input.ndim), 1)
    if last.flags.c_contiguous and not input.flags.c_contiguous:
        y = np.empty_like(last)
        shape = (n, last.size // (n * c), c)
        _by_column(last.reshape(shape), scale, B, epsilon, xp.threads, y.reshape(shape))
        return y.transpose(0, y.ndim - 1, *range(1, y.ndim - 1))
    rows = np.ascontiguousarray(input).reshape(n * c, -1)
    y, _, _ = normalised(rows, _column(scale, n), _column(B, n), epsilon, xp.threads)
    return y.reshape(input.shape)


def group_normalization(
    xp: Namespace, X: Any, scale: Any, bias: Any, *, epsilon: float = 1e-5, num_groups: int, stash_type: Any = None
) -> Any:
    """As InstanceNormalization, of some channels at a time."""
    require_shape("scale", scale, X.shape[1])
    require_shape("bias", bias, X.shape[1])
    (n, c), dtype = X.shape[:2], X.dtype
    if X.ndim < 3 or X.size == 0 or dtype not in FLOATS or not dtype == scale.dtype == bias.dtype:
        return NotImplemented
    if num_groups < 1 or c % num_groups or (stash_type is not None and xp.dtype(stash_type) != dtype):
        return NotImplemented
    alike = c // num_groups
    last = X.transpose(0, *range(2, X.ndim), 1)
    if last.flags.c_contiguous and not X.flags.c_contiguous:
        y = np.empty_like(last)
        shape = (n, last.size // (n * c), c)
        _by_column(last.reshape(shape), scale, bias, epsilon, xp.threads, y.reshape(shape), alike)
        return y.transpose(0, y.ndim - 1, *range(1, y.ndim - 1))
    rows = np.ascontiguousarray(X).reshape(n * num_groups, -1)
    y = normalised(rows, None, None, epsilon, xp.threads)[0].reshape(n, c, -1)
    y *= scale.reshape(-1, 1)
    y += bias.reshape(-1, 1)
    return y.reshape(X.shape)


def _column(v: Any, repeats: int) -> Any:
    """One element a row: of every channel of every example."""
    return np.tile(v, repeats).reshape(-1, 1)


def _by_column(images: Any, scale: Any, bias: Any, epsilon: float, threads: int, y: Any, alike: int = 1) -> None:
    """`images` (N, positions, C), each `alike` channels normalised over all positions. Sums of blocks are added up."""
    n, count, c = images.shape
    few = -(-LINE // c)  # positions that make a long line; where they do not divide them all, each is its own
    side = count if count <= few else next((t for t in range(few, min(8 * few, count) + 1) if count % t == 0), 1)
    lines, results = images.reshape(n, -1, side * c), y.reshape(n, -1, side * c)
    step = max(ROWS // (side * c), 1)  # short sums of short sums are exact enough

    def average(sums: Any) -> Any:
        totals = np.add.reduce(sums.reshape(side, c), axis=0)
        if alike > 1:
            totals = np.repeat(np.add.reduce(totals.reshape(-1, alike), axis=1), alike)
        return totals / totals.dtype.type(count * alike)

    def some(start: int, stop: int) -> None:
        for image, out in zip(lines[start:stop], results[start:stop], strict=True):
            blocks = [slice(i, i + step) for i in range(0, image.shape[0], step)]
            mean = np.tile(average(sum(np.add.reduce(image[block], axis=0) for block in blocks)), side)
            for block in blocks:
                np.subtract(image[block], mean, out=out[block])
            squares = sum(np.einsum("ij,ij->j", out[block], out[block]) for block in blocks)
            factor = np.tile(scale / np.sqrt(average(squares) + image.dtype.type(epsilon)), side)
            offset = np.tile(bias, side)
            for block in blocks:
                out[block] *= factor
                out[block] += offset

    split(some, n, COST * images.size, threads)


def batch_normalization(
    xp: Namespace,
    X: Any,
    scale: Any,
    B: Any,
    input_mean: Any,
    input_var: Any,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Any:
    """One factor and one offset a channel, applied in place."""
    y = NotImplemented if training_mode else _scaled(X, scale, B, input_mean, input_var, epsilon)
    return y if y is NotImplemented else (y, input_mean, input_var)


def batch_normalization_7(
    xp: Namespace,
    X: Any,
    scale: Any,
    B: Any,
    mean: Any,
    var: Any,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    n_outputs: int = 1,
) -> Any:
    """As above, where it does not train."""
    y = NotImplemented if n_outputs > 1 or not spatial else _scaled(X, scale, B, mean, var, epsilon)
    return y if y is NotImplemented else (y, mean, var, mean, var)


def _scaled(x: Any, scale: Any, bias: Any, mean: Any, var: Any, epsilon: float) -> Any:
    given = (scale, bias, mean, var)
    if x.ndim < 2 or x.dtype not in FLOATS or any(v.dtype != x.dtype or v.shape != x.shape[1:2] for v in given):
        return NotImplemented
    factor = scale / np.sqrt(var + x.dtype.type(epsilon))
    offset = bias - mean * factor
    shape = (-1, *(1,) * (x.ndim - 2))
    y = x * factor.reshape(shape)
    y += offset.reshape(shape)
    return y


OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "LayerNormalization", 1): layer_normalization,
    ("", "LayerNormalization", 17): layer_normalization,
    ("", "InstanceNormalization", 1): instance_normalization,
    ("", "GroupNormalization", 21): group_normalization,
    ("", "BatchNormalization", 7): batch_normalization_7,
    ("", "BatchNormalization", 14): batch_normalization,
    ("", "RMSNormalization", 23): rms_normalization,
    ("", "SimplifiedLayerNormalization", 1): simplified_layer_normalization,
    ("com.microsoft", "SkipLayerNormalization", 1): skip_layer_normalization,
}
PRIMITIVES: dict[str, Callable[..., Any]] = {"softmax": softmax}
