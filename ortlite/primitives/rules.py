"""How gradients flow through the functions of the standard: the table of rules that `ortlite.primitives.gradient` uses.

A rule is called with the namespace, the result and the arguments of a call, and gives for each argument the function
from the result's gradient to the argument's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import log, pi, prod, sqrt
from typing import Any

from ortlite.primitives.base import Namespace

__all__ = ["ABOUT_DTYPES", "CONSTANT", "RULES", "Rule", "getitem", "scattered_extremum"]

Rule = Callable[..., Sequence[Any]]

ABOUT_DTYPES = frozenset({"dtype", "dtype_name", "isdtype", "finfo", "iinfo"})
CONSTANT = frozenset(
    "all any argmax argmin argsort asarray bitwise_and bitwise_invert bitwise_or bitwise_xor ceil count_nonzero empty "
    "empty_like equal eye floor floor_divide full full_like greater greater_equal isfinite isinf isnan less "
    "less_equal logical_and logical_not logical_or logical_xor not_equal ones ones_like round searchsorted sign "
    "signbit trunc zeros zeros_like arange nonzero result_type can_cast broadcast_shapes linspace".split()
)


def getitem(xp: Namespace, x: Any, key: Any) -> Any:
    """`x[key]`, as a function."""
    return x[key]


def _like(xp: Namespace, g: Any, x: Any) -> Any:
    """A gradient summed over the axes that broadcasting added or stretched."""
    shape = tuple(getattr(x, "shape", ()))
    extra = g.ndim - len(shape)
    axes = (*range(extra), *(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1))
    return xp.reshape(xp.sum(g, axis=axes, dtype=g.dtype), shape) if axes else g


def _unary(derivative: Callable[[Namespace, Any, Any], Any]) -> Rule:
    """A rule from f'(x), which may use the result as well."""

    def rule(xp: Namespace, y: Any, x: Any) -> list[Any]:
        return [lambda g: g * derivative(xp, x, y)]

    return rule


def _binary(first: Callable[..., Any], second: Callable[..., Any]) -> Rule:
    """A rule from both partial derivatives, functions of (xp, a, b, y)."""

    def rule(xp: Namespace, y: Any, a: Any, b: Any) -> list[Any]:
        return [
            lambda g: _like(xp, g * first(xp, a, b, y), a),
            lambda g: _like(xp, g * second(xp, a, b, y), b),
        ]

    return rule


def _larger(xp: Namespace, y: Any, a: Any, b: Any) -> list[Any]:
    """For the extremum of two: the gradient goes to the larger (smaller) one, half of it to each in a tie."""

    def back(x: Any, g: Any) -> Any:
        return _like(xp, _within(xp, xp.where(a == b, g * 0.5, g), x == y), x)

    return [partial(back, a), partial(back, b)]


def _pow_base(xp: Namespace, a: Any, b: Any, y: Any) -> Any:
    constant = b == 0  # a^-1 may be infinite
    return b * xp.pow(a, xp.where(constant, xp.ones_like(b), b - 1))


def _leaky_relu(xp: Namespace, x: Any, slope: Any, y: Any) -> Any:
    one = xp.ones_like(y)
    return xp.where(x > 0, one, one * slope)


def _within(xp: Namespace, g: Any, where: Any) -> Any:
    """A gradient where it flows, else 0: a product with 0 would keep infinities and NaN."""
    return xp.where(where, g, xp.zeros_like(g))


def _pow_exponent(xp: Namespace, a: Any, b: Any, y: Any) -> Any:
    positive = a > 0
    return xp.where(positive, y * xp.log(xp.where(positive, a, xp.ones_like(y))), xp.zeros_like(y))


def _axes(x: Any, axis: Any) -> tuple[int, ...]:
    chosen = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    return tuple(a % x.ndim for a in chosen)


def _kept(xp: Namespace, g: Any, x: Any, axis: Any) -> Any:
    """A reduction's gradient (or result) with the reduced axes as axes of length 1."""
    axes = _axes(x, axis)
    return xp.reshape(g, tuple(1 if i in axes else n for i, n in enumerate(x.shape)))


def _sum(xp: Namespace, y: Any, x: Any, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> list[Any]:
    return [lambda g: xp.broadcast_to(_kept(xp, g, x, axis), x.shape)]


def _mean(xp: Namespace, y: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> list[Any]:
    count = prod(x.shape[a] for a in _axes(x, axis))
    return [lambda g: xp.broadcast_to(_kept(xp, g, x, axis), x.shape) / float(max(count, 1))]


def _extremum(xp: Namespace, y: Any, x: Any, *, axis: Any = None, keepdims: bool = False) -> list[Any]:
    def back(g: Any) -> Any:
        hit = x == _kept(xp, y, x, axis)
        count = xp.sum(xp.astype(hit, x.dtype), axis=_axes(x, axis), keepdims=True)
        return _within(xp, xp.broadcast_to(_kept(xp, g, x, axis) / count, x.shape), hit)

    return [back]


def _prod(xp: Namespace, y: Any, x: Any, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> list[Any]:
    def back(g: Any) -> Any:
        """The product of the others, also beside zeros: with none as it is, with one only there, with more nowhere."""
        zero = x == 0
        zeros = xp.sum(xp.astype(zero, x.dtype), axis=_axes(x, axis), keepdims=True)
        safe = xp.where(zero, xp.ones_like(x), x)
        rest = xp.prod(safe, axis=_axes(x, axis), keepdims=True)
        others = xp.where(zeros == 0, rest / safe, xp.where((zeros == 1) & zero, rest, xp.zeros_like(x)))
        return others * _kept(xp, g, x, axis)

    return [back]


def _cumulative_sum(xp: Namespace, y: Any, x: Any, *, axis: int | None = None, **keywords: Any) -> list[Any]:
    where = 0 if axis is None else axis
    return [lambda g: xp.flip(xp.cumulative_sum(xp.flip(g, axis=where), axis=where), axis=where)]


def _matmul(xp: Namespace, y: Any, a: Any, b: Any) -> list[Any]:
    rows = xp.expand_dims(a, axis=0) if a.ndim == 1 else a
    columns = xp.expand_dims(b, axis=1) if b.ndim == 1 else b

    def wide(g: Any) -> Any:
        g = xp.expand_dims(g, axis=g.ndim) if b.ndim == 1 else g
        return xp.expand_dims(g, axis=g.ndim - 1) if a.ndim == 1 else g

    def transposed(x: Any) -> Any:
        return xp.permute_dims(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))

    return [
        lambda g: xp.reshape(_like(xp, xp.matmul(wide(g), transposed(columns)), rows), a.shape),
        lambda g: xp.reshape(_like(xp, xp.matmul(transposed(rows), wide(g)), columns), b.shape),
    ]


def _where(xp: Namespace, y: Any, condition: Any, a: Any, b: Any) -> list[Any]:
    def part(g: Any, mine: bool, x: Any) -> Any:
        zero = xp.zeros_like(g)
        return _like(xp, xp.where(condition, g, zero) if mine else xp.where(condition, zero, g), x)

    return [lambda g: None, lambda g: part(g, True, a), lambda g: part(g, False, b)]


def _clip(xp: Namespace, y: Any, x: Any, min: Any = None, max: Any = None) -> list[Any]:
    def beyond(g: Any, bound: Any, where: Any) -> Any:
        return _like(xp, _within(xp, g, where), bound)

    crossed = False if min is None or max is None else min > max  # then it is the maximum everywhere
    return [
        lambda g: _within(xp, g, x == y),
        lambda g: beyond(g, min, x < min if crossed is False else (x < min) & ~crossed),
        lambda g: beyond(g, max, x > max if crossed is False else (x > max) | crossed),
    ]


def _reshaped(xp: Namespace, y: Any, x: Any, *args: Any, **keywords: Any) -> list[Any]:
    """For all that only changes the shape."""
    return [lambda g: xp.reshape(g, x.shape)]


def _permute_dims(xp: Namespace, y: Any, x: Any, axes: Sequence[int]) -> list[Any]:
    places = [a % x.ndim for a in axes]
    return [lambda g: xp.permute_dims(g, tuple(places.index(i) for i in range(x.ndim)))]


def _moveaxis(xp: Namespace, y: Any, x: Any, source: Any, destination: Any) -> list[Any]:
    return [lambda g: xp.moveaxis(g, destination, source)]


def _concat(xp: Namespace, y: Any, arrays: Sequence[Any], *, axis: int = 0) -> list[Any]:
    backs, start = [], 0
    for x in arrays:
        end = start + x.shape[axis]
        key = (*(slice(None),) * (axis % y.ndim), slice(start, end), ...)
        backs.append(partial(lambda g, key: g[key], key=key))
        start = end
    return backs


def _stack(xp: Namespace, y: Any, arrays: Sequence[Any], *, axis: int = 0) -> list[Any]:
    before = (slice(None),) * (axis % y.ndim)
    return [partial(lambda g, i: g[(*before, i, ...)], i=i) for i in range(len(arrays))]


def _matrix_transpose(xp: Namespace, y: Any, x: Any) -> list[Any]:
    return [xp.matrix_transpose]


def scattered_extremum(xp: Namespace, y: Any, data: Any, indices: Any, updates: Any, reduction: str) -> list[Any]:
    """For `scatter_flat` by max or min: all equals have the same share."""
    kept, taken = data == y, updates == xp.take(y, indices)
    count = xp.scatter_flat(xp.astype(kept, y.dtype), indices, xp.astype(taken, y.dtype), "add")
    return [
        lambda g: _within(xp, g / count, kept),
        lambda g: None,
        lambda g: _within(xp, xp.take(g / count, indices), taken),
    ]


def _flip(xp: Namespace, y: Any, x: Any, *, axis: Any = None) -> list[Any]:
    return [lambda g: xp.flip(g, axis=axis)]


def _scattered(xp: Namespace, g: Any, indices: Any, x: Any) -> Any:
    """Gradients of elements at flat indices of `x`, added up where they came from."""
    flat = xp.zeros((prod(x.shape),), dtype=g.dtype)
    return xp.reshape(xp.scatter_flat(flat, xp.reshape(indices, (-1,)), xp.reshape(g, (-1,)), "add"), x.shape)


def _flat_places(xp: Namespace, x: Any) -> Any:
    return xp.reshape(xp.arange(prod(x.shape), dtype=xp.int64), x.shape)


def _picked(pick: Callable[..., Any]) -> Rule:
    """A rule for functions that pick elements: the same pick of their places says where gradients go."""

    def rule(xp: Namespace, y: Any, x: Any, *args: Any, **keywords: Any) -> list[Any]:
        return [lambda g: _scattered(xp, g, pick(xp, _flat_places(xp, x), *args, **keywords), x)]

    return rule


def _named(name: str) -> Callable[..., Any]:
    return lambda xp, places, *args, **keywords: getattr(xp, name)(places, *args, **keywords)


def _astype(xp: Namespace, y: Any, x: Any, dtype: Any, **keywords: Any) -> list[Any]:
    return [lambda g: xp.astype(g, x.dtype)]


RULES: dict[str, Rule] = {
    "add": _binary(lambda xp, a, b, y: 1.0, lambda xp, a, b, y: 1.0),
    "subtract": _binary(lambda xp, a, b, y: 1.0, lambda xp, a, b, y: -1.0),
    "multiply": _binary(lambda xp, a, b, y: b, lambda xp, a, b, y: a),
    "divide": _binary(lambda xp, a, b, y: 1.0 / b, lambda xp, a, b, y: -y / b),
    "pow": _binary(_pow_base, _pow_exponent),
    "maximum": _larger,
    "minimum": _larger,
    "atan2": _binary(lambda xp, a, b, y: b / (a * a + b * b), lambda xp, a, b, y: -a / (a * a + b * b)),
    "logaddexp": _binary(lambda xp, a, b, y: xp.exp(a - y), lambda xp, a, b, y: xp.exp(b - y)),
    "remainder": _binary(lambda xp, a, b, y: 1.0, lambda xp, a, b, y: -xp.floor(a / b)),
    "fmod": _binary(lambda xp, a, b, y: 1.0, lambda xp, a, b, y: -xp.trunc(a / b)),
    "leaky_relu": _binary(_leaky_relu, lambda xp, a, b, y: xp.where(a > 0, xp.zeros_like(a), a)),
    "copysign": _binary(lambda xp, a, b, y: xp.sign(a) * xp.sign(y), lambda xp, a, b, y: 0.0),
    "hypot": _binary(lambda xp, a, b, y: a / y, lambda xp, a, b, y: b / y),
    "negative": _unary(lambda xp, x, y: -1.0),
    "positive": _unary(lambda xp, x, y: 1.0),
    "abs": _unary(lambda xp, x, y: xp.sign(x)),
    "square": _unary(lambda xp, x, y: 2.0 * x),
    "sqrt": _unary(lambda xp, x, y: 0.5 / y),
    "reciprocal": _unary(lambda xp, x, y: -y * y),
    "exp": _unary(lambda xp, x, y: y),
    "expm1": _unary(lambda xp, x, y: y + 1.0),
    "log": _unary(lambda xp, x, y: 1.0 / x),
    "log1p": _unary(lambda xp, x, y: 1.0 / (1.0 + x)),
    "log2": _unary(lambda xp, x, y: 1.0 / (x * log(2))),
    "log10": _unary(lambda xp, x, y: 1.0 / (x * log(10))),
    "sin": _unary(lambda xp, x, y: xp.cos(x)),
    "cos": _unary(lambda xp, x, y: -xp.sin(x)),
    "tan": _unary(lambda xp, x, y: 1.0 + y * y),
    "asin": _unary(lambda xp, x, y: 1.0 / xp.sqrt(1.0 - x * x)),
    "acos": _unary(lambda xp, x, y: -1.0 / xp.sqrt(1.0 - x * x)),
    "atan": _unary(lambda xp, x, y: 1.0 / (1.0 + x * x)),
    "sinh": _unary(lambda xp, x, y: xp.cosh(x)),
    "cosh": _unary(lambda xp, x, y: xp.sinh(x)),
    "tanh": _unary(lambda xp, x, y: 1.0 - y * y),
    "sigmoid": _unary(lambda xp, x, y: y * (1.0 - y)),
    "erf": _unary(lambda xp, x, y: xp.exp(-x * x) * (2 / sqrt(pi))),
    "relu": lambda xp, y, x: [lambda g: _within(xp, g, x > 0)],
    "hardtanh": lambda xp, y, x, low, high: [lambda g: _within(xp, g, (x > low) & (x < high))],
    "asinh": _unary(lambda xp, x, y: 1.0 / xp.sqrt(x * x + 1.0)),
    "acosh": _unary(lambda xp, x, y: 1.0 / xp.sqrt(x * x - 1.0)),
    "atanh": _unary(lambda xp, x, y: 1.0 / (1.0 - x * x)),
    "sum": _sum,
    "mean": _mean,
    "max": _extremum,
    "min": _extremum,
    "prod": _prod,
    "cumulative_sum": _cumulative_sum,
    "matmul": _matmul,
    "where": _where,
    "clip": _clip,
    "reshape": _reshaped,
    "expand_dims": _reshaped,
    "squeeze": _reshaped,
    "permute_dims": _permute_dims,
    "moveaxis": _moveaxis,
    "matrix_transpose": _matrix_transpose,
    "broadcast_to": lambda xp, y, x, shape: [lambda g: _like(xp, g, x)],
    "concat": _concat,
    "stack": _stack,
    "flip": _flip,
    "roll": _picked(_named("roll")),
    "repeat": _picked(_named("repeat")),
    "tile": _picked(_named("tile")),
    "take": _picked(_named("take")),
    "take_along_axis": _picked(_named("take_along_axis")),
    "tril": lambda xp, y, x, *, k=0: [lambda g: xp.tril(g, k=k)],
    "triu": lambda xp, y, x, *, k=0: [lambda g: xp.triu(g, k=k)],
    "getitem": _picked(getitem),
    "astype": _astype,
}
