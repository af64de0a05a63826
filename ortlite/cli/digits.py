"""`ortlite demo`: a small model of our own reads real handwritten digits, on every provider there is."""

from __future__ import annotations

import statistics
import time
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from ortlite.api.providers import get_available_providers
from ortlite.api.session import InferenceSession
from ortlite.cli.grid import show_table
from ortlite.tools.shown import Table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["compare_providers", "model_bytes", "scans", "show_scans"]

SHOWN = 4  # scans side by side
INK = " .:-=+*#%@"  # plain shades, light to dark


def model_bytes() -> bytes:
    """The digit classifier, trained by benchmarks/train_digits.py."""
    return files("ortlite").joinpath("demo/digits.onnx").read_bytes()


def scans() -> tuple[np.ndarray, np.ndarray]:
    """Scans (n, 1, 8, 8) in float32, ink 0 to 16, and what was written; the model never saw them in training."""
    with files("ortlite").joinpath("demo/scans.npz").open("rb") as file, np.load(file) as archive:
        return archive["scan"][:, None].astype(np.float32), archive["label"]


def show_scans(out: Console) -> None:
    """Print scans with the classes that the model finds most probable."""
    session = InferenceSession(model_bytes(), providers=["CPUExecutionProvider"])
    x, labels = scans()
    (probabilities,) = session.run(None, {"scan": x})
    facts = session.get_modelmeta().custom_metadata_map
    out.print(
        f"A convolutional network of {len(model_bytes()) // 1000} kB reads handwritten digits "
        f"({float(facts['accuracy']):.1%} of {facts['held_out'].split(' of ')[-1].split()[0]} held-out scans right).",
        highlight=False,
        soft_wrap=True,
    )
    for start in range(0, len(x), SHOWN):
        chosen = slice(start, start + SHOWN)
        out.print()
        for row in range(8):
            _line(out, [scan[0, row] for scan in x[chosen]])
        best = np.argsort(-probabilities[chosen], axis=1)[:, :3]
        for place in range(3):
            cells = [f"{k[place]}  {p[k[place]]:6.1%}" for k, p in zip(best, probabilities[chosen], strict=True)]
            out.print("   ".join(cell.ljust(16) for cell in cells).rstrip(), highlight=False)
    right = int((probabilities.argmax(1) == labels).sum())
    out.print(f"\n{right} of {len(labels)} right", highlight=False)


def _line(out: Console, rows: list[np.ndarray]) -> None:
    """One row of pixels of several scans: shades of grey on a terminal, characters when piped."""
    if out.color_system is None:
        line = "   ".join("".join(INK[min(int(v * len(INK) / 17), len(INK) - 1)] * 2 for v in row) for row in rows)
        out.print(line.rstrip(), markup=False, highlight=False)
        return
    from rich.text import Text

    text = Text()
    for index, row in enumerate(rows):
        text.append("   " if index else "")
        for value in row:
            grey = round(value * 255 / 16)
            text.append("  ", style=f"on rgb({grey},{grey},{grey})")
    out.print(text)


def compare_providers(out: Console, runs: int = 30) -> None:
    """Run the model on every available provider; print the latency and the largest difference between any two."""
    x, _ = scans()
    results: dict[str, np.ndarray] = {}
    rows = []
    for name in sorted(get_available_providers(), key=lambda n: n != "CPUExecutionProvider"):
        session = InferenceSession(model_bytes(), providers=[name])
        nodes = session.explain().nodes
        here = sum(node.provider == name for node in nodes)
        (results[name],) = session.run(None, {"scan": x})
        one, all_ = (_latency(session, batch, runs) for batch in (x[:1], x))
        rows.append((name, f"{here} of {len(nodes)}", f"{one:.3f} ms", f"{all_:.3f} ms"))
    head = ("provider", "nodes", "1 scan", f"{len(x)} scans")
    show_table(out, Table("the same model on every provider", head, rows, name="provider"))
    values = list(results.values())
    difference = max((float(np.abs(a - b).max()) for a in values for b in values), default=0.0)
    out.print(f"largest difference between providers: {difference:.1e}", highlight=False)


def _latency(session: InferenceSession, x: np.ndarray, runs: int) -> float:
    """Median time of a run in milliseconds, after three that warm up."""
    times = []
    for _ in range(runs + 3):
        start = time.perf_counter()
        session.run(None, {"scan": x})
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[3:])
