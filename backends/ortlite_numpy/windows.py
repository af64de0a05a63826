"""What windows of images with channels last show, block by block: (N, *spatial, C), some rows of windows at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple, TypeAlias

from numpy.lib.stride_tricks import as_strided

from ortlite_numpy.record import numpy as np
from ortlite_numpy.record import opaque, recording
from ortlite_numpy.threads import pays

__all__ = ["Pads", "Windows", "copied", "in_blocks", "most_windows", "padded", "scratch", "seen"]

Pads: TypeAlias = Sequence[tuple[int, int]]

KEPT = 1 << 22  # bytes of each piece of scratch memory that a thread keeps
THIN = 12  # elements in a row of a window up to which they are copied by place, for all windows


class Windows(NamedTuple):
    """What windows an image is seen through: a number, or a pair of pads, for each spatial axis."""

    size: Sequence[int]
    strides: Sequence[int]
    pads: Pads
    dilations: Sequence[int]


def copied(
    images: Any,
    first: int,
    last: int,
    out: Sequence[int],
    size: Sequence[int],
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
    groups: int,
) -> Any:
    """What windows show, rows `first` to `last` of them: (groups, windows, prod(size) · C / groups)."""
    x = padded(images, first, last, out, size, strides, pads, dilations)
    n, c, rank = x.shape[0], x.shape[-1], len(size)
    shape = (n, last - first, *out[1:], *size, groups, c // groups)
    steps = x.strides[1:-1]
    strided = [
        x.strides[0],
        *(b * s for b, s in zip(steps, strides, strict=True)),
        *(b * d for b, d in zip(steps, dilations, strict=True)),
        x.strides[-1] * (c // groups),
        x.strides[-1],
    ]
    windows = seen(x, shape, strided)
    if groups == 1 and size[-1] * c <= THIN <= out[-1]:  # runs along a row of windows are longer than those in one
        result = scratch("columns", (*size, c, *shape[: 1 + rank]), x.dtype)
        kernel, places = range(1 + rank, 1 + 2 * rank), range(1 + rank)
        result[...] = windows[..., 0, :].transpose(*kernel, 1 + 2 * rank, *places)
        return result.reshape(1, prod(size) * c, -1).transpose(0, 2, 1)
    windows = windows.transpose(1 + 2 * rank, *range(1 + 2 * rank), 2 + 2 * rank)
    result = scratch("columns", windows.shape, x.dtype)
    result[...] = windows
    return result.reshape(groups, n * (last - first) * prod(out[1:]), prod(size) * c // groups)


class _Scratch(threading.local):
    """Memory that the blocks of a thread use one after the other: fresh memory costs more than filling it."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def __call__(self, name: str, shape: Sequence[int], dtype: Any) -> Any:
        """An array of no particular content, until the next one of that name."""
        return opaque(self.array, name, shape, dtype) if recording() else self.array(name, shape, dtype)

    def array(self, name: str, shape: Sequence[int], dtype: Any) -> Any:
        nbytes = prod(shape) * dtype.itemsize
        if nbytes > KEPT:
            return np.empty(shape, dtype)
        kept = self.kept.get(name)
        if kept is None or kept.nbytes < nbytes:
            self.kept[name] = kept = np.empty(nbytes, np.uint8)
        return kept[:nbytes].view(dtype).reshape(shape)


scratch = _Scratch()


def seen(x: Any, shape: Sequence[int], strides: Sequence[int]) -> Any:
    """as_strided, which takes longer than a small convolution."""
    if x.flags.c_contiguous:
        given = (tuple(shape), x.dtype, x, 0, tuple(strides))
        return opaque(np.ndarray, *given) if recording() else np.ndarray(*given)
    return as_strided(x, shape, strides, writeable=False)


def padded(
    images: Any,
    first: int,
    last: int,
    out: Sequence[int],
    size: Sequence[int],
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
) -> Any:
    """The part of the padded `images` that windows of the rows `first` to `last` show."""
    spatial = images.shape[1:-1]
    low, lengths = [], []
    for axis, (k, s, d, (lo, _)) in enumerate(zip(size, strides, dilations, pads, strict=True)):
        count = last - first if axis == 0 else out[axis]
        low.append((first * s if axis == 0 else 0) - lo)
        lengths.append((count - 1) * s + (k - 1) * d + 1)
    inner = [slice(max(a, 0), max(min(a + n, m), 0)) for a, n, m in zip(low, lengths, spatial, strict=True)]
    part = images[(slice(None), *inner)]
    if part.shape[1:-1] == tuple(lengths) and part.strides[-1] == part.itemsize:
        return part
    result = scratch("padded", (images.shape[0], *lengths, images.shape[-1]), images.dtype)
    target = []
    for axis, (a, n, at) in enumerate(zip(low, lengths, inner, strict=True), 1):
        begin = min(max(-a, 0), n)
        end = min(begin + max(at.stop - at.start, 0), n)
        before = (slice(None),) * axis
        result[(*before, slice(0, begin))] = 0
        result[(*before, slice(end, None))] = 0
        target.append(slice(begin, end))
    result[(slice(None), *target)] = part
    return result


def most_windows(windows: int, out: Sequence[int], cost: float, threads: int) -> int:
    """So many of a block at most that every thread has one, where that pays."""
    return min(windows, -(-prod(out) // threads)) if threads > 1 and pays(cost) else windows


@lru_cache(maxsize=1024)
def in_blocks(n: int, out: Sequence[int], most: int, least: int, threads: int) -> list[tuple[slice, int, int]]:
    """Images and rows of windows of each block, about `most` windows in each, but not below `least`.

    Where one image has several, they are as many for each thread.
    """
    most, whole, row = max(most, least), prod(out), prod(out[1:])
    if whole <= most:
        step = max(most // whole, 1)
        count = -(-n // step)
        return [(slice(n * i // count, n * (i + 1) // count), 0, out[0]) for i in range(count)]
    parts = min(max(round(whole / most), 1), max(out[0] * row // max(least, 1), 1), out[0])
    if parts > 1 and n % threads:
        parts = min(-(-parts // threads) * threads, out[0])
    edges = [out[0] * i // parts for i in range(parts + 1)]
    return [(slice(i, i + 1), a, b) for i in range(n) for a, b in pairwise(edges)]
