"""com.microsoft beside onnxruntime."""

from __future__ import annotations

from contextlib import suppress

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from opcheck import PROVIDERS, check, make_model, onnxruntime_op, run_model, run_op

import ortlite
from ortlite.api.errors import Fail

R = np.random.default_rng(0)
MS = {"domain": "com.microsoft", "opset": 1, "rtol": 1e-3, "atol": 1e-4}


def floats(*shape):
    return R.standard_normal(shape).astype(np.float32)


def bytes_(*shape, signed=False):
    return R.integers(-128 if signed else 0, 128 if signed else 256, shape).astype(np.int8 if signed else np.uint8)


F = np.float32
X = floats(2, 3, 8)


@pytest.mark.parametrize("op", ["Gelu", "FastGelu", "QuickGelu"])
def test_gelus(op):
    check(op, X, **MS)


def test_gelus_with_bias():
    check("FastGelu", X, floats(8), **MS)
    check("BiasGelu", X, floats(8), **MS)


@pytest.mark.parametrize(
    ("activation", "params"),
    [
        ("Relu", None),
        ("Sigmoid", None),
        ("Tanh", None),
        ("LeakyRelu", [0.2]),
        ("Clip", [-0.5, 0.5]),
        ("HardSigmoid", [0.3, 0.4]),
    ],
)
def test_fused_conv(activation, params):
    given = {"activation": activation, "activation_params": params, "pads": [1] * 4}
    x, w, b = floats(1, 2, 6, 6), floats(4, 2, 3, 3), floats(4)
    check("FusedConv", x, w, b, **given, **MS)
    check("FusedConv", x, w, b, floats(1, 4, 6, 6), **given, **MS)


@pytest.mark.parametrize("trans", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_fused_matmul(trans):
    a, b = floats(2, *((4, 3) if trans[0] else (3, 4))), floats(2, *((5, 4) if trans[1] else (4, 5)))
    check("FusedMatMul", a, b, alpha=0.5, transA=trans[0], transB=trans[1], **MS)


def test_layer_normalisations():
    check("SkipLayerNormalization", X, floats(2, 3, 8), floats(8), floats(8), floats(8), **MS)
    (y, total) = (
        run_op("SkipLayerNormalization", X, X, floats(8), outputs=4, domain="com.microsoft", opset=1)[i] for i in (0, 3)
    )
    np.testing.assert_allclose(total, 2 * X)
    assert y.shape == X.shape
    check("SkipSimplifiedLayerNormalization", X, floats(2, 3, 8), floats(8), floats(8), outputs=4, **MS)
    for skip in (floats(3, 8), floats(1, 3, 8)):
        check("SkipLayerNormalization", X, skip, floats(8), floats(8), **MS)
        check("SkipSimplifiedLayerNormalization", X, skip, floats(8), **MS)
    check("SimplifiedLayerNormalization", X, floats(8), opset=18, rtol=1e-4)


def test_embed_layer_normalization():
    ids, segments = R.integers(0, 20, (2, 5)).astype(np.int32), R.integers(0, 2, (2, 5)).astype(np.int32)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    tables = floats(20, 8), floats(10, 8), floats(2, 8)
    check("EmbedLayerNormalization", ids, segments, *tables, floats(8), floats(8), mask, outputs=2, **MS)
    check("EmbedLayerNormalization", ids, None, *tables[:2], None, floats(8), floats(8), outputs=2, **MS)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", [None, "lengths", "ends and starts", "keys", "queries"])
def test_attention(causal, mask):
    given = {
        None: None, "lengths": np.array([3, 2], np.int32), "ends and starts": np.array([3, 2, 0, 1], np.int32),
        "keys": np.array([[1, 1, 0], [1, 1, 1]], np.int32), "queries": np.tril(np.ones((2, 3, 3), np.int32)),
    }[mask]  # fmt: skip
    check("Attention", X, floats(8, 24), floats(24), given, num_heads=2, unidirectional=causal, **MS)


def test_attention_with_a_past():
    check("Attention", X, floats(8, 24), floats(24), None, floats(2, 2, 2, 4, 4), num_heads=2, unidirectional=1,
          outputs=2, **MS)  # fmt: skip


def test_multi_head_attention():
    q, k, v = floats(2, 3, 8), floats(2, 5, 8), floats(2, 5, 8)
    check("MultiHeadAttention", q, k, v, num_heads=2, **MS)
    check("MultiHeadAttention", q, k, v, floats(24), np.array([[1, 1, 1, 0, 0], [1] * 5], np.int32), num_heads=2, **MS)
    check("MultiHeadAttention", q, k, v, None, None, floats(1, 2, 3, 5), num_heads=2, scale=0.3, **MS)
    hiding = floats(1, 2, 3, 5)
    hiding[0, 1, 2] = -np.inf  # a row of NaN, as of any Softmax
    check("MultiHeadAttention", q, k, v, None, None, hiding, num_heads=2, **MS)
    packed = floats(2, 3, 2, 3, 4)  # onnxruntime has these on GPUs alone
    apart = [packed[:, :, :, i].reshape(2, 3, 8) for i in range(3)]
    expected = onnxruntime_op("MultiHeadAttention", *apart, num_heads=2, domain="com.microsoft", opset=1)
    check("MultiHeadAttention", packed, num_heads=2, expected=expected, **MS)
    check("MultiHeadAttention", apart[0], packed[:, :, :, 1:].copy(), num_heads=2, expected=expected, **MS)
    past = floats(2, 2, 4, 4), floats(2, 2, 4, 4)
    check("MultiHeadAttention", q, q, q, None, None, None, *past, num_heads=2, unidirectional=1, outputs=3, **MS)


@pytest.mark.parametrize("rotary", [0, 1])
@pytest.mark.parametrize("window", [-1, 2])
@pytest.mark.parametrize("softcap", [0.0, 1.5])
def test_group_query_attention(rotary, window, softcap):
    angle = np.outer(np.arange(16), 0.5 ** np.arange(8)).astype(np.float32)
    caches = (np.cos(angle), np.sin(angle)) if rotary else (None, None)
    given = {"num_heads": 4, "kv_num_heads": 2, "do_rotary": rotary, "local_window_size": window, "softcap": softcap}
    q, k, v = floats(2, 3, 64), floats(2, 3, 32), floats(2, 3, 32)
    empty = np.zeros((2, 2, 0, 16), np.float32)
    total = np.array(3, np.int32)
    prompt = (q, k, v, empty, empty, np.array([2, 2], np.int32), total, *caches)
    check("GroupQueryAttention", *prompt, outputs=3, **given, **MS)
    past = floats(2, 2, 6, 16), floats(2, 2, 6, 16)
    step = (q[:, :1], k[:, :1], v[:, :1], *past, np.array([6, 6], np.int32), np.array(7, np.int32), *caches)
    check("GroupQueryAttention", *step, outputs=3, **given, **MS)


def test_rotary_embedding():
    angle = np.outer(np.arange(16), 0.5 ** np.arange(4)).astype(np.float32)
    x = floats(2, 3, 32)
    for positions in (np.array([5]), np.array([[0, 1, 2], [4, 9, 3]])):
        for interleaved in (0, 1):
            check("RotaryEmbedding", x, positions, np.cos(angle), np.sin(angle), interleaved=interleaved, **MS)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero", [False, True])
def test_matmul_of_packed_weights(bits, zero):
    n, k, block = 6, 64, 32
    blocks = k // block
    b = bytes_(n, blocks, block * bits // 8)
    scales = np.abs(floats(n, blocks)) / 10
    zeros = bytes_(n, -(-blocks * bits // 8)) if zero else None
    check("MatMulNBits", floats(2, 3, k), b, scales, zeros, K=k, N=n, bits=bits, block_size=block, **MS)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("k", [40, 64])
def test_matmul_of_packed_weights_in_other_forms(bits, k):
    """A last block that is not full, zero points that are floats, and blocks of their own for every place along K."""
    n, block = 6, 16
    blocks = -(-k // block)
    b, scales = bytes_(n, blocks, block * bits // 8), np.abs(floats(n, blocks)) / 10
    given = {"K": k, "N": n, "bits": bits, "block_size": block}
    check("MatMulNBits", floats(2, 3, k), b, scales, floats(n, blocks), **given, **MS)
    places = R.integers(0, blocks, k).astype(np.int32)
    if bits == 4:  # onnxruntime looks at these with 4 bits alone
        check("MatMulNBits", floats(2, 3, k), b, scales, None, places, **given, **MS)


def test_gather_of_packed_rows():
    data, scales = bytes_(10, 16), np.abs(floats(10, 2))
    given = {"bits": 4, "block_size": 16, "gather_axis": 0, "quantize_axis": 1}
    check("GatherBlockQuantized", data, np.array([[1, -1], [7, 0]]), scales, **given, **MS)
    check("GatherBlockQuantized", data, np.array([3]), scales, bytes_(10, 1), **given, **MS)


def test_quantised_products():
    a, b = bytes_(5, 8), bytes_(8, 6)
    sa, sb, za, zb = F(0.02), F(0.03), np.uint8(120), np.uint8(130)
    check("MatMulIntegerToFloat", a, b, sa, sb, za, zb, floats(6), **MS)
    check("MatMulIntegerToFloat", a, b, sa, np.abs(floats(6)), za, bytes_(6), **MS)
    check("DynamicQuantizeMatMul", floats(5, 8), b, sb, zb, floats(6), **MS)
    c = R.integers(-500, 500, 6).astype(np.int32)
    check("QGemm", a, sa, za, b, sb, zb, c, F(0.1), np.uint8(100), **MS)
    check("QGemm", a, sa, za, b.T.copy(), sb, zb, c, transB=1, **MS)


@pytest.mark.parametrize("signed", [False, True])
def test_quantised_elementwise(signed):
    a, b = bytes_(3, 4, signed=signed), bytes_(3, 4, signed=signed)
    z = a.dtype.type(7)
    for op in ("QLinearAdd", "QLinearMul"):
        check(op, a, F(0.02), z, b, F(0.03), z, F(0.05), z, **MS)
    expected = onnxruntime_op("QLinearSigmoid", a, F(0.02), z, F(0.01), z, domain="com.microsoft", opset=1)
    (got,) = run_op("QLinearSigmoid", a, F(0.02), z, F(0.01), z, domain="com.microsoft", opset=1)
    assert np.abs(got.astype(int) - expected[0]).max() <= 1
    check("QLinearLeakyRelu", a, F(0.02), z, F(0.02), z, alpha=0.2, **MS)
    given = (F(0.04), z, a, F(0.02), z, b, F(0.03), z)
    (expected,) = onnxruntime_op("QLinearConcat", *given, domain="com.microsoft", opset=1, axis=1)
    for provider in PROVIDERS:
        (got,) = run_op("QLinearConcat", *given, domain="com.microsoft", opset=1, axis=1, provider=provider)
        off = 1 if provider == "JAXExecutionProvider" else 0  # halves of x · 0.02 / 0.04, as XLA rounds them
        assert got.dtype == expected.dtype
        assert np.abs(got.astype(int) - expected).max() <= off


def test_quantised_pools():
    x, z = bytes_(1, 2, 6, 6), np.uint8(7)
    given = {"kernel_shape": [3, 3], "strides": [2, 2]}
    for op, attributes in (("QLinearAveragePool", given | {"pads": [1] * 4}), ("QLinearGlobalAveragePool", {})):
        inputs = x, F(0.02), z, F(0.02), z
        (expected,) = onnxruntime_op(op, *inputs, domain="com.microsoft", opset=1, **attributes)
        (got,) = run_op(op, *inputs, domain="com.microsoft", opset=1, **attributes)
        assert np.abs(got.astype(int) - expected).max() <= 1  # a half is rounded after other roundings
    check("NhwcMaxPool", x.transpose(0, 2, 3, 1).copy(), **given, **MS)


@pytest.mark.parametrize("meant", [11, 13])
def test_quantised_softmax(meant):
    x, z = bytes_(2, 3, 4), np.uint8(7)
    model = make_model(
        "QLinearSoftmax", x, F(0.05), z, F(1 / 256), np.uint8(0), domain="com.microsoft", opset=1, axis=1
    )
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("opset", meant))
    feeds = {f"x{i}": np.asarray(v) for i, v in enumerate((x, F(0.05), z, F(1 / 256), np.uint8(0)))}
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    (got,) = run_model(model, feeds)
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_layer_normalization_of_old_files():
    check("LayerNormalization", X, floats(8), floats(8), opset=13, rtol=1e-4)


def test_quantised_lstm_is_near():
    # weights of 7 bits: on a processor without VNNI, onnxruntime's sums of two products saturate
    x, w, r = floats(4, 2, 3), bytes_(1, 3, 20, signed=True) // 2, bytes_(1, 5, 20, signed=True) // 2
    scale, zero = np.array([0.01], np.float32), np.array([0], np.int8)
    given = (x, w, r, floats(1, 40), None, None, None, None, scale, zero, scale, zero)
    expected = onnxruntime_op("DynamicQuantizeLSTM", *given, hidden_size=5, outputs=3, domain="com.microsoft", opset=1)
    got = run_op("DynamicQuantizeLSTM", *given, hidden_size=5, outputs=3, domain="com.microsoft", opset=1)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=0.03)


def test_quantised_attention():
    given = (bytes_(2, 3, 8), bytes_(8, 24), floats(24), F(0.02), F(0.01), None, np.uint8(120), np.uint8(130))
    check("QAttention", *given, num_heads=2, **MS)


@pytest.mark.parametrize("trans", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_sparse_times_dense(trans):
    """A sparse tensor cannot be fed to onnxruntime from Python; ours are dense when they get here."""
    a, b = floats(*((4, 3) if trans[0] else (3, 4))), floats(*((5, 4) if trans[1] else (4, 5)))
    a[a < 0.5] = 0
    expected = 0.5 * (a.T if trans[0] else a) @ (b.T if trans[1] else b)
    check("SparseToDenseMatMul", a, b, alpha=0.5, transA=trans[0], transB=trans[1], expected=expected, **MS)


def test_other_forms():
    check("Inverse", floats(2, 3, 3), domain="com.microsoft", opset=1, rtol=1e-2, atol=1e-3)
    check("Trilu", floats(3, 4), np.array(1), **MS)
    check("Unique", np.array([3, 1, 3, 2], np.float32), outputs=3, **MS)
    check("ExpandDims", X, np.array(-1, np.int32), **MS)
    check("Range", np.array(1, np.int32), np.array(9, np.int32), np.array(3, np.int32), **MS)
    check("GridSample", floats(1, 2, 4, 4), floats(1, 3, 3, 2) / 2, **MS)
    rois = np.array([[0, 0, 1, 1], [0.2, 0.1, 0.8, 0.9]], np.float32)
    size = np.array([3, 4], np.int32)
    for mode in ("bilinear", "nearest"):
        check("CropAndResize", floats(1, 2, 6, 6), rois, np.array([0, 0], np.int32), size, mode=mode, **MS)
    pads = np.array([1, 1, 1, 1])
    check("ConvTransposeWithDynamicPads", floats(1, 2, 4, 4), floats(2, 3, 3, 3), pads, strides=[2, 2], **MS)


@pytest.mark.parametrize("positive", [0, 1])
def test_hash(positive):
    words = np.array(["", "a", "ab", "abc", "abcd", "日本語"], object)
    for x in (words, np.array([1, -5, 10**6], np.int32), np.array([1.5, 2.5], np.float32)):
        check("MurmurHash3", x, seed=3, positive=positive, **MS)


def test_tokenizer():
    words = np.array(["a,b;ccc", "", "dd"], object)
    given = {"mark": 0, "mincharnum": 1, "pad_value": "#"}
    check("Tokenizer", words, separators=[";", ","], **given, **MS)
    check("Tokenizer", words, separators=[""], **{**given, "mark": 1}, **MS)
    check("Tokenizer", words, tokenexp="[a-z]+", **given, **MS)
    check("Tokenizer", words[None], separators=[","], **{**given, "mincharnum": 2}, **MS)


def test_generation():
    ids = np.array([[1, 2, 3, 1, 2], [4, 4, 4, 4, 4]])
    check("NGramRepeatBlock", ids, floats(2, 6), ngram_size=3, **MS)
    source, current = np.array([1, 5, 3, 4, 2, 5]), np.array([3, 4])
    zero = np.array(0)
    check("BifurcationDetector", source, current, zero, outputs=2, **MS)
    check("BifurcationDetector", source, current, zero, np.array([1, 5, 9, 9, 9, 9, 9]), outputs=2, **MS)


@pytest.mark.parametrize("seed", range(40))
def test_bifurcations(seed):
    rng = np.random.default_rng(seed)
    source, current = rng.integers(0, 3, rng.integers(1, 12)), rng.integers(0, 3, rng.integers(1, 8))
    start = int(rng.integers(0, len(source) + 1))
    predicted = np.append(source[start:], rng.integers(0, 3, 1))
    predicted[rng.integers(0, len(predicted)) :] = rng.integers(0, 3)
    low = int(rng.integers(1, 3))
    given = {"min_ngram_size": low, "max_ngram_size": low + int(rng.integers(0, 3)), "outputs": 2}
    for guess in (None, predicted):
        check("BifurcationDetector", source, current, np.array(start), guess, **given, **MS)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shapes", [(3, 5, 4), (1, 1, 1), (0, 5, 4), (3, 0, 4), (3, 5, 0)])
def test_cdist(metric, dtype, shapes):
    m, n, k = shapes
    a, b = floats(m, k).astype(dtype), floats(n, k).astype(dtype)
    distances = np.sqrt(((a[:, None] - b) ** 2).sum(2)) if metric == "euclidean" else ((a[:, None] - b) ** 2).sum(2)
    check("CDist", a, b, metric=metric, domain="com.microsoft", opset=1, expected=distances, atol=1e-5)
    if all(shapes):
        check("CDist", a, b, metric=metric, domain="com.microsoft", opset=1, atol=1e-5)


def test_cdist_refuses_rows_of_other_lengths():
    for a, b, metric in [(floats(2, 3), floats(2, 1), "euclidean"), (floats(2, 3), floats(2, 3), "cityblock")]:
        with pytest.raises(Fail):
            run_op("CDist", a, b, metric=metric, domain="com.microsoft", opset=1)


@pytest.mark.parametrize(
    ("activation", "given"),
    [
        ("Relu", {}),
        ("Sigmoid", {}),
        ("LeakyRelu", {"activation_alpha": 0.2}),
        ("HardSigmoid", {"activation_alpha": 0.3, "activation_beta": 0.4}),
    ],
)
def test_fused_gemm(activation, given):
    a, b, c = floats(3, 4), floats(5, 4), floats(5)
    check("FusedGemm", a, b, c, alpha=0.5, beta=2.0, transB=1, activation=activation, **given, **MS)
    check("FusedGemm", a, b, transB=1, activation=activation, **given, **MS)


def test_fused_matmul_by_its_old_name():
    check("TransposeMatMul", floats(2, 4, 3), floats(2, 5, 4), alpha=0.5, transA=1, transB=1, **MS)


@pytest.mark.parametrize("signed", [False, True])
def test_to_and_from_bytes(signed):
    z = np.array([1, 2, 3]).astype(np.int8 if signed else np.uint8)
    scales = np.array([0.1, 0.2, 0.3], F)
    check("QuantizeLinear", floats(2, 3, 4), scales, z, axis=1, **MS)
    check("DequantizeLinear", bytes_(2, 3, 4, signed=signed), scales, z, axis=1, **MS)
    condition = np.array([[True, False, True], [False, True, True]])
    x, y = bytes_(2, 3, signed=signed), bytes_(1, 3, signed=signed)
    check("QLinearWhere", condition, x, F(0.1), z[0], y, F(0.2), z[1], F(0.3), z[2], **MS)


@pytest.mark.parametrize("channels_last", [0, 1])
@pytest.mark.parametrize("group", [1, 2])
def test_quantised_convolution(group, channels_last):
    x, w = bytes_(1, 4, 6, 6), R.integers(-64, 64, (6, 4 // group, 3, 3)).astype(np.int8)  # 7 bits: nothing saturates
    b = R.integers(-500, 500, 6).astype(np.int32)
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if channels_last else x
    scales = np.linspace(0.01, 0.06, 6, dtype=F)
    given = (x, F(0.02), np.uint8(120), w, scales, np.zeros(6, np.int8), F(0.2), np.uint8(99), b)
    check("QLinearConv", *given, channels_last=channels_last, group=group, pads=[1, 0, 1, 2], strides=[1, 2], **MS)


def test_group_query_attention_caps_above_zero_alone():
    """As onnxruntime does, whose operator it is; ONNX's Attention caps below 0, too."""
    q, k, v = floats(2, 3, 64), floats(2, 3, 32), floats(2, 3, 32)
    empty, ends, total = np.zeros((2, 2, 0, 16), np.float32), np.array([2, 2], np.int32), np.array(3, np.int32)
    for softcap in (0.5, -0.5):
        given = {"num_heads": 4, "kv_num_heads": 2, "softcap": softcap}
        check("GroupQueryAttention", q, k, v, empty, empty, ends, total, outputs=3, **given, **MS)


@pytest.mark.parametrize("queries", [1, 2, 3, 7])
def test_queries_of_other_keys_that_may_look_back_alone(queries):
    q, k, v = floats(2, queries, 8), floats(2, 5, 8), floats(2, 5, 8)
    check("MultiHeadAttention", q, k, v, num_heads=2, unidirectional=1, **MS)


def test_attention_whose_mask_hides_as_much_as_what_comes():
    ends_and_starts = np.array([3, 3, 1, 0], np.int32)  # the first query of the first example sees nothing
    lowest = float(np.finfo(np.float32).min)
    check("Attention", X, floats(8, 24), floats(24), ends_and_starts, num_heads=2, unidirectional=1,
          mask_filter_value=lowest, **MS)  # fmt: skip


@pytest.mark.parametrize("provider", PROVIDERS)
def test_group_query_attention_with_a_bias_and_room_in_the_cache(provider):
    room, ends, total = floats(2, 2, 6, 16), np.array([2, 2], np.int32), np.array(3, np.int32)
    q, k, v, bias = floats(2, 3, 64), floats(2, 3, 32), floats(2, 3, 32), floats(2, 4, 3, 3)
    given = (q, k, v, room, room, ends, total, None, None, None, bias)
    options = {"num_heads": 4, "kv_num_heads": 2, "outputs": 3, "domain": "com.microsoft", "opset": 1}
    got = run_op("GroupQueryAttention", *given, **options, provider=provider)[0]
    np.testing.assert_allclose(got, onnxruntime_op("GroupQueryAttention", *given, **options)[0], rtol=1e-3, atol=1e-4)


def test_matmul_of_no_packed_weights():
    b, scales = np.zeros((0, 1, 16), np.uint8), np.zeros(0, np.float32)
    check("MatMulNBits", floats(2, 32), b, scales, K=32, N=0, bits=4, block_size=32, **MS)


def test_fused_conv_with_parameters_that_its_activation_does_not_take():
    given = {"activation": "HardSwish", "activation_params": [1 / 6, 0.5]}
    check("FusedConv", floats(1, 2, 6, 6), floats(4, 2, 3, 3), floats(4), **given, **MS)


def test_fused_gemm_with_activations_of_few_files():
    a, b, given = floats(3, 4), floats(4, 5), {"activation_alpha": 0.3, "activation_beta": 0.4, "activation_gamma": 1.1}
    check("FusedGemm", a, b, activation="Celu", **given, **MS)
    check("FusedGemm", a, b, activation="Selu", **given, **MS)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("activation", "params", "said"),
    [
        ("Foo", None, "unknown activation 'Foo'"),
        ("Clip", [0.5], "Clip takes 2"),
        ("QuickGelu", None, "QuickGelu takes 1"),
    ],
)
def test_activations_that_cannot_be(activation, params, said, provider):
    given = {"activation": activation, "activation_params": params, "domain": "com.microsoft", "opset": 1}
    with pytest.raises(Fail, match=said):
        run_op("FusedConv", floats(1, 2, 4, 4), floats(2, 2, 1, 1), provider=provider, **given)


def test_pad_gather_and_unfold():
    x = floats(2, 3, 4)
    for pads in (np.array([0, 1, 0, 0, 2, -1]), np.array([[0, 1, 0, 0, 2, -1]])):
        check("Pad", x, pads, F([2.5]), **MS)
        check("Pad", x, pads, mode="edge", **MS)
    check("GatherND", x, np.array([[[0, 2], [-1, 0]]]), **MS)
    check("GatherND", bytes_(3, 2), np.array([[2], [0]], np.int32), **MS)
    check("UnfoldTensor", x, size=2, step=2, **MS)
    check("UnfoldTensor", np.arange(14).reshape(7, 2), dim=-2, size=3, **MS)
    check("SampleOp", x, **MS)


@pytest.mark.parametrize("shape", [(4, 6), (1, 5, 3), (1, 4), (5, 1)])
def test_the_cheapest_path(shape):
    check("DynamicTimeWarping", floats(*shape), **MS)
    check("DynamicTimeWarping", R.integers(0, 3, shape).astype(F), **MS)  # of equals one is right


@pytest.mark.parametrize("spatial", [(7,), (4, 5), (3, 4, 3)])
def test_max_pool_with_a_mask(spatial):
    x, mask = floats(2, 3, *spatial), (R.random((1, 1, *spatial)) < 0.6).astype(np.int32)
    rank = len(spatial)
    given = {"kernel_shape": [3] * rank, "pads": [1] * 2 * rank, "strides": [2] * rank}
    check("MaxpoolWithMask", x, mask, **given, **MS)


def test_words_as_vectors():
    words = np.int32([[1, 2, 3, 4, 5], [1, 2, 0, 0, 0], [1, 0, 3, 0, 4], [1, 0, 0, 0, 0]])
    check("WordConvEmbedding", words, floats(4, 1, 3, 2), floats(4), floats(6, 2), **MS)
    nothing = np.zeros((1, 5), np.int32)  # in onnxruntime memory as it happens to be
    tables = floats(4, 1, 3, 2), floats(4), floats(6, 2)
    check("WordConvEmbedding", nothing, *tables, expected=np.zeros((1, 4), F), **MS)


@pytest.mark.parametrize("kind", [0, 1])
def test_matmul_of_other_packed_weights(kind):
    packed, most = bytes_(63), R.random(8).astype(F)
    given = {"K": 18, "N": 7, "block_size": 16, "quant_type": kind}
    check("MatMulBnb4", floats(2, 3, 18), packed, most, **given, **MS)
    (w,) = onnxruntime_op("MatMulBnb4", np.eye(18, dtype=F), packed, most, **given, domain="com.microsoft", opset=1)
    x = floats(3, 7)  # onnxruntime, not transposed, leaves columns as memory happens to be
    check("MatMulBnb4", x, packed, most, transB=0, **given, expected=x @ w.T, **MS)


@pytest.mark.parametrize("kind", [0, 1])
def test_matmul_of_weights_with_their_scales(kind):
    """As the packing says; beside onnxruntime, too, where that has the operator on this processor."""
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    blob = bytes_(3, 2, 20 + kind)
    blob[..., :4] = floats(3, 2, 1).view(np.uint8)
    blob[..., 4] = blob[..., 4] % 16 if kind else blob[..., 4]
    given = floats(2, 40), blob.reshape(-1), np.array([40, 3])
    weights = np.zeros((64, 3), F)
    for column in range(3):
        for block in range(2):
            scale, *rest = blob[column, block, :4].view(F), *map(int, blob[column, block, 4:])
            zero = rest.pop(0) if kind else 8
            for i in range(32):
                weights[block * 32 + i, column] = scale[0] * ((rest[i % 16] >> 4 * (i // 16)) % 16 - zero)
    wanted = given[0] @ weights[:40]
    check("MatMulFpQ4", *given, blk_quant_type=kind, expected=wanted, **MS)
    with suppress(Fail):
        (theirs,) = onnxruntime_op("MatMulFpQ4", *given, blk_quant_type=kind, domain="com.microsoft", opset=1)
        np.testing.assert_allclose(theirs, wanted, rtol=1e-5, atol=1e-5)


def test_matmul_of_16_bits():
    a, b = R.integers(-(2**15), 2**15, (2, 3, 4)).astype(np.int16), R.integers(-99, 99, (4, 5)).astype(np.int16)
    check("MatMulInteger16", a, b, **MS)


@pytest.mark.parametrize("signed", [False, True])
def test_quantised_embed_layer_normalization(signed):
    ids, segments = R.integers(0, 20, (2, 5)).astype(np.int32), R.integers(0, 2, (2, 5)).astype(np.int32)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    tables = [bytes_(*shape, signed=signed) for shape in ((20, 8), (10, 8), (2, 8), (8,), (8,))]
    scales, zeros = [F(s) / 50 for s in range(1, 6)], [bytes_(signed=signed) for _ in range(5)]
    check("QEmbedLayerNormalization", ids, segments, *tables, mask, *scales, *zeros, outputs=2, epsilon=1e-6, **MS)
    for part in (tables, scales, zeros):
        part[2] = None
    check("QEmbedLayerNormalization", ids, None, *tables, None, *scales, *zeros, outputs=2, epsilon=1e-6, **MS)


@pytest.mark.parametrize("given", [{}, {"k": 2, "activation_type": "gelu"}, {"k": 3, "normalize_routing_weights": 1}])
def test_mixtures_of_experts(given):
    x, router = floats(2, 3, 4), np.round(floats(6, 3))  # of equals, the last expert
    check("MoE", x, router, floats(3, 5, 4), floats(3, 5), floats(3, 4, 5), **given, **MS)
    given = given | {"activation_type": "swiglu", "swiglu_fusion": 1, "swiglu_limit": 0.5, "activation_alpha": 1.7}
    check("MoE", x[0], router[:3], floats(3, 10, 4), floats(3, 10), floats(3, 4, 5), floats(3, 4), **given, **MS)


def test_mixtures_of_experts_whose_gate_stands_apart():
    """As the schema has it; onnxruntime, only on GPUs."""
    x, w, v, out = floats(3, 4), floats(1, 5, 4), floats(1, 5, 4), floats(1, 4, 5)
    first, gated = x @ w[0].T, x @ v[0].T
    expected = (first / (1 + np.exp(-first)) * gated) @ out[0].T
    router = np.zeros((3, 1), F)
    silu, swiglu = {"activation_type": "silu"}, {"activation_type": "swiglu"}
    check("MoE", x, router, w, None, out, None, v, **silu, expected=expected, **MS)
    check("MoE", x, router, w, None, out, None, v, **swiglu, expected=expected, **MS)
    both = np.concatenate([w, v], axis=1)
    check("MoE", x, router, both, None, out, **swiglu, swiglu_fusion=2, expected=expected, **MS)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("block", [None, 16])
@pytest.mark.parametrize("zero", [False, True])
def test_mixtures_of_packed_experts(bits, block, zero):
    per = 8 // bits
    scales = [R.random(s).astype(F) / 50 for s in ((2, 32), (2, 32), (2, 32, 2), (2, 32, 2))][2 * bool(block) :][:2]
    zeros = [bytes_(2, 32, -(-2 // per)) if block else bytes_(2, 32 // per) for _ in range(2)] if zero else ()
    given = {"expert_weight_bits": bits, "block_size": block, "k": 1, "activation_type": "silu"}
    inputs = [floats(3, 32), floats(3, 2), bytes_(2, 32, 32 // per), scales[0], floats(2, 32)]
    inputs += [bytes_(2, 32, 32 // per), scales[1], floats(2, 32), None, None, None, *zeros]
    check("QMoE", *inputs, **given, **MS)
    weights = R.random((3, 2)).astype(F)
    check("QMoE", *[*inputs, *[None] * (14 - len(inputs)), weights], **given, **MS)


def test_experts_in_groups():
    given = {"n_group": 3, "topk_group": 2, "router_sentinel": -9.0}
    for k in (1, 3, 6):
        check("MoEGroupRouter", floats(2, 4, 12), floats(12), top_k=k, **given, **MS)
    x, bias, weights = floats(3, 4), floats(5), floats(5, 4)
    s = 1 / (1 + np.exp(-x @ weights.T))
    (got,) = run_op("MoEGroupRouter", x, bias, weights, top_k=5, domain="com.microsoft", opset=1)
    np.testing.assert_allclose(got, np.log(s), rtol=1e-5)


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize("heads", [(2, 2, 2), (4, 2, 2), (2, 4, 2), (1, 2, 1)])
def test_linear_attention(rule, heads):
    queries, values, keys = heads
    q, k, v = floats(2, 3, queries * 4), floats(2, 3, keys * 4), floats(2, 3, values * 5)
    decay = -np.abs(floats(2, 3, values * (4 if queries == 2 else 1))) if "gated" in rule else None
    beta = R.random((2, 3, values)).astype(F) if "delta" in rule else None
    given = {"q_num_heads": queries, "kv_num_heads": values, "update_rule": rule, "outputs": 2, **MS}
    check("LinearAttention", q, k, v, None, decay, beta, **given)
    check("LinearAttention", q, k, v, floats(2, values, 4, 5), decay, beta, scale=0.3, **given)


def test_states_after_each_of_the_last_steps():
    """Of a longer call as of shorter ones; onnxruntime has a window on GPUs alone."""
    q, k, v = floats(2, 3, 8), floats(2, 3, 8), floats(2, 3, 10)
    given = {"q_num_heads": 2, "kv_num_heads": 2, "update_rule": "linear", "domain": "com.microsoft", "opset": 1}
    y, after_all = run_op("LinearAttention", q, k, v, outputs=2, **given)
    _, after_two = run_op("LinearAttention", q[:, :2], k[:, :2], v[:, :2], outputs=2, **given)
    got, window = run_op("LinearAttention", q, k, v, outputs=2, state_window=2, **given)
    np.testing.assert_allclose(got, y, atol=1e-6)
    np.testing.assert_allclose(window, [after_two, after_all], atol=1e-6)
    x, w = floats(2, 3, 4), floats(3, 1, 3)
    _, window = run_op("CausalConvWithState", x, w, outputs=2, state_window=2, domain="com.microsoft", opset=1)
    np.testing.assert_array_equal(window, [x[:, :, 1:3], x[:, :, 2:]])


def test_gates_of_linear_attention():
    check("LinearAttentionGate", floats(2, 3, 4), floats(4), floats(4), floats(2, 3, 4), outputs=2, **MS)
    check("LinearAttentionGate", 9 * floats(2, 3, 4).astype(np.float16), floats(4), floats(4), **MS)


BOUNDS = np.array([0, 2, 3, 6], np.int32)  # of three requests
HERE = {"domain": "com.microsoft", "opset": 1}


@pytest.mark.parametrize("gate", ["none", "softplus", "sigmoid"])
@pytest.mark.parametrize("capacity", [0, 2])
def test_gated_delta_net(gate, capacity):
    qk, v, state = [floats(6, 2, 3) for _ in range(2)], floats(6, 4, 5), floats(3, 4, 5, 3)
    decay, beta = -np.abs(floats(6, 4, 3)), floats(6, 4)
    more = [floats(4), floats(4, 3)] if gate != "none" else [None, None]
    more += [np.array([1, 0, 3], np.int32)] if capacity else []
    given = {"gate_activation": gate, "beta_activation": "sigmoid", "qk_l2_norm": 1, "outputs": 2 + (capacity > 0)}
    given |= {"state_update_capacity": capacity, **MS}
    check("GatedDeltaNet", *qk, v, BOUNDS, decay, beta, state, *more, **given)
    packed = np.concatenate([x.reshape(6, -1) for x in (*qk, v)], axis=1)
    check("GatedDeltaNet", packed, None, None, None, decay, beta, state, *more, **given)
    batched = [x.reshape(3, 2, *x.shape[1:]) for x in (*qk, v)]
    check("GatedDeltaNet", *batched, None, decay.reshape(3, 2, 4, 3), beta.reshape(3, 2, 4), None, *more, **given)
    short = [x[:3, None] for x in (*qk, v)]  # fewer tokens than may be captured
    check("GatedDeltaNet", *short, None, decay[:3, None], beta[:3, None], None, *more, **given)


@pytest.mark.parametrize("last", [0, 1])
def test_causal_convolutions(last):
    x, past = floats(2, 3, 5), floats(2, 3, 6)
    x, past = (np.ascontiguousarray(v.swapaxes(1, 2)) if last else v for v in (x, past))
    given = {"channels_last": last, "dilation": 2, "outputs": 2, **MS}
    check("CausalConvWithState", x, floats(3, 1, 4), floats(3), past, activation="silu", **given)
    check("CausalConvWithState", x, floats(3, 1, 4), **given)
    counts = np.array([1, 0, 3], np.int32)
    requests = floats(6, 4), floats(4, 1, 3), BOUNDS, floats(4), floats(3, 4, 2)
    check("VarlenCausalConvWithState", *requests, outputs=2, **MS)
    check("VarlenCausalConvWithState", *requests, counts, state_update_capacity=2, outputs=3, **MS)
    check("VarlenCausalConvWithState", *requests, outputs=2, activation="silu", **MS)


@pytest.mark.parametrize("name", ["none", "silu", "swish", "gelu"])
def test_causal_convolutions_have_one_activation(name):
    """ONNX's operator and both of onnxruntime's: one sequence gives one result."""
    x, w, b, past = floats(1, 3, 5), floats(3, 1, 4), floats(3), floats(1, 3, 3)
    rows, bounds = np.ascontiguousarray(x[0].T), np.array([0, 5], np.int32)
    calls = [
        lambda: run_op("CausalConvWithState", x, w, b, past, activation=name, outputs=2, opset=27)[0][0].T,
        lambda: run_op("CausalConvWithState", x, w, b, past, activation=name, outputs=2, **HERE)[0][0].T,
        lambda: run_op("VarlenCausalConvWithState", rows, w, bounds, b, past, activation=name, outputs=2, **HERE)[0],
    ]
    if name == "gelu":
        for call in calls:
            with pytest.raises(Fail, match=r"activation.*'gelu'"):
                call()
        return
    first, *others = (call() for call in calls)
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reset", [0, 1])
def test_hashes_of_ngrams(reset):
    ids, past = R.integers(0, 5, 6), R.integers(0, 5, (3, 2))
    tables = R.integers(-(2**62), 2**62, 3), np.array([101, 103, 107, 109])  # products wrap around
    given = {"max_ngram_size": 3, "n_head_per_ngram": 2, "pad_id": 9, "reset_on_eos": reset, **MS}
    segments, old = np.array([1, 2, 2, 3, 3, 4], np.int32), np.array([[1, 1], [1, 2], [2, 1]], np.int32)
    check("NGramHashMapping", ids.reshape(3, 2), *tables, outputs=2, **given)
    more = past, np.arange(4), np.array(3)
    check("NGramHashMapping", ids.reshape(3, 2), *tables, *more, segments.reshape(3, 2), outputs=2, **given)
    counts = np.array([1, 0, 3], np.int32)
    given |= {"outputs": 4, "state_update_capacity": 2}
    check("VarlenNGramHashMapping", ids, *tables, BOUNDS, *more, segments, old, counts, **given)
    check("VarlenNGramHashMapping", ids, *tables, BOUNDS, None, None, None, segments, None, counts, **given)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("branches", [0, 2])
def test_norms_and_gates_of_streams(dtype, branches):
    x = floats(2, 3, 2, 4).astype(dtype)
    x = x.reshape(2, 3, 8) if branches else x
    for scale in (None, floats(8), floats(2, 4).astype(np.float16), floats(4)):
        check("BranchwiseRMSNorm", x, scale, num_branches=branches, **MS)
    for shape in ((2, 3, 2), (2, 3, 2, 1), (2, 3, 2, 4), (2, 3, 8))[: 3 + bool(branches)]:
        check("HyperConnectionPreMix", x, floats(*shape), num_branches=branches, reduction_scale=0.5, **MS)
        if shape[2] == 2:
            block, mix = floats(2, 3, 4).astype(dtype), floats(2, 3, 2, 2)
            check("HyperConnectionPostMix", x, block, floats(*shape), mix, num_branches=branches, **MS)
            check("HyperConnectionPostMix", x, block, floats(*shape), num_branches=branches, **MS)
    for activation in ("silu", "sigmoid"):
        check("GatedRMSNorm", x, floats(2).astype(dtype), x[::-1].copy(), activation=activation, **MS)
    check("GatedAdd", x, x[::-1].copy(), floats(*x.shape[:-1], 1).astype(dtype), **MS)
    check("ScaledSiLU", x, alpha=0.7, **MS)
    check("ScaledSiLU", x, F(1.3), **MS)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_engram_gate(dtype):
    k, q, v = (floats(*shape).astype(dtype) for shape in ((2, 3, 2, 4), (2, 3, 2, 4), (2, 3, 4)))
    scales = [floats(2, 4).astype(dtype) for _ in range(3)]
    check("EngramGate", k, q, v, *scales, outputs=2, **MS)
    check("EngramGate", k, q, v, *scales[:2], **MS)


@pytest.mark.parametrize("beams", [0, 2])
def test_one_step_of_a_decoder(beams):
    q, k, v = floats(4, 1, 6), floats(4, 1, 6), floats(4, 1, 6)
    caches, bias = (floats(4, 2, 5, 3), floats(4, 2, 5, 3)), floats(18)
    mask = (R.random((4, 4)) < 0.7).astype(np.int32)
    given = {"num_heads": 2, **MS}
    op = "DecoderMaskedMultiHeadAttention"
    source = (np.int32([beams]), R.integers(0, 2, (2, 2, 5)).astype(np.int32)) if beams else (None, None)
    step = (q, k, v, mask, None if beams else floats(4, 2, 1, 4), *caches, np.int32([3]), *source, bias)
    check(op, *step, past_present_share_buffer=1, mask_filter_value=-3.0, outputs=3, **given)
    check(op, q, *caches, None, None, None, None, None, None, None, bias, scale=0.3, **given)
    check(op, q, k, v, **given)
    x = np.concatenate([q, k, v], axis=2)  # onnxruntime has these forms on GPUs alone
    old = [c[:, :, :3].copy() for c in caches]
    grown = [np.concatenate([c, p.reshape(4, 2, 1, 3)], axis=2) for c, p in zip(old, (k, v), strict=True)]
    (y,) = onnxruntime_op(op, q, *grown, num_heads=2, domain="com.microsoft", opset=1)
    check(op, x, None, None, None, None, *old, outputs=3, expected=[y, *grown], **given)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_embedding_of_three_positions(layout, interleaved):
    angle = floats(9, 6)
    given = {"mrope_section": [2, 3, 1] if not layout else [2, 2, 2], "mrope_layout": layout, **MS}
    tables = R.integers(0, 9, (3, 2, 5)), np.cos(angle), np.sin(angle)
    check("MRotaryEmbedding", floats(2, 3, 5, 12), *tables, interleaved=interleaved, **given)
    partial = given | {"num_heads": 3, "rotary_embedding_dim": 12}
    check("MRotaryEmbedding", floats(2, 5, 3 * 14), *tables, interleaved=interleaved, **partial)


@pytest.mark.parametrize("new", [20, 1])
def test_sparse_attention(new):
    """Beside GroupQueryAttention with a bias: onnxruntime takes caches that it writes into alone."""
    blocks = np.array([[[1, 0, 0], [1, 1, 0], [0, 1, 1]], [[1, 0, 0], [0, 1, 0], [1, 0, 1]]], bool)
    rows = np.int32([[0, *np.cumsum(b.sum(1))] for b in blocks])
    columns = np.int32([[0, 0, 1, 1, 2], [0, 1, 0, 2, -1]])
    q, k, v = floats(2, new, 4 * 8), floats(2, new, 2 * 8), floats(2, new, 2 * 8)
    caches = floats(2, 2, 48, 8), floats(2, 2, 48, 8)
    total = 20 if new > 1 else 40
    lengths = np.full(2, total, np.int32)
    seen = blocks.repeat(16, axis=1).repeat(16, axis=2)[[0, 1, 0, 1], total - new : total, :total]
    bias = np.where(seen, 0, -np.inf).astype(F)[None].repeat(2, axis=0)
    given = {"num_heads": 4, "kv_num_heads": 2, "outputs": 3}
    past = [np.zeros((2, 2, 0, 8), F)] * 2 if new > 1 else [c[:, :, : total - 1] for c in caches]
    plain = (q, k, v, *past, lengths - 1, np.array(total, np.int32), None, None, None, bias)
    y, *_ = onnxruntime_op("GroupQueryAttention", *plain, domain="com.microsoft", opset=1, **given)
    expected = [y, *(c.copy() for c in caches)]
    for cache, x in zip(expected[1:], (k, v), strict=True):
        cache[:, :, total - new : total] = x.reshape(2, new, 2, 8).transpose(0, 2, 1, 3)
    sparse = (q, k, v, *caches, rows, columns, np.int32([total]), lengths)
    check("SparseAttention", *sparse, sparse_block_size=16, expected=expected, **given, **MS)


# A decoder as GPT-2's whose logits depend on token, position, mask and past.
DECODER = """d (int32[B,S] input_ids, int32[B,S] position_ids, int32[B,T] attention_mask, float[2,B,1,P,2] past_0)
    => (float[B,S,7] logits, float[2,B,1,T,2] present_0) {
    f = Cast <to = 1> (input_ids)  p = Cast <to = 1> (position_ids)
    m = Cast <to = 1> (attention_mask)
    last = Constant <value = int64[1] {-1}> ()  around = Constant <value = int64[3] {0, 2, 4}> ()
    rest = Constant <value = int64[4] {0, 2, 3, 4}> ()  inner = Constant <value = int64[2] {1, 2}> ()
    wide = Constant <value = int64[5] {2, 1, 1, 1, 2}> ()  v = Constant <value = float[7] {1, 7, 3, 9, 2, 6, 4}> ()
    k = Unsqueeze (f, around)  new = Expand (k, wide)  present_0 = Concat <axis = 3> (past_0, new)
    m5 = Unsqueeze (m, around)  seen = Mul (present_0, m5)  total = ReduceSum <keepdims = 0> (seen, rest)
    c = Unsqueeze (total, inner)  u = Unsqueeze (f, last)  w = Unsqueeze (p, last)
    a = Mul (u, v)  b = Add (a, w)  s = Add (b, c)  logits = Sin (s) }"""


def searching(op, names, outputs, feeds, numbers, decoder=DECODER, encoder=None):
    """A model that searches with the decoder."""
    inputs = [name if name in feeds else "" for name in names.split()]
    node = onnx.helper.make_node(op, inputs, list(outputs), domain="com.microsoft", **numbers)
    node.attribute.append(onnx.helper.make_attribute("decoder", onnx.parser.parse_graph(decoder)))
    if encoder:
        node.attribute.append(onnx.helper.make_attribute("encoder", onnx.parser.parse_graph(encoder)))
    kinds = {"float32": onnx.TensorProto.FLOAT, "int32": onnx.TensorProto.INT32}
    infos = [onnx.helper.make_tensor_value_info(n, kinds[v.dtype.name], v.shape) for n, v in feeds.items()]
    graph = onnx.helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name=name) for name in outputs if name])
    imports = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)


def searched(op, names, outputs, feeds, numbers, provider, decoder=DECODER, encoder=None):
    """What onnxruntime and we find."""
    model = searching(op, names, outputs, feeds, numbers, decoder, encoder)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds), run_model(model, feeds, provider)


def test_steps_of_a_search_count_as_trips():
    model = searching("GreedySearch", "input_ids max_length", ["y"], PROMPTS, ENDS).SerializeToString()
    options = ortlite.SessionOptions()
    options.limits = ortlite.Limits(loop_trips=6)
    assert ortlite.InferenceSession(model, options).run(None, PROMPTS)[0].shape == (2, 9)
    options.limits = ortlite.Limits(loop_trips=3)
    with pytest.raises(ortlite.LimitExceeded, match="loop_trips"):
        ortlite.InferenceSession(model, options).run(None, PROMPTS)


PROMPTS = {"input_ids": np.int32([[6, 1, 2], [3, 4, 1]]), "max_length": np.int32([9])}
ENDS = {"eos_token_id": 5, "pad_token_id": 6}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"min_length": np.int32([9]), "repetition_penalty": F([1.7])},
        {"vocab_mask": np.int32([1, 1, 0, 1, 1, 0, 1]), "prefix_vocab_mask": np.int32([[1, 0, 0, 1, 1, 1, 1]] * 2)},
        {"attention_mask": np.int32([[0, 1, 1], [1, 1, 1]]), "no_repeat_ngram_size": 2},
        {"eos_token_id": 2, "pad_token_id": 3},
    ],
)
def test_greedy_search(given, provider):
    numbers = ENDS | {name: value for name, value in given.items() if isinstance(value, int)}
    feeds = PROMPTS | {name: value for name, value in given.items() if name not in numbers}
    names = "input_ids max_length min_length repetition_penalty vocab_mask prefix_vocab_mask attention_mask"
    (expected,), (y,) = searched("GreedySearch", names, ["y"], feeds, numbers, provider)
    ends = (y[:, ::-1] != numbers["pad_token_id"]).argmax(axis=1).min()  # behind it onnxruntime's memory is as it was
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y[:, : 10 - ends], expected[:, : 10 - ends])


SAMPLED = (
    "input_ids max_length min_length repetition_penalty vocab_mask prefix_vocab_mask attention_mask presence_mask seed"
)
NO_TIES = {"vocab_mask": np.int32([0, 1, 1, 1, 1, 1, 1])}  # behind token 0 all logits are equal but for rounding


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("seed", [0, 3, 2**31 - 2])
@pytest.mark.parametrize(
    "given",
    [
        {"top_p": 1.0},
        {"top_p": 0.6, "temperature": 0.5},
        {"top_p": 0.6, "custom": 1, "repetition_penalty": F([1.4])},
        {"top_p": 0.05, "min_tokens_to_keep": 2, "temperature": 0.0, "no_repeat_ngram_size": 2},
        {"top_p": 0.5, "filter_value": -1.0, "min_length": np.int32([12])},
        {"top_p": 0.8, "temperature": 2.0, "attention_mask": np.int32([[0, 1, 1], [1, 1, 1]])},
        {"temperature": 1e-4, "top_p": 0.9},
    ],
)
def test_sampling_draws_what_onnxruntime_draws(given, seed, provider):
    numbers = ENDS | {name: value for name, value in given.items() if isinstance(value, int | float)}
    feeds = PROMPTS | {"max_length": np.int32([15]), "seed": np.int32([seed])} | NO_TIES
    feeds |= {name: value for name, value in given.items() if name not in numbers}
    (expected,), (y,) = searched("Sampling", SAMPLED, ["y"], feeds, numbers, provider)
    ends = (y[:, ::-1] != numbers["pad_token_id"]).argmax(axis=1).min()
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y[:, : 16 - ends], expected[:, : 16 - ends])


def sampled(feeds, **numbers):
    """A session that samples, and what it finds first."""
    model = searching("Sampling", SAMPLED, ["y", "logits"], feeds, ENDS | numbers)
    session = ortlite.InferenceSession(model.SerializeToString())
    return session, session.run(None, feeds)


def test_sampling_follows_probabilities():
    feeds = {"input_ids": np.full((4000, 3), 2, np.int32), "max_length": np.int32([4])} | NO_TIES
    session, (y, logits) = sampled(feeds, top_p=0.7)
    kept = logits[0] > -1e20
    drawn = np.bincount(y[:, 3], minlength=7) / 4000
    share = np.exp(logits[0]) * kept / np.exp(logits[0][kept]).sum()
    assert 2 <= kept.sum() <= 5
    np.testing.assert_allclose(drawn, share * (np.arange(7) != 5) + share[5] * (np.arange(7) == 6), atol=0.04)
    assert (session.run(None, feeds)[0] != y).any()  # without a seed no two runs are alike
    seeded = feeds | {"seed": np.int32([7])}
    session, (y, _) = sampled(seeded, top_p=0.7)
    np.testing.assert_array_equal(session.run(None, seeded)[0], y)


def test_presence_penalties_count_for_each_token_of_each_row():
    feeds = PROMPTS | {"max_length": np.int32([4]), "seed": np.int32([1])}
    feeds["presence_mask"] = np.int32([[1, 1, 1, 0, 1, 1, 1], [1, 0, 1, 1, 1, 1, 1]])
    _, (y, _) = sampled(feeds, top_p=1.0, presence_penalty=50.0)
    np.testing.assert_array_equal(y[:, 3], [3, 1])  # onnxruntime lowers one logit of all


@pytest.mark.parametrize(
    ("feeds", "numbers", "said"),
    [
        ({"seed": np.int32([-1])}, {}, "seed -1 must be 0 or more"),
        ({}, {"min_tokens_to_keep": 7}, "min_tokens_to_keep 7 must lie from 0 to below the 7 tokens"),
        ({"presence_mask": np.int32([[1] * 6] * 2)}, {"presence_penalty": 1.0}, "presence_mask"),
        ({}, {"model_type": 1}, "model_type"),
    ],
)
def test_sampling_refuses(feeds, numbers, said):
    with pytest.raises(Fail, match=said):
        sampled(PROMPTS | feeds, **numbers)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("beams", "given"),
    [
        (1, {}),
        (4, {"min_length": np.int32([9])}),
        (3, {"eos_token_id": 2, "early_stopping": 1, "length_penalty": F([0.6])}),
        (3, {"vocab_mask": np.int32([1, 1, 0, 1, 1, 1, 1]), "repetition_penalty": F([1.3]), "no_repeat_ngram_size": 2}),
    ],
)
def test_beam_search(beams, given, provider):
    numbers = ENDS | {name: value for name, value in given.items() if isinstance(value, int)}
    feeds = PROMPTS | {"min_length": np.int32([0]), "length_penalty": F([1]), "repetition_penalty": F([1])}
    feeds |= {"num_beams": np.int32([beams]), "num_return_sequences": np.int32([max(beams - 1, 1)])}
    feeds |= {name: value for name, value in given.items() if name not in numbers}
    names = (
        "input_ids max_length min_length num_beams num_return_sequences length_penalty repetition_penalty vocab_mask"
    )
    expected, results = searched("BeamSearch", names, ["y", "s"], feeds, numbers, provider)
    np.testing.assert_array_equal(results[0], expected[0])
    np.testing.assert_allclose(results[1], expected[1], rtol=1e-4)


# An encoder and a decoder as T5's and Whisper's: with one layer of one head, logits from all that they read.
NUMBERS = """{ last = Constant <value = int64[1] {-1}> ()  around = Constant <value = int64[2] {1, 3}> ()
    rest = Constant <value = int64[3] {1, 2, 3}> ()  inner = Constant <value = int64[2] {1, 2}> ()
    one = Constant <value = int64[1] {1}> ()  wide = Constant <value = int64[4] {1, 1, 1, 2}> ()
    v = Constant <value = float[7] {1, 7, 3, 9, 2, 6, 4}> ()"""
T5_READS = """x = Cast <to = 1> (encoder_input_ids)  m = Cast <to = 1> (encoder_attention_mask)  h = Mul (x, m)"""
CROSSES = """c = Unsqueeze (h, around)  present_key_cross_0 = Expand (c, wide)
    present_value_cross_0 = Identity (present_key_cross_0)"""
BEGINS = """encoder_hidden_states = Unsqueeze (h, last)  f = Cast <to = 1> (decoder_input_ids)
    k = Unsqueeze (f, around)  present_key_self_0 = Expand (k, wide)  present_value_self_0 = Neg (present_key_self_0)
    total = ReduceSum <keepdims = 0> (present_key_cross_0, rest)  t = Unsqueeze (total, inner)
    u = Unsqueeze (f, last)  a = Mul (u, v)  s = Add (a, t)  logits = Sin (s) }"""
BEGUN = """float[B,N,7] logits, float[B,S,1] encoder_hidden_states, float[B,1,N,2] present_key_self_0,
    float[B,1,N,2] present_value_self_0,"""
CROSSED = "float[B,1,S,2] present_key_cross_0, float[B,1,S,2] present_value_cross_0)"
T5_INPUTS = "e (int32[B,S] encoder_input_ids, int32[B,S] encoder_attention_mask"
T5_ENCODER = f"{T5_INPUTS}, int32[B,N] decoder_input_ids) => ({BEGUN} {CROSSED} {NUMBERS} {T5_READS} {CROSSES} {BEGINS}"
T5_NEW_ENCODER = f"{T5_INPUTS}) => ({CROSSED} {NUMBERS} {T5_READS} {CROSSES} }}"
WHISPER_ENCODER = f"""e (float[B,1,S] encoder_input_ids, int32[B,N] decoder_input_ids) => ({BEGUN} {CROSSED}
    {NUMBERS} h = Squeeze (encoder_input_ids, one)  {CROSSES} {BEGINS}"""


def crossed_decoder(mask, hidden, words="1"):
    """The decoder behind them, which gets a mask and hidden states or does not; `words` is how many tokens.

    It does not look at hidden states, of which onnxruntime hands on the shape alone.
    """
    given = "int32[B,S] encoder_attention_mask, " * mask + "float[B,S,1] encoder_hidden_states, " * hidden
    masked = "em = Cast <to = 1> (encoder_attention_mask)  o = ReduceSum <keepdims = 0> (em, last)"
    other = masked if mask else "o = ReduceSum <keepdims = 0> (past_value_cross_0, rest)"
    return f"""d (int32[B,{words}] input_ids, {given} float[B,1,P,2] past_key_self_0, float[B,1,P,2] past_value_self_0,
        float[B,1,S,2] past_key_cross_0, float[B,1,S,2] past_value_cross_0)
        => (float[B,1,7] logits, float[B,1,T,2] present_key_self_0, float[B,1,T,2] present_value_self_0)
        {NUMBERS} f = Cast <to = 1> (input_ids)  k = Unsqueeze (f, around)  new = Expand (k, wide)  nn = Neg (new)
        present_key_self_0 = Concat <axis = 2> (past_key_self_0, new)
        present_value_self_0 = Concat <axis = 2> (past_value_self_0, nn)
        t0 = ReduceSum <keepdims = 0> (past_key_cross_0, rest)
        t1 = ReduceSum <keepdims = 0> (present_key_self_0, rest)  {other}
        t2 = Add (t0, t1)  t3 = Add (t2, o)  t = Unsqueeze (t3, inner)  u = Unsqueeze (f, last)  a = Mul (u, v)
        s = Add (a, t)  logits = Sin (s) }}"""


BEAMS = "input_ids max_length min_length num_beams num_return_sequences length_penalty repetition_penalty vocab_mask "
BEAMS += "prefix_vocab_mask attention_mask decoder_input_ids logits_processor"
HEARD = BEAMS + " cross_qk_layer_head extra_decoding_ids temperature"
STARTS = ENDS | {"decoder_start_token_id": 2}
THREE_BEAMS = {
    "max_length": np.int32([9]), "min_length": np.int32([0]), "num_beams": np.int32([3]),
    "num_return_sequences": np.int32([2]), "length_penalty": F([1]), "repetition_penalty": F([1]),
}  # fmt: skip


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        (T5_ENCODER, crossed_decoder(1, 1)),
        (T5_ENCODER, crossed_decoder(1, 0)),
        (T5_NEW_ENCODER, crossed_decoder(1, 0)),
        (T5_ENCODER, crossed_decoder(1, 1, "N")),
    ],
)
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"attention_mask": np.int32([[0, 1, 1], [1, 1, 0]]), "min_length": np.int32([7])},
        {"eos_token_id": 4, "early_stopping": 1, "length_penalty": F([0.6])},
        {"repetition_penalty": F([1.3]), "no_repeat_ngram_size": 2},
    ],
)
def test_beam_search_behind_an_encoder(encoder, decoder, given, provider):
    numbers = STARTS | {"model_type": 1} | {name: value for name, value in given.items() if isinstance(value, int)}
    feeds = {"input_ids": np.int32([[6, 1, 2], [3, 4, 1]])} | THREE_BEAMS
    feeds |= {name: value for name, value in given.items() if name not in numbers}
    expected, results = searched("BeamSearch", BEAMS, ["y", "s"], feeds, numbers, provider, decoder, encoder)
    np.testing.assert_array_equal(results[0], expected[0])
    np.testing.assert_allclose(results[1], expected[1], rtol=1e-4)


SOUNDS = {"input_ids": F([[[0.3, 0.1, 0.2]], [[0.5, 0.7, 0.4]]])}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("decoder", [crossed_decoder(0, 1), crossed_decoder(0, 0), crossed_decoder(0, 1, "N")])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"decoder_input_ids": np.int32([[2, 3, 1], [2, 4, 4]]), "temperature": F([2])},
        {"decoder_input_ids": np.int32([[2, 3], [2, 1]]), "min_length": np.int32([8])},
        {"eos_token_id": 4, "early_stopping": 1, "temperature": F([0.5])},
    ],
)
def test_whisper_beam_search(decoder, given, provider):
    numbers = STARTS | {name: value for name, value in given.items() if isinstance(value, int)}
    feeds = SOUNDS | THREE_BEAMS | {name: value for name, value in given.items() if name not in numbers}
    found = searched("WhisperBeamSearch", HEARD, ["y", "s"], feeds, numbers, provider, decoder, WHISPER_ENCODER)
    np.testing.assert_array_equal(found[1][0], found[0][0])
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-4)


WHISPER_DECODER = crossed_decoder(0, 1)


@pytest.mark.parametrize("seed", range(6))
def test_time_stamps_follow_whispers_rules(seed):
    draw = np.random.default_rng(seed)
    small, large = "float[7] {1, 7, 3, 9, 2, 6, 4}", "float[12] {1, 7, 3, 9, 2, 6, 4, 8, 5, 10, 12, 11}"
    decoder, encoder = (
        text.replace(small, large).replace(",7] logits", ",12] logits") for text in (WHISPER_DECODER, WHISPER_ENCODER)
    )
    stamps = {"beginning_timestamp_token_id": 7, "no_timestamps_token_id": 6, "start_of_lm_token_id": 5}
    stamps |= {"translate_token_id": 3, "transcribe_token_id": 4, "decoder_start_token_id": 1}
    feeds = {"input_ids": draw.standard_normal((2, 1, 3)).astype(F), "logits_processor": np.int32([1])} | THREE_BEAMS
    feeds |= {"max_length": np.int32([14]), "temperature": F([1 + seed % 2])}
    feeds["decoder_input_ids"] = draw.integers(1, 4 + 4 * (seed % 2), (2, 1 + seed % 3)).astype(np.int32)
    numbers = {"eos_token_id": 2, "pad_token_id": 2} | stamps
    found = searched("WhisperBeamSearch", HEARD, ["y", "s"], feeds, numbers, "CPUExecutionProvider", decoder, encoder)
    np.testing.assert_array_equal(found[1][0], found[0][0])
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-4)


def heard(feeds, outputs, decoder=WHISPER_DECODER, encoder=WHISPER_ENCODER, **numbers):
    """What we find with Whisper's operator."""
    feeds = SOUNDS | THREE_BEAMS | feeds
    model = searching("WhisperBeamSearch", HEARD, outputs, feeds, STARTS | numbers, decoder, encoder)
    return ortlite.InferenceSession(model.SerializeToString()).run(None, feeds)


def test_how_likely_nobody_speaks():
    """Of the logits of the encoder, behind the last token that is given; onnxruntime has it on GPUs alone."""
    _, p = heard({}, ["y", "", "", "", "p"], no_speech_token_id=3)
    logits = np.sin(2 * F([1, 7, 3, 9, 2, 6, 4]) + 2 * SOUNDS["input_ids"].sum(axis=(1, 2))[:, None])
    np.testing.assert_allclose(p, (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[:, 3], rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"decoder": crossed_decoder(1, 1)}, "does not fit a decoder with 7 and 3"),
        ({"encoder": None}, "need an encoder"),
        ({"decoder_output_cross_qk": 1}, "decoder_output_cross_qk"),
        ({"decoder_start_token_id": -1}, "must say with what a text begins"),
        ({"no_speech_token_id": 9}, "no_speech_token_id 9 is not below the 7 tokens"),
        ({"feeds": {"max_length": np.int32([1])}}, "max_length 1 must be more than the 1 tokens"),
        ({"feeds": {"num_return_sequences": np.int32([4])}}, "num_return_sequences 4"),
    ],
)
def test_whisper_beam_search_refuses(given, said):
    with pytest.raises(Fail, match=said):
        heard(**{"feeds": {}, "outputs": ["y", "", "", "", "p"]} | given)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("layer", [False, True])
def test_lstm_that_looks_at_a_memory(direction, layer):
    n, width = 2 if direction == "bidirectional" else 1, 2 if layer else 6
    lengths, places = np.int32([2, 3]), np.int32([3, 4])
    weights = floats(n, 16, 3 + width), floats(n, 16, 4), floats(n, 32)
    states, peepholes = (floats(n, 2, 4), floats(n, 2, 4)), floats(n, 12)
    memory = floats(n, 4, 5), floats(n, 6, 5), floats(n, 5), floats(2, 4, 6)
    output = floats(n, 10, 2) if layer else None
    given = {"hidden_size": 4, "direction": direction, "outputs": 3, **MS}
    x = floats(3, 2, 3)
    check("AttnLSTM", x, *weights, lengths, *states, peepholes, *memory, places, output, **given)
    check("AttnLSTM", x, *weights[:2], None, None, None, None, None, *memory, None, output, **given)


@pytest.mark.parametrize(
    ("kind", "size", "floats_at"),
    [
        (0, 1024, 0),
        (1, 512, 0),
        (30, 512, 0),
        (2, 144, 18),
        (6, 176, 22),
        (8, 272, 34),
        (20, 144, 18),
        (13, 176, 176),
        (14, 210, 210),
        (23, 136, 136),
    ],
)
def test_gather_of_ggml_blocks(kind, size, floats_at):
    data = bytes_(4, size)
    if not floats_at:
        of = {0: np.float32, 1: np.float16, 30: ml_dtypes.bfloat16}[kind]
        data = floats(4, 256).astype(of).view(np.uint8)
    else:
        for start in {13: (0, 2), 14: (208,)}.get(kind, range(0, size, floats_at)):
            data[:, start : start + 2] = floats(4, 1).astype(np.float16).view(np.uint8)
    indices = np.array([[3, 0], [-1, 4]])
    for output in (1, 10):
        check("GatherPacked", data, indices, K=256, packed_type=kind, output_dtype=output, **MS)
    (y,) = run_op("GatherPacked", data, indices[0], K=256, packed_type=kind, domain="com.microsoft", opset=1)
    assert y.dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("provider", PROVIDERS)
def test_inputs_of_another_rank_are_refused_by_name(provider):
    given = {"domain": "com.microsoft", "opset": 1, "provider": provider}
    with pytest.raises(Fail, match=r"weight must have 3 axes, not the shape \[3, 4\]"):
        run_op("CausalConvWithState", floats(2, 3, 5), floats(3, 4), outputs=2, **given)
    with pytest.raises(Fail, match="key must have 4 axes"):
        run_op("EngramGate", floats(2, 3, 4), *[floats(2, 3, 4)] * 2, floats(2, 4), floats(2, 4), **given)
