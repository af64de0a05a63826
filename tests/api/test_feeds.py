"""Odd feeds do what they do on onnxruntime."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.api.conftest import W, model

F = TensorProto.FLOAT


@pytest.mark.parametrize("fed", [{}, {"a": None}], ids=["empty", "None"])
def test_maps_without_values_are_refused(ort, fed):
    kind = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(F, []))
    node = helper.make_node("DictVectorizer", ["m"], ["y"], domain="ai.onnx.ml", string_vocabulary=["a", "b"])
    graph = helper.make_graph(
        [node], "g", [helper.make_value_info("m", kind)], [helper.make_tensor_value_info("y", F, None)]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    source = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    (row,) = session.run(None, {"m": {"b": 2.0}})
    assert row.dtype == np.float32
    with pytest.raises(RuntimeError):
        session.run(None, {"m": fed})


def test_parameters_of_an_adapter_win_over_the_feed(ort, tmp_path):
    written = ort.AdapterFormat()
    written.set_adapter_version(1)
    written.set_model_version(1)
    written.set_parameters({"W": ort.OrtValue.ortvalue_from_numpy(W * 100)})
    written.export_adapter(str(tmp_path / "a"))
    adapter, options = ort.LoraAdapter(), ort.RunOptions()
    adapter.Load(str(tmp_path / "a"))
    options.add_active_adapter(adapter)
    inputs = [(name, F, [3, 2]) for name in "XW"]
    source = model([helper.make_node("Add", ["X", "W"], ["Y"])], inputs, [("Y", F, [3, 2])], [("W", W)])
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"X": W, "W": W}, options)
    np.testing.assert_array_equal(got, W * 101)
