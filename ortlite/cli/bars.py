"""Progress bars on a terminal: what `ortlite.progress` tells, drawn by Rich on stderr; elsewhere nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from time import monotonic

from ortlite import progress

__all__ = ["working"]

SILENT = 0.5  # seconds before anything is shown: what is done by then needs no bar


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show what goes on within, at first `what`. Without Rich, and where stderr is no terminal, nothing is shown.

    The line is gone at the end, also where an error or Ctrl-C is the end.
    """
    if not sys.stderr.isatty() or find_spec("rich") is None:
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    shown = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
    task = shown.add_task(what, total=None)
    begin = monotonic()

    def listen(what: str, done: int, total: int | None) -> None:
        shown.update(task, description=what, completed=done, total=total)
        if not shown.live.is_started and monotonic() - begin > SILENT:
            shown.start()

    with progress.listening(listen):
        try:
            yield
        finally:
            if shown.live.is_started:
                shown.stop()
