"""MLX's namespace and primitives beside NumPy's, what falls back and why, lazy arrays, transforms of functions."""

from __future__ import annotations

import shutil
import threading
from functools import partial

import ml_dtypes
import numpy as np
import pytest
from onnx import parser

import ortlite
from ortlite.cli import digits
from ortlite.errors import InvalidArgument
from ortlite.primitives import DEFAULTS
from ortlite.provider import CPU, create, known
from ortlite.transfer import transfer

mx = pytest.importorskip("mlx.core")

NAME = "MLXExecutionProvider"
pytestmark = pytest.mark.skipif(NAME not in known(), reason="this ortlite was installed before it had MLX")


@pytest.fixture(scope="module")
def xp():
    return create(NAME).xp


@pytest.fixture(scope="module")
def numpy():
    return create(CPU).xp


def draw(*shape, dtype="float32", low=-4, high=5):
    values = np.random.default_rng(sum(shape) + len(shape)).uniform(low, high, shape)
    return values.astype(dtype) if np.dtype(dtype).kind == "f" else np.round(values).astype(dtype)


def in_threads(work, count):
    """Do the same in so many threads at once."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def inside(value):
    """The same on MLX."""
    if isinstance(value, list):
        return list(map(inside, value))
    return create(NAME).from_numpy(value) if isinstance(value, np.ndarray) else value


def outside(value):
    return create(NAME).to_numpy(value) if isinstance(value, mx.array) else value


def same(got, wanted, rtol=2e-6):
    results = [v if isinstance(v, tuple) else (v,) for v in (got, wanted)]
    for g, w in zip(*results, strict=True):
        if w is None:
            assert g is None
            continue
        assert outside(g).dtype == w.dtype
        np.testing.assert_allclose(outside(g), w, rtol=rtol, atol=rtol * 10)


def agree(xp, numpy, name, *args, rtol=2e-6, **keywords):
    """A function of MLX's namespace beside that of NumPy's, where it is no primitive, or its default body."""
    body = partial(DEFAULTS[name], numpy) if name in DEFAULTS else getattr(numpy, name)
    with np.errstate(all="ignore"):
        same(getattr(xp, name)(*map(inside, args), **keywords), body(*args, **keywords), rtol)


# The namespace


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint64"])
def test_integer_quotients(xp, numpy, dtype):
    """MLX's own end the process, for a divisor of 0 and where the result does not fit."""
    ends = np.iinfo(dtype)
    low = max(ends.min, -12)
    x, y = (v.ravel().astype(dtype) for v in np.meshgrid(np.arange(low, 13), [v for v in range(low, 6) if v]))
    for name in ("floor_divide", "remainder", "fmod", "trunc_divide"):
        agree(xp, numpy, name, x, y)
        assert not outside(getattr(xp, name)(inside(x), inside(np.zeros_like(x)))).any() or name == "fmod"
    if ends.min:
        least, minus = inside(np.array([ends.min], dtype)), inside(np.array([-1], dtype))
        assert xp.floor_divide(least, minus).item() == ends.min
        assert xp.remainder(least, minus).item() == 0
    same(xp.remainder(inside(x), 5), np.remainder(x, np.array(5, dtype)))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64"])
@pytest.mark.parametrize("shapes", [((3, 4), (4, 5)), ((4,), (2, 4, 3)), ((2, 1, 3, 4), (5, 4, 2)), ((4,), (4,))])
def test_products_of_integers(xp, dtype, shapes):
    a, b = (draw(*shape, dtype=dtype, low=0, high=90) for shape in shapes)
    same(xp.matmul(inside(a), inside(b)), np.asarray(np.matmul(a, b)))
    same(xp.matmul(inside(a[..., :0]), inside(np.moveaxis(b, 0, 0)[:0] if b.ndim == 1 else b[..., :0, :])),
         np.asarray(np.matmul(a[..., :0], b[:0] if b.ndim == 1 else b[..., :0, :])))  # fmt: skip


def test_long_products_of_integers_go_block_by_block(xp, monkeypatch):
    monkeypatch.setattr("ortlite_mlx.standard.BLOCK", 40)
    a, b = draw(3, 50, dtype="int64", low=-(2**40), high=2**40), draw(50, 4, dtype="int64", low=-(2**40), high=2**40)
    same(xp.matmul(inside(a), inside(b)), a @ b)
    with pytest.raises(ValueError, match=r"\(3, 50\) and \(3, 50\) cannot be multiplied"):
        xp.matmul(inside(a), inside(a))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "float32", "bool"])
def test_sums_and_orders(xp, numpy, dtype):
    x = draw(4, 5, dtype="int32", low=0, high=3).astype(dtype)
    for axis in (0, -1):
        for name in ("argmax", "argmin"):
            agree(xp, numpy, name, x, axis=axis, keepdims=True)
        for descending in (False, True):
            agree(xp, numpy, "argsort", x, axis=axis, descending=descending, stable=True)
            agree(xp, numpy, "sort", x, axis=axis, descending=descending)
        if dtype != "bool":
            agree(xp, numpy, "cumulative_sum", x, axis=axis, include_initial=True)
            agree(xp, numpy, "cumulative_prod", x, axis=axis, dtype=None)
            agree(xp, numpy, "sum", x, axis=axis)
            agree(xp, numpy, "prod", x, axis=axis, keepdims=True)
    nothing = x[:, :0]  # ends the process in MLX 0.32.1, by itself
    for name in ("argsort", "sort") if dtype == "bool" else ("argsort", "sort", "cumulative_sum", "cumulative_prod"):
        agree(xp, numpy, name, nothing, axis=1)
    agree(xp, numpy, "nonzero", x)
    agree(xp, numpy, "nonzero", x[:0])
    agree(xp, numpy, "searchsorted", np.sort(x[0]), x[1], side="right")


EMPTY = [(axes, order) for axes in [(1,), (0, 1), (1, 2), (0, 1, 2), (0,), (0, 2)] for order in [(0, 1, 2), (2, 1, 0)]]


@pytest.mark.parametrize(("axes", "order"), EMPTY)
def test_reductions_of_nothing(xp, numpy, axes, order):
    """MLX reads other memory, or never ends, where an array does not lie row by row: at times, so ask several times."""
    x = np.zeros((2, 0, 5), np.float32)  # NumPy gives this strides of 0
    wanted, turned = np.zeros(x.transpose(order).shape, np.float32), mx.transpose(inside(x), order)
    for array in (turned, xp.permute_dims(inside(x), order), mx.reshape(turned, wanted.shape)):
        for _ in range(20):
            other = xp.sum(inside(draw(3, 4)), axis=1)  # leaves another stack and other memory behind
            for name in ("sum", "prod", "any", "all"):
                got = getattr(xp, name)(array, axis=axes, keepdims=True)
                same(got, np.asarray(getattr(numpy, name)(wanted, axis=axes, keepdims=True)))
            if 1 in axes:
                assert np.isnan(outside(xp.mean(array, axis=axes))).all()
                with pytest.raises(ValueError, match=r"max"):
                    xp.max(array, axis=axes)
            else:
                same(xp.max(array, axis=axes), np.zeros(np.sum(wanted, axis=axes).shape, np.float32))
            outside(other)
        assert [v.shape for v in map(outside, xp.nonzero(array))] == [(0,)] * 3


def test_derivatives_through_nothing(xp):
    """That of a broadcast array is a sum: of what other operators have transposed, with the fault above."""
    x, w = mx.zeros((0, 2, 3)), mx.ones((4, 0))
    turns = [
        lambda y: xp.permute_dims(y, (1, 2, 0)),
        lambda y: xp.moveaxis(y, 0, -1),
        lambda y: xp.moveaxis(y, (0, 1), (1, 2)),
        lambda y: xp.matrix_transpose(xp.permute_dims(y, (1, 2, 0))),
        lambda y: xp.matmul(w, y[:, 0, :]),
    ]
    for turn in turns:
        for _ in range(20):
            slope = mx.grad(lambda bias, turn=turn: mx.sum(2 * turn(x + bias)))(mx.ones((2, 3)))
            assert slope.tolist() == [[0] * 3] * 2


def test_places(xp, numpy):
    x = draw(3, 4, 5)
    agree(xp, numpy, "moveaxis", x, (0, 2), (1, 0))
    agree(xp, numpy, "moveaxis", x, 0, -1)
    agree(xp, numpy, "take", x, np.array([1, -1, 0]), axis=1)
    agree(xp, numpy, "take_along_axis", x, np.array([[[0], [-1], [4], [2]]] * 3), axis=2)
    agree(xp, numpy, "concat", [x, x[:0]], axis=0)
    agree(xp, numpy, "stack", [x, x], axis=1)
    agree(xp, numpy, "concat", [x, x], axis=None)


def test_nothing_is_read_outside_of_an_array(xp):
    x, beyond = inside(np.arange(5.0, dtype="float32")), inside(np.array([2**40, -(2**40), 7, -9]))
    assert set(xp.take(x, beyond).tolist()) <= {0.0, 4.0}
    assert set(xp.take_along_axis(x, beyond, axis=0).tolist()) <= {0.0, 4.0}
    assert xp.scatter_flat(x, beyond, inside(np.ones(4, "float32")), "add").shape == (5,)
    for read in (
        lambda: xp.take(x[:0], beyond),
        lambda: xp.take_along_axis(x[:0], beyond, axis=0),
        lambda: xp.take_along_axis(mx.zeros((4, 0)), mx.zeros((4, 1), mx.int64), axis=1),
        lambda: xp.scatter_flat(x[:0], beyond, inside(np.ones(4, "float32")), "none"),
        lambda: xp.scatter_flat(x[:0], beyond, inside(np.ones(4, "float32")), "add"),
    ):
        with pytest.raises(IndexError, match="no elements"):
            read()


def test_floats(xp, numpy):
    x = np.array([1.5, -0.0, 0.0, -2, np.inf, -np.inf, np.nan], np.float32)
    agree(xp, numpy, "sign", x)
    agree(xp, numpy, "clip", x, min=-1, max=np.float32(1))
    for y in x[:-1]:
        got = outside(xp.copysign(inside(x), inside(np.array(y))))
        np.testing.assert_array_equal(np.signbit(got[:-1]), [np.signbit(y)] * 6)
        np.testing.assert_array_equal(got, np.copysign(x, y))
    agree(xp, numpy, "fmod", x[:4], np.array([1, 3, -1, 3], np.float32))


def test_creation(xp, numpy):
    assert xp.asarray([2**64 - 1], dtype=xp.uint64).item() == 2**64 - 1
    assert xp.full((2,), 2**64 - 1, dtype=xp.uint64).tolist() == [2**64 - 1] * 2
    assert xp.full((1,), -(2**63), dtype=xp.int64).item() == -(2**63)
    assert xp.arange(2**24, 2**24 + 3, dtype=xp.int64).tolist() == [2**24, 2**24 + 1, 2**24 + 2]
    assert xp.full_like(inside(draw(2, 3)), 7).dtype == xp.float32
    assert xp.iinfo(xp.int8).bits == 8
    assert xp.finfo(xp.bfloat16).eps == 2**-7
    x = xp.zeros((2,))
    y = xp.astype(x, xp.float32)
    assert y is x  # kernels change nothing
    other = xp.asarray(x, copy=True)
    other[0] = 1
    assert x.tolist() == [0, 0]


# Borders


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "bfloat16", "float32", "complex64", ">f4"])
def test_borders(dtype):
    x = np.arange(6).reshape(2, 3).astype(np.dtype(getattr(ml_dtypes, dtype, dtype)))
    for array in (x, x.T, x[:, ::-1], x[0, 0:1].reshape(()), x[:0]):
        moved = create(NAME).from_numpy(array)
        back = create(NAME).to_numpy(moved)
        assert moved.shape == array.shape
        assert back.dtype == x.dtype.newbyteorder("=")
        np.testing.assert_array_equal(back.astype("complex64"), array.astype("complex64"))


def test_dlpack():
    provider, torch = create(NAME), pytest.importorskip("torch")
    assert provider.from_dlpack(torch.arange(3)).tolist() == [0, 1, 2]
    with pytest.raises(TypeError, match="mlx has no float64"):
        provider.from_dlpack(torch.arange(3.0).double())
    with pytest.raises(TypeError, match="no dtype for float64"):
        provider.xp.dtype("float64")
    moved = transfer(torch.arange(3.0), create("TorchExecutionProvider"), provider)
    assert moved.tolist() == [0, 1, 2]


def test_to_numpy_shares_memory():
    x = inside(draw(3))
    assert create(NAME).pointer(x) == outside(x).__array_interface__["data"][0]


# Primitives


WINDOWS = [
    {"strides": (1, 1), "pads": ((0, 0), (0, 0)), "dilations": (1, 1)},
    {"strides": (2, 1), "pads": ((1, 0), (0, 2)), "dilations": (1, 1)},
    {"strides": (1, 3), "pads": ((2, 1), (1, 1)), "dilations": (2, 1)},
    {"strides": (1, 2), "pads": ((-1, 0), (1, -2)), "dilations": (1, 1)},
]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolutions(xp, numpy, window, groups):
    agree(xp, numpy, "conv", draw(2, 4, 7, 8), draw(8, 4 // groups, 3, 2), groups=groups, rtol=1e-5, **window)
    agree(xp, numpy, "conv_transpose", draw(2, 4, 5, 6), draw(4, 3, 3, 2), groups=groups, rtol=1e-5, **window)
    for dtype in ("int32", "uint8"):
        x, w = draw(1, 4, 5, 5, dtype=dtype, low=0), draw(4, 4 // groups, 3, 2, dtype=dtype, low=0)
        agree(xp, numpy, "conv", x, w, groups=groups, **window)


@pytest.mark.parametrize("rank", [1, 3, 4])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_of_other_ranks(xp, numpy, rank, groups):
    window = {"strides": (2,) * rank, "pads": ((1, 0),) * rank, "dilations": (1,) * rank}
    x, w = draw(1, 2, *(5, 4, 6, 3)[:rank]), draw(4, 2 // groups, *(2, 3, 2, 1)[:rank])
    agree(xp, numpy, "conv", x, w, groups=groups, rtol=1e-5, **window)


@pytest.mark.parametrize("shape", [(0, 2, 5, 5), (1, 0, 5, 5), (1, 2, 0, 5), (1, 2, 1, 1)])
def test_windows_over_nothing(xp, numpy, shape):
    agree(xp, numpy, "conv", draw(*shape), draw(3, shape[1], 2, 2), **WINDOWS[0])
    agree(xp, numpy, "max_pool", draw(*shape), (2, 2), **WINDOWS[2])


@pytest.mark.parametrize("widths", [((1, 2), (0, 3)), ((-1, 2), (3, -2)), ((0, 0), (-2, -2))])
@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pad(xp, numpy, widths, mode):
    agree(xp, numpy, "pad", draw(4, 5), widths, mode, 7)
    agree(xp, numpy, "pad", draw(4, 5, dtype="int16"), widths, mode, 7)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_scatter(xp, numpy, reduction, dtype):
    data = draw(4, 5, dtype="int32").astype(dtype)
    kept = outside(first := inside(data)).copy()
    rows = np.array([[0, -1], [2, 0], [-2, 2]] if reduction == "none" else [[0, 0], [2, 0], [0, 0]])
    agree(xp, numpy, "scatter", data, rows, draw(3, 2, dtype="int32").astype(dtype), -1, reduction)
    agree(xp, numpy, "scatter_nd", data, np.array([[1], [-1]]), draw(2, 5, dtype="int32").astype(dtype), reduction)
    xp.scatter(first, inside(rows), inside(draw(3, 2, dtype="int32").astype(dtype)), -1, reduction)
    np.testing.assert_array_equal(outside(first), kept)


def test_elementwise(xp, numpy):
    x = np.concatenate([draw(40), [0.0, -0.0, np.inf, -np.inf, np.nan, 30.0, -30.0]]).astype("float32")
    agree(xp, numpy, "erf", x)
    agree(xp, numpy, "sigmoid", x)
    agree(xp, numpy, "softmax", draw(3, 5), 0)
    agree(xp, numpy, "softmax", draw(3, 0), 1)
    agree(xp, numpy, "softmax", np.full((2, 3), -np.inf, "float32"), 1)


def test_bit_view(xp):
    for source, target in (("float32", "int32"), ("int32", "float32"), ("uint8", "int8")):
        x = draw(6, dtype="float32", low=0, high=2).astype(source)
        np.testing.assert_array_equal(outside(xp.bit_view(inside(x), xp.dtype(target))), x.view(target))


# Sessions


def session(text, *providers):
    return ortlite.InferenceSession(parser.parse_model(text).SerializeToString(), providers=[*(providers or [NAME])])


HEADER = '<ir_version: 10, opset_import: ["" : 20, "ai.onnx.ml" : 3]> '


def test_what_mlx_lacks_falls_back_with_a_reason():
    found = session(
        HEADER
        + """g (float[N] x) => (float[N] y, double[N] z) {
            [first] a = Relu(x)
            [widened] wide = Cast<to = 11>(a)
            [double] z = Exp(wide)
            [single] y = Exp(a)
        }"""
    )
    where = {node.name: node for node in found.explain().nodes}
    assert where["first"].provider == where["single"].provider == NAME
    assert where["double"].provider == where["widened"].provider == CPU
    assert list(where["double"].reasons) == [f"{NAME}: mlx has no float64"]
    x = np.array([-1, 0.5], np.float32)
    y, z = found.run(None, {"x": x})
    np.testing.assert_allclose(z, np.exp(np.maximum(x, 0).astype("float64")), rtol=1e-15)
    np.testing.assert_allclose(y, np.exp(np.maximum(x, 0)), rtol=1e-6)


def test_a_model_computes_in_every_thread():
    """MLX's arrays that are not computed yet belong to the thread that made them: what a session keeps is computed."""
    text = (
        HEADER
        + """g (float[N, 4] x) => (float[N, 4] y) {
        shape = Shape(x)
        ramp = ConstantOfShape<value = float[1] {2.0}>(shape)
        half = Sqrt(ramp)
        y = Mul(x, half)
    }"""
    )
    found, x = session(text), draw(3, 4)
    wanted = x * np.float32(2) ** 0.5
    results = []

    def several():
        results.extend(found.run(None, {"x": x})[0] for _ in range(4))

    several()
    in_threads(several, 4)
    assert len(results) == 20
    for result in results:
        np.testing.assert_allclose(result, wanted, rtol=1e-6)


def test_values_on_the_device_cross_threads():
    found, x = session(HEADER + "g (float[N] x) => (float[N] y) { y = Exp(x) }"), draw(5)
    value = found.run_with_ort_values(None, {"x": ortlite.OrtValue.ortvalue_from_numpy(x)})[0]
    arrays = []
    thread = threading.Thread(target=lambda: arrays.append(value.numpy()))
    thread.start()
    thread.join()
    np.testing.assert_allclose(arrays[0], np.exp(x), rtol=1e-6)


def test_quantised_convolutions_without_float64_are_exact():
    """More than 258 products of 8-bit numbers are no longer exact in float32."""
    text = HEADER + "g (uint8[1, 40, 4, 4] x, uint8[2, 40, 3, 3] w) => (int32[1, 2, 2, 2] y) { y = ConvInteger(x, w) }"
    x, w = (draw(*shape, dtype="uint8", low=200, high=255) for shape in ((1, 40, 4, 4), (2, 40, 3, 3)))
    found = session(text)
    assert {node.provider for node in found.explain().nodes} == {NAME}
    np.testing.assert_array_equal(
        found.run(None, {"x": x, "w": w})[0], session(text, CPU).run(None, {"x": x, "w": w})[0]
    )


def test_an_index_out_of_range_is_an_error():
    found = session(HEADER + "g (float[N] x, int64[M] i) => (float[M] y) { y = Gather(x, i) }")
    with pytest.raises(InvalidArgument, match=r"Gather.*must lie from -3 to 2"):
        found.run(None, {"x": draw(3), "i": np.array([3])})


# Functions


def function(text):
    return ortlite.function(parser.parse_model(HEADER + text).SerializeToString())


CUBE = "g (float[N] x) => (float[N] y) { s = Mul(x, x)  y = Mul(s, x) }"


@pytest.fixture(scope="module")
def digit():
    """The digits model, some scans and what they give."""
    model, scans = digits.model_bytes(), digits.scans()[0][:3]
    return ortlite.function(model), scans, ortlite.InferenceSession(model).run(None, {"scan": scans})[0]


def test_mlx_in_mlx_out(digit):
    fn, scans, wanted = digit
    y = fn(mx.array(scans))
    assert isinstance(y, mx.array)
    same(y, wanted, 1e-5)


def test_transforms(digit):
    fn, scans, wanted = digit
    x = mx.array(scans)
    same(mx.vmap(lambda row: fn(row[None])[0])(x), wanted, 1e-5)
    cube, v = function(CUBE), mx.array([1.0, 2.0, -3.0])
    same(mx.grad(lambda x: cube(x).sum())(v), np.array([3, 12, 27], np.float32))
    same(mx.vmap(mx.grad(mx.grad(lambda x: cube(x[None])[0])))(v), np.array([6, 12, -18], np.float32))
    same(mx.jvp(cube, [v], [mx.ones(3)])[1][0], np.array([3, 12, 27], np.float32))


def test_the_gradient_of_a_model(digit):
    fn, scans, _ = digit
    direction = np.random.default_rng(0).standard_normal(scans.shape).astype(np.float32)

    def loss(x, log):
        return -sum(log(fn(x)[i, 3]) for i in range(3))

    step = 0.004 * direction
    slope = (np.float64(loss(scans + step, np.log)) - loss(scans - step, np.log)) / 0.008
    grad = mx.grad(lambda x: loss(x, mx.log))(mx.array(scans))
    assert float(mx.sum(grad * mx.array(direction))) == pytest.approx(slope, rel=0.05, abs=1e-4)


def test_a_function_is_traced(digit):
    """By mx.vmap, and by mx.compile: only what computes its result takes a C++ compiler on a CPU."""
    cube, seen = function(CUBE), []

    def look(x):
        y = cube(x)
        seen.append(create(NAME).tracer.traced(y))
        return y

    assert mx.vmap(look)(mx.ones((2, 3))).shape == (2, 3)
    assert mx.compile(look)(mx.ones(3)).shape == (3,)
    assert mx.grad(lambda x: look(x).sum())(mx.ones(3)).tolist() == [3, 3, 3]
    assert seen == [True, True, False]
    fn, scans, wanted = digit
    assert mx.compile(fn)(mx.array(scans)).shape == wanted.shape


@pytest.mark.skipif(shutil.which("g++") is None, reason="mx.compile runs g++ on a CPU")
def test_a_compiled_function():
    cube, x = mx.compile(function(CUBE)), mx.array([1.0, 2.0, 3.0])
    assert cube(x).tolist() == cube(x).tolist() == [1, 8, 27]


REGIONS = """g (float[N] x) => (float[N] y, int64[K] z) {
    a = Exp(x)  b = Add(a, x)  y = Neg(b)  i = NonZero(y)  one = Constant <value_ints = [0]> ()
    s = Squeeze(i, one)  z = Add(s, s) }"""


def test_regions_go_to_the_compiler_where_the_option_asks(monkeypatch):
    """By itself none do: on a CPU each takes seconds of a C++ compiler."""
    given = []
    monkeypatch.setattr(mx, "compile", lambda fn: given.append(fn) or fn)
    x = np.array([0, 1, -2], np.float32)
    for options, count in (({}, 0), ({"compile": "0"}, 0), ({"compile": "1"}, 2)):  # NonZero ends the first
        made = ortlite.InferenceSession(
            parser.parse_model(HEADER + REGIONS).SerializeToString(), providers=[(NAME, options), CPU]
        )
        given.clear()
        for _ in range(3):
            y, z = made.run(None, {"x": x})
            np.testing.assert_allclose(y, -(np.exp(x) + x), rtol=1e-6)
            assert z.tolist() == [0, 2, 4]
        assert len(given) == count


@pytest.mark.skipif(shutil.which("g++") is None, reason="mx.compile runs g++ on a CPU")
def test_compiled_regions_in_several_threads():
    made = ortlite.InferenceSession(
        parser.parse_model(HEADER + REGIONS).SerializeToString(), providers=[(NAME, {"compile": "1"}), CPU]
    )
    x = np.array([0, 1, -2], np.float32)
    results = []
    look = lambda: results.extend(made.run(["y"], {"x": x}) for _ in range(3))  # noqa: E731
    look()
    in_threads(look, 3)
    assert len(results) == 12
    for (y,) in results:
        np.testing.assert_allclose(y, -(np.exp(x) + x), rtol=1e-6)


def test_what_has_no_value_decides_no_shape():
    fn = function("g (float[N] x, int64[R] shape) => (float[] y) { y = Reshape(x, shape) }")
    x = mx.arange(4.0)
    assert fn(x, mx.array([2, 2], mx.int64)).shape == (2, 2)
    assert mx.vmap(lambda x: fn(x, np.array([2, 2])))(mx.ones((3, 4))).shape == (3, 2, 2)
    with pytest.raises(InvalidArgument, match="mlx is tracing"):
        mx.vmap(lambda shape: fn(x, shape))(mx.array([[2, 2]], mx.int64))


def test_a_write_to_a_result_leaves_the_model_as_it_is():
    fn = function(
        "g (float[3] x) => (float[3] y, float[3] z) <float[3] w = {1, 2, 3}> { y = Identity(w)  z = Add(x, w) }"
    )
    y, _ = fn(mx.zeros(3))
    y[0] = 100
    assert [v.tolist() for v in fn(mx.zeros(3))] == [[1, 2, 3], [1, 2, 3]]


KINKS = [  # a node, the values of its inputs, and the derivatives to them of the sum of its result: torch's
    ("Relu(a)", [[-1.0, 0.0, 2.0]], [[0, 0, 1]]),
    ("LeakyRelu <alpha = 0.5> (a)", [[-1.0, 0.0, 2.0]], [[0.5, 0.5, 1]]),
    ("Softplus(a)", [[0.0, 200.0, -200.0]], [[0.5, 1, 0]]),
    ("HardSigmoid <alpha = 0.5> (a)", [[-1.0, 0.0, 1.0, 2.0]], [[0, 0.5, 0, 0]]),
    ("Max(a, b)", [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]], [[0, 0.5, 1], [1, 0.5, 0]]),
    ("Min(a, b)", [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]], [[1, 0.5, 0], [0, 0.5, 1]]),
    ("Clip(a, b, c)", [[-2.0, -1.0, 0.0, 1.0, 2.0], -1.0, 1.0], [[0, 1, 1, 1, 0], 1, 1]),
    ("Pow(a, b)", [[0.0, 0.0, 2.0], [0.0, 2.0, 0.0]], [[0, 0, 0], [0, 0, np.log(2)]]),
    ("Mod <fmod = 1> (a, b)", [[0.0, 5.0, -5.0], [3.0, 3.0, 3.0]], [[1, 1, 1], [0, -1, 1]]),
    ("MaxPool <kernel_shape = [2]> (a)", [[[[2.0, 2.0, 0.0, 1.0]]]], [[[[1, 1, 0, 1]]]]),
    ("ReduceL2 <keepdims = 0> (a)", [[0.0, 0.0]], [[0, 0]]),
    ("ReduceProd <keepdims = 0> (a)", [[0.0, 2.0, 3.0]], [[6, 0, 0]]),
    ("GlobalMaxPool(a)", [[[[3.0, 1.0, 3.0]]]], [[[[1, 0, 0]]]]),
]


@pytest.mark.parametrize(("node", "values", "wanted"), KINKS)
def test_derivatives_where_they_jump(node, values, wanted):
    arrays = [np.asarray(v, np.float32) for v in values]
    infos = ", ".join(f"float{list(v.shape) or ''} {n}" for n, v in zip("abc", arrays, strict=False))
    fn = ortlite.function(parser.parse_model(HEADER + f"g ({infos}) => (y) {{ y = {node} }}").SerializeToString())
    for i, want in enumerate(wanted):
        got = mx.grad(lambda *xs: fn(*xs).sum(), argnums=i)(*map(mx.array, arrays))
        np.testing.assert_allclose(outside(got), np.float32(want), rtol=1e-6, err_msg=node)
