"""CPUExecutionProvider: NumPy. Always there, last in every list, and where host values live."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ortlite import dtypes
from ortlite.namespace import Namespace, build
from ortlite.provider import CPU, ExecutionProvider

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CPUExecutionProvider"]

NARROW = [d.name for d in dtypes.ALL if d.narrow or d.name == "float16"]


def _computed(name: str) -> str:
    """The dtype that NumPy computes a narrow type in."""
    return "float32" if "float" in name else "int8" if name.startswith("int") else "uint8"


class CPUExecutionProvider(ExecutionProvider):
    """NumPy with ml_dtypes: stores every ONNX type, computes the narrow floats in float32."""

    name = CPU
    library = "numpy"
    storage = frozenset(d.name for d in dtypes.ALL)
    widen: ClassVar[dict[str, str]] = dict(zip(NARROW, map(_computed, NARROW), strict=True))
    packages = ("numpy", "ml_dtypes")

    @cached_property
    def xp(self) -> Namespace:
        import array_api_compat.numpy as library

        from ortlite_numpy import primitives

        native = {d.name: dtypes.to_numpy(d) for d in dtypes.ALL}
        return build(library, native, primitives.PRIMITIVES, {"clip": primitives.clip, "tile": primitives.tile})

    @property
    def overrides(self) -> Mapping[tuple[str, str, int], Callable[..., Any]]:
        """NumPy's, behind those that are compiled where numba is there, unless the option `compiled` is "0".

        Without the option, the environment's ORTLITE_COMPILED counts, "1" by default.
        """
        return self._overrides

    @cached_property
    def _overrides(self) -> Mapping[tuple[str, str, int], Callable[..., Any]]:
        from ortlite_numpy import ops

        if not self.compiles_ahead:
            return ops.OVERRIDES
        from ortlite_numpy import compiled

        return compiled.before(ops.OVERRIDES)

    @cached_property
    def compiles_ahead(self) -> bool:
        wanted = self.options.get("compiled", os.environ.get("ORTLITE_COMPILED", "1"))
        if wanted == "0" or importlib.util.find_spec("numba") is None:
            return False
        from ortlite_numpy import compiled

        return compiled.installed()

    def compile_ahead(self) -> tuple[int, Path | None]:
        from ortlite_numpy import compiled

        return compiled.warm_all(), compiled.kept()

    def supports(self, kernel: Any, dtypes: Any) -> str | None:
        return None

    def from_numpy(self, array: np.ndarray) -> np.ndarray:
        return array

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def pointer(self, array: Any) -> int:
        address: int = np.asarray(array).__array_interface__["data"][0]
        return address

    def memory(self, array: Any) -> tuple[int, int] | None:
        while isinstance(array.base, np.ndarray):
            array = array.base
        start: int = array.__array_interface__["data"][0]
        return start, start + array.nbytes

    def copy(self, array: Any) -> np.ndarray:
        return np.array(array)

    def context(self, *, gradients: bool = False) -> AbstractContextManager[Any]:
        # ONNX gives inf and nan where IEEE does; a warning would only be noise.
        return np.errstate(all="ignore")
