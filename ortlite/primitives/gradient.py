"""Reverse-mode differentiation of anything written in the Array API standard.

A *tape* is a namespace whose functions record, for every result that depends on a variable, how a gradient of the
result becomes gradients of the arguments. The standard is small: a rule for each of its differentiable functions
makes every kernel differentiable on every library. It is generic in the namespace below it, a tape included: that
gives higher derivatives. Libraries with differentiation of their own replace this primitive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import log, pi, prod, sqrt
from typing import Any

from ortlite.primitives.base import Namespace
from ortlite.primitives.scatter import scatter_flat
from ortlite.primitives.window import first_max_pool

__all__ = ["gradient"]

Rule = Callable[..., Sequence[Any]]


def gradient(xp: Namespace, body: Any, inputs: Sequence[Any], count: int) -> tuple[Any, ...]:
    """The gradients of the sum of `body(*inputs)`'s first result to the first `count` inputs; 0 where it is constant.

    `body.on(namespace)` must give the same function computing in another namespace. Raises ValueError for a function
    that has no rule here.
    """
    tape = _tape(xp)
    variables = [Variable(tape, x, (), active=True) for x in inputs[:count]]
    y = body.on(tape)(*variables, *map(tape.lift, inputs[count:]))[0]
    total: dict[int, Any] = {id(y): xp.ones_like(y.value)}
    for node in _order(y):
        grad = total.pop(id(node), None)
        if grad is None:
            continue
        if not node.parents:  # one of the inputs
            total[id(node)] = grad
        for parent, back in node.parents:
            part = back(grad)
            if part is not None:
                known = total.get(id(parent))
                total[id(parent)] = part if known is None else known + part
    found = (total.get(id(v)) for v in variables)
    return tuple(
        xp.zeros_like(v.value) if g is None else xp.astype(g, v.value.dtype)
        for v, g in zip(variables, found, strict=True)
    )


class Variable:
    """An array that remembers what it was computed from: (parent, how the gradient gets there) pairs.

    All arrays on a tape are wrapped, so that libraries never see the two kinds mixed; only `active` ones depend on
    what is differentiated.
    """

    __array_ufunc__ = None  # NumPy leaves its operators to ours
    __hash__ = object.__hash__  # equality compares elements

    def __init__(
        self,
        tape: Namespace,
        value: Any,
        parents: Sequence[tuple[Variable, Callable[[Any], Any]]] = (),
        active: bool = False,
    ):
        self.tape, self.value, self.parents, self.active = tape, value, tuple(parents), active
        self.shape, self.dtype, self.ndim = tuple(value.shape), value.dtype, value.ndim

    @property
    def T(self) -> Any:  # noqa: N802  (the standard's name)
        """The transpose of a matrix."""
        return self.tape.permute_dims(self, (1, 0))

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    def __getitem__(self, key: Any) -> Any:
        return self.tape.getitem(self, key)

    def __neg__(self) -> Any:
        return self.tape.negative(self)

    def __abs__(self) -> Any:
        return self.tape.abs(self)

    def __invert__(self) -> Any:
        return self.tape.bitwise_invert(self)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __len__(self) -> int:
        return int(self.shape[0])


OPERATORS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "pow", "matmul": "matmul",
    "mod": "remainder", "floordiv": "floor_divide", "lt": "less", "le": "less_equal", "gt": "greater",
    "ge": "greater_equal", "eq": "equal", "ne": "not_equal", "and": "bitwise_and", "or": "bitwise_or",
    "xor": "bitwise_xor",
}  # fmt: skip


def _operator(name: str, swapped: bool) -> Callable[[Variable, Any], Any]:
    def apply(self: Variable, other: Any) -> Any:
        if not isinstance(other, Variable):
            other = self.tape.lift(
                other if hasattr(other, "shape") else self.tape.inner.asarray(other, dtype=self.dtype)
            )
        return getattr(self.tape, name)(*((other, self) if swapped else (self, other)))

    return apply


for _short, _name in OPERATORS.items():
    setattr(Variable, f"__{_short}__", _operator(_name, swapped=False))
    setattr(Variable, f"__r{_short}__", _operator(_name, swapped=True))


def _order(last: Variable) -> list[Variable]:
    """Everything `last` depends on, each before what it was computed from."""
    done: dict[int, Variable] = {}
    stack: list[tuple[Variable, bool]] = [(last, False)]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            done[id(node)] = node
        elif id(node) not in done:
            stack.append((node, True))
            stack.extend((parent, False) for parent, _ in node.parents if id(parent) not in done)
    return list(done.values())[::-1]


def _bare(x: Any) -> Any:
    """Without the tape: variables inside tuples and lists too."""
    if isinstance(x, Variable):
        return x.value
    return type(x)(map(_bare, x)) if isinstance(x, tuple | list) else x


def _read(x: Any) -> Any:
    """A value that a kernel reads as a Python object, off every tape. Raises ValueError where a gradient would end."""
    while isinstance(x, Variable):
        if x.active:
            raise ValueError("no gradient flows to an input that is read on the host, as a number")
        x = x.value
    return x


def _active(x: Any) -> bool:
    """Whether gradients flow to an argument."""
    return x.active if isinstance(x, Variable) else isinstance(x, tuple | list) and any(map(_active, x))


def _lift(tape: Namespace, x: Any) -> Any:
    """An array as a constant on the tape; what is on it already, and what is no array, as it is."""
    if isinstance(x, tuple):
        return tuple(_lift(tape, item) for item in x)
    mine = isinstance(x, Variable) and x.tape is tape
    return x if mine or not hasattr(x, "shape") else Variable(tape, x)


def _tape(xp: Namespace) -> Namespace:
    """The namespace that records, over `xp`."""
    tape = Namespace(f"a tape over {xp.library}", {"inner": xp})
    for name, value in vars(xp).items():
        if callable(value) and not isinstance(value, type) and name not in ABOUT_DTYPES:
            value = partial(_constant, tape, "" if name in CONSTANT else name, value)
        vars(tape).setdefault(name, value)
    for name in {"linalg", "fft"} & vars(xp).keys():
        functions = {n: f for n, f in vars(getattr(xp, name)).items() if callable(f)}
        wrapped = {n: partial(_constant, tape, f"{name}.{n}", f) for n, f in functions.items()}
        vars(tape)[name] = Namespace(name, wrapped)
    for name, rule in RULES.items():
        vars(tape)[name] = partial(_recorded, tape, xp, vars(xp).get(name, partial(_getitem, xp)), rule)
    for name, fn in xp.defaults.items():
        if name not in RULES:
            vars(tape)[name] = partial(fn, tape)
    vars(tape).update(lift=partial(_lift, tape), bare=_read, unstack=partial(_unstack, tape))
    own: dict[str, Any] = {"cumulative_prod": _cumulative_prod, "max_pool": _max_pool, "scatter_flat": _scatter_flat}
    vars(tape).update({name: partial(fn, tape) for name, fn in own.items()})
    return tape


def _constant(tape: Namespace, unknown: str, fn: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """A function through which no gradient flows: its derivative is zero, or (`unknown`, its name) has no rule."""
    if unknown and any(map(_active, (*args, *keywords.values()))):
        raise ValueError(f"there is no rule to differentiate {unknown}")
    if fn is tape.inner.asarray and isinstance(args[0], Variable):
        return args[0]
    return _lift(tape, fn(*map(_bare, args), **{k: _bare(v) for k, v in keywords.items()}))


def _recorded(tape: Namespace, xp: Namespace, fn: Callable[..., Any], rule: Rule, *args: Any, **keywords: Any) -> Any:
    """Call a function; record its rule when an argument is active and the result can have a derivative."""
    flat = args[0] if args and isinstance(args[0], tuple | list) else args
    if any(map(_active, keywords.values())):
        raise ValueError(f"there is no rule to differentiate by keyword arguments {', '.join(keywords)}")
    keywords = {name: _bare(value) for name, value in keywords.items()}
    value = fn(*map(_bare, args), **keywords)
    if not _active(args) or not xp.isdtype(value.dtype, ("real floating", "complex floating")):
        return _lift(tape, value)
    backs = rule(xp, value, *map(_bare, args), **keywords)
    return Variable(tape, value, [(a, b) for a, b in zip(flat, backs, strict=False) if _active(a)], active=True)


def _getitem(xp: Namespace, x: Any, key: Any) -> Any:
    return x[key]


def _unstack(tape: Namespace, x: Any, axis: int = 0) -> tuple[Any, ...]:
    return tuple(tape.squeeze(part, axis=axis) for part in _slices(x, axis))


def _slices(x: Any, axis: int) -> Iterable[Any]:
    axis %= x.ndim
    for i in range(x.shape[axis]):
        yield x[(*(slice(None),) * axis, slice(i, i + 1), ...)]


ABOUT_DTYPES = frozenset({"dtype", "dtype_name", "isdtype", "finfo", "iinfo"})
CONSTANT = frozenset(
    "all any argmax argmin argsort asarray bitwise_and bitwise_invert bitwise_or bitwise_xor ceil count_nonzero empty "
    "empty_like equal eye floor floor_divide full full_like greater greater_equal isfinite isinf isnan less "
    "less_equal logical_and logical_not logical_or logical_xor not_equal ones ones_like round searchsorted sign "
    "signbit trunc zeros zeros_like arange nonzero result_type can_cast broadcast_shapes linspace".split()
)


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
    """For the extremum of two: it goes to the one that it was, a half to each of equals."""

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
    """A gradient where it flows, else 0: a product with 0 would keep what is not finite."""
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

    def turned(x: Any) -> Any:
        return xp.permute_dims(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))

    return [
        lambda g: xp.reshape(_like(xp, xp.matmul(wide(g), turned(columns)), rows), a.shape),
        lambda g: xp.reshape(_like(xp, xp.matmul(turned(rows), wide(g)), columns), b.shape),
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


def _cumulative_prod(tape: Namespace, x: Any, /, *, axis: int | None = None, **keywords: Any) -> Any:
    """Products of ever more elements: as rows of a triangle, because dividing by elements does not survive a zero."""
    where = x.ndim - 1 if axis is None else axis % x.ndim
    last = tape.moveaxis(x, where, -1)
    count = x.shape[where]
    rows = tape.broadcast_to(tape.expand_dims(last, axis=-2), (*last.shape[:-1], count, count))
    taken = tape.tril(tape.ones((count, count), dtype=tape.inner.bool))
    y = tape.prod(tape.where(taken, rows, tape.ones_like(rows)), axis=-1)
    if keywords.get("include_initial"):
        y = tape.concat([tape.ones_like(y[..., :1]), y], axis=-1)
    return tape.moveaxis(y, -1, where)


def _max_pool(
    tape: Namespace, x: Any, size: Sequence[int], *, indices: bool = False, **windows: Any
) -> tuple[Any, Any]:
    """Of equals in a window the first gets the gradient."""
    places = tape.inner.max_pool(_bare(x), size, indices=True, **windows)[1] if indices else None
    return first_max_pool(tape, x, size, **windows), _lift(tape, places)


def _scatter_flat(tape: Namespace, data: Any, places: Any, updates: Any, reduction: str) -> Any:
    """The default body, but for extrema, of which all equals have the same share."""
    if reduction not in {"max", "min"}:
        return scatter_flat(tape, data, places, updates, reduction)
    xp = tape.inner
    return _recorded(tape, xp, xp.scatter_flat, _scattered_extremum, data, places, updates, reduction)


def _scattered_extremum(xp: Namespace, y: Any, data: Any, places: Any, updates: Any, reduction: str) -> list[Any]:
    kept, taken = data == y, updates == xp.take(y, places)
    count = xp.scatter_flat(xp.astype(kept, y.dtype), places, xp.astype(taken, y.dtype), "add")
    return [
        lambda g: _within(xp, g / count, kept),
        lambda g: None,
        lambda g: _within(xp, xp.take(g / count, places), taken),
    ]


def _flip(xp: Namespace, y: Any, x: Any, *, axis: Any = None) -> list[Any]:
    return [lambda g: xp.flip(g, axis=axis)]


def _scattered(xp: Namespace, g: Any, places: Any, x: Any) -> Any:
    """Gradients of elements at flat places of `x`, added up where they came from."""
    flat = xp.zeros((prod(x.shape),), dtype=g.dtype)
    return xp.reshape(xp.scatter_flat(flat, xp.reshape(places, (-1,)), xp.reshape(g, (-1,)), "add"), x.shape)


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
    "getitem": _picked(_getitem),
    "astype": _astype,
}
