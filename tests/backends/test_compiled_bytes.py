"""Compiled products, convolutions and sums of bytes: to the bit the numbers of the kernels whose places they take."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper, parser

pytest.importorskip("numba")

from ortlite import load, pipeline, provider
from ortlite.derived import Derived
from ortlite.ops import registry
from ortlite_numpy import compiled
from ortlite_numpy.compiled import integers, qconv

MS = "com.microsoft"
CPU = provider.create("CPUExecutionProvider", {"compiled": "0"})
FAST = provider.create("CPUExecutionProvider", {"compiled": "1"})
F = np.float32
BYTES = st.sampled_from([np.uint8, np.int8])
SEEDS = st.integers(0, 1 << 20)


def whole(draw, dtype, *shape):
    """All values, more often the extreme ones."""
    limits = np.iinfo(dtype)
    x = draw.integers(limits.min, limits.max, shape, endpoint=True)
    ends = draw.choice([limits.min, limits.max], shape)
    return np.where(draw.random(shape) < 0.3, ends, x).astype(dtype)


def zeros_of(draw, dtype, how, n):
    """No zero point, the middle, any, or any for each column."""
    if how == "none":
        return None
    if how == "middle":
        return np.asarray(128 if dtype is np.uint8 else 0, dtype)
    return whole(draw, dtype, *((n,) if how == "each" else ()))


def equal(key, arguments, constants=(), **attributes):
    kernel = registry.lookup(*key)
    fn = compiled.OVERRIDES[key]
    derived = Derived([arguments[i] for i in constants])
    before = [None if v is None else v.copy() for v in arguments]
    for _ in range(2):
        got = fn(CPU.xp, *arguments, **attributes, derived=derived)
        assert got is not NotImplemented
        with CPU.context():
            want = kernel.fn(CPU.xp, *arguments, **attributes)
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_array_equal(got, want)
    for was, value in zip(before, arguments, strict=True):
        np.testing.assert_array_equal(was, value)
    return got


@settings(max_examples=60, deadline=None)
@given(
    BYTES, BYTES, BYTES, SEEDS,
    st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 14), st.integers(1, 14), st.integers(1, 40)),
    st.tuples(*[st.integers(1, 3)] * 2), st.tuples(*[st.integers(1, 3)] * 2), st.tuples(*[st.integers(0, 2)] * 4),
    st.integers(1, 2), st.sampled_from(["none", "middle", "any", "each"]), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_convolutions(
    x_type, w_type, y_type, seed, sizes, size, strides, pads, dilation, zeros, last, depthwise, line
):  # fmt: skip
    draw = np.random.default_rng(seed)
    n, c, height, width, m = sizes
    if depthwise:
        m = c = c + 1
    spatial, size, strides, pads = (height, width), list(size), list(strides), list(pads)
    dilations = [dilation, dilation if depthwise else 1]
    if line:
        spatial, size, strides, pads, dilations = (width,), size[1:], strides[1:], pads[1::2], dilations[1:]
    half = len(size)
    if any(
        s + lo + hi < (k - 1) * d + 1
        for s, k, d, lo, hi in zip(spatial, size, dilations, pads[:half], pads[half:], strict=True)
    ):
        return
    x = whole(draw, x_type, n, c, *spatial)
    if last:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    w = whole(draw, w_type, m, 1 if depthwise else c, *size)
    x_zero, w_zero = whole(draw, x_type), zeros_of(draw, w_type, zeros, m)
    given = {"strides": strides, "pads": pads, "dilations": dilations, "group": c if depthwise else 1}
    equal(("", "ConvInteger", 10), (x, w, x_zero if seed % 3 else None, w_zero), (1,), **given)
    w_scale = (draw.random(m if seed % 2 else 1) * 0.01 + 0.001).astype(F)
    y_scale = np.asarray(0.3 * np.sqrt(w[0].size), F)
    bias = draw.integers(-40000, 40000, m).astype(np.int32) if seed % 5 else None
    w_zero = np.zeros((), w_type) if w_zero is None else w_zero
    arguments = (x, np.asarray(0.3, F), x_zero, w, w_scale, w_zero, y_scale, whole(draw, y_type), bias)
    y = equal(("", "QLinearConv", 10), arguments, (3, 5), **given)
    assert y.ndim == 3 or c == 1 or np.moveaxis(y, 1, -1).flags.c_contiguous


@settings(max_examples=60, deadline=None)
@given(
    BYTES, BYTES, BYTES, SEEDS, st.tuples(st.integers(1, 70), st.integers(1, 90), st.integers(1, 80)),
    st.sampled_from(["none", "middle", "any", "each"]),
)  # fmt: skip
def test_products(a_type, b_type, y_type, seed, sizes, zeros):
    draw = np.random.default_rng(seed)
    rows, depth, columns = sizes
    a, b = whole(draw, a_type, rows, depth), whole(draw, b_type, depth, columns)
    a_zero, b_zero = whole(draw, a_type) if seed % 3 else None, zeros_of(draw, b_type, zeros, columns)
    equal(("", "MatMulInteger", 10), (a[None], b, a_zero, b_zero), (1, 3))
    a_scale = np.asarray(0.3, F)
    b_scale = (draw.random(columns if seed % 2 else 1) * 0.01 + 0.001).astype(F)
    bias = draw.standard_normal(columns).astype(F) if seed % 5 else None
    equal((MS, "MatMulIntegerToFloat", 1), (a, b, a_scale, b_scale, a_zero, b_zero, bias), (1, 5))
    a_zero = np.zeros((), a_type) if a_zero is None else a_zero
    b_zero = np.zeros((), b_type) if b_zero is None else b_zero
    y_scale, y_zero = np.asarray(0.3 * np.sqrt(depth), F), whole(draw, y_type)
    arguments = (a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero)
    equal(("", "QLinearMatMul", 10), arguments, (3, 5))
    y_zero = whole(draw, a_type)
    c = draw.integers(-40000, 40000, columns).astype(np.int32) if seed % 5 else None
    turned = np.ascontiguousarray(b.T) if seed % 7 else b
    given = {"transB": 1} if seed % 7 else {}
    for end in ((y_scale, y_zero), (None, None)):
        equal((MS, "QGemm", 1), (a, a_scale, a_zero, turned, b_scale, b_zero, c, *end), (3, 5), **given)


def test_sums_wrap_as_int32_does():
    depth = 140_000
    a, b = np.full((1, depth), 255, np.uint8), np.full((depth, 2), 127, np.int8)
    y = equal(("", "MatMulInteger", 10), (a, b, np.zeros((), np.uint8), np.zeros((), np.int8)), (1, 3))
    assert y[0, 0] == (depth * 255 * 127 + 2**31) % 2**32 - 2**31


@pytest.mark.parametrize("kind", [integers.BYTE, integers.PAIR], ids=str)
def test_both_kinds_of_words(kind, monkeypatch):
    """Pairs also where the processor could take four bytes, and the widest numbers of both."""
    if kind == integers.BYTE and not integers.four_bytes():
        pytest.skip("this processor has no product of four bytes")
    monkeypatch.setattr(integers, "word_type", lambda w: kind)
    draw = np.random.default_rng(3)
    for rows, depth, columns in ((1, 5, 3), (13, 130, 70), (40, 33, 200)):
        a, b = whole(draw, np.uint8, rows, depth), whole(draw, np.int8, depth, columns)
        equal(("", "MatMulInteger", 10), (a, b, whole(draw, np.uint8), np.zeros((), np.int8)), (1, 3))


@settings(max_examples=40, deadline=None)
@given(BYTES, SEEDS, st.lists(st.integers(1, 9), min_size=1, max_size=4), st.booleans(), st.booleans(), st.booleans())
def test_sums_and_products_of_tensors(dtype, seed, shape, last, number, absent):
    draw = np.random.default_rng(seed)
    a, b = whole(draw, dtype, *shape), whole(draw, dtype, *shape)
    if last:
        a = np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 0, -1)), -1, 0)
    b = b.reshape(-1)[:1] if number else b
    a_zero, b_zero, c_zero = (None if absent else whole(draw, dtype) for _ in range(3))
    scales = (draw.random(3) * 0.1 + 0.01).astype(F)
    arguments = (a, scales[:1], a_zero, b, scales[1:2], b_zero, scales[2:], c_zero)
    for op in ("QLinearAdd", "QLinearMul"):
        y = equal((MS, op, 1), arguments)
        assert y.strides == a.strides or 1 in shape
        if number:
            equal((MS, op, 1), (*arguments[3:6], *arguments[:3], *arguments[6:]))


@settings(max_examples=40, deadline=None)
@given(BYTES, BYTES, SEEDS, st.lists(st.integers(1, 9), min_size=3, max_size=4), st.booleans(), st.booleans())
def test_means_of_images(x_type, y_type, seed, shape, last, memory):
    """The kernel's mean is one of floats; that of whole numbers is exact."""
    draw = np.random.default_rng(seed)
    x = whole(draw, x_type, *shape)
    if memory:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    x_zero, y_zero = whole(draw, x_type), whole(draw, y_type)
    x_scale, y_scale = np.asarray(0.3, F), np.asarray(0.1, F)
    fn = compiled.OVERRIDES[MS, "QLinearGlobalAveragePool", 1]
    y = fn(CPU.xp, x, x_scale, x_zero, y_scale, y_zero, channels_last=int(last))
    axes = tuple(range(1, x.ndim - 1) if last else range(2, x.ndim))
    count = np.prod([x.shape[axis] for axis in axes])
    exact = (x.astype(np.int64) - int(x_zero)).sum(axis=axes, keepdims=True) * (np.float64(F(0.3)) / F(0.1) / count)
    limits = np.iinfo(y_type)
    want = np.clip(exact + int(y_zero), limits.min, limits.max)
    assert (y.dtype, y.shape) == (y_type, want.shape)
    assert np.abs(y - want).max() <= 0.5 + 1e-4


def called(entry):
    """What the kernels that are written out call."""
    for recording, _ in entry.kernels.values():
        yield from (value for value in recording.scope.values() if callable(value))


@pytest.mark.parametrize("group", [1, 6])
def test_convolutions_by_zero_points_that_a_run_gives(group):
    """They are written out with the kernel; every run has another zero point."""
    text = f"""<ir_version: 8, opset_import: ["": 18]> g (float[1, 6, 9, 9] x) => (int32[1, M, H, W] y) {{
        q, scale, zero = DynamicQuantizeLinear(x)
        y = ConvInteger <group = {group}, pads = [1, 1, 1, 1]> (q, w, zero) }}"""
    proto = parser.parse_model(text)
    draw = np.random.default_rng(0)
    weights = whole(draw, np.int8, 6, 6 // group, 3, 3)
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    ours, plain = (pipeline.build(load.load(proto.SerializeToString()), [cpu]).program for cpu in (FAST, CPU))
    for low in (-1, 0, -3, -8, -0.1):
        feed = [draw.uniform(low, 2, (1, 6, 9, 9)).astype(F)]
        np.testing.assert_array_equal(ours(feed)[0], plain(feed)[0])
    (entry,) = ours._signatures.entries.values()
    assert {qconv._by_windows, qconv._by_channels} & {*called(entry)}


def test_what_the_kernels_leave():
    """Other dtypes, groups that are not depthwise, gaps between columns, matrices that change: to NumPy's ways."""
    x, w, one, zero = np.zeros((1, 4, 5, 5), np.uint8), np.zeros((4, 2, 3, 3), np.int8), F(1), np.zeros((), np.uint8)
    conv = compiled.OVERRIDES["", "ConvInteger", 10]
    assert conv(CPU.xp, x, w, group=2) is NotImplemented
    assert conv(CPU.xp, x, np.zeros((4, 4, 2, 2), np.int8), dilations=[2, 2]) is NotImplemented
    assert conv(CPU.xp, x.astype(np.int16), np.zeros((4, 4, 2, 2), np.int8)) is NotImplemented
    assert compiled.OVERRIDES["", "MatMulInteger", 10](CPU.xp, x[0, 0], w[0, 0, :, :1]) is NotImplemented
    add = compiled.OVERRIDES[MS, "QLinearAdd", 1]
    one = np.asarray(one)
    assert add(CPU.xp, x, one, zero, x[:, :, :1], one, zero, one, zero) is NotImplemented
