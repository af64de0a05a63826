"""Operators between DequantizeLinear and QuantizeLinear as the integer operators that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ortlite import dtypes
from ortlite.graph import Node
from ortlite.optimize.rule import MS, New, copy
from ortlite.optimize.view import View

__all__ = [
    "MOVING", "convolution", "dynamic", "hand_back", "integer", "match_back", "match_convolution", "match_dynamic",
    "match_integer", "match_moving", "match_redundant", "match_scaled", "match_scaled_bias", "moving", "redundant",
    "scaled", "scaled_bias",
]  # fmt: skip

FLOAT = dtypes.by_name("float32")
INT32 = dtypes.by_name("int32")
BYTES = {"int8", "uint8"}
TINY = 1e-5  # how far the scale of a bias may be from the product of both others

# Operators that only move elements, which have kernels for bytes: from which opset on.
MOVING: dict[str, int] = {
    "Flatten": 9, "Gather": 1, "MaxPool": 12, "Reshape": 5, "Slice": 1, "Squeeze": 1, "Transpose": 1, "Unsqueeze": 1,
}  # fmt: skip
UNARY = {
    "Sigmoid": "QLinearSigmoid", "LeakyRelu": "QLinearLeakyRelu", "GlobalAveragePool": "QLinearGlobalAveragePool",
    "AveragePool": "QLinearAveragePool",
}  # fmt: skip


class _Quantised(NamedTuple):
    """Bytes with a constant scale and zero point, "" for none; `axis` where there is one for each place."""

    x: str
    scale: str
    zero: str
    axis: int | None

    @property
    def single(self) -> bool:
        """Whether one scale is for all."""
        return self.axis is None


def _read(view: View, node: Node | None, kinds: set[str]) -> _Quantised | None:
    """What a DequantizeLinear reads, or a QuantizeLinear writes, with constants for the rest."""
    if node is None or node.attributes.get("block_size", 0):
        return None
    x, scale, zero = (*node.inputs, "")[:3]
    ints = x if node.op_type == "DequantizeLinear" else node.outputs[0]
    dtype, factor = view.dtype(ints), view.constant(scale)
    if dtype is None or dtype.name not in kinds or factor is None or view.dtype(scale) != FLOAT:
        return None
    if (zero and view.constant(zero) is None) or factor.ndim > 1 or not (factor > 0).all():
        return None
    return _Quantised(x, scale, zero, None if factor.size == 1 else node.attributes.get("axis", 1))


def _dequantised(view: View, name: str, kinds: set[str] = BYTES) -> _Quantised | None:
    return _read(view, view.made_by(name, "DequantizeLinear"), kinds)


def _same(view: View, a: _Quantised, b: _Quantised) -> bool:
    """Whether two have the same single scale and zero point, of one dtype."""
    zeros = [0 if not q.zero else int(view.constants[q.zero].reshape(-1)[0]) for q in (a, b) if q.single]
    if len(zeros) < 2 or zeros[0] != zeros[1]:
        return False
    return bool(view.constants[a.scale].reshape(-1)[0] == view.constants[b.scale].reshape(-1)[0])


def match_back(view: View, node: Node) -> str | None:
    """QuantizeLinear of what was dequantised with the same scale and zero point: the bytes."""
    after, before = _read(view, node, BYTES), _dequantised(view, node.inputs[0])
    if after is None or before is None or view.dtype(before.x) != view.dtype(node.outputs[0]):
        return None
    return before.x if _same(view, before, after) else None


def hand_back(view: View, node: Node, source: str) -> New:
    """The bytes themselves."""
    return New((copy(node, "Identity", [source]),))


def match_redundant(view: View, node: Node) -> str | None:
    """QuantizeLinear of a Relu whose zero is the lowest number that it writes: what the Relu reads."""
    after = _read(view, node, BYTES)
    relu = view.made_by(node.inputs[0], "Relu") if view.alone(node.inputs[0]) else None
    if after is None or relu is None or not after.single:
        return None
    lowest = 0 if view.dtype(node.outputs[0]) == dtypes.by_name("uint8") else -128
    zero = int(view.constants[after.zero].reshape(-1)[0]) if after.zero else 0
    return relu.inputs[0] if zero == lowest else None


def redundant(view: View, node: Node, source: str) -> New:
    """QuantizeLinear without it: saturation does the same."""
    return New((copy(node, "QuantizeLinear", [source, *node.inputs[1:]], attributes=node.attributes),))


def match_moving(view: View, node: Node) -> tuple[Node, str] | None:
    """QuantizeLinear of moved elements that were dequantised with the same scale: what moves them, and the bytes."""
    after = _read(view, node, BYTES)
    move = view.made_by(node.inputs[0], *MOVING) if view.alone(node.inputs[0]) else None
    if after is None or move is None or len(move.outputs) > 1 or move.opset < MOVING[move.op_type]:
        return None
    before = _dequantised(view, move.inputs[0])
    if before is None or view.dtype(before.x) != view.dtype(node.outputs[0]) or not _same(view, before, after):
        return None
    return move, before.x


def moving(view: View, node: Node, found: tuple[Node, str]) -> New:
    """The bytes moved."""
    move, source = found
    return New((copy(node, move.op_type, [source, *move.inputs[1:]], opset=move.opset, attributes=move.attributes),))


class _Integer(NamedTuple):
    """An operator on bytes: its inputs in order, zeros for a zero point that is missing."""

    op_type: str
    domain: str
    inputs: tuple[str | np.ndarray, ...]
    attributes: Mapping[str, Any]
    opset: int


def match_integer(view: View, node: Node) -> _Integer | None:
    """QuantizeLinear of an operator on dequantised bytes that exists for bytes."""
    y = _read(view, node, BYTES)
    made = view.producers.get(node.inputs[0])
    if y is None or made is None or made.domain or not y.single or not view.alone(node.inputs[0]) or not made.inputs:
        return None
    x = _dequantised(view, made.inputs[0])
    dtype = view.dtype(node.outputs[0])
    if x is None or not x.single or dtype is None or view.dtype(x.x) != dtype:
        return None
    byte = dtypes.to_numpy(dtype)

    def three(q: _Quantised) -> tuple[str | np.ndarray, ...]:
        own = view.dtype(q.x)
        zeros = np.zeros(view.constants[q.scale].shape, byte if own is None else dtypes.to_numpy(own))
        return q.x, q.scale, q.zero or zeros

    end = (y.scale, y.zero or np.zeros(view.constants[y.scale].shape, byte))
    if made.op_type in UNARY:
        if made.op_type == "AveragePool" and (made.attributes.get("dilations") or made.opset > 18):
            return None
        return _Integer(UNARY[made.op_type], MS, (*three(x), *end), made.attributes, 1)
    if made.op_type in {"Add", "Mul"}:
        other = _dequantised(view, made.inputs[1])
        if other is None or not other.single or view.dtype(other.x) != dtype:
            return None
        return _Integer(f"QLinear{made.op_type}", MS, (*three(x), *three(other), *end), {}, 1)
    weights = _dequantised(view, made.inputs[1]) if len(made.inputs) > 1 else None
    if weights is None or view.constant(weights.x) is None or (dtype.name == "int8" and view.dtype(weights.x) != dtype):
        return None
    rank = view.constants[weights.x].ndim
    if made.op_type == "Conv" and (weights.single or weights.axis == 0):
        bias = _bias(view, made, x, weights)
        if bias is not None:
            return _Integer(
                "QLinearConv", "", (*three(x), *three(weights), *end, *bias), made.attributes, max(made.opset, 10)
            )
    if made.op_type == "MatMul" and rank == 2 and (weights.single or weights.axis in {1, -1}):
        return _Integer("QLinearMatMul", "", (*three(x), *three(weights), *end), {}, max(made.opset, 10))
    if made.op_type == "Gemm" and made.attributes.get("alpha", 1.0) == 1.0 == made.attributes.get("beta", 1.0):
        turned = {name: value for name, value in made.attributes.items() if name in {"transA", "transB"}}
        bias = _bias(view, made, x, weights)
        columns = {0, -2} if turned.get("transB") else {1, -1}
        if bias is not None and (weights.single or weights.axis in columns):
            return _Integer("QGemm", MS, (*three(x), *three(weights), *(bias or ("",)), *end), turned, 1)
    return None


def _bias(view: View, node: Node, x: _Quantised, weights: _Quantised) -> tuple[str, ...] | None:
    """The int32 vector whose unit is the product of both scales; () for none, None for what is no such bias."""
    if len(node.inputs) < 3 or not node.inputs[2]:
        return ()
    bias = _dequantised(view, node.inputs[2], {"int32"})
    vector = None if bias is None else view.constant(bias.x)
    if bias is None or vector is None or vector.ndim != 1 or (bias.zero and view.constants[bias.zero].any()):
        return None
    product = view.constants[x.scale].reshape(-1) * view.constants[weights.scale].reshape(-1)
    own = view.constants[bias.scale].reshape(-1)
    if own.size not in {1, product.size} or (product.size > 1 and vector.size != product.size):
        return None
    return (bias.x,) if np.allclose(own, product, rtol=TINY, atol=0) else None


def integer(view: View, node: Node, found: _Integer) -> New:
    """The operator on bytes."""
    constants: dict[str, np.ndarray] = {}
    inputs = []
    for value in found.inputs:
        if not isinstance(value, str):  # no zero point
            name = view.names.fresh(f"{node.outputs[0]}/zero")
            constants[name] = value
            value = name
        inputs.append(value)
    made = copy(node, found.op_type, inputs, domain=found.domain, opset=found.opset, attributes=found.attributes)
    return New((made,), constants)


def match_convolution(view: View, node: Node) -> int | None:
    """com.microsoft's QLinearConv, where it is known how many axes its filters have: how many."""
    return view.rank(node.inputs[3])


def convolution(view: View, node: Node, rank: int) -> New:
    """ai.onnx's, for which providers have something faster; channels that are last are only seen from another side."""
    given = {name: value for name, value in node.attributes.items() if name != "channels_last"}
    if not node.attributes.get("channels_last", 0):
        return New((copy(node, "QLinearConv", node.inputs, opset=10, attributes=given),))
    x, y = (view.names.fresh(f"{node.outputs[0]}/{side}") for side in ("channels first", "convolved"))
    first = copy(
        node,
        "Transpose",
        node.inputs[:1],
        outputs=(x,),
        opset=1,
        attributes={"perm": (0, rank - 1, *range(1, rank - 1))},
    )
    made = copy(node, "QLinearConv", (x, *node.inputs[1:]), outputs=(y,), opset=10, attributes=given)
    last = copy(node, "Transpose", [y], opset=1, attributes={"perm": (0, *range(2, rank), 1)})
    return New((first, made, last))


def match_scaled(view: View, node: Node) -> tuple[str, ...] | None:
    """Mul of a product of integers by both scales: that of what was quantised by its range, and that of weights."""
    for value, scale in (node.inputs, node.inputs[::-1]):
        cast, factors = view.made_by(value, "Cast"), view.made_by(scale, "Mul")
        if cast is None or factors is None or not view.alone(value) or not view.alone(cast.inputs[0]):
            continue
        product = view.made_by(cast.inputs[0], "MatMulInteger")
        if product is None or view.dtype(value) != FLOAT:
            continue
        a, b, a_zero, b_zero = (*product.inputs, "", "")[:4]
        made = view.made_by(a, "DynamicQuantizeLinear")
        weights = view.constant(b)
        if made is None or made.outputs[0] != a or made.outputs[2] != a_zero or weights is None or weights.ndim != 2:
            continue
        for own, other in (factors.inputs, factors.inputs[::-1]):
            factor = view.constant(other)
            if own != made.outputs[1] or factor is None or factor.dtype != np.float32:
                continue
            if factor.shape in {(), (1,), weights.shape[1:]}:
                return (a, b, own, other, a_zero, *([b_zero] if b_zero else []))
    return None


def scaled(view: View, node: Node, inputs: tuple[str, ...]) -> New:
    """The product that scales."""
    return New((copy(node, "MatMulIntegerToFloat", inputs, domain=MS),))


def match_scaled_bias(view: View, node: Node) -> tuple[Node, str] | None:
    """Add of a vector to a product that scales: the product and the vector."""
    for value, bias in (node.inputs, node.inputs[::-1]):
        product = view.producers.get(value)
        if product is None or (product.domain, product.op_type) != (MS, "MatMulIntegerToFloat"):
            continue
        weights, vector = view.constant(product.inputs[1]), view.constant(bias)
        if weights is None or vector is None or len(product.inputs) > 6 or not view.alone(value):
            continue
        if vector.shape == weights.shape[1:] and vector.dtype == np.float32:
            return product, bias
    return None


def scaled_bias(view: View, node: Node, found: tuple[Node, str]) -> New:
    """The product that scales and adds."""
    product, bias = found
    inputs = (*product.inputs, "")[:6]
    return New((copy(node, "MatMulIntegerToFloat", (*inputs, bias), domain=MS),))


def match_dynamic(view: View, node: Node) -> Node | None:
    """A product that scales of what was quantised for it alone: what quantised it."""
    made = view.made_by(node.inputs[0], "DynamicQuantizeLinear")
    if made is None or (*node.inputs[:1], node.inputs[2], *node.inputs[4:5]) != made.outputs:
        return None
    return made if all(map(view.alone, made.outputs)) else None


def dynamic(view: View, node: Node, made: Node) -> New:
    """The product that quantises, scales and adds."""
    _, b, _, b_scale, _, *rest = node.inputs
    return New((copy(node, "DynamicQuantizeMatMul", (made.inputs[0], b, b_scale, *rest), domain=MS),))
