"""Large tensors are read from a model's bytes in place, and what comes of it is what protobuf would have read."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import ortlite
from ortlite import load
from ortlite.load import wire
from ortlite.load.tensors import HERE

BIG = np.arange(wire.LARGE, dtype=np.float32).reshape(-1, 64)


def model(*nodes, weights=(), functions=(), opset=21):
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], list(weights),
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=10)


def tensor(values=BIG, name="w"):
    return numpy_helper.from_array(values, name)


def everywhere():
    """A model with a large tensor in each place that a model can have one in."""
    branches = {
        f"{kind}_branch": helper.make_graph(
            [helper.make_node("Add", ["x", f"b_{kind}"], ["r"])], kind,
            [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)], [tensor(BIG + n, f"b_{kind}")],
        ) for n, kind in enumerate(("then", "else"))
    }  # fmt: skip
    called = helper.make_function(
        "own", "Shift", ["a"], ["s"],
        [helper.make_node("Constant", [], ["c"], value=tensor(BIG * 2)), helper.make_node("Add", ["a", "c"], ["s"])],
        [helper.make_opsetid("", 21)],
    )  # fmt: skip
    sparse = helper.make_sparse_tensor(
        tensor(BIG.reshape(-1), "sp"), tensor(np.arange(BIG.size), "sp_i"), list(BIG.shape)
    )
    nodes = [
        helper.make_node("If", ["yes"], ["i"], **branches),
        helper.make_node("Constant", [], ["k"], value=tensor(BIG / 2)),
        helper.make_node("Constant", [], ["z"], sparse_value=sparse),
        helper.make_node("Shift", ["i"], ["f"], domain="own"),
        helper.make_node("Sum", ["f", "w", "k", "z"], ["y"]),
    ]
    made = model(*nodes, weights=[tensor(), tensor(np.array(True), "yes")], functions=[called])
    made.graph.doc_string = "x" * wire.LARGE  # large, and no message
    return made


def restored(data, read):
    """The message `read` with its tensors' data back in their places."""
    proto = onnx.ModelProto()
    proto.ParseFromString(read)

    def walk(message):
        if isinstance(message, TensorProto) and message.external_data:
            entries = {entry.key: entry.value for entry in message.external_data}
            assert entries["location"] == HERE
            start = int(entries["offset"])
            message.ClearField("external_data")
            message.ClearField("data_location")
            message.raw_data = bytes(data[start : start + int(entries["length"])])
        for field, value in message.ListFields():
            if field.message_type is not None:
                for item in [value] if field.has_presence else value:
                    walk(item)

    walk(proto)
    return proto


def test_what_is_parsed_is_small_and_says_the_same():
    proto = everywhere()
    data = proto.SerializeToString()
    read = wire.without_large_tensors(data)
    assert len(read) < len(proto.graph.doc_string) + 5000 < len(data) / 7
    assert restored(data, read) == proto


def test_a_model_computes_what_it_did():
    data, x = everywhere().SerializeToString(), np.ones_like(BIG)
    (got,) = ortlite.InferenceSession(data).run(None, {"x": x})
    np.testing.assert_array_equal(got, x + BIG + BIG * 2 + BIG + BIG / 2 + BIG)


def test_small_models_are_left_alone():
    data = model(helper.make_node("Add", ["x", "w"], ["y"]), weights=[tensor(BIG[:1])]).SerializeToString()
    assert wire.without_large_tensors(data) is data


def twice(proto, *changes):
    """The message as protobuf would merge it from what is written one after the other."""
    return b"".join([proto.SerializeToString(), *(change.SerializeToString() for change in changes)])


@pytest.mark.parametrize("first", [True, False])
def test_messages_written_in_two_pieces(first):
    whole = model(helper.make_node("Add", ["x", "w"], ["y"]), weights=[tensor()])
    other = onnx.ModelProto(graph=onnx.GraphProto(doc_string="later" * wire.LARGE))
    data = twice(whole, other) if first else twice(other, whole)
    merged = onnx.ModelProto()
    merged.ParseFromString(data)
    assert restored(data, wire.without_large_tensors(data)) == merged


def test_raw_data_given_twice_is_the_later():
    written = twice(tensor(), TensorProto(raw_data=(BIG + 1).tobytes()))
    rest = model(helper.make_node("Add", ["x", "w"], ["y"])).SerializeToString()
    data = rest + _field(7, _field(5, written))  # ModelProto.graph, GraphProto.initializer
    np.testing.assert_array_equal(load.load(data).graph.constants["w"], BIG + 1)


def _field(number, payload):
    return wire._encoded(number << 3 | 2) + wire._encoded(len(payload)) + payload


@given(st.integers(0, 2**63))
def test_numbers(value):
    assert wire._varint(memoryview(wire._encoded(value) + b"\xff"), 0) == (value, len(wire._encoded(value)))


@given(st.data())
def test_damaged_models_are_protobufs_to_judge(data):
    """Whatever is done to a file, the result is what protobuf says of it, an error or a message."""
    written = bytearray(model(helper.make_node("Add", ["x", "w"], ["y"]), weights=[tensor()]).SerializeToString())
    ends = [*range(200), *range(len(written) - 200, len(written))]
    for place in data.draw(st.lists(st.sampled_from(ends), max_size=3)):
        written[place] = data.draw(st.integers(0, 255))
    damaged = bytes(written[: data.draw(st.sampled_from([len(written), *ends]))])
    read = wire.without_large_tensors(damaged)
    expected = onnx.ModelProto()
    try:
        expected.ParseFromString(damaged)
    except DecodeError:
        with pytest.raises(DecodeError):
            onnx.ModelProto().ParseFromString(read)
    else:
        assert restored(damaged, read).SerializeToString(deterministic=True) == expected.SerializeToString(
            deterministic=True
        )


def test_a_file_may_be_written_anew_while_its_model_is_used(tmp_path):
    path = tmp_path / "model.onnx"
    proto = model(helper.make_node("Add", ["x", "w"], ["y"]), weights=[tensor()])
    for length in range(4):  # wherever the data begin
        proto.doc_string = " " * length
        path.write_bytes(proto.SerializeToString())
        session = ortlite.InferenceSession(path)
        path.write_bytes(b"")
        np.testing.assert_array_equal(session.run(None, {"x": BIG})[0], BIG * 2)


@pytest.mark.parametrize(("dtype", "wrong"), [(TensorProto.FLOAT, 1), (TensorProto.INT4, 1)])
def test_data_of_another_length(dtype, wrong):
    raw = b"\0" * (wire.LARGE + wrong)
    given = TensorProto(name="w", data_type=dtype, dims=[wire.LARGE // 4], raw_data=raw)
    data = model(helper.make_node("Cast", ["w"], ["y"], to=1), weights=[given]).SerializeToString()
    with pytest.raises(ortlite.capi.onnxruntime_pybind11_state.Fail, match=f"raw_data has {len(raw)} bytes"):
        ortlite.InferenceSession(data)


PEAK = """
import sys, ortlite
def peak():
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) * 1024
ortlite.InferenceSession(sys.argv[1])
before = peak()
ortlite.InferenceSession(sys.argv[2])
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_are_in_memory_once(tmp_path):
    weights = np.ones((2**24, 1), np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    for name, values in (("small", weights[:64]), ("large", weights)):
        made = model(node, weights=[tensor(values)])
        made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = len(values)
        onnx.save(made, tmp_path / f"{name}.onnx")
    command = [sys.executable, "-c", PEAK, tmp_path / "small.onnx", tmp_path / "large.onnx"]
    taken = int(subprocess.check_output(command, text=True))
    assert taken < 1.5 * weights.nbytes
