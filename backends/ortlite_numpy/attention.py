"""Attention on NumPy: one head at a time, or some of its queries, whose scores stay in the cache between products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops.attention import merge_heads, split_heads
from ortlite_numpy.products import FLOATS, seconds
from ortlite_numpy.record import numpy as np
from ortlite_numpy.threads import split

__all__ = ["OVERRIDES"]

SCORES = 1 << 19  # of a block: with fewer queries, BLAS packs keys and values more often than it multiplies them
FEW = 1 << 14  # scores of a head up to which all heads are better off in one product
COST = 3e-9  # seconds a score takes in the passes of its softmax


def attention(
    xp: Namespace,
    Q: Any,
    K: Any,
    V: Any,
    attn_mask: Any = None,
    past_key: Any = None,
    past_value: Any = None,
    nonpad_kv_seqlen: Any = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: Any = None,
    n_outputs: int = 1,
) -> Any:
    """Where every query sees every key, and nobody asks for the scores."""
    if attn_mask is not None or nonpad_kv_seqlen is not None or is_causal or softcap or n_outputs > 3:
        return NotImplemented
    if left_window_size >= 0 or right_window_size >= 0 or (past_key is None) != (past_value is None):
        return NotImplemented
    dtype = Q.dtype
    given = [v for v in (K, V, past_key, past_value) if v is not None]
    if dtype not in FLOATS or any(v.dtype != dtype for v in given):
        return NotImplemented
    if softmax_precision is not None and xp.dtype(softmax_precision) != dtype:
        return NotImplemented
    q, k, v = split_heads(xp, Q, q_num_heads), split_heads(xp, K, kv_num_heads), split_heads(xp, V, kv_num_heads)
    if past_key is not None:
        k, v = np.concatenate([past_key, k], axis=2), np.concatenate([past_value, v], axis=2)
    (batch, heads, queries, size), (_, shared, keys, _) = q.shape, k.shape
    alike = k.shape[:3] == v.shape[:3] and k.shape[0] == batch and k.shape[3] == size and shared
    if not alike or heads % shared or queries * keys <= FEW or 0 in {*q.shape, *v.shape}:
        return NotImplemented  # the kernel says what is wrong
    factor = dtype.type(size**-0.5 if scale is None else scale)
    y = attended(q, k, v, factor, xp.threads)
    return (merge_heads(xp, y) if Q.ndim == 3 else y), k, v, None


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
