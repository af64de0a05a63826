"""Remove nodes that hand their input on: Identity, and Dropout outside training."""

from __future__ import annotations

from dataclasses import replace

from ortlite.graph import Graph, Node
from ortlite.optimize.rewrite import rename, within

__all__ = ["remove_identities"]


def remove_identities(graph: Graph) -> Graph:
    """Readers of an identity's output read its input instead.

    An identity between a graph's input, constant or captured value and its output stays: an output must
    be a value of its own.
    """
    graph = within(graph, remove_identities)
    names: dict[str, str] = {}
    nodes: list[Node] = []
    produced: set[str] = set()
    for original in graph.nodes:
        node = rename(original, names)
        if _hands_on(node):
            source, target = node.inputs[0], node.outputs[0]
            if target not in graph.outputs:
                names[target] = source
                continue
            if source in produced and source not in graph.outputs:
                # the producer takes the output's name, and so does everyone who reads it
                back = {source: target}
                nodes = [_renamed_output(rename(n, back), back) for n in nodes]
                names = {old: back.get(new, new) for old, new in names.items()} | back
                produced.add(target)
                continue
        nodes.append(node)
        produced.update(node.outputs)
    return graph.with_nodes(tuple(nodes))


def _hands_on(node: Node) -> bool:
    if node.domain or not node.inputs or not node.inputs[0]:
        return False
    if node.op_type == "Dropout":
        trains = len(node.inputs) > 2 if node.opset >= 12 else node.opset < 7 and not node.attributes.get("is_test", 0)
        return len(node.outputs) == 1 and not trains
    return node.op_type == "Identity"


def _renamed_output(node: Node, names: dict[str, str]) -> Node:
    if not any(name in names for name in node.outputs):
        return node
    return replace(node, outputs=tuple(names.get(name, name) for name in node.outputs))
