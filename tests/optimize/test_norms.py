"""Layer normalisations are recovered from every spelling that computes them, and from nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from tests.optimize.models import agree, operators
from tests.optimize.test_activations import PROVIDERS, Writer, values

RANKS = st.integers(1, 4)


def mean(w, x, axes, opset, keepdims=1):
    if opset < 18:
        return w("ReduceMean", x, axes=list(axes), keepdims=keepdims)
    name = f"axes{len(w.constants)}"
    w.constants[name] = np.array(axes, np.int64)
    return w("ReduceMean", x, name, keepdims=keepdims)


def square(w, x, form):
    return w("Mul", x, x) if form == "Mul" else w("Pow", x, 2.0)


def divide(w, x, variance, form, epsilon=1e-5):
    wide = w("Add", variance, epsilon)
    if form == "Div":
        return w("Div", x, w("Sqrt", wide))
    if form == "Reciprocal":
        return w("Mul", x, w("Reciprocal", w("Sqrt", wide)))
    if form == "one over":
        return w("Mul", w("Div", 1.0, w("Sqrt", wide)), x)
    if form == "root of reciprocal":
        return w("Mul", x, w("Sqrt", w("Reciprocal", wide)))
    if form == "Pow":
        return w("Mul", x, w("Pow", wide, -0.5))
    return w("Div", x, w("Pow", wide, 0.5))


DIVISIONS = ["Div", "Reciprocal", "one over", "root of reciprocal", "Pow", "Pow below"]


def layer_norm(w, x, axes, opset, squared="Pow", divided="Div", twice=False, epsilon=1e-5):
    centre = mean(w, x, axes, opset)
    d = w("Sub", x, centre)
    other = w("Sub", x, centre) if twice else d
    return divide(w, d, mean(w, square(w, other, squared), axes, opset), divided, epsilon)


def scaled(w, y, shape, shift=True, turned=False):
    w.constants["scale"], w.constants["shift"] = values(shape, w.dtype, 3), values(shape, w.dtype, 4)
    y = w("Mul", *(("scale", y) if turned else (y, "scale")))
    return w("Add", *(("shift", y) if turned else (y, "shift"))) if shift else y


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.data(),
    st.sampled_from([13, 17, 18, 20]),
    st.sampled_from(["Mul", "Pow"]),
    st.sampled_from(DIVISIONS),
    st.booleans(),
    st.booleans(),
    st.sampled_from([np.float32, np.float64]),
)
def test_layer_norm_in_any_spelling(shape, data, opset, squared, divided, twice, turned, dtype):
    count = data.draw(st.integers(1, len(shape)))
    axes = [i - count for i in range(count)]
    if data.draw(st.booleans()):
        axes = [axis + len(shape) for axis in axes]
    shift = data.draw(st.booleans())
    w = Writer(dtype)
    y = scaled(w, layer_norm(w, "x", axes, opset, squared, divided, twice), shape[-count:], shift, turned)
    x = values(shape, dtype)
    assert agree(w.model({"x": x}, y, opset=opset), {"x": x}, 1e-4, 1e-4) == {"LayerNormalization": 1}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("opset", [15, 20])
def test_nan_and_infinities_spread_as_before(opset, provider):
    w = Writer()
    x = values((4, 6))
    x[0, 1], x[1, 2], x[2, :] = np.nan, np.inf, 3.0
    y = scaled(w, layer_norm(w, "x", [-1], opset), (6,))
    assert agree(w.model({"x": x}, y, opset=opset), {"x": x}, providers=[provider]) == {"LayerNormalization": 1}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.sampled_from([13, 17, 20]), st.data())
def test_layer_norm_with_the_mean_apart(shape, opset, data):
    """As TensorFlow writes it."""
    w = Writer()
    w.constants |= {"scale": values(shape[-1:], seed=3), "shift": values(shape[-1:], seed=4)}
    centre = mean(w, "x", [-1], opset)
    variance = mean(w, square(w, w("Sub", "x", centre), "Mul"), [-1], opset)
    root = w("Reciprocal", w("Sqrt", w("Add", variance, 1e-3)))

    def either(op_type, *pair):
        return w(op_type, *(pair if data.draw(st.booleans()) else pair[::-1]))

    a = either("Mul", root, "scale")
    y = either("Add", either("Mul", "x", a), w("Sub", "shift", either("Mul", centre, a)))
    x = values(shape)
    assert agree(w.model({"x": x}, y, opset=opset), {"x": x}, 1e-4, 1e-4) == {"LayerNormalization": 1}
    z = either("Add", either("Mul", "u", a), w("Sub", "shift", either("Mul", centre, a)))  # something else's mean
    feed = {"x": x, "u": values(shape, seed=7)}
    assert "ReduceMean" in agree(w.model(feed, z, opset=opset), feed, 1e-4, 1e-4)


def test_without_a_scale():
    w = Writer()
    x = values((2, 3, 4))
    y = w("Neg", layer_norm(w, "x", [-1], 20))
    assert agree(w.model({"x": x}, y), {"x": x}) == {"LayerNormalization": 1, "Neg": 1}


@pytest.mark.parametrize("axes", [[1], [0], [0, 1], [-2]])
def test_other_axes_stay(axes):
    w = Writer()
    x = values((2, 3, 4))
    y = scaled(w, layer_norm(w, "x", axes, 20), (4,))
    assert "ReduceMean" in agree(w.model({"x": x}, y), {"x": x})


def test_positive_axes_of_an_unknown_rank_stay():
    w = Writer()
    x = values((2, 3, 4))
    w.constants["target"] = np.array([2, 3, 4])
    y = scaled(w, layer_norm(w, w("Reshape", "x", w("Mul", "n", "target")), [2], 20), (4,))
    feed = {"x": x, "n": np.array([1, 1, 1])}
    proto = w.model(feed, y, dims={"n": ["length"]})
    assert "ReduceMean" in agree(proto, feed)


@pytest.mark.parametrize("shape", [(3, 4), (1,), (2, 3, 4), ()])
def test_a_scale_of_another_shape_stays_outside(shape):
    w = Writer()
    x = values((2, 3, 4))
    y = scaled(w, layer_norm(w, "x", [-1], 20), shape)
    assert agree(w.model({"x": x}, y), {"x": x}) == {"LayerNormalization": 1, "Mul": 1, "Add": 1}


def test_what_is_computed_later_stays_outside():
    w = Writer()
    feed = {"x": values((2, 3, 4)), "s": values(4)}
    n = layer_norm(w, "x", [-1], 20)
    y = w("Mul", n, w("Exp", "s"))
    found = agree(w.model(feed, y), feed)
    assert found == {"LayerNormalization": 1, "Exp": 1, "Mul": 1}


def test_variances_of_something_else_stay():
    w = Writer()
    feed = {"x": values((2, 4)), "u": values((2, 4), seed=1)}
    d = w("Sub", "x", mean(w, "x", [-1], 20))
    e = w("Sub", "u", mean(w, "u", [-1], 20))
    y = divide(w, d, mean(w, square(w, e, "Pow"), [-1], 20), "Div")
    assert "ReduceMean" in agree(w.model(feed, y), feed)


@pytest.mark.parametrize("epsilon", [-1e-3, 0.5])
def test_another_constant_stays(epsilon):
    w = Writer()
    x = values((2, 8))
    y = layer_norm(w, "x", [-1], 20, epsilon=epsilon)
    assert "ReduceMean" in agree(w.model({"x": x}, y), {"x": x})


def test_normalised_values_that_are_wanted_are_there():
    w = Writer()
    x = values((2, 8))
    n = layer_norm(w, "x", [-1], 20)
    y = scaled(w, n, (8,))
    assert agree(w.model({"x": x}, y, [n]), {"x": x}) == {"LayerNormalization": 1, "Mul": 1, "Add": 1}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.sampled_from([13, 17, 18, 23]),
    st.sampled_from(["Mul", "Pow"]),
    st.sampled_from(DIVISIONS),
    st.booleans(),
    st.booleans(),
)
def test_root_mean_square_in_any_spelling(shape, opset, squared, divided, turned, shifted):
    w = Writer()
    y = divide(w, "x", mean(w, square(w, "x", squared), [-1], opset), divided)
    y = scaled(w, y, shape[-1:], shifted, turned)
    x = values(shape)
    found = agree(w.model({"x": x}, y, opset=opset), {"x": x}, 1e-4, 1e-4)
    name = "RMSNormalization" if opset >= 23 else "SimplifiedLayerNormalization"
    assert found == {name: 1, "Add": 1} if shifted else found == {name: 1}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("opset", [17, 23])
def test_root_mean_square_in_float32_between_halves(opset, provider):
    """As Llama computes it: squares of halves would overflow."""
    w = Writer()
    x = (values((2, 3, 8)) * 300).astype(np.float16)
    wide = w("Cast", "x", to=TensorProto.FLOAT)
    n = divide(w, wide, mean(w, square(w, wide, "Pow"), [-1], opset), "Reciprocal", 1e-6)
    w.constants["scale"] = values(8, np.float16)
    y = w("Mul", "scale", w("Cast", n, to=TensorProto.FLOAT16))
    found = agree(w.model({"x": x}, y, opset=opset), {"x": x}, 2e-3, 2e-3, [provider])
    assert found == {"RMSNormalization" if opset >= 23 else "SimplifiedLayerNormalization": 1}


def sum_and_norm(w, total, kind="LayerNormalization", length=8, **attributes):
    w.constants["gamma"], w.constants["beta"] = values(length, seed=5), values(length, seed=6)
    inputs = [total, "gamma", "beta"] if kind == "LayerNormalization" else [total, "gamma"]
    return w(kind, *inputs, epsilon=1e-5, **attributes)


KINDS = ["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_a_sum_and_its_norm(kind, bias, wanted, provider):
    w = Writer()
    feed = {"x": values((2, 3, 8)), "u": values((2, 3, 8), seed=1)}
    second = "u"
    if bias:
        w.constants["bias"] = values(8, seed=2)
        second = w("Add", "u", "bias")
    total = w("Add", "x", second)
    y = sum_and_norm(w, total, kind)
    proto = w.model(feed, y, [total] if wanted else [], opset=23)
    name = "SkipLayerNormalization" if kind == "LayerNormalization" else "SkipSimplifiedLayerNormalization"
    assert agree(proto, feed, providers=[provider]) == {name: 1}


def test_dims_that_only_look_alike():
    """Both first axes are open: what the sum broadcasts, the fused operator does as well."""
    w = Writer()
    feed = {"x": values((1, 3, 8)), "u": values((2, 3, 8), seed=1)}
    y = sum_and_norm(w, w("Add", "x", "u"))
    proto = w.model(feed, y, dims={"x": ["a", 3, 8], "u": ["b", 3, 8]})
    assert agree(proto, feed) == {"SkipLayerNormalization": 1}


@pytest.mark.parametrize(
    "case",
    [((3, 8), (3, 8), {}), ((2, 3, 8), (1, 3, 8), {}), ((2, 3, 8), (8,), {}), ((2, 3, 8), (2, 3, 8), {"axis": 1})],
)
def test_other_sums_stay(case):
    shape, other, attributes = case
    w = Writer()
    feed = {"x": values(shape), "u": values(other, seed=1)}
    y = sum_and_norm(w, w("Add", "x", "u"), length=(3, 8) if attributes else 8, **attributes)
    assert agree(w.model(feed, y), feed) == {"Add": 1, "LayerNormalization": 1}


def test_names_of_passes():
    w = Writer()
    feed = {"x": values((2, 3, 8)), "u": values((2, 3, 8), seed=1)}
    y = scaled(w, layer_norm(w, w("Add", "x", "u"), [-1], 20), (8,))
    proto = w.model(feed, y)
    assert operators(proto) == {"SkipLayerNormalization": 1}
    assert operators(proto, disabled=["SkipLayerNormFusion"]) == {"Add": 1, "LayerNormalization": 1}
    assert "ReduceMean" in operators(proto, disabled=["LayerNormFusionL2"])
    assert "ReduceMean" in operators(proto, level=1)


def group_norm(w, x, shape, groups, turned=False, ones=1.0):
    """As torch exports it: groups as channels, and the factors of channels behind."""
    spatial = (1,) * (len(shape) - 2)
    w.constants |= {
        "grouped": np.array([shape[0], groups, -1], np.int64),
        "shape": np.array(shape, np.int64),
        "ones": np.full(groups, ones, w.dtype),
        "zeros": np.zeros(groups, w.dtype),
        "scale": values((shape[1], *spatial), w.dtype, 3),
        "shift": values((1, shape[1], *spatial), w.dtype, 4),
    }
    y = w("InstanceNormalization", w("Reshape", x, "grouped"), "ones", "zeros", epsilon=1e-3)
    y = w("Reshape", y, "shape")
    y = w("Mul", *(("scale", y) if turned else (y, "scale")))
    return w("Add", *(("shift", y) if turned else (y, "shift")))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.sampled_from([13, 18, 20, 21]),
    st.booleans(),
)
def test_groups_of_channels(n, groups, each, spatial, opset, turned):
    assume(each > 1 or len(spatial) > 1)  # else the reshapes do nothing
    w = Writer()
    shape = (n, groups * each, *spatial)
    x = values(shape, np.float32, 1)
    y = group_norm(w, "x", shape, groups, turned)
    assert agree(w.model({"x": x}, y, opset=opset), {"x": x}, 1e-4, 1e-4) == {"GroupNormalization": 1}


def test_groups_of_something_else_stay():
    x = values((2, 4, 3), np.float32, 1)
    w = Writer()
    y = group_norm(w, "x", x.shape, 2, ones=2.0)
    assert "InstanceNormalization" in agree(w.model({"x": x}, y), {"x": x})
    w = Writer()
    y = group_norm(w, "x", x.shape, 2)
    w.constants["shape"] = np.array([2, 3, 4], np.int64)  # no channels any more
    w.constants |= {"scale": values((3, 1), np.float32, 3), "shift": values((3, 1), np.float32, 4)}
    assert "InstanceNormalization" in agree(w.model({"x": x}, y), {"x": x})
    w = Writer()
    y = group_norm(w, "x", x.shape, 2)
    assert "InstanceNormalization" in agree(w.model({"x": x}, y, ["t2"]), {"x": x})  # the normalised values are wanted


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([(2, 3), (-1, -2), (1, 2), (3,), (2, 3, -1)]), st.integers(4, 5), st.sampled_from([13, 18]))
def test_the_mean_of_a_channel(axes, rank, opset):
    w = Writer()
    x = values((2, 3, 4, 5, 2)[:rank])
    pooled = {axis % rank for axis in axes} == {*range(2, rank)}
    y = mean(w, "x", sorted({axis % rank for axis in axes}), opset)
    made = agree(w.model({"x": x}, y, opset=opset), {"x": x})
    assert made == {"GlobalAveragePool" if pooled else "ReduceMean": 1}
