"""Attention as com.microsoft has it: packed projections, padding masks, caches, rotary positions."""

from __future__ import annotations

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Flag, Float, Int, Ints
from ortlite.ops.attention import attending, by_key_heads, merge_heads, rotated, split_heads, transposed
from ortlite.ops.registry import op

MS = "com.microsoft"
MASKED = -10000.0  # what onnxruntime adds to the scores of masked keys unless the model says otherwise


def scores_of(xp: Namespace, q: Array, k: Array, scale: float | None) -> Array:
    """Queries with keys, before masks; `scale` or 1 / √size."""
    factor = scale or q.shape[-1] ** -0.5
    return by_key_heads(xp, q * factor, transposed(xp, k))


def _hidden(xp: Namespace, mask: Array, batch: int, queries: int, keys: int) -> Array:
    """Which keys a mask hides, to broadcast over (batch, heads, queries, keys).

    A mask is the number of keys of each example, or (2 · batch) where they end and then where they start; or ones and
    zeros: by key (batch, keys), by query and key, or (batch, 1, max, max).
    """
    if mask.ndim == 1:
        position = xp.arange(keys, dtype=mask.dtype)
        hidden = position >= xp.expand_dims(mask[:batch], axis=1)
        if mask.shape[0] > batch:
            hidden = hidden | (position < xp.expand_dims(mask[batch : 2 * batch], axis=1))
        return xp.reshape(hidden, (batch, 1, 1, keys))
    if mask.ndim == 2:
        return xp.reshape(mask == 0, (mask.shape[0], 1, 1, mask.shape[1]))
    if mask.ndim == 3:
        return xp.expand_dims(mask == 0, axis=1)
    return mask[:, :, keys - queries : keys, :keys] == 0


def _future(xp: Namespace, queries: int, keys: int, past: int) -> Array:
    """Which keys come after each query, the first query standing behind `past` keys; the last query sees all keys."""
    position = xp.expand_dims(xp.arange(queries, dtype=xp.int64), axis=1) + past
    if keys > queries + past:  # as it is in onnxruntime, whose decoders give one query and all keys
        position = xp.where(position == queries + past - 1, xp.asarray(keys, dtype=xp.int64), position)
    return xp.arange(keys, dtype=xp.int64) > position


def _attend(
    xp: Namespace,
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    bias: Array | None,
    causal: int,
    past: int,
    scale: float | None,
    filter_value: float,
) -> tuple[Array, Array]:
    """softmax(q k' · scale + masks) v with heads merged, and the scores; `past` keys come before all queries."""
    scores = scores_of(xp, q, k, scale)
    if mask is not None:
        add = xp.asarray(filter_value, dtype=scores.dtype)
        scores = scores + xp.where(_hidden(xp, mask, q.shape[0], q.shape[2], k.shape[2]), add, xp.zeros_like(add))
    if bias is not None:
        scores = scores + bias
    if causal:
        lowest = xp.asarray(xp.finfo(scores.dtype).min, dtype=scores.dtype)  # as much as a mask may have
        scores = xp.where(_future(xp, q.shape[2], k.shape[2], past), lowest, scores)
    return merge_heads(xp, by_key_heads(xp, xp.softmax(scores, -1), v)), scores


@op("Attention", domain=MS)
def attention(
    xp: Namespace,
    input: Array,
    weights: Array,
    bias: Array | None = None,
    mask_index: Array | None = None,
    past: Array | None = None,
    attention_bias: Array | None = None,
    past_sequence_length: Array | None = None,
    *,
    do_rotary: Flag = 0,
    mask_filter_value: Float = MASKED,
    num_heads: Int,
    past_present_share_buffer: Flag = 0,
    qkv_hidden_sizes: Ints | None = None,
    rotary_embedding_dim: Int = 0,
    scale: Float | None = None,
    unidirectional: Flag = 0,
) -> tuple[Array, Array]:
    """Self attention of (batch, sequence, hidden) with one projection to queries, keys and values side by side.

    `past` and the second output are (2, batch, heads, sequence, size): keys and values. Raises ValueError for rotary
    positions, which onnxruntime has on GPUs alone.
    """
    if do_rotary or past_present_share_buffer:
        raise ValueError("do_rotary and past_present_share_buffer exist on onnxruntime's GPUs alone")
    projected = xp.matmul(input, weights)
    projected = projected if bias is None else projected + bias
    third = projected.shape[-1] // 3
    sizes = qkv_hidden_sizes or (third, third, third)
    q = projected[..., : sizes[0]]
    k = projected[..., sizes[0] : sizes[0] + sizes[1]]
    v = projected[..., sizes[0] + sizes[1] :]
    q, k, v = (split_heads(xp, x, num_heads) for x in (q, k, v))
    held = 0 if past is None else past.shape[3]
    if past is not None:
        k, v = xp.concat([past[0, ...], k], axis=2), xp.concat([past[1, ...], v], axis=2)
    y, _ = _attend(xp, q, k, v, mask_index, attention_bias, unidirectional, held, scale, mask_filter_value)
    return y, (xp.stack([k, v]) if k.shape == v.shape else k)


@op("MultiHeadAttention", domain=MS, views=True)
def multi_head_attention(
    xp: Namespace,
    query: Array,
    key: Array | None = None,
    value: Array | None = None,
    bias: Array | None = None,
    key_padding_mask: Array | None = None,
    attention_bias: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    past_sequence_length: Array | None = None,
    cache_indirection: Array | None = None,
    *,
    mask_filter_value: Float = MASKED,
    num_heads: Int,
    scale: Float | None = None,
    unidirectional: Flag = 0,
) -> tuple[Array, Array, Array, Array]:
    """Attention of projected tensors (batch, sequence, heads · size); also keys and values with the past, and scores.

    Without `key`, `query` is (batch, sequence, heads, 3, size); without `value`, `key` is such with 2 in place of 3.
    Keys and values may be (batch, heads, sequence, size), as a cache is. `bias` is for all three projections.
    """
    if key is None:
        parts = [xp.permute_dims(query[:, :, :, i, :], (0, 2, 1, 3)) for i in range(3)]
    elif value is None:
        both = [xp.permute_dims(key[:, :, :, i, :], (0, 2, 1, 3)) for i in range(2)]
        parts = [split_heads(xp, query, num_heads), *both]
    else:
        parts = [split_heads(xp, x, num_heads) for x in (query, key, value)]
    if bias is not None:
        start = 0
        for i, part in enumerate(parts):
            width = num_heads * part.shape[3]
            piece = xp.reshape(bias[start : start + width], (1, num_heads, 1, part.shape[3]))
            parts[i], start = part + piece, start + width
    q, k, v = parts
    held = 0 if past_key is None else past_key.shape[2]
    if past_key is not None and past_value is not None:
        k, v = xp.concat([past_key, k], axis=2), xp.concat([past_value, v], axis=2)
    y, scores = _attend(xp, q, k, v, key_padding_mask, attention_bias, unidirectional, held, scale, mask_filter_value)
    return y, k, v, scores


def _turned(xp: Namespace, x: Array, positions: Array, cos: Array, sin: Array, interleaved: int) -> Array:
    """Rotary embedding of (batch, heads, sequence, size) at (batch, sequence) positions of the caches."""
    indices = xp.expand_dims(positions, axis=-1)
    angles = [xp.expand_dims(xp.gather_nd(table, indices), axis=1) for table in (cos, sin)]
    return rotated(xp, x, angles[0], angles[1], interleaved)


@op("RotaryEmbedding", domain=MS)
def rotary_embedding(
    xp: Namespace,
    input: Array,
    position_ids: Array,
    cos_cache: Array,
    sin_cache: Array,
    *,
    interleaved: Flag = 0,
    is_packed_batching: Flag = 0,
    num_heads: Int = 0,
    rotary_embedding_dim: Int = 0,
    scale: Float = 1.0,
) -> Array:
    """Turn pairs of elements of every head by the angles of its position.

    `input` is (batch, sequence, heads · size) or (batch, heads, sequence, size); `position_ids` (batch, sequence), or
    one number, the first position.
    """
    width = rotary_embedding_dim or 2 * cos_cache.shape[1]
    heads = num_heads or (input.shape[2] // width if input.ndim == 3 else input.shape[1])
    x = split_heads(xp, input, heads)
    positions = xp.astype(position_ids, xp.int64)
    if positions.ndim < 2:
        positions = xp.expand_dims(xp.arange(x.shape[2], dtype=xp.int64), axis=0) + xp.reshape(positions, (1, 1))
    positions = xp.broadcast_to(positions, (x.shape[0], x.shape[2]))
    y = _turned(xp, x, positions, cos_cache, sin_cache, interleaved)
    return merge_heads(xp, y) if input.ndim == 3 else y


@op("GroupQueryAttention", domain=MS)
def group_query_attention(
    xp: Namespace,
    query: Array,
    key: Array | None,
    value: Array | None,
    past_key: Array | None,
    past_value: Array | None,
    seqlens_k: Array,
    total_sequence_length: Int,
    cos_cache: Array | None = None,
    sin_cache: Array | None = None,
    position_ids: Array | None = None,
    attention_bias: Array | None = None,
    head_sink: Array | None = None,
    *,
    do_rotary: Flag = 0,
    kv_num_heads: Int,
    local_window_size: Int = -1,
    num_heads: Int,
    rotary_interleaved: Flag = 0,
    scale: Float | None = None,
    smooth_softmax: Int = -1,
    softcap: Float = 0.0,
) -> tuple[Array, Array, Array]:
    """Causal attention with a cache (batch, heads, capacity, size) and groups of query heads sharing keys and values.

    `seqlens_k` is each example's number of keys less one; without `key`, `query` holds all three projections. Returns
    the output and the caches with the new keys and values in place. Raises ValueError for rotary positions without
    caches.
    """
    if key is None or value is None:
        size = query.shape[2] // (num_heads + 2 * kv_num_heads)
        ends = (num_heads * size, (num_heads + kv_num_heads) * size)
        query, key, value = query[..., : ends[0]], query[..., ends[0] : ends[1]], query[..., ends[1] :]
    q = split_heads(xp, query, num_heads)
    k, v = split_heads(xp, key, kv_num_heads), split_heads(xp, value, kv_num_heads)
    batch, new = q.shape[0], q.shape[2]
    lengths = xp.reshape(xp.astype(seqlens_k, xp.int64), (-1, 1)) + 1
    # a prompt starts at 0, also where it is padded on its right
    before = xp.zeros_like(lengths) if new == total_sequence_length else lengths - new
    positions = before + xp.arange(new, dtype=xp.int64)
    if do_rotary:
        if cos_cache is None or sin_cache is None:
            raise ValueError("do_rotary needs cos_cache and sin_cache")
        at = positions if position_ids is None else xp.astype(position_ids, xp.int64)
        q = _turned(xp, q, at, cos_cache, sin_cache, rotary_interleaved)
        k = _turned(xp, k, at, cos_cache, sin_cache, rotary_interleaved)
    capacity = total_sequence_length
    if past_key is not None and past_value is not None:
        held = past_key.shape[2]
        capacity = max(held, total_sequence_length)
        position = xp.arange(capacity, dtype=xp.int64)
        source = xp.where(
            position < before, xp.minimum(position, xp.asarray(held, dtype=xp.int64)), position - before + held
        )
        source = xp.clip(source, 0, held + new - 1)
        k, v = (_at(xp, xp.concat([past, x], axis=2), source) for past, x in ((past_key, k), (past_value, v)))
    seen_k, seen_v = (x[:, :, :total_sequence_length, :] for x in (k, v))  # the bias is no longer
    scores = scores_of(xp, q, seen_k, scale)
    scores = xp.tanh(scores / softcap) * softcap if softcap > 0 else scores  # below 0: ONNX's Attention caps
    if attention_bias is not None:
        scores = scores + attention_bias
    position = xp.arange(seen_k.shape[2], dtype=xp.int64)
    current = xp.reshape(positions, (batch, 1, new, 1))
    hidden = position > current
    if local_window_size > 0:
        hidden = hidden | (position <= current - local_window_size)
    scores = xp.where(hidden, xp.asarray(float("-inf"), dtype=scores.dtype), scores)
    if smooth_softmax > 0 or head_sink is not None:
        sink = xp.zeros((num_heads,), dtype=scores.dtype) if head_sink is None else xp.astype(head_sink, scores.dtype)
        column = xp.broadcast_to(xp.reshape(sink, (1, -1, 1, 1)), (batch, num_heads, new, 1))
        weights = xp.softmax(xp.concat([scores, column], axis=3), -1)[..., :-1]
    else:
        weights = attending(xp, scores, hidden)
    return merge_heads(xp, by_key_heads(xp, weights, seen_v)), k, v


def _at(xp: Namespace, x: Array, source: Array) -> Array:
    """Rows of (batch, heads, sequence, size) at (batch, length) places of the sequence."""
    batch, heads, _, size = x.shape
    index = xp.broadcast_to(xp.reshape(source, (batch, 1, -1, 1)), (batch, heads, source.shape[1], size))
    return xp.take_along_axis(x, index, axis=2)
