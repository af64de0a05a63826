"""Primitives for which NumPy has something faster than the default body, and those that have no default.

Each has the signature of the default in `ortlite.primitives`; nothing here changes what a caller passed in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from ortlite import dtypes
from ortlite.namespace import Namespace, complete
from ortlite.primitives.random import moved
from ortlite_numpy import conv, elementwise, norm, pool, resample
from ortlite_numpy.layout import empty_as
from ortlite_numpy.record import Traced, opaque, recording
from ortlite_numpy.record import numpy as np

DRAWS = 1 << 15  # the elements of random numbers, of which a block costs a call of the generator
MANY = 8  # arrays from which on stacking them is worth a look at all
SORTED = 1024  # elements up to which sorting them all takes less than finding the first ones
RUN = 64  # elements side by side from which on copying them at once pays
MODES: dict[str, Any] = {"constant": "constant", "edge": "edge", "reflect": "reflect", "wrap": "wrap"}
ADDS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def bit_view(xp: Namespace, x: Any, dtype: Any) -> Any:
    """The bits of `x` as another dtype of the same width. Types of less than a byte live in the low bits of one."""
    x = np.asarray(x)
    target = dtypes.of_numpy(dtype)
    if target.bits >= 8:
        return x.view(dtype)
    low = x.view(np.uint8) & (2**target.bits - 1)
    if target.kind != "i":
        return low.view(dtype)
    sign = 2 ** (target.bits - 1)
    return ((low.astype(np.int8) ^ sign) - sign).astype(dtype)


@complete
def concrete_value(xp: Namespace, x: Any) -> Any:
    """NumPy's own way from an array of one element to a number."""
    return x.item() if hasattr(x, "dtype") else x


def _check_range(name: str, x: Any, lowest: int, highest: int) -> None:
    if x.size and not (lowest <= x.min() and x.max() <= highest):
        found = x.min() if x.min() < lowest else x.max()
        raise ValueError(f"{name} must lie from {lowest} to {highest}, not be {found}")


@complete
def require_range(xp: Namespace, name: str, x: Any, lowest: int, highest: int) -> None:
    """As the default body; where a kernel is being recorded, the check of what changes is a line of the recording."""
    if recording() and isinstance(x, Traced):
        opaque(_check_range, name, x, lowest, highest)
    else:
        _check_range(name, x, lowest, highest)


def stack(arrays: Sequence[Any], /, *, axis: int = 0) -> Any:
    """Many small arrays, one after the other: NumPy's own makes a view of each first."""
    if axis or len(arrays) < MANY or len({x.shape for x in arrays}) > 1 or arrays[0].dtype == object:
        return np.stack(arrays, axis=axis)
    if not arrays[0].ndim:
        return np.array(arrays)
    return np.concatenate(arrays).reshape(len(arrays), *arrays[0].shape)


@complete
def relu(xp: Namespace, x: Any) -> Any:
    """A Python 0 takes any dtype and costs less than an array."""
    y: Any = np.maximum(x, 0)
    return y


@complete
def root(xp: Namespace, x: Any, power: float = 0.5) -> Any:
    """Without a guard: nothing in NumPy takes derivatives, and the operator Gradient brings its own."""
    y: Any = np.sqrt(x) if power == 0.5 else np.power(x, x.dtype.type(power))
    return y


def pow_(x1: Any, x2: Any, /) -> Any:
    """Powers of 0.5 by the standard: NumPy takes roots where many have that one, NaN of -inf and -0 of -0."""
    y: Any = np.pow(x1, x2)
    if x1.dtype.kind != "f" or not np.any(x2 == 0.5):
        return y
    return np.where(x2 == 0.5, np.abs(np.where(x1 == -np.inf, x1, y)), y)


def tile(x: Any, repetitions: Sequence[int]) -> Any:
    """Long rows are written once, to all places; NumPy's own copies once an axis, which is better for short ones."""
    if x.ndim != len(repetitions) or not x.ndim or x.shape[-1] < RUN:
        return np.tile(x, repetitions)
    pairs = list(zip(repetitions, x.shape, strict=True))
    result = np.empty([r * n for r, n in pairs], x.dtype)
    result.reshape([k for pair in pairs for k in pair])[...] = x.reshape([k for n in x.shape for k in (1, n)])
    return result


def integer_matmul(xp: Namespace, a: Any, b: Any, dtype: Any) -> Any:
    """NumPy's product of integers is a plain loop: where floats hold every partial sum exactly, BLAS is far faster."""
    if a.size == 0 or b.size == 0 or a.ndim == 0 or b.ndim == 0:
        return NotImplemented
    largest = [max(abs(int(x.min())), abs(int(x.max()))) for x in (a, b)]
    bound = largest[0] * largest[1] * a.shape[-1]
    if bound >= 2**53:
        return NotImplemented
    exact = np.float32 if bound < 2**24 else np.float64
    product = np.matmul(a.astype(exact), b.astype(exact))
    return product.astype(np.int64).astype(dtype)


class _Generator(threading.local):
    """A generator for each thread: seeding one anew costs a tenth of making one."""

    state: np.random.RandomState | None = None

    def seeded(self, seed: int) -> np.random.RandomState:
        """Where the default body starts from this seed."""
        if self.state is None:
            self.state = np.random.RandomState(0)  # imports numpy.random, which most models do without
        words = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
        self.state.seed(words if words[1] else words[0])
        return self.state


generator = _Generator()


def random_uniform(
    xp: Namespace, seed: int, shape: Sequence[int], dtype: Any, low: float = 0.0, high: float = 1.0
) -> Any:
    """The numbers of the default body, made block by block."""
    state, unit = generator.seeded(seed), dtype == np.float32 and (low, high) == (0.0, 1.0)
    if dtype == np.float64:
        return moved(state.random_sample(tuple(shape)), low, high, np.dtype(dtype))
    result = np.empty(tuple(shape), dtype)
    flat = result.reshape(-1)
    whole = np.empty(min(flat.size, DRAWS), np.int32)
    for start in range(0, flat.size, DRAWS):
        part = flat[start : start + DRAWS]
        draws = state.random_sample(part.size)
        draws *= 2.0**24
        whole[: part.size] = draws  # 24 bits, cut: rounding could give 1
        if unit:
            part[...] = whole[: part.size]
            part *= np.float32(2.0**-24)
        else:
            np.multiply(whole[: part.size], 2.0**-24, out=draws)
            part[...] = moved(draws, low, high, np.dtype(dtype))
    return result


def random_normal(xp: Namespace, seed: int, shape: Sequence[int], dtype: Any) -> Any:
    """The numbers of the default body."""
    return generator.seeded(seed).standard_normal(tuple(shape)).astype(dtype, copy=False)


def pad(xp: Namespace, x: Any, widths: Sequence[tuple[int, int]], mode: str = "constant", value: Any = 0) -> Any:
    """A constant border is written around the array, whose layout it keeps; NumPy has the other modes."""
    if mode not in MODES or x.ndim == 0:
        return NotImplemented
    crop = tuple(slice(max(-lo, 0), max(n - max(-hi, 0), 0)) for n, (lo, hi) in zip(x.shape, widths, strict=True))
    x = x[crop]
    if all(lo <= 0 and hi <= 0 for lo, hi in widths):
        return x
    if mode != "constant":
        return np.pad(x, [(max(lo, 0), max(hi, 0)) for lo, hi in widths], MODES[mode])
    shape = [n + max(lo, 0) + max(hi, 0) for n, (lo, hi) in zip(x.shape, widths, strict=True)]
    result = empty_as(x, shape)
    inner: tuple[slice, ...] = ()
    for n, (lo, _) in zip(x.shape, widths, strict=True):
        start = max(lo, 0)
        result[(*inner, slice(0, start))] = value
        result[(*inner, slice(start + n, None))] = value
        inner = (*inner, slice(start, start + n))
    result[inner] = x
    return result


def scatter_flat(xp: Namespace, data: Any, indices: Any, updates: Any, reduction: str) -> Any:
    """Assignment by index; reductions by ufunc.at, which the narrow types lack."""
    if reduction != "none" and data.dtype.kind not in "biufcO":
        return NotImplemented
    result = data.copy()
    if reduction == "none":
        result[indices] = updates
    else:
        ADDS[reduction].at(result, indices, updates)
    return result


def scatter_nd(xp: Namespace, data: Any, indices: Any, updates: Any, reduction: str = "none") -> Any:
    """Assignment by index of whole rows."""
    if reduction != "none":
        return NotImplemented
    result = data.copy()
    result[tuple(np.moveaxis(indices, -1, 0))] = updates
    return result


def one_hot(xp: Namespace, indices: Any, depth: int, axis: int, on: Any, off: Any) -> Any:
    """Writes only where something is: fresh zeros cost nothing until they are touched."""
    shape = (*indices.shape[:axis], depth, *indices.shape[axis:])
    result = np.full(shape, off, off.dtype) if any(off.tobytes()) else np.zeros(shape, off.dtype)
    inside = (indices >= 0) & (indices < depth)
    if inside.all():
        np.put_along_axis(result, np.expand_dims(indices, axis), on, axis)
    elif indices.ndim:
        *outer, place = *np.nonzero(inside), indices[inside]
        result[(*outer[:axis], place, *outer[axis:])] = on
    return result


def gather_nd(xp: Namespace, data: Any, indices: Any) -> Any:
    """In one call, which counts negative indices from the end, too."""
    return data[(*(indices[..., axis] for axis in range(indices.shape[-1])), ...)]


def _chosen(rows: Any, indices: Any) -> Any:
    """take_along_axis of the last axis, which asks much first."""
    if rows.ndim == 1:
        return rows.take(indices)
    size = rows.shape[-1]
    first = np.arange(rows.size // size).reshape(*rows.shape[:-1], 1) * size
    return rows.reshape(-1).take(indices + first)


def top_k(xp: Namespace, x: Any, k: int, axis: int, largest: bool, sorted: bool) -> Any:
    """Few elements are sorted. Of few out of many, only the chosen are; ties and NaN, which a partition mixes up, take
    the long way.
    """
    axis %= x.ndim
    size = x.shape[axis]
    if k == 0 or not x.size or x.dtype.kind not in "iuf":
        return NotImplemented
    last = axis == x.ndim - 1
    rows = x if last else np.moveaxis(x, axis, -1)
    if x.size <= SORTED:
        # descending and stable: an ascending order of the mirrored row, from behind
        order = np.argsort(rows[..., ::-1] if largest else rows, axis=-1, kind="stable")
        indices = size - 1 - order[..., : -k - 1 : -1] if largest else order[..., :k]
        values = _chosen(rows, indices)
        return (values, indices) if last else (np.moveaxis(values, -1, axis), np.moveaxis(indices, -1, axis))
    if k * 8 > size or (x.dtype.kind == "f" and np.isnan(x).any()):
        return NotImplemented
    edge = size - k if largest else k - 1
    limit = np.partition(rows, edge, axis=-1)[..., edge : edge + 1]
    chosen = rows >= limit if largest else rows <= limit
    if (np.count_nonzero(chosen, axis=-1) != k).any():
        return NotImplemented
    indices = np.nonzero(chosen)[-1].reshape(*rows.shape[:-1], k)
    values = _chosen(rows, indices)
    if largest:  # descending and stable: the mirror of an ascending order of the mirrored
        order = k - 1 - np.argsort(values[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    else:
        order = np.argsort(values, axis=-1, kind="stable")
    values, indices = _chosen(values, order), _chosen(indices, order)
    return np.moveaxis(values, -1, axis), np.moveaxis(indices, -1, axis)


NAMES: dict[str, Any] = {"pow": pow_, "stack": stack, "tile": tile}
PRIMITIVES: dict[str, Callable[..., Any]] = {
    fn.__name__: fn
    for fn in (
        bit_view, concrete_value, require_range, integer_matmul, relu, root, pad, gather_nd, one_hot, scatter_flat,
        scatter_nd, top_k, random_uniform, random_normal,
    )
} | conv.PRIMITIVES | elementwise.PRIMITIVES | norm.PRIMITIVES | pool.PRIMITIVES | resample.PRIMITIVES  # fmt: skip
