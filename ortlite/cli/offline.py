"""`ortlite run --output`: all rows of a file through a model, in batches."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ortlite.batches import Job
from ortlite.cli.options import pairs
from ortlite.tools.inputs import provider_and_options
from ortlite.tools.offline import Done, run_files

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Timed", "run_rows", "show"]


@dataclass(frozen=True)
class Timed:
    """What was written, and in how many seconds."""

    done: Done
    seconds: float


def run_rows(
    model: Path,
    files: Sequence[str],
    output: Path,
    providers: Sequence[str],
    *,
    workers: int | None,
    batch: int | None,
    take: Sequence[str],
    columns: Sequence[str],
    constants: Sequence[str],
    mean: str,
    std: str,
) -> Timed:
    """Run `ortlite.tools.offline.run_files` with what the command line says."""
    start = time.perf_counter()
    job = Job.of(
        model,
        outputs=take or None,
        constants={name: _constant(text) for name, text in pairs("--constant", tuple(constants)).items()},
        batch_size=batch,
        providers=[provider_and_options(name) for name in providers] or None,
        share=(workers or 1) > 1,
    )
    done = run_files(
        job,
        files,
        output,
        columns={name: text.split(",") for name, text in pairs("--columns", tuple(columns)).items()},
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        workers=workers or 1,
    )
    return Timed(done, time.perf_counter() - start)


def show(out: Console, output: Path, timed: Timed) -> None:
    """Say what was written, and how fast."""
    done = timed.done
    listed = ", ".join(f"{name} {dtype}{list(shape)}" for name, (dtype, shape) in done.outputs.items())
    each = f"{done.workers} workers" if done.workers > 1 else "1 worker"
    died = f", {done.died} died and replaced" if done.died else ""
    out.print(
        f"saved {output}: {listed}; {done.rows / timed.seconds:,.0f} rows a second, {each}{died}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _constant(text: str) -> Any:
    """The array of a .npy file, or what JSON makes of a text; a text itself, else."""
    if text.endswith(".npy"):
        return np.load(text, allow_pickle=False)
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise click.UsageError(f"{option}: {text!r} is no list of numbers such as 0.485,0.456,0.406") from None
