"""Convolutions with the channels last: a traced function is evaluated anew, its images laid out as XLA likes them.

On a CPU, XLA convolves and multiplies with the channels last, and would turn images and weights round at every
convolution. Here an image stays as a convolution leaves it for as long as what follows does not mind: element by
element, padded, cut, pooled, put together. What minds gets it in the order of its axes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from ortlite import primitives as default

__all__ = ["constant", "evaluated", "laid_out", "last", "lays_out"]

INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
ELEMENTWISE = frozenset(
    "abs add and cbrt ceil clamp convert_element_type copy cos cosh div eq erf erf_inv erfc exp exp2 expm1 floor ge gt "
    "integer_pow is_finite le log log1p logistic lt max min mul ne neg nextafter not or pow rem round rsqrt select_n "
    "sign sin sinh sqrt square stop_gradient sub tan tanh xor".split()
)
REDUCTIONS = frozenset(f"reduce_{name}" for name in "sum max min prod and or xor".split())
WINDOWS = frozenset(f"reduce_window_{name}" for name in "sum max min".split())
FEW_ROWS, LARGE_WEIGHTS = (4, 64), 1 << 20  # of products; elements
SLOW = (3, 32)  # channels and maps of which XLA's convolution takes up to four times as long as with a channel of zeros
MOST_SLICES = 64  # of the input in a convolution that is written out: XLA takes its time to compile each

_active: ContextVar[Mapping[int, Any] | None] = ContextVar("ortlite_jax_layout", default=None)


@contextmanager
def lays_out(constants: Mapping[int, Any]) -> Iterator[None]:
    """What is traced within is going to be laid out: convolutions may stay what they are.

    `constants` has what tracers stand for, by id.
    """
    token = _active.set(constants)
    try:
        yield
    finally:
        _active.reset(token)


def laid_out() -> bool:
    """Whether what is traced now is going to be laid out."""
    return _active.get() is not None


def constant(x: Any) -> Any:
    """The array that an argument always is in what is traced now, or None."""
    return (_active.get() or {}).get(id(x))


@dataclass(frozen=True, slots=True)
class _Image:
    """An array as it lies in memory: its axes are those of the value in the order `axes`."""

    array: Any
    axes: tuple[int, ...]

    def inside(self, per_axis: Sequence[Any]) -> tuple[Any, ...]:
        """What is given for each axis of the value, in the order of memory."""
        return tuple(per_axis[axis] for axis in self.axes)


def last(rank: int) -> tuple[int, ...]:
    """The order of axes with the second one last."""
    return (0, *range(2, rank), 1)


def _image(array: Any, axes: Sequence[int]) -> Any:
    """The value whose axes lie in that order: a plain array where that is their own order."""
    return array if tuple(axes) == tuple(range(len(axes))) else _Image(array, tuple(axes))


def _plain(value: Any) -> Any:
    """The array with its axes in their own order."""
    return lax.transpose(value.array, np.argsort(value.axes)) if isinstance(value, _Image) else value


def _lying(value: Any, axes: tuple[int, ...]) -> Any:
    """The array whose axes lie in that order."""
    if isinstance(value, _Image) and value.axes == axes:
        return value.array
    return lax.transpose(_plain(value), axes)


def bound(eqn: Any, values: Sequence[Any], params: Any = None) -> Sequence[Any]:
    """The results of one equation of these values, with other `params` than its own."""
    params = eqn.primitive.get_bind_params(eqn.params if params is None else params)
    functions, params = params if isinstance(params, tuple) else ((), params)  # before JAX 0.10 functions stood apart
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*functions, *values, **params)
    return results if eqn.primitive.multiple_results else [results]


def evaluated(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any], constants: Collection[int]) -> list[Any]:
    """The results of a traced function: functions that it calls are written out, images laid out.

    The arguments at the positions of `constants` are the same in every run.
    """
    fixed = [position in constants for position in range(len(arguments))]
    return [_plain(value) for value in _evaluated(jaxpr, consts, arguments, fixed)]


def _evaluated(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any], fixed: Sequence[bool]) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))
    known = {*jaxpr.constvars, *(var for var, is_fixed in zip(jaxpr.invars, fixed, strict=True) if is_fixed)}

    def read(var: Any) -> Any:
        return var.val if isinstance(var, core.Literal) else values[var]

    for eqn in jaxpr.eqns:
        given = [read(var) for var in eqn.invars]
        still = [isinstance(var, core.Literal) or var in known for var in eqn.invars]
        inner = eqn.params.get(INLINED.get(eqn.primitive.name, ""))
        if inner is not None:
            results: Sequence[Any] = _evaluated(inner.jaxpr, inner.consts, given, still)
        else:
            found = _laid(eqn, given, still)
            results = bound(eqn, [*map(_plain, given)]) if found is None else [found]
        values.update(zip(eqn.outvars, results, strict=True))
        if all(still):
            known.update(eqn.outvars)
    return [read(var) for var in jaxpr.outvars]


def _laid(eqn: Any, given: list[Any], fixed: Sequence[bool]) -> Any:
    """The result of an equation of images, or with one; None where it wants plain arrays.

    `fixed` says which are the same in every run.
    """
    name = eqn.primitive.name
    if jax.default_backend() != "cpu":  # where XLA chooses layouts itself, there are no images
        return None
    if name == "dot_general" and fixed == [False, True]:
        with eqn.ctx.manager:
            return _multiplied(given, eqn.params)
    if name == "transpose" and not isinstance(given[0], _Image):  # may be what a convolution wants, or a product
        axes = tuple(eqn.params["permutation"].index(axis) for axis in range(_rank(given[0])))
        return _Image(given[0], axes) if axes == last(len(axes)) or (len(axes) == 2 and all(fixed)) else None
    if name == "conv_general_dilated":
        with eqn.ctx.manager:
            return _convolved(given, eqn.params)
    image = next((value for value in given if isinstance(value, _Image)), None)
    if image is None:
        return None
    if name in ELEMENTWISE:
        axes = image.axes
        arrays = [_lying(value, axes) if _rank(value) else value for value in given]
        return _Image(bound(eqn, arrays, eqn.params)[0], axes)
    rule = RULES.get(name)
    return None if rule is None else rule(eqn, image, given)


def _rank(value: Any) -> int:
    return len(value.axes) if isinstance(value, _Image) else np.ndim(value)


def _reduced(eqn: Any, image: _Image, given: list[Any]) -> Any:
    axes = eqn.params["axes"]
    places = tuple(image.axes.index(axis) for axis in axes)
    (result,) = bound(eqn, [image.array], {**eqn.params, "axes": tuple(sorted(places))})
    left = [axis for axis in image.axes if axis not in axes]
    return _image(result, [sorted(left).index(axis) for axis in left])


def _windowed(eqn: Any, image: _Image, given: list[Any]) -> Any:
    names = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
    turned = {name: image.inside(eqn.params[name]) for name in names}
    return _Image(bound(eqn, [image.array], {**eqn.params, **turned})[0], image.axes)


def _padded(eqn: Any, image: _Image, given: list[Any]) -> Any:
    if given[0] is not image:
        return None
    config = image.inside(eqn.params["padding_config"])
    return _Image(lax.pad(image.array, _plain(given[1]), config), image.axes)


def _cut(eqn: Any, image: _Image, given: list[Any]) -> Any:
    start, limit, strides = (eqn.params[name] for name in ("start_indices", "limit_indices", "strides"))
    strides = None if strides is None else image.inside(strides)
    return _Image(lax.slice(image.array, image.inside(start), image.inside(limit), strides), image.axes)


def _joined(eqn: Any, image: _Image, given: list[Any]) -> Any:
    arrays = [_lying(value, image.axes) for value in given]
    return _Image(lax.concatenate(arrays, image.axes.index(eqn.params["dimension"])), image.axes)


def _spread(eqn: Any, image: _Image, given: list[Any]) -> Any:
    shape, places = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    if tuple(places) != tuple(range(len(image.axes))) or len(shape) != len(places):
        return None
    return _Image(lax.broadcast_in_dim(image.array, image.inside(shape), tuple(places)), image.axes)


def _turned(eqn: Any, image: _Image, given: list[Any]) -> Any:
    order = eqn.params["permutation"]
    return _image(image.array, [order.index(axis) for axis in image.axes])


def _taken(eqn: Any, image: _Image, given: list[Any]) -> Any:
    """Elements along one axis, by their numbers."""
    numbers, rank, indices = eqn.params["dimension_numbers"], len(image.axes), _plain(given[1])
    if given[0] is not image or len(numbers.start_index_map) != 1 or indices.ndim != 2:
        return None
    axis, sizes = numbers.start_index_map[0], eqn.params["slice_sizes"]
    others = tuple(i for i in range(rank) if i != axis)
    if numbers.collapsed_slice_dims != (axis,) or numbers.offset_dims != others or numbers.operand_batching_dims:
        return None
    shape = [image.array.shape[image.axes.index(i)] for i in range(rank)]
    if any(sizes[i] != shape[i] for i in others):
        return None
    place = image.axes.index(axis)
    turned = lax.GatherDimensionNumbers(
        offset_dims=tuple(i for i in range(rank) if i != place),
        collapsed_slice_dims=(place,),
        start_index_map=(place,),
    )
    params = {**eqn.params, "dimension_numbers": turned, "slice_sizes": image.inside(sizes)}
    return _Image(bound(eqn, [image.array, indices], params)[0], image.axes)


def _reshaped(eqn: Any, image: _Image, given: list[Any]) -> Any:
    """The axes behind the second one may become one, or several: they lie next to each other."""
    shape, rank = eqn.params["new_sizes"], len(image.axes)
    before = tuple(image.array.shape[image.axes.index(axis)] for axis in range(2))
    if image.axes != last(rank) or len(shape) < 3 or tuple(shape[:2]) != before or eqn.params.get("dimensions"):
        return None
    return _Image(lax.reshape(image.array, (shape[0], *shape[2:], shape[1])), last(len(shape)))


RULES: dict[str, Callable[[Any, _Image, list[Any]], Any]] = {
    **dict.fromkeys(REDUCTIONS, _reduced), **dict.fromkeys(WINDOWS, _windowed), "pad": _padded, "slice": _cut,
    "concatenate": _joined, "broadcast_in_dim": _spread, "transpose": _turned, "reshape": _reshaped, "gather": _taken,
}  # fmt: skip


def _is_wide(rows: int, size: int) -> bool:
    """Whether a product is of few rows with weights of so many elements."""
    return FEW_ROWS[0] <= rows <= FEW_ROWS[1] and size >= LARGE_WEIGHTS


def _multiplied(given: Sequence[Any], params: dict[str, Any]) -> Any:
    """A product of few rows with weights: XLA's is faster where these lie with what is summed over last.

    None for another one.
    """
    x, w = given
    ((along, by), batch), rank = params["dimension_numbers"], _rank(w)
    if rank != 2 or len(along) != 1 or any(batch):
        return None
    x = _plain(x)
    size = w.array.size if isinstance(w, _Image) else w.size
    rows = x.size // x.shape[along[0]] if x.size else 0
    if not (_is_wide(rows, size) and jnp.issubdtype(x.dtype, jnp.floating)):
        return None
    w = _plain(w) if by[0] == 1 else _lying(w, (1, 0))
    keys: dict[str, Any] = {name: params[name] for name in ("precision", "preferred_element_type")}
    return lax.dot_general(x, w, ((along, (1,)), ((), ())), **keys)


def _convolved(given: Sequence[Any], params: dict[str, Any]) -> Any:
    """A convolution of images whose channels lie last; None for one that has no such, or is a gradient's."""
    x, w = given
    rank = _rank(x)
    plain = tuple(range(rank))
    numbers = params["dimension_numbers"]
    if (
        rank < 3
        or any(tuple(spec) != plain for spec in (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec))
        or params["batch_group_count"] != 1
        or any(d != 1 for d in params["lhs_dilation"])
        or any(lo < 0 or hi < 0 for lo, hi in params["padding"])
    ):
        return None
    axes = last(rank)
    x = _lying(x, axes)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return None
    w = lax.transpose(_plain(w), (*range(2, rank), 1, 0))  # *size, C / groups, M
    strides, pads, dilations = params["window_strides"], params["padding"], params["rhs_dilation"]
    groups, size, channels = params["feature_group_count"], w.shape[:-2], x.shape[-1]
    windows = default.window.output_shape(x.shape[1:-1], size, strides, dilations, pads)
    few = x.shape[0] * prod(windows) <= 2 * w.shape[-1]  # XLA would spend more on turning the weights than on products
    if prod(size) <= MOST_SLICES and (groups > 1 or few or prod(size) <= 3):
        if any(map(any, pads)):
            x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((lo, hi, 0) for lo, hi in pads), (0, 0, 0)])
        slices = [x[(slice(None), *key)] for key in default.window.window_slices(windows, size, strides, dilations)]
        if 1 < groups == channels:
            return _Image(_by_channel(slices, w, groups), axes)
        return _Image(_product(slices, w, groups, params), axes)
    letters = "DHWXYZ"[: rank - 2] if rank <= 8 else None
    if letters is None:
        return None
    if groups == 1 and (channels, w.shape[-1]) == SLOW and prod(size) > 4:
        zero = jnp.zeros((), x.dtype)
        x = lax.pad(x, zero, [*[(0, 0, 0)] * (rank - 1), (0, 1, 0)])
        w = lax.pad(w, zero, [*[(0, 0, 0)] * (rank - 2), (0, 1, 0), (0, 0, 0)])
    names = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    y = lax.conv_general_dilated(
        x, w, strides, pads, rhs_dilation=dilations, dimension_numbers=names, feature_group_count=groups,
        precision=params["precision"], preferred_element_type=params["preferred_element_type"],
    )  # fmt: skip
    return _Image(y, axes)


def _by_channel(slices: Sequence[Any], w: Any, groups: int) -> Any:
    """A group for each channel: products summed over the positions of the kernel, which XLA makes one loop of."""
    several = w.shape[-1] // groups
    kernel = jnp.reshape(w, (len(slices), groups, several) if several > 1 else (len(slices), groups))
    products = ((part[..., None] if several > 1 else part) * kernel[i] for i, part in enumerate(slices))
    total = reduce(jnp.add, products)
    return jnp.reshape(total, (*slices[0].shape[:-1], w.shape[-1]))


def _product(slices: Sequence[Any], w: Any, groups: int, params: dict[str, Any]) -> Any:
    """What each window shows, as a row, times the weights; a product for each group."""
    n, *windows, channels = slices[0].shape
    depth, maps = channels // groups, w.shape[-1]
    keys: dict[str, Any] = {name: params[name] for name in ("precision", "preferred_element_type")}
    columns = jnp.concatenate(slices, axis=-1) if len(slices) > 1 else slices[0]
    if groups == 1:
        rows = jnp.reshape(columns, (n * prod(windows), len(slices) * channels))
        w = jnp.reshape(w, (-1, maps))
        if _is_wide(rows.shape[0], w.size):
            y = lax.dot_general(rows, lax.transpose(w, (1, 0)), (((1,), (1,)), ((), ())), **keys)
        else:
            y = lax.dot_general(rows, w, (((1,), (0,)), ((), ())), **keys)
        return jnp.reshape(y, (n, *windows, maps))
    rows = jnp.reshape(columns, (n * prod(windows), len(slices), groups, depth))
    kernel = jnp.reshape(w, (len(slices), depth, groups, maps // groups))
    y = lax.dot_general(rows, kernel, (((1, 3), (0, 1)), ((2,), (2,))), **keys)  # group, window, map
    return jnp.reshape(jnp.transpose(y, (1, 0, 2)), (n, *windows, maps))
