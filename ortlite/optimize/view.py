"""What a rewrite sees of a graph: who computes a value, who reads it, what is constant, types and shapes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ortlite.dtypes import DType
from ortlite.graph import Graph, Node, TensorType, Type
from ortlite.optimize.dims import Shape
from ortlite.optimize.facts import Facts

__all__ = ["Names", "View", "anchored"]


# Operators that below opset 7 put their second input at an axis of the first one which they name.
ANCHORED = frozenset("Add And Div Equal Greater Less Mul Or Pow Sub Xor".split())


def anchored(node: Node) -> bool:
    """Whether an operator broadcasts in another way than today's of its name: no rewrite knows it."""
    return node.opset < 7 and node.op_type in ANCHORED and "axis" in node.attributes


class Names:
    """The names of a model's values, those of all its subgraphs: a new one is none of them."""

    def __init__(self, graph: Graph):
        self.taken = set(_names(graph))

    def fresh(self, wish: str) -> str:
        """A name that no value has, like `wish`."""
        name, number = wish, 1
        while name in self.taken:
            number += 1
            name = f"{wish}.{number}"
        self.taken.add(name)
        return name


def _names(graph: Graph) -> set[str]:
    found = {*graph.inputs, *graph.constants, *graph.outputs, *graph.captures}
    for node in graph.walk():
        found.update(node.outputs)
        for inner in node.subgraphs.values():
            found.update((*inner.inputs, *inner.constants))
    return found


@dataclass(frozen=True, slots=True)
class View:
    """A graph as it was when a round of rewriting began.

    Values keep their meaning by name while rewrites replace nodes, so that what the view says stays true; only how
    many readers a value has may have changed, and that decides what is worth rewriting, never what is right.
    """

    graph: Graph
    constants: dict[str, np.ndarray]  # of the graphs around it too; none that a caller may override
    types: dict[str, Type]
    facts: Facts
    names: Names
    kept: Collection[str]  # values that are wanted as they are: outputs, what subgraphs read, what a caller named
    producers: Mapping[str, Node] = field(default_factory=dict)
    readers: Mapping[str, list[Node]] = field(default_factory=dict)
    shared: dict[Any, str] = field(default_factory=dict)  # values that a rewrite made and another may read
    polynomials: dict[str, Any] = field(default_factory=dict)  # of `polynomial.expand`, which several rewrites ask

    def made_by(self, name: str, *op_types: str) -> Node | None:
        """The node of this graph that computes a value, if it is one of ONNX's operators `op_types`."""
        node = self.producers.get(name)
        if node is None or node.op_type not in op_types or node.domain or anchored(node):
            return None
        return node

    def alone(self, name: str) -> bool:
        """Whether one node reads the value, once, and nobody else wants it."""
        return name not in self.kept and len(self.readers.get(name, ())) == 1

    def only_reader(self, name: str, *op_types: str, domain: str = "") -> Node | None:
        """The one node that reads a value which nobody else wants, if it is one of `op_types`."""
        if name in self.kept:
            return None
        readers = self.readers.get(name, ())
        if len(readers) != 1 or anchored(readers[0]):
            return None
        return readers[0] if readers[0].op_type in op_types and readers[0].domain == domain else None

    def constant(self, name: str) -> np.ndarray | None:
        """The value, where it is a constant."""
        return self.constants.get(name)

    def shape(self, name: str) -> Shape | None:
        """The shape, where it is certain."""
        return self.facts.shape(name)

    def rank(self, name: str) -> int | None:
        """How many axes a value certainly has."""
        shape = self.facts.shape(name)
        return None if shape is None else len(shape)

    def dtype(self, name: str) -> DType | None:
        """The dtype of a tensor."""
        type_ = self.types.get(name)
        return type_.dtype if isinstance(type_, TensorType) else None

    def is_float(self, name: str) -> bool:
        """Whether a value is a tensor of a floating dtype in which onnxruntime has fused operators."""
        dtype = self.dtype(name)
        return dtype is not None and dtype.name in {"float16", "bfloat16", "float32"}

    def scalar(self, name: str, of: str | None = None) -> float | None:
        """The element of a constant with one; together with the value `of`, it must not add axes to that."""
        constant = self.constants.get(name)
        if constant is None or constant.size != 1 or constant.dtype.kind not in "fiuV":
            return None
        if constant.ndim and of is not None and constant.ndim > (self.rank(of) or 0):
            return None
        return float(constant.reshape(-1)[0])

    def vector(self, name: str, length: object) -> np.ndarray | None:
        """A constant vector of `length`, perhaps with axes of length 1 before."""
        constant = self.constants.get(name)
        if constant is None or not constant.ndim or constant.shape[-1] != constant.size or constant.size != length:
            return None
        return constant

    def last_axes(self, axes: Collection[int] | None, name: str) -> int | None:
        """The negative axis from which on `axes` are all there are, or None where they are others."""
        if not axes:
            return None
        rank = self.rank(name)
        if any(axis >= 0 for axis in axes):
            if rank is None:
                return None
            axes = [axis - rank if axis >= 0 else axis for axis in axes]
        return -len(axes) if sorted(axes) == list(range(-len(axes), 0)) else None


def view_of(
    graph: Graph,
    constants: dict[str, np.ndarray],
    types: dict[str, Type],
    facts: Facts,
    names: Names,
    pinned: Collection[str],
) -> View:
    """The view of a graph as it is."""
    producers: dict[str, Node] = {}
    readers: dict[str, list[Node]] = {}
    kept = {*graph.outputs, *pinned}
    for node in graph.nodes:
        for name in node.outputs:
            producers[name] = node
        for name in node.inputs:
            if name in readers:
                readers[name].append(node)
            else:
                readers[name] = [node]
        if node.captures:
            kept.update(node.captures)
        if pinned and node.name in pinned:
            kept.update(node.outputs)
    return View(graph, constants, types, facts, names, kept, producers, readers)
