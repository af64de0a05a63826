"""Which signatures of a program's inputs get a specialised function, and which functions are kept.

A program's first one is made when a signature comes up twice in a row; the first time already where a library compiles,
though not for the lengths of a cache that grows. To make one takes as long as several runs, so others are made where
they are likely to be repaid, and in no more than a share of the time of all runs; while all places are taken, a
signature must come up often before it takes the place of another. Changing shapes thus cost little more than
interpreting them, in whatever order they come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ortlite.derived import nbytes
from ortlite.inline import Inlined

__all__ = ["AT_ONCE", "Budget", "Entry", "Function", "Signatures"]

Function: TypeAlias = Callable[..., tuple[Any, ...]]

BAKED_BYTES = 1 << 26  # of the arrays that all specialised functions of a session hold, besides the model's constants
KEPT = 16  # specialised functions a program keeps
SEEN = 256  # signatures it counts
PATIENCE = 16  # times that a signature comes up before it takes the place of another
UNKNOWN = 100  # runs before the first function, where no two alike follow one another: it takes as long as several
AT_ONCE = 2  # signatures that a library compiles when they come up first, where NumPy can answer at others
SHARE = 0.08  # of the time of a program's other runs that its session may spend on specialising


@dataclass(slots=True)
class Budget:
    """Bytes that baked values may still take, and seconds spent on specialising. One for all programs of a session."""

    left: int = BAKED_BYTES
    spent: float = 0.0

    def take(self, values: Mapping[int, Any]) -> dict[int, Any]:
        """Those of `values` that fit, the smallest first."""
        kept: dict[int, Any] = {}
        for slot, value in sorted(values.items(), key=lambda item: nbytes(item[1])):
            if (size := nbytes(value)) > self.left:
                break
            self.left -= size
            kept[slot] = value
        return kept


@dataclass(slots=True)
class Entry:
    """The function of a signature, what is baked in it, and how often it was called."""

    function: Function
    baked: Mapping[int, Any]
    kernels: Mapping[int, Inlined]
    fixed: frozenset[int] = frozenset()  # outputs, by position, whose shapes are the same in all runs
    hits: int = 0

    @property
    def bytes(self) -> int:
        """The memory that the baked values hold."""
        return sum(map(nbytes, self.baked.values()))


@dataclass(slots=True)
class Signatures:
    """The specialised functions of a program by signature, and how often other signatures came up.

    At most `KEPT` functions. The first signature that comes up twice in a row gets one, or after `UNKNOWN` runs the
    first that comes up again; the others when their runs have taken as long as it takes to make one, and the
    session has spent no more than `SHARE` of the time of this program's runs. While all places are taken, a
    signature must come up `PATIENCE` times, and twice as often as the function that was used least; uses are
    counted from new whenever `SEEN` signatures without a function have come up. A program that sees more signatures
    than it can keep thus goes on with those it has, and interprets the others.

    Where a library compiles and something else answers at signatures without a function (the CPU provider, which
    `stands_in`, or the library's own calls, `eager`), the first `AT_ONCE` get theirs at once, or none where the plan
    has a cache, or until what came out of a run goes into the next, longer than before; of the others those that come
    up twice in a row or whose runs have taken as long as it takes to compile one. An eager one is compiled in its
    second run: the first is forgotten where lengths turn out to grow, for it would be compiled for the first token of
    the next sequence.
    """

    budget: Budget
    stands_in: bool = False
    eager: bool = False
    entries: dict[Any, Entry] = field(default_factory=dict)
    seen: dict[Any, int] = field(default_factory=dict)
    misses: int = 0
    runs: int = 0  # of signatures without a function, and the seconds that they took
    seconds: float = 0.0
    before: Any = None  # the signature without a function that came up last
    cost: float | None = None  # seconds that the last function took to make

    def ran(self, seconds: float) -> None:
        """Count a run of a signature without a function."""
        self.runs += 1
        self.seconds += seconds

    def made(self, seconds: float) -> None:
        """Count a function, and the seconds that it took to make beside its run."""
        if not self.eager:  # which has not been compiled yet
            self.cost = seconds
        self.budget.spent += seconds

    def repaid(self, count: int, in_a_row: bool) -> bool:
        """Whether a function for a signature that came up so often is likely to save what it costs."""
        answered = self.stands_in or self.eager
        if self.cost is None:
            return in_a_row or (self.runs >= UNKNOWN and not answered)
        if not self.runs:
            return True
        alike = count * self.seconds / self.runs >= self.cost
        if answered:
            return alike or in_a_row
        return alike and self.budget.spent + self.cost <= SHARE * self.seconds

    def compiled(self, seconds: float) -> None:
        """Count what it took to compile eager ones, in their first calls."""
        self.cost = seconds
        self.budget.spent += seconds

    def drop_unused(self) -> None:
        """Forget the functions that were never called."""
        for key, entry in list(self.entries.items()):
            if not entry.hits:
                self.budget.left += self.entries.pop(key).bytes

    def clear(self) -> None:
        """Begin anew, in place: others hold it."""
        self.budget.left += sum(entry.bytes for entry in self.entries.values())
        fresh = Signatures(self.budget, self.stands_in, self.eager)
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))

    def get(self, key: Any) -> Entry | None:
        """What there is of a signature."""
        entry = self.entries.get(key)
        if entry is not None:
            entry.hits += 1
        return entry

    def wants(self, key: Any, *, at_once: bool = False) -> bool:
        """Count a signature that has no function; whether it should get one now. `at_once`: the first time already."""
        in_a_row, self.before = key == self.before, key
        self.misses += 1
        if self.misses > SEEN:
            self.misses = 1
            if len(self.entries) >= KEPT:
                self.seen = {}
                for entry in list(self.entries.values()):
                    entry.hits = 0
        count = self.seen[key] = self.seen.get(key, 0) + 1
        if len(self.entries) < KEPT:
            while len(self.seen) > SEEN:
                self.seen.pop(next(iter(self.seen)))
            return at_once or (count > 1 and self.repaid(count, in_a_row))
        rare = min(entry.hits for entry in list(self.entries.values()))
        return count >= PATIENCE and count > 2 * rare and (self.cost is None or self.repaid(count, in_a_row))

    def keep(self, key: Any, entry: Entry) -> Entry:
        """Keep what there is of a signature, in the place of what is used least if there is no other."""
        gone = self.entries.pop(key, None)  # another thread's
        if gone is None and len(self.entries) >= KEPT:
            gone = self.entries.pop(min(self.entries, key=lambda other: self.entries[other].hits))
        self.budget.left += 0 if gone is None else gone.bytes
        self.entries[key] = entry
        self.seen.pop(key, None)
        return entry
