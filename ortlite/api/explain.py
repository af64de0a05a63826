"""What `session.explain()` returns: where every node runs, and what crosses from one library to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from ortlite.compile import Program
from ortlite.graph import TensorType, Type
from ortlite.partition import Partitions
from ortlite.plan import Transfer
from ortlite.provider import CPU
from ortlite.steps import ReadBody
from ortlite.transfer import TransferStats

__all__ = ["Choice", "Copy", "Explanation", "NodePlacement", "explain", "fallen_back"]

WAYS = {"compiled": "compiled code", "called": "the library's own calls", "NumPy": "NumPy's kernels"}


@dataclass(frozen=True, slots=True)
class NodePlacement:
    """Where one node runs. `reasons` say why each earlier provider does not; `host`: shape arithmetic.

    `kernel` is the module of what the provider runs in place of the kernel, "" where it runs the kernel itself; of
    several the first, which leaves to the next what it cannot do.
    `name` is that of its first output where the node has none. `pinned`: the session's `placement` asked for it.
    """

    name: str
    op_type: str
    provider: str
    host: bool
    reasons: tuple[str, ...]
    pinned: bool = False
    kernel: str = ""


@dataclass(frozen=True, slots=True)
class Copy:
    """A value carried from one provider to another.

    `nbytes` is its size in the last run (of a body that runs several times, in the last of these), or before any run
    what its declared shape gives (None: not known yet);
    `shared` whether both sides saw the same memory, so that nothing was copied (None: not run yet).
    """

    value: str
    source: str
    target: str
    nbytes: int | None = None
    shared: bool | None = None

    @property
    def copied(self) -> int:
        """Bytes copied when it last crossed."""
        return 0 if self.shared is not False or self.nbytes is None else self.nbytes


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the session's providers, in the order in which every node tries them.

    `rank` is what it says of itself, by which `get_available_providers()` lists it (`ExecutionProvider.rank`);
    `options` are those that the session was given.
    """

    provider: str
    library: str
    rank: int | None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def rank_text(self) -> str:
        """The rank in words."""
        return "last" if self.provider == CPU else "only named" if self.rank is None else str(self.rank)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where the nodes run, subgraphs included, what crosses between providers, and the session's providers.

    `compilations` are the seconds that each region took which a library's compiler got until now; `races` says, for
    every signature at which other ways were tried too, which was fastest, and is used: what the library "compiled",
    its own calls ("called"), or "NumPy"'s kernels.
    `stood_in`: runs that the CPU provider answered, at signatures that nothing is compiled for.
    """

    nodes: tuple[NodePlacement, ...]
    copies: tuple[Copy, ...]
    providers: tuple[Choice, ...] = ()
    compilations: tuple[float, ...] = ()
    races: tuple[str, ...] = ()
    stood_in: int = 0

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("node", "operator", "provider", "kernel", "reasons")]
        for node in self.nodes:
            reasons = "host value" if node.host else "; ".join(node.reasons)
            rows.append((node.name, node.op_type, _short(node.provider), node.kernel or "ortlite.ops", reasons))
        lines = _table(rows)
        if self.copies:
            rows = [("value", "from", "to", "bytes")]
            for copy in self.copies:
                size = "?" if copy.nbytes is None else f"{copy.nbytes:,}"
                how = {True: " shared", False: " copied", None: ""}[copy.shared]
                rows.append((copy.value, _short(copy.source), _short(copy.target), size + how))
            lines += ["", *_table(rows)]
        if self.providers:
            choices = [
                (_short(c.provider), c.library, c.rank_text, ", ".join(f"{k}={v}" for k, v in c.options.items()))
                for c in self.providers
            ]
            lines += ["", *_table([("provider", "library", "rank", "options"), *choices])]
        if self.compilations:
            regions = "region" if len(self.compilations) == 1 else "regions"
            lines += ["", f"{len(self.compilations)} {regions} compiled in {sum(self.compilations):.1f} s"]
        if self.races:
            counts = ", ".join(f"{WAYS[way]} at {self.races.count(way)}" for way in WAYS if way in self.races)
            lines += [f"fastest, and used: {counts} of {len(self.races)} signatures"]
        if self.stood_in:
            runs = "run" if self.stood_in == 1 else "runs"
            lines += [f"{self.stood_in} {runs} at shapes that nothing is compiled for were NumPy's"]
        return "\n".join(lines)


def _short(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def explain(parts: Partitions, program: Program, input_transfers: Mapping[int, TransferStats]) -> Explanation:
    """Read placement and crossings off the stages of a session; `input_transfers` are the crossings of its inputs."""
    plan = program.plan
    copies = [
        _copy(name, CPU, plan.input_providers[index].name, input_transfers[index], parts.graph.types.get(name))
        for index, name in enumerate(parts.graph.inputs)
        if index in input_transfers
    ]
    providers = tuple(Choice(p.name, p.library, p.rank, dict(p.options)) for p in parts.providers)
    shared = program.shared
    crossings = (*copies, *_copies(program, parts.graph.types))
    stood_in = 0 if program.stand_in is None else program.stand_in.runs
    return Explanation(
        tuple(_nodes(parts)), crossings, providers, tuple(shared.compilations), tuple(shared.races), stood_in
    )


def fallen_back(parts: Partitions) -> list[NodePlacement]:
    """The nodes that run on the CPU provider because no other can, or was asked; shape arithmetic does not count."""
    return [n for n in _nodes(parts) if n.provider == CPU and not n.host and not n.pinned]


def _nodes(parts: Partitions) -> list[NodePlacement]:
    found = []
    for index, (node, place) in enumerate(zip(parts.graph.nodes, parts.placements, strict=True)):
        provider, kernel = parts.providers[place.provider], place.kernel
        override = provider.overrides.get((kernel.domain, kernel.op_type, kernel.since))
        runs = "" if override is None else override.__module__
        label = node.name or next(filter(None, node.outputs), "")
        found.append(NodePlacement(label, node.op_type, provider.name, place.host, place.reasons, place.pinned, runs))
        for attribute in node.subgraphs:
            found.extend(_nodes(parts.subgraphs[index, attribute]))
    return found


def _copy(value: str, source: str, target: str, stats: TransferStats, type_: Type | None) -> Copy:
    nbytes = stats.nbytes
    if nbytes is None and isinstance(type_, TensorType) and type_.shape is not None:
        sizes = [d for d in type_.shape if isinstance(d, int)]
        nbytes = prod(sizes) * max(type_.dtype.bits, 8) // 8 if len(sizes) == len(type_.shape) else None
    return Copy(value, source, target, nbytes, stats.shared)


def _copies(program: Program, types: Mapping[str, Type]) -> list[Copy]:
    found = []
    for bound in program.steps:
        step = bound.step
        if isinstance(step, Transfer) and bound.stats is not None:
            type_ = types.get(step.value)
            found.append(_copy(step.value, step.origin.name, step.destination.name, bound.stats, type_))
        for _, reader in bound.keywords:
            if isinstance(reader, ReadBody) and isinstance(reader.program, Program):
                found.extend(_copies(reader.program, types))
    return found
