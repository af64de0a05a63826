"""Preparing features for ai.onnx.ml: choosing, filling in, scaling, putting side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Float, Floats, Int, Ints, Text
from ortlite.ops.helpers import one_of, wide_integers
from ortlite.ops.memo import Memo, vector
from ortlite.ops.ml._scores import number
from ortlite.ops.registry import op

ML = "ai.onnx.ml"
PADDED = 1 << 16  # features, at most, that FeatureVectorizer adds to an input


@op("ArrayFeatureExtractor", domain=ML, any_dtype=True)
def array_feature_extractor(xp: Namespace, X: Array, Y: Array) -> Array:
    """The elements `Y` of the last axis of `X`; of a vector as a matrix of one row.

    Raises ValueError for indices that `X` does not have, when they are known.
    """
    width = X.shape[-1] if X.ndim else 0
    xp.require_range(f"the indices Y into the last axis of X {list(X.shape)}", Y, 0, width - 1)
    chosen = xp.take(X, xp.reshape(Y, (-1,)), axis=X.ndim - 1)
    return xp.expand_dims(chosen, axis=0) if X.ndim == 1 else chosen


@op("Binarizer", domain=ML, needs=wide_integers)
def binarizer(xp: Namespace, X: Array, *, threshold: Float = 0.0) -> Array:
    """1 where `X` is above `threshold`, else 0."""
    return xp.astype(number(xp, X) > threshold, X.dtype)


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


@op("Normalizer", domain=ML, needs=wide_integers)
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


@op("Scaler", domain=ML, views=True, needs=wide_integers)
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
