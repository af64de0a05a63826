"""NumPy's names of the Array API standard, without what makes array_api_compat slow: 0.1 s to import, a wrapper a call.

From 2.1 on NumPy has the standard's functions itself, but for a few, which the compatibility layer gives when they are
first called.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from ortlite_numpy.record import numpy, recording

__all__ = ["library"]

NAMES = (
    "abs acos acosh add all any arange argmax argmin asin asinh atan atan2 atanh bitwise_and bitwise_invert "
    "bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor bool broadcast_arrays broadcast_shapes broadcast_to "
    "can_cast ceil complex128 complex64 concat conj copysign cos cosh cumulative_prod cumulative_sum diff divide e "
    "empty empty_like equal exp expand_dims expm1 eye fft finfo flip float32 float64 floor floor_divide full "
    "full_like greater greater_equal hypot iinfo imag inf int16 int32 int64 int8 isfinite isinf isnan less less_equal "
    "linalg linspace log log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor matmul "
    "matrix_transpose max maximum mean meshgrid min minimum moveaxis multiply nan negative newaxis nextafter nonzero "
    "not_equal ones ones_like permute_dims pi positive pow prod real reciprocal remainder repeat reshape result_type "
    "roll round searchsorted sign signbit sin sinh sqrt square squeeze stack std subtract sum take tan tanh tensordot "
    "tril triu trunc uint16 uint32 uint64 uint8 unstack var vecdot where zeros zeros_like"
).split()
LACKING = (
    "argsort clip count_nonzero from_dlpack isin sort take_along_axis unique_all unique_counts unique_inverse "
    "unique_values"
).split()


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
    """NumPy's own where nothing else is asked for."""
    if device is None and copy is None:
        return numpy.asarray(obj, dtype) if recording() else np.asarray(obj, dtype)
    return _compat().asarray(obj, dtype=dtype, device=device, copy=copy)


def astype(x: Any, dtype: Any, /, *, copy: bool = True) -> Any:
    """NumPy's own takes no scalars."""
    return x.astype(dtype, copy=copy)


def _compat() -> Any:
    import array_api_compat.numpy

    return array_api_compat.numpy


def _later(name: str) -> Callable[..., Any]:
    def call(*args: Any, **keywords: Any) -> Any:
        return getattr(_compat(), name)(*args, **keywords)

    call.__name__ = name
    return call


@cache
def library() -> ModuleType:
    """The standard's namespace."""
    made = ModuleType("numpy")
    made.__dict__.update({name: getattr(np, name) for name in NAMES}, asarray=asarray, astype=astype)
    made.__dict__.update({name: _later(name) for name in LACKING})
    made.__dict__["isdtype"] = cache(np.isdtype)  # what a dtype is takes NumPy 2 µs to say
    return made
