"""Rows a second and memory of workers: `ortlite run`, Dask, Ray and Spark, beside onnxruntime written by hand.

    python -m benchmarks.workers [--systems run dask ray spark] [--workers 1 2] [--rows N] [--rounds N] [--write]

Every figure comes from a process of its own, with a cluster of its own on this machine; engines take turns, and the
median over rounds counts. Results are kept in workers.json, one system after the other; `--write` puts all that it has
into docs/scaling.md.
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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import ROOT, put_between
from benchmarks.models import build
from conformance import run_main
from ortlite.cli.bars import working
from ortlite.cli.digits import model_bytes
from ortlite.progress import say

KEPT = Path(__file__).with_suffix(".json")
PAGE = ROOT / "docs" / "scaling.md"
MARKS = ("<!-- numbers: python -m benchmarks.workers --write -->", "<!-- end of numbers -->")
ENGINES = ("ortlite", "onnxruntime")
NAMES = {"run": "`ortlite run`", "dask": "Dask", "ray": "Ray Data", "spark": "Spark"}


def measure(system: str, engine: str, path: Path, workers: int, rows: int, batch: int) -> dict[str, float]:
    say(f"{system}, {engine}, {path.stem}, {workers} workers")
    command = [sys.executable, "-m", "benchmarks.cluster", system, engine, str(path), *map(str, (workers, rows, batch))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def row(system: str, path: Path, workers: int, rows: int, batch: int, rounds: int) -> dict[str, object]:
    found: dict[str, list[dict[str, float]]] = {engine: [] for engine in ENGINES}
    for _ in range(rounds):
        for engine in ENGINES:
            found[engine].append(measure(system, engine, path, workers, rows, batch))
    middle = {
        engine: {key: statistics.median(each[key] for each in several) for key in several[0]}
        for engine, several in found.items()
    }
    return {"system": system, "model": path.stem, "workers": workers, "rows": rows, "rounds": rounds, **middle}


def table(kept: list[dict]) -> str:
    figure = lambda rate: f"{rate:,.0f}" if rate >= 100 else f"{rate:.2g}"  # noqa: E731
    head = ["system", "model", "workers", "rows/s", "by hand, onnxruntime", "MB a worker, PSS (RSS)", "onnxruntime"]
    lines = [f"| {' | '.join(head)} |", "|---|---|---:|---:|---:|---:|---:|"]
    order = list(NAMES)
    for each in sorted(kept, key=lambda r: (r["model"], order.index(r["system"]), r["workers"])):
        ours, peer = each["ortlite"], each["onnxruntime"]
        memory = [f"{m['pss']:.0f} ({m['rss']:.0f})" for m in (ours, peer)]
        cells = [
            NAMES[each["system"]],
            each["model"],
            str(each["workers"]),
            figure(ours["rows"]),
            figure(peer["rows"]),
        ]
        lines.append(f"| {' | '.join(cells + memory)} |")
    names = []
    for name in ("numpy", "onnxruntime", "dask", "ray", "pyspark"):
        try:
            names.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    several = [each["rounds"] for each in kept]
    rounds = "–".join(map(str, sorted({min(several), max(several)})))
    where = f"{os.cpu_count()} cores, Python {platform.python_version()}, {', '.join(names)}"
    lines += ["", f"{datetime.now(UTC):%Y-%m-%d}, {where}; medians of {rounds} rounds."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__.split("\n")[0])
    parser.add_argument("--systems", nargs="*", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--models", nargs="*", default=["digits", "resnet50"], choices=["digits", "resnet50"])
    parser.add_argument("--workers", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--rows", type=int, default=200_000, help="of digits; of ResNet-50 a thousandth")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ortlite-benchmarks")
    parser.add_argument("--only-write", action="store_true", help="measure nothing, write what is kept")
    parser.add_argument("--write", action="store_true", help="put the table into docs/scaling.md")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    digits = args.folder / "digits.onnx"
    digits.write_bytes(model_bytes())
    kept = {(r["system"], r["model"], r["workers"]): r for r in (json.loads(KEPT.read_text()) if KEPT.exists() else [])}
    with working("measuring"):
        for system in () if args.only_write else args.systems:
            for model in args.models:
                if model == "resnet50" and system != "run":  # the same for all: what a worker has in memory
                    continue
                path, batch = (digits, 256) if model == "digits" else (build("resnet50", args.folder), 8)
                rows = args.rows if model == "digits" else max(64, args.rows // 1000)
                for workers in args.workers:
                    found = row(system, path, workers, rows, batch, args.rounds)
                    kept[system, path.stem, workers] = found
                    KEPT.write_text(json.dumps(list(kept.values()), indent=1) + "\n")
    text = table(list(kept.values()))
    print(text)
    if args.write or args.only_write:
        put_between(MARKS, text, PAGE)


if __name__ == "__main__":
    run_main(main)
