"""Mixtures of experts: each token goes through the few networks that its router chose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops import activation
from ortlite.ops.annotations import Array, Flag, Float, Int, Text
from ortlite.ops.contrib.quant import unpacked
from ortlite.ops.helpers import one_of, require_rank, require_shape
from ortlite.ops.linalg import matrix_product
from ortlite.ops.quant import wide
from ortlite.ops.registry import op

MS = "com.microsoft"
Expert = Callable[[int, Array], Array]  # which of them, and rows of tokens -> rows of results


def _chosen(xp: Namespace, scores: Array, k: int) -> Array:
    """The places of the `k` largest along the last axis; of equals the last ones, as onnxruntime has it."""
    count = scores.shape[-1]
    if not 1 <= k <= count:
        raise ValueError(f"k {k} must lie from 1 to the {count} experts")
    return count - 1 - xp.top_k(xp.flip(scores, axis=-1), k, scores.ndim - 1, True, True)[1]


def _spread(xp: Namespace, values: Array, places: Array, count: int) -> Array:
    """`values` (rows, k) at `places` of rows of `count` zeros."""
    there = xp.expand_dims(places, axis=2) == xp.arange(count, dtype=xp.int64)
    values = xp.expand_dims(values, axis=2)
    return xp.sum(xp.where(there, values, xp.zeros_like(values)), axis=1, dtype=values.dtype)


def _shares(xp: Namespace, router: Array, k: int, normalize: bool | int, weights: Array | None) -> Array:
    """How much each expert (last axis) counts for each token: 0 unless chosen."""
    places = _chosen(xp, router, k)
    shares = xp.take_along_axis(xp.softmax(router, -1) if weights is None else weights, places, axis=1)
    if normalize:
        shares = shares / xp.sum(shares, axis=1, keepdims=True, dtype=shares.dtype)
    return _spread(xp, shares, places, router.shape[1])


def _mixed(xp: Namespace, x: Array, shares: Array, expert: Expert) -> Array:
    """The results of the experts for each row of `x`, weighed; shares of 0 and below do not count, as in onnxruntime.

    Where values are known, an expert sees only the rows that asked for it.
    """
    y = xp.zeros_like(x)
    for e in range(shares.shape[1]):
        share = shares[:, e]
        if xp.readable(share):
            (rows,) = xp.nonzero(share > 0)
            if rows.shape[0]:
                part = expert(e, xp.take(x, rows, axis=0)) * xp.expand_dims(xp.take(share, rows, axis=0), axis=1)
                y = xp.scatter_nd(y, xp.expand_dims(xp.astype(rows, xp.int64), axis=1), part, "add")
        else:
            column = xp.expand_dims(share, axis=1)
            y = y + xp.where(column > 0, expert(e, x) * column, xp.zeros_like(y))
    return y


def _through(
    xp: Namespace,
    first: Array,
    gated: Array | None,
    second: Callable[[Array], Array],
    kind: str,
    fusion: int,
    alpha: float,
    beta: float,
    limit: float | None,
    after: int,
) -> Array:
    """The rest of an expert behind its `first` product: the activation, with what gates it, and the `second`."""
    one_of("activation_type", kind, "relu", "relu2", "gelu", "silu", "identity", "swiglu", "geglu")
    if kind not in {"swiglu", "geglu"}:
        y = {
            "relu": xp.relu, "relu2": lambda v: xp.square(xp.relu(v)), "silu": lambda v: activation.swish(xp, v),
            "gelu": lambda v: activation.gelu(xp, v, approximate="tanh"), "identity": lambda v: v,
        }[kind](first)  # fmt: skip
        return second(y if gated is None else y * gated)
    if fusion == 1:
        first, gated = first[:, 0::2], first[:, 1::2]
    elif fusion == 2:
        half = first.shape[1] // 2
        first, gated = first[:, :half], first[:, half:]
    if gated is None:
        raise ValueError(f"{kind} with swiglu_fusion {fusion} needs fc3_experts_weights")
    if kind == "geglu":
        return second(activation.gelu(xp, first, approximate="tanh") * gated)
    if limit is not None:
        first, gated = first if after else xp.clip(first, None, limit), xp.clip(gated, -limit, limit)
    y = activation.swish(xp, first, alpha=alpha)
    y = xp.clip(y, None, limit) if after and limit is not None else y
    return second(y * (gated + beta))


@op("MoE", domain=MS)
def moe(
    xp: Namespace,
    input: Array,
    router_probs: Array,
    fc1_experts_weights: Array,
    fc1_experts_bias: Array | None,
    fc2_experts_weights: Array,
    fc2_experts_bias: Array | None = None,
    fc3_experts_weights: Array | None = None,
    fc3_experts_bias: Array | None = None,
    *,
    activation_alpha: Float = 1.0,
    activation_beta: Float = 0.0,
    activation_type: Text = "relu",
    k: Int = 1,
    normalize_routing_weights: Flag = 0,
    swiglu_fusion: Int = 0,
    swiglu_limit: Float | None = None,
    swiglu_limit_after_activation: Flag = 0,
    use_sparse_mixer: Flag = 0,
) -> Array:
    """For each token the sum of the `k` experts of the largest `router_probs`, weighed with their softmax.

    `input` is (tokens, hidden) or (batch, sequence, hidden), `router_probs` (tokens, experts) before the softmax, which
    is over all experts, or over those chosen with `normalize_routing_weights`. An expert is fc2(activation(fc1)); fc3
    multiplies the activation. `swiglu_fusion`: 1 for gate and factor side by side in fc1, 2 for one behind the other.
    `use_sparse_mixer` is of onnxruntime's GPUs alone.
    """
    require_rank(3, fc1_experts_weights=fc1_experts_weights)
    experts, rows, hidden = fc1_experts_weights.shape
    x = xp.reshape(input, (-1, hidden))
    inner = rows // 2 if swiglu_fusion and activation_type in {"swiglu", "geglu"} else rows
    require_shape("router_probs", router_probs, x.shape[0], experts)
    require_shape("fc1_experts_bias", fc1_experts_bias, experts, rows)
    require_shape("fc2_experts_weights", fc2_experts_weights, experts, hidden, inner)
    require_shape("fc2_experts_bias", fc2_experts_bias, experts, hidden)
    require_shape("fc3_experts_weights", fc3_experts_weights, experts, inner, hidden)
    require_shape("fc3_experts_bias", fc3_experts_bias, experts, inner)

    def affine(e: int, v: Array, weights: Array, bias: Array | None) -> Array:
        y = matrix_product(xp, v, weights[e, ...].T)
        return y if bias is None else y + bias[e, ...]

    def expert(e: int, v: Array) -> Array:
        gated = None if fc3_experts_weights is None else affine(e, v, fc3_experts_weights, fc3_experts_bias)
        return _through(
            xp, affine(e, v, fc1_experts_weights, fc1_experts_bias), gated,
            lambda inner: affine(e, inner, fc2_experts_weights, fc2_experts_bias), activation_type, swiglu_fusion,
            activation_alpha, activation_beta, swiglu_limit, swiglu_limit_after_activation,
        )  # fmt: skip

    shares = _shares(xp, router_probs, k, normalize_routing_weights, None)
    return xp.reshape(_mixed(xp, x, shares, expert), input.shape)


def expert_weights(xp: Namespace, q: Array, scales: Array, zero_points: Array | None, bits: int, e: int) -> Array:
    """The weights (rows, columns) of expert `e`; its scales (rows), or (rows, blocks) for blocks of equal length."""
    w, zeros = unpacked(xp, q[e, ...], bits), None if zero_points is None else zero_points[e, ...]
    rows, columns = w.shape
    scale = xp.reshape(wide(xp, scales[e, ...]), (rows, -1, 1))
    blocks = scale.shape[1]
    if zeros is None:
        zero = xp.full((1, 1, 1), float(2 ** (bits - 1)), dtype=xp.float32)
    elif zeros.ndim == 1:
        zero = xp.reshape(unpacked(xp, zeros, bits)[:rows], (rows, 1, 1))
    else:
        zero = xp.reshape(unpacked(xp, zeros, bits)[:, :blocks], (rows, blocks, 1))
    return xp.reshape((xp.reshape(w, (rows, blocks, columns // blocks)) - zero) * scale, (rows, columns))


@op("QMoE", domain=MS, any_dtype=True)
def qmoe(
    xp: Namespace,
    input: Array,
    router_probs: Array,
    fc1_experts_weights: Array,
    fc1_scales: Array | None,
    fc1_experts_bias: Array | None,
    fc2_experts_weights: Array,
    fc2_scales: Array | None,
    fc2_experts_bias: Array | None = None,
    fc3_experts_weights: Array | None = None,
    fc3_scales: Array | None = None,
    fc3_experts_bias: Array | None = None,
    fc1_zero_points: Array | None = None,
    fc2_zero_points: Array | None = None,
    fc3_zero_points: Array | None = None,
    router_weights: Array | None = None,
    fc1_global_scale: Array | None = None,
    fc2_global_scale: Array | None = None,
    fc1_act_scale: Array | None = None,
    fc2_act_scale: Array | None = None,
    fc1_act_block_scale: Array | None = None,
    fc2_act_block_scale: Array | None = None,
    *,
    accuracy_level: Int = 0,
    activation_alpha: Float = 1.0,
    activation_beta: Float = 0.0,
    activation_type: Text = "relu",
    block_size: Int = 0,
    expert_weight_bits: Int = 4,
    fc1_expert_weight_bits: Int = 0,
    fc2_expert_weight_bits: Int = 0,
    fc3_expert_weight_bits: Int = 0,
    k: Int = 1,
    normalize_routing_weights: Flag = 0,
    quant_type: Text = "int",
    swiglu_fusion: Int = 0,
    swiglu_limit: Float | None = None,
    swiglu_limit_after_activation: Flag = 0,
    use_sparse_mixer: Flag = 0,
    weights_prepacked: Int = -1,
) -> Array:
    """MoE with weights of 2, 4 or 8 bits, the low bits of a byte first; see there for shapes and attributes.

    Scales are one a row (experts, rows), or one a block along the columns (experts, rows, blocks), zero points are
    packed like the weights; without any the middle of the range counts. `router_weights` take the place of the softmax.
    Raises ValueError for weights of floats, which onnxruntime has on GPUs alone.
    """
    one_of("quant_type", quant_type, "int")
    return packed_mixture(
        xp, partial(expert_weights, xp), input, router_probs, router_weights,
        (
            (fc1_experts_weights, fc1_scales, fc1_zero_points, fc1_experts_bias, fc1_expert_weight_bits),
            (fc2_experts_weights, fc2_scales, fc2_zero_points, fc2_experts_bias, fc2_expert_weight_bits),
            (fc3_experts_weights, fc3_scales, fc3_zero_points, fc3_experts_bias, fc3_expert_weight_bits),
        ),
        expert_weight_bits, block_size, k, normalize_routing_weights, activation_type, swiglu_fusion,
        activation_alpha, activation_beta, swiglu_limit, swiglu_limit_after_activation,
    )  # fmt: skip


def packed_mixture(
    xp: Namespace,
    weights_of: Callable[..., Array],
    input: Array,
    router_probs: Array,
    router_weights: Array | None,
    packed: Sequence[tuple[Any, Array | None, Array | None, Array | None, int]],
    usual_bits: int,
    block_size: int,
    k: int,
    normalize: int,
    kind: str,
    fusion: int,
    alpha: float,
    beta: float,
    limit: float | None,
    after: int,
) -> Array:
    """QMoE of three layers that are `packed`: weights, scales, zero points, bias, bits (0: the usual) each.

    `weights_of` has the arguments of `expert_weights`, but for the first.
    """
    hidden = input.shape[-1]
    x = wide(xp, xp.reshape(input, (-1, hidden)))
    fc1, fc2, fc3 = ((*layer[:4], layer[4] or usual_bits) for layer in packed)
    require_rank(3, fc1_experts_weights=fc1[0])
    experts, rows = fc1[0].shape[:2]
    inner = rows // 2 if fusion and kind in {"swiglu", "geglu"} else rows
    require_shape("router_probs", router_probs, x.shape[0], experts)
    require_shape("router_weights", router_weights, x.shape[0], experts)
    sizes = {"fc1": (rows, hidden), "fc2": (hidden, inner), "fc3": (inner, hidden)}
    for name, (weights, scales, zeros, bias, bits) in zip(sizes, (fc1, fc2, fc3), strict=True):
        if weights is None:
            continue
        out, columns = sizes[name]
        one_of(f"{name}_expert_weight_bits", bits, 2, 4, 8)
        if scales is None:
            raise ValueError(f"{name}_scales must be given")
        blocks = () if scales.ndim == 2 and not block_size else (columns // (block_size or columns),)
        zeros_shape = (-(-out * bits // 8),) if not blocks else (out, -(-blocks[0] * bits // 8))
        require_shape(f"{name}_experts_weights", weights, experts, out, columns * bits // 8)
        require_shape(f"{name}_scales", scales, experts, out, *blocks)
        require_shape(f"{name}_zero_points", zeros, experts, *zeros_shape)
        require_shape(f"{name}_experts_bias", bias, experts, out)

    def affine(e: int, v: Array, layer: tuple[Any, ...]) -> Array:
        weights, scales, zeros, bias, bits = layer
        y = matrix_product(xp, v, weights_of(weights, scales, zeros, bits, e).T)
        return y if bias is None else y + wide(xp, bias[e, ...])

    def expert(e: int, v: Array) -> Array:
        gated = None if fc3[0] is None else affine(e, v, fc3)
        return _through(
            xp, affine(e, v, fc1), gated, lambda inner: affine(e, inner, fc2), kind, fusion, alpha, beta, limit, after
        )

    given = None if router_weights is None else wide(xp, router_weights)
    # onnxruntime's softmax here is over those chosen, whatever normalize_routing_weights says
    shares = _shares(xp, wide(xp, router_probs), k, normalize or given is None, given)
    return xp.astype(xp.reshape(_mixed(xp, x, shares, expert), input.shape), input.dtype)


@op("MoEGroupRouter", domain=MS, any_dtype=True, results=("logits", "float32", "float32"))
def moe_group_router(
    xp: Namespace,
    logits: Array,
    expert_bias: Array,
    projection_weight: Array | None = None,
    *,
    group_topk: Int = 2,
    n_group: Int = 1,
    router_sentinel: Float = -10000.0,
    top_k: Int,
    topk_group: Int = 1,
) -> tuple[Array, Array, Array]:
    """What MoE takes as `router_probs`: the logarithm of sigmoid(`logits`) for the chosen experts, else the sentinel.

    Of `n_group` groups of experts the `topk_group` best are open, by the sum of their `group_topk` best scores, and of
    these experts the `top_k` best are chosen; a score is the sigmoid plus `expert_bias`. Returns also all scores, and
    the sigmoids. `projection_weight` (experts, width) makes the logits of (tokens, width) first.
    """
    x = wide(xp, xp.reshape(logits, (-1, logits.shape[-1])))
    if projection_weight is not None:
        x = matrix_product(xp, x, wide(xp, projection_weight).T)
    rows, experts = x.shape
    if n_group < 1 or experts % n_group or not 1 <= topk_group <= n_group or not 1 <= top_k <= experts:
        raise ValueError(
            f"of {experts} experts in {n_group} groups, {top_k} cannot be chosen from {topk_group} groups: groups must "
            "be equal, and no more chosen than there are"
        )
    require_shape("expert_bias", expert_bias, experts)
    s = xp.sigmoid(x)
    scores = s + wide(xp, expert_bias)
    size = experts // n_group
    best = xp.top_k(xp.reshape(scores, (rows, n_group, size)), min(group_topk, size), 2, True, True)[0]
    groups = xp.top_k(xp.sum(best, axis=2, dtype=best.dtype), topk_group, 1, True, True)[1]
    opened = xp.any(xp.expand_dims(groups, axis=2) == xp.arange(experts, dtype=xp.int64) // size, axis=1)
    lowest = xp.asarray(float("-inf"), dtype=s.dtype)
    places = xp.top_k(xp.where(opened, scores, lowest), top_k, 1, True, True)[1]
    chosen = opened & xp.any(xp.expand_dims(places, axis=2) == xp.arange(experts, dtype=xp.int64), axis=1)
    routed = xp.where(chosen, xp.log(xp.clip(s, 1e-20, None)), xp.asarray(router_sentinel, dtype=s.dtype))
    return xp.astype(routed, logits.dtype), scores, s
