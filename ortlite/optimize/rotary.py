"""Rotary embedding recovered from x · cos + rotate_half(x) · sin."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ortlite.graph import Node
from ortlite.optimize.rule import New, copy
from ortlite.optimize.view import View

__all__ = ["match_rotary", "rotary"]

FAR = 2**31 - 1  # where a slice that has no other end ends


class _Rotary(NamedTuple):
    """`x` (batch, heads, sequence, size) and tables (batch or 1, sequence, size) whose halves are the same."""

    x: str
    cos: str
    sin: str
    half: int
    batch: str  # the model's input whose first axis is the batch, where the tables have only one


def match_rotary(view: View, node: Node) -> _Rotary | None:
    """The sum of both products."""
    if not view.is_float(node.outputs[0]):
        return None
    for straight, crossed in (node.inputs, node.inputs[::-1]):
        one, other = view.made_by(straight, "Mul"), view.made_by(crossed, "Mul")
        if one is None or other is None or not view.alone(straight) or not view.alone(crossed):
            continue
        for turned, by_sin in (other.inputs, other.inputs[::-1]):
            x = _half_turned(view, turned)
            if x is None or x not in one.inputs or one.inputs[0] == one.inputs[1]:
                continue
            by_cos = one.inputs[1] if one.inputs[0] == x else one.inputs[0]
            return _checked(view, x, by_cos, by_sin)
    return None


def _half_turned(view: View, name: str) -> str | None:
    """The value x of which this is the second half, negated, and then the first one."""
    join = view.made_by(name, "Concat") if view.alone(name) else None
    if join is None or len(join.inputs) != 2 or join.attributes["axis"] not in {-1, 3}:
        return None
    negated = view.made_by(join.inputs[0], "Neg")
    if negated is None:
        return None
    second, first = negated.inputs[0], join.inputs[1]
    x = _part(view, second, 1)
    return x if x is not None and x == _part(view, first, 0) else None


def _part(view: View, name: str, which: int) -> str | None:
    """The value of which this is the first or the second half along the last of four axes."""
    node = view.made_by(name, "Slice", "Split")
    if node is None:
        return None
    shape = view.shape(node.inputs[0])
    if shape is None or len(shape) != 4 or not isinstance(shape[3], int) or shape[3] % 2:
        return None
    half = shape[3] // 2
    if node.op_type == "Split":
        right = node.attributes.get("axis", 0) in {-1, 3} and node.outputs.index(name) == which
        return node.inputs[0] if right and len(node.outputs) == 2 and view.shape(name) == (*shape[:3], half) else None
    if node.opset < 10:
        return None
    found = [view.facts.value(source) for source in node.inputs[1:]]
    if len(found) < 3 or found[2] not in {(-1,), (3,)} or (len(found) > 3 and found[3] != (1,)):
        return None
    (start,), (end,) = found[0] or ("",), found[1] or ("",)
    if which == 0:
        return node.inputs[0] if start == 0 and end == half else None
    return node.inputs[0] if start == half and isinstance(end, int) and end >= min(shape[3], FAR) else None


def _checked(view: View, x: str, by_cos: str, by_sin: str) -> _Rotary | None:
    shape = view.shape(x)
    cos, sin = _table(view, by_cos, "Cos"), _table(view, by_sin, "Sin")
    if shape is None or cos is None or sin is None or not isinstance(shape[3], int):
        return None
    own = view.shape(cos)
    if own is None or view.shape(sin) != own or len(own) != 3 or own[1:] != shape[2:]:
        return None
    if own[0] == shape[0]:
        return _Rotary(x, cos, sin, shape[3] // 2, "")
    batch, _, axis = str(shape[0]).rpartition(":")
    return (
        _Rotary(x, cos, sin, shape[3] // 2, batch)
        if own[0] == 1 and axis == "0" and batch in view.graph.inputs
        else None
    )


def _table(view: View, name: str, function: str) -> str | None:
    """Angles' cosines or sines (batch, sequence, size), from a value with an axis for the heads."""
    node = view.made_by(name, "Unsqueeze")
    shape = view.shape(name)
    if node is None or shape is None or len(shape) != 4 or shape[1] != 1:
        return None
    before = view.shape(node.inputs[0])
    if before != (shape[0], *shape[2:]):
        return None
    inner = node.inputs[0]
    for _ in range(3):  # a scale, a cast
        made = view.made_by(inner, "Cast", "Mul", function)
        if made is None or (made.op_type == "Mul" and view.scalar(made.inputs[1], made.inputs[0]) is None):
            break
        inner = made.inputs[0]
    join = view.made_by(inner, "Concat")
    if (
        join is None
        or len(join.inputs) != 2
        or join.inputs[0] != join.inputs[1]
        or join.attributes["axis"] not in {-1, 2}
    ):
        return None
    return node.inputs[0]


def rotary(view: View, node: Node, found: _Rotary) -> New:
    """RotaryEmbedding of opset 23, by half a table; the halves are made once for all layers."""
    nodes: list[Node] = []
    constants: dict[str, np.ndarray] = {}

    def constant(wish: str, value: list[int]) -> str:
        name = view.names.fresh(f"{node.outputs[0]}/{wish}")
        constants[name] = np.array(value)
        return name

    def half(table: str) -> str:
        key = (table, found.batch)
        if key in view.shared:
            return view.shared[key]
        name = view.names.fresh(f"{table}/half")
        ends = [constant(wish, value) for wish, value in (("start", [0]), ("end", [found.half]), ("axis", [2]))]
        nodes.append(copy(node, "Slice", [table, *ends], outputs=(name,), opset=max(node.opset, 13)))
        if found.batch:
            slim = name
            size, shape, name = (view.names.fresh(f"{table}/{wish}") for wish in ("batch", "shape", "expanded"))
            part = {"start": 0, "end": 1}
            nodes.append(
                copy(node, "Shape", [found.batch], outputs=(size,), opset=max(node.opset, 15), attributes=part)
            )
            ones = constant("ones", [1, 1])
            nodes.append(copy(node, "Concat", [size, ones], outputs=(shape,), attributes={"axis": 0}))
            nodes.append(copy(node, "Expand", [slim, shape], outputs=(name,)))
        view.shared[key] = name
        return name

    tables = [half(found.cos), half(found.sin)]
    nodes.append(copy(node, "RotaryEmbedding", [found.x, *tables], opset=max(node.opset, 23)))
    return New(tuple(nodes), constants)
