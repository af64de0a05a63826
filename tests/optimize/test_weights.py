"""Constants behind convolutions and products go into their weights; what is not a constant a channel stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ortlite
from tests.optimize.models import CPU, agree, model, node, operators, outputs
from tests.optimize.test_activations import PROVIDERS, Writer, values


def convolved(w, rank=2, channels=4, group=2, bias=True, transposed=False, dtype=np.float32):
    """A convolution of x (2, 4, 5, …) with `channels` results."""
    kernel = (2,) * rank
    shape = (4, channels // group, *kernel) if transposed else (channels, 4 // group, *kernel)
    w.constants["W"] = values(shape, dtype, 1)
    inputs = ["x", "W"]
    if bias:
        w.constants["B"] = values(channels, dtype, 2)
        inputs.append("B")
    return w("ConvTranspose" if transposed else "Conv", *inputs, group=group)


def normalised(w, y, channels, dtype=np.float32, **attributes):
    for i, name in enumerate(("scale", "shift", "mean")):
        w.constants[name] = values(channels, dtype, 3 + i)
    w.constants["var"] = np.abs(values(channels, dtype, 9)) + dtype(0.1)
    return w("BatchNormalization", y, "scale", "shift", "mean", "var", **attributes)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3),
    st.sampled_from([(4, 1), (4, 2), (6, 2), (4, 4)]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["norm", "Mul", "Add", "Div by norm", "number", "all"]),
    st.sampled_from([np.float32, np.float64, np.float16]),
    st.sampled_from([9, 13, 20]),
)
def test_what_follows_a_convolution(rank, sizes, bias, transposed, what, dtype, opset):
    channels, group = sizes
    w = Writer(dtype)
    y = convolved(w, rank, channels, group, bias, transposed, dtype)
    w.constants["v"] = values((channels, *(1,) * rank), dtype, 7)
    w.constants["along"] = values((1, channels, *(1,) * rank), dtype, 8)
    if what in {"Mul", "all"}:
        y = w("Mul", "v", y)
    if what in {"Add", "all"}:
        y = w("Add", y, "along")
    if what == "number":
        y = w("Mul", y, 3.0)
    if what in {"norm", "Div by norm", "all"}:
        y = normalised(w, y, channels, dtype, epsilon=1e-3)
    x = values((2, 4, *(5,) * rank), dtype)
    near = 2e-2 if dtype == np.float16 else 1e-4
    found = agree(w.model({"x": x}, y, opset=opset), {"x": x}, near, near * 4)
    assert found == {"ConvTranspose" if transposed else "Conv": 1}


@pytest.mark.parametrize("shape", [(4,), (1, 4, 4), (2, 1, 1, 1), (1, 1, 1, 1, 1)])
@pytest.mark.parametrize("op_type", ["Mul", "Add"])
def test_constants_along_other_axes_stay(shape, op_type):
    w = Writer()
    w.constants["v"] = values(shape, seed=7)
    y = w(op_type, convolved(w), "v")
    x = values((2, 4, 5, 5))
    assert agree(w.model({"x": x}, y), {"x": x}) == {"Conv": 1, op_type: 1}


def test_a_convolution_that_others_read_stays():
    w = Writer()
    c = convolved(w)
    y = normalised(w, c, 4)
    z = w("Neg", c)
    x = values((2, 4, 5, 5))
    assert agree(w.model({"x": x}, y, [z]), {"x": x})["BatchNormalization"] == 1
    w = Writer()
    c = convolved(w)
    assert agree(w.model({"x": x}, normalised(w, c, 4), [c]), {"x": x})["BatchNormalization"] == 1


def test_weights_that_are_shared_are_copied():
    w = Writer()
    one, other = normalised(w, convolved(w), 4), w("Conv", "x", "W", group=2)
    x = values((2, 4, 5, 5))
    assert agree(w.model({"x": x}, one, [other]), {"x": x}, 1e-4, 1e-4) == {"Conv": 2}


def test_weights_that_are_fed_stay():
    w = Writer()
    y = normalised(w, convolved(w, group=1, bias=False), 4)
    feed = {"x": values((2, 4, 5, 5)), "W": w.constants.pop("W")}
    assert agree(w.model(feed, y), feed) == {"Conv": 1, "BatchNormalization": 1}


def test_an_overridable_weight_stays():
    w = Writer()
    y = normalised(w, convolved(w, group=1, bias=False), 4)
    feed = {"x": values((2, 4, 5, 5)), "W": w.constants["W"]}
    assert agree(w.model(feed, y), feed) == {"Conv": 1, "BatchNormalization": 1}


def test_training_stays():
    w = Writer()
    w.constants |= {"scale": values(4), "shift": values(4), "mean": values(4), "var": np.ones(4, np.float32)}
    c = convolved(w)
    inputs = [c, "scale", "shift", "mean", "var"]
    w.nodes.append(node("BatchNormalization", inputs, ["y", "m", "v"], training_mode=1))
    x = values((2, 4, 5, 5))
    assert "BatchNormalization" in agree(w.model({"x": x}, "y", ["m"]), {"x": x}, 1e-4, 1e-4)


def test_what_would_overflow_stays():
    w = Writer(np.float16)
    c = convolved(w, dtype=np.float16)
    w.constants["v"] = np.full((4, 1, 1), 60000, np.float16)
    x = np.zeros((1, 4, 5, 5), np.float16)
    assert "Mul" in agree(w.model({"x": x}, w("Mul", c, "v")), {"x": x}, 1e-2, 1e-2)


@pytest.mark.parametrize("wrong", [0.0, -1.0])
def test_a_variance_that_gives_no_number_stays_without_a_warning(wrong):
    w = Writer()
    y = normalised(w, convolved(w), 4, epsilon=0.0)
    w.constants["var"][1] = wrong
    assert "BatchNormalization" in operators(w.model({"x": values((1, 4, 5, 5))}, y))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 3), st.sampled_from(["row", "(1, n)"]), st.booleans(), st.sampled_from([9, 13, 20]), st.booleans()
)
def test_products_with_a_row(rows, form, turned, opset, more):
    w = Writer()
    w.constants["W"], w.constants["b"] = values((4, 6), seed=1), values((1, 6) if form != "row" else 6, seed=2)
    w.constants["c"] = values(6, seed=3)
    product = w("MatMul", "x", "W")
    y = w("Add", "b", product) if turned else w("Add", product, "b")
    y = w("Add", y, "c") if more else y
    x = values((rows, 4))
    assert agree(w.model({"x": x}, y, opset=opset), {"x": x}) == {"Gemm": 1}


@pytest.mark.parametrize(
    ("x", "b"), [((2, 3, 4), (6,)), ((4,), (6,)), ((3, 4), (3, 6)), ((3, 4), (1,)), ((3, 4), (1, 1, 6))]
)
def test_other_products_stay(x, b):
    w = Writer()
    w.constants["W"], w.constants["b"] = values((4, 6), seed=1), values(b, seed=2)
    y = w("Add", w("MatMul", "x", "W"), "b")
    assert agree(w.model({"x": values(x)}, y), {"x": values(x)}) == {"MatMul": 1, "Add": 1}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("product", ["MatMul", "Gemm"])
def test_normalisation_of_a_product(product, turned, provider):
    w = Writer()
    w.constants["W"], w.constants["b"] = values((6, 4) if turned and product == "Gemm" else (4, 6), seed=1), values(6)
    attributes = {"transB": turned, "beta": 0.5, "alpha": 2.0} if product == "Gemm" else {}
    y = w(product, "x", "W", *(["b"] if product == "Gemm" else []), **attributes)
    y = normalised(w, y, 6)
    x = values((5, 4))
    assert agree(w.model({"x": x}, y), {"x": x}, 1e-4, 1e-4, [provider]) == {"Gemm": 1}


def used(proto, provider, **options):
    """How often the session of a model runs the operator of both."""
    session = ortlite.InferenceSession(proto.SerializeToString(), providers=[provider], **options)
    return sum(node.op_type == "Linear" for node in session.explain().nodes)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("sizes", [(4, 6), (512, 520)])
@pytest.mark.parametrize("turned", [False, True])
def test_products_of_more_axes_and_a_row_are_one_operator_where_a_provider_asks(provider, dtype, sizes, turned):
    w = Writer(dtype)
    w.constants |= {"W": values(sizes, dtype, 1) / dtype(sizes[0] ** 0.5), "b": values(sizes[1], dtype, 2)}
    product = w("MatMul", "x", "W")
    y = w("Add", "b", product) if turned else w("Add", product, "b")
    near = 1e-2 if dtype == np.float16 else 1e-5
    for shape in ((2, 3), (1, 1), (2, 2, 1), (3, 0), (1, 40)):
        x = {"x": values((*shape, sizes[0]), dtype)}
        proto = w.model(x, y)
        assert agree(proto, x, near, near, [provider]) == {"MatMul": 1, "Add": 1}, "a file has no such operator"
        assert used(proto, provider) == 1
    assert used(proto, provider, disabled_optimizers=["MatMulAddFusion"]) == 0
    assert used(w.model(x, y, [product]), provider) == 0, "the product is an output"


@pytest.mark.parametrize(("x", "b"), [((4,), (6,)), ((2, 3, 4), (3, 6)), ((2, 3, 4), (1, 1, 6)), ((2, 3, 4), (1,))])
def test_other_sums_are_not(x, b):
    w = Writer()
    w.constants |= {"W": values((4, 6), seed=1), "b": values(b, seed=2)}
    proto = w.model({"x": values(x)}, w("Add", w("MatMul", "x", "W"), "b"))
    assert used(proto, CPU) == 0
    fed = {"x": values((2, 3, 4)), "b": values(6)}
    del w.constants["b"]
    assert used(w.model(fed, w.nodes[-1].output[0]), CPU) == 0


def test_names_of_passes():
    x = values((2, 4, 5, 5))
    for name, op_type in (("ConvMulFusion", "Mul"), ("ConvAddFusion", "Add")):
        w = Writer()
        w.constants["v"] = values((4, 1, 1), seed=7)
        proto = w.model({"x": x}, w(op_type, convolved(w), "v"))
        assert operators(proto, level=1) == {"Conv": 1}
        assert operators(proto, disabled=[name]) == {"Conv": 1, op_type: 1}
        assert operators(proto, level=0) == {"Conv": 1, op_type: 1}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_new_weights_have_the_dtype_of_the_old(provider):
    w = Writer()
    w.constants |= {"W": values((4, 6), seed=1).astype(np.float16), "b": values(6).astype(np.float16)}
    x = {"x": values((5, 4)).astype(np.float16)}
    y = w("Gemm", "x", "W")
    proto = w.model(x, w("Add", y, "b"))
    assert agree(proto, x, 1e-2, 1e-2, [provider]) == {"Gemm": 1}


@pytest.mark.parametrize("op_type", ["Add", "Mul"])
def test_constants_put_at_another_axis_are_none_a_channel(op_type):
    """Below opset 7 `axis` says where the second input begins: here each image has a number, not each channel."""
    x, w = values((3, 3, 4, 5)), values((3, 3, 1, 1))
    nodes = [node("Conv", ["x", "w"], ["a"]), node(op_type, ["a", "b"], ["y"], broadcast=1, axis=0)]
    b = np.float32([1, 2, 3]).reshape(3, 1, 1)
    (got,) = outputs(model(nodes, {"x": x}, ["y"], {"w": w, "b": b}, 6), {"x": x})
    a = np.einsum("nchw,mc->nmhw", x, w[:, :, 0, 0])
    wanted = a + b[..., None] if op_type == "Add" else a * b[..., None]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_column_is_no_row_of_a_product():
    x, w, b = values((3, 3)), values((3, 3)), np.float32([1, 2, 3])
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Add", ["a", "b"], ["y"], broadcast=1, axis=0)]
    (got,) = outputs(model(nodes, {"x": x}, ["y"], {"w": w, "b": b}, 6), {"x": x})
    np.testing.assert_allclose(got, x @ w + b[:, None], rtol=1e-5, atol=1e-5)
