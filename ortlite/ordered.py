"""Copies of arrays whose axes are turned round in memory, such as images with channels last."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["in_order"]

LARGE = 1 << 20  # bytes from which on blocks pay
PIXELS = 256  # of a block, all channels of which are copied before the next
FEW = 16  # channels


def in_order(x: Any) -> Any:
    """A copy of an array in C order.

    NumPy reads an image once for every channel, and every line of memory with it; large images are copied block by
    block. A matrix in Fortran's order is such an image, too.
    """
    axis = 1 if x.ndim > 2 else 0
    last = np.moveaxis(x, axis, -1) if x.ndim > 1 else x
    if x.nbytes < LARGE or x.dtype.hasobject or not last.flags.c_contiguous or last.shape[-1] < FEW:
        return np.array(x, order="C")
    result = np.empty(x.shape, x.dtype)
    images = last.reshape(x.shape[0] if axis else 1, -1, last.shape[-1])
    for image, to in zip(images, result.reshape(len(images), last.shape[-1], -1), strict=True):
        for start in range(0, len(image), PIXELS):
            to[:, start : start + PIXELS] = image[start : start + PIXELS].T
    return result
