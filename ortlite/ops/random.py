"""Random numbers. `rng` is a fresh seed for every run, from the node's seed attribute or the session's."""

from __future__ import annotations

from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, DType, Float, Int, Ints
from ortlite.ops.registry import op
from ortlite.ops.types import attribute_dtype


def _computing(xp: Namespace, dtype: DType | None, like: Array | None = None) -> Any:
    """The native dtype to draw in: the one asked for, else that of `like`, else float32."""
    if dtype is not None:
        return xp.dtype(dtype)
    return xp.float32 if like is None else like.dtype


def _moved(x: Array, scale: float, offset: float) -> Array:
    """`x` · `scale` + `offset`, by which standard draws become those asked for."""
    x = x if scale == 1.0 else x * scale
    return x if offset == 0.0 else x + offset


@op("RandomUniform", types=attribute_dtype("dtype", "float32"), any_dtype=True)
def random_uniform(
    xp: Namespace,
    *,
    dtype: DType | None = None,
    high: Float = 1.0,
    low: Float = 0.0,
    seed: Float | None = None,
    shape: Ints,
    rng: Int = 0,
) -> Array:
    """Uniform on [`low`, `high`), of `shape`."""
    return xp.random_uniform(rng, shape, _computing(xp, dtype), low, high)


@op("RandomUniformLike", types=attribute_dtype("dtype", like=0), any_dtype=True)
def random_uniform_like(
    xp: Namespace,
    input: Array,
    *,
    dtype: DType | None = None,
    high: Float = 1.0,
    low: Float = 0.0,
    seed: Float | None = None,
    rng: Int = 0,
) -> Array:
    """Uniform on [`low`, `high`), of the shape of `input`."""
    return xp.random_uniform(rng, input.shape, _computing(xp, dtype, input), low, high)


@op("RandomNormal", types=attribute_dtype("dtype", "float32"))
def random_normal(
    xp: Namespace,
    *,
    dtype: DType | None = None,
    mean: Float = 0.0,
    scale: Float = 1.0,
    seed: Float | None = None,
    shape: Ints,
    rng: Int = 0,
) -> Array:
    """Normal with `mean` and standard deviation `scale`, of `shape`."""
    return _moved(xp.random_normal(rng, shape, _computing(xp, dtype)), scale, mean)


@op("RandomNormalLike", types=attribute_dtype("dtype", like=0))
def random_normal_like(
    xp: Namespace,
    input: Array,
    *,
    dtype: DType | None = None,
    mean: Float = 0.0,
    scale: Float = 1.0,
    seed: Float | None = None,
    rng: Int = 0,
) -> Array:
    """Normal with `mean` and standard deviation `scale`, of the shape of `input`."""
    return _moved(xp.random_normal(rng, input.shape, _computing(xp, dtype, input)), scale, mean)


@op("Bernoulli", since=15, types=attribute_dtype("dtype", like=0))
def bernoulli(
    xp: Namespace, input: Array, *, dtype: DType | None = None, seed: Float | None = None, rng: Int = 0
) -> Array:
    """1 with the probability that each element of `input` says, else 0."""
    hits = xp.random_uniform(rng, input.shape, input.dtype) < input
    return xp.astype(hits, _computing(xp, dtype, input))


@op("Multinomial", since=7, types=attribute_dtype("dtype", "int32"), needs=("float64",))
def multinomial(
    xp: Namespace,
    input: Array,
    *,
    dtype: DType | None = None,
    sample_size: Int = 1,
    seed: Float | None = None,
    rng: Int = 0,
) -> Array:
    """Draw `sample_size` classes for each row of (batch, classes) logarithms of probabilities, up to a constant."""
    batch, classes = input.shape
    steps = xp.cumulative_sum(xp.softmax(xp.astype(input, xp.float64), 1), axis=1)
    rows = xp.expand_dims(xp.arange(batch, dtype=xp.float64), axis=1)
    # one search for all rows: row i has its steps between i and i + 1
    places = xp.reshape(xp.clip(steps / steps[:, -1:], 0.0, 1.0) + rows, (-1,))
    draws = xp.random_uniform(rng, (batch, sample_size), xp.float64) + rows
    found = xp.reshape(xp.searchsorted(places, xp.reshape(draws, (-1,)), side="right"), (batch, sample_size))
    chosen = xp.clip(xp.astype(found, xp.int64) - xp.astype(rows, xp.int64) * classes, 0, classes - 1)
    return xp.astype(chosen, xp.int32 if dtype is None else xp.dtype(dtype))
