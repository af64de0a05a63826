"""Gradient against differences, through every differentiable kind of kernel, on both providers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, parser
from opcheck import PROVIDERS, run_model

import ortlite

R = np.random.default_rng(0)
TRAINING = "ai.onnx.preview.training"


def gradients(nodes, values, constants=None):
    """Gradients of the sum of the last node's output to `values`, in a session, and by central differences."""
    constants = constants or {}
    total = helper.make_node("ReduceSum", [nodes[-1].output[0]], ["total"], keepdims=0)
    names = list(values)
    outputs = [f"d_{n}" for n in names]
    grad = helper.make_node("Gradient", names, outputs, domain=TRAINING, xs=names, y="total")
    infos = [helper.make_tensor_value_info(n, 11, v.shape) for n, v in values.items()]
    weights = [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    results = [helper.make_tensor_value_info(n, 11, None) for n in ("total", *outputs)]
    graph = helper.make_graph([*nodes, total, grad], "g", infos, results, weights)
    imports = [helper.make_opsetid("", 23), helper.make_opsetid(TRAINING, 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    session = ortlite.InferenceSession(model.SerializeToString())

    def at(changed):
        return float(session.run(["total"], {n: np.asarray(v) for n, v in changed.items()})[0])

    expected = []
    for name, value in values.items():
        difference = np.zeros_like(value)
        for place in np.ndindex(value.shape):
            step = np.zeros_like(value)
            step[place] = 1e-6
            difference[place] = (at(values | {name: value + step}) - at(values | {name: value - step})) / 2e-6
        expected.append(difference)
    for provider in PROVIDERS:
        for got, wanted in zip(run_model(model, values, provider)[1:], expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6, err_msg=provider)


def node(op, inputs, **attributes):
    return helper.make_node(op, inputs, ["y"], **attributes)


X = R.random((2, 3)) * 0.6 + 0.2  # away from kinks, inside every domain
UNARY = (
    "Abs Neg Exp Log Sqrt Reciprocal Sin Cos Tan Asin Acos Atan Sinh Cosh Tanh Asinh Atanh Sigmoid Softplus Softsign "
    "Erf Relu LeakyRelu Elu Selu Gelu Mish HardSigmoid HardSwish Softmax LogSoftmax Identity Floor Sign"
)


@pytest.mark.parametrize("op", UNARY.split())
def test_unary(op):
    square = helper.make_node("Mul", ["x", "x"], ["s"])  # so that sums of softmax are not constant
    product = helper.make_node("Mul", ["z", "s"], ["y"])
    gradients([square, helper.make_node(op, ["x"], ["z"]), product], {"x": X})


@pytest.mark.parametrize("op", "Add Sub Mul Div Pow Max Min PRelu Mean Sum".split())
def test_binary_with_broadcasting(op):
    gradients([node(op, ["a", "b"])], {"a": X, "b": R.random((1, 3)) + 1.1})
    if op != "PRelu":
        gradients([node(op, ["b", "a"])], {"a": X, "b": np.asarray(R.random(()) + 1.1)})


@pytest.mark.parametrize(
    "op", "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp".split()
)
def test_reductions(op):
    for axes in ([1], [0, 1]):
        gradients([node(op, ["x", "axes"])], {"x": X}, {"axes": np.array(axes)})


def test_moving_elements():
    wide = helper.make_node("Mul", ["x", "x"], ["s"])
    for last, constants in (
        (node("Transpose", ["s"]), {}),
        (node("Reshape", ["s", "k"]), {"k": np.array([3, 2])}),
        (node("Slice", ["s", "a", "b", "c", "d"]), dict(zip("abcd", np.array([[2], [-9], [1], [-2]]), strict=True))),
        (node("Gather", ["s", "k"], axis=1), {"k": np.array([[0, 2], [2, 2]])}),
        (node("GatherElements", ["s", "k"], axis=1), {"k": np.array([[0, 2], [2, 2]])}),
        (node("GatherND", ["s", "k"]), {"k": np.array([[1, 2], [0, 0], [1, 2]])}),
        (node("Concat", ["s", "x", "s"], axis=0), {}),
        (node("Expand", ["s", "k"]), {"k": np.array([4, 2, 3])}),
        (node("Tile", ["s", "k"]), {"k": np.array([2, 3])}),
        (node("Pad", ["s", "k"], mode="reflect"), {"k": np.array([1, 2, 0, 1])}),
        (node("Trilu", ["s"]), {}),
        (node("CumSum", ["s", "k"], reverse=1), {"k": np.array(1)}),
        (node("Where", ["k", "s", "x"]), {"k": np.array([[True], [False]])}),
        (node("Clip", ["s", "k"]), {"k": np.array(0.25)}),
        (node("DepthToSpace", ["t"], blocksize=1), {}),
    ):
        middle = [helper.make_node("Unsqueeze", ["s", "u"], ["t"])] if last.op_type == "DepthToSpace" else []
        gradients([wide, *middle, last], {"x": X}, constants | ({"u": np.array([0, 1])} if middle else {}))


def test_bounds_have_gradients_too():
    given = {"x": X, "low": np.asarray(0.35), "high": np.asarray(0.6)}
    gradients([node("Clip", ["x", "low", "high"])], given)


def test_products():
    a, b, v = R.random((2, 3, 4)), R.random((4, 2)), R.random(4)
    gradients([node("MatMul", ["a", "b"])], {"a": a, "b": b})
    gradients([node("MatMul", ["a", "v"])], {"a": a, "v": v})
    gradients([node("MatMul", ["v", "b"])], {"v": v, "b": b})
    gradients([node("Gemm", ["a", "b", "c"], transA=1, alpha=0.5, beta=2.0)],
              {"a": R.random((4, 3)), "b": b, "c": R.random(2)})  # fmt: skip
    gradients([node("Einsum", ["a", "b"], equation="bij,jk->ikb")], {"a": a, "b": b})


def test_networks():
    x, w, b = R.random((1, 2, 5, 5)), R.random((3, 2, 3, 3)), R.random(3)
    given = {"pads": [1, 0, 1, 2], "strides": [2, 1]}
    gradients([node("Conv", ["x", "w", "b"], **given)], {"x": x, "w": w, "b": b})
    gradients([node("ConvTranspose", ["x", "w"], strides=[2, 2])], {"x": x, "w": R.random((2, 1, 2, 2))})
    gradients([node("MaxPool", ["x"], kernel_shape=[2, 2], strides=[2, 2])], {"x": x})
    gradients([node("AveragePool", ["x"], kernel_shape=[2, 2], pads=[1, 0, 0, 1])], {"x": x})
    gradients([node("LayerNormalization", ["x", "s"], axis=-1)], {"x": x[0, 0], "s": R.random(5)})
    gradients([node("BatchNormalization", ["x", "s", "c", "m", "v"])],
              {"x": x, **{n: R.random(2) + 0.5 for n in "scmv"}})  # fmt: skip
    gradients([node("Attention", ["q", "k", "v"], is_causal=1)], {n: R.random((1, 2, 3, 2)) for n in "qkv"})
    seen = np.array([[True, False, True], [False, False, False], [True, True, True]])  # nothing flows to the second
    gradients([node("Attention", ["q", "k", "v", "m"])], {n: R.random((1, 2, 3, 2)) for n in "qkv"},
              {"m": np.where(seen, 0.0, -np.inf)})  # fmt: skip
    gradients([node("LSTM", ["x", "w", "r"], hidden_size=2)],
              {"x": R.random((2, 1, 3)), "w": R.random((1, 8, 3)), "r": R.random((1, 8, 2))})  # fmt: skip
    gradients([node("Resize", ["x", "", "s"], mode="linear")], {"x": x}, {"s": np.array([1, 1, 2, 0.6], np.float32)})


def test_higher_derivatives_and_constants_in_between():
    text = f"""<ir_version: 8, opset_import: ["": 18, "{TRAINING}": 1]>
    g (double[3] x) => (double[3] d, double[3] dd, double[3] none) <double c = {{2.0}}>
    {{ s = Mul(x, x)  q = Mul(s, x)  y = Mul(q, c)  k = Floor(x)
       d = {TRAINING}.Gradient <xs = ["x"], y = "y"> (x)
       dd = {TRAINING}.Gradient <xs = ["x"], y = "d"> (x)
       none = {TRAINING}.Gradient <xs = ["x"], y = "k"> (x) }}"""
    x = np.array([0.5, -1.5, 2.0])
    for provider in PROVIDERS:
        d, dd, none = run_model(parser.parse_model(text), {"x": x}, provider)
        np.testing.assert_allclose(d, 6 * x * x)
        np.testing.assert_allclose(dd, 12 * x)
        assert not none.any()


def test_what_cannot_be_differentiated_is_said():
    text = f"""<ir_version: 8, opset_import: ["": 18, "{TRAINING}": 1]>
    g (double[3, 3] x, double[3] w) => (double[3, 3] d)
    {{ y = Det(x)  d = {TRAINING}.Gradient <xs = ["x"], y = "y"> (x) }}"""
    with pytest.raises(Exception, match=r"no rule to differentiate linalg\.det"):
        ortlite.InferenceSession(parser.parse_model(text).SerializeToString()).run(
            None, {"x": np.eye(3), "w": np.ones(3)}
        )
    for y, problem in (("nope", "no node before it computes"), ("s", "depends on \\['w'\\]")):
        bad = text.replace('y = "y"', f'y = "{y}"').replace("y = Det(x)", "s = Mul(x, w)")
        with pytest.raises(Exception, match=problem):
            ortlite.InferenceSession(parser.parse_model(bad).SerializeToString())


def test_gradients_go_to_floats_alone():
    text = f"""<ir_version: 8, opset_import: ["": 18, "{TRAINING}": 1]>
    g (int64[3] k) => (d) {{ f = Cast <to = 11> (k)  y = Mul(f, f)
      d = {TRAINING}.Gradient <xs = ["k"], y = "y"> (k) }}"""
    for provider in PROVIDERS:
        with pytest.raises(Exception, match="'k' in xs is int64"):
            run_model(parser.parse_model(text), {"k": np.array([1, 2, 3])}, provider)


def test_what_does_not_flow_is_zero_even_of_infinite_gradients():
    """A product with 0 would be NaN."""
    text = f"""<ir_version: 8, opset_import: ["": 18, "{TRAINING}": 1]>
    g (double[3] x) => (double[3] d) <double big = {{1e308}}, double one = {{1.0}}>
    {{ m = HOLD s = Mul(m, big) t = Mul(s, big) y = Mul(t, big)
       d = {TRAINING}.Gradient <xs = ["x"], y = "y"> (x) }}"""
    x = np.array([-1.0, 2.0, 3.0])
    for hold, flows in (
        ("Relu(x)", [0, 1, 1]),
        ("Max(x, one)", [0, 1, 1]),
        ("Min(x, one)", [1, 0, 0]),
        ("Clip(x, , one)", [1, 0, 0]),
        ("HardSigmoid(x)", [1, 1, 0]),
        ("ReduceMax(x)", [0, 0, 1]),
    ):
        model = parser.parse_model(text.replace("HOLD", hold))
        for provider in PROVIDERS:
            if hold == "ReduceMax(x)" and provider == "TorchExecutionProvider":
                continue  # torch's own derivative of amax is a product
            with np.errstate(over="ignore", invalid="ignore"):
                (d,) = run_model(model, {"x": x}, provider)
            np.testing.assert_array_equal(d, np.where(flows, np.inf, 0), err_msg=f"{hold} on {provider}")
