"""Attention, a block of queries of one head at a time: its scores stay in the cache until they have met the values.

Of few queries, BLAS multiplies keys and values as they lie. For more, they are brought into the panels of
`compiled.products` once a head, and a block is computed from its scores to its result without the GIL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ortlite.ops.attention import scaled_dot_product
from ortlite_numpy import products
from ortlite_numpy.compiled.jit import FREE, loops, own, share, wide
from ortlite_numpy.compiled.products import filled, multiply_rows, sizes, width
from ortlite_numpy.compiled.rows import TOGETHER, exponentials, highest, total
from ortlite_numpy.compiled.table import Call, override
from ortlite_numpy.record import numpy as np
from ortlite_numpy.threads import split
from ortlite_numpy.windows import scratch

__all__ = ["attention"]

SCORES = 1 << 17  # of a block
ROWS = 128  # of a block at least, for a product packs its second factor
FEWEST = 4  # rows of a head up to which calls of BLAS cost more than they save
FEW = 16  # queries of a head below which it does not pay to bring keys and values into panels
ELEMENT = 2e-9  # seconds a score takes
TERM = 1e-10  # and each number that it, or what it weighs, is made of, where BLAS is not asked
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


@loops()
def key_panels(k, at, row, keys, size, scale, y):
    """Rows of a flat matrix, times `scale`, as columns of panels."""
    lanes = y.shape[2]
    for key in range(keys):
        line, panel, column = k[at + key * row : at + key * row + size], key // lanes, key % lanes
        for i in range(size):
            y[panel, i, column] = line[i] * scale


@loops()
def value_panels(v, at, row, keys, size, y):
    """Rows of a flat matrix as rows of panels."""
    lanes = y.shape[2]
    for panel in range(y.shape[0]):
        first = panel * lanes
        count = min(lanes, size - first)
        for key in range(keys):
            line, to = v[at + key * row + first : at + key * row + first + count], y[panel, key]
            for i in range(count):
                to[i] = line[i]


@loops()
def attend(q, k, v, places, shape, scale, mask, before, parts, lanes, nothing, tall, deep, block, y, start, stop):
    """softmax(q k' · scale + mask) v; of every head of keys, the rows in so many `parts`: [start, stop) of them all.

    The arrays are flat; a row of `places` says how far examples, heads and rows are apart in each. `shape` is (heads,
    rows, keys, size, size of values, queries); a mask is (batch or 1, heads or 1, rows, keys). `lanes` are the columns
    of a panel, `nothing` are zeros.
    """
    heads, rows, keys, size, width, queries = shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]
    keyed = np.zeros(((keys + lanes - 1) // lanes, size, lanes), q.dtype)
    valued = np.zeros(((width + lanes - 1) // lanes, keys, lanes), q.dtype)
    some = (rows + parts - 1) // parts
    scores = np.empty(some * keys, q.dtype)
    low, high = F(-np.inf), F(np.inf)
    held = -1
    for unit in range(start, stop):
        number, part = unit // parts, unit % parts
        example, head = number // heads, number % heads
        if number != held:
            held = number
            key_panels(k, example * places[1, 0] + head * places[1, 1], places[1, 2], keys, size, scale, keyed)
            value_panels(v, example * places[2, 0] + head * places[2, 1], places[2, 2], keys, width, valued)
        first, last = rows * part // parts, rows * (part + 1) // parts
        count, row, to = last - first, places[0, 2], places[3, 2]
        from_, part_of = example * places[0, 0] + head * places[0, 1] + first * row, scores[: count * keys]
        multiply_rows(
            q[from_:], row, 1, keyed, nothing, q[:0], low, high, part_of, keys, count, keys, tall, deep, block, False,
            0, keyed.shape[0],
        )  # fmt: skip
        own_mask = mask[example if mask.shape[0] > 1 else 0, head if mask.shape[1] > 1 else 0]
        weigh(part_of.reshape((count, keys)), own_mask, first, queries, before)
        at = example * places[3, 0] + head * places[3, 1] + first * to
        multiply_rows(
            part_of, keys, 1, valued, nothing, q[:0], low, high, y[at:], to, count, width, tall, deep, block, False,
            0, valued.shape[0],
        )  # fmt: skip


@loops(FREE)
def attend_few(q, k, v, places, shape, scale, mask, before, y, start, stop):
    """The same for a few rows of each head, keys and values read as they lie: of all heads, those of [start, stop)."""
    q_at, k_at, v_at, y_at = places
    heads, rows, keys, size, width, queries = shape
    scores, scaled = np.empty((rows, keys), q.dtype), np.empty((rows, size), q.dtype)
    for unit in range(start, stop):
        example, head = unit // heads, unit % heads
        for r in range(rows):
            at = example * q_at[0] + head * q_at[1] + r * q_at[2]
            line, to = q[at : at + size], scaled[r]
            for i in range(to.size):
                to[i] = line[i] * scale
        for key in range(keys):
            at = example * k_at[0] + head * k_at[1] + key * k_at[2]
            line = k[at : at + size]
            for r in range(rows):
                row, s = scaled[r], F(0)
                for i in range(row.size):
                    s += row[i] * line[i]
                scores[r, key] = s
        own_mask = mask[example if mask.shape[0] > 1 else 0, head if mask.shape[1] > 1 else 0]
        weigh(scores, own_mask, 0, queries, before)
        for r in range(rows):
            at = example * y_at[0] + head * y_at[1] + r * y_at[2]
            to = y[at : at + width]
            for i in range(to.size):
                to[i] = 0
            for key in range(keys):
                at = example * v_at[0] + head * v_at[1] + key * v_at[2]
                line, weight = v[at : at + width], scores[r, key]
                for i in range(to.size):
                    to[i] += weight * line[i]


def _flat(x: Any) -> tuple[Any, tuple[int, int, int]]:
    """An array (batch, heads, rows, size) as a flat one, and how far examples, heads and rows are apart in it."""
    _, heads, rows, size = x.shape
    if not x.flags.c_contiguous and (turned := x.transpose(0, 2, 1, 3)).flags.c_contiguous:
        return own(turned).reshape(-1), (rows * heads * size, size, heads * size)
    return own(x).reshape(-1), (heads * rows * size, rows * size, size)


def _attended(xp: Any, q: Any, k: Any, v: Any, scale: Any, mask: Any, before: int, y: Any, queries: int) -> None:
    """`attend` on the threads that are worth it; y is memory that `_flat` takes as it is."""
    (batch, shared, rows, size), (keys, wide_) = q.shape, v.shape[2:]
    given = [_flat(x) for x in (q, k, v, y)]
    places = np.array([place for _, place in given], np.int64)
    parts = -(-rows // max(SCORES // keys, ROWS))
    if batch * shared % 2:  # or two threads have heads that do not come out even
        parts = max(parts, 2)
    (tall, deep, most), lanes = sizes(), width(q.dtype)
    shape = np.array([shared, rows, keys, size, wide_, queries], np.int64)
    args = [flat for flat, _ in given[:3]]
    share(
        xp, attend,
        (*args, places, shape, scale, own(mask), before, parts, lanes, filled(None, max(keys, wide_), q.dtype), tall,
         deep, most // tall * tall, given[3][0]),
        batch * shared * parts,
        batch * shared * rows * keys * (4 * (size + wide_) / (2 * products.RATE) + ELEMENT),
    )  # fmt: skip


def _few_attended(xp: Any, q: Any, k: Any, v: Any, scale: Any, mask: Any, before: int, y: Any, queries: int) -> None:
    """`attend_few` likewise."""
    (batch, shared, rows, size), (keys, wide_) = q.shape, v.shape[2:]
    (q, *of_q), (k, *of_k), (v, *of_v), (y, *of_y) = map(_flat, (q, k, v, y))
    places, shape = (*of_q, *of_k, *of_v, *of_y), (shared, rows, keys, size, wide_, queries)
    work = batch * shared * rows * keys * ((size + wide_) * TERM + ELEMENT)
    share(xp, attend_few, (q, k, v, places, shape, scale, own(mask), before, y), batch * shared, work)


def _examples(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.ones((1, 1, 2, 4), dtype),) * 3, {}
    yield (np.ones((1, 1, FEWEST + 1, 4), dtype),) * 3, {}
    yield (np.ones((1, 1, FEW, 4), dtype),) * 3, {}


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
    factor = F(size**-0.5 if scale is None else scale)
    y = np.empty((batch, queries, heads, v.shape[3]), F).transpose(0, 2, 1, 3)  # the heads of a query side by side
    grouped = y
    if group > 1:
        rows_of = (batch, shared, group * queries, v.shape[3])
        grouped = y.reshape(rows_of) if queries == 1 else np.empty(rows_of, F)  # of one query it is a view
    if queries >= FEW or group * queries <= FEWEST:
        q = q if group == 1 else np.ascontiguousarray(q).reshape(batch, shared, group * queries, size)
        attended = _attended if queries >= FEW else _few_attended
        attended(xp, q, k, v, factor, mask, before, grouped, queries)
        if group > 1 and queries > 1:
            y[...] = grouped.reshape(y.shape)
        return y, k, v
    q = (q * factor).reshape(batch, shared, group * queries, size)
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
    if group > 1 and queries > 1:
        y[...] = grouped.reshape(y.shape)
    return y, k, v
