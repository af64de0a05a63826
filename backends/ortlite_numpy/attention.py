"""Attention on NumPy: one head at a time, or some of its queries, whose scores stay in the cache between products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops.attention import scaled_dot_product
from ortlite_numpy.products import FLOATS, seconds
from ortlite_numpy.record import numpy as np
from ortlite_numpy.threads import split

__all__ = ["OVERRIDES"]

SCORES = 1 << 19  # of a block: with fewer queries, BLAS packs keys and values more often than it multiplies them
FEW = 1 << 14  # scores of a head up to which all heads are better off in one product
COST = 3e-9  # seconds a score takes in the passes of its softmax


@scaled_dot_product
def attention(xp: Namespace, q: Any, k: Any, v: Any, mask: Any, past: Any, causal: bool, scale: float | None) -> Any:
    """Where every query sees every key."""
    queries, keys = q.shape[2], k.shape[2] + (0 if past is None else past[0].shape[2])
    if mask is not None or causal or q.dtype not in FLOATS or queries * keys <= FEW:
        return NotImplemented
    if past is not None:
        k, v = np.concatenate([past[0], k], axis=2), np.concatenate([past[1], v], axis=2)
    factor = q.dtype.type(q.shape[3] ** -0.5 if scale is None else scale)
    return attended(q, k, v, factor, xp.threads), k, v


def attended(q: Any, k: Any, v: Any, factor: Any, threads: int) -> Any:
    """softmax(q k' · factor) v of (batch, heads, sequence, size), whose result lies in memory by sequence."""
    (batch, heads, queries, size), (keys, width) = q.shape, v.shape[2:]
    y = np.empty((batch, queries, heads, width), q.dtype).transpose(0, 2, 1, 3)
    group, each = heads // k.shape[1], batch * heads
    parts = -(-queries * keys // SCORES)
    if each % threads and each < 4 * threads:  # whole heads would be shared out unevenly
        parts = max(parts, threads)
    step = -(-queries // parts)
    parts = -(-queries // step)

    def some(start: int, stop: int) -> None:
        scaled, scores = np.empty((step, size), q.dtype), np.empty((step, keys), q.dtype)
        for index in range(start, stop):
            example, head, part = index // (heads * parts), index // parts % heads, index % parts
            first, last = part * step, min((part + 1) * step, queries)
            rows, block = scaled[: last - first], scores[: last - first]
            np.multiply(q[example, head, first:last], factor, out=rows)
            np.matmul(rows, k[example, head // group].T, out=block)
            np.subtract(block, np.maximum.reduce(block, axis=1, keepdims=True), out=block)
            np.exp(block, out=block)
            np.divide(block, np.add.reduce(block, axis=1, keepdims=True), out=block)
            np.matmul(block, v[example, head // group], out=y[example, head, first:last])

    cost = each * (seconds(queries, size, keys, q.itemsize) + seconds(queries, keys, width, q.itemsize))
    split(some, each * parts, cost + COST * each * queries * keys, threads)
    return y


OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "Attention", 23): attention,
    ("", "Attention", 24): attention,
}
