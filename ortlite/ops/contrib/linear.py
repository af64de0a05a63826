"""Linear attention: for each head a matrix of keys and values instead of a cache that grows."""

from __future__ import annotations

import math
from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops.activation import softplus
from ortlite.ops.annotations import Array, Float, Int, Text
from ortlite.ops.contrib.state import captured, requests
from ortlite.ops.helpers import one_of, require_rank, require_shape
from ortlite.ops.quant import wide
from ortlite.ops.registry import op

MS = "com.microsoft"
RULES = ("linear", "gated", "delta", "gated_delta")
State = tuple[Any, ...]


def _recurrence(
    xp: Namespace,
    q: Array,
    k: Array,
    v: Array,
    state: Array,
    decay: Array | None,
    beta: Array | None,
    running: Array | None = None,
    *,
    delta: bool,
) -> tuple[Array, Array, Array]:
    """S = exp(decay) S + k' d with d = beta (v - k S), or d = v without `delta`, and q S after each step.

    All of (time, batch, heads, 1, size), queries with those that share a head in place of the 1, `decay` (time, batch,
    heads, 1 or size, 1), `beta` and `running` (time, batch, heads or 1, 1, 1); S (batch, heads, size, size of v).
    Examples that are not `running` rest. Returns the results, every d, and the last S.
    """
    given = [x for x in (q, k, v, decay, beta, running) if x is not None]

    def step(states: State, slices: State) -> tuple[State, State]:
        parts = iter(slices)
        now, key, new = next(parts), next(parts), next(parts)
        before = states[0]
        s = before * xp.exp(next(parts)) if decay is not None else before
        d = new - xp.matmul(key, s) if delta else new
        d = d * next(parts) if beta is not None else d
        s = s + xp.matrix_transpose(key) * d
        s = xp.where(next(parts), s, before) if running is not None else s
        return (s,), (xp.matmul(now, s), d)

    if not q.shape[0]:
        nothing = xp.zeros((*q.shape[:4], v.shape[4]), dtype=v.dtype)
        return nothing, xp.zeros_like(v), state * 1.0  # a result shares no memory with an argument
    (state,), (y, d) = xp.scan(step, (state,), given)
    return y, d, state


def _heads(xp: Namespace, x: Array, heads: int) -> Array:
    """(batch, time, heads · size) as (time, batch, heads, 1, size)."""
    batch, time = x.shape[:2]
    if x.shape[2] % heads:
        raise ValueError(f"{list(x.shape)} cannot be divided into {heads} heads")
    return xp.permute_dims(xp.reshape(x, (batch, time, heads, 1, x.shape[2] // heads)), (1, 0, 2, 3, 4))


def _shared(xp: Namespace, x: Array, heads: int) -> Array:
    """(time, batch, fewer heads, 1, size) as often as it takes for `heads`, each behind itself."""
    count = x.shape[2]
    if not count or heads % count:
        raise ValueError(f"{count} heads cannot be shared by {heads}")
    if count == heads:
        return x
    whole = (*x.shape[:3], heads // count, x.shape[4])
    return xp.reshape(xp.broadcast_to(x, whole), (*x.shape[:2], heads, 1, x.shape[4]))


def _required(rule: str, decay: Array | None, beta: Array | None) -> tuple[Array | None, Array | None]:
    """What `rule` takes of the two. Raises ValueError for one that is missing."""
    one_of("update_rule", rule, *RULES)
    for name, value, needed in (("decay", decay, "gated" in rule), ("beta", beta, "delta" in rule)):
        if needed and value is None:
            raise ValueError(f"update_rule {rule!r} needs {name}")
    return decay if "gated" in rule else None, beta if "delta" in rule else None


@op("LinearAttention", domain=MS, results=("query", "query"))
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
    state_window: Int = 0,
    update_rule: Text = "gated_delta",
) -> tuple[Array, Array]:
    """Attention that keeps a matrix of keys and values for each head, in (batch, time, heads · size).

    The matrix is scaled by exp(`decay`), (batch, time, heads) or (…, heads · size), and gets k' v, or, by a delta rule,
    `beta` k' (v - k S); the result is `scale` q S. Returns also the matrices after the last step (batch, heads, size,
    size of values); with `state_window` after each of the last steps, along a new first axis.
    """
    decay, beta = _required(update_rule, decay, beta)
    require_rank(3, query=query, key=key, value=value, decay=decay, beta=beta)
    batch, time = query.shape[:2]
    q, v = _heads(xp, query, q_num_heads), _heads(xp, value, kv_num_heads)
    size = q.shape[4]
    if not size or key.shape[2] % size:
        raise ValueError(f"the keys {list(key.shape)} have no heads of the size {size} of the queries")
    k = _shared(xp, _heads(xp, key, key.shape[2] // size), kv_num_heads)
    q = q * (scale or size**-0.5)
    if q_num_heads > kv_num_heads:
        if q_num_heads % kv_num_heads:
            raise ValueError(f"{kv_num_heads} heads cannot be shared by {q_num_heads}")
        q = xp.reshape(q, (time, batch, kv_num_heads, q_num_heads // kv_num_heads, size))
    else:
        q = _shared(xp, q, kv_num_heads)
    held = (batch, kv_num_heads, size, v.shape[4])
    state = xp.zeros(held, dtype=query.dtype)
    if past_state is not None:
        require_shape("past_state", past_state, *((state_window,) if state_window else ()), *held)
        state = xp.astype(past_state[state_window - 1, ...] if state_window else past_state, query.dtype)
    if decay is not None:
        decay = xp.matrix_transpose(_heads(xp, decay, kv_num_heads))
    if beta is not None:
        beta = _heads(xp, beta, beta.shape[2])
    # where a window of states is asked for, the last steps one by one
    ends = [max(time - state_window, 0) if state_window else time]
    ends += range(ends[0] + 1, time + 1)
    results, states, start = [], [], 0
    for end in ends:
        gates = [None if x is None else x[start:end, ...] for x in (decay, beta)]
        now, key, new = (x[start:end, ...] for x in (q, k, v))
        y, _, state = _recurrence(xp, now, key, new, state, *gates, delta="delta" in update_rule)
        results.append(y)
        states.append(state)
        start = end
    y = xp.permute_dims(xp.concat(results, axis=0), (1, 0, 2, 3, 4))
    y = xp.reshape(y, (batch, time, max(q_num_heads, kv_num_heads) * v.shape[4]))
    if not state_window:
        return y, state
    kept = states[1:]
    return y, xp.stack([*[xp.zeros_like(state)] * (state_window - len(kept)), *kept])


@op("LinearAttentionGate", domain=MS, any_dtype=True, results=("a", "a"))
def linear_attention_gate(
    xp: Namespace, a: Array, dt_bias: Array, decay_scale: Array, b: Array | None = None
) -> tuple[Array, Array | None]:
    """`decay_scale` · softplus(`a` + `dt_bias`), in float32, and sigmoid(`b`): what LinearAttention takes."""
    require_shape("dt_bias", dt_bias, a.shape[-1])
    require_shape("decay_scale", decay_scale, a.shape[-1])
    decay = decay_scale * softplus(xp, wide(xp, a) + dt_bias)
    return xp.astype(decay, a.dtype), None if b is None else xp.astype(xp.sigmoid(wide(xp, b)), b.dtype)


def _unit(xp: Namespace, x: Array, epsilon: float) -> Array:
    return x / xp.sqrt(xp.sum(xp.square(x), axis=-1, keepdims=True, dtype=x.dtype) + epsilon)


def _gate(xp: Namespace, decay: Array, a_log: Array | None, dt_bias: Array | None, kind: str, bound: float) -> Array:
    """The decay of (tokens, heads, 1 or size) after its activation."""
    one_of("gate_activation", kind, "none", "softplus", "qwen", "sigmoid", "kda")
    if kind == "none":
        return decay
    heads, size = decay.shape[1:]
    if a_log is None or dt_bias is None:
        raise ValueError(f"gate_activation {kind!r} needs a_log and dt_bias")
    require_shape("a_log", a_log, heads)
    slope = xp.expand_dims(xp.exp(a_log), axis=1)
    decay = decay + xp.reshape(dt_bias, (heads, size if math.prod(dt_bias.shape) > heads else 1))
    if kind in {"softplus", "qwen"}:
        return -slope * softplus(xp, decay)
    return bound * xp.sigmoid(slope * decay)


@op("GatedDeltaNet", domain=MS, any_dtype=True, results=("query", "float32", "float32"))
def gated_delta_net(
    xp: Namespace,
    query: Array,
    key: Array | None = None,
    value: Array | None = None,
    cu_seqlens: Array | None = None,
    decay: Array | None = None,
    beta: Array | None = None,
    initial_state: Array | None = None,
    a_log: Array | None = None,
    dt_bias: Array | None = None,
    capture_count: Array | None = None,
    state_update_active: Array | None = None,
    *,
    beta_activation: Text = "none",
    chunk_size: Int = 64,
    gate_activation: Text = "none",
    gate_lower_bound: Float = -5.0,
    qk_l2_norm: Int = 0,
    scale: Float = 0.0,
    state_update_capacity: Int = 0,
    update_rule: Text = "gated_delta",
) -> tuple[Array, Array, Array]:
    """LinearAttention of requests behind one another, in (tokens, heads, size) or (batch, time, heads, size).

    `cu_seqlens` says where requests begin; without, all are of one length, and there are as many as `initial_state`
    has. States are (requests, heads, size of values, size). Without `key`, `query` holds all three projections. Gates
    may come before their activation. The third output holds decays, keys and deltas of the first tokens of each
    request, as many as `capture_count` says.
    """
    decay, beta = _required(update_rule, decay, beta)
    one_of("beta_activation", beta_activation, "none", "sigmoid")
    require_rank(1, cu_seqlens=cu_seqlens, a_log=a_log)
    require_rank(4, initial_state=initial_state)
    batched = query.ndim == (3 if key is None else 4)
    lead = query.shape[:2] if batched else query.shape[:1]
    if key is None or value is None:
        if initial_state is None:
            raise ValueError("query holds all projections: initial_state must say how wide they are")
        v_heads, v_size, size = initial_state.shape[1:]
        heads = (query.shape[-1] - v_heads * v_size) // (2 * size)
        flat = xp.reshape(query, (-1, query.shape[-1]))
        width = heads * size
        require_shape("query", flat, flat.shape[0], 2 * width + v_heads * v_size)
        q, k, v = flat[:, :width], flat[:, width : 2 * width], flat[:, 2 * width :]
        q, k, v = (xp.reshape(x, (-1, *s)) for x, s in ((q, (heads, size)), (k, (heads, size)), (v, (v_heads, v_size))))
    else:
        q, k, v = (xp.reshape(x, (-1, *x.shape[-2:])) for x in (query, key, value))
    q, k, v = (wide(xp, x) for x in (q, k, v))
    tokens, heads, size = q.shape
    v_heads, v_size = v.shape[1:]
    require_shape("key", k, tokens, heads, size)
    require_shape("value", v, tokens, v_heads, v_size)
    if not heads or v_heads % heads:
        raise ValueError(f"{heads} heads of queries cannot be shared by {v_heads} of values")
    if cu_seqlens is not None:
        batch = cu_seqlens.shape[0] - 1
    elif batched:
        batch = lead[0]
    elif initial_state is not None:
        batch = initial_state.shape[0]
    else:
        raise ValueError("one of cu_seqlens and initial_state must say how many requests there are")
    require_shape("initial_state", initial_state, batch, v_heads, v_size, size)
    if qk_l2_norm:
        epsilon = 1e-6 if gate_activation in {"sigmoid", "kda"} else 1e-12  # as measured in onnxruntime
        q, k = _unit(xp, q, epsilon), _unit(xp, k, epsilon)
    if decay is not None:
        decay = xp.reshape(wide(xp, decay), (tokens, v_heads, -1 if tokens else 1))
        require_shape("decay", decay, tokens, v_heads, size if decay.shape[2] != 1 else 1)
        decay = _gate(xp, decay, a_log, dt_bias, gate_activation, gate_lower_bound)
    if beta is not None:
        beta = xp.reshape(wide(xp, beta), (tokens, v_heads, 1))
        beta = xp.sigmoid(beta) if beta_activation == "sigmoid" else beta
    bounds = cu_seqlens
    if bounds is None:
        if tokens % max(batch, 1):
            raise ValueError(f"{tokens} tokens are no {batch} requests of one length")
        bounds = xp.arange(batch + 1, dtype=xp.int64) * (tokens // max(batch, 1))
    starts, lengths, request, local = requests(xp, bounds, tokens)
    longest = tokens // max(batch, 1)
    if cu_seqlens is not None:  # where lengths are not known yet, one request may have all tokens
        known = xp.concrete_value(xp.max(lengths)) if tokens else 0
        longest = tokens if known is None else known
    time = xp.expand_dims(xp.arange(longest, dtype=xp.int64), axis=1)
    places = xp.reshape(xp.clip(time + starts, 0, max(tokens - 1, 0)), (-1,))

    def by_time(x: Array) -> Array:
        """(tokens, heads, size) as (time, requests, heads, 1, size)."""
        x = xp.take(x, places, axis=0) if tokens else x
        return xp.reshape(x, (longest, batch, x.shape[1], 1, x.shape[2]))

    running = xp.reshape(time < lengths, (longest, batch, 1, 1, 1))
    state = xp.zeros((batch, v_heads, size, v_size), dtype=xp.float32)
    state = state if initial_state is None else xp.matrix_transpose(initial_state)
    gates = None if decay is None else xp.matrix_transpose(by_time(decay)), None if beta is None else by_time(beta)
    y, deltas, state = _recurrence(
        xp, _shared(xp, by_time(q * (scale or size**-0.5)), v_heads), _shared(xp, by_time(k), v_heads), by_time(v),
        state, *gates, running, delta="delta" in update_rule,
    )  # fmt: skip
    flat = xp.reshape(y, (longest * batch, v_heads, v_size))
    y = xp.take(flat, local * batch + request, axis=0) if tokens else flat
    y = xp.astype(xp.reshape(y, (*lead, v_heads, v_size)), query.dtype)
    kept = captured(xp, capture_count, state_update_capacity, lengths)
    if state_update_active is not None:
        kept = kept & (xp.reshape(state_update_active, (1, 1)) != 0)
    parts = []
    for x in (None if decay is None else xp.exp(by_time(decay)), by_time(k), deltas):
        width = v_heads if x is None else x.shape[2] * x.shape[4]
        if x is None or not longest:  # a rule without decay keeps all of the state
            x = xp.ones((state_update_capacity, batch, width), dtype=xp.float32)
        x = xp.reshape(x, (x.shape[0], batch, width))[: min(state_update_capacity, x.shape[0]), ...]
        x = xp.pad(x, ((0, state_update_capacity - x.shape[0]), (0, 0), (0, 0)))
        x = xp.permute_dims(x, (1, 0, 2))
        parts.append(
            xp.reshape(xp.where(xp.expand_dims(kept, axis=2), x, xp.zeros_like(x)), (batch, -1 if batch else 0))
        )
    return y, xp.matrix_transpose(state), xp.concat(parts, axis=1)
