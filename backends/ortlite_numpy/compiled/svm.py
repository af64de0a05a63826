"""Support vector machines: for each row the kernel with every vector, then votes and, if wanted, probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

from ortlite.ops.memo import once
from ortlite.ops.ml.svm import SWEEP_ENDS, SWEEPS, TINY
from ortlite_numpy.compiled.jit import FREE, loops, own, share
from ortlite_numpy.compiled.linear import ML, TRANSFORMS
from ortlite_numpy.compiled.table import FLOATS, Call, override
from ortlite_numpy.compiled.trees import transform
from ortlite_numpy.record import numpy as np

KINDS = ("LINEAR", "POLY", "RBF", "SIGMOID")
LARGE = 5_000_000  # products from which on BLAS is better
F = np.float32


@loops(FREE)
def products(x, r, vectors, v):
    """The product of row r and vector v."""
    s = 0.0
    for i in range(x.shape[1]):
        s += x[r, i] * vectors[v, i]
    return s


@loops(FREE)
def distance(x, r, vectors, v):
    """The squared distance of row r and vector v."""
    s = 0.0
    for i in range(x.shape[1]):
        d = x[r, i] - vectors[v, i]
        s += d * d
    return s


@loops()
def kernels(x, r, vectors, kind, params, out):
    """The kernel of row r with every vector; `params` are gamma, coef0 and degree."""
    for v in range(vectors.shape[0]):
        if kind == 2:
            out[v] = math.exp(-params[0] * distance(x, r, vectors, v))
        else:
            p = products(x, r, vectors, v)
            if kind == 1:
                p = (p * params[0] + params[1]) ** params[2]
            elif kind == 3:
                p = math.tanh(p * params[0] + params[1])
            out[v] = p


@loops()
def regress(x, vectors, weights, rho, kind, params, post, one_class, y, start, stop):
    """The values of rows [start, stop)."""
    near = np.empty(vectors.shape[0], np.float64)
    value = np.empty(1, np.float64)
    for r in range(start, stop):
        kernels(x, r, vectors, kind, params, near)
        s = rho[0]
        for v in range(near.size):
            s += near[v] * weights[v]
        value[0] = s
        if not one_class:
            transform(value, 1, post)
        elif s > 0:
            value[0] = 1
        else:
            value[0] = -1
        y[r, 0] = value[0]


@loops()
def couple(pairs, classes, Q, image, p):
    """Probabilities of classes from those of pairs: `ortlite.ops.ml.svm` says how."""
    k = 0
    for i in range(classes):
        Q[i, i] = 0.0
        p[i] = 1.0 / classes
    for i in range(classes):
        for j in range(i + 1, classes):
            win = pairs[k]
            Q[i, i] += (1 - win) * (1 - win)
            Q[j, j] += win * win
            Q[i, j] = Q[j, i] = -win * (1 - win)
            k += 1
    for _ in range(max(SWEEPS, classes)):
        value, furthest = 0.0, 0.0
        for i in range(classes):
            s = 0.0
            for j in range(classes):
                s += Q[i, j] * p[j]
            image[i] = s
            value += p[i] * s
        for i in range(classes):
            if not abs(image[i] - value) < SWEEP_ENDS / classes:
                furthest = 1.0
        if furthest == 0:
            break
        for i in range(classes):
            step = (value - image[i]) / Q[i, i]
            value = (value + step * (step * Q[i, i] + 2 * image[i])) / (1 + step) / (1 + step)
            for j in range(classes):
                image[j] = (image[j] + step * Q[i, j]) / (1 + step)
                p[j] /= 1 + step
            p[i] += step / (1 + step)


@loops()
def classify(x, vectors, weights, starts, rho, slope, shift, kind, params, post, labels, scores, tops, start, stop):
    """Scores and classes of rows [start, stop); probabilities where there is a `slope`."""
    classes = starts.size - 1
    near = np.empty(vectors.shape[0], np.float64)
    pairs = np.empty(max(classes * (classes - 1) // 2, 2), np.float64)
    Q, image, p = np.empty((classes, classes)), np.empty(classes), np.empty(classes)
    votes = np.empty(classes, np.int64)
    columns = scores.shape[1]
    for r in range(start, stop):
        kernels(x, r, vectors, kind, params, near)
        for i in range(classes):
            votes[i] = 0
        k = 0
        for i in range(classes):
            for j in range(i + 1, classes):
                s = rho[k]
                for v in range(starts[i], starts[i + 1]):
                    s += near[v] * weights[j - 1, v]
                for v in range(starts[j], starts[j + 1]):
                    s += near[v] * weights[i, v]
                pairs[k] = s
                votes[i if s > 0 else j] += 1
                k += 1
        best = 0
        for i in range(1, classes):
            best = i if votes[i] > votes[best] else best
        tops[r] = labels[best] if labels.size > 0 else best
        if slope.size:
            for n in range(k):
                win = 1 / (1 + math.exp(pairs[n] * slope[n] + shift[n]))
                win = max(win, TINY)
                pairs[n] = min(win, 1 - TINY)
            couple(pairs, classes, Q, image, p)
            transform(p, classes, post)
            for n in range(columns):
                scores[r, n] = p[n]
        else:
            if classes == 2:
                pairs[1], pairs[0] = pairs[0], -pairs[0]
            transform(pairs, columns, post)
            for n in range(columns):
                scores[r, n] = pairs[n]


def _doubles(values: Any, *shape: int) -> Any:
    return np.array(values or (), F).astype(np.float64).reshape(shape or (-1,))


def _rows(X: Any, width: int) -> Any:
    if X.ndim != 2 or X.dtype.kind not in "iuf" or not X.shape[0] or X.shape[1] != width:
        return None
    return own(X if X.dtype.char == "d" else X.astype(np.float64))


class Machine(NamedTuple):
    """What the kernels take besides rows: their arguments, and the labels that are text."""

    args: tuple[Any, ...]
    width: int
    columns: int
    text: Any


def _regression(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.zeros((1, 1), dtype),), {"coefficients": (1.0,), "support_vectors": (1.0,), "n_supports": 1}


def _three(params: Any) -> bool:
    return not params or len(params) == 3


def _one_value(
    coefficients: Any, params: Any, kind: str, count: int, one_class: int, post: str, rho: Any, vectors: Any
) -> Machine:
    width = len(vectors) // count
    args = (
        _doubles(vectors, count, width), _doubles(coefficients), _doubles(rho or (0.0,)), KINDS.index(kind),
        _doubles(params or (0.0, 0.0, 0.0)), TRANSFORMS[post], int(bool(one_class)),
    )  # fmt: skip
    return Machine(args, width, 1, None)


@override((ML, "SVMRegressor", 1), examples=_regression, dtypes=FLOATS)
def svm_regressor(
    xp: Any,
    X: Any,
    *,
    coefficients: Any = None,
    kernel_params: Any = None,
    kernel_type: str = "LINEAR",
    n_supports: int = 0,
    one_class: int = 0,
    post_transform: str = "NONE",
    rho: Any = None,
    support_vectors: Any = None,
    memo: Any = None,
) -> Any:
    """One kernel from rows to values, for machines with vectors."""
    machine = None if memo is None else memo.get("compiled")
    if machine is None:
        numbers = len(support_vectors or ())
        fits = n_supports > 0 and numbers and numbers % n_supports == 0 and len(coefficients or ()) == n_supports
        if (
            not fits
            or kernel_type not in KINDS
            or post_transform not in TRANSFORMS
            or len(kernel_params or (0,) * 3) != 3
        ):
            return NotImplemented
        args = (coefficients, kernel_params, kernel_type, n_supports, one_class, post_transform, rho, support_vectors)
        machine = once(memo, "compiled", _one_value, *args)
    x = _rows(X, machine.width)
    if x is None or x.size * len(machine.args[0]) > LARGE:
        return NotImplemented
    y = np.empty((x.shape[0], 1), F)
    share(xp, regress, (x, *machine.args, y), x.shape[0], x.size * len(machine.args[0]) * 1e-9)
    return y


def _classification(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    machine = {"coefficients": (1.0, -1.0), "support_vectors": (1.0, 2.0), "vectors_per_class": (1, 1), "rho": (0.0,)}
    yield (np.zeros((1, 1), dtype),), {**machine, "classlabels_ints": (0, 1)}


def _classes(
    labels: Any, text: Any, coefficients: Any, params: Any, kind: str, post: str, slope: Any, shift: Any, rho: Any,
    vectors: Any, counts: Any,
) -> Machine:  # fmt: skip
    classes, total = len(counts), sum(counts)
    width = len(vectors) // total
    args = (
        _doubles(vectors, total, width), _doubles(coefficients, classes - 1, total),
        np.array([0, *accumulate(counts)], np.int64), _doubles(rho), _doubles(slope), _doubles(shift),
        KINDS.index(kind), _doubles(params or (0.0, 0.0, 0.0)), TRANSFORMS[post],
        np.array(() if text else labels, np.int64),
    )  # fmt: skip
    columns = classes if slope else 2 if classes == 2 else classes * (classes - 1) // 2
    return Machine(args, width, columns, np.array(text, object) if text else None)


@override((ML, "SVMClassifier", 1), examples=_classification, dtypes=FLOATS)
def svm_classifier(
    xp: Any,
    X: Any,
    *,
    classlabels_ints: Any = None,
    classlabels_strings: Any = None,
    coefficients: Any = None,
    kernel_params: Any = None,
    kernel_type: str = "LINEAR",
    post_transform: str = "NONE",
    prob_a: Any = None,
    prob_b: Any = None,
    rho: Any = None,
    support_vectors: Any = None,
    vectors_per_class: Any = None,
    memo: Any = None,
) -> Any:
    """One kernel from rows to labels and scores, for machines with vectors."""
    machine = None if memo is None else memo.get("compiled")
    if machine is None:
        labels = classlabels_strings or classlabels_ints or ()
        counts = vectors_per_class or ()
        classes, total, numbers = len(labels), sum(counts), len(support_vectors or ())
        pairs = classes * (classes - 1) // 2
        if classes < 2 or len(counts) != classes or min(counts) < 0 or not total or not numbers or numbers % total:
            return NotImplemented
        if (
            len(rho or ()) != pairs
            or len(coefficients or ()) != (classes - 1) * total
            or len(kernel_params or (0,) * 3) != 3
        ):
            return NotImplemented
        if len(prob_a or ()) != len(prob_b or ()) or len(prob_a or ()) not in {0, pairs}:
            return NotImplemented
        if kernel_type not in KINDS or post_transform not in TRANSFORMS:
            return NotImplemented
        args = (
            labels, classlabels_strings, coefficients, kernel_params, kernel_type, post_transform, prob_a, prob_b, rho,
            support_vectors, counts,
        )  # fmt: skip
        machine = once(memo, "compiled", _classes, *args)
    x = _rows(X, machine.width)
    if x is None or x.size * len(machine.args[0]) > LARGE:
        return NotImplemented
    rows = x.shape[0]
    scores, tops = np.empty((rows, machine.columns), F), np.empty(rows, np.int64)
    share(xp, classify, (x, *machine.args, scores, tops), rows, x.size * len(machine.args[0]) * 1e-9)
    return (tops if machine.text is None else machine.text.take(tops)), scores
