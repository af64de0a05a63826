"""Activations and sums go into the convolution before them, transposes and factors into products."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ortlite.optimize import HERE
from tests.optimize.models import agree, operators
from tests.optimize.test_activations import PROVIDERS, Writer, values
from tests.optimize.test_weights import convolved

ACTIVATIONS = {
    "Relu": {}, "Sigmoid": {}, "Tanh": {}, "LeakyRelu": {"alpha": 0.3}, "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
}  # fmt: skip


def activated(w, y, name):
    return w("Clip", y, 0.0, 6.0) if name == "Clip" else w(name, y, **ACTIVATIONS.get(name, {}))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([*ACTIVATIONS, "Clip", ""]),
    st.sampled_from(["", "first", "second"]),
    st.booleans(),
    st.integers(1, 3),
    st.sampled_from([13, 20]),
)
def test_a_convolution_with_what_follows(activation, residual, bias, rank, opset):
    w = Writer()
    y = convolved(w, rank, bias=bias)
    x = values((2, 4, *(5,) * rank))
    feed = {"x": x, "z": values((2, 4, *(4,) * rank), seed=5)}
    if residual:
        y = w("Add", *(("z", y) if residual == "first" else (y, "z")))
    else:
        del feed["z"]
    y = activated(w, y, activation) if activation else y
    fused = "FusedConv" if activation or residual else "Conv"
    assert agree(w.model(feed, y, opset=opset), feed, 1e-4, 1e-4) == {fused: 1}


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([1.0, 0.7]), st.booleans(), st.sampled_from([1, 4]), st.sampled_from(PROVIDERS))
def test_swish_and_its_kin_within_this_process(alpha, hard, group, provider):
    w = Writer()
    y = convolved(w, group=group)
    y = w("HardSwish", y) if hard else w("Mul", y, w("Sigmoid", y if alpha == 1 else w("Mul", y, alpha)))
    feed = {"x": values((2, 4, 5, 5)), "z": values((2, 4, 4, 4), seed=5)}
    made = agree(w.model(feed, y), feed, 1e-4, 1e-4, [provider])
    assert made == {"FusedConv": 1}
    assert operators(w.model(feed, y), disabled=HERE) == {"Conv": 1, "HardSwish" if hard else "QuickGelu": 1}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("activation", [*ACTIVATIONS, "Clip", "HardSwish"])
def test_nan_and_infinities(activation, provider):
    w = Writer()
    x = values((1, 4, 5, 5))
    x[0, 0, 0, 0], x[0, 1, 3, 3], x[0, 2, 4, 0] = np.nan, np.inf, -np.inf
    y = activated(w, convolved(w), activation)
    assert agree(w.model({"x": x}, y), {"x": x}, 1e-4, 1e-4, [provider]) == {"FusedConv": 1}


def test_two_convolutions_and_their_sum():
    w = Writer()
    one, other = convolved(w), convolved(w, group=1)
    y = w("Relu", w("Add", one, other))
    feed = {"x": values((2, 4, 5, 5))}
    w.nodes[1].input[0] = "u"
    w.constants["W"] = values((4, 4, 2, 2))
    for made in w.nodes[:2]:
        made.attribute[0].i = 1
    feed["u"] = values((2, 4, 5, 5), seed=3)
    assert agree(w.model(feed, y), feed, 1e-4, 1e-4) == {"FusedConv": 1, "Conv": 1}


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (1, 4, 4, 4), (4, 1, 1), (2, 4, 4, 1)])
def test_sums_that_broadcast_stay(shape):
    w = Writer()
    feed = {"x": values((2, 4, 5, 5)), "z": values(shape, seed=5)}
    y = w("Add", convolved(w), "z")
    assert agree(w.model(feed, y), feed, 1e-4, 1e-4) == {"Conv": 1, "Add": 1}


def test_what_others_want_stays():
    w = Writer()
    c = convolved(w)
    x = values((2, 4, 5, 5))
    assert agree(w.model({"x": x}, w("Relu", c), [c]), {"x": x}) == {"Conv": 1, "Relu": 1}


def test_another_dtype_stays():
    w = Writer(np.float64)
    x = values((2, 4, 5, 5), np.float64)
    assert agree(w.model({"x": x}, w("Relu", convolved(w, dtype=np.float64))), {"x": x}) == {"Conv": 1, "Relu": 1}


def test_bounds_that_are_not_there_or_not_constant_stay():
    x = values((2, 4, 5, 5))
    w = Writer()
    y = w("Clip", convolved(w), 0.0)
    assert agree(w.model({"x": x}, y), {"x": x}) == {"Conv": 1, "Clip": 1}
    w = Writer()
    feed = {"x": x, "low": np.array(-1, np.float32)}
    y = w("Clip", convolved(w), "low", 1.0)
    assert agree(w.model(feed, y), feed) == {"Conv": 1, "Clip": 1}
    w = Writer()
    y = w("Clip", convolved(w), 3.0, 1.0)
    assert agree(w.model({"x": x}, y), {"x": x}) == {"Conv": 1, "Clip": 1}


def test_one_activation_goes_in():
    w = Writer()
    x = values((2, 4, 5, 5))
    y = w("Tanh", w("Relu", convolved(w)))
    assert agree(w.model({"x": x}, y), {"x": x}) == {"FusedConv": 1, "Tanh": 1}


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 4), st.booleans(), st.booleans(), st.sampled_from(["", "Mul", "Div"]), st.integers(0, 3))
def test_products_that_read_their_factors_turned(rank, a, b, factor, rows):
    batch = (2, 3)[: rank - 2]
    w = Writer()
    perm = [*range(rank - 2), rank - 1, rank - 2]
    x = w("Transpose", "x", perm=perm) if a else "x"
    u = w("Transpose", "u", perm=perm) if b else "u"
    y = w("MatMul", x, u)
    y = w(factor, y, 2.5) if factor else y
    feed = {
        "x": values((*batch, *((4, rows) if a else (rows, 4)))),
        "u": values((*batch, *((5, 4) if b else (4, 5))), seed=1),
    }
    name = "FusedMatMul" if a or b or factor else "MatMul"
    assert agree(w.model(feed, y), feed) == {name: 1}


def test_other_turns_stay():
    w = Writer()
    feed = {"x": values((2, 3, 4)), "u": values((4, 5, 2), seed=1)}
    y = w("MatMul", "x", w("Transpose", "u", perm=[2, 0, 1]))
    assert agree(w.model(feed, y), feed) == {"MatMul": 1, "Transpose": 1}


@pytest.mark.parametrize("form", [(1, 1, 1), (5,)])
def test_other_factors_stay(form):
    w = Writer(form=form)
    feed = {"x": values((3, 4)), "u": values((4, 5), seed=1)}
    y = w("Mul", w("MatMul", "x", "u"), 2.5)
    assert agree(w.model(feed, y), feed) == {"MatMul": 1, "Mul": 1}


def test_names_of_passes():
    w = Writer()
    proto = w.model({"x": values((2, 4, 5, 5))}, w("Relu", convolved(w)))
    assert operators(proto, level=2) == {"FusedConv": 1}
    assert operators(proto, level=1) == {"Conv": 1, "Relu": 1}
    assert operators(proto, disabled=["ConvActivationFusion"]) == {"Conv": 1, "Relu": 1}


@pytest.mark.parametrize("numbers", [[("Div", 1e-40)], [("Mul", 1e30), ("Mul", 1e30)], [("Mul", 1e-30), ("Div", 1e30)]])
def test_factors_that_overflow_or_vanish_stay(numbers):
    w = Writer()
    feed = {"x": values((3, 4)) * np.float32(1e-25), "u": values((4, 5), seed=1) * np.float32(1e-15)}
    if numbers[0][1] == 1e-30:
        feed = {"x": values((3, 4)) * np.float32(1e15), "u": values((4, 5), seed=1) * np.float32(1e15)}
    y = w("MatMul", "x", "u")
    for op_type, number in numbers:
        y = w(op_type, y, number)
    agree(w.model(feed, y), feed, rtol=1e-4, atol=0)
