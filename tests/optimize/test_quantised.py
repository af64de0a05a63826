"""Operators between dequantised and quantised tensors become operators on bytes; no result moves by more than one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ortlite import load
from ortlite.optimize import optimize
from tests.optimize.models import OFF, node, operators, outputs
from tests.optimize.test_activations import PROVIDERS, Writer, values

DTYPES = [np.uint8, np.int8]


def whole(shape, dtype, seed=0):
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape).astype(dtype)


def weights(shape):
    """Small enough for onnxruntime, whose products of bytes saturate in 16 bits on some processors."""
    return whole(shape, np.int8, 1) // 8


def dequantised(w, x, scale=0.05, zero=None, dtype=np.uint8, **attributes):
    name = f"q{len(w.constants)}"
    w.constants[f"{name}s"] = np.asarray(scale, np.float32)
    inputs = [x, f"{name}s"]
    if zero is not None:
        w.constants[f"{name}z"] = np.asarray(zero, dtype)
        inputs.append(f"{name}z")
    return w("DequantizeLinear", *inputs, **attributes)


def quantised(w, y, scale=0.1, zero=None, dtype=np.uint8):
    name = f"q{len(w.constants)}"
    w.constants |= {f"{name}s": np.float32(scale), f"{name}z": np.asarray(0 if zero is None else zero, dtype)}
    return w("QuantizeLinear", y, f"{name}s", *([f"{name}z"] if zero is not None or dtype != np.uint8 else []))


def check(w, feed, y, expected, steps=1, opset=17, providers=(PROVIDERS[0],), peer=True):
    proto = w.model(feed, y, opset=opset)
    assert operators(proto) == expected
    for provider in providers:
        before, after = (outputs(proto, feed, level, provider)[0] for level in (OFF, None))
        assert before.dtype == after.dtype
        assert before.shape == after.shape
        assert np.abs(before.astype(int) - after.astype(int)).max(initial=0) <= steps
    if peer:
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        assert np.abs(session.run(None, feed)[0].astype(int) - after.astype(int)).max(initial=0) <= steps


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(DTYPES),
    st.booleans(),
    st.sampled_from([None, "bias"]),
    st.sampled_from([13, 17, 21]),
    st.integers(1, 2),
)
def test_convolutions(dtype, per_channel, bias, opset, group):
    w = Writer()
    kind = np.int8
    w.constants["W"] = weights((4, 4 // group, 3, 3))
    scale = np.abs(values(4, seed=2)) / 50 + 0.01 if per_channel else 0.02
    inputs = [
        dequantised(w, "x", 0.05, 7, dtype),
        dequantised(w, "W", scale, np.zeros_like(scale, kind) if per_channel else 0, kind, axis=0),
    ]
    if bias:
        w.constants["B"] = np.array([100, -200, 300, 0], np.int32)
        inputs.append(dequantised(w, "B", np.float32(0.05) * np.asarray(scale, np.float32), axis=0))
    y = quantised(w, w("Conv", *inputs, group=group, pads=[1, 1, 1, 1]), 0.5, 3, dtype)
    check(w, {"x": whole((2, 4, 5, 5), dtype)}, y, {"QLinearConv": 1}, opset=opset)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(DTYPES), st.booleans(), st.sampled_from(["MatMul", "Gemm", "Gemm turned", "Gemm with bias"]))
def test_products(dtype, per_column, form):
    w = Writer()
    turned = form == "Gemm turned"
    w.constants["W"] = weights((6, 4) if turned else (4, 6))
    scale = np.abs(values(6, seed=2)) / 50 + 0.01 if per_column else 0.02
    zero = np.zeros_like(scale, np.int8) if per_column else 3
    inputs = [dequantised(w, "x", 0.05, 7, dtype), dequantised(w, "W", scale, zero, np.int8, axis=0 if turned else 1)]
    attributes = {"transB": 1} if turned else {}
    if form == "Gemm with bias":
        w.constants["B"] = np.array([100, -200, 300, 0, 5, 6], np.int32)
        inputs.append(dequantised(w, "B", np.float32(0.05) * np.asarray(scale, np.float32), axis=0))
    y = quantised(w, w(form.split()[0], *inputs, **attributes), 0.5, 3, dtype)
    check(w, {"x": whole((3, 4), dtype)}, y, {"QLinearMatMul" if form == "MatMul" else "QGemm": 1})


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op_type", ["Add", "Mul", "Sigmoid", "LeakyRelu", "GlobalAveragePool", "AveragePool"])
def test_elementwise_and_pools(op_type, dtype, provider):
    w = Writer()
    feed = {"x": whole((2, 3, 4, 4), dtype)}
    operands = [dequantised(w, "x", 0.05, 7, dtype)]
    if op_type in {"Add", "Mul"}:
        feed["u"] = whole((3, 1, 4), dtype, 1)
        operands.append(dequantised(w, "u", 0.03, 100, dtype))
    y = w(op_type, *operands, **({"kernel_shape": [2, 2]} if op_type == "AveragePool" else {}))
    check(w, feed, quantised(w, y, 0.06, 5, dtype), {f"QLinear{op_type}": 1}, providers=[provider])


@pytest.mark.parametrize("op_type", ["Transpose", "Reshape", "MaxPool", "Flatten"])
def test_what_only_moves_bytes(op_type):
    w = Writer()
    w.constants["to"] = np.array([2, 48])
    x = dequantised(w, "x", 0.05, 7)
    more, attributes = (
        (["to"] if op_type == "Reshape" else []),
        {"kernel_shape": [2, 2]} if op_type == "MaxPool" else {},
    )
    y = quantised(w, w(op_type, x, *more, **attributes), 0.05, 7)
    check(w, {"x": whole((2, 3, 4, 4), np.uint8)}, y, {op_type: 1}, steps=0)


def test_there_and_back():
    w = Writer()
    y = w("Neg", dequantised(w, quantised(w, dequantised(w, "x", 0.05, 7), 0.05, 7), 0.05, 7))
    proto = w.model({"x": whole(9, np.uint8)}, y)
    assert operators(proto) == {"DequantizeLinear": 1, "Neg": 1}


@pytest.mark.parametrize(("dtype", "zero", "goes"), [(np.uint8, 0, True), (np.int8, -128, True), (np.uint8, 3, False)])
def test_a_relu_that_saturation_does(dtype, zero, goes):
    w = Writer()
    w.constants["W"] = weights((4, 4, 1, 1))
    c = w("Conv", dequantised(w, "x", 0.05, 7, dtype), dequantised(w, "W", 0.02, 0, np.int8))
    y = quantised(w, w("Relu", c), 0.5, zero, dtype)
    feed = {"x": whole((1, 4, 2, 2), dtype)}
    found = operators(w.model(feed, y, opset=17))
    assert ("QLinearConv" in found) == goes
    if goes:
        check(w, feed, y, {"QLinearConv": 1})


@pytest.mark.parametrize("case", ["other scale", "wanted", "fed scale", "bias", "weights that are fed", "other bytes"])
def test_near_misses_stay(case):
    w = Writer()
    feed = {"x": whole((1, 4, 3, 3), np.uint8)}
    W = weights((4, 4, 1, 1))
    if case == "weights that are fed":
        feed["W"] = W
    else:
        w.constants["W"] = W
    x = dequantised(w, "x", 0.05, 7)
    if case == "fed scale":
        feed["s"] = np.array(0.05, np.float32)
        w.nodes[-1].input[1] = "s"
    inputs = [x, dequantised(w, "W", 0.02, 0, np.int8)]
    if case == "bias":
        w.constants["B"] = np.array([100, -200, 300, 0], np.int32)
        inputs.append(dequantised(w, "B", 0.5))
    if case == "other scale":
        y = quantised(w, w("Transpose", x), 0.06, 7)
        found = operators(w.model(feed, y))
        assert found == {"DequantizeLinear": 1, "Transpose": 1, "QuantizeLinear": 1}
        return
    c = w("Conv", *inputs)
    y = quantised(w, c, 0.5, 3, np.int8 if case == "other bytes" else np.uint8)
    found = operators(w.model(feed, y, [c] if case == "wanted" else []))
    assert "QLinearConv" not in found
    assert "QuantizeLinear" in found


def test_it_has_a_name():
    w = Writer()
    w.constants["W"] = weights((4, 4, 1, 1))
    y = quantised(w, w("Conv", dequantised(w, "x", 0.05, 7), dequantised(w, "W", 0.02, 0, np.int8)), 0.5, 3)
    proto = w.model({"x": whole((1, 4, 3, 3), np.uint8)}, y)
    assert operators(proto, level=2) == {"QLinearConv": 1}
    assert "Conv" in operators(proto, level=1)
    assert "Conv" in operators(proto, disabled=["QDQSelectorActionTransformer"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [0, 1])
def test_a_convolution_of_com_microsoft(channels_last, dtype):
    w = Writer()
    w.constants |= {"xs": np.float32(0.02), "xz": dtype(3), "w": weights((4, 2, 3, 3)), "wz": np.zeros(4, np.int8)}
    w.constants |= {"ws": np.array([0.1, 0.2, 0.3, 0.4], np.float32), "ys": np.float32(0.3), "yz": dtype(7)}
    w.constants["b"] = np.array([1, -200, 3, 400], np.int32)
    given = {"domain": "com.microsoft", "pads": [1, 0, 1, 2], "strides": [1, 2], "channels_last": channels_last}
    y = w("QLinearConv", "x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b", **given)
    x = whole((1, 2, 5, 6), dtype)
    feed = {"x": np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if channels_last else x}
    check(w, feed, y, {"QLinearConv": 1} | ({"Transpose": 2} if channels_last else {}), providers=PROVIDERS)
    graph = optimize(load.load(w.model(feed, y, opset=17).SerializeToString()).graph)
    assert {node.domain for node in graph.nodes} == {""}


def dynamic_product(w, x, columns=5, per_column=True, bias=True, zero=True, quantised=None):
    """What onnxruntime's dynamic quantisation writes for a product, and the three tensors that x became."""
    number = len(w.nodes)
    made = quantised or tuple(f"d{number}{part}" for part in "yzs")
    if quantised is None:
        w.nodes.append(node("DynamicQuantizeLinear", [x], [made[0], made[2], made[1]]))
    kinds = (columns,) if per_column else ()
    w.constants |= {f"W{number}": whole((4, columns), np.int8, number), f"S{number}": np.full(kinds, 0.02, np.float32)}
    w.constants |= {f"Z{number}": np.full(kinds, 3, np.int8), f"B{number}": values(columns, seed=3)}
    y = w("MatMulInteger", made[0], f"W{number}", made[1], *([f"Z{number}"] if zero else []))
    y = w("Mul", w("Cast", y, to=1), w("Mul", made[2], f"S{number}"))
    return (w("Add", y, f"B{number}") if bias else y), made


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (4,)])
@pytest.mark.parametrize(
    ("per_column", "bias", "zero"), [(True, True, True), (False, True, False), (True, False, True)]
)
def test_dynamically_quantised_products_are_one_operator(provider, shape, per_column, bias, zero):
    w = Writer()
    if len(shape) == 1 and per_column:
        per_column = False  # a zero point for every column wants a matrix
    y, _ = dynamic_product(w, "x", per_column=per_column, bias=bias, zero=zero)
    feed = {"x": values(shape, seed=5)}
    proto = w.model(feed, y)
    assert operators(proto) == {"DynamicQuantizeMatMul": 1}
    before, after = (outputs(proto, feed, level, provider)[0] for level in (OFF, None))
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6, strict=True)


def test_a_tensor_quantised_for_several_products_is_quantised_once():
    w = Writer()
    first, made = dynamic_product(w, "x")
    second, _ = dynamic_product(w, "x", per_column=False, quantised=made)
    feed = {"x": values((3, 4), seed=5)}
    proto = w.model(feed, w("Sub", first, second))
    assert operators(proto) == {"DynamicQuantizeLinear": 1, "MatMulIntegerToFloat": 2, "Sub": 1}
    np.testing.assert_allclose(*(outputs(proto, feed, level)[0] for level in (OFF, None)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("change", ["weights fed", "wanted", "another scale"])
def test_other_products_of_integers_stay(change):
    w = Writer()
    y, _ = dynamic_product(w, "x", bias=False)
    feed, more = {"x": values((3, 4), seed=5)}, []
    if change == "weights fed":
        feed["W0"] = w.constants.pop("W0")
    elif change == "wanted":
        more = [w.nodes[1].output[0]]
    else:
        w.nodes[3].input[0] = "x"
        w.nodes[3].input[1] = "S0"
        w.constants["S0"] = np.float32(0.5)
        w.constants["W0"] = w.constants["W0"][:, :4]
        w.constants["Z0"] = w.constants["Z0"][:4]
    proto = w.model(feed, y, more)
    assert operators(proto)["MatMulInteger"] == 1
    for a, b in zip(outputs(proto, feed, OFF), outputs(proto, feed), strict=True):
        np.testing.assert_array_equal(a, b)
