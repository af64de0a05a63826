"""Layer normalisation, with and without the mean, recovered from means, roots and quotients; that of groups of channels
from that of one channel between two reshapes; and the mean of each channel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ortlite import dtypes
from ortlite.graph import Node
from ortlite.optimize.dims import Shape
from ortlite.optimize.rule import MS, New, copy
from ortlite.optimize.view import View

__all__ = [
    "apart", "global_pool", "group_norm", "layer_norm", "match_apart", "match_global_pool", "match_group_norm",
    "match_layer_norm", "match_rms_norm", "match_skip", "rms_norm", "skip",
]  # fmt: skip

EPSILON = 0.1  # nobody adds more to a variance
FLOAT = dtypes.by_name("float32")


class _Norm(NamedTuple):
    """What is normalised over the axes from `axis` on, and what comes behind: scale, shift, the nodes of these."""

    x: str
    axis: int
    epsilon: float
    scale: str | np.ndarray
    shift: str
    tail: tuple[Node, ...]


def _mean(view: View, name: str) -> tuple[str, tuple[int, ...]] | None:
    """What a value is the mean of, and over which axes, which it keeps."""
    node = view.made_by(name, "ReduceMean")
    if node is None or not node.attributes.get("keepdims", 1):
        return None
    axes = node.attributes.get("axes")
    if axes is None and len(node.inputs) > 1:
        constant = view.constant(node.inputs[1])
        axes = None if constant is None else constant.reshape(-1).tolist()
    return (node.inputs[0], tuple(axes)) if axes else None


def match_global_pool(view: View, node: Node) -> str | None:
    """The mean of each channel of an image, in the dtype in which onnxruntime has GlobalAveragePool everywhere."""
    found, rank = _mean(view, node.outputs[0]), view.rank(node.inputs[0])
    if found is None or rank is None or rank < 4 or view.dtype(node.inputs[0]) != FLOAT:
        return None
    return found[0] if {axis % rank for axis in found[1]} == {*range(2, rank)} else None


def global_pool(view: View, node: Node, x: str) -> New:
    """GlobalAveragePool, which needs no axes."""
    return New((copy(node, "GlobalAveragePool", [x]),))


def _square(view: View, name: str) -> str | None:
    """What a value is the square of."""
    node = view.made_by(name, "Pow", "Mul")
    if node is None:
        return None
    if node.op_type == "Pow":
        return node.inputs[0] if view.scalar(node.inputs[1], node.inputs[0]) == 2.0 else None
    return node.inputs[0] if node.inputs[0] == node.inputs[1] else None


def _shifted(view: View, name: str) -> tuple[str, float] | None:
    """A value plus a small positive constant."""
    node = view.made_by(name, "Add")
    for value, constant in (node.inputs, node.inputs[::-1]) if node is not None else ():
        number = view.scalar(constant, value)
        if number is not None and 0.0 <= number < EPSILON:
            return value, number
    return None


def _root(view: View, name: str) -> tuple[str, float] | None:
    """What a value is the square root of, in `_shifted` form."""
    node = view.made_by(name, "Sqrt", "Pow")
    if node is None or (node.op_type == "Pow" and view.scalar(node.inputs[1], node.inputs[0]) != 0.5):
        return None
    return _shifted(view, node.inputs[0])


def _inverse_root(view: View, name: str) -> tuple[str, float] | None:
    """What a value is 1 over the square root of, in `_shifted` form."""
    node = view.made_by(name, "Reciprocal", "Div", "Pow", "Sqrt")
    if node is None:
        return None
    if node.op_type == "Reciprocal":
        return _root(view, node.inputs[0])
    if node.op_type == "Div":
        return _root(view, node.inputs[1]) if view.scalar(node.inputs[0], node.inputs[1]) == 1.0 else None
    if node.op_type == "Pow":
        return _shifted(view, node.inputs[0]) if view.scalar(node.inputs[1], node.inputs[0]) == -0.5 else None
    inner = view.made_by(node.inputs[0], "Reciprocal")
    return None if inner is None else _shifted(view, inner.inputs[0])


def _divided(view: View, node: Node) -> tuple[str, str, float] | None:
    """What `node` divides by a root: the value, what stands below the root, and the constant added there."""
    if node.op_type == "Div":
        found = _root(view, node.inputs[1])
        return None if found is None else (node.inputs[0], *found)
    for value, factor in (node.inputs, node.inputs[::-1]):
        found = _inverse_root(view, factor)
        if found is not None:
            return value, *found
    return None


def _same_difference(view: View, one: str, other: str) -> tuple[str, str] | None:
    """A difference, given by one node or by two that compute the same: its operands."""
    a, b = view.made_by(one, "Sub"), view.made_by(other, "Sub")
    if a is None or b is None or a.inputs != b.inputs:
        return None
    return a.inputs[0], a.inputs[1]


def _uncast(view: View, name: str) -> str:
    """What a value was before it was widened to float32."""
    node = view.made_by(name, "Cast")
    if node is None or view.dtype(name) != FLOAT:
        return name
    before = view.dtype(node.inputs[0])
    return node.inputs[0] if before is not None and before.name in {"float16", "bfloat16"} else name


def _broadcast_last(view: View, name: str, shape: Shape | None, axis: int) -> bool:
    """Whether a scale or shift is one element for each place along the last axes, of the shape they have."""
    own = view.shape(name)
    return shape is not None and own is not None and len(own) == -axis and own == shape[axis:]


def _known_first(view: View, name: str) -> bool:
    """Whether a value is there before any node of the graph runs."""
    return name not in view.producers


def _tail(view: View, node: Node, x: str, axis: int, epsilon: float) -> _Norm | None:
    """The normalised value with the scale and shift behind it, as far as these are there in time."""
    shape = view.shape(x)
    nodes: list[Node] = []
    value, dtype = node.outputs[0], view.dtype(x)
    if dtype is None:
        return None
    if view.dtype(value) != dtype:  # widened before: back again
        back = view.only_reader(value, "Cast")
        if back is None or view.dtype(back.outputs[0]) != dtype:
            return None
        nodes.append(back)
        value = back.outputs[0]
    scale: str | np.ndarray | None = None
    shift = ""
    mul = view.only_reader(value, "Mul")
    if mul is not None:
        other = mul.inputs[1] if mul.inputs[0] == value else mul.inputs[0]
        if other != value and _known_first(view, other) and _broadcast_last(view, other, shape, axis):
            scale, value = other, mul.outputs[0]
            nodes.append(mul)
            add = view.only_reader(value, "Add")
            if add is not None:
                other = add.inputs[1] if add.inputs[0] == value else add.inputs[0]
                if other != value and _known_first(view, other) and _broadcast_last(view, other, shape, axis):
                    shift = other
                    nodes.append(add)
    if scale is None:
        last = () if shape is None else tuple(d for d in shape[axis:] if isinstance(d, int))
        if len(last) < -axis:
            return None
        scale = np.ones(last, dtypes.to_numpy(dtype))
    return _Norm(x, axis, epsilon, scale, shift, tuple(nodes))


def match_layer_norm(view: View, node: Node) -> _Norm | None:
    """(x - mean) / √(variance + ε), and scale and shift behind it."""
    found = _divided(view, node)
    if found is None:
        return None
    centred, variance, epsilon = found
    mean_of_square = _mean(view, variance)
    if mean_of_square is None or (root := _square(view, mean_of_square[0])) is None:
        return None
    difference = _same_difference(view, centred, root)
    if difference is None:
        return None
    x, mean = difference
    of = _mean(view, mean)
    axis = None if of is None or of[0] != x else view.last_axes(of[1], x)
    if axis is None or view.last_axes(mean_of_square[1], x) != axis:
        return None
    return _checked(view, node, x, axis, epsilon)


def _checked(view: View, node: Node, x: str, axis: int, epsilon: float) -> _Norm | None:
    dtype = view.dtype(x)
    if dtype is None or dtype.name not in {"float16", "bfloat16", "float32", "float64"}:
        return None
    narrow = _uncast(view, x)
    return (_tail(view, node, narrow, axis, epsilon) if narrow != x else None) or _tail(view, node, x, axis, epsilon)


def _made(view: View, node: Node, found: _Norm, op_type: str, inputs: list[str], **changes: Any) -> New:
    constants = {}
    last = found.tail[-1] if found.tail else node
    scale = found.scale
    if isinstance(scale, np.ndarray):
        name = view.names.fresh(f"{last.outputs[0]}/scale")
        constants[name] = scale
        scale = name
    attributes = {"axis": found.axis, "epsilon": found.epsilon}
    new = copy(node, op_type, [found.x, scale, *inputs], outputs=last.outputs, attributes=attributes, **changes)
    return New((new,), constants, found.tail)


def layer_norm(view: View, node: Node, found: _Norm) -> New:
    """LayerNormalization, which onnxruntime has in every opset."""
    return _made(view, node, found, "LayerNormalization", [found.shift] if found.shift else [])


def match_apart(view: View, node: Node) -> _Norm | None:
    """X · a + (shift - mean · a) with a = scale / √(variance + ε), as TensorFlow writes it."""
    for product, rest in (node.inputs, node.inputs[::-1]):
        one, sub = view.made_by(product, "Mul"), view.made_by(rest, "Sub")
        two = None if sub is None else view.made_by(sub.inputs[1], "Mul")
        if one is None or sub is None or two is None or not view.alone(product) or not view.alone(rest):
            continue
        for x, a in (one.inputs, one.inputs[::-1]):
            factor = view.made_by(a, "Mul")
            if factor is None or a not in two.inputs or two.inputs[0] == two.inputs[1]:
                continue
            mean = two.inputs[1] if two.inputs[0] == a else two.inputs[0]
            for root, scale in (factor.inputs, factor.inputs[::-1]):
                found = _inverse_root(view, root)
                axis = None if found is None else _moments(view, x, mean, found[0])
                shape = view.shape(x)
                vectors = (scale, sub.inputs[0])
                if found is None or axis is None or view.dtype(x) != FLOAT:
                    continue
                if all(_known_first(view, v) and _broadcast_last(view, v, shape, axis) for v in vectors):
                    return _Norm(x, axis, found[1], scale, sub.inputs[0], (node,))
    return None


def _moments(view: View, x: str, mean: str, variance: str) -> int | None:
    """The axis from which on `mean` and `variance` are those of x."""
    of, mean_of_square = _mean(view, mean), _mean(view, variance)
    root = None if mean_of_square is None else _square(view, mean_of_square[0])
    centred = None if root is None else view.made_by(root, "Sub")
    if of is None or mean_of_square is None or centred is None or of[0] != x or centred.inputs != (x, mean):
        return None
    axis = view.last_axes(of[1], x)
    return axis if view.last_axes(mean_of_square[1], x) == axis else None


def apart(view: View, node: Node, found: _Norm) -> New:
    """LayerNormalization, in the place of the last sum."""
    new = layer_norm(view, node, found)
    return New(new.nodes, new.constants)


def _channels(view: View, name: str, shape: Shape) -> np.ndarray | None:
    """A constant that broadcasts along the channels of an image, as a vector."""
    value = view.constant(name)
    wanted = (shape[1],) + (1,) * (len(shape) - 2)
    return value.reshape(-1) if value is not None and value.shape in {wanted, (1, *wanted)} else None


class _Groups(NamedTuple):
    """What is normalised by groups of channels, scale and shift of each channel, the nodes behind."""

    x: str
    parts: int
    scale: np.ndarray
    shift: np.ndarray
    tail: tuple[Node, ...]


def match_group_norm(view: View, node: Node) -> _Groups | None:
    """Groups of channels as channels, normalised, and as channels again, with scale and shift, as torch exports it."""
    before, after = view.made_by(node.inputs[0], "Reshape"), view.only_reader(node.outputs[0], "Reshape")
    mul = None if after is None else view.only_reader(after.outputs[0], "Mul")
    add = None if mul is None else view.only_reader(mul.outputs[0], "Add")
    if before is None or after is None or mul is None or add is None or view.dtype(node.outputs[0]) != FLOAT:
        return None
    x = before.inputs[0]
    shape, inner = view.shape(x), view.shape(node.inputs[0])
    if shape is None or inner is None or len(shape) < 3 or len(inner) != 3 or view.shape(after.outputs[0]) != shape:
        return None
    groups, channels = inner[1], shape[1]
    if inner[0] != shape[0] or not isinstance(groups, int) or not isinstance(channels, int):
        return None
    ones, zeros = map(view.constant, node.inputs[1:3])
    if groups < 1 or channels % groups or ones is None or zeros is None or (ones != 1).any() or zeros.any():
        return None
    scale, shift = (
        _channels(view, n.inputs[1 - n.inputs.index(value)], shape)
        for n, value in ((mul, after.outputs[0]), (add, mul.outputs[0]))
    )
    return None if scale is None or shift is None else _Groups(x, groups, scale, shift, (after, mul, add))


def group_norm(view: View, node: Node, found: _Groups) -> New:
    """GroupNormalization, which ONNX has with a scale for each channel from opset 21 on."""
    outputs = found.tail[-1].outputs
    names = [view.names.fresh(f"{outputs[0]}/{word}") for word in ("scale", "bias")]
    attributes = {"num_groups": found.parts, "epsilon": node.attributes.get("epsilon", 1e-5)}
    new = copy(
        node, "GroupNormalization", [found.x, *names], outputs=outputs, attributes=attributes, opset=max(node.opset, 21)
    )  # fmt: skip
    return New((new,), dict(zip(names, (found.scale, found.shift), strict=True)), found.tail)


def match_rms_norm(view: View, node: Node) -> _Norm | None:
    """X / √(mean of x² + ε), and the scale behind it."""
    found = _divided(view, node)
    if found is None:
        return None
    x, mean, epsilon = found
    of = _mean(view, mean)
    if of is None or _square(view, of[0]) != x:
        return None
    axis = view.last_axes(of[1], x)
    norm = None if axis is None else _checked(view, node, x, axis, epsilon)
    if norm is None or not norm.shift:
        return norm
    return _Norm(norm.x, norm.axis, norm.epsilon, norm.scale, "", norm.tail[:-1])  # there is no shift to give it


def rms_norm(view: View, node: Node, found: _Norm) -> New:
    """RMSNormalization, or below opset 23 what onnxruntime calls it."""
    return _made(view, node, found, "RMSNormalization" if node.opset >= 23 else "SimplifiedLayerNormalization", [])


# Operators that normalise a sum.
SKIP = {
    "LayerNormalization": "SkipLayerNormalization",
    "RMSNormalization": "SkipSimplifiedLayerNormalization",
    "SimplifiedLayerNormalization": "SkipSimplifiedLayerNormalization",
}


class _Skip(NamedTuple):
    norm: Node
    inputs: tuple[str, str]
    bias: str


def _alike(shape: Shape, other: Shape) -> bool:
    """Whether two shapes are the same as far as anybody can tell: the sum is right also where they are not."""
    if len(shape) != len(other) or shape[-1] != other[-1]:
        return False
    pairs = list(zip(shape, other, strict=True))
    return all(
        a == b or (isinstance(a, str) and (isinstance(b, str) or (b == 1 and i == 0))) for i, (a, b) in enumerate(pairs)
    )


def match_skip(view: View, node: Node) -> _Skip | None:
    """A sum of two values of one shape that is normalised over its last axis, and its other readers."""
    total = node.outputs[0]
    one, two = node.inputs
    if (view.shape(one) or ())[:1] == (1,):  # onnxruntime takes the smaller one second
        one, two = two, one
    shape, other = view.shape(one), view.shape(two)
    if shape is None or other is None or len(shape) != 3 or view.dtype(total) != FLOAT or not _alike(shape, other):
        return None
    for norm in view.readers.get(total, ()):
        if norm.op_type not in SKIP or norm.domain or norm.inputs[0] != total or len(norm.outputs) > 1:
            continue
        vectors = norm.inputs[1:]
        right = norm.attributes.get("axis", -1) in {-1, 2} and norm.attributes.get("stash_type", 1) == 1
        if right and all(_known_first(view, v) and view.shape(v) == shape[-1:] for v in vectors):
            return _Skip(norm, *_with_bias(view, one, two))
    return None


def _with_bias(view: View, one: str, two: str) -> tuple[tuple[str, str], str]:
    """The operands of a sum, and the constant vector that was added to one of them before."""
    for place, name in enumerate((one, two)):
        add = view.made_by(name, "Add") if view.alone(name) else None
        for value, bias in (add.inputs, add.inputs[::-1]) if add is not None else ():
            shape, vector = view.shape(value), view.constant(bias)
            if shape is not None and vector is not None and len(shape) == 3 and vector.shape == shape[-1:]:
                return ((one, value) if place else (value, two)), bias
    return (one, two), ""


def skip(view: View, node: Node, found: _Skip) -> New:
    """The sum and its normalisation as one operator; the sum is its fourth output."""
    norm = found.norm
    op_type = SKIP[norm.op_type]
    simplified = op_type == "SkipSimplifiedLayerNormalization"
    gamma, *beta = norm.inputs[1:]
    inputs = [*found.inputs, gamma]
    if not simplified and (beta or found.bias):
        inputs.append(beta[0] if beta else "")
    if found.bias:
        inputs.append(found.bias)
    total = node.outputs[0]
    wanted = not view.alone(total)
    outputs = (norm.outputs[0], "", "", total) if wanted else norm.outputs
    attributes = {"epsilon": norm.attributes.get("epsilon", 1e-5)}
    return New((copy(node, op_type, inputs, outputs=outputs, domain=MS, attributes=attributes),), {}, (norm,))
