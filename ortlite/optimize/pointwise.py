"""A convolution of every pixel by itself and the depthwise one that alone reads it, as one operator."""

from __future__ import annotations

from typing import Any

from ortlite.graph import Node
from ortlite.optimize.epilogues import convolution
from ortlite.optimize.rule import New, copy
from ortlite.optimize.view import View, anchored
from ortlite.schema import OWN

__all__ = ["match_depthwise", "widened"]

WINDOWS = ("auto_pad", "dilations", "pads", "strides")


def _weights(view: View, node: Node) -> tuple[int, ...] | None:
    """The shape of an image's constant weights, where nothing is added to the result."""
    weights = view.constant(node.inputs[1])
    if weights is None or weights.ndim != 4 or len(node.inputs) > 3:
        return None
    return tuple(weights.shape)


def match_depthwise(view: View, node: Node) -> Node | None:
    """A depthwise convolution: the one of single pixels before it, which nobody else reads."""
    before = convolution(view, node.inputs[0])
    if before is None or anchored(before):
        return None
    own, first = _weights(view, node), _weights(view, before)
    if own is None or first is None:
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
