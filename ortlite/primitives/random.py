"""Random numbers as a pure function of a seed: every library draws the same ones.

A counter is hashed: two rounds of a 32-bit multiply-and-shift mixer, computed in int64 with masks, because not
every library has unsigned arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, prod
from typing import Any

from ortlite.namespace import Namespace

__all__ = ["random_normal", "random_uniform"]

MASK = 0xFFFFFFFF


def _multiply(x: Any, factor: int) -> Any:
    """X · factor modulo 2^32, from 16-bit halves, so that nothing leaves int64."""
    low, high = factor & 0xFFFF, factor >> 16
    return (x * low + (((x * high) & 0xFFFF) << 16)) & MASK


def _mix(x: Any) -> Any:
    """A bijection of 32-bit integers in which every bit of the result depends on every bit of `x`."""
    x = _multiply(x ^ (x >> 16), 0x7FEB352D)
    x = _multiply(x ^ (x >> 15), 0x846CA68B)
    return x ^ (x >> 16)


def _bits(xp: Namespace, seed: int, count: int, stream: int) -> Any:
    """`count` integers of 32 random bits, in int64."""
    low, high = seed & MASK, (seed >> 32) & MASK
    counter = xp.arange(count, dtype=xp.int64)
    x = _mix(_mix((counter & MASK) ^ low) ^ (counter >> 32) ^ high)
    return _mix((x + (stream * 0x9E3779B9 & MASK)) & MASK)


def random_uniform(xp: Namespace, seed: int, shape: Sequence[int], dtype: Any) -> Any:
    """Floats of `dtype`, uniform on [0, 1): 24 random bits each, 53 for float64."""
    count = prod(shape)
    high = _bits(xp, seed, count, 0)
    if dtype == xp.float64:
        low = _bits(xp, seed, count, 1)
        values = xp.astype((high >> 5) * 2**26 + (low >> 6), xp.float64) * 2.0**-53
    else:
        values = xp.astype(xp.astype(high >> 8, xp.float32) * 2.0**-24, dtype)
    return xp.reshape(values, tuple(shape))


def random_normal(xp: Namespace, seed: int, shape: Sequence[int], dtype: Any) -> Any:
    """Floats of `dtype`, normal with mean 0 and variance 1 (Box and Muller's transform)."""
    wide = xp.float64 if dtype == xp.float64 else xp.float32
    radius = 1.0 - random_uniform(xp, seed, shape, wide)  # in (0, 1]: its logarithm is finite
    angle = random_uniform(xp, seed ^ 0x5851F42D4C957F2D, shape, wide)
    return xp.astype(xp.sqrt(xp.log(radius) * -2.0) * xp.cos(angle * (2 * pi)), dtype)
