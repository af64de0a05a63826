"""Encoders of ai.onnx.ml: labels to numbers and back, categories to vectors."""

from __future__ import annotations

import math
from array import array
from typing import Any

from ortlite import dtypes
from ortlite.graph import Node, TensorType
from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Float, Floats, Int, Ints, Text, Texts, Value
from ortlite.ops.memo import CODES, Memo, constant, listed, once
from ortlite.ops.registry import op
from ortlite.ops.types import FLOAT, INT64, STRING, Inferred, Types

ML = "ai.onnx.ml"


def _in_order(keys: Any, values: Any, dtype: str, to: str) -> tuple[Any, Any]:
    """Keys in order, NaN last, and the values beside them. Raises ValueError where they do not fit."""
    keys, values = listed(keys), listed(values)
    if keys and isinstance(keys[0], str) != (dtype == "string"):
        raise ValueError(f"the keys are {'text' if isinstance(keys[0], str) else 'numbers'}, and X is {dtype}")
    if len(keys) != len(values):
        raise ValueError(f"there are {len(keys)} keys (or categories) for {len(values)} values")
    order = sorted(range(len(keys)), key=lambda i: (keys[i] != keys[i], keys[i]))
    columns = (([keys[i] for i in order], dtype), ([values[i] for i in order], to))
    first, second = (array(CODES[name], column) if name in CODES else column for column, name in columns)
    return first, second


def _translated(xp: Namespace, x: Array, keys: Any, values: Any, default: Any, to: str, memo: Memo) -> Array:
    """`values[i]` where an element is `keys[i]`, else `default`: a search in the sorted keys. NaN finds NaN."""
    native = xp.dtype(to)
    dtype = xp.dtype_name(x.dtype)
    first, second = once(memo, (dtype, to), _in_order, keys, values, dtype, to)
    if not len(first):
        return xp.full(x.shape, default, dtype=native)
    last = len(first) - 1
    flat = xp.reshape(x, (-1,))
    odd = first[last] != first[last]  # NaN, whose order the standard leaves open: infinity stands in for it
    ordered = xp.asarray([*first[:-1], math.inf], dtype=x.dtype) if odd else constant(xp, first, dtype)
    # behind the last key a search finds one place more: the last key's again, which what is there does not equal
    table, results = constant(xp, first + first[last:], dtype), constant(xp, second + second[last:], to)
    index = xp.astype(xp.searchsorted(ordered, flat), xp.int64)
    unequal = xp.not_equal(flat, flat) if odd else None
    if unequal is not None:
        index = xp.where(unequal, xp.asarray(last, dtype=index.dtype), index)
    same = xp.take(table, index) == flat
    same = same if unequal is None else same | unequal
    fallback = xp.full((1,), default, dtype=native)
    return xp.reshape(xp.where(same, xp.take(results, index), fallback), x.shape)


def _other_of_two(node: Node, inputs: Types) -> Inferred:
    """Numbers for text, and text for numbers."""
    text = isinstance(inputs[0], TensorType) and inputs[0].dtype is STRING
    return [TensorType(INT64 if text else STRING)]


@op("CategoryMapper", domain=ML, types=_other_of_two)
def category_mapper(
    xp: Namespace,
    X: Array,
    *,
    cats_int64s: Ints | None = None,
    cats_strings: Texts | None = None,
    default_int64: Int = -1,
    default_string: Text = "_Unused",
    memo: Memo = None,
) -> Array:
    """Strings to the integers beside them in the attributes, or back. Raises ValueError for unequal lists."""
    ints, strings = cats_int64s or (), cats_strings or ()
    if xp.dtype_name(X.dtype) == "string":
        return _translated(xp, X, strings, ints, default_int64, "int64", memo)
    return _translated(xp, X, ints, strings, default_string, "string", memo)


def _mapped_type(node: Node, inputs: Types) -> Inferred:
    """The type of the values; version 1 has none, and maps numbers to text and text to numbers."""
    kinds = {"values_strings": STRING, "values_int64s": INT64, "values_floats": FLOAT}
    for name, value in node.attributes.items():
        if name == "values_tensor":
            return [TensorType(dtypes.of_numpy(value.dtype))]
        if name in kinds:
            return [TensorType(kinds[name])]
    return _other_of_two(node, inputs)


@op("LabelEncoder", since=2, domain=ML, types=_mapped_type)
def label_encoder(
    xp: Namespace,
    X: Array,
    *,
    default_float: Float = -0.0,
    default_int64: Int = -1,
    default_string: Text = "_Unused",
    default_tensor: Value = None,
    keys_floats: Floats | None = None,
    keys_int64s: Ints | None = None,
    keys_strings: Texts | None = None,
    keys_tensor: Value = None,
    values_floats: Floats | None = None,
    values_int64s: Ints | None = None,
    values_strings: Texts | None = None,
    values_tensor: Value = None,
    memo: Memo = None,
) -> Array:
    """The value beside the key that each element equals, else the default.

    Raises ValueError for unequal lists, and for several of keys or of values.
    """
    kinds = "_floats _int64s _strings _tensor".split()
    for word, lists in (
        ("keys", (keys_floats, keys_int64s, keys_strings, keys_tensor)),
        ("values", (values_floats, values_int64s, values_strings, values_tensor)),
    ):
        named = [word + kind for kind, one in zip(kinds, lists, strict=True) if one is not None and len(one)]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} are given; one of them must be")
    keys = keys_floats or keys_int64s or keys_strings or () if keys_tensor is None else keys_tensor
    values: Any
    if values_tensor is not None:
        values, to = values_tensor, dtypes.of_numpy(values_tensor.dtype).name
        fallback = {"string": default_string, "float32": default_float, "float64": default_float}.get(to, default_int64)
        given = [fallback] if default_tensor is None else listed(default_tensor)
        if len(given) != 1:
            raise ValueError(f"default_tensor has {len(given)} elements, not one")
        default = given[0]
    elif values_strings:
        values, to, default = values_strings, "string", default_string
    elif values_floats:
        values, to, default = values_floats, "float32", default_float
    else:
        values, to, default = values_int64s or (), "int64", default_int64
    return _translated(xp, X, keys, values, default, to, memo)


@op("LabelEncoder", domain=ML, types=_mapped_type)
def label_encoder_1(
    xp: Namespace,
    X: Array,
    *,
    classes_strings: Texts | None = None,
    default_int64: Int = -1,
    default_string: Text = "_Unused",
    memo: Memo = None,
) -> Array:
    """Strings to their indices in `classes_strings`, or indices to strings."""
    strings = classes_strings or ()
    indices = range(len(strings))
    if xp.dtype_name(X.dtype) == "string":
        return _translated(xp, X, strings, indices, default_int64, "int64", memo)
    return _translated(xp, X, indices, strings, default_string, "string", memo)


@op("OneHotEncoder", domain=ML)
def one_hot_encoder(
    xp: Namespace, X: Array, *, cats_int64s: Ints | None = None, cats_strings: Texts | None = None, zeros: Int = 1
) -> Array:
    """1 at the category that each element is, else 0, along a new last axis, in float32.

    Raises ValueError for an element that is none of them, when `zeros` is 0 and the values are readable.
    """
    text = xp.dtype_name(X.dtype) == "string"
    if cats_int64s and cats_strings:
        raise ValueError(f"{len(cats_int64s)} cats_int64s beside {len(cats_strings)} cats_strings, not one of them")
    if not (cats_strings if text else cats_int64s):
        raise ValueError(f"{'cats_strings' if text else 'cats_int64s'} is empty, and X is {xp.dtype_name(X.dtype)}")
    cats = xp.asarray(cats_strings, dtype=X.dtype) if text else constant(xp, cats_int64s or (), "int64")
    x = X if text else xp.astype(X, xp.int64)
    hits = xp.expand_dims(x, axis=-1) == cats
    if not zeros:
        found = xp.astype(xp.any(hits, axis=-1), xp.int32)
        name = "zeros is 0, and X has an element that is none of the categories: how many are equal to each"
        xp.require_range(name, found, 1, 1)
    return xp.astype(hits, xp.float32)
