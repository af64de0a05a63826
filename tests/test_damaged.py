"""Damaged models: every kind of damage is an error of ours that says what is wrong, and none costs time or memory."""

from __future__ import annotations

from itertools import pairwise

import fuzz
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ortlite
from ortlite import load
from ortlite.errors import Fail, InvalidGraph, LimitExceeded, NoSuchFile, OrtError
from ortlite.limits import Limits
from ortlite.load import functions as load_functions
from ortlite.load import graph as load_graph
from ortlite.load.tensors import DENSE_BYTES

NODE = helper.make_node
IMPORTS = {"": 18, "com.microsoft": 1, "my": 1}


def model(*nodes, constants=(), functions=(), shape=(2,), outputs=("y",), opset=18):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    body = helper.make_graph(nodes, "g", inputs, results, list(constants))
    imports = [helper.make_opsetid(d, opset if not d else v) for d, v in IMPORTS.items()]
    return helper.make_model(body, opset_imports=imports, ir_version=9, functions=list(functions))


def function(name, inputs, outputs, nodes, attributes=()):
    imports = [helper.make_opsetid(domain, version) for domain, version in IMPORTS.items()]
    return helper.make_function("my", name, inputs, outputs, nodes, imports, list(attributes))


def call(name, inputs, outputs, **attributes):
    return NODE(name, inputs, outputs, domain="my", **attributes)


def loaded(proto):
    return load.load(proto.SerializeToString()).graph


def constant(name, *values, dtype=np.float32):
    return numpy_helper.from_array(np.array(values, dtype), name)


def test_mutants():
    """A short part of `python -m tests.fuzz`."""
    found = {seed: problem for seed in range(300) if (problem := fuzz.attempt(fuzz.mutant(seed, fuzz.few()), seed))}
    assert not found


RELU = NODE("Relu", ["x"], ["y"])
GELU = {"domain": "com.microsoft"}


def twice(node, name, value):
    node.attribute.append(helper.make_attribute(name, value))
    return node


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (NODE("FusedMatMul", ["x", "x"], ["y"], alphaa=3.0, **GELU), "Unrecognized attribute: alphaa"),
        (NODE("FusedMatMul", ["x", "x"], ["y"], alpha=3, **GELU), "Expected: 'FLOAT', actual: 'INT'"),
        (NODE("Gelu", ["x", "x"], ["y"], **GELU), "input size 2 not in range"),
        (NODE("Gelu", ["x"], ["y", "z"], **GELU), "2 outputs, at most 1"),
        (NODE("SkipLayerNormalization", ["x", "x", "x"], ["y", "a", "b", "c", "d"], **GELU), "5 outputs, at most 4"),
        (NODE("Gelu", [], ["y"], **GELU), "input size 0 not in range"),
        (NODE("FusedMatMul", ["", "x"], ["y"], **GELU), r"Input 0 \(A\) is required"),
        (NODE("MatMulNBits", ["x", "x", "x"], ["y"], **GELU), "Required attribute"),
        (NODE("LeakyRelu", ["x"], ["y"], alpha=1), "Expected: 'FLOAT', actual: 'INT'"),
        (NODE("Cast", ["x"], ["y"], to=77), "unknown ONNX element type 77"),
        (twice(NODE("LeakyRelu", ["x"], ["y"], alpha=1.0), "alpha", 2.0), "'alpha' appeared multiple times"),
        (NODE("Add", ["", "x"], ["y"]), r"Input 0 \(A\) is required"),
        (NODE("Relu", ["x", ""], ["y"]), "input size 2 not in range"),
        (NODE("Relu", ["x"], ["y", ""]), "2 outputs, at most 1"),
        (NODE("Constant", [], ["y"], value_float=1.0, value_int=2), "needs exactly one"),
        (NODE("Constant", [], ["y"]), "needs exactly one"),
    ],
)
def test_what_an_operator_does_not_know(node, message):
    with pytest.raises(InvalidGraph, match=message):
        loaded(model(node))


def test_a_custom_operator_without_schema_is_held_to_its_signature(monkeypatch):
    from ortlite.ops import registry

    registry._load()
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))

    @registry.op("Half", domain="my")
    def half(xp, x: Array, by: Array | None = None, *, times: Int = 1) -> Array:  # noqa: F821
        return x / 2**times

    assert loaded(model(call("Half", ["x"], ["y"], times=2))).nodes[0].op_type == "Half"
    for node in (
        call("Half", ["x"], ["y"], times=2.0), call("Half", ["x"], ["y"], time=2), call("Half", ["x"] * 3, ["y"]),
        call("Half", [], ["y"]), call("Half", ["x"], ["y", "z"]),
    ):  # fmt: skip
        with pytest.raises(InvalidGraph):
            loaded(model(node))


@pytest.mark.parametrize(
    "nodes",
    [
        [NODE("Constant", [], ["y"], value_float=1.0), NODE("Constant", [], ["y"], value_float=2.0)],
        [NODE("Relu", ["x"], ["w"]), NODE("Relu", ["w"], ["y"])],
        [NODE("Constant", [], ["w"], value_float=1.0), NODE("Relu", ["w"], ["y"])],
        [NODE("Split", ["x"], ["y", "y"], num_outputs=2)],
        [NODE("Relu", ["y"], ["x"]), RELU],
    ],
)
def test_two_values_of_one_name(nodes):
    with pytest.raises(Fail, match="Duplicate definition"):
        loaded(model(*nodes, constants=[constant("w", 1, 1)]))


def test_of_two_initializers_with_one_name_the_later_counts(caplog):
    data = model(NODE("Add", ["x", "w"], ["y"]), constants=[constant("w", 1, 1), constant("w", 2, 2)])
    assert loaded(data).constants["w"].tolist() == [2, 2]
    assert "two initializers w" in caplog.text


def test_an_output_may_be_listed_twice():
    session = ortlite.InferenceSession(model(RELU, outputs=("y", "y")).SerializeToString())
    assert [y.tolist() for y in session.run(None, {"x": np.float32([1, -1])})] == [[1, 0]] * 2


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (TensorProto(data_type=1, dims=[-2], raw_data=b"\0" * 8), "negative"),
        (TensorProto(data_type=1, dims=[2**40, 2**40]), "fit into no memory"),
        (TensorProto(data_type=1, dims=[2**33]), "cannot be read"),
        (TensorProto(data_type=1, dims=[2], raw_data=b"\0" * 9), "9 bytes, but these dims in float32 take 8"),
        (TensorProto(data_type=22, dims=[3], raw_data=b"\0" * 8), "8 bytes, but these dims in int4 take 2"),
        (TensorProto(data_type=1, dims=[2], float_data=[1.0]), "cannot be read"),
        (TensorProto(data_type=8, dims=[2], string_data=[b"a"]), "it holds 1 strings, and these dims 2"),
        (TensorProto(data_type=99, dims=[1], raw_data=b"\0"), "unknown ONNX element type 99"),
        (TensorProto(data_type=0, dims=[1]), "unknown ONNX element type 0"),
        (TensorProto(data_type=1, dims=[1] * 70, float_data=[1.0]), "cannot be read"),
    ],
)
@pytest.mark.parametrize("constant_node", [False, True])
def test_bad_tensors(tensor, message, constant_node):
    tensor.name = "w"
    node = NODE("Constant", [], ["w"], value=tensor)
    with pytest.raises(Fail, match=message):
        loaded(model(*[node] * constant_node, NODE("Add", ["x", "w"], ["y"]), constants=[tensor] * (not constant_node)))


def sparse(indices, dims=(2, 3), values=(1, 2), dtype=np.int64):
    proto = onnx.SparseTensorProto(dims=dims)
    proto.values.CopyFrom(constant("w", *values))
    proto.indices.CopyFrom(numpy_helper.from_array(np.array(indices, dtype)))
    return proto


def with_sparse(proto):
    found = model(NODE("Add", ["x", "w"], ["y"]), shape=(None,))
    found.graph.sparse_initializer.append(proto)
    return found


@pytest.mark.parametrize("indices", [[1, 4], [[0, 1], [1, 1]]])
def test_a_sparse_tensor_made_dense(indices):
    assert loaded(with_sparse(sparse(indices))).constants["w"].tolist() == [[0, 1, 0], [0, 2, 0]]
    assert loaded(with_sparse(sparse(indices, dtype=np.int32))).constants["w"].tolist() == [[0, 1, 0], [0, 2, 0]]
    turned = sparse(
        indices[::-1], values=(2, 1)
    )  # not as the specification wants them, but as clear: onnxruntime takes it
    assert loaded(with_sparse(turned)).constants["w"].tolist() == [[0, 1, 0], [0, 2, 0]]


@pytest.mark.parametrize("indices", [[1, 1], [[0, 1], [0, 1]]])
def test_of_two_sparse_values_in_one_place_the_later_counts(indices):
    assert loaded(with_sparse(sparse(indices))).constants["w"].tolist() == [[0, 2, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    "proto",
    [
        sparse([-1, 4]), sparse([1, 6]), sparse([1]), sparse([[1], [2]]),
        sparse([[0, 1], [2, 1]]), sparse([[0, -1], [1, 1]]), sparse([1, 4], dtype=np.float32),
        sparse([1, 4], dims=(2, -3)), sparse([1, 4], dims=(2**20, 2**20)), sparse([1, 4], dims=(2**40, 2**40)),
    ],
)  # fmt: skip
def test_bad_sparse_tensors(proto):
    with pytest.raises(Fail, match="Sparse tensor 'w'"):
        loaded(with_sparse(proto))


def test_many_sparse_tensors_share_one_budget():
    proto = with_sparse(sparse([1, 4], dims=(DENSE_BYTES // 8,)))
    for name in ("a", "b", "c"):
        proto.graph.sparse_initializer.append(sparse([1, 4], dims=(DENSE_BYTES // 8,)))
        proto.graph.sparse_initializer[-1].values.name = name
    with pytest.raises(Fail, match="are the limit"):
        loaded(proto)


@pytest.mark.parametrize(
    "entries",
    [
        [("location", "w.bin"), ("offset", "-4")], [("location", "w.bin"), ("length", "-8")],
        [("location", "w.bin"), ("offset", "four")], [("location", "w.bin"), ("offset", "1_0")],
        [("location", "w.bin"), ("offset", "")], [("location", "w.bin"), ("offset", "9" * 30)],
        [("location", "w.bin"), ("location", "v.bin")], [("location", "")], [], [("location", ".")],
        [("location", "w\0.bin")], [("location", "n" * 5000)], [("location", "circle")], [("location", "folder")],
    ],
)  # fmt: skip
def test_bad_external_data(tmp_path, entries):
    (tmp_path / "w.bin").write_bytes(b"\0" * 64)
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    tensor = TensorProto(name="w", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in entries:
        tensor.external_data.add(key=key, value=value)
    data = model(NODE("Add", ["x", "w"], ["y"]), constants=[tensor]).SerializeToString()
    with pytest.raises(Fail, match="External data path validation failed for initializer: w"):
        load.load(data, external_data=str(tmp_path))


def test_paths_that_are_no_files(tmp_path):
    import os

    with pytest.raises(NoSuchFile):
        load.load("a\0b.onnx")
    with pytest.raises(NoSuchFile):
        load.load(f"{__file__}/model.onnx")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / ("n" * 5000)):
        with pytest.raises(Fail):
            load.load(path)


@pytest.mark.parametrize("word", [b"xxxx", b"yyyy", b"nnnn", b"Relu", b"dddd", b"gggg", b"NNNN"])
def test_names_that_are_not_utf8(word):
    proto = model(NODE("Relu", ["xxxx"], ["yyyy"], "nnnn"), outputs=("yyyy",))
    proto.graph.input[0].name, proto.graph.name = "xxxx", "gggg"
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "NNNN"
    proto.opset_import.add(domain="dddd", version=1)
    data = proto.SerializeToString()
    with pytest.raises(InvalidGraph, match=r"not UTF-8"):
        ortlite.InferenceSession(data.replace(word, b"\xea" + word[1:]))


def test_prose_that_is_not_utf8_is_read():
    proto = model(RELU)
    proto.producer_name = "pppp"
    assert (
        load.load(proto.SerializeToString().replace(b"pppp", b"p\xeapp")).producer_name
        == "p\N{REPLACEMENT CHARACTER}pp"
    )


@pytest.mark.parametrize("version", [0, -1, -(2**40)])
def test_opsets_that_are_no_versions(version):
    with pytest.raises(InvalidGraph, match=f"domain_version of {version}"):
        loaded(model(RELU, opset=version))
    proto = model(NODE("Binarizer", ["x"], ["y"], domain="ai.onnx.ml"))
    proto.opset_import.add(domain="ai.onnx.ml", version=2**40)
    with pytest.raises(InvalidGraph, match="domain_version of 1099511627776"):
        loaded(proto)


@pytest.mark.parametrize(
    "node",
    [
        NODE("Add", ["x", "w"], ["y"]), NODE("MatMul", ["x", "u"], ["y"]), NODE("Concat", ["w", "v"], ["y"], axis=0),
        NODE("Reshape", ["w", "s"], ["y"]), NODE("Softmax", ["w"], ["y"], axis=5),
    ],
)  # fmt: skip
def test_shapes_that_cannot_fit(node):
    constants = [
        constant("w", [1, 2, 3], [1, 2, 3]),
        constant("v", 1),
        constant("u", 1, 2, 3),
        constant("s", 7, dtype=np.int64),
    ]
    with pytest.raises(Fail, match=node.op_type):
        loaded(model(node, constants=constants))


def test_declared_shapes_of_intermediates_are_not_believed():
    proto = model(NODE("Relu", ["x"], ["t"]), NODE("Add", ["t", "w"], ["y"]), constants=[constant("w", 1, 1)])
    proto.graph.value_info.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, [3, 5]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [7]))
    assert len(loaded(proto).nodes) == 2


# Functions


CLIP = function("f", ["x", "lo", "hi"], ["y"], [NODE("Clip", ["x", "lo", "hi"], ["y"])])
OUTER = function("o", ["x", "lo"], ["y"], [call("f", ["x", "lo"], ["y"])])


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (call("f", ["x", "", "one"], ["y"]), [-1, 1]),
        (call("f", ["x", "zero"], ["y"]), [0, 2]),
        (call("f", ["x", "zero", ""], ["y"]), [0, 2]),
        (call("o", ["x"], ["y"]), [-1, 2]),
        (call("o", ["x", "zero"], ["y"]), [0, 2]),
    ],
)
def test_a_function_called_without_an_optional_input(node, expected):
    constants = [constant("one", 1), constant("zero", 0)]
    for tensor in constants:
        del tensor.dims[:]
    data = model(node, constants=constants, functions=[CLIP, OUTER]).SerializeToString()
    (y,) = ortlite.InferenceSession(data).run(None, {"x": np.float32([-1, 2])})
    assert y.tolist() == expected


def test_a_subgraph_of_a_function_sees_that_an_input_is_left_out():
    branch = helper.make_graph([NODE("Clip", ["x", "lo"], ["p"])], "b", [], [onnx.ValueInfoProto(name="p")])
    condition = NODE("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))
    body = [condition, NODE("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]
    inner = function("f", ["x", "lo"], ["y"], body)
    data = model(call("f", ["x"], ["y"]), functions=[inner]).SerializeToString()
    (y,) = ortlite.InferenceSession(data).run(None, {"x": np.float32([-1, 2])})
    assert y.tolist() == [-1, 2]


@pytest.mark.parametrize(
    ("node", "body", "message"),
    [
        (call("f", ["x"] * 4, ["y"]), CLIP, "4 inputs"),
        (call("f", ["x"], ["y", "z"]), CLIP, "2 outputs"),
        (
            call("f", [""], ["y"]),
            function("f", ["a"], ["b"], [NODE("Relu", ["a"], ["b"])]),
            "is required and has no name",
        ),
        (call("f", ["x"], ["y"]), function("f", ["a", "a"], ["b"], [NODE("Relu", ["a"], ["b"])]), "called 'a'"),
    ],
)
def test_calls_that_do_not_fit_the_function(node, body, message):
    with pytest.raises((Fail, InvalidGraph), match=message):
        loaded(model(node, functions=[body]))


def test_an_attribute_that_a_function_has_not_is_told_and_has_no_effect(caplog):
    body = function("f", ["a"], ["b"], [NODE("Relu", ["a"], ["b"])])
    assert [n.op_type for n in loaded(model(call("f", ["x"], ["y"], q=1), functions=[body])).nodes] == ["Relu"]
    assert "my::f has no attribute q" in caplog.text


def test_an_output_of_a_function_that_is_its_input():
    data = model(call("f", ["x"], ["y"]), functions=[function("f", ["a"], ["a"], [])]).SerializeToString()
    (y,) = ortlite.InferenceSession(data).run(None, {"x": np.float32([1, 2])})
    assert y.tolist() == [1, 2]


def doubling(depth, times=2):
    """Functions that call the next one `times` times."""
    made = []
    for level in range(depth):
        names = ["a", *(f"t{i}" for i in range(times - 1)), "b"]
        callee = f"f{level + 1}" if level + 1 < depth else None
        pairs = pairwise(names)
        nodes = [call(callee, [a], [b]) if callee else NODE("Relu", [a], [b]) for a, b in pairs]
        made.append(function(f"f{level}", ["a"], ["b"], nodes))
    return model(call("f0", ["x"], ["y"]), functions=made)


def test_what_functions_become_is_bounded_before_it_is_made():
    assert len(loaded(doubling(8)).nodes) == 256
    for depth in (20, 40, 250):
        with pytest.raises(LimitExceeded, match=f"function_expansion.* more than {Limits().function_expansion}"):
            loaded(doubling(depth))


def test_functions_inside_one_another():
    assert len(loaded(doubling(load_functions.CALLS, times=1)).nodes) == 1
    with pytest.raises(InvalidGraph, match=f"{load_functions.CALLS + 1} deep"):
        loaded(doubling(load_functions.CALLS + 1, times=1))


def test_functions_that_call_each_other():
    a, b = (
        function("a", ["x"], ["y"], [call("b", ["x"], ["y"])]),
        function("b", ["x"], ["y"], [call("a", ["x"], ["y"])]),
    )
    with pytest.raises(InvalidGraph, match="calls itself"):
        loaded(model(call("a", ["x"], ["y"]), functions=[a, b]))


def test_calls_of_a_function_share_its_weights():
    weights = function(
        "f", ["a"], ["b"], [NODE("Constant", [], ["w"], value_floats=[1.0, 2.0]), NODE("Add", ["a", "w"], ["b"])]
    )
    found = loaded(model(call("f", ["x"], ["t"]), call("f", ["t"], ["y"]), functions=[weights]))
    first, second = found.constants.values()
    assert first is second


def nested(depth):
    inner = helper.make_graph([NODE("Relu", ["x"], ["p"])], "b", [], [onnx.ValueInfoProto(name="p")])
    for _ in range(depth):
        node = NODE("If", ["c"], ["p"], then_branch=inner, else_branch=inner if depth < 5 else LEAF)
        inner = helper.make_graph([node], "b", [], [onnx.ValueInfoProto(name="p")])
    return inner.node[0]


LEAF = helper.make_graph([NODE("Relu", ["x"], ["p"])], "b", [], [onnx.ValueInfoProto(name="p")])


@pytest.mark.parametrize("depth", [3, 30, 31, 32])
def test_graphs_inside_one_another(depth):
    condition = [NODE("ReduceMax", ["x"], ["m"], keepdims=0), NODE("Cast", ["m"], ["c"], to=TensorProto.BOOL)]
    data = model(*condition, nested(depth), outputs=("p",)).SerializeToString()
    if depth < load_graph.GRAPHS:
        ortlite.InferenceSession(data).run(None, {"x": np.float32([1, 2])})
    else:
        with pytest.raises(OrtError):
            load.load(data)


def test_graphs_inside_functions_inside_graphs():
    cond = NODE("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))

    def body(node):
        graph = helper.make_graph([node], "b", [], [onnx.ValueInfoProto(name="p")])
        return [cond, NODE("If", ["c"], ["y"], then_branch=graph, else_branch=graph)]

    made = [function(f"f{i}", ["x"], ["y"], body(call(f"f{i + 1}", ["x"], ["p"]))) for i in range(8)]
    made.append(function("f8", ["x"], ["y"], [NODE("Relu", ["x"], ["y"])]))
    assert len(list(loaded(model(call("f4", ["x"], ["y"]), functions=made)).walk())) > 16
    deep = [function(f"f{i}", ["x"], ["y"], body_one(cond, call(f"f{i + 1}", ["x"], ["p"]))) for i in range(40)]
    deep.append(function("f40", ["x"], ["y"], [NODE("Relu", ["x"], ["y"])]))
    with pytest.raises(InvalidGraph, match=f"more than {load_graph.GRAPHS} graphs inside one another"):
        loaded(model(call("f0", ["x"], ["y"]), functions=deep))


def body_one(cond, node):
    graphs = [
        helper.make_graph([n], "b", [], [onnx.ValueInfoProto(name="p")]) for n in (node, NODE("Neg", ["x"], ["p"]))
    ]
    return [cond, NODE("If", ["c"], ["y"], then_branch=graphs[0], else_branch=graphs[1])]


@pytest.mark.parametrize(
    "node",
    [
        NODE("If", ["c"], ["y", "z"], then_branch=LEAF, else_branch=LEAF),
        NODE("Loop", ["", "c", "x"], ["y"], body=LEAF),
        NODE("Scan", ["x"], ["y"], body=LEAF, num_scan_inputs=1),
        NODE("Scan", ["x"], ["y"], body=LEAF, num_scan_inputs=-5),
    ],
)
def test_bodies_with_another_number_of_values(node):
    condition = NODE("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))
    with pytest.raises((Fail, InvalidGraph), match=r"takes 0 inputs|subgraphs return|num_scan_inputs"):
        loaded(model(condition, node))


def test_nodes_in_reverse_order_are_sorted_once():
    nodes = [NODE("Relu", [f"v{i}" if i else "x"], [f"v{i + 1}"]) for i in range(3000)]
    found = loaded(model(*reversed(nodes), outputs=("v3000",)))
    assert [n.outputs[0] for n in found.nodes] == [f"v{i + 1}" for i in range(3000)]


def test_whatever_is_unforeseen_says_what_was_read(monkeypatch):
    def broken(*_):
        raise KeyError("surprise")

    monkeypatch.setattr(load_graph.infer, "node_types", broken)
    with pytest.raises(InvalidGraph, match=r"Node 'n' \(Relu\): KeyError: 'surprise'"):
        loaded(model(NODE("Relu", ["x"], ["y"], "n")))


@pytest.mark.parametrize("op_type", ["Expand", "Reshape", "Slice"])
def test_a_shape_of_billions_of_axes_takes_no_time(op_type):
    graph = helper.make_graph(
        [helper.make_node(op_type, ["x", *["n"] * (2 if op_type == "Slice" else 1)], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3]),
            helper.make_tensor_value_info("n", TensorProto.INT64, [2**31 - 1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    ortlite.InferenceSession(source, providers=["CPUExecutionProvider"])
