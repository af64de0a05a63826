"""Elementwise arithmetic: unary functions, binary arithmetic with broadcasting, and n-ary sums and extrema."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod
from typing import Any

from ortlite.dtypes import DType
from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Flag, Float, Int, Text
from ortlite.ops.helpers import aligned, normal_axis, one_of, wide_integers
from ortlite.ops.registry import op


@op("Abs", views=True)
def abs_(xp: Namespace, X: Array) -> Array:
    """|`X`|; the most negative integer stays what it is, as in two's complement."""
    return X if xp.isdtype(X.dtype, "unsigned integer") else xp.abs(X)


@op("Neg")
def neg(xp: Namespace, X: Array) -> Array:
    """-`X`."""
    return xp.negative(X)


@op("Sign", since=9)
def sign(xp: Namespace, input: Array) -> Array:
    """-1, 0 or 1; NaN stays NaN."""
    return xp.sign(input)


@op("Ceil")
def ceil(xp: Namespace, X: Array) -> Array:
    """The smallest integer not below `X`."""
    return xp.ceil(X)


@op("Floor")
def floor(xp: Namespace, X: Array) -> Array:
    """The largest integer not above `X`."""
    return xp.floor(X)


@op("Round", since=11)
def round_(xp: Namespace, X: Array) -> Array:
    """The nearest integer, halves to even."""
    return xp.round(X)


@op("Reciprocal")
def reciprocal(xp: Namespace, X: Array) -> Array:
    """1 / `X`."""
    return 1.0 / X


@op("Sqrt")
def sqrt(xp: Namespace, X: Array) -> Array:
    """Square root; NaN below 0."""
    return xp.sqrt(X)


@op("Exp")
def exp(xp: Namespace, input: Array) -> Array:
    """E to the power `input`."""
    return xp.exp(input)


@op("Log")
def log(xp: Namespace, input: Array) -> Array:
    """Natural logarithm."""
    return xp.log(input)


@op("Erf", since=9, needs=wide_integers)
def erf(xp: Namespace, input: Array) -> Array:
    """The error function; an integer's is truncated to an integer."""
    if xp.isdtype(input.dtype, "real floating"):
        return xp.erf(input)
    return xp.astype(xp.erf(xp.astype(input, xp.float64)), input.dtype)


@op("Sin", since=7)
def sin(xp: Namespace, input: Array) -> Array:
    """Sine of radians."""
    return xp.sin(input)


@op("Cos", since=7)
def cos(xp: Namespace, input: Array) -> Array:
    """Cosine of radians."""
    return xp.cos(input)


@op("Tan", since=7)
def tan(xp: Namespace, input: Array) -> Array:
    """Tangent of radians."""
    return xp.tan(input)


@op("Asin", since=7)
def asin(xp: Namespace, input: Array) -> Array:
    """Arcsine, in radians."""
    return xp.asin(input)


@op("Acos", since=7)
def acos(xp: Namespace, input: Array) -> Array:
    """Arccosine, in radians."""
    return xp.acos(input)


@op("Atan", since=7)
def atan(xp: Namespace, input: Array) -> Array:
    """Arctangent, in radians."""
    return xp.atan(input)


@op("Sinh", since=9)
def sinh(xp: Namespace, input: Array) -> Array:
    """Hyperbolic sine."""
    return xp.sinh(input)


@op("Cosh", since=9)
def cosh(xp: Namespace, input: Array) -> Array:
    """Hyperbolic cosine."""
    return xp.cosh(input)


@op("Asinh", since=9)
def asinh(xp: Namespace, input: Array) -> Array:
    """Inverse hyperbolic sine."""
    return xp.asinh(input)


@op("Acosh", since=9)
def acosh(xp: Namespace, input: Array) -> Array:
    """Inverse hyperbolic cosine."""
    return xp.acosh(input)


@op("Atanh", since=9)
def atanh(xp: Namespace, input: Array) -> Array:
    """Inverse hyperbolic tangent."""
    return xp.atanh(input)


@op("IsNaN", since=9)
def isnan(xp: Namespace, X: Array) -> Array:
    """Where `X` is not a number."""
    return xp.isnan(X)


@op("IsInf", since=10)
def isinf(xp: Namespace, X: Array, *, detect_negative: Flag = 1, detect_positive: Flag = 1) -> Array:
    """Where `X` is infinite, of the signs asked for."""
    if detect_negative and detect_positive:
        return xp.isinf(X)
    if detect_negative or detect_positive:
        return xp.isinf(X) & ((X > 0) if detect_positive else (X < 0))
    return xp.zeros_like(X, dtype=xp.bool)


@op("Add", since=7)
def add(xp: Namespace, A: Array, B: Array) -> Array:
    """`A` + `B`, broadcast; integers wrap."""
    return xp.add(A, B)


@op("Sub", since=7)
def sub(xp: Namespace, A: Array, B: Array) -> Array:
    """`A` - `B`, broadcast; integers wrap."""
    return xp.subtract(A, B)


@op("Mul", since=7)
def mul(xp: Namespace, A: Array, B: Array) -> Array:
    """`A` · `B`, broadcast; integers wrap."""
    return xp.multiply(A, B)


@op("Div", since=7)
def div(xp: Namespace, A: Array, B: Array) -> Array:
    """`A` / `B`, broadcast; integer quotients are truncated towards zero.

    The most negative integer by -1 is itself, as in two's complement. Raises ValueError for an integer divisor of 0.
    """
    if not xp.isdtype(A.dtype, "integral"):
        return xp.divide(A, B)
    require_divisor(xp, B)
    return xp.trunc_divide(A, B)


def require_divisor(xp: Namespace, B: Array) -> None:
    """Raises ValueError where an integer divisor is 0 and can be read: integers have no infinity to answer with."""
    if xp.isdtype(B.dtype, "integral") and xp.readable(B) and bool(xp.any(B == 0)):
        raise ValueError("integer division by zero: the divisor B holds a 0")


@op("Add")
def add_1(xp: Namespace, A: Array, B: Array, *, axis: Int | None = None, broadcast: Flag = 0) -> Array:
    """`A` + `B`; below opset 7 `B` is broadcast only on request, from `axis` on."""
    return add(xp, A, aligned(xp, A, B, axis, broadcast))


@op("Sub")
def sub_1(xp: Namespace, A: Array, B: Array, *, axis: Int | None = None, broadcast: Flag = 0) -> Array:
    """`A` - `B`; below opset 7 `B` is broadcast only on request, from `axis` on."""
    return sub(xp, A, aligned(xp, A, B, axis, broadcast))


@op("Mul")
def mul_1(xp: Namespace, A: Array, B: Array, *, axis: Int | None = None, broadcast: Flag = 0) -> Array:
    """`A` · `B`; below opset 7 `B` is broadcast only on request, from `axis` on."""
    return mul(xp, A, aligned(xp, A, B, axis, broadcast))


@op("Div")
def div_1(xp: Namespace, A: Array, B: Array, *, axis: Int | None = None, broadcast: Flag = 0) -> Array:
    """`A` / `B`; below opset 7 `B` is broadcast only on request, from `axis` on."""
    return div(xp, A, aligned(xp, A, B, axis, broadcast))


@op("Mod", since=10)
def mod(xp: Namespace, A: Array, B: Array, *, fmod: Flag = 0) -> Array:
    """Remainder of `A` / `B`: the sign of `B` (Python's), or with `fmod` that of `A` (C's).

    Raises ValueError for an integer divisor of 0.
    """
    require_divisor(xp, B)
    return xp.fmod(A, B) if fmod else xp.remainder(A, B)


def _powers_of_integers(dtypes: Sequence[DType | None]) -> tuple[str, ...]:
    """Integers to other than integer powers are computed in float64."""
    kinds = [dtype.kind in "iu" for dtype in dtypes[:2] if dtype is not None]
    return ("float64",) if kinds[:1] == [True] and not all(kinds) else ()


@op("Pow", since=7, needs=_powers_of_integers)
def pow_(xp: Namespace, X: Array, Y: Array) -> Array:
    """`X` to the power `Y`, broadcast, in the dtype of `X`.

    Dtypes may differ from opset 12 on. An integer to a negative or fractional power is truncated.
    """
    if X.dtype == Y.dtype and xp.isdtype(X.dtype, "real floating"):
        return xp.pow(X, Y)
    if xp.isdtype(X.dtype, "integral") and xp.isdtype(Y.dtype, "integral"):
        base, exponent = xp.astype(X, xp.int64), xp.astype(Y, xp.int64)
        power = xp.pow(base, xp.where(exponent < 0, xp.zeros_like(exponent), exponent))
        # 1 / X^|Y| truncates to 0, except for the units 1 and -1
        odd = xp.remainder(exponent, xp.asarray(2, dtype=xp.int64)) != 0
        unit = xp.where(base == -1, xp.where(odd, base, -base), xp.astype(base == 1, xp.int64))
        return xp.astype(xp.where(exponent < 0, unit, power), X.dtype)
    wide = X.dtype if xp.isdtype(X.dtype, "real floating") else xp.float64
    return xp.astype(xp.pow(xp.astype(X, wide), xp.astype(Y, wide)), X.dtype)


@op("Pow", needs=_powers_of_integers)
def pow_1(xp: Namespace, X: Array, Y: Array, *, axis: Int | None = None, broadcast: Flag = 0) -> Array:
    """`X` to the power `Y`; below opset 7 `Y` is broadcast only on request, from `axis` on."""
    return pow_(xp, X, aligned(xp, X, Y, axis, broadcast))


def _equal_shapes(arrays: tuple[Array, ...]) -> None:
    if any(a.shape != arrays[0].shape for a in arrays):
        raise ValueError(f"below opset 8 all inputs must have one shape, not {[tuple(a.shape) for a in arrays]}")


@op("Sum", since=8, views=True)
def sum_(xp: Namespace, *data_0: Array) -> Array:
    """The sum of all inputs, broadcast."""
    return reduce(xp.add, data_0)


@op("Mean", since=8)
def mean(xp: Namespace, *data_0: Array) -> Array:
    """The mean of all inputs, broadcast."""
    return reduce(xp.add, data_0) / len(data_0)


@op("Max", since=8, views=True)
def max_(xp: Namespace, *data_0: Array) -> Array:
    """The largest of all inputs, broadcast; NaN wins."""
    return reduce(xp.maximum, data_0)


@op("Min", since=8, views=True)
def min_(xp: Namespace, *data_0: Array) -> Array:
    """The smallest of all inputs, broadcast; NaN wins."""
    return reduce(xp.minimum, data_0)


@op("Sum", views=True)
def sum_1(xp: Namespace, *data_0: Array) -> Array:
    """The sum of all inputs, which have one shape."""
    _equal_shapes(data_0)
    return sum_(xp, *data_0)


@op("Mean")
def mean_1(xp: Namespace, *data_0: Array) -> Array:
    """The mean of all inputs, which have one shape."""
    _equal_shapes(data_0)
    return mean(xp, *data_0)


@op("Max", views=True)
def max_1(xp: Namespace, *data_0: Array) -> Array:
    """The largest of all inputs, which have one shape."""
    _equal_shapes(data_0)
    return max_(xp, *data_0)


@op("Min", views=True)
def min_1(xp: Namespace, *data_0: Array) -> Array:
    """The smallest of all inputs, which have one shape."""
    _equal_shapes(data_0)
    return min_(xp, *data_0)


@op("Clip", since=11, views=True)
def clip(xp: Namespace, input: Array, min: Array | None = None, max: Array | None = None) -> Array:
    """`input` held between `min` and `max`, scalars; where `min` is above `max`, `max` wins. NaN stays."""
    for name, bound in (("min", min), ("max", max)):
        if bound is not None and prod(bound.shape) != 1:
            raise ValueError(f"{name} must be a scalar, not of shape {list(bound.shape)}")
    low, high = (None if bound is None else xp.reshape(bound, ()) for bound in (min, max))
    if low is not None and high is not None:
        low = xp.minimum(low, high)
    return input if low is None and high is None else xp.clip(input, low, high)


@op("Clip", views=True)
def clip_1(xp: Namespace, input: Array, *, min: Float | None = None, max: Float | None = None) -> Array:
    """`input` held between the attributes `min` and `max`."""
    return clip(xp, input, _scalar(xp, min, input), _scalar(xp, max, input))


@op("Clip", since=6)
def clip_6(
    xp: Namespace, input: Array, *, min: Float = -3.4028234663852886e38, max: Float = 3.4028234663852886e38
) -> Array:
    """`input` held between the attributes `min` and `max`, by default the range of float32."""
    return clip_1(xp, input, min=min, max=max)


def _scalar(xp: Namespace, value: float | None, like: Array) -> Any:
    return None if value is None else xp.asarray(value, dtype=like.dtype)


@op("BitShift", since=11)
def bit_shift(xp: Namespace, X: Array, Y: Array, *, direction: Text) -> Array:
    """`X` shifted by `Y` bits, `direction` "LEFT" or "RIGHT".

    A shift by a negative number of bits or by the width or more gives 0, to the right of a negative `X` -1.
    """
    one_of("direction", direction, "LEFT", "RIGHT")
    width = xp.iinfo(X.dtype).bits
    inside = (Y >= 0) & (width > Y) if _signed(xp, Y) else width > Y
    bits = xp.where(inside, Y, xp.zeros_like(Y))
    if direction == "LEFT":
        shifted, beyond = xp.bitwise_left_shift(X, bits), xp.zeros_like(X)
    else:
        shifted = xp.bitwise_right_shift(X, bits)
        beyond = xp.where(X < 0, xp.full_like(X, -1), xp.zeros_like(X)) if _signed(xp, X) else xp.zeros_like(X)
    return xp.where(inside, shifted, beyond)


def _signed(xp: Namespace, x: Array) -> bool:
    return bool(xp.isdtype(x.dtype, "signed integer"))


@op("BitwiseAnd", since=18)
def bitwise_and(xp: Namespace, A: Array, B: Array) -> Array:
    """`A` & `B`, broadcast."""
    return xp.bitwise_and(A, B)


@op("BitwiseOr", since=18)
def bitwise_or(xp: Namespace, A: Array, B: Array) -> Array:
    """`A` | `B`, broadcast."""
    return xp.bitwise_or(A, B)


@op("BitwiseXor", since=18)
def bitwise_xor(xp: Namespace, A: Array, B: Array) -> Array:
    """`A` ^ `B`, broadcast."""
    return xp.bitwise_xor(A, B)


@op("BitwiseNot", since=18)
def bitwise_not(xp: Namespace, X: Array) -> Array:
    """~`X`."""
    return xp.bitwise_invert(X)


def _cumulative(xp: Namespace, x: Array, axis: int, exclusive: int, reverse: int, fold: str, neutral: int) -> Array:
    """A running sum or product along `axis`, from the end or without the element itself on request."""
    axis = normal_axis(axis, x.ndim)
    if reverse:
        x = xp.flip(x, axis=axis)
    if exclusive:
        shape = (*x.shape[:axis], min(1, x.shape[axis]), *x.shape[axis + 1 :])
        without_last = x[(*(slice(None),) * axis, slice(0, max(x.shape[axis] - 1, 0)), ...)]
        x = xp.concat([xp.full(shape, neutral, dtype=x.dtype), without_last], axis=axis)
    y = getattr(xp, fold)(x, axis=axis, dtype=x.dtype)
    return xp.flip(y, axis=axis) if reverse else y


@op("CumSum", since=11)
def cumsum(xp: Namespace, x: Array, axis: Int, *, exclusive: Flag = 0, reverse: Flag = 0) -> Array:
    """Running sum along `axis`; `exclusive` leaves the element itself out, `reverse` starts from the end."""
    return _cumulative(xp, x, axis, exclusive, reverse, "cumulative_sum", 0)


@op("CumProd", since=26)
def cumprod(xp: Namespace, x: Array, axis: Int, *, exclusive: Flag = 0, reverse: Flag = 0) -> Array:
    """Running product along `axis`; `exclusive` leaves the element itself out, `reverse` starts from the end."""
    return _cumulative(xp, x, axis, exclusive, reverse, "cumulative_prod", 1)
