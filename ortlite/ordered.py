"""Copies of arrays whose axes are turned round in memory, such as images with channels last."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

__all__ = ["in_order"]

LARGE = 1 << 20  # bytes from which on blocks pay
PIXELS = 256  # of a block, all channels of which are copied before the next
FEW = 16  # channels


def in_order(x: Any) -> Any:
    """A copy of an array in C order.

    NumPy reads an image once for every channel, and every line of memory with it; large images are copied block by
    block. A matrix whose columns lie in memory one by one is such an image, too.
    """
    axis = 1 if x.ndim > 2 else 0
    last = np.moveaxis(x, axis, -1) if x.ndim > 1 else x
    if x.nbytes < LARGE or x.dtype.hasobject or last.shape[-1] < FEW or not _in_rows(last):
        return np.array(x, order="C")
    result = np.empty(x.shape, x.dtype)
    images = last.reshape(x.shape[0] if axis else 1, -1, last.shape[-1])
    for image, to in zip(images, result.reshape(len(images), last.shape[-1], -1), strict=True):
        for start in range(0, len(image), PIXELS):
            to[:, start : start + PIXELS] = image[start : start + PIXELS].T
    return result


def _in_rows(last: Any) -> bool:
    """Whether channels lie side by side, and pixels at steps of one length."""
    axes = list(zip(last.strides, last.shape, strict=True))[1 if last.ndim > 2 else 0 : -1]
    pixels = [(step, n) for step, n in axes if n > 1]
    even = all(step == after * n for (step, _), (after, n) in pairwise(pixels))
    return last.strides[-1] == last.itemsize and even
