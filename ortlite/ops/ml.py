"""Classical machine learning: ai.onnx.ml, but for trees (ml_trees.py) and support vectors (ml_svm.py).

Scores are computed in float32, in float64 from doubles and integers. Attributes that hold many numbers become arrays
once (`constant`), not in every run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops._remember import constant, listed, remember
from ortlite.ops._scores import labels_of, number, transform
from ortlite.ops.annotations import Array, Arrays, Float, Floats, Int, Ints, Map, Text, Texts, Value
from ortlite.ops.registry import op

ML = "ai.onnx.ml"


@op("ArrayFeatureExtractor", domain=ML, storage=True)
def array_feature_extractor(xp: Namespace, X: Array, Y: Array) -> Array:
    """The elements `Y` of the last axis of `X`; of a vector as a matrix of one row."""
    chosen = xp.take(X, xp.reshape(Y, (-1,)), axis=X.ndim - 1)
    return xp.expand_dims(chosen, axis=0) if X.ndim == 1 else chosen


@op("Binarizer", domain=ML)
def binarizer(xp: Namespace, X: Array, *, threshold: Float = 0.0) -> Array:
    """1 where `X` is above `threshold`, else 0."""
    return xp.astype(number(xp, X) > threshold, X.dtype)


def _six_digits(value: Any) -> str:
    """A number as onnxruntime prints it: ONNX does not say how."""
    return str(value) if isinstance(value, str) else f"{float(value):f}"


@op("CastMap", domain=ML, host=True)
def cast_map(xp: Namespace, X: Map, *, cast_to: Text = "TO_FLOAT", map_form: Text = "DENSE", max_map: Int = 1) -> Array:
    """The values of a map from integers, in the order of its keys, as a matrix of one row.

    With `map_form` SPARSE each value stands at the place that its key says, among `max_map` places of zeros.
    """
    convert: Any = {"TO_FLOAT": float, "TO_INT64": lambda v: int(float(v)), "TO_STRING": _six_digits}.get(cast_to)
    if convert is None or map_form not in {"DENSE", "SPARSE"}:
        raise ValueError(f"cast_to {cast_to!r} or map_form {map_form!r} is unknown")
    values = {key: convert(value) for key, value in X.items()}
    if map_form == "SPARSE":
        if wrong := [key for key in values if not 0 <= key < max_map]:
            raise ValueError(f"the keys {sorted(wrong)} are not below max_map, {max_map}")
        values = dict.fromkeys(range(max_map), convert("0")) | values
    row = [values[key] for key in sorted(values)]
    names = {"TO_FLOAT": "float32", "TO_INT64": "int64", "TO_STRING": "string"}
    return xp.reshape(xp.asarray(row, dtype=xp.dtype(names[cast_to])), (1, len(row)))


@remember
def _in_order(keys: Sequence[Any], values: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Keys in order, NaN last, and the values beside them."""
    order = sorted(range(len(keys)), key=lambda i: (keys[i] != keys[i], keys[i]))
    return [keys[i] for i in order], [values[i] for i in order]


@remember
def _places(words: Sequence[str]) -> tuple[int, ...]:
    return tuple(range(len(words)))


def _translated(xp: Namespace, x: Array, keys: Sequence[Any], values: Sequence[Any], default: Any, to: str) -> Array:
    """`values[i]` where an element is `keys[i]`, else `default`: a search in the sorted keys. NaN finds NaN."""
    native = xp.dtype(to)
    if not keys:
        return xp.full(x.shape, default, dtype=native)
    first, second = _in_order(keys, values)
    table, results = xp.asarray(first, dtype=x.dtype), xp.asarray(second, dtype=native)
    flat = xp.reshape(x, (-1,))
    odd = first[-1] != first[-1]  # NaN, whose order the standard leaves open: infinity stands in for it
    ordered = xp.asarray([*first[:-1], math.inf], dtype=x.dtype) if odd else table
    place = xp.clip(xp.astype(xp.searchsorted(ordered, flat), xp.int64), None, len(keys) - 1)
    if odd:
        place = xp.where(xp.not_equal(flat, flat), xp.asarray(len(keys) - 1, dtype=place.dtype), place)
    found = xp.take(table, place)
    same = (found == flat) | (xp.not_equal(found, found) & xp.not_equal(flat, flat))
    return xp.reshape(xp.where(same, xp.take(results, place), xp.full(flat.shape, default, dtype=native)), x.shape)


@op("CategoryMapper", domain=ML)
def category_mapper(
    xp: Namespace,
    X: Array,
    *,
    cats_int64s: Ints | None = None,
    cats_strings: Texts | None = None,
    default_int64: Int = -1,
    default_string: Text = "_Unused",
) -> Array:
    """Strings to the integers beside them in the attributes, or back. Raises ValueError for unequal lists."""
    ints, strings = cats_int64s or (), cats_strings or ()
    if len(ints) != len(strings):
        raise ValueError(f"{len(ints)} cats_int64s beside {len(strings)} cats_strings")
    if xp.dtype_name(X.dtype) == "string":
        return _translated(xp, X, strings, ints, default_int64, "int64")
    return _translated(xp, X, ints, strings, default_string, "string")


@op("DictVectorizer", domain=ML, host=True)
def dict_vectorizer(
    xp: Namespace, X: Map, *, int64_vocabulary: Ints | None = None, string_vocabulary: Texts | None = None
) -> Array:
    """The values of a map in the order of the vocabulary, 0 (or no text) where it has none: a matrix of one row."""
    words: Sequence[Any] = string_vocabulary or int64_vocabulary or ()
    some = next(iter(X.values()), 0.0)
    dtype = xp.dtype("string") if isinstance(some, str) else xp.asarray(some).dtype
    row = [X.get(word, "" if isinstance(some, str) else 0) for word in words]
    return xp.reshape(xp.asarray(row, dtype=dtype), (1, len(row)))


@op("FeatureVectorizer", domain=ML)
def feature_vectorizer(xp: Namespace, *X: Array, inputdimensions: Ints | None = None) -> Array:
    """Inputs of (rows, features) side by side in float32, each cropped or padded with zeros to its dimension."""
    columns = []
    for x, width in zip(X, inputdimensions or [None] * len(X), strict=True):
        rows = 1 if x.ndim < 2 else x.shape[0]
        x = xp.reshape(xp.astype(x, xp.float32), (rows, math.prod(x.shape) // max(rows, 1)))
        columns.append(x if width is None else xp.pad(x, ((0, 0), (0, width - x.shape[1]))))
    return xp.concat(columns, axis=1)


@op("Imputer", domain=ML)
def imputer(
    xp: Namespace,
    X: Array,
    *,
    imputed_value_floats: Floats | None = None,
    imputed_value_int64s: Ints | None = None,
    replaced_value_float: Float = 0.0,
    replaced_value_int64: Int = 0,
) -> Array:
    """`X` with one value (which may be NaN) replaced by another, one for all or one a feature (last axis)."""
    floating = xp.isdtype(X.dtype, "real floating")
    values: Sequence[float] = (imputed_value_floats if floating else imputed_value_int64s) or ()
    if len(values) not in {1, X.shape[-1] if X.ndim else 1}:
        raise ValueError(f"{len(values)} imputed values for X {tuple(X.shape)}")
    replaced = replaced_value_float if floating else replaced_value_int64
    missing = xp.isnan(X) if math.isnan(replaced) else replaced == X
    return xp.where(missing, xp.broadcast_to(xp.asarray(values, dtype=X.dtype), X.shape), X)


@op("LabelEncoder", since=2, domain=ML)
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
) -> Array:
    """The value beside the key that each element equals, else the default. Raises ValueError for unequal lists."""
    keys = keys_floats or keys_int64s or keys_strings if keys_tensor is None else listed(keys_tensor)
    values: Sequence[Any]
    if values_tensor is not None:
        values, to = listed(values_tensor), xp.dtype_name(values_tensor.dtype)
        fallback = {"string": default_string, "float32": default_float, "float64": default_float}.get(to, default_int64)
        default = fallback if default_tensor is None else listed(default_tensor)[0]
    elif values_strings:
        values, to, default = values_strings, "string", default_string
    elif values_floats:
        values, to, default = values_floats, "float32", default_float
    else:
        values, to, default = values_int64s or (), "int64", default_int64
    if len(keys or ()) != len(values):
        raise ValueError(f"{len(keys or ())} keys for {len(values)} values")
    return _translated(xp, X, keys or (), values, default, to)


@op("LabelEncoder", domain=ML)
def label_encoder_1(
    xp: Namespace,
    X: Array,
    *,
    classes_strings: Texts | None = None,
    default_int64: Int = -1,
    default_string: Text = "_Unused",
) -> Array:
    """Strings to their places in `classes_strings`, or places to strings."""
    strings = classes_strings or ()
    return category_mapper(
        xp,
        X,
        cats_int64s=_places(strings),
        cats_strings=strings,
        default_int64=default_int64,
        default_string=default_string,
    )


def _linear(
    xp: Namespace, x: Array, coefficients: Sequence[float], intercepts: Sequence[float] | None, count: int
) -> Array:
    """Scores (rows, `count`) of rows (rows, features); a vector is one row. Raises ValueError when they do not fit."""
    x = xp.reshape(number(xp, x), (1, -1)) if x.ndim < 2 else number(xp, x)
    if not count or x.shape[1] * count != len(coefficients):
        raise ValueError(f"{len(coefficients)} coefficients do not fit {count} scores of X {tuple(x.shape)}")
    dtype = xp.dtype_name(x.dtype)
    scores = xp.matmul(x, xp.reshape(constant(xp, coefficients, dtype), (count, x.shape[1])).T)
    return scores + constant(xp, intercepts, dtype) if intercepts else scores


@op("LinearRegressor", domain=ML)
def linear_regressor(
    xp: Namespace,
    X: Array,
    *,
    coefficients: Floats | None = None,
    intercepts: Floats | None = None,
    post_transform: Text = "NONE",
    targets: Int = 1,
) -> Array:
    """A linear function of each row: float32 (rows, `targets`)."""
    scores = _linear(xp, X, coefficients or (), intercepts, targets)
    return xp.astype(transform(xp, scores, post_transform), xp.float32)


@op("LinearClassifier", domain=ML)
def linear_classifier(
    xp: Namespace,
    X: Array,
    *,
    classlabels_ints: Ints | None = None,
    classlabels_strings: Texts | None = None,
    coefficients: Floats,
    intercepts: Floats | None = None,
    multi_class: Int = 0,
    post_transform: Text = "NONE",
) -> tuple[Array, Array]:
    """The label of the largest linear score of each row, and all scores in float32.

    One row of coefficients with two labels is a binary classifier: the second class where its score is positive.
    """
    labels: Sequence[Any] = classlabels_strings or classlabels_ints or ()
    features = X.shape[-1] if X.ndim else 1
    count = len(coefficients) // features if features else 0
    scores = _linear(xp, X, coefficients, intercepts, count)
    if count == 1:
        positive = scores[:, 0] > (0.5 if post_transform == "NONE" and not labels else 0)
        top = xp.astype(positive, xp.int64)
        if len(labels) == 2:
            scores = binary_scores(xp, scores[:, 0], post_transform)
        else:
            scores = transform(xp, scores, post_transform)
            top = xp.zeros_like(top) if labels else top
    else:
        top = xp.argmax(scores, axis=1)
        scores = transform(xp, scores, post_transform)
    return labels_of(xp, top, classlabels_strings, classlabels_ints), xp.astype(scores, xp.float32)


def binary_scores(xp: Namespace, score: Array, post_transform: str) -> Array:
    """Scores of two classes from that of the second one, as onnxruntime has them: ONNX does not say."""
    if post_transform in {"NONE", "LOGISTIC"}:
        p = transform(xp, score, post_transform)
        return xp.stack([1 - p, p], axis=1)
    return transform(xp, xp.stack([-score, score], axis=1), post_transform)


@op("Normalizer", domain=ML)
def normalizer(xp: Namespace, X: Array, *, norm: Text = "MAX") -> Array:
    """Each row (last axis) over its largest element, its sum of absolute values (L1) or its length (L2), in float32."""
    x = number(xp, X)
    if norm == "MAX":
        size = xp.max(x, axis=-1, keepdims=True)
    elif norm == "L1":
        size = xp.sum(xp.abs(x), axis=-1, keepdims=True)
    elif norm == "L2":
        size = xp.root(xp.sum(xp.square(x), axis=-1, keepdims=True))
    else:
        raise ValueError(f"norm is MAX, L1 or L2, not {norm!r}")
    return xp.astype(x / xp.where(size == 0, xp.ones_like(size), size), xp.float32)


@op("OneHotEncoder", domain=ML)
def one_hot_encoder(
    xp: Namespace, X: Array, *, cats_int64s: Ints | None = None, cats_strings: Texts | None = None, zeros: Int = 1
) -> Array:
    """1 at the category that each element is, else 0, along a new last axis, in float32.

    Raises ValueError for an element that is none of them, when `zeros` is 0 and the values are known.
    """
    text = xp.dtype_name(X.dtype) == "string"
    cats = xp.asarray(cats_strings, dtype=X.dtype) if text else constant(xp, cats_int64s or (), "int64")
    x = X if text else xp.astype(X, xp.int64)
    hits = xp.expand_dims(x, axis=-1) == cats
    if not zeros and xp.known(xp.all(xp.any(hits, axis=-1))) is False:
        raise ValueError("X has an element that is none of the categories, and zeros is 0")
    return xp.astype(hits, xp.float32)


@op("Scaler", domain=ML)
def scaler(xp: Namespace, X: Array, *, offset: Floats | None = None, scale: Floats | None = None) -> Array:
    """(`X` - `offset`) · `scale` in float32; one number for all or one for each feature (last axis)."""
    x = number(xp, X)
    name = xp.dtype_name(x.dtype)
    for values, what in ((offset, "offsets"), (scale, "scales")):
        if values and len(values) not in {1, X.shape[-1] if X.ndim else 1}:
            raise ValueError(f"{len(values)} {what} for X {tuple(X.shape)}")
    x = x - constant(xp, offset, name) if offset else x
    return xp.astype(x * constant(xp, scale, name) if scale else x, xp.float32)


@op("ZipMap", domain=ML, host=True)
def zip_map(
    xp: Namespace, X: Array, *, classlabels_int64s: Ints | None = None, classlabels_strings: Texts | None = None
) -> Arrays:
    """For each row a map from the class labels to its scores. Raises ValueError for a wrong number of labels."""
    labels: Sequence[Any] = classlabels_strings or classlabels_int64s or ()
    rows = xp.reshape(X, (1, -1)) if X.ndim < 2 else X
    if rows.shape[1] != len(labels):
        raise ValueError(f"{len(labels)} labels for scores of shape {tuple(X.shape)}")
    return tuple(dict(zip(labels, row, strict=True)) for row in rows)
