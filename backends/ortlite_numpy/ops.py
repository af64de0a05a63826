"""Operators that NumPy does faster, with the signatures of their kernels.

It can write into its own intermediates, and it defines what the standard leaves open: shifts by the width or more,
indices that count from the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops.helpers import one_of
from ortlite_numpy import attention, conv, elementwise, norm, products, quant, recurrent
from ortlite_numpy.record import numpy as np


def bit_shift(xp: Namespace, X: Any, Y: Any, *, direction: str) -> Any:
    """NumPy's shifts by a negative number or by the width and more are ONNX's."""
    one_of("direction", direction, "LEFT", "RIGHT")
    return (np.left_shift if direction == "LEFT" else np.right_shift)(X, Y)


def gather(xp: Namespace, data: Any, indices: Any, *, axis: int = 0) -> Any:
    """NumPy counts negative indices from the end itself, and refuses those out of range, but where nothing is taken."""
    if 0 in data.shape:
        return NotImplemented
    return np.take(data, indices, axis=axis)


def lrn(xp: Namespace, X: Any, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int) -> Any:
    """The window's sum grows in place, channel beside channel, instead of in a new array each time."""
    if size < 1 or X.ndim < 2:
        return NotImplemented
    squares = np.square(X)
    total = squares.copy()
    before = (size - 1) // 2
    for step in range(1, min(size // 2, X.shape[1] - 1) + 1):
        if step <= size - 1 - before:
            total[:, :-step] += squares[:, step:]
        if step <= before:
            total[:, step:] += squares[:, :-step]
    total *= alpha / size
    total += bias
    np.power(total, X.dtype.type(beta), out=total)
    return np.divide(X, total, out=total)


def softsign(xp: Namespace, input: Any) -> Any:
    """One intermediate."""
    y = np.abs(input, out=np.empty_like(input))
    y += 1
    return np.divide(input, y, out=y)


OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "BitShift", 11): bit_shift,
    ("", "Gather", 1): gather,
    ("", "LRN", 1): lrn,
    ("", "Softsign", 1): softsign,
    **attention.OVERRIDES,
    **conv.OVERRIDES,
    **elementwise.OVERRIDES,
    **norm.OVERRIDES,
    **products.OVERRIDES,
    **quant.OVERRIDES,
    **recurrent.OVERRIDES,
}
