"""Norms by the root mean square and Gelu on torch, as sessions take them."""

from __future__ import annotations

import numpy as np
import pytest

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
