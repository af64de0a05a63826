"""Support vector machines of ai.onnx.ml, in float64: distances by way of products cancel in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, combinations
from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Floats, Int, Ints, Text, Texts
from ortlite.ops.memo import Memo, vector
from ortlite.ops.ml._scores import labels_of, transform
from ortlite.ops.registry import op
from ortlite.ops.types import class_labels

ML = "ai.onnx.ml"
TINY = 1e-7  # probabilities of pairs stay so far from 0 and 1
SWEEPS = 100  # at most, or one a class where there are more classes
SWEEP_ENDS = 0.005  # over the number of classes: how far Qp may be from p'Qp at the end


def _rows(xp: Namespace, x: Array) -> Array:
    """Rows of features in float64; a vector is one row. Raises ValueError for more than two axes."""
    if x.ndim > 2:
        raise ValueError(f"X must be (rows, features), not {tuple(x.shape)}")
    x = xp.astype(x, xp.float64)
    return xp.reshape(x, (1, math.prod(x.shape))) if x.ndim < 2 else x


def _kernel(xp: Namespace, x: Array, vectors: Array, kind: str, params: Sequence[float] | None) -> Array:
    """The kernel of every row with every vector. `params`: gamma, coef0, degree. Raises ValueError for another kind."""
    gamma, coef0, degree = params or (0.0, 0.0, 0.0)
    products = xp.matmul(x, vectors.T)
    if kind == "LINEAR":
        return products
    if kind == "POLY":
        return xp.pow(products * gamma + coef0, xp.asarray(degree, dtype=xp.float64))
    if kind == "SIGMOID":
        return xp.tanh(products * gamma + coef0)
    if kind == "RBF":
        squares = xp.sum(x * x, axis=1, keepdims=True) + xp.sum(vectors * vectors, axis=1)
        return xp.exp((squares - products * 2) * -gamma)
    raise ValueError(f"kernel_type is LINEAR, POLY, RBF or SIGMOID, not {kind!r}")


def _matrix(
    xp: Namespace, memo: Memo, name: str, values: Sequence[float] | None, rows: int, columns: int, of: str
) -> Array:
    """The attribute `name` as a matrix. Raises ValueError when it has too few numbers or too many."""
    count = len(values or ())
    if not values or count != rows * columns:
        raise ValueError(f"{name} has {count} numbers; {of} need {rows} x {columns} = {rows * columns}")
    return xp.reshape(vector(xp, memo, name, values, "float64"), (rows, columns))


def _checked_params(params: Sequence[float] | None) -> None:
    if params and len(params) != 3:
        raise ValueError(f"kernel_params are gamma, coef0 and degree, not {len(params)} numbers")


@op("SVMRegressor", domain=ML, needs=("float64",))
def svm_regressor(
    xp: Namespace,
    X: Array,
    *,
    coefficients: Floats | None = None,
    kernel_params: Floats | None = None,
    kernel_type: Text = "LINEAR",
    n_supports: Int = 0,
    one_class: Int = 0,
    post_transform: Text = "NONE",
    rho: Floats | None = None,
    support_vectors: Floats | None = None,
    memo: Memo = None,
) -> Array:
    """The machine's value for each row, or with `one_class` 1 inside and -1 outside: float32 (rows, 1).

    Without support vectors the machine is linear. Raises ValueError for attributes that do not fit together or `X`.
    """
    x = _rows(xp, X)
    _checked_params(kernel_params)
    if n_supports < 0:
        raise ValueError(f"n_supports is {n_supports}, less than none")
    of = f"{n_supports} support vectors" if n_supports else f"X {tuple(X.shape)} and a linear machine"
    weights = _matrix(xp, memo, "coefficients", coefficients, 1, n_supports or x.shape[1], of)
    if n_supports:
        of = f"{n_supports} support vectors of {x.shape[1]} features"
        vectors = _matrix(xp, memo, "support_vectors", support_vectors, n_supports, x.shape[1], of)
        x = _kernel(xp, x, vectors, kernel_type, kernel_params)
    y = xp.matmul(x, weights.T) + (rho[0] if rho else 0.0)
    if one_class:
        return xp.where(y > 0, xp.asarray(1.0, dtype=xp.float32), xp.asarray(-1.0, dtype=xp.float32))
    return xp.astype(transform(xp, y, post_transform), xp.float32)


def _pairs(xp: Namespace, kernel: Array, coefficients: Array, counts: Sequence[int], rho: Sequence[float]) -> Array:
    """Scores (rows, pairs) of each class against each later one: positive votes for the first."""
    starts = [0, *accumulate(counts)]
    columns: list[Any] = []
    for i, j in combinations(range(len(counts)), 2):
        first, second = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        columns.append(
            xp.matmul(kernel[:, first], coefficients[j - 1, first])
            + xp.matmul(kernel[:, second], coefficients[i, second])
            + rho[len(columns)]
        )
    return xp.stack(columns, axis=1)


def _coupled(xp: Namespace, pair: Array, classes: int) -> Array:
    """Probabilities of classes from those of pairs, by the second method of Wu, Lin and Weng (JMLR 5, 2004).

    `pair` holds in column (i, j), i < j, the probability r_ij of i against j. Wanted is the p, of sum 1, that
    minimises p'Qp, where Q_ii = sum of r_ji squared over j and Q_ij = -r_ji r_ij. Each sweep solves the condition of
    the minimum, Qp = p'Qp in every class, for one class after the other. It ends where libsvm ends it, well before
    the minimum: models were judged by these numbers.
    """
    one = xp.ones_like(pair[:, 0])
    wins = {place: pair[:, number] for number, place in enumerate(combinations(range(classes), 2))}
    wins |= {(j, i): one - r for (i, j), r in wins.items()}
    rows = []
    for i in range(classes):
        others = [j for j in range(classes) if j != i]
        row = {j: -wins[j, i] * wins[i, j] for j in others}
        row[i] = sum((wins[j, i] * wins[j, i] for j in others), xp.zeros_like(one))
        rows.append(xp.stack([row[j] for j in range(classes)], axis=1))
    matrix = xp.stack(rows, axis=1)
    unit = xp.eye(classes, dtype=pair.dtype)

    def products(p: Array) -> tuple[Array, Array]:
        image = xp.matmul(matrix, xp.expand_dims(p, axis=2))[:, :, 0]
        return image, xp.sum(p * image, axis=1, keepdims=True)

    def sweep(index: Any, going: Any, state: tuple[Array]) -> tuple[Any, tuple[Array], tuple[()]]:
        (start,) = state
        p = start
        image, value = products(p)
        near = xp.all(xp.abs(image - value) < SWEEP_ENDS / classes, axis=1, keepdims=True)
        for i in range(classes):
            row, diagonal = matrix[:, i, :], matrix[:, i, i : i + 1]
            step = (value - image[:, i : i + 1]) / diagonal
            value = (value + step * (step * diagonal + 2 * image[:, i : i + 1])) / (1 + step) / (1 + step)
            image = (image + step * row) / (1 + step)
            p = (p + step * unit[i, :]) / (1 + step)
        return ~xp.all(near), (xp.where(near, start, p),), ()  # a row that is near stays, and so stays near

    even = xp.ones(matrix.shape[:2], dtype=pair.dtype) / classes
    return xp.while_loop(sweep, max(SWEEPS, classes), True, (even,))[0][0]


@op("SVMClassifier", domain=ML, types=class_labels, needs=("float64",))
def svm_classifier(
    xp: Namespace,
    X: Array,
    *,
    classlabels_ints: Ints | None = None,
    classlabels_strings: Texts | None = None,
    coefficients: Floats | None = None,
    kernel_params: Floats | None = None,
    kernel_type: Text = "LINEAR",
    post_transform: Text = "NONE",
    prob_a: Floats | None = None,
    prob_b: Floats | None = None,
    rho: Floats | None = None,
    support_vectors: Floats | None = None,
    vectors_per_class: Ints | None = None,
    memo: Memo = None,
) -> tuple[Array, Array]:
    """Labels, and float32 scores: of pairs of classes, or with `prob_a` and `prob_b` the classes' probabilities.

    Without support vectors the machine is linear, with one row of coefficients a class and the first `rho` for all.
    With two classes there are two scores, the second that of the pair and the first its negative. A single score is
    only transformed by PROBIT. All this as onnxruntime has it: ONNX does not say. (It leaves SOFTMAX of a pair undone,
    which ONNX does say.) Raises ValueError for attributes that do not fit together or `X`.
    """
    labels: Sequence[Any] = classlabels_strings or classlabels_ints or ()
    x = _rows(xp, X)
    counts = vectors_per_class or ()
    classes, features, vectors = len(labels), x.shape[1], sum(counts)
    _checked_params(kernel_params)
    if not labels or (counts and len(counts) != classes) or min(counts, default=0) < 0:
        raise ValueError(f"{classes} class labels for vectors_per_class {list(counts)}")
    if not vectors:
        of = f"{classes} classes of X {tuple(X.shape)}"
        scores = xp.matmul(x, _matrix(xp, memo, "coefficients", coefficients, classes, features, of).T)
        scores = scores + (rho[0] if rho else 0.0)
        top = xp.argmax(scores, axis=1)
        if classes == 2 and not prob_a:
            top = xp.where(_is_second(xp, scores, coefficients or ()), xp.ones_like(top), top)
    else:
        pairs = classes * (classes - 1) // 2
        for name, values, optional in (("rho", rho, False), ("prob_a", prob_a, True), ("prob_b", prob_b, True)):
            if len(values or ()) != pairs and not (optional and not prob_a and not prob_b):
                raise ValueError(f"{name} has {len(values or ())} numbers for the {pairs} pairs of {classes} classes")
        of = f"{vectors} support vectors of {features} features"
        table = _matrix(xp, memo, "support_vectors", support_vectors, vectors, features, of)
        of = f"{classes} classes with {vectors} support vectors"
        weights = _matrix(xp, memo, "coefficients", coefficients, classes - 1, vectors, of)
        kernel = _kernel(xp, x, table, kernel_type, kernel_params)
        scores = _pairs(xp, kernel, weights, counts, rho or ())
        top = _most_votes(xp, scores, classes)  # also with probabilities, as in libsvm
        if prob_a and prob_b:
            slope, shift = (vector(xp, None, "", values, "float64") for values in (prob_a, prob_b))
            pair = xp.clip(xp.sigmoid(-(scores * slope + shift)), TINY, 1 - TINY)
            scores = _coupled(xp, pair, classes)
        elif classes == 2:
            scores = xp.stack([-scores[:, 0], scores[:, 0]], axis=1)
    if classes > 1 or post_transform == "PROBIT":
        scores = transform(xp, scores, post_transform)
    return labels_of(xp, top, classlabels_strings, classlabels_ints), xp.astype(scores, xp.float32)


def _is_second(xp: Namespace, scores: Array, coefficients: Sequence[float]) -> Array:
    """Whether onnxruntime takes the second of two classes whichever score is larger."""
    best = xp.max(scores, axis=1)
    return best >= 0.5 if min(coefficients) >= 0 else best > 0


def _most_votes(xp: Namespace, scores: Array, classes: int) -> Array:
    """The class that wins most of its pairs; the first one of a tie."""
    votes = [xp.zeros(scores.shape[:1], dtype=xp.int64) for _ in range(classes)]
    for number, (i, j) in enumerate(combinations(range(classes), 2)):
        won = xp.astype(scores[:, number] > 0, xp.int64)
        votes[i], votes[j] = votes[i] + won, votes[j] + (1 - won)
    return xp.argmax(xp.stack(votes, axis=1), axis=1)
