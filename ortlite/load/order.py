"""The order of a file's nodes, and what each of them reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator

import onnx

from ortlite.errors import Fail, InvalidArgument, InvalidGraph, OrtError
from ortlite.graph import in_order
from ortlite.load.tensors import text

__all__ = ["graphs_of", "ordered", "repeated_name"]


def ordered(
    protos: Iterable[onnx.NodeProto], known: Collection[str], outside: Callable[[str], bool]
) -> list[onnx.NodeProto]:
    """The nodes in topological order, as far as possible in the file's.

    `known` are the values that are there before them, `outside` says of a name whether it is a value from elsewhere.
    Raises Fail for a circle and for a name that two values have, InvalidArgument for one that none has (in a subgraph
    InvalidGraph, as its output Fail).
    """
    nodes = list(protos)
    producers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        text(node.op_type, f"the operator of node {node.name!r}")
        text(node.domain, f"the domain of node {node.name!r}")
        for name in node.output:
            if name:
                if name in producers or name in known:
                    raise Fail(f"This is an invalid model. Error: Duplicate definition of name ({name}).")
                producers[text(name, f"an output of node {node.name!r}")] = index
    needs: list[set[int]] = []
    sorted_ = True
    for index, node in enumerate(nodes):
        sources: set[int] = set()
        for name in _needs(node):
            # what a later node of this graph computes is meant, not an outer value of that name
            if (source := producers.get(name)) is not None:
                sources.add(source)
                sorted_ &= source < index
            elif name and name not in known and not outside(text(name, f"an input of node {node.name!r}")):
                raise _missing(name, node)
        needs.append(sources)
    if sorted_:
        return nodes
    order = in_order(needs)
    if len(order) < len(nodes):
        left = sorted(set(range(len(nodes))) - set(order))
        circle = ", ".join(repr(nodes[i].name or nodes[i].op_type) for i in left[:5])
        raise Fail(f"This is an invalid model. Error: the graph is not acyclic. (nodes {circle})")
    return [nodes[i] for i in order]


def _missing(name: str, node: onnx.NodeProto) -> OrtError:
    """The error for a value that is nowhere: in onnxruntime its class depends on who reads it."""
    about = f"(node {node.name!r}, {node.op_type})"
    if name in node.input:
        return InvalidArgument(
            f"Invalid model. Node input '{name}' is not a graph input, initializer, or output of a previous node. "
            f"{about}"
        )
    if name in {output.name for graph in graphs_of(node) for output in graph.output}:
        return Fail(f"This is an invalid model. Error: Subgraph output ({name}) does not exist in the graph. {about}")
    return InvalidGraph(
        f"This is an invalid model. Error: a subgraph reads '{name}', which is neither in it nor around it. {about}"
    )


def _needs(proto: onnx.NodeProto) -> Iterable[str]:
    """The values a node reads from its surroundings, those of its subgraphs included."""
    names: Iterable[str] = proto.input
    for graph in graphs_of(proto):
        inner = {i.name for i in graph.input} | {t.name for t in graph.initializer}
        inner |= {t.values.name for t in graph.sparse_initializer}
        inner |= {o for n in graph.node for o in n.output}
        read = {n for node in graph.node for n in _needs(node)} | {o.name for o in graph.output}
        names = {*names, *(read - inner)}
    return names


def graphs_of(proto: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in proto.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        if attribute.graphs:
            yield from attribute.graphs


def repeated_name(names: Iterable[str]) -> str | None:
    """A name that comes twice."""
    return next((name for name, count in Counter(names).items() if count > 1), None)
