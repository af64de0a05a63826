"""Reading and writing at indices, sorting, and what depends on values: NonZero, Compress, Unique."""

from __future__ import annotations

from math import prod

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Flag, Int, Text
from ortlite.ops.helpers import along, from_front, normal_axis, one_of, require_shape, wrapped
from ortlite.ops.registry import op

REDUCTIONS = ("none", "add", "mul", "min", "max")


@op("Gather", any_dtype=True)
def gather(xp: Namespace, data: Array, indices: Array, *, axis: Int = 0) -> Array:
    """The slices of `data` at `indices` along `axis`: the shape of `indices` takes that axis's place."""
    axis = normal_axis(axis, data.ndim)
    taken = xp.take(data, xp.reshape(wrapped(xp, indices, data.shape[axis]), (-1,)), axis=axis)
    return xp.reshape(taken, (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))


def _require_inside(data: Array, indices: Array, axis: int) -> None:
    """Raises ValueError unless `indices` has the rank of `data` and is no longer, but for `axis`."""
    fits = indices.ndim == data.ndim
    if not fits or any(i > n for d, (i, n) in enumerate(zip(indices.shape, data.shape, strict=True)) if d != axis):
        raise ValueError(f"indices {list(indices.shape)} do not lie within data {list(data.shape)} beside axis {axis}")


@op("GatherElements", since=11, any_dtype=True)
def gather_elements(xp: Namespace, data: Array, indices: Array, *, axis: Int = 0) -> Array:
    """`data` at `indices` along `axis`, the other coordinates as in `indices`."""
    axis = normal_axis(axis, data.ndim)
    _require_inside(data, indices, axis)
    inside = tuple(slice(None) if i == axis else slice(0, n) for i, n in enumerate(indices.shape))
    return xp.take_along_axis(data[inside], wrapped(xp, indices, data.shape[axis]), axis=axis)


@op("GatherND", since=11, any_dtype=True)
def gather_nd(xp: Namespace, data: Array, indices: Array, *, batch_dims: Int = 0) -> Array:
    """The slices of `data` at the index tuples along the last axis of `indices`, after `batch_dims` shared axes."""
    if not 0 <= batch_dims < min(indices.ndim, data.ndim) or data.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise ValueError(
            f"indices {list(indices.shape)} and data {list(data.shape)} do not share {batch_dims} batch axes"
        )
    _require_tuples(xp, indices, data.shape[batch_dims:])
    if batch_dims:
        indices = _with_batch(xp, indices, batch_dims)
    return xp.gather_nd(data, indices)


def _require_tuples(xp: Namespace, indices: Array, shape: tuple[int, ...]) -> None:
    """Raises ValueError for tuples of indices longer than `shape`, or out of its range where they are readable."""
    depth = indices.shape[-1] if indices.ndim else 0
    if not 1 <= depth <= len(shape):
        raise ValueError(f"indices {list(indices.shape)} hold tuples of {depth} along the last axis for {list(shape)}")
    if xp.readable(indices):
        for axis, size in enumerate(shape[:depth]):
            name = f"indices into axis {axis} of {list(shape)}"
            xp.require_range(name, indices[..., axis], -size, size - 1)


def _with_batch(xp: Namespace, indices: Array, batch_dims: int) -> Array:
    """Index tuples with the batch coordinates put in front."""
    grid = []
    for axis in range(batch_dims):
        coordinate = along(xp, xp.arange(indices.shape[axis], dtype=xp.int64), axis, indices.ndim)
        grid.append(xp.broadcast_to(coordinate, (*indices.shape[:-1], 1)))
    return xp.concat([*grid, xp.astype(indices, xp.int64)], axis=-1)


@op("ScatterElements", since=11, views=True)
def scatter_elements(
    xp: Namespace, data: Array, indices: Array, updates: Array, *, axis: Int = 0, reduction: Text = "none"
) -> Array:
    """A copy of `data` with `updates` at `indices` along `axis`; `reduction` none, add, mul, min or max.

    Raises ValueError for another reduction.
    """
    one_of("reduction", reduction, *REDUCTIONS)
    axis = normal_axis(axis, data.ndim)
    _require_inside(data, indices, axis)
    require_shape("updates", updates, *indices.shape)
    size = data.shape[axis]
    xp.require_range(f"indices into an axis of {size} elements", indices, -size, size - 1)
    return xp.scatter(data, indices, updates, axis, reduction)


@op("Scatter", since=9, views=True)
def scatter(xp: Namespace, data: Array, indices: Array, updates: Array, *, axis: Int = 0) -> Array:
    """The old name of ScatterElements."""
    return scatter_elements(xp, data, indices, updates, axis=axis)


@op("ScatterND", since=11, views=True)
def scatter_nd(xp: Namespace, data: Array, indices: Array, updates: Array, *, reduction: Text = "none") -> Array:
    """A copy of `data` with slices `updates` at the index tuples `indices`; `reduction` none, add, mul, min or max.

    Raises ValueError for another reduction.
    """
    one_of("reduction", reduction, *REDUCTIONS)
    _require_tuples(xp, indices, data.shape)
    require_shape("updates", updates, *indices.shape[:-1], *data.shape[indices.shape[-1] :])
    return xp.scatter_nd(data, indices, updates, reduction)


@op("TensorScatter", since=24, views=True)
def tensor_scatter(
    xp: Namespace,
    past_cache: Array,
    update: Array,
    write_indices: Array | None = None,
    *,
    axis: Int = -2,
    mode: Text = "linear",
) -> Array:
    """A cache with `update` written along `axis` from `write_indices[batch]` on.

    `mode` "circular" takes every position modulo the length of the cache. Raises ValueError for a mode that is neither
    that nor "linear".
    """
    one_of("mode", mode, "linear", "circular")
    axis = normal_axis(axis, past_cache.ndim)
    size = past_cache.shape[axis]
    _require_inside(past_cache, update, axis)
    if (
        axis == 0
        or update.shape[axis] > size
        or any(a != b for d, (a, b) in enumerate(zip(update.shape, past_cache.shape, strict=True)) if d != axis)
    ):
        raise ValueError(
            f"update {list(update.shape)} does not fit the cache {list(past_cache.shape)} along axis {axis}"
        )
    require_shape("write_indices", write_indices, past_cache.shape[0])
    if write_indices is not None and mode == "linear":
        xp.require_range("write_indices", write_indices, 0, size - update.shape[axis])
    batch, lead, steps = past_cache.shape[0], prod(past_cache.shape[:axis]), update.shape[axis]
    starts = xp.zeros((batch,), dtype=xp.int64) if write_indices is None else xp.astype(write_indices, xp.int64)
    positions = xp.expand_dims(starts, axis=1) + xp.arange(steps, dtype=xp.int64)
    if mode == "circular":
        positions = xp.remainder(positions, xp.asarray(size, dtype=xp.int64))
    # one row for all coordinates before the axis, which share the starts of their batch, and one for all behind it
    positions = xp.reshape(xp.repeat(positions, lead // batch, axis=0) if batch else positions, (lead, steps))
    rows = xp.broadcast_to(xp.expand_dims(xp.arange(lead, dtype=xp.int64), axis=1), (lead, steps))
    cache = xp.reshape(past_cache, (lead, size, prod(past_cache.shape[axis + 1 :])))
    update = xp.reshape(update, (lead, steps, cache.shape[2]))
    return xp.reshape(xp.scatter_nd(cache, xp.stack([rows, positions], axis=-1), update), past_cache.shape)


@op("OneHot", since=9)
def one_hot(xp: Namespace, indices: Array, depth: Int, values: Array, *, axis: Int = -1) -> Array:
    """`values[1]` where the new `axis` of length `depth` meets an index, else `values[0]`; from -depth to depth - 1."""
    require_shape("values", values, 2)
    if depth < 1:
        raise ValueError(f"depth must be 1 or more, not {depth}")
    off, on = values[0, ...], values[1, ...]
    return xp.one_hot(from_front(xp, indices, depth), depth, normal_axis(axis, indices.ndim + 1), on, off)


@op("Compress", since=9, any_dtype=True, data_dependent_shape=True)
def compress(xp: Namespace, input: Array, condition: Array, *, axis: Int | None = None) -> Array:
    """The slices along `axis` (of the flattened tensor when None) where `condition` is true; it may be too short.

    Raises ValueError where it is true behind the end of the axis.
    """
    if axis is None:
        input, axis = xp.reshape(input, (-1,)), 0
    axis = normal_axis(axis, input.ndim)
    (indices,) = xp.nonzero(condition)
    xp.require_range("where condition is true", indices, 0, input.shape[axis] - 1)
    return xp.take(input, indices, axis=axis)


@op("NonZero", since=9, data_dependent_shape=True)
def nonzero(xp: Namespace, X: Array) -> Array:
    """Indices of the elements that are not 0: one row an axis."""
    if X.ndim == 0:
        X = xp.reshape(X, (1,))
        return xp.zeros((0, xp.nonzero(X)[0].shape[0]), dtype=xp.int64)
    return xp.stack([xp.astype(i, xp.int64) for i in xp.nonzero(X)], axis=0)


@op("Unique", since=11, data_dependent_shape=True)
def unique(
    xp: Namespace, X: Array, *, axis: Int | None = None, sorted: Flag = 1, n_outputs: Int = 1
) -> tuple[Array, Array, Array, Array]:
    """The different elements (or slices along `axis`), where each first stands, which one stands where, and how often.

    In order of value with `sorted`, else of first appearance.
    """
    rows = xp.reshape(X, (-1, 1)) if axis is None else _rows(xp, X, axis)
    order = xp.arange(rows.shape[0], dtype=xp.int64)
    for column in range(rows.shape[1] - 1, -1, -1):  # stable sorts from the last column to the first: lexicographic
        for keys in _sort_keys(xp, rows[:, column]):
            order = xp.take(order, xp.astype(xp.argsort(xp.take(keys, order), stable=True), xp.int64))
    ordered = xp.take(rows, order, axis=0)
    count, lead = rows.shape[0], min(rows.shape[0], 1)
    new = xp.any(ordered[lead:, :] != ordered[: count - lead, :], axis=1)
    new = xp.concat([xp.ones((lead,), dtype=xp.bool), xp.astype(new, xp.bool)])
    (starts,) = xp.nonzero(new)
    starts = xp.astype(starts, xp.int64)
    ends = xp.concat([starts[lead:], xp.full((lead,), count, dtype=xp.int64)])
    first, counts = xp.take(order, starts), ends - starts
    values = xp.take(xp.reshape(X, (-1,)), first) if axis is None else xp.take(X, first, axis=axis)
    if n_outputs == 1 and sorted:
        return values, first, first, counts  # the other outputs are not used
    group = xp.cumulative_sum(xp.astype(new, xp.int64)) - 1
    inverse = xp.take(group, xp.astype(xp.argsort(order), xp.int64))
    if not sorted:
        by_place = xp.astype(xp.argsort(first), xp.int64)
        first, counts = xp.take(first, by_place), xp.take(counts, by_place)
        inverse = xp.take(xp.astype(xp.argsort(by_place), xp.int64), inverse)
        values = xp.take(xp.reshape(X, (-1,)), first) if axis is None else xp.take(X, first, axis=axis)
    return values, first, inverse, counts


def _sort_keys(xp: Namespace, x: Array) -> tuple[Array, ...]:
    """Real numbers, all that the standard sorts, in whose order `x` is; the least significant first."""
    if xp.isdtype(x.dtype, "complex floating"):
        return xp.imag(x), xp.real(x)
    return (xp.astype(x, xp.uint8) if xp.isdtype(x.dtype, "bool") else x,)


def _rows(xp: Namespace, X: Array, axis: int) -> Array:
    """The slices along `axis` as the rows of a matrix."""
    moved = xp.moveaxis(X, axis, 0)
    return xp.reshape(moved, (moved.shape[0], prod(moved.shape[1:])))


@op("TopK")
def top_k(
    xp: Namespace,
    X: Array,
    K: Int | None = None,
    *,
    k: Int | None = None,
    axis: Int = -1,
    largest: Flag = 1,
    sorted: Flag = 1,
) -> tuple[Array, Array]:
    """The `K` largest (or smallest) elements along `axis`, in order, and their indices; the first ones of a tie.

    Before opset 10 their number was the attribute `k`. Raises ValueError when there are not that many.
    """
    count = k if K is None else K
    axis = normal_axis(axis, X.ndim)
    if count is None or not 0 <= count <= X.shape[axis]:
        raise ValueError(f"an axis of {X.shape[axis]} elements has no top {count}")
    values, indices = xp.top_k(X, count, axis, bool(largest), bool(sorted))
    return values, indices
