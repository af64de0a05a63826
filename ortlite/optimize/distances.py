"""CDist from a Scan that compares each row of a matrix with all of another, as skl2onnx writes nearest neighbours."""

from __future__ import annotations

from typing import NamedTuple

from ortlite.graph import Graph, Node
from ortlite.optimize.rule import MS, New, copy
from ortlite.optimize.view import View

__all__ = ["distances", "match_distances"]


class _Rows(NamedTuple):
    """The matrix whose rows are scanned, and the one that every step sees."""

    scanned: str
    whole: str


def _is_distance(view: View, body: Graph) -> bool:
    """Whether a body hands its state on, and sums up the squares of what it differs by from a row."""
    state, row = body.inputs
    names = {state: state, row: row}  # behind Identity nodes
    made: dict[str, Node] = {}
    for node in body.nodes:
        if node.domain or node.op_type not in {"Identity", "Sub", "ReduceSumSquare"}:
            return False
        if node.op_type == "Identity":
            names[node.outputs[0]] = names.get(node.inputs[0], node.inputs[0])
        else:
            names[node.outputs[0]] = node.outputs[0]
            made[node.outputs[0]] = node
    last, sums = (names.get(name, name) for name in body.outputs)
    total = made.get(sums)
    if last != state or total is None or total.op_type != "ReduceSumSquare" or total.attributes.get("keepdims", 1):
        return False
    axes = total.attributes.get("axes")
    if axes is None and len(total.inputs) > 1:
        constant = body.constants.get(total.inputs[1], view.constant(total.inputs[1]))
        axes = None if constant is None else constant.reshape(-1).tolist()
    if axes is None or list(axes) not in ([1], [-1]):
        return False
    difference = made.get(names.get(total.inputs[0], ""))
    if difference is None or difference.op_type != "Sub":
        return False
    return {names.get(name) for name in difference.inputs} == {state, row}


def match_distances(view: View, node: Node) -> _Rows | None:
    """Scan with that body, of two matrices whose rows are certainly of one length."""
    if node.opset < 9 or node.attributes.get("num_scan_inputs") != 1 or len(node.inputs) != 2:
        return None
    ways = ("scan_input_axes", "scan_input_directions", "scan_output_axes", "scan_output_directions")
    if any(any(node.attributes.get(name) or ()) for name in ways):
        return None
    whole, scanned = node.inputs
    shapes, dtype = [view.shape(name) for name in node.inputs], view.dtype(whole)
    if any(shape is None or len(shape) != 2 for shape in shapes) or dtype is None:
        return None
    widths = [shape[1] for shape in shapes if shape is not None]
    if not isinstance(widths[0], int) or widths[0] != widths[1]:
        return None
    if dtype.name not in {"float32", "float64"} or view.dtype(scanned) != dtype:
        return None
    body = node.attributes["body"]
    if len(body.inputs) != 2 or len(body.outputs) != 2 or not _is_distance(view, body):
        return None
    return _Rows(scanned, whole)


def distances(view: View, node: Node, found: _Rows) -> New:
    """CDist, and the state as it was."""
    state, sums = (*node.outputs, "", "")[:2]
    new = []
    if sums:
        attributes = {"metric": "sqeuclidean"}
        made = copy(node, "CDist", (found.scanned, found.whole), outputs=(sums,), domain=MS, attributes=attributes)
        new.append(made)
    if state:
        new.append(copy(node, "Identity", (found.whole,), outputs=(state,)))
    return New(tuple(new))
