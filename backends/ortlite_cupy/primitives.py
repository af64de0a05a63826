"""Primitives that take fewer launches in CuPy than the defaults in `ortlite.primitives`; the signatures are theirs.

A launch costs the host several microseconds whatever it computes, so one kernel over a strided view of windows is
better than a loop over their positions. CuPy writes nowhere but into arrays made here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from types import SimpleNamespace
from typing import Any

import array_api_compat.cupy
import cupy
import cupyx.scipy.special
from cupy.lib.stride_tricks import as_strided

from ortlite import primitives as default
from ortlite.namespace import Namespace

compat: Any = array_api_compat.cupy
Pads = Sequence[tuple[int, int]]
TF32_EXACT = 2**11  # integers up to here keep all their bits in the inputs of a product, whatever CUPY_TF32 says


def bit_view(xp: Namespace, x: Any, dtype: Any) -> Any:
    """The bits of `x` as another dtype of the same width."""
    return x.view(dtype)


def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
    """One launch; the compatibility layer, which knows bounds that the dtype does not hold, writes through masks."""
    if all(bound is None or _fits(x.dtype, bound) for bound in (min, max)):
        return cupy.clip(x, min, max)
    return compat.clip(x, min, max)


def _fits(dtype: Any, bound: Any) -> bool:
    """Whether a bound keeps its value in `dtype`."""
    if hasattr(bound, "dtype"):
        return bool(bound.dtype == dtype) and bound.ndim == 0
    if dtype.kind in "iu":
        return isinstance(bound, int) and cupy.iinfo(dtype).min <= bound <= cupy.iinfo(dtype).max
    return isinstance(bound, int | float) and dtype.char in "fd"


def where(condition: Any, x: Any, y: Any, /) -> Any:
    """cupy.where, which makes float32 of bfloat16: it picks from the bits."""
    dtypes = [getattr(v, "dtype", None) for v in (x, y)]
    narrow = next((dtype for dtype in dtypes if getattr(dtype, "name", "") == "bfloat16"), None)
    if narrow is None:
        return cupy.where(condition, x, y)
    x, y = (cupy.asarray(v, dtype=narrow).view(cupy.int16) for v in (x, y))
    return cupy.where(condition, x, y).view(narrow)


def integer_matmul(xp: Namespace, a: Any, b: Any, dtype: Any) -> Any:
    """Where floats hold every partial sum exactly, cuBLAS; CuPy's own product of integers is a plain kernel.

    Asking how large the elements are waits for the device once.
    """
    if a.size == 0 or b.size == 0 or a.ndim == 0 or b.ndim == 0:
        return NotImplemented
    ends = [cupy.stack([x.min(), x.max()]).astype(cupy.float64) for x in (a, b)]
    largest = abs(cupy.stack(ends)).max(axis=1).get().tolist()
    bound = largest[0] * largest[1] * a.shape[-1]
    if bound >= 2**53:
        return NotImplemented
    single = bound < 2**24 and max(largest) <= TF32_EXACT
    exact = cupy.float32 if single else cupy.float64
    return cupy.matmul(a.astype(exact), b.astype(exact)).astype(cupy.int64).astype(dtype, copy=False)


def erf(xp: Namespace, x: Any) -> Any:
    """cupyx.scipy.special.erf."""
    return cupyx.scipy.special.erf(x)


def sigmoid(xp: Namespace, x: Any) -> Any:
    """cupyx.scipy.special.expit."""
    return cupyx.scipy.special.expit(x)


def fmod(xp: Namespace, x: Any, y: Any) -> Any:
    """cupy.fmod for floats; that of integers goes through float64."""
    return cupy.fmod(x, y) if x.dtype.kind == "f" else NotImplemented


def pad(xp: Namespace, x: Any, widths: Sequence[tuple[int, int]], mode: str = "constant", value: Any = 0) -> Any:
    """A constant border is written around the array in two launches."""
    if mode != "constant" or x.ndim == 0:
        return NotImplemented
    crop = tuple(slice(max(-lo, 0), max(n - max(-hi, 0), 0)) for n, (lo, hi) in zip(x.shape, widths, strict=True))
    x = x[crop]
    if all(lo <= 0 and hi <= 0 for lo, hi in widths):
        return x
    shape = [n + max(lo, 0) + max(hi, 0) for n, (lo, hi) in zip(x.shape, widths, strict=True)]
    result = cupy.full(tuple(shape), value, dtype=x.dtype)
    result[tuple(slice(max(lo, 0), max(lo, 0) + n) for n, (lo, _) in zip(x.shape, widths, strict=True))] = x
    return result


def _windows(x: Any, size: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Any:
    """A view (N, C, *size, *windows) of padded `x`: every element where each window shows it. None without windows."""
    out = default.window.output_shape(x.shape[2:], size, strides, dilations, [(0, 0)] * len(size))
    if 0 in out or 0 in x.shape or 0 in tuple(size):
        return None
    steps = x.strides[2:]
    within = (step * d for step, d in zip(steps, dilations, strict=True))
    between = (step * s for step, s in zip(steps, strides, strict=True))
    return as_strided(x, (*x.shape[:2], *size, *out), (*x.strides[:2], *within, *between))


def conv(
    xp: Namespace, x: Any, w: Any, *, strides: Sequence[int], pads: Pads, dilations: Sequence[int], groups: int = 1
) -> Any:
    """Columns gathered by one copy, then one product: CuPy has no convolution. 1×1 needs no columns."""
    size = w.shape[2:]
    padded = default.window.padded(xp, x, pads)
    windows = _windows(padded, size, strides, dilations)
    if windows is None or (prod(size) == 1 and set(strides) <= {1}):
        return NotImplemented
    (n, c), m, out = x.shape[:2], w.shape[0], windows.shape[2 + len(size) :]
    depth = c // groups * prod(size)
    columns = windows.reshape(n, groups, depth, prod(out))
    return cupy.matmul(w.reshape(1, groups, m // groups, depth), columns).reshape(n, m, *out)


def conv_transpose(
    xp: Namespace, x: Any, w: Any, *, strides: Sequence[int], pads: Pads, dilations: Sequence[int], groups: int = 1
) -> Any:
    """One product, whose columns are added up where the kernel puts them: no zeros are multiplied."""
    size, spatial = w.shape[2:], x.shape[2:]
    if 0 in x.shape or 0 in w.shape:
        return NotImplemented
    n, c, m = x.shape[0], x.shape[1], w.shape[1]
    kernel = w.reshape(1, groups, c // groups, m * prod(size)).swapaxes(2, 3)
    columns = cupy.matmul(kernel, x.reshape(n, groups, c // groups, prod(spatial)))
    columns = columns.reshape(n, groups * m, prod(size), *spatial)
    full = [(i - 1) * s + (k - 1) * d + 1 for i, s, k, d in zip(spatial, strides, size, dilations, strict=True)]
    y = cupy.zeros((n, groups * m, *full), dtype=columns.dtype)
    for number, key in enumerate(default.window.window_slices(spatial, size, strides, dilations)):
        y[(slice(None), slice(None), *key)] += columns[:, :, number]
    return xp.pad(y, ((0, 0), (0, 0), *((-lo, -hi) for lo, hi in pads)))


def root(xp: Namespace, x: Any, power: float = 0.5) -> Any:
    """Without a guard: nothing in CuPy takes derivatives, and the operator Gradient brings its own."""
    return cupy.sqrt(x) if power == 0.5 else cupy.power(x, x.dtype.type(power))


def max_pool(
    xp: Namespace,
    x: Any,
    size: Sequence[int],
    *,
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
    indices: bool = False,
) -> Any:
    """One reduction over a view of the windows; the default body where positions are asked for."""
    least = float("-inf") if x.dtype.kind == "f" else cupy.iinfo(x.dtype).min
    windows = None if indices else _windows(default.window.padded(xp, x, pads, least), size, strides, dilations)
    if windows is None:
        return NotImplemented
    return windows.max(axis=tuple(range(2, 2 + len(size)))), None


def sum_pool(
    xp: Namespace, x: Any, size: Sequence[int], *, strides: Sequence[int], pads: Pads, dilations: Sequence[int]
) -> Any:
    """One reduction over a view of the windows."""
    windows = _windows(default.window.padded(xp, x, pads), size, strides, dilations)
    if windows is None:
        return NotImplemented
    return windows.sum(axis=tuple(range(2, 2 + len(size))), dtype=x.dtype)


def gather_nd(xp: Namespace, data: Any, indices: Any) -> Any:
    """Indexing by one array an axis; CuPy counts negative indices from the end itself."""
    depth = indices.shape[-1]
    if not depth or 0 in data.shape:
        return NotImplemented
    return data[tuple(indices[..., i] for i in range(depth))]


ADDED = ("int32", "int64", "uint32", "uint64", "float32", "float64")  # what the hardware adds atomically
# atomicMax of floats drops NaN, and rounds float64 to float32
COMPARED = ("int32", "int64", "uint32", "uint64")
SMALL = {"int8": "int32", "int16": "int32", "uint8": "uint32", "uint16": "uint32"}  # wrap around as the wide ones do


def _scattered(data: Any, key: Any, updates: Any, reduction: str) -> Any:
    """A copy of `data` changed at `key`, or NotImplemented. Of two writes to a place either may win."""
    known: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
        "add": (cupy.add.at, ADDED),
        "max": (cupy.maximum.at, COMPARED),
        "min": (cupy.minimum.at, COMPARED),
    }
    if reduction == "none":
        result = data.copy()
        result[key] = updates
        return result
    name = SMALL.get(data.dtype.name, data.dtype.name)
    combine, fitting = known.get(reduction, (None, ()))
    if combine is None or name not in fitting:
        return NotImplemented
    result = data.astype(name)  # a copy
    combine(result, key, updates.astype(name, copy=False))
    return result.astype(data.dtype, copy=False)


def scatter_flat(xp: Namespace, data: Any, indices: Any, updates: Any, reduction: str) -> Any:
    """Assignment by index; sums, and extrema of integers, by atomic operations."""
    if indices.size == 0:
        return data
    return _scattered(data, indices, updates, reduction)


def scatter(xp: Namespace, data: Any, indices: Any, updates: Any, axis: int, reduction: str = "none") -> Any:
    """Assignment by index; sums, and extrema of integers, by atomic operations."""
    if indices.size == 0:
        return data
    key = [cupy.arange(n).reshape([-1 if i == d else 1 for i in range(data.ndim)]) for d, n in enumerate(indices.shape)]
    key[axis % data.ndim] = indices
    return _scattered(data, tuple(key), updates, reduction)


def scatter_nd(xp: Namespace, data: Any, indices: Any, updates: Any, reduction: str = "none") -> Any:
    """Assignment by index; sums, and extrema of integers, by atomic operations."""
    depth = indices.shape[-1]
    if not depth or updates.size == 0:
        return NotImplemented
    return _scattered(data, tuple(indices[..., i] for i in range(depth)), updates, reduction)


def _precise(name: str) -> Callable[..., Any]:
    """A transform of cupy.fft in double precision: cuFFT's single precision keeps fewer bits than NumPy's."""
    transform = getattr(cupy.fft, name)
    single = cupy.float32 if name == "irfft" else cupy.complex64

    def apply(x: Any, *, n: int | None = None, axis: int = -1) -> Any:
        if x.dtype not in {cupy.dtype("float32"), cupy.dtype("complex64")}:
            return transform(x, n=n, axis=axis)
        wide = cupy.complex128 if x.dtype.kind == "c" else cupy.float64
        return transform(x.astype(wide), n=n, axis=axis).astype(single)

    return apply


def readable(xp: Namespace, x: Any) -> bool:
    """On the device it never is."""
    return False


PRIMITIVES: dict[str, Callable[..., Any]] = {
    fn.__name__: fn
    for fn in (
        bit_view, integer_matmul, erf, root, sigmoid, fmod, pad, conv, conv_transpose, max_pool, sum_pool, gather_nd,
        scatter_flat, scatter, scatter_nd, readable,
    )
}  # fmt: skip
NAMES: dict[str, Any] = {
    "clip": clip,
    "where": where,
    "fft": SimpleNamespace(**{name: _precise(name) for name in ("fft", "ifft", "rfft", "irfft")}),
}
