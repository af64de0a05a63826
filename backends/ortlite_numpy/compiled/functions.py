"""exp, tanh, erf and their kin in float32, without a branch or a call, so that loops over them become vectors.

Each is within 2 units in the last place, subnormal results and overflow included; NaN and infinities come out right.
"""

from __future__ import annotations

from ortlite_numpy.compiled.jit import loops, of_two_floats
from ortlite_numpy.record import numpy as np

__all__ = [
    "celu", "elu", "erf", "exp", "expm1", "fast_gelu", "gelu", "hard_sigmoid", "hard_swish", "log1p", "mish", "relu",
    "sigmoid", "softplus", "swish", "tanh",
]  # fmt: skip

F = np.float32
LOG2E = F(1.4426950408889634)
LN2_HIGH, LN2_LOW = F(0.693359375), F(-2.12194440e-4)
ROUND = F(12582912.0)  # 1.5 · 2^23: what is added to it loses its fraction
ROUND_BITS = np.int32(0x4B400000)
ONE_BITS = np.int32(0x3F800000)
SIGN = np.int32(-0x80000000)
ONE, TWO, HALF = F(1), F(2), F(0.5)


smaller, larger = of_two_floats("llvm.minimum"), of_two_floats("llvm.maximum")  # NaN where one of the two is


@loops()
def held(x, low, high):
    """X, not below `low` nor above `high`, which are numbers; NaN stays. (Each becomes one instruction everywhere.)"""
    x = max(x, low)
    return min(x, high)


@loops()
def signed(size, x):
    """`size`, not below 0, with the sign of x."""
    return np.int32(F(size).view(np.int32) | (F(x).view(np.int32) & SIGN)).view(F)


@loops()
def mantissa(r):
    """e^r for r between plus and minus half the logarithm of 2."""
    p = F(1.9875691500e-4)
    p = p * r + F(1.3981999507e-3)
    p = p * r + F(8.3334519073e-3)
    p = p * r + F(4.1665795894e-2)
    p = p * r + F(1.6666665459e-1)
    p = p * r + F(5.0000001201e-1)
    return p * (r * r) + r + ONE


@loops()
def exp(x):
    """e^x."""
    x = held(x, F(-105), F(90))
    shifted = x * LOG2E + ROUND
    n = shifted - ROUND
    r = x - n * LN2_HIGH - n * LN2_LOW
    p = mantissa(r)
    power = np.int32(F(shifted).view(np.int32) - ROUND_BITS)
    half = np.int32(power >> np.int32(1))  # in two steps, for the results that overflow and those that are subnormal
    first = np.int32((half + np.int32(127)) << np.int32(23)).view(F)
    second = np.int32((power - half + np.int32(127)) << np.int32(23)).view(F)
    return p * first * second


@loops()
def decay(x):
    """e^x for x not above 0, where what is below the smallest normal number may be that."""
    x = max(x, F(-87))
    shifted = x * LOG2E + ROUND
    n = shifted - ROUND
    r = x - n * LN2_HIGH - n * LN2_LOW
    return mantissa(r) * np.int32((F(shifted).view(np.int32) << np.int32(23)) + ONE_BITS).view(F)


@loops()
def expm1(x):
    """e^x - 1 for x not above 0, precise near 0."""
    s = x * x
    p = F(1.9841270e-4)
    p = p * x + F(1.3888889e-3)
    p = p * x + F(8.3333333e-3)
    p = p * x + F(4.1666667e-2)
    p = p * x + F(1.6666667e-1)
    p = p * x + HALF
    near = signed(abs(p * s + x), x)
    return near if x > F(-0.35) else exp(x) - ONE


@loops()
def tanh(x):
    """Hyperbolic tangent."""
    size = abs(x)
    s = x * x
    p = F(-5.70498872745e-3)
    p = p * s + F(2.06390887954e-2)
    p = p * s + F(-5.37397155531e-2)
    p = p * s + F(1.33314422036e-1)
    p = p * s + F(-3.33332819422e-1)
    near = p * s * size + size
    far = ONE - TWO / (exp(size + size) + ONE)
    return signed(near if size < F(0.625) else far, x)


@loops()
def sigmoid(x):
    """1 / (1 + e^-x)."""
    small = exp(-abs(x))
    return (small if x < F(0) else ONE) / (ONE + small)


@loops()
def erf(x):
    """The error function, after N. Juffa: a polynomial near 0, else 1 less the exponential of one."""
    t = abs(x)
    s = t * t
    r = F(-1.72853470e-5) * t + F(3.83197126e-4)
    u = F(-3.88396438e-3) * t + F(2.42546219e-2)
    r = r * s + u
    r = r * t + F(-1.06777877e-1)
    r = r * t + F(-6.34846687e-1)
    r = r * t + F(-1.28717512e-1)
    r = r * t - t
    far = ONE - decay(r)
    v = smaller(t, ONE)
    s = v * v
    q = F(-5.96761703e-4)
    q = q * s + F(4.99119423e-3)
    q = q * s + F(-2.67681349e-2)
    q = q * s + F(1.12819925e-1)
    q = q * s + F(-3.76125336e-1)
    q = q * s + F(1.28379166e-1)
    near = q * v + v
    weight = ONE if t <= F(0.927734375) else F(0)  # a choice between the two would become a branch, and no vector
    return signed(near * weight + far * (ONE - weight), x)


@loops()
def log1p(z):
    """log(1 + z) for z from 0 to 1: twice the area tangent of z / (2 + z)."""
    t = z / (TWO + z)
    s = t * t
    p = F(1 / 15)
    p = p * s + F(1 / 13)
    p = p * s + F(1 / 11)
    p = p * s + F(1 / 9)
    p = p * s + F(1 / 7)
    p = p * s + F(1 / 5)
    p = p * s + F(1 / 3)
    p = p * s * t + t
    return p + p


@loops()
def softplus(x):
    """log(1 + e^x)."""
    return relu(x) + log1p(exp(-abs(x)))


@loops()
def mish(x):
    """X · tanh(log(1 + e^x)), the tangent by e^x alone."""
    w = exp(min(x, F(20)))
    n = w * (w + TWO)
    return x * (n / (n + TWO))


@loops()
def hard_sigmoid(x, slope, offset):
    """`slope` · x + `offset`, held between 0 and 1."""
    return held(x * slope + offset, F(0), ONE)


@loops()
def hard_swish(x):
    """X · hard sigmoid of x with slope 1/6."""
    return x * hard_sigmoid(x, F(1 / 6), HALF)


@loops()
def fast_gelu(x):
    """X · Φ(x) by a hyperbolic tangent: half of 1 + tanh(z) is the logistic function of 2 z."""
    return x * sigmoid((x * x * x * F(0.044715) + x) * F(1.5957691216057308))


@loops()
def swish(x, alpha, _):
    """X · sigmoid(`alpha` · x)."""
    return x * sigmoid(x * alpha)


@loops()
def elu(x, alpha, gamma):
    """`gamma` · x, below 0 `gamma` · `alpha` · (e^x - 1)."""
    return (x if x > F(0) else alpha * expm1(x)) * gamma


@loops()
def celu(x, alpha, _):
    """x, below 0 `alpha` · (e^(x / `alpha`) - 1)."""
    return relu(x) + expm1(min(x, F(0)) / alpha) * alpha


@loops()
def gelu(x):
    """X · Φ(x), Φ the normal distribution."""
    return x * HALF * (erf(x * F(0.7071067811865476)) + ONE)


@loops()
def relu(x):
    """The larger of x and 0."""
    return max(x, F(0))
