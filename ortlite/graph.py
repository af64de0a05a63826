"""The model as the pipeline sees it: small frozen dataclasses, no protobuf.

A Graph is what `load` returns and every optimiser pass takes and returns. Values are named by strings,
unique within a graph; a subgraph reaches values of the graphs around it by name, and lists them as its
captures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ortlite.dtypes import DType

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "GRADIENT",
    "Graph",
    "MapType",
    "Model",
    "Node",
    "OptionalType",
    "SequenceType",
    "SparseType",
    "TensorType",
    "Type",
    "ancestors",
    "extract",
    "in_order",
]  # fmt: skip

GRADIENT = ("ai.onnx.preview.training", "Gradient")  # the operator whose body is other nodes of its graph


@dataclass(frozen=True, slots=True)
class TensorType:
    """A tensor of `dtype`. `shape` is None when even the rank is unknown; a dimension is an int, a name or None."""

    dtype: DType
    shape: tuple[int | str | None, ...] | None = None

    def __str__(self) -> str:
        dims = "?" if self.shape is None else ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.dtype}[{dims}]"

    @property
    def ort(self) -> str:
        """The type as onnxruntime prints it."""
        return f"tensor({self.dtype.ort})"


@dataclass(frozen=True, slots=True)
class SparseType(TensorType):
    """A sparse tensor of `dtype`."""

    @property
    def ort(self) -> str:
        """The type as onnxruntime prints it."""
        return f"sparse_tensor({self.dtype.ort})"


@dataclass(frozen=True, slots=True)
class SequenceType:
    """A sequence (a tuple at run time) of `element`."""

    element: Type

    def __str__(self) -> str:
        return f"seq({self.element})"

    @property
    def ort(self) -> str:
        """The type as onnxruntime prints it."""
        return f"seq({self.element.ort})"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """An `element` or None."""

    element: Type

    def __str__(self) -> str:
        return f"optional({self.element})"

    @property
    def ort(self) -> str:
        """The type as onnxruntime prints it."""
        return f"optional({self.element.ort})"


@dataclass(frozen=True, slots=True)
class MapType:
    """A map (a dict at run time) from `key` to `value`."""

    key: DType
    value: Type

    def __str__(self) -> str:
        return f"map({self.key}, {self.value})"

    @property
    def ort(self) -> str:
        """The type as onnxruntime prints it."""
        return f"map({self.key.ort},{self.value.ort})"


_T = TypeVar("_T")
Type: TypeAlias = TensorType | SequenceType | OptionalType | MapType


@dataclass(frozen=True, slots=True)
class Node:
    """One operator call. An empty name among `inputs` or `outputs` is an optional one left out.

    `opset` is the version of `domain` the node was written for (functions bring their own). `captures`
    are the outer values its subgraphs use: inputs in every respect but the kernel's signature.
    """

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    domain: str = ""
    opset: int = 1
    captures: tuple[str, ...] = ()

    def __str__(self) -> str:
        attributes = ", ".join(f"{k}={_brief(v)}" for k, v in self.attributes.items())
        target = ", ".join(o or "_" for o in self.outputs)
        prefix = f"{self.domain}::" if self.domain else ""
        arguments = ", ".join(i or "_" for i in self.inputs)
        return f"{target} = {prefix}{self.op_type}({arguments}{'; ' + attributes if attributes else ''})"

    @property
    def subgraphs(self) -> dict[str, Graph]:
        """Attributes that are graphs."""
        if not self.attributes:  # as most nodes are
            return {}
        return {name: value for name, value in self.attributes.items() if isinstance(value, Graph)}

    def reads(self) -> Iterator[str]:
        """Every value the node needs: inputs that are present, then captures."""
        present = self.inputs if "" not in self.inputs else tuple(filter(None, self.inputs))
        return iter(present + self.captures if self.captures else present)


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph in topological order.

    `inputs` and `outputs` are names; `types` says what is known of each value, inputs and outputs first.
    `constants` are the initializers, as NumPy arrays (memory-mapped where the file allows it); the names in
    `overridable` are both an input of the model and a constant, which is its default.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]
    types: Mapping[str, Type]
    overridable: tuple[str, ...] = ()
    captures: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = ", ".join(f"{n}: {self.types.get(n, '?')}" for n in self.inputs)
        lines = [f"graph {self.name}({head})"]
        if self.captures:
            lines.append(f"  captures {', '.join(self.captures)}")
        if self.constants:
            size = sum(c.nbytes for c in self.constants.values())
            lines.append(f"  {len(self.constants)} constants, {size / 1e6:.3g} MB")
        for node in self.nodes:
            lines.append(f"  {node}")
            for attribute, graph in node.subgraphs.items():
                lines.extend(f"    {line}" for line in f"{attribute}: {graph}".splitlines())
        tail = ", ".join(f"{n}: {self.types.get(n, '?')}" for n in self.outputs)
        return "\n".join([*lines, f"  return {tail}"])

    def walk(self) -> Iterator[Node]:
        """Every node, those of subgraphs after the node that holds them."""
        for node in self.nodes:
            yield node
            for graph in node.subgraphs.values():
                yield from graph.walk()

    def captured(self, values: Mapping[str, _T]) -> dict[str, _T]:
        """Those of the `values` around a subgraph that it captures."""
        return {name: values[name] for name in self.captures if name in values}

    def with_nodes(self, nodes: tuple[Node, ...], **changes: Any) -> Graph:
        """The same graph with other nodes (and other fields)."""
        return replace(self, nodes=nodes, **changes)


@dataclass(frozen=True, slots=True)
class Model:
    """A graph and what the file says about itself.

    `denotations`: what the dimensions of its inputs are called. `sparse`: outputs that the file holds sparse.
    """

    graph: Graph
    opsets: Mapping[str, int]
    ir_version: int = 0
    producer_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    denotations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sparse: frozenset[str] = frozenset()

    def __str__(self) -> str:
        opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in self.opsets.items())
        return f"model by {self.producer_name or 'unknown'}, opsets: {opsets}\n{self.graph}"


def ancestors(
    nodes: Sequence[Node],
    targets: Collection[str],
    given: Collection[str] = (),
    producers: Mapping[str, int] | None = None,
) -> tuple[tuple[Node, ...], set[str]]:
    """The nodes that compute `targets` from the values `given`, in their order, and what they read from elsewhere.

    What is given is not computed, even where a node among `nodes` would. `producers` says which node computes each
    value, for whoever asks often.
    """
    if producers is None:
        producers = {name: index for index, node in enumerate(nodes) for name in node.outputs if name}
    needed: set[int] = set()
    elsewhere: set[str] = set()
    waiting, seen = list(targets), set(given)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        producer = producers.get(name)
        if producer is None:
            elsewhere.add(name)
        elif producer not in needed:
            needed.add(producer)
            waiting.extend(nodes[producer].reads())
    return tuple(nodes[index] for index in sorted(needed)), elsewhere


def in_order(needs: Sequence[Collection[int]], groups: Sequence[int] | None = None) -> list[int]:
    """An order in which everything comes after what it needs; what needs itself in a circle is left out.

    What is ready with the smallest number comes next; with `groups`, one group goes on for as long as it can.
    """
    groups = groups if groups is not None else [0] * len(needs)
    readers: dict[int, list[int]] = defaultdict(list)
    for index, sources in enumerate(needs):
        for source in sources:
            readers[source].append(index)
    waiting = [len(sources) for sources in needs]
    ready: dict[int, list[int]] = {group: [] for group in sorted(set(groups))}
    for index, count in enumerate(waiting):
        if not count:
            heappush(ready[groups[index]], index)
    order: list[int] = []
    current = groups[0] if groups else 0
    while any(ready.values()):
        if not ready[current]:
            current = min((queue[0], group) for group, queue in ready.items() if queue)[1]
        index = heappop(ready[current])
        order.append(index)
        for reader in readers[index]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heappush(ready[groups[reader]], reader)
    return order


def extract(graph: Graph, given: Collection[str], outputs: Sequence[str]) -> Graph:
    """The part of a graph that computes the values `outputs` from the values `given` and the inputs it still needs."""
    nodes, elsewhere = ancestors(graph.nodes, outputs, given)
    read = {name for node in nodes for name in node.reads()} | set(outputs)
    inputs = [name for name in graph.inputs if name in elsewhere or name in given]
    fed = [name for name in given if name in read and name not in graph.inputs]
    # what files declare about the shapes of intermediates is not always true
    bare = {n: TensorType(t.dtype) for n in fed if isinstance(t := graph.types.get(n), TensorType)}
    return replace(
        graph,
        inputs=(*inputs, *fed),
        outputs=tuple(dict.fromkeys(outputs)),
        nodes=nodes,
        types={**graph.types, **bare},
        constants={name: value for name, value in graph.constants.items() if name in read and name not in given},
        overridable=tuple(name for name in graph.overridable if name in elsewhere and name not in given),
    )


def _brief(value: Any) -> str:
    if isinstance(value, Graph):
        return f"graph {value.name}"
    if hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
