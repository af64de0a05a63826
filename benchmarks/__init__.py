"""Speed and memory beside the peers, in one run, each engine in a process of its own. See `python -m benchmarks -h`."""

import compileall
import os
from pathlib import Path

ROOT = Path(__file__).parent.parent

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # processes started from here find bytecode, as those of users do


def compile_sources() -> None:
    """Compile our sources, as an installation does: else the first process of a measurement does it."""
    for folder in ("ortlite", "backends", "benchmarks"):
        compileall.compile_dir(str(ROOT / folder), quiet=2)
