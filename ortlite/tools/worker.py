"""One engine in one process: what `ortlite.tools.bench` starts. Takes a task as JSON, prints times in ms as JSON."""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ortlite.limits import Limits, applied
from ortlite.tools.inputs import gather, parse_shapes, provider_and_options, size_of, terms_of

__all__ = ["measure"]

WARM = 0.2  # part of the duration that is run first and not counted
LEAST, MOST = 10, 100_000  # counted runs


def measure(
    path: str,
    module: str,
    provider: str,
    batch: int | None,
    threads: int,
    seconds: float,
    files: Mapping[str, str],
    shapes: Mapping[str, str],
    outputs: str,
    limits: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Times of making a session, of the first run and of those after the warm-up; outputs go to the file `outputs`.

    Raises ValueError where `batch` is given and no input has an open first dimension, or inputs cannot be made up.
    """
    library = importlib.import_module(module)
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    start = perf_counter()
    with applied(Limits(**(limits or {}))):
        session = library.InferenceSession(path, options, providers=[provider_and_options(provider)])
    load = perf_counter() - start
    feed = _feed(session, batch, files, shapes)
    start = perf_counter()
    results = session.run(None, feed)
    first = perf_counter() - start
    if outputs:
        tensors = {str(i): r for i, r in enumerate(results) if isinstance(r, np.ndarray) and r.dtype.kind in "fiub"}
        np.savez(outputs, **tensors)  # type: ignore[arg-type]
    until = perf_counter() + WARM * seconds
    while perf_counter() < until:
        session.run(None, feed)
    times: list[float] = []
    until = perf_counter() + seconds
    while len(times) < LEAST or (perf_counter() < until and len(times) < MOST):
        start = perf_counter()
        session.run(None, feed)
        times.append((perf_counter() - start) * 1e3)
    return {"load": load * 1e3, "first": first * 1e3, "times": times}


def _feed(session: Any, batch: int | None, files: Mapping[str, str], shapes: Mapping[str, str]) -> dict[str, Any]:
    """Inputs as `ortlite run` makes them up, the first dimension `batch` where it is open."""
    args: Sequence[Any] = session.get_inputs()
    known = parse_shapes(shapes, args)
    asked = dict(shapes)
    open_ = [a for a in args if a.type.startswith("tensor") and a.shape and not isinstance(a.shape[0], int)]
    if batch is not None and not open_:
        raise ValueError("no input has an open first dimension: leave the batch out")
    for arg in open_ if batch is not None else ():
        if isinstance(arg.shape[0], str) and arg.name not in known:
            if terms_of(arg.shape[0]) == {arg.shape[0]}:
                asked[arg.shape[0]] = str(batch)
            continue
        rest = known.get(arg.name) or [size_of(d, known) for d in arg.shape]
        asked[arg.name] = ",".join(map(str, [batch, *rest[1:]]))
    feed = gather(args, session.get_overridable_initializers(), files, asked)
    for arg in open_ if batch is not None else ():
        if arg.name in files:  # repeated as often as the batch needs it
            feed[arg.name] = np.resize(feed[arg.name], (batch, *feed[arg.name].shape[1:]))
    return {name: value for name, value in feed.items() if value is not None}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    task = json.loads(sys.argv[1])
    try:
        found = measure(**task)
    except Exception as error:  # noqa: BLE001  (a row has one line, whatever it was)
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
    Path(sys.argv[2]).write_text(json.dumps(found))
