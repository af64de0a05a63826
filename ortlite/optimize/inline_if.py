"""Replace an If whose condition is constant by the branch it takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ortlite.graph import Graph, Node, Type
from ortlite.optimize.rewrite import map_subgraphs, rename

__all__ = ["inline_constant_if"]


def inline_constant_if(graph: Graph) -> Graph:
    """The nodes of the branch taken move into the graph around it, under names of their own."""
    constants = dict(graph.constants)
    types = dict(graph.types)
    overridable = set(graph.overridable)
    nodes: list[Node] = []
    waiting = list(reversed(graph.nodes))
    while waiting:
        node = waiting.pop()
        condition = constants.get(node.inputs[0]) if node.op_type == "If" and not node.domain else None
        if condition is None or condition.size != 1 or node.inputs[0] in overridable:
            nodes.append(node)
            continue
        branch = node.attributes["then_branch" if condition.reshape(-1)[0] else "else_branch"]
        waiting.extend(reversed(_moved(branch, node, constants, types)))  # there may be such an If among them
    return map_subgraphs(graph.with_nodes(tuple(nodes), constants=constants, types=types), inline_constant_if)


def _moved(branch: Graph, node: Node, constants: dict[str, Any], types: dict[str, Type]) -> list[Node]:
    """The branch's nodes, its outputs handed to the If's outputs by Identity nodes."""
    prefix = f"{next(filter(None, node.outputs))}/"  # no two nodes compute one value; names of nodes may repeat
    defined = {name for inner in branch.nodes for name in inner.outputs if name} | set(branch.constants)
    names = {name: prefix + name for name in defined}
    constants |= {names[name]: value for name, value in branch.constants.items()}
    types |= {names[name]: type_ for name, type_ in branch.types.items() if name in names}
    moved = [
        replace(inner, outputs=tuple(names.get(name, name) for name in inner.outputs))
        for inner in (rename(inner, names) for inner in branch.nodes)
    ]
    for source, target in zip(branch.outputs, node.outputs, strict=False):
        if target:
            moved.append(Node("Identity", (names.get(source, source),), (target,), {}, node.name, "", node.opset))
    return moved
