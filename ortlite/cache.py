"""Where files lie that can be made again: compiled kernels, models of pickled sessions, examples."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["folder"]


def folder(name: str) -> Path:
    """A folder of ortlite's in the user's cache, whether it is there or not."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = root if root.is_absolute() else Path.home() / ".cache"
    return base / "ortlite" / name
