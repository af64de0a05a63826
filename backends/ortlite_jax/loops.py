"""Operators by the loops that `pip install 'ortlite[fast]'` compiles for NumPy.

XLA's convolutions, attention and norms of rows take up to twice as long as these on a CPU. They stand in a compiled
program as calls (`ortlite_jax.calls`): they read the memory of XLA's operands and write to that of its results. What
they call one after the other is one call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import count as numbers
from math import prod
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from ortlite.derived import WithConstants, at_once
from ortlite.namespace import Namespace, or_default
from ortlite.provider import CPU, create
from ortlite.room import aligned
from ortlite.schema import OWN
from ortlite_jax import calls
from ortlite_jax.layout import constant, last

__all__ = ["before", "together"]

Key = tuple[str, str, int]

MS = "com.microsoft"
DTYPES = {"float32", "uint8", "int8", "int32"}
LEAST = 1 << 22  # multiplications of a product: of fewer XLA makes one loop with what follows
MANY = 1 << 14  # elements of a first input that are worth a call
FEW = 16  # channels of an image that is read as well where they lie first

_prefixes = numbers()


class _Team(int):
    """An address that is known in the run alone: in a recording it is not a number, but a name."""


class Asked(NamedTuple):
    """What the loops ask the namespace of a provider: on how many threads they run, and of which team."""

    threads: int
    team: int


@cache
def _asked() -> Asked:
    from ortlite_numpy import threads

    return Asked(threads.available(), _Team(threads.pool_team().ctypes.data))


class Value(NamedTuple):
    """An array in memory, in C order, and the variable of which it is the memory: its axes lie in the order `axes`."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    axes: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * int(self.dtype.itemsize)


class Call(NamedTuple):
    """What an operator does at one signature: lines that read the variables of `operands` and make those of `results`.

    `homes` are the variables of the arrays that the results lie in, with their shapes, where these are theirs alone.
    """

    lines: tuple[tuple[str, str], ...]
    scope: Mapping[str, Any]
    operands: list[Value]
    results: list[Value]
    homes: list[tuple[str, tuple[int, ...]]]
    absent: int  # results behind these

    @property
    def shapes(self) -> list[jax.ShapeDtypeStruct]:
        return [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in self.results]

    def alone(self) -> calls.Function:
        return together([(self, range(len(self.operands)))], [(0, i) for i in range(len(self.results))])


Order = Callable[[int, Sequence[int]], tuple[int, ...]]


def image(place: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The order of axes in which a loop reads the memory of an image."""
    return last(len(shape)) if len(shape) > 2 and shape[1] >= FEW else rows(place, shape)


def heads(place: int, shape: Sequence[int]) -> tuple[int, ...]:
    """That of queries, keys and values, whose heads lie side by side, as a product makes them; a mask's is its own."""
    return (0, 2, 1, 3) if len(shape) == 4 and place != 3 else rows(place, shape)


def rows(place: int, shape: Sequence[int]) -> tuple[int, ...]:
    """C order."""
    return tuple(range(len(shape)))


def _always(functions: calls.Functions, inputs: Sequence[Any], weights: Sequence[Any]) -> bool:
    return True


def _reads_made(functions: calls.Functions, inputs: Sequence[Any], weights: Sequence[Any]) -> bool:
    return any(map(functions.has_made, inputs))


def _is_large(functions: calls.Functions, inputs: Sequence[Any], weights: Sequence[Any]) -> bool:
    return bool(prod(inputs[0].shape) >= MANY)


def _is_long(functions: calls.Functions, inputs: Sequence[Any], weights: Sequence[Any]) -> bool:
    """Whether rows times weights take long enough for a call."""
    return bool(prod(inputs[0].shape[:-1]) * sum(w.size for w in weights if w is not None) >= LEAST)


class Taken(NamedTuple):
    """Which inputs must be constants, where they are given: what is made of them is kept. In which order of axes the
    others are read, and whether a call pays: asked of the inputs, and of those constants.
    """

    constants: tuple[int, ...]
    order: Order
    pays: Callable[[calls.Functions, Sequence[Any], Sequence[Any]], bool]


TAKEN: dict[Key, Taken] = {
    ("", "Conv", 1): Taken((1, 2), image, _always),
    (MS, "FusedConv", 1): Taken((1, 2), image, _always),
    ("", "MatMul", 1): Taken((1,), rows, _is_long),
    ("", "Gemm", 7): Taken((1, 2), rows, _is_long),
    (OWN, "Linear", 1): Taken((1, 2), rows, _is_long),
    # what reads an image that a call has made, and would else come between two
    ("", "GlobalAveragePool", 1): Taken((), image, _reads_made),
    ("", "AveragePool", 1): Taken((), image, _reads_made),
    ("", "MaxPool", 1): Taken((), image, _reads_made),
    ("", "Mul", 7): Taken((), image, _reads_made),
    ("", "GroupNormalization", 18): Taken((1, 2), image, _reads_made),
    ("", "GroupNormalization", 21): Taken((1, 2), image, _reads_made),
    (MS, "QuickGelu", 1): Taken((), image, _reads_made),
    # what XLA reads several times
    ("", "Attention", 23): Taken((), heads, _is_large),
    ("", "Attention", 24): Taken((), heads, _is_large),
    ("", "LayerNormalization", 17): Taken((), rows, _is_large),
    (MS, "SkipLayerNormalization", 1): Taken((), rows, _is_large),
    ("", "SimplifiedLayerNormalization", 1): Taken((), rows, _is_large),
    (MS, "SkipSimplifiedLayerNormalization", 1): Taken((), rows, _is_large),
}


def before(others: Mapping[Key, Callable[..., Any]]) -> Mapping[Key, Callable[..., Any]]:
    """JAX's operators, and before them the loops, where there are any."""
    cpu = create(CPU)
    if not cpu.compiles_ahead:
        return others
    from ortlite_numpy.compiled import table

    ours = {key: _by_loops(taken, table.OVERRIDES[key]) for key, taken in TAKEN.items()}
    return {**others, **{key: or_default(fn, others[key]) if key in others else fn for key, fn in ours.items()}}


def _by_loops(taken: Taken, fn: Callable[..., Any]) -> Callable[..., Any]:
    """What calls the loops of an operator in a program that XLA compiles; NotImplemented where that does not pay, or
    its weights are no constants.
    """

    def override(xp: Namespace, *inputs: Any, derived: Any = at_once, **attributes: Any) -> Any:
        functions = calls.gathered()
        if functions is None or any(x is not None and str(x.dtype) not in DTYPES for x in inputs):
            return NotImplemented
        known = [None if x is None else constant(x) for x in inputs]
        places = tuple(i for i, x in enumerate(inputs) if x is None or known[i] is not None)
        weights = [i for i in taken.constants if i < len(inputs)]
        if any(i not in places for i in weights) or not taken.pays(functions, inputs, [known[i] for i in weights]):
            return NotImplemented
        if not calls.available():
            return NotImplemented
        operator = derived(Operator, fn, places, tuple(attributes.items()), *(known[i] for i in places))
        return operator(functions, *(x for i, x in enumerate(inputs) if i not in places), order=taken.order)

    override.__name__ = override.__qualname__ = fn.__name__
    return override


class Operator(WithConstants):
    """An operator and its constants, as a function of its other inputs, which are traced."""

    __slots__ = ()

    def __init__(self, fn: Callable[..., Any], places: tuple[int, ...], keywords: Any, *constants: Any):
        super().__init__(fn, places, keywords, [None if x is None else np.asarray(x) for x in constants])

    def __call__(self, functions: calls.Functions, *inputs: Any, order: Order) -> Any:
        free = [place for place in range(len(inputs) + len(self.places)) if place not in self.places]
        orders = [order(place, x.shape) for place, x in zip(free, inputs, strict=True)]
        call = self.recorded([_lying(x, order) for x, order in zip(inputs, orders, strict=True)], orders, order)
        if call is None:
            return NotImplemented
        found = calls.called(call, *(lax.transpose(x, order) for x, order in zip(inputs, orders, strict=True)))
        results = tuple(lax.transpose(y, np.argsort(v.axes)) for y, v in zip(found, call.results, strict=True))
        if order is image:
            functions.made.update((id(y), y) for y in results)
        return (*results, *[None] * call.absent) if len(results) + call.absent > 1 else results[0]

    def recorded(self, examples: Sequence[Any], orders: Sequence[tuple[int, ...]], order: Order) -> Call | None:
        """The calls of NumPy that are left at this signature; None where they do not follow from it."""
        from ortlite_numpy.record import recorded

        given = self.inputs(examples)
        prefix = f"p{next(_prefixes)}"
        names = {place: f"{prefix}v{place}" for place in range(len(given)) if place not in self.places}
        with create(CPU).context():
            found = recorded(self.fn, _asked(), given, self.keywords, names, prefix)
        if found is None or found.results is None:
            return None
        values = [y for y in found.values if y is not None]  # absent ones come last
        if not all(isinstance(y, np.ndarray) for y in values):
            return None
        axes = [_axes(y, order) for y in values]
        results = [_value(*result) for result in zip(found.results, values, axes, strict=False)]
        operands = [_value(*operand) for operand in zip(names.values(), examples, orders, strict=True)]
        homes = [_home(*result) for result in zip(found.homes, results, values, strict=False)]
        return Call(found.lines, found.scope, operands, results, homes, len(found.values) - len(results))


def _lying(x: Any, axes: tuple[int, ...]) -> Any:
    """An array like a traced one, whose axes lie in that order."""
    return np.empty([x.shape[axis] for axis in axes], x.dtype).transpose(np.argsort(axes))


def _axes(x: Any, order: Order) -> tuple[int, ...]:
    """The order in which the axes of an array lie; for axes of one element any will do."""
    if x.transpose(axes := order(0, x.shape)).flags.c_contiguous:
        return axes
    return tuple(sorted(range(x.ndim), key=lambda axis: (-x.strides[axis], axis)))


def _value(name: str, like: Any, axes: tuple[int, ...]) -> Value:
    return Value(name, tuple(like.shape[axis] for axis in axes), like.dtype, axes)


def _home(name: str, value: Value, like: Any) -> tuple[str, tuple[int, ...]]:
    """The array of which a result is all the memory, in the order of it."""
    root = like
    while root.base is not None and root.base.dtype == like.dtype:
        root = root.base
    whole = root.size == like.size and like.transpose(value.axes).flags.c_contiguous
    return (name, root.shape) if whole else ("", ())


def together(
    each: Sequence[tuple[Call, Sequence[int | tuple[int, int]]]], outside: Sequence[tuple[int, int]]
) -> calls.Function:
    """Calls one after the other as one function of addresses.

    With each call stands what its operands are: the number of an operand of all, or of a call before and its result.
    `outside` are the results that are results of all.
    """
    from ortlite_numpy.record import LARGE, written

    scope: dict[str, Any] = {"array": np.ndarray, "empty": np.empty, "aligned": aligned}
    lines: list[tuple[str, str]] = []
    read = {*outside, *(source for _, given in each for source in given if not isinstance(source, int))}

    def at(value: Value, address: str) -> str:
        """Source for the array at an address."""
        memory, form = f"t{len(scope)}", f"f{len(scope)}"
        scope[memory], scope[form] = ctypes.c_char * value.nbytes, (value.shape, value.dtype)
        return f"array(*{form}, {memory}.from_address({address}))"

    for number, (call, given) in enumerate(each):
        scope |= call.scope
        lines += [(name, "team") for name, value in call.scope.items() if value is _asked().team]
        for value, source in zip(call.operands, given, strict=True):
            if isinstance(source, int):
                memory = at(value, f"given[{source}]")
            else:
                memory, (call_before, result) = "m{}_{}".format(*source), source
                if value.shape != each[call_before][0].results[result].shape:
                    memory += f".reshape({value.shape})"
            back = tuple(map(int, np.argsort(value.axes)))
            lines.append((value.name, memory if back == tuple(range(len(back))) else f"{memory}.transpose({back})"))
        homes = {}
        kept = [
            (f"m{number}_{i}", (number, i), value, *home)
            for i, (value, home) in enumerate(zip(call.results, call.homes, strict=True))
            if (number, i) in read
        ]
        for name, place, value, home, shape in kept:
            if place in outside:
                lines.append((name, at(value, f"results[{outside.index(place)}]")))
            else:
                form = f"f{len(scope)}"
                scope[form] = (value.shape, value.dtype)
                large = value.nbytes >= LARGE
                lines.append((name, f"aligned(*{form}, {value.nbytes})" if large else f"empty(*{form})"))
            if home and home not in homes:
                homes[home] = name if shape == value.shape else f"{name}.reshape({shape})"
        lines += [(target, homes.get(target, text)) for target, text in call.lines]
        for name, _, value, home, _ in kept:
            if not home or homes[home].split(".")[0] != name:
                lines.append(("", f"{name}[...] = {value.name}.transpose({value.axes})"))
    made = {target for target, _ in lines if target}
    run, context = written(lines, "given, results, team", "None", made, scope), create(CPU).context

    def function(given: Sequence[int], results: Sequence[int], team: int) -> None:
        with context():
            run(given, results, team)

    return function
