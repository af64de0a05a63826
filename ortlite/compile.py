"""Stage 5: Plan -> Program: bound steps, and the functions specialised to the signatures that come up.

A Program runs in two ways. *Interpreted*, by the loop of run.py, and after some runs by the same steps written out as
code: any shapes. *Specialised*: what depends on shapes
and on small host inputs alone was computed once and is baked in, and the steps that remain are one straight-line
Python function. A program's first one is made when a signature comes up twice in a row; the first time already where
a library compiles, though not for the lengths of a cache that grows. To make one takes as long as several runs, so
others are made where they are likely to be repaid, and in no more than a share of the time of all runs; while the cache
is full, a signature must come up often before it takes the place of another (`Signatures`). Changing shapes thus cost
little more than interpreting them, in whatever order they come.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np

from ortlite import run, specialise
from ortlite.derived import Derived, nbytes
from ortlite.errors import InvalidArgument
from ortlite.forks import renewed_after_fork
from ortlite.graph import Type
from ortlite.inline import Inlined
from ortlite.namespace import Namespace
from ortlite.plan import Call, DeviceConstants, Plan
from ortlite.provider import ExecutionProvider
from ortlite.race import Race
from ortlite.specialise import KEY_ELEMENTS
from ortlite.stand_in import StandIn
from ortlite.steady import Steady, lengthens
from ortlite.steps import Binding, Bound, OnStep, ReadBody, ReadSeed, bind

__all__ = ["Budget", "Closure", "Program", "Shared", "Signatures", "compile_plan"]

Function: TypeAlias = Callable[..., tuple[Any, ...]]

BAKED_BYTES = 1 << 26  # of the arrays that all specialised functions of a session hold, besides the model's constants
KEPT = 16  # specialised functions a program keeps
SEEN = 256  # signatures it counts
OFTEN = 4  # runs that are interpreted before code is written for signatures that do not repeat
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


@dataclass(frozen=True, slots=True)
class Shared:
    """What the programs of a session have in common, subgraphs' and those for parts of the model too.

    `differentiable`: somebody may take derivatives of one run, and none of the next. `compilations`: the seconds that
    each region took which a library compiled; `races`, of every function whether that was worth it, where both ways
    were tried.
    """

    budget: Budget = field(default_factory=Budget)
    derived: Derived = field(default_factory=Derived)
    device_constants: DeviceConstants = field(default_factory=dict)
    differentiable: bool = False
    compilations: list[float] = field(default_factory=list)
    races: list[bool] = field(default_factory=list)


@dataclass(slots=True)
class _Entry:
    function: Function
    baked: Mapping[int, Any]
    kernels: Mapping[int, Inlined]
    fixed: frozenset[int] = frozenset()  # outputs, by position, whose shapes are the same in all runs
    hits: int = 0

    @property
    def bytes(self) -> int:
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
    entries: dict[Any, _Entry] = field(default_factory=dict)
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

    def get(self, key: Any) -> _Entry | None:
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

    def keep(self, key: Any, entry: _Entry) -> _Entry:
        """Keep what there is of a signature, in the place of what is used least if there is no other."""
        gone = self.entries.pop(key, None)  # another thread's
        if gone is None and len(self.entries) >= KEPT:
            gone = self.entries.pop(min(self.entries, key=lambda other: self.entries[other].hits))
        self.budget.left += 0 if gone is None else gone.bytes
        self.entries[key] = entry
        self.seen.pop(key, None)
        return entry


class _Any:
    """A plan's function of inputs of all signatures: the loop, and where `writes`, after some runs, code."""

    def __init__(self, plan: Plan, steps: Sequence[Bound], *, writes: bool):
        self.plan, self.steps, self.writes = plan, steps, writes
        self.interpreted = 0
        self.function: Function | None = None

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        if self.function is None:
            self.interpreted += 1
            if self.interpreted <= OFTEN or not self.writes:
                return run.interpret(self.plan, self.steps, inputs)
            self.function = specialise.generate(self.plan, self.steps, {}, regions=False)
        return self.function(*inputs)


class Program:
    """A plan bound to callables; call it with one value per input of the plan, then per capture.

    `xp`, when given, is the namespace that all kernels compute in, instead of their providers'; `within` makes of
    a provider's the one that its kernels get, which specialised functions do not know of: give `on_step`. With
    `specialises=False` every run is interpreted. Use it under a tracer: values computed during a trace must not be
    cached, and steps without traced inputs run eagerly. `stand_in` answers at signatures that nothing is compiled for.
    """

    def __init__(
        self,
        plan: Plan,
        seed: int | None = None,
        xp: Namespace | None = None,
        specialises: bool = True,
        shared: Shared | None = None,
        within: Callable[[Namespace], Namespace] | None = None,
        stand_in: StandIn | None = None,
    ):
        if xp is not None:
            plan = plan._replace(constants={slot: xp.lift(value) for slot, value in plan.constants.items()})
        self.plan = plan
        self.seed = seed
        self.specialises = specialises and xp is None
        self.shared = shared or Shared()
        self._under_tracer = not specialises
        if not self._under_tracer:
            self.shared.derived.watch(plan.constants.values())
        derived = Derived() if self._under_tracer else self.shared.derived  # nothing made in a trace is kept
        self._within = within
        self.steps = bind(
            plan, Binding(lambda body: self._like(body, xp), derived, seed, xp, self._under_tracer, within)
        )
        providers = {step.provider for step in plan.steps if isinstance(step, Call)}
        compilers = sum(provider.compiler is not None for provider in providers)
        self.compiles = compilers == 1
        # whether what a library compiles is compiled in its second run, and its own calls answer at other signatures
        self._eager = bool(compilers) and all(p.compiler is None or p.compiler.eager for p in providers)
        draws = _draws(self.steps)
        self._races = any(p.compiler is not None and p.compiler.races for p in providers) and not draws
        self._plain = not compilers or self._eager
        usable = stand_in is not None and self.compiles and self.specialises and not draws
        self.stand_in = stand_in if usable else None
        self._signatures = Signatures(self.shared.budget, self.stand_in is not None, self._eager)
        self._came_out: set[Any] | None = None  # shapes of results of the first run, none of which its inputs had
        # whether there is a cache, whose next signatures come up but once: by the plan, or one of them came in again
        self._grows = bool(compilers) and lengthens(plan)
        self._last: tuple[Any, _Entry] | None = None  # the signature of the last run, and what there is of it
        self._compiled_before = 0  # regions of which the signatures know how long they took
        self._any = _Any(plan, self.steps, writes=self.specialises and (self._eager or not self.compiles))
        repeats = self._plain and self.specialises and self._decided and not draws  # a run may begin anew
        made = self._signatures.made  # from then on functions must save what they cost
        self._steady = Steady(plan, self.steps, self._any, made) if repeats else None  # where a part comes up again
        renewed_after_fork(self, "_lock", threading.Lock)

    _lock: threading.Lock

    def _like(self, plan: Plan, xp: Namespace | None) -> Program:
        """A program of a subgraph, or of this plan again."""
        return Program(plan, self.seed, xp, not self._under_tracer, self.shared, self._within)

    def __str__(self) -> str:
        specialised = len(self._signatures.entries)
        return f"program of {self.plan.name}: {len(self.steps)} steps, {specialised} specialised"

    def __call__(self, inputs: Sequence[Any], on_step: OnStep | None = None) -> tuple[Any, ...]:
        """Run; interpreted where `on_step` wants to run the steps. Raises what run.node_error makes of an exception."""
        key = self.signature(inputs) if self.specialises and on_step is None else None
        if key is None:
            return run.interpret(self.plan, self.steps, inputs, on_step) if on_step else self._any(*inputs)
        last = self._last  # most runs are like the one before; to compare two keys costs less than to look one up
        if last is not None and last[0] == key:
            last[1].hits += 1
            return last[1].function(*inputs)
        entry = self._signatures.get(key)
        if entry is not None:
            self._last = key, entry
            return entry.function(*inputs)
        if self._wanted(key):
            return self._made(key, inputs)
        if (found := self._stood_in(inputs)) is not None:
            return found
        began = perf_counter()
        outputs = None if self._steady is None else self._steady(key, inputs, self._baked)
        if outputs is None:
            outputs = self._any(*inputs)
        with self._lock:
            self._signatures.ran(perf_counter() - began)
        return outputs

    def on_host(self, inputs: Sequence[Any]) -> tuple[Any, ...] | None:
        """The outputs of a run that NumPy answers, of NumPy's inputs that have not been carried to where they go.

        None where this program is to run.
        """
        if self.stand_in is None or any(type(value) is not np.ndarray for value in inputs):
            return None
        key, last = self.signature(inputs), self._last
        known = last is not None and last[0] == key
        if key is None or known or key in self._signatures.entries or self._wanted(key):
            return None
        return self._stood_in(inputs, on_host=True)

    def _wanted(self, key: Any) -> bool:
        """Count a signature that has no function; whether it should get one now."""
        with self._lock:
            signatures = self._signatures
            if self._came_out is not None and not self._grows:
                self._grows = any(part and part[1:2] and part[1] in self._came_out for part in key)
                if self._grows and self._eager:
                    signatures.drop_unused()
                    self._last = None
            if self._eager and (seconds := self.shared.compilations[self._compiled_before :]):
                signatures.compiled(sum(seconds))
                self._compiled_before += len(seconds)
            most = 0 if self._grows else AT_ONCE
            answered = self._eager or self.stand_in is not None
            at_once = self.compiles and (not answered or len(signatures.entries) < most)
            return signatures.wants(key, at_once=at_once)

    def _stood_in(self, inputs: Sequence[Any], *, on_host: bool = False) -> tuple[Any, ...] | None:
        """What NumPy answers; None where it is not asked, or cannot run the graph."""
        stand_in = self.stand_in
        if stand_in is None:
            return None
        if not stand_in.prepare():
            self.stand_in = None
            return None
        began = perf_counter()
        outputs = stand_in(inputs, on_host=on_host)
        with self._lock:
            self._signatures.ran(perf_counter() - began)
        return outputs

    def specialise(self, inputs: Sequence[Any]) -> None:
        """Run so that the signature of these inputs has a function, repaid or not, and is the last one."""
        key = self.signature(inputs) if self.specialises else None
        if key is not None and self._signatures.get(key) is None:
            self._made(key, inputs)
        self(inputs)

    def _made(self, key: Any, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """A run in which a signature gets its function."""
        outputs = self._compiled(key, inputs) if self.compiles else self._specialised(key, inputs)
        if self.compiles and self._came_out is None:
            made, given = ({tuple(getattr(value, "shape", ())) for value in values} for values in (outputs, inputs))
            self._came_out = made - given
        return outputs

    @property
    def _decided(self) -> bool:
        """Whether nobody takes derivatives in one run and none in the next."""
        return not (self.shared.differentiable and any(place.tracer for place in self.plan.providers))

    def _baked(self, values: Mapping[int, Any]) -> Mapping[int, Any]:
        """Those of the values that a function may hold."""
        for place in self.plan.providers:
            place.settle([*values.values()])
        return self.shared.budget.take(values)

    def _compiled(self, key: Any, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """The first run of a signature where a library compiles. It compiles once: other threads wait for it."""
        with self._lock:
            entry = self._signatures.get(key)
            if entry is None:
                values = specialise.abstract_values(self.plan, self.steps, inputs)
                if values is not None:
                    began = perf_counter()
                    outputs = self._keep(key, values)(*inputs)
                    self._signatures.made(perf_counter() - began)
                    return outputs
        return self._specialised(key, inputs) if entry is None else entry.function(*inputs)

    def _specialised(self, key: Any, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """Run once more step by step, for a faster function to keep."""
        given = list(inputs)
        for position in self.plan.shape_inputs:  # a baked value may be a view of one, whose memory is the caller's
            if isinstance(given[position], np.ndarray) and given[position].size <= KEY_ELEMENTS:
                given[position] = given[position].copy()
        static, shapes = specialise.static_slots(self.plan, self.steps, given)
        values: dict[int, Any] = {}
        kernels: dict[int, Inlined] = {}
        spent: list[float] = []
        watch = specialise.recorder(
            static, values, kernels if self._decided else None, self.plan.constants.keys(), shapes, spent
        )
        outputs = run.interpret(self.plan, self.steps, given, watch)
        began = perf_counter()
        with self._lock:
            fixed = frozenset(index for index, slot in enumerate(self.plan.outputs) if slot in shapes)
            self._keep(key, values, kernels, fixed)
            self._signatures.made(sum(spent) + perf_counter() - began)
        return outputs

    def _keep(
        self,
        key: Any,
        values: Mapping[int, Any],
        kernels: Mapping[int, Inlined] | None = None,
        fixed: frozenset[int] = frozenset(),
    ) -> Function:
        """Generate the function in which `values`, as far as there is room, are baked, and keep it."""
        baked = self._baked(values)
        function: Function = specialise.generate(self.plan, self.steps, baked, kernels, self.shared.compilations)
        if self._races and kernels:
            plain = specialise.generate(self.plan, self.steps, baked, kernels, regions=False)
            function = Race(function, plain, self.shared.races.append)
        entry = _Entry(function, baked, kernels or {}, fixed)
        self._last = key, self._signatures.keep(key, entry)  # what was there may have lost its place
        return function

    def forget(self) -> None:
        """Let go of what is kept of signatures, also in subgraphs: they must come up again to get their functions."""
        with self._lock:
            self._signatures.clear()
            self._last = None
        for bound in self.steps:
            for _, reader in bound.keywords:
                if isinstance(reader, ReadBody) and isinstance(reader.program, Program):
                    reader.program.forget()

    def pieces(self, inputs: Sequence[Any]) -> tuple[Plan, list[tuple[Bound, Function]]]:
        """The plan at the signature of these inputs: its steps, and the code of each, a function of what it reads."""
        entry = self._signatures.get(self.signature(inputs)) if self.specialises else None
        baked, kernels = ({}, {}) if entry is None else (entry.baked, entry.kernels)
        plan = self.plan._replace(constants={**self.plan.constants, **baked})
        pieces = []
        for bound in specialise.live_steps(self.plan, self.steps, baked):
            made = tuple(slot for slot in bound.outputs if slot is not None)
            read = tuple(slot for slot in dict.fromkeys(bound.step.reads()) if slot not in plan.constants)
            one = plan._replace(inputs=read, outputs=made)
            pieces.append((bound, specialise.generate(one, [bound], {}, kernels)))
        return plan, pieces

    def zeros(self) -> list[Any]:
        """Inputs of the signature of the last specialised run: zeros, but for those that decide shapes.

        Raises InvalidArgument where there was none.
        """
        if self._last is None:
            raise InvalidArgument("no signature has been specialised yet: run the session twice, or give a feed")
        return [_zeros(form, place) for form, place in zip(self._last[0], self.plan.input_providers, strict=True)]

    def latest(self, inputs: Sequence[Any]) -> _Entry | None:
        """What there is of the signature of these inputs, if it is that of the last run."""
        last = self._last
        return last[1] if last is not None and last[0] == self.signature(inputs) else None

    @cached_property
    def unread(self) -> frozenset[int]:
        """Positions of the inputs that no step reads and that are no outputs."""
        read = {slot for step in self.plan.steps for slot in step.reads()} | set(self.plan.outputs)
        return frozenset(index for index, slot in enumerate(self.plan.inputs) if slot not in read)

    def closure(self, captures: Sequence[Any], on_step: OnStep | None = None) -> Closure:
        """The program as a function of its formal inputs alone."""
        return Closure(self, tuple(captures), on_step)

    def on(self, xp: Namespace) -> Program:
        """The same program, its kernels computing in another namespace."""
        return self._like(self.plan, xp)

    def signature(self, inputs: Sequence[Any]) -> Any:
        """Shapes and dtypes of the inputs, and the values of those that decide shapes; None: not to be cached."""
        shape_inputs = self.plan.shape_inputs
        if not shape_inputs:
            try:
                return tuple([(value.dtype, value.shape) for value in inputs])
            except AttributeError:  # a sequence, or nothing
                pass
        key: list[Any] = []
        for index, value in enumerate(inputs):
            if index in shape_inputs and isinstance(value, np.ndarray | np.generic) and value.size <= KEY_ELEMENTS:
                # bytes tell -0.0 from 0.0, and a NaN is itself; of text they are addresses
                content = tuple(value.reshape(-1).tolist()) if value.dtype == object else value.tobytes()
                key.append((value.dtype, value.shape, content))
            elif (form := _form(value)) is not _UNKNOWN:
                key.append(form)
            else:
                return None
        return tuple(key)


def _draws(steps: Sequence[Bound]) -> bool:
    """Whether a step, or one of a subgraph, takes random numbers."""
    given = [reader for bound in steps for _, reader in bound.keywords]
    bodies = [reader.program for reader in given if isinstance(reader, ReadBody)]
    return any(isinstance(reader, ReadSeed) for reader in given) or any(
        _draws(body.steps) for body in bodies if isinstance(body, Program)
    )


@dataclass(slots=True, eq=False)  # frozen ones take four times as long to make
class Closure:
    """What a kernel gets for a graph attribute, with what is known of the types of its inputs and outputs."""

    program: Program
    captures: tuple[Any, ...]
    on_step: OnStep | None = None

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        """Run the subgraph."""
        return self.program((*inputs, *self.captures), self.on_step)

    def repeated(self, states: Mapping[int, int] | None = None) -> Callable[..., tuple[Any, ...]]:
        """The same for many calls in a row: inputs like those before go straight to their code.

        `states`, if given: positions of the inputs that are results of the call before, and of these results; the other
        inputs have the same dtypes and shapes in all calls. Where those keep theirs, no call looks any more.
        """
        program, captures = self.program, self.captures
        if self.on_step is not None or not program.specialises or program.plan.shape_inputs:
            return self
        forms: Any = None
        entry: _Entry | None = None
        settled: _Entry | None = None

        def call(*inputs: Any) -> tuple[Any, ...]:
            nonlocal forms, entry, settled, states
            if settled is not None:
                settled.hits += 1
                return settled.function(*inputs, *captures)
            try:
                given = [(value.dtype, value.shape) for value in inputs]
            except AttributeError:  # a sequence, or nothing
                return self(*inputs)
            if entry is not None and given == forms:
                entry.hits += 1
                results = entry.function(*inputs, *captures)
                if states is not None:
                    kept = all(_form(results[made]) == forms[place] for place, made in states.items())
                    settled = entry if kept and entry.fixed.issuperset(states.values()) else None
                    states = None
                return results
            results = self(*inputs)
            forms, entry = given, program.latest((*inputs, *captures))
            return results

        return call

    def on(self, xp: Namespace) -> Closure:
        """The same subgraph, its kernels computing in another namespace, unseen by `on_step`."""
        return Closure(self.program.on(xp), tuple(map(xp.lift, self.captures)))

    @property
    def input_types(self) -> tuple[Type | None, ...]:
        """Declared or inferred types of the formal inputs."""
        return self.program.plan.input_types

    @property
    def unread(self) -> frozenset[int]:
        """Positions of the formal inputs that nothing reads."""
        return self.program.unread

    @property
    def types(self) -> tuple[Type | None, ...]:
        """Declared or inferred types of the outputs."""
        return self.program.plan.output_types


_UNKNOWN: Any = ("?",)


def _zeros(form: Any, place: ExecutionProvider) -> Any:
    """A value of which that form went into a signature."""
    if form is None or not form or isinstance(form[0], tuple) or form[0] is None:  # nothing, or a sequence
        return None if form is None else tuple(_zeros(item, place) for item in form)
    dtype, shape, *content = form
    if not content:
        return place.xp.zeros(shape, dtype=dtype)
    flat = np.array(content[0], dtype) if dtype.kind == "O" else np.frombuffer(content[0], dtype)
    return flat.reshape(shape)


def _form(value: Any) -> Any:
    """What of a value goes into a signature."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return (value.dtype, tuple(shape))
    if value is None:
        return None
    if not isinstance(value, tuple) or len(value) > KEY_ELEMENTS:  # to walk over a sequence may take longer than a run
        return _UNKNOWN
    forms = tuple(map(_form, value))
    return _UNKNOWN if _UNKNOWN in forms else forms


def compile_plan(
    plan: Plan,
    *,
    seed: int | None = None,
    specialises: bool = True,
    shared: Shared | None = None,
    stand_in: StandIn | None = None,
) -> Program:
    """Bind a plan's kernels. `seed` makes random operators repeat; `shared` is that of the session."""
    return Program(plan, seed, specialises=specialises, shared=shared, stand_in=stand_in)
