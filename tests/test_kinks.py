"""Where a derivative jumps or is infinite, torch's own operator says what it is: on torch, JAX and our tape alike."""

from __future__ import annotations

import warnings
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import parser

from conformance import gradients

torch = pytest.importorskip("torch")
F = torch.nn.functional
HERE = [name for name in gradients.LIBRARIES if name != "jax" or find_spec("jax")]
EACH = [
    pytest.param(name, marks=pytest.mark.skipif(name not in HERE, reason="jax is not installed"))
    for name in gradients.LIBRARIES
]
INF = float("inf")
AT = np.array([-6.0, -3.0, -2.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.5, 3.0, 6.0])
TIES = np.array([[1.0, 2.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0], [-1.0, -1.0, 3.0, 3.0]])
IMAGE = np.maximum(np.random.default_rng(0).integers(-2, 3, (1, 2, 6, 6)), 0).astype(float)  # many equals
CUBE = np.maximum(np.random.default_rng(1).integers(-2, 3, (1, 1, 4, 4, 4)), 0).astype(float)


def case(text, *values):
    """A model of one node in float64 (integers as they are) and the values of its inputs a, b, c."""
    names = "abcd"[: len(values)]
    kinds = {"d": "double", "f": "float", "l": "int64"}
    infos = ", ".join(f"{kinds[v.dtype.char]}{list(v.shape) or ''} {n}" for n, v in zip(names, values, strict=True))
    imports = '"": 23, "ai.onnx.ml": 4, "com.microsoft": 1'
    model = parser.parse_model(f"<ir_version: 10, opset_import: [{imports}]> g ({infos}) => (y) {{ y = {text} }}")
    node = model.graph.node[0]
    feeds = dict(zip(names, values, strict=True))
    return gradients.Case(node.domain, node.op_type, model, feeds, {n: i for i, n in enumerate(names)})


def found(case, names, library, weights=None):
    """The gradients of a weighted sum of the result to inputs, and the derivative along all ones (None: no way)."""
    y = case.results
    weights = (
        np.asarray(np.random.default_rng(0).uniform(0.5, 1.5, y.shape)).astype(y.dtype) if weights is None else weights
    )
    ones = {n: np.ones_like(case.values[n]) for n in names}
    point = gradients.Point(case.values, ones, [weights], dict.fromkeys(names, 0.0), 1.0, 0.0)
    differentiate = {"torch": gradients._torch, "jax": gradients._jax, "tape": gradients._tape}[library]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own forward mode
        return differentiate(case, point), weights


def check(case, names, library, expected):
    (got, along), weights = found(case, names, library)
    tensors = {n: torch.tensor(v, requires_grad=n in names) for n, v in case.values.items()}
    y = expected(*tensors.values())
    rtol = 1e-7 if weights.dtype == np.float64 else 1e-5
    np.testing.assert_allclose(case.results, y.detach().numpy(), rtol=rtol, atol=1e-9)
    (y * torch.from_numpy(weights)).sum().backward()
    for name in names:
        wanted = tensors[name].grad.numpy()
        np.testing.assert_allclose(got[name], wanted, rtol=rtol, atol=1e-9, err_msg=f"{case}: {name} on {library}")
    if along is not None:
        total = sum(float(tensors[n].grad.sum()) for n in names)
        np.testing.assert_allclose(along, total, rtol=rtol, atol=1e-9, err_msg=f"{case} on {library}, forwards")


# What the node is, its inputs, which of them to differentiate by, and torch's own operator.
KINKS = [
    ("Relu(a)", [AT], "a", torch.relu),
    ("LeakyRelu <alpha = 0.25> (a)", [AT], "a", lambda a: F.leaky_relu(a, 0.25)),
    ("LeakyRelu <alpha = 1.5> (a)", [AT], "a", lambda a: F.leaky_relu(a, 1.5)),
    ("LeakyRelu <alpha = -0.5> (a)", [AT], "a", lambda a: F.leaky_relu(a, -0.5)),
    ("PRelu(a, b)", [AT, np.array([0.25])], "ab", F.prelu),
    ("PRelu(a, b)", [TIES, np.array([[0.25], [0.5], [2.0]])], "ab", lambda a, b: torch.where(a > 0, a, a * b)),
    ("ThresholdedRelu <alpha = 1.0> (a)", [AT], "a", lambda a: F.threshold(a, 1.0, 0.0)),
    ("Elu <alpha = 2.0> (a)", [AT], "a", lambda a: F.elu(a, 2.0)),
    ("Celu <alpha = 2.0> (a)", [AT.astype(np.float32)], "a", lambda a: F.celu(a, 2.0)),
    ("Selu <alpha = 1.5, gamma = 2.0> (a)", [AT], "a", lambda a: 2 * F.elu(a, 1.5)),
    ("HardSigmoid <alpha = 0.25> (a)", [AT * 2 / 3], "a", lambda a: F.hardsigmoid(a * 1.5)),
    ("HardSwish(a)", [AT], "a", F.hardswish),
    ("Softplus(a)", [AT * 100], "a", lambda a: F.softplus(a, threshold=40)),
    ("Softsign(a)", [AT], "a", F.softsign),
    ("Shrink <lambd = 0.5> (a)", [AT], "a", lambda a: F.hardshrink(a, 0.5)),
    ("Shrink <lambd = 0.5, bias = 0.5> (a)", [AT], "a", lambda a: F.softshrink(a, 0.5)),
    ("Abs(a)", [AT], "a", torch.abs),
    ("Sign(a)", [AT], "a", torch.sign),
    ("Round(a)", [AT], "a", torch.round),
    ("Floor(a)", [AT], "a", torch.floor),
    ("Ceil(a)", [AT], "a", torch.ceil),
    ("Clip(a, b, c)", [AT, np.array(-1.0), np.array(2.5)], "a", torch.clamp),
    ("Clip(a, b, c)", [AT, np.array(-1.0), np.array(2.5)], "abc", torch.clamp),
    ("Clip(a, b)", [AT, np.array(-1.0)], "a", torch.clamp),
    ("Clip(a, , b)", [AT, np.array(-1.0)], "a", lambda a, b: torch.clamp(a, max=b)),
    ("Max(a, b)", [AT, -AT], "ab", torch.maximum),
    ("Min(a, b)", [AT, -AT], "ab", torch.minimum),
    ("Mod <fmod = 1> (a, b)", [AT, np.array(2.5)], "ab", torch.fmod),
    ("Mod <fmod = 1> (a, b)", [AT, np.array(-1.5)], "ab", torch.fmod),
    ("Pow(a, b)", [AT, np.array(0.0)], "a", torch.pow),
    ("Pow(a, b)", [AT, np.array(2.0)], "a", torch.pow),
    ("Pow(a, b)", [np.abs(AT), np.array([[0.0], [1.0], [2.0], [1.5]])], "b", torch.pow),
    ("ReduceMax <keepdims = 0> (a, b)", [TIES, np.array([1])], "a", lambda a, b: torch.amax(a, 1)),
    ("ReduceMin <keepdims = 0> (a, b)", [TIES, np.array([1])], "a", lambda a, b: torch.amin(a, 1)),
    ("ReduceMax <keepdims = 0> (a)", [TIES], "a", torch.max),
    ("ReduceProd <keepdims = 0> (a, b)", [TIES, np.array([1])], "a", lambda a, b: torch.prod(a, 1)),
    ("ReduceL1 <keepdims = 0> (a, b)", [TIES, np.array([1])], "a", lambda a, b: torch.linalg.vector_norm(a, 1, 1)),
    ("ReduceL2 <keepdims = 0> (a, b)", [TIES, np.array([1])], "a", lambda a, b: torch.linalg.vector_norm(a, 2, 1)),
    ("CumSum(a, b)", [TIES, np.array(1)], "a", lambda a, b: torch.cumsum(a, 1)),
    ("Softmax(a)", [np.array([[-INF, 0.0, 1.0]])], "a", lambda a: torch.softmax(a, -1)),
    ("Erf(a)", [AT * 100], "a", torch.erf),
    ("Gelu(a)", [AT * 100], "a", F.gelu),
    ('Gelu <approximate = "tanh"> (a)', [AT * 100], "a", lambda a: F.gelu(a, approximate="tanh")),
    ("Sigmoid(a)", [AT * 100], "a", torch.sigmoid),
    ("Tanh(a)", [AT * 100], "a", torch.tanh),
    *((f'ScatterElements <reduction = "{name}"> (a, b, c)',
       [np.array([1.0, 0.0, 3.0]), np.array([0, 0, 1, 1]), np.array([1.0, 1.0, 0.0, -1.0])], "ac",
       partial(lambda a, b, c, name: torch.scatter_reduce(a, 0, b, c, "a" + name), name=name))
      for name in ("max", "min")),
    ("MaxPool <kernel_shape = [2, 2]> (a)", [IMAGE], "a", lambda a: F.max_pool2d(a, 2, 1)),
    ("MaxPool <kernel_shape = [3, 2], strides = [2, 1], pads = [1, 1, 1, 1]> (a)", [IMAGE], "a",
     lambda a: F.max_pool2d(a, (3, 2), (2, 1), 1)),
    ("MaxPool <kernel_shape = [6, 6]> (a)", [IMAGE], "a", lambda a: F.max_pool2d(a, 6)),
    ("MaxPool <kernel_shape = [2]> (a)", [IMAGE[0]], "a", lambda a: F.max_pool1d(a, 2, 1)),
    ("MaxPool <kernel_shape = [2, 2, 2]> (a)", [CUBE], "a", lambda a: F.max_pool3d(a, 2, 1)),
    ("GlobalMaxPool(a)", [IMAGE], "a", lambda a: F.adaptive_max_pool2d(a, 1)),
    ("GlobalMaxPool(a)", [IMAGE[0]], "a", lambda a: F.adaptive_max_pool1d(a, 1)),
    ("LpPool <kernel_shape = [2], p = 2> (a)", [IMAGE[0]], "a", lambda a: F.lp_pool1d(a, 2.0, 2, 1)),
    ("LpPool <kernel_shape = [2], p = 3> (a)", [IMAGE[0]], "a", lambda a: F.lp_pool1d(a.abs(), 3.0, 2, 1)),
    ("GlobalLpPool <p = 3> (a)", [IMAGE], "a",
     lambda a: torch.linalg.vector_norm(a, 3, (2, 3), keepdim=True)),
]  # fmt: skip


@pytest.mark.parametrize("library", EACH)
@pytest.mark.parametrize(("text", "values", "names", "expected"), KINKS, ids=[k[0] for k in KINKS])
def test_kinks(text, values, names, expected, library):
    check(case(text, *values), names, library, expected)


# Norms at zero: the derivative is 0, as torch.linalg.norm has it.

Z = np.zeros((2, 3))
MIXED = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, -4.0]])


def over(norm):
    """A row over its norm; a row of norm 0 gives zeros and takes no gradient."""
    return lambda a: torch.where((a == 0).all(1, keepdim=True), a.detach(), a / (norm(a) + (norm(a) == 0)))


NORMS = [
    ("ReduceL2(a)", [Z], lambda a: torch.linalg.vector_norm(a, keepdim=True)),
    ("ReduceL2 <keepdims = 0> (a, b)", [MIXED, np.array([1])], lambda a, b: torch.linalg.vector_norm(a, dim=1)),
    ("ReduceL1 <keepdims = 0> (a, b)", [MIXED, np.array([1])], lambda a, b: torch.linalg.vector_norm(a, 1, dim=1)),
    ("LpNormalization(a)", [MIXED], over(lambda a: torch.linalg.vector_norm(a, dim=1, keepdim=True))),
    ("LpNormalization <p = 1> (a)", [MIXED], over(lambda a: torch.linalg.vector_norm(a, 1, dim=1, keepdim=True))),
    *((f"LpPool <kernel_shape = [3], p = {p}> (a)", [MIXED[None]],
       partial(lambda a, p: torch.linalg.vector_norm(a, p, dim=2, keepdim=True), p=p)) for p in (1, 2, 3)),
    *((f"GlobalLpPool <p = {p}> (a)", [MIXED[None]],
       partial(lambda a, p: torch.linalg.vector_norm(a, p, dim=2, keepdim=True), p=p)) for p in (1, 2, 3)),
    ("MeanVarianceNormalization <axes = [1]> (a)", [np.array([[0.5, 0.5], [1.0, -3.0]]).astype(np.float32)],
     lambda a: (a - a.mean(1, True)) / (torch.linalg.vector_norm(a - a.mean(1, True), dim=1, keepdim=True) / 2**0.5
                                        + 1e-9)),
    *((f'ai.onnx.ml.Normalizer <norm = "{name}"> (a)', [MIXED], partial(
        lambda a, p: (a / (n := torch.linalg.vector_norm(a, p, dim=1, keepdim=True)).where(n != 0, 1)).float(), p=p))
      for name, p in (("L1", 1), ("L2", 2))),
    ('ai.onnx.ml.Normalizer <norm = "MAX"> (a)', [MIXED],
     lambda a: (a / (n := torch.amax(a, 1, keepdim=True)).where(n != 0, 1)).float()),
]  # fmt: skip


@pytest.mark.parametrize("library", EACH)
@pytest.mark.parametrize(("text", "values", "expected"), NORMS, ids=[k[0] for k in NORMS])
def test_norms_at_zero(text, values, expected, library):
    check(case(text, *values), "a", library, expected)


def test_what_torch_exports_of_normalize():
    """ReduceL2, Clip or Max, Expand, Div: of an all-zero row 1 / eps, as torch has it."""
    for hold in ("Clip(n, eps)", "Max(n, eps)"):
        text = f"""<ir_version: 8, opset_import: ["": 18, "{gradients.TRAINING}": 1]>
            g (double[2, 3] x) => (double[2, 3] y) <int64[1] axes = {{1}}, double eps = {{1e-12}}>
            {{ n = ReduceL2(x, axes) c = {hold} s = Shape(x) e = Expand(c, s) y = Div(x, e) }}"""
        model = parser.parse_model(text)
        it = gradients.Case("", "Div", model, {"x": MIXED}, {"x": 0})
        for library in HERE:
            check(it, "x", library, lambda x: F.normalize(x, dim=1))


def test_no_score_at_all_poisons_nothing():
    for text in ("ReduceLogSumExp(a)", "ReduceLogSumExp <keepdims = 0> (a)"):
        empty = case(text, np.full((1, 3), -INF))
        for library in HERE:
            (got, _), _ = found(empty, "a", library)
            assert not got["a"].any(), library
    mask = np.array([[0.0, -INF], [-INF, -INF]])
    x = np.random.default_rng(0).standard_normal((1, 1, 2, 4))
    attention = case("Attention(a, b, c, d)", x, x + 1, x * 2, mask)
    for library in HERE:
        (got, _), _ = found(attention, "abc", library)
        assert all(np.isfinite(g).all() for g in got.values()), library
        assert not got["a"][..., 1, :].any(), library


SCORES = [
    ("SOFTMAX_ZERO", [[-150.0], [0.0]], torch.ones_like),
    ("PROBIT", [[0.5], [0.25], [0.9]], torch.special.ndtri),
]


@pytest.mark.parametrize("library", EACH)
@pytest.mark.parametrize(("post", "values", "expected"), SCORES, ids=[s[0] for s in SCORES])
def test_scores(post, values, expected, library):
    """The exponential of a large score in a branch that is not taken; the root of 0 at a probability of a half."""
    regressor = f'LinearRegressor <coefficients = [1.0], intercepts = [0.0], post_transform = "{post}"> (a)'
    (got, _), weights = found(case(f"ai.onnx.ml.{regressor}", np.array(values, np.float32)), "a", library)
    if post == "SOFTMAX_ZERO":
        assert np.isfinite(got["a"]).all()
        return
    a = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    (expected(a) * torch.from_numpy(weights)).sum().backward()
    np.testing.assert_allclose(got["a"], a.grad.numpy(), rtol=1e-5)


# The place where an image is sampled: at its edges, at the centres of pixels, and beyond.

PLACES = np.array([-1.0, 1.0, 0.0, -0.75, 0.75, -0.5, 0.5, -1.0 / 3, 1.0 / 3, -1.25, 1.25, -1.5, 2.0, 3.0, -3.5, 0.3])
SAMPLED = [
    (align, padding, mode, rank)
    for align in (0, 1)
    for padding in ("zeros", "border", "reflection")
    for mode, rank in (("linear", 2), ("nearest", 2), ("cubic", 2), ("linear", 3))
]


@pytest.mark.parametrize("library", EACH)
@pytest.mark.parametrize(("align", "padding", "mode", "rank"), SAMPLED)
def test_grid_sample(align, padding, mode, rank, library):
    if (library, mode) == ("jax", "cubic") and (align, padding) != (0, "reflection"):
        pytest.skip("XLA compiles each for half a minute; torch and the tape share the arithmetic")
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 1, *(4, 4, 3)[:rank]))
    grid = rng.permutation(np.resize(PLACES, 48)).reshape((1, 4, 6, 2) if rank == 2 else (1, 2, 2, 4, 3))
    if rank == 2:  # and every pixel's own place, where a spatial transformer starts
        line = np.linspace(-1, 1, 4) if align else np.arange(-0.75, 1, 0.5)
        own = np.stack(np.meshgrid(line, line), axis=-1)[None]
        grid = np.concatenate([grid, np.pad(own, ((0, 0), (0, 0), (0, 2), (0, 0)))], axis=1)
    if (align, padding, mode) == (0, "reflection", "nearest"):
        grid = grid + 0.01  # between two pixels torch, which mirrors before it rounds, takes the other one
    node = f'GridSample <align_corners = {align}, padding_mode = "{padding}", mode = "{mode}"> (a, b)'
    name = mode if mode == "nearest" else {"linear": "bilinear", "cubic": "bicubic"}[mode]
    check(case(node, image, grid), "ab", library, lambda a, b: F.grid_sample(a, b, name, padding, bool(align)))


# At values full of zeros, equals and -inf: no gradient that torch's own operator finds finite may be anything else.

EVERYWHERE = [k for k in (*KINKS, *((t, v, "a", e) for t, v, e in NORMS)) if k[2] == "a" and len(k[1]) == 1]


@given(st.sampled_from(EVERYWHERE), st.data())
def test_any_mixture_of_kinks(kink, data):
    text, (shape,), names, expected = kink
    values = st.sampled_from([-2.5, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 1.0, 2.5])
    drawn = data.draw(st.lists(values, min_size=shape.size, max_size=shape.size))
    x = np.array(drawn, shape.dtype).reshape(shape.shape)
    if "MeanVariance" in text:
        x[:, 1] = x[:, 0] + np.where(x[:, 0] == x[:, 1], 0, 1)  # the slope at a variance that only rounding makes
    for library in ("torch", "tape"):
        check(case(text, x), names, library, expected)
