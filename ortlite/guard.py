"""Runs under limits: before each step what it is going to make is counted, after it what it made.

`Bounded` is a program that keeps to an `ortlite.Limits`. Where all shapes of a run follow from its signature, the runs
of that signature that come after it are as large: they go without a guard, at full speed. So do the iterations of a
loop, which are only counted. Other runs are interpreted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np

from ortlite import run, sizes, specialise, stopping
from ortlite.bounded import bounded
from ortlite.compile import Closure, Program
from ortlite.errors import Fail, LimitExceeded
from ortlite.graph import Node, TensorType
from ortlite.limits import Limits, beyond
from ortlite.namespace import Namespace
from ortlite.plan import Call, Cast
from ortlite.steps import Bound, OnStep, ReadBody, ReadConst, ReadHost, ReadSlot

__all__ = ["Bounded"]

PROVEN = 256  # signatures whose runs need no guard any more
ENTRY = 128  # bytes of one entry of a map, and of one array of a sequence beside its elements


class Bounded:
    """A program, run within limits."""

    def __init__(self, program: Program, limits: Limits):
        self.program, self.limits = program, limits
        most = [(m, name) for name in ("elements", "total_bytes") if (m := getattr(limits, name)) is not None]
        within = partial(bounded, limit=min(most)[1], most=min(most)[0]) if most else None
        wrap: Any = None if within is None else cache(within)
        self.watched = Program(program.plan, program.seed, specialises=True, shared=program.shared, within=wrap)
        self.cache: sizes.Cache = {}
        self.proven: dict[Any, int] = {}  # program, signature -> the bytes that its values take at most

    def __call__(self, inputs: Sequence[Any], on_step: OnStep | None = None) -> tuple[Any, ...]:
        """Run. Raises LimitExceeded."""
        key = id(self.program), self.program.signature(inputs)
        if on_step is None and key in self.proven:
            return self.program(inputs)
        for name, value in zip(self.program.plan.inputs, inputs, strict=True):
            self.check_text(value, f"input {self.program.plan.names.get(name, name)!r}")
        outputs = self.watched(inputs, _Guard(self).around(on_step))
        self.prove(self.program, key, inputs, 0)
        return outputs

    def prove(self, program: Program, key: tuple[int, Any], inputs: Sequence[Any], peak: int) -> None:
        """Note, where it is so, that all runs of a signature are as large as this one."""
        if key[1] is None or not _follows(program, inputs):
            return
        while len(self.proven) >= PROVEN:
            self.proven.pop(next(iter(tuple(self.proven)), None), None)  # other threads may do so, too, and add some
        self.proven[key] = peak

    def check_text(self, value: Any, what: str) -> None:
        """Inputs are the caller's, but text and sequences may be as long as a stranger likes."""
        _measure(self.limits, value, what, None)


def _follows(program: Program, inputs: Sequence[Any]) -> bool:
    """Whether the size of every value follows from the signature; that of text does not."""
    if any(not hasattr(value, "dtype") or value.dtype == object for value in inputs):
        return False
    for bound in program.steps:
        if isinstance(bound.step, Call) and (bound.step.kernel.python_objects or not bound.pure):
            return False
    static, shapes = specialise.static_slots(program.plan, program.steps, inputs)
    known = static | shapes
    return all(slot is None or slot in known for bound in program.steps for slot in bound.outputs)


class _Guard:
    """What one run has taken so far. `frames`: the bytes of the slots of the graph that runs, and of those around."""

    def __init__(self, bounded: Bounded):
        self.bounded, self.limits, self.cache = bounded, bounded.limits, bounded.cache
        self.live, self.peak, self.trips = 0, 0, 0
        self.frames: list[dict[int, int]] = [{}]

    def around(self, inner: OnStep | None) -> OnStep:
        """An `on_step` that runs steps by `inner`, within the limits."""
        step = run.step if inner is None else inner
        return lambda bound, values: self.step(bound, values, step)

    def step(self, bound: Bound, values: list[Any], inner: OnStep) -> None:
        """Run one step, and count."""
        before, node = self.live, bound.node
        self.check_before(bound, values)
        if isinstance(bound.step, Call) and any(isinstance(reader, ReadBody) for _, reader in bound.keywords):
            bound = bound._replace(keywords=tuple((n, self.watched(r, bound.step.node)) for n, r in bound.keywords))
        try:
            inner(bound, values)
        except LimitExceeded as error:
            if error.node is not None or node is None:
                raise
            where = f"Limit {error.limit} exceeded: "
            about = f"node {node.name!r} ({node.op_type}): "
            raise LimitExceeded(where + about + error.text.removeprefix(where), node, error.limit) from None
        self.live, frame = before, self.frames[-1]
        for slot in bound.outputs:
            if slot is not None:
                frame[slot] = self.measure(values[slot], node)
                self.live += frame[slot]
        self.check_total(0, node)
        for slot in bound.free:
            self.live -= frame.pop(slot, 0)

    def watched(self, reader: Any, node: Node) -> Any:
        """A reader of a subgraph, whose runs are counted."""
        return _ReadCounted(reader, self, node) if isinstance(reader, ReadBody) else reader

    def check_before(self, bound: Bound, values: Sequence[Any]) -> None:
        """Raise LimitExceeded where a step would make too much."""
        limits, step = self.limits, bound.step
        if isinstance(step, Cast):
            self.check_counts([sizes.size(values[step.source])], step.dtype.bits, bound.node)
            return
        if not isinstance(step, Call):
            return
        given = [_given(reader, values) for reader in bound.arguments]
        counts = sizes.made(step, given, self.cache)
        if counts is not None:
            first = step.types[0] if step.types else None
            self.check_counts(counts, first.dtype.bits if isinstance(first, TensorType) else 64, bound.node)
        if limits.sequence_length is not None and (length := _length(step.node, given)) > limits.sequence_length:
            raise beyond("sequence_length", limits.sequence_length, length, "elements of the sequence", bound.node)
        if limits.string_bytes is not None and step.node.op_type in TEXT:
            letters = TEXT[step.node.op_type](given)
            if letters > limits.string_bytes:
                raise beyond("string_bytes", limits.string_bytes, letters, "letters of text", bound.node)

    def check_counts(self, counts: Sequence[int], bits: int, node: Node | None) -> None:
        """Raise LimitExceeded for arrays of so many elements, so large each."""
        allowed = self.limits.elements
        if allowed is not None and (most := max(counts, default=0)) > allowed:
            raise beyond("elements", allowed, most, "elements of an array that it makes", node)
        self.check_total(sum(counts) * max(bits, 8) // 8, node)

    def check_total(self, more: int, node: Node | None) -> None:
        """Raise LimitExceeded where what is there, and `more` bytes, are too much."""
        allowed, there = self.limits.total_bytes, self.live + more
        self.peak = max(self.peak, there)
        if allowed is not None and there > allowed:
            raise beyond("total_bytes", allowed, there, "bytes of all values with what it makes", node)

    def measure(self, value: Any, node: Node | None) -> int:
        """The bytes of a value that has come to be. Raises LimitExceeded."""
        return _measure(self.limits, value, "its result", node)

    def trip(self, node: Node) -> None:
        """Count an iteration."""
        if (stop := stopping.current()) is not None:
            stop()  # a body may have no steps
        self.trips += 1
        if (allowed := self.limits.loop_trips) is not None and self.trips > allowed:
            raise beyond("loop_trips", allowed, self.trips, "iterations of all loops of the run", node)


def _measure(limits: Limits, value: Any, what: str, node: Node | None) -> int:
    """The bytes of a value. Raises LimitExceeded where it has too many elements, entries or letters."""
    if value is None:
        return 0
    if isinstance(value, tuple | dict):
        items: Iterable[Any] = value.values() if isinstance(value, Mapping) else value
        if limits.sequence_length is not None and len(value) > limits.sequence_length:
            raise beyond("sequence_length", limits.sequence_length, len(value), f"elements of {what}", node)
        return sum(ENTRY + _measure(limits, item, what, node) for item in items)
    if not hasattr(value, "shape"):
        return 0
    count = sizes.size(value)
    if limits.elements is not None and count > limits.elements:
        raise beyond("elements", limits.elements, count, f"elements of {what}", node)
    if not isinstance(value, np.ndarray) or value.dtype != object:
        return int(count * _itemsize(value))
    if limits.string_bytes is None and limits.total_bytes is None:
        return 8 * count
    letters = sum(len(text) for text in value.reshape(-1).tolist() if isinstance(text, str))
    if limits.string_bytes is not None and letters > limits.string_bytes:
        raise beyond("string_bytes", limits.string_bytes, letters, f"letters of {what}", node)
    return 8 * count + letters


def _itemsize(value: Any) -> float:
    found: Any = getattr(value, "itemsize", None) or getattr(value.dtype, "itemsize", 8)
    return float(found() if callable(found) else found)


def _given(reader: Any, values: Sequence[Any]) -> Any:
    """The value of an argument, before it is converted."""
    if isinstance(reader, ReadSlot | ReadHost):
        return values[reader.index]
    return reader.value if isinstance(reader, ReadConst) else None


def _length(node: Node, given: Sequence[Any]) -> int:
    """How many elements a sequence will have."""
    if node.domain == "ai.onnx.ml" and node.op_type == "ZipMap":
        return max(int(given[0].shape[0]) if len(given[0].shape) > 1 else 1, int(given[0].shape[-1]))
    if node.op_type != "SplitToSequence" or node.domain or not len(given[0].shape):
        return 0
    size = int(given[0].shape[node.attributes.get("axis", 0)])
    split = given[1] if len(given) > 1 else None
    if split is None:
        return size
    split = np.asarray(split).reshape(-1)
    return -(-size // max(int(split[0]), 1)) if split.size == 1 else int(split.size)


def _letters(value: Any) -> int:
    return sum(map(len, value.reshape(-1).tolist()))


def _concatenated(given: Sequence[Any]) -> int:
    """Letters of texts joined, each as often as it is broadcast."""
    count = sizes.together([tuple(value.shape) for value in given])
    return sum(_letters(value) * count // max(sizes.size(value), 1) for value in given)


# Operators whose text may be longer than what goes in, and how long it will be.
TEXT = {"StringConcat": _concatenated}


@dataclass(frozen=True, slots=True)
class _ReadCounted:
    """A reader of a subgraph that counts how often it is called, and what it gives."""

    body: ReadBody
    guard: _Guard
    node: Node

    def read(self, values: Sequence[Any], on_step: OnStep | None = None) -> Any:
        """The callable. Its own steps run by `on_step`, too."""
        program = self.body.program
        assert isinstance(program, Program)
        captures = tuple(values[index] for index in self.body.captures)
        return _Counted(program, captures, self.guard.around(on_step), self.guard, self.node, on_step is None)


@dataclass(slots=True, eq=False)
class _Counted(Closure):
    """A subgraph whose iterations are counted, and the rows that a loop keeps of them."""

    guard: _Guard = field(kw_only=False, default=None)  # type: ignore[assignment]
    node: Node = field(kw_only=False, default=None)  # type: ignore[assignment]
    plain: bool = True  # whether nobody else watches the steps
    kept: int = 0
    columns: list[int] = field(default_factory=list)
    start: int = -1

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        """Run the subgraph."""
        guard = self.guard
        if self.start < 0:
            self.start = guard.live
        loops = self.node.op_type != "If"
        if loops:
            guard.trip(self.node)
        results = self.run((*inputs, *self.captures))
        first = self.states(len(inputs)) if loops else len(results)
        rows = results[first:]
        self.columns = self.columns or [0] * len(rows)
        for index, row in enumerate(rows):
            self.kept += guard.measure(row, self.node)
            self.columns[index] += sizes.size(row)
        guard.check_counts(self.columns, 0, self.node)
        guard.live = self.start + self.kept + sum(guard.measure(value, self.node) for value in results[:first])
        guard.check_total(self.kept, self.node)  # they are going to be stacked
        return results

    def run(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """The results: step by step, unless the iterations of this signature are known to be small enough."""
        guard, program = self.guard, self.program
        key = id(program), program.signature(values)
        known = guard.bounded.proven.get(key) if self.plain else None
        if known is not None:
            guard.check_total(known, self.node)
            return program(values)
        before, start, guard.peak = guard.peak, guard.live, guard.live
        guard.frames.append({})
        try:
            results = program(values, self.on_step)
        finally:
            guard.frames.pop()
            peak, guard.peak = guard.peak - start, max(before, guard.peak)
        guard.bounded.prove(program, key, values, peak)
        return results

    def states(self, inputs: int) -> int:
        """How many of the results are the state of a loop; of the others every iteration is kept."""
        if self.node.op_type == "Loop":
            return inputs - 1  # a condition, and the state
        if self.node.op_type in {"GreedySearch", "Sampling", "BeamSearch", "WhisperBeamSearch"}:
            return inputs  # logits and caches, of which only the last are kept
        return inputs - int(self.node.attributes["num_scan_inputs"]) if self.node.op_type == "Scan" else 0

    def on(self, xp: Namespace) -> Closure:
        """Not possible: nothing counts what a gradient takes. Raises Fail."""
        raise Fail(f"node {self.node.name!r} ({self.node.op_type}): gradients cannot be bounded, and there are limits")
