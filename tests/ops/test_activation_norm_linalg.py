"""Activations, normalisations and products, beside onnxruntime and in the versions that differ."""

from __future__ import annotations

from fractions import Fraction
from math import trunc

import numpy as np
import pytest
from onnx import numpy_helper
from opcheck import check, make_model, run_model

R = np.random.default_rng(0)
X = R.standard_normal((2, 4, 3, 5)).astype(np.float32)


def floats(*shape):
    return R.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    "op", "Relu LeakyRelu Elu Selu Celu Softplus HardSigmoid HardSwish Mish Gelu ThresholdedRelu Softsign".split()
)
def test_activations(op):
    check(op, X * 3, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gelu_of_the_largest_number(dtype, approximate):
    largest = np.array([np.finfo(dtype).max, np.inf], dtype)
    check("Gelu", largest, approximate=approximate, expected=largest)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_changed_its_meaning_in_opset_13(op, axis):
    check(op, X, axis=axis, opset=13)
    check(op, X, axis=axis, opset=11)


def test_softmax_of_extremes():
    x = np.array([[1e30, 1e30], [-np.inf, 0], [-1e30, 1e30]], np.float32)
    check("Softmax", x, expected=np.array([[0.5, 0.5], [0, 1], [0, 1]], np.float32))


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_batch_normalization(opset):
    scale, bias, mean, var = floats(4), floats(4), floats(4), np.abs(floats(4)) + 0.1
    check("BatchNormalization", X, scale, bias, mean, var, opset=opset, epsilon=1e-3, rtol=1e-4)


def test_batch_normalization_in_training():
    scale, bias, mean, var = floats(4), floats(4), floats(4), np.abs(floats(4)) + 0.1
    given = {"training_mode": 1, "outputs": 3, "momentum": 0.7}
    check("BatchNormalization", X, scale, bias, mean, var, opset=15, rtol=1e-4, atol=1e-5, **given)


def test_group_normalization_scales_groups_in_18_and_channels_from_21():
    def normalised():
        g = X.reshape(2, 2, 2, 3, 5).astype(np.float64)
        axes = (2, 3, 4)
        y = (g - g.mean(axes, keepdims=True)) / np.sqrt(g.var(axes, keepdims=True) + 1e-5)
        return y.reshape(X.shape)

    by_group, by_channel = np.array([2.0, 3.0], np.float32), np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    expected = normalised() * np.repeat(by_group, 2)[:, None, None] + np.repeat(by_group, 2)[:, None, None]
    check("GroupNormalization", X, by_group, by_group, num_groups=2, opset=18, expected=expected.astype(np.float32))
    expected = normalised() * by_channel[:, None, None] + by_channel[:, None, None]
    check("GroupNormalization", X, by_channel, by_channel, num_groups=2, opset=21, expected=expected.astype(np.float32))


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("op", "groups"), [("GroupNormalization", 2), ("InstanceNormalization", 4)])
def test_an_infinite_scale_gives_infinity(op, groups, constant):
    """NaN, where a library multiplies the mean by the scale. onnxruntime's InstanceNormalization is such a one."""
    scale, bias = np.array([1, np.inf, -np.inf, 2], np.float32), floats(4)
    x = X.reshape(2, groups, -1).astype(np.float64)
    y = ((x - x.mean(2, keepdims=True)) / np.sqrt(x.var(2, keepdims=True) + 1e-5)).reshape(X.shape)
    expected = (y * scale[:, None, None] + bias[:, None, None]).astype(np.float32)
    model = make_model(op, X, scale, bias, opset=21, num_groups=2 if groups == 2 else None)
    feeds = {"x0": X, "x1": scale, "x2": bias}
    if constant:
        del model.graph.input[1:]
        model.graph.initializer.extend(numpy_helper.from_array(feeds.pop(name), name) for name in ("x1", "x2"))
    np.testing.assert_allclose(run_model(model, feeds)[0], expected, rtol=1e-4, atol=1e-5)


def test_other_normalisations():
    check("InstanceNormalization", X, floats(4), floats(4), rtol=1e-4, atol=1e-5)
    check("LayerNormalization", X, floats(5), floats(5), outputs=3, opset=17, rtol=1e-4, atol=1e-5)
    check("LayerNormalization", X, floats(3, 5), axis=2, opset=17, rtol=1e-4, atol=1e-5)
    check("RMSNormalization", X, floats(5), opset=23, rtol=1e-4, atol=1e-5)
    check("LRN", X, size=3, rtol=1e-4)
    total = np.sum(np.square(X), axis=1, keepdims=True)
    for size in (50, 2**40):  # a window that reaches far beyond the channels costs no more
        check("LRN", X, size=size, alpha=float(size), expected=X / (1 + total) ** 0.75, rtol=1e-4)
    check("MeanVarianceNormalization", X, rtol=1e-4, atol=1e-5)
    for p in (1, 2):
        check("LpNormalization", X, axis=1, p=p, opset=1)
    check("LpNormalization", np.zeros((2, 2), np.float32), expected=np.zeros((2, 2), np.float32))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 4), (4, 5)),
        ((2, 3, 4), (4, 5)),
        ((4,), (4,)),
        ((4,), (2, 4, 3)),
        ((2, 1, 3, 4), (5, 4, 2)),
        ((3, 0), (0, 2)),
    ],
)
def test_matmul(a, b):
    check("MatMul", floats(*a), floats(*b), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64])
def test_matmul_of_integers_wraps(dtype):
    a, b = np.full((2, 3), np.iinfo(dtype).max, dtype), np.full((3, 2), 3, dtype)
    with np.errstate(over="ignore"):
        check("MatMul", a, b, expected=a @ b)


@pytest.mark.parametrize("trans", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_gemm(trans):
    a, b = floats(*((4, 3) if trans[0] else (3, 4))), floats(*((5, 4) if trans[1] else (4, 5)))
    given = {"transA": trans[0], "transB": trans[1], "alpha": 0.5, "beta": 2.0}
    for c in (None, floats(5), floats(3, 1), floats(3, 5)):
        check("Gemm", a, b, c, rtol=1e-4, atol=1e-5, **given)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("bij,bjk", [(2, 3, 4), (2, 4, 5)]),
        ("...ii->...i", [(2, 3, 3)]),
        ("ij->", [(2, 3)]),
        ("...ij,...jk->...ik", [(2, 1, 3, 4), (5, 4, 2)]),
        ("i,j", [(2,), (3,)]),
        ("abc,cd,bd->ad", [(2, 3, 4), (4, 5), (3, 5)]),
    ],
)
def test_einsum(equation, shapes):
    inputs = [floats(*s) for s in shapes]
    check("Einsum", *inputs, equation=equation, expected=np.einsum(equation, *inputs), rtol=1e-4, atol=1e-5)


def test_determinant():
    check("Det", floats(2, 3, 3), rtol=1e-4)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_losses(reduction):
    x, target, weight = floats(3, 5, 2), np.array([[0, 4], [2, -1], [1, 1]]), np.abs(floats(5))
    for w in (None, weight):
        given = {"reduction": reduction, "ignore_index": -1}
        check("NegativeLogLikelihoodLoss", x, target, w, opset=13, **given)
        check("SoftmaxCrossEntropyLoss", x, target, w, opset=13, outputs=2, rtol=1e-4, **given)


@pytest.mark.parametrize("alpha", [-1.5, -1.0, -0.25, 0.3, 1.0, 2.0])
def test_activations_with_odd_parameters(alpha):
    """Their formulas hold whatever the sign of a parameter."""
    x = np.array([-60.0, -2.5, -1.0, -0.1, -0.0, 0.0, 0.1, 1.0, 2.5, 60.0], np.float32)
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        celu = np.maximum(0, wide) + np.minimum(0, alpha * (np.exp(wide / alpha) - 1))
    expected = {
        "Celu": np.where(celu < -3e38, -np.inf, celu),
        "Elu": np.where(wide < 0, alpha * np.expm1(np.minimum(wide, 0)), wide),
        "LeakyRelu": np.where(wide < 0, alpha * wide, wide),
        "ThresholdedRelu": np.where(wide > alpha, wide, 0),
        "HardSigmoid": np.clip(alpha * wide + 0.5, 0, 1),
        "Swish": wide / (1 + np.exp(-alpha * wide)),
    }
    for op, y in expected.items():
        check(op, x, alpha=alpha, opset=28 if op == "Swish" else 26, expected=y.astype(np.float32))
    selu = -2.0 * np.where(wide > 0, wide, alpha * np.expm1(np.minimum(wide, 0)))
    check("Selu", x, alpha=alpha, gamma=-2.0, expected=selu.astype(np.float32))
    shrunk = np.where(wide < -alpha, wide + 0.5, np.where(wide > alpha, wide - 0.5, 0))
    check("Shrink", x, lambd=alpha, bias=0.5, expected=shrunk.astype(np.float32))
    check("Clip", x, np.float32(alpha), np.float32(-alpha))  # where min is above max, max wins


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int8, np.uint8])
def test_shrink_of_integers_is_truncated_and_rounds_none(dtype):
    """Exact beyond 2^53 as well, where float64 has gaps."""
    info = np.iinfo(dtype)
    numbers = [2**53 + 1, -(2**53) - 1, 2**62 + 3, info.max - 2, info.min + 3, 0, 1, 3, -1, -3]
    x = np.array([n for n in numbers if info.min <= n <= info.max], dtype)
    for bias, lambd in [(0.0, 0.5), (1.0, 2.0), (1.5, 0.5), (-0.25, 1.0)]:
        given = Fraction(bias)
        y = [trunc(n + (given if n < 0 else -given)) if abs(n) > lambd else 0 for n in x.tolist()]
        check("Shrink", x, bias=bias, lambd=lambd, expected=np.array(y, dtype))


def test_softmax_of_a_scalar_is_1():
    """By the text a scalar has no axis, and onnxruntime refuses it; onnx.reference and PyTorch do not."""
    x, one = np.array(3, np.float32), np.array(1, np.float32)
    for axis in (0, -1):
        for op, y in [("Softmax", one), ("LogSoftmax", one * 0), ("Hardmax", one)]:
            check(op, x, axis=axis, expected=y)
            check(op, x, axis=axis, opset=11, expected=y)
