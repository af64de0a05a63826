"""DLPack capsules of NumPy arrays whose dtype NumPy hands to nobody: bfloat16 and float8, which ml_dtypes adds."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

__all__ = ["CODES", "capsule"]

# name -> DLPack's number of the kind of float
CODES = {
    "bfloat16": 4, "float8_e4m3fn": 10, "float8_e4m3fnuz": 11, "float8_e5m2": 12, "float8_e5m2fnuz": 13,
}  # fmt: skip
NAME = b"dltensor"


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_alive: dict[int, tuple[Any, ...]] = {}  # what capsules and their consumers point to, by address


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # type: ignore[untyped-decorator]
def _delete(address: int) -> None:
    """The consumer has done with it."""
    _alive.pop(address, None)


@ctypes.PYFUNCTYPE(None, ctypes.c_void_p)  # type: ignore[untyped-decorator]
def _dropped(address: int) -> None:
    """A capsule is gone: nobody has taken the tensor where its name is still the first."""
    if ctypes.pythonapi.PyCapsule_IsValid(ctypes.c_void_p(address), NAME):
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype = ctypes.c_void_p
        _delete(pointer(ctypes.c_void_p(address), NAME))


def capsule(array: np.ndarray) -> Any:
    """A DLPack capsule that shares the memory of an array of a dtype in `CODES`. Raises BufferError for another."""
    if array.dtype.name not in CODES:
        raise BufferError(f"DLPack has no {array.dtype}")
    axes = ctypes.c_int64 * max(array.ndim, 1)
    shape = axes(*array.shape)
    strides = axes(*(stride // array.itemsize for stride in array.strides))
    tensor = _Tensor(
        array.ctypes.data, 1, 0, array.ndim, CODES[array.dtype.name], 8 * array.itemsize, 1, shape, strides, 0
    )
    managed = _Managed(tensor, None, ctypes.cast(_delete, ctypes.c_void_p))
    address = ctypes.addressof(managed)
    _alive[address] = managed, shape, strides, array
    make = ctypes.pythonapi.PyCapsule_New
    make.restype = ctypes.py_object
    return make(ctypes.c_void_p(address), NAME, _dropped)
