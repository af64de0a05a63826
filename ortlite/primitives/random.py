"""Random numbers as a pure function of a seed: every library gets the same ones.

Seeds and shapes are host values, so the numbers are drawn on the host, from NumPy's legacy generator: its streams are
frozen for good, and the expected results of ONNX's own test cases come from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ortlite.primitives.base import Namespace

__all__ = ["random_normal", "random_uniform"]


def _generator(seed: int) -> np.random.RandomState:
    """MT19937 for a seed of up to 64 bits."""
    words = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    return np.random.RandomState(words if words[1] else words[0])


def random_uniform(xp: Namespace, seed: int, shape: Sequence[int], dtype: Any) -> Any:
    """Floats of `dtype` (float32 or float64), uniform on [0, 1)."""
    draws = _generator(seed).random_sample(tuple(shape))
    if xp.dtype_name(dtype) == "float64":
        return xp.asarray(draws, dtype=dtype)
    draws *= 2.0**24
    np.floor(draws, out=draws)  # 24 bits, cut: rounding could give 1
    return xp.asarray(draws.astype(np.float32) * np.float32(2.0**-24), dtype=dtype)


def random_normal(xp: Namespace, seed: int, shape: Sequence[int], dtype: Any) -> Any:
    """Floats of `dtype` (float32 or float64), normal with mean 0 and variance 1."""
    draws = _generator(seed).standard_normal(tuple(shape))
    return xp.asarray(draws if xp.dtype_name(dtype) == "float64" else draws.astype(np.float32), dtype=dtype)
