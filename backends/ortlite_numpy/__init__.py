"""CPUExecutionProvider: NumPy. Always there, last in every list, and where host values live."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ortlite import dtypes
from ortlite.namespace import Namespace, build
from ortlite.provider import CPU, ExecutionProvider
from ortlite_numpy import threads
from ortlite_numpy.blas import begin, end

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CPUExecutionProvider"]

PROCESSES = 4  # that compile ahead: one module takes a quarter of the time that all take
NARROW = [d.name for d in dtypes.ALL if d.narrow or d.name == "float16"]


def _computed(name: str) -> str:
    """The dtype that NumPy computes a narrow type in."""
    return "float32" if "float" in name else "int8" if name.startswith("int") else "uint8"


class _Run:
    """Around a run: ONNX gives inf and nan where IEEE does, a warning would only be noise; and BLAS has one thread."""

    __slots__ = ("errors",)

    def __enter__(self) -> None:
        self.errors = _ignore()
        begin()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        end()
        _put_back(self.errors)


def _ignoring() -> tuple[Callable[[], Any], Callable[[Any], object]]:
    """What sets NumPy's error state, and what puts it back, given what the first returned.

    numpy.errstate makes the state anew each time, which takes as long as a small model's product; where its parts are
    not found, it must do.
    """
    core = getattr(getattr(np, "_core", None), "umath", None)
    state, make = getattr(core, "_extobj_contextvar", None), getattr(core, "_make_extobj", None)
    try:
        assert state is not None
        assert make is not None
        ignored = make(all="ignore")
        with np.errstate(all="raise"):
            token = state.set(ignored)
            np.float32(0) / np.float32(0)  # raises where the parts do something else
            state.reset(token)
    except Exception:  # noqa: BLE001  (private, so it may become anything)

        def slowly() -> Any:
            errors = np.errstate(all="ignore")
            errors.__enter__()
            return errors

        return slowly, lambda errors: errors.__exit__(None, None, None)

    return partial(state.set, ignored), state.reset


_ignore, _put_back = _ignoring()


@cache
def _keep_freed_memory() -> None:
    """Let a large array go, once: glibc's malloc then keeps 64 MB that are free, where it else gives back what a run
    frees, and the next run waits for the same pages again, a fifth of its time.
    """
    np.empty((1 << 25) - (1 << 16), np.uint8)  # the largest size that counts is 32 MB; no page of it is touched


class CPUExecutionProvider(ExecutionProvider):
    """NumPy with ml_dtypes: stores every ONNX type, computes the narrow floats in float32.

    Option: `intra_op_num_threads`, as of the session, whose own is the default.
    """

    name = CPU
    library = "numpy"
    storage = frozenset(d.name for d in dtypes.ALL)
    widen: ClassVar[dict[str, str]] = dict(zip(NARROW, map(_computed, NARROW), strict=True))
    packages = ("numpy", "ml_dtypes")

    @cached_property
    def xp(self) -> Namespace:
        from ortlite_numpy import layout, primitives, products, standard

        _keep_freed_memory()
        own = {
            **primitives.NAMES, "matmul": products.everywhere(self.threads), "take": layout.take,
            "threads": self.threads,
        }  # fmt: skip
        native = {d.name: dtypes.to_numpy(d) for d in dtypes.ALL}
        return build(standard.library(), native, primitives.PRIMITIVES, own)

    @cached_property
    def threads(self) -> int:
        """How many threads share the blocks of one operator: the option `intra_op_num_threads`, 0 for all there are."""
        given = self.options.get("intra_op_num_threads", "0")
        if not given.isdecimal():
            raise ValueError(f"the option intra_op_num_threads is a number, 0 or more, not {given!r}")
        return int(given) or threads.available()

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

    @property
    def rewrites(self) -> frozenset[str]:
        return frozenset({"MatMulAddFusion", *(["PointwiseDepthwiseFusion"] if self.compiles_ahead else [])})

    @cached_property
    def recorder(self) -> Any:
        from ortlite_numpy import record

        return record.recorded

    @cached_property
    def compiles_ahead(self) -> bool:
        wanted = self.options.get("compiled", os.environ.get("ORTLITE_COMPILED", "1"))
        if wanted == "0" or importlib.util.find_spec("numba") is None:
            return False
        from ortlite_numpy import compiled

        return compiled.installed()

    def compile_ahead(self) -> tuple[int, Path | None]:
        from ortlite_numpy import compiled

        kept = compiled.kept()
        return compiled.warm_all(1 if kept is None else min(PROCESSES, threads.available())), kept

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
        return _Run()
