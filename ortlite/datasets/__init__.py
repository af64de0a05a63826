"""Small models for examples, with the names of those in onnxruntime.datasets: `get_example("mul_1.onnx")`.

They are made when they are first asked for, in the user's cache. mul_1 multiplies [3, 2] by 1 to 6; sigmoid takes
[3, 4, 5]; logreg_iris tells three kinds of iris by two measures of their petals, in cm.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ortlite.api.pickles import cache_folder

__all__ = ["get_example"]

# One row a kind of iris: weights of the length and of the width of its petals, and the intercept.
IRIS = [(-1.3, -1.1, 4.6), (0.3, -0.9, -0.2), (1.1, 2.2, -9.2)]


def get_example(name: str) -> str:
    """The absolute path of a model. Raises FileNotFoundError for a name that none has.

    Example:
        >>> import ortlite
        >>> session = ortlite.InferenceSession(get_example("mul_1.onnx"))
        >>> session.run(None, {"X": np.ones((3, 2), np.float32)})[0].tolist()
        [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]

    """
    if name not in _MODELS:
        raise FileNotFoundError(f"Unable to find example {name!r}: there are {', '.join(_MODELS)}")
    model = _MODELS[name]().SerializeToString()
    try:
        path = cache_folder("examples") / name
    except OSError:
        path = Path(tempfile.mkdtemp()) / name
    if not path.exists() or path.read_bytes() != model:
        path.write_bytes(model)
    return str(path)


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[onnx.TensorProto],
    ml: bool,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, name, inputs, outputs, weights)
    opsets = [helper.make_opsetid("ai.onnx.ml", 1)] * ml + [helper.make_opsetid("", 9)]
    return helper.make_model(graph, ir_version=4, opset_imports=opsets, producer_name="ortlite")


def _floats(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _mul() -> onnx.ModelProto:
    weights = numpy_helper.from_array(np.arange(1, 7, dtype=np.float32).reshape(3, 2), "W")
    node = helper.make_node("Mul", ["X", "W"], ["Y"], "mul_1")
    return _model("mul test", [node], [_floats("X", 3, 2)], [_floats("Y", 3, 2)], [weights], ml=False)


def _sigmoid() -> onnx.ModelProto:
    node = helper.make_node("Sigmoid", ["x"], ["y"])
    return _model("test_sigmoid", [node], [_floats("x", 3, 4, 5)], [_floats("y", 3, 4, 5)], [], ml=False)


def _iris() -> onnx.ModelProto:
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["float_input"],
            ["label", "scores"],
            "LinearClassifier",
            domain="ai.onnx.ml",
            classlabels_ints=[0, 1, 2],
            coefficients=[weight for row in IRIS for weight in row[:2]],
            intercepts=[row[2] for row in IRIS],
            multi_class=0,
            post_transform="LOGISTIC",
        ),
        helper.make_node("Normalizer", ["scores"], ["normalized"], "Normalizer", domain="ai.onnx.ml", norm="L1"),
        helper.make_node(
            "ZipMap", ["normalized"], ["probabilities"], "ZipMap", domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]
        ),
    ]
    element = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, [3]),
        helper.make_value_info("probabilities", helper.make_sequence_type_proto(element)),
    ]
    return _model("iris", nodes, [_floats("float_input", 3, 2)], outputs, [], ml=True)


_MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "logreg_iris.onnx": _iris,
    "mul_1.onnx": _mul,
    "sigmoid.onnx": _sigmoid,
}
