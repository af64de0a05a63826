"""Stage 5: Plan -> Program: kernels bound to callables, and programs specialised to input signatures.

A Program runs in two ways. *Interpreted*, by the loop of run.py: any shapes. *Specialised*: what depends on shapes
and on small host inputs alone was computed once and is baked in, and the steps that remain are
one straight-line Python function. A signature is specialised when it comes up the second time; the first time already
where a library compiles and can tell shapes without a run.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import numpy as np

from ortlite import dtypes, run
from ortlite.graph import Node, TensorType, Type
from ortlite.namespace import Namespace
from ortlite.ops.annotations import HOST
from ortlite.plan import Argument, Body, Call, Cast, Const, Host, Plan, Slot, Step, Transfer
from ortlite.provider import CPU, ExecutionProvider, transfer

__all__ = ["Bound", "Program", "compile_plan"]

CACHE = 16  # specialised programs kept per graph
SEEN = 256  # signatures remembered as "came up once"
KEY_ELEMENTS = 64  # a host input with more elements than this is not part of a signature


@dataclass(frozen=True, slots=True)
class ReadSlot:
    """Run-time form of plan.Slot."""

    index: int

    def read(self, slots: Sequence[Any]) -> Any:
        """The value."""
        return slots[self.index]


@dataclass(frozen=True, slots=True)
class ReadHost:
    """Run-time form of plan.Host: `convert` makes the Python object."""

    index: int
    convert: Callable[[Any], Any]

    def read(self, slots: Sequence[Any]) -> Any:
        """The value, converted."""
        return self.convert(slots[self.index])


@dataclass(frozen=True, slots=True)
class ReadConst:
    """Run-time form of plan.Const."""

    value: Any

    def read(self, slots: Sequence[Any]) -> Any:
        """The constant."""
        return self.value


@dataclass(frozen=True, slots=True)
class ReadBody:
    """A subgraph as a callable of its formal inputs, its captures read when the step runs."""

    program: Program
    captures: tuple[int, ...]

    def read(self, slots: Sequence[Any]) -> Any:
        """The callable."""
        return self.program.closure([slots[index] for index in self.captures])


@dataclass(frozen=True, slots=True)
class ReadSeed:
    """A fresh 63-bit seed for each run of a random node."""

    draw: Callable[[], int]

    def read(self, slots: Sequence[Any]) -> Any:
        """The seed."""
        return self.draw()


Reader: TypeAlias = ReadSlot | ReadHost | ReadConst | ReadBody | ReadSeed


@dataclass(frozen=True, slots=True)
class Bound:
    """A step ready to run: `fn(*arguments, **keywords)`, then its result into `outputs`."""

    fn: Callable[..., Any]
    arguments: tuple[Reader, ...]
    keywords: tuple[tuple[str, Reader], ...]
    outputs: tuple[int | None, ...]
    multiple: bool
    free: tuple[int, ...]
    node: Node | None
    step: Step

    @property
    def pure(self) -> bool:
        """Whether the result depends on nothing but the arguments."""
        return not any(isinstance(a, ReadSeed | ReadBody) for _, a in self.keywords)


class Program:
    """A plan bound to callables; call it with one value per input of the plan, then per capture.

    `check`, when given, sees every step's outputs (tests assert dtypes with it) and turns specialising off. `xp`, when
    given, is the namespace that all kernels compute in, instead of their providers'; its `lift` takes arrays into it
    and its `bare` takes out those that a kernel reads as Python objects.
    Without `specialises` every run is interpreted: what is computed while a library traces is of no use to the next,
    and what depends on nothing that it traces is computed outside of the trace.
    """

    def __init__(
        self,
        plan: Plan,
        seed: int | None = None,
        check: Callable[[Bound, list[Any]], None] | None = None,
        xp: Namespace | None = None,
        specialises: bool = True,
    ):
        if xp is not None:
            plan = replace(plan, constants={slot: xp.lift(value) for slot, value in plan.constants.items()})
        self.plan = plan
        self.check = check
        self.seed = seed
        self.specialises = specialises and check is None and xp is None
        binding = _Binding(seed, check, xp, specialises)
        self.steps = tuple(_bind(step, binding) for step in plan.steps)
        compilers = {s.provider for s in plan.steps if isinstance(s, Call) and s.provider.compiles}
        self.compiler = next(iter(compilers)) if len(compilers) == 1 else None
        self._fast: dict[Any, Callable[..., tuple[Any, ...]]] = {}
        self._seen: dict[Any, None] = {}
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return f"program of {self.plan.name}: {len(self.steps)} steps, {len(self._fast)} specialised"

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """Run. Raises what run.node_error makes of a kernel's exception."""
        key = self.signature(inputs) if self.specialises else None
        if key is None:
            return run.interpret(self, inputs)[0]
        fast = self._fast.get(key)
        if fast is not None:
            return fast(*inputs)
        if self.compiler is not None:
            return self._compiled(key, inputs)
        if key not in self._seen:
            with self._lock:
                self._seen[key] = None
                _bound(self._seen, SEEN)
            return run.interpret(self, inputs)[0]
        return self._specialised(key, inputs)

    def _compiled(self, key: Any, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """The first run of a signature where a library compiles. It compiles once: other threads wait for it."""
        from ortlite import specialise

        with self._lock:
            fast = self._fast.get(key)
            if fast is None and (fast := specialise.ahead(self, inputs)) is not None:
                outputs = fast(*inputs)
                self._keep(key, fast)
                return outputs
        return self._specialised(key, inputs) if fast is None else fast(*inputs)

    def _specialised(self, key: Any, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """Run once more step by step, for a faster program to keep."""
        outputs, fast = self.specialise(inputs)
        with self._lock:
            self._keep(key, fast)
        return outputs

    def _keep(self, key: Any, fast: Callable[..., tuple[Any, ...]]) -> None:
        self._fast[key] = fast
        _bound(self._fast, CACHE)

    def closure(self, captures: Sequence[Any]) -> Closure:
        """The program as a function of its formal inputs alone."""
        return Closure(self, tuple(captures))

    def signature(self, inputs: Sequence[Any]) -> Any:
        """Shapes and dtypes of the inputs, and the values of those that decide shapes; None: not to be cached."""
        key: list[Any] = []
        for index, value in enumerate(inputs):
            if (
                index in self.plan.demanded
                and isinstance(value, np.ndarray | np.generic)
                and value.size <= KEY_ELEMENTS
            ):
                key.append((value.dtype, value.shape, tuple(value.reshape(-1).tolist())))
            else:
                key.append(_form(value))
        return None if _UNKNOWN in key else tuple(key)

    def specialise(self, inputs: Sequence[Any]) -> tuple[tuple[Any, ...], Callable[..., tuple[Any, ...]]]:
        """Run once, and make the straight-line function for inputs of this signature."""
        from ortlite import specialise

        static = specialise.static_slots(self, inputs)
        outputs, values = run.interpret(self, inputs, static)
        return outputs, specialise.generate(self, values)


@dataclass(frozen=True, slots=True)
class Closure:
    """What a kernel gets for a graph attribute, with what is known of the types of its inputs and outputs."""

    program: Program
    captures: tuple[Any, ...]

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        return self.program((*inputs, *self.captures))

    def on(self, xp: Namespace) -> Closure:
        """The same subgraph, its kernels computing in another namespace."""
        program = Program(self.program.plan, self.program.seed, None, xp, self.program.specialises)
        return Closure(program, tuple(map(xp.lift, self.captures)))

    @property
    def input_types(self) -> tuple[Type | None, ...]:
        """Declared or inferred types of the formal inputs."""
        return self.program.plan.input_types

    @property
    def types(self) -> tuple[Type | None, ...]:
        """Declared or inferred types of the outputs."""
        return self.program.plan.output_types


_UNKNOWN: Any = ("?",)


def _form(value: Any) -> Any:
    """What of a value goes into a signature."""
    if value is None:
        return None
    if isinstance(value, tuple):
        forms = tuple(map(_form, value))
        return _UNKNOWN if _UNKNOWN in forms else forms
    shape = getattr(value, "shape", None)
    return _UNKNOWN if shape is None else (value.dtype, tuple(shape))


def _bound(cache: dict[Any, Any], limit: int) -> None:
    """Forget the oldest entries beyond `limit`."""
    while len(cache) > limit:
        cache.pop(next(iter(cache)))


def compile_plan(
    plan: Plan, *, seed: int | None = None, check_types: bool = False, specialises: bool = True
) -> Program:
    """Bind a plan's kernels. `seed` makes random operators repeat; `check_types` asserts every output's dtype."""
    return Program(plan, seed, _check_types if check_types else None, specialises=specialises)


@dataclass(frozen=True, slots=True)
class _Binding:
    """What every step of a program is bound with; see Program."""

    seed: int | None
    check: Any
    xp: Namespace | None
    specialises: bool


def _bind(step: Step, binding: _Binding) -> Bound:
    if isinstance(step, Transfer):
        away = step.origin if step.destination.name == CPU else step.destination
        move = partial(transfer, source=step.origin, target=step.destination, crossing=step.crossing)
        if binding.xp is not None:
            move = partial(_carry, binding.xp, move)
        carry = _beside_tracers(move, away, binding)
        return Bound(carry, (ReadSlot(step.source),), (), step.outputs, False, step.free, step.node, step)
    if isinstance(step, Cast):
        to = partial(_cast, binding.xp or step.provider.xp, step.provider.xp.dtype(step.dtype))
        cast = _beside_tracers(to, step.provider, binding)
        return Bound(cast, (ReadSlot(step.source),), (), step.outputs, False, step.free, step.node, step)
    readers = tuple(_reader(a, binding) for a in step.arguments)
    keywords = [(name, _reader(a, binding)) for name, a in step.keywords]
    if "rng" in step.kernel.injected:
        keywords.append(("rng", ReadSeed(_seeds(step, binding.seed))))
    elsewhere = binding.xp is not None
    fn: Callable[..., Any] = partial(step.kernel.fn if elsewhere else step.kernel.body, binding.xp or step.provider.xp)
    if step.kernel.host_result:
        fn = partial(_host_result, fn, np.dtype(step.kernel.host_result))
    if all(not isinstance(reader, ReadBody | ReadSeed) for _, reader in keywords):
        fn = _beside_tracers(fn, step.provider, binding)
    return Bound(fn, readers, tuple(keywords), step.outputs, step.kernel.multiple, step.free, step.node, step)


def _beside_tracers(fn: Callable[..., Any], provider: ExecutionProvider, binding: _Binding) -> Callable[..., Any]:
    """A step that, where it depends on nothing that a library traces, is computed: a shape may depend on it."""
    if binding.specialises or binding.xp is not None or provider.name == CPU:
        return fn

    def step(*args: Any, **keywords: Any) -> Any:
        with nullcontext() if _traced(provider, (*args, *keywords.values())) else provider.eager():
            return fn(*args, **keywords)

    return step


def _traced(provider: ExecutionProvider, value: Any) -> bool:
    return any(_traced(provider, item) for item in value) if isinstance(value, tuple) else provider.traced(value)


def _reader(argument: Argument, binding: _Binding) -> Reader:
    if isinstance(argument, Slot):
        return ReadSlot(argument.index)
    if isinstance(argument, Host):
        convert = HOST[argument.kind]
        return ReadHost(argument.index, convert if binding.xp is None else partial(_bare, binding.xp, convert))
    if isinstance(argument, Body):
        program = Program(argument.plan, binding.seed, binding.check, binding.xp, binding.specialises)
        return ReadBody(program, argument.captures)
    assert isinstance(argument, Const)
    return ReadConst(argument.value)


def _bare(xp: Namespace, convert: Callable[[Any], Any], value: Any) -> Any:
    return convert(xp.bare(value))


def _seeds(step: Call, seed: int | None) -> Callable[[], int]:
    """A node's stream of seeds: from its seed attribute (the first seed), else from the session's, else the system."""
    given = step.node.attributes.get("seed")
    if given is not None:
        later = random.Random(f"node {given}")  # noqa: S311
        draws = chain([int(given)], iter(partial(later.getrandbits, 63), None))
        return partial(next, draws)
    source = random.Random()  # noqa: S311
    if seed is not None:
        source.seed(f"session {seed} node {', '.join(step.node.outputs)}")  # wherever the node stands
    return partial(source.getrandbits, 63)


def _carry(xp: Namespace, carry: Callable[[Any], Any], value: Any) -> Any:
    """What comes from the host, into the namespace; everything else is in it, wherever its node was placed."""
    return xp.lift(carry(value)) if isinstance(value, np.ndarray | np.generic) else value


def _cast(xp: Any, dtype: Any, value: Any) -> Any:
    return value if value is None else xp.astype(value, dtype)


def _host_result(fn: Callable[..., Any], dtype: np.dtype[Any], *args: Any, **keywords: Any) -> np.ndarray:
    return np.asarray(fn(*args, **keywords), dtype)


def _check_types(step: Bound, values: list[Any]) -> None:
    """Under test: every output has the dtype that its schema says."""
    if not isinstance(step.step, Call):
        return
    provider, kernel = step.step.provider, step.step.kernel
    for name, type_, slot, value in zip(step.step.node.outputs, step.step.types, step.outputs, values, strict=True):
        if slot is None or value is None or not isinstance(type_, TensorType) or not hasattr(value, "dtype"):
            continue
        wanted = _computed(type_, step.step)
        if kernel.host_result or isinstance(value, np.ndarray | np.generic):
            actual = dtypes.of_numpy(value.dtype).name
        else:
            actual = provider.xp.dtype_name(value.dtype)
        if actual != wanted:
            raise AssertionError(f"{kernel} on {provider.name}: output {name!r} is {actual}, the schema says {wanted}")


def _computed(type_: Type, step: Call) -> str:
    """The dtype a kernel's output has before it is narrowed back."""
    assert isinstance(type_, TensorType)
    widen = {} if step.kernel.storage or step.kernel.host or step.kernel.host_result else step.provider.widen
    return widen.get(type_.dtype.name, type_.dtype.name)
