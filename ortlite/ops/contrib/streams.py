"""What stands between the layers of newer language models: norms with gates, streams side by side and their mixing.

All of them compute in float32, whatever they are given; float64 as it is.
"""

from __future__ import annotations

from math import prod

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Float, Int, Text
from ortlite.ops.helpers import one_of, require_rank, require_shape
from ortlite.ops.quant import wide
from ortlite.ops.registry import op

MS = "com.microsoft"


def _inverse(xp: Namespace, x: Array, epsilon: float) -> Array:
    """1 / the root of the mean square over the last axis."""
    return 1.0 / xp.sqrt(xp.mean(xp.square(x), axis=-1, keepdims=True) + epsilon)


def _grouped(xp: Namespace, x: Array, branches: int) -> Array:
    """(…, branches, width) in float32, of (…, branches · width) where `branches` is not 0."""
    if not branches:
        if x.ndim < 2:
            raise ValueError(f"{list(x.shape)} has no axis of branches, and num_branches is not given")
        return wide(xp, x)
    if branches < 0 or x.shape[-1] % branches:
        raise ValueError(f"{list(x.shape)} cannot be divided into {branches} branches")
    return xp.reshape(wide(xp, x), (*x.shape[:-1], branches, x.shape[-1] // branches))


def _by_branch(xp: Namespace, name: str, x: Array, shape: tuple[int, ...]) -> Array:
    """A factor (…, branches), (…, branches, 1) or like `shape`, (…, branches, width), or flattened, in float32."""
    *lead, branches, width = shape
    forms = ((branches,), (branches, 1), (branches, width), (branches * width,))
    if tuple(x.shape) not in [(*lead, *form) for form in forms]:
        raise ValueError(f"{name} {list(x.shape)} does not fit streams {list(shape)}")
    count = prod(x.shape[len(lead) :])
    return xp.reshape(wide(xp, x), (*lead, branches, 1 if count == branches else width))


@op("BranchwiseRMSNorm", domain=MS, any_dtype=True)
def branchwise_rms_norm(
    xp: Namespace, X: Array, scale: Array | None = None, *, epsilon: Float = 1e-5, num_branches: Int = 0
) -> Array:
    """Each branch of (…, branches, width), or flattened, over its root mean square; scaled by branch or not."""
    x = _grouped(xp, X, num_branches)
    branches, width = x.shape[-2:]
    y = x * _inverse(xp, x, epsilon)
    if scale is not None:
        if tuple(scale.shape) not in {(branches * width,), (branches, width), (width,)}:
            raise ValueError(f"scale {list(scale.shape)} does not fit {branches} branches of {width}")
        y = y * xp.reshape(wide(xp, scale), (-1, width))
    return xp.astype(xp.reshape(y, X.shape), X.dtype)


@op("GatedRMSNorm", domain=MS, any_dtype=True)
def gated_rms_norm(
    xp: Namespace, X: Array, scale: Array, gate: Array, *, activation: Text = "silu", epsilon: Float = 1e-5
) -> Array:
    """`X` over its root mean square, in groups as wide as `scale`, times `scale` and the activation of `gate`."""
    one_of("activation", activation, "silu", "swish", "sigmoid")
    require_rank(1, scale=scale)
    (width,) = scale.shape
    if not width or X.shape[-1] % width:
        raise ValueError(f"X {list(X.shape)} cannot be divided into groups of {width}")
    require_shape("gate", gate, *X.shape)
    x, z = wide(xp, xp.reshape(X, (*X.shape[:-1], X.shape[-1] // width, width))), wide(xp, gate)
    y = xp.reshape(x * _inverse(xp, x, epsilon) * wide(xp, scale), X.shape) * xp.sigmoid(z)
    return xp.astype(y if activation == "sigmoid" else y * z, X.dtype)


@op("GatedAdd", domain=MS, any_dtype=True)
def gated_add(xp: Namespace, X: Array, Y: Array, gate: Array, gate_weight: Array | None = None) -> Array:
    """`X` + `Y` · `gate`, one gate a row; the product is rounded to the dtype before the sum.

    Raises ValueError for gates that are products themselves, which onnxruntime has on GPUs alone.
    """
    if gate_weight is not None:
        raise ValueError("gate_weight exists on onnxruntime's GPUs alone")
    require_shape("Y", Y, *X.shape)
    require_shape("gate", gate, *X.shape[:-1], 1)
    weighed = xp.astype(wide(xp, Y) * wide(xp, gate), X.dtype)
    return xp.astype(wide(xp, X) + wide(xp, weighed), X.dtype)


@op("ScaledSiLU", domain=MS, any_dtype=True)
def scaled_silu(xp: Namespace, X: Array, scale: Array | None = None, *, alpha: Float = 1.0) -> Array:
    """`X` times `scale`, or else `alpha`, times the sigmoid of that; rounded to the dtype after each step."""

    def rounded(x: Array) -> Array:
        return wide(xp, xp.astype(x, X.dtype))

    z = rounded(wide(xp, X) * (alpha if scale is None else xp.reshape(wide(xp, scale), ())))
    return xp.astype(z * rounded(xp.sigmoid(z)), X.dtype)


@op("HyperConnectionPreMix", domain=MS, any_dtype=True)
def hyper_connection_pre_mix(
    xp: Namespace, streams: Array, pre_mix: Array, *, num_branches: Int = 0, reduction_scale: Float = 1.0
) -> Array:
    """The sum of streams (…, branches, width), or flattened, each times its part of `pre_mix`: (…, width)."""
    x = _grouped(xp, streams, num_branches)
    y = xp.sum(x * _by_branch(xp, "pre_mix", pre_mix, x.shape), axis=-2, dtype=x.dtype)
    return xp.astype(y * reduction_scale, streams.dtype)


@op("HyperConnectionPostMix", domain=MS, any_dtype=True)
def hyper_connection_post_mix(
    xp: Namespace,
    streams: Array,
    block_output: Array,
    post_mix: Array,
    stream_mix: Array | None = None,
    *,
    num_branches: Int = 0,
) -> Array:
    """Streams (…, branches, width), mixed with each other by `stream_mix` (…, from, to), plus the block's result.

    `block_output` (…, width) counts in each as `post_mix` says: (…, branches), with a last axis of 1 or of the width.
    """
    x = _grouped(xp, streams, num_branches)
    *lead, branches, width = x.shape
    require_shape("block_output", block_output, *lead, width)
    require_shape("stream_mix", stream_mix, *lead, branches, branches)
    y = x if stream_mix is None else xp.matmul(xp.matrix_transpose(wide(xp, stream_mix)), x)
    y = y + _by_branch(xp, "post_mix", post_mix, x.shape) * xp.expand_dims(wide(xp, block_output), axis=-2)
    return xp.astype(xp.reshape(y, streams.shape), streams.dtype)


@op("EngramGate", domain=MS, any_dtype=True)
def engram_gate(
    xp: Namespace,
    key: Array,
    query: Array,
    value: Array,
    key_norm_scale: Array,
    query_norm_scale: Array,
    conv_norm_scale: Array | None = None,
    *,
    epsilon: Float = 1e-5,
) -> tuple[Array, Array | None]:
    """`value` (batch, time, width) for each stream, times a gate of keys and queries (batch, time, streams, width).

    The gate is a sigmoid of the signed root of their product, both over their root mean square. Returns also the
    result over its own, times `conv_norm_scale`.
    """
    require_rank(4, key=key)
    batch, time, streams, width = key.shape
    require_shape("query", query, batch, time, streams, width)
    require_shape("value", value, batch, time, width)
    for name, given in (("key", key_norm_scale), ("query", query_norm_scale), ("conv", conv_norm_scale)):
        require_shape(f"{name}_norm_scale", given, streams, width)
    k, q = wide(xp, key), wide(xp, query)
    k = k * _inverse(xp, k, epsilon) * wide(xp, key_norm_scale)
    q = q * _inverse(xp, q, epsilon) * wide(xp, query_norm_scale)
    dot = xp.sum(k * q, axis=-1, keepdims=True, dtype=k.dtype) / width**0.5
    gate = xp.sigmoid(xp.sign(dot) * xp.sqrt(xp.clip(xp.abs(dot), 1e-6, None)))
    y = gate * xp.expand_dims(wide(xp, value), axis=2)
    if conv_norm_scale is None:
        return xp.astype(y, key.dtype), None
    normed = y * _inverse(xp, y, epsilon) * wide(xp, conv_norm_scale)
    return xp.astype(y, key.dtype), xp.astype(normed, key.dtype)
