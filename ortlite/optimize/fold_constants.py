"""Compute at load time what depends on constants alone, by running our own kernels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ortlite.dtypes import of_numpy
from ortlite.evaluate import evaluate
from ortlite.graph import Graph, Node, TensorType
from ortlite.ops import registry
from ortlite.optimize.rewrite import within

__all__ = ["fold_constants"]

log = logging.getLogger("ortlite")

# A folded value may be this many times larger than all constants together (DequantizeLinear of int8 weights
# makes 4), or a mebibyte: Expand and ConstantOfShape must not turn a small file into a large session.
GROWTH, SMALL = 4, 1 << 20


def fold_constants(graph: Graph, outer: Mapping[str, np.ndarray] | None = None) -> Graph:
    """Replace nodes whose inputs are all constant by their results; `outer` are constants of graphs around it."""
    known: dict[str, Any] = {**(outer or {}), **graph.constants}
    for name in graph.overridable:
        known.pop(name, None)
    constant = set(known)
    foldable: list[Node] = []
    for node in graph.nodes:
        if _foldable(node) and constant.issuperset(node.reads()):
            foldable.append(node)
            constant.update(filter(None, node.outputs))
    results: dict[str, np.ndarray] = {}
    if foldable:
        limit = max(SMALL, GROWTH * sum(c.nbytes for c in known.values()))
        values = _evaluate(graph, foldable, known)
        results = {n: np.asarray(v) for n, v in values.items() if hasattr(v, "nbytes") and v.nbytes <= limit}
    folded = {id(node) for node in foldable if all(name in results for name in filter(None, node.outputs))}
    # a node whose result was too large runs at run time, and so must what only it reads
    nodes = tuple(node for node in graph.nodes if id(node) not in folded)
    remade = {name for node in nodes for name in node.outputs}
    results = {name: value for name, value in results.items() if name not in remade}
    types = {name: TensorType(of_numpy(value.dtype), value.shape) for name, value in results.items()}
    graph = replace(graph, nodes=nodes, constants={**graph.constants, **results}, types={**graph.types, **types})
    known |= results
    return within(graph, lambda subgraph: fold_constants(subgraph, _visible(known, subgraph)))


def _visible(known: Mapping[str, Any], subgraph: Graph) -> dict[str, Any]:
    return {name: known[name] for name in subgraph.captures if name in known}


def _foldable(node: Node) -> bool:
    kernel = registry.lookup(node.domain, node.op_type, node.opset)
    return kernel is not None and "rng" not in kernel.injected and not node.subgraphs


def _evaluate(graph: Graph, nodes: list[Node], known: Mapping[str, Any]) -> dict[str, Any]:
    """Run nodes on NumPy; those that fail are left to fail at run time, where the error can say more."""
    while nodes:
        reads = {name for node in nodes for name in node.reads()}
        made = {name for node in nodes for name in node.outputs if name}
        part = Graph(
            name=f"constants of {graph.name}",
            inputs=(),
            outputs=tuple(sorted(made)),
            nodes=tuple(nodes),
            constants={name: known[name] for name in reads if name in known},
            types={
                **graph.types,
                **{n: TensorType(of_numpy(v.dtype), v.shape) for n, v in known.items() if n in reads},
            },
        )
        try:
            return dict(zip(part.outputs, evaluate(part), strict=True))
        except Exception as error:  # noqa: BLE001  (whatever a kernel raises)
            failed = getattr(error, "node", None)
            log.debug("not folded: %s", error)
            bad = {name for node in nodes if node is failed for name in node.outputs} or made
            nodes[:] = _independent(nodes, bad)
    return {}


def _independent(nodes: list[Node], bad: set[str]) -> list[Node]:
    """The nodes that do not depend on the values `bad`."""
    kept = []
    for node in nodes:
        if bad.intersection(node.outputs) or bad.intersection(node.reads()):
            bad.update(node.outputs)
        else:
            kept.append(node)
    return kept
