"""Small models of ai.onnx.ml: linear functions, scaling and normalising of rows, for which a call must cost little."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ortlite.ops.memo import once
from ortlite_numpy.compiled.jit import FREE, loops, own, share
from ortlite_numpy.compiled.table import FLOATS, Call, override
from ortlite_numpy.compiled.trees import transform
from ortlite_numpy.record import numpy as np

ML = "ai.onnx.ml"
TRANSFORMS = {"NONE": 0, "LOGISTIC": 1, "SOFTMAX": 2}
PLAIN, PAIR, SINGLE, LABELLED = range(4)  # many scores; two of one; one; one whose label is the first
SMALL = 50_000  # multiplications up to which BLAS is not asked
F = np.float32


@loops(FREE)
def dot(x, r, weights, c):
    """The product of row r of x and row c of the weights."""
    s = 0.0
    for i in range(x.shape[1]):
        s += np.float64(x[r, i]) * weights[c, i]
    return s


@loops()
def linear_rows(x, weights, intercepts, labels, kind, post, limit, scores, classes, start, stop):
    """Transformed scores of rows [start, stop), and what class each is in."""
    count = weights.shape[0]
    row = np.empty(max(count, 2), np.float64)
    for r in range(start, stop):
        for c in range(count):
            row[c] = dot(x, r, weights, c) + intercepts[c]
        best, many = 0, count
        if kind == PLAIN:
            for c in range(1, count):
                if row[c] > row[best] or (row[c] != row[c] and row[best] == row[best]):
                    best = c
            transform(row, count, post)
        else:
            best = 1 if row[0] > limit else 0
            if kind == PAIR:
                many = 2
                if post == 2:
                    row[1], row[0] = row[0], -row[0]
                    transform(row, 2, post)
                else:
                    transform(row, 1, post)
                    row[1], row[0] = row[0], 1 - row[0]
            else:
                transform(row, 1, post)
                best = 0 if kind == LABELLED else best
        for c in range(many):
            scores[r, c] = row[c]
        classes[r] = labels[best] if labels.size > 0 else best


@loops()
def scale_rows(x, offset, scale, y, start, stop):
    """(x - offset) · scale of rows [start, stop); either has one element, or one a column."""
    for r in range(start, stop):
        for i in range(x.shape[1]):
            y[r, i] = (x[r, i] - offset[i % offset.size]) * scale[i % scale.size]


@loops()
def normalise_rows(x, kind, y, start, stop):
    """Rows [start, stop) over their largest element (0), their sum of absolute values (1) or their length (2)."""
    for r in range(start, stop):
        size = x[r, 0] if kind == 0 else x.dtype.type(0)
        for i in range(x.shape[1]):
            v = x[r, i]
            if kind == 1:
                size += abs(v)
            elif kind == 2:
                size += v * v
            elif v > size or v != v:
                size = v
        if kind == 2:
            size = np.sqrt(size)
        for i in range(x.shape[1]):
            y[r, i] = x[r, i] / (size if size != 0 else x.dtype.type(1))


class Machine(NamedTuple):
    """A linear model ready for its kernel."""

    weights: Any
    intercepts: Any
    labels: Any
    kind: int
    post: int
    limit: float
    columns: int
    text: Any


def _machine(
    coefficients: Any, intercepts: Any, count: int, labels: Any, text: Any, kind: int, post: str, limit: float
) -> Machine:
    weights = np.array(coefficients, F).astype(np.float64).reshape(count, -1)
    shift = np.array(intercepts or [0.0] * count, F).astype(np.float64)
    words = None if text is None else np.array(text, object)
    columns = 2 if kind == PAIR else count
    return Machine(weights, shift, np.array(labels, np.int64), kind, TRANSFORMS[post], limit, columns, words)


def _numbers(X: Any) -> Any:
    """X as a matrix of floats, integers as float64; None for what is none."""
    if X.ndim not in {1, 2} or X.dtype.kind not in "iuf" or not X.size:
        return None
    x = X if X.dtype.char in "fd" else X.astype(np.float64)
    return own(x if X.ndim == 2 else x.reshape(1, -1))


def _run(xp: Any, x: Any, machine: Machine) -> tuple[Any, Any]:
    rows = x.shape[0]
    scores, classes = np.empty((rows, machine.columns), F), np.empty(rows, np.int64)
    share(xp, linear_rows, (x, *machine[:6], scores, classes), rows, rows * machine.weights.size * 1e-9)
    return classes, scores


def _regression(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.zeros((1, 2), dtype),), {"coefficients": (1.0, 2.0)}


@override((ML, "LinearRegressor", 1), examples=_regression, dtypes=FLOATS)
def linear_regressor(
    xp: Any,
    X: Any,
    *,
    coefficients: Any = None,
    intercepts: Any = None,
    post_transform: str = "NONE",
    targets: int = 1,
    memo: Any = None,
) -> Any:
    """One kernel from rows to values."""
    x = _numbers(X)
    if x is None or post_transform not in TRANSFORMS or x.shape[0] * len(coefficients or ()) > SMALL:
        return NotImplemented
    if targets < 1 or x.shape[1] * targets != len(coefficients or ()) or len(intercepts or ()) not in {0, targets}:
        return NotImplemented
    machine = once(memo, "compiled", _machine, coefficients, intercepts, targets, (), None, PLAIN, post_transform, 0.0)
    return _run(xp, x, machine)[1]


def _classification(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.zeros((1, 2), dtype),), {"coefficients": (1.0, 2.0), "classlabels_ints": (0, 1)}


@override((ML, "LinearClassifier", 1), examples=_classification, dtypes=FLOATS)
def linear_classifier(
    xp: Any,
    X: Any,
    *,
    classlabels_ints: Any = None,
    classlabels_strings: Any = None,
    coefficients: Any,
    intercepts: Any = None,
    multi_class: int = 0,
    post_transform: str = "NONE",
    memo: Any = None,
) -> Any:
    """One kernel from rows to labels and scores."""
    x = _numbers(X)
    if x is None or post_transform not in TRANSFORMS or x.shape[0] * len(coefficients) > SMALL:
        return NotImplemented
    labels = classlabels_strings or classlabels_ints or ()
    count, rest = divmod(len(coefficients), x.shape[1])
    if rest or not count or len(intercepts or ()) not in {0, count}:
        return NotImplemented
    if labels and len(labels) != count and not (count == 1 and len(labels) == 2):
        return NotImplemented
    machine = None if memo is None else memo.get("compiled")
    if machine is None:
        kind = PLAIN if count > 1 else PAIR if len(labels) == 2 else LABELLED if labels else SINGLE
        limit = 0.5 if post_transform == "NONE" and not labels else 0.0
        numbers = () if classlabels_strings else classlabels_ints or ()
        args = (coefficients, intercepts, count, numbers, classlabels_strings, kind, post_transform, limit)
        machine = once(memo, "compiled", _machine, *args)
    classes, scores = _run(xp, x, machine)
    return (classes if machine.text is None else machine.text.take(classes)), scores


def _scaled(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.zeros((1, 2), dtype),), {"offset": (1.0, 2.0), "scale": (1.0, 2.0)}


def _factors(offset: Any, scale: Any, dtype: Any) -> tuple[Any, Any]:
    return np.array(offset or (0.0,), F).astype(dtype), np.array(scale or (1.0,), F).astype(dtype)


@override((ML, "Scaler", 1), examples=_scaled, dtypes=FLOATS)
def scaler(xp: Any, X: Any, *, offset: Any = None, scale: Any = None, memo: Any = None) -> Any:
    """In one pass."""
    if X.ndim != 2 or (x := _numbers(X)) is None:
        return NotImplemented
    lengths = {len(v) for v in (offset, scale) if v}
    if len(lengths) > 1 or not lengths <= {1, X.shape[1]}:
        return NotImplemented
    factors = once(memo, ("compiled", x.dtype.char), _factors, offset, scale, x.dtype)
    y = np.empty(x.shape, F)
    share(xp, scale_rows, (x, *factors, y), x.shape[0], x.size * 1e-9)
    return y


def _normal(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.ones((1, 2), dtype),), {}


@override((ML, "Normalizer", 1), examples=_normal, dtypes=FLOATS)
def normalizer(xp: Any, X: Any, *, norm: str = "MAX") -> Any:
    """In one pass."""
    if X.ndim != 2 or norm not in {"MAX", "L1", "L2"} or (x := _numbers(X)) is None:
        return NotImplemented
    y = np.empty(x.shape, F)
    share(xp, normalise_rows, (x, ("MAX", "L1", "L2").index(norm), y), x.shape[0], x.size * 1e-9)
    return y
