"""How long models take on each engine, as ratios to onnxruntime measured in the same run.

    python -m benchmarks [MODEL.onnx ...] [--providers NAME ...] [--batches 1 8] [--rounds 3] [--write]

Models are files with the values to feed beside them (NAME.npz: inputs `in_*`, expected outputs `out_*`), by default
those that `python -m benchmarks.architectures` has exported. Providers have their options behind a colon, as in
`Torch:precision=bfloat16`. Every figure comes from a process of its own, two threads each; engines take turns, round by
round, and the median of the rounds counts. A wrong answer is no figure. `--write` makes benchmarks/SPEED.md, speed.json
and the chart, speed.svg and speed.png, and puts the means into README.md. Of models that are named only their rows are
made anew: of those that something disturbed, with more rounds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter

import numpy as np
from rich.progress import Progress

from benchmarks import ROOT, compile_sources, put_between
from benchmarks.architectures import FOLDER
from benchmarks.worker import peak_mb

HERE = Path(__file__).parent
PEER = "onnxruntime"
# What the table calls a provider that is asked for so; the others go by what was asked for.
NAMES = {"CPU:compiled=0": "NumPy", "CPU": "NumPy [fast]", "Torch:compile=1": "Torch, compiled"}
LOOPS = "ᴺ"  # the mark of a figure that is that of NumPy's loops, which won a race
TOLERANCE = 2e-3  # of the largest number of an output
SHORT = 5e-2  # the same, with the option `precision`
MARKS = ("<!-- means: python -m benchmarks --write -->", "<!-- end of means -->")
WARM_UP = 3  # runs between the first and those that count: a compiler may take many seconds for one
SECONDS = 2.0  # of repetitions in a process
LIMIT = 600  # seconds a process may take
WIDEST = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}  # flags of a processor, the widest first
Row = dict[str, float]
TITLES = {
    "create": "making a process's first session",
    "again": "making one more",
    "first": "the first run",
    "start": "from the start of a process to its first answer",
    "memory": "peak memory",
}


def engine_of(given: str) -> tuple[str, str, dict[str, str]]:
    """The package, its provider and that one's options."""
    if given == PEER:
        return PEER, "CPUExecutionProvider", {}
    from ortlite.tools.inputs import provider_and_options  # not where onnxruntime is measured, nor where sessions are

    return "ortlite", *provider_and_options(given)


def one(path: Path, module: str, provider: str, settings: dict[str, str], batch: int, threads: int) -> Row | None:
    """What a worker finds: times in ms of creating the process's first session and one more, of the first run and of
    later ones, peak memory, and whether NumPy's loops were found to be faster than what was compiled.

    None where the model's batch is not open. Raises AssertionError for a wrong answer.
    """
    library = importlib.import_module(module)
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    start = perf_counter()
    session = library.InferenceSession(path, options, providers=[(provider, settings)])
    created = perf_counter()
    values = np.load(path.with_suffix(".npz"))
    feed = {}
    for arg in session.get_inputs():
        value = values[f"in_{arg.name}"]
        if batch != 1:
            if not arg.shape or isinstance(arg.shape[0], int):
                return None
            value = np.resize(value, (batch, *value.shape[1:]))
        feed[arg.name] = value
    begun = perf_counter()
    results = session.run(None, feed)
    answered = perf_counter()
    if batch == 1:
        tolerance = SHORT if "precision" in settings else TOLERANCE
        for arg, got in zip(session.get_outputs(), results, strict=True):
            wanted = values[f"out_{arg.name}"]
            error = np.abs(got.astype(np.float64) - wanted).max(initial=0)
            assert error <= tolerance * max(1.0, float(np.abs(wanted).max(initial=0))), (
                f"{arg.name} is off by {error:.3g}"
            )
    for _ in range(WARM_UP):
        session.run(None, feed)
    times: list[float] = []
    until = perf_counter() + SECONDS
    while len(times) < 5 or (perf_counter() < until and len(times) < 2000):
        before = perf_counter()
        session.run(None, feed)
        times.append(perf_counter() - before)
    memory = peak_mb()
    ways = session.explain().races if module == "ortlite" else ()
    del session  # what sessions of one file share goes with the last
    restart = perf_counter()
    library.InferenceSession(path, options, providers=[(provider, settings)])
    return {
        "run": statistics.median(times) * 1e3,
        "create": (created - start) * 1e3,
        "again": (perf_counter() - restart) * 1e3,
        "first": (answered - begun) * 1e3,
        "memory": memory,
        "by_numpy": float(ways[-1:] == ("NumPy",)),
    }


START = """
import importlib, json, sys
import numpy as np
module, path, provider, settings, threads = json.loads(sys.argv[1])
library = importlib.import_module(module)
options = library.SessionOptions()
options.intra_op_num_threads = threads
session = library.InferenceSession(path, options, providers=[(provider, settings)])
values = np.load(path.removesuffix("onnx") + "npz")
session.run(None, {arg.name: values[f"in_{arg.name}"] for arg in session.get_inputs()})
print("answered", flush=True)
"""


def cold_start(path: Path, engine: str, threads: int, variables: dict[str, str]) -> float:
    """Milliseconds from the start of a process, which imports nothing else, to its first answer."""
    module, provider, settings = engine_of(engine)
    given = json.dumps([module, str(path), provider, settings, threads])
    start = perf_counter()
    command = [sys.executable, "-c", START, given]
    with subprocess.Popen(command, cwd=HERE.parent, env=variables, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        return (perf_counter() - start) * 1e3


def measure(path: Path, engine: str, batch: int, threads: int) -> Row | str | None:
    """The figures of a process of its own, or what went wrong there."""
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        str(path),
        "--worker",
        json.dumps(engine_of(engine)),
        "--batches",
        str(batch),
    ]
    command += ["--threads", str(threads)]
    kept = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    variables = {**os.environ, **kept}
    try:
        done = subprocess.run(
            command, cwd=HERE.parent, text=True, capture_output=True, timeout=LIMIT, check=False, env=variables
        )
    except subprocess.TimeoutExpired:
        return f"over {LIMIT} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
    row = json.loads(done.stdout.strip().splitlines()[-1])
    return row | {"start": cold_start(path, engine, threads, variables)} if row and batch == 1 else row


def gather(
    paths: Sequence[Path], engines: Sequence[str], batches: Sequence[int], rounds: int, threads: int
) -> list[dict]:
    """One entry per model and batch: the medians of each engine's figures, or what went wrong."""
    entries = []
    with Progress(transient=True) as progress:
        task = progress.add_task("", total=len(paths) * len(batches) * rounds * len(engines))
        for path in paths:
            for batch in batches:
                found: dict[str, list[Row]] = defaultdict(list)
                failed: dict[str, str | None] = {}
                for _ in range(rounds):
                    for engine in engines:
                        progress.update(task, advance=1, description=f"{path.stem} × {batch}, {engine}")
                        if engine in failed:
                            continue
                        row = measure(path, engine, batch, threads)
                        if isinstance(row, dict):
                            found[engine].append(row)
                        else:
                            failed[engine] = row
                medians = {
                    engine: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
                    for engine, rows in found.items()
                }
                if medians:
                    problems = {engine: why for engine, why in failed.items() if why}
                    entry = {"model": path.stem, "batch": batch, "rounds": rounds}
                    entry |= {"date": f"{datetime.now(UTC):%Y-%m-%d}", "figures": medians, "problems": problems}
                    entries.append(entry)
    return entries


def merged(before: Sequence[dict], entries: Sequence[dict]) -> list[dict]:
    """The entries, and those of other models and batches from before."""
    found = {(entry["model"], entry["batch"]): entry for entry in [*before, *entries]}
    return [found[key] for key in sorted(found)]


def ratios(entries: Sequence[dict], engine: str, key: str = "run", batch: int | None = None) -> list[float]:
    """The engine's figures divided by onnxruntime's."""
    return [
        entry["figures"][engine][key] / entry["figures"][PEER][key]
        for entry in entries
        if {engine, PEER} <= entry["figures"].keys() and batch in {None, entry["batch"]}
    ]


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values))) if values else math.nan


def table(entries: Sequence[dict], engines: Sequence[str], machine: str) -> str:
    """The figures as Markdown, with dates, rounds and the `machine`."""
    ours = [engine for engine in engines if engine != PEER]
    titles = [NAMES.get(engine, engine) for engine in ours]
    lines = [
        "# How fast",
        "",
        "Made by `python -m benchmarks --write`: time of a run divided by onnxruntime's, smaller is better.",
        "",
        f"| model | batch | {PEER}, ms | {' | '.join(titles)} |",
        f"|---|---:|---:|{'---:|' * len(ours)}",
    ]
    for entry in entries:
        figures = entry["figures"]
        peer = figures.get(PEER, {}).get("run")
        cells = [
            f"{figures[engine]['run'] / peer:.2f}{f' {LOOPS}' * (figures[engine].get('by_numpy') == 1)}"
            if peer and engine in figures
            else "fails" if engine in entry["problems"] else ""
            for engine in ours
        ]  # fmt: skip
        lines.append(f"| {entry['model']} | {entry['batch']} | {peer or math.nan:.2f} | {' | '.join(cells)} |")
    for batch in sorted({entry["batch"] for entry in entries}):
        for title, pick in (("geometric mean", geometric_mean), ("worst", lambda v: max(v, default=math.nan))):
            cells = [f"**{pick(ratios(entries, engine, batch=batch)):.2f}**" for engine in ours]
            lines.append(f"| **{title}** | {batch} | | {' | '.join(cells)} |")
    if any(figures.get("by_numpy") == 1 for entry in entries for figures in entry["figures"].values()):
        lines += ["", f"{LOOPS}: NumPy's compiled loops were the fastest way, and answered."]
    lines += ["", "Also divided by onnxruntime's, geometric means, batch 1:", ""]
    lines += [f"| | {' | '.join(titles)} |", f"|---|{'---:|' * len(ours)}"]
    for key, title in TITLES.items():
        lines.append(f"| {title} | {' | '.join(f'{geometric_mean(ratios(entries, e, key, 1)):.2f}' for e in ours)} |")
    problems = [f"- {e['model']} × {e['batch']}, {name}: {why}" for e in entries for name, why in e["problems"].items()]
    lines += ["", *problems, ""] if problems else [""]
    rounds, dates = (_span([entry[key] for entry in entries]) for key in ("rounds", "date"))
    lines.append(f"Medians of {rounds} process{'es' * (rounds != '1')} each, {dates}, {machine}.")
    return "\n".join(lines) + "\n"


def _span(values: Sequence) -> str:
    return " to ".join(map(str, dict.fromkeys((min(values), max(values)))))


def machine(threads: int) -> str:
    """What the figures are measured with: threads, processor, versions."""
    versions = []
    for name in ("numpy", "numba", "torch", "jax", "onnx", "onnxruntime"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"no {name}")
    return f"{threads} threads, {processor()}, Python {platform.python_version()}, {', '.join(versions)}"


def means(entries: Sequence[dict], engines: Sequence[str]) -> str:
    """Geometric means and worst ratios, for the README."""
    ours = [engine for engine in engines if engine != PEER]
    lines = [f"| time ÷ {PEER}'s | {' | '.join(NAMES.get(e, e) for e in ours)} |", f"|---|{'---:|' * len(ours)}"]
    for batch in sorted({entry["batch"] for entry in entries}):
        found = {engine: ratios(entries, engine, batch=batch) for engine in ours}
        count = max(map(len, found.values()))
        cells = [f"{geometric_mean(values):.2f} ({max(values, default=math.nan):.1f})" for values in found.values()]
        lines.append(f"| batch {batch}, {count} models: geometric mean (worst) | {' | '.join(cells)} |")
    return "\n".join(lines)


def processor(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, and what its widest instructions are, as far as Linux tells: clouds call several by one."""
    lines = info.read_text().splitlines() if info.exists() else []
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = said.get("flags", "").split()
    widest = next((f" with {name}" for flag, name in WIDEST.items() if flag in flags), "")
    return f"{os.cpu_count()} cores of {said.get('model name', platform.machine())}{widest}"


def chart(entries: Sequence[dict], engines: Sequence[str], stem: Path) -> None:
    """One bar an engine and model, batch 1, on a logarithmic scale; the line at 1 is onnxruntime."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [entry for entry in entries if entry["batch"] == 1 and PEER in entry["figures"]]
    ours = [engine for engine in engines if engine != PEER]
    figure, axes = plt.subplots(figsize=(8, 1.5 + 0.3 * len(rows)), layout="constrained")
    height = 0.8 / max(len(ours), 1)
    for number, engine in enumerate(ours):
        peers = [entry["figures"][PEER]["run"] for entry in rows]
        times = [entry["figures"].get(engine, {}).get("run", math.nan) for entry in rows]
        widths = [time / peer for time, peer in zip(times, peers, strict=True)]
        places = [row + number * height for row in range(len(rows))]
        axes.barh(places, [w - 1 for w in widths], height, left=1, label=NAMES.get(engine, engine))
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(rows))], [entry["model"] for entry in rows])
    axes.set_xscale("log")
    axes.set_xticks(ticks := [0.25, 0.5, 1, 2, 4, 8], [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel(f"time ÷ {PEER}'s, batch 1 (left of the line: faster)")
    axes.legend(fontsize="small")
    for ending in (".svg", ".png"):
        figure.savefig(stem.with_suffix(ending), dpi=110)
    plt.close(figure)


def merging(engines: Sequence[str], where: str) -> list[dict]:
    """The rows that are there. Raises SystemExit where they are of other engines or of another machine."""
    rows: list[dict] = json.loads((HERE / "speed.json").read_text())
    found = dict.fromkeys(engine for row in rows for engine in row["figures"])
    if [*found] != [*engines] or where not in (HERE / "SPEED.md").read_text():
        raise SystemExit(f"the rows of SPEED.md are of {' '.join(found)}, or of another machine: measure all models")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--providers", nargs="+", default=["CPU:compiled=0", "CPU"], metavar="NAME")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(one(args.models[0], *json.loads(args.worker), args.batches[0], args.threads)))
        return
    paths = args.models or sorted(path for path in FOLDER.glob("*.onnx") if path.with_suffix(".npz").exists())
    if not paths:
        parser.error(f"no models in {FOLDER}: python -m benchmarks.architectures makes them")
    compile_sources()
    engines = list(dict.fromkeys([PEER, *args.providers]))
    where = machine(args.threads)
    before = merging(engines, where) if args.write and args.models else []
    entries = merged(before, gather(paths, engines, args.batches, args.rounds, args.threads))
    text = table(entries, engines, where)
    print(text)
    if args.write:
        (HERE / "SPEED.md").write_text(text)
        (HERE / "speed.json").write_text(json.dumps(entries, indent=1) + "\n")
        chart(entries, engines, HERE / "speed")
        put_between(MARKS, means(entries, engines), ROOT / "README.md")
