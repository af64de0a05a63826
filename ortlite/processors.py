"""How many processors this process has."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["available"]


def available() -> int:
    """How many threads this process may keep busy: the processors it may run on, less where a cgroup grants less."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(processors, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup, or one without a quota
        return max(1, processors)
