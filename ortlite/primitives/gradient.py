"""Reverse-mode differentiation of anything written in the Array API standard.

A *tape* is a namespace whose functions record, for every result that depends on a variable, how a gradient of the
result becomes gradients of the arguments. The standard is small: a rule for each of its differentiable functions
makes every kernel differentiable on every library. It is generic in the namespace below it, a tape included: that
gives higher derivatives. Libraries with differentiation of their own replace this primitive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import prod
from typing import Any

from ortlite.primitives.base import Namespace
from ortlite.primitives.rules import ABOUT_DTYPES, CONSTANT, RULES, Rule, getitem, scattered_extremum
from ortlite.primitives.scatter import scatter_flat
from ortlite.primitives.window import first_max_pool

__all__ = ["gradient"]


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
    """An array as a constant on the tape; variables of this tape and non-arrays are returned as they are."""
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
        vars(tape)[name] = partial(_recorded, tape, xp, vars(xp).get(name, partial(getitem, xp)), rule)
    for name, fn in xp.defaults.items():
        if name not in RULES:
            vars(tape)[name] = partial(fn, tape)
    vars(tape).update(lift=partial(_lift, tape), bare=_read, unstack=partial(_unstack, tape))
    own: dict[str, Any] = {"cumulative_prod": _cumulative_prod, "max_pool": _max_pool, "scatter_flat": _scatter_flat}
    vars(tape).update({name: partial(fn, tape) for name, fn in own.items()})
    vars(tape).update(readable=lambda x: xp.readable(_bare(x)))
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


def _unstack(tape: Namespace, x: Any, axis: int = 0) -> tuple[Any, ...]:
    return tuple(tape.squeeze(part, axis=axis) for part in _slices(x, axis))


def _slices(x: Any, axis: int) -> Iterable[Any]:
    axis %= x.ndim
    for i in range(x.shape[axis]):
        yield x[(*(slice(None),) * axis, slice(i, i + 1), ...)]


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
    """In a tie the first element of a window gets the gradient."""
    where = tape.inner.max_pool(_bare(x), size, indices=True, **windows)[1] if indices else None
    return first_max_pool(tape, x, size, **windows), _lift(tape, where)


def _scatter_flat(tape: Namespace, data: Any, indices: Any, updates: Any, reduction: str) -> Any:
    """The default body, but for extrema, of which all equals have the same share."""
    if reduction not in {"max", "min"}:
        return scatter_flat(tape, data, indices, updates, reduction)
    xp = tape.inner
    return _recorded(tape, xp, xp.scatter_flat, scattered_extremum, data, indices, updates, reduction)
