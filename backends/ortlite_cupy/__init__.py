"""CuPyExecutionProvider: CuPy on an NVIDIA GPU, whose products of matrices are cuBLAS."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from glob import glob
from math import prod
from typing import Any, ClassVar

import numpy as np

from ortlite import dtypes
from ortlite.namespace import Namespace, build
from ortlite.provider import Compiler, ExecutionProvider

__all__ = ["CuPyExecutionProvider", "nvidia_driver"]

DTYPES = (
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64 complex64 complex128"
).split()
# What is there where a GPU is: /dev/nvidiactl comes with the driver alone, and /dev/dxg with any maker's GPU.
DEVICES = ("/dev/nvidia[0-9]*", "/usr/lib/wsl/lib/libcuda.so.1", r"C:\Windows\System32\nvcuda.dll")


def nvidia_driver() -> bool:
    """Whether this process may use an NVIDIA GPU: one is there, and the environment hides no device from it."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in {"", "-1"}
    return not hidden and any(map(glob, DEVICES))


class CuPyExecutionProvider(ExecutionProvider):
    """CuPy on the CUDA device `device_id` (option, default 0), on CuPy's current stream.

    Option `compile`: "1" makes one kernel of neighbouring functions of elements, which NVRTC compiles (default "0").
    Who fills inputs on another stream orders the two.
    An index out of range wraps around instead of raising: the device does not tell the host. CuPy compiles its kernels
    so that float32 numbers below 1.2e-38 count as 0.
    """

    name = "CuPyExecutionProvider"
    library = "cupy"
    storage = frozenset(DTYPES)
    rank: ClassVar[int | None] = 20
    option_names: ClassVar[frozenset[str] | None] = frozenset({"compile", "device_id"})
    widen: ClassVar[dict[str, str]] = {"float16": "float32", "bfloat16": "float32"}

    @classmethod
    def is_available(cls) -> bool:
        return nvidia_driver() and super().is_available()

    @classmethod
    def options_of(cls, array: Any) -> dict[str, str]:
        return {"device_id": str(array.device.id)} if array.device.id else {}

    @property
    def device(self) -> Any:
        """A new cupy.cuda.Device per use: it keeps the device active before it, so threads cannot share one."""
        import cupy

        return cupy.cuda.Device(int(self.options.get("device_id", 0)))

    @cached_property
    def xp(self) -> Namespace:
        import array_api_compat.cupy as library

        from ortlite_cupy import primitives

        native = {name: dtypes.to_numpy(dtypes.by_name(name)) for name in DTYPES}
        return build(library, native, primitives.PRIMITIVES, primitives.NAMES)

    @property
    def overrides(self) -> Mapping[tuple[str, str, int], Callable[..., Any]]:
        from ortlite_cupy import ops

        return ops.OVERRIDES

    @cached_property
    def compiler(self) -> Compiler | None:
        if self.options.get("compile", "0") == "0":
            return None
        from ortlite_cupy.fused import Elementwise

        return Elementwise()

    def from_numpy(self, array: np.ndarray) -> Any:
        import cupy

        array = np.asarray(array)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        with self.context():
            return cupy.asarray(array)

    def to_numpy(self, array: Any) -> np.ndarray:
        host: np.ndarray = array.get()  # waits for CuPy's current stream
        return host

    def from_dlpack(self, array: Any) -> Any:
        import cupy

        with self.context():
            return cupy.asarray(cupy.from_dlpack(array))  # from another device: a copy

    def from_pointer(self, pointer: int, shape: Sequence[int], dtype: dtypes.DType, keep: Any = None) -> Any:
        import cupy

        storage = dtypes.to_numpy(dtype)
        with self.context():
            if 0 in shape:
                return cupy.empty(tuple(shape), storage)
            memory = cupy.cuda.UnownedMemory(pointer, prod(shape) * storage.itemsize, keep)
            return cupy.ndarray(tuple(shape), storage, cupy.cuda.MemoryPointer(memory, 0))

    def copy(self, array: Any) -> Any:
        with self.context():  # else the copy would be on the device that is current
            return array.copy()

    def settle(self, arrays: Sequence[Any]) -> None:
        """Wait for the current stream, which copies and computes them: others may read them on theirs."""
        import cupy

        if any(isinstance(array, cupy.ndarray) for array in arrays):
            with self.context():
                cupy.cuda.get_current_stream().synchronize()

    def synchronize(self) -> None:
        self.device.synchronize()

    def pointer(self, array: Any) -> int:
        address: int = array.data.ptr
        return address

    def memory(self, array: Any) -> tuple[int, int] | None:
        block = array.data.mem
        return block.ptr, block.ptr + block.size

    def context(self, *, gradients: bool = False) -> AbstractContextManager[Any]:
        device: AbstractContextManager[Any] = self.device
        return device
