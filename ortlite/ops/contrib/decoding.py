"""Attention that decoders of special models have: one step with beams, sparse blocks, positions in three dimensions."""

from __future__ import annotations

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Flag, Float, Int, Ints
from ortlite.ops.attention import by_key_heads, merge_heads, rotated, split_heads
from ortlite.ops.contrib.attention import MASKED, group_query_attention, scores_of
from ortlite.ops.helpers import one_of, require_rank, require_shape
from ortlite.ops.registry import op

MS = "com.microsoft"


@op("DecoderMaskedMultiHeadAttention", domain=MS, results=("query", "query", "query", "query"))
def decoder_masked_multi_head_attention(
    xp: Namespace,
    query: Array,
    key: Array | None = None,
    value: Array | None = None,
    mask_index: Array | None = None,
    attention_bias: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    past_sequence_length: Int | None = None,
    beam_width: Int = 1,
    cache_indirection: Array | None = None,
    bias: Array | None = None,
    *,
    mask_filter_value: Float = MASKED,
    num_heads: Int,
    output_qk: Flag = 0,
    past_present_share_buffer: Flag = 0,
    scale: Float | None = None,
) -> tuple[Array, Array | None, Array | None, Array]:
    """Attention of one query (batch, 1, heads · size) to its key and value and those of the past; also the caches.

    With `past_present_share_buffer` the caches (batch, heads, capacity, size) have room for one more than the
    `past_sequence_length` that is in them, else they grow. Without caches `key` and `value` are all there is, which may
    have the shape of caches, and `bias` is the query's alone: cross attention. Without `key`, `query` holds all three
    projections. `cache_indirection` (batch / beams, beams, capacity) says from which beam a past key comes. The last
    output is the softmax.
    """
    require_rank(3, query=query)
    require_rank(4, attention_bias=attention_bias, past_key=past_key, past_value=past_value)
    batch = query.shape[0]
    if query.shape[1] != 1:
        raise ValueError(f"query {list(query.shape)} is more than one step")
    if key is None or value is None:
        third = query.shape[2] // 3
        query, key, value = query[..., :third], query[..., third : 2 * third], query[..., 2 * third :]
    crossed = key.ndim == 4 or past_key is None
    hidden = query.shape[2]
    if bias is not None:
        require_shape("bias", bias, bias.shape[0] if crossed else 2 * hidden + value.shape[2])
        query = query + bias[:hidden]
        if not crossed:
            key, value = key + bias[hidden : 2 * hidden], value + bias[2 * hidden :]
    q = split_heads(xp, query, num_heads)
    k, v = (x if x.ndim == 4 else split_heads(xp, x, num_heads) for x in (key, value))
    present_k, present_v = (None, None) if crossed else (k, v)
    if not crossed and past_key is not None and past_value is not None:
        past = past_key.shape[2] if past_sequence_length is None else past_sequence_length
        if past_present_share_buffer:
            if not 0 <= past < past_key.shape[2]:
                raise ValueError(f"a past of {past} leaves no room for one more in {list(past_key.shape)}")
            here = xp.reshape(xp.arange(past_key.shape[2], dtype=xp.int64) == past, (1, 1, -1, 1))
            present_k, present_v = xp.where(here, k, past_key), xp.where(here, v, past_value)
            k, v = present_k[:, :, : past + 1, :], present_v[:, :, : past + 1, :]
        else:
            present_k, present_v = xp.concat([past_key, k], axis=2), xp.concat([past_value, v], axis=2)
            k, v = present_k, present_v
        if cache_indirection is not None:
            k, v = (_of_beams(xp, x, cache_indirection, beam_width, past) for x in (k, v))
    scores = scores_of(xp, q, k, scale)
    if attention_bias is not None:
        scores = scores + attention_bias
    if mask_index is not None:
        require_shape("mask_index", mask_index, batch, k.shape[2])
        unseen = xp.reshape(mask_index == 0, (batch, 1, 1, k.shape[2]))
        scores = scores + xp.where(unseen, xp.asarray(mask_filter_value, dtype=scores.dtype), xp.zeros_like(scores))
    weights = xp.softmax(scores, -1)
    return merge_heads(xp, by_key_heads(xp, weights, v)), present_k, present_v, weights


def _of_beams(xp: Namespace, x: Array, indirection: Array, beams: int, past: int) -> Array:
    """(batch, heads, past + 1, size) with each past place from the beam that it comes from; the last is its own."""
    batch, heads, _, size = x.shape
    if not beams or batch % beams:
        raise ValueError(f"a batch of {batch} does not consist of {beams} beams each")
    source = xp.astype(indirection[:, :, :past], xp.int64)
    require_shape("cache_indirection", source, batch // beams, beams, past)
    first = xp.reshape(xp.arange(batch // beams, dtype=xp.int64) * beams, (-1, 1, 1))
    rows = xp.reshape(source + first, (batch, past))
    old = xp.permute_dims(x[:, :, :past, :], (0, 2, 1, 3))  # (batch, past, heads, size)
    places = xp.reshape(rows * past + xp.arange(past, dtype=xp.int64), (-1,))
    old = xp.reshape(xp.take(xp.reshape(old, (batch * past, heads * size)), places, axis=0), (batch, past, heads, size))
    return xp.concat([xp.permute_dims(old, (0, 2, 1, 3)), x[:, :, past:, :]], axis=2)


@op("SparseAttention", domain=MS)
def sparse_attention(
    xp: Namespace,
    query: Array,
    key: Array | None,
    value: Array | None,
    past_key: Array,
    past_value: Array,
    block_row_indices: Array,
    block_col_indices: Array,
    total_sequence_length: Int,
    key_total_sequence_lengths: Array,
    cos_cache: Array | None = None,
    sin_cache: Array | None = None,
    *,
    do_rotary: Flag = 0,
    kv_num_heads: Int,
    num_heads: Int,
    rotary_interleaved: Flag = 0,
    scale: Float | None = None,
    sparse_block_size: Int,
) -> tuple[Array, Array, Array]:
    """GroupQueryAttention where each block of queries sees only some blocks of keys, those that a sparse matrix has.

    Row `i` of layout `l` are the places of `block_col_indices[l]` from `block_row_indices[l, i]` up to the next; heads
    take the layouts in turn.
    """
    require_rank(2, block_row_indices=block_row_indices, block_col_indices=block_col_indices)
    require_rank(3, query=query, key=key, value=value)
    require_rank(4, past_key=past_key, past_value=past_value)
    layouts, rows = block_row_indices.shape[0], block_row_indices.shape[1] - 1
    if not layouts or rows < 1 or num_heads % layouts or sparse_block_size < 1:
        raise ValueError(f"{num_heads} heads cannot take {layouts} layouts of {rows} blocks in turn")
    if not query.shape[1] <= total_sequence_length <= min(rows * sparse_block_size, past_key.shape[2]):
        raise ValueError(
            f"total_sequence_length {total_sequence_length} must lie from the {query.shape[1]} queries to the cache of "
            f"{past_key.shape[2]} and to {rows} blocks of {sparse_block_size}"
        )
    bounds, columns = xp.astype(block_row_indices, xp.int64), xp.astype(block_col_indices, xp.int64)
    place = xp.arange(columns.shape[1], dtype=xp.int64)
    row = xp.sum(xp.astype(xp.reshape(place, (1, -1, 1)) >= xp.expand_dims(bounds[:, 1:], axis=1), xp.int64), axis=2)
    there = (row < rows) & (columns >= 0) & (columns < rows)
    layout = xp.expand_dims(xp.arange(layouts, dtype=xp.int64), axis=1)
    flat = xp.where(there, (layout * rows + row) * rows + columns, xp.asarray(layouts * rows * rows, dtype=xp.int64))
    blocks = xp.zeros((layouts * rows * rows + 1,), dtype=xp.float32)  # the last is for those that are not there
    flat = xp.reshape(flat, (-1,))
    blocks = xp.scatter_flat(blocks, flat, xp.ones(flat.shape, dtype=xp.float32), "none")
    blocks = xp.reshape(blocks[:-1], (layouts, rows, rows))
    new = query.shape[1]
    lengths = xp.reshape(xp.astype(key_total_sequence_lengths, xp.int64), (-1, 1))
    before = xp.zeros_like(lengths) if new == total_sequence_length else lengths - new
    of_query = xp.clip((before + xp.arange(new, dtype=xp.int64)) // sparse_block_size, 0, rows - 1)
    of_key = xp.arange(total_sequence_length, dtype=xp.int64) // sparse_block_size
    seen = xp.take(xp.take(blocks, xp.reshape(of_query, (-1,)), axis=1), of_key, axis=2)
    seen = xp.reshape(seen, (layouts, *of_query.shape, total_sequence_length))
    seen = xp.take(xp.permute_dims(seen, (1, 0, 2, 3)), xp.arange(num_heads, dtype=xp.int64) % layouts, axis=1)
    bias = xp.where(seen > 0, xp.asarray(0.0, dtype=query.dtype), xp.asarray(float("-inf"), dtype=query.dtype))
    y, k, v = group_query_attention(
        xp, query, key, value, past_key, past_value, key_total_sequence_lengths - 1, total_sequence_length, cos_cache,
        sin_cache, None, bias, do_rotary=do_rotary, kv_num_heads=kv_num_heads, num_heads=num_heads,
        rotary_interleaved=rotary_interleaved, scale=scale,
    )  # fmt: skip
    written = xp.arange(past_key.shape[2], dtype=xp.int64) < before + new
    written = xp.reshape(written, (-1, 1, past_key.shape[2], 1))  # behind it a cache stays as it is
    return y, xp.where(written, k, past_key), xp.where(written, v, past_value)


@op("MRotaryEmbedding", domain=MS)
def m_rotary_embedding(
    xp: Namespace,
    input: Array,
    position_ids: Array,
    cos_cache: Array,
    sin_cache: Array,
    *,
    interleaved: Flag = 0,
    is_packed_batching: Flag = 0,
    mrope_layout: Int = 0,
    mrope_section: Ints,
    num_heads: Int = 0,
    rotary_embedding_dim: Int = 0,
    scale: Float = 1.0,
) -> Array:
    """RotaryEmbedding at positions in time, height and width: (3, batch, sequence).

    `mrope_section` says how many angles of a head each of the three has: one behind the other, or, with `mrope_layout`
    1, in turns, as far as height and width go, time the rest.
    """
    one_of("mrope_layout", mrope_layout, 0, 1)
    require_rank(2, cos_cache=cos_cache, sin_cache=sin_cache)
    half = cos_cache.shape[1]
    if len(mrope_section) != 3 or min(mrope_section) < 0 or sum(mrope_section) != half:
        raise ValueError(f"mrope_section {list(mrope_section)} must be three numbers whose sum is {half}")
    heads = num_heads or (input.shape[2] // (rotary_embedding_dim or 2 * half) if input.ndim == 3 else input.shape[1])
    x = split_heads(xp, input, heads)
    require_shape("position_ids", position_ids, 3, x.shape[0], x.shape[2])
    if mrope_layout:
        axes = [i % 3 if i < 3 * mrope_section[i % 3] else 0 for i in range(half)]
    else:
        axes = [axis for axis, count in enumerate(mrope_section) for _ in range(count)]
    xp.require_range("position_ids", position_ids, 0, cos_cache.shape[0] - 1)
    positions = xp.take(xp.astype(position_ids, xp.int64), xp.asarray(axes, dtype=xp.int64), axis=0)
    places = xp.reshape(xp.moveaxis(positions, 0, -1), (-1, half))  # the position of each angle
    angles = [
        xp.reshape(xp.take_along_axis(table, places, axis=0), (x.shape[0], 1, x.shape[2], half))
        for table in (cos_cache, sin_cache)
    ]
    y = rotated(xp, x, angles[0], angles[1], interleaved)
    return merge_heads(xp, y) if input.ndim == 3 else y
