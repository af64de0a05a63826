"""Stage 5, second half: a plan at one signature, as one straight-line Python function.

Which slots are *static* (their value follows from the signature) and which have a static *shape* is decided on
the plan; the static values come from one interpreted run and are baked in. The steps that remain are written
out as Python source, one line each, because at small sizes the cost of a step is what users feel. Neighbours on a
provider that has a compiler become a function of their own, which goes to that compiler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from time import perf_counter
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from ortlite import run
from ortlite.inline import Inlined, inlined, lines
from ortlite.plan import Call, Cast, Plan
from ortlite.provider import Compiler, ExecutionProvider, traced
from ortlite.steps import Bound, ReadBody, ReadConst, Reader, ReadHost, ReadSeed, ReadSlot
from ortlite.stopping import current

__all__ = [
    "KEY_ELEMENTS",
    "Guards",
    "abstract_values",
    "generate",
    "live_steps",
    "static_slots",
    "steady_slots",
    "to_bake",
]

STOP = "if stop is not None: stop()"
KEY_ELEMENTS = 64  # a shape input with more elements than this is not part of a signature


def to_bake(plan: Plan, inputs: Sequence[Any]) -> list[Any]:
    """The inputs, with copies of those that say shapes: what is baked may be a view of one, which is the caller's."""
    given = list(inputs)
    for position in plan.shape_inputs:
        if isinstance(given[position], np.ndarray) and given[position].size <= KEY_ELEMENTS:
            given[position] = given[position].copy()
    return given


def static_slots(plan: Plan, steps: Sequence[Bound], inputs: Sequence[Any]) -> tuple[set[int], set[int]]:
    """Slots whose value every run with inputs of this signature gives again; and those whose shapes it does."""
    static, shapes, _ = steady_slots(plan, steps, inputs, plan.inputs, ())
    return static, shapes


def steady_slots(
    plan: Plan, steps: Sequence[Bound], inputs: Sequence[Any], known: Collection[int], steady: Collection[int]
) -> tuple[set[int], set[int], set[int]]:
    """The same, where of the inputs only those in the slots `known` are as in a signature.

    The shapes of the slots `steady` are held to be the same in all runs, too: the third result has those of them where
    this does not follow, so that every run must look.
    """
    values = set(plan.constants)
    shapes = set(plan.constants) | set(known)
    for position in plan.shape_inputs:
        value = inputs[position]
        small = isinstance(value, np.ndarray | np.generic) and value.size <= KEY_ELEMENTS
        if small and plan.inputs[position] in shapes:
            values.add(plan.inputs[position])
    static, guarded = _follow(steps, values, shapes, steady)
    return static, shapes, guarded


def _follow(
    steps: Sequence[Bound], values: set[int], shapes: set[int], steady: Collection[int] = ()
) -> tuple[set[int], set[int]]:
    """Add the slots whose values, and whose shapes, follow from those in `values` and `shapes`.

    The slots whose values do are the first result; the second is the `steady` ones whose shapes do not.
    """
    static: set[int] = set()
    guarded: set[int] = set()
    for bound in steps:
        reads = bound.step.reads()
        outputs = [slot for slot in bound.outputs if slot is not None]
        call = bound.step if isinstance(bound.step, Call) else None
        from_shapes = call is not None and call.kernel.host_result is not None and shapes.issuperset(reads)
        if bound.pure and (values.issuperset(reads) or from_shapes):
            static.update(outputs)
            values.update(outputs)
            shapes.update(outputs)
        elif values.issuperset(bound.host_slots) and _same_shapes(bound, values, shapes):
            shapes.update(outputs)
        else:
            guarded.update(slot for slot in outputs if slot in steady)
            shapes.update(guarded)
    return static, guarded


def _same_shapes(bound: Bound, values: set[int], shapes: set[int]) -> bool:
    """Whether the results of a step have the same shapes wherever the values that it reads as Python objects do."""
    call = bound.step if isinstance(bound.step, Call) else None
    if bound.pure:
        return shapes.issuperset(bound.step.reads()) and not (call is not None and call.kernel.data_dependent_shape)
    # Whichever branch the known condition takes, its results have shapes that follow from what it reads. Where the
    # condition is an array, `host_slots` does not have it.
    taken = call is not None and (call.node.domain, call.node.op_type) == ("", "If")
    taken = taken and all(reader.index in values for reader in bound.arguments if isinstance(reader, ReadSlot))
    bodies = [reader for _, reader in bound.keywords if isinstance(reader, ReadBody)]
    return taken and all(_body_fixed(body, values, shapes) for body in bodies)


def _body_fixed(body: ReadBody, values: set[int], shapes: set[int]) -> bool:
    """Whether the shapes of all results of a subgraph without inputs of its own follow from what it reads."""
    plan = body.program.plan
    inner = set(plan.constants)
    known = inner | {slot for slot, outer in zip(plan.inputs, body.captures, strict=True) if outer in values}
    fixed = known | {slot for slot, outer in zip(plan.inputs, body.captures, strict=True) if outer in shapes}
    _follow(body.program.steps, known, fixed)
    return fixed.issuperset(plan.outputs)


def abstract_values(plan: Plan, steps: Sequence[Bound], inputs: Sequence[Any]) -> dict[int, Any] | None:
    """The values of the static slots, before any run; None where only a run tells them.

    An eager first run would make the library compile every step separately, which is slower than compiling all of
    them at once.
    """
    static, _ = static_slots(plan, steps, inputs)
    needed: set[int | None] = set(static)
    leading: list[Bound] = []  # the steps that lead to what is static
    for bound in reversed(steps):
        if not needed.isdisjoint(bound.outputs):
            needed.update(bound.step.reads())
            leading.append(bound._replace(free=()))
    leading.reverse()
    provider = next((s.provider for s in plan.steps if isinstance(s, Call) and s.provider.compiler is not None), None)
    compiler = None if provider is None else provider.compiler
    away = [i for i, value in enumerate(inputs) if _is_array(value)]
    found: dict[int, Any] = {}

    def outline(*arrays: Any) -> tuple[()]:
        given = to_bake(plan, inputs)
        for index, array in zip(away, arrays, strict=True):
            given[index] = array
        run.interpret(plan._replace(outputs=()), leading, given, recorder(static, found))
        return ()

    try:
        known = compiler is not None and compiler.eval_shape(outline, *(inputs[index] for index in away))
    except Exception:  # noqa: BLE001  (the run that follows tells of which node)
        return None
    if provider is None or not known:
        return None
    # some depend on shapes alone, and still come out as something without values
    return {slot: value for slot, value in found.items() if not traced(provider, value)}


def recorder(
    slots: set[int],
    found: dict[int, Any],
    kernels: dict[int, Inlined] | None = None,
    constants: Collection[int] = (),
    shapes: Collection[int] = (),
    spent: list[float] | None = None,
) -> Callable[[Bound, list[Any]], None]:
    """An `on_step` that notes the values of `slots` in `found`.

    In `kernels` it notes, by the id of a step, what the kernels of the other steps do, where that follows from the
    shapes, which are the same in every run for the slots `shapes`. `spent` is told how many seconds that took.
    """

    def on_step(bound: Bound, values: list[Any]) -> None:
        run.step(bound, values)
        for slot in slots.intersection(bound.outputs):
            _protect(values[slot])
            found[slot] = values[slot]
        if kernels is None or slots.issuperset(slot for slot in bound.outputs if slot is not None):
            return
        began = perf_counter()
        if (made := inlined(bound, values, constants, slots, shapes)) is not None:
            kernels[id(bound.step)] = made
        if spent is not None:
            spent.append(perf_counter() - began)

    return on_step


def _protect(value: Any) -> None:
    """Nobody may write to a value that is going to be baked, nor to the views that later steps make of it."""
    if isinstance(value, tuple):
        for item in value:
            _protect(item)
    elif isinstance(value, np.ndarray):
        value.flags.writeable = False


def generate(
    plan: Plan,
    steps: Sequence[Bound],
    values: Mapping[int, Any],
    kernels: Mapping[int, Inlined] | None = None,
    compilations: list[float] | None = None,
    guards: Guards | None = None,
    *,
    regions: bool = True,
) -> Callable[..., tuple[Any, ...]]:
    """Write the function of the plan's inputs in which the slots of `values` are constants.

    `kernels` has, by the id of a step, the code that stands for its kernel. `compilations` is told of every region how
    many seconds it took to compile, its first call included, in which most libraries do it. `guards` are shapes that
    results must have, else another function answers. `regions`: some go to their library's compiler, their kernels as
    they are.
    """
    baked = {**plan.constants, **values}
    looked_at = () if guards is None else guards.shapes.keys()
    live = live_steps(plan, steps, values, looked_at)
    return _Writer(plan, baked, kernels or {}, compilations, guards).function(live, regions)


@dataclass(frozen=True)
class Guards:
    """The shapes of some slots, and the function of the plan's inputs that answers where one of them has another."""

    shapes: Mapping[int, tuple[int, ...]]
    otherwise: Callable[..., tuple[Any, ...]]


def live_steps(
    plan: Plan, steps: Sequence[Bound], values: Mapping[int, Any], looked_at: Collection[int] = ()
) -> list[Bound]:
    """The steps that still have to run where `values` are known; each frees the slots that no later one reads.

    `looked_at` are slots that must be there, though no step may read them.
    """
    baked = {**plan.constants, **values}
    needed = set(plan.outputs)
    keep = needed | set(plan.inputs) | baked.keys()
    live: list[Bound] = []
    for bound in reversed(steps):
        outputs = {slot for slot in bound.outputs if slot is not None}
        if not any(slot in needed and slot not in baked for slot in outputs) and outputs.isdisjoint(looked_at):
            continue
        touched = {*bound.step.reads(), *outputs}
        live.append(bound._replace(free=tuple(sorted(touched - needed - keep))))
        needed |= touched
    return live[::-1]


class _Code(NamedTuple):
    """A function as source. `bounds[i]` is the step that line i comes from."""

    head: str
    lines: list[str]
    bounds: list[Bound | None]

    def add(self, line: str, bound: Bound | None = None) -> None:
        self.lines.append(f"    {line}")
        self.bounds.append(bound)


class _Writer:
    """Collects the source of one program and the objects that its names stand for."""

    def __init__(
        self,
        plan: Plan,
        baked: Mapping[int, Any],
        kernels: Mapping[int, Inlined],
        compilations: list[float] | None = None,
        guards: Guards | None = None,
    ):
        self.plan = plan
        self.guards = guards
        self.compilations = [] if compilations is None else compilations
        self.kernels = kernels
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
            return f"{self.name(reader.draw, 's')}()"
        return self.literal(reader.value) if isinstance(reader, ReadConst) else self.slot(reader.index)

    def literal(self, value: Any) -> str:
        """Small Python values stand in the code; anything else gets a name."""
        if value is None or type(value) in {bool, int, str}:
            return repr(value)
        if type(value) is tuple and len(value) <= 16 and all(type(v) is int for v in value):
            return repr(value)
        return self.name(value, "c")

    def function(self, live: Sequence[Bound], compiles: bool) -> Callable[..., tuple[Any, ...]]:
        main = _Code(f"def specialised({', '.join(f'v{i}' for i in self.plan.inputs)}):", [], [])
        main.add(f"stop = {self.name(current, 'k')}()")
        main.add(STOP)  # once at least: the body of a loop may have no steps
        readers = _readers(live)
        regions: dict[str, tuple[Compiler, _Code, dict[int, Any]]] = {}
        for provider, group in groupby(live, lambda bound: _compiler(bound, self.baked) if compiles else None):
            steps = list(group)
            compiler = None if provider is None else provider.compiler
            if compiler is None:
                for bound in steps:
                    if len(main.lines) > 2:
                        main.add(STOP)
                    self.step(bound, main)
                    self.guard(bound, main)
                    if bound.free:
                        main.add(f"del {', '.join(f'v{slot}' for slot in bound.free)}")
                continue
            name = f"region{len(regions)}"
            given, made = self.border(steps, readers)
            code = _Code(f"def {name}({', '.join(given)}):", [], [])
            for bound in steps:
                self.call(bound, code, "", compiler)
            code.add(f"return ({', '.join(made)},)")
            read = {slot for bound in steps for slot in bound.step.reads() if slot in self.baked}
            known = {self.slot(slot): self.baked[slot] for slot in read} if compiler.freezes else {}
            frozen = {index: known[text] for index, text in enumerate(given) if text in known}
            regions[name] = compiler, code, frozen
            given = [text for index, text in enumerate(given) if index not in frozen]
            main.add(f"{', '.join(made)}, = {name}({', '.join(given)})")
            outside = {*given, *made}
            if gone := [f"v{slot}" for bound in steps for slot in bound.free if f"v{slot}" in outside]:
                main.add(f"del {', '.join(gone)}")
        main.add(f"return ({''.join(f'{self.slot(slot)}, ' for slot in self.plan.outputs)})")
        text: list[str] = []
        bounds: list[Bound | None] = []  # of line 1, 2, ...
        for code in (*(code for _, code, _ in regions.values()), main):
            text += [code.head, *code.lines]
            bounds += [None, *code.bounds]
        file = f"<{self.plan.name!r}, specialised>"  # a name may hold anything, a NUL too
        compiled = compile("\n".join(text), file, "exec")
        scope, inside = dict(self.names), dict(self.names)  # a compiler may keep the globals of what it was given
        for names in (scope, inside):
            exec(compiled, names)  # noqa: S102
        scope |= {name: self.compiled(inside[name], region[0], region[2]) for name, region in regions.items()}
        return _with_node_errors(scope["specialised"], file, bounds, self.baked)

    def compiled(
        self, fn: Callable[..., Any], compiler: Compiler, constants: Mapping[int, Any]
    ) -> Callable[..., tuple[Any, ...]]:
        """A region as its library compiles it."""
        began = perf_counter()
        made = compiler.frozen(fn, constants) if compiler.freezes else compiler.compile(fn)
        return _timed(made, perf_counter() - began, self.compilations)

    def border(self, region: Sequence[Bound], readers: Mapping[int, int]) -> tuple[list[str], list[str]]:
        """What a region reads from outside, constants included, and which of its results are read outside of it.

        `readers` says how many steps read each slot, inside and outside.
        """
        inside = _readers(region)
        made = dict.fromkeys(slot for bound in region for slot in bound.outputs if slot is not None)
        outputs = set(self.plan.outputs)
        arrays = [
            slot for slot in inside if slot not in made and (slot not in self.baked or _is_array(self.baked[slot]))
        ]
        wanted = [slot for slot in made if slot in outputs or readers.get(slot, 0) > inside.get(slot, 0)]
        # two slots may have one array baked in
        return [*dict.fromkeys(map(self.slot, arrays))], [f"v{slot}" for slot in wanted]

    def step(self, bound: Bound, code: _Code) -> None:
        found = self.kernels.get(id(bound.step))
        if found is None:
            self.call(bound, code, "")
            return
        condition, inner = lines(found, bound, self.slot, self.names)
        if condition is not None:
            code.add(f"if {condition}:", bound)
        for line in inner:
            code.add(line if condition is None else f"    {line}", bound)
        if condition is not None:
            code.add("else:", bound)
            self.call(bound, code, "    ")

    def guard(self, bound: Bound, code: _Code) -> None:
        """Look at the shapes of what a step has made."""
        if self.guards is None:
            return
        for slot in bound.outputs:
            if slot is not None and slot in self.guards.shapes:
                given = ", ".join(f"v{index}" for index in self.plan.inputs)
                shape = self.name(self.guards.shapes[slot], "c")
                other = self.name(self.guards.otherwise, "k")
                code.add(f"if getattr(v{slot}, 'shape', None) != {shape}: return {other}({given})")

    def call(self, bound: Bound, code: _Code, indent: str, compiler: Compiler | None = None) -> None:
        """Call the kernel of a step, where a compiler gets it, in the namespace that it wants."""
        given = [self.argument(a) for a in bound.arguments]
        given += [f"{name}={self.argument(a)}" for name, a in bound.keywords]
        fns = [bound.fn]
        if isinstance(bound.step, Call) and bound.step.kernel.host_result is None:
            kernel = bound.step.kernel
            xp = bound.step.provider.xp
            given.insert(0, self.name(xp if compiler is None else compiler.within(xp), "x"))  # saves a partial's call
            # `body` written out saves its call; not where arguments may be read only once, as a seed
            fns = [kernel.override, kernel.fn] if kernel.override and bound.pure else [kernel.body]
        call, *otherwise = [f"{self.name(fn, 'k')}({', '.join(given)})" for fn in fns]
        wanted = [(position, slot) for position, slot in enumerate(bound.outputs) if slot is not None]
        result = f"v{wanted[0][1]}" if len(wanted) == 1 else "t"
        code.add(f"{indent}{result} = {call}", bound)
        if otherwise:
            code.add(f"{indent}if {result} is NotImplemented: {result} = {otherwise[0]}", bound)
        for position, slot in wanted if bound.multiple else ():
            code.add(f"{indent}v{slot} = {result}[{position}]", bound)
        if result == "t":
            code.add(f"{indent}t = None", bound)  # it would hold all of them


def _timed(fn: Callable[..., Any], spent: float, compilations: list[float]) -> Callable[..., Any]:
    """The function; `compilations` is told what the first call took, and what was `spent` before."""
    told = False

    def call(*arrays: Any) -> Any:
        nonlocal told
        if told:
            return fn(*arrays)
        told, began = True, perf_counter()
        results = fn(*arrays)
        compilations.append(spent + perf_counter() - began)
        return results

    return call


def _readers(steps: Sequence[Bound]) -> Counter[int]:
    """How many of the steps read each slot, in the order of first use."""
    return Counter(slot for bound in steps for slot in dict.fromkeys(bound.step.reads()))


def _is_array(value: Any) -> bool:
    """Whether a value is an array of a library that is not NumPy."""
    return hasattr(value, "shape") and not isinstance(value, np.ndarray | np.generic)


def _compiler(bound: Bound, baked: Mapping[int, Any]) -> ExecutionProvider | None:
    """The provider whose compiler gets the step; None where it has none, or where the step needs values to run."""
    step = bound.step
    if not isinstance(step, Call | Cast) or not bound.pure or any(slot not in baked for slot in bound.host_slots):
        return None
    if isinstance(step, Call) and (
        step.kernel.data_dependent_shape or step.kernel.python_objects or step.kernel.host_result
    ):
        return None
    if isinstance(step, Call) and step.kernel.hands_on:  # which a compiler would copy
        return None
    compiler = step.provider.compiler
    taken = compiler is not None and compiler.takes(step.node.op_type if isinstance(step, Call) else "Cast")
    return step.provider if taken else None


def _with_node_errors(
    fn: Callable[..., tuple[Any, ...]], file: str, bounds: Sequence[Bound | None], baked: Mapping[int, Any]
) -> Callable[..., tuple[Any, ...]]:
    """The function, its exceptions told as those of the node whose line raised them."""

    def call(*inputs: Any) -> tuple[Any, ...]:
        try:
            return fn(*inputs)
        except Exception as error:
            trace = next((t for t in _innermost_first(error) if t.tb_frame.f_code.co_filename == file), None)
            bound = None if trace is None else bounds[trace.tb_lineno - 1]
            if trace is None or bound is None:
                raise
            local = trace.tb_frame.f_locals
            values = {slot: local.get(f"v{slot}", baked.get(slot)) for slot in bound.step.reads()}
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
