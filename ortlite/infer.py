"""The types of a node's outputs, from the types of its inputs, its attributes and its schema.

Element types only: shapes are known when the model runs, and what files declare about them is not always
true. A type that cannot be told is None, and whatever depends on it is decided at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from ortlite import dtypes
from ortlite.errors import Fail, InvalidGraph
from ortlite.graph import MapType, Node, OptionalType, SequenceType, SparseType, TensorType, Type
from ortlite.ops import registry
from ortlite.ops.registry import Kernel
from ortlite.ops.types import unshaped
from ortlite.schema import FormalParameter, Schema

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


def node_types(node: Node, schema: Schema | None, inputs: Sequence[Type | None]) -> list[Type | None]:
    """The type of each of the node's outputs, from those of its inputs; None where it cannot be told.

    Raises InvalidGraph for an input type the schema does not allow, Fail where one type variable would
    stand for two types.
    """
    if schema is None:
        return _by_results(node, inputs)
    variables = _bind(node, schema, inputs)
    kernel = registry.lookup(node.domain, node.op_type, node.opset)
    try:
        found = kernel.types(node, inputs) if kernel is not None and kernel.types is not None else []
    except (ValueError, KeyError) as error:  # an attribute that names no dtype
        raise InvalidGraph(_about(node, f"the types of its outputs cannot be told: {error}")) from None
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
            if isinstance(code, dtypes.DType):  # the default
                found.append(TensorType(code))
            else:
                found.append(_of_code(node, rule, code) if isinstance(code, int) and code else first)
        else:
            found.append(TensorType(dtypes.by_name(rule)))
    return found


def _of_code(node: Node, attribute: str, code: int) -> TensorType:
    """The type that an attribute names by ONNX's number. Raises InvalidGraph for an unknown one."""
    try:
        return TensorType(dtypes.by_code(code))
    except ValueError as error:
        raise InvalidGraph(_about(node, f"{attribute}: {error}")) from None


# An attribute's kind, in ONNX's words, where the annotation of a kernel's parameter says it.
KINDS = {
    "Int": "INT", "Bool": "INT", "Flag": "INT", "DType": "INT", "Ints": "INTS", "Float": "FLOAT", "Floats": "FLOATS",
    "Text": "STRING", "Texts": "STRINGS", "Graph": "GRAPH", "Type": "TYPE_PROTO",
}  # fmt: skip
MANY = 2**31 - 1  # what onnx says where any number will do


@cache
def signature(kernel: Kernel) -> Schema:
    """What a kernel's signature says of an operator that onnx has no schema of."""
    attributes = {p.name: p for p in kernel.inputs if p.host} | kernel.attributes  # some are given in either way
    inputs = [FormalParameter(p.name, "", not p.required) for p in kernel.inputs]
    if kernel.variadic is not None:
        inputs.append(FormalParameter(kernel.variadic.name, "", optional=True, variadic=True))
    needed = [i for i, p in enumerate(kernel.inputs) if p.required and not p.host]
    return Schema(
        domain=kernel.domain,
        op_type=kernel.op_type,
        since=kernel.since,
        inputs=tuple(inputs),
        outputs=(),
        min_inputs=max(needed, default=-1) + 1,
        max_inputs=MANY if kernel.variadic is not None else len(kernel.inputs),
        max_outputs=MANY if kernel.results_count is None else kernel.results_count,
        attributes={name: p.default for name, p in attributes.items()},
        required=frozenset(n for n, p in kernel.attributes.items() if p.required),
        variables={},
        kinds={name: KINDS[p.kind] for name, p in attributes.items() if p.kind in KINDS},
    )


def check_attributes(node: Node, schema: Schema, kinds: Mapping[str, str]) -> None:
    """Raise InvalidGraph for an attribute that is missing, that the operator does not have, or of another kind."""
    for name in sorted(schema.required - node.attributes.keys()):
        raise InvalidGraph(_about(node, f"Required attribute '{name}' is missing."))
    for name in sorted(node.attributes.keys() - schema.attributes.keys()):
        raise InvalidGraph(_about(node, f"Unrecognized attribute: {name} for operator {node.op_type}"))
    for name, kind in kinds.items():
        if (wanted := schema.kinds.get(name, kind)) != kind:
            problem = f"Mismatched attribute type in '{node.name} : {name}'. Expected: '{wanted}', actual: '{kind}'"
            raise InvalidGraph(_about(node, problem))


def check_arity(node: Node, schema: Schema, inputs: int, outputs: int) -> None:
    """Raise InvalidGraph for more inputs or outputs than the operator has, or an input left out that may not be.

    `inputs` and `outputs` are how many the file names, those at the end that are left out among them.
    """
    if not schema.min_inputs <= inputs <= schema.max_inputs:
        wanted = f"[{schema.min_inputs},{schema.max_inputs}]"
        raise InvalidGraph(_about(node, f"Node has input size {inputs} not in range [min, max] = {wanted}."))
    if outputs > schema.max_outputs:
        raise InvalidGraph(_about(node, f"Node has {outputs} outputs, at most {schema.max_outputs} allowed."))
    for position, formal in enumerate(schema.inputs):
        there = position < len(node.inputs) and bool(node.inputs[position])
        if formal.name in node.attributes:
            if there:
                raise InvalidGraph(_about(node, f"{formal.name!r} is an input and an attribute at once."))
        elif not (there or formal.optional or formal.variadic):
            raise InvalidGraph(_about(node, f"Input {position} ({formal.name}) is required and has no name."))


def check_bodies(node: Node) -> None:
    """Raise Fail where a subgraph takes or returns another number of values than its operator gives or wants.

    So where lists of attributes are about these values. A node may leave outputs at the end out; a body has them all.
    """
    if node.domain or node.op_type not in BODIES:
        return
    inputs, outputs = BODIES[node.op_type](node)
    counts = {len(graph.outputs) for graph in node.subgraphs.values()}
    for name, graph in node.subgraphs.items():
        if len(graph.inputs) != inputs:
            raise Fail(_about(node, f"{name} takes {len(graph.inputs)} inputs and is given {inputs}."))
        if len(graph.outputs) < outputs or len(counts) > 1:
            problem = f"its subgraphs return {sorted(counts)} values; that many, and at least {outputs}, are wanted."
            raise Fail(_about(node, problem))
    if node.op_type == "Scan":
        _check_axes(node, *counts)


def _check_axes(node: Node, outputs: int) -> None:
    """Raise Fail where the axes or directions of a Scan, whose body has so many outputs, are not one for each value."""
    scanned = node.attributes["num_scan_inputs"]
    stacked = outputs - (_scan_counts(node)[0] - scanned)
    counts = dict.fromkeys(("directions", "scan_input_axes", "scan_input_directions"), scanned)
    counts |= dict.fromkeys(("scan_output_axes", "scan_output_directions"), stacked)
    for name, count in counts.items():
        given = node.attributes.get(name) or (0,) * count
        if len(given) != count:
            raise Fail(_about(node, f"{name} has {len(given)} numbers for {count} values."))
        if name.endswith("directions") and not {*given} <= {0, 1}:
            raise Fail(_about(node, f"{name} {[*given]} must all be 0 or 1."))


def _scan_counts(node: Node) -> tuple[int, int]:
    inputs = len(node.inputs) - (node.opset < 9)  # before, the lengths of the sequences came first
    states = inputs - node.attributes["num_scan_inputs"]
    if not 0 <= states < inputs:
        raise InvalidGraph(_about(node, f"num_scan_inputs is not between 1 and {inputs}, the number of inputs."))
    return inputs, max(len(node.outputs), states)


def _loop_counts(node: Node) -> tuple[int, int]:
    states = max(len(node.inputs) - 2, 0)
    return 2 + states, 1 + max(len(node.outputs), states)


# How many inputs the subgraphs of a node have, and how many outputs at least.
BODIES: dict[str, Callable[[Node], tuple[int, int]]] = {
    "If": lambda node: (0, len(node.outputs)),
    "Loop": _loop_counts,
    "Scan": _scan_counts,
    "SequenceMap": lambda node: (len(node.inputs), len(node.outputs)),
}


def _about(node: Node, problem: str) -> str:
    return (
        f"This is an invalid model. In Node, ({node.name!r}, {node.op_type}, {node.domain!r}): {node}, Error {problem}"
    )
