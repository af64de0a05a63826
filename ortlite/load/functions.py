"""Functions that nodes may call: those of a file, and the bodies of operators."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

import onnx
from onnx import AttributeProto

from ortlite.errors import InvalidArgument, InvalidGraph, LimitExceeded
from ortlite.limits import beyond
from ortlite.load.order import graphs_of, ordered, repeated_name
from ortlite.load.tensors import text

__all__ = [
    "CALLS", "Function", "Key", "check_expansion", "domain_of", "function_key", "operator_body",
    "read_function", "too_large",
]  # fmt: skip

# Functions that call others twice double with every level: 2 KB could become 2**30 nodes. So there is a limit.
CALLS = 256  # functions inside one another

Key = tuple[str, str, str]  # domain, name, overload of a function


def domain_of(domain: str) -> str:
    """A domain in its one spelling."""
    return "" if domain == "ai.onnx" else domain


class Function(NamedTuple):
    """A function that nodes may call: of the file, or the body of an operator."""

    key: Key
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: list[onnx.NodeProto]  # in topological order
    opsets: Mapping[str, int]
    attributes: frozenset[str]
    defaults: Mapping[str, AttributeProto]

    def __str__(self) -> str:
        return f"function {self.key[0]}::{self.key[1]}"


def function_key(proto: onnx.FunctionProto, name: str) -> Key:
    """By what nodes call a function."""
    domain, overload = text(proto.domain, "a function's domain"), text(proto.overload, "a function's overload")
    return domain_of(domain), text(name, "a function"), overload


def read_function(proto: onnx.FunctionProto, key: Key, defaults: Iterable[AttributeProto] = ()) -> Function:
    """A function's body, in order.

    Raises Fail for a body that is no graph, InvalidGraph for ambiguous names, InvalidArgument for an output that no
    node computes.
    """
    about = f"function {key[0]}::{key[1]}"
    inputs = tuple(text(name, f"an input of {about}") for name in proto.input)
    outputs = tuple(text(name, f"an output of {about}") for name in proto.output)
    if repeated := repeated_name(inputs) or repeated_name(outputs):
        raise InvalidGraph(f"This is an invalid model. {about}: two inputs or outputs are called {repeated!r}.")
    nodes = ordered(proto.node, set(inputs), lambda name: False)
    computed = {*inputs, *(name for node in nodes for name in node.output)}
    if missing := next((name for name in outputs if name not in computed), None):
        raise InvalidArgument(
            f"This is an invalid model. Error: Output ({missing}) of {about} does not exist in the function."
        )
    given = {a.name: a for a in (*defaults, *proto.attribute_proto)}
    opsets = {domain_of(text(o.domain, "an opset import")): o.version for o in proto.opset_import}
    return Function(key, inputs, outputs, nodes, opsets, frozenset({*proto.attribute, *given}), given)


@cache
def operator_body(domain: str, op_type: str, opset: int) -> Function | None:
    """What onnx says an operator is composed of."""
    known: Any = onnx.defs.get_schema(op_type, opset, domain)
    if not known.has_function:
        return None
    defaults = [a.default_value for a in known.attributes.values() if a.default_value.type]
    function = read_function(known.function_body, (domain, op_type, ""), defaults)
    return function._replace(attributes=frozenset(known.attributes))


def check_expansion(nodes: Iterable[onnx.NodeProto], functions: Mapping[Key, Function], allowed: int | None) -> None:
    """Raise InvalidGraph where functions call themselves, LimitExceeded where calls become too much, before they do."""
    most = sys.maxsize if allowed is None else allowed
    own = {key: _calls(function.nodes, functions) for key, function in functions.items()}
    try:
        order = tuple(TopologicalSorter({key: calls.keys() for key, (_, calls) in own.items()}).static_order())
    except CycleError as error:
        domain, name, _ = error.args[1][0]
        raise InvalidGraph(f"This is an invalid model. Error: function {domain}::{name} calls itself.") from None
    sizes: dict[Key, int] = {}
    depths: dict[Key, int] = {}
    for key in order:
        count, calls = own[key]
        # a size beyond the limit is as good as any other, and no number of a million digits
        sizes[key] = min(count + sum(sizes[k] * times for k, times in calls.items()), most + 1)
        depths[key] = 1 + max((depths[k] for k in calls), default=0)
    calls = _calls(nodes, functions)[1]
    if sum(sizes[k] * times for k, times in calls.items()) > most:
        raise too_large(most)
    if (deepest := max((depths[k] for k in calls), default=0)) > CALLS:
        raise InvalidGraph(
            f"This is an invalid model. Error: functions call one another {deepest} deep; {CALLS} is the limit."
        )


def _calls(nodes: Iterable[onnx.NodeProto], functions: Mapping[Key, Function]) -> tuple[int, Counter[Key]]:
    """How many nodes there are, subgraphs included, and how often they call each function."""
    count, calls = 0, Counter[Key]()
    waiting = [nodes]
    while waiting:
        for node in waiting.pop():
            count += 1
            key = domain_of(node.domain), node.op_type, node.overload
            if key in functions:
                calls[key] += 1
            waiting.extend(graph.node for graph in graphs_of(node))
    return count, calls


def too_large(allowed: int) -> LimitExceeded:
    """The error of calls that become too many nodes."""
    return beyond("function_expansion", allowed, f"more than {allowed}", "nodes that the calls of functions become")
