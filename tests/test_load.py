"""Loading: what files contain becomes a Graph, and what is wrong with them a typed error."""

from __future__ import annotations

import contextlib
import logging

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

import ortlite
from ortlite import load
from ortlite.errors import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile, OrtError
from ortlite.evaluate import evaluate
from ortlite.load.tensors import Tensors
from ortlite.ops import registry

ADD = '<ir_version: 8, opset_import: ["": 18]> g (float[N] x) => (float[N] y) { [n] y = Add(x, x) }'


def model(text):
    return parser.parse_model(text)


def loaded(text):
    return load.load(model(text).SerializeToString()).graph


def test_missing_file():
    with pytest.raises(NoSuchFile, match=r"Load model from nope\.onnx failed:.*File doesn't exist"):
        load.load("nope.onnx")


def test_a_folder_and_a_file_that_is_no_model(tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"\xff" * 20)
    for path in (tmp_path, bad):
        with pytest.raises(InvalidProtobuf, match="Protobuf parsing failed"):
            load.load(path)
    bad.write_bytes(b"")
    with pytest.raises(InvalidArgument, match="No graph was found in the protobuf"):
        load.load(bad)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_truncated_bytes(share):
    data = model(ADD).SerializeToString()
    with pytest.raises(OrtError):
        ortlite.InferenceSession(data[: int(len(data) * share)])


@given(st.data())
def test_damaged_bytes_never_raise_anything_but_our_errors(data):
    good = model(ADD).SerializeToString()
    position = data.draw(st.integers(0, len(good) - 1))
    damaged = good[:position] + data.draw(st.binary(max_size=4)) + good[position + data.draw(st.integers(0, 4)) :]
    with contextlib.suppress(OrtError):
        ortlite.InferenceSession(damaged)


@given(st.binary(max_size=200))
def test_random_bytes(data):
    with pytest.raises(OrtError):
        ortlite.InferenceSession(data)


def test_cycle():
    proto = model(ADD)
    del proto.graph.node[:]
    proto.graph.node.extend([helper.make_node("Add", ["x", "b"], ["a"], "one"), helper.make_node("Relu", ["a"], ["b"])])
    proto.graph.output[0].name = "b"
    with pytest.raises(Fail, match=r"not acyclic.*'one'"):
        load.load(proto.SerializeToString())


def test_nodes_out_of_order_are_sorted():
    graph = loaded(ADD.replace("{ [n] y = Add(x, x) }", "{ y = Add(t, x)  t = Relu(x) }"))
    assert [n.op_type for n in graph.nodes] == ["Relu", "Add"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{ y = Add(x, q) }", InvalidArgument, "Node input 'q' is not a graph input, initializer, or output"),
        ("{ y = Nope(x) }", InvalidGraph, "No Op registered for Nope with domain_version of 18"),
        ("{ y = LpNormalization <nope = 1> (x) }", InvalidGraph, "Unrecognized attribute: nope"),
        ("{ y = Concat(x, x) }", InvalidGraph, "Required attribute 'axis' is missing"),
        ("{ y = Add(x) }", InvalidGraph, "input size 1 not in range"),
        ("{ z = Add(x, x) }", Fail, r"Graph output \(y\) does not exist"),
        ("{ y = Add(x, x)  y = Mul(x, x) }", Fail, r"Duplicate definition of name \(y\)"),
        (
            "{ i = Cast <to = 7> (x)  y = Add(x, i) }",
            Fail,
            r"bound to different types \(tensor\(float\) and tensor\(int64\)",
        ),
        ("{ y = And(x, x) }", InvalidGraph, r"Type 'tensor\(float\)' of input parameter \(x\) of operator \(And\)"),
        (
            "{ y = Cast <to = 7> (x) }",
            Fail,
            r"Type \(tensor\(float\)\) of output arg \(y\).*expected type \(tensor\(int64\)\)",
        ),
    ],
)
def test_invalid_graphs(text, error, message):
    with pytest.raises(error, match=message):
        load.load(parser.parse_model(ADD.replace("{ [n] y = Add(x, x) }", text)).SerializeToString())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "y = If (c) <then_branch = t () => (a) { a = Identity (x) }, else_branch = e () => (b) { b = Shape (x) }>",
            r"Op \(If\) .* output 0 of the branches would be both tensor\(float\) and tensor\(int64\)",
        ),
        (
            "y = If (c) <then_branch = t () => (a) { a = Neg (x) }, else_branch = e () => (b) {b = SequenceEmpty ()}>",
            r"Op \(If\) .* both tensor\(float\) and seq\(tensor\(float\)\)",
        ),
        (
            "y = Loop (n, , x) <body = b (i, k, s) => (l, t) { l = Identity (k) t = Shape (s) }>",
            r"Op \(Loop\) .* state 0 would be both tensor\(int64\) and tensor\(float\)",
        ),
        (
            "y = Loop (n, , x) <body = b (int64 i, bool k, int64[2] s) => (l, t) { l = Identity (k) t = Neg (s) }>",
            r"Op \(Loop\) .* state 0 would be both tensor\(int64\) and tensor\(float\)",
        ),
        (
            "y = Loop (n, , x) <body = b (float i, bool k, s) => (l, t) { l = Identity (k) t = Neg (s) }>",
            r"Op \(Loop\) .* the iteration would be both tensor\(int64\) and tensor\(float\)",
        ),
        (
            "y = Loop (n, , x) <body = b (i, k, s) => (l, t) { l = Identity (i) t = Neg (s) }>",
            r"Op \(Loop\) .* the condition would be both tensor\(bool\) and tensor\(int64\)",
        ),
        (
            "y, w = Scan <num_scan_inputs = 1, body = b (s, e) => (t, f) { t = Shape (s) f = Neg (e) }> (x, x)",
            r"Op \(Scan\) .* state 0 would be both tensor\(int64\) and tensor\(float\)",
        ),
        (
            "y, w = Scan <num_scan_inputs = 1, body = b (s, int64 e) => (t, f) { t = Neg (s) f = Neg (e) }> (x, x)",
            r"Op \(Scan\) .* scan input 0 would be both tensor\(float\) and tensor\(int64\)",
        ),
        (
            "q = SequenceConstruct (x) y = SequenceInsert (q, n)",
            r"Op \(SequenceInsert\) .* an element would be both tensor\(float\) and tensor\(int64\)",
        ),
        (
            "q = SequenceConstruct (x) y = SequenceMap <body = b (int64 e) => (f) { f = Neg (e) }> (q)",
            r"Op \(SequenceMap\) .* input 0 of the body would be both tensor\(float\) and tensor\(int64\)",
        ),
        (
            "y = QuantizeLinear <output_dtype = 3> (x, u, z)",
            r"Op \(QuantizeLinear\) .* the output would be both tensor\(uint8\) and tensor\(int8\)",
        ),
    ],
)
def test_types_that_no_variable_of_a_schema_ties_together(text, message):
    header = '<ir_version: 9, opset_import: ["": 21]> g (float[2] x, float u, bool c, int64 n, uint8 z) => (y)'
    proto = parser.parse_model(f"{header} {{ {text} }}")
    proto.graph.node[-1].name = "the_node"
    with pytest.raises(Fail, match=rf"Node \(the_node\) {message}"):
        load.load(proto.SerializeToString())
    onnxruntime = pytest.importorskip("onnxruntime")
    with pytest.raises(Exception, match=r"the_node|Type Error|INVALID_GRAPH"):
        onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("scan_input_axes = [0, 0]", "scan_input_axes has 2 numbers for 1 values"),
        ("scan_output_axes = [0, 0]", "scan_output_axes has 2 numbers for 1 values"),
        ("scan_input_directions = [2]", r"scan_input_directions \[2\] must all be 0 or 1"),
        ("scan_output_directions = [-1]", r"scan_output_directions \[-1\] must all be 0 or 1"),
    ],
)
def test_lists_of_a_scan_are_about_its_values(given, message):
    body = "b (s, e) => (t, f) { t = Neg (s) f = Neg (e) }"
    node = f"[the_node] y, w = Scan <num_scan_inputs = 1, {given}, body = {body}> (x, x)"
    proto = parser.parse_model(f'<ir_version: 9, opset_import: ["": 21]> g (float[2] x) => (y, w) {{ {node} }}')
    with pytest.raises(Fail, match=f"'the_node', Scan.*{message}"):
        load.load(proto.SerializeToString())


def test_opsets():
    proto = model(ADD)
    proto.opset_import[0].version = 99
    with pytest.raises(Fail, match="Opset 99 is under development"):
        load.load(proto.SerializeToString())
    del proto.opset_import[:]
    with pytest.raises(Fail, match="Missing opset"):
        load.load(proto.SerializeToString())
    proto = model(ADD)
    proto.opset_import.append(helper.make_opsetid("never.used", 3))
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 18))
    assert load.load(proto.SerializeToString()).opsets == {"": 18, "never.used": 3}
    proto.graph.node[0].domain = "my.dom"
    with pytest.raises(InvalidGraph, match=r"Add.*No opset import for domain 'my\.dom'"):
        load.load(proto.SerializeToString())


def test_an_ir_that_onnxruntime_reads_and_this_onnx_does_not_know_warns_and_runs(caplog, monkeypatch):
    monkeypatch.setattr(onnx, "IR_VERSION", load.IR_VERSION - 1)
    proto = model(ADD)
    proto.ir_version = load.IR_VERSION
    with caplog.at_level(logging.WARNING, "ortlite"):
        session = ortlite.InferenceSession(proto.SerializeToString())
    assert "newer" in caplog.text
    assert session.run(None, {"x": np.ones(2, np.float32)})[0].tolist() == [2, 2]


def test_a_newer_ir_is_refused():
    proto = model(ADD)
    proto.ir_version = max(onnx.IR_VERSION, load.IR_VERSION) + 1
    with pytest.raises(Fail, match=f"Unsupported model IR version: {proto.ir_version}, max supported"):
        ortlite.InferenceSession(proto.SerializeToString())


def test_what_is_logged_for_us_must_be_asked_for(caplog):
    caplog.set_level(logging.DEBUG)
    ortlite.InferenceSession(model(ADD).SerializeToString()).run(None, {"x": np.ones(2, np.float32)})
    assert not caplog.records
    with caplog.at_level(logging.DEBUG, "ortlite"):
        ortlite.InferenceSession(model(ADD).SerializeToString())
    assert {record.name for record in caplog.records} == {"ortlite"}


FUNCTIONS = """<ir_version: 8, opset_import: ["": 18, "my": 1]>
g (float[N] x) => (float[N] y, float[N] z) { y = my.twice <k = 3.0> (x)  z = my.twice (y) }
<domain: "my", opset_import: ["": 18, "my": 1]>
twice <k: float = 2.0> (a) => (c) { s = Constant <value_float: float = @k> ()  b = my.times(a, s)  c = Identity(b) }
<domain: "my", opset_import: ["": 18]>
times (a, b) => (c) { c = Mul(a, b) }"""


def test_functions_are_inlined_with_their_attributes():
    data = model(FUNCTIONS).SerializeToString()
    assert {n.op_type for n in load.load(data).graph.nodes} == {"Mul", "Identity"}
    y, z = ortlite.InferenceSession(data).run(None, {"x": np.array([1, 2], np.float32)})
    assert (y.tolist(), z.tolist()) == ([3, 6], [6, 12])


def test_a_function_that_calls_itself():
    proto = model(FUNCTIONS)
    proto.functions[1].node[0].op_type, proto.functions[1].node[0].domain = "times", "my"
    proto.functions[1].opset_import.append(helper.make_opsetid("my", 1))
    with pytest.raises(InvalidGraph, match="my::times calls itself"):
        load.load(proto.SerializeToString())


def test_a_composite_operator_without_kernel_runs_by_its_function_body(monkeypatch):
    registry._load()
    monkeypatch.delitem(registry._TABLE, ("", "Softsign"))
    text = ADD.replace("Add(x, x)", "Softsign(x)")
    assert "Softsign" not in {n.op_type for n in loaded(text).nodes}
    (y,) = ortlite.InferenceSession(model(text).SerializeToString()).run(None, {"x": np.array([1, -3], np.float32)})
    np.testing.assert_allclose(y, [0.5, -0.75])


def external_model(folder, array, location="weights.bin", offset=0, length=None):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": array.nbytes if length is None else length}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    node = helper.make_node("Add", ["x", "w"], ["y"])
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    proto = helper.make_model(helper.make_graph([node], "g", [info], [out], [tensor]), ir_version=8)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_is_mapped_not_read(tmp_path):
    weights = np.arange(1000, dtype=np.float32)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 64 + weights.tobytes())
    path = external_model(tmp_path, weights, offset=64)
    graph = load.load(path).graph
    base = graph.constants["w"]
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert type(base.base.obj).__name__ == "mmap"
    (y,) = ortlite.InferenceSession(path).run(None, {"x": np.ones(1000, np.float32)})
    np.testing.assert_array_equal(y, weights + 1)
    assert load.load(path.read_bytes(), external_data=str(tmp_path)).graph.constants["w"][5] == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"location": "nope.bin"}, "nope.bin: No such file"),
        ({"location": "/etc/hostname"}, "not a path relative"),
        ({"location": "../weights.bin"}, "leads out of"),
        ({"offset": 4000}, "out of bounds or can not be read in full"),
        ({"length": 8}, "out of bounds or can not be read in full"),
    ],
)
def test_bad_external_data(tmp_path, changes, message):
    weights = np.arange(1000, dtype=np.float32)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(weights.tobytes())
    with pytest.raises(Fail, match=rf"External data path validation failed for initializer: w\. Error: .*{message}"):
        load.load(external_model(folder, weights, **changes))


def test_subgraphs_list_their_captures():
    graph = loaded("""<ir_version: 8, opset_import: ["": 18]>
        g (bool c, float[N] x) => (float[N] y) {
          t = Add(x, x)
          y = If (c) <then_branch = a () => (float[N] p) { p = Mul(t, x) },
                      else_branch = b () => (float[N] q) { q = Neg(x) }>
        }""")
    node = graph.nodes[1]
    assert node.captures == ("t", "x")
    assert node.attributes["else_branch"].captures == ("x",)


def test_tensors_of_every_dtype_are_read():
    from ortlite import dtypes

    known = onnx.TensorProto.DataType.values()  # an older onnx has fewer
    for dtype in (d for d in dtypes.ALL if d.code in known):
        values = np.array(["a", "ü"], object) if dtype.kind == "S" else np.array([0, 1, 1], dtypes.to_numpy(dtype))
        array = Tensors(None).read(numpy_helper.from_array(values, "t"))
        assert dtypes.of_numpy(array.dtype) is dtype
        assert list(map(str, array.tolist())) == list(map(str, values.tolist()))  # float8e8m0 has no 0, but NaN


def test_printing():
    text = str(load.load(model(FUNCTIONS).SerializeToString()))
    assert "ai.onnx 18" in text
    assert "= Mul(x," in text


def test_an_operator_without_a_kernel_is_inlined_with_its_defaults(monkeypatch):
    known = registry.lookup
    monkeypatch.setattr(registry, "lookup", lambda d, op, v: None if op == "ThresholdedRelu" else known(d, op, v))
    graph = load.load(
        parser.parse_model("""<ir_version: 8, opset_import: ["": 22]>
        g (float[4] x) => (float[4] y, float[4] z)
        { y = ThresholdedRelu(x)  z = ThresholdedRelu <alpha = 2.5> (x) }""").SerializeToString()
    ).graph
    assert "ThresholdedRelu" not in {node.op_type for node in graph.nodes}
    x = np.array([-2.0, 0.5, 2.0, 3.0], np.float32)
    outputs = evaluate(graph, [x])
    for alpha, y in zip((1.0, 2.5), outputs, strict=True):
        np.testing.assert_array_equal(y, np.where(x > alpha, x, 0))
