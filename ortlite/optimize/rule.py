"""Rewrites: two small functions each, one that finds a pattern and one that says what takes its place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ortlite import dtypes, infer, schema
from ortlite.graph import Graph, Node, TensorType, Type
from ortlite.optimize.dead_code import without_dead_nodes
from ortlite.optimize.facts import Facts
from ortlite.optimize.identity import remove_identities
from ortlite.optimize.rewrite import map_subgraphs
from ortlite.optimize.shapes import learn, learn_from
from ortlite.optimize.view import Names, View, anchored, view_of

__all__ = ["MS", "New", "Rule", "copy", "rewrite", "table"]

MS = "com.microsoft"
ROUNDS = 4  # what one rewrite makes possible for another; a chain of more is left as it is


class New(NamedTuple):
    """What takes the place of a node: nodes in order, the constants they bring, and later nodes that go as well.

    All that the node and those in `gone` compute and somebody still wants, the new nodes compute under the same names.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray] = {}
    gone: tuple[Node, ...] = ()


class Rule(NamedTuple):
    """A rewrite: its name as `disabled_optimizers` writes it, its level, and the operators it starts from.

    `match` returns what it found, or None; `replace` gets that, and may still find that nothing is to be done.
    `domain` is that of the operators in `starts`.
    """

    name: str
    level: int
    starts: tuple[str, ...]
    match: Callable[[View, Node], Any]
    replace: Callable[[View, Node, Any], New | None]
    domain: str = ""


def copy(node: Node, op_type: str, inputs: Sequence[str], **changes: Any) -> Node:
    """A node that computes what `node` did: under the same names, of the same opset, without its attributes."""
    given = {"attributes": {}, "domain": ""} | changes
    if given["domain"] == MS:
        given = {"opset": 1} | given
    return replace(node, op_type=op_type, inputs=tuple(inputs), captures=(), **given)


def table(rules: Sequence[Rule]) -> dict[tuple[str, str], list[Rule]]:
    """The rules that start from each operator."""
    found: dict[tuple[str, str], list[Rule]] = {}
    for rule in rules:
        for op_type in rule.starts:
            found.setdefault((rule.domain, op_type), []).append(rule)
    return found


def rewrite(graph: Graph, phases: Sequence[Sequence[Rule]], pinned: Collection[str] = ()) -> Graph:
    """Apply rules, in a graph and its subgraphs: those of each phase until none matches, or for a few rounds.

    A node that `pinned` names, or that computes a value so named, stays.
    """
    tables = [table(rules) for rules in phases if rules]
    starts = set().union(*tables)
    if not any((node.domain, node.op_type) in starts for node in graph.walk()):
        return graph
    return _rewritten(graph, tables, pinned, Names(graph), {}, {}, None)


def _rewritten(
    graph: Graph,
    phases: Sequence[Mapping[tuple[str, str], list[Rule]]],
    pinned: Collection[str],
    names: Names,
    outer: Mapping[str, np.ndarray],
    outer_types: Mapping[str, Type],
    around: Facts | None,
) -> Graph:
    known = {**outer, **graph.constants}
    for name in graph.overridable:
        del known[name]
    types = {**outer_types, **graph.types}
    for name, value in known.items():
        if name not in types:
            types[name] = TensorType(dtypes.of_numpy(value.dtype), value.shape)
    facts = learn(graph, known, around)
    view = view_of(graph, known, types, facts, names, pinned)
    for rules in phases:
        for _ in range(ROUNDS):
            changed = _round(view, rules, pinned)
            if changed is None:
                break
            nodes, constants, made = changed
            graph = graph.with_nodes(
                nodes,
                constants={**graph.constants, **constants},
                types={**graph.types, **{name: types[name] for name in (*made, *constants) if name in types}},
            )
            graph = _tidied(graph)
            view = view_of(graph, known, types, facts, names, pinned)
    return map_subgraphs(
        graph,
        lambda part: _rewritten(part, phases, pinned, names, part.captured(known), part.captured(types), facts),
    )


def _tidied(graph: Graph) -> Graph:
    """Without what rewrites left behind."""
    if any(node.op_type == "Identity" and not node.domain for node in graph.nodes):
        graph = remove_identities(graph)
    return without_dead_nodes(graph)


def _round(
    view: View, rules: Mapping[tuple[str, str], list[Rule]], pinned: Collection[str]
) -> tuple[tuple[Node, ...], dict[str, np.ndarray], list[str]] | None:
    """One walk over the nodes: what becomes of them, new constants and new values; None where nothing matches."""
    nodes: list[Node] = []
    constants: dict[str, np.ndarray] = {}
    made: list[str] = []
    gone: set[int] = set()
    for node in view.graph.nodes:
        if id(node) in gone:
            continue
        found = rules.get((node.domain, node.op_type))
        new = None
        if found is not None and not anchored(node) and not (pinned and _pinned(node, pinned)):
            new = _replaced(view, node, found, gone, pinned)
        if new is None:
            nodes.append(node)
            continue
        gone.update(map(id, (node, *new.gone)))
        constants |= new.constants
        view.constants.update(new.constants)
        for name, value in new.constants.items():
            view.types[name] = TensorType(dtypes.of_numpy(value.dtype), value.shape)
        for each in new.nodes:
            _typed(view, each)
            nodes.append(each)
            made.extend(filter(None, each.outputs))
        learn_from(view.facts, new.nodes)
    return (tuple(nodes), constants, made) if gone else None


def _pinned(node: Node, pinned: Collection[str]) -> bool:
    """Whether somebody named the node or a value that it computes."""
    return node.name in pinned or any(name in pinned for name in node.outputs)


def _replaced(view: View, node: Node, rules: Sequence[Rule], gone: set[int], pinned: Collection[str]) -> New | None:
    for rule in rules:
        found = rule.match(view, node)
        if found is None:
            continue
        new = rule.replace(view, node, found)
        if new is None or any(id(other) in gone or (pinned and _pinned(other, pinned)) for other in new.gone):
            continue
        return new
    return None


def _typed(view: View, node: Node) -> None:
    """Give the values that a new node computes their types, where they have none."""
    missing = [name for name in node.outputs if name and name not in view.types]
    if not missing:
        return
    known = schema.lookup(node.domain, node.op_type, node.opset)
    inferred = infer.node_types(node, known, [view.types.get(name) for name in node.inputs])
    for name, type_ in zip(node.outputs, inferred, strict=True):
        if name in missing and type_ is not None:
            view.types[name] = type_
