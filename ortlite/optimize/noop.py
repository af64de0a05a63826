"""Operators that hand their input on, and chains of operators that one, or none, can stand for."""

from __future__ import annotations

import numpy as np

from ortlite import dtypes
from ortlite.graph import Node
from ortlite.optimize.attention import everywhere
from ortlite.optimize.dims import product
from ortlite.optimize.rule import New, copy
from ortlite.optimize.view import View

__all__ = ["casts", "hand_on", "match_casts", "match_dropout", "match_neutral", "match_no_pad", "match_own_dtype",
           "match_own_shape", "match_reshape_back", "match_reshape_target", "match_reshapes", "match_same_slice",
           "match_shape_value", "match_single", "match_transposes", "match_where", "reshape_target", "reshapes",
           "shape_value", "transposes"]  # fmt: skip

FOLDS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")  # that give the same elements another shape


def hand_on(view: View, node: Node, source: str) -> New:
    """The value `source` under the name of the node's output."""
    return New((copy(node, "Identity", [source], outputs=node.outputs[:1]),))


def match_own_shape(view: View, node: Node) -> str | None:
    """Reshape, Flatten or Expand to the shape that a value has."""
    own = view.shape(node.inputs[0])
    return node.inputs[0] if own is not None and own == view.shape(node.outputs[0]) else None


def match_same_slice(view: View, node: Node) -> str | None:
    """Slice of everything, one after the other."""
    steps = view.constant(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] else np.ones(1)
    if steps is None or (steps != 1).any():
        return None
    return match_own_shape(view, node)


def match_no_pad(view: View, node: Node) -> str | None:
    """Pad by nothing."""
    pads = node.attributes.get("pads", node.attributes.get("paddings"))
    if pads is None and len(node.inputs) > 1:
        pads = view.constant(node.inputs[1])
    return node.inputs[0] if pads is not None and not np.any(pads) else None


def match_own_dtype(view: View, node: Node) -> str | None:
    """Cast to the dtype that a value has."""
    dtype = view.dtype(node.inputs[0])
    return node.inputs[0] if dtype is not None and dtype.code == node.attributes["to"] else None


# What each dtype goes into without loss.
WIDER = {
    "bool": "uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 bfloat16 float32 float64",
    "uint8": "uint16 int16 uint32 int32 uint64 int64 float16 bfloat16 float32 float64",
    "int8": "int16 int32 int64 float16 bfloat16 float32 float64",
    "uint16": "uint32 int32 uint64 int64 float32 float64",
    "int16": "int32 int64 float32 float64",
    "uint32": "uint64 int64 float64",
    "int32": "int64 float64",
    "float16": "float32 float64",
    "bfloat16": "float32 float64",
    "float32": "float64",
}
FLOATS = {"float16", "bfloat16", "float32", "float64"}


def match_casts(view: View, node: Node) -> str | None:
    """Cast of what was widened without loss: the value before that."""
    before = view.made_by(node.inputs[0], "Cast")
    if before is None:
        return None
    source, between = view.dtype(before.inputs[0]), view.dtype(node.inputs[0])
    target = dtypes.by_code(node.attributes["to"])
    if source is None or between is None or between.name not in WIDER.get(source.name, "").split():
        return None
    if target.name not in WIDER and target.name not in {"int64", "uint64", "float64"}:
        return None  # text and narrow formats
    return before.inputs[0] if source.name not in FLOATS or target.name in FLOATS else None


def casts(view: View, node: Node, source: str) -> New:
    """One Cast."""
    return New((copy(node, "Cast", [source], attributes=node.attributes),))


def match_transposes(view: View, node: Node) -> tuple[str, tuple[int, ...]] | None:
    """Transpose of Transpose, or one that leaves axes where they are: the value and where its axes go."""
    perm = node.attributes.get("perm")
    before = view.made_by(node.inputs[0], "Transpose")
    if before is None:
        rank = view.rank(node.inputs[0])  # a permutation of other axes than there are is an error, and stays one
        perm = (0,) * rank if perm is None and rank in {0, 1} else perm
        same = perm is not None and list(perm) == list(range(len(perm)))
        return (node.inputs[0], tuple(perm)) if perm is not None and same and rank == len(perm) else None
    first = before.attributes.get("perm")
    if perm is None and first is None:
        rank = view.rank(before.inputs[0])
        return None if rank is None else (before.inputs[0], tuple(range(rank)))
    reverse = tuple(range(len(perm or first or ())))[::-1]
    perm, first = perm or reverse, first or reverse
    if len(perm) != len(first) or view.rank(before.inputs[0]) != len(first):
        return None
    return before.inputs[0], tuple(first[axis] for axis in perm)


def transposes(view: View, node: Node, found: tuple[str, tuple[int, ...]]) -> New:
    """One Transpose, or none."""
    source, perm = found
    if perm == tuple(range(len(perm))):
        return hand_on(view, node, source)
    return New((copy(node, "Transpose", [source], attributes={"perm": perm}),))


def _folded(view: View, name: str) -> str | None:
    """What a value has the elements of in another shape, where the operator between certainly does not fail."""
    node = view.made_by(name, *FOLDS)
    if node is None:
        return None
    before, after = view.shape(node.inputs[0]), view.shape(name)
    if before is None or after is None or product(before) != product(after):
        return None
    return node.inputs[0]


def match_reshape_back(view: View, node: Node) -> str | None:
    """Operators that fold axes, one after the other, back to the shape at their start."""
    if view.made_by(node.inputs[0], *FOLDS) is None:
        return None
    source = _folded(view, node.outputs[0])
    for _ in range(3):
        source = None if source is None else _folded(view, source)
        if source is not None and view.shape(source) == view.shape(node.outputs[0]):
            return source
    return None


def match_reshapes(view: View, node: Node) -> str | None:
    """Reshape of a value that was folded before, to a shape that does not depend on how."""
    source = _folded(view, node.inputs[0])
    if source is None:
        return None
    target = view.constant(node.inputs[1]) if len(node.inputs) > 1 else np.asarray(node.attributes.get("shape", (0,)))
    if target is None or ((target == 0).any() and not node.attributes.get("allowzero", 0)):
        return None
    return source


def reshapes(view: View, node: Node, source: str) -> New:
    """One Reshape."""
    return New((copy(node, "Reshape", [source, *node.inputs[1:]], attributes=node.attributes),))


def match_reshape_target(view: View, node: Node) -> tuple[int, ...] | None:
    """Reshape to a computed shape that constants can say: 0 where an axis stays, -1 where only one is not known."""
    if len(node.inputs) < 2 or node.inputs[1] in view.constants:
        return None
    given, target = view.shape(node.inputs[0]), view.facts.value(node.inputs[1])
    if given is None or target is None or view.shape(node.outputs[0]) != target or product(given) != product(target):
        return None
    if any(isinstance(d, int) and d <= 0 for d in target):
        return None
    if sum(isinstance(d, str) for d in target) == 1:
        return tuple(d if isinstance(d, int) else -1 for d in target)
    stays = [i < len(given) and given[i] == d for i, d in enumerate(target)]
    if not all(stay or isinstance(d, int) for stay, d in zip(stays, target, strict=True)):
        return None
    return tuple(d if isinstance(d, int) else 0 for d in target)


def reshape_target(view: View, node: Node, target: tuple[int, ...]) -> New:
    """Reshape to a constant shape."""
    name = view.names.fresh(f"{node.outputs[0]}/shape")
    made = copy(node, "Reshape", [node.inputs[0], name], attributes={})
    return New((made,), {name: np.asarray(target, np.int64)})


def match_neutral(view: View, node: Node) -> str | None:
    """A sum with 0, a product with 1, a quotient by 1; -0.0 + 0.0 is 0.0, but -0.0 + -0.0 and -0.0 - 0.0 are -0.0."""
    first, second = node.inputs
    for value, other in ((first, second), (second, first)) if node.op_type in {"Add", "Mul"} else ((first, second),):
        if other not in view.constants or view.dtype(value) is None or value in view.constants:
            continue
        number = view.scalar(other, value)
        if number is None:
            continue
        if node.op_type in {"Mul", "Div"}:
            neutral = number == 1
        else:
            exact = view.dtype(value).name not in FLOATS or np.signbit(number) == (node.op_type == "Add")  # type: ignore[union-attr]
            neutral = number == 0 and exact
        if neutral:
            return value
    return None


def match_single(view: View, node: Node) -> str | None:
    """Concat, Sum, Max, Min or Mean of one."""
    return node.inputs[0] if len(node.inputs) == 1 else None


def match_dropout(view: View, node: Node) -> str | None:
    """Dropout that certainly does not train, and whose mask nobody reads."""
    if any(name in view.kept or name in view.readers for name in node.outputs[1:]):
        return None
    if node.opset >= 12:
        trains = len(node.inputs) > 2 and node.inputs[2] and everywhere(view, node.inputs[2]) != 0
    else:
        trains = node.opset < 7 and not node.attributes.get("is_test", 0)
    return None if trains else node.inputs[0]


def match_where(view: View, node: Node) -> str | None:
    """Where that chooses one value everywhere."""
    condition = everywhere(view, node.inputs[0])
    if condition is None:
        return None
    chosen = node.inputs[1 if condition else 2]
    own = view.shape(chosen)
    return chosen if own is not None and own == view.shape(node.outputs[0]) else None


def match_shape_value(view: View, node: Node) -> np.ndarray | None:
    """A shape, or what is computed of shapes, that is certain."""
    name = node.outputs[0]
    value, shape, dtype = view.facts.values.get(name), view.shape(name), view.dtype(name)
    if value is None or shape is None or len(shape) > 1 or dtype is None or dtype.name not in {"int32", "int64"}:
        return None
    if len(node.outputs) > 1 or not all(isinstance(d, int) for d in value):
        return None
    return np.asarray(value, dtypes.to_numpy(dtype)).reshape(shape)  # type: ignore[arg-type]


def shape_value(view: View, node: Node, value: np.ndarray) -> New:
    """A constant."""
    return New((), {node.outputs[0]: value})
