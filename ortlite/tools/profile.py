"""`ortlite.profile`: where the time of a model goes, node by node, and how much of it is arithmetic and memory."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, TypeAlias

from ortlite import run
from ortlite.api.profile import by_steps, given, kind_of
from ortlite.derived import nbytes
from ortlite.plan import Call, Cast, Transfer
from ortlite.provider import CPU, create, transfer
from ortlite.steps import Bound
from ortlite.tools.flops import node_bytes, node_flops
from ortlite.tools.shown import Shown, Table, amount

if TYPE_CHECKING:
    from ortlite.api.session import InferenceSession
    from ortlite.tools.info import Source

__all__ = ["Event", "NodeProfile", "Profile", "profile"]

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NodeProfile:
    """One node, all its calls: time in ms, bytes and operations are those of one run of the model, on average.

    `kernel` is the module of what ran in place of the operator's kernel, or ortlite.ops. Time of a node with subgraphs
    is without that of their nodes, which have rows of their own. `flops` is None for what is no node of the model, and
    where the form of the operator is not known.
    """

    name: str
    op_type: str
    provider: str
    kernel: str
    calls: int
    ms: float
    share: float
    nbytes: int
    flops: int | None

    @property
    def gflops_per_s(self) -> float | None:
        """Billions of operations a second."""
        return self.flops / self.ms / 1e6 if self.flops and self.ms else None

    @property
    def gbytes_per_s(self) -> float | None:
        """Billions of bytes a second."""
        return self.nbytes / self.ms / 1e6 if self.nbytes and self.ms else None


@dataclass(frozen=True, slots=True)
class Event:
    """One call of a node: when it began and ended in ns, and the bytes that computed values held while it ended."""

    node: int
    begin: int
    end: int
    live: int


@dataclass(frozen=True)
class Profile(Shown):
    """What `ortlite.profile` measured; `nodes` by time, the longest first.

    `stepwise_ms` is a run step by step, as it was measured, `run_ms` one without measuring, where the session may have
    code of its own for the shapes; both medians. `peak_bytes` are the most that computed values held at a time.
    """

    name: str
    runs: int
    nodes: tuple[NodeProfile, ...]
    stepwise_ms: float
    run_ms: float
    peak_bytes: int
    events: tuple[Event, ...] = field(repr=False, compare=False)
    left_out: int = 0

    def top(self, count: int) -> Profile:
        """The same with the nodes that take longest only."""
        return replace(self, nodes=self.nodes[:count], left_out=self.left_out + max(0, len(self.nodes) - count))

    def heading(self) -> str:
        """The model and its times."""
        return (
            f"{self.name}: {self.stepwise_ms:.3f} ms step by step, {self.run_ms:.3f} ms without measuring "
            f"(medians of {self.runs} runs)"
        )

    def tables(self) -> list[Table]:
        """One row a node."""
        head = ("node", "operator", "provider", "kernel", "calls", "ms", "share", "bytes", "FLOPs", "GFLOP/s", "GB/s")
        rows = [
            (
                each.name,
                each.op_type,
                each.provider.removesuffix("ExecutionProvider"),
                each.kernel,
                str(each.calls),
                f"{each.ms:.4f}",
                f"{each.share:.1%}",
                amount(each.nbytes, "B"),
                amount(each.flops),
                "" if each.gflops_per_s is None else f"{each.gflops_per_s:.3g}",
                "" if each.gbytes_per_s is None else f"{each.gbytes_per_s:.3g}",
            )
            for each in self.nodes
        ]
        return [Table("nodes", head, rows)]

    def remarks(self) -> list[str]:
        """Memory, and what the table leaves out."""
        said = [f"computed values held {amount(self.peak_bytes, 'B')} at most"]
        return [*said, f"{self.left_out} nodes that take less are not shown"] if self.left_out else said

    def to_dict(self) -> dict[str, Any]:
        """All figures, those derived from others as well; not the single calls, which `chrome_trace` has."""
        found = {name: value for name, value in vars(self).items() if name not in {"nodes", "events"}}
        return found | {"nodes": [_row(each) for each in self.nodes]}

    def chrome_trace(self) -> Json:
        """All calls as Chrome's tracing and Perfetto read them: a track for each provider, and a counter of memory."""
        providers = list(dict.fromkeys(each.provider for each in self.nodes))
        start = min((event.begin for event in self.events), default=0)
        events: list[Json] = [
            {"ph": "M", "pid": 1, "tid": track, "name": "thread_name", "args": {"name": provider}}
            for track, provider in enumerate(providers)
        ]
        for event in sorted(self.events, key=lambda e: e.begin):
            node = self.nodes[event.node]
            args = {"operator": node.op_type, "kernel": node.kernel, "bytes": node.nbytes, "FLOPs": node.flops}
            times = {"ts": (event.begin - start) / 1e3, "dur": (event.end - event.begin) / 1e3}
            events.append(
                {"ph": "X", "pid": 1, "tid": providers.index(node.provider), "cat": node.op_type, "name": node.name}
                | times
                | {"args": args}
            )
            memory = {"ph": "C", "pid": 1, "name": "memory", "ts": (event.end - start) / 1e3}
            events.append({**memory, "args": {"bytes": event.live}})
        return {"traceEvents": events, "displayTimeUnit": "ms"}


def _row(each: NodeProfile) -> Json:
    names = ("name", "op_type", "provider", "kernel", "calls", "ms", "share", "nbytes", "flops")
    return {name: getattr(each, name) for name in (*names, "gflops_per_s", "gbytes_per_s")}


@dataclass(slots=True)
class _Node:
    """What is noted of a bound step."""

    bound: Bound
    index: int
    calls: int = 0
    ns: int = 0
    nbytes: int = 0
    flops: int | None = 0


@dataclass(slots=True)
class _Recorder:
    """An `on_step` that notes when each step runs, what it reads and writes, and the bytes of computed values."""

    nodes: dict[int, _Node] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    inside: list[int] = field(default_factory=list)  # ns of the steps inside each step that is running
    held: dict[tuple[int, int], int] = field(default_factory=dict)  # (values, slot) -> bytes
    live: int = 0
    peak: int = 0

    def on_step(self, bound: Bound, values: list[Any]) -> None:
        """Run a step and note it."""
        read = [given(reader, values) for reader in bound.arguments]
        before = self.live
        self.inside.append(0)
        begin = perf_counter_ns()
        try:
            run.step(bound, values, self.on_step)
            made = [None if slot is None else values[slot] for slot in bound.outputs]
            _settle(bound, made)
            end = perf_counter_ns()
        finally:
            within = self.inside.pop()
        if self.inside:
            self.inside[-1] += end - begin
        self.live = before  # a body has come to its end
        for slot, value in zip(bound.outputs, made, strict=True):
            if slot is not None:
                self.held[id(values), slot] = size = nbytes(value)
                self.live += size
        self.peak = max(self.peak, self.live)
        node = self.nodes.setdefault(id(bound), _Node(bound, len(self.nodes)))
        node.calls += 1
        node.ns += end - begin - within
        node.nbytes += _moved(bound, read, made)
        flops = _flops(bound, read, made)
        node.flops = None if node.flops is None or flops is None else node.flops + flops
        self.events.append(Event(node.index, begin, end, self.live))
        for slot in bound.free:
            self.live -= self.held.pop((id(values), slot), 0)


def _settle(bound: Bound, made: Sequence[Any]) -> None:
    """Wait until a step's results are there, where its library computes while Python goes on."""
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


def profile(
    model: InferenceSession | Source,
    feed: Mapping[str, Any] | None = None,
    runs: int = 10,
    *,
    providers: Sequence[Any] | None = None,
    on_run: Callable[[], None] | None = None,
) -> Profile:
    """Run a session, or a model on `providers`, step by step, and say what each node took.

    Inputs that `feed` does not have are made up, as `ortlite run` does it. Two runs come first that do not count; then
    `runs` without measuring, and `runs` step by step. `on_run` is called after each. Where a library computes while
    Python goes on, each step waits for its results. Raises what making and running a session raises.

    Example:
        >>> import ortlite
        >>> from ortlite.cli.digits import model_bytes
        >>> found = ortlite.profile(model_bytes(), runs=2)
        >>> node = next(node for node in found.nodes if node.op_type == "FusedConv")
        >>> node.provider, node.calls, node.flops > 1000, round(sum(node.share for node in found.nodes), 6)
        ('CPUExecutionProvider', 2, True, 1.0)

    """
    from ortlite.api.session import InferenceSession
    from ortlite.graph import Model
    from ortlite.save import to_proto
    from ortlite.tools.inputs import gather

    if runs < 1:
        raise ValueError(f"runs ({runs}) is above 0")
    if not isinstance(model, InferenceSession):
        source = to_proto(model).SerializeToString() if isinstance(model, Model) else model
        model = InferenceSession(source, providers=providers)
    session = model
    fed = dict(feed or {})
    wanted = [arg for arg in session.get_inputs() if arg.name not in fed]
    fed |= gather(wanted, [], {}, {})
    told = on_run or (lambda: None)
    plain: list[int] = []
    for index in range(2 + runs):
        begin = perf_counter_ns()
        session.run(None, fed)
        plain += [perf_counter_ns() - begin] if index > 1 else []
        told()
    recorder, steps = _Recorder(), []
    step_by_step = by_steps(session, recorder.on_step)
    for index in range(1 + runs):
        if index == 1:
            recorder.nodes.clear()
            recorder.events.clear()
        recorder.live = 0
        recorder.held.clear()
        begin = perf_counter_ns()
        step_by_step(fed)
        steps += [perf_counter_ns() - begin] if index else []
        told()
    return _profile(session.get_modelmeta().graph_name, recorder, runs, steps, plain)


def _profile(name: str, recorder: _Recorder, runs: int, steps: Sequence[int], plain: Sequence[int]) -> Profile:
    total = sum(node.ns for node in recorder.nodes.values()) or 1
    ordered = sorted(recorder.nodes.values(), key=lambda node: -node.ns)
    place = {node.index: position for position, node in enumerate(ordered)}
    nodes = []
    for node in ordered:
        op_type, provider = kind_of(node.bound)
        nodes.append(
            NodeProfile(
                name=_name(node.bound, op_type),
                op_type=op_type,
                provider=provider,
                kernel=_kernel(node.bound),
                calls=node.calls,
                ms=node.ns / runs / 1e6,
                share=node.ns / total,
                nbytes=node.nbytes // runs,
                flops=None if node.flops is None else node.flops // runs,
            )
        )
    events = tuple(replace(event, node=place[event.node]) for event in recorder.events)
    step_ms, plain_ms = statistics.median(steps) / 1e6, statistics.median(plain) / 1e6
    return Profile(name, runs, tuple(nodes), step_ms, plain_ms, recorder.peak, events)


def _name(bound: Bound, op_type: str) -> str:
    """The node's name, or its first output's; of a copy or a cast the value's."""
    node = bound.node
    if isinstance(bound.step, Call) and node is not None:
        return node.name or next(filter(None, node.outputs), op_type)
    return str(getattr(bound.step, "value", "") or op_type)


def _kernel(bound: Bound) -> str:
    """The module of what runs in the place of a kernel."""
    if not isinstance(bound.step, Call):
        return ""
    override: Any = bound.step.kernel.override
    while isinstance(override, functools.partial):
        override = override.func
    return "ortlite.ops" if override is None else str(override.__module__)
