"""Classical machine learning: ai.onnx.ml, but for trees (ml_trees.py) and support vectors (ml_svm.py).

Scores are computed in float32, in float64 from doubles and integers. Attributes that hold many numbers become arrays
once (`vector`), not in every run.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

from ortlite import dtypes
from ortlite.graph import MapType, Node, SequenceType, TensorType
from ortlite.namespace import Namespace
from ortlite.ops._scores import labels_of, number, transform
from ortlite.ops.annotations import Array, Arrays, Float, Floats, Int, Ints, Map, Text, Texts, Value
from ortlite.ops.helpers import one_of
from ortlite.ops.memo import CODES, Memo, constant, listed, once, vector
from ortlite.ops.registry import op
from ortlite.ops.types import FLOAT, INT64, STRING, Inferred, Types, class_labels

ML = "ai.onnx.ml"
PADDED = 1 << 16  # features, at most, that FeatureVectorizer adds to an input
SPARSE = 1 << 24  # places, at most, of a map that CastMap lays out


@op("ArrayFeatureExtractor", domain=ML, any_dtype=True)
def array_feature_extractor(xp: Namespace, X: Array, Y: Array) -> Array:
    """The elements `Y` of the last axis of `X`; of a vector as a matrix of one row.

    Raises ValueError for places that `X` does not have, when they are known.
    """
    width = X.shape[-1] if X.ndim else 0
    if math.prod(Y.shape) and xp.known(xp.all((Y >= 0) & (Y < width))) is False:
        raise ValueError(f"Y has places that are not among the {width} of the last axis of X {tuple(X.shape)}")
    chosen = xp.take(X, xp.reshape(Y, (-1,)), axis=X.ndim - 1)
    return xp.expand_dims(chosen, axis=0) if X.ndim == 1 else chosen


@op("Binarizer", domain=ML)
def binarizer(xp: Namespace, X: Array, *, threshold: Float = 0.0) -> Array:
    """1 where `X` is above `threshold`, else 0."""
    return xp.astype(number(xp, X) > threshold, X.dtype)


def _six_digits(value: Any) -> str:
    """A number as onnxruntime prints it: ONNX does not say how."""
    return str(value) if isinstance(value, str) else f"{float(value):f}"


def _cast_type(node: Node, inputs: Types) -> Inferred:
    names = {"TO_FLOAT": FLOAT, "TO_INT64": INT64, "TO_STRING": STRING}
    return [TensorType(names[node.attributes.get("cast_to", "TO_FLOAT")])]


@op("CastMap", domain=ML, python_objects=True, types=_cast_type)
def cast_map(xp: Namespace, X: Map, *, cast_to: Text = "TO_FLOAT", map_form: Text = "DENSE", max_map: Int = 1) -> Array:
    """The values of a map from integers, in the order of its keys, as a matrix of one row.

    With `map_form` SPARSE each value stands at the place that its key says, among `max_map` places of zeros.
    """
    convert: Any = {"TO_FLOAT": float, "TO_INT64": lambda v: int(float(v)), "TO_STRING": _six_digits}.get(cast_to)
    if convert is None or map_form not in {"DENSE", "SPARSE"}:
        raise ValueError(f"cast_to {cast_to!r} or map_form {map_form!r} is unknown")
    if map_form == "SPARSE":
        if not 1 <= max_map <= SPARSE:
            raise ValueError(f"max_map is {max_map}, not 1 to {SPARSE}")
        if wrong := [key for key in X if not 0 <= key < max_map]:
            raise ValueError(f"the keys {sorted(wrong)} are not below max_map, {max_map}")
    row = [convert("0")] * max_map if map_form == "SPARSE" else [convert(X[key]) for key in sorted(X)]
    for key in X if map_form == "SPARSE" else ():
        row[key] = convert(X[key])
    names = {"TO_FLOAT": "float32", "TO_INT64": "int64", "TO_STRING": "string"}
    return xp.reshape(xp.asarray(row, dtype=xp.dtype(names[cast_to])), (1, len(row)))


def _in_order(keys: Any, values: Any, dtype: str, to: str) -> tuple[Sequence[Any], Sequence[Any]]:
    """Keys in order, NaN last, and the values beside them. Raises ValueError for unequal lists."""
    keys, values = listed(keys), listed(values)
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
    table, results = constant(xp, first, dtype), constant(xp, second, to)
    flat = xp.reshape(x, (-1,))
    odd = first[-1] != first[-1]  # NaN, whose order the standard leaves open: infinity stands in for it
    ordered = xp.asarray([*first[:-1], math.inf], dtype=x.dtype) if odd else table
    place = xp.clip(xp.astype(xp.searchsorted(ordered, flat), xp.int64), None, len(keys) - 1)
    if odd:
        place = xp.where(xp.not_equal(flat, flat), xp.asarray(len(keys) - 1, dtype=place.dtype), place)
    found = xp.take(table, place)
    same = (found == flat) | (xp.not_equal(found, found) & xp.not_equal(flat, flat))
    return xp.reshape(xp.where(same, xp.take(results, place), xp.full(flat.shape, default, dtype=native)), x.shape)


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


@op(
    "DictVectorizer",
    domain=ML,
    python_objects=True,
    types=lambda node, inputs: [inputs[0].value] if isinstance(inputs[0], MapType) else [],
)
def dict_vectorizer(
    xp: Namespace, X: Map, *, int64_vocabulary: Ints | None = None, string_vocabulary: Texts | None = None
) -> Array:
    """The values of a map in the order of the vocabulary, 0 (or no text) where it has none: a matrix of one row."""
    words: Sequence[Any] = string_vocabulary or int64_vocabulary or ()
    if bool(string_vocabulary) == bool(int64_vocabulary):
        counts = f"{len(int64_vocabulary or ())} numbers and {len(string_vocabulary or ())} texts"
        raise ValueError(f"int64_vocabulary or string_vocabulary must be given, one of them, not {counts}")
    some = next(iter(X.values()), 0.0)
    dtype = xp.dtype("string") if isinstance(some, str) else xp.asarray(some).dtype
    row = [X.get(word, "" if isinstance(some, str) else 0) for word in words]
    return xp.reshape(xp.asarray(row, dtype=dtype), (1, len(row)))


@op("FeatureVectorizer", domain=ML)
def feature_vectorizer(xp: Namespace, *X: Array, inputdimensions: Ints | None = None) -> Array:
    """Inputs of (rows, features) side by side in float32, each cropped or padded with zeros to its dimension."""
    widths = inputdimensions or ()
    if widths and len(widths) != len(X):
        raise ValueError(f"inputdimensions has {len(widths)} numbers for {len(X)} inputs")
    columns = []
    for index, x in enumerate(X):
        rows = 1 if x.ndim < 2 else x.shape[0]
        x = xp.reshape(xp.astype(x, xp.float32), (rows, math.prod(x.shape[min(1, x.ndim - 1) :])))
        columns.append(_of_width(xp, x, widths[index]) if widths else x)
    return xp.concat(columns, axis=1)


def _of_width(xp: Namespace, x: Array, width: int) -> Array:
    """Rows cropped or filled up with zeros. Raises ValueError for a width that is absurd."""
    if not 0 <= width <= x.shape[1] + PADDED:
        raise ValueError(f"inputdimensions has {width} for an input of {x.shape[1]} features")
    return x[:, :width] if width <= x.shape[1] else xp.pad(x, ((0, 0), (0, width - x.shape[1])))


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
    """The value beside the key that each element equals, else the default. Raises ValueError for unequal lists."""
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
    """Strings to their places in `classes_strings`, or places to strings."""
    strings = classes_strings or ()
    places = range(len(strings))
    if xp.dtype_name(X.dtype) == "string":
        return _translated(xp, X, strings, places, default_int64, "int64", memo)
    return _translated(xp, X, places, strings, default_string, "string", memo)


def _linear(
    xp: Namespace,
    x: Array,
    coefficients: Sequence[float],
    intercepts: Sequence[float] | None,
    count: int,
    memo: Memo,
) -> Array:
    """Scores (rows, `count`) of rows (rows, features); a vector is one row. Raises ValueError when they do not fit."""
    x = xp.reshape(number(xp, x), (1, math.prod(x.shape))) if x.ndim < 2 else number(xp, x)
    if x.ndim > 2 or count < 1 or x.shape[1] * count != len(coefficients):
        raise ValueError(f"{len(coefficients)} coefficients do not fit {count} scores of X {tuple(x.shape)}")
    if intercepts and len(intercepts) != count:
        raise ValueError(f"{len(intercepts)} intercepts do not fit {count} scores")
    dtype = xp.dtype_name(x.dtype)
    weights = xp.reshape(vector(xp, memo, "coefficients", coefficients, dtype), (count, x.shape[1]))
    scores = xp.matmul(x, weights.T)
    return scores + vector(xp, memo, "intercepts", intercepts, dtype) if intercepts else scores


@op("LinearRegressor", domain=ML)
def linear_regressor(
    xp: Namespace,
    X: Array,
    *,
    coefficients: Floats | None = None,
    intercepts: Floats | None = None,
    post_transform: Text = "NONE",
    targets: Int = 1,
    memo: Memo = None,
) -> Array:
    """A linear function of each row: float32 (rows, `targets`)."""
    scores = _linear(xp, X, coefficients or (), intercepts, targets, memo)
    return xp.astype(transform(xp, scores, post_transform), xp.float32)


@op("LinearClassifier", domain=ML, types=class_labels)
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
    memo: Memo = None,
) -> tuple[Array, Array]:
    """The label of the largest linear score of each row, and all scores in float32.

    One row of coefficients with two labels is a binary classifier: the second class where its score is positive.
    """
    labels: Sequence[Any] = classlabels_strings or classlabels_ints or ()
    features = X.shape[-1] if X.ndim else 1
    count = len(coefficients) // features if features else 0
    scores = _linear(xp, X, coefficients, intercepts, count, memo)
    if labels and len(labels) != count and not (count == 1 and len(labels) == 2):
        raise ValueError(f"{len(labels)} class labels do not fit {count} scores")
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
    one_of("norm", norm, "MAX", "L1", "L2")
    if not math.prod(x.shape):  # nothing has no largest element
        size = x
    elif norm == "MAX":
        size = xp.max(x, axis=-1, keepdims=True)
    elif norm == "L1":
        size = xp.sum(xp.abs(x), axis=-1, keepdims=True)
    else:
        size = xp.root(xp.sum(xp.square(x), axis=-1, keepdims=True))
    return xp.astype(x / xp.where(size == 0, xp.ones_like(size), size), xp.float32)


@op("OneHotEncoder", domain=ML)
def one_hot_encoder(
    xp: Namespace, X: Array, *, cats_int64s: Ints | None = None, cats_strings: Texts | None = None, zeros: Int = 1
) -> Array:
    """1 at the category that each element is, else 0, along a new last axis, in float32.

    Raises ValueError for an element that is none of them, when `zeros` is 0 and the values are known.
    """
    text = xp.dtype_name(X.dtype) == "string"
    if cats_int64s and cats_strings:
        raise ValueError(f"{len(cats_int64s)} cats_int64s beside {len(cats_strings)} cats_strings, not one of them")
    if not (cats_strings if text else cats_int64s):
        raise ValueError(f"{'cats_strings' if text else 'cats_int64s'} is empty, and X is {xp.dtype_name(X.dtype)}")
    cats = xp.asarray(cats_strings, dtype=X.dtype) if text else constant(xp, cats_int64s or (), "int64")
    x = X if text else xp.astype(X, xp.int64)
    hits = xp.expand_dims(x, axis=-1) == cats
    if not zeros and xp.known(xp.all(xp.any(hits, axis=-1))) is False:
        raise ValueError("X has an element that is none of the categories, and zeros is 0")
    return xp.astype(hits, xp.float32)


@op("Scaler", domain=ML)
def scaler(
    xp: Namespace, X: Array, *, offset: Floats | None = None, scale: Floats | None = None, memo: Memo = None
) -> Array:
    """(`X` - `offset`) · `scale` in float32; one number for all or one for each feature (last axis)."""
    x = number(xp, X)
    name = xp.dtype_name(x.dtype)
    for values, what in ((offset, "offsets"), (scale, "scales")):
        if values and len(values) not in {1, X.shape[-1] if X.ndim else 1}:
            raise ValueError(f"{len(values)} {what} for X {tuple(X.shape)}")
    if offset and scale and len(offset) != len(scale):
        raise ValueError(f"{len(offset)} offsets beside {len(scale)} scales")
    x = x - vector(xp, memo, "offset", offset, name) if offset else x
    return xp.astype(x * vector(xp, memo, "scale", scale, name) if scale else x, xp.float32)


def _maps(node: Node, inputs: Types) -> Inferred:
    key = STRING if node.attributes.get("classlabels_strings") else INT64
    return [SequenceType(MapType(key, TensorType(FLOAT)))]


@op("ZipMap", domain=ML, python_objects=True, types=_maps)
def zip_map(
    xp: Namespace, X: Array, *, classlabels_int64s: Ints | None = None, classlabels_strings: Texts | None = None
) -> Arrays:
    """For each row a map from the class labels to its scores. Raises ValueError for a wrong number of labels."""
    labels: Sequence[Any] = classlabels_strings or classlabels_int64s or ()
    rows = xp.reshape(X, (1, -1)) if X.ndim < 2 else X
    if rows.shape[1] != len(labels):
        raise ValueError(f"{len(labels)} labels for scores of shape {tuple(X.shape)}")
    return tuple(dict(zip(labels, row, strict=True)) for row in rows)
