"""Quantised operators: each computes in floats between dequantised inputs and a quantised result."""

from __future__ import annotations

from ortlite.namespace import Namespace
from ortlite.ops import activation, linalg, pool, quant, recurrent
from ortlite.ops.annotations import Array, Flag, Float, Floats, Int, Ints, Text, Texts
from ortlite.ops.contrib.attention import MASKED, attention
from ortlite.ops.contrib.fused import layer_normalized
from ortlite.ops.helpers import require_shape, wrapped
from ortlite.ops.quant import broadcast_scale, by_row, centred, dtype_of, saturated, wide
from ortlite.ops.registry import op

MS = "com.microsoft"


def _float(xp: Namespace, x: Array, scale: Array, zero_point: Array | None, axis: int = -1) -> Array:
    """A quantised tensor as floats; scales are one, or one for each place along `axis`."""
    return quant.dequantize_linear(xp, x, scale, zero_point, axis=axis)


def _quantised(xp: Namespace, y: Array, scale: Array, zero_point: Array | None, like: Array) -> Array:
    """Floats as the zero point's type, or without one as that of `like`."""
    to = dtype_of(xp, like if zero_point is None else zero_point)
    zero = None if zero_point is None else xp.reshape(zero_point, ())
    return saturated(xp, xp.divide(y, xp.reshape(scale, ())), zero, to)


@op("QLinearAdd", domain=MS, any_dtype=True)
def qlinear_add(
    xp: Namespace,
    A: Array,
    A_scale: Array,
    A_zero_point: Array | None,
    B: Array,
    B_scale: Array,
    B_zero_point: Array | None,
    C_scale: Array,
    C_zero_point: Array | None = None,
) -> Array:
    """The sum of two quantised tensors."""
    y = _float(xp, A, A_scale, A_zero_point) + _float(xp, B, B_scale, B_zero_point)
    return _quantised(xp, y, C_scale, C_zero_point, A)


@op("QLinearMul", domain=MS, any_dtype=True)
def qlinear_mul(
    xp: Namespace,
    A: Array,
    A_scale: Array,
    A_zero_point: Array | None,
    B: Array,
    B_scale: Array,
    B_zero_point: Array | None,
    C_scale: Array,
    C_zero_point: Array | None = None,
) -> Array:
    """The product of two quantised tensors."""
    y = _float(xp, A, A_scale, A_zero_point) * _float(xp, B, B_scale, B_zero_point)
    return _quantised(xp, y, C_scale, C_zero_point, A)


@op("QLinearSigmoid", domain=MS, any_dtype=True)
def qlinear_sigmoid(
    xp: Namespace,
    X: Array,
    X_scale: Array,
    X_zero_point: Array | None,
    Y_scale: Array,
    Y_zero_point: Array | None = None,
) -> Array:
    """Sigmoid of a quantised tensor."""
    return _quantised(xp, xp.sigmoid(_float(xp, X, X_scale, X_zero_point)), Y_scale, Y_zero_point, X)


@op("QLinearLeakyRelu", domain=MS, any_dtype=True)
def qlinear_leaky_relu(
    xp: Namespace,
    X: Array,
    X_scale: Array,
    X_zero_point: Array | None,
    Y_scale: Array,
    Y_zero_point: Array | None = None,
    *,
    alpha: Float = 0.01,
) -> Array:
    """LeakyRelu of a quantised tensor."""
    x = _float(xp, X, X_scale, X_zero_point)
    return _quantised(xp, xp.where(x < 0, x * alpha, x), Y_scale, Y_zero_point, X)


@op("QLinearSoftmax", domain=MS, any_dtype=True)
def qlinear_softmax(
    xp: Namespace,
    X: Array,
    X_scale: Array,
    x_zero_point: Array | None,
    y_scale: Array,
    y_zero_point: Array,
    *,
    axis: Int = -1,
    opset: Int,
) -> Array:
    """Softmax of a quantised tensor, with the meaning of `opset`: below 13 over all axes from `axis` on."""
    x = _float(xp, X, X_scale, x_zero_point)
    y = activation.softmax_1(xp, x, axis=axis) if opset < 13 else xp.softmax(x, axis)
    return _quantised(xp, y, y_scale, y_zero_point, X)


@op("QLinearConcat", domain=MS, any_dtype=True, results=("Y_zero_point",))
def qlinear_concat(xp: Namespace, Y_scale: Array, Y_zero_point: Array, *inputs: Array, axis: Int) -> Array:
    """Quantised tensors, each with its scale and zero point behind it, side by side."""
    parts = [_float(xp, *inputs[i : i + 3]) for i in range(0, len(inputs), 3)]
    return _quantised(xp, xp.concat(parts, axis=axis), Y_scale, Y_zero_point, Y_zero_point)


@op("QuantizeLinear", domain=MS, any_dtype=True, results=("y_zero_point",))
def quantize_linear(
    xp: Namespace, x: Array, y_scale: Array, y_zero_point: Array | None = None, *, axis: Int = 1
) -> Array:
    """ai.onnx's QuantizeLinear, from when it had only bytes."""
    return quant.quantize_linear(xp, x, y_scale, y_zero_point, axis=axis)


@op("DequantizeLinear", domain=MS, any_dtype=True, results=("x_scale",))
def dequantize_linear(
    xp: Namespace, x: Array, x_scale: Array, x_zero_point: Array | None = None, *, axis: Int = 1
) -> Array:
    """ai.onnx's DequantizeLinear, from when it had only bytes."""
    return quant.dequantize_linear(xp, x, x_scale, x_zero_point, axis=axis)


@op("QLinearWhere", domain=MS, any_dtype=True, results=("z_zero_point",))
def qlinear_where(
    xp: Namespace,
    condition: Array,
    X: Array,
    x_scale: Array,
    x_zero_point: Array,
    Y: Array,
    y_scale: Array,
    y_zero_point: Array,
    z_scale: Array,
    z_zero_point: Array,
) -> Array:
    """`X` where `condition`, else `Y`, quantised anew."""
    z = xp.where(condition, _float(xp, X, x_scale, x_zero_point), _float(xp, Y, y_scale, y_zero_point))
    return _quantised(xp, z, z_scale, z_zero_point, X)


@op("QLinearConv", domain=MS, any_dtype=True, results=("y_zero_point",))
def qlinear_conv(
    xp: Namespace,
    x: Array,
    x_scale: Array,
    x_zero_point: Array,
    w: Array,
    w_scale: Array,
    w_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
    B: Array | None = None,
    *,
    auto_pad: Text = "NOTSET",
    channels_last: Flag = 0,
    dilations: Ints | None = None,
    group: Int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """ai.onnx's QLinearConv; with `channels_last`, of inputs and results with the channels last."""
    y = quant.qlinear_conv(
        xp, _channels_first(xp, x, channels_last), x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale,
        y_zero_point, B, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads,
        strides=strides,
    )  # fmt: skip
    return _channels_last(xp, y, channels_last)


def _channels_first(xp: Namespace, x: Array, channels_last: int) -> Array:
    return xp.moveaxis(x, -1, 1) if channels_last else x


def _channels_last(xp: Namespace, x: Array, channels_last: int) -> Array:
    return xp.moveaxis(x, 1, -1) if channels_last else x


@op("QLinearAveragePool", domain=MS, any_dtype=True)
def qlinear_average_pool(
    xp: Namespace,
    X: Array,
    x_scale: Array,
    x_zero_point: Array | None,
    y_scale: Array,
    y_zero_point: Array | None = None,
    *,
    auto_pad: Text = "NOTSET",
    ceil_mode: Flag = 0,
    channels_last: Flag = 0,
    count_include_pad: Flag = 0,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """AveragePool of a quantised tensor."""
    x = _channels_first(xp, _float(xp, X, x_scale, x_zero_point), channels_last)
    y = pool.average_pool(
        xp, x, auto_pad=auto_pad, ceil_mode=ceil_mode, count_include_pad=count_include_pad,
        kernel_shape=kernel_shape, pads=pads, strides=strides,
    )  # fmt: skip
    return _channels_last(xp, _quantised(xp, y, y_scale, y_zero_point, X), channels_last)


@op("QLinearGlobalAveragePool", domain=MS, any_dtype=True)
def qlinear_global_average_pool(
    xp: Namespace,
    X: Array,
    x_scale: Array,
    x_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
    *,
    channels_last: Flag = 0,
) -> Array:
    """GlobalAveragePool of a quantised tensor."""
    x = _channels_first(xp, _float(xp, X, x_scale, x_zero_point), channels_last)
    y = xp.mean(x, axis=tuple(range(2, x.ndim)), keepdims=True)
    return _channels_last(xp, _quantised(xp, y, y_scale, y_zero_point, X), channels_last)


@op("NhwcMaxPool", domain=MS)
def nhwc_max_pool(
    xp: Namespace,
    x: Array,
    *,
    auto_pad: Text = "NOTSET",
    ceil_mode: Flag = 0,
    dilations: Ints | None = None,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """MaxPool with the channels last."""
    x = xp.moveaxis(x, -1, 1)
    size, strides, dilations, padding = pool.pool_windows(
        x.shape, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode
    )
    return xp.moveaxis(xp.max_pool(x, size, strides=strides, pads=padding, dilations=dilations)[0], 1, -1)


@op("QGemm", domain=MS, any_dtype=True, results=("y_zero_point",))
def qgemm(
    xp: Namespace,
    A: Array,
    a_scale: Array,
    a_zero_point: Array,
    B: Array,
    b_scale: Array,
    b_zero_point: Array,
    C: Array | None = None,
    y_scale: Array | None = None,
    y_zero_point: Array | None = None,
    *,
    alpha: Float = 1.0,
    transA: Flag = 0,
    transB: Flag = 0,
) -> Array:
    """`alpha` · A' B' + C of quantised matrices, C int32 in units of both scales; quantised when `y_scale` is there."""
    a = centred(xp, A.T if transA else A, a_zero_point)
    # scales and zero points of B are single, or one a column of the product
    b = centred(xp, B, by_row(xp, b_zero_point) if transB else b_zero_point)
    product = xp.integer_matmul(a, b.T if transB else b, xp.int32)
    return finished(xp, product, A, a_scale, b_scale, C, y_scale, y_zero_point, alpha)


def finished(
    xp: Namespace,
    product: Array,
    A: Array,
    a_scale: Array,
    b_scale: Array,
    C: Array | None,
    y_scale: Array | None,
    y_zero_point: Array | None,
    alpha: float,
) -> Array:
    """What QGemm makes of the product of `A` and its weights in int32."""
    product = product if C is None else product + C
    factor = wide(xp, a_scale) * wide(xp, b_scale) * alpha
    if y_scale is None:
        return xp.astype(product, xp.float32) * factor
    to = dtype_of(xp, A if y_zero_point is None else y_zero_point)
    y = xp.astype(product, xp.float32) * xp.divide(factor, xp.reshape(y_scale, ()))
    return saturated(xp, y, None if y_zero_point is None else xp.reshape(y_zero_point, ()), to)


@op("MatMulIntegerToFloat", domain=MS, any_dtype=True, results=("a_scale",))
def matmul_integer_to_float(
    xp: Namespace,
    A: Array,
    B: Array,
    a_scale: Array,
    b_scale: Array,
    a_zero_point: Array | None = None,
    b_zero_point: Array | None = None,
    bias: Array | None = None,
) -> Array:
    """The product of quantised matrices, scaled, plus `bias`; those of B are single, or one a column."""
    return scaled(xp, quant.matmul_integer(xp, A, B, a_zero_point, b_zero_point), a_scale, b_scale, bias)


def scaled(xp: Namespace, product: Array, a_scale: Array, b_scale: Array, bias: Array | None) -> Array:
    """A product of quantised matrices as floats, plus `bias`."""
    y = xp.astype(product, a_scale.dtype) * (a_scale * b_scale)
    return y if bias is None else y + bias


@op("DynamicQuantizeMatMul", domain=MS, any_dtype=True)
def dynamic_quantize_matmul(
    xp: Namespace,
    A: Array,
    B: Array,
    b_scale: Array,
    b_zero_point: Array | None = None,
    bias: Array | None = None,
) -> Array:
    """`A`, quantised to uint8 by its own range, times a quantised matrix, as floats, plus `bias`."""
    a, a_scale, a_zero_point = quant.dynamic_quantize_linear(xp, A)
    return matmul_integer_to_float(xp, a, B, a_scale, b_scale, a_zero_point, b_zero_point, bias)


@op("DynamicQuantizeLSTM", domain=MS, any_dtype=True)
def dynamic_quantize_lstm(
    xp: Namespace,
    X: Array,
    W: Array,
    R: Array,
    B: Array | None,
    sequence_lens: Array | None,
    initial_h: Array | None,
    initial_c: Array | None,
    P: Array | None,
    W_scale: Array,
    W_zero_point: Array,
    R_scale: Array,
    R_zero_point: Array,
    *,
    activation_alpha: Floats | None = None,
    activation_beta: Floats | None = None,
    activations: Texts | None = None,
    clip: Float = 0.0,
    direction: Text = "forward",
    hidden_size: Int | None = None,
    input_forget: Flag = 0,
) -> tuple[Array, Array, Array]:
    """LSTM with quantised weights (directions, features, gates · hidden), single scales or one a column.

    Inputs and states stay floats, where onnxruntime rounds them to 8 bits as well: this is nearer to the exact result.
    """

    def floats(x: Array, scale: Array, zero_point: Array) -> Array:
        scale, zero_point = (
            xp.expand_dims(v, axis=1) if v.ndim == 2 else xp.reshape(v, (-1, 1, 1)) for v in (scale, zero_point)
        )
        return xp.permute_dims(wide(xp, centred(xp, x, zero_point)) * scale, (0, 2, 1))

    return recurrent.lstm(
        xp, X, floats(W, W_scale, W_zero_point), floats(R, R_scale, R_zero_point), B, sequence_lens, initial_h,
        initial_c, P, activation_alpha=activation_alpha, activation_beta=activation_beta, activations=activations,
        clip=clip, direction=direction, input_forget=input_forget,
    )  # fmt: skip


@op("QEmbedLayerNormalization", domain=MS, any_dtype=True, results=("word_embedding_scale", "int32"))
def qembed_layer_normalization(
    xp: Namespace,
    input_ids: Array,
    segment_ids: Array | None,
    word_embedding_quant: Array,
    position_embedding_quant: Array,
    segment_embedding: Array | None,
    gamma_quant: Array,
    beta_quant: Array,
    mask: Array | None,
    word_embedding_scale: Array,
    position_embedding_scale: Array,
    segment_embedding_scale: Array | None,
    gamma_scale: Array,
    beta_scale: Array,
    word_embedding_zero_point: Array,
    position_embedding_zero_point: Array,
    segment_embedding_zero_point: Array | None,
    gamma_zero_point: Array,
    beta_zero_point: Array,
    *,
    epsilon: Float = 1e-12,
) -> tuple[Array, Array]:
    """EmbedLayerNormalization with quantised tables and weights, each with one scale and zero point."""
    batch, length = input_ids.shape
    if length > position_embedding_quant.shape[0]:
        raise ValueError(f"there are {length} tokens and {position_embedding_quant.shape[0]} positions")

    def looked_up(table: Array, ids: Array, scale: Array, zero_point: Array | None) -> Array:
        require_shape("segment_ids", ids, batch, length)
        xp.require_range("ids", ids, 0, table.shape[0] - 1)
        rows = xp.take(table, xp.reshape(xp.astype(ids, xp.int64), (-1,)), axis=0)
        return xp.reshape(_float(xp, rows, scale, zero_point), (batch, length, -1))

    total = looked_up(word_embedding_quant, input_ids, word_embedding_scale, word_embedding_zero_point)
    positions = position_embedding_quant[:length, :]
    total = total + _float(xp, positions, position_embedding_scale, position_embedding_zero_point)
    if segment_ids is not None and segment_embedding is not None and segment_embedding_scale is not None:
        total = total + looked_up(segment_embedding, segment_ids, segment_embedding_scale, segment_embedding_zero_point)
    gamma = _float(xp, gamma_quant, gamma_scale, gamma_zero_point)
    y, _, _ = layer_normalized(xp, total, gamma, _float(xp, beta_quant, beta_scale, beta_zero_point), epsilon)
    counts = xp.zeros((batch,), dtype=xp.int32) if mask is None else xp.sum(mask, axis=1, dtype=xp.int32)
    return y, counts


@op("MatMulInteger16", domain=MS, results=("int32",))
def matmul_integer16(xp: Namespace, A: Array, B: Array) -> Array:
    """The product of matrices of 16-bit integers, added up in 32 bits."""
    return xp.integer_matmul(A, B, xp.int32)


@op("QAttention", domain=MS, any_dtype=True, results=("bias", "bias"))
def qattention(
    xp: Namespace,
    input: Array,
    weight: Array,
    bias: Array,
    input_scale: Array,
    weight_scale: Array,
    mask_index: Array | None = None,
    input_zero_point: Array | None = None,
    weight_zero_point: Array | None = None,
    past: Array | None = None,
    *,
    do_rotary: Flag = 0,
    mask_filter_value: Float = MASKED,
    num_heads: Int,
    past_present_share_buffer: Flag = 0,
    scale: Float | None = None,
    unidirectional: Flag = 0,
) -> tuple[Array, Array]:
    """Attention of a quantised input and quantised projections (single scales, or one a column)."""
    return attention(
        xp, _float(xp, input, input_scale, input_zero_point), _float(xp, weight, weight_scale, weight_zero_point), bias,
        mask_index, past, do_rotary=do_rotary, mask_filter_value=mask_filter_value, num_heads=num_heads,
        past_present_share_buffer=past_present_share_buffer, scale=scale, unidirectional=unidirectional,
    )  # fmt: skip


def unpacked(xp: Namespace, x: Array, bits: int) -> Array:
    """Numbers of 2, 4 or 8 bits out of bytes, the low bits first, side by side in the last axis; as float32."""
    x = xp.astype(x, xp.int32)
    count = 8 // bits
    shifts = xp.arange(count, dtype=xp.int32) * bits
    parts = xp.bitwise_and(
        xp.bitwise_right_shift(xp.expand_dims(x, axis=-1), shifts), xp.asarray(2**bits - 1, dtype=xp.int32)
    )
    return xp.astype(xp.reshape(parts, (*x.shape[:-1], x.shape[-1] * count)), xp.float32)


def blockwise_weights(
    xp: Namespace,
    B: Array,
    scales: Array,
    zero_points: Array | None,
    g_idx: Array | None,
    K: int,
    N: int,
    bits: int,
    block_size: int,
) -> Array:
    """The weights (N, K) of MatMulNBits as floats."""
    if not N:
        return xp.zeros((0, K), dtype=xp.float32)
    blocks = -(-K // block_size)
    require_shape("g_idx", g_idx, K)
    w = xp.reshape(unpacked(xp, xp.reshape(B, (N, -1)), bits), (N, -1))[:, : blocks * block_size]
    scale = xp.reshape(wide(xp, scales), (N, blocks))
    if zero_points is None:
        zero = xp.full((N, blocks), float(2 ** (bits - 1)), dtype=xp.float32)
    elif dtype_of(xp, zero_points).kind == "u":
        zero = unpacked(xp, xp.reshape(zero_points, (N, -1)), bits)[:, :blocks]
    else:
        zero = xp.reshape(wide(xp, zero_points), (N, blocks))
    require_shape("the unpacked zero_points", zero, N, blocks)
    if g_idx is not None:
        scale, zero = (xp.take(v, xp.astype(g_idx, xp.int64), axis=1) for v in (scale, zero))
        return (w[:, :K] - zero) * scale
    return xp.reshape((xp.reshape(w, (N, blocks, block_size)) - zero[..., None]) * scale[..., None], (N, -1))[:, :K]


@op("MatMulNBits", domain=MS, any_dtype=True)
def matmul_nbits(
    xp: Namespace,
    A: Array,
    B: Array,
    scales: Array,
    zero_points: Array | None = None,
    g_idx: Array | None = None,
    bias: Array | None = None,
    *,
    K: Int,
    N: Int,
    accuracy_level: Int = 0,
    bits: Int = 4,
    block_size: Int,
    weight_prepacked: Int = 0,
) -> Array:
    """`A` (..., K) times the transpose of weights (N, K), packed `bits` wide in blocks of `block_size` along K.

    Zero points are packed alike, or floats; without any the middle of the range counts. `g_idx` says the block of each
    place along K. Raises ValueError for weights that onnxruntime packed for its own kernels.
    """
    if weight_prepacked:
        raise ValueError("weight_prepacked weights are in a layout of onnxruntime's own")
    if A.shape[-1] != K:
        raise ValueError(f"A {list(A.shape)} has no last axis of K {K}")
    require_shape("bias", bias, N)
    w = blockwise_weights(xp, B, scales, zero_points, g_idx, K, N, bits, block_size)
    y = linalg.matrix_product(xp, wide(xp, A), w.T)
    y = y if bias is None else y + wide(xp, bias)
    return xp.astype(y, A.dtype)


@op("GatherBlockQuantized", domain=MS, any_dtype=True, results=("scales",))
def gather_block_quantized(
    xp: Namespace,
    data: Array,
    indices: Array,
    scales: Array,
    zero_points: Array | None = None,
    *,
    bits: Int = 4,
    block_size: Int = 128,
    gather_axis: Int = 0,
    quantize_axis: Int = 1,
) -> Array:
    """Slices of a tensor that is quantised in blocks of `block_size` along `quantize_axis`, as floats.

    Bytes hold two numbers of 4 bits, the low ones first, around 8 unless `zero_points` says otherwise.
    """
    axis, along = gather_axis % data.ndim, quantize_axis % data.ndim
    packed = dtype_of(xp, data).name == "uint8"
    x = unpacked(xp, data, bits) if packed else wide(xp, xp.astype(data, xp.int8))
    if zero_points is not None:
        zero = unpacked(xp, zero_points, bits) if packed else wide(xp, xp.astype(zero_points, xp.int8))
        zero = zero[(*(slice(None),) * along, slice(0, scales.shape[along]), ...)]
    else:
        zero = xp.full(scales.shape, float(2 ** (bits - 1)) if packed else 0.0, dtype=xp.float32)
    index = wrapped(xp, xp.reshape(indices, (-1,)), x.shape[axis])
    x = xp.take(x, index, axis=axis)
    zero, scale = (xp.take(v, index, axis=axis) for v in (zero, wide(xp, scales)))
    y = (x - broadcast_scale(xp, zero, x, along, block_size)) * broadcast_scale(xp, scale, x, along, block_size)
    y = xp.reshape(y, (*y.shape[:axis], *indices.shape, *y.shape[axis + 1 :]))
    return xp.astype(y, scales.dtype)
