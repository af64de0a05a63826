"""What every pass needs: renaming values and reaching into subgraphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ortlite.graph import Graph, Node

__all__ = ["map_subgraphs", "rename", "rename_graph"]


def rename(node: Node, names: Mapping[str, str]) -> Node:
    """The node reading `names[value]` in place of `value`, in its subgraphs too."""
    if not any(name in names for name in node.reads()):
        return node
    attributes = dict(node.attributes)
    for attribute, graph in node.subgraphs.items():
        attributes[attribute] = rename_graph(graph, names)
    return replace(
        node,
        inputs=tuple(names.get(name, name) for name in node.inputs),
        attributes=attributes,
        captures=tuple(sorted({names.get(name, name) for name in node.captures})),
    )


def rename_graph(graph: Graph, names: Mapping[str, str]) -> Graph:
    """A subgraph reading other outer values; what it defines itself keeps its names."""
    inner = graph.captured(names)
    if not inner:
        return graph
    return replace(
        graph,
        nodes=tuple(rename(node, inner) for node in graph.nodes),
        outputs=tuple(inner.get(name, name) for name in graph.outputs),
        captures=tuple(sorted({inner.get(name, name) for name in graph.captures})),
    )


def map_subgraphs(graph: Graph, fn: Callable[[Graph], Graph]) -> Graph:
    """Apply `fn` to every direct subgraph; nodes' captures follow what the new subgraphs capture."""
    if not any(node.attributes and node.subgraphs for node in graph.nodes):
        return graph
    nodes = []
    for node in graph.nodes:
        if subgraphs := node.subgraphs:
            changed = {attribute: fn(subgraph) for attribute, subgraph in subgraphs.items()}
            captures = {name for subgraph in changed.values() for name in subgraph.captures}
            node = replace(node, attributes={**node.attributes, **changed}, captures=tuple(sorted(captures)))
        nodes.append(node)
    return graph.with_nodes(tuple(nodes))
