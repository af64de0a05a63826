"""What a few elementwise operators with constants compute, as a polynomial: however an exporter wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from typing import TypeAlias

from ortlite.graph import Node
from ortlite.optimize.view import View

__all__ = ["Polynomial", "alike", "expand"]

# From a product of values, by their names in order, to its factor. () stands for 1.
Polynomial: TypeAlias = dict[tuple[str, ...], float]

DEPTH, TERMS = 8, 6  # how far up, and how many products: what anybody writes a function of one value with
POWERS = 4
OPERATORS = ("Add", "Sub", "Mul", "Div", "Neg", "Pow")
EXACT = {"float64": 1e-9, "float32": 2e-6, "float16": 2e-3, "bfloat16": 2e-2}  # how well constants are rounded


def expand(view: View, name: str) -> Polynomial | None:
    """The value as a polynomial of those that no such operator computes, or that have other readers as well.

    So all of what it is made of goes when it is computed otherwise. None where it is no polynomial, or a large one.
    """
    if name not in view.polynomials:
        node = view.made_by(name, *OPERATORS)
        view.polynomials[name] = {(name,): 1.0} if node is None else _computed(view, node, DEPTH)
    found: Polynomial | None = view.polynomials[name]
    return found


def _expanded(view: View, name: str, depth: int) -> Polynomial:
    node = view.made_by(name, *OPERATORS) if depth and view.alone(name) else None
    found = None if node is None else _computed(view, node, depth)
    return {(name,): 1.0} if found is None else found


def _operand(view: View, name: str, other: str, depth: int) -> Polynomial | None:
    number = view.scalar(name, other)
    if number is not None:
        return {(): number}
    return None if name in view.constants else _expanded(view, name, depth)


def _computed(view: View, node: Node, depth: int) -> Polynomial | None:
    if node.op_type == "Neg":
        return _scaled(_expanded(view, node.inputs[0], depth - 1), -1.0)
    first, second = node.inputs
    a = _operand(view, first, second, depth - 1)
    if node.op_type == "Pow":
        exponent = view.scalar(second, first)
        if a is None or exponent is None or exponent not in range(2, POWERS):
            return None
        return _power(a, int(exponent))
    b = _operand(view, second, first, depth - 1)
    if a is None or b is None:
        return None
    if node.op_type == "Add":
        return _sum(a, b)
    if node.op_type == "Sub":
        return _sum(a, {term: -factor for term, factor in b.items()})
    if node.op_type == "Mul":
        return _product(a, b)
    divisor = b.get((), 0.0)
    return _scaled(a, 1 / divisor) if len(b) == 1 and divisor else None


def _scaled(a: Polynomial | None, factor: float) -> Polynomial | None:
    return None if a is None else {term: value * factor for term, value in a.items()}


def _sum(a: Polynomial, b: Polynomial) -> Polynomial | None:
    total = dict(a)
    for term, factor in b.items():
        total[term] = total.get(term, 0.0) + factor
    return total if len(total) <= TERMS else None


def _product(a: Polynomial, b: Polynomial) -> Polynomial | None:
    total: Polynomial = {}
    for one, factor in a.items():
        for other, second in b.items():
            term = tuple(sorted((*one, *other)))
            total[term] = total.get(term, 0.0) + factor * second
    return total if len(total) <= TERMS and all(len(term) <= POWERS for term in total) else None


def _power(a: Polynomial, exponent: int) -> Polynomial | None:
    result: Polynomial | None = a
    for _ in range(exponent - 1):
        result = None if result is None else _product(result, a)
    return result


def alike(view: View, name: str, found: Polynomial | None, wanted: Mapping[tuple[str, ...], float]) -> bool:
    """Whether two polynomials are the same but for the rounding of constants in the dtype of `name`.

    Factors that are to be equal must be: their products may cancel, and infinity times what is left would be infinity.
    """
    dtype = view.dtype(name)
    if found is None or found.keys() != wanted.keys() or dtype is None:
        return False
    tolerance = EXACT.get(dtype.name, 0.0)
    sizes = {(abs(wanted[term]), abs(factor)) for term, factor in found.items()}
    close = all(isclose(factor, wanted[term], rel_tol=tolerance) for term, factor in found.items())
    return close and len(sizes) == len({abs(factor) for factor in wanted.values()})
