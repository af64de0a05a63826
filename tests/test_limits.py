"""Limits: each is checked before memory is taken, and the error names it and the node."""

from __future__ import annotations

import pickle
import threading
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper, parser

import ortlite
from ortlite import LimitExceeded, Limits, limits, load
from ortlite.errors import Fail

F, I, B = np.float32, np.int64, np.uint8
ALLOWED = 2**20  # elements
PEAK = 24 * 2**20  # bytes that may be taken before an array of 16 times as many elements is refused
HEAD = '<ir_version: 9, opset_import: ["": 21, "my": 1, "com.microsoft": 1]> '


def session(text, options=None, providers=None, **bounds):
    options = options or ortlite.SessionOptions()
    options.limits = Limits(**bounds)
    source = parser.parse_model(HEAD + text).SerializeToString()
    return ortlite.InferenceSession(source, options, providers=providers)


def of_node(op_type, inputs, domain="", opset=21, outputs=1, **attributes):
    """A model of one node, called "n", whose inputs are the model's."""
    inputs = [value if value is None else np.asarray(value) for value in inputs]
    names = [f"i{index}" if value is not None else "" for index, value in enumerate(inputs)]
    node = helper.make_node(op_type, names, [f"o{i}" for i in range(outputs)], "n", domain=domain, **attributes)
    declared = [
        helper.make_tensor_value_info(
            name,
            TensorProto.STRING if value.dtype.kind == "U" else helper.np_dtype_to_tensor_dtype(value.dtype),
            [None] * value.ndim,
        )
        for name, value in zip(names, inputs, strict=True)
        if value is not None
    ]
    graph = helper.make_graph([node], "g", declared, [onnx.ValueInfoProto(name=name) for name in node.output])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    imports += [helper.make_opsetid("ai.onnx.ml", 5)]
    feed = {name: value for name, value in zip(names, inputs, strict=True) if value is not None}
    return helper.make_model(graph, ir_version=10, opset_imports=imports).SerializeToString(), feed


def zeros(*shape, dtype=F):
    return np.zeros(shape, dtype)


N = 2**12  # N² elements are 16 times as many as are allowed
COLUMN, ROW = zeros(N, 1), zeros(1, N)
MS, ML = "com.microsoft", "ai.onnx.ml"
LARGE = [
    ("Expand", [zeros(1), I([N, N])], {}),
    ("ConstantOfShape", [I([N, N])], {}),
    ("Tile", [zeros(4), I([N * N])], {}),
    ("Range", [I(0), I(N * N), I(1)], {}),
    ("Range", [F(0), F(N * N), F(0.5)], {}),
    ("Pad", [zeros(1, 1), I([0, 0, N, N])], {}),
    ("Pad", [zeros(1, 2), I([0, 0, N, N])], {"mode": "edge"}),
    ("OneHot", [zeros(N, dtype=I), I(N), F([0, 1])], {}),
    ("Resize", [zeros(1, 1, 1, 1), None, F([1, 1, N, N])], {}),
    ("Resize", [zeros(1, 1, 2, 2), None, None, I([1, 1, N, N])], {"mode": "linear"}),
    ("Upsample", [zeros(1, 1, 1, 1), F([1, 1, N, N])], {"opset": 9}),
    ("Gather", [zeros(1, N), zeros(N, dtype=I)], {}),
    ("GatherND", [zeros(1, N), zeros(N, 1, dtype=I)], {}),
    ("Concat", [zeros(2**18)] * 64, {"axis": 0}),
    ("Add", [COLUMN, ROW], {}),
    ("Equal", [COLUMN, ROW], {}),
    ("Where", [COLUMN > 0, COLUMN, ROW], {}),
    ("Max", [COLUMN, ROW], {}),
    ("PRelu", [COLUMN, ROW], {"maybe": True}),
    ("Pow", [COLUMN, ROW], {}),
    ("MatMul", [COLUMN, ROW], {}),
    ("Gemm", [ROW, ROW], {"transA": 1}),
    ("MatMulInteger", [zeros(N, 1, dtype=B), zeros(1, N, dtype=B)], {}),
    ("Einsum", [zeros(N), zeros(N)], {"equation": "i,j->ij"}),
    ("Einsum", [zeros(N), zeros(N), zeros(N)], {"equation": "i,j,i->j", "maybe": True}),
    ("Einsum", [zeros(N), zeros(N), zeros(N, 1)], {"equation": "i,j,ik->ji"}),
    ("Conv", [zeros(1, 1, 3, 3), zeros(1, 1, 3, 3)], {"pads": [N // 2] * 4}),
    ("Conv", [zeros(1, 1, 64, 64), zeros(N, 1, 1, 1)], {}),
    ("ConvTranspose", [zeros(1, 1, 5, 5), zeros(1, 1, 3, 3)], {"strides": [N // 4, N // 4]}),
    ("AveragePool", [zeros(1, 1, 9, 9)], {"kernel_shape": [3000, 3000], "pads": [2999] * 4, "maybe": True}),
    ("MaxUnpool", [zeros(1, 1, 2, 2), zeros(1, 1, 2, 2, dtype=I), I([1, 1, N, N])], {"kernel_shape": [2, 2]}),
    ("Col2Im", [zeros(1, 4, 9), I([N, N]), I([2, 2])], {"maybe": True}),
    ("CenterCropPad", [zeros(1, 1), I([N, N])], {}),
    ("AffineGrid", [zeros(1, 2, 3), I([1, 1, N, N])], {}),
    ("GridSample", [zeros(1, 64, 2, 2), zeros(1, 512, 512, 2)], {}),
    ("RoiAlign", [zeros(1, 1, 4, 4), zeros(1, 4), zeros(1, dtype=I)], {"output_height": N, "output_width": N}),
    ("RandomNormal", [], {"shape": [N, N]}),
    ("RandomUniform", [], {"shape": [N, N]}),
    ("Multinomial", [zeros(16, 2)], {"sample_size": 2**20}),
    ("HannWindow", [I(N * N)], {}),
    ("DFT", [zeros(1, 4, 1), I(N * N)], {"maybe": True}),
    ("MelWeightMatrix", [I(N), I(2 * N), I(8000), F(0), F(4000)], {}),
    ("Attention", [zeros(1, 1, N, 1)] * 3, {"opset": 23}),
    ("NonZero", [np.broadcast_to(F(1), (N, 256))], {}),
    ("TfIdfVectorizer", [zeros(N, 2, dtype=I)], {
        "max_gram_length": 1, "min_gram_length": 1, "max_skip_count": 0, "mode": "TF", "ngram_counts": [0],
        "ngram_indexes": [2**13], "pool_int64s": [3]}),
    ("StringSplit", [np.array(["a"] * N + ["b " * N])], {"outputs": 2}),
    ("SkipLayerNormalization", [zeros(N, 1, 4), zeros(1, N, 4), zeros(4)], {"domain": MS}),
    ("FusedMatMul", [ROW, COLUMN], {"domain": MS, "transA": 1, "transB": 1}),
    ("MatMulNBits", [zeros(N, 16), zeros(N, 1, 8, dtype=B), zeros(N)], {
        "domain": MS, "K": 16, "N": N, "bits": 4, "block_size": 16}),
    ("FusedConv", [zeros(1, 1, 3, 3), zeros(1, 1, 3, 3)], {"domain": MS, "pads": [N // 2] * 4}),
    ("Range", [I(0), I(N * N)], {"domain": MS}),
    ("CropAndResize", [zeros(1, 1, 2, 2), zeros(1, 4), zeros(1, dtype=np.int32), np.int32([N, N])], {"domain": MS}),
    ("CDist", [zeros(N, 2), zeros(N, 2)], {"domain": MS}),
    ("Pad", [zeros(1, 1), I([0, 0, N, N])], {"domain": MS}),
    ("GatherND", [zeros(2, N), zeros(N, 1, dtype=I)], {"domain": MS}),
    ("UnfoldTensor", [zeros(2 * N)], {"domain": MS, "size": N}),
    ("MatMulBnb4", [zeros(N, 16), zeros(8 * N, dtype=B), zeros(N)], {
        "domain": MS, "K": 16, "N": N, "block_size": 16, "quant_type": 1}),
    ("GatherPacked", [zeros(1, N // 32 * 18, dtype=B), zeros(N, dtype=I)], {
        "domain": MS, "K": N, "packed_type": 2}),
    ("MatMulFpQ4", [zeros(N, 16), zeros(21 * N, dtype=B), I([16, N])], {"domain": MS}),
    ("MatMulInteger16", [COLUMN.astype(np.int16), ROW.astype(np.int16)], {"domain": MS}),
    ("DynamicTimeWarping", [COLUMN], {"domain": MS}),
    ("WordConvEmbedding", [zeros(N, 1, dtype=np.int32), zeros(N, 1, 1, 1), zeros(N), zeros(2, 1)], {"domain": MS}),
    ("SparseAttention", [zeros(1, N, 24), None, None, zeros(1, 1, N, 8), zeros(1, 1, N, 8), np.int32([[0] * (N + 1)]),
        np.int32([[0]]), np.int32([N]), np.int32([N])], {
        "domain": MS, "num_heads": 1, "kv_num_heads": 1, "sparse_block_size": 1, "outputs": 3}),
    ("AttnLSTM", [zeros(1, 1, 1), zeros(1, 4, 2), zeros(1, 4, 1), None, None, None, None, None, zeros(1, 1, N),
        zeros(1, 1, N), zeros(1, N), zeros(1, N, 1)], {"domain": MS, "hidden_size": 1}),
    ("LinearAttention", [zeros(1, 1, N), zeros(1, 1, N), zeros(1, 1, N)], {
        "domain": MS, "q_num_heads": 1, "kv_num_heads": 1, "update_rule": "linear", "outputs": 2}),
    ("GatedDeltaNet", [zeros(1, 1, 1, N), zeros(1, 1, 1, N), zeros(1, 1, 1, N)], {
        "domain": MS, "update_rule": "linear", "outputs": 2}),
    ("CausalConvWithState", [zeros(N, 1, 1), zeros(1, 1, 2)], {"domain": MS, "dilation": N, "outputs": 2}),
    ("NGramHashMapping", [zeros(1, N, dtype=I), zeros(2, dtype=I), np.ones(N, I)], {
        "domain": MS, "max_ngram_size": 2, "n_head_per_ngram": N, "pad_id": 0}),
    ("MoE", [COLUMN, COLUMN, zeros(1, N, 1), None, zeros(1, 1, N)], {"domain": MS}),
    ("QLinearAdd", [zeros(N, 1, dtype=B), F(1), B(0), zeros(1, N, dtype=B), F(1), B(0), F(1), B(0)], {"domain": MS}),
    ("MultiHeadAttention", [zeros(1, N, 4)] * 3, {"domain": MS, "num_heads": 4}),
    ("ArrayFeatureExtractor", [zeros(N, 1), zeros(N, dtype=I)], {"domain": ML}),
    ("OneHotEncoder", [zeros(N, dtype=I)], {"domain": ML, "cats_int64s": list(range(N))}),
    ("SVMRegressor", [zeros(N, 1)], {
        "domain": ML, "coefficients": [1.0] * N, "support_vectors": [1.0] * N, "n_supports": N, "rho": [0.0],
        "kernel_type": "LINEAR", "kernel_params": [0.0, 0.0, 0.0]}),
]  # fmt: skip


@pytest.mark.parametrize(("op_type", "inputs", "more"), LARGE, ids=[f"{row[0]}-{i}" for i, row in enumerate(LARGE)])
def test_no_node_makes_an_array_of_too_many_elements(op_type, inputs, more):
    more = {name: value for name, value in more.items() if name != "maybe"}
    source, feed = of_node(op_type, inputs, **more)
    options = ortlite.SessionOptions()
    options.limits = Limits(elements=ALLOWED)
    made = ortlite.InferenceSession(source, options)
    tracemalloc.start()
    try:
        with pytest.raises(
            LimitExceeded, match=rf"Limit elements exceeded: node 'n' \({op_type}\).* {ALLOWED} is the"
        ) as found:
            made.run(None, feed)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.value.limit == "elements"
    assert found.value.node.op_type == op_type
    assert peak < PEAK


LOOP = (
    "g (int64 n, float[K] x) => (float[?] y, float[?,?] z) { c = Constant <value = bool {1}> () y, z = Loop (n, c, x) "
    "<body = b (int64 i, bool go, float[K] s) => (bool on, float[K] t, float[K] o) "
    "{ on = Identity(go) t = Neg(s) o = Identity(t) }> }"
)


def n_of(count):
    return np.asarray(count, I)


def test_inputs_count_as_arrays_do():
    made = session("g (float[K] x) => (float[K] y) { y = Relu(x) }", elements=8)
    assert made.run(None, {"x": np.ones(8, F)})[0].tolist() == [1] * 8
    with pytest.raises(LimitExceeded, match="elements of input 'x': 9, and 8"):
        made.run(None, {"x": np.ones(9, F)})


def test_a_signature_that_was_within_the_limits_runs_unwatched_and_a_larger_one_does_not():
    made = session("g (float[K,1] x, float[1,L] z) => (float[K,L] y) { t = Add(x, z) y = Neg(t) }", elements=100)
    small = {"x": np.ones((10, 1), F), "z": np.ones((1, 10), F)}
    for _ in range(4):
        assert made.run(None, small)[0].sum() == -200
    assert len(made._whole.program.proven) == 1
    with pytest.raises(LimitExceeded, match=r"node '' \(Add\).*: 110, and 100"):
        made.run(None, {"x": np.ones((11, 1), F), "z": np.ones((1, 10), F)})


def test_values_decide_sizes_run_by_run():
    made = session("g (int64[K] s) => (float[?] y) { y = ConstantOfShape(s) }", elements=100)
    for count in (10, 100, 10, 100, 10, 100):
        assert made.run(None, {"s": I([count])})[0].size == count
    for _ in range(3):
        with pytest.raises(LimitExceeded):
            made.run(None, {"s": I([101])})
    computed = session("g (int64[K] s) => (float[?] y) { t = Neg(s) y = ConstantOfShape(t) }", elements=100)
    for count in (10, 100, 10, 100):
        assert computed.run(None, {"s": I([-count])})[0].size == count
    with pytest.raises(LimitExceeded):
        computed.run(None, {"s": I([-101])})


def test_sessions_without_limits_pay_nothing():
    made = session("g (float[K] x) => (float[K] y) { y = Relu(x) }")
    assert made._whole.program is made.stages.program
    assert made._plain
    assert made.stages.program._within is None


def test_values_that_are_needed_no_more_count_no_more():
    text = "g (float[K] x) => (float[K] y) { " + " ".join(
        f"t{i} = Neg(t{i - 1})" if i else "t0 = Neg(x)" for i in range(50)
    )
    options = ortlite.SessionOptions()
    options.graph_optimization_level = ortlite.GraphOptimizationLevel.ORT_DISABLE_ALL
    made = session(text + " y = Neg(t49) }", options, total_bytes=8400)
    assert made.run(None, {"x": np.ones(1000, F)})[0].tolist() == [-1.0] * 1000
    with pytest.raises(LimitExceeded, match="total_bytes"):
        made.run(None, {"x": np.ones(1100, F)})


def test_values_that_are_kept_add_up():
    text = "g (float[K] x) => (float[K] y) { " + " ".join(f"t{i} = Mul(x, x)" for i in range(9))
    options = ortlite.SessionOptions()
    options.graph_optimization_level = ortlite.GraphOptimizationLevel.ORT_DISABLE_ALL
    text += f" y = Sum({', '.join(f't{i}' for i in range(9))}) }}"
    assert session(text, options, total_bytes=44_000).run(None, {"x": np.ones(1000, F)})[0][0] == 9
    with pytest.raises(LimitExceeded, match="total_bytes") as found:
        session(text, options, total_bytes=20_000).run(None, {"x": np.ones(1000, F)})
    assert found.value.node.op_type == "Mul"


@pytest.mark.parametrize("times", [1, 3])
def test_iterations_of_a_loop(times):
    made = session(LOOP, loop_trips=5)
    for _ in range(times):
        y, z = made.run(None, {"n": n_of(5), "x": F([1, 2])})
        assert y.tolist() == [-1, -2]
        assert z.shape == (5, 2)
    with pytest.raises(LimitExceeded, match=r"loop_trips.*\(Loop\).*: 6, and 5") as found:
        made.run(None, {"n": n_of(2**62), "x": F([1, 2])})
    assert found.value.limit == "loop_trips"


def test_iterations_of_nested_loops_count_together():
    inner = (
        "v = Loop (n, c, s) <body = i (int64 k, bool h, float[K] r) => (bool e, float[K] u) "
        "{ e = Identity(h) u = Neg(r) }>"
    )
    text = (
        "g (int64 n, float[K] x) => (float[?] y) { c = Constant <value = bool {1}> () y = Loop (n, c, x) "
        f"<body = b (int64 i, bool go, float[K] s) => (bool on, float[K] v) {{ on = Identity(go) {inner} }}> }}"
    )
    assert session(text, loop_trips=20).run(None, {"n": n_of(4), "x": F([1])})[0].tolist() == [1]
    with pytest.raises(LimitExceeded, match="loop_trips"):
        session(text, loop_trips=19).run(None, {"n": n_of(4), "x": F([1])})


def test_a_loop_without_end_and_without_steps():
    text = (
        "g (float[K] x) => (float[?] y) { c = Constant <value = bool {1}> () y = Loop (, c, x) "
        "<body = b (int64 i, bool go, float[K] s) => (bool go, float[K] s) { }> }"
    )
    for bounds in ({"loop_trips": 1000}, {"loop_trips": 1000, "elements": 10}):
        with pytest.raises(LimitExceeded, match="loop_trips"):
            session(text, **bounds).run(None, {"x": F([1])}, timeout=60)  # so that a broken bound ends, too
    with pytest.raises(ortlite.RunTimeout):
        session(text).run(None, {"x": F([1])}, timeout=0.01)


def test_rows_that_a_loop_keeps_count():
    assert session(LOOP, elements=100).run(None, {"n": n_of(50), "x": F([1, 2])})[1].shape == (50, 2)
    with pytest.raises(LimitExceeded, match=r"elements.*\(Loop\)"):
        session(LOOP, elements=100).run(None, {"n": n_of(51), "x": F([1, 2])})
    with pytest.raises(LimitExceeded, match=r"total_bytes"):
        # each is counted when it is kept: long before all of them are put together
        session(LOOP, total_bytes=4096, loop_trips=1000).run(None, {"n": n_of(10**6), "x": F([1, 2])})


def test_scan_and_sequence_map_are_loops():
    text = (
        "g (float[N,2] x) => (float[2] y, float[N,2] z) { i = Constant <value_floats = [0.0, 0.0]> () "
        "y, z = Scan <num_scan_inputs = 1, body = b (float[2] s, float[2] r) => (float[2] t, float[2] o) "
        "{ t = Add(s, r) o = Identity(t) }> (i, x) }"
    )
    made = session(text, loop_trips=4)
    assert made.run(None, {"x": np.ones((4, 2), F)})[0].tolist() == [4, 4]
    with pytest.raises(LimitExceeded, match=r"loop_trips.*\(Scan\)"):
        made.run(None, {"x": np.ones((5, 2), F)})
    text = (
        "g (float[N] x) => (seq(float[1]) y) { s = SplitToSequence(x) y = SequenceMap <body = b (float[1] r) => "
        "(float[1] o) { o = Neg(r) }> (s) }"
    )
    made = session(text, loop_trips=4)
    assert len(made.run(None, {"x": np.ones(4, F)})[0]) == 4
    with pytest.raises(LimitExceeded, match=r"loop_trips"):
        made.run(None, {"x": np.ones(5, F)})


def test_elements_of_a_sequence():
    made = session(
        "g (float[N] x) => (float[?] y) { s = SplitToSequence(x) y = ConcatFromSequence <axis = 0> (s) }",
        sequence_length=4,
    )
    assert made.run(None, {"x": np.ones(4, F)})[0].shape == (4,)
    with pytest.raises(LimitExceeded, match=r"sequence_length.*SplitToSequence.*: 5, and 4"):
        made.run(None, {"x": np.ones(5, F)})
    grow = (
        "g (int64 n, float[1] x) => (int64 y) { c = Constant <value = bool {1}> () e = SequenceEmpty () "
        "s = Loop (n, c, e) <body = b (int64 i, bool go, seq(float) q) => (bool on, seq(float) r) "
        "{ on = Identity(go) r = SequenceInsert(q, x) }> y = SequenceLength(s) }"
    )
    assert session(grow, sequence_length=4).run(None, {"n": n_of(4), "x": F([1])}) == [4]
    with pytest.raises(LimitExceeded, match="sequence_length"):
        session(grow, sequence_length=4).run(None, {"n": n_of(5), "x": F([1])})


def test_letters_of_text():
    text = "g (string[N] x) => (string[N] y) { a = StringConcat(x, x) y = StringConcat(a, a) }"
    made = session(text, string_bytes=40)
    assert made.run(None, {"x": np.array(["abcde", "fghij"])})[0].tolist() == ["abcde" * 4, "fghij" * 4]
    with pytest.raises(LimitExceeded, match=r"string_bytes.*StringConcat.*: 48, and 40"):
        made.run(None, {"x": np.array(["abcdef", "fghijk"])})
    with pytest.raises(LimitExceeded, match="letters of input 'x'"):
        made.run(None, {"x": np.array(["a" * 41])})


def test_text_that_is_only_handed_on():
    made = session("g (string[N] x) => (string[N] y) { y = Identity(x) }", string_bytes=10)
    for _ in range(3):
        assert made.run(None, {"x": np.array(["abc"])})[0].tolist() == ["abc"]
    with pytest.raises(LimitExceeded, match="string_bytes"):
        made.run(None, {"x": np.array(["a" * 11])})


def test_seconds_of_a_run_and_of_making_a_session(monkeypatch):
    text = "g (float[K] x) => (float[K] y) { y = Relu(x) }"
    with pytest.raises(LimitExceeded, match="seconds"):
        session(text, seconds=0.0)
    made = session(text, seconds=60)
    assert made.run(None, {"x": np.ones(2, F)})[0].tolist() == [1, 1]
    later = time.perf_counter() + 61
    clock = iter([later, later + 61])
    monkeypatch.setattr("ortlite.stopping.perf_counter", lambda: next(clock, later + 61))
    with pytest.raises(LimitExceeded, match="seconds") as found:
        made.run(None, {"x": np.ones(2, F)})
    assert found.value.limit == "seconds"


def test_limits_of_one_run():
    made = session("g (int64[K] s) => (float[?] y) { y = ConstantOfShape(s) }", elements=100)
    options = ortlite.RunOptions()
    options.limits = Limits(elements=10)
    for _ in range(3):
        assert made.run(None, {"s": I([10])}, options)[0].size == 10
        with pytest.raises(LimitExceeded, match="11, and 10"):
            made.run(None, {"s": I([11])}, options)
        assert made.run(None, {"s": I([11])})[0].size == 11
    options.limits = Limits(elements=10**9)
    with pytest.raises(LimitExceeded, match="101, and 100"):
        made.run(None, {"s": I([101])}, options)
    with pytest.raises(TypeError, match="takes Limits"):
        options.limits = 3


def test_other_ways_to_run_keep_to_the_limits():
    import asyncio

    made = session("g (int64[K] s) => (float[?] y) { y = ConstantOfShape(s) }", elements=100)
    feed = {"s": I([101])}
    with pytest.raises(LimitExceeded):
        made.run_with_ort_values(None, {"s": ortlite.OrtValue.ortvalue_from_numpy(I([101]))})
    with pytest.raises(LimitExceeded):
        asyncio.run(made.run_async_(None, feed))
    with pytest.raises(LimitExceeded):
        made.run(["y"], feed)
    with pytest.raises(LimitExceeded):
        made.run(None, feed, taps="y")
    binding = made.io_binding()
    binding.bind_cpu_input("s", feed["s"])
    binding.bind_output("y")
    with pytest.raises(RuntimeError, match="Limit elements exceeded"):
        made.run_with_iobinding(binding)
    with pytest.raises(LimitExceeded):
        pickle.loads(pickle.dumps(made)).run(None, feed)
    results, done = [], threading.Event()
    made.run_async(None, feed, lambda *args: (results.append(args), done.set()), None)
    assert done.wait(60)
    assert "Limit elements exceeded" in results[0][2]


def test_checked_types_and_profiles_keep_to_the_limits(tmp_path):
    options = ortlite.SessionOptions()
    options.add_session_config_entry("ortlite.check_types", "1")
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "p")
    made = session(LOOP, options, loop_trips=5, elements=100)
    assert made.run(None, {"n": n_of(5), "x": F([1, 2])})[1].shape == (5, 2)
    with pytest.raises(LimitExceeded, match="loop_trips"):
        made.run(None, {"n": n_of(6), "x": F([1, 2])})


def greedy(xp, X):
    return xp.sum(xp.zeros((N, N), dtype=X.dtype)) + X


def broadcasting(xp, X):
    return X + xp.reshape(X, (-1, 1))


def test_operators_that_nobody_knows_the_size_of():
    text = "g (float[K] x) => (float[K] y) { y = my.Own(x) }"
    for kernel, feed, message in (
        (greedy, np.ones(1, F), "elements of what zeros makes"),
        (broadcasting, np.ones(N, F), "elements of its result"),
    ):
        options = ortlite.SessionOptions()
        options.register_op("my", "Own", kernel)
        with pytest.raises(LimitExceeded, match=rf"node '' \(Own\): {message}"):
            session(text, options, elements=ALLOWED).run(None, {"x": feed})


def test_a_gradient_cannot_be_bounded():
    source = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Mul", ["x", "x"], ["y"]),
                helper.make_node("Gradient", ["x"], ["d"], "n", domain="ai.onnx.preview.training", xs=["x"], y="y"),
            ],
            "g",
            [helper.make_tensor_value_info("x", 1, [None])],
            [helper.make_tensor_value_info("d", 1, [None])],
        ),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.preview.training", 1)],
        ir_version=9,
    ).SerializeToString()
    assert ortlite.InferenceSession(source).run(None, {"x": F([3])})[0].tolist() == [6]
    with limits.applied(Limits(elements=10)), pytest.raises(Fail, match="gradients cannot be bounded"):
        ortlite.InferenceSession(source).run(None, {"x": F([3])})


def test_what_is_constant_is_not_computed_ahead_beyond_the_limits():
    text = "g (float[K] x) => (float[?,?] y) <int64[2] s = {4096, 4096}, float[1] v = {1}> "
    text += "{ t = Expand(v, s) y = Add(t, x) }"
    tracemalloc.start()
    made = session(text, elements=ALLOWED, total_bytes=ALLOWED)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < PEAK
    with pytest.raises(LimitExceeded, match="Expand"):
        made.run(None, {"x": np.ones(1, F)})


def test_pytorch_keeps_to_the_limits():
    pytest.importorskip("torch")
    made = session(LOOP, providers=["TorchExecutionProvider"], loop_trips=5, elements=100)
    for _ in range(3):
        assert made.run(None, {"n": n_of(5), "x": F([1, 2])})[1].shape == (5, 2)
    with pytest.raises(LimitExceeded, match="loop_trips"):
        made.run(None, {"n": n_of(6), "x": F([1, 2])})
    made = session(
        "g (float[K,1] x, float[1,L] z) => (float[?,?] y) { y = MatMul(x, z) }",
        providers=["TorchExecutionProvider"],
        elements=ALLOWED,
    )
    with pytest.raises(LimitExceeded, match="MatMul"):
        made.run(None, {"x": COLUMN, "z": ROW})


# Loading


RELU = "g (float[2] x) => (float[2] y) { y = Relu(x) }"


def test_bytes_of_a_model(tmp_path):
    data = parser.parse_model(HEAD + RELU).SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    for source in (data, path):
        load.load(source, limits=Limits(model_bytes=len(data)))
        with pytest.raises(LimitExceeded, match=f"model_bytes.*{len(data)}, and {len(data) - 1}"):
            load.load(source, limits=Limits(model_bytes=len(data) - 1))


def outside(tmp_path, count=1, offset=0, size=1000):
    """A model with `count` initializers that all lie in one file."""
    (tmp_path / "w.bin").write_bytes(bytes(4 * size + offset))
    model = parser.parse_model(HEAD + "g (float[K] x) => (float[K] y) { y = Relu(x) }")
    for index in range(count):
        tensor = TensorProto(name=f"w{index}", data_type=1, dims=[size], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "w.bin"), ("offset", str(offset))):
            tensor.external_data.add(key=key, value=value)
        model.graph.initializer.append(tensor)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(("count", "offset"), [(1, 0), (10, 0), (10, 1)])
def test_bytes_outside_a_model_count_each_time_that_they_are_named(tmp_path, count, offset):
    path = outside(tmp_path, count, offset)
    whole = path.stat().st_size + count * 4000
    load.load(path, limits=Limits(model_bytes=whole))
    with pytest.raises(LimitExceeded, match="model_bytes"):
        load.load(path, limits=Limits(model_bytes=whole - 1))


def test_nodes_of_a_model():
    inner = "p = If (c) <then_branch = a () => (float[2] q) { q = Neg(x) }, else_branch = b () => (float[2] r) "
    inner += "{ r = Abs(x) }>"
    data = parser.parse_model(HEAD + f"g (bool c, float[2] x) => (float[2] p) {{ {inner} }}").SerializeToString()
    load.load(data, limits=Limits(nodes=3))
    with pytest.raises(LimitExceeded, match="nodes of the model"):
        load.load(data, limits=Limits(nodes=2))


def test_graphs_inside_one_another():
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["p"])], "b", [], [onnx.ValueInfoProto(name="p")])
    for _ in range(4):
        node = helper.make_node("If", ["c"], ["p"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], "b", [], [onnx.ValueInfoProto(name="p")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=9)
    model.graph.input.append(helper.make_tensor_value_info("x", 1, [2]))
    model.graph.input.append(helper.make_tensor_value_info("c", 9, []))
    data = model.SerializeToString()
    load.load(data, limits=Limits(nesting=5))
    with pytest.raises(LimitExceeded, match="nesting"):
        load.load(data, limits=Limits(nesting=4))


def test_nodes_that_functions_become():
    text = (
        RELU.replace("y = Relu(x)", "t = my.f(x) y = my.f(t)")
        + ' <domain: "my", opset_import: ["": 21]> f (a) => (b) { c = Neg(a) b = Neg(c) }'
    )
    data = parser.parse_model(HEAD + text).SerializeToString()
    load.load(data, limits=Limits(function_expansion=4))
    with pytest.raises(LimitExceeded, match="function_expansion"):
        load.load(data, limits=Limits(function_expansion=3))


def test_nodes_of_a_graph_count_each_time_that_a_function_refers_to_it():
    """What is counted ahead are calls; a graph that a call hands over is counted while it is read."""
    body = parser.parse_graph("b () => (p) { a = Constant <value_float = 1.0> () b = Neg(a) p = Neg(b) }")
    model = parser.parse_model(HEAD + "g (bool c) => (float y) { y = my.f(c) }")
    model.graph.node[0].attribute.append(helper.make_attribute("body", body))
    function = model.functions.add(name="f", domain="my", input=["c"], output=["y0"], attribute=["body"])
    function.opset_import.add(domain="", version=21)
    for number in range(2):
        node = function.node.add(op_type="If", input=["c"], output=[f"y{number}"])
        for name in ("then_branch", "else_branch"):
            node.attribute.add(name=name, type=AttributeProto.GRAPH, ref_attr_name="body")
    data = model.SerializeToString()
    load.load(data, limits=Limits(function_expansion=2 + 4 * 3))
    with pytest.raises(LimitExceeded, match="function_expansion"):
        load.load(data, limits=Limits(function_expansion=2 + 4 * 3 - 1))


def test_elements_and_bytes_of_tensors():
    model = parser.parse_model(HEAD + "g (float[2] x) => (float[2] y) { y = Add(x, w) }")
    model.graph.initializer.append(numpy_helper.from_array(F([1, 2]), "w"))
    load.load(model.SerializeToString(), limits=Limits(elements=2))
    with pytest.raises(LimitExceeded, match="tensor 'w'"):
        load.load(model.SerializeToString(), limits=Limits(elements=1))
    del model.graph.initializer[:]
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    sparse = model.graph.sparse_initializer.add(dims=[2**20])
    sparse.values.CopyFrom(numpy_helper.from_array(F([1]), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(I([1])))
    load.load(model.SerializeToString())
    with pytest.raises(LimitExceeded, match="total_bytes"):
        load.load(model.SerializeToString(), limits=Limits(total_bytes=2**20))


# Limits themselves


def test_the_tighter_of_two():
    one, other = Limits(elements=5, nodes=None, seconds=3), Limits(elements=7, nodes=2, own_files=True)
    found = limits.both(one, other)
    assert found == limits.both(other, one)
    assert (found.elements, found.nodes, found.seconds, found.own_files) == (5, 2, 3, True)
    assert limits.both(one, Limits()) is one


def test_limits_of_a_block_of_code():
    data = parser.parse_model(HEAD + RELU).SerializeToString()
    with limits.applied(Limits(nodes=0)):
        with pytest.raises(LimitExceeded):
            load.load(data)
        with pytest.raises(LimitExceeded), limits.applied(Limits(nodes=5)):
            ortlite.InferenceSession(data)
        found = []
        thread = threading.Thread(target=lambda: found.append(limits.current()))
        thread.start()
        thread.join()
        assert found == [Limits()]
    ortlite.InferenceSession(data)


def test_what_is_no_limit():
    for wrong in ({"elements": -1}, {"elements": 1.5}, {"nodes": True}, {"seconds": "3"}, {"own_files": 1}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            Limits(**wrong)
    with pytest.raises(TypeError):
        Limits.untrusted(memory=3)
    assert Limits.untrusted(seconds=2.5).seconds == 2.5
    assert replace(Limits.untrusted(), seconds=2.5) == Limits.untrusted(seconds=2.5)


def test_limits_survive_pickling():
    for some in (Limits(), Limits.untrusted(nodes=None), Limits(elements=3)):
        assert pickle.loads(pickle.dumps(some)) == some


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(limits.beyond("nodes", 3, 4, "nodes")))
    assert (type(error), error.limit, str(error)) == (
        LimitExceeded,
        "nodes",
        str(limits.beyond("nodes", 3, 4, "nodes")),
    )
    assert isinstance(error, Fail)


def test_limits_of_a_command_line():
    assert limits.parse("", {}) == Limits()
    assert limits.parse("untrusted", {"elements": "1e8", "seconds": "0.5"}) == Limits.untrusted(
        elements=10**8, seconds=0.5
    )
    assert limits.parse("untrusted", {"elements": "none", "own_files": "0"}) == Limits.untrusted(
        elements=None, own_files=False
    )
    for wrong in ({"size": "3"}, {"elements": "x"}, {"elements": "-1"}, {"elements": "nan"}, {"own_files": "yes"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            limits.parse("", wrong)
