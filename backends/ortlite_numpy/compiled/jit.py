"""Kernels written as plain Python loops, compiled by numba when they are first needed and then kept on disk.

numba is imported by the first kernel that runs or is warmed, never before. A kernel releases the GIL and computes a
range of its work, so that `share` may spread it over threads. Without "nnan" and "ninf" among the liberties, NaN and
infinities stay what they are.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np

from ortlite.forks import renewed_after_fork
from ortlite.ordered import in_order
from ortlite_numpy import threads
from ortlite_numpy.compiled import disk
from ortlite_numpy.record import numpy, opaque, recording

__all__ = [
    "EXACT", "FREE", "Emitted", "Loops", "foreign_team", "installed", "loops", "most_threads", "of_two_floats", "own",
    "owned", "share", "wide", "with_names",
]  # fmt: skip

EXACT = frozenset({"contract"})  # products and sums in one: only more exact
FREE = frozenset({"contract", "reassoc", "nsz"})  # sums in any order, which is what makes them vectors

HANDED = 15e-6  # seconds of work from which on a thread that looks out may take part
RANGE, PARTS = 5e-6, 2  # seconds of a range at least, and how many for each thread, since one may be slower

_lock = threading.RLock()
renewed_after_fork(sys.modules[__name__], "_lock", threading.RLock)


class Loops:
    """A kernel that is compiled for the types of its arguments when it is first called with them."""

    __slots__ = ("_shared", "liberties", "python", "run")

    def __init__(self, fn: Callable[..., Any], liberties: frozenset[str]):
        self.python = fn
        self.liberties = liberties
        self.run: Callable[..., Any] = self._first
        self._shared: Loops | None = None

    def __call__(self, *args: Any) -> Any:
        """Run on arrays and numbers."""
        return opaque(self.run, *args) if recording() else self.run(*args)

    def _first(self, *args: Any) -> Any:
        self.dispatcher()
        return self.run(*args)

    @property
    def shared(self) -> Loops:
        """The kernel over all its ranges on several threads: (team, most, parts, count, *args), see `compiled.team`."""
        if self._shared is None:
            from ortlite_numpy.compiled import team  # which is made of functions like this

            code = self.python.__code__
            given = "".join(f"{name}, " for name in code.co_varnames[: code.co_argcount - 2])
            source = f"def shared(team_, most_, parts_, count_, {given}):\n"
            source += f" run_(team_, most_, parts_, count_, entry_(kernel_, ({given})), placed_(({given})))\n"
            scope: dict[str, Any] = {"kernel_": self, "run_": team.run, "entry_": team.entry, "placed_": team.placed}
            # numba keeps what it compiles under the name of the file, too, and takes no *args without a price
            exec(compile(source, code.co_filename, "exec"), scope)  # noqa: S102
            fn = scope["shared"]
            fn.__module__, fn.__qualname__ = self.python.__module__, f"{self.python.__qualname__}_shared"
            self._shared = Loops(fn, self.liberties)
        return self._shared

    def dispatcher(self) -> Any:
        """Numba's function of this one, in which the kernels that it calls are numba's, too."""
        with _lock:
            if self.run == self._first:
                numba = _numba()
                fn, scope = self.python, {}
                for name in fn.__code__.co_names:
                    value = fn.__globals__.get(name)
                    scope[name] = value.dispatcher() if isinstance(value, Loops) else np if value is numpy else value
                names = {k: v for k, v in scope.items() if v is not None} | {"__name__": fn.__module__}
                own = FunctionType(fn.__code__, names, fn.__name__, fn.__defaults__)
                own.__module__, own.__qualname__ = fn.__module__, fn.__qualname__
                made = numba.njit(nogil=True, error_model="numpy", fastmath=set(self.liberties))(own)
                if (kept := disk.cache_class()) is not None:
                    made._cache = kept(made.py_func)  # noqa: SLF001  (numba has no public way to say where)
                self.run = made
            return self.run


class Emitted(Loops):
    """A function that kernels call and Python has no words for: `emit(typing, *types)`, as numba.extending.intrinsic
    takes it, gives its signature and what writes LLVM's code.
    """

    __slots__ = ()

    def __init__(self, emit: Callable[..., Any]):
        super().__init__(emit, EXACT)

    def dispatcher(self) -> Any:
        """Numba's function that stands for it."""
        with _lock:
            if self.run == self._first:
                _numba()
                from numba.extending import intrinsic

                self.run = intrinsic(self.python)
            return self.run


def _attribute(text: str) -> Emitted:
    """A function without arguments, to be called in another one, which then has this attribute of LLVM's."""

    def emit(typing: Any) -> Any:
        from numba import types

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            set.add(builder.function.attributes, text)  # llvmlite has no name for all that there are
            return context.get_dummy_value()

        return types.none(), code

    return Emitted(emit)


# Said in a function: that its loops may take vectors of 512 bits, which LLVM by itself avoids;
wide = _attribute('"prefer-vector-width"="512"')
# that it stays one: within a loop of its caller's LLVM would load its constants again for every vector.
alone = _attribute("noinline")


def of_two_floats(name: str) -> Emitted:
    """A function of LLVM's: it becomes one instruction, where Python's would be a branch."""

    def emit(typing: Any, a: Any, b: Any) -> Any:
        from llvmlite import ir

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = args[0].type
            two = ir.FunctionType(kind, [kind, kind])
            return builder.call(builder.module.declare_intrinsic(name, [kind], two), args)

        return a(a, a), code

    return Emitted(emit)


def with_names(kernel: Loops, name: str, **names: Any) -> Loops:
    """The same kernel under another name, in which some global names mean something else: a kernel of a function."""
    fn = kernel.python
    other = FunctionType(fn.__code__, {**fn.__globals__, **names}, name)
    other.__module__, other.__qualname__ = fn.__module__, name
    return Loops(other, kernel.liberties)


def loops(liberties: frozenset[str] = EXACT) -> Callable[[Callable[..., Any]], Loops]:
    """Make a plain function a kernel."""
    return lambda fn: Loops(fn, liberties)


@cache
def installed() -> bool:
    """Whether numba is there, and not told to compile nothing. Does not import it."""
    idle = os.environ.get("NUMBA_DISABLE_JIT", "0") not in {"", "0"}
    return not idle and importlib.util.find_spec("numba") is not None


def _numba() -> Any:
    try:
        import numba
    except ImportError as error:
        raise ImportError(
            f"numba is installed and cannot be imported ({error}): mend it, or go without compiled kernels by "
            "ORTLITE_COMPILED=0 or the option compiled=0 of CPUExecutionProvider"
        ) from error
    _spare_scipy()
    return numba


@cache
def _spare_scipy() -> None:
    """Let numba find scipy without importing it, which takes as long as the rest of its start.

    It does so only to know whether there is a BLAS for the functions that need one; who compiles one imports it then.
    """
    if "numba.np.arraymath" in sys.modules:
        return
    from numba.np import linalg

    ask = getattr(linalg, "ensure_blas", None)

    def there() -> None:
        if importlib.util.find_spec("scipy") is None:
            raise ImportError("scipy")

    linalg.ensure_blas = there
    try:
        from numba.np import arraymath

        arraymath.ensure_blas = ask
    finally:
        linalg.ensure_blas = ask


def most_threads(xp: Any) -> int:
    """The threads that the namespace of a provider says (`xp.threads`), or all there are."""
    return min(getattr(xp, "threads", 0) or threads.limit(), threads.limit())


def foreign_team(xp: Any) -> int | None:
    """The team that the namespace names (`xp.team`), which is another library's (`threads.another_team`), if any."""
    return getattr(xp, "team", None)


def share(xp: Any, kernel: Loops, args: tuple[Any, ...], count: int, seconds: float) -> None:
    """Run `kernel(*args, start, stop)` over [0, `count`), which takes about `seconds`.

    On the calling thread, and on as many as the namespace of the provider says (`xp.threads`; all there are without),
    of a foreign team if it names one.
    """
    most = min(most_threads(xp), count)
    shared = kernel.shared
    if most < 2 or seconds < HANDED:
        shared(threads.TEAM, 1, 1, count, *args)
        return
    parts = max(most, min(PARTS * most, count, int(seconds / RANGE)))
    if (team := foreign_team(xp)) is not None:
        shared(team, most, parts, count, *args)
        return
    given = (seconds, most, shared, threads.TEAM, most, parts, count, *args)
    if recording():
        opaque(_shared, *given)
    else:
        _shared(*given)


def _shared(seconds: float, most: int, shared: Any, *args: Any) -> None:
    threads.wake(seconds, most)
    shared.run(*args)


def own(x: Any) -> Any:
    """`x` in C order, and not marked read-only, for which numba would compile everything once more.

    No kernel writes to what it is given. Constants go through `derived`, for their views cost more than most.
    """
    if recording():
        return opaque(_own, x)
    return _own(x)


def _own(x: Any) -> Any:
    flags = x.flags
    if flags.c_contiguous and flags.aligned:
        return x if flags.writeable else _alias(x)
    return in_order(x)


def owned(x: Any, derived: Any) -> Any:
    """`own(x)` of what may be a constant."""
    return derived(own, x)


def _alias(x: Any) -> Any:
    """A view of a read-only array that is not marked so."""
    view = x.view()
    try:
        view.flags.writeable = True  # a read-only view of an array that is not read-only
    except ValueError:
        return np.asarray(_Memory(x)) if x.size else np.empty_like(x)
    return view


class _Memory:
    __slots__ = ("__array_interface__", "held")

    def __init__(self, x: Any):
        self.held = x
        self.__array_interface__ = {**x.__array_interface__, "data": (x.__array_interface__["data"][0], False)}
