"""`ortlite run`: run a model and say what went in, what came out, where it ran and how long it took."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ortlite import atomic
from ortlite.api.session import InferenceSession
from ortlite.api.values import NodeArg
from ortlite.cli.grid import show_table
from ortlite.tools.inputs import gather, provider_and_options
from ortlite.tools.shown import Table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Result", "describe", "run_model", "save", "show"]


@dataclass(frozen=True)
class Result:
    """What one `ortlite run` found out; times in milliseconds."""

    path: Path
    session: InferenceSession
    inputs: dict[str, Any]
    given: frozenset[str]
    outputs: dict[str, Any]
    created_ms: float
    first_ms: float
    run_ms: list[float]


def run_model(
    path: Path, files: Mapping[str, str], shapes: Mapping[str, str], providers: Sequence[str], runs: int
) -> Result:
    """Run a model once and then `runs` times. Raises ValueError for inputs it does not have; otherwise as a session."""
    asked = [provider_and_options(name) for name in providers]
    start = time.perf_counter()
    session = InferenceSession(path, providers=asked or None)
    created = time.perf_counter() - start
    feed = gather(session.get_inputs(), session.get_overridable_initializers(), files, shapes)
    times = []
    outputs: list[Any] = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        outputs = session.run(None, feed)
        times.append((time.perf_counter() - start) * 1e3)
    names = [a.name for a in session.get_outputs()]
    return Result(
        path,
        session,
        feed,
        frozenset(files),
        dict(zip(names, outputs, strict=True)),
        created * 1e3,
        times[0],
        times[1:],
    )


def show(out: Console, result: Result) -> None:
    """Print a result: tables on a terminal, aligned plain text when piped."""
    meta = result.session.get_modelmeta()
    made_by = f", made by {meta.producer_name}" if meta.producer_name else ""
    out.print(f"{result.path}: {meta.graph_name}{made_by}", markup=False, highlight=False, soft_wrap=True)
    declared = {a.name: a for a in result.session.get_inputs()}
    rows: list[Sequence[str]] = [
        (name, *describe(value), _wanted(declared.get(name)), "given" if name in result.given else "made up")
        for name, value in result.inputs.items()
    ]
    head = ("name", "type", "shape", "values", "model wants", "")
    show_table(out, Table("inputs", head, rows, missable=("model wants",), name="name", prose="values"))
    rows = [(name, *describe(value)) for name, value in result.outputs.items()]
    show_table(out, Table("outputs", ("name", "type", "shape", "values"), rows, name="name", prose="values"))
    counts = Counter("host values" if n.host else n.provider for n in result.session.explain().nodes)
    crossings = len(result.session.explain().copies)
    rows = [(name, str(count)) for name, count in counts.items()]
    show_table(out, Table("placement", ("provider", "nodes"), rows, name="provider"))
    if crossings:
        out.print(f"{crossings} values cross between providers")
    median = statistics.median(result.run_ms)
    out.print(
        f"time: session {result.created_ms:.1f} ms, first run {result.first_ms:.2f} ms, "
        f"then {median:.2f} ms (median of {len(result.run_ms)})",
        highlight=False,
        soft_wrap=True,
    )


def _wanted(arg: NodeArg | None) -> str:
    return "" if arg is None else "[" + ", ".join("?" if d is None else str(d) for d in arg.shape) + "]"


def describe(value: Any) -> tuple[str, str, str]:
    """Dtype, shape and a few statistics of a value."""
    if value is None:
        return "none", "", ""
    if isinstance(value, list):
        return "sequence", str(len(value)), describe(value[0])[2] if value else ""
    if isinstance(value, dict):
        best = ", ".join(f"{key}: {item}" for key, item in list(value.items())[:3])
        return "map", str(len(value)), best
    shape = "[" + ", ".join(map(str, value.shape)) + "]"
    name = "string" if value.dtype == object else str(value.dtype)
    if value.dtype == object:
        return name, shape, ", ".join(map(repr, value.reshape(-1)[:3].tolist()))
    if value.size == 0:
        return name, shape, "empty"
    if value.dtype.kind == "c":
        return name, shape, f"mean {value.mean():.4g}"
    if value.dtype == bool:
        return name, shape, f"{int(value.sum())} of {value.size} true"
    wide = value.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    odd = f", {value.size - finite.size} not finite" if finite.size < value.size else ""
    if not finite.size:
        return name, shape, f"none finite of {value.size}"
    return name, shape, f"min {finite.min():.4g}, mean {finite.mean():.4g}, max {finite.max():.4g}{odd}"


def save(path: Path, outputs: Mapping[str, Any]) -> None:
    """Write the outputs that are tensors to a .npz file, by name. Raises ValueError when one is not."""
    if wrong := [name for name, value in outputs.items() if not isinstance(value, np.ndarray)]:
        raise ValueError(f"outputs {', '.join(wrong)} are no tensors: a .npz file cannot hold them")
    arrays = {n: v.astype(str) if v.dtype == object else _storable(v) for n, v in outputs.items()}
    with atomic.written(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _storable(array: np.ndarray) -> np.ndarray:
    """NumPy's file format knows NumPy's own dtypes: the narrow floats and integers go as float32."""
    return array if array.dtype.isbuiltin == 1 else array.astype(np.float32)
