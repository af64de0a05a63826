"""What is certain of shapes before a model runs: from the shapes of its inputs, which every run checks, and constants.

What files declare of the shapes of other values is not always true, and names that they give to dimensions are not
always consistent: neither counts here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from ortlite.graph import Graph, Node, TensorType, Type
from ortlite.optimize.dims import Dim, Shape, length_of
from ortlite.optimize.facts import Facts
from ortlite.optimize.shape_rules import RULES

__all__ = ["learn", "learn_from", "with_shapes_of_rows"]

LOOPS = {"Loop": 1, "Scan": 9}  # and the opsets from which on their results are rows alone
DOMAINS = {"", "com.microsoft"}  # whose operators the rules are for


def learn(
    graph: Graph,
    constants: Mapping[str, np.ndarray],
    outer: Facts | None = None,
    given: Mapping[str, Shape | None] | None = None,
    *,
    bodies: bool = False,
) -> Facts:
    """The facts of a graph. `constants` are those that it may read; `outer` what is known of captured values.

    `given` has shapes of a body's inputs, where they are known. With `bodies` it looks into those of its nodes.
    """
    facts = Facts(constants)
    facts.shapes |= {name: shape for name, shape in (given or {}).items() if shape is not None}
    if outer is not None:
        facts.shapes |= graph.captured(outer.shapes)
        facts.values |= graph.captured(outer.values)
    for name in graph.inputs if outer is None else ():  # a body's inputs are what its node hands in
        type_ = graph.types.get(name)
        if isinstance(type_, TensorType) and type_.shape:  # of [] nobody checks that a run's has no axes either
            facts.shapes[name] = tuple(
                d if isinstance(d, int) else length_of(name, i) for i, d in enumerate(type_.shape)
            )
    learn_from(facts, graph.nodes, bodies=bodies)
    return facts


def with_shapes_of_rows(graph: Graph) -> Graph:
    """Say of every row that a loop stacks which shape it has, where the file does not: no step of it may run."""
    return _with_rows(graph, graph.constants, None) if any(map(_open, graph.nodes)) else graph


def _open(node: Node) -> bool:
    """Whether the type of a row in a loop lacks a dimension, in its bodies as well."""
    types = [body.types.get(name) for body in node.subgraphs.values() for name in _rows(node, body)]
    return any(isinstance(t, TensorType) and not _known(t) for t in types) or any(
        _open(inner) for body in node.subgraphs.values() for inner in body.nodes
    )


def _known(type_: TensorType) -> bool:
    return type_.shape is not None and all(isinstance(dim, int) for dim in type_.shape)


def _loops(node: Node) -> bool:
    return not node.domain and node.op_type in LOOPS and node.opset >= LOOPS[node.op_type]


def _rows(node: Node, body: Graph) -> tuple[str, ...]:
    """The outputs of a body that are stacked."""
    if not _loops(node):
        return ()
    if node.op_type == "Loop":
        return body.outputs[1 + max(len(node.inputs) - 2, 0) :]
    return body.outputs[len(node.inputs) - node.attributes["num_scan_inputs"] :]


def _handed_in(node: Node, body: Graph, facts: Facts) -> dict[str, Shape | None]:
    """The shapes of what the first step of a loop gets. Rows have one shape in all steps, whatever states have."""
    if not _loops(node):
        return {}
    shapes = [facts.shape(name) if name else None for name in node.inputs]
    if node.op_type == "Loop":
        given = [None, None, *shapes[2:]]
    else:
        split = len(shapes) - node.attributes["num_scan_inputs"]
        axes = node.attributes.get("scan_input_axes") or (0,) * (len(shapes) - split)
        given = shapes[:split]
        for shape, axis in zip(shapes[split:], axes, strict=True):
            given.append(None if not shape else tuple(d for i, d in enumerate(shape) if i != axis % len(shape)))
    return {
        name: _as_declared(name, body.types.get(name), found) for name, found in zip(body.inputs, given, strict=False)
    }


def _as_declared(name: str, declared: Type | None, found: Shape | None) -> Shape | None:
    """A shape with the numbers that a file declares in place of what is open in it."""
    dims = declared.shape if isinstance(declared, TensorType) else None
    if dims is None or (found is not None and len(dims) != len(found)):
        return found
    found = found if found is not None else tuple(length_of(name, axis) for axis in range(len(dims)))
    return tuple(d if isinstance(d, int) and not isinstance(f, int) else f for d, f in zip(dims, found, strict=True))


def _with_rows(graph: Graph, constants: Mapping[str, np.ndarray], facts: Facts | None) -> Graph:
    known = {name: value for name, value in constants.items() if name not in graph.overridable}
    facts = facts or learn(graph, known, bodies=True)
    nodes = []
    for node in graph.nodes:
        changed = {}
        for attribute, body in node.subgraphs.items() if _open(node) else ():
            inside = {**body.captured(known), **body.constants}
            learned = learn(body, inside, facts, _handed_in(node, body, facts), bodies=True)
            found = {name: learned.shape(name) for name in _rows(node, body)}
            types = {name: _filled(body.types[name], found[name]) for name in found if name in body.types}
            changed[attribute] = replace(_with_rows(body, inside, learned), types={**body.types, **types})
        nodes.append(replace(node, attributes={**node.attributes, **changed}) if changed else node)
    return graph.with_nodes(tuple(nodes))


def _filled(declared: Type, found: Shape | None) -> Type:
    """A type with the numbers of a shape in place of what it leaves open."""
    if not isinstance(declared, TensorType) or found is None:
        return declared
    dims = declared.shape if declared.shape is not None else (None,) * len(found)
    if len(dims) != len(found):
        return declared
    filled = (f if not isinstance(d, int) and isinstance(f, int) else d for d, f in zip(dims, found, strict=True))
    return replace(declared, shape=tuple(filled))


def _from_bodies(facts: Facts, node: Node) -> None:
    """Take in the shapes on which the branches of an If agree, or those of a loop's states and rows."""
    found: dict[str, list[Shape | None]] = {}
    for body in node.subgraphs.values():
        inside = {**body.captured(facts.constants), **body.constants}
        given = _handed_in(node, body, facts)
        learned = learn(body, inside, facts, given, bodies=True)
        if node.op_type == "If":
            shapes = [learned.shape(name) for name in body.outputs]
        else:
            shapes = [*_states(node, body, given, learned), *_stacked(facts, node, body, learned)]
        for name, shape in zip(node.outputs, shapes, strict=False):
            found.setdefault(name, []).append(shape)
    for name, known in found.items():
        ranks = {None if shape is None else len(shape) for shape in known}
        if name and len(ranks) == 1 and None not in ranks:
            axes = enumerate(zip(*(shape or () for shape in known), strict=True))
            facts.shapes[name] = tuple(
                n if (n := _number(lengths)) is not None else length_of(name, axis) for axis, lengths in axes
            )


def _number(lengths: Sequence[Dim]) -> Dim | None:
    """What they all are, if that is a number: the names of other lengths are each body's own."""
    return lengths[0] if isinstance(lengths[0], int) and all(n == lengths[0] for n in lengths) else None


def _states(node: Node, body: Graph, given: Mapping[str, Shape | None], learned: Facts) -> list[Shape | None]:
    """The shapes of a loop's states: those at its begin, if a step leaves all of them as they are."""
    first = node.op_type == "Loop"
    count = len(body.outputs) - len(_rows(node, body)) - first
    before = [given.get(name) for name in body.inputs[2 * first :][:count]]
    after = [learned.shape(name) for name in body.outputs[first:][:count]]
    kept = all(b is None or b == a for b, a in zip(before, after, strict=False))
    return before if kept and len(before) == count else [None] * count


def _stacked(facts: Facts, node: Node, body: Graph, learned: Facts) -> list[Shape | None]:
    """The shapes of the rows of a loop, with the axis along which they are stacked."""
    rows = _rows(node, body)
    axes: Sequence[int] = node.attributes.get("scan_output_axes") or (0,) * len(rows)
    length: Dim = "how many"
    if node.op_type == "Scan" and (shape := facts.shape(node.inputs[-1])):
        length = shape[(node.attributes.get("scan_input_axes") or (0,))[-1] % len(shape)]
    shapes: list[Shape | None] = []
    for name, axis in zip(rows, axes, strict=True):
        row = _as_declared(name, body.types.get(name), learned.shape(name))
        place = 0 if row is None else axis % (len(row) + 1)
        shapes.append(None if row is None else (*row[:place], length, *row[place:]))
    return shapes


def learn_from(facts: Facts, nodes: Sequence[Node], *, bodies: bool = False) -> None:
    """Take in what nodes, in topological order, say of their outputs."""
    for node in nodes:
        if bodies and node.subgraphs and not node.domain:
            with suppress(IndexError, ValueError, TypeError, KeyError):  # as below
                _from_bodies(facts, node)
            continue
        rule = RULES.get(node.op_type)
        if rule is None or node.domain not in DOMAINS or not any(node.outputs[:1]):  # its first output has no name
            continue
        try:
            found = rule(facts, node)
        except (IndexError, ValueError, TypeError, ZeroDivisionError, KeyError):
            continue  # a node that will fail when it runs, and says so then
        if found is not None:
            facts.shapes[node.outputs[0]] = found
