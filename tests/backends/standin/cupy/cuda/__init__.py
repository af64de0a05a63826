"""Devices and pointers."""

import numpy as np

from cupy.cuda import compiler
from cupy.cuda.device import Device
from cupy.cuda.device import current as _current


class UnownedMemory:
    """A block of memory, and who keeps it."""

    def __init__(self, ptr, size, owner, device_id=-1):
        if ptr == 0 and device_id < 0:
            raise RuntimeError("UnownedMemory requires explicit device ID for a null pointer.")
        self.ptr, self.size, self._owner = ptr, size, owner
        self.device_id = _current() if device_id < 0 else device_id


class MemoryPointer:
    """A place in a block."""

    def __init__(self, mem, offset):
        self.ptr, self.mem, self.device_id = mem.ptr + offset, mem, mem.device_id


def pointer(array, device_id):
    """Where a NumPy array starts."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    start = root.__array_interface__["data"][0]
    block = UnownedMemory(start, root.nbytes, root, device_id)
    return MemoryPointer(block, array.__array_interface__["data"][0] - start)


class Stream:
    """Everything is done when a call returns."""

    def __init__(self, null=False, non_blocking=False):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def synchronize(self):
        pass


def get_current_stream():
    return Stream()


__all__ = ["Device", "MemoryPointer", "Stream", "UnownedMemory", "compiler", "get_current_stream"]
