"""Bad models and bad feeds: the class of the error is onnxruntime's, and the text says what is wrong.

Where onnxruntime is installed, `test_the_classes_are_onnxruntimes` asks it.
"""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import ortlite
from tests.api.conftest import model

F, I, S = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
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
