"""Activation functions recovered from the arithmetic that exporters write for them."""

from __future__ import annotations

from collections.abc import Mapping
from math import pi, sqrt
from typing import Any

from ortlite.graph import Node
from ortlite.optimize.polynomial import Polynomial, alike, expand
from ortlite.optimize.rule import MS, New, copy
from ortlite.optimize.view import View

__all__ = ["bias_gelu", "gelu", "hard_swish", "match_bias_gelu", "match_gelu", "match_hard_swish", "match_mish",
           "match_swish", "match_tanh_gelu", "mish", "swish", "tanh_gelu"]  # fmt: skip

ROOT = sqrt(2 / pi)


def _with(view: View, node: Node, *op_types: str) -> tuple[str, Node, Polynomial] | None:
    """The value, the node of `op_types` and the polynomial of both that `node` computes."""
    found = expand(view, node.outputs[0])
    if found is None or not view.is_float(node.outputs[0]):
        return None
    atoms = {name for term in found for name in term}
    if len(atoms) != 2:
        return None
    for name in atoms:
        inner = view.made_by(name, *op_types)
        if inner is not None and name not in view.kept and all(name in term for term in found if len(term) > 1):
            (x,) = atoms - {name}
            return x, inner, found
    return None


def _gelu_by(view: View, node: Node, op_type: str, powers: Mapping[int, float]) -> str | None:
    """½ x (1 + f(u)): x, where f is an operator and u the polynomial in x whose factors `powers` has by exponent."""
    found = _with(view, node, op_type)
    if found is None:
        return None
    x, f, polynomial = found
    y, f_of_u = node.outputs[0], f.outputs[0]
    if not view.alone(f_of_u) or not alike(view, y, polynomial, {(x,): 0.5, tuple(sorted((x, f_of_u))): 0.5}):
        return None
    return x if alike(view, y, expand(view, f.inputs[0]), {(x,) * n: factor for n, factor in powers.items()}) else None


def match_gelu(view: View, node: Node) -> str | None:
    """½ x (1 + erf(x / √2)): x."""
    return _gelu_by(view, node, "Erf", {1: sqrt(0.5)})


def gelu(view: View, node: Node, x: str) -> New:
    """Gelu in the domain that has it in this opset."""
    return New((copy(node, "Gelu", [x]) if node.opset >= 20 else copy(node, "Gelu", [x], domain=MS),))


def match_tanh_gelu(view: View, node: Node) -> str | None:
    """½ x (1 + tanh(√(2/π) (x + 0.044715 x³))): x."""
    return _gelu_by(view, node, "Tanh", {1: ROOT, 3: ROOT * 0.044715})


def tanh_gelu(view: View, node: Node, x: str) -> New:
    """Gelu by a hyperbolic tangent in the domain that has it in this opset."""
    if node.opset >= 20:
        return New((copy(node, "Gelu", [x], attributes={"approximate": "tanh"}),))
    return New((copy(node, "FastGelu", [x], domain=MS),))


def match_bias_gelu(view: View, node: Node) -> tuple[str, str] | None:
    """Gelu of a sum with a constant vector: the value and the vector."""
    approximate = node.attributes.get("approximate", "none")
    if not node.inputs or len(node.inputs) > 1 or approximate not in {"none", "tanh"}:
        return None
    add = view.made_by(node.inputs[0], "Add")
    if add is None or not view.alone(add.outputs[0]) or not view.is_float(add.outputs[0]):
        return None
    for x, bias in (add.inputs, add.inputs[::-1]):
        shape, vector = view.shape(x), view.constant(bias)
        if shape and vector is not None and vector.ndim == 1 and vector.shape[0] == shape[-1]:
            return x, bias
    return None


def bias_gelu(view: View, node: Node, found: tuple[str, str]) -> New:
    """BiasGelu, or FastGelu where that is meant."""
    fast = node.op_type == "FastGelu" or node.attributes.get("approximate", "none") == "tanh"
    return New((copy(node, "FastGelu" if fast else "BiasGelu", found, domain=MS),))


def match_swish(view: View, node: Node) -> tuple[str, float] | None:
    """X · sigmoid(α x): x and α."""
    found = _with(view, node, "Sigmoid")
    if found is None:
        return None
    x, sigmoid, polynomial = found
    y, s = node.outputs[0], sigmoid.outputs[0]
    if not view.alone(s) or not alike(view, y, polynomial, {tuple(sorted((x, s))): 1.0}):
        return None
    if sigmoid.inputs[0] == x:
        return x, 1.0
    inner = expand(view, sigmoid.inputs[0])
    return (x, inner[(x,)]) if inner is not None and inner.keys() == {(x,)} else None


def swish(view: View, node: Node, found: tuple[str, float]) -> New:
    """QuickGelu, which onnxruntime has in every opset."""
    x, alpha = found
    return New((copy(node, "QuickGelu", [x], domain=MS, attributes={"alpha": alpha}),))


def match_mish(view: View, node: Node) -> str | None:
    """X · tanh(softplus(x)): x."""
    found = _with(view, node, "Tanh")
    if found is None:
        return None
    x, tanh, polynomial = found
    y, t = node.outputs[0], tanh.outputs[0]
    plus = view.made_by(tanh.inputs[0], "Softplus")
    if plus is None or plus.inputs[0] != x or not view.alone(t) or not view.alone(plus.outputs[0]):
        return None
    return x if alike(view, y, polynomial, {tuple(sorted((x, t))): 1.0}) else None


def mish(view: View, node: Node, x: str) -> New:
    """Mish, which ONNX has from opset 18 on."""
    return New((copy(node, "Mish", [x], opset=max(node.opset, 18)),))


def match_hard_swish(view: View, node: Node) -> str | None:
    """X · hard sigmoid with slope 1/6, or x · clip(x + 3, 0, 6) / 6: x."""
    found = _with(view, node, "HardSigmoid", "Clip")
    if found is None:
        return None
    x, inner, polynomial = found
    y, h = node.outputs[0], inner.outputs[0]
    if not view.alone(h):
        return None
    term = tuple(sorted((x, h)))
    if inner.op_type == "HardSigmoid":
        slope, offset = inner.attributes.get("alpha", 0.2), inner.attributes.get("beta", 0.5)
        right = inner.inputs[0] == x and abs(slope * 6 - 1) < 1e-5 and offset == 0.5
        return x if right and alike(view, y, polynomial, {term: 1.0}) else None
    if _clip(view, inner) != (0.0, 6.0) or not alike(view, y, polynomial, {term: 1 / 6}):
        return None
    return x if alike(view, y, expand(view, inner.inputs[0]), {(x,): 1.0, (): 3.0}) else None


def _clip(view: View, node: Node) -> tuple[Any, Any]:
    """The constant bounds of a Clip."""
    if len(node.inputs) == 1:
        return node.attributes.get("min"), node.attributes.get("max")
    low, high = (view.scalar(name) if name else None for name in (*node.inputs[1:], "", "")[:2])
    return low, high


def hard_swish(view: View, node: Node, x: str) -> New:
    """HardSwish, which ONNX has from opset 14 on."""
    return New((copy(node, "HardSwish", [x], opset=max(node.opset, 14)),))
