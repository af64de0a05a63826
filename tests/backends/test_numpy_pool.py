"""Pools, pads and resampling on NumPy: the values of the default bodies, in the layout of the input."""

from __future__ import annotations

import numpy as np
import pytest

from ortlite.primitives import interpolate, window
from ortlite.primitives.resample import Filter, taps
from ortlite.provider import create
from ortlite_numpy import layout, pool, resample

XP = create("CPUExecutionProvider", {"intra_op_num_threads": "2"}).xp
BODY = create("StrictExecutionProvider").xp


def drawn(draw, shape, dtype, kind):
    """Numbers: plain, with channels last in memory, every second element of an array, backwards; read-only."""
    x = draw.integers(-50, 50, (*shape, 2) if kind == 2 else shape).astype(dtype)
    if kind == 1:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    x = x[..., 0] if kind == 2 else x[..., ::-1] if kind == 3 else x
    x.flags.writeable = False
    return x


def case(seed):
    draw = np.random.default_rng(seed)
    rank = int(draw.integers(1, 4))
    spatial = draw.integers(1, {1: 80, 2: 20, 3: 9}[rank], rank).tolist()
    size = draw.integers(1, 6, rank).tolist()
    strides, dilations = draw.integers(1, 4, rank).tolist(), draw.integers(1, 3, rank).tolist()
    pads = draw.integers(0, 4, (rank, 2)).tolist()
    for axis, (n, k, d) in enumerate(zip(spatial, size, dilations, strict=True)):
        pads[axis][1] += max((k - 1) * d + 1 - n - sum(pads[axis]), 0)
    dtype = [np.float32, np.float64, np.int8, np.int64][seed % 4]
    x = drawn(draw, (int(draw.integers(1, 3)), int(draw.integers(1, 5)), *spatial), dtype, seed // 4 % 4)
    return x, size, {"strides": strides, "pads": [tuple(p) for p in pads], "dilations": dilations}


@pytest.mark.parametrize("seed", range(120))
def test_pools(seed, monkeypatch):
    x, size, given = case(seed)
    if seed % 2:
        monkeypatch.setattr(pool, "BLOCK", 1)  # a row of windows at a time
        monkeypatch.setattr(pool, "COST", 1.0)  # on both threads
    before = x.copy()  # plain whole images go to the default body
    if x.dtype.kind == "f":
        x = np.where(x == 7, np.float32(np.nan), x).astype(x.dtype) if seed % 3 == 0 else x
        before = x.copy()
    wide = BODY.asarray(x.copy())
    y, where = XP.max_pool(x, size, **given)
    wanted = np.asarray(window.max_pool(BODY, wide, size, **given)[0])
    assert where is None
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, wanted)
    total = XP.sum_pool(x, size, **given)
    assert total.dtype == x.dtype
    np.testing.assert_array_equal(total, np.asarray(window.sum_pool(BODY, wide, size, **given)))  # of whole numbers
    np.testing.assert_array_equal(x, before)


def test_layouts_are_kept():
    """What a convolution has laid out with channels last goes through pools, pads and resampling like that."""
    x = np.moveaxis(np.ones((2, 12, 10, 8), np.float32), -1, 1)
    given = {"strides": (2, 2), "pads": [(1, 1)] * 2, "dilations": (1, 1)}
    for y in (
        XP.max_pool(x, (3, 3), **given)[0], XP.sum_pool(x, (3, 3), **given),
        XP.pad(x, [(0, 0), (0, 1), (1, 2), (3, 0)]),
        XP.resample(x, 2, [np.arange(5)], []), XP.take(x, np.array([1, 1, 3]), axis=3), XP.concat([x, x], axis=1),
        XP.relu(x), XP.clip(x, 0.0, 6.0), XP.sigmoid(x), x + x, XP.where(x > 0, x, x),
    ):  # fmt: skip
        assert np.moveaxis(y, 1, -1).flags.c_contiguous


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_pads(kind, dtype):
    draw = np.random.default_rng(kind)
    for _ in range(30):
        x = drawn(draw, draw.integers(2, 6, 3), dtype, kind)
        widths = [tuple(pair) for pair in draw.integers(-1, 4, (3, 2)).tolist()]
        wanted = np.asarray(BODY.pad(BODY.asarray(x.copy()), widths, "constant", 7))
        y = XP.pad(x, widths, "constant", 7)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, wanted)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("block", [1 << 15, 8])
def test_resample(mode, kind, block, monkeypatch):
    monkeypatch.setattr(resample, "BLOCK", block)
    monkeypatch.setattr(resample, "COST", 1.0)
    draw = np.random.default_rng(kind)
    for dtype in (np.float32, np.float64):
        x = drawn(draw, (2, 3, 6, 7), dtype, kind)
        for axis in range(4):
            for out in (1, 4, 15):
                table = taps(Filter(mode), x.shape[axis], out, out / x.shape[axis], (0.0, 1.0))
                y = XP.resample(x, axis, table.indices, table.weights)
                wanted = interpolate.resample(BODY, BODY.asarray(x.copy()), axis, table.indices, table.weights)
                assert y.dtype == dtype
                np.testing.assert_allclose(y, np.asarray(wanted), rtol=1e-5, atol=1e-5)


def test_take_is_numpys():
    draw = np.random.default_rng(5)
    x = np.moveaxis(draw.standard_normal((3, 4, 5)), 0, 2)
    for axis in (-3, -1, 0, 1, 2):
        np.testing.assert_array_equal(layout.take(x, np.array([2, 0, -1]), axis), np.take(x, [2, 0, -1], axis))
    np.testing.assert_array_equal(layout.take(x, np.array([[0, 1], [2, 2]]), 1), np.take(x, [[0, 1], [2, 2]], 1))
