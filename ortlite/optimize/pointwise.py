"""A convolution of every pixel by itself and the depthwise one that alone reads it, as one operator."""

from __future__ import annotations

from typing import Any

from ortlite import dtypes
from ortlite.graph import Node
from ortlite.optimize.rule import MS, OWN, New, copy
from ortlite.optimize.view import View, anchored

__all__ = ["match_depthwise", "widened"]

FLOAT = dtypes.by_name("float32")
CONVOLUTIONS = {("", "Conv"), (MS, "FusedConv")}
WINDOWS = ("auto_pad", "dilations", "pads", "strides")


def _weights(view: View, node: Node) -> tuple[int, ...] | None:
    """The shape of an image's constant weights, where nothing is added to the result."""
    weights = view.constant(node.inputs[1])
    fits = weights is not None and weights.ndim == 4 and len(node.inputs) < 4
    return tuple(weights.shape) if weights is not None and fits else None


def match_depthwise(view: View, node: Node) -> Node | None:
    """A depthwise convolution: the one of single pixels before it, which nobody else reads."""
    before = view.producers.get(node.inputs[0])
    if before is None or (before.domain, before.op_type) not in CONVOLUTIONS or anchored(before):
        return None
    own, first = _weights(view, node), _weights(view, before)
    if own is None or first is None or not view.alone(node.inputs[0]) or view.dtype(node.inputs[0]) != FLOAT:
        return None
    depthwise = own[1] == 1 and own[0] == first[0] == node.attributes.get("group", 1)
    given = before.attributes
    plain = first[2:] == (1, 1) and given.get("group", 1) == 1 and not any(given.get("pads") or ())
    steps = {*(given.get("strides") or ()), *(given.get("dilations") or ())}
    return before if depthwise and plain and steps <= {1} else None


def widened(view: View, node: Node, before: Node) -> New:
    """Both in one."""
    first, last = before.attributes, node.attributes
    attributes: dict[str, Any] = {name: last[name] for name in WINDOWS if name in last}
    for given, prefix in ((first, ""), (last, "last_")):
        for name in ("activation", "activation_params"):
            if given.get(name):
                attributes[prefix + name] = given[name]
    x, w, *b = before.inputs
    inputs = [x, w, node.inputs[1], *(b or [""]), *node.inputs[2:]]
    return New((copy(node, "PointwiseDepthwiseConv", inputs, domain=OWN, opset=1, attributes=attributes),))
