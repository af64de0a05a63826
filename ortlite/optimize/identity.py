"""Remove nodes that hand their input on: Identity, and Dropout outside training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from ortlite.graph import Graph, Node

__all__ = ["remove_identities"]


def remove_identities(graph: Graph) -> Graph:
    """Readers of an identity's output read its input instead.

    An identity between a graph's input, constant or captured value and its output stays: an output must
    be a value of its own. So does one whose removal would give readers a name that means another value in a subgraph.
    """
    times = Counter(_defined(graph))
    return _without(graph, {}, {name for name, count in times.items() if count > 1})


def _without(graph: Graph, outer: Mapping[str, str], ambiguous: Collection[str]) -> Graph:
    """`outer` are the new names of values around a subgraph, `ambiguous` those that more than one graph defines."""
    names = graph.captured(outer)  # value -> what is read in its place
    taken: dict[str, str] = {}  # value -> the output whose name it gets
    outputs = set(graph.outputs)
    produced: set[str] = set()
    kept: list[Node] = []
    for node in graph.nodes:
        if _hands_on(node):
            source, target = names.get(node.inputs[0], node.inputs[0]), node.outputs[0]
            if target not in outputs and source not in ambiguous:
                names[target] = source
                continue
            free = source in produced and source not in outputs and source not in taken
            if target in outputs and free and target not in ambiguous:
                taken[source] = target
                continue
        kept.append(node)
        produced.update(node.outputs)
    names = {old: taken.get(new, new) for old, new in names.items()} | taken
    return graph.with_nodes(
        tuple(_renamed(node, names, taken, ambiguous) for node in kept),
        outputs=tuple(names.get(name, name) for name in graph.outputs),  # a captured value, perhaps
        captures=tuple(sorted({names.get(name, name) for name in graph.captures})),
    )


def _renamed(node: Node, names: Mapping[str, str], taken: Mapping[str, str], ambiguous: Collection[str]) -> Node:
    subgraphs = {name: _without(graph, names, ambiguous) for name, graph in node.subgraphs.items()}
    if not subgraphs and names.keys().isdisjoint((*node.inputs, *node.outputs)):
        return node
    return replace(
        node,
        inputs=tuple(names.get(name, name) for name in node.inputs),
        outputs=tuple(taken.get(name, name) for name in node.outputs),
        attributes={**node.attributes, **subgraphs},
        captures=tuple(sorted({name for graph in subgraphs.values() for name in graph.captures})),
    )


def _defined(graph: Graph) -> Iterator[str]:
    """The names that a graph and its subgraphs define, as often as they do."""
    yield from graph.inputs
    yield from graph.constants.keys() - set(graph.inputs)
    for node in graph.nodes:
        yield from filter(None, node.outputs)
        for subgraph in node.subgraphs.values():
            yield from _defined(subgraph)


def _hands_on(node: Node) -> bool:
    if node.domain or not node.inputs or not node.inputs[0]:
        return False
    if node.op_type == "Dropout":
        trains = len(node.inputs) > 2 if node.opset >= 12 else node.opset < 7 and not node.attributes.get("is_test", 0)
        return len(node.outputs) == 1 and not trains
    return node.op_type == "Identity"
