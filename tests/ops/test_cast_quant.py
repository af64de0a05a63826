"""Conversions between every pair of dtypes, and quantisation."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from opcheck import check, run_op

from ortlite import dtypes

NUMERIC = [d for d in dtypes.ALL if d.kind in "biuf" and d.name != "float8_e8m0fnu"]
R = np.random.default_rng(0)


def code(name):
    return dtypes.by_name(name).code


@pytest.mark.parametrize("source", NUMERIC, ids=str)
@pytest.mark.parametrize("target", NUMERIC, ids=str)
def test_small_whole_numbers_survive_every_conversion(source, target):
    values = [0, 1, 1, 0]
    x = np.array(values).astype(dtypes.to_numpy(source))
    (y,) = run_op("Cast", x, to=target.code, opset=28)
    assert y.dtype == dtypes.to_numpy(target)
    assert [int(v) for v in y] == values


@pytest.mark.parametrize("target", ["int8", "uint8", "int32", "int64"])
def test_floats_are_truncated(target):
    check("Cast", np.array([1.9, 0.4, 100.99], np.float32), to=code(target))
    if target.startswith("i"):
        check("Cast", np.array([-1.9, -0.4], np.float32), to=code(target))


def test_integers_wrap():
    x = np.array([300, -1, 255], np.int32)
    check("Cast", x, to=code("uint8"), expected=np.array([44, 255, 255], np.uint8))
    check("Cast", x, to=code("int8"), expected=np.array([44, -1, -1], np.int8))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_float8_saturates_on_request(name):
    dtype = dtypes.to_numpy(dtypes.by_name(name))
    largest = float(ml_dtypes.finfo(dtype).max)
    x = np.array([1e9, -1e9, np.nan, 1.0], np.float32)
    (y,) = run_op("Cast", x, to=code(name))
    np.testing.assert_array_equal(y.astype(np.float32), [largest, -largest, np.nan, 1.0])
    (y,) = run_op("Cast", x, to=code(name), saturate=0)
    wide = y.astype(np.float32)
    assert not np.isfinite(wide[:3]).any()
    assert wide[3] == 1.0


@pytest.mark.parametrize(
    ("mode", "expected"), [("up", [1, 2, 4, 4]), ("down", [1, 1, 2, 2]), ("nearest", [1, 1, 2, 4])]
)
def test_powers_of_two_round_as_asked(mode, expected):
    x = np.array([1.0, 1.2, 2.5, 3.5], np.float32)
    (y,) = run_op("Cast", x, to=code("float8_e8m0fnu"), round_mode=mode, opset=24)
    assert y.astype(np.float32).tolist() == expected


def test_text():
    words = np.array(["1.5", "-INF", "nan", "1e3"], object)
    check("Cast", words, to=code("float32"), expected=np.array([1.5, -np.inf, np.nan, 1000], np.float32))
    check("Cast", np.array(["12", "-3"], object), to=code("int64"), expected=np.array([12, -3]))
    numbers = np.array([0.1, np.nan, np.inf, -np.inf, 1e10, 3.0], np.float32)
    (y,) = run_op("Cast", numbers, to=code("string"))
    assert y.tolist()[1:4] == ["NaN", "INF", "-INF"]
    assert [np.float32(w) for w in (y[0], y[4], y[5])] == [np.float32(0.1), np.float32(1e10), 3]
    check("Cast", np.array([True, False]), to=code("string"), expected=np.array(["1", "0"], object))


def test_cast_1_spells_its_type():
    check("Cast", np.array([1.7], np.float32), to="INT64", opset=1, expected=np.array([1]))


def test_bits():
    x = np.array([1.0, -0.0, np.inf], np.float32)
    check("BitCast", x, to=code("int32"), opset=26, expected=x.view(np.int32))
    small = np.array([-1, 3, -4], np.int8).astype(ml_dtypes.int4)
    check("BitCast", small, to=code("uint4"), opset=26, expected=np.array([15, 3, 12]).astype(ml_dtypes.uint4))
    with pytest.raises(Exception, match=r"the_node.*width"):
        run_op("BitCast", x, to=code("int64"), opset=26)


INTEGERS = ["int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2"]


@pytest.mark.parametrize("name", INTEGERS)
def test_quantize_saturates_and_rounds_half_to_even(name):
    to = dtypes.by_name(name)
    low = -(2 ** (to.bits - 1)) if to.kind == "i" else 0
    high = low + 2**to.bits - 1
    x = np.array([-1e6, -0.75, 0.0, 0.25, 0.75, 1.25, 1e6], np.float32)
    exact = np.clip(np.round(x / 0.5) + 1, low, high)
    zero = np.array(1).astype(dtypes.to_numpy(to))
    check("QuantizeLinear", x, np.float32(0.5), zero, opset=25, expected=exact.astype(zero.dtype))
    q = exact.astype(zero.dtype)
    back = ((exact - 1) * 0.5).astype(np.float32)
    check("DequantizeLinear", q, np.float32(0.5), zero, opset=25, expected=back)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_quantize_by_axis(axis):
    x = R.standard_normal((3, 4, 5)).astype(np.float32)
    scale = np.linspace(0.01, 0.05, x.shape[axis]).astype(np.float32)
    zero = np.arange(x.shape[axis]).astype(np.uint8)
    check("QuantizeLinear", x, scale, zero, axis=axis, opset=13)
    (q,) = run_op("QuantizeLinear", x, scale, zero, axis=axis, opset=13)
    check("DequantizeLinear", q, scale, zero, axis=axis, opset=13)


def test_quantize_by_block():
    x = R.standard_normal((4, 6)).astype(np.float32)
    scale = np.abs(R.standard_normal((2, 6))).astype(np.float32) / 100 + 0.01
    zero = np.zeros((2, 6), np.int8)
    check("QuantizeLinear", x, scale, zero, axis=0, block_size=2, opset=21)
    (q,) = run_op("QuantizeLinear", x, scale, zero, axis=0, block_size=2, opset=21)
    check("DequantizeLinear", q, scale, zero, axis=0, block_size=2, opset=21)


def test_quantize_to_the_type_asked_for():
    x = np.array([-5.0, 0.2, 9.0], np.float32)
    check("QuantizeLinear", x, np.float32(0.1), output_dtype=code("int16"), opset=21)
    check("QuantizeLinear", x, np.float32(0.1), expected=np.array([0, 2, 90], np.uint8), opset=10)
    (y,) = run_op("QuantizeLinear", x, np.float32(0.5), output_dtype=code("float8_e4m3fn"), opset=21)
    assert y.astype(np.float32).tolist() == [-10, pytest.approx(0.4, rel=0.07), 18]


def test_float64_keeps_its_precision():
    from ortlite.namespace import Namespace  # noqa: F401
    from ortlite.ops import quant
    from ortlite.provider import CPU, create

    assert quant.wide(create(CPU).xp, np.ones(2)).dtype == np.float64


def test_dynamic_quantisation():
    for x in (R.standard_normal((3, 4)), np.zeros((2, 2)), np.full(3, 5.0), -np.ones(2)):
        check("DynamicQuantizeLinear", x.astype(np.float32), outputs=3, opset=11)


# Weights of 7 bits where they are signed: on a processor without VNNI, onnxruntime's sums of two products saturate.
@pytest.mark.parametrize("signed", [False, True])
def test_integer_products(signed):
    a = R.integers(0, 256, (2, 5, 40)).astype(np.uint8)
    b = R.integers(-64, 64, (40, 7)).astype(np.int8) if signed else R.integers(0, 256, (40, 7)).astype(np.uint8)
    check("MatMulInteger", a, b, np.uint8(7), b.dtype.type(3), opset=10)
    check("MatMulInteger", a, b, None, np.arange(7).astype(b.dtype), opset=10)
    scales = np.float32(0.02), np.float32(0.03), np.float32(0.5)
    given = (a, scales[0], np.uint8(7), b, scales[1], b.dtype.type(3), scales[2], np.uint8(100))
    check("QLinearMatMul", *given, opset=10)


def test_a_long_product_is_exact():
    a, b = np.full((1, 70000), 255, np.uint8), np.full((70000, 1), 255, np.uint8)
    check("MatMulInteger", a, b, opset=10, expected=np.array([[70000 * 255 * 255 - 2**32]], np.int64).astype(np.int32))


@pytest.mark.parametrize("group", [1, 2])
def test_integer_convolutions(group):
    x = R.integers(0, 256, (1, 4, 6, 6)).astype(np.uint8)
    w = R.integers(-64, 64, (6, 4 // group, 3, 3)).astype(np.int8)
    given = {"group": group, "pads": [1, 1, 0, 2], "strides": [2, 1], "opset": 10}
    check("ConvInteger", x, w.astype(np.uint8), np.uint8(3), np.uint8(5), **given)
    scale = np.linspace(0.001, 0.002, 6).astype(np.float32)
    bias = R.integers(-1000, 1000, 6).astype(np.int32)
    q = (x, np.float32(0.02), np.uint8(3), w, scale, np.zeros(6, np.int8))
    check("QLinearConv", *q, np.float32(0.05), np.uint8(9), bias, **given)
