"""Sequences (tuples) and optionals (None or a value)."""

from __future__ import annotations

from ortlite.graph import Node, OptionalType
from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Arrays, Bool, DType, Flag, Graph, Int, Ints, Type, Value
from ortlite.ops.helpers import normal_axis
from ortlite.ops.registry import op
from ortlite.ops.shape import concat, cut
from ortlite.ops.types import (
    Inferred,
    Types,
    agreed,
    attribute_dtype,
    element_type,
    graph_inputs,
    graph_outputs,
    sequence_type,
    unshaped,
)


@op(
    "SequenceConstruct",
    since=11,
    any_dtype=True,
    views=True,
    types=lambda node, inputs: [sequence_type(unshaped(inputs[0]))],
)
def sequence_construct(xp: Namespace, *inputs: Array) -> Arrays:
    """The inputs as a sequence."""
    return inputs


@op(
    "SequenceEmpty",
    since=11,
    any_dtype=True,
    types=lambda node, inputs: [sequence_type(attribute_dtype("dtype", "float32")(node, inputs)[0])],
)
def sequence_empty(xp: Namespace, *, dtype: DType | None = None) -> Arrays:
    """A sequence without elements."""
    return ()


def _place(position: int, length: int) -> int:
    """A position from the front. Raises ValueError when there is none such."""
    if not -length <= position < length:
        raise ValueError(f"position {position} is not in a sequence of {length} elements")
    return position + length if position < 0 else position


@op("SequenceAt", since=11, any_dtype=True, views=True, types=lambda node, inputs: [element_type(inputs[0])])
def sequence_at(xp: Namespace, input_sequence: Arrays, position: Int) -> Array:
    """The element at `position`, negative from the end. Raises ValueError when there is none."""
    return input_sequence[_place(position, len(input_sequence))]


def _of_such_elements(node: Node, inputs: Types) -> Inferred:
    return [sequence_type(agreed(node, "an element", element_type(inputs[0]), inputs[1]))]


@op("SequenceInsert", since=11, any_dtype=True, views=True, types=_of_such_elements)
def sequence_insert(xp: Namespace, input_sequence: Arrays, tensor: Array, position: Int | None = None) -> Arrays:
    """The sequence with `tensor` before `position`, by default at the end."""
    length = len(input_sequence)
    place = length if position is None or position == length else _place(position, length)
    return input_sequence[:place] + (tensor,) + input_sequence[place:]  # noqa: RUF005  (copies once, unpacking thrice)


@op("SequenceErase", since=11, any_dtype=True, views=True)
def sequence_erase(xp: Namespace, input_sequence: Arrays, position: Int | None = None) -> Arrays:
    """The sequence without the element at `position`, by default the last."""
    place = _place(-1 if position is None else position, len(input_sequence))
    return input_sequence[:place] + input_sequence[place + 1 :]


@op("SequenceLength", since=11, any_dtype=True)
def sequence_length(xp: Namespace, input_sequence: Arrays) -> Int:
    """The number of elements."""
    return len(input_sequence)


@op(
    "SplitToSequence",
    since=11,
    any_dtype=True,
    views=True,
    types=lambda node, inputs: [sequence_type(unshaped(inputs[0]))],
)
def split_to_sequence(
    xp: Namespace, input: Array, split: Ints | None = None, *, axis: Int = 0, keepdims: Flag = 1
) -> Arrays:
    """Pieces along `axis`: of length `split` (one number; the last may be shorter), of the lengths `split`, or of 1.

    Without `split`, `keepdims` 0 removes the axis.
    """
    axis = normal_axis(axis, input.ndim)
    length = input.shape[axis]
    if split is None:
        pieces = cut(input, (1,) * length, axis)
        return pieces if keepdims else tuple(xp.squeeze(p, axis=axis) for p in pieces)
    if len(split) == 1 and split[0] != length:  # [0] of nothing is one piece
        if split[0] <= 0:
            raise ValueError(f"pieces of {split[0]} elements make no sequence")
        return cut(input, tuple(min(split[0], length - i) for i in range(0, length, split[0])), axis)
    if sum(split) != length or min(split) < 0:
        raise ValueError(f"pieces of {split} do not add up to the {length} elements of axis {axis}")
    return cut(input, split, axis)


@op("ConcatFromSequence", since=11, any_dtype=True, types=lambda node, inputs: [element_type(inputs[0])])
def concat_from_sequence(xp: Namespace, input_sequence: Arrays, *, axis: Int, new_axis: Flag = 0) -> Array:
    """The elements joined along `axis`, or stacked along a new one."""
    if not input_sequence:
        raise ValueError("there is nothing to join in an empty sequence")
    return xp.stack(input_sequence, axis=axis) if new_axis else concat(xp, *input_sequence, axis=axis)


def _mapped(node: Node, inputs: Types) -> Inferred:
    body = node.attributes["body"]
    for k, (given, taken) in enumerate(zip(inputs, graph_inputs(body), strict=False)):
        agreed(node, f"input {k} of the body", element_type(given) or given, taken)
    return [sequence_type(type_) for type_ in graph_outputs(body)]


@op("SequenceMap", since=17, any_dtype=True, views=True, types=_mapped)
def sequence_map(xp: Namespace, input_sequence: Arrays, *additional_inputs: Value, body: Graph) -> tuple[Arrays, ...]:
    """`body` on each element; further sequences go along element by element, tensors are given to every call."""
    rows, run = [], body.repeated()
    for index, element in enumerate(input_sequence):
        others = (x[index] if isinstance(x, tuple) else x for x in additional_inputs)
        rows.append(run(element, *others))
    return tuple(zip(*rows, strict=True)) if rows else ((),) * len(body.types)


def _optional_of(node: Node, inputs: Types) -> Inferred:
    given = inputs[0] if inputs and inputs[0] is not None else node.attributes.get("type")
    return [None if given is None else OptionalType(given)]


def _optional_element(node: Node, inputs: Types) -> Inferred:
    given = inputs[0] if inputs else None
    return [given.element if isinstance(given, OptionalType) else given]


@op("Optional", since=15, any_dtype=True, views=True, types=_optional_of)
def optional(xp: Namespace, input: Value = None, *, type: Type | None = None) -> Value:
    """The input as an optional; without one, an empty optional."""
    return input


@op("OptionalHasElement", since=15, any_dtype=True)
def optional_has_element(xp: Namespace, input: Value = None) -> Bool:
    """Whether there is a value."""
    return input is not None


@op("OptionalGetElement", since=15, any_dtype=True, views=True, types=_optional_element)
def optional_get_element(xp: Namespace, input: Value) -> Value:
    """The value of an optional. Raises ValueError when it is empty."""
    if input is None:
        raise ValueError("an empty optional has no element")
    return input
