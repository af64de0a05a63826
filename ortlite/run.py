"""Stage 6: bound steps + inputs -> outputs. The loop that interprets a plan, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ortlite import dtypes
from ortlite.errors import Fail, InvalidArgument, OrtError, describe
from ortlite.graph import TensorType
from ortlite.plan import Call, Plan
from ortlite.steps import Bound, OnStep, ReadConst, ReadHost, ReadSlot
from ortlite.stopping import current

__all__ = ["check_types", "interpret", "node_error", "step"]


def interpret(
    plan: Plan, steps: Sequence[Bound], inputs: Sequence[Any], on_step: OnStep | None = None
) -> tuple[Any, ...]:
    """Run every step in order and return the plan's outputs.

    `on_step(bound, values)`, when given, takes the place of `step`: it sees each bound step and the values of all
    slots before and after, and runs the step itself, by calling `step`. Raises what `node_error` makes of a step's
    exception, and between two steps what `ortlite.stopping` has for a run that is to end.
    """
    values: list[Any] = [None] * plan.slots
    for slot, value in plan.constants.items():
        values[slot] = value
    for slot, value in zip(plan.inputs, inputs, strict=True):
        values[slot] = value
    run_step, stop = on_step or step, current()
    if stop is not None:
        stop()  # once at least: the body of a loop may have no steps
    for bound in steps:
        if stop is not None:
            stop()
        run_step(bound, values)
        for slot in bound.free:
            values[slot] = None
    return tuple(values[slot] for slot in plan.outputs)


def step(bound: Bound, values: list[Any], on_step: OnStep | None = None) -> None:
    """Run one step: read its arguments from `values`, put its results there. Subgraphs run their steps by `on_step`."""
    try:
        result = bound.fn(
            *[reader.read(values) for reader in bound.arguments],
            **{name: reader.read(values, on_step) for name, reader in bound.keywords},
        )
        results = result if bound.multiple else (result,)
        if len(results) < len(bound.outputs):
            raise ValueError(f"the kernel has {len(results)} outputs, and the node {len(bound.outputs)}")
    except Exception as error:
        raise node_error(bound, values, error) from error
    for slot, value in zip(bound.outputs, results, strict=False):
        if slot is not None:
            values[slot] = value


# Operators of which onnxruntime says InvalidArgument where the values of their inputs, or shapes, are not right.
REFUSE = frozenset(
    "ArrayFeatureExtractor BatchNormalization DepthToSpace Det Einsum Expand EyeLike GRU Gather GatherND Gemm "
    "InstanceNormalization LSTM LayerNormalization MaxUnpool RNN Range ReverseSequence RoiAlign ScatterElements "
    "ScatterND SequenceAt SequenceErase SequenceInsert Slice SpaceToDepth Split StringNormalizer Tile Transpose Trilu "
    "ZipMap".split()
)


def node_error(bound: Bound, values: Sequence[Any] | Mapping[int, Any], error: Exception) -> OrtError:
    """The error of a session for an exception in a step: names the node, its operator and its inputs.

    `values` are those of the slots that the step reads, by slot.
    """
    if isinstance(error, OrtError):  # from a subgraph, which has named its node already
        return error
    node = bound.node
    if node is None:
        return Fail(f"value {getattr(bound.step, 'value', '')!r}: {error}")
    inputs = ", ".join(
        f"{name}: {describe(reader.value if isinstance(reader, ReadConst) else values[reader.index])}"
        for name, reader in zip(node.inputs, bound.arguments, strict=False)
        if name and isinstance(reader, ReadConst | ReadSlot | ReadHost)
    )
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    problem = str(error) or type(error).__name__
    standard = node.domain in {"", "ai.onnx.ml"}
    refused = standard and node.op_type in REFUSE and isinstance(error, ValueError | IndexError)
    return (InvalidArgument if refused else Fail)(
        f"Non-zero status code returned while running {operator} node. Name:'{node.name}' "
        f"Status Message: {problem} (inputs {inputs or 'none'}; opset {node.opset})",
        node,
    )


def check_types(bound: Bound, values: list[Any]) -> None:
    """An `on_step` for tests: asserts that every output has the dtype that its schema says."""
    step(bound, values, check_types)
    if not isinstance(bound.step, Call):
        return
    provider, kernel = bound.step.provider, bound.step.kernel
    for name, type_, slot in zip(bound.step.node.outputs, bound.step.types, bound.outputs, strict=True):
        value = None if slot is None else values[slot]
        if value is None or not isinstance(type_, TensorType) or not hasattr(value, "dtype"):
            continue
        if kernel.host_result or isinstance(value, np.ndarray | np.generic):
            actual = dtypes.of_numpy(value.dtype).name
        else:
            actual = provider.xp.dtype_name(value.dtype)
        if actual != (wanted := _computed(type_, bound.step)):
            raise AssertionError(f"{kernel} on {provider.name}: output {name!r} is {actual}, the schema says {wanted}")


def _computed(type_: TensorType, call: Call) -> str:
    """The dtype a kernel's output has before it is narrowed back."""
    widen = (
        {} if call.kernel.any_dtype or call.kernel.python_objects or call.kernel.host_result else call.provider.widen
    )
    return widen.get(type_.dtype.name, type_.dtype.name)
