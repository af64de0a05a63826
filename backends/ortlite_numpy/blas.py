"""How many threads NumPy's BLAS uses: one while a model runs, so that only threads of ours work side by side.

OpenBLAS's threads spin for milliseconds when they have nothing to do, and wait on one another when somebody else has
the processor. Outside of runs the number is the caller's. What BLAS it is does not matter: without the two functions,
everything stays as it is. And what else it has that NumPy does not use: a transposition.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from ortlite.forks import in_child
from ortlite.ordered import in_order
from ortlite_numpy.record import numpy as np

__all__ = ["begin", "end", "reads_small", "turned"]

NAMES = [f"{head}openblas_{{}}{tail}" for head in ("scipy_", "") for tail in ("64_", "")]
ROWS, TRANSPOSED = 101, 112  # CblasRowMajor, CblasTrans
BAND = 256  # rows of a matrix that are turned together: they stay in the cache
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


@cache
def _copies_turned() -> dict[np.dtype[Any], Callable[..., None]]:
    """What writes the transpose of a matrix, for each dtype that there is something for."""
    if (found := _found()) is None:
        return {}
    library = ctypes.CDLL(found[0]._name)  # noqa: SLF001  (the same one, whose calls let go of the GIL)
    name = found[1].replace("openblas_", "cblas_")
    copies: dict[np.dtype[Any], Callable[..., None]] = {}
    for dtype, letter, scalar in ((np.float32, "s", ctypes.c_float), (np.float64, "d", ctypes.c_double)):
        if hasattr(library, symbol := name.format(f"{letter}omatcopy")):
            copy = getattr(library, symbol)
            size, place = ctypes.c_int64, ctypes.c_void_p
            copy.argtypes = [ctypes.c_int, ctypes.c_int, size, size, scalar, place, size, place, size]
            copy.restype = None
            copies[np.dtype(dtype)] = partial(copy, ROWS, TRANSPOSED)
    return copies


def turned(matrix: Any) -> Any:
    """A copy of the transpose, whose rows lie side by side in memory. NumPy's own takes two to four times as long."""
    if type(matrix) is not np.ndarray:  # one that notes what is done with it
        return np.ascontiguousarray(matrix.T)
    (rows, columns), down = matrix.shape, matrix.strides[0] // matrix.itemsize
    copy = _copies_turned().get(matrix.dtype)
    plain = matrix.flags.aligned and matrix.strides == (down * matrix.itemsize, matrix.itemsize) and down >= columns
    if copy is None or not plain or not matrix.size:
        return in_order(matrix.T)
    result = np.empty((columns, rows), matrix.dtype)
    for i in range(0, rows, BAND):
        part = matrix[i : i + BAND]
        copy(len(part), columns, 1.0, part.ctypes.data, down, result[:, i:].ctypes.data, rows)
    return result


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
