"""Stage 4: Partitions -> Plan: a list of steps over numbered slots.

Every value gets a slot, and one more for each further provider it is needed on. Crossings (Transfer), widening and
narrowing of dtypes the library does not compute in (Cast) and the last use of every slot are
explicit: the plan is all that happens, and what it does not show does not happen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ortlite import dtypes
from ortlite.dtypes import DType
from ortlite.errors import InvalidGraph, typed
from ortlite.graph import Graph, Node, OptionalType, SequenceType, TensorType, Type
from ortlite.ops import registry
from ortlite.ops.annotations import HOST
from ortlite.ops.registry import EMPTY, Kernel, Param
from ortlite.partition import Partitions
from ortlite.provider import ExecutionProvider

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Argument",
    "Body",
    "Call",
    "Cast",
    "Const",
    "DeviceConstants",
    "Host",
    "Plan",
    "Slot",
    "Step",
    "Transfer",
    "plan",
    "with_last_uses",
]


@dataclass(frozen=True, slots=True)
class Slot:
    """The value in slot `index`, as it is."""

    index: int

    def __str__(self) -> str:
        return f"%{self.index}"


@dataclass(frozen=True, slots=True)
class Host:
    """The value in slot `index` as the Python object that the annotation `kind` promises."""

    index: int
    kind: str

    def __str__(self) -> str:
        return f"{self.kind}(%{self.index})"


class Const(NamedTuple):
    """A value known when the plan is made."""

    value: Any

    def __str__(self) -> str:
        shape = getattr(self.value, "shape", None)
        return repr(self.value) if shape is None else f"{self.value.dtype}{list(shape)}"


class Body(NamedTuple):
    """A subgraph as a callable; `captures` are the slots it reads besides its own inputs."""

    plan: Plan
    captures: tuple[int, ...]

    def __str__(self) -> str:
        return f"body {self.plan.name}({', '.join(f'%{i}' for i in self.captures)})"


OURS = ("ortlite_", "ortlite.ops.")  # modules of ours that replace kernels are named so
Argument: TypeAlias = Slot | Host | Const | Body
# (id of a constant, index of a provider) -> the constant (an id holds as long as its object is held), its copy there
DeviceConstants: TypeAlias = MutableMapping[tuple[int, int], tuple[Any, Any]]


class Call(NamedTuple):
    """Run a kernel. `free` are the slots whose last use this is; `given` names the inputs' dtypes, where known."""

    node: Node
    kernel: Kernel
    provider: ExecutionProvider
    arguments: tuple[Argument, ...]
    keywords: tuple[tuple[str, Argument], ...]
    outputs: tuple[int | None, ...]
    types: tuple[Type | None, ...] = ()
    free: tuple[int, ...] = ()
    given: tuple[str | None, ...] = ()

    def __str__(self) -> str:
        given = [*map(str, self.arguments), *(f"{name}={value}" for name, value in self.keywords)]
        target = ", ".join("_" if o is None else f"%{o}" for o in self.outputs)
        return f"{target} = {self.node.op_type}({', '.join(given)})"

    def reads(self) -> list[int]:
        """Slots this step reads."""
        found: list[int] = []
        for argument in (*self.arguments, *(value for _, value in self.keywords)):
            if isinstance(argument, Slot | Host):
                found.append(argument.index)
            elif isinstance(argument, Body):
                found.extend(argument.captures)
        return found


class Cast(NamedTuple):
    """Widen a value to a dtype its library computes in, or narrow a result back."""

    source: int
    target: int
    dtype: DType
    provider: ExecutionProvider
    node: Node
    free: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"%{self.target} = cast(%{self.source}, {self.dtype})"

    @property
    def outputs(self) -> tuple[int, ...]:
        """Slots this step writes."""
        return (self.target,)

    def reads(self) -> list[int]:
        """Slots this step reads."""
        return [self.source]


class Transfer(NamedTuple):
    """Carry a value from one provider to another; to the CPU provider it is a ToHost, else a ToDevice."""

    source: int
    target: int
    origin: ExecutionProvider
    destination: ExecutionProvider
    node: Node | None
    value: str
    free: tuple[int, ...] = ()

    def __str__(self) -> str:
        short = (p.name.removesuffix("ExecutionProvider") for p in (self.origin, self.destination))
        return f"%{self.target} = {' -> '.join(short)}(%{self.source})"

    @property
    def outputs(self) -> tuple[int, ...]:
        """Slots this step writes."""
        return (self.target,)

    def reads(self) -> list[int]:
        """Slots this step reads."""
        return [self.source]


Step: TypeAlias = Call | Cast | Transfer


class Plan(NamedTuple):
    """Steps over `slots` slots. `constants` are preloaded; `inputs` and `captures` are filled by the caller.

    `shape_inputs` are positions of inputs whose values decide host parameters. Outputs live on the CPU provider for a
    model, and where the node is for a subgraph.
    """

    name: str
    slots: int
    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: Mapping[int, Any]
    captures: tuple[str, ...]
    shape_inputs: frozenset[int]
    input_providers: tuple[ExecutionProvider, ...]
    output_providers: tuple[ExecutionProvider, ...]
    input_types: tuple[Type | None, ...] = ()
    output_types: tuple[Type | None, ...] = ()
    names: Mapping[int, str] = {}
    providers: tuple[ExecutionProvider, ...] = ()

    def __str__(self) -> str:
        head = f"plan of {self.name}: {len(self.steps)} steps, {self.slots} slots, {len(self.constants)} constants"
        inputs = ", ".join(f"%{i} {self.names.get(i, '')}" for i in self.inputs)
        lines = [head, f"  inputs {inputs}"]
        for step in self.steps:
            free = f"   free {', '.join(f'%{i}' for i in step.free)}" if step.free else ""
            lines.append(f"  {step}{free}")
            for body in (v for _, v in getattr(step, "keywords", ()) if isinstance(v, Body)):
                lines.extend(f"    {line}" for line in str(body.plan).splitlines())
        return "\n".join([*lines, f"  return {', '.join(f'%{i}' for i in self.outputs)}"])


def plan(
    parts: Partitions, *, outputs_on_device: bool = False, device_constants: DeviceConstants | None = None
) -> Plan:
    """Lay a partitioned model out as steps. Inputs arrive where they live, outputs leave on the CPU provider.

    With `outputs_on_device` they leave on the first provider, where that made them or can hold them.
    `device_constants` are constants that are on their providers already; those that this plan takes there are added.
    """
    for provider in parts.providers:
        _overrides(provider)  # a provider that replaces nothing fails as such, not at a node
    cpu, types = len(parts.providers) - 1, parts.graph.types
    on_device = [
        outputs_on_device and (parts.locations.get(name) == 0 or _holds(parts.providers[0], types.get(name)))
        for name in parts.graph.outputs
    ]
    there = {} if device_constants is None else device_constants
    return _Planner(parts, {}, {}, there).plan([0 if device else cpu for device in on_device])


def _holds(provider: ExecutionProvider, type_: Type | None) -> bool:
    """Whether a value of `type_` can live on `provider`; one of unknown type stays on the CPU provider."""
    while isinstance(type_, SequenceType | OptionalType):
        type_ = type_.element
    return isinstance(type_, TensorType) and type_.dtype.name in provider.storage


class _Planner:
    """The state of one walk over a graph: which slot holds which value on which provider."""

    def __init__(
        self,
        parts: Partitions,
        outer_constants: Mapping[str, Any],
        outer_types: Mapping[str, Type],
        device_constants: DeviceConstants,
    ):
        self.parts = parts
        self.device_constants = device_constants
        self.graph: Graph = parts.graph
        self.cpu = len(parts.providers) - 1
        self.types: Mapping[str, Type] = {**self.graph.captured(outer_types), **self.graph.types}
        self.known: dict[str, np.ndarray] = self.graph.captured(outer_constants)
        self.known |= self.graph.constants
        for name in self.graph.overridable:
            del self.known[name]
        self.captures = tuple(name for name in self.graph.captures if name not in outer_constants)
        self.steps: list[Step] = []
        self.constants: dict[int, Any] = {}
        self.names: dict[int, str] = {}
        self.at: dict[tuple[str, int], int] = {}
        self.wide: dict[tuple[int, str], int] = {}
        self.count = 0

    def plan(self, outputs_at: list[int]) -> Plan:
        entries = [self.new(name, self.parts.locations[name]) for name in (*self.graph.inputs, *self.captures)]
        for index, node in enumerate(self.graph.nodes):
            with typed("planning", node):
                self.node(index, node)
        outputs = [self.slot(name, where, None) for name, where in zip(self.graph.outputs, outputs_at, strict=True)]
        read = {slot for step in self.steps for slot in step.reads()} | set(outputs)
        return Plan(
            name=self.graph.name,
            slots=self.count,
            steps=with_last_uses(self.steps, {*entries, *outputs, *self.constants}),
            inputs=tuple(entries),
            outputs=tuple(outputs),
            constants={slot: value for slot, value in self.constants.items() if slot in read},
            captures=self.captures,
            shape_inputs=frozenset(i for i, name in enumerate(self.graph.inputs) if name in self.parts.shape_inputs),
            input_providers=tuple(
                self.parts.providers[self.parts.locations[n]] for n in (*self.graph.inputs, *self.captures)
            ),
            output_providers=tuple(self.parts.providers[where] for where in outputs_at),
            input_types=tuple(self.types.get(name) for name in self.graph.inputs),
            output_types=tuple(self.types.get(name) for name in self.graph.outputs),
            names=self.names,
            providers=self.parts.providers,
        )

    def new(self, name: str, where: int | None = None) -> int:
        """A fresh slot, known as the value `name` on provider `where`."""
        index = self.count
        self.count += 1
        self.names[index] = name
        if where is not None:
            self.at[name, where] = index
        return index

    def slot(self, name: str, where: int, node: Node | None) -> int:
        """The slot that holds `name` on provider `where`; carries it there if it is elsewhere."""
        if (name, where) in self.at:
            return self.at[name, where]
        if name in self.known:
            index = self.new(name, where)
            self.constants[index] = self.constant(self.known[name], where)
            return index
        origin = self.parts.locations[name]
        source = self.at[name, origin]
        if self.parts.providers[origin] is self.parts.providers[where]:
            return source
        target = self.new(name, where)
        providers = self.parts.providers
        self.steps.append(Transfer(source, target, providers[origin], providers[where], node, name))
        return target

    def constant(self, value: np.ndarray, where: int) -> Any:
        """A constant on its provider. Branches that read the same weights, and parts of a model, share one copy."""
        key = id(value), where
        if key not in self.device_constants:
            view = value.view()
            view.flags.writeable = False  # whoever holds a view of it cannot change it
            self.device_constants[key] = value, self.parts.providers[where].from_numpy(view)
        return self.device_constants[key][1]

    def node(self, index: int, node: Node) -> None:
        place = self.parts.placements[index]
        kernel, provider = place.kernel, self.parts.providers[place.provider]
        override = _overrides(provider).get((kernel.domain, kernel.op_type, kernel.since))
        widen = {} if kernel.any_dtype or kernel.python_objects else provider.widen
        keywords: dict[str, Argument] = {}
        for name, value in node.attributes.items():
            if param := kernel.accepts(name):
                keywords[name] = self.attribute(index, name, value, param, place.provider, widen)
        arguments: list[Argument] = []
        for position, name in enumerate(node.inputs):
            param = kernel.param(position)
            if param is None:
                break
            if not name:
                absent = Const(None if param.default is EMPTY else param.default)
                arguments.append(keywords.pop(param.name, absent))
            elif kind := self.host_kind(param, name, provider):
                if name in self.known:
                    arguments.append(Const(HOST[kind](self.known[name])))
                else:
                    arguments.append(Host(self.slot(name, self.cpu, node), kind))
            else:
                arguments.append(Slot(self.widened(self.slot(name, place.provider, node), name, provider, widen, node)))
        if "n_outputs" in kernel.injected:
            keywords["n_outputs"] = Const(len(node.outputs))

        types = tuple(self.types.get(name) if name else None for name in node.outputs)
        where = self.parts.locations
        narrow: list[Cast] = []
        outputs: list[int | None] = []
        for name, type_ in zip(node.outputs, types, strict=True):
            if name and isinstance(type_, TensorType) and type_.dtype.name in widen and kernel.host_result is None:
                temporary = self.new(f"{name}, wide")
                narrow.append(Cast(temporary, self.new(name, where[name]), type_.dtype, provider, node))
                outputs.append(temporary)
            else:
                outputs.append(self.new(name, where[name]) if name else None)
        if override is not None:
            kernel = kernel.replaced(override)
        given = tuple(self.dtype(name, widen) for name in node.inputs)
        self.steps.append(
            Call(node, kernel, provider, tuple(arguments), tuple(keywords.items()), tuple(outputs), types, (), given)
        )
        self.steps.extend(narrow)

    def dtype(self, name: str, widen: Mapping[str, str]) -> str | None:
        """The name of the dtype in which a kernel sees the value `name`; None where it is not known."""
        type_ = self.types.get(name)
        return widen.get(type_.dtype.name, type_.dtype.name) if isinstance(type_, TensorType) else None

    def host_kind(self, param: Param, name: str, provider: ExecutionProvider) -> str | None:
        """As what Python object a kernel on `provider` gets the value `name`; None: as an array."""
        if param.kind != "Condition":
            return param.kind if param.kind in HOST else None
        if name in self.known:  # a constant, perhaps of a graph around this one, which has no place here
            return "Bool"
        elsewhere = self.parts.locations[name] == self.cpu and provider is not self.parts.providers[self.cpu]
        return "Bool" if elsewhere else None

    def widened(self, slot: int, name: str, provider: ExecutionProvider, widen: Mapping[str, str], node: Node) -> int:
        """The slot itself, or one that holds it in the dtype its provider computes in."""
        type_ = self.types.get(name)
        if not widen or not isinstance(type_, TensorType) or type_.dtype.name not in widen:
            return slot
        wide = dtypes.by_name(widen[type_.dtype.name])
        if (slot, wide.name) not in self.wide:
            target = self.wide[slot, wide.name] = self.new(f"{name}, wide")
            if slot in self.constants:  # once, now, instead of in every run
                native = provider.xp.dtype(wide)
                self.constants[target] = provider.xp.astype(self.constants[slot], native)
            else:
                self.steps.append(Cast(slot, target, wide, provider, node))
        return self.wide[slot, wide.name]

    def attribute(
        self, index: int, name: str, value: Any, param: Param, where: int, widen: Mapping[str, str]
    ) -> Argument:
        """An attribute as its parameter wants it. Raises InvalidGraph for a flag that is neither 0 nor 1."""
        provider = self.parts.providers[where]
        if param.kind == "Flag" and value not in {0, 1}:
            node = self.graph.nodes[index]
            raise InvalidGraph(
                f"This is an invalid model. Node {node.name!r} ({node.op_type}): {name} is 0 or 1, not {value}.",
                node,
            )
        if isinstance(value, Graph):
            part = self.parts.subgraphs[index, name]
            body = _Planner(part, self.known, self.types, self.device_constants).plan([where] * len(value.outputs))
            slots = tuple(self.slot(n, self.parts.locations[n], self.graph.nodes[index]) for n in body.captures)
            return Body(body, slots)
        if param.kind == "DType" and isinstance(value, int):
            dtype = dtypes.by_code(value) if value else None
            return Const(dtypes.by_name(widen[dtype.name]) if dtype and dtype.name in widen else dtype)
        if param.kind == "Array":
            if isinstance(value, tuple | float | int):  # an attribute that a later version made an input
                import numpy as np

                value = np.asarray(value, np.float32 if _has_float(value) else np.int64)
            return Const(provider.from_numpy(value))
        return Const(value)


@cache
def _overrides(provider: ExecutionProvider) -> Mapping[tuple[str, str, int], Callable[..., Any]]:
    """The operators a provider replaces. Raises TypeError where it is no kernel, or one that is called otherwise.

    Tests see to both for ours: to look at them all takes longer than to make a small session.
    """
    foreign = {key: fn for key, fn in provider.overrides.items() if not (fn.__module__ or "").startswith(OURS)}
    every = registry.kernels() if foreign else ()
    kernels = {(kernel.domain, kernel.op_type, kernel.since): kernel for kernel in every}
    for key, fn in foreign.items():
        kernel = kernels.get(key)
        if kernel is None:
            name = key[:2] if isinstance(key, tuple) and len(key) == 3 else ("", key)
            known = ", ".join(str(k) for k in kernels if k[:2] == name) or "none of that name"
            raise TypeError(f"{provider.name} overrides {key!r}; kernels (domain, operator, since): {known}")
        signature = inspect.signature(fn)
        needed = [param for param in kernel.inputs if param.default is EMPTY]
        named = {name: None for name, param in kernel.attributes.items() if param.default is EMPTY}
        try:
            signature.bind(None, *needed, **named, **dict.fromkeys(kernel.injected))
            signature.bind(None, *kernel.inputs, **dict.fromkeys([*kernel.attributes, *kernel.injected]))
        except TypeError as error:
            wanted = inspect.signature(kernel.fn)
            raise TypeError(f"{provider.name} overrides {kernel} with {signature}, not {wanted}: {error}") from None
    return provider.overrides


def _has_float(value: Any) -> bool:
    return any(isinstance(v, float) for v in (value if isinstance(value, tuple) else (value,)))


def with_last_uses(steps: Sequence[Step], kept: Collection[int]) -> tuple[Step, ...]:
    """Say at each step which slots nobody reads after it; constants, inputs and outputs are never freed."""
    seen = set(kept)
    result: list[Step] = []
    for step in reversed(steps):
        free = []
        for slot in (*step.reads(), *step.outputs):
            if slot is not None and slot not in seen:
                seen.add(slot)
                free.append(slot)
        result.append(step._replace(free=tuple(free)))
    return tuple(reversed(result))
