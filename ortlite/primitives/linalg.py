"""Products and sums over axes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from ortlite.primitives.base import Namespace

__all__ = ["einsum", "integer_matmul", "softmax"]


def softmax(xp: Namespace, x: Any, axis: int) -> Any:
    """e^x over its sum along `axis`, shifted by the maximum; a slice of -inf alone gives NaN."""
    if 0 in x.shape:
        return x
    weights = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
    return weights / xp.sum(weights, axis=axis, keepdims=True, dtype=weights.dtype)


def integer_matmul(xp: Namespace, a: Any, b: Any, dtype: Any) -> Any:
    """The product of two integer arrays, exact modulo the width of `dtype`, in which it is accumulated."""
    return xp.matmul(xp.astype(a, dtype), xp.astype(b, dtype))


def einsum(xp: Namespace, equation: str, *operands: Any) -> Any:
    """Einstein summation: one product of matrices for each operand after the first.

    `equation` names the axes of every operand, "->" those of the result (default: those that occur once, in order);
    "..." stands for the axes that broadcast. Raises ValueError for an equation that does not fit the operands.
    """
    terms, result = _parse(equation, [x.ndim for x in operands])
    _require_sizes(equation, terms, operands)
    left, x = _diagonal(xp, terms[0], operands[0])
    for index in range(1, len(operands)):
        right, y = _diagonal(xp, terms[index], operands[index])
        needed = set(result).union(*map(set, terms[index + 1 :]))
        left, x = _product(xp, left, x, right, y, needed)
    summed = tuple(i for i, axis in enumerate(left) if axis not in result)
    if summed:
        x = xp.sum(x, axis=summed, dtype=x.dtype)
        left = [axis for axis in left if axis in result]
    return xp.permute_dims(x, tuple(left.index(axis) for axis in result))


Axis = str | int


def _parse(equation: str, ranks: list[int]) -> tuple[list[list[Axis]], list[Axis]]:
    """Axes of each operand and of the result; those of an ellipsis are numbered from the right."""
    text = equation.replace(" ", "")
    given, arrow, wanted = text.partition("->")
    words = given.split(",")
    if len(words) != len(ranks):
        raise ValueError(f"einsum {equation!r} is for {len(words)} operands, not {len(ranks)}")
    terms: list[list[Axis]] = []
    widest = 0
    for word, rank in zip(words, ranks, strict=True):
        before, dots, after = word.partition("...")
        extra = rank - len(before) - len(after)
        if extra < 0 or (extra and not dots):
            raise ValueError(f"einsum {equation!r}: {word!r} does not name the axes of an operand of rank {rank}")
        widest = max(widest, extra)
        terms.append([*before, *range(-extra, 0), *after])
    dotted: list[Axis] = list(range(-widest, 0))
    letters = sorted(set("".join(words).replace(".", "")))
    if not arrow:
        return terms, [*dotted, *(c for c in letters if "".join(words).count(c) == 1)]
    before, dots, after = wanted.partition("...")
    result: list[Axis] = [*before, *(dotted if dots else ()), *after]
    if unknown := set(before + after) - set(letters):
        raise ValueError(f"einsum {equation!r}: no operand has the axes {sorted(unknown)}")
    if len(set(result)) != len(result):
        raise ValueError(f"einsum {equation!r}: the result has an axis twice")
    return terms, result


def _require_sizes(equation: str, terms: list[list[Axis]], operands: Sequence[Any]) -> None:
    """Raises ValueError where one name stands for axes of different lengths, 1 aside, or of any in one operand."""
    sizes: dict[Axis, int] = {}
    for term, x in zip(terms, operands, strict=True):
        own: dict[Axis, int] = {}
        for axis, n in zip(term, x.shape, strict=True):
            wanted = sizes.get(axis, 1)
            if own.setdefault(axis, n) != n or (n != wanted and 1 not in {n, wanted}):
                shapes = ", ".join(str(list(y.shape)) for y in operands)
                raise ValueError(f"einsum {equation!r}: the axis {axis!r} has different lengths in {shapes}")
            sizes[axis] = n if wanted == 1 else wanted


def _diagonal(xp: Namespace, axes: list[Axis], x: Any) -> tuple[list[Axis], Any]:
    """Take the diagonal over axes with one name."""
    axes = list(axes)
    for name in dict.fromkeys(axes):
        while axes.count(name) > 1:
            first = axes.index(name)
            second = axes.index(name, first + 1)
            size = x.shape[first]
            rest = [i for i in range(x.ndim) if i not in {first, second}]
            x = xp.permute_dims(x, (*rest, first, second))
            x = xp.reshape(x, (*x.shape[:-2], size * size))[..., :: size + 1]
            axes = [axes[i] for i in rest] + [name]
    return axes, x


def _product(
    xp: Namespace, left: list[Axis], x: Any, right: list[Axis], y: Any, needed: set[Axis]
) -> tuple[list[Axis], Any]:
    """Multiply two operands and sum the axes that nothing needs afterwards, as one batched matrix product."""
    left, x = _sum_lonely(xp, left, x, needed.union(right))
    right, y = _sum_lonely(xp, right, y, needed.union(left))
    shared = [axis for axis in left if axis in right]
    # an axis of length 1 on one side broadcasts: it cannot be contracted by a product
    broadcast = {a for a in shared if x.shape[left.index(a)] != y.shape[right.index(a)]}
    contracted = [a for a in shared if a not in needed and a not in broadcast]
    batch = [a for a in shared if a not in contracted]
    rows, columns = [a for a in left if a not in shared], [a for a in right if a not in shared]
    x = xp.permute_dims(x, tuple(left.index(a) for a in (*batch, *rows, *contracted)))
    y = xp.permute_dims(y, tuple(right.index(a) for a in (*batch, *contracted, *columns)))
    n, r = len(batch), len(rows)
    row_shape, column_shape = x.shape[n : n + r], y.shape[n + len(contracted) :]
    inner = prod(x.shape[n + r :])
    a = xp.reshape(x, (*x.shape[:n], prod(row_shape), inner))
    b = xp.reshape(y, (*y.shape[:n], inner, prod(column_shape)))
    z = (
        xp.matmul(a, b)
        if xp.isdtype(a.dtype, ("real floating", "complex floating"))
        else xp.integer_matmul(a, b, a.dtype)
    )
    z = xp.reshape(z, (*z.shape[:n], *row_shape, *column_shape))
    axes = [*batch, *rows, *columns]
    return _sum_lonely(xp, axes, z, needed)


def _sum_lonely(xp: Namespace, axes: list[Axis], x: Any, needed: set[Axis]) -> tuple[list[Axis], Any]:
    """Sum over axes that neither the other operand nor anything later needs."""
    lonely = tuple(i for i, axis in enumerate(axes) if axis not in needed)
    if not lonely:
        return axes, x
    return [a for a in axes if a in needed], xp.sum(x, axis=lonely, dtype=x.dtype)
