"""Exact semantics at the edges: signs, zeros, infinities, ties, nothing at all, and ends that lie beyond."""

from __future__ import annotations

from itertools import product

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import parser
from onnx.reference import ReferenceEvaluator
from opcheck import PROVIDERS, check, make_model, run_op

from ortlite import dtypes
from ortlite.errors import Fail

R = np.random.default_rng(0)
NAN, INF = float("nan"), float("inf")
SIGNED = [np.int8, np.int16, np.int32, np.int64]
UNSIGNED = [np.uint8, np.uint16, np.uint32, np.uint64]


def floats(*shape):
    return R.standard_normal(shape).astype(np.float32)


def code(name):
    return dtypes.by_name(name).code


def signs(op, *inputs, expected, **given):
    """Assert the values of a result including the signs of its zeros, on every provider."""
    for provider in PROVIDERS:
        (y,) = run_op(op, *inputs, provider=provider, **given)
        wide, wanted = y.astype(np.float64), np.asarray(expected, np.float64)
        np.testing.assert_array_equal(wide, wanted, err_msg=f"{op} on {provider}")
        np.testing.assert_array_equal(np.signbit(wide), np.signbit(wanted), err_msg=f"{op} on {provider}")


@pytest.mark.parametrize("dtype", SIGNED)
def test_division_and_modulo_of_every_pair_of_signs(dtype):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    pairs = [(x, y) for x in (7, -7, 6, -6, 1, -1, 0, low, high) for y in (3, -3, 1, 2, -2, high, low)]
    a, b = (np.array(column, dtype) for column in zip(*pairs, strict=True))
    quotient = [abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1) for x, y in pairs]
    check("Div", a, b, expected=np.array(quotient, dtype))
    check("Mod", a, b, expected=np.array([x % y for x, y in pairs], dtype))
    rest = [x - y * q for (x, y), q in zip(pairs, quotient, strict=True)]
    check("Mod", a, b, fmod=1, expected=np.array(rest, dtype))


@pytest.mark.parametrize("dtype", UNSIGNED)
def test_division_and_modulo_of_unsigned_integers(dtype):
    high = np.iinfo(dtype).max
    pairs = [(x, y) for x in (0, 1, 7, high - 1, high) for y in (1, 2, 3, high)]
    a, b = (np.array(column, dtype) for column in zip(*pairs, strict=True))
    check("Div", a, b, expected=np.array([x // y for x, y in pairs], dtype))
    for fmod in (0, 1):
        check("Mod", a, b, fmod=fmod, expected=np.array([x % y for x, y in pairs], dtype))


@pytest.mark.parametrize("dtype", UNSIGNED)
def test_shifts_up_to_the_width_and_beyond(dtype):
    bits = np.iinfo(dtype).bits
    pairs = [(x, y) for x in (1, 3, 2**bits - 1) for y in (0, 1, bits - 1, bits, bits + 1, 200)]
    a, b = (np.array(column, dtype) for column in zip(*pairs, strict=True))
    check("BitShift", a, b, direction="LEFT", expected=np.array([x << y & 2**bits - 1 for x, y in pairs], dtype))
    check("BitShift", a, b, direction="RIGHT", expected=np.array([x >> y for x, y in pairs], dtype))


@pytest.mark.parametrize("dtype", [*SIGNED, *UNSIGNED])
def test_integers_wrap_in_sums_and_products(dtype):
    info = np.iinfo(dtype)

    def wrapped(value):
        return (value - int(info.min)) % 2**info.bits + int(info.min)

    x = np.array([[info.max, info.max, 2], [info.min, info.min, 1], [info.max, 3, 5]], dtype)
    rows = [[int(v) for v in row] for row in x]
    if dtype in {np.int32, np.int64, np.uint32, np.uint64}:
        for op, fold in (("ReduceSum", sum), ("ReduceProd", np.prod), ("ReduceSumSquare", lambda r: sum(r * r))):
            expected = [wrapped(int(fold(np.array(row, object)))) for row in rows]
            check(op, x, np.array([1]), keepdims=0, opset=18, expected=np.array(expected, dtype))
        sums = [[wrapped(sum(row[: i + 1])) for i in range(3)] for row in rows]
        check("CumSum", x, np.array(1), expected=np.array(sums, dtype))
    if info.min < 0:
        check("Abs", np.array([info.min, -1], dtype), expected=np.array([info.min, 1], dtype))
        check("Neg", np.array([info.min, -1], dtype), expected=np.array([info.min, 1], dtype))


FLOAT8 = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]


@pytest.mark.parametrize("name", FLOAT8)
@pytest.mark.parametrize("saturate", [0, 1])
def test_cast_to_float8_beside_onnxruntime(name, saturate):
    """Every value that the type has, every midpoint between two, and what lies a little beside and far beyond."""
    dtype = dtypes.to_numpy(dtypes.by_name(name))
    grid = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float64)
    grid = np.unique(grid[np.isfinite(grid)])
    middle = (grid[1:] + grid[:-1]) / 2
    top = grid[-1] + (grid[-1] - grid[-2]) / 2
    x = np.concatenate([grid, middle, middle * (1 + 1e-6), middle * (1 - 1e-6), [top, -top, top * 1.01, -top * 1.01]])
    x = np.concatenate([x, [1e6, -1e6, INF, -INF, NAN, 1e-30, -1e-30]]).astype(np.float32)
    text = f"""<ir_version: 9, opset_import: ["": 19]> g (float[N] x) => (float[N] y)
    {{ z = Cast <to = {code(name)}, saturate = {saturate}> (x)  y = Cast <to = 1> (z) }}"""
    data = parser.parse_model(text).SerializeToString()  # Python cannot see all of onnxruntime's float8: back again
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (wanted,) = onnxruntime.InferenceSession(data, options).run(None, {"x": x})
    if name == "float8_e5m2" and not saturate:  # ONNX's table has infinities; see conformance/PEER_BUGS.md
        wanted = np.where((np.abs(x) >= 61440) & ~np.isnan(x), np.copysign(np.float32(INF), x), wanted)
    known = ~np.isnan(wanted)
    for provider in PROVIDERS:
        (y,) = run_op("Cast", x, to=code(name), saturate=saturate, opset=19, provider=provider)
        y = y.astype(np.float32)
        np.testing.assert_array_equal(y, wanted)
        np.testing.assert_array_equal(np.signbit(y[known]), np.signbit(wanted[known]))


def test_cast_to_a_power_of_two_at_its_ends():
    """The table of ONNX's Cast-24; the type has no 0, so that its zero bits, 2^-127, stand for it."""
    low, high = 2.0**-127, 2.0**127
    x = np.array([0.0, low / 4, low, high, 3.0e38, INF, NAN], np.float32)
    for saturate, mode, expected in (
        (1, "up", [low, low, low, high, high, high, NAN]),
        (0, "nearest", [NAN, NAN, low, high, NAN, NAN, NAN]),
    ):
        for given in (x, x.astype(str).astype(object)):
            (y,) = run_op("Cast", given, to=code("float8_e8m0fnu"), saturate=saturate, round_mode=mode, opset=25)
            np.testing.assert_array_equal(y.astype(np.float64), expected)


def test_cast_to_the_narrowest_floats_clamps():
    for name, high in (("float4_e2m1fn", 6.0), ("float6_e2m3fn", 7.5), ("float6_e3m2fn", 28.0)):
        x = np.array([1e6, -1e6, INF, -INF, 0.26, -0.0], np.float32)
        (y,) = run_op("Cast", x, to=code(name), opset=28)
        wide = y.astype(np.float64)
        assert wide[:4].tolist() == [high, -high, high, -high]
        assert np.signbit(wide[5])


@pytest.mark.parametrize("target", ["float16", "bfloat16"])
def test_cast_rounds_half_to_even_and_overflows_to_infinity(target):
    bits = {"float16": 10, "bfloat16": 7}[target]
    step = 2.0**-bits
    x = np.array([1 + step / 2, 1 + 1.5 * step, 1 + 2.5 * step, -1 - step / 2, 3.4e38, -3.4e38, -0.0], np.float32)
    signs("Cast", x, to=code(target), expected=[1, 1 + 2 * step, 1 + 2 * step, -1, INF, -INF, -0.0])


@pytest.mark.parametrize("source", [*SIGNED, *UNSIGNED])
@pytest.mark.parametrize("target", ["int4", "uint4", "int2", "uint2", "int8", "uint16", "int32"])
def test_cast_of_integers_keeps_the_low_bits(source, target):
    to = dtypes.by_name(target)
    info = np.iinfo(source)
    values = sorted({v for v in (0, 1, 7, 8, 15, 16, 130, -1, -9, info.min, info.max) if info.min <= v <= info.max})
    low = [v & 2**to.bits - 1 for v in values]
    expected = [v - 2**to.bits if to.kind == "i" and v >= 2 ** (to.bits - 1) else v for v in low]
    (y,) = run_op("Cast", np.array(values, source), to=to.code, opset=25)
    assert [int(v) for v in y] == expected


def test_signs_of_zeros():
    x = np.array([-0.0, 0.0, -0.4, 0.4, -0.5], np.float32)
    signs("Round", x, expected=[-0.0, 0.0, -0.0, 0.0, -0.0])
    signs("Ceil", x, expected=[-0.0, 0.0, -0.0, 1.0, -0.0])
    signs("Floor", x, expected=[-0.0, 0.0, -1.0, 0.0, -1.0])
    signs("Neg", x[:2], expected=[0.0, -0.0])
    signs("Abs", x[:2], expected=[0.0, 0.0])
    signs("Sqrt", x[:2], expected=[-0.0, 0.0])
    signs("Sin", x[:2], expected=[-0.0, 0.0])
    signs("Tanh", x[:2], expected=[-0.0, 0.0])
    signs("Reciprocal", np.array([-INF, INF, -0.0, 0.0], np.float32), expected=[-0.0, 0.0, -INF, INF])
    signs("Add", x[:2], x[:1], expected=[-0.0, 0.0])
    signs("Mul", x[:2], np.float32(-2), expected=[0.0, -0.0])
    signs("Div", x[:2], np.float32(-2), expected=[0.0, -0.0])
    signs("Mod", x[:2], np.float32(3), fmod=1, expected=[-0.0, 0.0])
    signs("Mod", np.array([-6.0, 6.0], np.float32), np.float32(3), fmod=1, expected=[-0.0, 0.0])
    for target in ("float16", "bfloat16", "float8_e5m2", "float8_e4m3fn", "float64"):
        signs("Cast", x[:2], to=code(target), expected=[-0.0, 0.0])
    for target in ("float8_e4m3fnuz", "float8_e5m2fnuz"):  # these have one zero
        signs("Cast", x[:2], to=code(target), expected=[0.0, 0.0])
    check("Equal", x[:1], x[1:2], expected=np.array([True]))
    check("Cast", x[:2], to=code("bool"), expected=np.array([False, False]))


EXTREMES = np.array([[1, INF, -INF, INF, -3], [NAN, 2, NAN, -1, INF], [-INF, -INF, -INF, 0, -INF]], np.float32)


def test_extremes_with_infinities_and_nan():
    """NaN wins as NumPy's maximum lets it, which ONNX's operators are defined by; of equals the first."""
    with np.errstate(all="ignore"):
        check("ReduceMax", EXTREMES, np.array([1]), keepdims=0, expected=EXTREMES.max(1))
        check("ReduceMin", EXTREMES, np.array([1]), keepdims=0, expected=EXTREMES.min(1))
    check("ArgMax", EXTREMES, axis=1, keepdims=0, expected=np.array([1, 0, 3]))
    check("ArgMax", EXTREMES, axis=1, keepdims=0, select_last_index=1, expected=np.array([3, 2, 3]))
    check("ArgMin", EXTREMES, axis=1, keepdims=0, expected=np.array([2, 0, 0]))
    check("ArgMin", EXTREMES, axis=1, keepdims=0, select_last_index=1, expected=np.array([2, 2, 4]))
    row = np.array([1, 2, 3, -1, -INF], np.float32)
    check("Max", EXTREMES, row, expected=np.maximum(EXTREMES, row))
    check("Min", EXTREMES, row, expected=np.minimum(EXTREMES, row))
    check("Relu", EXTREMES[1], expected=np.array([NAN, 2, NAN, 0, INF], np.float32))
    check("LeakyRelu", np.array([INF, NAN, -1], np.float32), alpha=0.0, expected=np.array([INF, NAN, 0], np.float32))
    check("Clip", EXTREMES[1], np.float32(0), np.float32(1.5), expected=np.array([NAN, 1.5, NAN, 0, 1.5], np.float32))


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("size", [5, 400, 2000])
def test_top_k_with_infinities_and_nan(largest, size):
    """NaN sorts as the largest, as in NumPy; of equals the first. Few of many take another way."""
    x = np.tile(EXTREMES, (1, size // 5))
    for row in ([0, 2], [0, 1, 2]):  # without NaN and with it
        order = np.argsort(-x[row] if largest else x[row], axis=1, kind="stable")
        if largest:  # -NaN is still the last for argsort: NaN goes in front
            missing = np.take_along_axis(np.isnan(x[row]), order, 1)
            order = np.take_along_axis(order, np.argsort(~missing, axis=1, kind="stable"), 1)
        places = order[:, :4]
        values = np.take_along_axis(x[row], places, 1)
        check("TopK", x[row], np.array([4]), axis=1, largest=largest, outputs=2, expected=[values, places])


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint8, np.uint64])
@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_of_integers_at_their_ends(dtype, largest):
    info = np.iinfo(dtype)
    x = np.array([info.min, 3, info.max, 3, info.max, info.min], dtype)
    places = {1: [2, 4, 1, 3, 0, 5], 0: [0, 5, 1, 3, 2, 4]}[largest]
    check("TopK", x, np.array([6]), largest=largest, outputs=2, expected=[x[places], np.array(places)])


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax", "CumSum", "LpNormalization"])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_nothing_along_an_axis(op, shape):
    x = np.zeros(shape, np.float32)
    given = [np.array(1)] if op == "CumSum" else []
    attributes = {} if op == "CumSum" else {"axis": 1}
    check(op, x, *given, expected=x, opset=20, **attributes)


def test_nothing_in_data_movement():
    empty = np.zeros((0, 3), np.float32)
    check("Gather", empty, np.zeros((2, 0), np.int64), expected=np.zeros((2, 0, 3), np.float32))
    check("Gather", empty, np.array([2, 0]), axis=1, expected=np.zeros((0, 2), np.float32))
    check("GatherElements", empty, np.zeros((0, 3), np.int64), expected=empty)
    check("GatherND", empty, np.zeros((0, 1), np.int64), expected=empty)
    check("Concat", empty, empty, axis=0, expected=empty)
    check("Concat", empty, floats(2, 3) * 0, axis=0, expected=np.zeros((2, 3), np.float32))
    check("Concat", empty, empty, axis=1, expected=np.zeros((0, 6), np.float32))
    check("TopK", empty, np.array([2]), axis=1, outputs=2,
          expected=[np.zeros((0, 2), np.float32), np.zeros((0, 2), np.int64)])  # fmt: skip
    check("Transpose", empty, expected=empty.T)
    check("Tile", empty, np.array([2, 2]), expected=np.zeros((0, 6), np.float32))
    check("Where", empty > 0, empty, np.float32(1), expected=empty)
    check("NonZero", empty, expected=np.zeros((2, 0), np.int64))
    check("Unique", empty.reshape(-1), outputs=4,
          expected=[np.zeros(0, np.float32), *[np.zeros(0, np.int64)] * 3])  # fmt: skip
    check("Slice", empty, np.array([5]), np.array([-9]), np.array([1]), np.array([-1]), expected=empty)
    check("Pad", empty, np.array([1, 0, 1, 0]), expected=np.zeros((2, 3), np.float32))
    check("ArgMax", np.zeros((0, 3), np.float32), axis=1, keepdims=0, expected=np.zeros(0, np.int64))
    check("MatMul", np.zeros((2, 0), np.float32), np.zeros((0, 3), np.float32), expected=np.zeros((2, 3), np.float32))
    check("Einsum", np.zeros((2, 0), np.float32), np.zeros((0, 3), np.float32), equation="ij,jk->ik",
          expected=np.zeros((2, 3), np.float32))  # fmt: skip


@pytest.mark.parametrize(
    "op",
    [f"Reduce{fold}" for fold in "Sum Prod Max Min L1 L2 SumSquare LogSum LogSumExp".split()],
)
def test_a_reduction_of_nothing_over_all_axes_beside_the_reference(op):
    x = np.zeros((0, 3), np.float32)
    for keepdims in (0, 1):
        model = make_model(op, x, opset=20, keepdims=keepdims)
        with np.errstate(all="ignore"):
            expected = ReferenceEvaluator(model).run(None, {"x0": x})
        check(op, x, keepdims=keepdims, opset=20, expected=[np.asarray(expected[0])])


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_windows_over_nothing(rank):
    """No examples, and no channels: the spatial axes come out as ever."""
    size = [3] * rank
    for n, c in ((0, 2), (2, 0)):
        x = np.zeros((n, c, *[7] * rank), np.float32)
        for op in ("MaxPool", "AveragePool", "LpPool"):
            y = np.zeros((n, c, *[5] * rank), np.float32)
            check(op, x, kernel_shape=size, opset=20, expected=y)
        for op in ("GlobalMaxPool", "GlobalAveragePool"):
            check(op, x, expected=np.zeros((n, c, *[1] * rank), np.float32))
    x, bias = np.zeros((0, 2, *[7] * rank), np.float32), floats(4)
    check("Conv", x, floats(4, 2, *size), bias, expected=np.zeros((0, 4, *[5] * rank), np.float32))
    check("ConvTranspose", x, floats(2, 4, *size), bias, expected=np.zeros((0, 4, *[9] * rank), np.float32))


def test_scalars_are_not_tensors_of_one_element():
    x = floats(2, 3)
    for one, shape in ((np.float32(2), (2, 3)), (np.array([2], np.float32), (2, 3)),
                       (np.array([[[2]]], np.float32), (1, 2, 3))):  # fmt: skip
        check("Mul", x, one, expected=(x * 2).reshape(shape))
        check("Max", one, one, expected=np.asarray(one))
        check("Where", np.array(True), one, one, expected=np.asarray(one))
    check("ReduceSum", np.float32(3), expected=np.float32(3))
    check("ReduceMax", x, keepdims=0, expected=x.max())
    check("ArgMax", np.array([5.0], np.float32), keepdims=0, expected=np.array(0))
    check("Gather", x, np.array(1), expected=x[1])
    check("Gather", x, np.array([1]), expected=x[1:])
    check("Gather", x[0], np.array(1), expected=x[0, 1])
    check("Squeeze", np.array([[7]], np.float32), expected=np.float32(7))
    check("Unsqueeze", np.float32(7), np.array([0]), expected=np.array([7], np.float32))
    check("Reshape", np.array([7], np.float32), np.zeros(0, np.int64), expected=np.float32(7))
    check("Concat", np.array([1], np.float32), np.array([2], np.float32), axis=0, expected=np.array([1, 2], np.float32))
    check("MatMul", x[0], x[0], expected=x[0] @ x[0], rtol=1e-5)
    check("Expand", np.float32(7), np.zeros(0, np.int64), expected=np.float32(7))
    check("Shape", np.float32(7), expected=np.zeros(0, np.int64))
    check("Size", np.float32(7), expected=np.array(1))
    check("CumSum", x, np.array([1]), expected=np.cumsum(x, 1), rtol=1e-6)  # the axis may be given either way
    check("Clip", x, np.array(0, np.float32), expected=np.maximum(x, 0))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("length", [5, 6, 7, 8])
@pytest.mark.parametrize("order", [0, 1])
def test_places_of_maxima_in_windows_beyond_the_edge(rank, length, order):
    """Beside a walk over all windows, whose parts beyond the edge hold nothing."""
    kernel, stride, pads = 3, 2, (1, 1)
    x = floats(1, 2, *[length] * rank)
    out = -(-(length + sum(pads) - kernel) // stride) + 1
    if (out - 1) * stride >= length + pads[0]:
        out -= 1
    weights = [length**i if order else length ** (rank - 1 - i) for i in range(rank)]
    values, places = np.zeros((1, 2, *[out] * rank), np.float32), np.zeros((1, 2, *[out] * rank), np.int64)
    for channel, *window in product(range(2), *[range(out)] * rank):
        starts = [w * stride - pads[0] for w in window]
        reach = [[p for p in range(start, start + kernel) if 0 <= p < length] for start in starts]
        best = max(product(*reach), key=lambda p, c=channel: x[(0, c, *p)])
        values[(0, channel, *window)] = x[(0, channel, *best)]
        flat = sum(p * w for p, w in zip(best, weights, strict=True))
        places[(0, channel, *window)] = channel * length**rank + flat
    check("MaxPool", x, kernel_shape=[kernel] * rank, strides=[stride] * rank, pads=[1] * (2 * rank), ceil_mode=1,
          storage_order=order, outputs=2, opset=12, expected=[values, places])  # fmt: skip


@pytest.mark.parametrize("include", [0, 1])
def test_means_in_windows_beyond_the_edge(include):
    """6 elements, windows of 3 every 3 from a pad of 1 on: the last reaches one beyond the pad behind."""
    x = np.array([[[1, 2, 3, 4, 5, 6, 7]]], np.float32)  # [0 1 2] [3 4 5] [6 7 0] | then -
    given = {"kernel_shape": [3], "strides": [3], "pads": [1, 1], "ceil_mode": 1, "opset": 19}
    counts = [3, 3, 3] if include else [2, 3, 2]
    expected = np.array([[[3 / counts[0], 12 / counts[1], 13 / counts[2]]]], np.float32)
    check("AveragePool", x, count_include_pad=include, expected=expected, **given)
    x = np.array([[[1, 2, 3, 4, 5]]], np.float32)  # windows of 3 every 2 from 0 on: [1 2 3] [3 4 5]
    check("AveragePool", x[..., :4], kernel_shape=[3], strides=[2], ceil_mode=1, count_include_pad=include, opset=19,
          expected=np.array([[[2, 3.5]]], np.float32))  # fmt: skip


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_quantisation_in_blocks_along_every_axis(shape):
    x = floats(*shape) * 3
    for axis in range(len(shape)):
        for block in (1, 2, 3):
            blocks = -(-shape[axis] // block)
            small = tuple(blocks if i == axis else n for i, n in enumerate(shape))
            scale = (R.random(small) / 50 + 0.01).astype(np.float32)
            zero = R.integers(-5, 6, small).astype(np.int8)
            wide = [np.repeat(v, block, axis).take(range(shape[axis]), axis) for v in (scale, zero)]
            q = np.clip(np.round(x / wide[0]) + wide[1], -128, 127).astype(np.int8)
            check("QuantizeLinear", x, scale, zero, axis=axis, block_size=block, opset=21, expected=q)
            back = (q.astype(np.float32) - wide[1]) * wide[0]
            check("DequantizeLinear", q, scale, zero, axis=axis, block_size=block, opset=21, expected=back)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_quantisation_to_float8_saturates_unless_told_otherwise(name):
    dtype = dtypes.to_numpy(dtypes.by_name(name))
    x, zero = np.array([1e6, -1e6, 3.0, -0.0], np.float32), np.zeros((), dtype)
    high = float(ml_dtypes.finfo(dtype).max)
    signs("QuantizeLinear", x, np.float32(2), zero, opset=21, expected=[high, -high, 1.5, -0.0])
    (y,) = run_op("QuantizeLinear", x, np.float32(2), zero, saturate=0, opset=21)
    assert not np.isfinite(y.astype(np.float32)[:2]).any()


IMAGE = np.zeros((1, 4, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("op", "inputs", "given"),
    [
        ("DepthToSpace", [IMAGE], {"blocksize": 2, "mode": "odd"}),
        ("SpaceToDepth", [IMAGE], {"blocksize": 2, "mode": "odd"}),
        ("BitShift", [np.ones(2, np.uint8)] * 2, {"direction": "odd"}),
        ("Gelu", [IMAGE], {"approximate": "odd"}),
        ("GridSample", [IMAGE, IMAGE[..., :2]], {"mode": "odd"}),
        ("GridSample", [IMAGE, IMAGE[..., :2]], {"padding_mode": "odd"}),
        ("RoiAlign", [IMAGE, np.zeros((1, 4), np.float32), np.array([0])], {"mode": "odd"}),
        ("ScatterElements", [IMAGE, np.zeros((1, 1, 1, 1), np.int64), IMAGE[:, :1, :1, :1]], {"reduction": "odd"}),
        ("ScatterND", [IMAGE, np.zeros((1, 1), np.int64), IMAGE], {"reduction": "odd"}),
        ("TensorScatter", [IMAGE, IMAGE], {"mode": "odd"}),
        ("Pad", [IMAGE, np.ones(8, np.int64)], {"mode": "odd"}),
        ("NegativeLogLikelihoodLoss", [IMAGE[0, 0], np.zeros(4, np.int64)], {"reduction": "odd"}),
        ("LpNormalization", [IMAGE], {"p": 3}),
    ],
)
def test_attributes_with_values_that_onnx_does_not_have(op, inputs, given):
    with pytest.raises(Exception, match=rf"the_node.*{list(given.values())[-1]}"):
        run_op(op, *inputs, **given)


def test_axes_that_a_tensor_does_not_have():
    for op, inputs, given in (
        ("CumSum", [IMAGE, np.array(4)], {}), ("Hardmax", [IMAGE], {"axis": -5}),
        ("ReduceSum", [IMAGE, np.array([4])], {}),
        ("Tile", [IMAGE, np.float32(2), np.float32(4)], {"opset": 1}),
    ):  # fmt: skip
        with pytest.raises(Exception, match=r"the_node.*axis"):
            run_op(op, *inputs, **given)


def test_a_region_may_hold_infinities():
    x = np.array([[[[1, INF], [-INF, 2]]]], np.float32)
    rois = np.array([[0, 0, 0, 1, 1], [0, 1, 0, 1, 0], [0, 0, 1, 0, 1], [0, 5, 5, 6, 6]], np.float32)
    expected = np.array([INF, INF, -INF, 0], np.float32).reshape(4, 1, 1, 1)
    check("MaxRoiPool", x, rois, pooled_shape=[1, 1], expected=expected)


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
def test_pads_of_several_turns(mode):
    x = np.arange(3, dtype=np.float32)
    check("Pad", x, np.array([8, 7]), mode=mode, opset=19, expected=np.pad(x, (8, 7), mode))
    with pytest.raises(Exception, match=r"the_node.*empty axis"):
        run_op("Pad", x[:0], np.array([1, 0]), mode=mode, opset=19)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize(
    ("op", "more", "attributes"),
    [
        ("Resize", [None, np.array([1, 1, 2, 0.6], np.float32)], {"mode": "linear"}),
        ("Resize", [None, np.array([1, 1, 2, 0.6], np.float32)], {"mode": "cubic"}),
        ("Resize", [np.array([0, 0, -0.5, 0, 1, 1, 1.5, 1], np.float32), np.array([1, 1, 2, 1], np.float32)],
         {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}),
        ("GridSample", [np.linspace(-1, 1, 24, dtype=np.float32).reshape(1, 3, 4, 2)], {"mode": "cubic"}),
        ("GridSample", [np.linspace(-1, 1, 24, dtype=np.float32).reshape(1, 3, 4, 2)], {"mode": "linear"}),
    ],
)  # fmt: skip
def test_complex_images_are_sampled_part_by_part(op, more, attributes, dtype):
    real, imaginary = (np.sin(np.arange(40.0) * k).reshape(1, 1, 5, 8).astype(dtype(0).real.dtype) for k in (1, 2))
    outside = {**attributes, **({"extrapolation_value": 0.0} if op == "Resize" else {})}
    (x,), (y,) = run_op(op, real, *more, **attributes), run_op(op, imaginary, *more, **outside)
    check(op, (real + 1j * imaginary).astype(dtype), *more, **attributes, expected=(x + 1j * y).astype(dtype))


def test_there_is_nothing_between_two_strings():
    words = np.array([["a", "b"]], object)
    check("Resize", words, None, np.array([1, 2], np.float32), expected=np.array([["a", "a", "b", "b"]], object))
    with pytest.raises(Fail, match="there is nothing between two strings"):
        run_op("Resize", words, None, np.array([1, 2], np.float32), mode="linear")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_resized_integers_are_clamped_to_their_own_limits(dtype):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    x = np.array([high, low, high, high, low, high, low, low], dtype)
    for provider in PROVIDERS:
        (y,) = run_op("Resize", x, None, np.float32([2]), mode="cubic", opset=19, provider=provider)
        (curve,) = run_op("Resize", x.astype(np.float64), None, np.float32([2]), mode="cubic", opset=19)
        above, below = curve > high, curve < low
        assert above.any()
        assert below.any()
        assert set(y[above].tolist()) == {high}
        assert set(y[below].tolist()) == {low}
    given = {"coordinate_transformation_mode": "tf_crop_and_resize", "mode": "nearest", "opset": 19}
    region, sizes = np.float32([0, 2]), np.array([2])
    check("Resize", x, region, None, sizes, extrapolation_value=-1e30, expected=np.array([high, low], dtype), **given)
    check("Resize", x, region, None, sizes, extrapolation_value=1.5, expected=np.array([high, 1], dtype), **given)


@pytest.mark.parametrize("transform", ["half_pixel", "half_pixel_symmetric", "align_corners", "asymmetric"])
def test_resize_to_and_from_nothing(transform):
    given = {"coordinate_transformation_mode": transform, "mode": "linear", "opset": 19}
    x = np.zeros((0, 3), np.float32)
    check("Resize", x, None, np.float32([2, 2]), expected=np.zeros((0, 6), np.float32), **given)
    check("Resize", x.T, None, None, np.array([0, 0]), expected=np.zeros((0, 0), np.float32), **given)
    check("Resize", x + 1, None, np.float32([0.5, 0.1]), expected=np.zeros((0, 0), np.float32), **given)
    with pytest.raises(Fail, match=r"the_node.*an axis without elements cannot be resampled to 2"):
        run_op("Resize", x, None, None, np.array([2, 3]), **given)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_places_halfway_between_pixels(padding, corners, mode):
    x = np.arange(1, 13, dtype=np.float32).reshape(1, 1, 3, 4)
    lines = np.arange(-14, 15, dtype=np.float32) / 4
    grid = np.stack(np.meshgrid(lines, lines), axis=-1)[None]
    check("GridSample", x, grid, mode=mode, padding_mode=padding, align_corners=corners, opset=20)
    given = {"mode": mode, "padding_mode": padding, "opset": 20}
    check("GridSample", x[:0], grid[:0], expected=np.zeros((0, 1, 29, 29), np.float32), **given)
    check("GridSample", x, grid[:, :0], expected=np.zeros((1, 1, 0, 29), np.float32), **given)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_a_region_without_area_has_no_samples(mode):
    x = np.arange(1, 33, dtype=np.float32).reshape(1, 2, 4, 4)
    rois = np.array([[1, 1, 1, 3], [3, 1, 2, 3], [3, 3, 1, 1], [0, 0, 3, 3]], np.float32)
    check("RoiAlign", x, rois, np.zeros(4, np.int64), mode=mode, output_height=2, output_width=2, opset=16)
    check(
        "RoiAlign", x, rois[:3], np.zeros(3, np.int64), mode=mode, opset=16, expected=np.zeros((3, 2, 1, 1), np.float32)
    )


def test_max_roi_pool_rounds_halves_away_from_0():
    x = np.arange(1, 37, dtype=np.float32).reshape(1, 1, 6, 6)
    rois = np.array([[0, 0.5, 1.5, 2.5, 3.5], [0, -0.5, -1.5, 4.5, 4.5], [0, 0.4, 1.6, 2.4, 2.6]], np.float32)
    check("MaxRoiPool", x, rois, pooled_shape=[2, 2], opset=7)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.int32, np.uint32, np.uint64])
def test_sampled_integers_are_clamped_to_their_own_limits(dtype):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    x = np.tile(np.array([high, low, high, high, low, high, low, low], dtype), (4, 1))[None, None]
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 29), np.zeros(1)), axis=-1).astype(np.float32)[None]
    (curve,) = run_op("GridSample", x.astype(np.float64), grid.astype(np.float64), mode="cubic")
    above, below = curve > 1.01 * high, curve < low - 0.01 * high
    assert above.any()
    assert below.any()
    for provider in PROVIDERS:
        (y,) = run_op("GridSample", x, grid, mode="cubic", provider=provider)
        assert set(y[above].tolist()) == {high}
        assert set(y[below].tolist()) == {low}
