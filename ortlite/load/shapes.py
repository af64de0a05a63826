"""Shapes that cannot fit together: what onnx's own shape inference finds before a model runs, as onnxruntime does.

Only what is certain counts: attributes, constants, and the shapes of the model's inputs, which every run checks. What
files declare of the shapes of other values is not always true, so the inference does not see it.
"""

from __future__ import annotations

from itertools import zip_longest
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ortlite import dtypes
from ortlite.errors import Fail
from ortlite.graph import Graph, ancestors

__all__ = ["SMALL", "check", "check_reshapes"]

SMALL = 64  # elements of a constant whose values may say a shape
INSIDE = "Inference error(s)"  # before what onnx reports: of the model, or of a body inside a node
# How it reports a node. Types are judged elsewhere, but for what attributes say.
WRONG = ("): [ShapeInferenceError]", "): [TypeInferenceError] Attribute")


# Whose nodes onnx is asked about. Of others its inference crashes on a damaged model (LabelEncoder without the type of
# its input), runs for minutes (Split into 2**31 parts), or is wrong (bodies).
ASKED = frozenset(
    "Abs Add And AveragePool BatchNormalization Cast Ceil Clip Concat Conv Cos Div Elu Equal Erf Exp Flatten Floor "
    "Gather Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid HardSwish Identity LeakyRelu Less "
    "LessOrEqual Log LogSoftmax MatMul Mish Mul Neg Not Or PRelu Pow Reciprocal Relu Reshape Round Selu Sigmoid Sign "
    "Sin Softmax Softplus Softsign Sqrt Sub Tanh ThresholdedRelu Transpose Where Xor".split()
)


def check(proto: onnx.ModelProto, read: Graph) -> None:
    """Raise Fail, with the node, for shapes that cannot fit. `read` is what became of the model's graph."""
    given = proto.graph
    bare = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    graph = bare.graph
    graph.name = "g"
    graph.input.extend(i for i in given.input if i.type.tensor_type.elem_type)
    fixed = read.constants.keys() - set(read.overridable)
    graph.initializer.extend(_outline(name, read.constants[name]) for name in fixed)
    known = {"", *(i.name for i in graph.input), *fixed}
    for node in given.node:
        if node.op_type in ASKED and not node.domain and known.issuperset(node.input):
            graph.node.append(node)
            known.update(node.output)
    if not graph.node:
        return
    try:
        onnx.shape_inference.infer_shapes(bare.SerializeToString(), strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        if problem := _certain(str(error)):
            raise Fail(f"This is an invalid model. {problem}") from None


def check_reshapes(graph: Graph) -> None:
    """Raise Fail where a constant cannot be reshaped as another constant says: onnx's inference does not look.

    A node that no output needs never runs.
    """
    fixed = graph.constants.keys() - set(graph.overridable)
    for node in ancestors(graph.nodes, graph.outputs)[0]:
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
        if any(sign in line for sign in WRONG):
            lines.append(line.strip())
    return "; ".join(lines)


def _outline(name: str, array: np.ndarray) -> TensorProto:
    """A constant for the inference: its values where they may say a shape."""
    if array.dtype == np.int64 and array.size <= SMALL:
        return numpy_helper.from_array(array, name)
    return TensorProto(name=name, data_type=dtypes.of_numpy(array.dtype).code, dims=array.shape)
