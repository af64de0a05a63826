"""One engine, one task, one process: prints its figures as JSON. Started by `python -m benchmarks`."""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import time
from pathlib import Path

import numpy as np


def median_ms(fn, runs):
    """Median of `runs` calls after two that are not counted, in milliseconds."""
    times = []
    for index in range(runs + 2):
        start = time.perf_counter()
        fn()
        if index > 1:
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def peak_mb():
    """Peak resident memory of this process, in MB (Linux; getrusage would count what the parent had when it forked)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def session(engine, path):
    return importlib.import_module(engine).InferenceSession(path, providers=["CPUExecutionProvider"])


def ones(made):
    """A feed of ones for the only input, open dimensions 1."""
    arg = made.get_inputs()[0]
    return {arg.name: np.ones([d if isinstance(d, int) else 1 for d in arg.shape], np.float32)}


def create(engine, path, runs):
    """Time to make a session, imports not counted."""
    session(engine, path)
    return {"ms": median_ms(lambda: session(engine, path), runs)}


def run(engine, path, runs):
    """Time of one run."""
    made = session(engine, path)
    feed = ones(made)
    return {"ms": median_ms(lambda: made.run(None, feed), runs)}


def calls(engine, path, runs):
    """The NumPy calls of the chain of Adds, written by hand."""
    x = np.ones(8, np.float32)

    def chain():
        y = x
        for _ in range(100):
            y = np.add(y, x)

    return {"ms": median_ms(chain, runs)}


def memory(engine, path, runs):
    """Peak memory of loading a model and running it once, beyond what code takes; mapped weights count when read."""
    importlib.import_module(engine)
    small = session(engine, str(Path(path).with_name("light.onnx")))
    small.run(None, ones(small))
    before = peak_mb()
    made = session(engine, path)
    made.run(None, ones(made))
    return {"mb": peak_mb() - before}


TASKS = {"create": create, "run": run, "calls": calls, "memory": memory}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("engine")
    parser.add_argument("path")
    parser.add_argument("--runs", type=int, default=20)
    args = parser.parse_args()
    print(json.dumps(TASKS[args.task](args.engine, args.path, args.runs)))
