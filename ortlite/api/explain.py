"""What `session.explain()` returns: where every node runs, and what crosses from one library to another."""

from __future__ import annotations

from dataclasses import dataclass

from ortlite.partition import Partitions
from ortlite.plan import Body, Call, Plan, Transfer

__all__ = ["Copy", "Explanation", "NodePlacement", "explain"]


@dataclass(frozen=True, slots=True)
class NodePlacement:
    """Where one node runs. `reasons` say why each earlier provider does not; `host`: shape arithmetic."""

    name: str
    op_type: str
    provider: str
    host: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Copy:
    """A value carried from one provider to another."""

    value: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Placement of the nodes, those of subgraphs included, and the crossings between providers."""

    nodes: tuple[NodePlacement, ...]
    copies: tuple[Copy, ...]

    def __str__(self) -> str:
        rows = [("node", "operator", "provider", "reasons")]
        for node in self.nodes:
            reasons = "host value" if node.host else "; ".join(node.reasons)
            rows.append((node.name, node.op_type, node.provider.removesuffix("ExecutionProvider"), reasons))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]).rstrip() for row in rows]
        lines.extend(f"copy {c.value}: {c.source} -> {c.target}" for c in self.copies)
        return "\n".join(lines)


def explain(parts: Partitions, plan: Plan) -> Explanation:
    """Read placement and crossings off the stages of a session."""
    return Explanation(tuple(_nodes(parts)), tuple(_copies(plan)))


def _nodes(parts: Partitions) -> list[NodePlacement]:
    found = []
    for index, (node, place) in enumerate(zip(parts.graph.nodes, parts.placements, strict=True)):
        name = parts.providers[place.provider].name
        found.append(NodePlacement(node.name, node.op_type, name, place.host, place.reasons))
        for attribute in node.subgraphs:
            found.extend(_nodes(parts.subgraphs[index, attribute]))
    return found


def _copies(plan: Plan) -> list[Copy]:
    found = []
    for step in plan.steps:
        if isinstance(step, Transfer):
            found.append(Copy(step.value, step.origin.name, step.destination.name))
        elif isinstance(step, Call):
            for _, argument in step.keywords:
                if isinstance(argument, Body):
                    found.extend(_copies(argument.plan))
    return found
