"""What ONNX says about an operator, as plain data: `load` fills these in, every later stage may read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Formal", "Schema"]


@dataclass(frozen=True, slots=True)
class Formal:
    """A formal input or output. `type` is a type variable of the schema or a type such as `tensor(int64)`."""

    name: str
    type: str
    optional: bool = False
    variadic: bool = False
    homogeneous: bool = True


@dataclass(frozen=True, slots=True)
class Schema:
    """One version of one operator. `variables` maps type variables to the types they may stand for."""

    domain: str
    op_type: str
    since: int
    inputs: tuple[Formal, ...]
    outputs: tuple[Formal, ...]
    min_inputs: int
    max_inputs: int
    max_outputs: int
    attributes: Mapping[str, Any]
    required: frozenset[str]
    variables: Mapping[str, frozenset[str]]
    deprecated: bool = False

    def input(self, position: int) -> Formal:
        """The formal input at `position`; the last one repeats when it is variadic."""
        return self.inputs[min(position, len(self.inputs) - 1)]

    def output(self, position: int) -> Formal:
        """The formal output at `position`; the last one repeats when it is variadic."""
        return self.outputs[min(position, len(self.outputs) - 1)]
