"""Which constants of a model are parameters, and the model with some of them as inputs: graph rewrites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

import numpy as np

from ortlite import dtypes
from ortlite.graph import Graph, Model, TensorType
from ortlite.ops import registry
from ortlite.optimize.rewrite import map_subgraphs, rename_graph

__all__ = ["gathered", "parameters", "statistics", "with_parameters"]

# Float inputs of operators that are statistics of the data, not parameters that a gradient trains.
STATISTICS = {("BatchNormalization", 3), ("BatchNormalization", 4)}


def gathered(model: Model) -> Model:
    """The model, the float constants of all its subgraphs those of the main graph: only these can be given.

    They keep their names; where two branches have a name in common, the second one's gets a number.
    """
    return replace(model, graph=_gathered(model.graph))


def _gathered(graph: Graph) -> Graph:
    constants, types = dict(graph.constants), dict(graph.types)
    own = {*graph.inputs, *constants, *(name for node in graph.nodes for name in node.outputs)}
    read = {name for node in graph.walk() for name in (*node.reads(), *node.outputs)}

    def bared(branch: Graph) -> Graph:
        branch, names = _gathered(branch), {}
        for name, value in branch.constants.items():
            if _trainable(value):
                new = name
                if name in own:
                    new = next(n for i in count(2) if (n := f"{name}_{i}") not in own | read)
                own.add(new)
                names[name], constants[new] = new, value
                if name in branch.types:
                    types[new] = branch.types[name]
        left = {name: value for name, value in branch.constants.items() if name not in names}
        return rename_graph(replace(branch, constants=left, captures=(*branch.captures, *names)), names)

    return replace(map_subgraphs(graph, bared), constants=constants, types=types)


def _trainable(value: np.ndarray) -> bool:
    """Whether a constant is a float of rank 1 or more."""
    return value.ndim > 0 and dtypes.of_numpy(value.dtype).kind == "f"


def parameters(graph: Graph) -> tuple[str, ...]:
    """The constants a gradient can train: floats of rank 1 or more, read as arrays, no statistics of the data."""
    return _arrays(graph, set(graph.outputs), lambda op_type, position: (op_type, position) not in STATISTICS)


def statistics(graph: Graph) -> tuple[str, ...]:
    """The constants that are statistics of the data: the mean and the variance of a batch normalisation."""
    return _arrays(graph, set(), lambda op_type, position: (op_type, position) in STATISTICS)


def _arrays(graph: Graph, read: set[str], wanted: Callable[[str, int], bool]) -> tuple[str, ...]:
    """Float constants of rank 1 or more in `read`, or read as arrays, by `wanted` inputs (operator, position) alone."""
    kept = {name for name, value in graph.constants.items() if _trainable(value)}
    for node in graph.walk():
        kernel = registry.lookup(node.domain, node.op_type, node.opset)
        for position, name in enumerate(node.inputs):
            param = kernel.param(position) if kernel else None
            if param is None or param.host or not wanted(node.op_type, position):
                kept.discard(name)
            read.add(name)
    return tuple(name for name in graph.constants if name in kept & read)


def with_parameters(model: Model, names: Sequence[str]) -> Model:
    """The model with constants as its first inputs."""
    graph = model.graph
    given = [name for name in graph.inputs if name not in names]
    constants = {name: value for name, value in graph.constants.items() if name not in names}
    types = {name: TensorType(dtypes.of_numpy(v.dtype), v.shape) for name in names for v in [graph.constants[name]]}
    return replace(
        model,
        graph=replace(
            graph,
            inputs=(*names, *given),
            constants=constants,
            types={**graph.types, **types},
            overridable=tuple(name for name in graph.overridable if name not in names),
        ),
    )
