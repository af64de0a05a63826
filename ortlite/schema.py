"""What ONNX says about an operator, as plain data: whoever wants to know asks here, and imports no onnx."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import onnx
from onnx import helper

__all__ = [
    "DROPPED",
    "OWN",
    "AttrType",
    "FormalParameter",
    "Option",
    "Schema",
    "SupportType",
    "every_version",
    "lookup",
    "plain",
]

# onnx's enumerations
AttrType = onnx.defs.OpSchema.AttrType
Option = onnx.defs.OpSchema.FormalParameterOption
SupportType = onnx.defs.OpSchema.SupportType

# Attributes that never meant anything to an inference runtime: hints of the first opsets about memory and
# training. They are dropped, so that kernels need not name them.
DROPPED = {("", "consumed_inputs")}

OWN = "ortlite"  # the domain of operators that no file has: the optimiser makes them


class FormalParameter(NamedTuple):
    """A formal input or output. `type` is a type variable of the schema or a type such as `tensor(int64)`."""

    name: str
    type: str
    optional: bool = False
    variadic: bool = False
    homogeneous: bool = True


class Schema(NamedTuple):
    """One version of one operator. `variables` maps type variables to the types they may stand for.

    `kinds` says of what kind each attribute is, as ONNX names it (INT, FLOATS, GRAPH, ...); an attribute that may be
    of several kinds is not in it.
    """

    domain: str
    op_type: str
    since: int
    inputs: tuple[FormalParameter, ...]
    outputs: tuple[FormalParameter, ...]
    min_inputs: int
    max_inputs: int
    max_outputs: int
    attributes: Mapping[str, Any]
    required: frozenset[str]
    variables: Mapping[str, frozenset[str]]
    kinds: Mapping[str, str]
    deprecated: bool = False

    def input(self, position: int) -> FormalParameter:
        """The formal input at `position`; the last one repeats when it is variadic."""
        return self.inputs[min(position, len(self.inputs) - 1)]

    def output(self, position: int) -> FormalParameter:
        """The formal output at `position`; the last one repeats when it is variadic."""
        return self.outputs[min(position, len(self.outputs) - 1)]


def every_version() -> list[Any]:
    """The schemas of onnx: every version of every operator."""
    return list(onnx.defs.get_all_schemas_with_history())


@cache
def lookup(domain: str, op_type: str, opset: int) -> Schema | None:
    """The schema in force for an operator at an opset, or None when onnx knows none."""
    try:
        found = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None

    def formal(p: Any) -> FormalParameter:
        return FormalParameter(
            p.name, p.type_str, p.option == Option.Optional, p.option == Option.Variadic, p.is_homogeneous
        )

    defaults = {
        name: helper.get_attribute_value(a.default_value) if a.default_value.type else None
        for name, a in found.attributes.items()
    }
    return Schema(
        domain,
        op_type,
        found.since_version,
        tuple(map(formal, found.inputs)),
        tuple(map(formal, found.outputs)),
        found.min_input,
        found.max_input,
        found.max_output,
        {name: plain(value) for name, value in defaults.items()},
        frozenset(name for name, a in found.attributes.items() if a.required and (domain, name) not in DROPPED),
        {c.type_param_str: frozenset(c.allowed_type_strs) for c in found.type_constraints},
        {name: _kind(a.type) for name, a in found.attributes.items()},
        found.deprecated,
    )


def _kind(type_: Any) -> str:
    return str(type_.name)


def plain(value: Any) -> Any:
    """An attribute as a graph holds it: text for bytes, tuples for lists."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value
