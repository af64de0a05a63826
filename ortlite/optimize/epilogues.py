"""Activations and residual sums as epilogues of the operator before them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ortlite import dtypes
from ortlite.graph import Node
from ortlite.optimize.attention import HUGE, TINY
from ortlite.optimize.rule import MS, New, copy
from ortlite.optimize.view import View

__all__ = ["conv_activation", "conv_sum", "convolution", "match_conv_activation", "match_conv_sum", "match_scale",
           "match_transpose", "scale", "transpose"]  # fmt: skip

FLOAT = dtypes.by_name("float32")  # the only dtype in which onnxruntime has FusedConv everywhere

# Parameters of the activations that FusedConv knows: their attributes and defaults, in order.
ACTIVATIONS: dict[str, tuple[tuple[str, float], ...]] = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "LeakyRelu": (("alpha", 0.01),),
    "HardSigmoid": (("alpha", 0.2), ("beta", 0.5)),
}
# And those that it knows here alone: onnxruntime would refuse a file with them.
HERE: dict[str, tuple[tuple[str, float], ...]] = {"QuickGelu": (("alpha", 1.702),), "HardSwish": ()}


def match_conv_activation(view: View, node: Node) -> tuple[Node, tuple[float, ...]] | None:
    """An activation of a convolution: the latter, and the former's parameters."""
    conv = convolution(view, node.inputs[0])
    if conv is None or conv.attributes.get("activation"):
        return None
    if node.op_type != "Clip":
        params = (ACTIVATIONS | HERE)[node.op_type]
        return conv, tuple(node.attributes.get(name, default) for name, default in params)
    bounds = _bounds(view, node)
    return None if bounds is None else (conv, bounds)


def convolution(view: View, name: str) -> Node | None:
    """The convolution in float32 that computes a value which one node reads."""
    node = view.producers.get(name)
    if node is None or (node.domain, node.op_type) not in {("", "Conv"), (MS, "FusedConv")} or not view.alone(name):
        return None
    return node if view.dtype(name) == FLOAT else None


def _bounds(view: View, node: Node) -> tuple[float, float] | None:
    """The constant bounds of a Clip, as far as it has them."""
    low, high = float(np.finfo(np.float32).min), float(np.finfo(np.float32).max)
    if node.opset < 11:
        return node.attributes.get("min", low), node.attributes.get("max", high)
    found = [low, high]
    for i, name in enumerate(node.inputs[1:3]):
        if not name:
            return None  # infinities stay what they are
        number = view.scalar(name)
        if number is None:
            return None
        found[i] = number
    return (found[0], found[1]) if len(node.inputs) > 2 and found[0] <= found[1] else None


def conv_activation(view: View, node: Node, found: tuple[Node, tuple[float, ...]]) -> New:
    """FusedConv with an activation."""
    conv, params = found
    attributes: dict[str, Any] = {**conv.attributes, "activation": node.op_type}
    if params:
        attributes["activation_params"] = params
    return New((copy(node, "FusedConv", conv.inputs, domain=MS, attributes=attributes),))


class _Sum(NamedTuple):
    conv: Node
    other: str


def match_conv_sum(view: View, node: Node) -> _Sum | None:
    """The sum of a convolution and a value of the same shape that is there in time."""
    for value, other in (node.inputs, node.inputs[::-1]):
        conv = convolution(view, value)
        if conv is None or conv.op_type != "Conv" or other == value or other in view.constants:
            continue
        shape = view.shape(value)
        if shape is not None and view.shape(other) == shape:
            return _Sum(conv, other)
    return None


def conv_sum(view: View, node: Node, found: _Sum) -> New:
    """FusedConv with a residual."""
    conv = found.conv
    inputs = [*conv.inputs, ""] if len(conv.inputs) == 2 else list(conv.inputs)
    return New((copy(node, "FusedConv", [*inputs, found.other], domain=MS, attributes=conv.attributes),))


class _Product(NamedTuple):
    a: str
    b: str
    turned: tuple[bool, bool]
    alpha: float


def _product(node: Node) -> _Product | None:
    """A product of matrices in FusedMatMul's terms."""
    given = node.attributes
    if given.get("transBatchA") or given.get("transBatchB"):
        return None
    turned = (bool(given.get("transA")), bool(given.get("transB")))
    return _Product(node.inputs[0], node.inputs[1], turned, given.get("alpha", 1.0))


def _both_computed(view: View, found: _Product) -> bool:
    """Whether neither factor is a constant: those are prepared for MatMul."""
    return found.a not in view.constants and found.b not in view.constants


def match_transpose(view: View, node: Node) -> _Product | None:
    """A product of which one factor has its last two axes swapped just before."""
    found = _product(node)
    if found is None or view.dtype(node.outputs[0]) != FLOAT or not _both_computed(view, found):
        return None
    names, turned = [found.a, found.b], list(found.turned)
    for i, name in enumerate(names):
        before = view.made_by(name, "Transpose")
        if before is None or not view.alone(name):
            continue
        perm = before.attributes.get("perm") or tuple(range(view.rank(before.inputs[0]) or 0))[::-1]
        rank = len(perm)
        if rank >= 2 and tuple(perm) == (*range(rank - 2), rank - 1, rank - 2):
            names[i], turned[i] = before.inputs[0], not turned[i]
    if tuple(names) == (found.a, found.b):
        return None
    return _Product(names[0], names[1], (turned[0], turned[1]), found.alpha)


def transpose(view: View, node: Node, found: _Product) -> New:
    """FusedMatMul that reads its factors as they are."""
    a, b = found.turned
    attributes = {"alpha": found.alpha, "transA": int(a), "transB": int(b)}
    return New((copy(node, "FusedMatMul", [found.a, found.b], domain=MS, attributes=attributes),))


def match_scale(view: View, node: Node) -> _Product | None:
    """A product of matrices times or over a constant number."""
    if view.dtype(node.outputs[0]) != FLOAT:
        return None
    pairs = (node.inputs, node.inputs[::-1]) if node.op_type == "Mul" else (node.inputs,)
    for value, other in pairs:
        product = view.producers.get(value)
        number = view.scalar(other, value)
        if product is None or number is None or number == 0 or not np.isfinite(number) or not view.alone(value):
            continue
        if (product.domain, product.op_type) not in {("", "MatMul"), (MS, "FusedMatMul")}:
            continue
        found = _product(product)
        if found is not None and _both_computed(view, found):
            alpha = found.alpha * (number if node.op_type == "Mul" else 1 / number)
            if not TINY < abs(alpha) < HUGE:
                continue
            return _Product(found.a, found.b, found.turned, alpha)
    return None


scale = transpose
