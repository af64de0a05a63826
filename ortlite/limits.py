"""What a model may take: of memory, time and structure. `Limits` says it, `applied` makes it hold for a block of code.

Everything here is checked before memory is taken, and what is beyond a limit is a `LimitExceeded` that names it.
docs/security.md says what is promised. Whoever loads a file asks `current()`; `ortlite.guard` watches runs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

from ortlite.errors import LimitExceeded

__all__ = ["Limits", "applied", "beyond", "both", "current", "parse"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for loading and running a model; None: no bound. The defaults hold for every session.

    - `model_bytes`: the file, and the data outside of it that it refers to
    - `nodes`: of the file, those of subgraphs and of the bodies of functions among them
    - `nesting`: graphs inside one another; more than 32 no file has
    - `function_expansion`: nodes that the calls of functions become, all together
    - `elements`: of one array, those that a kernel makes on its way among them
    - `total_bytes`: of all values that a run has at one time, besides its inputs and the model's constants. A view
      counts as if it were a copy
    - `loop_trips`: iterations of all loops of a run together (Loop, Scan, SequenceMap)
    - `sequence_length`: elements of one sequence, and entries of one map
    - `string_bytes`: letters of the text in one value
    - `seconds`: of making a session, and of each run; looked at between two steps
    - `own_files`: data outside the file must lie in files of their own, below its folder: no links, symbolic or hard.
      All files are read before they are used, not mapped, so that nobody can change or cut them afterwards

    Example:
        >>> import ortlite
        >>> options = ortlite.SessionOptions()
        >>> options.limits = Limits.untrusted(seconds=2)

    """

    model_bytes: int | None = None
    nodes: int | None = None
    nesting: int | None = 32
    function_expansion: int | None = 2**18
    elements: int | None = None
    total_bytes: int | None = None
    loop_trips: int | None = None
    sequence_length: int | None = None
    string_bytes: int | None = None
    seconds: float | None = None
    own_files: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "own_files":
                if not isinstance(value, bool):
                    raise TypeError(f"own_files is a bool, not {value!r}")
                continue
            kinds = int | float if field.name == "seconds" else int
            if value is not None and (not isinstance(value, kinds) or isinstance(value, bool) or value < 0):
                raise TypeError(f"the limit {field.name} is a number from 0 on, or None, not {value!r}")

    def __reduce__(self) -> Any:
        changed = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}
        return _of, (changed,) if changed else ()

    @classmethod
    def untrusted(cls, **changes: Any) -> Limits:
        """What a server may run of a stranger's: about 2 GiB and 30 seconds. `changes` are other bounds."""
        return replace(UNTRUSTED, **changes)

    @property
    def of_runs(self) -> bool:
        """Whether runs must be watched."""
        return any(getattr(self, name) is not None for name in OF_RUNS)


def _of(changed: Mapping[str, Any] | None = None) -> Limits:
    """Limits that were pickled: what is not the default."""
    return Limits(**(changed or {}))


OF_RUNS = ("elements", "total_bytes", "loop_trips", "sequence_length", "string_bytes")  # besides `seconds`
DEFAULTS = Limits()
UNTRUSTED = Limits(
    model_bytes=2**30,
    nodes=50_000,
    nesting=16,
    function_expansion=50_000,
    elements=2**28,
    total_bytes=2**31,
    loop_trips=100_000,
    sequence_length=100_000,
    string_bytes=2**24,
    seconds=30.0,
    own_files=True,
)


def both(one: Limits, other: Limits) -> Limits:
    """The tighter of two bounds, one by one."""
    if one is other or other == DEFAULTS:
        return one
    found: dict[str, Any] = {}
    for field in fields(Limits):
        a, b = getattr(one, field.name), getattr(other, field.name)
        found[field.name] = (a or b) if field.name == "own_files" else b if a is None else a if b is None else min(a, b)
    return Limits(**found)


class _Current(threading.local):
    limits: Limits = DEFAULTS


_current = _Current()


def current() -> Limits:
    """What holds in this thread for models that are loaded, and for sessions that are made."""
    return _current.limits


@contextmanager
def applied(limits: Limits) -> Iterator[None]:
    """Models that are loaded within, and the sessions that are made within, keep to `limits`, besides what they say.

    Example:
        >>> import ortlite
        >>> from ortlite.cli.digits import model_bytes
        >>> try:
        ...     with applied(Limits(nodes=5)):
        ...         session = ortlite.InferenceSession(model_bytes())
        ... except LimitExceeded as error:
        ...     print(error.limit, "-", error.text)
        nodes - Limit nodes exceeded: nodes of the model: 11 or more, and 5 is the limit.

    """
    before, _current.limits = _current.limits, both(_current.limits, limits)
    try:
        yield
    finally:
        _current.limits = before


def beyond(limit: str, allowed: float, found: float | str, what: str, node: Any = None) -> LimitExceeded:
    """The error for `found` of `what` where `allowed` are, at a node where it is one's."""
    where = "" if node is None else f"node {node.name!r} ({node.op_type}): "
    text = f"Limit {limit} exceeded: {where}{what}: {found}, and {allowed} is the limit."
    return LimitExceeded(text, node, limit)


def parse(base: str, changes: dict[str, str]) -> Limits:
    """Limits as a command line writes them: "untrusted" or "" for none, and name -> number ("1e8", "none").

    Raises ValueError for what is none.
    """
    limits = Limits.untrusted() if base == "untrusted" else DEFAULTS
    known = {field.name: field.type for field in fields(Limits)}
    found: dict[str, Any] = {}
    for name, text in changes.items():
        if name not in known:
            raise ValueError(f"there is no limit {name!r}; there are {', '.join(known)}")
        if name == "own_files":
            if text not in {"0", "1"}:
                raise ValueError(f"own_files is 0 or 1, not {text!r}")
            found[name] = text == "1"
        elif text == "none":
            found[name] = None
        else:
            try:
                number = float(text)
                found[name] = number if name == "seconds" else int(number)
            except (ValueError, OverflowError):
                raise ValueError(f"the limit {name} is a number or none, not {text!r}") from None
            if not number >= 0:
                raise ValueError(f"the limit {name} is a number from 0 on, not {text!r}")
    return replace(limits, **found)
