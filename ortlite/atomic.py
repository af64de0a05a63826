"""Files that are there whole, or as they were: nobody finds half of one after an error or Ctrl-C."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["naming", "written"]


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Where to write what shall be called `path`: it is called so at the end, and is gone after an error.

    What is no ordinary file (a pipe, a terminal), or may not be replaced, is written to itself; of a link, what it
    points to is replaced. Who may read a file stays as it was. Errors of the system are of `path`.
    """
    whole = Path(os.path.realpath(path))
    with naming(path, whole):
        known = whole.exists()
    if known and not (whole.is_file() and os.access(whole, os.W_OK) and os.access(whole.parent, os.W_OK)):
        with naming(path, whole):
            yield whole
        return
    part = whole.with_name(f".{os.urandom(4).hex()}.{whole.name}"[-200:])  # by its ending, some know how to write it
    try:
        with naming(path, part):
            yield part
            if known:
                shutil.copymode(whole, part)
            part.replace(whole)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def naming(path: str | os.PathLike[str], part: Path) -> Iterator[None]:
    """Errors of the system within, at `part`, below it or at no file (a full disk), name `path` in its place."""
    try:
        yield
    except OSError as error:
        said = error.strerror or str(error)
        at = None if error.filename is None else os.fsdecode(error.filename)
        if at is not None and not Path(at).is_relative_to(part):
            raise
        raise OSError(error.errno, said.replace(str(part), str(path)), os.fspath(path)) from error
