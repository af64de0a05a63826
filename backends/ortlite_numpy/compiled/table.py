"""The operators that have compiled kernels, and how they stand before NumPy's."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, TypeAlias, cast

from ortlite.derived import at_once, takes_derived
from ortlite.namespace import or_default
from ortlite_numpy.compiled import team
from ortlite_numpy.record import numpy as np

__all__ = ["OVERRIDES", "Call", "before", "both", "override", "warm", "warm_all"]

Key: TypeAlias = tuple[str, str, int]
Override: TypeAlias = Callable[..., Any]
Call: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]  # arguments after xp, and keywords
Examples: TypeAlias = Callable[[Any, Mapping[str, Any]], Iterable[Call]]

OVERRIDES: dict[Key, Override] = {}
FLOAT = ("float32",)
FLOATS = ("float32", "float64")


def override(
    *names: str | Key, examples: Examples, dtypes: tuple[str, ...] = FLOAT, since: int = 1
) -> Callable[[Override], Override]:
    """Register what runs in place of the kernel of each of `names`: an operator, or (domain, operator, since).

    `examples(dtype, attributes)` are small calls that make all that a node with these attributes (none: every node)
    needs, for a first input of that dtype, which is one of `dtypes`.
    """

    def register(fn: Override) -> Override:
        fn.warm = lambda given, attributes: warm(fn, given, attributes)  # type: ignore[attr-defined]
        fn.examples, fn.dtypes = examples, dtypes  # type: ignore[attr-defined]
        for name in names:
            OVERRIDES[("", name, since) if isinstance(name, str) else name] = fn
        return fn

    return register


def warm(fn: Any, given: tuple[str | None, ...], attributes: Mapping[str, Any]) -> None:
    """Compile, or load from the disk, what a node needs, so that no run has to and all runs are alike."""
    if given and given[0] in fn.dtypes:
        with np.errstate(all="ignore"):
            for arguments, keywords in fn.examples(np.dtype(given[0]), attributes):
                fn(None, *arguments, **keywords)


def warm_all(processes: int) -> int:
    """Compile all that `OVERRIDES` can do, in so many processes; for how many operators.

    A process that is killed raises BrokenProcessPool.
    """
    from concurrent.futures import ProcessPoolExecutor  # which no session needs
    from multiprocessing import active_children, get_context

    team.warm()
    parts = {(fn.__module__, dtype) for fn in OVERRIDES.values() for dtype in fn.dtypes}  # type: ignore[attr-defined]
    order = sorted(parts, key=_size, reverse=True)  # what takes longest begins first
    if processes == 1:  # which may be so because nothing is kept
        for part in order:
            _warm_part(part)
    else:
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            try:
                list(pool.map(_warm_part, order))
            except BaseException:  # Ctrl-C, too: a part may take minutes
                for child in active_children():
                    child.terminate()
                raise
    return len(OVERRIDES)


def _size(part: tuple[str, str]) -> tuple[int, str]:
    """How much there is to compile, by the source."""
    module, dtype = part
    return len(inspect.getsource(sys.modules[module])), dtype


def _warm_part(part: tuple[str, str]) -> None:
    """Compile what one module has for one dtype: its kernels share much."""
    module, dtype = part
    for fn in set(OVERRIDES.values()):
        if fn.__module__ == module:
            warm(fn, (dtype,), {})


def before(others: Mapping[Key, Override]) -> dict[Key, Override]:
    """The table of all that is replaced; of both, a compiled kernel leaves to the other what it cannot do."""
    found = {**others, **OVERRIDES}
    for key in others.keys() & OVERRIDES.keys():
        found[key] = both(OVERRIDES[key], others[key])
    return found


def both(first: Any, second: Override) -> Override:
    """`first`, and what it leaves `second`; each is handed `derived` if it declares it."""
    takes = [takes_derived(fn) for fn in (first, second)]

    def unequal(*args: Any, derived: Any = at_once, **keywords: Any) -> Any:
        more = {"derived": derived}
        result = first(*args, **keywords, **(more if takes[0] else {}))
        return second(*args, **keywords, **(more if takes[1] else {})) if result is NotImplemented else result

    chain: Any
    if takes[0] == takes[1]:
        chain = or_default(first, second)
    else:
        chain = wraps(first)(unequal)
        chain.__signature__ = inspect.signature(first if takes[0] else second)
    chain.warm = getattr(first, "warm", None)
    return cast("Override", chain)
