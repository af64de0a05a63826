"""How many threads NumPy's BLAS uses: one while a model runs, so that only threads of ours work side by side.

OpenBLAS's threads spin for milliseconds when they have nothing to do, and wait on one another when somebody else has
the processor. Outside of runs the number is the caller's. What BLAS it is does not matter: without the two functions,
everything stays as it is.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from ortlite.forks import renewed_after_fork

__all__ = ["one_thread"]

NAMES = [f"{head}openblas_{{}}_num_threads{tail}" for head in ("scipy_", "") for tail in ("64_", "")]


@cache
def _functions() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """What gets and sets the number, of the OpenBLAS that NumPy itself uses; None where it uses another BLAS."""
    core = Path(np.__file__).parent
    places = [*core.glob("_core/_multiarray_umath*"), *(core.parent / "numpy.libs").glob("*openblas*")]
    for place in places:
        try:
            # loaded already; names are found in what it depends on, too; to let go of the GIL costs more than the calls
            library = ctypes.PyDLL(str(place))
        except OSError:
            continue
        for name in NAMES:
            if hasattr(library, name.format("set")) and hasattr(library, name.format("get")):
                get, put = getattr(library, name.format("get")), getattr(library, name.format("set"))
                put.restype = None
                return get, put
    return None


class _OneThread:
    """Entered by any number of runs at once: the first sets the number, the last puts it back."""

    lock: threading.Lock

    def __init__(self) -> None:
        renewed_after_fork(self, "lock", threading.Lock)
        self.inside = self.before = 0
        self.functions: tuple[Callable[[], int], Callable[[int], None]] | None = None

    def __enter__(self) -> None:
        functions = self.functions
        if functions is None:
            functions = self.functions = _functions() or (lambda: 1, lambda _: None)
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                count = self.before = functions[0]()
                if count > 1:
                    functions[1](1)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0 and self.before > 1 and self.functions is not None:
                self.functions[1](self.before)


one_thread = _OneThread()
