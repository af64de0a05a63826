"""Elementwise and row-wise operators on NumPy, block by block, against the kernels' own bodies in float64."""

from __future__ import annotations

from math import erf

import numpy as np
import pytest

from ortlite.ops import registry
from ortlite.provider import create
from ortlite_numpy import elementwise, norm
from ortlite_numpy.ops import OVERRIDES

CPU = create("CPUExecutionProvider", {"intra_op_num_threads": "2"})
XP = CPU.xp
BODY = create("StrictExecutionProvider").xp  # nothing is replaced there
SHAPES = [(), (0, 3), (7,), (3, 5, 7), (2, 40, 900), (5, 14000)]
FEW_ULP = {np.float32: 4e-7, np.float64: 1e-14}


@pytest.fixture(autouse=True)
def _without_warnings():
    with CPU.context():
        yield


def drawn(draw, shape, dtype, layout=0):
    """Numbers, some of them large, in one of the layouts that an array may have."""
    x = draw.standard_normal(shape).astype(dtype) * draw.choice([0.01, 1, 5, 90], shape).astype(dtype)
    if layout == 1 and x.ndim > 1:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    if layout == 2 and x.ndim:
        x = np.repeat(x, 2, axis=-1)[..., ::-2]
    if layout == 3 and x.ndim:
        x = np.broadcast_to(x[..., :1], shape)
    x = x[...] if isinstance(x, np.ndarray) else np.asarray(x)
    x.flags.writeable = False
    return x


def wide(fn, *inputs, **attributes):
    result = fn(BODY, *(None if x is None else BODY.asarray(np.asarray(x, np.float64)) for x in inputs), **attributes)
    return [np.asarray(y) for y in (result if isinstance(result, tuple) else (result,))]


def both(key, *inputs, **attributes):
    """What the override gives (None where it leaves the case to the kernel), and the kernel's body in float64."""
    copies = [None if x is None else x.copy() for x in inputs]
    actual = OVERRIDES[key](XP, *inputs, **attributes)
    for x, copy in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(x, copy)
    if actual is NotImplemented:
        return None, None
    return list(actual if isinstance(actual, tuple) else (actual,)), wide(
        registry.lookup(*key).fn, *inputs, **attributes
    )


def agree(actual, wanted, rtol, atol):
    for got, want in zip(actual, wanted, strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want.astype(got.dtype), rtol=rtol, atol=atol)


@pytest.mark.parametrize("key", sorted(elementwise.OVERRIDES), ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", range(4))
def test_elementwise(key, shape, dtype, layout):
    draw = np.random.default_rng(len(shape) + layout)
    x = drawn(draw, shape, dtype, layout)
    inputs = [x]
    if key[1] in {"BiasGelu", "FastGelu"}:
        if not shape:
            pytest.skip("a bias has a last axis")
        inputs.append(drawn(draw, shape[-1:], dtype))
    actual, wanted = both(key, *inputs)
    if actual is None:
        assert dtype == np.float64 or x.size <= elementwise.BLOCK
        return
    assert actual[0].dtype == dtype
    # the functions that subtract e^x from 1, or a tangent from 1, have lost small results in the kernel as well
    agree(actual, wanted, 1e-5 if dtype == np.float32 else 1e-12, 4e-7 * 6 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("key", sorted(k for k in elementwise.OVERRIDES if k[1] != "BiasGelu"), ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_elementwise_at_the_ends(key, dtype):
    ends = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 1e38, -1e38, 88.8, -88.8, 104.0, -104.0, 1e-20, -1e-20]
    x = np.tile(np.array(ends, dtype), 5000)
    actual, _ = both(key, x)
    if actual is None:
        assert key[1:] in {("Gelu", 20), ("Gelu", 1)}
        return
    kernel = registry.lookup(*key).fn(BODY, BODY.asarray(x))
    np.testing.assert_allclose(actual[0], np.asarray(kernel), rtol=2e-6, atol=1e-6)


def test_gelu_has_attributes():
    x = drawn(np.random.default_rng(0), (3, 22000), np.float32)
    for key, given in [
        (("", "Gelu", 20), {"approximate": "tanh"}), (("", "Swish", 24), {"alpha": 1.5}),
        (("", "Elu", 1), {"alpha": 2.0}),
        (("com.microsoft", "QuickGelu", 1), {"alpha": 0.5}),
    ]:  # fmt: skip
        agree(*both(key, x, **given), 1e-5, 2e-6)


def test_erf_of_float32_is_within_4e_7_and_a_few_ulp_near_0():
    x = np.concatenate([np.linspace(-6, 6, 200_001), np.logspace(-30, 0, 5000), -np.logspace(-30, 0, 5000)])
    x = x.astype(np.float32)
    exact = np.array([erf(v) for v in x.astype(np.float64)])
    y = XP.erf(x)
    assert np.abs(y - exact).max() <= 4e-7
    assert np.abs(y).max() <= 1
    near = np.abs(x) < 0.5
    assert (np.abs(y - exact)[near] <= 4 * np.spacing(np.abs(exact[near]).astype(np.float32))).all()
    assert np.isnan(XP.erf(np.float32([np.nan]))).all()
    np.testing.assert_array_equal(XP.erf(np.float32([np.inf, -np.inf, 0])), [1, -1, 0])


def test_erf_of_float64_is_the_kernels():
    x = np.linspace(-7, 7, 70_000)
    np.testing.assert_allclose(XP.erf(x), [erf(v) for v in x], rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("shape", [(7,), (3, 1), (1, 9), (3, 5, 7), (2, 40, 500), (2, 9000, 3), (4, 50, 6, 7)], ids=str)
@pytest.mark.parametrize("layout", range(4))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_over_every_axis(shape, layout, dtype):
    x = drawn(np.random.default_rng(1), shape, dtype, layout)
    for axis in range(-len(shape), len(shape)):
        y = XP.softmax(x, axis)
        assert y.dtype == dtype
        agree([y], wide(lambda xp, x, axis=axis: xp.softmax(x, axis), x), 1e-5 if dtype == np.float32 else 1e-12, 1e-7)


def test_softmax_of_what_is_not_finite():
    x = np.float32([[-np.inf, -np.inf], [0, -np.inf], [np.nan, 0], [np.inf, 0], [-np.inf, 3e38]])
    np.testing.assert_array_equal(XP.softmax(x, 1), [[np.nan] * 2, [1, 0], [np.nan] * 2, [np.nan, np.nan], [0, 1]])
    assert XP.softmax(np.zeros((0, 3), np.float32), 1).shape == (0, 3)


@pytest.mark.parametrize("key", sorted(k for k in norm.OVERRIDES if "Layer" in k[1] or "RMS" in k[1]), ids=str)
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 40), (1, 2, 500, 20), (3, 0), (0, 3), (4, 1)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normalisations(key, shape, dtype):
    draw = np.random.default_rng(2)
    for seed in range(4):
        x = drawn(draw, shape, dtype, seed % 3)  # rows of one number would be nothing but rounding
        skip = key[1].startswith("Skip")
        axis = -1 if skip else int(draw.integers(-len(shape), len(shape)))
        inner = shape[axis % len(shape) :]
        scale, bias = drawn(draw, inner, dtype), drawn(draw, inner, dtype)
        given = {} if skip else {"axis": axis}
        inputs = [x, *([drawn(draw, shape, dtype)] if skip else []), scale]
        if key[1] in {"LayerNormalization", "SkipLayerNormalization"}:
            inputs.append(bias if seed % 2 else None)
        if skip:
            inputs.append(drawn(draw, shape[-1:], dtype) if seed > 1 else None)
        if dtype == np.float64 and not skip:
            given["stash_type"] = "float64" if seed % 2 else None
        actual, wanted = both(key, *inputs, **given)
        if actual is None:
            assert not x.size or dtype == np.float64
            continue
        assert actual[0].dtype == dtype
        agree(actual, wanted, *((2e-4, 2e-4) if dtype == np.float32 else (1e-9, 1e-9)))


def test_scales_that_broadcast():
    draw = np.random.default_rng(3)
    x = drawn(draw, (2, 3, 5), np.float32)
    for shape in [(1,), (5,), (1, 5), (3, 5), (3, 1), (1, 1, 5), (2, 3, 5), (2, 1, 1), ()]:
        for axis in (-1, 1):
            scale = drawn(draw, shape, np.float32)
            for key in [("", "LayerNormalization", 17), ("", "RMSNormalization", 23)]:
                actual, wanted = both(key, x, scale, axis=axis)
                if actual is None:
                    assert len(shape) > 3 + min(axis, 0) - (axis > 0) * 1 or len(shape) >= 2
                else:
                    agree(actual, wanted, 1e-4, 1e-4)
    with pytest.raises(ValueError, match="cannot be broadcast"):
        OVERRIDES["", "LayerNormalization", 17](XP, x, drawn(draw, (4,), np.float32))


@pytest.mark.parametrize(
    "shape", [(2, 3), (2, 3, 5), (1, 8, 60, 50), (3, 1, 4, 4, 4), (0, 2, 3), (2, 70, 900)], ids=str
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", range(3))
def test_normalisations_by_channel(shape, dtype, layout):
    draw = np.random.default_rng(4)
    x = drawn(draw, shape, dtype, layout)
    scale, bias, mean = (drawn(draw, shape[1:2], dtype) for _ in range(3))
    bound = 2e-4 if dtype == np.float32 else 1e-9
    if len(shape) > 2 and x.size:
        agree(*both(("", "InstanceNormalization", 1), x, scale, bias), bound, bound)
    for key in [("", "BatchNormalization", 7), ("", "BatchNormalization", 14)]:
        y, *rest = OVERRIDES[key](XP, x, scale, bias, mean, np.abs(mean) + dtype(0.5))
        wanted = wide(registry.lookup(*key).fn, x, scale, bias, mean, np.abs(mean) + dtype(0.5))
        assert y.dtype == dtype
        agree([y], wanted[:1], bound, bound)
        assert len(rest) == len(wanted) - 1
        if layout == 1 and len(shape) > 2:
            assert np.moveaxis(y, 1, -1).flags.c_contiguous
    given = [x, scale, bias, mean, np.abs(mean)]
    assert OVERRIDES["", "BatchNormalization", 14](XP, *given, training_mode=1) is NotImplemented
    assert OVERRIDES["", "BatchNormalization", 7](XP, *given, n_outputs=3) is NotImplemented
