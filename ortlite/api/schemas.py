"""What operators there are: `get_all_operator_schema` and `get_all_opkernel_def`, under onnxruntime's names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ortlite import infer, schema
from ortlite.ops import registry
from ortlite.ops.registry import Kernel
from ortlite.provider import CPU
from ortlite.schema import AttrType, Option, Schema, SupportType

__all__ = ["FormalParameter", "KernelDef", "OpSchema", "get_all_operator_schema", "get_all_opkernel_def"]

LAST = 2**31 - 1  # a version without end
MANY = 2**31 - 1  # inputs without end


@dataclass(frozen=True, slots=True)
class FormalParameter:
    """An input or output of an operator."""

    name: str
    description: str
    typeStr: str  # noqa: N815  (onnxruntime's name)
    types: frozenset[str]
    option: Any
    isHomogeneous: bool  # noqa: N815


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of an operator."""

    name: str
    description: str
    type: Any
    required: bool


@dataclass(frozen=True, slots=True)
class TypeConstraint:
    """What a type variable may stand for."""

    type_param_str: str
    description: str
    allowed_type_strs: list[str]


@dataclass(frozen=True, slots=True)
class OpSchema:
    """One version of one operator."""

    name: str
    domain: str
    since_version: int
    doc: str
    deprecated: bool
    support_level: Any
    inputs: list[FormalParameter]
    outputs: list[FormalParameter]
    attributes: dict[str, Attribute]
    type_constraints: list[TypeConstraint]
    min_input: int
    max_input: int
    min_output: int
    max_output: int
    has_type_and_shape_inference_function: bool
    file: str = ""
    line: int = 0

    @staticmethod
    def is_infinite(value: int) -> bool:
        """Whether a number of inputs means any number."""
        return value == MANY


@dataclass(frozen=True, slots=True)
class KernelDef:
    """What runs an operator in a range of versions, both ends included."""

    op_name: str
    domain: str
    version_range: tuple[int, int]
    provider: str
    type_constraints: dict[str, list[str]]


def get_all_operator_schema() -> list[OpSchema]:
    """Every version of every operator: ONNX's, and those that only ortlite has kernels of."""
    theirs = [_of_onnx(known) for known in schema.every_version()]
    names = {(known.domain, known.name) for known in theirs}
    ours = [_of_kernel(kernel) for kernel in registry.kernels() if (kernel.domain, kernel.op_type) not in names]
    return theirs + ours


def get_all_opkernel_def() -> list[KernelDef]:
    """Every kernel, with the versions that it runs, on the CPU provider; the other providers run the same ones."""
    return list(_kernel_defs())


def _kernel_defs() -> Iterator[KernelDef]:
    listed = list(registry.kernels())
    for kernel, following in pairwise([*listed, None]):
        assert kernel is not None
        same = following is not None and (following.domain, following.op_type) == (kernel.domain, kernel.op_type)
        last = following.since - 1 if same and following is not None else LAST
        known = schema.lookup(kernel.domain, kernel.op_type, min(last, 1000))
        constraints = {name: sorted(types) for name, types in known.variables.items()} if known else {}
        yield KernelDef(kernel.op_type, kernel.domain, (kernel.since, last), CPU, constraints)


def _of_onnx(known: Any) -> OpSchema:
    def formal(p: Any) -> FormalParameter:
        return FormalParameter(p.name, p.description, p.type_str, frozenset(p.types), p.option, p.is_homogeneous)

    return OpSchema(
        name=known.name,
        domain=known.domain,
        since_version=known.since_version,
        doc=known.doc,
        deprecated=known.deprecated,
        support_level=known.support_level,
        inputs=list(map(formal, known.inputs)),
        outputs=list(map(formal, known.outputs)),
        attributes={n: Attribute(n, a.description, a.type, a.required) for n, a in known.attributes.items()},
        type_constraints=[
            TypeConstraint(c.type_param_str, c.description, list(c.allowed_type_strs)) for c in known.type_constraints
        ],
        min_input=known.min_input,
        max_input=known.max_input,
        min_output=known.min_output,
        max_output=known.max_output,
        has_type_and_shape_inference_function=known.has_type_and_shape_inference_function,
        file=known.file,
        line=known.line,
    )


def _of_kernel(kernel: Kernel) -> OpSchema:
    """What a kernel's signature says of an operator that ONNX does not have."""
    read: Schema = infer.signature(kernel)
    options = {(False, False): Option.Single, (True, False): Option.Optional}

    def formal(p: schema.FormalParameter) -> FormalParameter:
        option = options.get((p.optional, p.variadic), Option.Variadic)
        return FormalParameter(p.name, "", p.type, frozenset(), option, p.homogeneous)

    attributes = {
        name: Attribute(name, "", getattr(AttrType, read.kinds.get(name, "UNDEFINED"), None), name in read.required)
        for name in read.attributes
    }
    return OpSchema(
        name=kernel.op_type,
        domain=kernel.domain,
        since_version=kernel.since,
        doc=kernel.fn.__doc__ or "",
        deprecated=False,
        support_level=SupportType.COMMON,
        inputs=list(map(formal, read.inputs)),
        outputs=[],
        attributes=attributes,
        type_constraints=[],
        min_input=read.min_inputs,
        max_input=read.max_inputs,
        min_output=1,
        max_output=read.max_outputs,
        has_type_and_shape_inference_function=True,
        file=kernel.fn.__code__.co_filename,
        line=kernel.fn.__code__.co_firstlineno,
    )
