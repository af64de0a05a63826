"""Shapes that cannot fit together: what onnx's own shape inference finds before a model runs, as onnxruntime does.

Only what is certain counts: attributes, constants, and the shapes of the model's inputs, which every run checks. What
files declare of the shapes of other values is not always true, so the inference does not see it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from math import prod

import onnx
from onnx import TensorProto

from ortlite.errors import Fail
from ortlite.graph import Graph

__all__ = ["SMALL", "check", "check_reshapes"]

SMALL = 64  # elements of a constant whose values may say a shape
INSIDE = "Inference error(s)"  # what onnx reports of a body, of an operator too, whose inference it gets wrong
WRONG = "): [ShapeInferenceError]"  # how it reports a node; types are judged elsewhere


def check(proto: onnx.ModelProto) -> None:
    """Raise Fail, with the node, for shapes that cannot fit."""
    bare = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    graph, given = bare.graph, proto.graph
    graph.name = "g"
    graph.node.extend(given.node)
    graph.input.extend(given.input)
    graph.output.extend(onnx.ValueInfoProto(name=output.name) for output in given.output)
    inputs = {i.name for i in given.input} if proto.ir_version >= 4 else set()  # what is both, a run may replace
    graph.initializer.extend(_outline(t) for t in given.initializer if t.name not in inputs)
    for subgraph in _subgraphs([*graph.node, *(n for f in bare.functions for n in f.node)]):
        _forget(subgraph)
    try:
        onnx.shape_inference.infer_shapes(bare.SerializeToString(), strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        if problem := _certain(str(error)):
            raise Fail(f"This is an invalid model. {problem}") from None
    except Exception:  # noqa: BLE001  (what inference cannot take, the checks of load have judged)
        return


def check_reshapes(graph: Graph) -> None:
    """Raise Fail where a constant cannot be reshaped as another constant says: onnx's inference does not look."""
    fixed = graph.constants.keys() - set(graph.overridable)
    for node in graph.nodes:
        if node.op_type == "Reshape" and not node.domain and len(node.inputs) == 2 and fixed.issuperset(node.inputs):
            data, target = (graph.constants[name] for name in node.inputs)
            zero = node.attributes.get("allowzero", 0)
            kept = zip_longest(target.reshape(-1).tolist(), data.shape[: target.size], fillvalue=0)
            wanted = [old if new == 0 and not zero else new for new, old in kept]
            size = prod(d for d in wanted if d != -1)
            free = wanted.count(-1)
            if free > 1 or (data.size % size if size and free else data.size != size):
                raise Fail(
                    f"This is an invalid model. Node ({node.name}) Op (Reshape): {data.size} elements, "
                    f"{list(data.shape)}, do not fit into {target.reshape(-1).tolist()}."
                )


def _certain(report: str) -> str:
    """The first nodes whose shapes are wrong, of what onnx reports."""
    lines: list[str] = []
    for line in report.split(f"{INSIDE}: ", 1)[-1].splitlines():
        if INSIDE in line:
            break
        if WRONG in line:
            lines.append(line.strip())
    return "; ".join(lines)


def _outline(tensor: TensorProto) -> TensorProto:
    """A tensor without its values, where these are too many to be a shape."""
    if tensor.data_location != TensorProto.EXTERNAL and prod(tensor.dims) <= SMALL:
        return tensor
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    waiting = [nodes]
    while waiting:
        for node in waiting.pop():
            for attribute in node.attribute:
                for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                    yield graph
                    waiting.append(graph.node)


def _forget(graph: onnx.GraphProto) -> None:
    """Take what a subgraph declares of shapes away."""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
