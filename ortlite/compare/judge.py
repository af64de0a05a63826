"""The first judge: the same kernels on NumPy in float64, which says who of two is further off.

`widened` rewrites a graph: floats of 16 and 32 bits become float64, complex64 becomes complex128, in constants,
types and attributes that name a dtype. Integers, strings, and the floats of 8 bits and fewer, which hold quantised
values, stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan
from typing import Any

import numpy as np

from ortlite import dtypes, schema
from ortlite.api.feed import feed_of
from ortlite.api.values import to_outside
from ortlite.compare.difference import difference, furthest
from ortlite.dtypes import DType
from ortlite.evaluate import NeedsError, evaluate, going_on
from ortlite.graph import Graph, MapType, Model, Node, OptionalType, SequenceType, TensorType, Type, extract
from ortlite.ops import registry

__all__ = ["MARGIN", "Judgement", "brief", "distance", "errors_of", "further_off", "judge", "wide_value", "widened"]

LARGE = 2**16  # elements of a constant that is widened where it is read
MARGIN = 2.0  # one is further off than the other when its error is so many times as large
WIDE = {"float16": "float64", "bfloat16": "float64", "float32": "float64", "complex64": "complex128"}


@dataclass(frozen=True, slots=True)
class Judgement:
    """The float64 value of every tensor that the judge could compute, and why it could not compute the others."""

    values: Mapping[str, Any]
    reasons: Mapping[str, str]


def judge(model: Model, feed: Mapping[str, Any], names: Sequence[str]) -> Judgement:
    """Compute `names` in float64 from `feed`, which may give values that nodes compute. Never raises."""
    try:
        graph = _widened_late(extract(model.graph, list(feed), names))
        inputs = feed_of(graph).values({name: wide_value(value) for name, value in feed.items()})
        failures: dict[str, Exception] = {}
        outputs = evaluate(graph, inputs, seed=0, on_step=going_on(failures))
        reasons = {name: _reason(error) for name, error in failures.items()}
        found = {name: value for name, value in zip(graph.outputs, outputs, strict=True) if name not in reasons}
        values = dict(zip(found, to_outside(list(found.values())), strict=True))
    except Exception as error:  # noqa: BLE001  (a model that has no float64 form has no judge, and that is all)
        return Judgement({}, dict.fromkeys(names, f"no float64 form: {brief(error)}"))
    reasons |= {name: "its kernel computes in float32" for name, value in values.items() if _narrow(value)}
    return Judgement({name: value for name, value in values.items() if name not in reasons}, reasons)


def _reason(error: Exception) -> str:
    if isinstance(error, NeedsError):
        return str(error)
    return f"fails in float64: {brief(error.__cause__ or error)}"


def brief(error: BaseException) -> str:
    """An exception in a line that fits into a report."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 100 else text[:97] + "..."


def wide_value(value: Any) -> Any:
    """A value as `session.run` gives it, its floats as float64."""
    if isinstance(value, list):
        return [wide_value(item) for item in value]
    if isinstance(value, np.ndarray) and value.dtype.name in WIDE:
        return value.astype(WIDE[value.dtype.name])
    return value


def _narrow(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_narrow, value))
    return isinstance(value, np.ndarray) and value.dtype.name in WIDE


def widened(graph: Graph) -> Graph:
    """The graph with its floats of 16 and 32 bits as float64, in subgraphs too."""
    return replace(
        graph,
        nodes=tuple(map(_node, graph.nodes)),
        constants={name: wide_value(value) for name, value in graph.constants.items()},
        types={name: _type(type_) for name, type_ in graph.types.items()},
    )


def _widened_late(graph: Graph) -> Graph:
    """The same, large constants widened before each node that reads them: they never stand in memory all at once."""
    kept = {*graph.inputs, *graph.outputs, *(name for node in graph.nodes for name in node.captures)}
    large = {
        name: value
        for name, value in graph.constants.items()
        if value.size >= LARGE and value.dtype.name in WIDE and name not in kept
    }
    nodes: list[Node] = []
    for node in graph.nodes:
        read = {name: f"{name}, wide for {len(nodes)}" for name in node.inputs if name in large}
        to = {name: dtypes.by_name(WIDE[large[name].dtype.name]).code for name in read}
        nodes += (Node("Cast", (name,), (wide,), {"to": to[name]}, opset=13) for name, wide in read.items())
        nodes.append(replace(node, inputs=tuple(read.get(name, name) for name in node.inputs)))
    rest = {name: value for name, value in graph.constants.items() if name not in large}
    wide = widened(graph.with_nodes(tuple(nodes), constants=rest))
    types = {name: TensorType(dtypes.of_numpy(value.dtype), value.shape) for name, value in large.items()}
    return replace(wide, constants={**wide.constants, **large}, types={**wide.types, **types})


def _wide(dtype: DType) -> DType:
    return dtypes.by_name(WIDE.get(dtype.name, dtype.name))


def _type(type_: Type) -> Type:
    if isinstance(type_, TensorType):
        return replace(type_, dtype=_wide(type_.dtype))
    if isinstance(type_, SequenceType | OptionalType):
        return replace(type_, element=_type(type_.element))
    return MapType(type_.key, _type(type_.value))


def _node(node: Node) -> Node:
    kernel = registry.lookup(node.domain, node.op_type, node.opset)
    known = schema.lookup(node.domain, node.op_type, node.opset)
    attributes: dict[str, Any] = {}
    if known is not None and kernel is not None:  # dtypes that are not written but meant: LayerNormalization's stash
        for name, param in kernel.attributes.items():
            if param.kind == "DType" and isinstance(default := known.attributes.get(name), int) and default:
                attributes[name] = default
    attributes |= node.attributes
    if node.op_type == "ConstantOfShape" and "value" not in attributes:
        attributes["value"] = np.zeros(1, np.float32)
    return replace(node, attributes={name: _attribute(kernel, name, value) for name, value in attributes.items()})


def _attribute(kernel: registry.Kernel | None, name: str, value: Any) -> Any:
    if isinstance(value, Graph):
        return widened(value)
    if isinstance(value, np.ndarray):
        return wide_value(value)
    if isinstance(value, TensorType | SequenceType | OptionalType | MapType):
        return _type(value)
    param = kernel.accepts(name) if kernel else None
    if param is not None and param.kind == "DType" and isinstance(value, int) and value:
        return _wide(dtypes.by_code(value)).code
    if name == "to" and value in {"FLOAT", "FLOAT16"}:  # Cast-1 spells it
        return "DOUBLE"
    return value


def errors_of(a: Any, b: Any, truth: Any) -> tuple[float, float]:
    """How far the values of the two sides are from the judge's."""
    return distance(a, truth), distance(b, truth)


def distance(value: Any, truth: Any) -> float:
    """The largest |value - truth|; for text how many differ, infinite where NaN or the shape does."""
    value = wide_value(value)
    if all(isinstance(x, np.ndarray) and x.dtype == np.float64 for x in (value, truth)) and value.shape == truth.shape:
        return furthest(value, truth)
    found = difference(value, truth)
    if found.problem or found.odd:
        return inf
    return float(found.unequal) if isnan(found.absolute) else found.absolute


def further_off(errors: tuple[float, float] | None, sides: tuple[str, str]) -> str:
    """The side that is further off, "" where neither is or nobody can tell."""
    if errors is None:
        return ""
    a, b = errors
    return sides[0] if a > MARGIN * b else sides[1] if b > MARGIN * a else ""
