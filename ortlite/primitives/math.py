"""Elementwise functions that ONNX needs and the standard lacks."""

from __future__ import annotations

from typing import Any

from ortlite.primitives.base import Namespace

__all__ = ["erf", "fmod", "hardtanh", "leaky_relu", "relu", "root", "sigmoid", "trunc_divide"]

# erf on |x| < 1: x · P(x²) / Q(x²). Rational approximations of W. J. Cody, Math. Comp. 23 (1969), 631-637.
NEAR_P = (
    1.85777706184603153e-1,
    3.16112374387056560,
    1.13864154151050156e2,
    3.77485237685302021e2,
    3.20937758913846947e3,
)
NEAR_Q = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
# erfc on 0.46875 <= |x| <= 4: e^(-x²) · P(x) / Q(x)
MIDDLE_P = (
    2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1, 2.98635138197400131e2,
    8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3,
)  # fmt: skip
MIDDLE_Q = (
    1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
    3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3,
)  # fmt: skip


def _polynomial(x: Any, coefficients: tuple[float, ...]) -> Any:
    """Horner's scheme, the highest power first."""
    y = x * coefficients[0] + coefficients[1]
    for c in coefficients[2:]:
        y = y * x + c
    return y


def erf(xp: Namespace, x: Any) -> Any:
    """The error function of floating `x`, to the last few bits of float64."""
    size = xp.abs(x)
    near = size < 0.46875
    square = xp.where(near, x * x, xp.zeros_like(x))
    inner = x * _polynomial(square, NEAR_P) / _polynomial(square, NEAR_Q)
    # beyond 6, erfc is below the last bit of 1: no third approximation is needed
    far = xp.where(near, xp.ones_like(size), xp.minimum(size, xp.asarray(6.0, dtype=x.dtype)))
    tail = xp.exp(-far * far) * _polynomial(far, MIDDLE_P) / _polynomial(far, MIDDLE_Q)
    outer = xp.where(x < 0, tail - 1.0, 1.0 - tail)
    return xp.where(near, inner, xp.where(xp.isnan(x), x, outer))


def fmod(xp: Namespace, x: Any, y: Any) -> Any:
    """Remainder of `x` / `y` with the sign of `x`, as C's fmod and % have it."""
    if xp.isdtype(x.dtype, "unsigned integer"):
        return xp.remainder(x, y)
    if xp.isdtype(x.dtype, "integral"):
        remainder = xp.remainder(x, y)
        wrong = (remainder != 0) & ((x < 0) != (y < 0))
        return xp.where(wrong, remainder - y, remainder)
    size = xp.remainder(xp.abs(x), xp.abs(y))
    size = xp.where(xp.isinf(y) & xp.isfinite(x), xp.abs(x), size)
    return xp.copysign(size, x)


def relu(xp: Namespace, x: Any) -> Any:
    """`x` where it is above 0, else 0; the derivative at 0 is 0."""
    return xp.maximum(x, xp.asarray(0, dtype=x.dtype))


def leaky_relu(xp: Namespace, x: Any, slope: Any) -> Any:
    """`x` where it is not below 0, else `slope` · `x`; the derivative at 0 is `slope`, a number or an array."""
    if not hasattr(slope, "shape") and 0 < slope <= 1:
        return xp.maximum(x, x * slope)
    return xp.where(x < 0, x * slope, x)


def hardtanh(xp: Namespace, x: Any, low: float, high: float) -> Any:
    """`x` held between two numbers; the derivative is 0 at both and beyond, where that of `clip` is 1 at both."""
    return xp.clip(x, low, high)


def root(xp: Namespace, x: Any, power: float = 0.5) -> Any:
    """`x` to a power below 1, for `x` not below 0; the derivative at 0, which is infinite, is 0: that of a norm."""
    zero = x == 0
    base = xp.where(zero, xp.ones_like(x), x)  # the branch that is not taken must have a finite derivative
    y = xp.sqrt(base) if power == 0.5 else xp.pow(base, xp.asarray(power, dtype=x.dtype))
    return xp.where(zero, xp.zeros_like(x), y)


def trunc_divide(xp: Namespace, x: Any, y: Any) -> Any:
    """Integer quotient of `x` / `y`, truncated towards zero; 0 for a division by 0."""
    quotient = xp.floor_divide(x, y)
    if xp.isdtype(x.dtype, "unsigned integer"):
        return quotient
    inexact = (quotient * y != x) & ((x < 0) != (y < 0)) & (y != 0)
    return quotient + xp.astype(inexact, quotient.dtype)


def sigmoid(xp: Namespace, x: Any) -> Any:
    """1 / (1 + e^-x), by an exponential that cannot overflow, nor its derivative: a small result keeps its digits."""
    small = xp.exp(xp.where(x < 0, x, -x))
    return xp.where(x < 0, small, xp.ones_like(x)) / (small + 1.0)
