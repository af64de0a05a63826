"""Replace CastLike by Cast where the dtype it takes is known: a Cast reads no array but the one it converts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ortlite.graph import Graph, Node, TensorType, Type
from ortlite.optimize.rewrite import map_subgraphs

__all__ = ["make_casts"]


def make_casts(graph: Graph, outer: Mapping[str, Type] | None = None) -> Graph:
    """A CastLike of a constant can then be folded; `outer` are the types of what a subgraph captures."""
    types = {**graph.captured(outer or {}), **graph.types}
    graph = map_subgraphs(graph, lambda subgraph: make_casts(subgraph, types))
    return graph.with_nodes(tuple(_cast(node, types) for node in graph.nodes))


def _cast(node: Node, types: Mapping[str, Type]) -> Node:
    if (node.domain, node.op_type) != ("", "CastLike"):
        return node
    like = types.get(node.inputs[1])
    if not isinstance(like, TensorType):
        return node
    return replace(node, op_type="Cast", inputs=node.inputs[:1], attributes={**node.attributes, "to": like.dtype.code})
