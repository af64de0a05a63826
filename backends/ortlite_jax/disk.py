"""What XLA compiles is kept on disk: most of the time to a first answer is compiling.

JAX can do so, and does where somebody names a folder. It holds for all of a process, so it is left alone where that was
done already. Compiled for one processor, code may not run on another: each kind has a folder of its own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from functools import cache
from pathlib import Path
from stat import S_ISREG

from ortlite import processors
from ortlite.cache import folder

__all__ = ["keep_compiled"]

log = logging.getLogger("ortlite")
MOST, LEFT = 1 << 30, 1 << 29  # bytes from which on the oldest files go, and what is left of them
QUICK = 0.02  # seconds of compiling that reading a file does not save


def processor() -> str:
    """A name for the kind of processor: a digest of what it is able to do."""
    able = processors.said("flags", "Features") or platform.processor()
    return hashlib.sha256(f"{platform.machine()} {able}".encode()).hexdigest()[:16]


def prune(where: Path, most: int = MOST, left: int = LEFT) -> None:
    """Where its files have more than `most` bytes, remove the oldest until `left` are left."""
    found = []
    for path in where.iterdir():
        try:
            stat = path.stat()
        except OSError:  # another process has removed it
            continue
        if S_ISREG(stat.st_mode):  # XLA has folders of its own there
            found.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in found)
    if total <= most:
        return
    for _, size, path in sorted(found):
        if total <= left:
            return
        path.unlink(missing_ok=True)
        total -= size


@cache
def keep_compiled() -> Path | None:
    """Ask JAX to, once a process. Returns the folder; None where somebody has set one or wants none."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    config = jax.config
    if config.jax_compilation_cache_dir is not None or not config.jax_enable_compilation_cache:
        return None
    where = folder("jax") / processor()
    try:
        where.mkdir(0o700, parents=True, exist_ok=True)
        prune(where)
    except OSError as error:
        log.info("what JAX compiles is not kept: %s", error)
        return None
    if not os.access(where, os.W_OK):
        log.info("what JAX compiles is not kept: %s cannot be written to", where)
        return None
    config.update("jax_compilation_cache_dir", str(where))
    if config.jax_persistent_cache_min_compile_time_secs == 1.0:  # JAX's own
        config.update("jax_persistent_cache_min_compile_time_secs", QUICK)
    compilation_cache.reset_cache()  # it may have been looked for, and not found, before
    return where
