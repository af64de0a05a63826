"""ModelCompiler: what it writes loads and computes the same; what it refuses is refused as by onnxruntime."""

from __future__ import annotations

import errno

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

import ortlite
from ortlite import save
from ortlite.api.model_compiler import ModelCompiler, OrtExternalInitializerInfo
from ortlite.api.options import GraphOptimizationLevel, SessionOptions
from ortlite.errors import Fail, InvalidArgument, InvalidProtobuf

TEXT = """<ir_version: 8, opset_import: ["": 18], producer_name: "me", doc_string: "about">
g (float[N,2] x) => (float[N,2] y, float[N,300] z) <float[2,2] w = {1,2,3,4}, string[2] s = {"a", "b"}>
{ i = Identity(x) t = MatMul(i, w) y = Relu(t) z = MatMul(t, large) u = Identity(s) }"""
LARGE = np.arange(600, dtype=np.float32).reshape(2, 300)
X = np.array([[1, -2], [3, 4]], np.float32)
FLAGS = {"no nodes": 1, "exists": 2}


@pytest.fixture
def model():
    made = parser.parse_model(TEXT)
    made.graph.initializer.append(numpy_helper.from_array(LARGE, "large"))
    helper.set_model_props(made, {"k": "v"})
    return made


@pytest.fixture
def path(model, tmp_path):
    onnx.save(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def compiler(source, **given):
    return ModelCompiler(SessionOptions(), source, **given)


def operators(proto):
    return [node.op_type for node in proto.graph.node]


def external(proto):
    return {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in proto.graph.initializer
        if tensor.data_location == tensor.EXTERNAL
    }


def check(source, model):
    wanted = ortlite.InferenceSession(model.SerializeToString()).run(None, {"x": X})
    for got, expected in zip(ortlite.InferenceSession(source).run(None, {"x": X}), wanted, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_to_file_bytes_and_stream(path, model):
    made = compiler(path)
    made.compile_to_file()
    written = path.with_name("m_ctx.onnx")
    check(written, model)
    data = made.compile_to_bytes()
    assert data == written.read_bytes()
    pieces = []
    made.compile_to_stream(pieces.append)
    assert b"".join(pieces) == data
    compiler(model.SerializeToString()).compile_to_file(path.with_name("other.onnx"))
    check(path.with_name("other.onnx"), model)


def test_what_a_model_says_of_itself_stays(path):
    about = ortlite.InferenceSession(compiler(path).compile_to_bytes()).get_modelmeta()
    assert (about.producer_name, about.description, about.custom_metadata_map) == ("me", "about", {"k": "v"})


def test_levels(path, model):
    assert "Identity" in operators(onnx.load_from_string(compiler(path).compile_to_bytes()))
    level = GraphOptimizationLevel.ORT_ENABLE_ALL
    data = compiler(path, graph_optimization_level=level).compile_to_bytes()
    assert "Identity" not in operators(onnx.load_from_string(data))
    check(data, model)


def test_options_that_are_given(path):
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_ALL  # the compiler's own argument counts
    options.optimized_model_filepath = str(path.with_name("none.onnx"))
    data = ModelCompiler(options, path).compile_to_bytes()
    assert "Identity" in operators(onnx.load_from_string(data))
    assert not path.with_name("none.onnx").exists()
    assert options.graph_optimization_level == GraphOptimizationLevel.ORT_ENABLE_ALL


def test_flags(path):
    with pytest.raises(Fail, match=r"exists already"):
        compiler(path, flags=FLAGS["exists"]).compile_to_file(path)
    compiler(path, flags=FLAGS["exists"]).compile_to_file(path.with_name("new.onnx"))
    with pytest.raises(Fail, match="Unable to compile any nodes"):
        compiler(path, flags=FLAGS["no nodes"]).compile_to_file(path.with_name("none.onnx"))
    assert not path.with_name("none.onnx").exists()


@pytest.mark.parametrize(("threshold", "outside"), [(16, {"w", "large"}), (2400, {"large"}), (2401, set())])
def test_an_external_file(path, model, threshold, outside):
    written = path.with_name("e.onnx")
    given = {"external_initializers_file_path": "w.bin", "external_initializers_size_threshold": threshold}
    compiler(path, **given).compile_to_file(written)
    found = external(onnx.load(written, load_external_data=False))
    assert found.keys() == outside
    assert path.with_name("w.bin").exists() == bool(outside)
    if outside:
        assert sum(int(place["length"]) for place in found.values()) == path.with_name("w.bin").stat().st_size
    check(written, model)
    compiler(path, **given).compile_to_file(written)  # the file is not appended to
    check(written, model)
    with pytest.raises(Fail, match="relative to the model"):
        compiler(path, external_initializers_file_path=path.with_name("w.bin")).compile_to_bytes()


def test_after_an_error_both_files_are_as_they_were(path, model, monkeypatch):
    given = {"external_initializers_file_path": "w.bin", "external_initializers_size_threshold": 16}
    written = path.with_name("e.onnx")
    compiler(path, **given).compile_to_file(written)
    before = {name: path.with_name(name).read_bytes() for name in ("e.onnx", "w.bin")}
    real = save.to_proto

    def full(model, place):
        real(model, place)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(save, "to_proto", full)
    with pytest.raises(Fail, match="full"):
        compiler(path, **given).compile_to_file(written)
    monkeypatch.undo()
    with pytest.raises(InvalidArgument, match=r'open file ".*no/w.bin" failed: No such file'):
        compiler(path, external_initializers_file_path="no/w.bin").compile_to_file(written)
    assert {name: path.with_name(name).read_bytes() for name in before} == before
    assert {p.name for p in path.parent.iterdir()} == {"m.onnx", *before}


def test_initializers_where_the_caller_puts_them(path, model):
    seen = {}

    def place(name, value, info):
        seen[name] = value.shape(), info
        if value.tensor_size_in_bytes() < 64:
            return None
        path.with_name("own.bin").write_bytes(b"\0" * 8 + value.numpy().tobytes())
        return OrtExternalInitializerInfo("own.bin", 8, value.tensor_size_in_bytes())

    written = path.with_name("c.onnx")
    compiler(path, get_initializer_location_func=place).compile_to_file(written)
    assert seen == {"w": ([2, 2], None), "large": ([2, 300], None)}
    assert external(onnx.load(written, load_external_data=False)) == {
        "large": {"location": "own.bin", "offset": "8", "length": "2400"}
    }
    check(written, model)
    seen.clear()
    compiler(written, get_initializer_location_func=place).compile_to_bytes()
    assert seen["large"][1] == OrtExternalInitializerInfo("own.bin", 8, 2400)


def test_more_than_a_file_holds(path, monkeypatch):
    monkeypatch.setattr(save, "LARGE", 2000)
    with pytest.raises(Fail, match="give external_initializers_file_path"):
        compiler(path).compile_to_bytes()
    compiler(path, external_initializers_file_path="w.bin").compile_to_file(path.with_name("large.onnx"))


def test_errors_of_what_is_called(path):
    def wrong(*arguments):
        raise KeyError("my oops")

    with pytest.raises(Fail, match="KeyError: 'my oops'"):
        compiler(path).compile_to_stream(wrong)
    with pytest.raises(Fail, match="KeyError: 'my oops'"):
        compiler(path, get_initializer_location_func=wrong).compile_to_bytes()
    with pytest.raises(Fail, match="returned int for"):
        compiler(path, get_initializer_location_func=lambda *a: 3).compile_to_bytes()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("",), ValueError, "Input model path is empty"),
        ((b"",), ValueError, "Input model bytes array is empty"),
        ((3,), TypeError, "Unable to load from type"),
        (("m.onnx", False, 3), TypeError, "unexpected type"),
        (("m.onnx", False, "w", 1024, 0, 0, print), ValueError, "both `external_initializers_file_path`"),
    ],
)
def test_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ModelCompiler(SessionOptions(), *arguments)


def test_paths_and_models_that_are_wrong(path, model):
    with pytest.raises(TypeError, match="SessionOptions"):
        ModelCompiler(None, path)
    with pytest.raises(InvalidArgument, match="Input model path does not exist"):
        compiler("nope.onnx").compile_to_bytes()
    with pytest.raises(InvalidProtobuf):
        compiler(b"abc").compile_to_bytes()
    with pytest.raises(TypeError, match="unexpected type"):
        compiler(path).compile_to_file(3)
    with pytest.raises(InvalidArgument, match="open file"):
        compiler(path).compile_to_file(path.with_name("no") / "x.onnx")
    with pytest.raises(InvalidArgument, match="output path"):
        compiler(model.SerializeToString()).compile_to_file()
    with pytest.raises(InvalidArgument, match="is empty"):
        compiler(path).set_ep_context_binary_information("", "x")
    with pytest.raises(TypeError, match="a function"):
        compiler(path).set_ep_context_data_write_func(3)
    compiler(path).set_ep_context_data_write_func(print)
    compiler(path).clear_ep_context_data_write_func()


def test_the_place_of_an_initializer():
    info = OrtExternalInitializerInfo("a", 1, 2)
    assert (info.filepath, info.file_offset, info.byte_size) == ("a", 1, 2)
    with pytest.raises(AttributeError):
        info.filepath = "b"
    with pytest.raises(TypeError, match="filepath is of str"):
        OrtExternalInitializerInfo(1, 2, 3)
