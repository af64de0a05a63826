"""JAXExecutionProvider: JAX on its default device, compiled by XLA."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np

from ortlite import heap
from ortlite.namespace import Namespace, build
from ortlite.provider import Compiler, Contexts, ExecutionProvider, Tracer
from ortlite_cupy import nvidia_driver

__all__ = ["JAXExecutionProvider"]

DTYPES = (
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64 complex64 complex128"
).split()
# Not float8_e8m0fnu: XLA takes its smallest number, 2⁻¹²⁷, for 0 on the way through float32.
NARROW_FLOATS = "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz".split()
# Arrays of these are known, but nothing is computed in them: XLA ends the process where it concatenates some on a CPU.
BELOW_A_BYTE = "int4 uint4 int2 uint2 float4_e2m1fn".split()


def _has_gpu() -> bool:
    """Whether JAX's default device is an NVIDIA GPU, as far as that shows without importing JAX."""
    plugins = any(importlib.util.find_spec(name) for name in ("jax_cuda12_plugin", "jax_cuda13_plugin"))
    return plugins and nvidia_driver() and os.environ.get("JAX_PLATFORMS", "cuda").split(",")[0] in {"cuda", "gpu"}


class _Tracer(Tracer):
    """jax.jit, grad, vmap and their kin, which all call a function with tracers."""

    def traced(self, array: Any) -> bool:
        import jax

        return isinstance(array, jax.core.Tracer)

    def outside_trace(self) -> AbstractContextManager[Any]:
        import jax

        context: AbstractContextManager[Any] = jax.ensure_compile_time_eval()
        return context


class _XLA(Compiler):
    freezes: ClassVar[bool] = True

    def __init__(self, provider: JAXExecutionProvider):
        self._provider = provider

    @cached_property
    def stands_in(self) -> bool:  # type: ignore[override]
        import jax

        if self._provider.options.get("stand_in", "1") == "0":
            return False
        platform: str = jax.default_backend() if self._provider.device is None else self._provider.device.platform
        return platform == "cpu"

    def frozen(self, fn: Callable[..., Any], constants: Mapping[int, Any]) -> Callable[..., Any]:
        from ortlite_jax.region import Region

        return Region(fn, constants)

    def eval_shape(self, fn: Callable[..., Any], *arrays: Any) -> bool:
        import jax

        jax.eval_shape(fn, *arrays)
        return True


class JAXExecutionProvider(ExecutionProvider):
    """JAX. Options: `jit`, "1" (default) or "0"; `device`, such as "cpu" or "gpu:1" (default: JAX's own); `cache`, "1"
    (default) to keep what XLA compiles in a folder of ortlite's in the user's cache, where this process has set no
    folder of JAX's before, or "0"; `stand_in`, "1" (default) to leave shapes that nothing is compiled for to NumPy's
    kernels where JAX computes in the host's memory, or "0": each is compiled then; `loops`, "0" to have XLA compute
    everything itself: where `ortlite[fast]` is installed, its compiled loops convolve, multiply by constant weights,
    attend and normalise rows on a CPU.

    JAX computes in 64 bits only where asked to: every run asks, for itself alone.
    """

    name = "JAXExecutionProvider"
    library = "jax"
    packages = ("jax", "jaxlib")
    storage = frozenset(DTYPES + NARROW_FLOATS)
    rank = 30 if _has_gpu() else 60  # benchmarks/PROVIDERS.md
    option_names = frozenset({"device", "jit", "cache", "stand_in", "loops"})
    tracer = _Tracer()
    immutable = True
    widen: ClassVar[dict[str, str]] = dict.fromkeys(["float16", "bfloat16", *NARROW_FLOATS], "float32")

    def __init__(self, options: Mapping[str, str] | None = None):
        super().__init__(options)
        device = self.options.get("device", "gpu" if _has_gpu() else "cpu")
        if device.partition(":")[0] == "cpu":
            heap.keep_all()  # before XLA makes its threads

    @cached_property
    def device(self) -> Any:
        """The jax.Device, or None for JAX's default."""
        import jax

        kind, _, index = self.options.get("device", "").partition(":")
        return jax.devices(kind)[int(index or 0)] if kind else None

    @cached_property
    def xp(self) -> Namespace:
        import jax.numpy as library

        from ortlite_jax import disk, primitives

        if self.options.get("cache", "1") != "0":
            disk.keep_compiled()
        dtypes = {name: np.dtype(getattr(library, name)) for name in (*self.storage, *BELOW_A_BYTE)}
        return build(library, dtypes, primitives.PRIMITIVES, primitives.NAMES)

    @property
    def overrides(self) -> Mapping[tuple[str, str, int], Callable[..., Any]]:
        return self._overrides

    @property
    def rewrites(self) -> frozenset[str]:
        return frozenset({"MatMulAddFusion"})

    @cached_property
    def _overrides(self) -> Mapping[tuple[str, str, int], Callable[..., Any]]:
        from ortlite_jax import loops, ops

        return ops.OVERRIDES if self.options.get("loops", "1") == "0" else loops.before(ops.OVERRIDES)

    def from_numpy(self, array: np.ndarray) -> Any:
        import jax

        array = np.asarray(array)
        array = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
        with jax.enable_x64(True):  # shares what is contiguous and starts at a multiple of 64 bytes
            if self._put is not None and jax.config.jax_default_device is None:
                return self._put(array)
            with jax.ensure_compile_time_eval():  # a copy is no concern of what others trace
                return jax.device_put(array, self.device)

    @cached_property
    def _put(self) -> Callable[[np.ndarray], Any] | None:
        """What jax.device_put comes to, 6 µs instead of 60; None where this jaxlib has no such function."""
        import jax
        from jaxlib import xla_client

        put = getattr(xla_client, "batched_device_put", None)
        device = self.device or jax.devices()[0]
        sharding, devices, fixed = jax.sharding.SingleDeviceSharding(device), [device], self.device is not None
        if put is None:
            return None
        # in 64 bits where JAX is set to, whatever the type says that it is told
        aval = lru_cache(1024)(jax.core.ShapedArray)
        return lambda array: put(aval(array.shape, array.dtype), sharding, [array], devices, fixed)

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def from_dlpack(self, array: Any) -> Any:
        import jax

        with jax.enable_x64(True):
            return jax.device_put(jax.dlpack.from_dlpack(array), self.device)

    def pointer(self, array: Any) -> int | None:
        address: int = array.unsafe_buffer_pointer()
        return address

    def context(self, *, gradients: bool = False) -> AbstractContextManager[Any]:
        import jax

        contexts = [jax.enable_x64(True)]
        if jax.config.jax_default_matmul_precision is None:  # accelerators would take short cuts in float32
            contexts.append(jax.default_matmul_precision("highest"))
        return Contexts(contexts)

    @cached_property
    def compiler(self) -> Compiler | None:
        return None if self.options.get("jit", "1") == "0" else _XLA(self)
