"""`ortlite.bench`: how long a model takes, engine by engine, each in a process of its own."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ortlite.errors import NoSuchFile, OrtError
from ortlite.limits import current
from ortlite.provider import CPU
from ortlite.tools.shown import Shown, Table, amount

__all__ = ["Bench", "Timing", "bench", "ratio_interval"]

PEERS = ("onnxruntime",)
RESAMPLES, DRAWN = 1000, 1000  # of the bootstrap, and the times that it draws of a process at most
LIMIT = 600.0  # seconds that a process may take, besides its runs


@dataclass(frozen=True, slots=True)
class Timing:
    """The figures of one engine; times in milliseconds, `throughput` in items (batch × runs) a second.

    `ratio` is its median divided by that of what it is compared with, between `low` and `high` with a confidence of
    95 %; `difference` the largest difference of an output from that one's, as a part of its largest element or of 1.
    `problem` says what went wrong, and then there are no figures.
    """

    engine: str
    batch: int | None
    threads: int
    runs: int = 0
    load: float | None = None
    first: float | None = None
    least: float | None = None
    median: float | None = None
    p90: float | None = None
    p99: float | None = None
    throughput: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    difference: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Bench(Shown):
    """What `ortlite.bench` measured: `rounds` processes an engine, which took turns, `seconds` each."""

    name: str
    against: str
    rounds: int
    seconds: float
    timings: tuple[Timing, ...]

    def heading(self) -> str:
        """The model and how it was measured."""
        each = f"{self.rounds} process{'' if self.rounds == 1 else 'es'} an engine"
        return f"{self.name}: {each}, {self.seconds:g} s each, warm-up not counted"

    def tables(self) -> list[Table]:
        """One row an engine, batch and number of threads."""
        head = ["engine", "batch", "threads", "load", "first", "min", "median", "p90", "p99", "items/s", "runs"]
        head += [f"÷ {self.against}", "95 %", "differs"] if self.against else []
        rows = []
        for each in self.timings:
            row = [each.engine, str(each.batch or ""), str(each.threads or "")]
            row += [_ms(t) for t in (each.load, each.first, each.least, each.median, each.p90, each.p99)]
            row += ["" if each.throughput is None else amount(each.throughput), str(each.runs or "")]
            if self.against:
                row += ["" if each.ratio is None else f"{each.ratio:.3f}"]
                row += ["" if each.low is None else f"{each.low:.3f} to {each.high:.3f}"]
                row += ["" if each.difference is None else f"{each.difference:.1e}"]
            rows.append(row)
        missable = ["runs", "p99", "min", "p90", "load", "first", "differs", "items/s", "95 %"]
        return [Table("times in ms", head, rows, missable, name="engine")]

    def remarks(self) -> list[str]:
        """What went wrong."""
        return [
            f"{each.engine}{f', batch {each.batch}' if each.batch else ''}: {each.problem}"
            for each in self.timings
            if each.problem
        ]


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 100 else f"{value:.1f}"


def bench(
    model: str | os.PathLike[str] | bytes,
    providers: Sequence[str] = (CPU,),
    *,
    against: str = "",
    batches: Sequence[int | None] = (None,),
    threads: Sequence[int] = (0,),
    seconds: float = 3.0,
    rounds: int = 3,
    files: Mapping[str, str] | None = None,
    shapes: Mapping[str, str] | None = None,
    on_start: Callable[[str], None] | None = None,
) -> Bench:
    """Time a model on each of the providers and, if given, `against` onnxruntime's CPU provider.

    Engines take turns in `rounds`, each time in a new process that loads the model, runs it once, warms up, and is
    timed for `seconds`. Options of a provider stand behind a colon: `Torch:compile=1`. `batches` are sizes of the
    first dimension of inputs where that is open (None: as declared), `threads` numbers of threads (0: what the engine
    takes by itself). Inputs are those that `ortlite run` makes up, or from `files`, with `shapes` as text. `on_start`
    is called with a label before each process. Raises ValueError for a provider or a peer that is not here and for
    files or shapes that do not fit the model, NoSuchFile and FileNotFoundError where the file of a model or of an input
    is not; what goes wrong in a process stands in its row.

    Example:
        >>> import ortlite
        >>> from ortlite.cli.digits import model_bytes
        >>> found = ortlite.bench(model_bytes(), seconds=0.01, rounds=1, batches=[2])
        >>> found.timings[0].runs >= 10, found.timings[0].problem
        (True, '')

    """
    from ortlite.tools.inputs import provider_and_options

    if against and against not in PEERS:
        raise ValueError(f"models are timed against {', '.join(PEERS)}, not {against!r}")
    if rounds < 1 or seconds <= 0:
        raise ValueError(f"rounds ({rounds}) and seconds ({seconds}) are above 0")
    if not isinstance(model, bytes) and not Path(os.fsdecode(model)).exists():
        raise NoSuchFile(f"Load model {os.fsdecode(model)} failed. File doesn't exist")
    for file in (files or {}).values():
        if not Path(file).exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file)
    if files or shapes:  # what is wrong with these is no engine's fault
        _check(model, files or {}, shapes or {})
    names = dict.fromkeys("".join((provider_and_options(given)[0], *given.partition(":")[1:])) for given in providers)
    engines: list[tuple[str, str, str]] = [(against, against, CPU)] if against else []
    engines += [(name, "ortlite", name) for name in names]
    combinations = list(product(batches, threads))
    times: dict[tuple[str, int | None, int], list[dict[str, Any]]] = defaultdict(list)
    problems: dict[tuple[str, int | None, int], str] = {}
    differences: dict[tuple[str, int | None, int], float] = {}
    kept: dict[tuple[str, int | None, int], Path] = {}
    with TemporaryDirectory(prefix="ortlite-bench-") as folder:
        if isinstance(model, bytes):
            path = Path(folder, "model.onnx")
            path.write_bytes(model)
        else:
            path = Path(os.fsdecode(model)).resolve()
        for turn in range(rounds):
            for (batch, count), (engine, module, provider) in product(combinations, engines):
                key = engine, batch, count
                if on_start is not None:
                    on_start(f"{engine}{f' × {batch}' if batch else ''}, round {turn + 1}")
                if key in problems:
                    continue
                outputs = kept.setdefault(key, Path(folder, f"{len(kept)}.npz"))
                task: dict[str, Any] = {
                    "path": str(path),
                    "module": module,
                    "provider": provider,
                    "batch": batch,
                    "threads": count,
                }
                task |= {"seconds": seconds, "files": dict(files or {}), "shapes": dict(shapes or {})}
                row = _process({**task, "outputs": str(outputs) if not turn else ""}, Path(folder, "result.json"))
                if isinstance(row, str):
                    problems[key] = row
                    continue
                times[key].append(row)
                peer = kept.get((against, batch, count))
                if peer and not turn and engine != against and peer.exists():
                    differences[key] = _difference(outputs, peer)
    timings = []
    for (batch, count), (engine, _, _) in product(combinations, engines):
        key = engine, batch, count
        if key in problems:
            timings.append(Timing(engine, batch, count, problem=problems[key]))
            continue
        other = (
            () if engine == against or (against, batch, count) in problems else times.get((against, batch, count), ())
        )
        timings.append(_timing(key, times[key], other, differences.get(key)))
    name = "model" if isinstance(model, bytes) else path.name
    return Bench(name, against, rounds, seconds, tuple(timings))


def _check(model: str | os.PathLike[str] | bytes, files: Mapping[str, str], shapes: Mapping[str, str]) -> None:
    """Raise ValueError for files and shapes that are not for this model's inputs; one that is no model is for rows."""
    from ortlite.api.description import declared
    from ortlite.load import load
    from ortlite.tools.inputs import gather

    try:
        graph = load(model).graph
    except OrtError:
        return
    gather(*declared(graph), files, shapes)


def _process(task: Mapping[str, Any], result: Path) -> dict[str, Any] | str:
    """What a worker finds, or what went wrong there."""
    home = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH", "")]))}
    if count := task["threads"]:
        env |= {name: str(count) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    task = {**task, "limits": asdict(current())}
    command = [sys.executable, "-m", "ortlite.tools.worker", json.dumps(task), str(result)]
    limit = LIMIT + 2 * task["seconds"]
    try:
        done = subprocess.run(  # noqa: S603
            command, text=True, capture_output=True, timeout=limit, check=False, env=env, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"over {limit:g} s"
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
        return said[-1][:500]
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def _difference(ours: Path, theirs: Path) -> float:
    """The largest difference of two files of outputs; infinite where they hold other shapes, or NaN in other places."""
    worst = 0.0
    with np.load(ours) as a, np.load(theirs) as b:
        for name in a.keys() & b.keys():
            x, y = a[name].astype(np.float64), b[name].astype(np.float64)
            if x.shape != y.shape or not np.array_equal(np.isfinite(x), np.isfinite(y)):
                return float("inf")
            x, y = x[np.isfinite(x)], y[np.isfinite(y)]
            size = max(1.0, float(np.abs(y).max(initial=0)))
            worst = max(worst, float(np.abs(x - y).max(initial=0)) / size)
    return worst


def _timing(
    key: tuple[str, int | None, int],
    rows: Sequence[Mapping[str, Any]],
    other: Sequence[Mapping[str, Any]],
    difference: float | None,
) -> Timing:
    every = np.concatenate([row["times"] for row in rows])
    median, p90, p99 = (float(v) for v in np.percentile(every, [50, 90, 99]))
    ratio, low, high = None, None, None
    if other:
        peer = [row["times"] for row in other]
        ratio = median / float(np.median(np.concatenate(peer)))
        low, high = ratio_interval([row["times"] for row in rows], peer)
    return Timing(
        *key,
        runs=len(every),
        load=float(np.median([row["load"] for row in rows])),
        first=float(np.median([row["first"] for row in rows])),
        least=float(every.min()),
        median=median,
        p90=p90,
        p99=p99,
        throughput=(key[1] or 1) * len(every) / float(every.sum()) * 1e3,
        ratio=ratio,
        low=low,
        high=high,
        difference=difference,
    )


def ratio_interval(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Between which bounds the ratio of the medians lies, with a confidence of 95 %: a bootstrap in two stages.

    Each resample draws processes and then, from each, times: processes differ from one another by more than the runs
    of one do.

    Example:
        >>> low, high = ratio_interval([[2.0, 2.1, 1.9]] * 3, [[1.0, 1.1, 0.9]] * 3)
        >>> 1.7 < low <= 2.0 <= high < 2.4
        True

    """
    rng = np.random.default_rng(0)

    def median(processes: Sequence[np.ndarray]) -> float:
        drawn = [processes[i] for i in rng.integers(len(processes), size=len(processes))]
        return float(np.median(np.concatenate([rng.choice(times, min(len(times), DRAWN)) for times in drawn])))

    a, b = [np.asarray(t) for t in ours], [np.asarray(t) for t in theirs]
    ratios = [median(a) / median(b) for _ in range(RESAMPLES)]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)
