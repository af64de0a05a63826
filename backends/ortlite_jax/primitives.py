"""Primitives that JAX has itself, with the signatures of the defaults in `ortlite.primitives`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ortlite import primitives as default
from ortlite.namespace import Namespace

Pads = Sequence[tuple[int, int]]


def bit_view(xp: Namespace, x: Any, dtype: Any) -> Any:
    """lax.bitcast_convert_type."""
    return x.view(dtype) if jnp.bool_ in (x.dtype, dtype) else lax.bitcast_convert_type(x, dtype)


def conv(
    xp: Namespace, x: Any, w: Any, *, strides: Sequence[int], pads: Pads, dilations: Sequence[int], groups: int = 1
) -> Any:
    """lax.conv_general_dilated."""
    return lax.conv_general_dilated(
        x, w, tuple(strides), list(pads), rhs_dilation=tuple(dilations), feature_group_count=groups,
        precision=lax.Precision.HIGHEST,
    )  # fmt: skip


def max_pool(
    xp: Namespace,
    x: Any,
    size: Sequence[int],
    *,
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
    indices: bool = False,
) -> tuple[Any, Any]:
    """lax.reduce_window; the default body where positions are asked for."""
    if indices:
        return default.window.max_pool(xp, x, size, strides=strides, pads=pads, dilations=dilations, indices=True)
    least = -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    return _windows(x, least, lax.max, size, strides, pads, dilations), None


def sum_pool(
    xp: Namespace, x: Any, size: Sequence[int], *, strides: Sequence[int], pads: Pads, dilations: Sequence[int]
) -> Any:
    """lax.reduce_window."""
    return _windows(x, 0, lax.add, size, strides, pads, dilations)


def _windows(
    x: Any, start: Any, fold: Any, size: Sequence[int], strides: Sequence[int], pads: Pads, dilations: Sequence[int]
) -> Any:
    return lax.reduce_window(
        x, np.asarray(start, x.dtype), fold, (1, 1, *size), (1, 1, *strides), ((0, 0), (0, 0), *pads),
        window_dilation=(1, 1, *dilations),
    )  # fmt: skip


def pad(xp: Namespace, x: Any, widths: Sequence[tuple[int, int]], mode: str = "constant", value: Any = 0) -> Any:
    """lax.pad, which crops by negative widths too; modes but constant by index."""
    if mode != "constant":
        return default.pad.pad(xp, x, widths, mode, value)
    return lax.pad(x, jnp.asarray(value, x.dtype), [(lo, hi, 0) for lo, hi in widths])


def erf(xp: Namespace, x: Any) -> Any:
    """lax.erf."""
    return lax.erf(x)


def sigmoid(xp: Namespace, x: Any) -> Any:
    """lax.logistic."""
    return lax.logistic(x)


def softmax(xp: Namespace, x: Any, axis: int) -> Any:
    """jax.nn.softmax."""
    return jax.nn.softmax(x, axis=axis)


def einsum(xp: Namespace, equation: str, *operands: Any) -> Any:
    """jnp.einsum."""
    return jnp.einsum(equation, *operands)


def gather_nd(xp: Namespace, data: Any, indices: Any) -> Any:
    """Indexing by one array an axis."""
    return data[tuple(jnp.moveaxis(indices, -1, 0))]


def _at(data: Any, key: Any, updates: Any, reduction: str) -> Any:
    place = data.at[key]
    do = {"none": place.set, "add": place.add, "mul": place.multiply, "max": place.max, "min": place.min}[reduction]
    return do(updates)


def scatter_flat(xp: Namespace, data: Any, places: Any, updates: Any, reduction: str) -> Any:
    """Indexed updates."""
    return _at(data, places, updates, reduction)


def scatter_nd(xp: Namespace, data: Any, indices: Any, updates: Any, reduction: str = "none") -> Any:
    """Indexed updates."""
    return _at(data, tuple(jnp.moveaxis(indices, -1, 0)), updates, reduction)


def scatter(xp: Namespace, data: Any, indices: Any, updates: Any, axis: int, reduction: str = "none") -> Any:
    """Indexed updates."""
    shape = indices.shape
    key = [jnp.arange(n).reshape([-1 if i == d else 1 for i in range(data.ndim)]) for d, n in enumerate(shape)]
    key[axis] = indices
    return _at(data, tuple(key), updates, reduction)


def _traced(*values: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def cond(xp: Namespace, pred: Any, then: Callable[..., Any], otherwise: Callable[..., Any], *operands: Any) -> Any:
    """lax.cond where the predicate is traced; else only one branch is looked at."""
    if _traced(pred):
        return lax.cond(pred, then, otherwise, *operands)
    return default.control.cond(xp, pred, then, otherwise, *operands)


PRIMITIVES: dict[str, Callable[..., Any]] = {
    fn.__name__: fn
    for fn in (
        bit_view, conv, max_pool, sum_pool, pad, erf, sigmoid, softmax, einsum, gather_nd, scatter, scatter_flat,
        scatter_nd, cond,
    )
}  # fmt: skip
NAMES: dict[str, Any] = {}
