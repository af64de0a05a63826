"""From raw scores to what classifiers and regressors of ai.onnx.ml return."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array
from ortlite.ops.memo import constant

__all__ = ["labels_of", "number", "transform"]

TINY = 1e-7  # SOFTMAX_ZERO takes a score below this for "no score"


def transform(xp: Namespace, scores: Array, post_transform: str) -> Array:
    """Apply `post_transform` to floating `(rows, classes)` scores. Raises ValueError for an unknown one."""
    if post_transform == "NONE":
        return scores
    if post_transform == "LOGISTIC":
        return xp.sigmoid(scores)
    if post_transform == "SOFTMAX":
        return xp.softmax(scores, -1)
    if post_transform == "SOFTMAX_ZERO":
        return _softmax_zero(xp, scores)
    if post_transform == "PROBIT":
        return _probit(xp, scores)
    raise ValueError(f"post_transform {post_transform!r} is none of NONE, SOFTMAX, LOGISTIC, SOFTMAX_ZERO, PROBIT")


def _softmax_zero(xp: Namespace, x: Array) -> Array:
    """Softmax over the scores that are not 0; those that are 0 stay 0."""
    top = xp.max(x, axis=-1, keepdims=True)
    scored = xp.abs(x) > TINY
    powers = xp.where(scored, xp.exp(x - top), xp.zeros_like(x))
    total = xp.sum(powers, axis=-1, keepdims=True)
    # where there is an element without a score, the top is not below it
    rest = xp.exp(-xp.clip(top, -1.0, None))
    return xp.where(scored, powers / total, x * rest / xp.where(total > 0, total, xp.ones_like(total)))


def _probit(xp: Namespace, p: Array) -> Array:
    """The inverse of the normal distribution function: Winitzki's estimate, then two steps of Halley's method."""
    x = xp.astype(p, xp.float64) * 2 - 1
    log = xp.log((1 - x) * (1 + x))
    half = 2 / (math.pi * 0.147) + log / 2
    y = xp.root(xp.sqrt(half * half - log / 0.147) - half)
    y = xp.where(x < 0, -y, y)
    for _ in range(2):
        step = (xp.erf(y) - x) * xp.exp(y * y) * (math.sqrt(math.pi) / 2)
        refined = y - step / (1 + y * step)
        y = xp.where(xp.isfinite(refined), refined, y)
    return xp.astype(y * math.sqrt(2), p.dtype)


def number(xp: Namespace, x: Array) -> Array:
    """Floating `x` as it is, integers as float64: what the operators of ai.onnx.ml compute in."""
    return x if xp.isdtype(x.dtype, "real floating") else xp.astype(x, xp.float64)


def labels_of(xp: Namespace, indices: Array, strings: Sequence[str] | None, ints: Sequence[int] | None) -> Array:
    """The class labels at int64 `indices`; the indices themselves when there are no labels."""
    if strings:
        return xp.take(xp.asarray(strings, dtype=xp.dtype("string")), indices)
    return xp.take(constant(xp, ints, "int64"), indices) if ints else xp.astype(indices, xp.int64)
