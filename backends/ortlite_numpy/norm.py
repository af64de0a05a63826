"""Softmax and normalisations by rows: blocks of rows go through all passes while they are in the cache."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from ortlite.namespace import Namespace
from ortlite.ops.helpers import normal_axis, require_broadcast, require_shape
from ortlite_numpy.elementwise import BLOCK, FLOATS, rowwise
from ortlite_numpy.threads import split

__all__ = ["OVERRIDES", "PRIMITIVES"]

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

    `added` are arrays or vectors that are added to the rows first; that sum is written to `total`.
    """
    n, width = rows.shape
    y, mean, inverse = np.empty_like(rows), np.empty((n, 1), rows.dtype), np.empty((n, 1), rows.dtype)
    step = max(BLOCK // max(width, 1), 1)

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
                out *= scale
            if bias is not None:
                out += bias

    split(some, n, COST * rows.size, threads)
    return y, mean, inverse


def _part(x: Any, start: int, stop: int) -> Any:
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
    require_broadcast("Scale", Scale, X.shape)
    if B is not None:
        require_broadcast("B", B, X.shape)
    stash = np.dtype(np.float32 if stash_type is None else xp.dtype(stash_type))
    scale, bias = _vector(Scale, X.shape[axis:]), _vector(B, X.shape[axis:])
    alike = X.dtype == stash and all(v is None or v.dtype == X.dtype for v in (Scale, B))
    if X.dtype not in FLOATS or not alike or X.size == 0 or scale is NotImplemented or bias is NotImplemented:
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
    require_broadcast("skip", skip, input.shape)
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
    step = max(BLOCK // max(width, 1), 1)

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


OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "LayerNormalization", 1): layer_normalization,
    ("", "LayerNormalization", 17): layer_normalization,
    ("", "RMSNormalization", 23): rms_normalization,
    ("", "SimplifiedLayerNormalization", 1): simplified_layer_normalization,
    ("com.microsoft", "SkipLayerNormalization", 1): skip_layer_normalization,
}
PRIMITIVES: dict[str, Callable[..., Any]] = {"softmax": softmax}
