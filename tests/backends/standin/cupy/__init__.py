"""A stand-in for CuPy where no GPU is: NumPy under CuPy's names, as particular as CuPy about what it takes.

Its arrays do not become NumPy arrays unless asked by `get()`, its functions refuse NumPy arrays, results are never
NumPy scalars, and what CuPy 14 lacks raises here as there. Names are those of CuPy 14.2.
"""

from __future__ import annotations

import builtins as _builtins
import ctypes as _ctypes
from functools import wraps as _wraps

import ml_dtypes as _ml_dtypes
import numpy as np

from cupy import cuda
from cupy.cuda.device import Device as _Device

__version__ = "14.2.0+standin"

# Those of CuPy 14.2 that the Array API names or that ortlite uses.
_NAMES = """
abs acos acosh add all any arange arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin argsort around
ascontiguousarray asin asinh astype atan atan2 atanh bitwise_and bitwise_invert bitwise_left_shift bitwise_or
bitwise_right_shift bitwise_xor broadcast_arrays broadcast_shapes broadcast_to can_cast ceil compress concat
concatenate conj copysign copyto cos cosh count_nonzero cumprod cumsum cumulative_prod cumulative_sum diagonal diff
divide dot einsum empty empty_like equal exp expand_dims expm1 eye finfo flip floor floor_divide fmod full full_like
greater greater_equal hypot iinfo imag invert isdtype isfinite isin isinf isnan left_shift less less_equal linspace
log log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor matmul matrix_transpose max maximum mean
meshgrid min minimum moveaxis multiply negative nextafter nonzero not_equal ones ones_like pad partition permute_dims
positive pow power prod put_along_axis real reciprocal remainder reshape result_type right_shift roll round
searchsorted sign signbit sin sinh sort sqrt square squeeze stack std subtract sum swapaxes take_along_axis tan tanh
tensordot tile trace transpose tril triu trunc unique var vdot zeros zeros_like
""".split()


# Keywords of NumPy's functions that CuPy's have not.
_REFUSED = frozenset({"correction", "initial", "like", "mean", "sorted", "stable", "subok", "where"})


def _bare(value):
    """Without the wrapper; a NumPy array is refused, as CuPy does, and what lies on a device that is not current."""
    if isinstance(value, ndarray):
        if value.device != _Device():
            raise ValueError(f"The array is on {value.device.id}, and {_Device().id} is current. No peer access.")
        return value._a
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    return type(value)(map(_bare, value)) if type(value) in {tuple, list} else value


def _wrapped(value):
    """NumPy's arrays and scalars as arrays of the stand-in."""
    if isinstance(value, np.ndarray | np.generic):
        return ndarray(value)
    return type(value)(map(_wrapped, value)) if type(value) in {tuple, list} else value


def _function(fn):
    @_wraps(fn)
    def call(*args, **keywords):
        keywords.pop("device", None)
        if refused := keywords.keys() & _REFUSED:
            raise TypeError(f"Wrong arguments {refused}")
        with np.errstate(all="ignore"):
            return _wrapped(fn(*map(_bare, args), **{k: _bare(v) for k, v in keywords.items()}))

    return call


class ndarray:  # noqa: N801
    """A NumPy array that behaves like one on a device."""

    __array_priority__ = 100

    def __init__(self, value, device=None, memptr=None):
        """Of a NumPy array; or CuPy's own, of a shape, a dtype and a MemoryPointer."""
        if memptr is not None:
            memory = (_ctypes.c_byte * memptr.mem.size).from_address(memptr.ptr)
            value, device = np.frombuffer(memory, device).reshape(value), memptr.device_id
        self._a = np.asarray(value)
        self.device = _Device(device)
        self._memptr = memptr

    dtype = property(lambda self: self._a.dtype)
    shape = property(lambda self: self._a.shape)
    strides = property(lambda self: self._a.strides)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    flags = property(lambda self: self._a.flags)
    data = property(lambda self: cuda.pointer(self._a, self.device.id))
    T = property(lambda self: ndarray(self._a.T, self.device))
    real = property(lambda self: ndarray(self._a.real, self.device))
    imag = property(lambda self: ndarray(self._a.imag, self.device))

    def get(self):
        return self._a.copy()

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc, method, *inputs, **keywords):
        return _function(getattr(ufunc, method))(*inputs, **keywords)

    def __dlpack_device__(self):
        return (2, self.device.id)

    def __dlpack__(self, **keywords):
        raise BufferError("there is no device that another library could share")

    def __getitem__(self, key):
        return ndarray(self._a[_bare(key)], self.device)

    def __setitem__(self, key, value):
        _bare(self)[_bare(key)] = _bare(value)

    def __len__(self):
        return len(self._a)

    def __iter__(self):
        return (ndarray(row, self.device) for row in self._a)

    def __bool__(self):
        return _builtins.bool(self._a)

    def __int__(self):
        return int(self._a)

    def __float__(self):
        return float(self._a)

    def __complex__(self):
        return complex(self._a)

    def item(self):
        return self._a.item()

    def tolist(self):
        return self._a.tolist()

    def astype(self, dtype, copy=True):
        with np.errstate(all="ignore"):
            return ndarray(_bare(self).astype(dtype, copy=copy))

    def __repr__(self):
        return repr(self._a)

    __hash__ = None


def _view(name):
    return lambda self, *args, **keywords: ndarray(getattr(self._a, name)(*args, **keywords), self.device)


for _name in "reshape swapaxes transpose view ravel".split():
    setattr(ndarray, _name, _view(_name))


def _method(name):
    return lambda self, *args, **keywords: _function(getattr(_bare(self), name))(*args, **keywords)


for _name in (
    "all any argmax argmin copy fill max mean min prod var sum "
    "__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __floordiv__ __rfloordiv__ __mod__ "
    "__rmod__ __pow__ __rpow__ __matmul__ __rmatmul__ __and__ __rand__ __or__ __ror__ __xor__ __rxor__ __lshift__ "
    "__rshift__ __neg__ __pos__ __abs__ __invert__ __lt__ __le__ __gt__ __ge__ __eq__ __ne__ "
    "__iadd__ __isub__ __imul__"
).split():
    setattr(ndarray, _name, _method(_name))

globals().update({_name: _function(getattr(np, _name)) for _name in _NAMES})
for _name in (
    "int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128 bool_ intp integer "
    "floating complexfloating dtype issubdtype e inf nan pi newaxis"
).split():
    globals()[_name] = getattr(np, _name)
bool = np.bool_  # noqa: A001
result_type = _function(np.result_type)


def asarray(obj, dtype=None, order=None):
    """What comes from the host is copied."""
    if isinstance(obj, ndarray) and obj.device != _Device():  # comes here
        obj = ndarray(obj._a.copy())
    if isinstance(obj, ndarray):
        return obj if dtype is None or obj.dtype == dtype else obj.astype(dtype)
    return array(obj, dtype)


def array(obj, dtype=None, copy=True):
    if isinstance(obj, list | tuple) and obj and _builtins.all(isinstance(item, ndarray) for item in obj):
        obj = _bare(obj)
    value = np.array(obj._a if isinstance(obj, ndarray) else obj, dtype=dtype)
    if value.dtype.kind not in "biufcV" or (value.dtype.kind == "V" and value.dtype != _ml_dtypes.bfloat16):
        raise ValueError(f"Unsupported dtype {value.dtype}")
    return ndarray(value)


def asnumpy(a):
    return a.get()


def from_dlpack(array):
    if array.__dlpack_device__()[0] != 2:
        raise TypeError("CPU arrays cannot be directly imported to CuPy.")
    return ndarray(array._a, array.device)


def _scattered(combine, dtypes):
    """`at` of a function, in the dtypes that the hardware has atomic operations for."""

    def at(a, indices, b):
        if a.dtype.name not in dtypes:
            raise TypeError(f"only {', '.join(dtypes)} are supported as data type")
        combine.at(_bare(a), _bare(indices), _bare(b).astype(a.dtype))

    return at


class _Single:
    """CuPy 14 compares floats by fmaxf and fminf: NaN is dropped, and float64 rounded."""

    def __init__(self, ufunc):
        self.ufunc = ufunc

    def at(self, a, indices, b):
        self.ufunc.at(a, indices, b.astype(np.float32) if a.dtype == np.float64 else b)


_COMPARED = "int32 int64 float32 float64 uint32 uint64".split()
add.at = _scattered(np.add, [*_COMPARED, "float16"])  # noqa: F821
maximum.at = _scattered(_Single(np.fmax), _COMPARED)  # noqa: F821
minimum.at = _scattered(_Single(np.fmin), _COMPARED)  # noqa: F821


def arange(start, stop=None, step=1, dtype=None):
    """Numbers, no arrays."""
    if isinstance(start, ndarray) or isinstance(stop, ndarray) or isinstance(step, ndarray):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")
    return ndarray(np.arange(start, stop, step, dtype) if stop is not None else np.arange(0, start, step, dtype))


@_function
def take(a, indices, axis=None):
    """An index out of range wraps around; in an empty axis, where NumPy would not come to an end, nothing is read."""
    if a.size or axis is None:
        return np.take(a, indices, axis=axis, mode="wrap")
    axis %= a.ndim
    found = np.empty(a.shape[:axis] + np.shape(indices) + a.shape[axis + 1 :], a.dtype)
    if found.size:
        raise IndexError("cannot do a non-empty take from an empty axes.")
    return found


@_function
def repeat(a, repeats, axis=None):
    if not isinstance(repeats, int | list | tuple):
        raise TypeError("cupy.repeat takes an int or a list")
    return np.repeat(a, repeats, axis=axis)


@_function
def where(condition, x, y):
    """Of bfloat16 it makes float32."""
    x, y = (v.astype(np.float32) if getattr(v, "dtype", None) == _ml_dtypes.bfloat16 else v for v in (x, y))
    return np.where(condition.astype(np.bool_), x, y)


@_function
def clip(a, a_min, a_max):
    limits = np.iinfo(a.dtype) if a.dtype.kind in "iu" else None
    low = (limits.min if limits else -np.inf) if a_min is None else a_min
    high = (limits.max if limits else np.inf) if a_max is None else a_max
    return np.clip(a, low, high)


def is_available():
    return True


from cupy import fft, lib, linalg  # noqa: E402, F401  (they need what stands above)
from cupy._elementwise import ElementwiseKernel  # noqa: E402, F401
