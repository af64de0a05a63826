"""Convolutions of compiled programs with the channels last, beside the same function as it was traced."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from onnx import helper, numpy_helper

import ortlite
from ortlite.provider import create

jax = pytest.importorskip("jax")
jnp, lax = jax.numpy, jax.lax

from ortlite_jax.region import Region  # noqa: E402

NAME = "JAXExecutionProvider"
RANDOM = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(RANDOM.standard_normal(shape).astype(np.float32))


def conv(x, w, **keywords):
    rank = x.ndim - 2
    given = {"strides": (1,) * rank, "pads": [(0, 0)] * rank, "dilations": (1,) * rank, "groups": 1} | keywords
    place = create(NAME)
    return place.xp.conv(x, w, **given)


def exact(x, w, strides, pads, dilations, groups):
    """The convolution in float64, by XLA's own, which has no algorithm of ours."""
    y = lax.conv_general_dilated(
        np.asarray(x, np.float32), np.asarray(w, np.float32), strides, pads, rhs_dilation=dilations,
        feature_group_count=groups, precision="highest",
    )  # fmt: skip
    return np.asarray(y)


WINDOWS = [(1, 1, 1), (1, 2, 1), (2, 1, 2), (3, 1, 1), (3, 2, 1), (9, 3, 1)]  # size, stride, dilation
SPATIAL = [(21,), (20, 19), (5, 6, 7)]
CASES = [
    (spatial, *window, groups)
    for spatial, window, groups in product(SPATIAL, WINDOWS, [1, 2, 6])
    if len(spatial) < 3 or (groups != 2 and window[0] < 9)  # XLA takes its time to compile each
]


@pytest.mark.parametrize(("spatial", "size", "stride", "dilation", "groups"), CASES)
def test_convolutions(spatial, size, stride, dilation, groups):
    rank = len(spatial)
    x, w = draw(2, 6, *spatial), draw(12, 6 // groups, *(size,) * rank)
    keywords = {"strides": (stride,) * rank, "pads": [(size // 2, 0)] * rank, "dilations": (dilation,) * rank}
    region = Region(lambda x, w: (conv(x, w, groups=groups, **keywords),), {1: w})
    (got,) = region(x)
    wanted = exact(x, w, **keywords, groups=groups)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (3, 1), (7, 4)])
def test_colours_to_32_maps(size, stride):
    x, w = draw(2, 3, 17, 18), draw(32, 3, size, size)
    keywords = {"strides": (stride,) * 2, "pads": [(size // 2, 1)] * 2, "dilations": (1, 1)}
    (got,) = Region(lambda x, w: (conv(x, w, **keywords),), {1: w})(x)
    np.testing.assert_allclose(got, exact(x, w, **keywords, groups=1), rtol=1e-4, atol=2e-4)


def several(x, w):
    """An image that goes through what knows layouts."""
    y = jax.nn.relu(conv(x, w))
    x = x[:, :, 1:-1, 1:-1]
    yield y + x[:, :1]
    yield jnp.clip(y * y.mean(axis=(2, 3), keepdims=True), -1, 1)
    yield lax.reduce_window(y, 0.0, lax.add, (1, 1, 2, 3), (1, 1, 2, 1), "VALID")
    yield lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 1, 3), (1, 1, 1, 2), ((0, 0), (1, 0), (0, 0), (1, 1)))
    yield lax.pad(y, 2.0, [(0, 0, 0), (1, 2, 0), (0, 3, 1), (-1, 1, 0)])
    yield y[:, ::2, 1:, ::3]
    yield jnp.concatenate([y, x], axis=1)
    yield jnp.concatenate([y, y], axis=3)
    for axes in ((0,), (1,), (2,), (3,), (1, 2), (0, 3), (0, 1, 2)):
        yield y.sum(axis=axes)
        yield y.max(axis=axes, keepdims=True)
    yield y.transpose(0, 2, 3, 1) @ jnp.ones((4, 2))
    yield y.transpose(3, 1, 0, 2) + 1
    yield y.reshape(2, 4, -1).transpose(0, 2, 1)
    yield jax.nn.softmax(y.reshape(2, 4, -1), axis=-1)
    yield y.reshape(2, 4, 5, 2, 8) + 1
    yield y.reshape(2, 2, 2, 80).sum(axis=2)
    yield y.reshape(8, 10, 8) + 1
    yield y.reshape(-1)
    yield y[:, None] + 1
    yield jnp.broadcast_to(y.max(axis=2, keepdims=True), y.shape) - y
    yield jnp.broadcast_to(y, (3, *y.shape)).sum(axis=0)
    yield jnp.where(y > 0.5, y, x[:, :1])
    yield jnp.flip(y, axis=2)
    yield jnp.cumsum(y, axis=1)
    yield jnp.argmax(y, axis=1)
    yield y.astype(jnp.int32) % 3
    yield lax.fori_loop(0, 2, lambda _, a: a * 2, y)
    yield conv(y, jnp.ones((4, 1, 3, 3)), groups=4) - conv(y, jnp.ones((4, 4, 3, 3)))
    for axis in range(4):
        yield jnp.take(y, jnp.asarray([1, 0, 1, -1]), axis=axis)
        yield jnp.take(y, jnp.asarray([[1, 0], [9, 1]]), axis=axis, mode="clip")
        yield jnp.take_along_axis(y, jnp.argmin(y, axis=axis, keepdims=True), axis=axis)
    rows = y.reshape(2, 4, 80).transpose(0, 2, 1)
    yield rows @ rows.transpose(0, 2, 1)
    yield jnp.maximum(rows.transpose(0, 2, 1), 0.5).reshape(2, 4, 5, 16)
    yield conv(rows.transpose(0, 2, 1).reshape(2, 4, 5, 16), w[:, :1, :2, :2], groups=4)
    yield y / jnp.asarray(3.0)


def test_what_follows_a_convolution():
    x, w = draw(2, 3, 12, 10), draw(4, 3, 3, 3)

    def fn(x, w):
        return tuple(several(x, w))

    got, wanted = Region(fn, {1: w})(x), jax.jit(fn)(x, w)
    assert len(got) == len(wanted)
    for index, (one, other) in enumerate(zip(got, wanted, strict=True)):
        assert (one.shape, one.dtype) == (other.shape, other.dtype), index
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5, err_msg=str(index))


def test_images_are_turned_once():
    w, v = draw(8, 3, 3, 3), draw(8, 8, 3, 3)

    def fn(x, w, v):
        y = jax.nn.relu(conv(x, w, pads=[(1, 1)] * 2))
        for _ in range(3):
            y = y + jnp.clip(conv(y, v, pads=[(1, 1)] * 2), 0, 6)
        return (y.mean(axis=(2, 3)),)

    region, x = Region(fn, {1: w, 2: v}), draw(1, 3, 32, 32)
    np.testing.assert_allclose(region(x)[0], fn(x, w, v)[0], rtol=1e-4, atol=1e-4)
    program, weights, _ = next(iter(region.programs.values()))
    assert program.lower(x, *weights).as_text().count("stablehlo.transpose") == 1


@pytest.mark.parametrize("rows", [(1,), (4,), (64,), (65,), (2, 3), ()])
def test_products_of_few_rows(rows):
    w, square, x = draw(1024, 1030), draw(1024, 1024), draw(*rows, 1024)

    def fn(x, w, square):
        y = x @ square.T
        return (
            y,
            x @ square,
            (y * 1e-2) @ w,
            jnp.tensordot(square.T, x, ((0,), (x.ndim - 1,))),
            w.T,
            square.T + w[:, :1024],
        )

    for got, wanted in zip(Region(fn, {1: w, 2: square})(x), jax.jit(fn)(x, w, square), strict=True):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-3)


def test_other_than_floats():
    x = jnp.asarray(RANDOM.integers(-9, 9, (1, 4, 6, 6)), dtype=jnp.int32)
    w = jnp.asarray(RANDOM.integers(-9, 9, (6, 4, 3, 3)), dtype=jnp.int32)
    (got,) = Region(lambda x, w: (conv(x, w),), {1: w})(x)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, exact(x, w, (1, 1), [(0, 0)] * 2, (1, 1), 1).astype(np.int32))


@pytest.mark.parametrize(("auto_pad", "op"), [*product(["VALID", "SAME_UPPER"], ["MaxPool", "AveragePool"])])
def test_sessions(auto_pad, op):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node(op, ["b"], ["c"], kernel_shape=[3, 3], strides=[2, 2], auto_pad=auto_pad),
        helper.make_node("Conv", ["c", "v"], ["d"], group=4),
        helper.make_node("Resize", ["d", "", "scales"], ["e"], mode="nearest"),
        helper.make_node("ConvTranspose", ["e", "t"], ["f"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["f"], ["y"]),
    ]
    weights = {
        "w": draw(4, 3, 3, 3), "v": draw(8, 1, 3, 3), "t": draw(8, 2, 2, 2), "scales": np.float32([1, 1, 2, 2])
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info(name, 1, None) for name in ("d", "f", "y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    ours, peer = (ortlite.InferenceSession(model, providers=[name]) for name in (NAME, "CPUExecutionProvider"))
    for shape in ((1, 3, 16, 15), (3, 3, 9, 12)):
        x = RANDOM.standard_normal(shape).astype(np.float32)
        for got, wanted in zip(ours.run(None, {"x": x}), peer.run(None, {"x": x}), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
