"""Activation functions are recovered from every spelling that computes them, and from nothing else."""

from __future__ import annotations

import importlib.util
from math import pi, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.optimize.models import CPU, agree, model, node, operators

PROVIDERS = [CPU] + [f"{n}ExecutionProvider" for n in ("Torch", "JAX") if importlib.util.find_spec(n.lower())]
SHAPES = st.lists(st.integers(0, 4), min_size=1, max_size=4)
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 30.0, -30.0, np.inf, -np.inf, np.nan, 1e-30], np.float32)


class Writer:
    """Writes arithmetic as nodes; numbers are constants of the dtype."""

    def __init__(self, dtype=np.float32, form=()):
        self.nodes, self.constants, self.dtype, self.form = [], {}, dtype, form

    def number(self, value):
        name = f"c{len(self.constants)}"
        self.constants[name] = np.full(self.form, value, self.dtype)
        return name

    def __call__(self, op_type, *operands, **attributes):
        names = [o if isinstance(o, str) else self.number(o) for o in operands]
        name = f"t{len(self.nodes)}"
        self.nodes.append(node(op_type, names, [name], **attributes))
        return name

    def model(self, feed, result, more=(), **given):
        return model(self.nodes, feed, [result, *more], self.constants, **given)


def gelu_halves_first(w, x):
    return w("Mul", w("Mul", x, 0.5), w("Add", w("Erf", w("Div", x, sqrt(2))), 1.0))


def gelu_halves_last(w, x):
    return w("Mul", w("Mul", x, w("Add", 1.0, w("Erf", w("Mul", x, sqrt(0.5))))), 0.5)


def gelu_halves_the_distribution(w, x):
    return w("Mul", w("Mul", 0.5, w("Add", w("Erf", w("Div", x, sqrt(2))), 1.0)), x)


def gelu_divides_by_two(w, x):
    return w("Div", w("Mul", w("Add", w("Erf", w("Mul", sqrt(0.5), x)), 1.0), x), 2.0)


def gelu_with_half_an_erf(w, x):
    return w("Mul", x, w("Add", w("Mul", w("Erf", w("Mul", x, sqrt(0.5))), 0.5), 0.5))


GELUS = [gelu_halves_first, gelu_halves_last, gelu_halves_the_distribution, gelu_divides_by_two, gelu_with_half_an_erf]


def tanh_pow(w, x):
    inner = w("Mul", w("Add", x, w("Mul", w("Pow", x, 3.0), 0.044715)), sqrt(2 / pi))
    return w("Mul", w("Mul", x, 0.5), w("Add", w("Tanh", inner), 1.0))


def tanh_products(w, x):
    inner = w("Mul", sqrt(2 / pi), w("Add", x, w("Mul", w("Mul", w("Mul", 0.044715, x), x), x)))
    return w("Mul", 0.5, w("Mul", x, w("Add", 1.0, w("Tanh", inner))))


def tanh_factored(w, x):
    square = w("Add", w("Mul", w("Mul", x, x), 0.044715), 1.0)
    return w("Mul", w("Mul", x, 0.5), w("Add", w("Tanh", w("Mul", w("Mul", x, sqrt(2 / pi)), square)), 1.0))


TANHS = [tanh_pow, tanh_products, tanh_factored]


def values(shape, dtype=np.float32, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * 2).astype(dtype)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([*GELUS, *TANHS]),
    SHAPES,
    st.sampled_from([13, 17, 20]),
    st.sampled_from([np.float32, np.float16]),
    st.booleans(),
)
def test_gelu_in_any_spelling(write, shape, opset, dtype, one_axis):
    w = Writer(dtype, (1,) if one_axis else ())
    x = values(shape, dtype)
    y = write(w, "x")
    near = 1e-5 if dtype == np.float32 else 5e-3
    found = agree(w.model({"x": x}, y, opset=opset), {"x": x}, near, near)
    assert found == {"FastGelu" if write in TANHS and opset < 20 else "Gelu": 1}


@pytest.mark.parametrize("write", [gelu_halves_first, tanh_pow])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_gelu_of_special_values(write, provider):
    w = Writer()
    y = write(w, "x")
    assert agree(w.model({"x": SPECIAL}, y), {"x": SPECIAL}, providers=[provider]) == {"Gelu": 1}


def gelu_of(w, x, half=0.5, root=2**0.5, one=1.0):
    return w("Mul", w("Mul", x, half), w("Add", w("Erf", w("Div", x, root)), one))


@pytest.mark.parametrize(
    "numbers", [{"half": 0.501}, {"root": 1.41}, {"one": 0.999}, {"one": 1 + 2**-23}, {"half": -0.5}]
)
def test_other_numbers_are_no_gelu(numbers):
    w = Writer()
    x = values((2, 3))
    assert "Erf" in agree(w.model({"x": x}, gelu_of(w, "x", **numbers)), {"x": x})


def test_numbers_of_another_rank_are_no_gelu():
    w = Writer(form=(1, 1, 1))
    x = values((2, 3))
    assert "Erf" in agree(w.model({"x": x}, gelu_of(w, "x")), {"x": x})


def test_a_vector_is_no_number():
    w = Writer(form=(3,))
    x = values((2, 3))
    assert "Erf" in agree(w.model({"x": x}, gelu_of(w, "x")), {"x": x})


@pytest.mark.parametrize("wanted", ["Erf", "Add", "Mul"])
def test_what_is_wanted_in_the_middle_stays(wanted):
    w = Writer()
    x = values((2, 3))
    y = gelu_of(w, "x")
    middle = next(n.output[0] for n in w.nodes if n.op_type == wanted)
    assert "Erf" in agree(w.model({"x": x}, y, [middle]), {"x": x})


def test_what_has_another_reader_stays():
    w = Writer()
    x = values((2, 3))
    y = gelu_of(w, "x")
    z = w("Neg", next(n.output[0] for n in w.nodes if n.op_type == "Erf"))
    assert "Erf" in agree(w.model({"x": x}, y, [z]), {"x": x})


def test_erf_of_something_else_is_no_gelu():
    w = Writer()
    feed = {"x": values((2, 3)), "u": values((2, 3), seed=1)}
    y = w("Mul", w("Mul", "x", 0.5), w("Add", w("Erf", w("Div", "u", sqrt(2))), 1.0))
    assert "Erf" in agree(w.model(feed, y), feed)


def test_float64_stays_exact():
    w = Writer(np.float64)
    x = values((2, 3), np.float64)
    assert "Erf" in agree(w.model({"x": x}, gelu_of(w, "x")), {"x": x}, 1e-15, 1e-15)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("opset", "write"), [(17, gelu_halves_first), (20, tanh_pow), (17, tanh_pow)])
def test_the_sum_with_a_bias_goes_in(opset, write, provider):
    w = Writer()
    x = values((2, 3, 4))
    w.constants["b"] = values(4, seed=1)
    y = write(w, w("Add", "b", "x"))
    found = agree(w.model({"x": x}, y, opset=opset), {"x": x}, providers=[provider])
    assert found == {"FastGelu" if write is tanh_pow else "BiasGelu": 1}


@pytest.mark.parametrize("shape", [(1,), (3, 4), ()])
def test_another_sum_stays(shape):
    w = Writer()
    x = values((2, 3, 4))
    w.constants["b"] = values(shape, seed=1)
    found = agree(w.model({"x": x}, gelu_of(w, w("Add", "b", "x"))), {"x": x})
    assert found == {"Add": 1, "Gelu": 1}


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.floats(0.25, 3.0, width=32), st.booleans(), st.sampled_from([13, 20]))
def test_swish(shape, alpha, turned, opset):
    w = Writer()
    x = values(shape)
    s = w("Sigmoid", "x" if alpha == 1 else w("Mul", alpha, "x"))
    y = w("Mul", s, "x") if turned else w("Mul", "x", s)
    assert agree(w.model({"x": x}, y, opset=opset), {"x": x}) == {"QuickGelu": 1}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("form", ["swish", "mish", "hard swish", "clipped"])
def test_others_with_special_values(form, provider):
    w = Writer()
    if form == "swish":
        y = w("Mul", "x", w("Sigmoid", "x"))
    elif form == "mish":
        y = w("Mul", "x", w("Tanh", w("Softplus", "x")))
    elif form == "hard swish":
        y = w("Mul", w("HardSigmoid", "x", alpha=1 / 6, beta=0.5), "x")
    else:
        y = w("Div", w("Mul", w("Clip", w("Add", "x", 3.0), 0.0, 6.0), "x"), 6.0)
    name = {"swish": "QuickGelu", "mish": "Mish"}.get(form, "HardSwish")
    x = SPECIAL[~np.isinf(SPECIAL)] if provider.startswith("JAX") else SPECIAL  # XLA: 0 for -inf · 0
    assert agree(w.model({"x": x}, y, opset=14), {"x": x}, providers=[provider]) == {name: 1}


@pytest.mark.parametrize("bounds", [(0.0, 5.0), (-1.0, 6.0)])
def test_other_bounds_are_no_hard_swish(bounds):
    w = Writer()
    x = values((3, 4))
    y = w("Mul", w("Mul", w("Clip", w("Add", "x", 3.0), *bounds), "x"), 1 / 6)
    assert "Clip" in agree(w.model({"x": x}, y), {"x": x})


def test_another_slope_is_no_hard_swish():
    w = Writer()
    x = values((3, 4))
    y = w("Mul", w("HardSigmoid", "x", alpha=0.2, beta=0.5), "x")
    assert "HardSigmoid" in agree(w.model({"x": x}, y), {"x": x})


def test_sigmoid_of_another_value_is_no_swish():
    w = Writer()
    feed = {"x": values((3, 4)), "u": values((3, 4), seed=1)}
    assert "Sigmoid" in agree(w.model(feed, w("Mul", "x", w("Sigmoid", "u"))), feed)


def test_each_has_its_name():
    w = Writer()
    x = values((2, 3))
    proto = w.model({"x": x}, gelu_of(w, "x"), opset=17)
    assert "Erf" in operators(proto, disabled=["GeluFusionL2"])
    assert "Erf" in operators(proto, level=1)
    assert operators(proto, level=2) == {"Gelu": 1}


def test_a_pinned_node_stays():
    w = Writer()
    x = values((2, 3))
    proto = w.model({"x": x}, gelu_of(w, "x"), opset=17)
    erf = next(n.output[0] for n in w.nodes if n.op_type == "Erf")
    assert "Erf" in operators(proto, pinned=[erf])


@pytest.mark.skipif(len(PROVIDERS) == 1, reason="needs torch or JAX")
@pytest.mark.parametrize("write", [gelu_halves_first, tanh_pow])
def test_gradients_agree(write):
    w = Writer()
    x = values((2, 3))
    w.nodes.append(node("Identity", ["x"], ["in"]))
    y = write(w, "in")
    w.nodes.append(node("Gradient", ["in"], ["g"], domain="ai.onnx.preview.training", xs=["in"], y=y))
    proto = w.model({"x": x}, "g")
    proto.opset_import.add(domain="ai.onnx.preview.training", version=1)
    agree(proto, {"x": x}, providers=PROVIDERS[1:])


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("opset", [18, 20])
def test_gelu_of_a_number(opset, provider):
    w = Writer()
    x = np.array(0.5, np.float32)
    cube = w("Mul", w("Mul", "x", "x"), "x")
    inner = w("Mul", w("Add", "x", w("Mul", cube, 0.044715)), float(np.sqrt(2 / np.pi)))
    y = w("Mul", w("Mul", "x", 0.5), w("Add", w("Tanh", inner), 1.0))
    found = agree(w.model({"x": x}, y, opset=opset), {"x": x}, providers=[provider])
    assert found == {"Gelu" if opset == 20 else "FastGelu": 1}
