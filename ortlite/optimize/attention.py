"""Attention recovered from its products and softmax."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ortlite import dtypes
from ortlite.graph import Node
from ortlite.optimize.dims import product
from ortlite.optimize.rule import New, copy
from ortlite.optimize.view import View

__all__ = ["attention", "everywhere", "match_attention", "match_swap", "swap"]

SWAPPED = (0, 1, 3, 2)
DEPTH = 20  # nodes between a mask and what it is made of
# Operators whose elements are those of their first input.
MOVING = frozenset(
    "Expand Reshape Flatten Unsqueeze Squeeze Transpose Slice Gather GatherND GatherElements Identity Tile Cast"
    " CastLike Split".split()
)
ANY = (-np.inf, np.inf)
TINY, HUGE = 1e-30, 1e30  # scales beyond overflow or vanish in float32


class _Repeated(NamedTuple):
    """Keys or values of which every head serves a group of heads of queries; `target` is what they were expanded to."""

    source: str
    target: str
    heads: tuple[int, int]  # those of the source, and how many times each is repeated


class _Attention(NamedTuple):
    """What Attention gets. `swap`: how to turn the keys that were found into (batch, heads, sequence, size).

    `heads`: how many the queries must be expanded to, where that is not certain. `poisoned`: whether a query from which
    the mask hides all has NaN, as its Softmax has, and not the zeros of Attention; `guarded`: whether every NaN among
    the weights is made 0.
    """

    q: str
    heads: int
    k: _Repeated | str
    swap: tuple[int, ...] | None
    v: _Repeated | str
    mask: str
    scale: float
    poisoned: bool
    guarded: bool


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
    raw, factor = _unscaled(view, scores)
    matmul = view.made_by(raw, "MatMul") if view.alone(raw) else None
    if matmul is None:
        return None
    q, by_q = _unscaled(view, matmul.inputs[0])
    turned, by_k = _unscaled(view, matmul.inputs[1])
    k, swap, inner = _keys(view, turned)
    shapes = [view.shape(name) for name in (q, turned, v)]
    if any(shape is None or len(shape) != 4 for shape in shapes):
        return None
    (b, h, _, d), (bk, hk, dk, _), (bv, hv, _, _) = shapes  # type: ignore[misc]
    if not (b == bk == bv and hk == hv and d == dk):
        return None
    heads = 0
    if h != hk:  # the product broadcasts what turns out to be one head
        if not isinstance(hk, int) or isinstance(h, int):
            return None
        heads = hk
    scale = factor * by_q * by_k * inner
    if not TINY < scale < HUGE:
        return None
    poisoned = bool(mask) and not guarded and _may_hide_all(view, mask)
    single = _repeated(view, k), _repeated(view, v)
    if single[0] is not None and single[1] is not None and swap in {None, SWAPPED}:
        return _Attention(q, heads, single[0], None, single[1], mask, scale, poisoned, guarded)
    return _Attention(q, heads, k, swap, v, mask, scale, poisoned, guarded)


def _repeated(view: View, name: str) -> _Repeated | None:
    """Heads repeated by Unsqueeze, Expand and Reshape: (batch, heads, sequence, size) before."""
    reshape = view.made_by(name, "Reshape") if view.alone(name) else None
    expand = None if reshape is None else view.made_by(reshape.inputs[0], "Expand")
    unsqueeze = None if expand is None else view.made_by(expand.inputs[0], "Unsqueeze")
    if reshape is None or expand is None or unsqueeze is None:
        return None
    before, between, wide = (view.shape(x) for x in (unsqueeze.inputs[0], expand.inputs[0], reshape.inputs[0]))
    after = view.shape(name)
    if before is None or between is None or wide is None or after is None:
        return None
    if len(before) != 4 or len(after) != 4 or len(wide) != 5 or between != (*before[:2], 1, *before[2:]):
        return None
    if view.shape(expand.inputs[1]) != (5,):
        return None
    heads, times = wide[1:3]
    if after != (wide[0], product(wide[1:3]), *wide[3:]) or not (isinstance(heads, int) and isinstance(times, int)):
        return None
    return _Repeated(unsqueeze.inputs[0], expand.inputs[1], (heads, times))


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
    pairs = list(zip(own[::-1], full[::-1], strict=False))
    # which keys and queries there are, the kernel sees; that they are as many, only it can tell
    return all(a in (1, b) or (isinstance(a, str) and isinstance(b, str) and i < 2) for i, (a, b) in enumerate(pairs))


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
    """Whether a mask may have a row of -inf alone: given, or by the sum of two finite numbers that overflows."""
    constant, dtype = view.constant(mask), view.dtype(mask)
    if constant is not None:
        return bool(np.isneginf(np.asarray(constant, np.float64)).all(axis=-1).any())
    if dtype is None or dtype.kind != "f":
        return True
    limits = np.finfo(np.float32) if dtype.name == "bfloat16" else np.finfo(dtypes.to_numpy(dtype))
    # what is below the lowest number by less than half a unit in its last place, is rounded to that
    return not _range(view, mask, DEPTH)[0] >= float(limits.min) * (1 + float(limits.eps) / 8)


def _range(view: View, name: str, depth: int) -> tuple[float, float]:
    """Between which numbers the elements of a value certainly are, but for NaN."""
    constant, dtype = view.constant(name), view.dtype(name)
    if constant is not None:
        numbers = np.asarray(constant, np.float64) if constant.dtype.kind in "fiubV" else np.array([])
        numbers = numbers[~np.isnan(numbers)]
        return (float(numbers.min()), float(numbers.max())) if numbers.size else ANY
    if dtype is not None and dtype.name == "bool":
        return 0.0, 1.0
    node = view.producers.get(name)
    if node is None or node.domain or not depth:
        return ANY
    if node.op_type in MOVING:
        return _range(view, node.inputs[0], depth - 1)
    if node.op_type in {"Where", "Concat", "Max", "Min"}:
        found = [_range(view, x, depth - 1) for x in node.inputs[1 if node.op_type == "Where" else 0 :]]
        return min(low for low, _ in found), max(high for _, high in found)
    if node.op_type not in {"Add", "Sub", "Mul"}:
        return ANY
    (a, b), (c, d) = (_range(view, x, depth - 1) for x in node.inputs)
    if not np.isfinite([a, b, c, d]).all():
        return ANY
    if node.op_type == "Mul":
        ends = (a * c, a * d, b * c, b * d)
        return min(ends), max(ends)
    return (a + c, b + d) if node.op_type == "Add" else (a - d, b - c)


def _poison(view: View, node: Node, mask: str) -> tuple[list[Node], dict[str, np.ndarray], str]:
    """A mask plus 0 · softmax of itself: NaN in a row of -inf alone. All that one mask serves share it."""
    if ("poisoned", mask) in view.shared:
        return [], {}, view.shared["poisoned", mask]
    softmax, zero, none, made = (view.names.fresh(f"{mask}/{n}") for n in ("softmax", "zero", "none", "poisoned"))
    view.shared["poisoned", mask] = made
    nodes = [
        copy(node, "Softmax", [mask], outputs=(softmax,), attributes={"axis": (view.rank(mask) or 0) - 1}),
        copy(node, "Mul", [softmax, zero], outputs=(none,)),
        copy(node, "Add", [mask, none], outputs=(made,)),
    ]
    return nodes, {zero: _zero(view, node)}, made


def _zero(view: View, node: Node) -> np.ndarray:
    dtype = view.dtype(node.outputs[0])
    return np.zeros((), np.float32 if dtype is None else dtypes.to_numpy(dtype))


def attention(view: View, node: Node, found: _Attention) -> New:
    """Attention of the node's opset, of 23 where a mask may be for all keys at once: later ones pad such a mask."""
    nodes: list[Node] = []
    constants: dict[str, np.ndarray] = {}

    def single(kind: str, found: _Repeated | str) -> str:
        """Keys or values with each head once, as long as they were expanded to."""
        if isinstance(found, str):
            return found
        target = view.facts.value(found.target)
        if target is not None and (*target[:2], *target[3:]) == view.shape(found.source):
            return found.source
        axes, shape, made = (view.names.fresh(f"{node.outputs[0]}/{kind}/{n}") for n in ("axes", "shape", "expanded"))
        constants[axes] = np.array([0, 1, 3, 4])
        nodes.append(copy(node, "Gather", [found.target, axes], outputs=(shape,)))
        nodes.append(copy(node, "Expand", [found.source, shape], outputs=(made,)))
        return made

    q, k, v = found.q, single("keys", found.k), single("values", found.v)
    if found.heads:
        shape, q = (view.names.fresh(f"{node.outputs[0]}/queries/{n}") for n in ("shape", "expanded"))
        constants[shape] = np.array([1, found.heads, 1, 1])
        nodes.append(copy(node, "Expand", [found.q, shape], outputs=(q,)))
    if found.swap is not None:
        source, k = k, view.names.fresh(f"{node.outputs[0]}/keys")
        nodes.append(copy(node, "Transpose", [source], outputs=(k,), attributes={"perm": found.swap}))
    mask = found.mask
    if found.poisoned:
        made, more, mask = _poison(view, node, mask)
        nodes += made
        constants |= more
    y = view.names.fresh(f"{node.outputs[0]}/attended") if found.guarded else node.outputs[0]
    inputs = [q, k, v, *([mask] if mask else [])]
    attributes = {"scale": found.scale}
    own, weights = view.shape(mask) if mask else None, view.shape(node.inputs[0])
    certain = not mask or (own is not None and weights is not None and own[-1] == weights[-1])
    opset = max(node.opset, 23) if certain else 23
    nodes.append(copy(node, "Attention", inputs, outputs=(y,), opset=opset, attributes=attributes))
    if found.guarded:
        made, more = _guard(view, node, y, found.v)
        nodes += made
        constants |= more
    return New(tuple(nodes), constants)


def _guard(view: View, node: Node, y: str, v: _Repeated | str) -> tuple[list[Node], dict[str, np.ndarray]]:
    """What weights of 0 make of the values, in the place of NaN: 0, but NaN where infinities or NaN are among them."""
    name = node.outputs[0]
    test, zero, none, axes, total = (view.names.fresh(f"{name}/{n}") for n in ("nan", "zero", "none", "axes", "sum"))
    constants = {zero: _zero(view, node), axes: np.array([2])}
    nodes = [
        copy(node, "IsNaN", [y], opset=max(node.opset, 9), outputs=(test,)),
        copy(node, "Mul", [v if isinstance(v, str) else v.source, zero], outputs=(none,)),
        copy(node, "ReduceSum", [none, axes], opset=max(node.opset, 13), outputs=(total,)),
    ]
    if isinstance(v, _Repeated) and v.heads[1] > 1:
        heads, repeated = (view.names.fresh(f"{name}/{n}") for n in ("heads", "repeated"))
        constants[heads] = np.repeat(np.arange(v.heads[0]), v.heads[1])
        nodes.append(copy(node, "Gather", [total, heads], outputs=(repeated,), attributes={"axis": 1}))
        total = repeated
    nodes.append(copy(node, "Where", [test, total, y], opset=max(node.opset, 9)))
    return nodes, constants
