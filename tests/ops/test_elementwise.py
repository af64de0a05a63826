"""Arithmetic: integers at their edges, floats at theirs."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from opcheck import PROVIDERS, check, run_op

NAN, INF = float("nan"), float("inf")
F = np.array([-2.5, -1.0, -0.0, 0.0, 0.5, 1.0, 3.7, INF, -INF, NAN], np.float32)
UNARY = (
    "Abs Neg Ceil Floor Round Sqrt Exp Erf Sign Reciprocal Sin Cos Tan Atan Sinh Cosh Tanh Asinh Sigmoid Softsign"
).split()


@pytest.mark.parametrize("op", UNARY)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unary(op, dtype):
    if dtype == np.float64 and op in {"Erf", "Softsign", "Cosh", "Sinh", "Asinh", "Tan", "Atan"}:
        pytest.skip("onnxruntime has no kernel to compare with")
    check(op, F.astype(dtype), rtol=1e-5)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "PRelu"])
def test_binary_floats(op):
    a, b = np.meshgrid(F, F)
    check(op, a, b) if op != "Pow" else check(op, np.abs(a), b)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64])
def test_integer_division_truncates_and_addition_wraps(dtype):
    info = np.iinfo(dtype)
    a = np.array([7, info.min + 1, info.max, 100, 0], dtype)
    b = np.array([2, 3, 5, 7, 9], dtype)
    if info.min < 0:
        a, b = np.concatenate([a, -a]), np.concatenate([b, b])
    quotient = np.array([abs(int(x)) // int(y) * (1 if x >= 0 else -1) for x, y in zip(a, b, strict=True)], dtype)
    check("Div", a, b, expected=quotient)
    with np.errstate(over="ignore"):
        check("Add", a, b, expected=a + b)
        check("Mul", a, b, expected=a * b)
        check("Sub", a, b, expected=a - b)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_modulo_has_the_sign_of_the_divisor_or_with_fmod_of_the_dividend(dtype):
    a, b = np.array([-7, 7, -7, 7, 6], dtype), np.array([3, -3, -3, 3, 3], dtype)
    check("Mod", a, b, expected=np.array([2, -2, -1, 1, 0], dtype))
    check("Mod", a, b, fmod=1, expected=np.array([-1, 1, -1, 1, 0], dtype))


def test_modulo_of_floats():
    a, b = np.array([-7.5, 7.5, -0.0, INF, 5.0], np.float32), np.array([2.0, -2.0, 3.0, 2.0, INF], np.float32)
    check("Mod", a, b, fmod=1, expected=np.array([-1.5, 1.5, -0.0, NAN, 5.0], np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_modulo_where_the_quotient_overflows(dtype):
    info = ml_dtypes.finfo(dtype)
    a = np.array([info.max, -info.max, info.max, 7.0, -0.0, 5.0], dtype)
    b = np.array([float(info.tiny) * 3, float(info.tiny) * 3, 1e-3, info.max, float(info.tiny), INF], dtype)
    expected = np.fmod(a.astype(np.float64), b.astype(np.float64)).astype(dtype)
    check("Mod", a, b, fmod=1, expected=expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_small_sigmoid_keeps_its_digits(dtype):
    x = np.array([-15, -20, -30, -50, -80, -INF, INF, NAN], dtype)
    check("Sigmoid", x, expected=(1 / (1 + np.exp(-x.astype(np.float64)))).astype(dtype), atol=0)
    half = np.array([-11.0, -11.5, -8.0, 8.0], np.float16)
    check("Sigmoid", half, expected=(1 / (1 + np.exp(-half.astype(np.float64)))).astype(np.float16), atol=0)


def test_round_is_half_to_even():
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.4999], np.float32)
    check("Round", x, expected=np.array([-2, -2, -0.0, 0, 2, 2, 2], np.float32))


def test_negative_zero_survives():
    for provider in PROVIDERS:
        keeping = {"Floor", "Identity"} | ({"Relu"} if provider == "TorchExecutionProvider" else set())
        for op in ("Abs", "Neg", "Floor", "Identity", "Relu"):
            (y,) = run_op(op, np.array([-0.0], np.float32), provider=provider)
            assert np.signbit(y[0]) == (op in keeping), op


def test_nan_wins_in_max_and_min():
    a, b = np.array([NAN, 1, NAN], np.float32), np.array([1, NAN, NAN], np.float32)
    for op in ("Max", "Min"):
        check(op, a, b, expected=np.array([NAN] * 3, np.float32))


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
def test_variadic(op):
    rows = [np.array([1.0, 5.0], np.float32), np.array([[2.0], [7.0]], np.float32), np.float32(3)]
    check(op, *rows[:1])
    check(op, *rows[:2])
    check(op, *map(np.asarray, rows))


def test_shifts():
    a, b = np.array([16, 4, 255], np.uint8), np.array([1, 2, 9], np.uint8)
    check("BitShift", a, b, direction="LEFT", expected=np.array([32, 16, 0], np.uint8))
    check("BitShift", a, b, direction="RIGHT", expected=np.array([8, 1, 0], np.uint8))


def test_power_of_mixed_types():
    check("Pow", np.array([2.0, 3.0], np.float32), np.array([3, 2], np.int64))
    check("Pow", np.array([2, 3], np.int32), np.array([3.0, 2.0], np.float32))


def test_clip_in_every_version():
    x = np.array([-3.0, 0.0, 9.0], np.float32)
    check("Clip", x, opset=6, min=-1.0, max=1.0, expected=np.array([-1, 0, 1], np.float32))
    check("Clip", x, np.float32(-1), None, expected=np.array([-1, 0, 9], np.float32))
    check("Clip", x, np.float32(5), np.float32(1), expected=np.array([1, 1, 1], np.float32))  # max wins
    check("Clip", np.array([-3, 9], np.int8), np.int8(-2), np.int8(2), expected=np.array([-2, 2], np.int8))


@pytest.mark.parametrize("opset", [1, 6])
def test_broadcasting_below_opset_7_is_on_request(opset):
    a, b = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4), np.array([1, 2, 3], np.float32)
    check("Add", a, b, opset=opset, broadcast=1, axis=1, expected=a + b[:, None])
    check("Mul", a, b[:1], opset=opset, broadcast=1, expected=a)
    with pytest.raises(Exception, match="broadcast is not set"):
        run_op("Add", a, b, opset=opset)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("op", ["Add", "Mul", "Div", "Exp", "Sqrt", "Tanh"])
def test_narrow_floats_are_computed_wide_and_rounded_once(dtype, op):
    x = np.array([0.1, 1.5, 2.75, 3.3], np.float32).astype(dtype)
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        two = {"Add": np.add, "Mul": np.multiply, "Div": np.divide}
        exact = two[op](wide, wide[::-1]) if op in two else getattr(np, op.lower())(wide)
    inputs = (x, x[::-1].copy()) if op in two else (x,)
    (y,) = run_op(op, *inputs)
    np.testing.assert_allclose(y.astype(np.float64), exact, rtol=float(ml_dtypes.finfo(dtype).eps))


@pytest.mark.parametrize("op", ["Add", "Mul", "Sub", "Abs", "Exp", "Sum"])
@pytest.mark.parametrize("shape", [(0,), (3, 0), (), (1,)])
def test_empty_tensors_and_scalars(op, shape):
    x = np.ones(shape, np.float32)
    (y,) = run_op(op, *([x] if op in {"Abs", "Exp", "Sum"} else [x, x]))
    assert y.shape == shape
    assert y.dtype == np.float32
