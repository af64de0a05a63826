"""What is certain of shapes before a model runs: from the shapes of its inputs, which every run checks, and constants.

What files declare of the shapes of other values is not always true, and names that they give to dimensions are not
always consistent: neither counts here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ortlite.graph import Graph, Node, TensorType
from ortlite.optimize.dims import length_of
from ortlite.optimize.facts import Facts
from ortlite.optimize.shape_rules import RULES

__all__ = ["learn", "learn_from"]

DOMAINS = {"", "com.microsoft"}  # whose operators the rules are for


def learn(graph: Graph, constants: Mapping[str, np.ndarray], outer: Facts | None = None) -> Facts:
    """The facts of a graph. `constants` are those that it may read; `outer` what is known of captured values."""
    facts = Facts(constants)
    if outer is not None:
        facts.shapes |= graph.captured(outer.shapes)
        facts.values |= graph.captured(outer.values)
    for name in graph.inputs if outer is None else ():  # a body's inputs are what its node hands in
        type_ = graph.types.get(name)
        if isinstance(type_, TensorType) and type_.shape:  # of [] nobody checks that a run's has no axes either
            facts.shapes[name] = tuple(
                d if isinstance(d, int) else length_of(name, i) for i, d in enumerate(type_.shape)
            )
    learn_from(facts, graph.nodes)
    return facts


def learn_from(facts: Facts, nodes: Sequence[Node]) -> None:
    """Take in what nodes, in topological order, say of their outputs."""
    for node in nodes:
        rule = RULES.get(node.op_type)
        if rule is None or node.domain not in DOMAINS or not any(node.outputs[:1]):  # its first output has no name
            continue
        try:
            found = rule(facts, node)
        except (IndexError, ValueError, TypeError, ZeroDivisionError, KeyError):
            continue  # a node that will fail when it runs, and says so then
        if found is not None:
            facts.shapes[node.outputs[0]] = found
