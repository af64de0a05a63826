"""What MLX's namespace lacks of the Array API standard, or has otherwise: names that replace those of `mlx.core`.

MLX does not look whether an index lies in an array, integer division by 0 ends the process, and reductions of nothing
may read other memory: all are prevented here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from math import nan
from math import prod as product
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import mlx.core as mx
import numpy as np

__all__ = ["ALIASES", "NAMES", "from_numpy", "known", "to_numpy"]

ALIASES = {"bool": "bool_"}
BLOCK = 1 << 22  # elements of an integer product before it is summed


def known(x: Any) -> bool:
    """Whether the values of an array are known, or can be computed: not where MLX traces."""
    if isinstance(x, mx.array):
        try:
            mx.eval(x)
        except ValueError:  # "not allowed during function transformations"
            return False
    return True


def from_numpy(array: np.ndarray) -> Any:
    """An MLX array of the same dtype, float64 as float32."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    if array.dtype == ml_dtypes.bfloat16:
        return mx.array(np.ascontiguousarray(array).view(np.uint16).reshape(array.shape)).view(mx.bfloat16)
    return mx.array(array)


def to_numpy(array: Any) -> np.ndarray:
    """A NumPy array that shares memory; MLX computes it first."""
    if array.dtype == mx.bfloat16:
        return np.asarray(array.view(mx.uint16)).view(ml_dtypes.bfloat16)
    return np.asarray(array)


@cache
def _numpy_dtype(dtype: Any) -> Any:
    return np.dtype(ml_dtypes.bfloat16 if dtype == mx.bfloat16 else str(dtype).rpartition(".")[2])


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
    """Also from buffers, and integers of all 64 bits."""
    if isinstance(obj, mx.array):
        return astype(obj, obj.dtype if dtype is None else dtype, copy=bool(copy))
    return from_numpy(np.asarray(obj, None if dtype is None else _numpy_dtype(dtype)))


def astype(x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Any:
    """Another object where a copy is asked for."""
    return mx.array(x) if copy and x.dtype == dtype else x.astype(dtype)


def full(shape: int | Sequence[int], fill_value: Any, *, dtype: Any = None, device: Any = None) -> Any:
    """Any 64-bit integer."""
    value = fill_value if isinstance(fill_value, mx.array) and dtype is None else asarray(fill_value, dtype=dtype)
    return mx.full(shape, value, dtype=value.dtype)


def full_like(x: Any, /, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Any:
    """As `full`."""
    return full(x.shape, fill_value, dtype=x.dtype if dtype is None else dtype)


def _made(fn: Callable[..., Any], shape: Any, *, dtype: Any = None, device: Any = None) -> Any:
    return fn(shape, dtype=mx.float32 if dtype is None else dtype)


def _made_like(fn: Callable[..., Any], x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
    return fn(x.shape, dtype=x.dtype if dtype is None else dtype)


def arange(start: Any, /, stop: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None) -> Any:
    """By NumPy: MLX counts in float32."""
    first, end = (0, start) if stop is None else (start, stop)
    return asarray(np.arange(first, end, step), dtype=dtype)


def eye(n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None) -> Any:
    """Ones on a diagonal."""
    return mx.eye(n_rows, n_cols, k, mx.float32 if dtype is None else dtype)


@cache
def _sum_dtype(dtype: Any) -> Any:
    if dtype in {mx.bool_, mx.int8, mx.int16, mx.int32}:
        return mx.int64
    return mx.uint64 if dtype in {mx.uint8, mx.uint16, mx.uint32} else dtype


def _reduced(fn: Callable[..., Any], neutral: Any, x: Any, /, **keywords: Any) -> Any:
    """Of no elements `neutral`, or what MLX raises where that is None.

    MLX's loop over a reduced axis of no elements is right where the array lies row by row in memory. Elsewhere (a
    transposed array, one from NumPy) it leaves that axis out: it reads what is no memory of the array, or never ends.
    """
    if x.size:
        return fn(x, **keywords)
    shape = mx.sum(x, **keywords).shape  # this is a graph, and nobody computes it
    if neutral is None and product(shape):
        return fn(x, **keywords)
    return mx.full(shape, 0 if neutral is None else neutral, dtype=mx.bool_ if fn in {mx.all, mx.any} else x.dtype)


def _summed(fn: Callable[..., Any], neutral: int, x: Any, /, *, dtype: Any = None, **keywords: Any) -> Any:
    """A sum or product, computed in its dtype."""
    dtype = _sum_dtype(x.dtype) if dtype is None else dtype
    return _reduced(fn, neutral, x.astype(dtype), **keywords).astype(dtype)


def _moved(fn: Callable[..., Any], x: Any, /, *args: Any, **keywords: Any) -> Any:
    """Axes in another order; of nothing a new array: a derivative may be a sum over moved axes, see `_reduced`."""
    y = fn(x, *args, **keywords)
    return y if x.size else mx.zeros(y.shape, dtype=y.dtype)


def _running(
    fn: Callable[..., Any],
    first: Any,
    x: Any,
    /,
    *,
    axis: int | None = None,
    dtype: Any = None,
    include_initial: bool = False,
) -> Any:
    dtype = _sum_dtype(x.dtype) if dtype is None else dtype
    axis = 0 if axis is None else axis % x.ndim
    y = x.astype(dtype)
    y = fn(y, axis=axis) if x.size else y  # of nothing the process ends, before MLX 0.32.3
    if not include_initial:
        return y
    shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    return mx.concatenate([mx.full(shape, first, dtype=dtype), y], axis=axis)


def _position(fn: Callable[..., Any], x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    if not x.size and axis is not None and x.shape[axis]:  # of no rows
        return mx.zeros(mx.sum(x, axis=axis, keepdims=keepdims).shape, dtype=mx.int64)
    return fn(x, axis=axis, keepdims=keepdims).astype(mx.int64)


def argsort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """MLX sorts stably, in ascending order; nothing ends the process, before 0.32.3."""
    if not x.size:
        return mx.zeros(x.shape, dtype=mx.int64)
    if not descending:
        return mx.argsort(x, axis=axis).astype(mx.int64)
    order = mx.flip(mx.argsort(mx.flip(x, axis), axis=axis), axis)
    return x.shape[axis] - 1 - order.astype(mx.int64)


def sort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """In either order."""
    y = mx.sort(x, axis=axis) if x.size else x
    return mx.flip(y, axis) if descending else y


def searchsorted(x1: Any, x2: Any, /, *, side: str = "left", sorter: Any = None) -> Any:
    """Positions in int64."""
    return mx.searchsorted(x1 if sorter is None else take(x1, sorter), x2, side=side).astype(mx.int64)


def nonzero(x: Any, /) -> tuple[Any, ...]:
    """How many there are is asked for at once."""
    if not x.size:
        return tuple(mx.zeros(0, dtype=mx.int64) for _ in x.shape)
    flat = mx.reshape(x != 0, (-1,))
    places = argsort(mx.logical_not(flat))[: int(mx.sum(flat))]
    found = []
    for size in reversed(x.shape):
        found.append(places % max(size, 1))
        places = places // max(size, 1)
    return tuple(reversed(found))


def within(indices: Any, size: int) -> Any:
    """Indices that lie in an axis of `size` elements, counted from either end; of none there is no such index."""
    if not size and indices.size:
        raise IndexError(f"an axis of no elements has none to take or change, at {tuple(indices.shape)} places")
    lowest = 0 if mx.issubdtype(indices.dtype, mx.unsignedinteger) else -size
    return mx.stop_gradient(mx.clip(indices, lowest, max(size - 1, 0)))


def take(x: Any, indices: Any, /, *, axis: int | None = None) -> Any:
    """Never from outside of the array."""
    return mx.take(x, within(indices, x.size if axis is None else x.shape[axis]), axis=axis)


def take_along_axis(x: Any, indices: Any, /, *, axis: int = -1) -> Any:
    """Never from outside of the array."""
    return mx.take_along_axis(x, within(indices, x.shape[axis]), axis=axis)


def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
    """In the dtype of `x`, by choices, whose derivative at a bound is 1."""
    for bound, beyond in ((min, mx.less), (max, mx.greater)):
        if bound is not None:
            bound = bound.astype(x.dtype) if isinstance(bound, mx.array) else asarray(bound, dtype=x.dtype)
            x = mx.where(beyond(x, bound) | (bound != bound), bound, x)  # noqa: PLR0124  (a bound that is NaN)
    return x


def sign(x: Any, /) -> Any:
    """NaN of NaN."""
    return mx.where(x != x, x, mx.sign(x)) if mx.issubdtype(x.dtype, mx.inexact) else mx.sign(x)  # noqa: PLR0124


def pow_(x1: Any, x2: Any, /) -> Any:
    """mx.power, whose derivatives are NaN at 0 to the power 0, and infinite to the exponent of 0."""
    if not all(isinstance(x, mx.array) and mx.issubdtype(x.dtype, mx.floating) for x in (x1, x2)):
        return mx.power(x1, x2)
    return _power(*mx.broadcast_arrays(x1, x2))


@mx.custom_function
def _power(x: Any, y: Any) -> Any:
    return mx.power(x, y)


@_power.vjp
def _(primals: Any, cotangent: Any, output: Any) -> Any:
    x, y = primals
    by_x = y * _power(x, mx.where(y == 0, mx.ones_like(y), y - 1))
    by_y = mx.where(x > 0, output * mx.log(mx.where(x > 0, x, mx.ones_like(x))), mx.zeros_like(x))
    return cotangent * by_x, cotangent * by_y


def _extreme(fn: Callable[..., Any], x1: Any, x2: Any, /) -> Any:
    """Of equals each has half of the derivative; MLX gives one of them all."""
    arrays = [x for x in (x1, x2) if isinstance(x, mx.array)]
    x, y = (x if isinstance(x, mx.array) else asarray(x, dtype=arrays[0].dtype) for x in (x1, x2))
    if not mx.issubdtype(x.dtype, mx.floating):
        return fn(x, y)
    return EXTREMES[fn](*mx.broadcast_arrays(x, y))


def _halving(fn: Callable[..., Any]) -> Any:
    extreme = mx.custom_function(fn)

    @extreme.vjp
    def back(primals: Any, cotangent: Any, output: Any) -> Any:
        x, y = primals
        share = mx.where(x == y, 0.5, (output == x).astype(x.dtype))
        return cotangent * share, cotangent * (1 - share)

    return extreme


EXTREMES = {fn: _halving(fn) for fn in (mx.maximum, mx.minimum)}


def sin(x: Any, /) -> Any:
    """-0 of -0."""
    return mx.where(x == 0, x, mx.sin(x))


def copysign(x1: Any, x2: Any, /) -> Any:
    """The size of the first, the sign of the second, which -0 has."""
    negative = (x2 < 0) | ((x2 == 0) & (mx.reciprocal(x2) < 0))
    return mx.where(negative, -mx.abs(x1), mx.abs(x1))


def _divisor(x: Any, y: Any) -> tuple[Any, Any]:
    """Integer operands as arrays, 1 for a divisor of 0; -1, too: its quotient may not fit."""
    dtype = x.dtype if isinstance(x, mx.array) else y.dtype
    x, y = (v if isinstance(v, mx.array) else asarray(v, dtype=dtype) for v in (x, y))
    return x, mx.where((y == 0) | _minus_one(y), mx.ones_like(y), y)


def _minus_one(x: Any) -> Any:
    signed = not isinstance(x, mx.array) or mx.issubdtype(x.dtype, mx.signedinteger)
    return x == -1 if signed else False


def _integers(*values: Any) -> bool:
    return all(not isinstance(v, mx.array) or mx.issubdtype(v.dtype, mx.integer) for v in values)


def floor_divide(x1: Any, x2: Any, /) -> Any:
    """0 for an integer division by 0; integers wrap."""
    if not _integers(x1, x2):
        return mx.floor(mx.divide(x1, x2))
    x, y = _divisor(x1, x2)
    quotient = x // y
    remainder = x - quotient * y  # MLX truncates some and floors others
    down = (remainder != 0) & ((remainder < 0) != (y < 0))
    quotient = mx.where(down, quotient - 1, quotient).astype(quotient.dtype)
    quotient = mx.where(_minus_one(x2), -quotient, quotient)
    return mx.where(x2 == 0, mx.zeros_like(quotient), quotient)


def remainder(x1: Any, x2: Any, /) -> Any:
    """0 for an integer division by 0."""
    if not _integers(x1, x2):
        return mx.remainder(x1, x2)
    x, y = _divisor(x1, x2)
    return x - floor_divide(x, y) * y


def matmul(x1: Any, x2: Any, /) -> Any:
    """Also of integers, as a sum of products, block by block."""
    if mx.issubdtype(x1.dtype, mx.inexact):
        y = mx.matmul(x1, x2)
        return y if x1.size and x2.size else mx.zeros(y.shape, dtype=y.dtype)
    a = x1 if x1.ndim > 1 else mx.expand_dims(x1, 0)
    b = x2 if x2.ndim > 1 else mx.expand_dims(x2, 1)
    dtype = mx.result_type(x1, x2)
    a, b = a.astype(dtype), b.astype(dtype)
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"{tuple(x1.shape)} and {tuple(x2.shape)} cannot be multiplied")
    batch = mx.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = (*batch, a.shape[-2], b.shape[-1])
    total, depth = mx.zeros(shape, dtype=dtype), a.shape[-1]
    step = max(1, BLOCK // max(product(shape), 1))
    for start in range(0, depth, step):
        left = mx.expand_dims(a[..., start : start + step], -1)
        right = mx.expand_dims(b[..., start : start + step, :], -3)
        total = total + mx.sum(left * right, axis=-2).astype(dtype)
    if x1.ndim == 1:
        total = mx.squeeze(total, -2)
    return mx.squeeze(total, -1) if x2.ndim == 1 else total


@cache
def isdtype(dtype: Any, kind: Any) -> bool:
    """Kept: it is asked for many times a run."""
    return bool(mx.isdtype(dtype, kind))


def concat(arrays: Sequence[Any], /, *, axis: int | None = 0) -> Any:
    """Of a list or a tuple."""
    if axis is None:
        arrays, axis = [mx.reshape(x, (-1,)) for x in arrays], 0
    return mx.concatenate(list(arrays), axis=axis)


def stack(arrays: Sequence[Any], /, *, axis: int = 0) -> Any:
    """Of a list or a tuple."""
    return mx.stack(list(arrays), axis=axis)


def moveaxis(x: Any, source: Any, destination: Any, /) -> Any:
    """Several axes, too."""
    if isinstance(source, int):
        return _moved(mx.moveaxis, x, source, destination)
    to = dict(zip((d % x.ndim for d in destination), (s % x.ndim for s in source), strict=True))
    rest = iter(axis for axis in range(x.ndim) if axis not in to.values())
    return _moved(mx.transpose, x, [to[axis] if axis in to else next(rest) for axis in range(x.ndim)])


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Any:
    """A copy, on a CPU."""
    return mx.from_dlpack(x)


def iinfo(type: Any, /) -> Any:
    """NumPy's, which has the standard's attributes."""
    return np.iinfo(_numpy_dtype(type.dtype if isinstance(type, mx.array) else type))


def finfo(type: Any, /) -> Any:
    """NumPy's, which has the standard's attributes."""
    return ml_dtypes.finfo(  # type: ignore[no-untyped-call]
        _numpy_dtype(type.dtype if isinstance(type, mx.array) else type)
    )


def _on_cpu(fn: Callable[..., Any], x: Any, /) -> Any:
    """What MLX has for the CPU alone."""
    return fn(x, stream=mx.cpu)


NAMES: dict[str, Any] = {
    "bool": mx.bool_, "asarray": asarray, "full": full, "full_like": full_like, "arange": arange,
    "eye": eye, "argsort": argsort, "sort": sort, "searchsorted": searchsorted, "nonzero": nonzero, "take": take,
    "take_along_axis": take_along_axis, "clip": clip, "sign": sign, "sin": sin,
    "maximum": partial(_extreme, mx.maximum), "minimum": partial(_extreme, mx.minimum), "pow": pow_,
    "copysign": copysign, "concat": concat,
    "floor_divide": floor_divide, "remainder": remainder, "matmul": matmul, "isdtype": isdtype, "stack": stack,
    "from_dlpack": from_dlpack, "moveaxis": moveaxis, "permute_dims": partial(_moved, mx.permute_dims),
    "matrix_transpose": partial(_moved, mx.matrix_transpose), "iinfo": iinfo, "finfo": finfo,
    "zeros": partial(_made, mx.zeros), "ones": partial(_made, mx.ones), "empty": partial(_made, mx.zeros),
    "zeros_like": partial(_made_like, mx.zeros), "ones_like": partial(_made_like, mx.ones),
    "empty_like": partial(_made_like, mx.zeros),
    "sum": partial(_summed, mx.sum, 0), "prod": partial(_summed, mx.prod, 1),
    "all": partial(_reduced, mx.all, True), "any": partial(_reduced, mx.any, False),
    "max": partial(_reduced, mx.max, None), "min": partial(_reduced, mx.min, None),
    **{name: partial(_reduced, getattr(mx, name), nan) for name in ("mean", "var", "std")},
    "cumulative_sum": partial(_running, mx.cumsum, 0), "cumulative_prod": partial(_running, mx.cumprod, 1),
    "argmax": partial(_position, mx.argmax), "argmin": partial(_position, mx.argmin),
    "linalg": SimpleNamespace(inv=partial(_on_cpu, mx.linalg.inv), det=partial(_on_cpu, mx.linalg.det)),
}  # fmt: skip
