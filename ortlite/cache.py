"""Where files lie that can be made again: compiled kernels, models of pickled sessions, examples."""

from __future__ import annotations

import os
from pathlib import Path
from stat import S_ISREG
from time import time

__all__ = ["folder", "remove_unused"]

DAYS = 30  # without use, after which what another version has made goes
DAY = 24 * 3600.0  # seconds


def folder(name: str) -> Path:
    """A folder of ortlite's in the user's cache, whether it is there or not."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = root if root.is_absolute() else Path.home() / ".cache"
    return base / "ortlite" / name


def remove_unused(kept: Path, days: float = DAYS) -> list[Path]:
    """Remove what other versions have left beside the folder `kept`, where nobody used it for so many days.

    Nothing but plain files goes, and folders of the same kind (what is before the first "-" of the name), which lie in
    the user's cache. Who uses one all the same makes its files anew. Returns those that are gone.
    """
    if kept.parent != folder(kept.name).parent:
        return []  # a plug-in's, somewhere else
    since = time() - days * DAY
    kind = kept.name.partition("-")[0] + "-"
    gone = []
    for other in sorted(kept.parent.glob(f"{kind}*")):
        try:
            if other != kept and not other.is_symlink() and _last_use(other) < since:
                for entry in other.iterdir():
                    entry.unlink()
                other.rmdir()
                gone.append(other)
        except OSError:  # somebody else's, or somebody is writing there right now
            continue
    return gone


def _last_use(where: Path) -> float:
    """When a folder was last used, as it or its files say. Raises OSError where there is anything but plain files."""
    last = where.stat().st_mtime
    for entry in where.iterdir():
        found = entry.lstat()
        if not S_ISREG(found.st_mode):
            raise OSError(f"{entry} is no file of ours")
        last = max(last, found.st_atime, found.st_mtime)
    return last
