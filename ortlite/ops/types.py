"""Rules for the types of a node's outputs, where no type variable of the schema tells: `@op(..., types=rule)`.

A rule gets the node and the types of its inputs (None: unknown or absent), and returns the types of its outputs, as far
as it knows them; for the others the schema is asked. Where two types must be one and no type variable of the schema
says so, the rule does, by `agreed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from ortlite import dtypes
from ortlite.errors import Fail
from ortlite.graph import Graph, Node, OptionalType, SequenceType, TensorType, Type

__all__ = [
    "BOOL", "FLOAT", "INT64", "STRING", "Inferred", "Rule", "Types", "agreed", "attribute_dtype", "class_labels",
    "element_type", "graph_inputs", "graph_outputs", "sequence_type", "unshaped", "value_dtype",
]  # fmt: skip

Types: TypeAlias = Sequence[Type | None]  # of a node's inputs
Inferred: TypeAlias = list[Type | None]  # of its outputs
Rule: TypeAlias = Callable[[Node, Types], Inferred]

FLOAT, INT64, STRING, BOOL = (dtypes.by_name(n) for n in ("float32", "int64", "string", "bool"))


def unshaped(type_: Type | None) -> Type | None:
    """The type without what is known of its shape."""
    return TensorType(type_.dtype) if type(type_) is TensorType else type_


def element_type(type_: Type | None) -> Type | None:
    """The type of a sequence's or an optional's element."""
    return type_.element if isinstance(type_, SequenceType | OptionalType) else None


def sequence_type(type_: Type | None) -> Type | None:
    """The type of a sequence of such elements."""
    return None if type_ is None else SequenceType(type_)


def agreed(node: Node, what: str, *types: Type | None) -> Type | None:
    """The type that `what` has by each of these which is known. Raises Fail where two differ."""
    found: Type | None = None
    for type_ in [t for t in types if t is not None]:
        found = found or unshaped(type_)
        optional = isinstance(type_, OptionalType) or isinstance(found, OptionalType)  # stands for its element, too
        if found is not None and found.ort != type_.ort and not optional:
            both = f"both {found.ort} and {type_.ort}"
            raise Fail(f"Node ({node.name}) Op ({node.op_type}) [TypeInferenceError] {what} would be {both}.")
    return found


def graph_inputs(graph: Graph) -> Inferred:
    """The types that a subgraph's inputs are declared with, or known by, without their shapes."""
    return [unshaped(graph.types.get(name)) for name in graph.inputs]


def graph_outputs(graph: Graph) -> Inferred:
    """The types of a subgraph's outputs, without their shapes."""
    return [unshaped(graph.types.get(name)) for name in graph.outputs]


def attribute_dtype(attribute: str, default: str = "", like: int | None = None) -> Rule:
    """The dtype that an attribute names, else `default`, else that of the input number `like`."""

    def rule(node: Node, inputs: Types) -> Inferred:
        code = node.attributes.get(attribute)
        if isinstance(code, str):  # Cast-1 names its dtype
            return [TensorType(dtypes.by_ort_name(code.lower()))]
        if code or default:
            return [TensorType(dtypes.by_code(code) if code else dtypes.by_name(default))]
        return [unshaped(inputs[like])] if like is not None and like < len(inputs) else []

    return rule


def value_dtype(node: Node, inputs: Types) -> Inferred:
    """The dtype of the value that an attribute gives, float by default."""
    kinds = {"value_float": FLOAT, "value_int": INT64, "value_string": STRING}
    for name, value in node.attributes.items():
        if name in {"value", "sparse_value"}:
            return [TensorType(dtypes.of_numpy(value.dtype))]
        if name.removesuffix("s") in kinds:
            return [TensorType(kinds[name.removesuffix("s")])]
    return [TensorType(FLOAT)]


def class_labels(node: Node, inputs: Types) -> Inferred:
    """The dtype of a classifier's labels: text where it has such labels."""
    return [TensorType(STRING if node.attributes.get("classlabels_strings") else INT64)]
