"""`ortlite.profile`: where the time of a model goes, node by node, and how much of it is arithmetic and memory."""

from __future__ import annotations

import functools
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, TypeAlias

from ortlite import atomic
from ortlite.api.for_tools import file_of
from ortlite.api.profile import kind_of
from ortlite.plan import Call
from ortlite.steps import Bound
from ortlite.tools.recorder import Event, Recorded, RecordedNode, RecordedValue, record
from ortlite.tools.roofs import Roof, roofs
from ortlite.tools.shown import Shown, Table, amount

if TYPE_CHECKING:
    from ortlite.api.session import InferenceSession
    from ortlite.compare import Comparison
    from ortlite.load.origins import Origin
    from ortlite.tools.info import Source

__all__ = ["Event", "NodeProfile", "Profile", "ValueProfile", "profile"]

Json: TypeAlias = dict[str, Any]

# Columns of the table that a narrow terminal has no room for, the first first.
MISSABLE = ("kernel", "source", "bytes", "FLOPs", "calls", "GB/s", "GFLOP/s", "of roof", "provider")


@dataclass(frozen=True, slots=True)
class NodeProfile:
    """One node, all its calls: time in ms, bytes and operations are those of one run of the model, on average.

    `kernel` is the module of what ran in place of the operator's kernel, or ortlite.ops. Time of a node with subgraphs
    is without that of their nodes, which have rows of their own. `flops` is None for what is no node of the model, and
    where the form of the operator is not known. `of_roof` is the part of the time that the roofs of the provider ask
    for (`ortlite.tools.roofs`); None where the node moves and computes nothing, or roofs were not measured.

    `order` counts nodes as they first ran. `reads` are the places among the profile's nodes of those whose results it
    reads, `parent` that of the node whose body it stands in, `outputs` the values that it computes. `scope` are the
    modules of the exporter's source that it comes from, `sources` the lines and `origin` the nodes of the file, where
    that says so: of several that the optimiser made one of, all.
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
    of_roof: float | None = None
    order: int = 0
    reads: tuple[int, ...] = ()
    parent: int | None = None
    outputs: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    origin: tuple[str, ...] = ()

    @property
    def gflops_per_s(self) -> float | None:
        """Billions of operations a second."""
        return self.flops / self.ms / 1e6 if self.flops and self.ms else None

    @property
    def gbytes_per_s(self) -> float | None:
        """Billions of bytes a second."""
        return self.nbytes / self.ms / 1e6 if self.nbytes and self.ms else None


@dataclass(frozen=True, slots=True)
class ValueProfile:
    """A computed value: `node` is the place of the node that made it, `first` and `last` when it was there.

    Times are in ms from the beginning of the last run. A body makes its values `times` times: from the first on, to the
    end of the last.
    """

    name: str
    node: int
    shape: tuple[int, ...] | None
    dtype: str
    nbytes: int
    first: float
    last: float
    times: int = 1


@dataclass(frozen=True)
class Profile(Shown):
    """What `ortlite.profile` measured; `nodes` by time, the longest first.

    `stepwise_ms` is a run step by step, as it was measured, `run_ms` one without measuring, where the session may have
    code of its own for the shapes; both medians. `peak_bytes` are the most that computed values held at a time.
    `values` says when each was there, `roofs` what each provider does at most on this machine. The last run `began` at
    that ns of the events' clock. `graph` is what the file calls the graph.
    """

    name: str
    runs: int
    nodes: tuple[NodeProfile, ...]
    stepwise_ms: float
    run_ms: float
    peak_bytes: int
    events: tuple[Event, ...] = field(repr=False, compare=False)
    left_out: int = 0
    values: tuple[ValueProfile, ...] = field(default=(), repr=False)
    roofs: Mapping[str, Roof] = field(default_factory=dict)
    began: int = field(default=0, repr=False, compare=False)
    graph: str = ""

    def top(self, count: int) -> Profile:
        """The same with the nodes that take longest only."""
        return replace(self, nodes=self.nodes[:count], left_out=self.left_out + max(0, len(self.nodes) - count))

    def heading(self) -> str:
        """The model and its times."""
        return (
            f"{self.name}: {self.stepwise_ms:.3f} ms step by step, {self.run_ms:.3f} ms without measuring "
            f"({f'medians of {self.runs} runs' if self.runs > 1 else 'one run'})"
        )

    def tables(self) -> list[Table]:
        """One row a node."""
        head = ["node", "operator", "provider", "kernel", "calls", "ms", "share", "bytes", "FLOPs", "GFLOP/s", "GB/s"]
        head += ["of roof", "source"]
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
                "" if each.of_roof is None else f"{each.of_roof:.0%}",
                short_source(each.sources),
            )
            for each in self.nodes
        ]
        return [Table("nodes", head, rows, MISSABLE, name="node")]

    def remarks(self) -> list[str]:
        """Memory, and what the table leaves out."""
        said = [f"computed values held {amount(self.peak_bytes, 'B')} at most"]
        said += [
            f"roofs of {name}: {each.flops / 1e9:.3g} GFLOP/s in float32, {each.cached / 1e9:.3g} GB/s in caches, "
            f"{each.memory / 1e9:.3g} GB/s in memory"
            for name, each in self.roofs.items()
        ]
        return [*said, f"{self.left_out} nodes that take less are not shown"] if self.left_out else said

    def to_dict(self) -> dict[str, Any]:
        """All figures, those derived from others as well; not the single calls, which `chrome_trace` has."""
        found = {
            name: value
            for name, value in vars(self).items()
            if name not in {"nodes", "events", "values", "roofs", "began"}
        }
        found["roofs"] = {name: asdict(each) for name, each in self.roofs.items()}
        return found | {"nodes": list(map(_row, self.nodes)), "values": list(map(asdict, self.values))}

    def chrome_trace(self) -> Json:
        """All calls as Chrome and Perfetto read them: a track for each provider and thread, and a counter of memory."""
        tracks: dict[tuple[str, int], int] = {}
        start = min((event.begin for event in self.events), default=0)
        events: list[Json] = []
        for event in sorted(self.events, key=lambda e: e.begin):
            node = self.nodes[event.node]
            args: Json = {"operator": node.op_type, "kernel": node.kernel, "bytes": node.nbytes, "FLOPs": node.flops}
            args |= {"scope": ".".join(node.scope), "source": "; ".join(node.sources)} if node.sources else {}
            track = tracks.setdefault((node.provider, event.thread), len(tracks))
            times = {"ts": (event.begin - start) / 1e3, "dur": (event.end - event.begin) / 1e3}
            call = {"ph": "X", "pid": 1, "tid": track, "cat": node.op_type, "name": node.name}
            events.append(call | times | {"args": args})
            memory = {"ph": "C", "pid": 1, "name": "memory", "ts": (event.end - start) / 1e3}
            events.append({**memory, "args": {"bytes": event.live}})
        names = [
            {"ph": "M", "pid": 1, "tid": track, "name": "thread_name", "args": {"name": f"{provider}, thread {thread}"}}
            for (provider, thread), track in tracks.items()
        ]
        return {"traceEvents": names + events, "displayTimeUnit": "ms"}

    def model_explorer(self, comparison: Comparison | None = None) -> dict[str, Json]:
        """What to add in Model Explorer ("node data") to its view of the same file: one JSON file for each key.

        Times in ms, shares of the roof and bytes, and with a `comparison` the largest differences. Keys are the names
        of the file's nodes, which its adapter for ONNX takes as ids; the time of a node that the optimiser made of
        several stands at the last of them.
        """
        figures: dict[str, dict[str, float]] = {"time": {}, "of roof": {}, "bytes": {}}
        for node in self.nodes:
            key = node.origin[0] if node.origin else node.name
            figures["time"][key] = node.ms
            figures["bytes"][key] = node.nbytes
            if node.of_roof is not None:
                figures["of roof"][key] = node.of_roof
        if comparison is not None:
            found = figures["difference"] = {}
            for row in comparison.rows:
                if row.difference is not None and not row.difference.problem:
                    key = row.node or row.name
                    found[key] = max(found.get(key, 0.0), row.difference.absolute)
        gradient = [{"stop": 0, "bgColor": "#f7fbff"}, {"stop": 1, "bgColor": "#d94801"}]
        return {
            kind: {
                self.graph: {"results": {key: {"value": value} for key, value in known.items()}, "gradient": gradient}
            }
            for kind, known in figures.items()
        }

    def to_html(self, comparison: Comparison | None = None) -> str:
        """All of it as one page that needs no network: graph, table, flame graph, memory and roofline.

        With a `comparison` (`ortlite.compare.compare`) of the same model the page shows the differences, too. Raises
        ImportError where bokeh and itables are missing (`pip install 'ortlite[report]'`).
        """
        from ortlite.tools.report import page

        return page(self, comparison)

    def write(self, path: str | os.PathLike[str], comparison: Comparison | None = None) -> None:
        """Write the profile to a file: the page for a name that ends in .html, Chrome's trace for .json.

        Raises ValueError for another ending, ImportError as `to_html`.
        """
        out = Path(path)
        if out.suffix not in {".html", ".json"}:
            raise ValueError(f"{out.name} ends neither in .html nor in .json")
        text = self.to_html(comparison) if out.suffix == ".html" else json.dumps(self.chrome_trace())
        with atomic.written(out) as part:
            part.write_text(text, encoding="utf-8")


def short_source(sources: Sequence[str]) -> str:
    """The first line's file without its folders, and how many more there are.

    Example:
        >>> short_source(["/a/b/bert.py:194: y = f(x)", "/a/b/bert.py:195"])
        'bert.py:194 +1'

    """
    if not sources:
        return ""
    file, _, rest = sources[0].rpartition("/")[2].partition(":")
    return f"{file}:{rest.partition(':')[0]}{f' +{len(sources) - 1}' if len(sources) > 1 else ''}"


def _row(each: NodeProfile) -> Json:
    return asdict(each) | {name: getattr(each, name) for name in ("gflops_per_s", "gbytes_per_s")}


def profile(
    model: InferenceSession | Source,
    feed: Mapping[str, Any] | None = None,
    runs: int = 10,
    *,
    providers: Sequence[Any] | None = None,
    on_run: Callable[[], None] | None = None,
    measure_roofs: bool = True,
) -> Profile:
    """Run a session, or a model on `providers`, step by step, and say what each node took.

    Inputs that `feed` does not have are made up, as `ortlite run` does it. Two runs come first that do not count; then
    `runs` without measuring, and `runs` step by step. `on_run` is called after each. Where a library computes while
    Python goes on, each step waits for its results. The roofs of each provider are measured the first time that a
    process asks, in about a second; not with `measure_roofs=False`. Raises ValueError for `runs` below 1, and what
    making and running a session raises.

    Example:
        >>> import ortlite
        >>> from ortlite.cli.digits import model_bytes
        >>> found = ortlite.profile(model_bytes(), runs=2, measure_roofs=False)
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
    recorded = record(session, fed, runs, told)
    limits = roofs(session) if measure_roofs else {}
    source = file_of(session)
    graph = session.get_modelmeta().graph_name
    name = Path(source).name if isinstance(source, str) else graph
    return replace(_profile(name, recorded, plain, limits, _origins(session, recorded)), graph=graph)


def _origins(session: InferenceSession, recorded: Recorded) -> list[Origin]:
    from ortlite.load.origins import Origin, origins

    source = file_of(session)
    calls = [_made_from(node.bound) for node in recorded.nodes]
    return [Origin()] * len(calls) if source is None else origins(source, calls)


def _made_from(bound: Bound) -> tuple[tuple[str, ...], set[str]]:
    """What a call computes, and from what; nothing for copies and casts."""
    if not isinstance(bound.step, Call):
        return (), set()
    return bound.step.node.outputs, set(bound.step.node.reads())


def _profile(
    name: str, recorded: Recorded, plain: Sequence[int], limits: Mapping[str, Roof], known: Sequence[Origin]
) -> Profile:
    runs = len(recorded.steps)
    total = sum(node.ns for node in recorded.nodes) or 1
    ordered = sorted(recorded.nodes, key=lambda node: -node.ns)
    place = {node.index: position for position, node in enumerate(ordered)}
    nodes = []
    for node in ordered:
        op_type, provider = kind_of(node.bound)
        origin = known[node.index]
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
                of_roof=_of_roof(node, limits.get(provider)),
                order=node.index,
                reads=tuple(place[index] for index in node.reads),
                parent=None if node.parent is None else place[node.parent],
                outputs=tuple(filter(None, _made_from(node.bound)[0])),
                scope=origin.scope,
                sources=origin.sources,
                origin=origin.nodes,
            )
        )
    events = tuple(event._replace(node=place[event.node]) for event in recorded.events)
    values = tuple(_value(value, place, recorded.began) for value in recorded.values)
    step_ms, plain_ms = statistics.median(recorded.steps) / 1e6, statistics.median(plain) / 1e6
    return Profile(
        name,
        runs,
        tuple(nodes),
        step_ms,
        plain_ms,
        recorded.peak,
        events,
        values=values,
        roofs=limits,
        began=recorded.began,
    )


def _of_roof(node: RecordedNode, roof: Roof | None) -> float | None:
    if roof is None or not node.ns or not (node.nbytes or node.flops):
        return None
    return roof.least_seconds(node.nbytes, node.flops, node.calls) * 1e9 / node.ns


def _value(value: RecordedValue, place: Mapping[int, int], start: int) -> ValueProfile:
    first, last = (value.first - start) / 1e6, (value.last - start) / 1e6
    return ValueProfile(value.name, place[value.node], value.shape, value.dtype, value.nbytes, first, last, value.times)


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
