"""Attention, a block of queries of one head at a time: its scores stay in the cache until they have met the values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ortlite.ops.attention import scaled_dot_product
from ortlite_numpy import products
from ortlite_numpy.compiled.jit import loops, own, wide
from ortlite_numpy.compiled.rows import TOGETHER, exponentials, highest, total
from ortlite_numpy.compiled.table import Call, override
from ortlite_numpy.conv import scratch
from ortlite_numpy.threads import split

__all__ = ["attention"]

SCORES = 1 << 17  # of a block
ROWS = 128  # of a block at least, for a product packs its second factor
ELEMENT = 2e-9  # seconds a score takes
ALL = 1 << 40  # keys before the first query: none is in its future
F = np.float32


@loops()
def weigh(scores, mask, first, queries, before):
    """Softmax of every row of scores plus mask, in place; zeros where the mask hides all.

    Row r is query (first + r) % `queries`, which sees `before` + 1 keys more than its number. A mask has as many rows
    as there are queries, or in all, or one, or none.
    """
    wide()
    keys = scores.shape[1]
    flat = scores.reshape(scores.size)
    nothing = F(-np.inf)
    some = max(TOGETHER // keys, 1)
    for begin in range(0, scores.shape[0], some):
        end = min(begin + some, scores.shape[0])
        for r in range(begin, end):
            seen = min(keys, (first + r) % queries + before + 1)
            row, rest = scores[r, :seen], scores[r, seen:]
            if mask.shape[0]:
                added = mask[(first + r) % mask.shape[0], : row.size]
                for i in range(row.size):
                    row[i] += added[i]
            top = highest(row)
            hidden = False
            if mask.shape[0] and not top > nothing:
                added = mask[(first + r) % mask.shape[0], : row.size]
                hidden = True
                for i in range(added.size):
                    hidden = hidden and added[i] == nothing
            if rest.size and not highest(rest) < -nothing:
                top = F(np.nan)  # less infinity, by which causality hides them, they are NaN
            for i in range(row.size):
                row[i] = nothing if hidden else row[i] - top
        exponentials(flat[begin * keys : end * keys])
        for r in range(begin, end):
            seen = min(keys, (first + r) % queries + before + 1)
            row, rest = scores[r, :seen], scores[r, seen:]
            s = total(row)
            scale = F(0) if s == 0 else F(1) / s  # where the mask hides all
            for i in range(row.size):
                row[i] *= scale
            for i in range(rest.size):
                rest[i] = 0


def _examples(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.ones((1, 1, 2, 4), dtype),) * 3, {}


def _mask(mask: Any, heads: int, group: int, queries: int, keys: int) -> Any:
    """A mask as (batch or 1, heads of keys or 1, rows, keys); None where it is another kind."""
    if mask.dtype != F or not 2 <= mask.ndim <= 4 or mask.shape[-1] != keys or mask.shape[-2] not in {1, queries}:
        return None
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    if mask.shape[1] == 1:
        return mask
    if mask.shape[1] != heads:
        return None
    if group > 1 or mask.shape[2] < queries:
        mask = np.broadcast_to(mask, (mask.shape[0], heads, queries, keys))
    return mask.reshape(mask.shape[0], heads // group, -1, keys)


@override(("", "Attention", 23), ("", "Attention", 24), examples=_examples)
@scaled_dot_product
def attention(xp: Any, q: Any, k: Any, v: Any, mask: Any, past: Any, causal: bool, scale: float | None) -> Any:
    """Under a float mask or causality."""
    if q.dtype != F:
        return NotImplemented
    before = ALL
    if causal:
        before = 0 if past is None else past[0].shape[2]
    (batch, heads, queries, size), shared = q.shape, k.shape[1]
    keys = k.shape[2] + (0 if past is None else past[0].shape[2])
    group = heads // shared
    mask = np.empty((1, 1, 0, keys), F) if mask is None else _mask(mask, heads, group, queries, keys)
    if mask is None or mask.shape[0] not in {1, batch}:
        return NotImplemented
    if past is not None:
        k, v = np.concatenate([past[0], k], axis=2), np.concatenate([past[1], v], axis=2)
    q = (q * F(size**-0.5 if scale is None else scale)).reshape(batch, shared, group * queries, size)
    y = np.empty((batch, queries, heads, v.shape[3]), F).transpose(0, 2, 1, 3)  # the heads of a query side by side
    grouped = y if group == 1 else np.empty((batch, shared, group * queries, v.shape[3]), F)
    rows = group * queries
    parts = -(-rows // max(SCORES // keys, ROWS))
    together = 1 if parts > 1 else min(max(SCORES // (rows * keys), 1), shared)  # heads of keys in a block
    units = [
        (example, slice(head, min(head + together, shared)), slice(rows * part // parts, rows * (part + 1) // parts))
        for example in range(batch)
        for head in range(0, shared, together)
        for part in range(parts)
    ]

    def some(start: int, stop: int) -> None:
        for example, some_heads, some_rows in units[start:stop]:
            one, count = q[example, some_heads, some_rows], some_rows.stop - some_rows.start
            scores = scratch("scores", (one.shape[0], count, keys), q.dtype)
            np.matmul(one, k[example, some_heads].swapaxes(1, 2), out=scores)
            own_mask = mask[example % mask.shape[0]]
            own_mask = own_mask[some_heads if own_mask.shape[0] > 1 else slice(0, 1)].reshape(-1, keys)
            weigh(scores.reshape(-1, keys), own(own_mask), some_rows.start, queries, before)
            np.matmul(scores, v[example, some_heads], out=grouped[example, some_heads, some_rows])

    cost = products.seconds(rows, size, keys, 4) + products.seconds(rows, keys, v.shape[3], 4) + ELEMENT * rows * keys
    split(some, len(units), batch * shared * cost, getattr(xp, "threads", 1))
    if group > 1:
        y[...] = grouped.reshape(y.shape)
    return y, k, v
