"""The second judge: onnx.reference, which has operators as ONNX's own authors wrote them in NumPy.

The first judge runs ortlite's kernels, and so may a side: a fault of such a kernel is in both, and the other side would
get the blame. The judges have to agree before there is blame, unless only one of them knows the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isinf
from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator

from ortlite.compare.judge import MARGIN, brief, distance, errors_of, further_off, wide_value, widened
from ortlite.dtypes import to_numpy
from ortlite.graph import Graph, Model, Node, TensorType, Type, extract
from ortlite.save import to_proto

__all__ = ["FIRST", "SECOND", "SecondJudge", "Verdict", "verdict"]

FIRST, SECOND = "ortlite's kernels in float64", "onnx.reference"
ELEMENTS = (
    1 << 24
)  # of all values that onnx.reference gets to read in one comparison: it may take a second for a million


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who of two is further off ("" where neither is, where the judges disagree, or where nobody can tell).

    `errors` are the largest distances of the two sides from the judge; `says` names the judges that agreed, or tells
    how they disagree, and then `disputed` is true: the kernel itself is suspect.
    """

    further: str = ""
    errors: tuple[float, float] | None = None
    says: str = ""
    disputed: bool = False


@dataclass(slots=True)
class SecondJudge:
    """onnx.reference, node by node. `left` is what it may still read."""

    left: int = ELEMENTS

    def value(self, model: Model, node: Node, name: str, values: Mapping[str, Any]) -> tuple[Any, str]:
        """The output `name` of a node from the `values` it reads, in float64 where it can; (None, why not)."""
        constants, types = model.graph.constants, model.graph.types
        feed = {read: values[read] for read in node.reads() if read in values}
        held = {read: constants[read] for read in node.reads() if read in constants and read not in feed}
        if lacking := [read for read in node.reads() if read not in feed and read not in held]:
            return None, f"its input {lacking[0]!r} has no value"
        self.left -= sum(map(_size, (*feed.values(), *held.values())))
        if self.left < 0:
            return None, "there is too much to read"
        known = {n: types[n] for n in (*node.reads(), *node.outputs) if n in types}
        alone = Graph(model.graph.name, (), (name,), (node,), held, known)
        part = extract(alone, list(feed), [name])
        reason = ""
        for graph in (widened(part), part):
            given = {read: _as_declared(value, graph.types.get(read)) for read, value in feed.items()}
            try:
                evaluator = ReferenceEvaluator(to_proto(replace(model, graph=graph)))
                (found,) = evaluator.run([name], given)
            except Exception as error:  # noqa: BLE001  (whatever it says of an operator that it does not know)
                reason = reason or f"it fails: {brief(error)}"
                continue
            return wide_value(found), ""
        return None, reason


def _as_declared(value: Any, type_: Type | None) -> Any:
    """A float tensor in the dtype of its type."""
    if isinstance(value, np.ndarray) and isinstance(type_, TensorType) and type_.dtype.kind in "fc":
        return value.astype(to_numpy(type_.dtype))
    return value


def _size(value: Any) -> int:
    return sum(map(_size, value)) if isinstance(value, list) else int(getattr(value, "size", 1))


def verdict(
    a: Any,
    b: Any,
    first: tuple[Any, str],
    second: tuple[Any, str],
    labels: tuple[str, str],
    node: Node,
) -> Verdict:
    """What two judges, each a value or (None, why there is none), say of the values of two sides."""
    (one, why_not_one), (other, why_not_other) = first, second
    if one is None and other is None:
        return Verdict()
    errors = errors_of(a, b, other if one is None else one)
    further = further_off(errors, labels)
    if one is None:
        return Verdict(further, errors, f"{SECOND} alone judges: {why_not_one}")
    if other is None:
        return Verdict(further, errors, f"{FIRST} alone judge: {SECOND} does not, {why_not_other}")
    apart = distance(other, one)
    if isinf(apart) or apart * MARGIN > max(errors):
        operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        says = f"the judges disagree: {FIRST} and {SECOND} are {apart:.3g} apart"
        return Verdict("", errors, f"{says}; the kernel of {operator} itself is suspect", disputed=True)
    return Verdict(further, errors, f"both judges agree, {FIRST} and {SECOND}")
