"""What the operator Gradient differentiates: the part of the graph around it that leads from some values to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ortlite.errors import InvalidGraph
from ortlite.graph import GRADIENT, Graph, Node, Type, ancestors

if TYPE_CHECKING:
    import numpy as np

__all__ = ["BODIES", "with_bodies"]

BODIES = 2**18  # nodes that the bodies of a graph's Gradient nodes may have, all together


def with_bodies(
    nodes: Sequence[Node], constants: Mapping[str, np.ndarray], types: Mapping[str, Type | None]
) -> Sequence[Node]:
    """The nodes, Gradient with the attribute `body`: the graph from the values `xs` and `zs` to the value `y`.

    Raises InvalidGraph when `y` is not computed before the node, or does not depend on `xs` and `zs` alone.
    """
    if not any((node.domain, node.op_type) == GRADIENT for node in nodes):
        return nodes
    producers = {name: index for index, node in enumerate(nodes) for name in node.outputs if name}
    result: list[Node] = []
    left = BODIES
    for index, node in enumerate(nodes):
        if (node.domain, node.op_type) == GRADIENT:
            if producers.get(node.attributes["y"], index) >= index:
                raise _error(node, f"no node before it computes y, {node.attributes['y']!r}")
            # among `result`, whose Gradient nodes have their bodies already
            body = _body(node, result, producers, constants, types)
            left -= len(body.nodes)
            if left < 0:
                raise _error(node, f"with those before it, it differentiates more than {BODIES} nodes, the limit")
            result.append(replace(node, attributes={**node.attributes, "body": body}, captures=body.captures))
        else:
            result.append(node)
    return result


def _body(
    node: Node,
    nodes: Sequence[Node],
    producers: Mapping[str, int],
    constants: Mapping[str, np.ndarray],
    types: Mapping[str, Type | None],
) -> Graph:
    target = node.attributes["y"]
    given = (*node.attributes["xs"], *node.attributes.get("zs", ()))
    within, captures = ancestors(nodes, [target], given, producers)
    if free := captures - constants.keys():
        raise _error(node, f"y depends on {sorted(free)}, not in xs or zs")
    known = {name for n in within for name in (*n.reads(), *n.outputs)} | set(given)
    return Graph(
        name=f"{target} from {', '.join(given)}",
        inputs=given,
        outputs=(target,),
        nodes=within,
        constants={},
        types={name: t for name in known if name and (t := types.get(name)) is not None},
        captures=tuple(sorted(captures)),
    )


def _error(node: Node, problem: str) -> InvalidGraph:
    return InvalidGraph(f"Node ({node.name}) of type Gradient: {problem}.")
