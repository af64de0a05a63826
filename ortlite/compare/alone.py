"""Which node makes a difference by itself, and does not just pass on what came in.

Rounding that adds up, and steps of a quantised model that tip over because of it, bring values beyond tolerance where
no node is wrong. So each node that computes such a value runs once more, on what the first side gave it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np

from ortlite import dtypes
from ortlite.compare.difference import Difference, Tolerance, difference
from ortlite.compare.judge import judge
from ortlite.compare.reference import SecondJudge, Verdict, verdict
from ortlite.compare.sides import Side
from ortlite.graph import Model, Node

__all__ = ["Alone", "first_alone"]

MARK = ", alone"  # what is computed so must not be what other nodes read


@dataclass(frozen=True, slots=True)
class Alone:
    """The first value that differs although its node got the same on both sides, and what the judges say of it."""

    name: str
    node: Node
    difference: Difference
    verdict: Verdict

    @property
    def further(self) -> str:
        """The side that is further off, as in Row."""
        return self.verdict.further


def first_alone(
    model: Model,
    side: Side,
    values: Mapping[str, Any],
    names: AbstractSet[str],
    tolerance: Tolerance,
    labels: tuple[str, str],
    second: SecondJudge,
) -> Alone | None:
    """The first of the values `names` that `side` computes beyond tolerance from the `values` of the first side.

    The default atol counts in units of the tensor's root mean square where that is more than 1: what cancels in a sum
    of large numbers leaves the rounding of those. Raises what the side raises.
    """
    known = values.keys() | model.graph.constants.keys()
    nodes = [n for n in model.graph.nodes if not names.isdisjoint(n.outputs) and known.issuperset(n.reads())]
    part = _apart(model, nodes)
    marked = {id(node): alone for node, alone in zip(nodes, part.graph.nodes, strict=True)}
    asked = [name for node in nodes for name in node.outputs if name in names]
    feed = {name: values[name] for node in nodes for name in node.reads() if name in values}
    found = side.run(part, feed, [name + MARK for name in asked])
    for node in nodes:
        for name in node.outputs:
            if name not in names or name + MARK not in found:
                continue
            here, there = values[name], found[name + MARK]
            apart = difference(here, there, _scaled(tolerance, here))
            if apart.exceeds:
                judged = judge(part, feed, [name + MARK])
                truth = judged.values.get(name + MARK), judged.reasons.get(name + MARK, "")
                said = second.value(part, marked[id(node)], name + MARK, feed)
                return Alone(name, node, apart, verdict(here, there, truth, said, labels, node))
    return None


def _apart(model: Model, nodes: Collection[Node]) -> Model:
    """The nodes alone: none reads what another one computes."""
    graph = model.graph
    marked = tuple(replace(node, outputs=tuple(o and o + MARK for o in node.outputs)) for node in nodes)
    types = {name + MARK: type_ for name, type_ in graph.types.items()}
    return replace(model, graph=graph.with_nodes(marked, types={**graph.types, **types}))


def _scaled(tolerance: Tolerance, value: Any) -> Tolerance:
    if tolerance.atol is not None or not isinstance(value, np.ndarray):
        return tolerance
    dtype = dtypes.of_numpy(value.dtype)
    if dtype.kind != "f":
        return tolerance
    wide = value.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    size = sqrt(float(np.dot(finite, finite)) / max(finite.size, 1))
    return Tolerance(tolerance.rtol, tolerance.of(dtype)[1] * max(size, 1.0))
