"""JAX's primitives beside the default bodies, gradients beside differences, control flow under transforms."""

from __future__ import annotations

import time
from array import array
from dataclasses import replace
from functools import partial

import ml_dtypes
import numpy as np
import pytest
from onnx import numpy_helper, parser

import ortlite
from ortlite.ops import registry
from ortlite.primitives import DEFAULTS
from ortlite.provider import CPU, create

jax = pytest.importorskip("jax")
jnp = jax.numpy
jax_test_util = pytest.importorskip("jax.test_util")

NAME = "JAXExecutionProvider"


@pytest.fixture(scope="module")
def xp():
    provider = create(NAME)
    with provider.context():
        yield provider.xp


@pytest.fixture(scope="module")
def numpy():
    return create(CPU).xp


def draw(*shape, dtype="float64", low=-4, high=5):
    values = np.random.default_rng(sum(shape) + len(shape)).uniform(low, high, shape)
    return values.astype(jnp.dtype(dtype)) if jnp.dtype(dtype).kind in "fV" else np.round(values).astype(dtype)


def body(name):
    """The default body of a primitive."""
    return DEFAULTS[name]


def agree(xp, numpy, name, *args, rtol=1e-12, **keywords):
    """JAX's primitive, traced, beside the default body on NumPy."""

    def lifted(value):
        return jnp.asarray(value) if isinstance(value, np.ndarray) else value

    places = [i for i, a in enumerate(args) if isinstance(a, np.ndarray)]

    def call(*arrays):
        given = [*args]
        for i, a in zip(places, arrays, strict=True):
            given[i] = a
        return getattr(xp, name)(*given, **keywords)

    got = jax.jit(call)(*[lifted(args[i]) for i in places])
    wanted = body(name)(numpy, *args, **keywords)
    for g, w in zip(*[v if isinstance(v, tuple) else (v,) for v in (got, wanted)], strict=True):
        if w is None:
            assert g is None
            continue
        assert g.shape == w.shape
        assert g.dtype == w.dtype
        wide = "float64" if jnp.issubdtype(g.dtype, jnp.floating) else None
        np.testing.assert_allclose(
            np.asarray(g, wide), np.asarray(w, wide), rtol=rtol, atol=rtol * 100, err_msg=f"{name} {keywords}"
        )


WINDOWS = [
    {"strides": (1, 1), "pads": ((0, 0), (0, 0)), "dilations": (1, 1)},
    {"strides": (2, 1), "pads": ((1, 0), (0, 2)), "dilations": (1, 1)},
    {"strides": (1, 3), "pads": ((2, 1), (1, 1)), "dilations": (2, 1)},
    {"strides": (1, 2), "pads": ((-1, 0), (1, -2)), "dilations": (1, 1)},
]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolutions(xp, numpy, window, groups):
    agree(xp, numpy, "conv", draw(2, 4, 7, 8), draw(8, 4 // groups, 3, 2), groups=groups, **window)
    agree(xp, numpy, "conv_transpose", draw(2, 4, 5, 6), draw(4, 3, 3, 2), groups=groups, **window)


@pytest.mark.parametrize("rank", [1, 3])
def test_convolutions_of_other_ranks(xp, numpy, rank):
    window = {"strides": (2,) * rank, "pads": ((1, 0),) * rank, "dilations": (1,) * rank}
    agree(xp, numpy, "conv", draw(1, 2, *(5, 4, 6)[:rank]), draw(3, 2, *(2, 3, 2)[:rank]), **window)
    agree(xp, numpy, "conv_transpose", draw(1, 2, *(3, 4, 2)[:rank]), draw(2, 3, *(2, 3, 2)[:rank]), **window)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_convolutions_of_integers_are_exact(xp, numpy, dtype):
    agree(xp, numpy, "conv", draw(1, 2, 5, 5, dtype=dtype, low=0), draw(2, 2, 3, 3, dtype=dtype, low=0), **WINDOWS[1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(xp, numpy, dtype):
    """Small integers are exact in both, whatever the order of the sums."""
    x, w = (draw(*shape, dtype="int32").astype("float32") for shape in ((1, 2, 5, 5), (2, 2, 2, 2)))
    for name, args in (
        ("conv", (x, w)),
        ("conv_transpose", (x, w)),
        ("sum_pool", (x, (2, 2))),
        ("max_pool", (x, (2, 2))),
    ):
        narrow = [jnp.asarray(a, dtype) if isinstance(a, np.ndarray) else a for a in args]
        got, wanted = getattr(xp, name)(*narrow, **WINDOWS[1]), body(name)(numpy, *args, **WINDOWS[1])
        got, wanted = (got[0], wanted[0]) if name == "max_pool" else (got, wanted)
        assert got.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(np.asarray(got, "float32"), wanted)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", ["float64", "int32", "int8"])
def test_pools(xp, numpy, window, dtype):
    x = draw(2, 3, 7, 8, dtype=dtype)
    agree(xp, numpy, "sum_pool", x, (3, 2), **window)
    for indices in (False, True):
        agree(xp, numpy, "max_pool", x, (3, 2), indices=indices, **window)


def test_pools_of_nan(xp, numpy):
    x = draw(1, 1, 6, 6)
    x[0, 0, 2, 3] = np.nan
    agree(xp, numpy, "max_pool", x, (2, 2), **WINDOWS[1])
    agree(xp, numpy, "sum_pool", x, (2, 2), **WINDOWS[1])


@pytest.mark.parametrize("shape", [(0, 2, 5, 5), (1, 0, 5, 5), (1, 2, 0, 5)])
def test_windows_over_nothing(xp, numpy, shape):
    window = WINDOWS[2]
    agree(xp, numpy, "conv", draw(*shape), draw(3, shape[1], 2, 2), **window)
    agree(xp, numpy, "sum_pool", draw(*shape), (2, 2), **window)
    agree(xp, numpy, "max_pool", draw(*shape), (2, 2), **window)
    if 0 not in shape[1:]:
        agree(xp, numpy, "conv_transpose", draw(*shape), draw(shape[1], 3, 2, 2), **window)


@pytest.mark.parametrize("widths", [((1, 2), (0, 3)), ((-1, 2), (3, -2)), ((0, 0), (-2, -2)), ((-2, -1), (0, 0))])
@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pad(xp, numpy, widths, mode):
    agree(xp, numpy, "pad", draw(4, 5), widths, mode, 7)
    agree(xp, numpy, "pad", draw(4, 5, dtype="int16"), widths, mode, 7)


def test_elementwise(xp, numpy):
    x = np.concatenate([draw(40), [0.0, -0.0, np.inf, -np.inf, np.nan, 30.0, -30.0]])
    with np.errstate(all="ignore"):
        agree(xp, numpy, "erf", x, rtol=1e-14)
        agree(xp, numpy, "sigmoid", x, rtol=1e-14)
        agree(xp, numpy, "softmax", draw(3, 5), 0)
        agree(xp, numpy, "softmax", draw(3, 0), 1)
        agree(xp, numpy, "softmax", np.full((2, 3), -np.inf), 1)


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "float64"])
def test_truncated_division(xp, numpy, dtype):
    low = 0 if dtype == "uint8" else -100
    x, y = (v.ravel() for v in np.meshgrid(np.arange(low, 101, 7), np.arange(max(low, -9), 10)))
    with np.errstate(all="ignore"):
        agree(xp, numpy, "fmod", x.astype(dtype), y.astype(dtype))
        if dtype != "float64":
            agree(xp, numpy, "trunc_divide", x.astype(dtype), y.astype(dtype))


def test_remainders_keep_the_sign_of_a_zero(xp):
    x, y = np.array([-6.0, 6.0, 5.0, np.inf]), np.array([3.0, 3.0, -np.inf, 2.0])
    got = np.asarray(xp.fmod(jnp.asarray(x), jnp.asarray(y)))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(got, np.fmod(x, y))
    assert list(np.signbit(got[:3])) == [True, False, False]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_quotients_are_correctly_rounded(xp, dtype):
    """XLA would multiply by the reciprocal of a divisor that is one number."""
    x = np.random.default_rng(0).uniform(0, 10, 2000).astype(dtype)
    for y in (x.dtype.type(255), np.array([0.3], dtype), np.array([[0.7], [3]], dtype), x[::-1].copy()):
        wanted = x / y
        np.testing.assert_array_equal(jax.jit(xp.divide)(x, y), wanted)
        np.testing.assert_array_equal(jax.jit(lambda x, y=y: xp.divide(x, y))(x), wanted)
        np.testing.assert_array_equal(xp.divide(jnp.asarray(x), jnp.asarray(y)), wanted)
    one = jax.jit(lambda x: xp.divide(x, x.dtype.type(255)))
    assert [float(one(v)) for v in x[:50]] == [float(v / v.dtype.type(255)) for v in x[:50]]


EQUATIONS = [("ij,jk->ik", 2), ("bij,bjk->bik", 2), ("ii->i", 1), ("...i,i...->...", 2), ("ij->", 1), ("i,j,k->kji", 3)]


@pytest.mark.parametrize(("equation", "count"), EQUATIONS)
@pytest.mark.parametrize("dtype", ["float64", "int32"])
def test_einsum(xp, numpy, equation, count, dtype):
    ranks = [len(t.replace("...", "")) for t in equation.split("->")[0].split(",")]
    agree(xp, numpy, "einsum", equation, *(draw(*(3,) * r, dtype=dtype) for r in ranks[:count]), rtol=1e-10)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("dtype", ["float64", "int32"])
def test_scatter(xp, numpy, reduction, dtype):
    data, rows = draw(4, 5, dtype=dtype), np.array([[0, -1], [2, 0], [-2, 2]])
    twice = rows if reduction == "none" else np.array([[0, 0], [2, 0], [0, 0]])  # which one wins is undefined
    agree(xp, numpy, "scatter", data, twice, draw(3, 2, dtype=dtype), 0, reduction)
    agree(xp, numpy, "scatter", data, rows, draw(3, 2, dtype=dtype), -1, reduction)
    flat = np.array([3, 1, 1, 0] if reduction != "none" else [3, 1, 2, 0])
    agree(xp, numpy, "scatter_flat", draw(5, dtype=dtype), flat, draw(4, dtype=dtype), reduction)
    agree(xp, numpy, "scatter_nd", data, np.array([[1], [-1]]), draw(2, 5, dtype=dtype), reduction)
    agree(xp, numpy, "scatter_nd", data, np.array([[1, 4], [-1, 0]]), draw(2, dtype=dtype), reduction)
    agree(xp, numpy, "scatter_nd", data, np.zeros((1, 0), np.int64), draw(1, 4, 5, dtype=dtype), reduction)


def test_gather_nd(xp, numpy):
    data = draw(4, 5, 2)
    for indices in ([[1], [-1]], [[0, -5], [3, 4]], [[[3, 4, 1]]]):
        agree(xp, numpy, "gather_nd", data, np.array(indices))
    agree(xp, numpy, "gather_nd", data, np.zeros((3, 0), np.int64))


@pytest.mark.parametrize("dtype", ["float64", "float32", "int8", "uint64", "bool"])
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("k", [0, 1, 3, 16])
def test_top_k(xp, numpy, dtype, largest, k):
    x = np.array([[3, 0, 1, 1, 3, 0, 2, 3, 0, 1, 2, 2, 1, 0, 3, 1], [0] * 16, [1] * 16], dtype)
    if dtype.startswith("float"):  # equals are equal whatever their sign, NaN is the largest whatever its sign
        x[1] = [0.0, -0.0, np.nan, 1, 1, -np.inf, np.inf, -np.nan, 0, -0.0, 2, 2, -np.nan, np.inf, 5, -5]
    agree(xp, numpy, "top_k", x, k, -1, largest, True)
    agree(xp, numpy, "top_k", np.ascontiguousarray(x.T), k, 0, largest, True)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint64", "bool"])
@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_positions_of_extremes(xp, dtype, name):
    x = draw(3, 4, 5, dtype="int32", low=0, high=3).astype(dtype)
    if dtype.startswith("float"):
        x[1, 2, 1:3] = np.nan
        x[2, 0, :] = -np.inf
    for axis, keepdims in ((None, False), (None, True), (0, False), (-1, True), (1, False)):
        got = jax.jit(partial(getattr(xp, name), axis=axis, keepdims=keepdims))(x)
        wanted = getattr(np, name)(x, axis=axis, keepdims=keepdims)
        assert got.dtype == jnp.int64
        np.testing.assert_array_equal(got, wanted)


def test_bit_view(xp):
    for source, target in (("float32", "int32"), ("int64", "float64"), ("bool", "uint8"), ("uint8", "bool")):
        x = draw(6, dtype="float64", low=0, high=2).astype("uint8").astype(source)
        np.testing.assert_array_equal(xp.bit_view(jnp.asarray(x), xp.dtype(target)), x.view(target))


# Gradients


def checked(fn, *args):
    def of_arrays(*given):
        return fn(*map(jnp.asarray, given))

    jax_test_util.check_grads(jax.jit(of_arrays), tuple(map(jnp.asarray, args)), order=1, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("window", WINDOWS)
def test_gradients_of_windows(xp, window):
    x = np.random.default_rng(0).permutation(2 * 6 * 7).reshape(1, 2, 6, 7) * 0.1  # no two alike, for the maximum
    checked(lambda x, w: xp.conv(x, w, groups=2, **window), x, draw(4, 1, 2, 2))
    checked(lambda x, w: xp.conv_transpose(x, w, groups=2, **window), x, draw(2, 2, 2, 2))
    checked(lambda x: xp.sum_pool(x, (2, 3), **window) ** 2, x)
    checked(lambda x: xp.max_pool(x, (2, 3), **window)[0] ** 2, x)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_gradients_of_scatter(xp, reduction):
    data, updates = draw(6) + np.arange(6), draw(4) * 3
    places = jnp.asarray([0, 3, 3, 5] if reduction in {"add", "mul"} else [0, 3, 4, 5])
    checked(lambda d, u: xp.scatter_flat(d, places, u, reduction), data, updates)
    checked(lambda d, u: xp.scatter_nd(d, places[:, None], u, reduction) ** 2, data, updates)
    checked(lambda d, u: xp.scatter(d, places, u, 0, reduction) ** 2, data, updates)


def test_gradients_of_the_rest(xp):
    x = draw(3, 8)
    for fn in (xp.erf, xp.sigmoid, partial(xp.softmax, axis=1), lambda x: xp.fmod(x, jnp.full_like(x, 10.0)) ** 2):
        checked(fn, x)
    checked(lambda x: xp.pad(x, ((1, -1), (0, 2)), "reflect") ** 2, x)
    checked(lambda x: xp.top_k(x, 2, 1, True, True)[0] ** 2, x)
    checked(lambda x, y: xp.einsum("ij,kj->ik", x, y), x, draw(2, 8))
    checked(xp.divide, x, np.array(0.7))
    checked(lambda x: xp.gather_nd(x, jnp.asarray([[0, 1], [2, -1]])) ** 2, x)


# Control flow


def closure(fn, types=()):
    """A body as a kernel gets it."""

    def graph(*inputs):
        return fn(*inputs)

    graph.types, graph.input_types = tuple(types), (None, None)
    graph.repeated, graph.unread = lambda states=None: graph, frozenset()
    return graph


def kernel(name, since=26):
    return registry.lookup("", name, since).fn


def test_if_under_a_trace(xp):
    def f(c, x):
        then, otherwise = closure(lambda: (x * x,)), closure(lambda: (jnp.sin(x),))
        return kernel("If")(xp, c, then_branch=then, else_branch=otherwise)[0]

    x = jnp.asarray(draw(3))
    for c in (True, False):
        wanted = x * x if c else jnp.sin(x)
        np.testing.assert_allclose(jax.jit(f)(jnp.asarray([c]), x), wanted)
        checked(lambda x, c=c: f(jnp.asarray(c), x), x)
    several = jax.vmap(f)(jnp.asarray([True, False]), jnp.stack([x, x]))
    np.testing.assert_allclose(several, np.stack([x * x, np.sin(x)]))


def test_if_with_branches_that_differ(xp):
    then, otherwise = closure(lambda: (jnp.zeros(2),)), closure(lambda: (jnp.zeros(3),))
    f = partial(kernel("If"), xp, then_branch=then, else_branch=otherwise)
    assert f(jnp.asarray(True))[0].shape == (2,)
    assert jax.jit(lambda: f(np.asarray(False)))()[0].shape == (3,)  # a value that is known, under a trace
    with pytest.raises(ValueError, match=r"float64\[2\].*float64\[3\].*must agree"):
        jax.jit(f)(jnp.asarray(True))


def powers(trips, going, x, below=None):
    """x, x², x⁴ … by a loop with a state, and with a scan output where the trip count says how many."""
    xp = create(NAME).xp

    def step(i, going, s):
        s = s * s
        return (going if below is None else jnp.all(s < below), s) + ((s + i,) if below is None else ())

    return kernel("Loop")(xp, trips, going, x, body=closure(step))


def test_a_loop_with_a_known_number_of_trips_is_a_scan(xp):
    x = jnp.asarray([1.1, 0.9])
    states = np.stack([x**2, x**4, x**8])
    for f in (partial(powers, 3, None), partial(powers, 3, np.asarray(True))):
        for got in (f(x), jax.jit(f)(x), tuple(r[0] for r in jax.vmap(f)(x[None]))):
            np.testing.assert_allclose(got[0], states[-1])
            np.testing.assert_allclose(got[1], states + np.arange(3)[:, None])
        checked(lambda x, f=f: f(x)[1], x)
    assert "scan" in str(jax.make_jaxpr(partial(powers, 3, None))(x))
    assert str(jax.make_jaxpr(partial(powers, 50, None))(x)).count(" mul ") == 1


def test_a_loop_that_values_end_is_a_while(xp):
    x = jnp.asarray([1.1, 0.9])
    f = partial(powers, None, None, below=3.0)
    for got in (f(x), jax.jit(f)(x)):
        np.testing.assert_allclose(got[0], x**16)
    assert "while" in str(jax.make_jaxpr(f)(x))
    several = jax.vmap(f)(jnp.stack([x, x * 2]))[0]
    np.testing.assert_allclose(several, np.stack([x**16, (2 * x) ** 2]))
    limited = jax.jit(lambda n, x: powers(n, jnp.asarray(True), x, below=3.0))
    np.testing.assert_allclose(limited(jnp.asarray(2), x)[0], x**4)
    np.testing.assert_allclose(limited(jnp.asarray(0), x)[0], x)
    tangent = jax.jvp(jax.jit(f), (x,), (jnp.ones(2),))[1][0]
    np.testing.assert_allclose(tangent, 16 * x**15)
    np.testing.assert_allclose(jax.grad(lambda x: f(x)[0].sum())(x), 16 * x**15)  # values are known: no while


def test_a_loop_may_end_at_once(xp):
    x = jnp.asarray([1.1])
    for going, trips in ((np.asarray(False), 3), (None, 0)):
        step = closure(lambda i, c, s: (c, s, s), [None, None, create_type("float64", ())])
        for f in (partial(kernel("Loop"), xp, trips, going, body=step),) * 2:
            state, rows = jax.jit(f)(x)
            assert state == x
            assert rows.shape == (0,)


def create_type(dtype, shape):
    from ortlite import dtypes
    from ortlite.graph import TensorType

    return TensorType(dtypes.by_name(dtype), shape)


def test_rows_whose_number_depends_on_values_cannot_be_traced(xp):
    def step(i, going, s):
        return jnp.all(s < 3.0), s * s, s

    f = partial(kernel("Loop"), xp, 10, None, body=closure(step))
    x = jnp.asarray([1.1])
    assert f(x)[1].shape == (5, 1)
    with pytest.raises(ValueError, match="collects a scan output, and how often it runs depends on values"):
        jax.jit(f)(x)


def test_a_state_that_grows_is_unrolled(xp):
    def step(i, going, s):
        return going, jnp.concatenate([s, s])

    f = partial(kernel("Loop"), xp, 3, None, body=closure(step))
    assert jax.jit(f)(jnp.ones(2))[0].shape == (16,)
    g = partial(kernel("Loop"), xp, None, body=closure(step))
    with pytest.raises(ValueError, match="changes its shape in a loop whose number of trips"):
        jax.jit(g)(jnp.asarray(True), jnp.ones(2))


def test_a_state_keeps_its_dtype(xp):
    """The dtype of the first state counts, whatever a body promotes it to."""
    step = closure(lambda i, c, s: (c, s * 1.5 + i, s))
    f = partial(kernel("Loop"), xp, 3, None, body=step)
    state, rows = jax.jit(f)(jnp.ones(2, jnp.float32))
    assert (state.dtype, rows.dtype) == (jnp.float32, jnp.float32)
    fold = closure(lambda s, x: (s + x * 2.0, s))
    state, rows = jax.jit(partial(kernel("Scan"), xp, body=fold, num_scan_inputs=1))(jnp.float32(0), jnp.ones(3))
    assert state.dtype == jnp.float32


@pytest.mark.parametrize("reverse", [0, 1])
def test_scan_under_transforms(xp, reverse):
    fold = closure(lambda s, x: (s * 0.5 + x, s * x))
    f = partial(kernel("Scan"), xp, body=fold, num_scan_inputs=1, scan_input_directions=(reverse,))
    s, xs = jnp.asarray(draw(2)), jnp.asarray(draw(4, 2))
    wanted, rows = np.asarray(s), []
    for x in np.asarray(xs)[:: -1 if reverse else 1]:
        wanted, row = wanted * 0.5 + x, wanted * x
        rows.append(row)
    for got in (f(s, xs), jax.jit(f)(s, xs), [v[0] for v in jax.vmap(f)(s[None], xs[None])]):
        np.testing.assert_allclose(got[0], wanted)
        np.testing.assert_allclose(got[1], rows)
    checked(f, s, xs)
    assert "scan" in str(jax.make_jaxpr(f)(s, xs))
    assert jax.jit(f)(s, xs[:0])[1].shape == (0, 2)


def test_recurrent_networks_compile_one_step(xp):
    rng = np.random.default_rng(0)
    x, w, r, b = (jnp.asarray(rng.normal(size=s)) for s in ((30, 2, 3), (2, 16, 3), (2, 16, 4), (2, 32)))
    lens = jnp.asarray([30, 7], jnp.int32)
    f = partial(kernel("LSTM", 22), xp, direction="bidirectional", hidden_size=4)
    text = str(jax.make_jaxpr(f)(x, w, r, b, lens))
    assert text.count("scan[") == 2
    assert text.count("tanh") < 12
    wanted = kernel("LSTM", 22)(create(CPU).xp, *map(np.asarray, (x, w, r, b, lens)), direction="bidirectional")
    for got, want in zip(jax.jit(f)(x, w, r, b, lens), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)
    checked(lambda *a: f(*a, lens)[0], x[:4], w, r, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_jit_of_the_user_without_64_bits(dtype):
    """Kernels ask for 64 bits inside: what they compute in int64 and float64 must come out right all the same."""
    provider = create(NAME)
    cpu = create(CPU).xp
    x = draw(2, 1, 6, 6).astype("float32")
    index = np.array([[[[2, -1, 0, 1, 1, 2]]]]).repeat(2, 0)
    calls = {
        "ArgMax": ((), {"axis": 2}),
        "TopK": ((1,), {}),
        "GatherElements": ((index,), {"axis": 2}),
        "ScatterElements": ((index, x[:, :, :1]), {"axis": 2}),
        "MaxPool": ((), {"kernel_shape": (2, 2), "n_outputs": 2}),
        "Hardmax": ((), {}),
        "CumSum": ((2,), {}),
        "ReduceLogSumExp": (((2, 3),), {}),
    }
    for name, (more, keywords) in calls.items():

        def f(x, name=name, more=more, keywords=keywords):
            with provider.context():
                given = [jnp.asarray(v) if isinstance(v, np.ndarray) else v for v in more]
                return kernel(name)(provider.xp, jnp.asarray(x, dtype), *given, **keywords)

        wanted = kernel(name)(cpu, x.astype(dtype), *more, **keywords)
        several = jax.tree.map(lambda v: v[1], jax.jit(jax.vmap(f))(np.stack([x, x])))
        for got in (jax.jit(f)(x), several):
            for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
                np.testing.assert_allclose(np.asarray(g), w, rtol=1e-5, err_msg=name)

        def total(x, f=f):
            floats = [y for y in jax.tree.leaves(f(x)) if jnp.issubdtype(y.dtype, jnp.floating)]
            return sum((y.astype(jnp.float32).sum() for y in floats), jnp.float32(0))

        assert jax.jit(jax.grad(total))(x).dtype == jnp.float32


TAPS = """<ir_version: 8, opset_import: ["": 18]>
g (float[3] x, float limit) => (float[3] y)
{ y = Loop (, , x) <body = b (int64 i, bool ci, float[3] s) => (bool co, float[3] t)
    { t = Add(s, s)  total = ReduceSum <keepdims = 0> (t)  co = Less(total, limit) }> }"""


def test_a_model_with_a_loop_under_jit_and_vmap():
    fn = ortlite.function(parser.parse_model(TAPS).SerializeToString())
    x, limit = np.array([1, 2, 3], np.float32), np.float32(50)
    wanted = x * 16
    np.testing.assert_array_equal(fn(x, limit), wanted)
    np.testing.assert_array_equal(jax.jit(fn)(x, limit), wanted)
    several = jax.vmap(fn, (0, None))(np.stack([x, x * 8]), limit)
    np.testing.assert_array_equal(several, np.stack([wanted, x * 16]))


def test_what_is_narrower_than_a_byte_is_left_to_numpy():
    text = """<ir_version: 10, opset_import: ["": 25]> g (int4[3] x) => (int4[5] y)
    <int64[2] pads = {1, 1}, int4 fill = {0}> { y = Pad(x, pads, fill) }"""
    x = np.array([1, -8, 7]).astype(ml_dtypes.int4)
    session = ortlite.InferenceSession(parser.parse_model(text).SerializeToString(), providers=["JAXExecutionProvider"])
    for _ in range(3):
        assert session.run(None, {"x": x})[0].astype(int).tolist() == [0, 1, -8, 7, 0]
    assert "jax has no int4" in session.explain().nodes[0].reasons[0]
    got = ortlite.function(parser.parse_model(text).SerializeToString())(jax.numpy.asarray(x))
    assert got.astype(int).tolist() == [0, 1, -8, 7, 0]


@pytest.mark.parametrize("values", [list(range(100_000)), array("q", range(100_000))], ids=["list", "buffer"])
def test_long_tables_are_taken_in_at_once(xp, values):
    """JAX takes in lists and buffers element by element: more than a second for these."""
    xp.asarray([1], dtype=xp.int32)
    start = time.process_time()
    made = xp.asarray(values, dtype=xp.int32)
    assert time.process_time() - start < 0.3
    assert (made.shape, made.dtype, int(made[-1])) == ((100_000,), jnp.int32, 99_999)


PLACES = """<ir_version: 8, opset_import: ["": 18]>
g (float[N] x) => (float[N] y)
<int64 zero = {0}, int64 one = {1}>
{ n = Size(x)  places = Range(zero, n, one)  f = Cast <to = 1> (places)  y = Mul(f, x) }"""


def test_a_model_that_computes_an_array_on_the_host_under_transforms():
    fn = ortlite.function(parser.parse_model(PLACES).SerializeToString())
    x = np.array([3, 1, 4, 1], np.float32)
    traces = []

    @jax.jit
    def traced(x):
        traces.append(x)
        return fn(x)

    for _ in range(3):
        np.testing.assert_array_equal(traced(jnp.asarray(x)), x * np.arange(4))
    assert len(traces) == 1
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: fn(x).sum()))(x), np.arange(4))
    np.testing.assert_array_equal(jax.jit(jax.vmap(fn))(jnp.stack([x, -x]))[1], -x * np.arange(4))


SHAPES = """<ir_version: 8, opset_import: ["": 18]>
g (float[N, M] x) => (float[A] y)
<int64 zero = {0}, int64 one = {1}, int64[1] ones = {1}, float half = {0.5}>
{ n = Size(x)  f = Cast <to = 1> (n)  f2 = Mul(f, half)  f3 = Floor(f2)  i = Cast <to = 7> (f3)
  steps = Range(zero, i, one)  flat = Gather(steps, zero)  r = Range(flat, i, one)
  two = Greater(i, one)
  z = If (two) <then_branch = t () => (float[A, B] a) { a = Neg(x) }, else_branch = e () => (float[A] b) { b = ReduceSum <keepdims = 0> (x) }>
  rank = Shape(z)  last = Size(rank)  flatten = Equal(last, ones)
  y = If (flatten) <then_branch = t () => (float[A] c) { c = Identity(z) }, else_branch = e () => (float[A] d) { shape = Constant <value_ints = [-1]> ()  d = Reshape(z, shape) }> }"""  # noqa: E501


def test_shapes_decide_under_a_trace_whatever_they_were_computed_with():
    """A count through floats, a branch by a shape, and a branch by the shape of what a branch gave."""
    fn = ortlite.function(parser.parse_model(SHAPES).SerializeToString())
    x = draw(3, 2).astype("float32")
    np.testing.assert_array_equal(jax.jit(fn)(x), -x.reshape(-1))
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: fn(x).sum()))(x), -np.ones_like(x))
    np.testing.assert_array_equal(jax.jit(jax.vmap(fn))(x[None]), -x.reshape(1, -1))


def test_a_signature_is_compiled_when_it_comes_up_first():
    """And no step before it by itself: shapes on the way are told without a run; what needs values is run first."""
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[N, M] x) => (float[A, B] y, string[C] t)
    { z = Exp(x)  s = Shape(z)  n = Size(z)  f = Cast<to = 1>(n)  w = Mul(z, f)  y = Expand(w, s)
      t = Cast<to = 8>(s) }"""
    session = ortlite.InferenceSession(parser.parse_model(text).SerializeToString(), providers=[NAME])
    x = draw(2, 3).astype("float32")
    for made, size in enumerate((3, 2, 3), start=1):
        y, t = session.run(None, {"x": x[:, :size]})
        np.testing.assert_allclose(y, np.exp(x[:, :size]) * (2 * size), rtol=1e-6)
        assert t.tolist() == ["2", str(size)]
        assert len(session.stages.program._signatures.entries) == min(made, 2)
    unknown = """<ir_version: 8, opset_import: ["": 18]> g (float[N] x) => (float[A] y)
    { i = NonZero(x)  s = Shape(i)  y = ConstantOfShape(s) }"""
    session = ortlite.InferenceSession(parser.parse_model(unknown).SerializeToString(), providers=[NAME])
    for values in ([1, 0, 2], [0, 0, 1]):
        (y,) = session.run(None, {"x": np.array(values, np.float32)})
        assert y.shape == (1, np.count_nonzero(values))


GROWS = """<ir_version: 8, opset_import: ["": 18]>
    g (float[N, 2] past, float[1, 2] x) => (float[M, 2] present, float[1, 2] y)
    { present = Concat <axis = 0> (past, x)  e = Exp(present)  y = ReduceSum <keepdims = 1> (e, zero) }"""


def growing_model(hidden):
    """`hidden`: the plan does not show that a result is an input with more behind it."""
    proto = parser.parse_model(
        GROWS.replace("(past, x)", "(p, x)").replace("{ p", "{ p = Abs(past)  p") if hidden else GROWS
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0]), "zero"))
    return proto.SerializeToString()


def growing(hidden=False, **options):
    return ortlite.InferenceSession(growing_model(hidden), providers=[(NAME, options)])


@pytest.mark.parametrize(("hidden", "compiled"), [(False, 0), (True, 2)])
def test_a_cache_that_grows_compiles_no_program_for_each_length(hidden, compiled):
    session, past = growing(hidden), np.zeros((0, 2), np.float32)
    for n in range(1, 9):
        x = abs(draw(1, 2).astype("float32")) * n
        before = past
        past, y = session.run(None, {"past": past, "x": x})
        np.testing.assert_array_equal(past, np.concatenate([before, x]))
        np.testing.assert_allclose(y, np.exp(past.astype(float)).sum(0, keepdims=True), rtol=1e-6)
        assert past.flags.writeable
    explained = session.explain()
    assert explained.stood_in == 8 - compiled
    assert len(explained.compilations) == compiled
    assert f"{8 - compiled} runs at shapes that nothing is compiled for were NumPy's" in str(explained)


@pytest.mark.parametrize(("hidden", "compiled"), [(False, 0), (True, 1)])
def test_a_cache_that_comes_back_grown_compiles_one_program_at_most(hidden, compiled):
    session, past = growing(hidden), np.zeros((3, 2), np.float32)
    for _ in range(5):
        past, _ = session.run(None, {"past": past, "x": draw(1, 2).astype("float32")})
    explained = session.explain()
    assert explained.stood_in == 5 - compiled
    assert len(explained.compilations) == compiled


def test_what_numpy_answers_is_not_the_memory_of_the_feed():
    """JAX shares memory that starts at a multiple of 64 bytes; an output of it would be the caller's own."""
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[N] x) => (float[N] y, float[M] z)
    { y = Identity(x)  z = Squeeze(x) }"""
    session = ortlite.InferenceSession(parser.parse_model(text).SerializeToString(), providers=[NAME])
    buffer = np.zeros(64 * 9, np.uint8)
    offset = -buffer.__array_interface__["data"][0] % 64
    for n in range(2, 9):
        x = buffer[offset : offset + 64 * n].view(np.float32)
        x[...] = n
        y, z = session.run(None, {"x": x})
        y[...] = z[...] = -1
        assert (x == n).all()
        x[...] = 0
        assert (y == -1).all()
    assert session.explain().stood_in == 5


def test_what_numpy_answers_is_not_carried_to_jax_before(monkeypatch):
    session, carried = growing(hidden=True), []
    provider = session.stages.plan.providers[0]
    real = provider.from_numpy
    monkeypatch.setattr(provider, "from_numpy", lambda array: carried.append(array.shape) or real(array))
    for n, shapes in ((1, 2), (5, 2), (3, 0), (4, 0), (5, 2), (1, 2)):
        carried.clear()
        session.run(None, {"past": draw(n, 2).astype("float32"), "x": draw(1, 2).astype("float32")})
        assert len(carried) == shapes
    assert session.explain().stood_in == 2


def test_who_wants_every_length_compiled_says_so():
    session = growing(stand_in="0")
    for n in range(1, 5):
        session.run(None, {"past": draw(n, 2).astype("float32"), "x": draw(1, 2).astype("float32")})
    assert session.explain().stood_in == 0
    assert len(session.explain().compilations) == 4


def test_a_function_gives_arrays_of_jax_whoever_answers():
    fn = ortlite.function(growing_model(hidden=False), provider=NAME)
    x = jnp.ones((1, 2), jnp.float32)
    for n in range(1, 5):
        past = jnp.full((n, 2), n, jnp.float32)
        present, y = fn(past, x)
        assert isinstance(present, jax.Array)
        np.testing.assert_allclose(y, np.full((1, 2), n * np.exp(n) + np.exp(1)), rtol=1e-6)
        slope = jax.grad(lambda past: fn(past, x)[1].sum())(past)
        np.testing.assert_allclose(slope, np.full((n, 2), np.exp(n)), rtol=1e-6)


def test_what_a_caller_writes_to_its_array_later_is_not_seen():
    """JAX shares memory that starts at a multiple of 64 bytes, and reads it when it comes to compute."""
    text = '<ir_version: 8, opset_import: ["": 18]> g (float[64] x) => (float[64] y) { y = Identity(x) }'
    fn = ortlite.function(parser.parse_model(text).SerializeToString(), provider="JAXExecutionProvider")
    buffer = np.zeros(64 * 4 + 64, np.uint8)
    offset = -buffer.__array_interface__["data"][0] % 64
    x = buffer[offset : offset + 256].view(np.float32)
    y = fn(x)
    x[...] = 7
    assert np.asarray(y).tolist() == [0] * 64


def test_an_override_leaves_what_it_cannot_do_under_a_trace(xp):
    def softsign(xp, input):
        return input * 0 + 7 if input.ndim == 1 else NotImplemented

    f = partial(replace(registry.lookup("", "Softsign", 20), override=softsign).body, xp)
    x = jnp.asarray([[1.0, -3.0]])
    for function in (f, jax.jit(f)):
        assert function(x[0]).tolist() == [7, 7]
        assert function(x).tolist() == [[0.5, -0.75]]
    assert jax.jit(jax.vmap(f))(x).tolist() == [[7, 7]]
    assert jax.grad(lambda v: f(v).sum())(x).tolist() == [[0.25, 0.0625]]


def test_what_is_baked_is_no_view_of_the_callers_memory():
    """A part of an input that says a shape, too: its value belongs to the signature, and the caller may write to it."""
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[N] x, int64[2] k) => (float[M,L] y, int64[R] same) {
      zero = Constant <value = int64[1] {0}> ()  two = Constant <value = int64[1] {2}> ()
      y = Expand (x, k)  part = Slice (k, zero, two)  same = Identity (part) }"""
    session = ortlite.InferenceSession(parser.parse_model(text).SerializeToString(), providers=[NAME])
    for _ in range(4):
        k = np.array([3, 2])
        y, same = session.run(None, {"x": np.ones(2, np.float32), "k": k})
        assert (y.shape, same.tolist()) == ((3, 2), [3, 2])
        k[:] = 55


def test_two_values_of_a_function_may_be_one_array():
    """JAX's slice of all there is is the array itself: the function made for the signature had one argument twice."""
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[N] x, int64[1] k) => (float[M] y) {
      c = Constant <value = float[2] {1.0, 2.0}> ()  zero = Constant <value = int64[1] {0}> ()
      part = Slice (c, zero, k)  sum = Add (part, c)  y = Add (sum, x) }"""
    fn = ortlite.function(parser.parse_model(text).SerializeToString())
    for _ in range(3):
        np.testing.assert_array_equal(fn(jnp.ones(2, jnp.float32), np.array([2])), [3, 5])
