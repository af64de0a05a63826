"""Opening and reading the files of a model: each once, regular ones only, without waiting for anybody."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ortlite.limits import Limits, beyond

__all__ = ["below", "contents", "copied", "opened"]

# A pipe is opened without waiting for who writes to it; a link at the end of a path is not followed.
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
STEP = 2**24  # bytes that are copied at once
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[int]:
    """A descriptor of the regular file at `path`.

    Raises IsADirectoryError for a folder, ValueError for what else is no file, OSError as `os.open` does.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        _check_kind(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def below(folder: Path, location: str, limits: Limits, linked: Path | None = None) -> Iterator[int]:
    """A descriptor of a file below `folder`, opened step by step so that no link on the way is followed.

    Links that lead to files below the folder, or below `linked`, are resolved before, unless `limits.own_files`, which
    allows no links, nor files of several names. Raises ValueError for a path that leads elsewhere, and for what is no
    file, and OSError.
    """
    if not location or Path(location).is_absolute():
        raise ValueError("not a path relative to the model")
    root = folder.resolve()
    if limits.own_files:
        parts = Path(location).parts
        if ".." in parts:
            raise ValueError("leads out of the model's folder")
    else:
        real = (folder / location).resolve()
        if linked is not None and real.is_relative_to(linked):
            root = linked
        if not real.is_relative_to(root):
            raise ValueError("leads out of the model's folder")
        parts = real.relative_to(root).parts
    if not parts:
        raise ValueError("not a file")
    try:
        descriptor = _walk(root, parts)
    except OSError as error:
        if error.errno == errno.ELOOP:  # what the system says of a link at the end; its words would be of many
            raise ValueError(f"a link{', which own_files does not allow' if limits.own_files else ''}") from None
        raise
    try:
        _check_kind(descriptor)
        if limits.own_files and (names := os.fstat(descriptor).st_nlink) != 1:
            raise ValueError(f"a file of {names} names (hard links), which own_files does not allow")
        yield descriptor
    finally:
        os.close(descriptor)


def _walk(root: Path, parts: tuple[str, ...]) -> int:
    if os.open not in os.supports_dir_fd:
        return os.open(root.joinpath(*parts), _FLAGS | _NO_LINKS)
    folder = os.open(root, _FOLDER)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _FOLDER | _NO_LINKS, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(parts[-1], _FLAGS | _NO_LINKS, dir_fd=folder)
    finally:
        os.close(folder)


def _check_kind(descriptor: int) -> None:
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(kind):
        raise IsADirectoryError("a folder")
    if not stat.S_ISREG(kind):
        raise ValueError("not a file")


def contents(descriptor: int, limits: Limits, allowed: int | None, what: str) -> memoryview:
    """The bytes of a file, mapped, or read where `limits.own_files`: who cuts a mapped file ends the process.

    Raises LimitExceeded for more than `allowed`, ValueError for a file that ends before its size.
    """
    size = os.fstat(descriptor).st_size
    if allowed is not None and size > allowed:
        raise beyond("model_bytes", limits.model_bytes or 0, size, f"bytes of {what}")
    if not size:
        return memoryview(b"")
    if not limits.own_files:
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    data = memoryview(bytearray(size))
    at = 0
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        while at < size:
            count = file.readinto(data[at:])
            if not count:
                raise ValueError(f"the file has {size} bytes, and only {at} can be read")
            at += count
    return data.toreadonly()


def copied(data: np.ndarray, start: int, length: int) -> np.ndarray:
    """`length` of the bytes from `contents`, in memory of their own.

    Pages of a mapped file are given back as soon as they are copied: the process never holds the bytes twice.
    """
    values = np.empty(length, np.uint8)
    base: object = data.base
    mapped = base.obj if isinstance(base, memoryview) else None
    for at in range(0, length, STEP):
        stop = min(at + STEP, length)
        values[at:stop] = data[start + at : start + stop]
        if isinstance(mapped, mmap.mmap) and hasattr(mapped, "madvise"):
            page = (start + at) // mmap.PAGESIZE * mmap.PAGESIZE
            mapped.madvise(mmap.MADV_DONTNEED, page, start + stop - page)
    return values
