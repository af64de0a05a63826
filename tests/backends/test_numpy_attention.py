"""NumPy's attention: what the kernel gives in float64, whatever the heads, and whatever part a block holds."""

import numpy as np
import pytest

from ortlite.ops import attention as kernels
from ortlite.provider import CPU, create
from ortlite_numpy import attention

XP = create(CPU, {"compiled": "0", "intra_op_num_threads": "2"}).xp


@pytest.fixture(autouse=True)
def _also_small_ones(monkeypatch):
    monkeypatch.setattr(attention, "FEW", 0)


def drawn(*shapes, dtype="float32"):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def check(arrays, **given):
    dtype = arrays[0].dtype
    got = attention.attention(XP, *arrays, **given)
    assert got is not NotImplemented
    wanted = kernels.attention(XP, *(None if a is None else a.astype("float64") for a in arrays), **given)
    for a, b in zip(got[:3], wanted[:3], strict=True):
        assert (a.dtype, a.shape) == (dtype, b.shape)
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scores", [1, 40, 1 << 19])
@pytest.mark.parametrize(("batch", "heads", "shared", "queries", "keys"), [
    (1, 3, 3, 17, 17), (2, 4, 2, 5, 9), (1, 1, 1, 1, 1), (3, 6, 1, 7, 2), (1, 2, 2, 150, 3), (2, 5, 5, 1, 30),
])  # fmt: skip
def test_heads_in_an_axis_of_their_own(batch, heads, shared, queries, keys, scores, dtype, monkeypatch):
    monkeypatch.setattr(attention, "SCORES", scores)
    monkeypatch.setattr("ortlite_numpy.threads.WOKEN", 0)
    monkeypatch.setattr("ortlite_numpy.threads.AWAKE", 0)
    shapes = (batch, heads, queries, 8), (batch, shared, keys, 8), (batch, shared, keys, 6)
    check(drawn(*shapes, dtype=dtype), scale=0.3)
    check(drawn(*shapes, dtype=dtype))


def test_heads_side_by_side_and_the_past():
    q, k, v = drawn((2, 9, 4 * 8), (2, 5, 2 * 8), (2, 5, 2 * 6))
    check([q, k, v], q_num_heads=4, kv_num_heads=2)
    past = drawn((2, 2, 3, 8), (2, 2, 3, 6))
    check([q, k, v, None, *past], q_num_heads=4, kv_num_heads=2, n_outputs=3)


def test_large_numbers():
    """Neither the scores nor the sum of values overflows where the kernel's do not."""
    q, k, v = drawn((1, 2, 40, 8), (1, 2, 50, 8), (1, 2, 50, 8))
    check([q * 100, k * 100, v])
    got = attention.attention(XP, q, k, np.full_like(v, 3e38))[0]
    np.testing.assert_allclose(got, 3e38, rtol=1e-5)


def test_what_is_left_to_the_kernel(monkeypatch):
    q, k, v = drawn((1, 2, 4, 8), (1, 2, 5, 8), (1, 2, 5, 8))
    mask = np.zeros((4, 5), "float32")
    for given in (
        {"attn_mask": mask}, {"is_causal": 1}, {"softcap": 1.0}, {"n_outputs": 4}, {"left_window_size": 1},
        {"right_window_size": 0}, {"nonpad_kv_seqlen": np.asarray([3])},
    ):  # fmt: skip
        assert attention.attention(XP, q, k, v, **given) is NotImplemented
    assert attention.attention(XP, q, k[:, :, :0], v[:, :, :0]) is NotImplemented
    assert attention.attention(XP, q, k, v.astype("float64")) is NotImplemented
    assert attention.attention(XP, q, k, v[:, :, :4]) is NotImplemented
    assert attention.attention(XP, *drawn((1, 3, 4, 8), (1, 2, 5, 8), (1, 2, 5, 8))) is NotImplemented
    monkeypatch.setattr(attention, "FEW", 20)
    assert attention.attention(XP, q, k, v) is NotImplemented
