"""MLXExecutionProvider: MLX, on the GPU of Apple silicon or on a CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ortlite.namespace import Namespace, build
from ortlite.provider import Compiler, ExecutionProvider, Tracer

__all__ = ["MLXExecutionProvider"]

# Not float64: it is on the CPU alone, and exponentials, sines and the like are computed in float32 there.
DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 complex64".split()
LACKING = ("float64", "complex128")


class _Tracer(Tracer):
    """mx.vmap and mx.compile, which call a function with arrays of which nobody can ask a value.

    Under mx.grad values are there.
    """

    def traced(self, array: Any) -> bool:
        from ortlite_mlx.standard import known

        return not known(array)


class _Compiler(Compiler):
    """mx.compile, which makes one kernel of neighbouring elementwise operators, at each signature."""

    def compile(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        import mlx.core as mx

        compiled: Callable[..., Any] = mx.compile(fn)
        return compiled


class MLXExecutionProvider(ExecutionProvider):
    """MLX. Options: `device`, "cpu" or "gpu" (default: MLX's own); `compile`, "1" for mx.compile (default "0").

    MLX computes when somebody asks for a value: a run builds a graph, and outputs are computed where they leave it.
    """

    name = "MLXExecutionProvider"
    library = "mlx"
    storage = frozenset(DTYPES)
    rank: ClassVar[int | None] = 80  # benchmarks/PROVIDERS.md
    option_names = frozenset({"device", "compile"})
    tracer = _Tracer()
    widen: ClassVar[dict[str, str]] = {"float16": "float32", "bfloat16": "float32"}

    @classmethod
    def is_available(cls) -> bool:
        """Whether the package is there, and beside it the library itself, which another package brings on Linux."""
        spec = importlib.util.find_spec(cls.library)
        folders = (spec and spec.submodule_search_locations) or ()
        return any(any(Path(folder, "lib").glob("*mlx.*")) for folder in folders)

    @cached_property
    def xp(self) -> Namespace:
        import mlx.core as library

        from ortlite_mlx import primitives, standard

        native = {name: getattr(library, standard.ALIASES.get(name, name)) for name in DTYPES}
        xp = build(library, native, primitives.PRIMITIVES, standard.NAMES)
        for name in LACKING:
            xp.__dict__.pop(name, None)
        return xp

    def from_numpy(self, array: np.ndarray) -> Any:
        """A copy: MLX takes no memory of others on a CPU."""
        from ortlite_mlx.standard import from_numpy

        return from_numpy(np.asarray(array))

    def to_numpy(self, array: Any) -> np.ndarray:
        from ortlite_mlx.standard import to_numpy

        return to_numpy(array)

    def from_dlpack(self, array: Any) -> Any:
        moved = self.xp.from_dlpack(array)
        if "float64" in str(getattr(array, "dtype", "")):  # MLX would make float32 of it
            raise TypeError("mlx has no float64")
        return moved

    def pointer(self, array: Any) -> int | None:
        address: int = self.to_numpy(array).__array_interface__["data"][0]
        return address

    def memory(self, array: Any) -> tuple[int, int]:
        """That of the Python object: writing to an array gives it other memory, and leaves its views as they are."""
        return id(array), id(array) + 1

    def copy(self, array: Any) -> Any:
        import mlx.core as mx

        return mx.array(array)

    def settle(self, arrays: Sequence[Any]) -> None:
        import mlx.core as mx

        mx.eval([array for array in arrays if isinstance(array, mx.array)])

    def context(self, *, gradients: bool = False) -> AbstractContextManager[Any]:
        if "device" not in self.options:
            return nullcontext()
        import mlx.core as mx

        context: AbstractContextManager[Any] = mx.stream({"cpu": mx.cpu, "gpu": mx.gpu}[self.options["device"]])
        return context

    @property
    def compiler(self) -> Compiler | None:
        return _Compiler() if self.options.get("compile", "0") != "0" else None

    @property
    def overrides(self) -> Mapping[tuple[str, str, int], Any]:
        return {}
