"""The types of a node's outputs, from the types of its inputs, its attributes and its schema.

Element types only: shapes are known when the model runs, and what files declare about them is not always
true. A type that cannot be told is None, and whatever depends on it is decided at run time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ortlite import dtypes
from ortlite.errors import Fail, InvalidGraph
from ortlite.graph import MapType, Node, OptionalType, SequenceType, SparseType, TensorType, Type
from ortlite.ops import registry
from ortlite.ops.types import unshaped
from ortlite.schema import Schema

__all__ = ["node_types", "parse"]


def parse(text: str) -> Type:
    """Read a type as onnx schemas write it: `tensor(float)`, `seq(tensor(int64))`, `map(string, float)`."""
    kind, _, rest = text.partition("(")
    inner = rest[:-1]
    if kind == "tensor":
        return TensorType(dtypes.by_ort_name(inner))
    if kind == "sparse_tensor":
        return SparseType(dtypes.by_ort_name(inner))
    if kind == "seq":
        return SequenceType(parse(inner))
    if kind == "optional":
        return OptionalType(parse(inner))
    if kind == "map":
        key, _, value = inner.partition(",")
        value = value.strip()
        return MapType(dtypes.by_ort_name(key.strip()), parse(value if "(" in value else f"tensor({value})"))
    raise ValueError(f"not a type: {text}")


def node_types(node: Node, schema: Schema | None, types: Mapping[str, Type | None]) -> list[Type | None]:
    """The type of each of the node's outputs; None where it cannot be told.

    Raises InvalidGraph for an input type the schema does not allow, Fail where one type variable would
    stand for two types.
    """
    inputs = [types.get(name) if name else None for name in node.inputs]
    if schema is None:
        return _by_results(node, inputs)
    variables = _bind(node, schema, inputs)
    kernel = registry.lookup(node.domain, node.op_type, node.opset)
    found = kernel.types(node, inputs) if kernel is not None and kernel.types is not None else []
    result: list[Type | None] = []
    for position in range(len(node.outputs)):
        known = found[position] if position < len(found) else None
        result.append(known or _formal_type(schema, position, variables))
    return result


def _bind(node: Node, schema: Schema, inputs: Sequence[Type | None]) -> dict[str, Type]:
    variables: dict[str, Type] = {}
    source: dict[str, str] = {}
    for position, actual in enumerate(inputs):
        if actual is None or not schema.inputs:
            continue
        formal = schema.input(position)
        allowed = schema.variables.get(formal.type, frozenset((formal.type,)))
        name = node.inputs[position]
        if _schema_text(actual) not in allowed and not (
            isinstance(actual, OptionalType) and _schema_text(actual.element) in allowed
        ):
            raise InvalidGraph(
                f"This is an invalid model. Type Error: Type '{actual.ort}' of input parameter ({name}) of operator "
                f"({node.op_type}) in node ({node.name}) is invalid."
            )
        if formal.type not in schema.variables or not formal.homogeneous:
            continue
        bound = variables.setdefault(formal.type, actual)
        source.setdefault(formal.type, name)
        if bound.ort != actual.ort and not isinstance(bound, OptionalType) and not isinstance(actual, OptionalType):
            raise Fail(
                f"Type Error: Type parameter ({formal.type}) of Optype ({node.op_type}) bound to different types "
                f"({bound.ort} and {actual.ort} in node ({node.name}), inputs {source[formal.type]!r} and {name!r})."
            )
    return variables


def _schema_text(type_: Type) -> str:
    """A type as onnx's schemas write it; they put a blank into maps and leave `tensor()` out."""
    if isinstance(type_, MapType):
        return f"map({type_.key.ort}, {type_.value.ort.removeprefix('tensor(').removesuffix(')')})"
    if isinstance(type_, SequenceType):
        return f"seq({_schema_text(type_.element)})"
    if isinstance(type_, OptionalType):
        return f"optional({_schema_text(type_.element)})"
    return type_.ort


def _formal_type(schema: Schema, position: int, variables: Mapping[str, Type]) -> Type | None:
    formal = schema.output(position)
    if formal.type in variables:
        return unshaped(variables[formal.type])
    allowed = schema.variables.get(formal.type)
    if allowed is None:
        return parse(formal.type)
    return parse(next(iter(allowed))) if len(allowed) == 1 else None


def _by_results(node: Node, inputs: Sequence[Type | None]) -> list[Type | None]:
    """Domains without schemas: what the kernel's `results` say, else the dtype of the first input."""
    kernel = registry.lookup(node.domain, node.op_type, node.opset)
    first = unshaped(next((t for t in inputs if t is not None), None))
    if kernel is None:
        return [None] * len(node.outputs)
    names = [p.name for p in kernel.inputs]
    found: list[Type | None] = []
    for position in range(len(node.outputs)):
        rule = kernel.results[position] if position < len(kernel.results) else None
        if rule is None:
            found.append(first)
        elif not rule:
            found.append(None)
        elif rule in names:
            index = names.index(rule)
            found.append(unshaped(inputs[index]) if index < len(inputs) else None)
        elif rule in kernel.attributes:
            code = node.attributes.get(rule, kernel.attributes[rule].default)
            found.append(TensorType(dtypes.by_code(code)) if isinstance(code, int) and code else first)
        else:
            found.append(TensorType(dtypes.by_name(rule)))
    return found


def check_attributes(node: Node, schema: Schema) -> None:
    """Raise InvalidGraph for an attribute that is missing or that the operator does not have."""
    for name in sorted(schema.required - node.attributes.keys()):
        raise InvalidGraph(_about(node, f"Required attribute '{name}' is missing."))
    for name in node.attributes.keys() - schema.attributes.keys():
        raise InvalidGraph(_about(node, f"Unrecognized attribute: {name} for operator {node.op_type}"))


def check_arity(node: Node, schema: Schema) -> None:
    """Raise InvalidGraph for too few or too many inputs or outputs."""
    count = len(node.inputs)
    if not schema.min_inputs <= count <= schema.max_inputs:
        wanted = f"[{schema.min_inputs},{schema.max_inputs}]"
        raise InvalidGraph(_about(node, f"Node has input size {count} not in range [min, max] = {wanted}."))
    if len(node.outputs) > schema.max_outputs:
        raise InvalidGraph(_about(node, f"Node has {len(node.outputs)} outputs, at most {schema.max_outputs} allowed."))


def _about(node: Node, problem: str) -> str:
    return (
        f"This is an invalid model. In Node, ({node.name!r}, {node.op_type}, {node.domain!r}): {node}, Error {problem}"
    )
