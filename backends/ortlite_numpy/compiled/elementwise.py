"""Activations in float32 in one pass, where NumPy takes several: memory is read and written once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ortlite.derived import at_once
from ortlite_numpy.compiled import functions
from ortlite_numpy.compiled.jit import Loops, alone, loops, own, owned, share, wide, with_names
from ortlite_numpy.compiled.table import FLOATS, Call, override
from ortlite_numpy.record import numpy as np

MS = "com.microsoft"
MANY = 512  # elements from which on our hyperbolic tangent is faster than NumPy's
ELEMENT = 1.2e-9  # seconds
PIXELS = 1 << 13  # elements of images from which on a kernel for their channels pays
F = np.float32


def function(x: Any, a: Any = None, b: Any = None) -> Any:
    """Stands for the function of the element in the kernels below."""


@loops()
def each(x, y, start, stop):
    """Y = function(x). (The indices are those of parts: numbers that may be negative would cost a test each.)"""
    wide()
    part, result = x[start:stop], y[start:stop]
    for i in range(result.size):
        result[i] = function(part[i])


@loops()
def each_by(x, y, a, b, start, stop):
    """Y = function(x, a, b)."""
    wide()
    p, q = F(a), F(b)
    part, result = x[start:stop], y[start:stop]
    for i in range(result.size):
        result[i] = function(part[i], p, q)


@loops()
def each_biased(x, bias, y, start, stop):
    """Y = function(x + bias) for rows [start, stop) as long as the bias."""
    n = bias.size
    for r in range(start, stop):
        part, result = x[r * n : (r + 1) * n], y[r * n : (r + 1) * n]
        for i in range(result.size):
            result[i] = part[i] + bias[i]
        one_by_one(result)


@loops()
def one_by_one(y):
    """Y = function(y)."""
    alone()
    wide()
    for i in range(y.size):
        y[i] = function(y[i])


@loops()
def scale_channels(x, scale, pixels, y, start, stop):
    """Pixels [start, stop) of x (N · pixels, C) times what `scale` (N, C) has for the channels of their image."""
    for r in range(start, stop):
        row, factors, result = x[r], scale[r // pixels], y[r]
        for c in range(result.size):
            result[c] = row[c] * factors[c]


def _kernels(kernel: Loops, *names: str) -> dict[str, Loops]:
    name = kernel.python.__name__
    return {n: with_names(kernel, f"{name}_{n}", function=getattr(functions, n)) for n in names}


EACH = _kernels(each, "gelu", "fast_gelu", "hard_swish", "mish", "sigmoid", "softplus", "tanh", "erf")
EACH_BY = _kernels(each_by, "celu", "elu", "hard_sigmoid", "swish")
BIASED = {
    name: with_names(each_biased, f"each_biased_{name}", one_by_one=kernel)
    for name, kernel in _kernels(one_by_one, "gelu", "fast_gelu").items()
}


def mapped(xp: Any, kernel: Any, x: Any, *numbers: float) -> Any:
    """The kernel over all elements of `x`, whose layout in memory the result shares."""
    if x.dtype.char != "f" or not x.ndim:
        return NotImplemented
    if not x.flags.c_contiguous:
        return _mapped(xp, kernel, x, *numbers)
    x = own(x)
    size = x.size
    y = np.empty(size, F)
    share(xp, kernel, (x.ravel(), y, *numbers), size, size * ELEMENT)
    return y.reshape(x.shape)


def _mapped(xp: Any, kernel: Any, x: Any, *numbers: float) -> Any:
    """The same for other layouts: axes in the order of memory, such as channels last, stay so."""
    axes = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    dense = own(x.transpose(axes))
    y = np.empty_like(dense)
    share(xp, kernel, (dense.ravel(), y.reshape(-1), *numbers), x.size, x.size * ELEMENT)
    return y.transpose(np.argsort(axes))


def _one(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.linspace(-3, 3, 4, dtype=dtype),), {}


def _two(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.linspace(-3, 3, 4, dtype=dtype), np.ones(4, dtype)), {}


def _gelus(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    for how in (
        [attributes["approximate"]] if "approximate" in attributes else ["none", "tanh"] if not attributes else []
    ):
        yield (np.linspace(-3, 3, 4, dtype=dtype),), {"approximate": how}
    if attributes and "approximate" not in attributes:
        yield (np.linspace(-3, 3, 4, dtype=dtype),), {}


def _channels(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    yield (np.zeros((1, 8, 8, 1024), dtype).transpose(0, 3, 1, 2), np.zeros((1, 1024, 1, 1), dtype)), {}


@override("Mul", since=7, examples=_channels, dtypes=FLOATS)
def mul(xp: Any, A: Any, B: Any) -> Any:
    """Of images with channels last and one number a channel, for which NumPy makes a loop of every pixel."""
    x, scale = (A, B) if A.size >= B.size else (B, A)
    if x.size < PIXELS or x.ndim < 3 or x.dtype.char not in "fd" or scale.dtype != x.dtype or x.flags.c_contiguous:
        return NotImplemented
    n, channels = x.shape[:2]
    if scale.shape != (n, channels, *(1,) * (x.ndim - 2)) or x.shape == scale.shape:
        return NotImplemented
    last = np.moveaxis(x, 1, -1)
    if not last.flags.c_contiguous:
        return NotImplemented
    y = np.empty(last.shape, x.dtype)
    rows = x.size // channels
    args = (own(last).reshape(rows, channels), own(scale).reshape(n, channels), rows // n, y.reshape(rows, channels))
    share(xp, scale_channels, args, rows, x.size * ELEMENT / 2)
    return np.moveaxis(y, -1, 1)


@override("Sigmoid", examples=_one)
def sigmoid(xp: Any, X: Any) -> Any:
    """In one pass."""
    return mapped(xp, EACH["sigmoid"], X)


@override("Tanh", examples=lambda dtype, attributes: [((np.zeros(MANY, dtype),), {})])
def tanh(xp: Any, input: Any) -> Any:
    """In one pass; NumPy's own is as good for few elements."""
    return mapped(xp, EACH["tanh"], input) if input.size >= MANY else NotImplemented


@override("Erf", since=9, examples=_one)
def erf(xp: Any, input: Any) -> Any:
    """In one pass."""
    return mapped(xp, EACH["erf"], input)


@override("Softplus", examples=_one)
def softplus(xp: Any, X: Any) -> Any:
    """In one pass."""
    return mapped(xp, EACH["softplus"], X)


@override("Mish", since=18, examples=_one)
def mish(xp: Any, X: Any) -> Any:
    """In one pass."""
    return mapped(xp, EACH["mish"], X)


@override("HardSwish", since=14, examples=_one)
def hard_swish(xp: Any, X: Any) -> Any:
    """In one pass."""
    return mapped(xp, EACH["hard_swish"], X)


@override("HardSigmoid", examples=_one)
def hard_sigmoid(xp: Any, X: Any, *, alpha: float = 0.2, beta: float = 0.5) -> Any:
    """In one pass."""
    return mapped(xp, EACH_BY["hard_sigmoid"], X, float(alpha), float(beta))


@override("Elu", examples=_one)
def elu(xp: Any, X: Any, *, alpha: float = 1.0) -> Any:
    """In one pass."""
    return mapped(xp, EACH_BY["elu"], X, float(alpha), 1.0)


@override("Selu", since=6, examples=_one)
def selu(xp: Any, X: Any, *, alpha: float = 1.6732631921768188, gamma: float = 1.0507010221481323) -> Any:
    """In one pass."""
    return mapped(xp, EACH_BY["elu"], X, float(alpha), float(gamma))


@override("Celu", since=12, examples=_one)
def celu(xp: Any, X: Any, *, alpha: float = 1.0) -> Any:
    """In one pass."""
    return mapped(xp, EACH_BY["celu"], X, float(alpha), 0.0) if alpha > 0 else NotImplemented


@override("Swish", since=24, examples=_one)
def swish(xp: Any, X: Any, *, alpha: float = 1.0) -> Any:
    """In one pass."""
    return mapped(xp, EACH_BY["swish"], X, float(alpha), 0.0)


@override((MS, "QuickGelu", 1), examples=_one)
def quick_gelu(xp: Any, X: Any, *, alpha: float = 1.702) -> Any:
    """In one pass."""
    return mapped(xp, EACH_BY["swish"], X, float(alpha), 0.0)


@override("Gelu", since=20, examples=_gelus)
def gelu(xp: Any, X: Any, *, approximate: str = "none") -> Any:
    """In one pass."""
    if approximate not in {"none", "tanh"}:
        return NotImplemented
    return mapped(xp, EACH["gelu" if approximate == "none" else "fast_gelu"], X)


@override((MS, "Gelu", 1), examples=_one)
def gelu_1(xp: Any, X: Any) -> Any:
    """In one pass."""
    return mapped(xp, EACH["gelu"], X)


def biased(xp: Any, name: str, x: Any, bias: Any, derived: Any) -> Any:
    """The kernel of x + bias, a vector along the last axis."""
    if x.dtype.char != "f" or bias.dtype.char != "f" or not x.size or bias.shape != x.shape[-1:]:
        return NotImplemented
    x = own(x)
    y = np.empty(x.size, F)
    share(xp, BIASED[name], (x.ravel(), owned(bias, derived), y), x.size // bias.size, x.size * ELEMENT)
    return y.reshape(x.shape)


@override((MS, "BiasGelu", 1), examples=_two)
def bias_gelu(xp: Any, A: Any, B: Any, *, derived: Any = at_once) -> Any:
    """In one pass."""
    return biased(xp, "gelu", A, B, derived)


@override((MS, "FastGelu", 1), examples=lambda dtype, attributes: (*_one(dtype, attributes), *_two(dtype, attributes)))
def fast_gelu(xp: Any, X: Any, bias: Any = None, *, derived: Any = at_once) -> Any:
    """In one pass."""
    return mapped(xp, EACH["fast_gelu"], X) if bias is None else biased(xp, "fast_gelu", X, bias, derived)
