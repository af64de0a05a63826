"""Stage 5, first half: Plan -> bound steps: every kernel a callable, every argument a reader. Frozen data.

A bound step is `fn(*arguments, **keywords)`, whose result goes into its output slots. `bind` makes them;
`ortlite.run` runs them one by one, `ortlite.specialise` writes them out as code.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import isfinite
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from ortlite.derived import Derived, takes_derived
from ortlite.errors import typed
from ortlite.graph import Node
from ortlite.namespace import Namespace
from ortlite.ops.annotations import HOST
from ortlite.plan import Argument, Body, Call, Cast, Const, Host, Plan, Slot, Step, Transfer
from ortlite.progress import each
from ortlite.provider import CPU, ExecutionProvider, outside_trace, traced
from ortlite.transfer import TransferStats, transfer

__all__ = ["Binding", "Bound", "OnStep", "ReadBody", "ReadConst", "ReadHost", "ReadSeed", "ReadSlot", "Reader", "bind"]

# A hook: it runs one bound step on the slots of a run, by `run.step`, and may look at both before and after.
OnStep: TypeAlias = Callable[["Bound", list[Any]], None]


@dataclass(frozen=True, slots=True)
class ReadSlot:
    """The value of a slot."""

    index: int

    def read(self, values: Sequence[Any], on_step: OnStep | None = None) -> Any:
        """The value."""
        return values[self.index]


@dataclass(frozen=True, slots=True)
class ReadHost:
    """The value of a slot as a Python object, which `convert` makes."""

    index: int
    convert: Callable[[Any], Any]

    def read(self, values: Sequence[Any], on_step: OnStep | None = None) -> Any:
        """The value, converted."""
        return self.convert(values[self.index])


class ReadConst(NamedTuple):
    """A value known when the plan was made."""

    value: Any

    def read(self, values: Sequence[Any], on_step: OnStep | None = None) -> Any:
        """The constant."""
        return self.value


class SubProgram(Protocol):
    """What a subgraph is bound to: `ortlite.compile.Program`."""

    plan: Plan
    steps: tuple[Bound, ...]

    def closure(self, captures: Sequence[Any], on_step: OnStep | None = None) -> Any:
        """The subgraph as a callable of its formal inputs."""


class ReadBody(NamedTuple):
    """A subgraph as a callable of its formal inputs, its captures read when the step runs."""

    program: SubProgram
    captures: tuple[int, ...]

    def read(self, values: Sequence[Any], on_step: OnStep | None = None) -> Any:
        """The callable. Its own steps run by `on_step`, too."""
        return self.program.closure([values[index] for index in self.captures], on_step)


class ReadSeed(NamedTuple):
    """A fresh 63-bit seed for each run of a random node."""

    draw: Callable[[], int]

    def read(self, values: Sequence[Any], on_step: OnStep | None = None) -> Any:
        """The seed."""
        return self.draw()


Reader: TypeAlias = ReadSlot | ReadHost | ReadConst | ReadBody | ReadSeed


class Bound(NamedTuple):
    """A step ready to run: `fn(*arguments, **keywords)`, then its result into `outputs`.

    `stats` says of a transfer what the last value that went this way was like, which only a run can tell.
    """

    fn: Callable[..., Any]
    arguments: tuple[Reader, ...]
    keywords: tuple[tuple[str, Reader], ...]
    outputs: tuple[int | None, ...]
    multiple: bool
    free: tuple[int, ...]
    node: Node | None
    step: Step
    stats: TransferStats | None = None

    @property
    def pure(self) -> bool:
        """Whether the result depends on nothing but the arguments."""
        return not any(isinstance(a, ReadSeed | ReadBody) for _, a in self.keywords)

    @property
    def host_slots(self) -> list[int]:
        """Slots that are read as Python objects."""
        return [a.index for a in self.arguments if isinstance(a, ReadHost)]


class Binding(NamedTuple):
    """How the steps of a program are bound.

    `program` makes the program of a subgraph; `seed` makes random operators repeat. `xp`, when given, is the namespace
    that all kernels compute in, instead of their providers'; its `lift` takes arrays into it, and its `bare` takes out
    those that a kernel reads as Python objects. `under_tracer`: a library may be tracing, so that steps without traced
    inputs must run outside the trace. `derived` keeps what overrides derive from constants. `within`, when given, makes
    of a provider's namespace the one that its kernels get.
    """

    program: Callable[[Plan], SubProgram]
    derived: Derived
    seed: int | None = None
    xp: Namespace | None = None
    under_tracer: bool = False
    within: Callable[[Namespace], Namespace] | None = None

    def namespace(self, provider: ExecutionProvider) -> Namespace:
        """What the kernels of a provider compute in."""
        return self.xp or (provider.xp if self.within is None else self.within(provider.xp))


def bind(plan: Plan, binding: Binding) -> tuple[Bound, ...]:
    """The plan's steps, ready to run."""
    bound = []
    for step in each("compiling", plan.steps):
        with typed("binding", step.node):
            bound.append(_bind(step, binding))
    return tuple(bound)


def _bind(step: Step, binding: Binding) -> Bound:
    if isinstance(step, Transfer):
        away = step.origin if step.destination.name == CPU else step.destination
        stats = TransferStats()
        move = partial(transfer, source=step.origin, target=step.destination, stats=stats)
        if binding.xp is not None:
            move = partial(_carry, binding.xp, move)
        carry = _outside_trace(move, away, binding)
        return Bound(carry, (ReadSlot(step.source),), (), step.outputs, False, step.free, step.node, step, stats)
    if isinstance(step, Cast):
        to = partial(_cast, binding.xp or step.provider.xp, step.provider.xp.dtype(step.dtype))
        cast = _outside_trace(to, step.provider, binding)
        return Bound(cast, (ReadSlot(step.source),), (), step.outputs, False, step.free, step.node, step)
    override = step.kernel.override
    if (warm := getattr(override, "warm", None)) is not None:
        warm(step.given, step.node.attributes)
    if override is not None and takes_derived(override):
        step = step._replace(kernel=step.kernel.replaced(partial(override, derived=binding.derived)))
    readers = tuple(_reader(a, binding) for a in step.arguments)
    keywords = [(name, _reader(a, binding)) for name, a in step.keywords]
    if "rng" in step.kernel.injected:
        keywords.append(("rng", ReadSeed(_seeds(step, binding.seed))))
    if "memo" in step.kernel.injected:
        keywords.append(("memo", ReadConst({})))
    elsewhere = binding.xp is not None
    fn: Callable[..., Any] = partial(
        step.kernel.fn if elsewhere else step.kernel.body, binding.namespace(step.provider)
    )
    if step.kernel.host_result:
        fn = partial(_host_result, fn, np.dtype(step.kernel.host_result))
    if all(not isinstance(reader, ReadBody | ReadSeed) for _, reader in keywords):
        fn = _outside_trace(fn, step.provider, binding)
    return Bound(fn, readers, tuple(keywords), step.outputs, step.kernel.multiple, step.free, step.node, step)


def _outside_trace(fn: Callable[..., Any], provider: ExecutionProvider, binding: Binding) -> Callable[..., Any]:
    """Wrap a step so that it runs eagerly when none of its arguments is traced; later shapes may need its value."""
    if not binding.under_tracer or binding.xp is not None or provider.name == CPU:
        return fn

    def step(*args: Any, **keywords: Any) -> Any:
        with nullcontext() if traced(provider, (*args, *keywords.values())) else outside_trace(provider):
            return fn(*args, **keywords)

    return step


def _reader(argument: Argument, binding: Binding) -> Reader:
    if isinstance(argument, Slot):
        return ReadSlot(argument.index)
    if isinstance(argument, Host):
        convert = HOST[argument.kind]
        return ReadHost(argument.index, convert if binding.xp is None else partial(_bare, binding.xp, convert))
    if isinstance(argument, Body):
        return ReadBody(binding.program(argument.plan), argument.captures)
    assert isinstance(argument, Const)
    return ReadConst(argument.value)


def _bare(xp: Namespace, convert: Callable[[Any], Any], value: Any) -> Any:
    return convert(xp.bare(value))


def _seeds(step: Call, seed: int | None) -> Callable[[], int]:
    """A node's stream of seeds: from its seed attribute (the first seed), else from the session's, else the system."""
    given = step.node.attributes.get("seed")
    if given is not None:
        later = random.Random(f"node {given}")  # noqa: S311
        draws = chain([int(given) if isfinite(given) else 0], iter(partial(later.getrandbits, 63), None))
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
