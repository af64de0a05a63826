"""ONNX element types: their names, codes and storage.

A *logical* dtype is what the ONNX model says (`bfloat16`, `int4`, `string`). Its *storage* dtype is what
an array of some library holds; for NumPy that is a native dtype, one of ml_dtypes', or `object` for strings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ALL", "NAMES", "DType", "by_code", "by_name", "by_ort_name", "of_numpy", "to_numpy"]


@dataclass(frozen=True, slots=True)
class DType:
    """One ONNX element type.

    `name` is NumPy's or ml_dtypes' name for it, `code` ONNX's TensorProto.DataType, `kind` one of
    b(ool) i(nt) u(int) f(loat) c(omplex) S(tring), `bits` the width of one element, and `ort` the
    word onnxruntime prints between the brackets of `tensor(...)`.
    """

    name: str
    code: int
    kind: str
    bits: int
    ort: str

    def __str__(self) -> str:
        return self.name

    @property
    def narrow(self) -> bool:
        """True for types that NumPy has only through ml_dtypes."""
        return self.bits < 8 or (self.kind == "f" and (self.bits == 8 or self.name == "bfloat16"))


ALL: tuple[DType, ...] = tuple(
    DType(*row)
    for row in (
        ("float32", 1, "f", 32, "float"),
        ("uint8", 2, "u", 8, "uint8"),
        ("int8", 3, "i", 8, "int8"),
        ("uint16", 4, "u", 16, "uint16"),
        ("int16", 5, "i", 16, "int16"),
        ("int32", 6, "i", 32, "int32"),
        ("int64", 7, "i", 64, "int64"),
        ("string", 8, "S", 64, "string"),
        ("bool", 9, "b", 8, "bool"),
        ("float16", 10, "f", 16, "float16"),
        ("float64", 11, "f", 64, "double"),
        ("uint32", 12, "u", 32, "uint32"),
        ("uint64", 13, "u", 64, "uint64"),
        ("complex64", 14, "c", 64, "complex64"),
        ("complex128", 15, "c", 128, "complex128"),
        ("bfloat16", 16, "f", 16, "bfloat16"),
        ("float8_e4m3fn", 17, "f", 8, "float8e4m3fn"),
        ("float8_e4m3fnuz", 18, "f", 8, "float8e4m3fnuz"),
        ("float8_e5m2", 19, "f", 8, "float8e5m2"),
        ("float8_e5m2fnuz", 20, "f", 8, "float8e5m2fnuz"),
        ("uint4", 21, "u", 4, "uint4"),
        ("int4", 22, "i", 4, "int4"),
        ("float4_e2m1fn", 23, "f", 4, "float4e2m1"),
        ("float8_e8m0fnu", 24, "f", 8, "float8e8m0"),
        ("uint2", 25, "u", 2, "uint2"),
        ("int2", 26, "i", 2, "int2"),
        ("float6_e2m3fn", 27, "f", 6, "float6e2m3"),
        ("float6_e3m2fn", 28, "f", 6, "float6e3m2"),
    )
)

NAMES = frozenset(d.name for d in ALL)
CODES = frozenset(d.code for d in ALL)
_BY_CODE = {d.code: d for d in ALL}
_BY_NAME = {d.name: d for d in ALL}
_BY_ORT_NAME = {d.ort: d for d in ALL}


def by_code(code: int) -> DType:
    """The dtype with ONNX's TensorProto.DataType `code`. Raises ValueError for an unknown one."""
    try:
        return _BY_CODE[code]
    except KeyError:
        raise ValueError(f"unknown ONNX element type {code}") from None


def by_name(name: str) -> DType:
    """The dtype that NumPy or ml_dtypes call `name` ("string" for text). Raises ValueError."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise ValueError(f"no ONNX element type is called {name!r}") from None


def by_ort_name(name: str) -> DType:
    """The dtype onnxruntime prints as `tensor(name)`. Raises ValueError."""
    try:
        return _BY_ORT_NAME[name]
    except KeyError:
        raise ValueError(f"no ONNX element type is printed as {name!r}") from None


@cache
def to_numpy(dtype: DType) -> np.dtype[Any]:
    """The NumPy dtype that stores `dtype`; strings are objects, narrow types are ml_dtypes'."""
    import numpy as np

    if dtype.kind == "S":
        return np.dtype(object)
    if dtype.narrow:
        import ml_dtypes

        storage: np.dtype[Any] = np.dtype(getattr(ml_dtypes, dtype.name))
        return storage
    return np.dtype(dtype.name)


@cache
def of_numpy(dtype: np.dtype[Any]) -> DType:
    """The ONNX dtype that a NumPy dtype stores, whatever its byte order. Raises ValueError."""
    is_text = dtype.kind in "OUSTV" and dtype.name not in NAMES
    return _BY_NAME["string"] if is_text else by_name(dtype.name)
