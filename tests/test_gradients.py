"""Gradients of every differentiable operator on torch and JAX beside differences in float64; and what has none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import parser

import ortlite
from conformance import gradients
from conformance.gradients import cases, judge, smooth_point

MANY = settings.default.max_examples * 2
FEW = MANY // 3  # JAX compiles each of them
FINE = {"agrees", "zero", gradients.DECIDES}
OPERATORS = [
    key for key, listed in cases().items() if any(not case.undefined(name) for case in listed for name in case.inputs)
]


@st.composite
def points(draw):
    """A call of an operator, and values at which it is smooth, with a direction."""
    case = draw(st.sampled_from(cases()[draw(st.sampled_from(OPERATORS))]))
    names = [name for name in case.inputs if not case.undefined(name)]
    assume(names)
    point = smooth_point(case, np.random.default_rng(draw(st.integers(0, 2**32 - 1))), names)
    assume(point is not None)
    return case, point


def check(drawn, library):
    case, point = drawn
    for name, verdict in judge(case, point, library).items():
        assert verdict in FINE, f"{case}: {name}: {verdict}"


@settings(max_examples=MANY)
@given(points())
def test_torch(drawn):
    pytest.importorskip("torch")
    check(drawn, "torch")


@settings(max_examples=FEW)
@given(points())
def test_jax(drawn):
    pytest.importorskip("jax")
    check(drawn, "jax")


@settings(max_examples=MANY)
@given(points())
def test_tape(drawn):
    case, point = drawn
    for name, verdict in judge(case, point, "tape").items():
        assert verdict in FINE | {gradients.NO_RULE, gradients.NO_TENSOR}, f"{case}: {name}: {verdict}"


def test_the_judge_finds_what_is_wrong():
    (case, *_) = cases()["", "Tanh"]
    point = smooth_point(case, np.random.default_rng(0))
    x = point.values["x"]
    right = 1 - np.tanh(x) ** 2
    assert gradients._verdict(point, "x", point.weights[0] * right) == "agrees"
    assert "differences" in gradients._verdict(point, "x", point.weights[0] * right * 1.0001)
    assert "not finite" in gradients._verdict(point, "x", right * np.nan)


def test_most_operators_have_gradients():
    assert len(OPERATORS) > 150


# What has no gradient says so.

HEAD = '<ir_version: 8, opset_import: ["": 21]> '
TEXT = (
    HEAD
    + "g (float[N] x) => (float[N] z) { a = Sin(x) [to_text] y = Cast <to = 8> (a) [from_text] z = Cast <to = 1> (y) }"
)
NUMBER = HEAD + "g (float[N] x, float w) => (float[M] y) <int64[2] p = {1, 1}> { [padding] y = Pad(x, p, w) }"
COUNT = HEAD + "g (float[N] x) => (int64[1, M] y) { y = NonZero(x) }"
WHOLE = HEAD + "g (float[N] x) => (float[N] y) { i = Cast <to = 7> (x) y = Cast <to = 1> (i) }"
PLACE = HEAD + "g (float[N] x) => (int64[1] y) { y = ArgMax <axis = 0> (x) }"
X = np.array([0.5, 1.5, -2.5], np.float32)


def function(text):
    return ortlite.function(parser.parse_model(text).SerializeToString())


def test_torch_says_where_no_gradient_flows():
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(X).requires_grad_()
    with pytest.raises(Exception, match=r"to_text.*through NumPy"):
        function(TEXT)(x)
    with torch.no_grad():
        assert torch.allclose(function(TEXT)(x), torch.sin(x))
    with pytest.raises(Exception, match="input 'w': no gradient flows through NumPy"):
        function(NUMBER)(x, torch.tensor(1.0, requires_grad=True))
    assert function(NUMBER)(x, torch.tensor(1.0)).tolist() == [1, 0.5, 1.5, -2.5, 1]
    for text in (COUNT, PLACE, WHOLE):
        y = function(text)(x)
        assert not y.requires_grad
        with pytest.raises(RuntimeError, match="does not require grad"):
            y.sum().backward()


def test_jax_says_where_no_gradient_flows():
    jax = pytest.importorskip("jax")
    x = jax.numpy.asarray(X)

    def slope(text, *rest):
        fn = function(text)
        return jax.grad(lambda *given: fn(*given).sum(), argnums=len(rest))(x, *rest)

    with pytest.raises(Exception, match=r"to_text.*jax is tracing"):
        slope(TEXT)
    with pytest.raises(Exception, match=r"input 'w': .*jax is tracing"):
        slope(NUMBER, jax.numpy.asarray(1.0))
    with jax.enable_x64(True):
        for text in (COUNT, PLACE):
            with pytest.raises(TypeError, match="requires real-valued outputs"):
                slope(text)
    assert slope(WHOLE).tolist() == [0, 0, 0]


def test_dropout_keeps_its_mask():
    torch = pytest.importorskip("torch")
    fn = function(
        HEAD + "g (double[N] x, float r, bool t) => (double[N] y, bool[N] m) { y, m = Dropout <seed = 3> (x, r, t) }"
    )
    x = torch.arange(1.0, 65, dtype=torch.float64, requires_grad=True)
    y, mask = fn(x, 0.5, True)
    y.sum().backward()
    assert 0 < int(mask.sum()) < 64
    assert torch.equal(x.grad, mask.double() * 2)
