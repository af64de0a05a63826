"""Support vector machines of ai.onnx.ml, in float64: distances by way of products cancel in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, combinations
from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Floats, Int, Ints, Text, Texts
from ortlite.ops.memo import Memo, constant, vector
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
    ends, classes = [*accumulate(counts)], len(counts)
    blocks = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    # what the vectors of a class say of it and each other class: classes - 1 columns a class
    sides = xp.concat([xp.matmul(kernel[:, b], coefficients[:, b].T) for b in blocks], axis=1)
    pairs, others = list(combinations(range(classes), 2)), classes - 1
    first = constant(xp, [i * others + j - 1 for i, j in pairs], "int64")
    second = constant(xp, [j * others + i for i, j in pairs], "int64")
    return xp.take(sides, first, axis=1) + xp.take(sides, second, axis=1) + constant(xp, rho, "float64")


def _coupled(xp: Namespace, pair: Array, classes: int) -> Array:
    """Probabilities of classes from those of pairs, by the second method of Wu, Lin and Weng (JMLR 5, 2004).

    `pair` holds in column (i, j), i < j, the probability r_ij of i against j. Wanted is the p, of sum 1, that
    minimises p'Qp, where Q_ii = sum of r_ji squared over j and Q_ij = -r_ji r_ij. Each sweep solves the condition of
    the minimum, Qp = p'Qp in every class, for one class after the other. It ends where libsvm ends it, well before
    the minimum: models were judged by these numbers.
    """
    count = pair.shape[1]
    number = {place: n for n, place in enumerate(combinations(range(classes), 2))}
    number |= {(j, i): count + n for (i, j), n in number.items()}
    places = [number.get((i, j), 2 * count) for i in range(classes) for j in range(classes)]  # the last is 0
    sides = xp.concat([pair, 1 - pair, xp.zeros_like(pair[:, :1])], axis=1)
    wins = xp.reshape(xp.take(sides, constant(xp, places, "int64"), axis=1), (pair.shape[0], classes, classes))
    losses = xp.permute_dims(wins, (0, 2, 1))
    unit = xp.eye(classes, dtype=pair.dtype)
    matrix = unit * xp.sum(losses * losses, axis=2, keepdims=True) - losses * wins

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
    signs = [0.0] * (scores.shape[1] * classes)  # of a pair: 1 for its first class, -1 for its second
    for number, (i, j) in enumerate(combinations(range(classes), 2)):
        signs[number * classes + i], signs[number * classes + j] = 1.0, -1.0
    won = xp.astype(scores > 0, xp.float64)
    table = xp.reshape(constant(xp, signs, "float64"), (scores.shape[1], classes))
    # a class has one vote more for each pair in which it comes second and that is not won by the first
    votes = xp.matmul(won, table) + constant(xp, [float(c) for c in range(classes)], "float64")
    return xp.argmax(votes, axis=1)
