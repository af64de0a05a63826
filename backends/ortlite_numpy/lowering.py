"""What NumPy's functions do with arrays that are being recorded: the lines that cost least, or the call as it is.

Of NumPy's public functions many are Python around a method or a ufunc, which is what is noted instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ortlite_numpy.tape import ASKED, DIRECT, KNOWN, LOWER, Ended, Traced, called, current, real

__all__ = ["take"]


def _moveaxis(x: Any, source: Any, destination: Any) -> Any:
    marks = np.moveaxis(np.broadcast_to(np.False_, tuple(range(2, x.ndim + 2))), source, destination)
    return x.transpose(tuple(n - 2 for n in marks.shape))


def _expand_dims(a: Any, axis: Any) -> Any:
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    rank = a.ndim + len(axes)
    new = {k % rank for k in axes}
    if len(new) != len(axes) or any(not -rank <= k < rank for k in axes):
        raise Ended  # NumPy says what is wrong
    shape = iter(a.shape)
    return a.reshape(tuple(1 if k in new else next(shape) for k in range(rank)))


def _reduce(name: str) -> Any:
    return lambda x, /, axis=None, **keywords: getattr(x, name)(axis=axis, **keywords)  # others end the recording


def _clip(a: Any, a_min: Any = None, a_max: Any = None, out: Any = None, *, min: Any = None, max: Any = None) -> Any:
    if type(a) is not Traced:
        raise Ended
    return a.clip(a_min if min is None else min, a_max if max is None else max, out)


def _method_of(name: str) -> Any:
    def call(x: Any, /, *args: Any, **keywords: Any) -> Any:
        if type(x) is not Traced:
            raise Ended
        return getattr(x, name)(*args, **keywords)

    return call


def take(a: Any, indices: Any, axis: Any = None, **keywords: Any) -> Any:
    """NumPy does not ask the indices whether they want to know."""
    if type(indices) is not Traced and type(a) is not Traced:
        return np.take(a, indices, axis, **keywords)
    if keywords:
        raise Ended
    tape = current()
    return tape.line(f"{tape.text(a)}.take({tape.text(indices)}, {axis})", real(a).take(real(indices), axis))


def _dot(a: Any, b: Any, out: Any = None) -> Any:
    return NotImplemented if out is not None or type(a) is not Traced else a.dot(b)


def _searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> Any:
    if sorter is not None:
        raise Ended
    tape = current()
    return tape.line(f"{tape.text(a)}.searchsorted({tape.text(v)}, {side!r})", real(a).searchsorted(real(v), side))


def _mean(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False, **keywords: Any) -> Any:
    """What is behind NumPy's mean, which asks much first. Narrow floats are added in float32 there."""
    if type(a) is not Traced or a.dtype.char not in "fd" or not a.size or dtype or out is not None or keywords:
        return NotImplemented
    total: Any = a.sum(axis=axis, keepdims=bool(keepdims))
    return total / (a.size // total.size)


def _stack(arrays: Sequence[Any], axis: int = 0, **keywords: Any) -> Any:
    """As numpy.stack puts it together, without its Python."""
    shapes = {getattr(x, "shape", None) for x in arrays}
    shape = shapes.pop()
    if shapes or shape is None or keywords or not -len(shape) <= axis + 1 <= len(shape) + 1:
        return NotImplemented  # or NumPy says what is wrong
    axis %= len(shape) + 1
    place = (*(slice(None),) * axis, None)
    return np.concatenate([x[place] for x in arrays], axis=axis)


def _round(a: Any, decimals: int = 0, out: Any = None) -> Any:
    """To whole numbers, floats by their own function."""
    if decimals or a.dtype.kind != "f":
        raise Ended
    return np.rint(a) if out is None else np.rint(a, out=out)


def _broadcast(array: Any, shape: Any, subok: bool = False) -> Any:
    """Nothing where the shape is the same: nobody writes to what is broadcast."""
    if array.shape == tuple(shape):
        return array
    text = called(array.tape, np.broadcast_to, (array, tuple(shape)), {})
    return array.tape.line(text, np.broadcast_to(array.value, shape))


LOWER |= {
    np.reshape: lambda a, /, shape, order="C", *, copy=None: a.reshape(shape, order=order, copy=copy),
    np.transpose: lambda a, axes=None: a.transpose(axes),
    np.matrix_transpose: lambda x, /: x.swapaxes(-1, -2),
    np.swapaxes: _method_of("swapaxes"),
    np.moveaxis: _moveaxis,
    np.expand_dims: _expand_dims,
    np.squeeze: lambda a, axis=None: a.squeeze(axis),
    np.clip: _clip,
    np.ravel: _method_of("ravel"),
    np.copy: lambda a, order="K", subok=False: np.array(a) if order != "K" else a.copy("K"),
    **{getattr(np, name): _reduce(name) for name in ("sum", "prod", "max", "min", "any", "all")},
}
ASKED |= {np.result_type, np.shape, np.ndim, np.size, np.can_cast, np.iscomplexobj, np.isrealobj, np.isscalar}
KNOWN |= {
    getattr(np, name)
    for name in (
        "concatenate stack where broadcast_to broadcast_arrays tile repeat pad flip roll split array_split unstack "
        "empty_like zeros_like ones_like full_like einsum tensordot vecdot cumulative_sum cumulative_prod cumsum "
        "take_along_axis argmax argmin sort argsort mean var std dot tril triu diff copyto cross trace diagonal "
        "partition outer round nan_to_num vstack hstack atleast_1d atleast_2d inner"
    ).split()
}
LOWER[np.take], LOWER[np.searchsorted], LOWER[np.mean] = take, _searchsorted, _mean
LOWER[np.round], LOWER[np.stack], LOWER[np.dot] = _round, _stack, _dot
LOWER[np.broadcast_to] = _broadcast
LOWER[np.argmax], LOWER[np.argmin] = _method_of("argmax"), _method_of("argmin")
# without the search for a path, where NumPy has it
DIRECT[np.einsum] = getattr(getattr(getattr(np, "_core", None), "multiarray", None), "c_einsum", np.einsum)
