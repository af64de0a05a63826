"""The same test for onnxruntime, where it is installed, and for ortlite: what both must do."""

import importlib

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture(params=["ortlite", "onnxruntime"])
def ort(request):
    """The module under test. onnxruntime goes first as the truth about itself."""
    return pytest.importorskip(request.param)


@pytest.fixture
def C(ort):
    return importlib.import_module(f"{ort.__name__}.capi.onnxruntime_pybind11_state")


W = np.arange(1, 7, dtype=np.float32).reshape(3, 2)


def model(nodes, inputs, outputs, weights=(), opset=17, **options):
    """A model's bytes. Inputs and outputs are (name, code, shape)."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **options
    ).SerializeToString()


@pytest.fixture(scope="session")
def mul():
    """Y = X * W, X of [3, 2]."""
    node = helper.make_node("Mul", ["X", "W"], ["Y"], "mul_1")
    return model([node], [("X", TensorProto.FLOAT, [3, 2])], [("Y", TensorProto.FLOAT, [3, 2])], [("W", W)])
