"""The second half of stage 5: a program for one signature, as one straight-line Python function.

Which slots are *static* (their value follows from the signature) and which have a static *shape* is decided on
the plan; the static values are recorded in one interpreted run and baked in. What then remains is written
out as Python source, one line a step, because at small sizes the cost of a step is what users feel. Neighbours on a
provider that has a compiler become a function of their own, which goes to that compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from types import TracebackType
from typing import Any

import numpy as np

from ortlite import run
from ortlite.compile import KEY_ELEMENTS, Bound, Program, ReadBody, ReadConst, Reader, ReadHost, ReadSeed, ReadSlot
from ortlite.plan import Call, Cast, Step
from ortlite.provider import ExecutionProvider

__all__ = ["ahead", "generate", "static_slots"]

BAKED_BYTES = 1 << 24  # a larger static value is computed in every run instead of being kept


def static_slots(program: Program, inputs: Sequence[Any]) -> set[int]:
    """Slots whose value every run with inputs of this signature gives again."""
    plan = program.plan
    values = set(plan.constants)
    shapes = set(plan.constants) | set(plan.inputs)
    for position in plan.demanded:
        value = inputs[position]
        if isinstance(value, np.ndarray | np.generic) and value.size <= KEY_ELEMENTS:
            values.add(plan.inputs[position])
    static: set[int] = set()
    for bound in program.steps:
        reads = bound.step.reads()
        outputs = [slot for slot in bound.outputs if slot is not None]
        call = bound.step if isinstance(bound.step, Call) else None
        dynamic = call is not None and call.kernel.dynamic
        from_shapes = call is not None and call.kernel.host_result is not None and shapes.issuperset(reads)
        if bound.pure and (values.issuperset(reads) or from_shapes):
            static.update(outputs)
            values.update(outputs)
            shapes.update(outputs)
        elif bound.pure and shapes.issuperset(reads) and values.issuperset(_host_slots(bound)) and not dynamic:
            shapes.update(outputs)
    return static


def _host_slots(bound: Bound) -> list[int]:
    return [a.index for a in bound.arguments if isinstance(a, ReadHost)]


def ahead(program: Program, inputs: Sequence[Any]) -> Callable[..., tuple[Any, ...]] | None:
    """The function for inputs of this signature, before any run; None where only a run tells what is static.

    Run one by one, the steps would be compiled one by one, which takes a library longer than all of them at once.
    """
    static = static_slots(program, inputs)
    plan = program.plan
    needed: set[int | None] = set(static)
    steps: list[Step] = []  # that lead to what is static
    for step in reversed(plan.steps):
        if not needed.isdisjoint(step.outputs):
            needed.update(step.reads())
            steps.append(step)
    outlined = Program(replace(plan, steps=tuple(reversed(steps)), outputs=()), specialises=False)
    host = (np.ndarray, np.generic)
    away = [i for i, value in enumerate(inputs) if hasattr(value, "shape") and not isinstance(value, host)]
    values: dict[int, Any] = {}

    def outline(*arrays: Any) -> tuple[()]:
        given = list(inputs)
        for index, array in zip(away, arrays, strict=True):
            given[index] = array
        values.update(run.interpret(outlined, given, static)[1])
        return ()

    try:
        known = program.compiler is not None and program.compiler.outline(outline, *(inputs[index] for index in away))
    except Exception:  # noqa: BLE001  (the run that follows tells of which node)
        return None
    return generate(program, values) if known else None


def generate(program: Program, values: Mapping[int, Any]) -> Callable[..., tuple[Any, ...]]:
    """Write the function of the program's inputs in which the slots of `values` are constants."""
    baked = dict(program.plan.constants)
    baked |= {slot: value for slot, value in values.items() if _size(value) <= BAKED_BYTES}
    for value in baked.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    writer = _Writer(program, baked)
    return writer.function(_live(program, baked))


def _size(value: Any) -> int:
    if isinstance(value, tuple):
        return sum(map(_size, value))
    nbytes = getattr(value, "nbytes", None)
    return 0 if nbytes is None else int(nbytes)


def _live(program: Program, baked: Mapping[int, Any]) -> list[tuple[Bound, list[int]]]:
    """The steps that still have to run, each with the slots that nobody reads after it."""
    needed = set(program.plan.outputs)
    keep = needed | set(program.plan.inputs) | baked.keys()
    live: list[tuple[Bound, list[int]]] = []
    for bound in reversed(program.steps):
        if not any(slot in needed and slot not in baked for slot in bound.outputs if slot is not None):
            continue
        touched = {*bound.step.reads(), *(slot for slot in bound.outputs if slot is not None)}
        free = sorted(slot for slot in touched if slot not in needed and slot not in keep)
        needed |= touched
        live.append((bound, free))
    return live[::-1]


class _Writer:
    """Collects the source lines of one function and the objects that its names stand for."""

    def __init__(self, program: Program, baked: Mapping[int, Any]):
        self.program = program
        self.baked = baked
        self.names: dict[str, Any] = {}
        self.by_id: dict[int, str] = {}

    def name(self, value: Any, prefix: str) -> str:
        """A global name for an object, the same one whenever the object comes up again."""
        if id(value) not in self.by_id:
            self.by_id[id(value)] = f"{prefix}{len(self.names)}"
            self.names[self.by_id[id(value)]] = value
        return self.by_id[id(value)]

    def slot(self, index: int) -> str:
        return self.name(self.baked[index], "c") if index in self.baked else f"v{index}"

    def argument(self, reader: Reader) -> str:
        if isinstance(reader, ReadHost):
            if reader.index in self.baked:
                return self.literal(reader.convert(self.baked[reader.index]))
            return f"{self.name(reader.convert, 'h')}({self.slot(reader.index)})"
        if isinstance(reader, ReadBody):
            captures = ", ".join(map(self.slot, reader.captures))
            return f"{self.name(reader.program, 'p')}.closure([{captures}])"
        if isinstance(reader, ReadSeed):
            return f"{self.name(reader.draw, 'r')}()"
        return self.literal(reader.value) if isinstance(reader, ReadConst) else self.slot(reader.index)

    def literal(self, value: Any) -> str:
        """Small Python values stand in the code; anything else gets a name."""
        if value is None or type(value) in {bool, int, str}:
            return repr(value)
        if type(value) is tuple and len(value) <= 16 and all(type(v) is int for v in value):
            return repr(value)
        return self.name(value, "c")

    def function(self, live: Sequence[tuple[Bound, list[int]]]) -> Callable[..., tuple[Any, ...]]:
        main = [f"def specialised({', '.join(f'v{i}' for i in self.program.plan.inputs)}):"]
        lines: list[str] = []  # of the regions; the main function follows them
        where: list[tuple[list[str], int, Bound]] = []
        regions: dict[str, ExecutionProvider] = {}
        for provider, group in groupby(live, lambda item: _compiler(item[0], self.baked)):
            steps = list(group)
            body = main
            if provider is not None:
                name = f"region{len(regions)}"
                regions[name] = provider
                given, made = self.border([bound for bound, _ in steps], live)
                body = lines
                body.append(f"def {name}({', '.join(given)}):")
                main.append(f"    {', '.join(made)}, = {name}({', '.join(given)})")
            for bound, free in steps:
                start = len(body)
                body.extend(f"    {line}" for line in self.step(bound))
                where.extend((body, number, bound) for number in range(start, len(body)))
                if free and provider is None:
                    body.append(f"    del {', '.join(f'v{slot}' for slot in free)}")
            if provider is not None:
                body.append(f"    return ({', '.join(made)},)")
                outside = {*given, *made}
                if gone := [f"v{slot}" for _, free in steps for slot in free if f"v{slot}" in outside]:
                    main.append(f"    del {', '.join(gone)}")
        outputs = "".join(f"{self.slot(slot)}, " for slot in self.program.plan.outputs)
        main.append(f"    return ({outputs})")
        first = {id(lines): 1, id(main): 1 + len(lines)}
        bounds = {first[id(body)] + number: bound for body, number, bound in where}
        scope = dict(self.names)
        file = f"<{self.program.plan.name}, specialised>"
        exec(compile("\n".join([*lines, *main]), file, "exec"), scope)  # noqa: S102
        scope |= {name: provider.compile(scope[name]) for name, provider in regions.items()}
        return _with_node_errors(scope["specialised"], file, bounds, self.baked)

    def border(self, region: Sequence[Bound], live: Sequence[tuple[Bound, list[int]]]) -> tuple[list[str], list[str]]:
        """What a region reads from outside, constants included, and what of its results somebody else reads."""
        inside = {id(bound) for bound in region}
        reads = dict.fromkeys(slot for bound in region for slot in bound.step.reads())
        made = dict.fromkeys(slot for bound in region for slot in bound.outputs if slot is not None)
        wanted = {slot for bound, _ in live if id(bound) not in inside for slot in bound.step.reads()}
        wanted.update(self.program.plan.outputs)
        arrays = [
            slot for slot in reads if slot not in made and (slot not in self.baked or _is_array(self.baked[slot]))
        ]
        return [self.slot(slot) for slot in arrays], [f"v{slot}" for slot in made if slot in wanted]

    def step(self, bound: Bound) -> list[str]:
        given = [self.argument(a) for a in bound.arguments]
        given += [f"{name}={self.argument(a)}" for name, a in bound.keywords]
        fn, first = bound.fn, ""
        if isinstance(bound.step, Call) and bound.step.kernel.host_result is None:
            fn, first = bound.step.kernel.body, self.name(bound.step.provider.xp, "x")  # saves a partial's call
        call = f"{self.name(fn, 'k')}({', '.join([first, *given] if first else given)})"
        outputs = bound.outputs
        if not bound.multiple:
            return [f"v{outputs[0]} = {call}"]
        wanted = [(position, slot) for position, slot in enumerate(outputs) if slot is not None]
        if len(wanted) == 1:
            return [f"v{wanted[0][1]} = {call}[{wanted[0][0]}]"]
        return [f"t = {call}", *(f"v{slot} = t[{position}]" for position, slot in wanted)]


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and not isinstance(value, np.ndarray | np.generic)


def _compiler(bound: Bound, baked: Mapping[int, Any]) -> ExecutionProvider | None:
    """The provider whose compiler gets the step; None where it has none, or where the step needs values to run."""
    step = bound.step
    if not isinstance(step, Call | Cast) or not bound.pure or any(slot not in baked for slot in _host_slots(bound)):
        return None
    if isinstance(step, Call) and (step.kernel.dynamic or step.kernel.host or step.kernel.host_result):
        return None
    if isinstance(step, Call) and step.node.op_type == "Identity":  # a compiler would copy what it hands on
        return None
    return step.provider if step.provider.compiles else None


def _with_node_errors(
    fn: Callable[..., tuple[Any, ...]], file: str, steps: Mapping[int, Bound], baked: Mapping[int, Any]
) -> Callable[..., tuple[Any, ...]]:
    """The function, its exceptions told as those of the node whose line raised them."""

    def call(*inputs: Any) -> tuple[Any, ...]:
        try:
            return fn(*inputs)
        except Exception as error:
            trace = next((t for t in _innermost_first(error) if t.tb_frame.f_code.co_filename == file), None)
            if trace is None or trace.tb_lineno not in steps:
                raise
            bound, local = steps[trace.tb_lineno], trace.tb_frame.f_locals
            slots = {slot: local.get(f"v{slot}", baked.get(slot)) for slot in bound.step.reads()}
            values = [slots[a.index] for a in bound.arguments if isinstance(a, ReadSlot | ReadHost)]
            raise run.node_error(bound, values, error) from error

    call.source = fn  # type: ignore[attr-defined]  # for those who want to read it
    return call


def _innermost_first(error: Exception) -> Iterator[TracebackType]:
    found = []
    trace = error.__traceback__
    while trace is not None:
        found.append(trace)
        trace = trace.tb_next
    return reversed(found)
