"""Operators that onnxruntime makes out of several: convolution and product with what follows, Gelu, normalisations."""

from __future__ import annotations

from collections.abc import Sequence

from ortlite.namespace import Namespace
from ortlite.ops import activation, conv, linalg, recurrent
from ortlite.ops.annotations import Array, DType, Flag, Float, Floats, Int, Ints, Text
from ortlite.ops.helpers import normal_axis, require_broadcast, require_shape
from ortlite.ops.registry import op
from ortlite.schema import OWN

MS = "com.microsoft"


@op("FusedConv", domain=MS)
def fused_conv(
    xp: Namespace,
    X: Array,
    W: Array,
    B: Array | None = None,
    Z: Array | None = None,
    *,
    activation: Text = "",
    activation_params: Floats | None = None,
    auto_pad: Text = "NOTSET",
    dilations: Ints | None = None,
    group: Int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """`activation`(Conv(`X`, `W`, `B`) + `Z`)."""
    y = conv.conv(
        xp, X, W, B, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads,
        strides=strides,
    )  # fmt: skip
    return activated(xp, y if Z is None else y + Z, activation, activation_params or ())


@op("PointwiseDepthwiseConv", domain=OWN)
def pointwise_depthwise_conv(
    xp: Namespace,
    X: Array,
    W: Array,
    V: Array,
    B: Array | None = None,
    C: Array | None = None,
    *,
    activation: Text = "",
    activation_params: Floats | None = None,
    auto_pad: Text = "NOTSET",
    dilations: Ints | None = None,
    last_activation: Text = "",
    last_activation_params: Floats | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """FusedConv of each pixel of `X` with `W` (M, channels, 1, 1) and `B`; then of each channel of that by itself with
    `V` (M, 1, *kernel) and `C`, to which the windows and the last activation belong.
    """
    wide = fused_conv(xp, X, W, B, activation=activation, activation_params=activation_params)
    return fused_conv(
        xp, wide, V, C, activation=last_activation, activation_params=last_activation_params, auto_pad=auto_pad,
        dilations=dilations, group=V.shape[0], pads=pads, strides=strides,
    )  # fmt: skip


@op("Linear", domain=OWN)
def linear(xp: Namespace, X: Array, W: Array, B: Array) -> Array:
    """`X` (…, depth) times `W` (depth, columns), plus the row `B` (columns)."""
    return linalg.matmul(xp, X, W) + B


# The activations and how many parameters each takes, in order: alpha and beta, or alpha and gamma of Selu.
ACTIVATIONS = {
    "": 0, "Affine": 2, "Celu": 1, "Clip": 2, "Elu": 1, "HardSigmoid": 2, "HardSwish": 0, "LeakyRelu": 1,
    "QuickGelu": 1, "Relu": 0, "ScaledTanh": 2, "Selu": 2, "Sigmoid": 0, "Softplus": 0, "Softsign": 0, "Tanh": 0,
    "ThresholdedRelu": 1,
}  # fmt: skip


def parameters(name: str, given: Sequence[float] | None) -> tuple[float, ...]:
    """What the activation of that name takes of the parameters `given`: files have more than it takes.

    Raises ValueError for an unknown activation, and where some are missing.
    """
    count = ACTIVATIONS.get(name)
    if count is None:
        raise ValueError(f"unknown activation {name!r}; there are {', '.join(sorted(filter(None, ACTIVATIONS)))}")
    params = tuple(given or ())
    if len(params) < count:
        raise ValueError(f"the activation {name} takes {count} parameters, not {list(params)}")
    return params[:count]


def activated(xp: Namespace, y: Array, name: str, params: Sequence[float]) -> Array:
    """`y` through the activation of that name, "" for none."""
    params = parameters(name, params)
    if not name:
        return y
    if name == "Clip":
        return xp.clip(y, *params)
    if name == "QuickGelu":
        return activation.swish(xp, y, alpha=params[0])
    if name == "HardSwish":
        return activation.hard_swish(xp, y)
    if name == "Celu":
        return activation.celu(xp, y, alpha=params[0])
    if name == "Selu":
        return activation.selu(xp, y, alpha=params[0], gamma=params[1])
    a, b = (*params, 0.0, 0.0)[:2]
    return recurrent.activation(xp, name, a, b)(y)


@op("FusedMatMul", domain=MS)
def fused_matmul(
    xp: Namespace,
    A: Array,
    B: Array,
    *,
    alpha: Float = 1.0,
    transA: Flag = 0,
    transB: Flag = 0,
    transBatchA: Flag = 0,
    transBatchB: Flag = 0,
) -> Array:
    """`alpha` · A' B'. `transBatch*` first moves the first axis behind the other batch axes."""
    a, b = turned(xp, A, transA, transBatchA), turned(xp, B, transB, transBatchB)
    y = linalg.matrix_product(xp, a, b)
    return y if alpha == 1.0 else y * alpha


def turned(xp: Namespace, x: Array, transpose: int, batch: int) -> Array:
    """`x` with its first axis moved behind the other batch axes, and its last two swapped, as asked."""
    if batch:
        x = xp.moveaxis(x, 0, x.ndim - 2)
    return xp.moveaxis(x, -1, -2) if transpose and x.ndim > 1 else x


@op("TransposeMatMul", domain=MS)
def transpose_matmul(
    xp: Namespace, A: Array, B: Array, *, alpha: Float = 1.0, transA: Flag = 0, transB: Flag = 0
) -> Array:
    """`alpha` · A' B': what FusedMatMul was called before."""
    return fused_matmul(xp, A, B, alpha=alpha, transA=transA, transB=transB)


@op("FusedGemm", domain=MS)
def fused_gemm(
    xp: Namespace,
    A: Array,
    B: Array,
    C: Array | None = None,
    *,
    activation: Text = "",
    activation_alpha: Float = 0.0,
    activation_beta: Float = 0.0,
    activation_gamma: Float = 0.0,
    alpha: Float = 1.0,
    beta: Float = 1.0,
    transA: Flag = 0,
    transB: Flag = 0,
) -> Array:
    """`activation`(`alpha` · A' B' + `beta` · C)."""
    y = linalg.gemm(xp, A, B, C, alpha=alpha, beta=beta, transA=transA, transB=transB)
    second = activation_gamma if activation == "Selu" else activation_beta
    return activated(xp, y, activation, (activation_alpha, second))


@op("Gelu", domain=MS)
def gelu(xp: Namespace, X: Array) -> Array:
    """`X` times the normal distribution function."""
    return activation.gelu(xp, X)


@op("BiasGelu", domain=MS)
def bias_gelu(xp: Namespace, A: Array, B: Array) -> Array:
    """Gelu(`A` + `B`), `B` a vector along the last axis."""
    require_shape("B", B, A.shape[-1])
    return activation.gelu(xp, A + B)


@op("FastGelu", domain=MS)
def fast_gelu(xp: Namespace, X: Array, bias: Array | None = None) -> Array:
    """Gelu by a hyperbolic tangent, of `X` + `bias`, a vector along the last axis."""
    require_shape("bias", bias, *X.shape[-1:])
    return activation.gelu(xp, X if bias is None else X + bias, approximate="tanh")


@op("QuickGelu", domain=MS)
def quick_gelu(xp: Namespace, X: Array, *, alpha: Float = 1.702) -> Array:
    """`X` · sigmoid(`alpha` · `X`)."""
    return activation.swish(xp, X, alpha=alpha)


def layer_normalized(
    xp: Namespace, x: Array, gamma: Array | None, beta: Array | None, epsilon: float
) -> tuple[Array, Array, Array]:
    """Normalised over the last axis, scaled and shifted; also mean and 1 / standard deviation."""
    require_shape("gamma", gamma, x.shape[-1])
    require_shape("beta", beta, x.shape[-1])
    mean = xp.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    inverse = 1.0 / xp.sqrt(xp.mean(xp.square(centred), axis=-1, keepdims=True) + epsilon)
    y = centred * inverse if gamma is None else centred * inverse * gamma
    return (y if beta is None else y + beta), mean, inverse


def root_mean_square_normalized(xp: Namespace, x: Array, scale: Array, epsilon: float) -> tuple[Array, Array]:
    """Divided by the root of the mean square over the last axis, and scaled; also its inverse."""
    require_shape("gamma", scale, x.shape[-1])
    inverse = 1.0 / xp.sqrt(xp.mean(xp.square(x), axis=-1, keepdims=True) + epsilon)
    return x * inverse * scale, inverse


@op("SkipLayerNormalization", domain=MS, results=("input", "float32", "float32", "input"))
def skip_layer_normalization(
    xp: Namespace,
    input: Array,
    skip: Array,
    gamma: Array,
    beta: Array | None = None,
    bias: Array | None = None,
    *,
    epsilon: Float = 1e-12,
) -> tuple[Array, Array, Array, Array]:
    """Layer normalisation of `input` + `skip` + `bias`; also mean, 1 / standard deviation, and that sum."""
    require_shape("bias", bias, input.shape[-1])
    total = input + skip if bias is None else input + skip + bias
    y, mean, inverse = layer_normalized(xp, total, gamma, beta, epsilon)
    return y, mean, inverse, total


@op("SkipSimplifiedLayerNormalization", domain=MS, results=("input", "float32", "float32", "input"))
def skip_simplified_layer_normalization(
    xp: Namespace, input: Array, skip: Array, gamma: Array, bias: Array | None = None, *, epsilon: Float = 1e-12
) -> tuple[Array, Array, Array, Array]:
    """`input` + `skip` + `bias` over its root mean square, scaled; also 0 for the mean, 1 / that root, and the sum."""
    require_shape("bias", bias, input.shape[-1])
    total = input + skip if bias is None else input + skip + bias
    y, inverse = root_mean_square_normalized(xp, total, gamma, epsilon)
    return y, xp.zeros_like(inverse), inverse, total


@op("SimplifiedLayerNormalization", results=("scale", "float32"))
def simplified_layer_normalization(
    xp: Namespace, X: Array, scale: Array, *, axis: Int = -1, epsilon: Float = 1e-5, stash_type: DType | None = None
) -> tuple[Array, Array]:
    """`X` over its root mean square (axes from `axis` on), scaled; in ai.onnx, where onnxruntime has it."""
    axes = tuple(range(normal_axis(axis, X.ndim), X.ndim))
    require_broadcast("scale", scale, X.shape)
    x = (
        X
        if xp.dtype_name(X.dtype) == "float64"
        else xp.astype(X, xp.float32 if stash_type is None else xp.dtype(stash_type))
    )
    inverse = 1.0 / xp.sqrt(xp.mean(xp.square(x), axis=axes, keepdims=True) + epsilon)
    return xp.astype(x * inverse, scale.dtype) * scale, xp.astype(inverse, xp.float32)


@op("EmbedLayerNormalization", domain=MS, results=("gamma", "int32", "gamma"))
def embed_layer_normalization(
    xp: Namespace,
    input_ids: Array,
    segment_ids: Array | None,
    word_embedding: Array,
    position_embedding: Array,
    segment_embedding: Array | None = None,
    gamma: Array | None = None,
    beta: Array | None = None,
    mask: Array | None = None,
    position_ids: Array | None = None,
    *,
    epsilon: Float = 1e-12,
    mask_index_type: Int = 0,
) -> tuple[Array, Array, Array]:
    """Layer normalisation of the sum of word, position and segment embeddings (batch, sequence, hidden).

    Also how many tokens `mask` counts in each example (0 without one), and the sum.
    """
    batch, length = input_ids.shape
    if position_ids is None and length > position_embedding.shape[0]:
        raise ValueError(f"there are {length} tokens and {position_embedding.shape[0]} positions")

    def looked_up(table: Array, ids: Array) -> Array:
        xp.require_range("ids", ids, 0, table.shape[0] - 1)
        return xp.reshape(xp.take(table, xp.reshape(ids, (-1,)), axis=0), (*ids.shape, table.shape[1]))

    total = looked_up(word_embedding, input_ids)
    total = total + (
        position_embedding[:length, :] if position_ids is None else looked_up(position_embedding, position_ids)
    )
    if segment_ids is not None and segment_embedding is not None:
        total = total + looked_up(segment_embedding, segment_ids)
    y, _, _ = layer_normalized(xp, total, gamma, beta, epsilon)
    counts = xp.zeros((batch,), dtype=xp.int32) if mask is None else xp.sum(mask, axis=1, dtype=xp.int32)
    return y, counts, total
