"""NumPy's normalisations of images: the same as in float64, with channels first and last in memory."""

import numpy as np
import pytest

from ortlite.ops import norm as kernels
from ortlite.provider import CPU, create
from ortlite_numpy import norm

XP = create(CPU, {"compiled": "0"}).xp


def last(x):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def drawn(shape, dtype, far=3.0):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=shape) * rng.uniform(0.5, 2, shape[1]).reshape(-1, *[1] * (len(shape) - 2)) + far).astype(
        dtype
    )
    return x, rng.normal(size=shape[1]).astype(dtype), rng.normal(size=shape[1]).astype(dtype)


SHAPES = [(1, 4, 3), (2, 6, 5, 7), (1, 32, 32, 32), (3, 8, 1, 1), (2, 12, 3, 4, 5), (1, 2000, 3), (1, 4, 300, 300)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, last, lambda x: x[..., ::-1]])
@pytest.mark.parametrize("groups", [1, 2, None])
def test_groups(shape, dtype, layout, groups):
    x, scale, bias = drawn(shape, dtype)
    groups = groups or shape[1]
    wanted = kernels.group_normalization(XP, *(np.float64(v) for v in (layout(x), scale, bias)), num_groups=groups)
    before = layout(x)
    y = norm.group_normalization(XP, before, scale, bias, num_groups=groups)
    assert y.dtype == x.dtype
    assert y.shape == x.shape
    np.testing.assert_allclose(y, wanted, rtol=0, atol=2e-5 if dtype == "float32" else 1e-12)
    np.testing.assert_array_equal(before, layout(drawn(shape, dtype)[0]))
    if groups == shape[1]:
        y = norm.instance_normalization(XP, before, scale, bias)
        np.testing.assert_allclose(y, wanted, rtol=0, atol=2e-5 if dtype == "float32" else 1e-12)


def test_the_layout_stays():
    x, scale, bias = drawn((1, 8, 6, 5), "float32")
    y = norm.group_normalization(XP, last(x), scale, bias, num_groups=4)
    assert y.strides == last(x).strides


def test_what_goes_to_the_default_body():
    x, scale, bias = drawn((1, 4, 3), "float32")
    for given in (
        {"num_groups": 3}, {"num_groups": 0}, {"num_groups": 2, "stash_type": "float16"},
        {"num_groups": 2, "x": x.astype("float16")}, {"num_groups": 2, "x": x[:, :, 0]},
        {"num_groups": 2, "x": x[:, :, :0]},
    ):  # fmt: skip
        assert norm.group_normalization(XP, given.pop("x", x), scale, bias, **given) is NotImplemented
    with pytest.raises(ValueError, match="scale"):
        norm.group_normalization(XP, x, scale[:2], bias, num_groups=2)
