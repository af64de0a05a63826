"""Reading and writing at places that arrays name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

from ortlite.primitives.base import Namespace

__all__ = ["gather_nd", "one_hot", "scatter", "scatter_flat", "scatter_nd"]


def gather_nd(xp: Namespace, data: Any, indices: Any) -> Any:
    """`data[indices[..., 0], indices[..., 1], ...]`: (..., depth) indices give (..., *data.shape[depth:])."""
    depth = indices.shape[-1]
    flat_indices = _flat_indices(xp, indices, data.shape[:depth])
    rows = xp.reshape(data, (prod(data.shape[:depth]), *data.shape[depth:]))
    found = xp.take(rows, xp.reshape(flat_indices, (-1,)), axis=0)
    return xp.reshape(found, (*indices.shape[:-1], *data.shape[depth:]))


def _flat_indices(xp: Namespace, indices: Any, shape: tuple[int, ...]) -> Any:
    """Tuples of indices along the last axis (negative ones from the end) as positions in the flattened `shape`."""
    flat_indices = xp.zeros(indices.shape[:-1], dtype=xp.int64)
    for axis, size in enumerate(shape):
        index = xp.astype(indices[..., axis], xp.int64)
        flat_indices = flat_indices * size + xp.where(index < 0, index + size, index)
    return flat_indices


def one_hot(xp: Namespace, indices: Any, depth: int, axis: int, on: Any, off: Any) -> Any:
    """`on` where the index along the new `axis` of length `depth` is in `indices`, else `off`: 0-d arrays of one dtype.

    `axis` counts from the front. An index outside 0 … depth - 1 is nowhere.
    """
    indices = xp.expand_dims(indices, axis=axis)
    classes = xp.arange(depth, dtype=indices.dtype)
    return xp.where(indices == xp.reshape(classes, (-1, *(1,) * (indices.ndim - 1 - axis))), on, off)


def scatter_nd(xp: Namespace, data: Any, indices: Any, updates: Any, reduction: str = "none") -> Any:
    """A copy of `data` with `updates` at `data[indices[..., 0], indices[..., 1], ...]`, as `scatter_flat` combines."""
    depth = indices.shape[-1]
    rows = prod(data.shape[:depth])
    width = prod(data.shape[depth:])
    flat_indices = xp.reshape(_flat_indices(xp, indices, data.shape[:depth]), (-1, 1))
    flat_indices = flat_indices * width + xp.reshape(xp.arange(width, dtype=xp.int64), (1, -1))
    flat = xp.reshape(data, (rows * width,))
    flat = xp.scatter_flat(flat, xp.reshape(flat_indices, (-1,)), xp.reshape(updates, (-1,)), reduction)
    return xp.reshape(flat, data.shape)


def scatter(xp: Namespace, data: Any, indices: Any, updates: Any, axis: int, reduction: str = "none") -> Any:
    """A copy of `data` with `updates[i, j, ...]` at `data` where the index along `axis` is `indices[i, j, ...]`."""
    axis = axis % data.ndim
    flat_indices = xp.zeros(indices.shape, dtype=xp.int64)
    for dim, size in enumerate(data.shape):
        if dim == axis:
            index = xp.astype(indices, xp.int64)
            index = xp.where(index < 0, index + size, index)
        else:
            index = xp.arange(indices.shape[dim], dtype=xp.int64)
            index = xp.reshape(index, tuple(-1 if i == dim else 1 for i in range(data.ndim)))
        flat_indices = flat_indices * size + index
    flat = xp.reshape(data, (-1,))
    flat = xp.scatter_flat(flat, xp.reshape(flat_indices, (-1,)), xp.reshape(updates, (-1,)), reduction)
    return xp.reshape(flat, data.shape)


def scatter_flat(xp: Namespace, data: Any, indices: Any, updates: Any, reduction: str) -> Any:
    """A copy of the vector `data` with `updates` at `indices`: the last one wins, or `reduction` add, mul, min, max.

    Updates to one index are first combined with each other: sorted by index, in log2 steps that double the
    reach of each element, and then once with `data`.
    """
    if indices.shape[0] == 0:
        return data
    order = xp.argsort(indices, stable=True)
    indices, updates = xp.take(indices, order), xp.take(updates, order)
    combine = _combination(xp, reduction, data.dtype)
    count = indices.shape[0]
    if combine is not None:
        reach = 1
        while reach < count:
            same = indices[reach:] == indices[:-reach]
            updates = xp.concat(
                [updates[:reach], xp.where(same, combine(updates[reach:], updates[:-reach]), updates[reach:])]
            )
            reach *= 2
    last = xp.concat([indices[1:] != indices[:-1], xp.ones((1,), dtype=xp.bool)])
    # each place of data looks up the last update meant for it
    targets = xp.arange(data.shape[0], dtype=xp.int64)
    slots = xp.searchsorted(indices, targets, side="right") - 1
    slots = xp.astype(xp.where(slots < 0, xp.zeros_like(slots), slots), xp.int64)
    hit = (xp.take(indices, slots) == targets) & xp.take(last, slots)
    found = xp.take(updates, slots)
    return xp.where(hit, found if combine is None else combine(data, found), data)


def _combination(xp: Namespace, reduction: str, dtype: Any) -> Callable[[Any, Any], Any] | None:
    """What makes one of two elements; None where the later one stays.

    The standard adds no booleans and does not order complex numbers: theirs is the order of their parts, as in NumPy.
    """
    if reduction == "none":
        return None
    if xp.isdtype(dtype, "bool"):
        either: Callable[[Any, Any], Any] = xp.logical_or if reduction in {"add", "max"} else xp.logical_and
        return either
    if xp.isdtype(dtype, "complex floating") and reduction in {"max", "min"}:
        return partial(_outer, xp, reduction == "max")
    plain: dict[str, Callable[[Any, Any], Any]]
    plain = {"add": xp.add, "mul": xp.multiply, "max": xp.maximum, "min": xp.minimum}
    return plain[reduction]


def _outer(xp: Namespace, largest: bool, a: Any, b: Any) -> Any:
    above = (xp.real(a) > xp.real(b)) | ((xp.real(a) == xp.real(b)) & (xp.imag(a) > xp.imag(b)))
    return xp.where(above, a, b) if largest else xp.where(above, b, a)
