"""The operators that have compiled kernels, and how they stand before NumPy's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from ortlite.namespace import or_default

__all__ = ["OVERRIDES", "Call", "before", "override", "warm"]

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


def before(others: Mapping[Key, Override]) -> dict[Key, Override]:
    """The table of all that is replaced; of both, a compiled kernel leaves to the other what it cannot do."""
    found = {**others, **OVERRIDES}
    for key in others.keys() & OVERRIDES.keys():
        found[key] = _both(OVERRIDES[key], others[key])
    return found


def _both(first: Any, second: Override) -> Override:
    takes = ["derived" in inspect.signature(fn).parameters for fn in (first, second)]
    if takes[0] == takes[1]:
        both = or_default(first, second)
    else:

        def both(*args: Any, derived: Any = None, **keywords: Any) -> Any:
            more = {"derived": derived}
            result = first(*args, **keywords, **(more if takes[0] else {}))
            return second(*args, **keywords, **(more if takes[1] else {})) if result is NotImplemented else result

        both.__name__, both.__doc__, both.__module__ = first.__name__, first.__doc__, first.__module__
        both.__signature__ = inspect.signature(first if takes[0] else second)  # type: ignore[attr-defined]
    both.warm, both.parts = first.warm, (first, second)  # type: ignore[attr-defined]
    return both
