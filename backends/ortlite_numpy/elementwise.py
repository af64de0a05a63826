"""Elementwise functions block by block: many passes over what stays in the cache, in place, shared out to threads.

`blockwise` runs a function of contiguous blocks over arrays of any strides, in the order of their memory. The table has
functions written by hand where passes can be saved, and for the rest the kernels' own bodies, whose intermediates are
blocks then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from math import sqrt
from typing import Any, TypeAlias

from ortlite.namespace import Namespace
from ortlite.ops import activation
from ortlite.ops.helpers import one_of, require_shape
from ortlite.primitives import math as default
from ortlite_numpy.layout import inverse, order_of
from ortlite_numpy.record import numpy as np
from ortlite_numpy.threads import split

__all__ = ["BLOCK", "OVERRIDES", "PRIMITIVES", "blockwise", "rowwise", "swish_fill"]

Fill: TypeAlias = Callable[..., None]  # fill(out, x, *others): writes the block `out`

# Elements that several passes find in the cache. Between two passes a thread needs the GIL, and sleeps where another
# has it: passes over half as many elements take two threads as long as one.
BLOCK = 1 << 16
ROWS = 1 << 17  # of a block of rows: every row costs a pass a little more
LINE = 768  # elements from which on the overhead of a ufunc's inner loop is small
FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}


def dense(x: Any) -> tuple[Any, Any]:
    """`x` in the order of its memory as a vector, and the axes that bring it there; copied where it has gaps."""
    if x.flags.c_contiguous:
        return x.reshape(-1), None
    order = order_of(x)
    turned = x.transpose(order)
    if not turned.flags.c_contiguous:
        return np.ascontiguousarray(x).reshape(-1), None
    return turned.reshape(-1), order


def blockwise(fill: Fill, x: Any, seconds: float, threads: int, *others: Any) -> Any:
    """A new array laid out like `x`, filled block by block from it and `others`, of its shape; `seconds` an element."""
    if x.size <= BLOCK and x.ndim:
        out = np.empty_like(x)
        fill(out, x, *others)
        return out
    flat, order = dense(x)
    more = [(y if order is None else y.transpose(order)).reshape(-1) for y in others]
    out = np.empty_like(flat)

    def some(start: int, stop: int) -> None:
        for i in range(start, stop, BLOCK):
            j = min(i + BLOCK, stop)
            fill(out[i:j], flat[i:j], *(y[i:j] for y in more))

    split(some, out.size, seconds * out.size, threads)
    if order is None:
        return out.reshape(x.shape)
    return out.reshape([x.shape[axis] for axis in order]).transpose(inverse(order))


def rowwise(fill: Fill, rows: Any, outs: Sequence[Any], seconds: float, threads: int) -> None:
    """Fill `outs`, arrays with as many rows, from blocks of `rows` (n, …) of about `ROWS` elements."""
    n = rows.shape[0]
    step = max(ROWS * n // max(rows.size, 1), 1)

    def some(start: int, stop: int) -> None:
        for i in range(start, stop, step):
            j = min(i + step, stop)
            fill(rows[i:j], *(out[i:j] for out in outs))

    split(some, n, seconds * rows.size, threads)


# erf on |x| <= 4 as x · P(x²) / Q(x²), within 4e-8 of it and of its relative size: fitted here by least squares with
# weights that even the error out. In float32 it is within 4e-7, a few units in the last place near 0, and at the edge,
# as the steps round, exactly 1: Gelu is 0 there. The highest power stands first.
ERF_P = (
    0.00023250412553739514, 0.0037585413787873966, 0.05206147936787266, 0.1942354121585189, 1.1283791197520032,
)  # fmt: skip
ERF_Q = (
    -1.0742377929012198e-07, 2.288085639262148e-05, 0.0010920898653877518, 0.014792474977191774, 0.11463403492957742,
    0.5054687763837039, 1.0,
)  # fmt: skip
EDGE = 3.9997


def _scaled(coefficients: tuple[float, ...], scale: float, factor: float = 1.0) -> list[np.float32]:
    """The polynomial of x · `scale` in x², times `factor`."""
    top = len(coefficients) - 1
    return [np.float32(factor * c * scale ** (2 * (top - i))) for i, c in enumerate(coefficients)]


def _horner(out: Any, square: Any, coefficients: Sequence[Any]) -> None:
    np.multiply(square, coefficients[0], out=out)
    out += coefficients[1]
    for c in coefficients[2:]:
        out *= square
        out += c


def _erf(scale: float) -> Callable[..., None]:
    """`out` = erf(`scale` · x) of float32 blocks, but for the last bit not beyond 1; x stays as it is."""
    p, q = _scaled(ERF_P, scale, scale), _scaled(ERF_Q, scale)
    edge = np.float32(EDGE / scale)

    def fill(out: Any, x: Any) -> None:
        held = np.clip(x, -edge, edge)
        square = np.square(held)
        _horner(out, square, p)
        held *= out
        _horner(out, square, q)
        np.divide(held, out, out=out)

    return fill


erf_of_one = _erf(1.0)
erf_of_root = _erf(sqrt(0.5))


def erf_fill(out: Any, x: Any) -> None:
    """The error function of a float32 block."""
    erf_of_one(out, x)
    np.clip(out, np.float32(-1), np.float32(1), out=out)


def gelu_fill(out: Any, x: Any) -> None:
    """X · Φ(X); `out` and `x` may be one block."""
    half = np.empty_like(out)
    erf_of_root(half, x)
    half += 1
    np.multiply(x, np.float32(0.5), out=out)
    out *= half


def _tanh_gelu_fill(out: Any, x: Any) -> None:
    """X · (tanh(√(2/π) · (X + 0.044715 · X³)) + 1) / 2."""
    inner = np.square(x)
    inner *= x.dtype.type(0.044715 * sqrt(2 / np.pi))
    inner += x.dtype.type(sqrt(2 / np.pi))
    inner *= x
    np.tanh(inner, out=inner)
    inner += 1
    np.multiply(x, x.dtype.type(0.5), out=out)
    out *= inner


def sigmoid_fill(out: Any, x: Any) -> None:
    """1 / (1 + e^-x): where the exponential overflows, 0 is right."""
    np.negative(x, out=out)
    np.exp(out, out=out)
    out += 1
    np.reciprocal(out, out=out)


def swish_fill(alpha: float) -> Fill:
    """X / (1 + e^(-`alpha` · X)); `out` and `x` may be one block."""

    def fill(out: Any, x: Any) -> None:
        y = np.multiply(x, x.dtype.type(-alpha))
        np.exp(y, out=y)
        y += 1
        np.divide(x, y, out=out)

    return fill


def erf(xp: Namespace, x: Any) -> Any:
    """A rational approximation in float32; the default body of other dtypes, whose many passes stay in the cache."""
    if x.dtype == np.float32:
        return blockwise(erf_fill, x, 4e-9, xp.threads)
    if x.size <= BLOCK:
        return NotImplemented

    def fill(out: Any, block: Any) -> None:
        out[...] = default.erf(xp, block)

    return blockwise(fill, x, 4e-8, xp.threads)


def sigmoid(xp: Namespace, x: Any) -> Any:
    """In place."""
    return blockwise(sigmoid_fill, x, 3e-9, xp.threads) if x.dtype in FLOATS else NotImplemented


def tanh(xp: Namespace, input: Any) -> Any:
    """On threads."""
    if input.dtype not in FLOATS:
        return NotImplemented
    return blockwise(lambda out, x: np.tanh(x, out=out), input, 3e-9, xp.threads)


def gelu(xp: Namespace, X: Any, *, approximate: str = "none") -> Any:
    """Both kinds, in place; that of float64 by erf is the kernel's."""
    one_of("approximate", approximate, "none", "tanh")
    if approximate == "tanh" and X.dtype in FLOATS:
        return blockwise(_tanh_gelu_fill, X, 5e-9, xp.threads)
    return blockwise(gelu_fill, X, 5e-9, xp.threads) if X.dtype == np.float32 else NotImplemented


def contrib_gelu(xp: Namespace, X: Any) -> Any:
    """As ONNX's."""
    return gelu(xp, X)


def _biased(fill: Fill, x: Any, bias: Any, threads: int) -> Any:
    """`fill` of `x` + `bias`, a vector along the last axis."""
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1]) if x.size else x.reshape(0, max(x.shape[-1], 1))
    out = np.empty_like(rows)

    def both(block: Any, result: Any) -> None:
        fill(result, block + bias)

    rowwise(both, rows, (out,), 5e-9, threads)
    return out.reshape(x.shape)


def bias_gelu(xp: Namespace, A: Any, B: Any) -> Any:
    """The bias is added to every block."""
    require_shape("B", B, A.shape[-1])
    return _biased(gelu_fill, A, B, xp.threads) if A.dtype == B.dtype == np.float32 else NotImplemented


def fast_gelu(xp: Namespace, X: Any, bias: Any = None) -> Any:
    """The bias is added to every block."""
    require_shape("bias", bias, *X.shape[-1:])
    if X.dtype not in FLOATS or (bias is not None and bias.dtype != X.dtype):
        return NotImplemented
    if bias is None:
        return gelu(xp, X, approximate="tanh")
    return _biased(_tanh_gelu_fill, X, bias, xp.threads)


def swish(xp: Namespace, X: Any, *, alpha: float = 1.0) -> Any:
    """X / (1 + e^(-alpha · X))."""
    if X.dtype not in FLOATS:
        return NotImplemented
    return blockwise(swish_fill(alpha), X, 3e-9, xp.threads)


def quick_gelu(xp: Namespace, X: Any, *, alpha: float = 1.702) -> Any:
    """A Swish."""
    return swish(xp, X, alpha=alpha)


def _in_blocks(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel's own body, a block at a time."""

    @wraps(kernel)
    def override(xp: Namespace, x: Any, **attributes: Any) -> Any:
        if x.dtype not in FLOATS or x.size <= BLOCK:
            return NotImplemented

        def fill(out: Any, block: Any) -> None:
            out[...] = kernel(xp, block, **attributes)

        return blockwise(fill, x, 1e-8, xp.threads)

    return override


OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "Gelu", 20): gelu,
    ("", "Swish", 24): swish,
    ("", "Tanh", 1): tanh,
    ("", "Softplus", 1): _in_blocks(activation.softplus),
    ("", "Mish", 18): _in_blocks(activation.mish),
    ("", "Elu", 1): _in_blocks(activation.elu),
    ("", "Selu", 6): _in_blocks(activation.selu),
    ("", "Celu", 12): _in_blocks(activation.celu),
    ("com.microsoft", "Gelu", 1): contrib_gelu,
    ("com.microsoft", "BiasGelu", 1): bias_gelu,
    ("com.microsoft", "FastGelu", 1): fast_gelu,
    ("com.microsoft", "QuickGelu", 1): quick_gelu,
}
PRIMITIVES: dict[str, Callable[..., Any]] = {"erf": erf, "sigmoid": sigmoid}
