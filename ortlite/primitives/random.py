"""Random numbers as a pure function of a seed: every library gets the same ones.

Seeds and shapes are host values, so the numbers are drawn on the host, from NumPy's legacy generator: its streams are
frozen for good, and the expected results of ONNX's own test cases come from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ortlite.dtypes import by_name, to_numpy
from ortlite.primitives.base import Namespace

__all__ = ["random_normal", "random_uniform"]  # the primitives


def _generator(seed: int) -> np.random.RandomState:
    """MT19937 for a seed of up to 64 bits."""
    words = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    return np.random.RandomState(words if words[1] else words[0])


def random_uniform(
    xp: Namespace, seed: int, shape: Sequence[int], dtype: Any, low: float = 0.0, high: float = 1.0
) -> Any:
    """Floats of `dtype`, uniform on [`low`, `high`)."""
    draws, name = _generator(seed).random_sample(tuple(shape)), xp.dtype_name(dtype)
    if name != "float64":
        draws *= 2.0**24
        np.floor(draws, out=draws)  # 24 bits, cut: rounding could give 1
        draws *= 2.0**-24
    draws = moved(draws, low, high, to_numpy(by_name(name)))
    return xp.asarray(draws if name == "float64" else draws.astype(np.float32), dtype=dtype)


def moved(draws: np.ndarray, low: float, high: float, dtype: np.dtype[Any]) -> np.ndarray:
    """Float64 on [0, 1), changed in place to numbers that are in [`low`, `high`) once they are rounded to `dtype`."""
    if (low, high) != (0.0, 1.0):
        draws *= high - low  # no difference of two float32 overflows
        draws += low
    first, last = _ends(low, high, dtype)
    return np.clip(draws, first, last, out=draws) if first <= last else draws


def _ends(low: float, high: float, dtype: np.dtype[Any]) -> tuple[float, float]:
    """The first and the last number of `dtype` in [`low`, `high`), in the wrong order where it has none."""
    with np.errstate(over="ignore"):
        first, last = dtype.type(low), dtype.type(high)
    if float(first) < low:
        first = np.nextafter(first, dtype.type(np.inf))
    if float(last) >= high:
        last = np.nextafter(last, dtype.type(-np.inf))
    return float(first), float(last)


def random_normal(xp: Namespace, seed: int, shape: Sequence[int], dtype: Any) -> Any:
    """Floats of `dtype` (float32 or float64), normal with mean 0 and variance 1."""
    draws = _generator(seed).standard_normal(tuple(shape))
    return xp.asarray(draws if xp.dtype_name(dtype) == "float64" else draws.astype(np.float32), dtype=dtype)
