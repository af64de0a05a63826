"""Linear models of ai.onnx.ml, in float32, from doubles and integers in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Floats, Int, Ints, Text, Texts
from ortlite.ops.memo import Memo, vector
from ortlite.ops.ml._scores import labels_of, number, transform
from ortlite.ops.registry import op
from ortlite.ops.types import class_labels

ML = "ai.onnx.ml"


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


@op("LinearRegressor", domain=ML, needs=("float64",))
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


@op("LinearClassifier", domain=ML, types=class_labels, needs=("float64",))
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
    """Scores of two classes from the score of the second, as onnxruntime computes them: ONNX does not say how."""
    if post_transform in {"NONE", "LOGISTIC"}:
        p = transform(xp, score, post_transform)
        return xp.stack([1 - p, p], axis=1)
    return transform(xp, xp.stack([-score, score], axis=1), post_transform)
