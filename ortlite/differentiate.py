"""What the operator Gradient differentiates: the part of the graph around it that leads from some values to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ortlite.errors import InvalidGraph
from ortlite.graph import Graph, Node, Type, leading_to

if TYPE_CHECKING:
    import numpy as np

__all__ = ["GRADIENT", "with_body"]

GRADIENT = ("ai.onnx.preview.training", "Gradient")


def with_body(
    node: Node, before: Sequence[Node], constants: Mapping[str, np.ndarray], types: Mapping[str, Type | None]
) -> Node:
    """A Gradient node with the attribute `body`: the graph from the values `xs` and `zs` to the value `y`.

    Raises InvalidGraph when `y` is not computed before the node, or does not depend on `xs` and `zs` alone.
    """
    target = str(node.attributes["y"])
    given = (*_names(node, "xs"), *_names(node, "zs"))
    if not any(target in n.outputs for n in before):
        raise InvalidGraph(f"Node ({node.name}) of type Gradient: no node before it computes y, {target!r}.")
    nodes, captures = leading_to(before, [target], given)
    if free := captures - constants.keys():
        raise InvalidGraph(f"Node ({node.name}) of type Gradient: y depends on {sorted(free)}, not in xs or zs.")
    known = {name for n in nodes for name in (*n.reads(), *n.outputs)} | set(given)
    body = Graph(
        name=f"{target} from {', '.join(given)}",
        inputs=given,
        outputs=(target,),
        nodes=nodes,
        constants={},
        types={name: t for name in known if name and (t := types.get(name)) is not None},
        captures=tuple(sorted(captures)),
    )
    return replace(node, attributes={**node.attributes, "body": body}, captures=body.captures)


def _names(node: Node, attribute: str) -> tuple[str, ...]:
    return tuple(map(str, node.attributes.get(attribute) or ()))
