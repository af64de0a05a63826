"""The ONNX backend suite on ortlite, per provider, and the tables made from it. See `python -m conformance -h`."""

import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, NoReturn

__all__ = ["forked", "run_main"]


def run_main(main: Callable[[], Any]) -> NoReturn:
    """End the process with what `main` returns; at Ctrl-C without a word, with the status that shells give it."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


@contextmanager
def forked(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that know what this one knows; at Ctrl-C they end what they are at, and begin nothing new."""
    deaf = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
    with ProcessPoolExecutor(jobs, get_context("fork"), **deaf) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
