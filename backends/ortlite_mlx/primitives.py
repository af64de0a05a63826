"""Primitives that MLX has itself, with the signatures of the defaults in `ortlite.primitives`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import mlx.core as mx

from ortlite import primitives as default
from ortlite.namespace import Namespace, complete
from ortlite_mlx.standard import known, within

Pads = Sequence[tuple[int, int]]


def bit_view(xp: Namespace, x: Any, dtype: Any) -> Any:
    """The bits of `x` as another dtype of the same width."""
    return x.view(dtype)


def conv(
    xp: Namespace, x: Any, w: Any, *, strides: Sequence[int], pads: Pads, dilations: Sequence[int], groups: int = 1
) -> Any:
    """mx.conv_general, which has its channels last; not of integers, nor more axes than it takes."""
    rank = x.ndim - 2
    if (
        not 1 <= rank <= (2 if groups > 1 else 3)
        or not mx.issubdtype(x.dtype, mx.floating)
        or 0 in x.shape
        or 0 in w.shape
    ):
        return NotImplemented
    if any(p < 0 for pair in pads for p in pair):
        x, pads = default.window.padded(xp, x, pads), [(0, 0)] * rank
    if 0 in default.window.output_shape(x.shape[2:], w.shape[2:], strides, dilations, pads):
        return NotImplemented
    y = mx.conv_general(
        mx.moveaxis(x, 1, -1), mx.moveaxis(w, 1, -1), stride=list(strides),
        padding=([lo for lo, _ in pads], [hi for _, hi in pads]), kernel_dilation=list(dilations), groups=groups,
    )  # fmt: skip
    return mx.moveaxis(y, -1, 1)


@complete
def erf(xp: Namespace, x: Any) -> Any:
    """mx.erf."""
    return mx.erf(x)


@complete
def hardtanh(xp: Namespace, x: Any, low: float, high: float) -> Any:
    """Choices, of which the bounds are constants."""
    bounds = [xp.asarray(bound, dtype=x.dtype) for bound in (low, high)]
    return mx.where(x <= bounds[0], bounds[0], mx.where(x >= bounds[1], bounds[1], x))


@complete
def relu(xp: Namespace, x: Any) -> Any:
    """mx.maximum, whose derivative at 0 is that of 0."""
    return mx.maximum(x, 0)


@complete
def leaky_relu(xp: Namespace, x: Any, slope: Any) -> Any:
    """A choice: 0 counts as below 0."""
    if hasattr(slope, "shape"):  # 0 times infinity or NaN would be NaN
        slope = mx.where((x == 0) & ~mx.isfinite(slope), 0, slope)
    return mx.where(x > 0, x, x * slope)


def fmod(xp: Namespace, x: Any, y: Any) -> Any:
    """The default body, which has no derivative where `x` is 0."""
    if not mx.issubdtype(x.dtype, mx.floating):
        return NotImplemented
    rest = mx.custom_function(partial(default.math.fmod, xp))

    @rest.vjp
    def back(primals: Any, cotangent: Any, output: Any) -> Any:
        x, y = primals
        return cotangent, -cotangent * mx.trunc(x / y)

    return rest(*mx.broadcast_arrays(x, y))


def max_pool(
    xp: Namespace,
    x: Any,
    size: Sequence[int],
    *,
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
    indices: bool = False,
) -> Any:
    """The default body, with a derivative that goes to the first of equals."""
    if not mx.issubdtype(x.dtype, mx.floating):
        return NotImplemented
    windows: dict[str, Any] = {"strides": strides, "pads": pads, "dilations": dilations}
    pool = mx.custom_function(lambda x: default.window.max_pool(xp, x, size, **windows)[0])

    @pool.vjp
    def back(x: Any, cotangent: Any, output: Any) -> Any:
        return mx.vjp(lambda x: default.window.first_max_pool(xp, x, size, **windows), [x], [cotangent])[1][0]

    places = default.window.max_pool(xp, mx.stop_gradient(x), size, indices=True, **windows)[1] if indices else None
    return pool(x), places


@complete
def softmax(xp: Namespace, x: Any, axis: int) -> Any:
    """mx.softmax."""
    return mx.softmax(x, axis=axis) if 0 not in x.shape else x


def pad(xp: Namespace, x: Any, widths: Sequence[tuple[int, int]], mode: str = "constant", value: Any = 0) -> Any:
    """mx.pad of a constant; the default body for what is cropped or mirrored."""
    if mode != "constant" or any(n < 0 for pair in widths for n in pair) or not x.ndim:
        return NotImplemented
    return mx.pad(x, list(widths), constant_values=xp.asarray(value, dtype=x.dtype))


def scatter_flat(xp: Namespace, data: Any, indices: Any, updates: Any, reduction: str) -> Any:
    """Indexed updates; the default body for products, of which MLX has no derivative, and for booleans."""
    if not indices.shape[0]:
        return data
    if reduction == "mul" or data.dtype in {mx.bool_, mx.complex64}:
        return NotImplemented
    indices = within(indices, data.shape[0])
    if reduction == "none":
        changed = mx.array(data)
        changed[indices] = updates
        return changed
    place = data.at[indices]
    return {"add": place.add, "max": place.maximum, "min": place.minimum}[reduction](updates)


def concrete_value(xp: Namespace, x: Any) -> Any:
    """Under mx.compile and mx.vmap there are no values."""
    return default.control.concrete_value(xp, x) if known(x) else None


@complete
def readable(xp: Namespace, x: Any) -> bool:
    """Unless MLX is tracing: memory is the host's, a GPU's too."""
    return known(x)


PRIMITIVES: dict[str, Callable[..., Any]] = {
    fn.__name__: fn for fn in (
        bit_view, concrete_value, conv, erf, fmod, hardtanh, leaky_relu, max_pool, pad, readable, relu,
        scatter_flat, softmax,
    )
}  # fmt: skip
