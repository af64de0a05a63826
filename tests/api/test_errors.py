"""Bad models and bad feeds: the class of the error is onnxruntime's, and the text says what is wrong.

Where onnxruntime is installed, `test_the_classes_are_onnxruntimes` asks it.
"""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import ortlite
from tests.api.conftest import model

F, I, S, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
X = np.ones((2, 3), np.float32)
node = helper.make_node


def one(op_type, inputs=("X",), outputs=("Y",), *, feeds=None, weights=(), opset=17, **attributes):
    """A model of one node whose inputs that are no weights are float [2, 3] where nothing else is said."""
    feeds = feeds or {name: (F, [2, 3]) for name in inputs if name and name not in dict(weights)}
    return model(
        [node(op_type, inputs, outputs, "n", **attributes)],
        [(name, *what) for name, what in feeds.items()],
        [(outputs[0], F, None)],
        weights,
        opset,
    )


def changed(source, change):
    proto = onnx.load_from_string(source)
    change(proto)
    return proto.SerializeToString()


ADD = one("Add", ["X", "B"])
RELU = one("Relu")
WEIGHT = one("Add", ["X", "W"], weights=[("W", X)])
FEATURES = changed(
    one("ArrayFeatureExtractor", ["X", "I"], feeds={"X": (F, [2, 3]), "I": (I, [1])}),
    lambda m: (m.graph.node[0].__setattr__("domain", "ai.onnx.ml"), m.opset_import.add(domain="ai.onnx.ml", version=1)),
)
GATHER = one("Gather", ["X", "I"], feeds={"X": (F, [2, 3]), "I": (I, [1])})
SEQ = helper.make_model(
    helper.make_graph(
        [node("SequenceAt", ["S", "I"], ["Y"])],
        "g",
        [helper.make_tensor_sequence_value_info("S", F, None), helper.make_tensor_value_info("I", I, [])],
        [helper.make_tensor_value_info("Y", F, None)],
    ),
    opset_imports=[helper.make_opsetid("", 17)],
    ir_version=8,
).SerializeToString()
TEXT = model([node("Identity", ["X"], ["Y"])], [("X", S, [1])], [("Y", S, [1])])
ZERO = np.array(0)
ML = "ai.onnx.ml"


def with_ml(op_type, inputs=("X",), outputs=("Y",), **attributes):
    """A model of one operator of ai.onnx.ml, its outputs of whatever type."""
    graph = helper.make_graph(
        [node(op_type, inputs, outputs, "n", domain=ML, **attributes)],
        "g",
        [helper.make_tensor_value_info(name, F, [None, 3]) for name in inputs],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def with_function(nodes, call=None, name="F"):
    """A model that calls a function of a -> b, with these nodes."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    body = helper.make_function("my", name, ["a"], ["b"], nodes, imports)
    return changed(
        model([call or node("F", ["X"], ["Y"], "n", domain="my")], [("X", F, [2, 3])], [("Y", F, None)]),
        lambda m: (m.functions.append(body), m.opset_import.add(domain="my", version=1)),
    )


def branch(nodes, *outputs, inputs=()):
    """A subgraph."""
    made = [helper.make_tensor_value_info(name, F, None) for name in outputs]
    return helper.make_graph(nodes, "sub", [helper.make_tensor_value_info(name, F, None) for name in inputs], made)


def conditional(then):
    """A model with an If, one of whose branches is given."""
    other = branch([node("Relu", ["X"], ["e"])], "e")
    return model(
        [node("If", ["c"], ["Y"], "n", then_branch=then, else_branch=other)],
        [("c", B, []), ("X", F, [2, 3])],
        [("Y", F, None)],
    )


def loop(nodes, *outputs, inputs=("i", "k", "v")):
    """A model with a Loop of two rounds over this body."""
    types = {"i": (I, []), "k": (B, []), "v": (F, None), "on": (B, []), "w": (F, None)}
    body = helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info(name, *types[name]) for name in inputs],
        [helper.make_tensor_value_info(name, *types[name]) for name in outputs],
    )
    return model(
        [node("Loop", ["n", "", "X"], ["Y"], "n", body=body)], [("n", I, []), ("X", F, [2, 3])], [("Y", F, None)]
    )


def sparse(indices, dims=(2, 3)):
    """A model that adds a sparse initializer W."""
    values = onnx.numpy_helper.from_array(np.ones(2, np.float32), "W")
    held = helper.make_sparse_tensor(values, onnx.numpy_helper.from_array(np.array(indices)), dims)
    return changed(
        ADD,
        lambda m: (
            m.graph.input.pop(),
            m.graph.sparse_initializer.append(held),
            m.graph.node[0].input.__setitem__(1, "W"),
        ),
    )


def outside(**entries):
    """A model whose weight lies in another file."""

    def change(m):
        tensor = m.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)

    return changed(WEIGHT, change)


def held(code, **fields):
    """A model whose output is a tensor with these fields."""
    tensor = TensorProto(name="W", data_type=code, **fields)
    graph = helper.make_graph(
        [node("Identity", ["W"], ["Y"])], "g", [], [helper.make_tensor_value_info("Y", code, None)], [tensor]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


KEEP = node("Identity", ["k"], ["on"])

# name -> (model, feed, words of the text). A feed of None: the model itself is refused.
MODELS = {
    "no protobuf": (b"not a model", "parsing failed"),
    "empty": (b"", "No graph was found"),
    "unknown operator": (one("Nope"), "Nope"),
    "unknown domain": (changed(RELU, lambda m: m.graph.node[0].__setattr__("domain", "my.dom")), "my.dom"),
    "missing attribute": (one("Concat", ["X", "X"]), "axis"),
    "unknown attribute": (one("Relu", nope=1), "nope"),
    "attribute of another type": (one("Softmax", axis="a"), "axis"),
    "new opset": (one("Relu", opset=99), "opset"),
    "new IR version": (changed(RELU, lambda m: setattr(m, "ir_version", 99)), "IR version: 99, max supported"),
    "no opset": (changed(RELU, lambda m: m.ClearField("opset_import")), "opset"),
    "undefined input": (changed(RELU, lambda m: m.graph.node[0].input.__setitem__(0, "q")), "q"),
    "absent output": (changed(RELU, lambda m: m.graph.output[0].__setattr__("name", "z")), "z"),
    "duplicate name": (changed(RELU, lambda m: m.graph.node.append(m.graph.node[0])), "Y"),
    "types differ": (one("Add", ["X", "B"], feeds={"X": (F, [2]), "B": (I, [2])}), "Add"),
    "output of another type": (
        changed(RELU, lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", I)),
        "Y",
    ),
    "too many inputs": (one("Relu", ["X", "B"]), "Relu"),
    "too few inputs": (one("Add", ["X"]), "Add"),
    "string for a float operator": (one("Relu", feeds={"X": (S, [2])}), "Relu"),
    "ranks of a product": (one("Gemm", ["X", "B"], feeds={"X": (F, [2, 3, 4]), "B": (F, [2, 3])}), "Gemm"),
    "shapes of a product": (one("MatMul", ["X", "B"], feeds={"X": (F, [2, 3]), "B": (F, [2, 3])}), "MatMul"),
    "shapes of a Concat": (one("Concat", ["X", "B"], feeds={"X": (F, [2, 3]), "B": (F, [4, 5])}, axis=0), "Concat"),
    "axis out of range": (one("Softmax", axis=7), "axis"),
    "permutation": (one("Transpose", perm=[0, 0]), "perm"),
    "weight too short": (
        changed(WEIGHT, lambda m: setattr(m.graph.initializer[0], "raw_data", b"a")),
        "W",
    ),
    "weight of an unknown type": (
        changed(WEIGHT, lambda m: setattr(m.graph.initializer[0], "data_type", 99)),
        "99",
    ),
    "cycle": (
        model(
            [node("Add", ["X", "b"], ["a"]), node("Relu", ["a"], ["b"])],
            [("X", F, [2])],
            [("b", F, None)],
        ),
        "acyclic",
    ),
    "opset 0": (one("Relu", opset=0), "Relu"),
    "opset beyond 32 bits": (one("Relu", opset=2**40), "Relu"),
    "opset of ai.onnx.ml": (changed(RELU, lambda m: m.opset_import.add(domain=ML, version=99)), ML),
    "opset of com.microsoft": (changed(RELU, lambda m: m.opset_import.add(domain="com.microsoft", version=9)), "9"),
    "no IR version": (changed(RELU, lambda m: m.ClearField("ir_version")), "IR version"),
    "no operator of com.microsoft": (
        changed(RELU, lambda m: setattr(m.graph.node[0], "domain", "com.microsoft")),
        "com.microsoft:Relu",
    ),
    "no operator's name": (changed(RELU, lambda m: m.graph.node[0].ClearField("op_type")), "No Op registered"),
    "input without a type": (changed(RELU, lambda m: m.graph.input[0].ClearField("type")), "X"),
    "input without a dtype": (
        changed(RELU, lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 0)),
        "data type 0",
    ),
    "input of an unknown dtype": (
        changed(RELU, lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99)),
        "data type 99",
    ),
    "output of an unknown dtype": (
        changed(RELU, lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", 99)),
        "data type 99",
    ),
    "two inputs of one name": (changed(RELU, lambda m: m.graph.input.append(m.graph.input[0])), "X"),
    "a node that writes an input": (
        changed(RELU, lambda m: m.graph.node.add(op_type="Abs", input=["Y"], output=["X"])),
        "X",
    ),
    "a node that writes a weight": (
        changed(WEIGHT, lambda m: m.graph.node.add(op_type="Abs", input=["X"], output=["W"])),
        "W",
    ),
    "an output twice in one node": (
        changed(RELU, lambda m: m.graph.node.add(op_type="Split", input=["X"], output=["z", "z"])),
        "z",
    ),
    "an attribute twice": (
        changed(one("Softmax", axis=1), lambda m: m.graph.node[0].attribute.append(helper.make_attribute("axis", 1))),
        "axis",
    ),
    "a circle of one node": (one("Add", ["X", "Y"], feeds={"X": (F, [2])}), "acyclic"),
    "a weight of another rank than its input": (
        changed(WEIGHT, lambda m: m.graph.input.append(helper.make_tensor_value_info("W", F, [3]))),
        "W",
    ),
    "a weight of another dtype than its input": (
        changed(WEIGHT, lambda m: m.graph.input.append(helper.make_tensor_value_info("W", I, [2, 3]))),
        "W",
    ),
    "a weight too long": (
        changed(WEIGHT, lambda m: setattr(m.graph.initializer[0], "raw_data", bytes(28))),
        "W",
    ),
    "a weight without values": (changed(WEIGHT, lambda m: m.graph.initializer[0].ClearField("raw_data")), "W"),
    "a weight with a negative dimension": (
        changed(WEIGHT, lambda m: m.graph.initializer[0].dims.__setitem__(0, -2)),
        "W",
    ),
    "a weight of 2 ** 40 rows": (changed(WEIGHT, lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**40)), "W"),
    "a weight without a dtype": (changed(WEIGHT, lambda m: m.graph.initializer[0].ClearField("data_type")), "W"),
    "text as raw bytes": (held(S, dims=[1], raw_data=b"abc"), "W"),
    "too little text": (held(S, dims=[2], string_data=[b"a"]), "W"),
    "floats in the field of doubles": (held(TensorProto.DOUBLE, dims=[1], float_data=[1.0]), "W"),
    "sparse: outside": (sparse([0, 9]), "W"),
    "sparse: negative": (sparse([-1, 2]), "W"),
    "sparse: one index": (sparse([0]), "W"),
    "sparse: outside by rows": (sparse([[0, 0], [5, 2]]), "W"),
    "sparse: three columns": (sparse([[0, 0, 0], [1, 2, 0]]), "W"),
    "external: no file": (outside(location="there_is_no.bin"), "W"),
    "external: no location": (outside(), "W"),
    "external: absolute": (outside(location="/etc/hostname"), "W"),
    "external: above": (outside(location="../w.bin"), "W"),
    "external: offset is no number": (outside(location="w.bin", offset="a"), "W"),
    "If: a value from nowhere": (conditional(branch([node("Relu", ["q"], ["t"])], "t")), "q"),
    "If: an output from nowhere": (conditional(branch([node("Relu", ["X"], ["t"])], "q")), "q"),
    "If: more outputs": (conditional(branch([node("Relu", ["X"], ["t"])], "t", "t")), "If"),
    "If: no outputs": (conditional(branch([node("Relu", ["X"], ["t"])])), "If"),
    "If: inputs": (conditional(branch([node("Relu", ["X"], ["t"])], "t", inputs=["v"])), "then_branch"),
    "If: an unknown operator": (conditional(branch([node("Nope", ["X"], ["t"])], "t")), "Nope"),
    "If: one branch": (
        changed(conditional(branch([node("Relu", ["X"], ["t"])], "t")), lambda m: m.graph.node[0].attribute.pop(0)),
        "else_branch",
    ),
    "Loop: few inputs": (loop([KEEP, node("Relu", ["X"], ["w"])], "on", "w", inputs=("i", "k")), "body"),
    "Loop: few outputs": (loop([KEEP], "on"), "Loop"),
    "Loop: a value from nowhere": (loop([KEEP, node("Relu", ["q"], ["w"])], "on", "w"), "q"),
    "Loop: no body": (model([node("Loop", ["n", ""], ["Y"])], [("n", I, [])], [("Y", F, None)]), "body"),
    "a function that calls itself": (with_function([node("F", ["a"], ["b"], domain="my")]), "my::F"),
    "a function without its output": (with_function([node("Relu", ["a"], ["c"])]), "b"),
    "a function with an unknown operator": (with_function([node("Nope", ["a"], ["b"])]), "Nope"),
    "a function given too much": (
        with_function([node("Relu", ["a"], ["b"])], node("F", ["X", "X"], ["Y"], "n", domain="my")),
        "my::F",
    ),
    "a function of which too much is asked": (
        with_function([node("Relu", ["a"], ["b"])], node("F", ["X"], ["Y", "Z"], "n", domain="my")),
        "my::F",
    ),
    "a function called by another name": (with_function([node("Relu", ["a"], ["b"])], name="G"), "my"),
    "text for the axis of Softmax": (one("Softmax", axis=[1]), "axis"),
    "a tensor of text for Not": (one("Not", feeds={"X": (S, [2])}), "Not"),
    "a truncated file": (RELU[:-9], "parsing failed"),
    "a path in the bytes": (b"model.onnx", "parsing failed"),
    "zeros": (bytes(64), "parsing failed"),
}  # fmt: skip
FEEDS = {
    "missing": (ADD, {"X": X}, "B"),
    "unknown": (RELU, {"X": X, "q": X}, "q"),
    "none at all": (RELU, {}, "X"),
    "no dict": (RELU, [X], "keys"),
    "None for the feed": (RELU, None, "keys"),
    "None": (RELU, {"X": None}, "X"),
    "a dict for a tensor": (RELU, {"X": {}}, "X"),
    "a dict with keys for a tensor": (RELU, {"X": {"a": 1.0}}, "X"),
    "a tuple": (RELU, {"X": (1.0, 2.0)}, "X"),
    "a float": (RELU, {"X": 1.0}, "float"),
    "a str": (RELU, {"X": "a"}, "X"),
    "a set": (RELU, {"X": {1.0}}, "X"),
    "a ragged list": (RELU, {"X": [[1.0], [1.0, 2.0]]}, "list"),
    "an object": (RELU, {"X": object()}, "X"),
    "float64": (RELU, {"X": X.astype(np.float64)}, "double"),
    "int32": (RELU, {"X": X.astype(np.int32)}, "int32"),
    "bool": (RELU, {"X": X.astype(bool)}, "bool"),
    "text": (RELU, {"X": np.array([["a"] * 3] * 2)}, "string"),
    "numbers for text": (TEXT, {"X": np.ones(1, np.float32)}, "string"),
    "complex": (RELU, {"X": X.astype(complex)}, "complex"),
    "dates": (RELU, {"X": X.astype("datetime64[s]")}, "datetime"),
    "rank": (RELU, {"X": X[0]}, "rank"),
    "dimension": (RELU, {"X": X[:, :2]}, "index: 1"),
    "an empty dimension": (RELU, {"X": X[:0]}, "index: 0"),
    "broadcast": (
        one("Add", ["X", "B"], feeds={"X": (F, ["a"]), "B": (F, ["b"])}),
        {"X": np.ones(2, np.float32), "B": np.ones(3, np.float32)},
        "Add",
    ),
    "feature out of range": (FEATURES, {"X": X, "I": np.array([7])}, "7"),
    "index out of range": (GATHER, {"X": X, "I": np.array([7])}, "7"),
    "an array for a sequence": (SEQ, {"S": X, "I": ZERO}, "S"),
    "a tuple for a sequence": (SEQ, {"S": (X,), "I": ZERO}, "S"),
    "a sequence of other arrays": (SEQ, {"S": [X.astype(np.float64)], "I": ZERO}, "double"),
    "a position out of range": (SEQ, {"S": [X], "I": np.array(3)}, "3"),
    "reshape": (
        one("Reshape", ["X", "I"], feeds={"X": (F, [2, 3]), "I": (I, [1])}),
        {"X": X, "I": np.array([5])},
        "Reshape",
    ),
    "split": (
        one("Split", ["X", "I"], ["Y", "Z"], feeds={"X": (F, [2, 3]), "I": (I, [2])}),
        {"X": X, "I": np.array([5, 5])},
        "Split",
    ),
    "expand": (
        one("Expand", ["X", "I"], feeds={"X": (F, [2, 3]), "I": (I, [2])}),
        {"X": X, "I": np.array([5, 5])},
        "Expand",
    ),
    "no outputs": (changed(RELU, lambda m: m.graph.ClearField("output")), {"X": X}, "output"),
    "a long double": (RELU, {"X": X.astype(np.longdouble)}, "Numpy_type"),
    "None in a sequence": (SEQ, {"S": [None], "I": ZERO}, "None"),
    "None behind an array": (SEQ, {"S": [X, None], "I": ZERO}, "None"),
    "too few labels": (with_ml("ZipMap", classlabels_int64s=[1, 2]), {"X": X}, "ZipMap"),
    "too many labels": (with_ml("ZipMap", classlabels_strings=list("abcd")), {"X": X}, "ZipMap"),
    "a step of 0": (
        one("Range", list("abc"), feeds=dict.fromkeys("abc", (F, []))),
        {"a": np.float32([0])[0:1].reshape(()), "b": np.array(5, np.float32), "c": np.array(0, np.float32)},
        "Range",
    ),
    "lengths of sequences": (
        one("ReverseSequence", ["X", "I"], feeds={"X": (F, [2, 3]), "I": (I, ["n"])}),
        {"X": X, "I": np.array([1])},
        "ReverseSequence",
    ),
    "scales of another number of channels": (
        one("InstanceNormalization", list("xsb"), feeds={"x": (F, None), "s": (F, None), "b": (F, None)}),
        {"x": np.ones((1, 3, 4, 4), np.float32), "s": np.ones(1, np.float32), "b": np.ones(1, np.float32)},
        "InstanceNormalization",
    ),
    "no matrix": (one("EyeLike", feeds={"X": (F, None)}), {"X": X[0]}, "EyeLike"),
    "tile": (one("Tile", ["X", "I"], feeds={"X": (F, [2, 3]), "I": (I, ["n"])}), {"X": X, "I": np.array([1])}, "Tile"),
}


def attempt(ort, source, feed=None, names=None, run=True):
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    return session.run(names, feed) if run else session


def raised(act):
    with pytest.raises(Exception) as caught:  # noqa: PT011  (which class, is the question)
        act()
    return caught.value


def cases():
    yield from (
        (name, lambda ort, s=source: attempt(ort, s, run=False), words) for name, (source, words) in MODELS.items()
    )
    yield from ((name, lambda ort, c=case: attempt(ort, c[0], c[1]), case[2]) for name, case in FEEDS.items())
    yield "names of outputs: str", lambda ort: attempt(ort, RELU, {"X": X}, "Y"), "output_names"
    yield "names of outputs: int", lambda ort: attempt(ort, RELU, {"X": X}, [1]), "1"
    yield "names of outputs: unknown", lambda ort: attempt(ort, RELU, {"X": X}, ["q"]), "q"
    yield "names of inputs: int", lambda ort: attempt(ort, RELU, {1: X}), "X"


CASES = {name: (act, words) for name, act, words in cases()}


@pytest.mark.parametrize("case", CASES)
def test_the_text_says_what_is_wrong(case):
    act, words = CASES[case]
    error = raised(lambda: act(ortlite))
    assert words.lower() in str(error).lower(), error


@pytest.mark.parametrize("case", CASES)
def test_the_classes_are_onnxruntimes(case):
    onnxruntime = pytest.importorskip("onnxruntime")
    act, _ = CASES[case]
    theirs, ours = raised(lambda: act(onnxruntime)), raised(lambda: act(ortlite))
    assert type(ours).__name__ == type(theirs).__name__, f"theirs: {theirs}\nours: {ours}"
