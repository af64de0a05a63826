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

from ortlite.forks import in_child

__all__ = ["begin", "end", "reads_small"]

NAMES = [f"{head}openblas_{{}}{tail}" for head in ("scipy_", "") for tail in ("64_", "")]
UNPACKED = {"SkylakeX", "Cooperlake", "SapphireRapids"}  # its kernels that multiply small matrices as they lie


@cache
def _found() -> tuple[ctypes.PyDLL, str] | None:
    """The OpenBLAS that NumPy itself uses, and how its functions are named; None where it uses another BLAS."""
    core = Path(np.__file__).parent
    places = [*core.glob("_core/_multiarray_umath*"), *(core.parent / "numpy.libs").glob("*openblas*")]
    for place in places:
        try:
            # loaded already; names are found in what it depends on, too; to let go of the GIL costs more than the calls
            library = ctypes.PyDLL(str(place))
        except OSError:
            continue
        for name in NAMES:
            if hasattr(library, name.format("set_num_threads")) and hasattr(library, name.format("get_num_threads")):
                return library, name
    return None


def _functions() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """What gets and sets the number."""
    if (found := _found()) is None:
        return None
    library, name = found
    get, put = (getattr(library, name.format(f"{verb}_num_threads")) for verb in ("get", "set"))
    put.restype = None
    return get, put


@cache
def reads_small() -> bool:
    """Whether BLAS multiplies small matrices as they lie, where it else brings each into another order first."""
    if (found := _found()) is None or not hasattr(found[0], found[1].format("get_corename")):
        return False
    ask = getattr(found[0], found[1].format("get_corename"))
    ask.restype = ctypes.c_char_p
    return (ask() or b"").decode() in UNPACKED


def _one_thread() -> tuple[Callable[[], None], Callable[[], None]]:
    """What a run calls when it begins, and when it ends.

    Of those that run at once, the first sets the number and the last puts it back. These are called in every run, and
    take half the time of methods.
    """
    lock = threading.Lock()
    inside = before = 0
    get: Callable[[], int] | None = None
    put: Callable[[int], None]

    def begin() -> None:
        nonlocal inside, before, get, put
        if get is None:
            get, put = _functions() or (lambda: 1, lambda _: None)
        with lock:
            inside += 1
            if inside == 1:
                before = get()
                if before > 1:
                    put(1)

    def end() -> None:
        nonlocal inside
        with lock:
            if inside == 1 and before > 1:
                put(before)
            inside -= inside > 0  # not those of a run that forked itself, in the child

    def forked() -> None:
        """The runs of the parent's other threads do not end in the child, where nobody holds the lock."""
        nonlocal lock, inside
        lock = threading.Lock()
        if inside and before > 1:
            put(before)
        inside = 0

    in_child(forked)
    return begin, end


begin, end = _one_thread()
