"""Convolutions on NumPy against the kernel's own body, in float64."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ortlite.derived import Derived
from ortlite.ops import registry
from ortlite.ops.contrib.fused import fused_conv
from ortlite.ops.conv import conv, conv_transpose
from ortlite.primitives import window
from ortlite.provider import create
from ortlite_numpy import conv as fast
from ortlite_numpy import windows
from ortlite_numpy.ops import OVERRIDES

XP = create("CPUExecutionProvider").xp
BODY = create("StrictExecutionProvider").xp  # nothing is replaced there


def body(fn, *inputs, **attributes):
    """The kernel's own body in float64, on a library that replaces nothing."""
    wide = [None if x is None else BODY.asarray(np.asarray(x, np.float64)) for x in inputs]
    return np.asarray(fn(BODY, *wide, **attributes))


def drawn(draw, shape, dtype=np.float32, layout=0):
    """Numbers in one of the layouts that an array may have: plain, channels last, read-only, every second element."""
    x = draw.standard_normal(shape).astype(dtype)
    if layout == 1:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    if layout == 2:
        x = np.repeat(x, 2, axis=-1)[..., ::2]
    x.flags.writeable = layout == 0
    return x


def agree(actual, wanted, dtype):
    assert actual.dtype == dtype
    assert actual.shape == wanted.shape
    bound = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-12}[np.dtype(dtype)]
    scale = max(1.0, float(np.abs(wanted).max(initial=0)))
    np.testing.assert_allclose(actual, wanted, rtol=bound, atol=bound * scale)


def case(seed):
    """Inputs and attributes of a convolution."""
    draw = np.random.default_rng(seed)
    rank = int(draw.integers(1, 4))
    kind = ("dense", "pointwise", "depthwise", "multiplied", "grouped")[seed % 5]
    each, times = int(draw.integers(1, 9)), int(draw.integers(1, 5))
    groups = {"depthwise": times * each, "multiplied": each, "grouped": int(draw.integers(2, 4))}.get(kind, 1)
    c = groups if kind in {"depthwise", "multiplied"} else groups * each
    m = groups * (1 if kind == "depthwise" else times)
    size = [1] * rank if kind == "pointwise" else draw.integers(1, 5, rank).tolist()
    strides, dilations = draw.integers(1, 4, rank).tolist(), draw.integers(1, 3, rank).tolist()
    pads = draw.integers(0, 3, 2 * rank).tolist() if kind != "pointwise" or seed % 2 else [0] * 2 * rank
    largest = {1: 60, 2: 20, 3: 9}[rank]
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilations, strict=True)]
    least = [max(r - lo - hi, 1) if seed % 4 == 3 else r for r, lo, hi in zip(reach, pads, pads[rank:], strict=False)]
    spatial = [int(draw.integers(n, r - 1 + largest)) for n, r in zip(least, reach, strict=True)]
    dtype = np.float64 if seed % 7 == 0 else np.float32
    x = drawn(draw, (int(draw.integers(0, 5)) if seed % 11 == 0 else int(draw.integers(1, 4)), c, *spatial), dtype,
              int(draw.integers(0, 3)))  # fmt: skip
    w, b = drawn(draw, (m, c // groups, *size), dtype), drawn(draw, (m,), dtype)
    given = {"strides": strides, "dilations": dilations, "pads": pads, "group": groups}
    return draw, x, w, b if seed % 3 else None, given


@pytest.mark.parametrize("seed", range(150))
def test_conv_is_that_of_the_kernel(seed, monkeypatch):
    """Of any rank, strides, dilations, pads, groups and memory layout, in blocks of any size, on two threads."""
    draw, x, w, b, given = case(seed)
    monkeypatch.setattr(fast, "APART", seed % 3 << 20)
    if seed % 4 > 1:
        monkeypatch.setattr(windows, "THIN", 3)
        monkeypatch.setattr(fast, "WIDE", 3)
    if seed % 2:  # several blocks even of small images
        monkeypatch.setattr(fast, "COLUMNS", 1 << int(draw.integers(6, 12)))
        monkeypatch.setattr(fast, "SMALL", 1 << int(draw.integers(4, 9)))
        monkeypatch.setattr(fast, "ROWS", int(draw.integers(1, 30)))
    before = x.copy(), w.copy()
    y = OVERRIDES["", "Conv", 1](XP, x, w, b, **given)
    agree(y, body(conv, x, w, b, **given), x.dtype)
    assert np.array_equal(x, before[0])
    assert np.array_equal(w, before[1])
    assert y.size == 0 or np.moveaxis(y, 1, -1).flags.c_contiguous  # what follows it goes fast


@pytest.mark.parametrize("seed", range(40))
def test_weights_are_prepared_once(seed):
    _, x, w, b, given = case(seed)
    derived = Derived([w])
    first = OVERRIDES["", "Conv", 1](XP, x, w, b, **given, derived=derived)
    size = derived.nbytes
    assert size or not x.size
    np.testing.assert_array_equal(OVERRIDES["", "Conv", 1](XP, x, w, b, **given, derived=derived), first)
    assert derived.nbytes == size


@pytest.mark.parametrize("activation", ["", "Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid"])
@pytest.mark.parametrize("seed", range(10))
def test_fused_conv(activation, seed, monkeypatch):
    monkeypatch.setattr(fast, "APART", seed % 3 << 20)
    draw, x, w, b, given = case(seed)
    params = {"Clip": [-0.5, 0.25], "LeakyRelu": [0.1], "HardSigmoid": [0.3, 0.4]}.get(activation)
    y = body(conv, x, w, **given)
    z = drawn(draw, y.shape, x.dtype, 1) if seed % 3 else drawn(draw, (1, y.shape[1], *(1,) * (y.ndim - 2)), x.dtype)
    given = given | {"activation": activation, "activation_params": params}
    for other in (None, z):
        actual = OVERRIDES["com.microsoft", "FusedConv", 1](XP, x, w, b, other, **given)
        agree(actual, body(fused_conv, x, w, b, other, **given), x.dtype)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("groups", [1, 4])
def test_what_is_not_finite_stays_where_it_is(groups):
    """An infinite or missing element changes the windows that show it, and no others."""
    draw = np.random.default_rng(0)
    for value in (np.inf, -np.inf, np.nan, np.float32(3e38)):
        x, w = drawn(draw, (1, 4, 17, 17)), drawn(draw, (4, 4 // groups, 3, 3))
        x[0, 1, 8, 9] = value
        given = {"pads": [1] * 4, "group": groups}
        np.testing.assert_allclose(
            OVERRIDES["", "Conv", 1](XP, x, w, **given), conv(BODY, *map(BODY.asarray, (x, w)), **given), rtol=1e-4,
            atol=1e-4,
        )  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
def test_the_primitive_serves_transposed_convolutions(seed):
    draw = np.random.default_rng(seed)
    rank, groups = int(draw.integers(1, 4)), int(draw.integers(1, 3))
    size = draw.integers(1, 5, rank).tolist()
    given = {
        "strides": draw.integers(1, 4, rank).tolist(), "dilations": draw.integers(1, 3, rank).tolist(),
        "pads": [(0, 0)] * rank, "groups": groups,
    }  # fmt: skip
    x = drawn(draw, (2, 3 * groups, *draw.integers(1, 7, rank)), layout=seed % 3)
    w = drawn(draw, (3 * groups, 2, *size))
    wanted = window.conv_transpose(BODY, *(BODY.asarray(a.astype(np.float64)) for a in (x, w)), **given)
    agree(XP.conv_transpose(x, w, **given), np.asarray(wanted), np.float32)


@pytest.mark.parametrize("seed", range(80))
def test_conv_transpose(seed):
    """With weights prepared once, pads and output_padding, whatever the layout; what it extends is the kernel's."""
    draw = np.random.default_rng(seed)
    rank, groups = int(draw.integers(1, 4)), int(draw.integers(1, 3))
    size = draw.integers(1, 5, rank).tolist()
    strides, dilations = draw.integers(1, 4, rank).tolist(), draw.integers(1, 3, rank).tolist()
    most = [(k - 1) * d // 2 for k, d in zip(size, dilations, strict=True)] * 2
    given = {
        "strides": strides, "dilations": dilations, "group": groups,
        "pads": draw.integers(0, most, endpoint=True).tolist(),
        "output_padding": [int(draw.integers(0, s)) for s in strides] if seed % 3 == 0 else None,
    }  # fmt: skip
    dtype = np.float64 if seed % 5 == 0 else np.float32
    x = drawn(draw, (2, 3 * groups, *draw.integers(1, 7, rank)), dtype, seed % 3)
    w, b = drawn(draw, (3 * groups, 2, *size), dtype), drawn(draw, (2 * groups,), dtype) if seed % 2 else None
    derived = Derived([w])
    for _ in range(2):
        y = OVERRIDES["", "ConvTranspose", 1](XP, x, w, b, **given, derived=derived)
        if y is NotImplemented:
            assert any(given["output_padding"] or []) or any(s > 1 for s in strides)
        else:
            agree(y, body(conv_transpose, x, w, b, **given), dtype)
            assert derived.nbytes


def test_threads_do_not_share_what_they_write():
    """Sessions run in many threads, each with blocks on its own."""
    cases = [case(seed)[1:] for seed in range(12)]
    wanted = [OVERRIDES["", "Conv", 1](XP, x, w, b, **given) for x, w, b, given in cases]

    def again(number):
        x, w, b, given = cases[number % len(cases)]
        return np.array_equal(OVERRIDES["", "Conv", 1](XP, x, w, b, **given), wanted[number % len(cases)])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(again, range(600)))


def test_dtypes_that_floats_do_not_hold_go_to_the_kernel():
    x, w = np.ones((1, 1, 3, 3), np.int64), np.ones((1, 1, 3, 3), np.int64)
    assert OVERRIDES["", "Conv", 1](XP, x, w) is NotImplemented
    assert registry.lookup("", "Conv", 1) is not None


@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((64, 70, 3, 3), 1), ((64, 8, 3, 3), 4), ((4, 33, 3), 2), ((8, 4, 1, 1), 1), ((8, 4, 1, 1), 2),
        ((6, 1, 5), 6), ((8, 3, 2, 3, 4), 2), ((0, 4, 3, 3), 1), ((4, 0, 3, 3), 1), ((4, 3, 0, 3), 1),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_by_place_and_channel(shape, groups, dtype):
    w = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    each, places = shape[0] // groups, int(np.prod(shape[2:]))
    wanted = w.reshape(groups, each, shape[1], places).transpose(0, 3, 2, 1).reshape(groups, places * shape[1], each)
    for given in (w, np.asfortranarray(w), np.repeat(w, 2, 1)[:, ::2]):
        np.testing.assert_array_equal(fast.weight_columns(given, groups), wanted, strict=True)
