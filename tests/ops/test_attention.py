"""Attention by its definition in float64; rotary embeddings, linear attention."""

from __future__ import annotations

import numpy as np
import pytest
from opcheck import check, run_op

R = np.random.default_rng(0)


def floats(*shape):
    return R.standard_normal(shape).astype(np.float32)


def by_definition(q, k, v, seen=True, scale=None, cap=0.0):
    """softmax(q k' scale) v in float64, every head on its own."""
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(a, group, axis=1).astype(np.float64) for a in (k, v))
    scores = q.astype(np.float64) @ k.transpose(0, 1, 3, 2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = np.tanh(scores / cap) * cap if cap else scores
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - np.maximum(scores.max(-1, keepdims=True), -1e300))
    total = weights.sum(-1, keepdims=True)
    return (weights / np.where(total == 0, 1, total) @ v).astype(np.float32)


Q, K, V = floats(2, 4, 5, 8), floats(2, 2, 7, 8), floats(2, 2, 7, 6)
NEAR = {"opset": 25, "rtol": 1e-4, "atol": 1e-5}


def test_grouped_heads_scale_and_cap():
    check("Attention", Q, K, V, expected=by_definition(Q, K, V), **NEAR)
    for softcap in (0.7, -0.7):  # the operator's function caps by any but 0, and tanh is odd
        expected = by_definition(Q, K, V, scale=0.3, cap=0.7)
        check("Attention", Q, K, V, scale=0.3, softcap=softcap, expected=expected, **NEAR)


def test_three_axes():
    q, k, v = (a.transpose(0, 2, 1, 3).reshape(2, a.shape[2], -1) for a in (Q, K, V))
    expected = by_definition(Q, K, V).transpose(0, 2, 1, 3).reshape(2, 5, -1)
    check("Attention", q, k, v, q_num_heads=4, kv_num_heads=2, expected=expected, **NEAR)
    with pytest.raises(Exception, match=r"the_node.*heads"):
        run_op("Attention", q, k, v, opset=24)


def test_masks():
    seen = R.random((5, 7)) > 0.3
    seen[2] = False  # a query that sees nothing gets zeros
    check("Attention", Q, K, V, seen, expected=by_definition(Q, K, V, seen), **NEAR)
    check("Attention", Q, K, V, np.where(seen, 0, -np.inf).astype(np.float32),
          expected=by_definition(Q, K, V, seen), **NEAR)  # fmt: skip
    short = np.pad(seen[:, :5], ((0, 0), (0, 2)))
    check("Attention", Q, K, V, seen[:, :5].copy(), expected=by_definition(Q, K, V, short), **NEAR)


@pytest.mark.parametrize("opset", [23, 24, 25])
def test_a_mask_of_one_key_is_for_all_keys_in_opset_23_and_for_the_first_later(opset):
    near = NEAR | {"opset": opset}
    shown = np.broadcast_to(True, (5, 7)) if opset == 23 else np.pad(np.ones((5, 1), bool), ((0, 0), (0, 6)))
    for shape in [(5, 1), (1, 1), (2, 4, 5, 1)]:
        check("Attention", Q, K, V, np.ones(shape, bool), expected=by_definition(Q, K, V, shown), **near)
        check("Attention", Q, K, V, np.ones(shape, np.float32), expected=by_definition(Q, K, V, shown), **near)
    past_k, past_v = floats(2, 2, 3, 8), floats(2, 2, 3, 6)
    k, v = np.concatenate([past_k, K], 2), np.concatenate([past_v, V], 2)
    shown = np.pad(np.ones((5, 1), bool), ((0, 0), (0, 9)), "edge" if opset == 23 else "constant")
    check("Attention", Q, K, V, np.ones((5, 1), bool), past_k, past_v, outputs=3,
          expected=[by_definition(Q, k, v, shown), k, v], **near)  # fmt: skip


def test_only_a_mask_hides():
    """Scores that overflow to -inf, alone or on top of the lowest mask, have NaN as in a Softmax, and so has NaN."""
    q, k = np.full_like(Q, -1e20), np.full_like(K, 1e15)
    expected = np.full((2, 4, 5, 6), np.nan, np.float32)
    low = np.full((5, 7), np.finfo(np.float32).min)
    check("Attention", Q * 0 - 1e30, K * 0 + 1e30, V, expected=expected, **NEAR)
    check("Attention", q, k, V, low, expected=expected, **NEAR)
    q = Q.copy()
    q[0, 1, 2] = np.nan
    expected = by_definition(Q, K, V)
    expected[0, 1, 2] = np.nan
    check("Attention", q, K, V, expected=expected, **NEAR)
    hiding = np.zeros((5, 7), np.float32)
    hiding[2] = -np.inf  # of a query of NaN too
    check("Attention", q, K, V, hiding, expected=by_definition(Q, K, V, hiding == 0), **NEAR)


@pytest.mark.parametrize("hides", ["causality", "bool", "float", "window"])
def test_a_hidden_key_of_nan_counts(hides):
    """What is hidden is less infinity, and NaN stays NaN: in onnxruntime and onnx.reference as well."""
    k = K.copy()
    k[:, :, 4] = np.nan
    shown = np.arange(7) < 4
    mask = {"bool": shown, "float": np.where(shown, 0, -np.inf).astype(np.float32)}.get(hides)
    mask = None if mask is None else np.broadcast_to(mask, (5, 7)).copy()
    given = {"causality": {"is_causal": 1}, "window": {"right_window_size": 0}}.get(hides, {})
    check("Attention", Q, k, V, mask, **given, expected=np.full((2, 4, 5, 6), np.nan, np.float32), **NEAR)


def test_causal_with_and_without_a_past():
    i, j = np.arange(5)[:, None], np.arange(7)
    check("Attention", Q, K, V, is_causal=1, expected=by_definition(Q, K, V, j <= i), **NEAR)
    past_k, past_v = floats(2, 2, 3, 8), floats(2, 2, 3, 6)
    k, v = np.concatenate([past_k, K], 2), np.concatenate([past_v, V], 2)
    expected = [by_definition(Q, k, v, np.arange(10) <= i + 3), k, v]
    check("Attention", Q, K, V, None, past_k, past_v, is_causal=1, outputs=3, expected=expected, **NEAR)


@pytest.mark.parametrize("scale", [-1.0, 0.0])
def test_causal_with_a_scale_that_turns_minus_infinity_around(scale):
    seen = np.tril(np.ones((5, 7), bool))
    for values in (V, K):  # torch has a kernel of its own where all heads have one size
        expected = by_definition(Q, K, values, seen, scale)
        check("Attention", Q, K, values, is_causal=1, scale=scale, expected=expected, **NEAR)


def test_a_mask_of_one_axis_is_for_all_queries():
    seen = np.array([True, False, True, True, False, True, True])
    check("Attention", Q, K, V, seen, expected=by_definition(Q, K, V, seen), **NEAR)
    bias = np.where(seen, np.float32(0), np.float32(-np.inf))
    check("Attention", Q, K, V, bias, expected=by_definition(Q, K, V, seen), **NEAR)


def test_windows_and_padded_caches():
    i, j = np.arange(5)[:, None], np.arange(7)
    window = (j >= i - 2) & (j <= i + 1)
    check(
        "Attention", Q, K, V, left_window_size=2, right_window_size=1, expected=by_definition(Q, K, V, window), **NEAR
    )
    valid = np.array([7, 3])
    reach = (j < valid[:, None, None, None]) & (j <= i + valid[:, None, None, None] - 5)
    expected = by_definition(Q, K, V, reach)
    check("Attention", Q, K, V, None, None, None, valid, is_causal=1, expected=expected, **NEAR)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("width", [0, 4])
def test_rotary_embedding_keeps_lengths_and_turns_by_position(interleaved, width):
    half = (width or 8) // 2
    angle = np.outer(np.arange(10), 0.5 ** np.arange(half)).astype(np.float32)
    cos, sin, places = np.cos(angle), np.sin(angle), np.array([[0, 1, 2, 3, 9]] * 2)
    given = {"interleaved": interleaved, "rotary_embedding_dim": width, "opset": 23}
    check("RotaryEmbedding", Q, cos, sin, places, **given)
    (y,) = run_op("RotaryEmbedding", Q, cos, sin, places, **given)
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(Q, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(y[:, :, 0], Q[:, :, 0])


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
def test_linear_attention_is_its_recurrence(rule):
    q, k, v = floats(2, 4, 2 * 3), floats(2, 4, 2 * 3), floats(2, 4, 2 * 5)
    decay, beta = -np.abs(floats(2, 4, 2)), R.random((2, 4, 2)).astype(np.float32)
    state = np.zeros((2, 2, 3, 5))
    outputs = []
    for t in range(4):
        qt, kt, vt = (a[:, t].reshape(2, 2, -1).astype(np.float64) for a in (q, k, v))
        if "gated" in rule:
            state = state * np.exp(decay[:, t])[..., None, None]
        new = vt
        if "delta" in rule:
            new = (vt - np.einsum("bhkv,bhk->bhv", state, kt)) * beta[:, t][..., None]
        state = state + kt[..., None] * new[..., None, :]
        outputs.append((np.einsum("bhk,bhkv->bhv", qt, state) * 3**-0.5).reshape(2, -1))
    expected = [np.stack(outputs, 1).astype(np.float32), state.astype(np.float32)]
    gates = [None, decay if "gated" in rule else None, beta if "delta" in rule else None]
    while gates and gates[-1] is None:
        gates.pop()
    check("LinearAttention", q, k, v, *gates, update_rule=rule, q_num_heads=2, kv_num_heads=2, outputs=2, opset=27,
          expected=expected, rtol=1e-4, atol=1e-5)  # fmt: skip


def test_causal_convolution_in_pieces_is_the_whole():
    x, w, b = floats(2, 3, 9), floats(3, 1, 4), floats(3)
    given = {"outputs": 2, "opset": 27, "activation": "silu"}
    whole, state = run_op("CausalConvWithState", x, w, b, **given)
    first, carried = run_op("CausalConvWithState", x[..., :4], w, b, **given)
    second, last = run_op("CausalConvWithState", x[..., 4:], w, b, carried, **given)
    np.testing.assert_allclose(np.concatenate([first, second], -1), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(last, state)
