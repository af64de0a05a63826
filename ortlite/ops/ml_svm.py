"""Support vector machines of ai.onnx.ml, in float64: distances by way of products cancel in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops._remember import constant
from ortlite.ops._scores import labels_of, transform
from ortlite.ops.annotations import Array, Floats, Int, Ints, Text, Texts
from ortlite.ops.registry import op

ML = "ai.onnx.ml"
TINY = 1e-7  # probabilities of pairs stay so far from 0 and 1


def _rows(xp: Namespace, x: Array) -> Array:
    """Rows of features in float64; a vector is one row."""
    x = xp.astype(x, xp.float64)
    return xp.reshape(x, (1, -1)) if x.ndim < 2 else x


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


def _matrix(xp: Namespace, values: Sequence[float] | None, rows: int, what: str) -> Array:
    """Floats of an attribute as a matrix of `rows`. Raises ValueError when there are too few or too many."""
    if not rows or not values or len(values) % rows:
        raise ValueError(f"{len(values or ())} {what} are no matrix of {rows} rows")
    return xp.reshape(constant(xp, values, "float64"), (rows, len(values) // rows))


@op("SVMRegressor", domain=ML)
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
) -> Array:
    """The machine's value for each row, or with `one_class` 1 inside and -1 outside: float32 (rows, 1)."""
    x = _rows(xp, X)
    if n_supports:
        x = _kernel(xp, x, _matrix(xp, support_vectors, n_supports, "support_vectors"), kernel_type, kernel_params)
    y = xp.matmul(x, _matrix(xp, coefficients, 1, "coefficients").T) + (rho[0] if rho else 0.0)
    if one_class:
        return xp.where(y > 0, xp.asarray(1.0, dtype=xp.float32), xp.asarray(-1.0, dtype=xp.float32))
    return xp.astype(transform(xp, y, post_transform), xp.float32)


def _pairs(xp: Namespace, kernel: Array, coefficients: Array, counts: Sequence[int], rho: Sequence[float]) -> Array:
    """Scores (rows, pairs) of each class against each later one: positive votes for the first."""
    starts = [sum(counts[:i]) for i in range(len(counts) + 1)]
    columns: list[Any] = []
    for i in range(len(counts)):
        for j in range(i + 1, len(counts)):
            first, second = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
            columns.append(
                xp.matmul(kernel[:, first], coefficients[j - 1, first])
                + xp.matmul(kernel[:, second], coefficients[i, second])
                + rho[len(columns)]
            )
    return xp.stack(columns, axis=1)


def _coupled(xp: Namespace, pair: Array, classes: int) -> Array:
    """Probabilities of classes from those of pairs: the minimum of Wu, Lin and Weng's second method (JMLR 5, 2004).

    `pair` holds in column (i, j), i < j, the probability of i against j.
    """
    columns: dict[tuple[int, int], Any] = {}
    number = 0
    for i in range(classes):
        for j in range(i + 1, classes):
            columns[i, j], columns[j, i] = pair[:, number], 1.0 - pair[:, number]
            number += 1
    zero, one = xp.zeros_like(pair[:, 0]), xp.ones_like(pair[:, 0])
    system = []
    for i in range(classes):
        diagonal = sum((columns[j, i] * columns[j, i] for j in range(classes) if j != i), zero)
        row = [diagonal if j == i else -columns[j, i] * columns[i, j] for j in range(classes)]
        system.append(xp.stack([*row, one], axis=1))
    system.append(xp.stack([*[one] * classes, zero], axis=1))
    target = xp.stack([*[zero] * classes, one], axis=1)
    solved = xp.linalg.solve(xp.stack(system, axis=1), xp.expand_dims(target, axis=2))
    return xp.clip(solved[:, :classes, 0], 0.0, 1.0)


@op("SVMClassifier", domain=ML, needs=("linalg",))
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
) -> tuple[Array, Array]:
    """Labels, and float32 scores: of pairs of classes, or with `prob_a` and `prob_b` the classes' probabilities.

    Without support vectors the machine is linear, with one row of coefficients a class. With two classes there are two
    scores, the second that of the pair and the first its negative, as onnxruntime has it: ONNX does not say.
    """
    labels: Sequence[Any] = classlabels_strings or classlabels_ints or ()
    x = _rows(xp, X)
    counts = vectors_per_class or ()
    if not sum(counts):
        scores = xp.matmul(x, _matrix(xp, coefficients, len(labels), "coefficients").T)
        scores = scores + constant(xp, rho, "float64") if rho and len(rho) in {1, len(labels)} else scores
        top = xp.argmax(scores, axis=1)
    else:
        classes = len(counts)
        vectors = _matrix(xp, support_vectors, sum(counts), "support_vectors")
        weights = _matrix(xp, coefficients, classes - 1, "coefficients")
        kernel = _kernel(xp, x, vectors, kernel_type, kernel_params)
        scores = _pairs(xp, kernel, weights, counts, rho or ())
        top = _most_votes(xp, scores, classes)  # also with probabilities, as in libsvm
        if prob_a and prob_b:
            odds = scores * constant(xp, prob_a, "float64") + constant(xp, prob_b, "float64")
            pair = xp.clip(xp.sigmoid(-odds), TINY, 1 - TINY)
            scores = xp.stack([pair[:, 0], 1 - pair[:, 0]], axis=1) if classes == 2 else _coupled(xp, pair, classes)
        else:
            scores = xp.stack([-scores[:, 0], scores[:, 0]], axis=1) if classes == 2 else scores
    scores = transform(xp, scores, post_transform)
    return labels_of(xp, top, classlabels_strings, classlabels_ints), xp.astype(scores, xp.float32)


def _most_votes(xp: Namespace, scores: Array, classes: int) -> Array:
    """The class that wins most of its pairs; of equals the first."""
    votes = [xp.zeros(scores.shape[:1], dtype=xp.int64) for _ in range(classes)]
    number = 0
    for i in range(classes):
        for j in range(i + 1, classes):
            won = xp.astype(scores[:, number] > 0, xp.int64)
            votes[i], votes[j] = votes[i] + won, votes[j] + (1 - won)
            number += 1
    return xp.argmax(xp.stack(votes, axis=1), axis=1)
