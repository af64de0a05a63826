"""Stage 6: Program + inputs -> outputs. The loop that interprets a program, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from ortlite.api.errors import Fail, OrtError
from ortlite.infer import describe

if TYPE_CHECKING:
    from ortlite.compile import Bound, Program
    from ortlite.graph import Node

__all__ = ["interpret", "node_error"]


def interpret(
    program: Program, inputs: Sequence[Any], record: Collection[int] = (), static: Collection[int] = ()
) -> tuple[tuple[Any, ...], dict[int, Any]]:
    """Run every step in order. Returns the outputs, and the values of the slots in `record`.

    What makes slots in `static` alone is computed even where the library is tracing.
    Raises what `node_error` makes of a step's exception.
    """
    slots: list[Any] = [None] * program.plan.slots
    for index, value in program.plan.constants.items():
        slots[index] = value
    for slot, value in zip(program.plan.inputs, inputs, strict=True):
        slots[slot] = value
    recorded = {slot: slots[slot] for slot in record if slots[slot] is not None}
    for step in program.steps:
        now = static and all(slot in static for slot in step.outputs if slot is not None)
        try:
            with step.eager() if now else nullcontext():
                keywords = {n: a.read(slots) for n, a in step.keywords}
                result = step.fn(*[a.read(slots) for a in step.arguments], **keywords)
        except Exception as error:
            values = [a.read(slots) for a in step.arguments if hasattr(a, "index")]
            raise node_error(step, values, error) from error
        for output, value in zip(step.outputs, result if step.multiple else (result,), strict=False):
            if output is not None:
                slots[output] = value
                if output in record:
                    recorded[output] = value
        if program.check is not None:
            program.check(step, [None if i is None else slots[i] for i in step.outputs])
        for index in step.free:
            slots[index] = None
    return tuple(slots[index] for index in program.plan.outputs), recorded


def node_error(step: Bound, values: Sequence[Any], error: Exception) -> OrtError:
    """The error of a session for an exception in a step: names the node, its operator and what it was given."""
    if isinstance(error, OrtError):  # from a subgraph, which has named its node already
        return error
    node: Node | None = step.node
    if node is None:
        return Fail(f"value {getattr(step.step, 'value', '')!r}: {error}")
    given = ", ".join(
        f"{name}: {describe(value)}" for name, value in zip(filter(None, node.inputs), values, strict=False)
    )
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    problem = str(error) or type(error).__name__
    return Fail(
        f"Non-zero status code returned while running {operator} node. Name:'{node.name}' "
        f"Status Message: {problem} (inputs {given or 'none'}; opset {node.opset})",
        node,
    )
