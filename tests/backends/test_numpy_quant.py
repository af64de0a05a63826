"""Products and convolutions of integers on NumPy: exact whatever the numbers, as the kernels have them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

import ortlite
from ortlite.derived import Derived
from ortlite.ops import registry
from ortlite.ops.contrib import experts, packed
from ortlite.ops.contrib import quant as contrib
from ortlite.provider import create
from ortlite_numpy.quant import OVERRIDES

CPU = create("CPUExecutionProvider")
XP = CPU.xp
MS = "com.microsoft"


def kernel(domain, name, *inputs, **given):
    with CPU.context():
        return registry.lookup(domain, name, 19 if not domain else 1).fn(XP, *inputs, **given)


def integers(draw, dtype, shape, spread="all"):
    """All values, or only the extreme ones."""
    limits = np.iinfo(dtype)
    x = (
        draw.choice([limits.min, limits.max], shape)
        if spread == "ends"
        else draw.integers(limits.min, limits.max, shape)
    )
    return x.astype(dtype)


@pytest.mark.parametrize("a_type", [np.uint8, np.int8])
@pytest.mark.parametrize("b_type", [np.uint8, np.int8])
@pytest.mark.parametrize("depth", [1, 40, 700, 3000])
@pytest.mark.parametrize("spread", ["all", "ends"])
@pytest.mark.parametrize("zeros", ["none", "single", "each"])
def test_products(a_type, b_type, depth, spread, zeros):
    draw = np.random.default_rng(depth)
    a, b = integers(draw, a_type, (2, 3, depth), spread), integers(draw, b_type, (depth, 5), spread)
    a_zero = b_zero = None
    if zeros != "none":
        a_zero = integers(draw, a_type, (3,) if zeros == "each" else ())
        b_zero = integers(draw, b_type, (5,) if zeros == "each" else (1,))
    derived = Derived([b, b_zero])
    wide = [x.astype(np.int64) for x in (a, b)]
    if a_zero is not None:
        wide[0] -= a_zero.astype(np.int64).reshape(-1, 1) if zeros == "each" else a_zero.astype(np.int64)
        wide[1] -= b_zero
    for _ in range(2):
        y = OVERRIDES["", "MatMulInteger", 10](XP, a, b, a_zero, b_zero, derived=derived)
        assert y.dtype == np.int32
        np.testing.assert_array_equal(y, wide[0] @ wide[1])
    assert derived.nbytes >= 4 * b.size
    scales = np.float32(0.02), np.float32(0.03)
    if zeros == "single":
        given = (a, scales[0], a_zero, b, scales[1], b_zero, np.float32(0.5 * depth), integers(draw, a_type, ()))
        given = tuple(map(np.asarray, given))
        np.testing.assert_array_equal(
            OVERRIDES["", "QLinearMatMul", 10](XP, *given), kernel("", "QLinearMatMul", *given)
        )
    bias = draw.standard_normal(5).astype(np.float32)
    given = (a, b, *map(np.asarray, scales), a_zero, b_zero, bias)
    if zeros != "each":
        np.testing.assert_array_equal(
            OVERRIDES[MS, "MatMulIntegerToFloat", 1](XP, *given), kernel(MS, "MatMulIntegerToFloat", *given)
        )
        x = draw.standard_normal((2, 3, depth)).astype(np.float32)
        given = (x, b, np.asarray(scales[1]), b_zero, bias)
        np.testing.assert_array_equal(
            OVERRIDES[MS, "DynamicQuantizeMatMul", 1](XP, *given), kernel(MS, "DynamicQuantizeMatMul", *given)
        )


def test_what_is_not_8_bits_is_left_to_the_kernel():
    a, b = np.ones((2, 3), np.int16), np.ones((3, 2), np.int8)
    assert OVERRIDES["", "MatMulInteger", 10](XP, a, b) is NotImplemented
    assert OVERRIDES["", "MatMulInteger", 10](XP, b.T, np.ones((5, 3, 2), np.int8)) is NotImplemented
    assert OVERRIDES["", "MatMulInteger", 10](XP, b, b) is NotImplemented  # shapes that do not fit


@pytest.mark.parametrize("seed", range(40))
def test_convolutions(seed):
    draw = np.random.default_rng(seed)
    x_type, w_type = draw.choice([np.uint8, np.int8], 2)
    rank, group = int(draw.integers(1, 4)), int(draw.integers(1, 4))
    each = int(draw.choice([1, 3, 90]))  # the last ones need more than float32 holds
    spread = "ends" if seed % 2 else "all"
    size = draw.integers(1, 4, rank).tolist()
    x = integers(draw, x_type, (2, group * each, *(draw.integers(0, 6, rank) + 4)), spread)
    w = integers(draw, w_type, (group * 2, each, *size), spread)
    m = w.shape[0]
    x_zero, w_zero = integers(draw, x_type, ()), integers(draw, w_type, (m,) if seed % 3 else ())
    given = {
        "group": group,
        "pads": draw.integers(0, 2, 2 * rank).tolist(),
        "strides": draw.integers(1, 3, rank).tolist(),
    }
    derived = Derived([w, w_zero])
    for zeros in ((x_zero, w_zero), (None, None), (x_zero, w_zero)):
        y = OVERRIDES["", "ConvInteger", 10](XP, x, w, *zeros, **given, derived=derived)
        assert y.dtype == np.int32
        np.testing.assert_array_equal(y, kernel("", "ConvInteger", x, w, *zeros, **given))
    x_scale, y_scale = np.float32(0.03), np.float32(0.01 * each * np.sqrt(np.prod(size)) * 30)
    w_scale = draw.uniform(0.001, 0.02, (m,) if seed % 3 else ()).astype(np.float32)
    bias = draw.integers(-3000, 3000, m).astype(np.int32) if seed % 4 else None
    scaled = tuple(
        v if v is None else np.asarray(v)
        for v in (x, x_scale, x_zero, w, w_scale, w_zero, y_scale, integers(draw, x_type, ()), bias)
    )
    y = OVERRIDES["", "QLinearConv", 10](XP, *scaled, **given, derived=derived)
    wanted = kernel("", "QLinearConv", *scaled, **given)
    assert y.dtype == wanted.dtype
    np.testing.assert_array_equal(y, wanted)


@pytest.mark.parametrize("to", [np.uint8, np.int8])
@pytest.mark.parametrize("axis", [0, 1, -1, None])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("layout", range(3))
def test_quantising(to, axis, zeros, layout):
    draw = np.random.default_rng(7)
    x = (draw.standard_normal((3, 4, 50)) * 9).astype(np.float32)
    x.reshape(-1)[:60] = np.repeat(np.float32([0.5, 1.5, -2.5, 1e30, -1e30, np.inf, -np.inf, 0.0, -0.0, 300.0]), 6)
    x = [x, np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1), x[..., ::-1]][layout]
    x.flags.writeable = False
    shape = () if axis is None else (x.shape[axis],)
    scale = np.asarray(draw.uniform(0.01, 0.5, shape), np.float32)
    zero = integers(draw, to, shape) if zeros or to == np.int8 else None
    given = {} if axis is None else {"axis": axis}
    y = OVERRIDES["", "QuantizeLinear", 10](XP, x, scale, zero, **given)
    wanted = kernel("", "QuantizeLinear", x, scale, zero, **given)
    assert y.dtype == wanted.dtype == to
    np.testing.assert_array_equal(y, wanted)
    back, wanted = (
        OVERRIDES["", "DequantizeLinear", 10](XP, y, scale, zero, **given),
        kernel("", "DequantizeLinear", y, scale, zero, **given),
    )
    assert back.dtype == wanted.dtype
    np.testing.assert_array_equal(back, wanted)


def test_dynamic_quantising():
    draw = np.random.default_rng(8)
    for x in (draw.standard_normal((5, 40)), np.abs(draw.standard_normal(9)), np.zeros((2, 2)), np.full(3, -4.0)):
        x = x.astype(np.float32)
        actual, wanted = OVERRIDES["", "DynamicQuantizeLinear", 11](XP, x), kernel("", "DynamicQuantizeLinear", x)
        for a, b in zip(actual, wanted, strict=True):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            np.testing.assert_array_equal(a, b)


def test_scalars_are_quantised_as_well():
    x, scale = np.asarray(np.float32(1.3)), np.asarray(np.float32(0.1))
    assert OVERRIDES["", "QuantizeLinear", 10](XP, x, scale) is NotImplemented
    assert OVERRIDES["", "DynamicQuantizeLinear", 11](XP, x) is NotImplemented
    assert OVERRIDES["", "DequantizeLinear", 10](XP, np.asarray(np.uint8(13)), scale) == np.float32(13) * scale


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("columns", [False, True])
def test_qgemm(turned, quantised, columns):
    draw = np.random.default_rng(1)
    a, b = integers(draw, np.uint8, (3, 70)), integers(draw, np.int8, (5, 70) if turned else (70, 5))
    each = (5,) if columns else ()
    b_scale, b_zero = draw.uniform(0.01, 0.02, each).astype(np.float32), integers(draw, np.int8, each)
    c = draw.integers(-1000, 1000, 5).astype(np.int32)
    end = (np.float32(1.5), np.uint8(100)) if quantised else ()
    given = [np.asarray(x) for x in (a, np.float32(0.1), np.uint8(7), b, b_scale, b_zero, c, *end)]
    wanted = kernel(MS, "QGemm", *given, transB=turned, alpha=0.5)
    y = OVERRIDES[MS, "QGemm", 1](XP, *given, transB=turned, alpha=0.5, derived=Derived([given[3], given[5]]))
    assert y.dtype == wanted.dtype
    np.testing.assert_array_equal(y, wanted)
    assert OVERRIDES[MS, "QGemm", 1](XP, a.T, *given[1:], transA=1, transB=turned) is NotImplemented


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("form", ["plain", "packed zeros", "float zeros", "places"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_packed_weights_become_floats_once(bits, form, dtype, monkeypatch):
    draw = np.random.default_rng(bits)
    k, n, block = 40, 6, 16
    blocks = -(-k // block)
    b = draw.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8)
    scales = draw.random((n, blocks), np.float32).astype(dtype)
    zeros = {
        "packed zeros": draw.integers(0, 256, (n, -(-blocks * bits // 8))).astype(np.uint8),
        "float zeros": draw.random((n, blocks), np.float32).astype(dtype),
    }.get(form)
    places = draw.integers(0, blocks, k).astype(np.int32) if form == "places" else None
    bias, given = draw.random(n, np.float32).astype(dtype), {"K": k, "N": n, "bits": bits, "block_size": block}
    made = []
    real = contrib.unpacked
    monkeypatch.setattr(contrib, "unpacked", lambda *args: made.append(1) or real(*args))
    derived, override = Derived([b, scales, zeros, places]), OVERRIDES[MS, "MatMulNBits", 1]
    for rows in (1, 2, 3):  # as a cache grows
        a = draw.random((2, rows, k), np.float32).astype(dtype)
        y = override(XP, a, b, scales, zeros, places, bias, **given, derived=derived)
        if rows == 1:
            count = len(made)
        assert len(made) == count
        exact = contrib.blockwise_weights(XP, b, scales, zeros, places, k, n, bits, block).astype(np.float64)
        near = 1e-5 if dtype == np.float32 else 1e-3
        np.testing.assert_allclose(y, a.astype(np.float64) @ exact.T + bias, rtol=near, atol=10 * near)
        count = len(made)
        assert y.dtype == dtype
    assert derived.nbytes == 4 * n * k
    assert override(XP, a, b.copy(), scales, zeros, places, bias, **given, derived=derived) is NotImplemented


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("turned", [0, 1])
def test_weights_of_bitsandbytes_become_floats_once(dtype, turned, monkeypatch):
    draw = np.random.default_rng(turned)
    k, n = 32, 6
    b, absmax = draw.integers(0, 256, k * n // 2).astype(np.uint8), draw.random(k * n // 16, np.float32).astype(dtype)
    given = {"K": k, "N": n, "block_size": 16, "quant_type": 1, "transB": turned}
    made, real = [], packed.unpacked
    monkeypatch.setattr(packed, "unpacked", lambda *args: made.append(1) or real(*args))
    derived, override = Derived([b, absmax]), OVERRIDES[MS, "MatMulBnb4", 1]
    for rows in (1, 2, 3):
        a = draw.random((2, rows, k if turned else n), np.float32).astype(dtype)
        y = override(XP, a, b, absmax, **given, derived=derived)
        assert len(made) == rows  # once, and what the kernel unpacked of the calls before
        near = 1e-5 if dtype == np.float32 else 1e-3
        np.testing.assert_allclose(y, packed.matmul_bnb4(XP, a, b, absmax, **given), rtol=near, atol=10 * near)
        assert y.dtype == dtype
    assert derived.nbytes == 4 * n * k
    assert override(XP, a, b.copy(), absmax, **given, derived=derived) is NotImplemented


@pytest.mark.parametrize("zero", [False, True])
def test_packed_experts_become_floats_when_they_are_first_asked_for(zero, monkeypatch):
    draw = np.random.default_rng(0)
    first, second = (draw.integers(0, 256, (3, 16, 8)).astype(np.uint8) for _ in range(2))
    scales = [draw.random((3, 16), np.float32) for _ in range(2)]
    zeros = [draw.integers(0, 256, (3, 8)).astype(np.uint8) for _ in range(2)] if zero else [None, None]
    constants = [first, scales[0], None, second, scales[1], None, None, None, None, *zeros]
    made, real = [], experts.unpacked
    monkeypatch.setattr(experts, "unpacked", lambda *args: made.append(1) or real(*args))
    derived = Derived([x for x in constants if x is not None])
    override = OVERRIDES[MS, "QMoE", 1]
    x = draw.random((4, 16), np.float32)
    for wanted, fresh in ((0, 2), (0, 0), (2, 2)):  # experts, and how many layers they make
        router = np.where(np.arange(3) == wanted, 5, 0).astype(np.float32) + np.zeros((4, 1), np.float32)
        del made[:]
        y = override(XP, x, router, *constants, activation_type="silu", derived=derived)
        assert len(made) == fresh * (1 + zero)
        np.testing.assert_allclose(y, experts.qmoe(XP, x, router, *constants, activation_type="silu"), rtol=1e-5)
    assert derived.nbytes == 2 * 2 * 4 * 16 * 16
    assert override(XP, x, router, first.copy(), *constants[1:], derived=derived) is NotImplemented


def test_a_session_unpacks_the_experts_that_are_asked_for_once(monkeypatch):
    draw = np.random.default_rng(0)
    weights = [draw.integers(0, 256, (2, 16, 8)).astype(np.uint8) for _ in range(2)]
    scales = [draw.random((2, 16), np.float32) for _ in range(2)]
    names = ["x", "r", "a", "as", "", "b", "bs"]
    node = onnx.helper.make_node("QMoE", names, ["y"], domain=MS, activation_type="silu")
    known = zip(("a", "b", "as", "bs"), [*weights, *scales], strict=True)
    infos = [onnx.helper.make_tensor_value_info(name, 1, [4, n]) for name, n in (("x", 16), ("r", 2), ("y", 16))]
    graph = onnx.helper.make_graph(
        [node], "g", infos[:2], infos[2:], [onnx.numpy_helper.from_array(v, name) for name, v in known]
    )
    imports = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid(MS, 1)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()
    made, real = [], experts.unpacked
    monkeypatch.setattr(experts, "unpacked", lambda *args: made.append(1) or real(*args))
    session = ortlite.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds = {"x": draw.random((4, 16), np.float32), "r": np.float32([[0, 1], [1, 0]] * 2)}
    for _ in range(4):
        (y,) = session.run(None, feeds)
    assert len(made) == 4
    (expected,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feeds)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3)
