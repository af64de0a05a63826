"""A run step by step, with notes: when each step ran, what it read and made, and which values were there meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ortlite import run
from ortlite.api.for_tools import by_steps
from ortlite.api.profile import given
from ortlite.derived import nbytes
from ortlite.memory import blocks
from ortlite.plan import Call, Cast, Transfer
from ortlite.provider import CPU, create
from ortlite.steps import Bound
from ortlite.tools.flops import node_bytes, node_flops
from ortlite.transfer import transfer

if TYPE_CHECKING:
    from ortlite.api.session import InferenceSession

__all__ = ["Event", "Recorded", "RecordedNode", "RecordedValue", "record"]

Key: TypeAlias = tuple[int, int]  # the list of values of a run or a body, and a slot of it


class Event(NamedTuple):
    """One call of a node: when it began and ended in ns, the bytes that computed values held then, and its thread."""

    node: int
    begin: int
    end: int
    live: int
    thread: int = 0


@dataclass(slots=True)
class RecordedNode:
    """What is noted of a bound step. `reads`: the nodes whose results it read; `parent`: the node it is a body's of."""

    bound: Bound
    index: int
    parent: int | None
    calls: int = 0
    ns: int = 0
    nbytes: int = 0
    flops: int | None = 0
    reads: dict[int, None] = field(default_factory=dict)


@dataclass(slots=True)
class RecordedValue:
    """A value of the last run: from when to when, in ns, it was there. A body makes its values several times."""

    name: str
    node: int
    shape: tuple[int, ...] | None
    dtype: str
    nbytes: int
    first: int
    last: int
    times: int = 1


class Recorded(NamedTuple):
    """What `record` noted; nodes in the order of their first call, `steps` the ns of each run, `began` the last one."""

    nodes: list[RecordedNode]
    values: list[RecordedValue]
    events: list[Event]
    peak: int
    steps: list[int]
    began: int


@dataclass(slots=True)
class _Memory:
    """The blocks of memory that computed values lie in. Views lie in one block; inputs' and constants' do not count."""

    held: dict[Key, list[int]] = field(default_factory=dict)  # where the blocks of a value begin
    blocks: dict[int, tuple[int, int]] = field(default_factory=dict)  # values that lie in a block, and its bytes
    outside: set[int] = field(default_factory=set)
    live: int = 0

    def seen(self, value: Any) -> None:
        """A value that was read: what no step has made is not ours."""
        self.outside.update(start for (start, _), *_ in blocks(value) if start not in self.blocks)

    def hold(self, key: Key, value: Any) -> None:
        """A value that was made."""
        self.drop(key)
        found = {start: stop - start for (start, stop), *_ in blocks(value) if start not in self.outside}
        for start, size in found.items():
            count, known = self.blocks.get(start, (0, 0))
            self.blocks[start] = count + 1, max(known, size)
            self.live += max(size - known, 0)
        self.held[key] = list(found)

    def drop(self, key: Key) -> None:
        """A value that is no longer there."""
        for start in self.held.pop(key, ()):
            count, size = self.blocks.pop(start)
            if count > 1:
                self.blocks[start] = count - 1, size
            else:
                self.live -= size


@dataclass(slots=True)
class _Recorder:
    """An `on_step` that notes all that `Recorded` has."""

    nodes: dict[int, RecordedNode] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    values: dict[tuple[int, int], RecordedValue] = field(default_factory=dict)  # (id of a step, slot)
    running: list[tuple[RecordedNode, list[int]]] = field(default_factory=list)  # with the ns of steps inside
    made_by: dict[Key, tuple[int, int]] = field(default_factory=dict)  # (node, id of a step)
    memory: _Memory = field(default_factory=_Memory)
    peak: int = 0

    def begin(self) -> None:
        """A run begins: nothing is there."""
        self.memory, self.values, self.made_by = _Memory(), {}, {}

    def on_step(self, bound: Bound, values: list[Any]) -> None:
        """Run a step and note it."""
        scope, memory = id(values), self.memory
        read = [given(reader, values) for reader in bound.arguments]
        for value in read:
            memory.seen(value)
        before = set(memory.held) if _has_body(bound) else None
        parent = self.running[-1][0].index if self.running else None
        node = self.nodes.setdefault(id(bound), RecordedNode(bound, len(self.nodes), parent))
        inside: list[int] = []
        self.running.append((node, inside))
        begin = perf_counter_ns()
        try:
            run.step(bound, values, self.on_step)
            made = [None if slot is None else values[slot] for slot in bound.outputs]
            _settle(bound, made)
            end = perf_counter_ns()
        finally:
            self.running.pop()
        if self.running:
            self.running[-1][1].append(end - begin)
        for key in [] if before is None else memory.held.keys() - before:  # a body has come to its end
            self._ended(key, end)
        for slot, value in zip(bound.outputs, made, strict=True):
            if slot is not None:
                memory.hold((scope, slot), value)
                self._made(node, bound, (scope, slot), value, end)
        self.peak = max(self.peak, memory.live)
        node.calls += 1
        node.ns += end - begin - sum(inside)
        node.nbytes += _moved(bound, read, made)
        flops = _flops(bound, read, made)
        node.flops = None if node.flops is None or flops is None else node.flops + flops
        for slot in bound.step.reads():
            if (scope, slot) in self.made_by:
                node.reads[self.made_by[scope, slot][0]] = None
        self.events.append(Event(node.index, begin, end, memory.live, threading.get_native_id()))
        for slot in bound.free:
            self._ended((scope, slot), end)

    def _made(self, node: RecordedNode, bound: Bound, key: Key, value: Any, now: int) -> None:
        self.made_by[key] = node.index, id(bound)
        size, known = nbytes(value), self.values.get((id(bound), key[1]))
        if known is not None:
            known.nbytes, known.times = max(known.nbytes, size), known.times + 1
            return
        name, dtype = _called(bound, key[1]), str(getattr(value, "dtype", type(value).__name__))
        self.values[id(bound), key[1]] = RecordedValue(name, node.index, _shape(value), dtype, size, now, 0)

    def _ended(self, key: Key, now: int) -> None:
        self.memory.drop(key)
        _, step = self.made_by.get(key, (0, 0))
        if (value := self.values.get((step, key[1]))) is not None:
            value.last = now

    def finish(self, now: int) -> None:
        """The run is over: what is still there is its outputs."""
        for value in self.values.values():
            value.last = value.last or now


def record(
    session: InferenceSession, feed: Mapping[str, Any], runs: int, told: Callable[[], None] = lambda: None
) -> Recorded:
    """Run a session step by step, once without and then `runs` times with notes; `told` is called after each.

    Where a library computes while Python goes on, each step waits for its results.
    """
    recorder, steps, begin = _Recorder(), [], 0
    step_by_step = by_steps(session, recorder.on_step)
    for index in range(1 + runs):
        if index == 1:
            recorder.nodes.clear()
            recorder.events.clear()
        recorder.begin()
        begin = perf_counter_ns()
        step_by_step(feed)
        end = perf_counter_ns()
        recorder.finish(end)
        steps += [end - begin] if index else []
        told()
    nodes = list(recorder.nodes.values())
    return Recorded(nodes, list(recorder.values.values()), recorder.events, recorder.peak, steps, begin)


def _has_body(bound: Bound) -> bool:
    return bound.node is not None and bool(bound.node.subgraphs)


def _called(bound: Bound, slot: int) -> str:
    """The name of the value that a step puts into a slot."""
    if isinstance(bound.step, Call):
        return next((n for n, s in zip(bound.step.node.outputs, bound.outputs, strict=False) if s == slot), "")
    return str(getattr(bound.step, "value", ""))


def _settle(bound: Bound, made: Sequence[Any]) -> None:
    """Wait until a step's results are there, where its library computes while Python goes on."""
    if isinstance(bound.step, Call):
        bound.step.provider.settle(made)
    for value in made:
        if hasattr(value, "block_until_ready"):
            value.block_until_ready()
        elif isinstance(bound.step, Call) and bound.step.provider.name != CPU and hasattr(value, "shape"):
            if not str(getattr(value, "device", "cpu")).lower().startswith("cpu") and prod(value.shape):
                # an element that goes to the host arrives when all before it is done
                transfer(value[(0,) * len(value.shape)], bound.step.provider, create(CPU))
            return


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(map(int, value.shape)) if hasattr(value, "shape") else None


def _moved(bound: Bound, read: Sequence[Any], made: Sequence[Any]) -> int:
    if isinstance(bound.step, Transfer | Cast):
        return sum(map(nbytes, (*read, *made)))
    return node_bytes(bound.step.node, list(map(nbytes, read)), list(map(nbytes, made)))


def _flops(bound: Bound, read: Sequence[Any], made: Sequence[Any]) -> int | None:
    if isinstance(bound.step, Transfer | Cast):
        return None
    try:
        return node_flops(bound.step.node, list(map(_shape, read)), list(map(_shape, made)))
    except (IndexError, KeyError, ValueError):  # a form of the operator that the rule does not know
        return None
