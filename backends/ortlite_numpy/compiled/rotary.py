"""Rotary embedding: the halves of every head, or its neighbours, turned in one pass over rows as they lie in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ortlite.ops.attention import merge_heads, split_heads
from ortlite_numpy.compiled.jit import loops, own, share
from ortlite_numpy.compiled.table import FLOATS, Call, override
from ortlite_numpy.record import numpy as np

MS = "com.microsoft"
ELEMENT = 0.5e-9  # seconds


@loops()
def turn_rows(x, cos, sin, interleaved, examples, times, each, y, start, stop):
    """Rows [start, stop) of x (rows, size), the first elements turned by the angles (angles, half) of their position.

    `examples` rows make an example, `each` in a row have one position, of which there are `times`; where there are no
    more angles than that, all examples have the same.
    """
    half = cos.shape[1]
    apart = times if cos.shape[0] > times else 0
    for r in range(start, stop):
        at = r // examples * apart + r // each % times
        row, to, c, s = x[r], y[r], cos[at], sin[at]
        if interleaved:
            for i in range(half):
                a, b = row[2 * i], row[2 * i + 1]
                to[2 * i], to[2 * i + 1] = a * c[i] - b * s[i], a * s[i] + b * c[i]
        else:
            first, second = row[:half], row[half : 2 * half]
            low, high = to[:half], to[half : 2 * half]
            for i in range(half):
                low[i] = first[i] * c[i] - second[i] * s[i]
            for i in range(half):
                high[i] = first[i] * s[i] + second[i] * c[i]
        for i in range(2 * half, row.size):
            to[i] = row[i]


def turned(xp: Any, x: Any, cos: Any, sin: Any, interleaved: int) -> Any:
    """`x` (batch, heads, sequence, size), as it lies in memory, turned by angles (batch or 1, sequence, half)."""
    batch, heads, sequence, size = x.shape
    half = cos.shape[-1]
    alike = x.dtype.char in "fd" and x.dtype == cos.dtype == sin.dtype and cos.shape == sin.shape
    if not alike or cos.shape not in {(batch, sequence, half), (1, sequence, half)} or not 0 < 2 * half <= size:
        return NotImplemented
    by_position = x.transpose(0, 2, 1, 3)
    apart = by_position.flags.c_contiguous  # a position's heads lie side by side
    rows = own(by_position if apart else x).reshape(-1, size)
    y = np.empty_like(rows)
    angles = [own(table).reshape(-1, half) for table in (cos, sin)]
    each = heads if apart else 1
    share(xp, turn_rows, (rows, *angles, interleaved, heads * sequence, sequence, each, y), len(rows), x.size * ELEMENT)
    return y.reshape(by_position.shape).transpose(0, 2, 1, 3) if apart else y.reshape(x.shape)


def _examples(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    x, table = np.zeros((1, 1, 1, 2), dtype), np.zeros((1, 1), dtype)
    yield (x, table[None], table[None]), {}


def _examples_at(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    x, table = np.zeros((1, 1, 1, 2), dtype), np.zeros((1, 1), dtype)
    yield (x, np.zeros((1, 1), np.int64), table, table), {}


@override("RotaryEmbedding", since=23, examples=_examples, dtypes=FLOATS)
def rotary_embedding(
    xp: Any,
    X: Any,
    cos_cache: Any,
    sin_cache: Any,
    position_ids: Any = None,
    *,
    interleaved: int = 0,
    num_heads: int | None = None,
    rotary_embedding_dim: int = 0,
) -> Any:
    """Row by row."""
    x = split_heads(xp, X, num_heads)
    if cos_cache.shape[-1] * 2 != (rotary_embedding_dim or x.shape[3]):
        return NotImplemented  # the kernel says what is wrong
    if position_ids is not None:
        cos_cache, sin_cache = (np.take(table, position_ids, axis=0) for table in (cos_cache, sin_cache))
    y = turned(xp, x, cos_cache, sin_cache, interleaved)
    return merge_heads(xp, y) if y is not NotImplemented and X.ndim == 3 else y


@override((MS, "RotaryEmbedding", 1), examples=_examples_at, dtypes=FLOATS)
def rotary_embedding_at(
    xp: Any,
    input: Any,
    position_ids: Any,
    cos_cache: Any,
    sin_cache: Any,
    *,
    interleaved: int = 0,
    is_packed_batching: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
) -> Any:
    """Row by row."""
    width = rotary_embedding_dim or 2 * cos_cache.shape[1]
    x = split_heads(xp, input, num_heads or (input.shape[2] // width if input.ndim == 3 else input.shape[1]))
    if position_ids.ndim < 2:  # one number, the first position
        position_ids = position_ids.reshape(1, 1) + np.arange(x.shape[2])
    cos, sin = (np.take(table, position_ids, axis=0) for table in (cos_cache, sin_cache))
    y = turned(xp, x, cos, sin, interleaved)
    return merge_heads(xp, y) if y is not NotImplemented and input.ndim == 3 else y
