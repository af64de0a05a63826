"""Odd feeds do what they do on onnxruntime."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.api.conftest import W, model

F = TensorProto.FLOAT


def vectorizer(ort, key, **vocabulary):
    """A session whose input is a map from `key` to floats."""
    kind = helper.make_map_type_proto(key, helper.make_tensor_type_proto(F, []))
    node = helper.make_node("DictVectorizer", ["m"], ["y"], domain="ai.onnx.ml", **vocabulary)
    graph = helper.make_graph(
        [node], "g", [helper.make_value_info("m", kind)], [helper.make_tensor_value_info("y", F, None)]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    source = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return ort.InferenceSession(source, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("fed", "error"),
    [
        ({}, "RuntimeError"), ({"a": None}, "RuntimeError"), ({"a": "1"}, "RuntimeError"), ([1.0], "RuntimeError"),
        ({1: 1.0}, "InvalidArgument"), (np.ones(2, np.float32), "InvalidArgument"),
    ],
    ids=repr,
)  # fmt: skip
def test_maps_that_do_not_fit(ort, fed, error):
    session = vectorizer(ort, TensorProto.STRING, string_vocabulary=["a", "b"])
    (row,) = session.run(None, {"m": {"b": 2.0}})
    assert row.dtype == np.float32
    with pytest.raises(Exception, match=r"\w") as caught:
        session.run(None, {"m": fed})
    assert type(caught.value).__name__ == error


@pytest.mark.parametrize(
    ("fed", "error"),
    [({"a": 1.0}, "InvalidArgument"), ({1: 1.0, "a": 1.0}, "RuntimeError"), ({2**70: 1.0}, "RuntimeError")],
    ids=repr,
)
def test_maps_of_integers_that_do_not_fit(ort, fed, error):
    session = vectorizer(ort, TensorProto.INT64, int64_vocabulary=[1, 2])
    assert session.run(None, {"m": {2: 2.0}})[0].tolist() == [[0, 2]]
    with pytest.raises(Exception, match=r"\w") as caught:
        session.run(None, {"m": fed})
    assert type(caught.value).__name__ == error


def test_names_that_are_none(ort):
    source = model([helper.make_node("Neg", ["X"], ["Y"])], [("X", F, [3, 2])], [("Y", F, [3, 2])])
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    with pytest.raises(TypeError):
        session.run(None, {"X": W, 1: W})
    with pytest.raises(TypeError):
        session.run({"Y": 1}, {"X": W})


@pytest.mark.parametrize("level", [-2, 5])
def test_severities_of_a_run_that_there_are_not(ort, level):
    source = model([helper.make_node("Neg", ["X"], ["Y"])], [("X", F, [3, 2])], [("Y", F, [3, 2])])
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    options = ort.RunOptions()
    options.log_severity_level = level
    with pytest.raises(Exception, match="severity") as caught:
        session.run(None, {"X": W}, options)
    assert type(caught.value).__name__ == "Fail"


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


def test_the_first_override_of_a_dimension_holds(ort):
    source = model([helper.make_node("Neg", ["X"], ["Y"])], [("X", F, ["N", 2])], [("Y", F, ["N", 2])])
    options = ort.SessionOptions()
    for size in (3, 7):
        options.add_free_dimension_override_by_name("N", size)
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [3, 2]
