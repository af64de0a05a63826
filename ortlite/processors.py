"""How many processors this process has, and what the system says of them."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["available", "maker", "said"]

INFO = Path("/proc/cpuinfo")


def available() -> int:
    """How many threads this process may keep busy: the processors it may run on, less where a cgroup grants less."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(processors, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup, or one without a quota
        return max(1, processors)


def said(*heads: str) -> str:
    """The first line of what Linux says of the processors that begins with one of `heads`; "" where there is none."""
    try:
        with INFO.open(encoding="utf-8", errors="replace") as lines:  # made up for each processor as it is read
            return next((line.rstrip("\n") for line in lines if line.startswith(heads)), "")
    except OSError:
        return ""


def maker() -> str:
    """What the system says of the maker of its processor: on x86 it holds GenuineIntel or AuthenticAMD."""
    named = "Apple" if platform.system() == "Darwin" and platform.machine() == "arm64" else ""
    return said("vendor_id") or f"{os.environ.get('PROCESSOR_IDENTIFIER', '')} {platform.processor()} {named}"
