"""What a node, a call, an import, a session and its weights cost beside the peers: a table of the README.

    python -m benchmarks.overheads [--runs N] [--folder DIR] [--write]

Every figure comes from a process of its own (thread pools that spin disturb each other); of a few such processes
the median counts. `--write` puts the table into README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import ROOT, compile_sources, put_between
from benchmarks.models import build
from conformance import run_main
from ortlite.cli.bars import working
from ortlite.progress import say

MARKS = ("<!-- numbers: python -m benchmarks.overheads --write -->", "<!-- end of numbers -->")


def measure(task: str, engine: str, path: Path, runs: int, processes: int = 3) -> dict[str, float]:
    """Medians over `processes` processes of one task."""
    say(f"{task}, {engine}")
    command = [sys.executable, "-m", "benchmarks.worker", task, engine, str(path), "--runs", str(runs)]
    found = [json.loads(subprocess.check_output(command, cwd=ROOT, text=True)) for _ in range(processes)]
    return {key: statistics.median(row[key] for row in found) for key in found[0]}


def import_ms(module: str, processes: int = 9) -> float:
    """Median time of a process that imports `module`, the interpreter's own start taken off."""

    def once(code: str) -> float:
        script = f"import time; s = time.perf_counter(); {code}; print((time.perf_counter() - s) * 1e3)"
        return float(subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True))

    return statistics.median(once(f"import {module}") for _ in range(processes))


def rows(folder: Path, runs: int) -> list[tuple[str, str, str, str]]:
    """What was measured, our figure, the peer's, and the ratio or difference beside its bound."""
    adds, resnet = build("adds", folder), build("resnet50", folder)
    heavy, external = build("heavy", folder), build("heavy", folder, external=True)
    ours, peer = measure("run", "ortlite", adds, 2000)["ms"], measure("calls", "numpy", adds, 2000)["ms"]
    table = [
        (
            "overhead a node, specialised: 100 Adds of 8 floats beyond the same NumPy calls",
            f"{ours * 10:.2f} µs a node",
            f"NumPy {peer * 10:.2f} µs",
            f"+{(ours - peer) * 10:.2f} µs (at most 1.5)",
        )
    ]
    ours, peer = (measure("run", engine, build("one", folder), 20000)["ms"] for engine in ("ortlite", "onnxruntime"))
    ours, peer = ours * 1e3, peer * 1e3
    table.append(
        (
            "`session.run` of one Add",
            f"{ours:.1f} µs",
            f"onnxruntime {peer:.1f} µs",
            f"{ours / peer:.2f} × (at most 7 µs)",
        )
    )
    ours, peer = import_ms("ortlite"), import_ms("numpy")
    table.append(
        ("`import ortlite`", f"{ours:.0f} ms", f"`import numpy` {peer:.0f} ms", f"{ours / peer:.2f} × (at most 1.5)")
    )
    ours, peer = (measure("create", engine, resnet, runs)["ms"] for engine in ("ortlite", "onnxruntime"))
    table.append(
        ("session for ResNet-50", f"{ours:.0f} ms", f"onnxruntime {peer:.0f} ms", f"{ours / peer:.2f} × (at most 2)")
    )
    build("light", folder)  # for the next
    size = external.with_suffix(".data").stat().st_size / 2**20
    for path, bound in ((external, 1.2), (heavy, 2.2)):
        ours, peer = (measure("memory", engine, path, 1)["mb"] for engine in ("ortlite", "onnxruntime"))
        kind = "external" if path == external else "embedded"
        row = (
            f"peak memory of loading {size:.0f} MB of {kind} weights, and one run",
            f"{ours:.0f} MB",
            f"onnxruntime {peer:.0f} MB",
        )
        table.append((*row, f"{ours / size:.2f} × its size (at most {bound})"))
    return table


def table(folder: Path, runs: int) -> str:
    """The measured rows as Markdown, with date, machine and versions."""
    lines = ["| what | ortlite | peer | |", "|---|---:|---:|---:|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(folder, runs)]
    names = ", ".join(f"{name} {version(name)}" for name in ("numpy", "onnx", "onnxruntime"))
    where = f"{os.cpu_count()} cores, Python {platform.python_version()}, {names}"
    lines += ["", f"Medians over processes, {datetime.now(UTC):%Y-%m-%d}, {where}."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overheads", description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=9, help="repetitions in a process")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ortlite-benchmarks")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    compile_sources()
    with working("overheads"):
        text = table(args.folder, args.runs)
    print(text)
    if args.write:
        put_between(MARKS, text, ROOT / "README.md")


if __name__ == "__main__":
    run_main(main)
