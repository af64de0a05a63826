"""Primitives that JAX has itself, with the signatures of the defaults in `ortlite.primitives`."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import partial, reduce
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from ortlite import primitives as default
from ortlite.namespace import Namespace
from ortlite_jax import layout
from ortlite_jax.layout import MOST_SLICES

Pads = Sequence[tuple[int, int]]


def bit_view(xp: Namespace, x: Any, dtype: Any) -> Any:
    """The bits of `x` as another dtype of the same width."""
    return x.view(dtype)


def conv(
    xp: Namespace, x: Any, w: Any, *, strides: Sequence[int], pads: Pads, dilations: Sequence[int], groups: int = 1
) -> Any:
    """lax.conv_general_dilated; on the CPU something else where XLA's is slower, forwards or backwards."""
    size = w.shape[2:]
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    if jax.default_backend() == "cpu" and prod(size) <= MOST_SLICES and not (layout.laid_out() and floating):
        windows = default.window.output_shape(x.shape[2:], size, strides, dilations, pads)
        if 1 < groups == x.shape[1]:
            return _by_channel(xp, x, w, windows, strides=strides, pads=pads, dilations=dilations)
        # of few windows XLA would spend more on turning the weights round than on the products
        few = x.shape[0] * prod(windows) <= 2 * w.shape[0]
        if groups > 1 or few or prod(size) <= 3:
            return NotImplemented
    return lax.conv_general_dilated(
        x, w, tuple(strides), list(pads), rhs_dilation=tuple(dilations), feature_group_count=groups,
        precision=lax.Precision.HIGHEST,
    )  # fmt: skip


def _by_channel(
    xp: Namespace,
    x: Any,
    w: Any,
    windows: Sequence[int],
    *,
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
) -> Any:
    """A group for each channel: products summed over the positions of the kernel, which XLA makes one loop of."""
    (n, c), m, size = x.shape[:2], w.shape[0], w.shape[2:]
    x = jnp.expand_dims(default.window.padded(xp, x, pads), 2)
    w = jnp.reshape(w, (c, m // c, *size, *(1,) * len(size)))
    slices = default.window.window_slices(windows, size, strides, dilations)
    places = zip(np.ndindex(*size), slices, strict=True)
    products = (x[(..., *key)] * w[(slice(None), slice(None), *position)] for position, key in places)
    total = reduce(jnp.add, products)
    return jnp.reshape(total, (n, m, *windows))


def erf(xp: Namespace, x: Any) -> Any:
    """lax.erf."""
    return lax.erf(x)


def sigmoid(xp: Namespace, x: Any) -> Any:
    """lax.logistic; of float16 its exponential overflows where the result is not 0 yet."""
    return NotImplemented if x.dtype == jnp.float16 else lax.logistic(x)


def relu(xp: Namespace, x: Any) -> Any:
    """jax.nn.relu."""
    return jax.nn.relu(x)


def leaky_relu(xp: Namespace, x: Any, slope: Any) -> Any:
    """A choice, for which of equals the maximum halves the derivative."""
    if hasattr(slope, "shape"):  # 0 times infinity or NaN would be NaN
        slope = jnp.where((x == 0) & ~jnp.isfinite(slope), 0, slope)
    return jnp.where(x > 0, x, x * slope)


def hardtanh(xp: Namespace, x: Any, low: float, high: float) -> Any:
    """Choices, of which the bounds are constants."""
    return jnp.where(x <= low, low, jnp.where(x >= high, high, x))


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
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return NotImplemented
    windows: dict[str, Any] = {"strides": strides, "pads": pads, "dilations": dilations}

    def plain(x: Any) -> Any:
        return default.window.max_pool(xp, x, size, indices=indices, **windows)

    def tangent(primals: Any, tangents: Any) -> Any:
        best, where = plain(*primals)
        along = jax.jvp(lambda x: default.window.first_max_pool(xp, x, size, **windows), primals, tangents)[1]
        return (best, where), (along, None if where is None else np.zeros(where.shape, jax.dtypes.float0))

    pool = jax.custom_jvp(plain)
    pool.defjvp(tangent)
    best, where = pool(x)
    return best, where


def fmod(xp: Namespace, x: Any, y: Any) -> Any:
    """lax.rem; of integers by 0 it is 0."""
    x, y = jnp.broadcast_arrays(x, y)
    rest = lax.rem(x, y)
    return rest if jnp.issubdtype(x.dtype, jnp.floating) else jnp.where(y == 0, 0, rest)


def trunc_divide(xp: Namespace, x: Any, y: Any) -> Any:
    """lax.div; by 0 it is 0."""
    x, y = jnp.broadcast_arrays(x, y)
    return jnp.where(y == 0, 0, lax.div(x, y))


def _at(data: Any, key: Any, updates: Any, reduction: str) -> Any:
    place = data.at[key]
    return {"none": place.set, "add": place.add, "max": place.max, "min": place.min}[reduction](updates)


def _of_booleans(data: Any, reduction: str) -> str:
    """JAX adds and multiplies no booleans: or is the larger of two, and the smaller."""
    return {"add": "max", "mul": "min"}.get(reduction, reduction) if data.dtype == jnp.bool_ else reduction


def scatter_flat(xp: Namespace, data: Any, indices: Any, updates: Any, reduction: str) -> Any:
    """Indexed updates."""
    reduction = _of_booleans(data, reduction)
    if reduction == "mul":
        return _multiplied(xp, data, indices, updates)
    return _at(data, indices, updates, reduction)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _multiplied(xp: Namespace, data: Any, indices: Any, updates: Any) -> Any:
    """Indexed products, of which JAX has no derivative: that of the default body."""
    return data.at[indices].multiply(updates)


def _tangent(xp: Namespace, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    (data, indices, updates), (along_data, _, along_updates) = primals, tangents

    def product(data: Any, updates: Any) -> Any:
        return default.scatter.scatter_flat(xp, data, indices, updates, "mul")

    return jax.jvp(product, (data, updates), (along_data, along_updates))


_multiplied.defjvp(_tangent)


def scatter_nd(xp: Namespace, data: Any, indices: Any, updates: Any, reduction: str = "none") -> Any:
    """Indexed updates of whole rows; the default body for products and for no index at all."""
    reduction = _of_booleans(data, reduction)
    if reduction == "mul" or not indices.shape[-1]:
        return NotImplemented
    return _at(data, tuple(jnp.moveaxis(indices, -1, 0)), updates, reduction)


def top_k(xp: Namespace, x: Any, k: int, axis: int, largest: bool, sorted: bool) -> Any:
    """lax.top_k of few out of many; the default body for the smallest floats, where NaN would come first."""
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    if k * 4 > x.shape[axis] or x.dtype == jnp.bool_ or (floating and not largest):
        return NotImplemented
    key = lax.stop_gradient(x) if largest else ~x
    if floating:  # lax.top_k puts -0 below 0, and a NaN with its sign bit set below all
        key = jnp.where(jnp.isnan(key), np.asarray(np.nan, x.dtype), jnp.where(key == 0, jnp.zeros_like(key), key))
    indices = lax.top_k(key, k, axis=axis % x.ndim)[1].astype(jnp.int64)
    return jnp.take_along_axis(x, indices, axis=axis), indices


def concrete_value(xp: Namespace, x: Any) -> Any:
    """Under jax.grad alone values are there; under jax.jit and jax.vmap they are not."""
    try:
        with jax.ensure_compile_time_eval():
            return default.control.concrete_value(xp, x)
    except jax.errors.ConcretizationTypeError:
        return None


def readable(xp: Namespace, x: Any) -> bool:
    """In the host's memory, and no tracer, nor about to become one."""
    if not isinstance(x, jax.Array):
        return True
    return not isinstance(x, jax.core.Tracer) and x.device.platform == "cpu" and not _staged()


def _staged() -> bool:
    """Whether JAX only looks at what is done with values, whatever they are: under jax.jit, not under jax.grad."""
    return isinstance(jnp.zeros(()), jax.core.Tracer)


def _traced(*values: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


class _UnsteadyError(Exception):
    """A state changes its shape from step to step."""


class _EndingError(Exception):
    """After a step of a loop it is over, or nobody knows whether it is."""


def _steady(before: Any, after: Any) -> Any:
    """The state after a step, in the dtypes of the one before. Raises _UnsteadyError."""
    before, after = jax.tree.map(jnp.asarray, before), jax.tree.map(jnp.asarray, after)
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise _UnsteadyError
    if any(a.shape != b.shape for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)):
        raise _UnsteadyError
    return jax.tree.map(lambda a, b: lax.convert_element_type(b, a.dtype), before, after)


def _strong(state: Any) -> Any:
    """Arrays whose dtypes a step cannot change by promotion."""
    return jax.tree.map(lambda x: lax.convert_element_type(x, jnp.asarray(x).dtype), state)


def cond(xp: Namespace, pred: Any, then: Callable[..., Any], otherwise: Callable[..., Any], *operands: Any) -> Any:
    """lax.cond where the predicate has no value yet; else only one branch is looked at."""
    if concrete_value(xp, pred) is not None:
        return NotImplemented
    forms: list[Any] = []

    def branch(fn: Callable[..., Any]) -> Callable[..., Any]:
        def traced(*args: Any) -> Any:
            results = _strong(tuple(fn(*args)))
            forms.append(jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", results))
            return results

        return traced

    try:
        return lax.cond(jnp.reshape(pred, ()), branch(then), branch(otherwise), *operands)
    except TypeError as error:
        if len(forms) < 2 or forms[0] == forms[-1]:
            raise
        raise ValueError(
            f"the branches give {forms[0]} and {forms[-1]}; they must agree where JAX traces the condition"
        ) from error


def while_loop(xp: Namespace, step: Callable[..., Any], trips: Any, going: Any, state: Any) -> Any:
    """A Python loop on values; traced, lax.scan for a number of steps that is known, else lax.while_loop."""
    if not _staged():
        try:
            return default.control.while_loop(xp, step, trips, going, state)
        except default.control.UndecidedError:  # the condition is mapped over, or traced outside
            pass
    limit = None if trips is None else concrete_value(xp, trips)
    if concrete_value(xp, going) is False or limit == 0:
        return state, ()
    if concrete_value(xp, going) and limit is not None and limit < 2**31:
        with jax.ensure_compile_time_eval():
            true = jnp.asarray(True)
        try:
            return _counted(xp, step, limit, true, state)
        except _UnsteadyError:
            return default.control.while_loop(xp, step, limit, true, state)
        except _EndingError as undecided:
            if undecided.args[0] is False:
                return default.control.while_loop(xp, step, limit, true, state)
    most = trips if limit is None else limit

    def test(carry: Any) -> Any:
        return carry[1] if most is None else carry[1] & (carry[0] < jnp.reshape(most, ()))

    def advance(carry: Any) -> Any:
        index, going, state = carry
        going, after, row = step(index, going, state)
        if row:
            raise ValueError(
                "the loop collects a scan output, and how often it runs depends on values that JAX only traces: give "
                "the number of trips as a Python number or a NumPy array, and keep the condition constant"
            )
        return index + 1, jnp.reshape(going, ()), _steady(state, after)

    start = (jnp.zeros((), jnp.int64), jnp.reshape(going, ()), _strong(tuple(state)))
    try:
        return lax.while_loop(test, advance, start)[2], ()
    except _UnsteadyError:
        raise ValueError("a state changes its shape in a loop whose number of trips JAX only traces") from None


def _counted(xp: Namespace, step: Callable[..., Any], trips: int, true: Any, state: Any) -> Any:
    def advance(state: Any, index: Any) -> tuple[Any, Any]:
        going, after, row = step(index, true, state)
        if concrete_value(xp, going) is not True:
            raise _EndingError(concrete_value(xp, going))
        return _steady(state, after), tuple(row)

    return lax.scan(advance, _strong(tuple(state)), jnp.arange(trips, dtype=jnp.int64))


def scan(xp: Namespace, step: Callable[..., Any], state: Any, xs: Sequence[Any], reverse: bool = False) -> Any:
    """lax.scan under a trace, where it is compiled once; on values step by step, which need not be compiled."""
    if not (_traced(state, xs) or _staged()):
        return NotImplemented

    def advance(state: Any, row: Any) -> tuple[Any, Any]:
        after, outputs = step(state, row)
        return _steady(state, after), tuple(outputs)

    try:
        return lax.scan(advance, _strong(tuple(state)), tuple(xs), reverse=reverse)
    except _UnsteadyError:
        return NotImplemented


def _position(fold: Callable[..., Any], x: Any, axis: int | None, keepdims: bool) -> Any:
    """The first place of the extreme, or of a NaN. lax.argmax is slower, and has no 64 bits without x64."""
    whole = axis is None
    if not whole and not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis {axis} is none of an array of rank {x.ndim}")
    rank, x, axis = x.ndim, jnp.ravel(x) if whole else x, 0 if axis is None else axis % x.ndim
    hits = x == fold(x, axis=axis, keepdims=True)
    if jnp.issubdtype(x.dtype, jnp.floating):
        hits |= jnp.isnan(x)
    places = lax.broadcasted_iota(jnp.int32, x.shape, axis)
    found = jnp.min(jnp.where(hits, places, x.shape[axis]), axis=axis, keepdims=keepdims).astype(jnp.int64)
    return jnp.reshape(found, (1,) * rank) if whole and keepdims else found


def argmax(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """Where the maximum is."""
    return _position(jnp.max, x, axis, keepdims)


def argmin(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """Where the minimum is."""
    return _position(jnp.min, x, axis, keepdims)


def divide(x1: Any, x2: Any) -> Any:
    """Correctly rounded: XLA multiplies by the reciprocal of a divisor that is one number, unless it cannot see that.

    What is rounded or compared afterwards must not be off by the last bit.
    """
    y = jnp.asarray(x2)
    if jnp.issubdtype(y.dtype, jnp.inexact):
        shape = np.broadcast_shapes(jnp.shape(x1), y.shape)
        return jnp.divide(x1, lax.optimization_barrier(jnp.broadcast_to(y, shape)))
    return jnp.divide(x1, x2)


def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
    """Choices: at its bounds jnp.clip halves the derivative."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.clip(x, min, max)
    for bound, beyond in ((min, jnp.less), (max, jnp.greater)):
        if bound is not None:
            x = jnp.where(beyond(x, bound) | (bound != bound), bound, x)  # noqa: PLR0124  (a bound that is NaN)
    return x


def _abs_tangent(primals: tuple[Any], tangents: tuple[Any]) -> Any:
    return jnp.abs(*primals), jnp.sign(*primals) * tangents[0]


_abs: Any = jax.custom_jvp(jnp.abs)
_abs.defjvp(_abs_tangent)


def abs_(x: Any, /) -> Any:
    """jnp.abs, whose derivative at 0 is 1."""
    return _abs(x) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.abs(x)


def _pow_tangent(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> Any:
    (x, y), (along_x, along_y) = primals, tangents
    power = jnp.power(x, y)
    total = jnp.zeros_like(power)
    if not isinstance(along_x, SymbolicZero):
        total += along_x * y * jnp.power(x, jnp.where(y == 0, 1, y - 1))
    if not isinstance(along_y, SymbolicZero):
        total += along_y * jnp.where(x > 0, power * jnp.log(jnp.where(x > 0, x, 1)), 0)
    return power, total


_pow: Any = jax.custom_jvp(jnp.power)
_pow.defjvp(_pow_tangent, symbolic_zeros=True)


def pow_(x1: Any, x2: Any, /) -> Any:
    """jnp.power, whose derivative by 0 to an array of zeros is NaN."""
    floats = all(jnp.issubdtype(getattr(x, "dtype", None), jnp.floating) for x in (x1, x2))
    return _pow(x1, x2) if floats else jnp.power(x1, x2)


def asarray(obj: Any, /, **keywords: Any) -> Any:
    """Buffers, and lists of numbers, by way of NumPy: JAX takes in element by element what is no array, 15 µs each."""
    numbers = isinstance(obj, list | tuple) and all(type(v) in {bool, int, float} for v in obj)
    return jnp.asarray(np.asarray(obj) if numbers or isinstance(obj, array) else obj, **keywords)


PRIMITIVES: dict[str, Callable[..., Any]] = {
    fn.__name__: fn
    for fn in (
        bit_view, conv, erf, sigmoid, relu, leaky_relu, hardtanh, max_pool,
        fmod, trunc_divide, scatter_flat, scatter_nd, top_k, concrete_value, readable, cond, while_loop, scan,
    )
}  # fmt: skip
NAMES: dict[str, Any] = {
    "abs": abs_, "asarray": asarray, "argmax": argmax, "argmin": argmin, "clip": clip, "divide": divide, "pow": pow_,
}  # fmt: skip
