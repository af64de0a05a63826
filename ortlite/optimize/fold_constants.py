"""Compute at load time what depends on constants alone, by running our own kernels."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ortlite import run
from ortlite.dtypes import of_numpy, to_numpy
from ortlite.evaluate import NeedsError, evaluate, going_on
from ortlite.graph import Graph, Node, TensorType, Type
from ortlite.limits import current
from ortlite.ops import registry
from ortlite.optimize.rewrite import map_subgraphs
from ortlite.plan import Call
from ortlite.save import output_shapes
from ortlite.steps import Bound

__all__ = ["fold_constants"]

log = logging.getLogger("ortlite")

# Folded values, and what they are computed from, may be this many times as large as all constants together
# (DequantizeLinear of int8 weights makes 4), or four mebibytes: Expand and ConstantOfShape must not turn a small file
# into a large session. All that is read and computed on the way may be as many times as large as that.
GROWTH, SMALL, WORK = 8, 1 << 22, 16

# Operators whose results have no more elements than their inputs together, and those of which that holds but for
# broadcasting, which makes no more than FEW² of FEW. To have onnx infer a shape takes longer than most computations.
MOVING = frozenset(
    "Abs Cast Ceil Concat Flatten Floor Identity Neg Not Reciprocal Relu Reshape Round Shape Sign Size Slice Sqrt "
    "Squeeze Transpose Unsqueeze".split()
)
BROADCASTING = frozenset("Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Mod Mul Or Sub Xor".split())
FEW = 32


@dataclass(slots=True)
class _Budget:
    """Bytes that folding may still hold at a time, and read and compute in all. One for a model."""

    room: int
    work: int


def fold_constants(graph: Graph) -> Graph:
    """Replace nodes whose inputs are all constant by their results.

    What is too large, needs too long or fails is left to run time, where an error can say more; so is text, whose size
    no shape tells.
    """
    room = max(SMALL, GROWTH * _bytes_of_constants(graph))
    if (allowed := current().total_bytes) is not None:
        room = min(room, allowed)
    return _folded(graph, {}, _Budget(room, WORK * room))


def _bytes_of_constants(graph: Graph) -> int:
    own = sum(value.nbytes for value in graph.constants.values())
    return own + sum(_bytes_of_constants(part) for node in graph.nodes for part in node.subgraphs.values())


def _folded(graph: Graph, outer: Mapping[str, np.ndarray], budget: _Budget) -> Graph:
    """`outer` are the constants that a subgraph captures."""
    known = {**outer, **graph.constants}
    for name in graph.overridable:
        del known[name]
    types = {**graph.types, **{name: TensorType(of_numpy(v.dtype), v.shape) for name, v in known.items()}}
    constant = set(known)
    foldable: list[Node] = []
    for node in graph.nodes:
        if constant.issuperset(node.reads()) and _foldable(node, types):
            foldable.append(node)
            constant.update(filter(None, node.outputs))
    if foldable:
        results, failed = _results(graph, foldable, known, types, budget)
        gone = {id(node) for node in foldable if failed.isdisjoint(node.outputs)}
        nodes = tuple(node for node in graph.nodes if id(node) not in gone)
        found = {name: TensorType(of_numpy(value.dtype), value.shape) for name, value in results.items()}
        graph = graph.with_nodes(nodes, constants={**graph.constants, **results}, types={**graph.types, **found})
        known |= results
    return map_subgraphs(graph, lambda subgraph: _folded(subgraph, subgraph.captured(known), budget))


def _foldable(node: Node, types: Mapping[str, Type]) -> bool:
    kernel = registry.lookup(node.domain, node.op_type, node.opset)
    if kernel is None or "rng" in kernel.injected or node.subgraphs:
        return False
    found = [types.get(name) for name in (*node.inputs, *node.outputs) if name]
    return all(isinstance(type_, TensorType) and type_.dtype.kind != "S" for type_ in found)


def _results(
    graph: Graph, nodes: list[Node], known: Mapping[str, np.ndarray], types: Mapping[str, Type], budget: _Budget
) -> tuple[dict[str, np.ndarray], set[str]]:
    """What `nodes` compute and the rest of the graph reads, and which of their values could not be computed."""
    made: dict[str, np.ndarray] = {}
    ours = {id(node) for node in nodes}
    kept = set(graph.outputs).union(*(node.reads() for node in graph.nodes if id(node) not in ours))
    readers = Counter(name for node in nodes for name in node.reads())
    called: dict[int, str] = {}  # slot -> the value in it
    failures: dict[str, Exception] = {}

    def step(bound: Bound, values: list[Any]) -> None:
        call = bound.step if isinstance(bound.step, Call) else None
        if call is not None:
            given = [made[name] if name in made else known.get(name) for name in call.node.inputs]
            size = _size(call, given, types)
            work = size + sum(value.nbytes for value in given if value is not None)
            if size > budget.room or work > budget.work:
                raise MemoryError(f"{size} bytes are more than constants may grow by")
            budget.work -= work
        run.step(bound, values)
        names = call.node.outputs if call is not None else [called[slot] for slot in bound.step.reads()]
        for name, slot in zip(names, bound.outputs, strict=True):
            if slot is None:
                continue
            called[slot] = name
            value, wanted = np.asarray(values[slot]), types[name]
            assert isinstance(wanted, TensorType)
            if of_numpy(value.dtype) != wanted.dtype:
                if call is not None and wanted.dtype.name not in call.provider.widen:
                    raise TypeError(f"{call.kernel} made {value.dtype} of {name!r}, not {wanted.dtype}")
            elif readers[name] or name in kept:
                made[name] = value
                budget.room -= value.nbytes
        for name in call.node.reads() if call is not None else ():  # of a node that fails, the inputs stay
            readers[name] -= 1
            if not readers[name] and name not in kept and name in made:
                budget.room += made.pop(name).nbytes

    reads = set(readers)
    part = Graph(
        name=f"constants of {graph.name}",
        inputs=(),
        outputs=(),
        nodes=tuple(nodes),
        constants={name: value for name, value in known.items() if name in reads},
        types=types,
    )
    try:
        evaluate(part, on_step=going_on(failures, step))
    except Exception as error:  # noqa: BLE001  (a node that cannot even be bound)
        log.debug("not folded: %s", error)
        return {}, {name for node in nodes for name in node.outputs}
    for name, failure in failures.items():
        if not isinstance(failure, NeedsError):
            log.debug("not folded: %r: %s", name, failure)
    return made, set(failures) - {""}


def _size(call: Call, given: Sequence[np.ndarray | None], types: Mapping[str, Type]) -> int:
    """How many bytes a node's outputs will have, at most. Raises ValueError where nobody can tell beforehand."""
    elements = sum(value.size for value in given if value is not None)
    only = types.get(call.node.outputs[0])
    if not call.node.domain and isinstance(only, TensorType):
        if call.node.op_type in MOVING:
            return max(elements, 1) * to_numpy(only.dtype).itemsize
        if call.node.op_type in BROADCASTING and elements <= FEW:
            return FEW * FEW * to_numpy(only.dtype).itemsize
    total = 0
    for name, shape in zip(call.node.outputs, output_shapes(call.node, given), strict=True):
        type_ = types.get(name)
        if not isinstance(type_, TensorType):
            continue
        if shape is None or (None in shape and not call.kernel.data_dependent_shape):
            raise ValueError(f"the size of {name!r} is not known before it is computed")
        # those that choose among their elements have that many at most
        total += prod(elements if d is None else d for d in shape) * to_numpy(type_.dtype).itemsize
    return total
