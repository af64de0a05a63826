"""Norms by the root mean square and Gelu on torch, as sessions take them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ortlite.ops import registry
from ortlite.provider import create

torch = pytest.importorskip("torch")
fused = pytest.importorskip("ortlite_torch.fused")
TORCH = create("TorchExecutionProvider")
SIMPLE, SKIP = ("", "SimplifiedLayerNormalization", 1), ("com.microsoft", "SkipSimplifiedLayerNormalization", 1)


def floats(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def both(key, *args, **keywords):
    """What the override gives, and the kernel in float64."""
    with TORCH.context():
        given = TORCH.overrides[key](TORCH.xp, *args, **keywords)
        wide = [a.double() if a is not None else None for a in args]
        return given, registry.lookup(*key).fn(TORCH.xp, *wide, **keywords)


def check(given, wanted):
    assert len(given) == len(wanted)
    for y, z in zip(given, wanted, strict=True):
        assert (y.dtype, y.shape) == (torch.float32, z.shape)
        np.testing.assert_allclose(y.numpy(), z.numpy(), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(("shape", "axis"), [((3, 8), -1), ((2, 3, 40), 2), ((2, 3, 4, 5), -2), ((1, 1, 2048), -1)])
def test_alone(shape, axis):
    x = floats(0, *shape)
    check(*both(SIMPLE, x, floats(1, *shape[axis:]), axis=axis, epsilon=1e-6))


@pytest.mark.parametrize("bias", [False, True])
def test_of_a_sum(bias):
    args = [floats(i, 2, 3, 40) for i in range(2)] + [floats(2, 40)]
    check(*both(SKIP, *args, *([floats(3, 40)] if bias else []), epsilon=1e-6))


def test_squares_that_overflow():
    x = torch.tensor([[3e38, 1.0], [torch.inf, 1.0], [torch.nan, 1.0], [0.0, 0.0], [1e-30, 1e-30]])
    with TORCH.context():
        y, _ = TORCH.overrides[SIMPLE](TORCH.xp, x, torch.ones(2), epsilon=1e-6)
    np.testing.assert_array_equal(y[:4], [[0, 0], [np.nan, 0], [np.nan, np.nan], [0, 0]])


@pytest.mark.parametrize("shape", [(40, 25), (2, 3, 5), (1, 30), (30,), (3, 1, 30), (200, 200)])
@pytest.mark.parametrize("turned", [False, True])
def test_gelu_of_few_and_of_many(shape, turned):
    x = floats(0, *shape) * 4
    x.view(-1)[:4] = torch.tensor([torch.inf, torch.nan, -30.0, 1e38])
    x = x.mT if turned and x.ndim > 1 else x
    with TORCH.context():
        y = TORCH.overrides["", "Gelu", 20](TORCH.xp, x)
    wanted = torch.nn.functional.gelu(x.double())
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


def test_what_is_left_to_the_kernel():
    x, scale = floats(0, 2, 3, 8), floats(1, 8)
    with TORCH.context():
        call = TORCH.overrides[SIMPLE]
        assert call(TORCH.xp, x.double(), scale.double()) is NotImplemented
        assert call(TORCH.xp, x, scale[:1]) is NotImplemented
        assert call(TORCH.xp, x[:0], scale) is NotImplemented
    with TORCH.context(gradients=True):
        assert call(TORCH.xp, x.requires_grad_(), scale) is NotImplemented


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(1, 4),) * 4),
    flat=st.booleans(),
    odd=st.sampled_from([0.0, np.inf, -np.inf, np.nan, 3e38]),
    special=st.booleans(),
)
def test_heads_turned_as_the_kernel_turns_them(sizes, flat, odd, special):
    batch, heads, time, half = sizes
    x, angles = floats(0, batch, heads, time, 2 * half), floats(1, batch, time, half) * 9
    tables = [angles.cos(), angles.sin()]
    if special:
        x[-1, 0, 0, -1], tables[0][0, 0, 0] = odd, 0.0
    x = x.transpose(1, 2).reshape(batch, time, -1) if flat else x
    given, wanted = both(("", "RotaryEmbedding", 23), x, *tables, **({"num_heads": heads} if flat else {}))
    assert (given.dtype, given.shape) == (torch.float32, wanted.shape)
    np.testing.assert_allclose(given.numpy(), wanted.float().numpy(), rtol=1e-5, atol=1e-5)


def test_what_does_not_turn_whole_is_left_to_the_kernel():
    x, table = floats(0, 1, 2, 3, 8), floats(1, 1, 3, 4)
    fn = TORCH.overrides["", "RotaryEmbedding", 23]
    for args, more in [
        ((table, table), {"interleaved": 1}),
        ((table[..., :2], table[..., :2]), {"rotary_embedding_dim": 4}),
        ((table[0], table[0], torch.zeros(1, 3, dtype=torch.int64)), {}),
    ]:
        assert fn(TORCH.xp, x, *args, **more) is NotImplemented


@pytest.mark.parametrize("shape", [(1, 8, 3, 5), (2, 8, 3, 5)])
def test_images_grow_in_the_layout_they_have(shape):
    """Of one image that was turned, the first stride says nothing."""
    count, channels, height, width = shape
    x = floats(0, count, height * width, channels).transpose(1, 2)
    x = x.as_strided(x.shape, (x.stride(0) if count > 1 else channels, *x.stride()[1:])).reshape(shape)
    scales = [1.0, 1.0, 2.0, 3.0]
    with TORCH.context():
        y = TORCH.overrides["", "Resize", 11](TORCH.xp, x, None, scales, nearest_mode="floor",
                                              coordinate_transformation_mode="asymmetric")  # fmt: skip
    assert y.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(y.numpy(), np.repeat(np.repeat(x.numpy(), 2, 2), 3, 3))
