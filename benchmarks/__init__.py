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


def put_between(marks: tuple[str, str], text: str, page: Path) -> None:
    """Write `text` between two lines of a page, in the place of what stands there."""
    before, rest = page.read_text().split(marks[0])
    page.write_text(f"{before}{marks[0]}\n{text}\n{marks[1]}{rest.split(marks[1])[1]}")
