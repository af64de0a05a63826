"""Attention recovered from its products and softmax."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ortlite.graph import Node
from ortlite.optimize.rule import New, copy
from ortlite.optimize.view import View

__all__ = ["attention", "everywhere", "match_attention", "match_swap", "swap"]

SWAPPED = (0, 1, 3, 2)
ANCESTORS = 200  # nodes between a mask and what it is made of


@dataclass(frozen=True, slots=True)
class _Attention:
    """What Attention gets. `swap`: how to turn the keys that were found into (batch, heads, sequence, size)."""

    q: str
    k: str
    swap: tuple[int, ...] | None
    v: str
    mask: str
    scale: float


def match_attention(view: View, node: Node) -> _Attention | None:
    """softmax(q k' · scale + mask) v, over four axes."""
    weights, v = node.inputs
    if view.rank(v) != 4 or not view.is_float(node.outputs[0]):
        return None
    softmax, guarded = _softmax(view, weights)
    if softmax is None:
        return None
    scores, mask = softmax.inputs[0], ""
    add = view.made_by(scores, "Add") if view.alone(scores) else None
    if add is not None:
        for value, other in (add.inputs, add.inputs[::-1]):
            if _leads_to_product(view, value) and _fits(view, other, scores):
                scores, mask = value, "" if everywhere(view, other) == 0.0 else other
                break
        else:
            return None
    product, factor = _unscaled(view, scores)
    matmul = view.made_by(product, "MatMul") if view.alone(product) else None
    if matmul is None:
        return None
    q, by_q = _unscaled(view, matmul.inputs[0])
    turned, by_k = _unscaled(view, matmul.inputs[1])
    k, swap, inner = _keys(view, turned)
    shapes = [view.shape(name) for name in (q, turned, v)]
    if any(shape is None or len(shape) != 4 for shape in shapes):
        return None
    (b, h, _, d), (bk, hk, dk, s), (bv, hv, sv, _) = shapes  # type: ignore[misc]
    if not (b == bk == bv and hk == hv and s == sv and d == dk and (h == hk or _multiple(h, hk))):
        return None
    if h != hk or (mask and not guarded and _may_hide_all(view, mask)):
        return None
    return _Attention(q, k, swap, v, mask, factor * by_q * by_k * inner)


def _multiple(heads: object, of: object) -> bool:
    return isinstance(heads, int) and isinstance(of, int) and of > 0 and heads % of == 0


def _softmax(view: View, name: str) -> tuple[Node | None, bool]:
    """The softmax over the last axis that computes a value, and whether its NaNs are made zeros."""
    guard = view.made_by(name, "Where") if view.alone(name) else None
    if guard is not None:
        test = view.made_by(guard.inputs[0], "IsNaN")
        if test is None or test.inputs[0] != guard.inputs[2] or view.scalar(guard.inputs[1], guard.inputs[2]) != 0.0:
            return None, False
        name = guard.inputs[2]
        if len(view.readers.get(name, ())) != 2 or name in view.kept or not view.alone(guard.inputs[0]):
            return None, False
    elif not view.alone(name):
        return None, False
    node = view.made_by(name, "Softmax")
    if node is None or node.attributes.get("axis", -1 if node.opset >= 13 else 1) not in {-1, 3}:
        return None, False
    return node, guard is not None


def _unscaled(view: View, name: str) -> tuple[str, float]:
    """A value without the constant numbers that it was multiplied by or divided by, and these."""
    factor = 1.0
    while view.alone(name) and (node := view.made_by(name, "Mul", "Div")) is not None:
        pairs = (node.inputs, node.inputs[::-1]) if node.op_type == "Mul" else (node.inputs,)
        for value, other in pairs:
            number = view.scalar(other, value)
            if number and np.isfinite(number):
                factor = factor * number if node.op_type == "Mul" else factor / number
                name = value
                break
        else:
            break
    return name, factor


def _leads_to_product(view: View, name: str) -> bool:
    return view.alone(name) and view.made_by(_unscaled(view, name)[0], "MatMul") is not None


def _fits(view: View, mask: str, scores: str) -> bool:
    """Whether a mask broadcasts to the scores, and not the scores to it."""
    own, full = view.shape(mask), view.shape(scores)
    if own is None or full is None or len(own) > 4 or len(full) != 4 or len(own) < 2:
        return False
    return all(a in (1, b) for a, b in zip(own[::-1], full[::-1], strict=False))


def everywhere(view: View, name: str) -> float | None:
    """The number that every element of a value is, where that is certain."""
    constant = view.constant(name)
    if constant is not None:
        first = constant.reshape(-1)[:1]
        return float(first[0]) if first.size and constant.dtype.kind in "fb" and (constant == first).all() else None
    node = view.made_by(name, "Expand", "Where", "Unsqueeze")
    if node is None:
        return None
    if node.op_type != "Where":
        return everywhere(view, node.inputs[0])
    condition = everywhere(view, node.inputs[0])
    return None if condition is None else everywhere(view, node.inputs[1 if condition else 2])


def match_swap(view: View, node: Node) -> str | None:
    """The last two axes of a value swapped while those before are folded into one: the value."""
    turned = view.made_by(node.inputs[0], "Transpose") if view.alone(node.inputs[0]) else None
    if turned is None or tuple(turned.attributes.get("perm", ())) != (0, 2, 1) or not view.alone(turned.inputs[0]):
        return None
    folded = view.made_by(turned.inputs[0], "Reshape")
    if folded is None:
        return None
    x = folded.inputs[0]
    before, middle, after = view.shape(x), view.shape(turned.inputs[0]), view.shape(node.outputs[0])
    if before is None or middle is None or after is None or len(before) < 3 or len(middle) != 3:
        return None
    right = middle[1:] == before[-2:] and after == (*before[:-2], before[-1], before[-2])
    return x if right else None


def swap(view: View, node: Node, x: str) -> New:
    """One Transpose."""
    rank = view.rank(x) or 0
    return New((copy(node, "Transpose", [x], attributes={"perm": (*range(rank - 2), rank - 1, rank - 2)}),))


def _keys(view: View, name: str) -> tuple[str, tuple[int, ...] | None, float]:
    """Where keys (batch, heads, size, sequence) come from, how to swap that, and what scaled them before."""
    node = view.made_by(name, "Transpose") if view.alone(name) else None
    perm = None if node is None else node.attributes.get("perm")
    if node is None or perm is None or len(perm) != 4:
        return name, SWAPPED, 1.0
    source, factor = _unscaled(view, node.inputs[0])
    swapped = tuple(perm[axis] for axis in SWAPPED)
    return source, None if swapped == (0, 1, 2, 3) else swapped, factor


def _may_hide_all(view: View, mask: str) -> bool:
    """Whether -inf is among what a mask is made of: a query without keys has NaN, which Attention has not."""
    waiting, seen = [mask], {mask}
    while waiting:
        name = waiting.pop()
        constant = view.constant(name)
        if constant is not None:
            if constant.dtype.kind == "f" and np.isneginf(constant).any():
                return True
            continue
        node = view.producers.get(name)
        if node is None or node.subgraphs or len(seen) > ANCESTORS:
            return view.is_float(name)  # fed, or computed elsewhere
        for source in node.inputs:
            if source and source not in seen:
                seen.add(source)
                waiting.append(source)
    return False


def attention(view: View, node: Node, found: _Attention) -> New:
    """Attention of opset 23."""
    k = found.k
    nodes = []
    if found.swap is not None:
        k = view.names.fresh(f"{node.outputs[0]}/keys")
        nodes.append(copy(node, "Transpose", [found.k], outputs=(k,), attributes={"perm": found.swap}))
    inputs = [found.q, k, found.v, *([found.mask] if found.mask else [])]
    nodes.append(copy(node, "Attention", inputs, opset=max(node.opset, 23), attributes={"scale": found.scale}))
    return New(tuple(nodes))
