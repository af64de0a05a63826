"""Tensors out of nothing: constants, ranges, identity matrices."""

from __future__ import annotations

from math import ceil, prod

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, DType, Float, Floats, Int, Ints, Scalar, Text, Texts
from ortlite.ops.helpers import require_lengths
from ortlite.ops.registry import op
from ortlite.ops.types import attribute_dtype, value_dtype


@op("Constant", any_dtype=True, views=True, types=value_dtype)
def constant(
    xp: Namespace,
    *,
    value: Array | None = None,
    sparse_value: Array | None = None,
    value_float: Float | None = None,
    value_floats: Floats | None = None,
    value_int: Int | None = None,
    value_ints: Ints | None = None,
    value_string: Text | None = None,
    value_strings: Texts | None = None,
) -> Array:
    """The one attribute that is given, as a tensor; a sparse one made dense."""
    if value is not None or sparse_value is not None:
        return sparse_value if value is None else value
    if value_int is not None or value_ints is not None:
        return xp.asarray(value_int if value_ints is None else value_ints, dtype=xp.int64)
    if value_string is not None or value_strings is not None:
        return xp.asarray(value_string if value_strings is None else value_strings, dtype=xp.dtype("string"))
    return xp.asarray(value_float if value_floats is None else value_floats, dtype=xp.float32)


@op("ConstantOfShape", since=9, any_dtype=True, views=True, types=value_dtype)
def constant_of_shape(xp: Namespace, input: Ints, *, value: Array | None = None) -> Array:
    """A tensor of shape `input` filled with the one element of `value` (default: float32 0)."""
    require_lengths("the shape", input)
    if value is not None and prod(value.shape) != 1:
        raise ValueError(f"value must hold one element, not the shape {list(value.shape)}")
    if value is None:
        return xp.zeros(input, dtype=xp.float32)
    return xp.broadcast_to(xp.reshape(value, (1,) * len(input)), input)


@op("EyeLike", since=9, any_dtype=True, types=attribute_dtype("dtype", like=0))
def eye_like(xp: Namespace, input: Array, *, dtype: DType | None = None, k: Int = 0) -> Array:
    """Ones on the `k`-th diagonal, zeros elsewhere, in the shape of the matrix `input`."""
    if input.ndim != 2:
        raise ValueError(f"an identity matrix is like a matrix, not like {list(input.shape)}")
    return xp.eye(*input.shape, k=k, dtype=input.dtype if dtype is None else xp.dtype(dtype))


@op("Range", since=11, data_dependent_shape=True)
def range_(xp: Namespace, start: Array, limit: Scalar, delta: Scalar, *, stash_type: DType | None = None) -> Array:
    """`start`, `start` + `delta`, … as long as `limit` is not reached.

    Raises ValueError for a `delta` of 0, and for a `start` that a library traces: its value decides how many they are.
    Narrow floats count in float32 (`stash_type`) in every opset: a library that does not compute in them widens.
    """
    first = xp.concrete_value(start)
    if first is None:
        raise ValueError("how many elements a range has depends on its start, which has no value under a trace")
    start = xp.reshape(start, ())
    if delta == 0:
        raise ValueError("delta is 0: a range without end")
    count = max(ceil((limit - first) / delta) if isinstance(delta, float) else -((first - limit) // delta), 0)
    if isinstance(delta, int):
        return xp.arange(first, first + count * delta, delta, dtype=start.dtype)
    return xp.astype(xp.arange(count, dtype=xp.int64), start.dtype) * delta + start
