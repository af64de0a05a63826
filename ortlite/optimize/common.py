"""Compute what is computed twice only once."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np

from ortlite.graph import Graph, Node
from ortlite.ops import registry
from ortlite.optimize.identity import remove_identities
from ortlite.optimize.rewrite import map_subgraphs

__all__ = ["merge_common"]

SMALL = 256  # bytes of an array that is compared
CONSTANT = 64  # the same, of a constant; exporters write numbers and shapes once for each use


def merge_common(graph: Graph) -> Graph:
    """Of nodes with the same operator, attributes and inputs the first stays; the others hand its outputs on."""
    merged = _merged(graph)
    return remove_identities(merged) if merged is not graph else graph


def _merged(graph: Graph) -> Graph:
    same: dict[str, str] = {}  # value -> the one that is computed first
    constants: dict[Hashable, str] = {}
    fixed = graph.constants.keys() - set(graph.overridable)
    for name, value in graph.constants.items():
        if value.nbytes <= CONSTANT and name in fixed and value.dtype != object:
            same[name] = constants.setdefault(_array(value), name)
    first: dict[Hashable, Node] = {}
    alone: dict[Hashable, Node] = {}  # nodes that are first of their operator and inputs
    nodes: list[Node] = []
    for node in graph.nodes:
        call, known = _call(node, same), None
        if call is not None and (other := alone.setdefault(call, node)) is not node:
            for each in (other, node):  # attributes, which may be long, are looked at where two nodes may be the same
                attributes = _attributes(each)
                known = None if attributes is None else first.setdefault((call, attributes), each)
        if known is None or known is node or len(known.outputs) < len(node.outputs):
            nodes.append(node)
            continue
        for old, new in zip(node.outputs, known.outputs, strict=False):
            if old and new:
                same[old] = same.get(new, new)
                nodes.append(replace(node, op_type="Identity", inputs=(new,), outputs=(old,), attributes={}, domain=""))
    if len(nodes) != len(graph.nodes) or any(a is not b for a, b in zip(nodes, graph.nodes, strict=True)):
        graph = graph.with_nodes(tuple(nodes))
    return map_subgraphs(graph, _merged)


def _call(node: Node, same: dict[str, str]) -> Hashable:
    """Equal for nodes of one operator and the same inputs; None for one that does not compute the same twice."""
    kernel = registry.lookup(node.domain, node.op_type, node.opset)
    if kernel is None or "rng" in kernel.injected or node.captures or len(node.inputs) == 0:
        return None
    inputs = tuple(same.get(name, name) for name in node.inputs)
    present = tuple(bool(name) for name in node.outputs)
    return node.domain, node.op_type, node.opset, inputs, present


def _attributes(node: Node) -> Hashable:
    """Equal for nodes with the same attributes; None where they cannot be compared."""
    attributes = []
    for name, value in node.attributes.items():
        key = _attribute(value)
        if key is None:
            return None
        attributes.append((name, key))
    return tuple(sorted(attributes)) if attributes else ()


def _attribute(value: Any) -> Hashable:
    if isinstance(value, float):
        return repr(value)  # 0.0 is not -0.0
    if isinstance(value, int | str):
        return type(value).__name__, str(value)
    if isinstance(value, np.ndarray):
        return _array(value) if value.nbytes <= SMALL and value.dtype != object else None
    if isinstance(value, tuple) and set(map(type, value)) <= PLAIN:
        return repr(value)
    return None


PLAIN = {bool, int, float, str}


def _array(value: np.ndarray) -> Hashable:
    return str(value.dtype), value.shape, value.tobytes()
