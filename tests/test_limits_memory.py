"""Each field of `Limits` is looked at before the memory that is beyond it is taken: one case a field."""

from __future__ import annotations

import os
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
from onnx import TensorProto, helper, parser

import ortlite
from ortlite import LimitExceeded, Limits
from ortlite.errors import Fail

F, I = np.float32, np.int64
HEAD = '<ir_version: 9, opset_import: ["": 21, "my": 1]> '
PEAK = 12 * 2**20  # bytes; what each case asks for is 64 MiB and more, or without end
LOOP = (
    "g (int64 n, float[K] x) => (float[?,?] z) { c = Constant <value = bool {1}> () y, z = Loop (n, c, x) "
    "<body = b (int64 i, bool go, float[K] s) => (bool on, float[K] t, float[K] o) "
    "{ on = Identity(go) t = Neg(s) o = Identity(t) }> }"
)


def run(text, feed, **bounds):
    options = ortlite.SessionOptions()
    options.limits = Limits(**bounds)
    ortlite.InferenceSession(parser.parse_model(HEAD + text).SerializeToString(), options).run(None, feed)


def external(folder, elements=2**24):
    """A model whose weight is a file full of holes."""
    model = parser.parse_model(HEAD + "g (float[K] x) => (float[K] y) { y = Add(x, w) }")
    weight = model.graph.initializer.add(name="w", data_type=1, dims=[elements], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="w.bin")
    with (folder / "w.bin").open("wb") as file:
        file.truncate(4 * elements)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def load(path, **bounds):
    options = ortlite.SessionOptions()
    options.limits = Limits(**bounds)
    ortlite.InferenceSession(path, options)


def model_bytes(folder):
    load(external(folder), model_bytes=2**20)


def nodes(folder):
    graph = helper.make_graph(
        [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(30_000)], "g",
        [helper.make_tensor_value_info("v0", 1, [2])], [helper.make_tensor_value_info("v30000", 1, [2])],
    )  # fmt: skip
    data = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString()
    return lambda: load(data, nodes=100)


def nesting(folder):
    result = [helper.make_empty_tensor_value_info("p")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["p"])], "b", [], result)
    for _ in range(14):  # 2^14 graphs
        graph = helper.make_graph(
            [helper.make_node("If", ["c"], ["p"], then_branch=graph, else_branch=graph)], "b", [], result
        )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=9)
    model.graph.input.append(helper.make_tensor_value_info("x", 1, [2]))
    model.graph.input.append(helper.make_tensor_value_info("c", 9, []))
    data = model.SerializeToString()
    return lambda: load(data, nesting=4)


def function_expansion(folder):
    """Two calls in each of 40 functions: 2^40 nodes. They are counted, not made up to the bound: that takes 46 MiB."""
    head = '<domain: "my", opset_import: ["": 21, "my": 1]>'
    calls = [f"{head} f{i} (a) => (c) {{ b = my.f{i + 1}(a) c = my.f{i + 1}(b) }}" for i in range(40)]
    text = " ".join(
        ["g (float[2] x) => (float[2] y) { y = my.f0(x) }", *calls, f"{head} f40 (a) => (b) {{ b = Neg(a) }}"]
    )
    data = parser.parse_model(HEAD + text).SerializeToString()
    return lambda: load(data)  # the default is 2^18


def elements(folder):
    run("g (int64[K] s) => (float[?] y) { y = ConstantOfShape(s) }", {"s": I([2**26])}, elements=2**20)


def total_bytes(folder):
    text = "g (int64[K] s) => (float[?] y) { a = ConstantOfShape(s) b = Exp(a) y = Add(a, b) }"
    run(text, {"s": I([2**24])}, total_bytes=2**22)


def loop_trips(folder):
    run(LOOP, {"n": np.asarray(2**62, I), "x": F([1, 2])}, loop_trips=1000, seconds=60)


def sequence_length(folder):
    x = np.zeros(2**16, F)  # a view of a few hundred bytes for each of its elements
    text = "g (float[N] x) => (int64 y) { s = SplitToSequence(x) y = SequenceLength(s) }"
    return lambda: run(text, {"x": x}, sequence_length=100)


def string_bytes(folder):
    words = np.array(["0123456789"] * 2000, object)  # each with each: hundreds of megabytes
    text = "g (string[N,1] a, string[1,N] b) => (string[N,N] y) { y = StringConcat(a, b) }"
    run(text, {"a": words[:, None], "b": words[None]}, string_bytes=2**16)


def seconds(folder):
    run(LOOP, {"n": np.asarray(2**62, I), "x": F([1, 2])}, seconds=0.2)


def own_files(folder):
    path = external(folder)
    os.link(folder / "w.bin", folder / "w2.bin")
    load(path, own_files=True)


CASES: dict[str, Callable] = {
    case.__name__: case
    for case in (
        model_bytes, nodes, nesting, function_expansion, elements, total_bytes, loop_trips, sequence_length,
        string_bytes, seconds, own_files,
    )
}  # fmt: skip


def test_every_bound_has_a_case():
    assert set(CASES) == {field.name for field in fields(Limits)}


@pytest.mark.parametrize("name", CASES)
def test_a_bound_is_looked_at_before_memory_is_taken(name, tmp_path):
    if name == "own_files" and sys.platform == "win32":
        pytest.skip("hard links of POSIX")
    run("g (float[K] x) => (float[K] y) { y = Relu(x) }", {"x": F([1])}, elements=10)  # imports
    given = CASES[name]
    if name in {"nodes", "nesting", "function_expansion", "sequence_length"}:  # made before, what is given
        made = given(tmp_path)
        given = lambda _: made()  # noqa: E731
    tracemalloc.start()
    try:
        with pytest.raises(Fail if name == "own_files" else LimitExceeded) as found:
            given(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert getattr(found.value, "limit", "own_files") == name
    assert peak < PEAK
