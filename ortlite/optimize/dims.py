"""Dimensions of shapes, as far as they are known: numbers, texts, and what is computed with them.

A dimension is a number or a text that stands for one and the same number wherever it occurs: "ids:1" is axis 1 of the
value `ids`. Equal products, sums and quotients are written as equal texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import TypeAlias

__all__ = ["Dim", "Shape", "element_of", "is_same", "length_of", "may_be_negative", "product", "quotient", "total"]

Dim: TypeAlias = "int | str"
Shape: TypeAlias = tuple[Dim, ...]
# Between the factors of a product; those of one inside a quotient or a sum; the terms of a sum; the two of a quotient.
TIMES, INSIDE, PLUS, OVER = "\0", "\1", "\2", "\3"
# A file may give any name to a value: written so, a name has none of the marks, and two names stay two.
_PLAIN = {ord(mark): f"%{ord(mark):02x}" for mark in f"%{TIMES}{INSIDE}{PLUS}{OVER}:()[-"}


def length_of(name: str, axis: int) -> Dim:
    """The length of an axis of a value."""
    return f"{name.translate(_PLAIN)}:{axis}"


def element_of(name: str, index: int) -> Dim:
    """An element of a value, which may be a number of any sign."""
    return f"{name.translate(_PLAIN)}[{index}]"


def product(dims: Sequence[Dim]) -> Dim:
    """The product of dimensions; equal products are written alike."""
    return _written(*_multiplied(dims))


def total(dims: Sequence[Dim]) -> Dim:
    """The sum of dimensions; equal sums of the same terms are written alike."""
    number = sum(d for d in dims if isinstance(d, int))
    symbols = sorted(d for d in dims if isinstance(d, str))
    if not symbols:
        return number
    terms = [*symbols, str(number)] if number else symbols
    return terms[0] if len(terms) == 1 else f"({PLUS.join(terms)})".replace(TIMES, INSIDE)


def quotient(whole: Sequence[Dim], part: Sequence[Dim]) -> Dim:
    """The product of `whole` over that of `part`; equal quotients are written alike."""
    number, symbols = _multiplied(whole)
    divisor, others = _multiplied(part)
    for symbol in tuple(others):
        if symbol in symbols:
            symbols.remove(symbol)
            others.remove(symbol)
    if divisor == 0:
        return 0
    if number % divisor == 0 and not others:
        return _written(number // divisor, symbols)
    shared = gcd(number, divisor)
    return f"({_written(number // shared, symbols)}{OVER}{_written(divisor // shared, others)})".replace(TIMES, INSIDE)


def _multiplied(dims: Sequence[Dim]) -> tuple[int, list[str]]:
    """The number in a product, and its other factors."""
    number, symbols = 1, []
    for dim in dims:
        if isinstance(dim, int):
            number *= dim
            continue
        head, *rest = dim.split(TIMES)
        if head.isdigit():
            number *= int(head)
        else:
            symbols.append(head)
        symbols += rest
    return number, symbols


def _written(number: int, symbols: list[str]) -> Dim:
    if not symbols or number == 0:
        return number
    words = sorted(symbols)
    return TIMES.join(words if number == 1 else [str(number), *words])


def is_same(a: Dim, b: Dim) -> bool | None:
    """Whether two dimensions are equal; None where it is not certain."""
    if a == b or (isinstance(a, int) and isinstance(b, int)):
        return a == b
    number, symbol = (a, b) if isinstance(a, int) else (b, a)
    certain = isinstance(number, int) and number < 0 and isinstance(symbol, str) and not may_be_negative(symbol)
    return False if certain else None


def may_be_negative(symbol: str) -> bool:
    """Whether a text may stand for a number below 0: it is one of no dimension, or is made with negative numbers."""
    before = (TIMES, INSIDE, PLUS, OVER, "(")
    return "[" in symbol or symbol.startswith("-") or any(f"{mark}-" in symbol for mark in before)
