"""Remove nodes and constants that nothing reads."""

from __future__ import annotations

from dataclasses import replace

from ortlite.graph import Graph, Node
from ortlite.optimize.rewrite import map_subgraphs

__all__ = ["remove_dead_code", "without_dead_nodes"]


def remove_dead_code(graph: Graph) -> Graph:
    """Keep what the graph's outputs need, the inputs of the model, and nothing else."""
    return without_dead_nodes(map_subgraphs(graph, remove_dead_code))


def without_dead_nodes(graph: Graph) -> Graph:
    """The same, with subgraphs as they are."""
    needed = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.intersection(filter(None, node.outputs)):
            kept.append(node)
            needed.update(node.reads())
    keep = needed | set(graph.inputs)
    return replace(
        graph,
        nodes=tuple(reversed(kept)),
        constants={name: value for name, value in graph.constants.items() if name in keep},
        captures=tuple(name for name in graph.captures if name in needed),
    )
