"""StrictExecutionProvider: array-api-strict, the proof that kernels use the standard and nothing else.

It is slow by design. It has no float16, no narrow types and no strings; nodes on those go to NumPy.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import numpy as np

from ortlite.namespace import Namespace, build
from ortlite.provider import ExecutionProvider

__all__ = ["StrictExecutionProvider"]

DTYPES = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
    "complex64",
    "complex128",
]


class StrictExecutionProvider(ExecutionProvider):
    """array-api-strict with every default body and no override."""

    name = "StrictExecutionProvider"
    library = "array_api_strict"
    storage = frozenset(DTYPES)
    rank = None  # it tests kernels

    @cached_property
    def xp(self) -> Namespace:
        import array_api_strict as library

        return build(library, {name: getattr(library, name) for name in DTYPES}, {})

    def from_numpy(self, array: np.ndarray) -> Any:
        return self.xp.asarray(np.asarray(array), copy=False)

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.from_dlpack(array)

    def context(self, *, gradients: bool = False) -> AbstractContextManager[Any]:
        return np.errstate(all="ignore")  # array-api-strict is NumPy underneath
