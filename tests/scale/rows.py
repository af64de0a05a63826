"""What the tests of Dask, Ray and Spark share: digits, and a mark that ends the first worker that comes by."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from ortlite.batches import Job
from ortlite.cli.digits import model_bytes, scans


def many(n: int) -> np.ndarray:
    x, _ = scans()
    return np.resize(x, (n, *x.shape[1:]))


def expected(x: np.ndarray, name: str = "probabilities") -> np.ndarray:
    return Job.of(model_bytes(), outputs=[name]).run({"scan": x})[name]


def die_once(mark: str) -> None:
    """End this process as the system does when memory is short, unless another did before."""
    try:
        Path(mark).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
