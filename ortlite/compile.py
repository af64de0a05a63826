"""Stage 5: Plan -> Program: bound steps, and the functions specialised to the signatures that come up.

A Program runs in two ways. *Interpreted*, by the loop of run.py, and after some runs by the same steps written out as
code: any shapes. *Specialised*: what depends on shapes and on small host inputs alone was computed once and is baked
in, and the steps that remain are one straight-line Python function. Which signatures get such a function is decided in
signatures.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from time import perf_counter
from typing import Any

import numpy as np

from ortlite import dtypes, pages, run, specialise
from ortlite.derived import Derived
from ortlite.errors import InvalidArgument
from ortlite.forks import renewed_after_fork
from ortlite.graph import Type
from ortlite.inline import Inlined
from ortlite.namespace import Namespace
from ortlite.plan import Call, DeviceConstants, Plan
from ortlite.provider import CPU, ExecutionProvider
from ortlite.race import Race
from ortlite.signatures import AT_ONCE, Budget, Entry, Function, Signatures
from ortlite.specialise import KEY_ELEMENTS
from ortlite.stand_in import StandIn
from ortlite.steady import Steady, lengthens
from ortlite.steps import Binding, Bound, OnStep, ReadBody, ReadSeed, bind

__all__ = ["Closure", "Program", "Shared", "compile_plan"]

PAGES = 0.1  # of the seconds that a library compiled, for huge pages
OFTEN = 4  # runs that are interpreted before code is written for signatures that do not repeat


@dataclass(frozen=True, slots=True)
class Shared:
    """What the programs of a session have in common, subgraphs' and those for parts of the model too.

    `differentiable`: somebody may take derivatives of one run, and none of the next. `compilations`: the seconds that
    each region took which a library compiled; `races`, for every function of which other ways were tried too, which
    was fastest.
    """

    budget: Budget = field(default_factory=Budget)
    derived: Derived = field(default_factory=Derived)
    device_constants: DeviceConstants = field(default_factory=dict)
    differentiable: bool = False
    compilations: list[float] = field(default_factory=list)
    races: list[str] = field(default_factory=list)


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
        compilers = [provider.compiler for provider in providers if provider.compiler is not None]
        self.compiles = len(compilers) == 1
        # whether what a library compiles is compiled in its second run, and its own calls answer at other signatures
        self._eager = bool(compilers) and all(compiler.eager for compiler in compilers)
        draws = _draws(self.steps)
        self._races = any(compiler.races for compiler in compilers) and not draws
        usable = stand_in is not None and self.compiles and self.specialises and not draws
        self.stand_in = stand_in if usable else None
        self._compiling = next((provider for provider in providers if provider.compiler is not None), None)
        self._native = _native(self._compiling) if self.stand_in is not None and self._compiling is not None else {}
        self._signatures = Signatures(self.shared.budget, self.stand_in is not None, self._eager)
        self._from_host: set[Any] = set()  # signatures of NumPy's inputs at which it was faster than what is compiled
        self._came_out: set[Any] | None = None  # shapes of results of the first run, none of which its inputs had
        # whether there is a cache, whose next signatures come up but once: by the plan, or one of them came in again
        self._grows = bool(compilers) and lengthens(plan)
        self._last: tuple[Any, Entry] | None = None  # the signature of the last run, and what there is of it
        self._compiled_before = 0  # regions of which the signatures know how long they took
        self._any = _Any(plan, self.steps, writes=self.specialises and (self._eager or not self.compiles))
        plain = not compilers or self._eager
        repeats = plain and self.specialises and self._decided and not draws  # a run may begin anew
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
        if key in self._from_host:
            return self.stand_in.answer(inputs)
        if key is not None and self._native:
            key = self._carried(key)
        known = last is not None and last[0] == key
        if key is None or known or key in self._signatures.entries or self._wanted(key):
            return None
        return self._stood_in(inputs, on_host=True)

    def _carried(self, key: Any) -> Any:
        """The signature of inputs that are where they go, from that of NumPy's; None where that is not told."""
        found = []
        for form, place in zip(key, self.plan.input_providers, strict=True):
            if place.name == CPU:
                found.append(form)
            elif place is self._compiling and form[0] in self._native:
                found.append((self._native[form[0]], *form[1:]))
            else:
                return None
        return tuple(found)

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
        given = specialise.to_bake(self.plan, inputs)
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
            function = Race(partial(self._ways, function, plain), self._chosen)
        entry = Entry(function, baked, kernels or {}, fixed)
        self._last = key, self._signatures.keep(key, entry)  # what was there may have lost its place
        return function

    def _ways(self, compiled: Function, plain: Function) -> dict[str, Function]:
        """What can answer at a signature that a library has compiled."""
        ways = {"compiled": compiled, "called": plain}
        if self.stand_in is not None and self.stand_in.prepare():
            ways["NumPy"] = self.stand_in.at_one_signature()
        return ways

    def _chosen(self, way: str, inputs: Sequence[Any]) -> None:
        """Hear which of them answers from now on."""
        self.shared.races.append(way)
        pages.put_together(PAGES * sum(self.shared.compilations[-1:]))
        if self.stand_in is None:
            return
        if way == "NumPy":
            self._from_host.add(self.signature(self.stand_in.given(inputs)))
        elif not self._from_host:
            self.stand_in.release()

    def forget(self) -> None:
        """Let go of what is kept of signatures, also in subgraphs: they must come up again to get their functions."""
        with self._lock:
            self._signatures.clear()
            self._from_host.clear()
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

    def latest(self, inputs: Sequence[Any]) -> Entry | None:
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


def _native(provider: ExecutionProvider) -> dict[Any, Any]:
    """A library's dtypes by NumPy's; none where they are the same."""
    found = {dtypes.to_numpy(dtype): provider.xp.dtype(dtype) for dtype in map(dtypes.by_name, provider.storage)}
    return {} if all(key is value for key, value in found.items()) else found


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
        entry: Entry | None = None
        settled: Entry | None = None

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
