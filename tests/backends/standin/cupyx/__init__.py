"""Scattering, in the dtypes that the hardware has atomic operations for, and as wrong as those of floats."""

import numpy as np

from cupyx import scipy

ADDED = "int32 int64 float16 float32 float64 uint32 uint64".split()
COMPARED = "int32 int64 float32 float64 uint32 uint64".split()


def _scatter(name, ufunc, dtypes):
    def scatter(a, slices, value):
        if a.dtype.name not in dtypes:
            raise TypeError(f"cupy.{name}.at only supports {', '.join(dtypes)} as data type")
        key = tuple(i._a if hasattr(i, "_a") else i for i in (slices if isinstance(slices, tuple) else (slices,)))
        ufunc.at(a._a, key, value._a.astype(a.dtype))

    return scatter


def _single(ufunc):
    """CuPy 14 compares float64 by fmaxf and fminf."""

    class Rounded:
        @staticmethod
        def at(a, key, value):
            ufunc.at(a, key, value.astype(np.float32) if a.dtype == np.float64 else value)

    return Rounded


scatter_add = _scatter("add", np.add, ADDED)
scatter_max = _scatter("maximum", _single(np.fmax), COMPARED)
scatter_min = _scatter("minimum", _single(np.fmin), COMPARED)
__all__ = ["scatter_add", "scatter_max", "scatter_min", "scipy"]
