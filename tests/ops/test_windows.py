"""Convolutions, pools and resampling in 1 to 3 dimensions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from opcheck import check, onnxruntime_op, run_op

import ortlite

R = np.random.default_rng(0)


def floats(*shape):
    return R.standard_normal(shape).astype(np.float32)


SPATIAL = {1: (9,), 2: (7, 9), 3: (5, 6, 7)}
CASES = [
    {},
    {"strides": 2},
    {"dilations": 2},
    {"pads": "asymmetric"},
    {"auto_pad": "SAME_UPPER", "strides": 2},
    {"auto_pad": "SAME_LOWER", "strides": 2},
    {"auto_pad": "VALID"},
    {"strides": 2, "dilations": 2, "pads": "asymmetric"},
]


def spread(case, rank):
    """Attributes for `rank` spatial axes."""
    result = {k: [v] * rank if isinstance(v, int) and k != "ceil_mode" else v for k, v in case.items()}
    if result.get("pads") == "asymmetric":
        result["pads"] = [1] * rank + [2] * rank
    return result


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("group", [1, 2])
def test_conv(rank, case, group):
    x, w, b = floats(2, 4, *SPATIAL[rank]), floats(6, 4 // group, *(3,) * rank), floats(6)
    check("Conv", x, w, b, group=group, rtol=1e-4, atol=1e-4, **spread(case, rank))


def test_depthwise_and_pointwise_conv():
    check("Conv", floats(1, 4, 6, 6), floats(4, 1, 3, 3), group=4, pads=[1] * 4, rtol=1e-4, atol=1e-5)
    check("Conv", floats(1, 4, 6, 6), floats(5, 4, 1, 1), strides=[2, 2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "case",
    [{}, {"strides": 2}, {"dilations": 2}, {"pads": "asymmetric"}, {"strides": 2, "output_padding": 1}, {"strides": 3}],
    ids=str,
)
@pytest.mark.parametrize("group", [1, 2])
def test_conv_transpose(rank, case, group):
    x, w, b = floats(2, 4, *SPATIAL[rank]), floats(4, 3, *(3,) * rank), floats(3 * group)
    check("ConvTranspose", x, w, b, group=group, rtol=1e-4, atol=1e-4, **spread(case, rank))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("size", "stride", "dilation"), [(3, 2, 1), (1, 2, 1), (2, 3, 2), (2, 2, 2), (4, 2, 1), (3, 1, 2)]
)
@pytest.mark.parametrize("group", [1, 2])
def test_infinity_stays_where_a_transposed_convolution_puts_it(rank, size, stride, dilation, group):
    x, w, bias = floats(1, 2, *(4, 3, 2)[:rank]), floats(2, 2, *[size] * rank), floats(2 * group)
    given = {"strides": [stride] * rank, "dilations": [dilation] * rank, "pads": [0] * rank + [size // 2] * rank}
    infinite = w.copy()
    infinite[0, 0, 0], infinite[1, 1, -1, ...] = np.inf, np.nan
    check("ConvTranspose", x, infinite, bias, group=group, rtol=1e-4, atol=1e-5, **given)
    x[0, 0, 1], x[0, 1, -1, ...] = np.inf, np.nan
    check("ConvTranspose", x, w, bias, group=group, rtol=1e-4, atol=1e-5, **given)


@pytest.mark.parametrize("infinite", [False, True])
def test_constant_weights_of_a_transposed_convolution(infinite):
    """They are looked at once a session, and say how every run adds up."""
    x, w = floats(1, 2, 4, 3), floats(2, 2, 3, 3)
    if infinite:
        w[0, 1, 2, 0], w[1, 0, 0, 1] = -np.inf, np.inf
    graph = helper.make_graph(
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 1])],
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2, 4, 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2, 9, 5])],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    wanted = np.zeros((1, 2, 9, 5), np.float32)
    for i, j in np.ndindex(4, 3):
        wanted[:, :, 2 * i : 2 * i + 3, j : j + 3] += np.einsum("nc,cmhv->nmhv", x[:, :, i, j], w)
    session = ortlite.InferenceSession(model.SerializeToString())
    for _ in range(4):  # as it is called, recorded and written down
        np.testing.assert_allclose(session.run(None, {"x": x})[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "stride", "dilation"), [(3, 2, 1), (2, 2, 1), (2, 1, 2), (3, 3, 2)])
@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_infinity_stays_where_col2im_puts_it(size, stride, dilation, kind):
    image = [(n - 1) * stride + (size - 1) * dilation for n in (4, 3)]  # padded by one
    x = (9 * floats(2, 3 * size**2, 4 * 3)).astype(kind)
    if kind is np.float32:
        x[0, 1, 1], x[1, 0, -1] = np.inf, np.nan
    wanted = np.zeros((2, 3, *(n + 1 for n in image)), kind)
    for i, block in enumerate(
        np.moveaxis(x.reshape(2, 3, size, size, 4, 3), (4, 5), (0, 1)).reshape(12, 2, 3, size, size)
    ):
        top, left = (stride * place for place in divmod(i, 3))
        reach = (size - 1) * dilation + 1
        wanted[:, :, top : top + reach : dilation, left : left + reach : dilation] += block
    given = {"strides": [stride] * 2, "dilations": [dilation] * 2, "pads": [1, 0, 0, 1]}
    check(
        "Col2Im",
        x,
        np.array(image),
        np.array([size] * 2),
        expected=wanted[:, :, 1:, :-1],
        rtol=1e-4,
        atol=1e-5,
        **given,
    )


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_conv_transpose_to_a_given_shape(auto_pad):
    x, w = floats(1, 1, 3, 3), floats(1, 2, 3, 3)
    check("ConvTranspose", x, w, auto_pad=auto_pad, strides=[2, 2], rtol=1e-4, atol=1e-4)
    check("ConvTranspose", x, w, output_shape=[7, 8], strides=[2, 2], rtol=1e-4, atol=1e-4)


POOLS = [*CASES, {"ceil_mode": 1, "strides": 2}, {"ceil_mode": 1, "strides": 3, "pads": "asymmetric"}]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_pools(rank, case):
    x = floats(2, 3, *SPATIAL[rank])
    given = spread(case, rank)
    if given.get("ceil_mode") is None:
        check("MaxPool", x, kernel_shape=[3] * rank, outputs=2, **given)
    else:
        check("MaxPool", x, kernel_shape=[3] * rank, **given)
    for include in (0, 1):
        check("AveragePool", x, kernel_shape=[3] * rank, count_include_pad=include, opset=22, **given)
    if "dilations" not in given and "ceil_mode" not in given:
        check("LpPool", x, kernel_shape=[3] * rank, p=3, opset=11, rtol=1e-4, **given)


@pytest.mark.parametrize("lowest", [np.float32(-np.inf), np.int8(-128), np.uint8(0)])
def test_places_of_the_lowest_number_are_none_of_the_padding(lowest):
    x = np.full((1, 2, 4, 5), lowest)
    for given in (
        {"pads": [1, 1, 1, 1]},
        {"pads": [2, 1, 0, 2], "strides": [2, 1]},
        {"pads": [2, 2, 2, 2], "dilations": [2, 2]},
    ):
        _, expected = onnxruntime_op("MaxPool", x, kernel_shape=[3, 3], outputs=2, opset=12, **given)
        _, places = run_op("MaxPool", x, kernel_shape=[3, 3], outputs=2, opset=12, **given)
        np.testing.assert_array_equal(places, expected)


def test_the_place_of_nan():
    x = np.float32([1, np.nan, 3, 2, np.nan, 5]).reshape(1, 1, 6)
    best, places = run_op("MaxPool", x, kernel_shape=[2], outputs=2)
    assert places.tolist() == [[[1, 1, 2, 4, 4]]]
    np.testing.assert_array_equal(best, x.reshape(-1)[places])


def test_global_pools_and_unpool():
    x = floats(2, 3, 4, 6)
    for op in ("GlobalMaxPool", "GlobalAveragePool"):
        check(op, x)
    values, places = run_op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], outputs=2)
    check("MaxUnpool", values, places, kernel_shape=[2, 2], strides=[2, 2])


@pytest.mark.parametrize("op", ["Conv", "MaxPool", "AveragePool"])
def test_no_examples(op):
    x = np.zeros((0, 3, 8, 8), np.float32)
    inputs = (x, floats(4, 3, 3, 3)) if op == "Conv" else (x,)
    given = {} if op == "Conv" else {"kernel_shape": [3, 3]}
    (y,) = run_op(op, *inputs, **given)
    assert y.shape == (0, 4 if op == "Conv" else 3, 6, 6)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(Exception, match=r"the_node.*\(1, 3, 8, 8\) and W \(4, 2, 3, 3\)"):
        run_op("Conv", floats(1, 3, 8, 8), floats(4, 2, 3, 3))


MODES = ["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"]


@pytest.mark.parametrize("coordinates", MODES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("sizes", [[1, 2, 7, 9], [1, 2, 3, 2], [1, 2, 4, 5], [1, 2, 1, 1]])
def test_resize(coordinates, mode, sizes):
    x = floats(1, 2, 4, 5)
    given = {"coordinate_transformation_mode": coordinates, "mode": mode}
    check("Resize", x, None, None, np.array(sizes), opset=19, rtol=1e-4, atol=1e-4, **given)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_with_antialias(mode):
    x = floats(1, 1, 8, 8)
    check("Resize", x, None, None, np.array([1, 1, 3, 5]), mode=mode, antialias=1, opset=19, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_nearest_modes(nearest):
    x = np.arange(20, dtype=np.float32).reshape(1, 1, 4, 5)
    check("Resize", x, None, np.array([1, 1, 1.7, 0.6], np.float32), nearest_mode=nearest, opset=13)


def test_upsample():
    x = floats(1, 1, 2, 3)
    scales = np.array([1, 1, 2, 3], np.float32)
    expected = x.repeat(2, 2).repeat(3, 3)
    check("Upsample", x, scales, opset=9, expected=expected)
    check("Upsample", x, opset=7, scales=[1.0, 1.0, 2.0, 3.0], expected=expected)
    check("Upsample", x, opset=1, height_scale=2.0, width_scale=3.0, expected=expected)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
def test_grid_sample(mode, padding, align):
    x, grid = floats(1, 2, 5, 6), (R.random((1, 3, 4, 2)) * 2.6 - 1.3).astype(np.float32)
    given = {"mode": mode, "padding_mode": padding, "align_corners": align}
    check("GridSample", x, grid, opset=16, rtol=1e-4, atol=1e-4, **given)


def test_boxes():
    x = floats(1, 2, 8, 8)
    rois = np.array([[0, 0, 4, 4], [1, 2, 7, 6.5]], np.float32)
    for mode in ("avg", "max"):
        if mode == "avg":
            check(
                "RoiAlign", x, rois, np.array([0, 0]), output_height=3, output_width=2, mode=mode, opset=16, rtol=1e-4
            )
    check("MaxRoiPool", x, np.array([[0, 0, 0, 4, 4], [0, 1, 2, 7, 6]], np.float32), pooled_shape=[2, 2], opset=16)
    boxes = np.array([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, 2, 1, 3]]], np.float32)
    scores = np.array([[[0.9, 0.75, 0.6]]], np.float32)
    check("NonMaxSuppression", boxes, scores, np.array([3]), np.float32([0.5]), np.float32([0.1]), opset=11)


def cropped(x, w, auto_pad, strides, dilations, extra, wanted):
    """ConvTranspose by the letter of ONNX: the whole result, less the pads that `wanted` implies."""
    (y,) = onnxruntime_op("ConvTranspose", x, w, strides=strides, dilations=dilations)
    key = [slice(None)] * 2
    for n, more, want in zip(y.shape[2:], extra, wanted, strict=True):
        total = n + more - want  # stride * (input - 1) + output_padding + (kernel - 1) * dilation + 1 - output_shape
        start = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
        key.append(slice(start, start + want))
    return np.pad(y, [(0, 0), (0, 0), *((0, more) for more in extra)])[tuple(key)]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("auto_pad", [None, "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("less", [0, 1, 2, 3])
@pytest.mark.parametrize(("stride", "dilation", "more"), [(2, 1, 0), (3, 1, 1), (1, 2, 0)])
def test_conv_transpose_to_a_shape(rank, auto_pad, less, stride, dilation, more):
    """Only SAME_UPPER puts the smaller half of an odd padding first."""
    x, w = floats(1, 2, *(4, 3, 3)[:rank]), floats(2, 3, *(3, 2, 2)[:rank])
    strides, dilations, extra = [stride] * rank, [dilation] * rank, [more] * rank
    lengths = zip(x.shape[2:], w.shape[2:], strict=True)
    wanted = [stride * (n - 1) + more + (k - 1) * dilation + 1 - less for n, k in lengths]
    given = {"auto_pad": auto_pad, "strides": strides, "dilations": dilations, "output_padding": extra}
    expected = cropped(x, w, auto_pad, strides, dilations, extra, wanted)
    check("ConvTranspose", x, w, output_shape=wanted, expected=expected, rtol=1e-4, atol=1e-5, **given)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_conv_transpose_by_auto_pad(auto_pad, size):
    x, w = floats(1, 2, 4), floats(2, 3, size)
    expected = cropped(x, w, auto_pad, [2], [1], [0], [8]) if size > 2 else None
    check("ConvTranspose", x, w, auto_pad=auto_pad, strides=[2], expected=expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize(
    ("length", "size", "stride", "dilation"), [(2, 3, 2, 1), (2, 3, 1, 1), (2, 4, 2, 1), (2, 5, 4, 1), (2, 2, 2, 2)]
)
@pytest.mark.parametrize("given", [{}, {"auto_pad": "VALID"}, {"ceil_mode": 1}, {"count_include_pad": 1}])
def test_a_window_larger_than_the_image(op, length, size, stride, dilation, given):
    """Shape inference and onnxruntime divide towards zero: there is one window when less than a stride is missing."""
    if "count_include_pad" in given and op != "AveragePool":
        pytest.skip("it counts nothing")
    check(op, floats(1, 2, length), kernel_shape=[size], strides=[stride], dilations=[dilation], **given)


@pytest.mark.parametrize(("images", "channels", "filters"), [(1, 3, 0), (1, 0, 2), (0, 3, 2), (1, 0, 0)])
@pytest.mark.parametrize("size", [1, 3])
def test_convolutions_of_no_channels(images, channels, filters, size):
    x, w, bias = floats(images, channels, 5, 5), floats(filters, channels, size, size), floats(filters)
    y = np.broadcast_to(bias[:, None, None], (images, filters, 6 - size, 6 - size))
    if channels:
        check("Conv", x, w, bias, expected=y)
    else:  # in C order, and with channels last, as a convolution before leaves them
        for array in (x, np.moveaxis(floats(images, 5, 5, channels), -1, 1)):
            check("Conv", array, w, bias, expected=y)


def test_a_padded_window_larger_than_the_image():
    x = floats(1, 2, 2, 5)
    given = {"kernel_shape": [5, 3], "strides": [3, 2], "pads": [1, 1, 0, 1]}
    for op, more in [("MaxPool", {}), ("LpPool", {}), ("AveragePool", {}), ("AveragePool", {"count_include_pad": 1})]:
        check(op, x, **given, **more)
    check("MaxPool", x, outputs=2, **given)
    nhwc = np.moveaxis(np.abs(x * 10).astype(np.uint8), 1, -1)
    (want,) = onnxruntime_op("MaxPool", np.moveaxis(nhwc, -1, 1), **given)
    check("NhwcMaxPool", nhwc, expected=np.moveaxis(want, 1, -1), domain="com.microsoft", opset=1, **given)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("include", [0, 1])
def test_a_window_of_millions_costs_what_the_image_has(op, include):
    """An array of the window's size would not fit into memory; exporters of models write such windows."""
    x = floats(2, 3, 7, 5)
    size = 10**6
    given = {"count_include_pad": include} if op == "AveragePool" else {}
    (y,) = run_op(op, x, kernel_shape=[size] * 2, strides=[size] * 2, ceil_mode=1, opset=19, **given)
    wanted = {"MaxPool": x.max((2, 3)), "LpPool": np.sqrt(np.square(x).sum((2, 3))), "AveragePool": x.mean((2, 3))}
    np.testing.assert_allclose(y, wanted[op][:, :, None, None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(24))
def test_windows_of_any_size_show_what_they_show(seed):
    """MaxPool with indices, AveragePool and LpPool against loops over the windows."""
    draw = np.random.default_rng(seed)
    n, size, stride, dilation = draw.integers(1, 40), draw.integers(1, 70), draw.integers(1, 9), draw.integers(1, 4)
    lo, hi = draw.integers(0, size, 2)
    reach = (size - 1) * dilation + 1
    count = (n + lo + hi - reach) // stride + 1
    if count < 1:
        hi += reach - (n + lo + hi)
        count = 1
        if hi >= size:
            pytest.skip("pads must be smaller than the window")
    x = floats(1, 2, n)
    given = {"kernel_shape": [int(size)], "strides": [int(stride)], "dilations": [int(dilation)]}
    given["pads"] = [int(lo), int(hi)]
    shown = [[j for j in range(w * stride - lo, w * stride - lo + reach, dilation) if 0 <= j < n] for w in range(count)]
    (total,) = run_op("AveragePool", x, count_include_pad=1, opset=19, **given)
    wanted = np.stack([x[0][:, s].sum(1) / np.float32(size) for s in shown], -1)
    np.testing.assert_allclose(total[0], wanted, rtol=1e-4, atol=1e-5)
    if all(shown):
        (y,) = run_op("MaxPool", x, opset=22, **given)
        np.testing.assert_array_equal(y[0], np.stack([x[0][:, s].max(1) for s in shown], -1))
        y, where = run_op("MaxPool", x, outputs=2, opset=22, **given)
        np.testing.assert_array_equal(where[0], [[s[x[0, c, s].argmax()] + c * n for s in shown] for c in range(2)])
