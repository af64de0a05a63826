"""Attention and its kin. Heads are an axis of their own inside: (batch, heads, sequence, head size)."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops.activation import swish
from ortlite.ops.annotations import Array, DType, Flag, Float, Graph, Int, Text
from ortlite.ops.helpers import along, one_of, require_shape
from ortlite.ops.registry import op


def split_heads(xp: Namespace, x: Array, heads: int | None) -> Array:
    """(batch, sequence, heads · size) as (batch, heads, sequence, size); four axes stay. Raises ValueError."""
    if x.ndim == 4:
        return x
    if not heads or x.ndim != 3 or x.shape[2] % heads:
        raise ValueError(f"{tuple(x.shape)} is not (batch, sequence, {heads or 'number of heads'} · size)")
    batch, sequence, hidden = x.shape
    return xp.permute_dims(xp.reshape(x, (batch, sequence, heads, hidden // heads)), (0, 2, 1, 3))


def merge_heads(xp: Namespace, x: Array) -> Array:
    """(batch, heads, sequence, size) as (batch, sequence, heads · size)."""
    batch, heads, sequence, size = x.shape
    return xp.reshape(xp.permute_dims(x, (0, 2, 1, 3)), (batch, sequence, heads * size))


def by_key_heads(xp: Namespace, a: Array, b: Array) -> Array:
    """`a` @ `b` over the last two axes, where a group of heads of `a` shares each head of `b`.

    Raises ValueError when the heads of `a` are no multiple of those of `b`.
    """
    batch, heads, rows, inner = a.shape
    if heads % b.shape[1]:
        raise ValueError(f"{heads} heads of queries are no multiple of {b.shape[1]} heads of keys and values")
    folded = xp.reshape(a, (batch, b.shape[1], heads // b.shape[1] * rows, inner))
    return xp.reshape(xp.matmul(folded, b), (batch, heads, rows, b.shape[-1]))


def transposed(xp: Namespace, x: Array) -> Array:
    """The last two axes swapped."""
    return xp.permute_dims(x, (0, 1, 3, 2))


def attending(xp: Namespace, scores: Array, hidden: Array | None) -> Array:
    """Softmax over the last axis; zeros for a query from which every key is `hidden` (None: no key is).

    What is hidden says the mask, and not a score of -inf, which a sum that overflows has as well: a row of those has
    NaN, as that of a Softmax.
    """
    if hidden is None or not scores.shape[-1]:
        return xp.softmax(scores, -1)
    nothing, zero = xp.all(hidden, axis=-1, keepdims=True), xp.zeros_like(scores)
    # nor may NaN come to be on the way: a gradient would have it
    return xp.where(nothing, zero, xp.softmax(xp.where(nothing, zero, scores), -1))


def _visible(
    xp: Namespace, queries: int, keys: int, offset: Any, causal: int, left: int, right: int, valid: Array | None
) -> Array | None:
    """Which keys each query may see, broadcastable to (batch, heads, queries, keys); None: all.

    A query's position is `offset` (a number, or one an example) plus its index; `valid` counts each example's keys.
    """
    key = xp.arange(keys, dtype=xp.int64)
    position = xp.expand_dims(xp.arange(queries, dtype=xp.int64), axis=1) + offset
    rules = []
    if causal:
        rules.append(key <= position)
    if left >= 0:
        rules.append(key >= position - left)
    if right >= 0:
        rules.append(key <= position + right)
    if valid is not None:
        rules.append(key < xp.reshape(valid, (-1, 1, 1, 1)))
    seen = None
    for rule in rules:
        seen = rule if seen is None else seen & rule
    return seen


def _masked(xp: Namespace, scores: Array, mask: Array | None, seen: Array | None) -> tuple[Array, Array | None]:
    """Scores plus a float mask, less infinity where a boolean mask or `seen` is false; and which keys either hides.

    A mask too short for the keys hides those that it does not reach. Less infinity, NaN and infinity are NaN.
    """
    zero, minus_inf = (xp.asarray(number, dtype=scores.dtype) for number in (0.0, float("-inf")))
    hidden = None
    if mask is not None:
        boolean = xp.isdtype(mask.dtype, "bool")
        if xp.isdtype(mask.dtype, "integral"):  # which have no -inf
            mask = xp.astype(mask, scores.dtype)
        missing = scores.shape[-1] - mask.shape[-1]
        if missing > 0:
            widths = [(0, 0)] * (mask.ndim - 1) + [(0, missing)]
            mask = xp.pad(mask, widths, "constant", False if boolean else float("-inf"))
        hidden = ~mask if boolean else mask == float("-inf")
        scores = scores + (xp.where(mask, zero, minus_inf) if boolean else xp.astype(mask, scores.dtype))
    if seen is not None:
        hidden = ~seen if hidden is None else hidden | ~seen
        scores = scores + xp.where(seen, zero, minus_inf)
    return scores, hidden


@op("Attention", since=24, views=True)
def attention(
    xp: Namespace,
    Q: Array,
    K: Array,
    V: Array,
    attn_mask: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    nonpad_kv_seqlen: Array | None = None,
    *,
    is_causal: Flag = 0,
    kv_num_heads: Int | None = None,
    left_window_size: Int = -1,
    q_num_heads: Int | None = None,
    qk_matmul_output_mode: Int = 0,
    right_window_size: Int = -1,
    scale: Float | None = None,
    softcap: Float = 0.0,
    softmax_precision: DType | None = None,
    n_outputs: Int = 1,
) -> tuple[Array, Array, Array, Array | None]:
    """softmax(Q K' · scale + mask) V, with groups of query heads sharing a head of keys and values.

    Tensors are (batch, heads, sequence, size), or (batch, sequence, heads · size) with the numbers of heads given. Also
    returns keys and values with the past in front, and the scores at the stage that `qk_matmul_output_mode` names.
    A mask shorter than the keys, of one too, hides the rest; a query that may see no key gets zeros. Raises ValueError
    for shapes and heads that do not fit.
    """
    q, k, v = split_heads(xp, Q, q_num_heads), split_heads(xp, K, kv_num_heads), split_heads(xp, V, kv_num_heads)
    if past_key is not None and past_value is not None:
        k, v = xp.concat([past_key, k], axis=2), xp.concat([past_value, v], axis=2)
    queries, keys = q.shape[2], k.shape[2]
    offset: Any = 0
    if past_key is not None:
        offset = past_key.shape[2]
    elif nonpad_kv_seqlen is not None:
        offset = xp.reshape(nonpad_kv_seqlen, (-1, 1, 1, 1)) - queries
    factor = q.shape[3] ** -0.5 if scale is None else scale
    raw = by_key_heads(xp, q * factor, transposed(xp, k))
    capped = xp.tanh(raw / softcap) * softcap if softcap else raw
    seen = _visible(xp, queries, keys, offset, is_causal, left_window_size, right_window_size, nonpad_kv_seqlen)
    scores, hidden = _masked(xp, capped, attn_mask, seen)
    precise = scores if softmax_precision is None else xp.astype(scores, xp.dtype(softmax_precision))
    weights = xp.astype(attending(xp, precise, hidden), q.dtype)
    y = by_key_heads(xp, xp.astype(weights, v.dtype), v)
    y = xp.astype(merge_heads(xp, y) if Q.ndim == 3 else y, Q.dtype)
    return y, k, v, (raw, capped, scores, weights)[qk_matmul_output_mode] if n_outputs > 3 else None


@op("Attention", since=23, views=True)
@wraps(attention, assigned=())  # for its signature
def attention_23(
    xp: Namespace,
    Q: Array,
    K: Array,
    V: Array,
    attn_mask: Any = None,
    past_key: Any = None,
    *more: Any,
    **attributes: Any,
) -> tuple[Array, Array, Array, Array | None]:
    """Attention whose mask of one key is for all keys, and not for the first alone."""
    if attn_mask is not None and attn_mask.shape[-1] == 1:
        keys = K.shape[-2] + (0 if past_key is None else past_key.shape[-2])
        attn_mask = xp.broadcast_to(attn_mask, (*attn_mask.shape[:-1], keys))
    return attention(xp, Q, K, V, attn_mask, past_key, *more, **attributes)


def scaled_dot_product(computed: Callable[..., Any]) -> Callable[..., Any]:
    """An override of Attention for softmax(q k' · scale + mask) v; the kernel does the rest, and refuses what is wrong.

    `computed(xp, q, k, v, mask, past, causal, scale)` returns y, keys and values with the past in front, or
    NotImplemented. Its q, k and v are (batch, heads, sequence, size), none empty and of one dtype, the heads of queries
    a multiple of those of keys and values; `past` is None, or keys and values of the same dtype that come before.
    """

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
        if n_outputs > 3 or softcap or nonpad_kv_seqlen is not None or max(left_window_size, right_window_size) >= 0:
            return NotImplemented
        if (past_key is None) != (past_value is None):
            return NotImplemented
        past = None if past_key is None else (past_key, past_value)
        if any(x.dtype != Q.dtype for x in (K, V, *(past or ()))):
            return NotImplemented
        if softmax_precision is not None and xp.dtype(softmax_precision) != Q.dtype:
            return NotImplemented
        q, k, v = split_heads(xp, Q, q_num_heads), split_heads(xp, K, kv_num_heads), split_heads(xp, V, kv_num_heads)
        if not _fitting(q, k, v, past):
            return NotImplemented  # the kernel says what is wrong
        result = computed(xp, q, k, v, attn_mask, past, bool(is_causal), scale)
        if result is NotImplemented:
            return NotImplemented
        y, k, v = result
        return merge_heads(xp, y) if Q.ndim == 3 else y, k, v, None

    attention.__doc__, attention.__module__ = computed.__doc__, computed.__module__
    return attention


def _fitting(q: Array, k: Array, v: Array, past: tuple[Array, Array] | None) -> bool:
    """Whether heads and sizes go together, one by one, and nothing is empty but perhaps the past."""
    (batch, heads, _, size), (_, shared, keys, _) = q.shape, k.shape
    width = v.shape[3]
    if 0 in (*q.shape, *k.shape, width) or heads % shared:  # no set: lengths that are traced have no hash
        return False
    if past is None:
        return tuple(k.shape) == (batch, shared, keys, size) and tuple(v.shape) == (batch, shared, keys, width)
    before = past[0].shape[2] if past[0].ndim == 4 else 0
    expected = [(batch, shared, n, m) for n in (keys, before) for m in (size, width)]
    return [tuple(x.shape) for x in (k, v, *past)] == expected


@op("FlexAttention", domain="ai.onnx.preview", any_dtype=True)
def flex_attention(
    xp: Namespace,
    Q: Array,
    K: Array,
    V: Array,
    *,
    prob_mod: Graph | None = None,
    scale: Float | None = None,
    score_mod: Graph | None = None,
    softmax_precision: DType | None = None,
) -> Array:
    """Attention whose scores and probabilities subgraphs may change, in `softmax_precision` (float32 or wider).

    Products are computed in float32 at least. Raises ValueError for heads that do not fit.
    """
    computing = xp.float64 if xp.dtype_name(Q.dtype) == "float64" else xp.float32
    precision = computing if softmax_precision is None else xp.dtype(softmax_precision)
    q, k, v = (xp.astype(x, computing) for x in (Q, K, V))
    factor = q.shape[3] ** -0.5 if scale is None else scale

    def modified(x: Array, change: Callable[..., tuple[Any, ...]] | None) -> Array:
        x = xp.astype(x, precision)
        return xp.astype(x if change is None else change(x)[0], computing)

    scores = modified(by_key_heads(xp, q * factor, transposed(xp, k)), score_mod)
    weights = modified(xp.softmax(scores, -1), prob_mod)
    return xp.astype(by_key_heads(xp, weights, v), Q.dtype)


def rotated(xp: Namespace, x: Array, cos: Array, sin: Array, interleaved: int) -> Array:
    """Pairs of elements of the last axis turned: neighbours when `interleaved`, else from both halves.

    The angles broadcast over all axes but the last, where they have half the length; elements beyond that stay.
    """
    half = cos.shape[-1]
    turning, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        a, b = turning[..., 0::2], turning[..., 1::2]
    else:
        a, b = turning[..., :half], turning[..., half:]
    real, imaginary = a * cos - b * sin, a * sin + b * cos
    if interleaved:
        y = xp.reshape(xp.stack([real, imaginary], axis=-1), turning.shape)
    else:
        y = xp.concat([real, imaginary], axis=-1)
    return xp.concat([y, rest], axis=-1) if rest.shape[-1] else y


@op("RotaryEmbedding", since=23)
def rotary_embedding(
    xp: Namespace,
    X: Array,
    cos_cache: Array,
    sin_cache: Array,
    position_ids: Array | None = None,
    *,
    interleaved: Flag = 0,
    num_heads: Int | None = None,
    rotary_embedding_dim: Int = 0,
) -> Array:
    """Turn the first `rotary_embedding_dim` (default: all) elements of every head by the angles of its position.

    Caches are (batch, sequence, half), or (positions, half) with `position_ids` (batch, sequence). Raises ValueError
    for caches of another width.
    """
    x = split_heads(xp, X, num_heads)
    width = rotary_embedding_dim or x.shape[-1]
    if cos_cache.shape[-1] * 2 != width or sin_cache.shape != cos_cache.shape:
        raise ValueError(f"caches {tuple(cos_cache.shape)} and {tuple(sin_cache.shape)} must hold {width // 2} angles")
    if position_ids is not None:
        indices = xp.expand_dims(position_ids, axis=-1)
        cos_cache, sin_cache = xp.gather_nd(cos_cache, indices), xp.gather_nd(sin_cache, indices)
    y = rotated(xp, x, xp.expand_dims(cos_cache, axis=1), xp.expand_dims(sin_cache, axis=1), interleaved)
    return merge_heads(xp, y) if X.ndim == 3 else y


@op("LinearAttention", since=27)
def linear_attention(
    xp: Namespace,
    query: Array,
    key: Array,
    value: Array,
    past_state: Array | None = None,
    decay: Array | None = None,
    beta: Array | None = None,
    *,
    chunk_size: Int = 64,
    kv_num_heads: Int,
    q_num_heads: Int,
    scale: Float = 0.0,
    update_rule: Text = "gated_delta",
) -> tuple[Array, Array]:
    """Attention by a state (batch, heads, key size, value size) that every step updates: time is a loop.

    `update_rule`: linear adds k ⊗ v; gated first decays the state by e^decay; delta adds only what the state does not
    yet say of k, weighted by beta; gated_delta does both. Raises ValueError for an unknown rule or a missing gate.
    """
    gated, delta = update_rule in {"gated", "gated_delta"}, update_rule in {"delta", "gated_delta"}
    one_of("update_rule", update_rule, "linear", "gated", "delta", "gated_delta")
    if (gated and decay is None) or (delta and beta is None):
        raise ValueError(f"update_rule {update_rule!r} needs {'decay' if gated and decay is None else 'beta'}")
    q, k, v = (
        split_heads(xp, query, q_num_heads),
        split_heads(xp, key, kv_num_heads),
        split_heads(xp, value, kv_num_heads),
    )
    batch, heads, time, size = k.shape
    dtype = query.dtype if past_state is None else past_state.dtype
    k, v, q = (xp.astype(x, dtype) for x in (k, v, q))
    state = xp.zeros((batch, heads, size, v.shape[3]), dtype=dtype) if past_state is None else past_state
    fade = xp.exp(xp.astype(split_heads(xp, decay, heads), dtype)) if gated else None
    rate = None if not delta else xp.astype(xp.permute_dims(beta, (0, 2, 1)), dtype)
    outputs = []
    for t in range(time):
        if fade is not None:
            state = state * xp.expand_dims(fade[:, :, t, :], axis=-1)
        row, new = k[:, :, t : t + 1, :], v[:, :, t : t + 1, :]
        if rate is not None:
            new = (new - xp.matmul(row, state)) * xp.expand_dims(rate[:, :, t : t + 1], axis=-1)
        state = state + transposed(xp, row) * new
        outputs.append(by_key_heads(xp, q[:, :, t : t + 1, :], state))
    factor = scale or size**-0.5
    y = xp.concat(outputs, axis=2) * factor if time else q[:, :, :, : v.shape[3]]
    return xp.astype(merge_heads(xp, y), query.dtype), state


def convolution_activated(xp: Namespace, y: Array, activation: str) -> Array:
    """What a causal convolution hands on of `y`: itself, or `y` · sigmoid(`y`). Raises ValueError for other names."""
    one_of("activation", activation, "none", "silu", "swish")
    return y if activation == "none" else swish(xp, y)


@op("CausalConvWithState", since=27)
def causal_conv_with_state(
    xp: Namespace,
    input: Array,
    weight: Array,
    bias: Array | None = None,
    past_state: Array | None = None,
    *,
    activation: Text = "none",
) -> tuple[Array, Array]:
    """Convolve every channel of (batch, channels, time) with its own kernel over the past and the present alone.

    `past_state` holds the last kernel - 1 inputs before (default 0); those of now are the second output.
    Raises ValueError for an unknown activation and for shapes that do not fit.
    """
    if input.ndim != 3:
        raise ValueError(f"input {list(input.shape)} must be (batch, channels, time)")
    batch, channels, _ = input.shape
    if weight.ndim != 3 or weight.shape[:2] != (channels, 1) or not weight.shape[2]:
        raise ValueError(f"weight {list(weight.shape)} must be ({channels}, 1, kernel), with a kernel of 1 or more")
    carried = weight.shape[2] - 1
    require_shape("bias", bias, channels)
    require_shape("past_state", past_state, batch, channels, carried)
    if past_state is None:
        past_state = xp.zeros((batch, channels, carried), dtype=input.dtype)
    x = xp.concat([past_state, input], axis=2)
    y = xp.conv(x, weight, strides=(1,), pads=[(0, 0)], dilations=(1,), groups=channels)
    if bias is not None:
        y = y + along(xp, bias, 1, 3)
    return convolution_activated(xp, y, activation), x[:, :, x.shape[2] - carried :]
