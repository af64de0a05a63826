"""Primitives that PyTorch has itself, with the signatures of the defaults in `ortlite.primitives`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from ortlite import primitives as default
from ortlite.namespace import Namespace

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def bit_view(xp: Namespace, x: Any, dtype: Any) -> Any:
    """The bits of `x` as another dtype of the same width."""
    return x.view(dtype)


def _symmetric(x: Any, pads: Sequence[tuple[int, int]]) -> tuple[Any, list[int]]:
    """`x` padded on the heavier side, and the padding that is left to both."""
    both = [max(min(lo, hi), 0) for lo, hi in pads]
    rest = [(lo - b, hi - b) for b, (lo, hi) in zip(both, pads, strict=True)]
    if any(map(any, rest)):
        x = F.pad(x, [n for pair in reversed(rest) for n in pair])
    return x, both


def conv(
    xp: Namespace,
    x: Any,
    w: Any,
    *,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
    groups: int = 1,
) -> Any:
    """F.conv1d to F.conv3d."""
    if w.ndim - 2 not in CONV or not x.dtype.is_floating_point or 0 in x.shape or 0 in w.shape:
        return default.window.conv(xp, x, w, strides=strides, pads=pads, dilations=dilations, groups=groups)
    x, padding = _symmetric(x, pads)
    return CONV[w.ndim - 2](x, w, None, tuple(strides), padding, tuple(dilations), groups)


def conv_transpose(
    xp: Namespace,
    x: Any,
    w: Any,
    *,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
    groups: int = 1,
) -> Any:
    """F.conv_transpose1d to F.conv_transpose3d; pads that differ crop afterwards."""
    if w.ndim - 2 not in CONV or not x.dtype.is_floating_point or 0 in x.shape or 0 in w.shape:
        return default.window.conv_transpose(xp, x, w, strides=strides, pads=pads, dilations=dilations, groups=groups)
    y = CONV_TRANSPOSE[w.ndim - 2](x, w, None, tuple(strides), 0, 0, groups, tuple(dilations))
    crop = [-n for pair in reversed(list(pads)) for n in pair]
    return F.pad(y, crop) if any(crop) else y


def max_pool(
    xp: Namespace,
    x: Any,
    size: Sequence[int],
    *,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
    indices: bool = False,
) -> tuple[Any, Any]:
    """F.max_pool1d to F.max_pool3d, where the padding is no more than half a window."""
    if (
        indices
        or len(size) not in MAX_POOL
        or not x.dtype.is_floating_point
        or 0 in x.shape
        or any(lo != hi or lo > k // 2 for k, (lo, hi) in zip(size, pads, strict=True))
    ):
        return default.window.max_pool(xp, x, size, strides=strides, pads=pads, dilations=dilations, indices=indices)
    pool = MAX_POOL[len(size)]
    return pool(x, tuple(size), tuple(strides), tuple(lo for lo, _ in pads), tuple(dilations)), None


def sum_pool(
    xp: Namespace,
    x: Any,
    size: Sequence[int],
    *,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
) -> Any:
    """F.avg_pool2d and F.avg_pool3d with a divisor of 1."""
    if len(size) not in {2, 3} or any(d != 1 for d in dilations) or not x.dtype.is_floating_point or 0 in x.shape:
        return default.window.sum_pool(xp, x, size, strides=strides, pads=pads, dilations=dilations)
    if any(map(any, pads)):
        x = F.pad(x, [n for pair in reversed(list(pads)) for n in pair])
    pool = F.avg_pool2d if len(size) == 2 else F.avg_pool3d
    return pool(x, tuple(size), tuple(strides), divisor_override=1)


def pad(xp: Namespace, x: Any, widths: Sequence[tuple[int, int]], mode: str = "constant", value: Any = 0) -> Any:
    """F.pad, which crops by negative widths too; modes but constant by index."""
    if mode != "constant" or x.ndim == 0 or isinstance(value, complex) or hasattr(value, "shape"):
        return default.pad.pad(xp, x, widths, mode, value)
    return F.pad(x, [n for pair in reversed(list(widths)) for n in pair], value=value)


def erf(xp: Namespace, x: Any) -> Any:
    """torch.erf."""
    return torch.erf(x)


def sigmoid(xp: Namespace, x: Any) -> Any:
    """torch.sigmoid."""
    return torch.sigmoid(x)


def softmax(xp: Namespace, x: Any, axis: int) -> Any:
    """torch.softmax."""
    return torch.softmax(x, axis)


def einsum(xp: Namespace, equation: str, *operands: Any) -> Any:
    """torch.einsum."""
    return torch.einsum(equation, *operands)


def gather_nd(xp: Namespace, data: Any, indices: Any) -> Any:
    """Indexing by one tensor an axis."""
    return (
        data[torch.unbind(indices.to(torch.int64), -1)]
        if indices.shape[-1]
        else default.scatter.gather_nd(xp, data, indices)
    )


def scatter(xp: Namespace, data: Any, indices: Any, updates: Any, axis: int, reduction: str = "none") -> Any:
    """torch.scatter and torch.scatter_reduce."""
    index = indices.to(torch.int64)
    index = torch.where(index < 0, index + data.shape[axis], index)
    if data.dtype == torch.bool and reduction != "none":
        return default.scatter.scatter(xp, data, indices, updates, axis, reduction)
    if reduction == "none":
        return torch.scatter(data, axis, index, updates)
    return torch.scatter_reduce(data, axis, index, updates, REDUCE[reduction], include_self=True)


def scatter_flat(xp: Namespace, data: Any, places: Any, updates: Any, reduction: str) -> Any:
    """torch.scatter and torch.scatter_reduce."""
    return scatter(xp, data, places, updates, 0, reduction)


def scatter_nd(xp: Namespace, data: Any, indices: Any, updates: Any, reduction: str = "none") -> Any:
    """torch.index_put; the default body where slices are combined."""
    if reduction not in {"none", "add"} or not indices.shape[-1] or data.dtype == torch.bool:
        return default.scatter.scatter_nd(xp, data, indices, updates, reduction)
    places = torch.unbind(indices.to(torch.int64), -1)
    return torch.index_put(data, places, updates, accumulate=reduction == "add")


def _precise(name: str) -> Callable[..., Any]:
    """A transform of torch.fft in double precision: its single precision loses more bits than NumPy's."""
    transform = getattr(torch.fft, name)
    single = torch.float32 if name == "irfft" else torch.complex64

    def apply(x: Any, *, n: int | None = None, axis: int = -1) -> Any:
        if x.dtype not in {torch.float32, torch.complex64}:
            return transform(x, n=n, dim=axis)
        return transform(x.to(torch.complex128 if x.is_complex() else torch.float64), n=n, dim=axis).to(single)

    return apply


PRIMITIVES: dict[str, Callable[..., Any]] = {
    fn.__name__: fn
    for fn in (
        bit_view, conv, conv_transpose, max_pool, sum_pool, pad, erf, sigmoid, softmax, einsum, gather_nd, scatter,
        scatter_flat, scatter_nd,
    )
}  # fmt: skip
NAMES: dict[str, Any] = {"fft": SimpleNamespace(**{name: _precise(name) for name in ("fft", "ifft", "rfft", "irfft")})}
