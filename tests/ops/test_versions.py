"""Operators whose meaning changed between opsets while their signature stayed, or nearly so: one test a change.

onnxruntime is the oracle from opset 7 on, the text of the older version below.
"""

from __future__ import annotations

import numpy as np
import pytest
from opcheck import check, onnxruntime_op, run_op

R = np.random.default_rng(0)
X = R.standard_normal((2, 4, 3, 5)).astype(np.float32)


def floats(*shape):
    return R.standard_normal(shape).astype(np.float32)


def channels(v):
    return v[:, None, None]


@pytest.mark.parametrize("opset", [1, 6])
def test_batch_normalization_trains_unless_told_otherwise_below_7(opset):
    scale, bias, mean, var = floats(4), floats(4), floats(4), np.abs(floats(4)) + 0.1
    given = (X, scale, bias, mean, var)
    first = {"consumed_inputs": [0, 0, 0, 1, 1]} if opset == 1 else {}
    tested = (X - channels(mean)) / np.sqrt(channels(var) + 1e-5) * channels(scale) + channels(bias)
    check("BatchNormalization", *given, is_test=1, opset=opset, expected=tested, rtol=1e-4, atol=1e-5, **first)
    axes = (0, 2, 3)
    m, v = X.mean(axes, dtype=np.float64), X.var(axes, dtype=np.float64)
    y = (X - channels(m)) / np.sqrt(channels(v) + 1e-5) * channels(scale) + channels(bias)
    running = mean * 0.9 + m * (1 - 0.9), var * 0.9 + v * (1 - 0.9)
    expected = [r.astype(np.float32) for r in (y, *running, m, v)]
    check("BatchNormalization", *given, outputs=5, opset=opset, expected=expected, rtol=1e-4, atol=1e-4,
          **first)  # fmt: skip


@pytest.mark.parametrize("opset", [1, 6, 7])
def test_batch_normalization_of_every_position_on_its_own(opset):
    scale, bias, mean, var = (np.abs(floats(4, 3, 5)) + 0.1 for _ in range(4))
    expected = (X - mean) / np.sqrt(var + 1e-5) * scale + bias
    test = {"is_test": 1} if opset < 7 else {}
    test |= {"consumed_inputs": [0, 0, 0, 1, 1]} if opset == 1 else {}
    flat = [v.reshape(-1) for v in (scale, bias, mean, var)] if opset < 7 else (scale, bias, mean, var)
    check("BatchNormalization", X, *flat, spatial=0, opset=opset, expected=expected, rtol=1e-4, atol=1e-5, **test)


def test_dropout_in_every_version():
    x = np.ones((50, 40), np.float32)
    check("Dropout", x, is_test=1, opset=1, outputs=2, expected=[x, x])
    check("Dropout", x, is_test=1, opset=6, outputs=2, expected=[x, x])
    y, mask = run_op("Dropout", x, opset=6, outputs=2, ratio=0.25)
    assert mask.dtype == x.dtype
    np.testing.assert_allclose(y, mask / 0.75, rtol=1e-6)
    assert abs(mask.mean() - 0.75) < 0.05
    check("Dropout", x, ratio=0.25, opset=7, expected=x)
    check("Dropout", x, ratio=0.25, opset=10, outputs=2, expected=[x, np.ones(x.shape, bool)])
    check("Dropout", x, opset=12, outputs=2, expected=[x, np.ones(x.shape, bool)])


@pytest.mark.parametrize("op", ["Sum", "Mean", "Max", "Min"])
def test_variadic_operators_broadcast_from_opset_8_on(op):
    a, b = floats(2, 3), floats(3)
    check(op, a, b, opset=8)
    for opset in (1, 6):
        fold = {"Sum": np.add, "Mean": lambda p, q: (p + q) / 2, "Max": np.maximum, "Min": np.minimum}[op]
        check(op, a, a[::-1].copy(), opset=opset, expected=fold(a, a[::-1]))
        with pytest.raises(Exception, match=r"the_node.*one shape"):
            run_op(op, a, b, opset=opset)


@pytest.mark.parametrize("opset", [1, 6])
def test_gemm_broadcasts_on_request_below_7(opset):
    a, b, c = floats(3, 4), floats(4, 5), floats(5)
    check("Gemm", a, b, c, broadcast=1, opset=opset, expected=a @ b + c, rtol=1e-4, atol=1e-5)
    with pytest.raises(Exception, match=r"the_node.*broadcast is not set"):
        run_op("Gemm", a, b, c, opset=opset)


@pytest.mark.parametrize(
    ("op", "fold"),
    [
        ("Sub", np.subtract), ("Div", np.divide), ("Pow", np.power), ("Equal", np.equal), ("Less", np.less),
        ("Greater", np.greater), ("And", np.logical_and), ("Or", np.logical_or), ("Xor", np.logical_xor),
    ],
)  # fmt: skip
def test_axes_of_broadcasting_below_7(op, fold):
    a, b = R.integers(1, 4, (2, 3, 4)), R.integers(1, 4, 3)
    kind = {"Sub": np.float32, "Div": np.float32, "Pow": np.float32, "Less": np.float32, "Greater": np.float32}
    dtype = kind.get(op, np.int32 if op == "Equal" else np.bool_)
    a, b = (a > 1, b > 1) if dtype is np.bool_ else (a.astype(dtype), b.astype(dtype))
    check(op, a, b, broadcast=1, axis=1, opset=1, expected=fold(a, b[:, None]), rtol=1e-5)
    check(op, a, b[:1], broadcast=1, opset=1, expected=fold(a, b[:1]), rtol=1e-5)


def test_prelu_has_one_slope_a_channel_below_7():
    slope = floats(4)
    expected = np.where(X < 0, X * channels(slope), X)
    check("PRelu", X, slope, opset=1, expected=expected)
    check("PRelu", X, channels(slope), opset=7, expected=expected)


def test_top_k_in_every_version():
    x = np.array([[4, 1, 4, 3], [0, 2, 2, 9]], np.float32)
    values, places = np.array([[4, 4], [9, 2]], np.float32), np.array([[0, 2], [3, 1]])
    check("TopK", x, k=2, opset=1, outputs=2, expected=[values, places])
    check("TopK", x, np.array([2]), opset=10, outputs=2, expected=[values, places])
    check("TopK", x, np.array([2]), opset=11, largest=0, outputs=2)


@pytest.mark.parametrize("scales", [[1, 1, 2, 3], [1, 1, 0.5, 0.6], [1, 1, 1.5, 0.75]])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_in_every_version(scales, mode):
    """Opset 10 divides coordinates by the scale; 11 has half pixels; 13, 18 and 19 refine it."""
    scales = np.array(scales, np.float32)
    check("Resize", X, scales, mode=mode, opset=10, rtol=1e-4, atol=1e-5)
    roi = np.zeros(0, np.float32)
    check("Resize", X, roi, scales, mode=mode, opset=11, rtol=1e-4, atol=1e-5)
    for opset in (13, 18, 19):
        check("Resize", X, None, scales, mode=mode, opset=opset, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [11, 13, 18, 19])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_of_a_region(opset, mode):
    roi = np.array([0, 0, 0.1, 0.2, 1, 1, 0.8, 1.3], np.float32)
    given = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0, "mode": mode}
    scales = np.zeros(0, np.float32) if opset == 11 else None  # an input of opset 11 cannot be left out
    check("Resize", X, roi, scales, np.array([2, 4, 5, 4]), opset=opset, rtol=1e-4, atol=1e-4, **given)


@pytest.mark.parametrize("sizes", [[2, 4, 7, 9], [2, 4, 2, 3]])
@pytest.mark.parametrize("antialias", [0, 1])
def test_resize_excludes_what_lies_outside(sizes, antialias):
    given = {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5, "antialias": antialias}
    check("Resize", X, None, None, np.array(sizes), opset=18, rtol=1e-4, atol=1e-4, **given)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_resize_keeps_the_aspect_ratio(policy):
    given = {"keep_aspect_ratio_policy": policy, "axes": [2, 3], "mode": "linear"}
    check("Resize", X, None, None, np.array([7, 6]), opset=18, rtol=1e-4, atol=1e-5, **given)


def test_resize_names_what_it_does_not_know():
    for given in ({"mode": "lanczos"}, {"keep_aspect_ratio_policy": "round"}, {"nearest_mode": "up"},
                  {"coordinate_transformation_mode": "corner"}):  # fmt: skip
        with pytest.raises(Exception, match=f"the_node.*{next(iter(given.values()))}"):
            run_op("Resize", X, None, None, np.array([2, 4, 6, 7]), opset=19, **given)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grid_sample_has_volumes_from_opset_20_on(mode, padding):
    x, grid = floats(1, 2, 3, 4, 5), (R.random((1, 2, 3, 2, 3)) * 2.4 - 1.2).astype(np.float32)
    check("GridSample", x, grid, mode=mode, padding_mode=padding, opset=20, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_regions_shift_by_half_a_pixel_from_opset_16_on(ratio, mode):
    x = floats(2, 3, 8, 8)
    rois = np.array([[0, 0, 4, 4], [1, 2, 7, 6.5], [2, 2, 2.2, 2.1]], np.float32)
    given = {"output_height": 3, "output_width": 2, "sampling_ratio": ratio, "mode": mode}
    for opset in (10, 16):
        check("RoiAlign", x, rois, np.array([0, 1, 1]), opset=opset, rtol=1e-4, atol=1e-5, **given)
    given["coordinate_transformation_mode"] = "output_half_pixel"
    check("RoiAlign", x, rois, np.array([0, 1, 1]), opset=16, rtol=1e-4, atol=1e-5, **given)


@pytest.mark.parametrize("opset", [7, 10, 11, 19, 22])
@pytest.mark.parametrize("include", [0, 1])
def test_average_pool_in_every_version(opset, include):
    x = floats(1, 2, 7, 8)
    given = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 1], "count_include_pad": include}
    check("AveragePool", x, opset=opset, rtol=1e-5, **given)
    if opset >= 19:
        check("AveragePool", x, opset=opset, ceil_mode=1, dilations=[2, 1], rtol=1e-5, **given)


@pytest.mark.parametrize("opset", [1, 8, 10, 11, 12])
def test_max_pool_in_every_version(opset):
    x = floats(1, 2, 7, 8)
    given = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}
    (expected,) = onnxruntime_op("MaxPool", x, opset=12, **given)
    check("MaxPool", x, opset=opset, expected=expected, **given)


def test_lp_pool_over_the_whole_image_in_opset_1():
    x = np.abs(floats(1, 2, 4, 5))
    expected = np.sqrt(np.square(x).sum((2, 3), keepdims=True))
    check("LpPool", x, opset=1, expected=expected, rtol=1e-5)
    check("GlobalLpPool", x, opset=1, p=3.0, expected=np.cbrt((x**3).sum((2, 3), keepdims=True)), rtol=1e-5)
    check("GlobalLpPool", x, opset=2, p=3, expected=np.cbrt((x**3).sum((2, 3), keepdims=True)), rtol=1e-5)


@pytest.mark.parametrize("opset", [1, 7, 14])
def test_outputs_of_recurrent_networks_in_every_version(opset):
    x, w, r = floats(4, 2, 3), floats(1, 15, 3), floats(1, 15, 5)
    expected = onnxruntime_op("GRU", x, w, r, hidden_size=5, outputs=2, opset=14)
    check("GRU", x, w, r, hidden_size=5, outputs=2, opset=opset, expected=expected, rtol=1e-4, atol=1e-5)


def test_selu_had_rounder_constants_in_opset_1():
    x = np.array([-1.0, 2.0], np.float32)
    expected = np.array([1.0507 * 1.6732 * np.expm1(-1.0), 1.0507 * 2], np.float32)
    check("Selu", x, opset=1, expected=expected)
    check("Selu", x, opset=6)


def test_concat_joined_the_second_axis_in_opset_1():
    a = floats(2, 3)
    check("Concat", a, a, opset=1, expected=np.concatenate([a, a], 1))
    check("Concat", a, a, opset=4, axis=0, expected=np.concatenate([a, a], 0))


@pytest.mark.parametrize("opset", [8, 9, 11, 16])
def test_scan_had_a_batch_in_opset_8(opset):
    from onnx import parser
    from opcheck import PROVIDERS, run_model

    batch = opset == 8
    lead = "2, " if batch else ""
    text = f"""<ir_version: 8, opset_import: ["": {opset}]> g (float[{lead}2] s, float[{lead}3, 2] x)
    => (float[{lead}2] t, float[{lead}3, 2] y)
    {{ t, y = Scan <num_scan_inputs = 1, body = b (float[2] a, float[2] r) => (float[2] c, float[2] o)
        {{ c = Add(a, r)  o = Identity(c) }}> ({", s" if batch else "s"}, x) }}"""
    x = floats(2, 3, 2) if batch else floats(3, 2)
    s = np.zeros((2, 2) if batch else 2, np.float32)
    sums = np.cumsum(x, -2, dtype=np.float32)
    for provider in PROVIDERS:
        t, y = run_model(parser.parse_model(text), {"s": s, "x": x}, provider)
        np.testing.assert_allclose(y, sums, rtol=1e-5)
        np.testing.assert_allclose(t, sums[..., -1, :], rtol=1e-5)
