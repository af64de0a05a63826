"""Models in ORT format: written by hand, by onnxruntime, damaged."""

from __future__ import annotations

import contextlib
import logging
import random
import sys
import tracemalloc

import numpy as np
import pytest
from onnx import parser

import ortlite
from ortlite import errors, load
from ortlite.errors import Fail, InvalidGraph, InvalidProtobuf, NoSuchFile, OrtError

pytest.importorskip("flatbuffers")
from ort_files import by_onnxruntime, node, ort_file, session, tensor, value

W = np.array([[1, 2], [3, 4]], np.float32)
X = np.array([[1, 10]], np.float32)
GOOD = session([node("MatMul", ["x", "w"], ["t"], name="m"), node("Relu", ["t"], ["y"])], [tensor("w", W)])
LEVELS = ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"]


def loaded(*arguments, **fields):
    return load.load(ort_file(session(*arguments, **fields)))


def test_a_model_and_what_it_says_of_itself():
    made = ortlite.InferenceSession(ort_file(GOOD))
    np.testing.assert_array_equal(made.run(None, {"x": X})[0], X @ W)
    assert str(made.get_inputs()[0]) == "NodeArg(name='x', type='tensor(float)', shape=['N', 2])"
    about = made.get_modelmeta()
    assert (about.producer_name, about.version, about.custom_metadata_map) == ("by hand", 7, {"k": "v"})
    assert (about.description, about.graph_description) == ("a model", "a graph")


def test_files_and_formats_by_name(tmp_path):
    path = tmp_path / "m.ort"
    path.write_bytes(ort_file(GOOD))
    text = '<ir_version: 8, opset_import: ["": 18]> g (float[N,2] x) => (float[N,2] y) { y = Relu(x) }'
    onnx = parser.parse_model(text).SerializeToString()
    assert load.load(path).opsets == {"": 18}
    assert load.load(str(path), format_="ORT").graph.inputs == ("x",)
    assert load.load(onnx, format_="ONNX").graph.inputs == ("x",)
    with pytest.raises(InvalidProtobuf):
        load.load(path, format_="ONNX")
    with pytest.raises(Fail, match=r"ORT model verification failed"):
        load.load(onnx, format_="ORT")
    options = ortlite.SessionOptions()
    options.add_session_config_entry("session.load_model_format", "ONNX")
    with pytest.raises(InvalidProtobuf):
        ortlite.InferenceSession(ort_file(GOOD), options)
    path.write_bytes(onnx)
    with pytest.raises(Fail, match=r"ORT model verification failed"):
        load.load(path)
    with pytest.raises(NoSuchFile):
        load.load(tmp_path / "nope.ort")


def test_weights_stay_in_the_file(tmp_path):
    data = ort_file(GOOD)
    path = tmp_path / "m.ort"
    path.write_bytes(data)
    assert np.shares_memory(load.load(data).graph.constants["w"], np.frombuffer(data, np.uint8))
    mapped = load.load(path).graph.constants["w"]
    assert not mapped.flags.owndata
    assert not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, W)


@pytest.mark.parametrize("version", ["1", "4", "5", "6"])
def test_versions_of_the_format(version):
    assert len(loaded([node("Relu", ["x"], ["y"])], version=version).graph.nodes) == 1


@pytest.mark.parametrize("version", ["", "0", "7", "x", "²"])
def test_other_versions_are_refused(version):
    with pytest.raises(Fail, match="format model version"):
        loaded([node("Relu", ["x"], ["y"])], version=version)


def test_without_flatbuffers(monkeypatch):
    data = ort_file(GOOD)
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(errors.NotImplemented, match=r"pip install 'ortlite\[ort\]'"):
        load.load(data)


def attribute(name, kind, **fields):
    return ("Attribute", {"name": name, "type": kind} | fields)


def test_attributes_of_every_kind():
    body = ("Graph", {"node_args": [value("o", dims=(2,))], "nodes": [node("Neg", ["w"], ["o"])], "outputs": ["o"]})
    branches = [attribute("then_branch", 5, g=body), attribute("else_branch", 5, g=body)]
    words = ("Tensor", {"data_type": 8, "dims": [2], "string_data": ["a", "é"]})
    graph = loaded(
        [
            node("LeakyRelu", ["x"], ["a"], attributes=[attribute("alpha", 1, f=np.float32(0.5))]),
            node("Concat", ["a", "a"], ["b"], attributes=[attribute("axis", 2, i=np.int64(-1))]),
            node("Constant", [], ["c"], attributes=[attribute("value_ints", 7, ints=[3, -4])]),
            node("Constant", [], ["d"], attributes=[attribute("value", 4, t=words)]),
            node("Constant", [], ["e"], attributes=[attribute("value_strings", 8, strings=["u", "v"])]),
            node("Constant", [], ["f"], attributes=[attribute("value_string", 3, s="word")]),
            node("Constant", [], ["g"], attributes=[attribute("value_ints", 7)]),
            node("If", ["k"], ["h"], attributes=branches),
            node("Relu", ["x"], ["y"]),
        ],
        [tensor("w", W[0]), tensor("k", np.array(1.0), data_type=9, raw_data=b"\x01")],
    ).graph  # fmt: skip
    assert graph.nodes[0].attributes == {"alpha": 0.5}
    assert graph.nodes[1].attributes == {"axis": -1}
    held = {name: graph.constants[name].tolist() for name in "cdefgk"}
    assert held == {"c": [3, -4], "d": ["a", "é"], "e": ["u", "v"], "f": "word", "g": [], "k": True}
    assert graph.nodes[2].subgraphs["then_branch"].captures == ("w",)


def test_sparse_initializers_sequences_and_maps():
    values = ("Tensor", {"name": "w", "data_type": 1, "dims": [1], "raw_data": np.float32(5).tobytes()})
    places = ("Tensor", {"name": "i", "data_type": 7, "dims": [1], "raw_data": np.int64(3).tobytes()})
    sparse = ("SparseTensor", {"values": values, "indices": places, "dims": [2, 2]})
    number = ("TypeInfo", {"value_type": np.uint8(1), "value": ("TensorTypeAndShape", {"elem_type": 1})})
    listed = ("TypeInfo", {"value_type": np.uint8(2), "value": ("SequenceType", {"elem_type": number})})
    mapped = ("TypeInfo", {"value_type": np.uint8(3), "value": ("MapType", {"key_type": 7, "value_type": number})})
    args = [value("x", dims=(None, 2)), value("y", dims=(None, 2))]
    args += [("ValueInfo", {"name": name, "type": type_}) for name, type_ in (("s", listed), ("m", mapped))]
    graph = loaded(
        [node("MatMul", ["x", "w"], ["y"])], sparse_initializers=[sparse], node_args=args, inputs=["x", "s", "m"]
    ).graph
    np.testing.assert_array_equal(graph.constants["w"], [[0, 0], [0, 5]])
    assert [graph.types[name].ort for name in graph.inputs] == [
        "tensor(float)", "seq(tensor(float))", "map(int64,tensor(float))",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (tensor("w", W, dims=[2, 3]), "raw_data has 16 bytes, not 24"),
        (tensor("w", W, dims=[-2, -2]), "cannot be read"),
        (tensor("w", W, dims=[2**62, 2**62]), "cannot be read"),
        (tensor("w", W, data_type=99), "unknown ONNX element type 99"),
        (tensor("w", W, data_type=0), "cannot be read"),
    ],
)
def test_tensors_that_cannot_be(wrong, message):
    with pytest.raises(InvalidGraph, match=message):
        loaded([node("MatMul", ["x", "w"], ["y"])], [wrong])


def test_files_that_lack_something():
    with pytest.raises(Fail, match="Missing Model"):
        load.load(ort_file(("InferenceSession", {"ort_version": "6"})))
    with pytest.raises(Fail, match="Graph is null"):
        load.load(ort_file(("InferenceSession", {"ort_version": "6", "model": ("Model", {})})))
    with pytest.raises(Fail, match="Null value of attribute 'value'"):
        loaded([node("Constant", [], ["y"], attributes=[attribute("value", 4)])])
    with pytest.raises(Fail, match="type 11, which the ORT format does not have"):
        loaded([node("Constant", [], ["y"], attributes=[attribute("sparse_value", 11)])])
    with pytest.raises(Fail, match="bytes 4 to 8"):
        load.load(ort_file(GOOD, b"TORT"), format_="ORT")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_truncated_files(share):
    data = ort_file(GOOD)
    with pytest.raises(OrtError):
        load.load(data[: int(len(data) * share)], format_="ORT")


def test_tables_that_share_tables_take_no_time():
    """Each level holds the one below a hundred times: a million million tables, in a few kilobytes."""
    import flatbuffers

    builder = flatbuffers.Builder(0)
    builder.StartObject(16)
    table = builder.EndObject()
    for level in range(12):  # graph, node, attribute of graphs, and again
        builder.StartVector(4, 100, 4)
        for _ in range(100):
            builder.PrependUOffsetTRelative(table)
        vector = builder.EndVector()
        builder.StartObject(16)
        kind, field = [("Attribute", 12), ("Node", 10), ("Graph", 2)][level % 3]
        if kind == "Attribute":
            builder.PrependInt32Slot(2, 10, 0)
        builder.PrependUOffsetTRelativeSlot(field, vector, 0)
        table = builder.EndObject()
    builder.StartObject(16)
    builder.PrependUOffsetTRelativeSlot(7, table, 0)
    model = builder.EndObject()
    version = builder.CreateString("6")
    builder.StartObject(16)
    builder.PrependUOffsetTRelativeSlot(0, version, 0)
    builder.PrependUOffsetTRelativeSlot(1, model, 0)
    builder.Finish(builder.EndObject(), b"ORTM")
    with pytest.raises(Fail, match="too many tables"):
        load.load(bytes(builder.Output()))


def test_a_long_name_that_many_share_takes_no_memory():
    import flatbuffers

    builder = flatbuffers.Builder(0)
    name = builder.CreateString("n" * 100_000)
    builder.StartVector(4, 50_000, 4)
    for _ in range(50_000):
        builder.PrependUOffsetTRelative(name)
    names = builder.EndVector()
    version = builder.CreateString("6")
    tables = []
    for slot, inner in ((5, names), (7, None), (1, None)):
        builder.StartObject(16)
        builder.PrependUOffsetTRelativeSlot(slot, inner if inner is not None else tables[-1], 0)
        if slot == 1:
            builder.PrependUOffsetTRelativeSlot(0, version, 0)
        tables.append(builder.EndObject())
    builder.Finish(tables[-1], b"ORTM")
    data = bytes(builder.Output())
    tracemalloc.start()
    try:
        with pytest.raises(Fail, match="take too much memory"):
            load.load(data)
        assert tracemalloc.get_traced_memory()[1] < 2**29
    finally:
        tracemalloc.stop()


def test_mutants(caplog):
    """Damaged files, each run once: whatever is raised is one of our errors."""
    caplog.set_level(logging.ERROR, "ortlite")
    good = ort_file(GOOD)
    for seed in range(300):
        rng = random.Random(seed)
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 2, 4])):
            place = rng.randrange(len(data))
            data[place : place + rng.choice([1, 2, 4])] = rng.choice(
                [rng.randbytes(1), b"\xff", b"\0\0\0\x80", b"\xff\xff\xff\x7f", rng.randbytes(4), b"\0", b""]
            )
        with contextlib.suppress(OrtError, ValueError, RuntimeError):  # the last two: it has other inputs
            ortlite.InferenceSession(bytes(data)).run(None, {"x": X})


HEAD = '<ir_version: 9, opset_import: ["": 20, "my": 1, "ai.onnx.ml": 4]> '
MODELS = {
    "fused": (
        "g (float[N,4] x) => (float[N,3] y) <float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float[3] b = {-80,0,1}> "
        "{ t = MatMul(x, w) u = Add(t, b) y = Relu(u) }"
    ),
    "bodies": (
        "g (float[2] x, bool c, int64 n) => (float[2] y, float[?,2] z) { u = If (c) <then_branch = a () => "
        "(float[2] p) { p = Neg(x) }, else_branch = b () => (float[2] q) { q = Abs(x) }> k = "
        "Constant <value = bool {1}> () y, z = Loop (n, k, u) "
        "<body = d (int64 i, bool go, float[2] s) => (bool on, float[2] t, float[2] o) "
        "{ on = Identity(go) t = Add(s, x) o = Identity(t) }> }"
    ),
    "function": (
        'g (float[2] x) => (float[2] y) { t = my.twice <k = 3.0> (x) y = my.twice (t) } <domain: "my", opset_import: '
        '["": 20]> twice <k: float = 2.0> (a) => (c) { s = Constant <value_float: float = @k> () c = Mul(a, s) }'
    ),
    "sequence": (
        "g (float[4] x) => (seq(float[?]) s, int64 n) { s = SplitToSequence <keepdims = 1> (x) n = SequenceLength(s) }"
    ),
    "strings": (
        'g (float[3] x) => (string[3] y) { y = ai.onnx.ml.LabelEncoder <keys_floats = [1.0, 2.0], values_strings = '
        '["one", "two"], default_string = "?"> (x) }'
    ),
    "quantised": (
        "g (float[2,4] x) => (float[2,3] y) <float s = {0.1}, uint8 z = {128}, uint8[4,3] w = "
        "{1,2,3,4,5,6,7,8,9,10,11,12}, uint8 v = {6}> { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
        "e = DequantizeLinear(w, s, v) m = MatMul(d, e) o = QuantizeLinear(m, s, z) y = DequantizeLinear(o, s, z) }"
    ),
}  # fmt: skip
FEEDS = {
    "fused": {"x": np.arange(8, dtype=np.float32).reshape(2, 4)},
    "bodies": {"x": np.array([1, -2], np.float32), "c": np.array(True), "n": np.array(3)},
    "function": {"x": np.array([1, -2], np.float32)},
    "sequence": {"x": np.arange(4, dtype=np.float32)},
    "strings": {"x": np.array([2, 1, 7], np.float32)},
    "quantised": {"x": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)},
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", MODELS)
def test_what_onnxruntime_writes(name, level, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    data = parser.parse_model(HEAD + MODELS[name]).SerializeToString()
    path = by_onnxruntime(data, tmp_path / "m.ort", level)
    theirs, ours = onnxruntime.InferenceSession(str(path)), ortlite.InferenceSession(path)
    assert [str(a) for a in ours.get_inputs()] == [str(a) for a in theirs.get_inputs()]
    assert [str(a) for a in ours.get_outputs()] == [str(a) for a in theirs.get_outputs()]
    for got, wanted in zip(ours.run(None, FEEDS[name]), theirs.run(None, FEEDS[name]), strict=True):
        if isinstance(wanted, np.ndarray) and wanted.dtype != object:
            np.testing.assert_allclose(got, wanted, rtol=1e-6)
        else:
            assert all(map(np.array_equal, got, wanted))


def test_a_side_of_a_comparison(tmp_path):
    pytest.importorskip("onnxruntime")
    from ortlite.cli.peer import OnnxruntimeSide

    path = tmp_path / "m.ort"
    path.write_bytes(ort_file(GOOD))
    model = load.load(path)
    found = OnnxruntimeSide(path, model).run(model, {"x": X}, ["t", "y"])
    np.testing.assert_array_equal(found["t"], X @ W)


def test_what_callers_give_for_initializers():
    data, other = ort_file(GOOD), np.ones((2, 2), np.float32)
    options = ortlite.SessionOptions()
    options.add_initializer("w", ortlite.OrtValue.ortvalue_from_numpy(other))
    np.testing.assert_array_equal(ortlite.InferenceSession(data, options).run(None, {"x": X})[0], X @ other)
    options = ortlite.SessionOptions()
    options.add_external_initializers(["w"], [ortlite.OrtValue.ortvalue_from_numpy(other)])
    with pytest.raises(Fail, match="non-external initializer"):
        ortlite.InferenceSession(data, options)


def test_defaults_of_inputs(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    text = "g (float[2] x, float[2] d) => (float[2] y) <float[2] d = {1, 2}> { y = Add(x, d) }"
    path = by_onnxruntime(parser.parse_model(HEAD + text).SerializeToString(), tmp_path / "m.ort")
    for library in (ortlite, onnxruntime):
        made = library.InferenceSession(str(path))
        assert [a.name for a in made.get_inputs()] == ["x"]
        assert [a.name for a in made.get_overridable_initializers()] == ["d"]
        x = np.zeros(2, np.float32)
        assert made.run(None, {"x": x})[0].tolist() == [1, 2]
        assert made.run(None, {"x": x, "d": x})[0].tolist() == [0, 0]


@pytest.mark.parametrize(("name", "entries"), [("m.ort", {}), ("m.onnx", {"session.save_model_format": "ORT"})])
def test_the_format_is_not_written(tmp_path, name, entries):
    options = ortlite.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / name)
    for entry in entries.items():
        options.add_session_config_entry(*entry)
    with pytest.raises(errors.NotImplemented, match="writes ONNX"):
        ortlite.InferenceSession(ort_file(GOOD), options)
    assert not (tmp_path / name).exists()
