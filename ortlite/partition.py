"""Stage 3: which provider runs each node, and where each value lives.

A node runs on the provider it is pinned to, else on the first that supports it and does not defer it to a later one.
Shape arithmetic is the exception: what comes out of Shape and Size is a *host* value, and a node that only combines
small integer, boolean or string host values is a host node. Host nodes run the same kernels, on the CPU provider,
because a device takes longer to launch such a kernel than Python to compute it.

Nodes are then reordered, within what their inputs allow, so that those of one provider stand together: a contiguous
run of them is what crosses borders once and what a library's compiler gets. An order cannot have a cycle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import NamedTuple

from ortlite import errors
from ortlite.dtypes import DType, by_code, of_numpy
from ortlite.graph import GRADIENT, Graph, Node, TensorType, Type, in_order
from ortlite.ops import registry
from ortlite.ops.registry import Kernel
from ortlite.provider import ExecutionProvider

__all__ = ["Partitions", "Placement", "partition"]

SMALL = 1024  # elements of a constant that may take part in shape arithmetic


class Placement(NamedTuple):
    """Where one node runs. `provider` indexes the providers; `reasons` say why each earlier one does not."""

    provider: int
    kernel: Kernel
    host: bool = False
    reasons: tuple[str, ...] = ()
    pinned: bool = False


class Partitions(NamedTuple):
    """A graph with a placement for every node and a location (an index into `providers`) for every value.

    The last provider is the CPU provider; host values live there. `shape_inputs` are the graph inputs whose
    *values* decide shapes or other host parameters, so that a specialised program depends on them.
    """

    graph: Graph
    providers: tuple[ExecutionProvider, ...]
    placements: tuple[Placement, ...]
    locations: Mapping[str, int]
    shape_inputs: frozenset[str]
    subgraphs: Mapping[tuple[int, str], Partitions]

    def __str__(self) -> str:
        lines = [f"partitions of {self.graph.name}"]
        for node, place in zip(self.graph.nodes, self.placements, strict=True):
            where = self.providers[place.provider].name.removesuffix("ExecutionProvider")
            why = f"  ({'; '.join(place.reasons)})" if place.reasons else ""
            lines.append(f"  {where + (' host' if place.host else ''):10} {node}{why}")
        for (index, attribute), part in self.subgraphs.items():
            lines.append(f"  {self.graph.nodes[index].name or self.graph.nodes[index].op_type}.{attribute}:")
            lines.extend(f"    {line}" for line in str(part).splitlines())
        return "\n".join(lines)


def partition(
    graph: Graph,
    providers: Sequence[ExecutionProvider],
    outer: Mapping[str, int] | None = None,
    outer_types: Mapping[str, Type] | None = None,
    inputs_at: int | None = None,
    pinned: Mapping[str, str] | None = None,
    defer: bool = True,
    outer_host: AbstractSet[str] = frozenset(),
    wanted_in: Mapping[int, set[str]] | None = None,
) -> Partitions:
    """Place every node. `outer` locates captured values; `inputs_at` is where a subgraph's inputs arrive.

    `pinned` maps names of nodes (or of values they compute) to the provider that must run them. Without `defer` a node
    stays with the first provider that can run it, also where that says that another had better. `outer_host` are the
    host values that a subgraph captures, `wanted_in` is what `_wanted` says of it by its id. Raises NotImplemented when
    no provider has a kernel for a node, or the one it is pinned to cannot run it.
    """
    cpu = len(providers) - 1
    typed = {name: TensorType(of_numpy(c.dtype)) for name, c in graph.constants.items() if name not in graph.types}
    types = {**graph.captured(outer_types or {}), **typed, **graph.types}  # optimising makes constants without a type
    wanted_in = _wanted(graph) if wanted_in is None else wanted_in
    wanted = wanted_in[id(graph)]
    shape_inputs = wanted.intersection(graph.inputs)
    at_hand = shape_inputs if inputs_at is None else set()  # a subgraph gets its inputs on its device
    host = set(outer_host)
    constants = {name for name, value in graph.constants.items() if value.size <= SMALL and value.dtype.kind in "iubO"}
    known = _Host(host, constants, wanted, at_hand)
    placed: list[Placement] = []
    for node in graph.nodes:
        pin = next((pinned[name] for name in (node.name, *node.outputs) if name in pinned), None) if pinned else None
        with errors.typed("placing", node):
            place = _place(node, providers, types, known, pin, defer)
        placed.append(place)
        if place.host or place.kernel.host_result is not None:
            host.update(filter(None, node.outputs))
    order = _together(graph.nodes, [place.provider for place in placed])
    graph = replace(graph, nodes=tuple(graph.nodes[i] for i in order))
    placements = [placed[i] for i in order]

    locations: dict[str, int] = graph.captured(outer or {})
    for name in graph.inputs:
        locations[name] = cpu if inputs_at is None else inputs_at
    given = set(graph.inputs) - shape_inputs
    if inputs_at is None:  # a model's input arrives where its first reader runs
        for node, place in zip(reversed(graph.nodes), reversed(placements), strict=True):
            locations |= {n: place.provider for n in node.reads() if n in given}
    subgraphs: dict[tuple[int, str], Partitions] = {}
    for index, (node, place) in enumerate(zip(graph.nodes, placements, strict=True)):
        for name in filter(None, node.outputs):
            locations[name] = cpu if name in host else place.provider
        for attribute, subgraph in node.subgraphs.items():
            pins = pinned
            if (node.domain, node.op_type) == GRADIENT:  # differentiates its body in its own namespace
                pins = {name: providers[place.provider].name for n in subgraph.walk() for name in n.outputs}
            near = {name for name in subgraph.captures if name in host or name in constants}
            subgraphs[index, attribute] = partition(
                subgraph, providers, locations, types, place.provider, pins, defer, near, wanted_in
            )
    for name in graph.constants:
        locations.setdefault(name, cpu)
    return Partitions(graph, tuple(providers), tuple(placements), locations, frozenset(shape_inputs), subgraphs)


def _place(
    node: Node,
    providers: Sequence[ExecutionProvider],
    types: Mapping[str, Type],
    known: _Host,
    pin: str | None,
    defer: bool,
) -> Placement:
    kernel = registry.lookup(node.domain, node.op_type, node.opset)
    if kernel is None:
        raise errors.NotImplemented(
            f"Could not find an implementation for {node.op_type}({node.opset}) node with name '{node.name}'"
        )
    cpu = len(providers) - 1
    if pin is None and _is_host_node(node, kernel, types, known):
        return Placement(cpu, kernel, host=True)
    dtypes = _dtypes_of(node, types, kernel)
    reasons: list[str] = []
    for index, provider in enumerate(providers):
        if pin not in {None, provider.name}:
            reasons.append(f"{provider.name}: the node is pinned to {pin}")
            continue
        reason = provider.supports(kernel, dtypes)
        if reason is None and (node.domain, node.op_type) == GRADIENT:
            reason = next(filter(None, _lacking(node.subgraphs["body"], provider)), None)
        if reason is None and defer and pin is None:
            reason = provider.defers(kernel, dtypes)
        if reason is None:
            return Placement(index, kernel, reasons=tuple(reasons), pinned=pin is not None)
        reasons.append(f"{provider.name}: {reason}")
    raise errors.NotImplemented(
        f"Could not find an implementation for {node.op_type}({node.opset}) node with name '{node.name}': "
        + "; ".join(reasons)
    )


def _together(nodes: Sequence[Node], providers: Sequence[int]) -> list[int]:
    """An order of the nodes that goes on with one provider for as long as one of its nodes is ready."""
    if len(set(providers)) < 2:
        return list(range(len(nodes)))
    producers = {name: index for index, node in enumerate(nodes) for name in node.outputs if name}
    needs = [{producers[name] for name in node.reads() if name in producers} for node in nodes]
    return in_order(needs, providers)


def _lacking(graph: Graph, provider: ExecutionProvider) -> Iterator[str | None]:
    """For every node of a graph, why the provider does not run it."""
    for node in graph.walk():
        kernel = registry.lookup(node.domain, node.op_type, node.opset)
        yield provider.supports(kernel, _dtypes_of(node, graph.types, kernel)) if kernel else None


def _dtypes_of(node: Node, types: Mapping[str, Type], kernel: Kernel) -> list[DType]:
    """Those of a node's inputs and outputs, and those that its attributes ask for."""
    asked = [node.attributes.get(name) for name, param in kernel.attributes.items() if param.kind == "DType"]
    return [
        *(dtype for name in (*node.reads(), *node.outputs) for dtype in _dtypes(types.get(name))),
        *(by_code(code) for code in asked if isinstance(code, int) and code),
    ]


def _dtypes(type_: Type | None) -> list[DType]:
    while type_ is not None and not isinstance(type_, TensorType):
        type_ = type_.element if hasattr(type_, "element") else type_.value
    return [] if type_ is None else [type_.dtype]


class _Host(NamedTuple):
    """Names of values: those on the host, small constants, what the host wants, and which inputs that demands."""

    values: set[str]
    constants: set[str]
    wanted: set[str]
    shape_inputs: set[str]


def _is_host_node(node: Node, kernel: Kernel, types: Mapping[str, Type], known: _Host) -> bool:
    """Whether a node combines host values: arrays of them, or anything into what the host wants."""
    wanted = not known.wanted.isdisjoint(node.outputs)
    near = [n in known.values or (wanted and n in known.shape_inputs) for n in node.reads()]
    if node.subgraphs or not any(near):
        return False
    if not all(here or n in known.constants for here, n in zip(near, node.reads(), strict=True)):
        return False
    arrays = [name for i, name in enumerate(node.inputs) if name and not getattr(kernel.param(i), "host", True)]
    return bool(arrays or wanted) and all(_is_host_kind(types.get(n)) for n in (*arrays, *filter(None, node.outputs)))


def _is_host_kind(type_: Type | None) -> bool:
    return isinstance(type_, TensorType) and type_.dtype.kind in "iubS"


def _wanted(graph: Graph) -> dict[int, set[str]]:
    """Values that are a host parameter, or from which integer arithmetic computes one: of a graph and its subgraphs.

    By the id of the graph.
    """
    wanted: set[str] = set()
    found = {id(graph): wanted}
    for node in reversed(graph.nodes):
        kernel = registry.lookup(node.domain, node.op_type, node.opset)
        if kernel is None:
            continue
        if kernel.host_result is None and not node.subgraphs and wanted.intersection(node.outputs):
            wanted.update(name for name in node.inputs if name and _is_host_kind(graph.types.get(name)))
        wanted.update(n for i, n in enumerate(node.inputs) if n and getattr(kernel.param(i), "host", False))
        for subgraph in node.subgraphs.values():
            found |= _wanted(subgraph)
            wanted.update(found[id(subgraph)].intersection(subgraph.captures))
    return found
