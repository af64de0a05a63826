"""Calls that follow one another in a program become one: what one hands the next never leaves NumPy.

XLA goes from one call to the next in some 10 microseconds, and finds a place for what each makes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from ortlite_jax import calls, loops

__all__ = ["Joined", "joined"]


class Joined(NamedTuple):
    """One call, in place of the equations of several."""

    invars: list[Any]
    outvars: list[Any]
    number: int

    def __call__(self, *given: Any) -> Sequence[Any]:
        """The results, of the handle and the operands."""
        shapes = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in self.outvars]
        return calls.bound(self.number, shapes, *given)


def joined(eqns: Sequence[Any], outvars: Sequence[Any], functions: calls.Functions) -> list[Any]:
    """The equations, in which calls with nothing between them that needs their results are one."""
    eqns = _without_views(eqns, outvars)
    readers = Counter(var for eqn in eqns for var in _variables(eqn.invars))
    readers.update(_variables(outvars))
    order: list[Any] = []
    group: list[Any] = []
    made: set[Any] = set()  # by the calls of the group
    for eqn in eqns:
        if _is_call(eqn):
            group.append(eqn)
            made.update(eqn.outvars)
            continue
        if not made.isdisjoint(_variables(eqn.invars)):
            order.append(_one(group, readers, functions))
            group, made = [], set()
        order.append(eqn)  # before the calls that follow, which may need it
    return [*order, _one(group, readers, functions)] if group else order


def _is_call(eqn: Any) -> bool:
    return eqn.primitive.name == "ffi_call" and bool(eqn.params["target_name"] == calls.TARGET)


def _without_views(eqns: Sequence[Any], outvars: Sequence[Any]) -> list[Any]:
    """The equations, in which a call reads what another has made under its first name.

    In between, the same memory is called otherwise: rows become heads side by side, which change places with the rows
    and, as a call reads them in the order in which they lie, change back.
    """
    views: dict[Any, tuple[Any, tuple[int, ...]]] = {}  # the variable that has the memory, and in which order the axes
    found: list[tuple[Any, bool]] = []  # equations, and whether each only makes a view
    for eqn in eqns:
        if _is_call(eqn):
            same = [views[var][0] if var in views and _in_order(views[var][1]) else var for var in eqn.invars]
            found.append((eqn.replace(invars=same), False))
            views.update((var, (var, tuple(range(var.aval.ndim)))) for var in eqn.outvars)
            continue
        view = _view(eqn, views)
        found.append((eqn, view is not None))
        if view is not None:
            views[eqn.outvars[0]] = view
    needed, left = {*_variables(outvars)}, []
    for eqn, is_view in reversed(found):
        if not is_view or eqn.outvars[0] in needed:
            needed.update(_variables(eqn.invars))
            left.append(eqn)
    return left[::-1]


def _view(eqn: Any, views: Mapping[Any, tuple[Any, tuple[int, ...]]]) -> tuple[Any, tuple[int, ...]] | None:
    """What an equation makes of a view, if that is another one."""
    if eqn.primitive.name not in {"transpose", "reshape"}:
        return None
    source = eqn.invars[0]
    if isinstance(source, core.Literal) or source not in views:  # a number has no hash
        return None
    var, axes = views[source]
    if eqn.primitive.name == "transpose":
        return var, tuple(axes[axis] for axis in eqn.params["permutation"])
    if eqn.params["dimensions"] is None and _in_order(axes):
        return var, tuple(range(eqn.outvars[0].aval.ndim))
    return None


def _in_order(axes: Sequence[int]) -> bool:
    return tuple(axes) == tuple(range(len(axes)))


def _variables(values: Sequence[Any]) -> Iterator[Any]:
    return (value for value in values if not isinstance(value, core.Literal))


def _one(group: Sequence[Any], readers: Counter[Any], functions: calls.Functions) -> Joined:
    places = {var: (number, i) for number, eqn in enumerate(group) for i, var in enumerate(eqn.outvars)}
    operands = [eqn.invars[1:] for eqn in group]  # behind the handle, which is the same in all
    inside = Counter(var for each in operands for var in each if var in places)
    given = list(dict.fromkeys(var for each in operands for var in each if var not in places))
    wanted = [var for var in places if readers[var] > inside[var]]
    wanted_calls = [functions.wanted[int(dict(eqn.params["attributes"])["number"])] for eqn in group]
    sources = [[places[var] if var in places else given.index(var) for var in each] for each in operands]
    function = loops.together(list(zip(wanted_calls, sources, strict=True)), [places[var] for var in wanted])
    return Joined([group[0].invars[0], *given], wanted, functions.add(function))
