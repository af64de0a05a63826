"""If, Loop, Scan, sequences and optionals through whole models, on both providers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser
from opcheck import PROVIDERS, check, compare, run_model

import ortlite
from ortlite.primitives import control


def run(text, feeds, expected):
    model = parser.parse_model(text)
    for provider in PROVIDERS:
        for got, wanted in zip(run_model(model, feeds, provider), expected, strict=True):
            compare(got, wanted, 1e-6, 1e-6, provider)


X = np.array([1, 2, 3, 4], np.float32)


@pytest.mark.parametrize("flag", [True, False])
def test_if_captures_values_of_the_outer_graph(flag):
    text = """<ir_version: 8, opset_import: ["": 18]> g (bool c, float[4] x) => (float[N] y, float[N] z)
    { w = Add(x, x)
      y, z = If (c) <then_branch = t () => (float[N] a, float[N] b) { a = Mul(w, x)  b = Identity(w) },
                     else_branch = e () => (float[N] a, float[N] b) { a = Neg(w)  b = Neg(x) }> }"""
    run(text, {"c": np.array(flag), "x": X}, [2 * X * X, 2 * X] if flag else [-2 * X, -X])


def test_branches_may_have_different_shapes():
    text = """<ir_version: 8, opset_import: ["": 18]> g (bool c, float[4] x) => (float[N] y)
    <int64[1] two = {2}, int64[1] zero = {0}>
    { y = If (c) <then_branch = t () => (float[N] a) { a = Slice(x, zero, two) },
                  else_branch = e () => (float[N] a) { a = Concat <axis = 0> (x, x) }> }"""
    run(text, {"c": np.array(True), "x": X}, [X[:2]])
    run(text, {"c": np.array(False), "x": X}, [np.concatenate([X, X])])


LOOP = """<ir_version: 8, opset_import: ["": 18]>
g (int64 m, bool c, float[4] x, float limit) => (float[4] y, float[K, 4] z)
{ y, z = Loop (m, c, x) <body = b (int64 i, bool ci, float[4] s) => (bool co, float[4] t, float[4] u)
    { t = Add(s, x)  f = CastLike(i, s)  u = Mul(t, f)
      total = ReduceSum <keepdims = 0> (t)  co = Less(total, limit) }> }"""


@pytest.mark.parametrize(("trips", "limit", "times"), [(3, 1e9, 3), (100, 35.0, 3), (0, 1e9, 0)])
def test_loop_stops_by_count_or_condition(trips, limit, times):
    z = np.array([(i + 2) * X * i for i in range(times)], np.float32).reshape(times, 4)
    feeds = {"m": np.array(trips), "c": np.array(True), "x": X, "limit": np.array(limit, np.float32)}
    run(LOOP, feeds, [X * (times + 1), z])


def test_a_loop_whose_condition_is_false_does_nothing():
    feeds = {"m": np.array(5), "c": np.array(False), "x": X, "limit": np.array(1, np.float32)}
    run(LOOP, feeds, [X, np.zeros((0, 4), np.float32)])


def test_nested_loops_with_captures_from_both_levels():
    text = """<ir_version: 8, opset_import: ["": 18]> g (int64 m, float x) => (float y)
    <float zero = {0}>
    { y = Loop (m, , zero) <body = outer (int64 i, bool ci, float s) => (bool co, float t)
        { fi = CastLike(i, s)
          t = Loop (m, , s) <body = inner (int64 j, bool cj, float u) => (bool do, float v)
            { fj = CastLike(j, u)  p = Mul(fi, fj)  q = Mul(p, x)  v = Add(u, q)  do = Identity(cj) }>
          co = Identity(ci) }> }"""
    run(text, {"m": np.array(4), "x": np.array(2, np.float32)}, [np.float32(2 * 36)])


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("op_type", ["Loop", "If"])
def test_a_constant_around_a_loop_is_the_condition_of_a_node_in_it(op_type, value):
    branches = "<then_branch = p () => (float a) { a = Neg(s) }, else_branch = q () => (float b) { b = Identity(s) }>"
    body = "<body = inner (int64 j, bool d, float u) => (bool e, float v) { v = Neg(u)  e = Identity(d) }>"
    inner = f"t = If (c) {branches}" if op_type == "If" else f"t = Loop (m, c, s) {body}"
    text = f"""<ir_version: 8, opset_import: ["": 18]> g (int64 m, float x) => (float y) <bool c = {{{value}}}>
    {{ y = Loop (m, , x) <body = outer (int64 i, bool go, float s) => (bool on, float t)
        {{ on = Identity(go)  {inner} }}> }}"""
    run(text, {"m": np.array(3), "x": np.array(2, np.float32)}, [np.float32(-2 if value else 2)])


@pytest.mark.parametrize("direction", [0, 1])
def test_scan(direction):
    text = f"""<ir_version: 8, opset_import: ["": 18]> g (float[2] s, float[3, 2] x) => (float[2] t, float[3, 2] y)
    {{ t, y = Scan <num_scan_inputs = 1, scan_input_directions = [{direction}], scan_output_directions = [{direction}],
        body = b (float[2] a, float[2] r) => (float[2] c, float[2] o) {{ c = Add(a, r)  o = Mul(c, r) }}> (s, x) }}"""
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    rows = x[::-1] if direction else x
    sums = np.cumsum(rows, 0, dtype=np.float32)
    y = sums * rows
    run(text, {"s": np.zeros(2, np.float32), "x": x}, [sums[-1], y[::-1] if direction else y])


def test_sequences():
    a, b = X[:2], X
    check("SequenceAt", [a, b], np.array(-1), opset=11, expected=b)
    check("SequenceLength", [a, b], opset=11, expected=np.array(2))
    check("SequenceInsert", [a, b], X[:1], np.array(1), opset=11, expected=[[a, X[:1], b]])
    check("SequenceInsert", [a, b], X[:1], opset=11, expected=[[a, b, X[:1]]])
    check("SequenceErase", [a, b], np.array(0), opset=11, expected=[[b]])
    check("SequenceConstruct", a, b, opset=11, expected=[[a, b]])
    check("ConcatFromSequence", [a, b], axis=0, opset=11, expected=np.concatenate([a, b]))
    check("ConcatFromSequence", [a, a], axis=1, new_axis=1, opset=11, expected=np.stack([a, a], 1))
    check("SplitToSequence", X, np.array([1, 3]), opset=11, expected=[[X[:1], X[1:]]])
    check("SplitToSequence", X[:2], keepdims=0, opset=11, expected=[[X[0], X[1]]])
    check("SplitToSequence", X, np.array(3), opset=11, expected=[[X[:3], X[3:]]])
    check("SplitToSequence", X[:0], np.array([0]), opset=11, expected=[[X[:0]]])


def test_sequences_of_strings():
    words = np.array(["ü", "b"], object)
    check("SequenceInsert", [words], words[:1], opset=11, expected=[[words, words[:1]]])
    check("SplitToSequence", words, opset=11, expected=[[words[:1], words[1:]]])


def test_a_sequence_grows_in_a_loop():
    text = """<ir_version: 8, opset_import: ["": 18]> g (int64 m, float[4] x) => (float[N] y)
    { e = SequenceEmpty <dtype = 1> ()
      s = Loop (m, , e) <body = b (int64 i, bool ci, seq(float[N]) q) => (bool co, seq(float[N]) r)
        { f = CastLike(i, x)  z = Mul(x, f)  r = SequenceInsert(q, z)  co = Identity(ci) }>
      y = ConcatFromSequence <axis = 0> (s) }"""
    run(text, {"m": np.array(3), "x": X}, [np.concatenate([X * 0, X, X * 2])])


def test_sequence_map():
    text = """<ir_version: 8, opset_import: ["": 18]>
    g (seq(float[N]) s, float[1] k) => (seq(float[N]) y, seq(int64[1]) n)
    { y, n = SequenceMap (s, k) <body = b (float[N] a, float[1] c) => (float[N] o, int64[1] l)
        { o = Mul(a, c)  l = Shape(a) }> }"""
    run(text, {"s": [X[:2], X], "k": X[1:2]}, [[X[:2] * 2, X * 2], [np.array([2]), np.array([4])]])


@pytest.mark.parametrize("given", [True, False])
def test_optionals(given):
    text = (
        """<ir_version: 8, opset_import: ["": 18]> g (optional(float[4]) o) => (bool h) { h = OptionalHasElement(o) }"""
    )
    model = parser.parse_model(text)
    for provider in PROVIDERS:
        (has,) = run_model(model, {"o": X if given else None}, provider)
        assert bool(has) == given


def test_constants_of_a_branch_are_read_where_only_the_branch_runs():
    text = """<ir_version: 8, opset_import: ["": 18]> g (bool c, float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}>
    { y = If (c) <then_branch = t () => (float[4] a) { a = Add(x, w) },
                  else_branch = e () => (float[4] a)
                  { k = Constant <value = float[4] {5, 6, 7, 8}> ()  a = Add(x, k) }> }"""
    run(text, {"c": np.array(True), "x": X}, [X + np.array([1, 2, 3, 4], np.float32)])
    run(text, {"c": np.array(False), "x": X}, [X + np.array([5, 6, 7, 8], np.float32)])


@pytest.mark.parametrize("shapes", [("", ""), ("[1]", "[1]"), ("[1]", ""), ("", "[1]"), ("[N]", "[M]")])
@pytest.mark.parametrize("trips", [0, 3])
def test_a_loop_body_gets_what_it_declares(shapes, trips):
    """Iteration number and condition as tensors of one element: spox declares them so, always."""
    index, condition = shapes
    out = "[K, 1]" if index else "[K]"
    text = f"""<ir_version: 8, opset_import: ["": 18]> g (int64 m, bool c) => (int64 n, int64{out} z, int64[L, R] w)
    <int64 none = {{0}}>
    {{ n, z, w = Loop (m, c, none) <body = b (int64{index} i, bool{condition} ci, int64 s) =>
        (bool{condition} co, int64 t, int64{index} u, int64[R] rank)
        {{ co = Identity(ci) u = Identity(i) f = Shape(i) r = Shape(ci) ri = Size(f) rc = Size(r)
          minus = Constant <value_ints = [-1]> () a = Reshape(ri, minus) d = Reshape(rc, minus)
          rank = Concat <axis = 0> (a, d) once = Constant <value_int = 1> () t = Add(s, once) }}> }}"""
    z = np.arange(trips).reshape((trips, 1) if index else (trips,))
    w = np.tile([len(index) and 1, len(condition) and 1], (trips, 1)).astype(np.int64)
    if trips == 0 and index == "[N]":
        z = z[:, :0]  # nothing is known of the axis of what never was
    if trips:
        run(text, {"m": np.array(trips), "c": np.array(True)}, [np.array(trips), z, w])
    else:
        for provider in PROVIDERS:
            n, z_, _ = run_model(parser.parse_model(text), {"m": np.array(0), "c": np.array(True)}, provider)
            assert (n.tolist(), z_.shape) == (0, z.shape)


def test_a_loop_ends_by_a_condition_with_an_axis():
    text = """<ir_version: 8, opset_import: ["": 18]> g (int64 m) => (int64[1] n, int64[K, 1] z)
    <int64[1] none = {0}, int64[1] most = {2}>
    { n, z = Loop (m, "", none) <body = b (int64[1] i, bool[1] ci, int64[1] s) => (bool[1] co, int64[1] t, int64[1] u)
        { t = Add(s, i) u = Identity(i) co = Less(i, most) }> }"""
    run(text, {"m": np.array([9])}, [np.array([3]), np.array([[0], [1], [2]])])


BODIES = """<ir_version: 8, opset_import: ["": 18]> g (int64 n, float[k,4] x) => (float[m,4] y, float[r,l,4] rows) {
  c = Constant<value: tensor = bool {1}>()
  y, rows = Loop (n, c, x) <body = b (int64 i, bool ci, float[p,4] s) => (bool co, float[q,4] t, float[q,4] o) {
    co = Identity(ci)  a = Tanh(s)  f = Cast<to = 1>(i)  u = Add(a, f)  t = LINE  o = Relu(u) }> }"""


@pytest.mark.parametrize("trips", [0, 1, 2, 3, 40])
@pytest.mark.parametrize("repeats", [1, 4])
def test_bodies_run_again_and_again(trips, repeats):
    """Interpreted, specialised, straight to the code: all give what the first run gives, whatever came before."""
    model = parser.parse_model(BODIES.replace("LINE", "Sub(u, x)")).SerializeToString()
    session = ortlite.InferenceSession(model)
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    for _ in range(repeats):
        for rows in (2, 1, 2):
            y, out = session.run(None, {"n": np.array(trips), "x": x[:rows]})
            state, wanted = x[:rows], []
            for i in range(trips):
                u = np.tanh(state) + np.float32(i)
                wanted.append(np.maximum(u, 0))
                state = u - x[:rows]
            np.testing.assert_allclose(y, state, rtol=2e-5, atol=1e-6)
            assert len(out) == trips
            np.testing.assert_allclose(out, np.array(wanted).reshape(out.shape), rtol=2e-5, atol=1e-6)


def test_a_state_that_grows_runs_by_code_for_all_shapes():
    text = (
        BODIES.replace("LINE", "Concat<axis = 0>(u, x)").replace(", rows =", " =").replace(", float[r,l,4] rows)", ")")
    )
    text = text.replace(", float[q,4] o)", ")").replace("o = Relu(u)", "")
    session = ortlite.InferenceSession(parser.parse_model(text).SerializeToString())
    x = np.ones((1, 4), np.float32)
    state = x
    for i in range(30):
        state = np.concatenate([np.tanh(state) + np.float32(i), x])
    for _ in range(3):
        (y,) = session.run(None, {"n": np.array(30), "x": x})
        np.testing.assert_allclose(y, state, rtol=1e-5)


def test_a_state_whose_shape_depends_on_values_is_looked_at_in_every_trip():
    """It stays as it is for twenty trips, and loses an element in each of the others."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]> g (int64 n, float[k] x) => (float[m] y) {
        y = Loop (n, , x) <body = b (int64 i, bool ci, float[p] s) => (bool co, float[q] t) {
            co = Identity(ci)  d = Constant<value = float[1] {1.0}>()  low = Constant<value = float {0.0}>()
            u = Sub(s, d)  keep = GreaterOrEqual(u, low)  t = Compress(u, keep) }> }""")
    session = ortlite.InferenceSession(model.SerializeToString())
    x = np.arange(20, 26, dtype=np.float32)
    for trips in (0, 19, 20, 22, 25, 40):
        for _ in range(2):
            (y,) = session.run(None, {"n": np.array(trips), "x": x})
            np.testing.assert_array_equal(y, (x - np.float32(trips))[x >= trips])


def test_a_settled_state_is_no_settled_row():
    """Of the results only those that come back as inputs keep their shapes; the others are what they are."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (int64 n, float[k] x) => (float[k] y, float[l] r) {
        zero = Constant<value = int64 {0}>()
        y, r = Loop (n, , x) <body = b (int64 i, bool ci, float[k] s) => (bool co, float[k] t, float e) {
            co = Identity(ci)  t = Tanh(s)  f = Cast<to = 1>(i)  g = Gather(t, zero)  e = Add(g, f) }> }""")
    session = ortlite.InferenceSession(model.SerializeToString())
    for size, trips in ((3, 30), (4, 30), (3, 12), (3, 30)):
        x = np.linspace(-1, 1, size, dtype=np.float32)
        y, r = session.run(None, {"n": np.array(trips), "x": x})
        rows = []
        for i in range(trips):
            x = np.tanh(x)
            rows.append(x[0] + np.float32(i))
        np.testing.assert_allclose(y, x, rtol=1e-5)
        np.testing.assert_allclose(r, rows, rtol=1e-5)


def test_an_error_in_a_body_names_its_node_in_every_way_to_run():
    text = """<ir_version: 8, opset_import: ["": 18]> g (int64 n, float[5,4] x) => (float[4] y) {
      c = Constant<value: tensor = bool {1}>()  z = Constant<value: tensor = float[4] {0, 0, 0, 0}>()
      y = Loop (n, c, z) <body = b (int64 i, bool ci, float[4] s) => (bool co, float[4] t) {
        co = Identity(ci)  r = Gather(x, i)  t = Add(s, r) }> }"""
    session = ortlite.InferenceSession(parser.parse_model(text).SerializeToString())
    x = np.ones((5, 4), np.float32)
    for _ in range(3):
        assert session.run(None, {"n": np.array(5), "x": x})[0].tolist() == [5] * 4
        with pytest.raises(ortlite.errors.OrtError, match="Gather"):
            session.run(None, {"n": np.array(6), "x": x})


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_of_many_slices_makes_them_block_by_block(reverse):
    """So that a run can be stopped between the first of them."""
    length = 2 * control.BLOCK + 3
    xs = (np.arange(2 * length).reshape(length, 2), np.arange(length))
    asked = []

    class Counting:
        stack = staticmethod(np.stack)

        def unstack(self, x):
            asked.append(len(x))
            return list(x)

    def step(state, slices):
        (row, number) = slices
        return (2 * state[0] % 7 + number,), (row + number,)

    (state,), (rows,) = control.scan(Counting(), step, (np.int64(1),), xs, reverse)
    assert sorted(asked) == [3, control.BLOCK, control.BLOCK]
    wanted = 1
    for number in xs[1][:: -1 if reverse else 1]:
        wanted = 2 * wanted % 7 + number
    assert state == wanted
    np.testing.assert_array_equal(rows, xs[0] + xs[1][:, None])


_STATE = """(float u) => (float w, float o) { w = Identity(u) m = Constant <value_floats = [1.0, 2.0]> ()
    o, q = Scan <num_scan_inputs = 1,
                 body = c (float p, float[] h) => (float v, float z) { v = OP z = Identity(h) }> (u, m) }"""
NONE = [  # bodies without a declared rank, and the shape of one of no rows
    ("(float u) => (float w, float o) { w = Identity(u) o = Neg(x) }", (0, 2, 0)),
    ("(float u) => (float w, float o) { w = Identity(u) o = MatMul(x, u) }", (0, 2, 3)),
    ("(float u) => (float w, float o) { w = Concat <axis = 0> (u, u) o = Identity(x) }", (0, 2, 0)),
    ("(float[2,3] u) => (float[2,3] u, float o) { o = Neg(u) }", (0, 2, 3)),
    ("""(float u) => (float w, float o) { w = Identity(u)
        o = If (g) <then_branch = a () => (float p) { p = MatMul(x, u) },
                    else_branch = b () => (float q) { q = Neg(x) }> }""",
     (0, 2, 0)),
    ("""(float u) => (float w, float o) { w = Identity(u)
        o = Loop (i, g) <body = c (int64 j, bool h) => (bool k, float v) { k = Identity(h) v = MatMul(x, u) }> }""",
     (0, 0, 2, 3)),
    ("""(float u) => (float w, float o) { w = Identity(u) m = Constant <value_floats = [1.0, 2.0]> ()
        p = Scan <num_scan_inputs = 1, scan_output_axes = [1],
                  body = c (float[] h) => (float v) { k = MatMul(x, u) v = Mul(k, h) }> (m)
        o = Transpose <perm = [2, 1, 0]> (p) }""", (0, 3, 2, 2)),
    (_STATE.replace("OP", "Neg(p)"), (0, 0, 3)),
    (_STATE.replace("OP", "Concat <axis = 1> (p, p)"), (0,)),
    ("(float u) => (float w, float o) { w = Identity(u) k = Squeeze(u) l = Shape(k) o = Cast <to = 1> (l) }", (0, 0)),
]  # fmt: skip


def _undeclared(text):
    """A model whose floats without brackets have no rank at all, rather than none of the axes."""
    model = parser.parse_model(text)
    graphs = [model.graph]
    for graph in graphs:
        graphs += [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type == 1 and not value.type.tensor_type.shape.dim:
                value.type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize(("body", "shape"), NONE)
def test_no_rows_of_a_loop_have_the_rank_that_follows(body, shape, level):
    body = body.replace("(float", "(int64 i, bool g, float", 1).replace("=> (", "=> (bool on, ", 1)
    model = _undeclared(f"""<ir_version: 8, opset_import: ["": 18]>
    g (int64 n, float[2,N] x, float[N,3] s) => (float t, float y) {{
      t, y = Loop (n, , s) <body = b {body.replace("{", "{ on = Identity(g) ", 1)}> }}""")
    options = ortlite.SessionOptions()
    options.graph_optimization_level = ortlite.GraphOptimizationLevel[level]
    session = ortlite.InferenceSession(model.SerializeToString(), options)
    feed = {"n": np.array(0), "x": np.ones((2, 2), np.float32), "s": np.ones((2, 3), np.float32)}
    for _ in range(3):
        assert session.run(["y"], feed)[0].shape == shape


@pytest.mark.parametrize("end", ["o) { w = Identity(u) o = Neg(r) }", "r) { w = Identity(u) }"])
def test_no_rows_of_a_scan_have_the_rank_of_its_slices(end):
    model = _undeclared(f"""<ir_version: 8, opset_import: ["": 18]>
    g (float[2] s, float[3,L,5] x) => (float t, float y) {{
      t, y = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [-1],
                   body = b (float u, float r) => (float w, float {end}> (s, x) }}""")
    feed = {"s": np.ones(2, np.float32), "x": np.ones((3, 0, 5), np.float32)}
    for provider in PROVIDERS:
        assert run_model(model, feed, provider)[1].shape == (3, 5, 0)


def test_scan_8_of_an_empty_batch():
    model = parser.parse_model("""<ir_version: 3, opset_import: ["": 8]>
    g (int64[B] n, float[B,2] s, float[B,L,3] x) => (float[B,2] t, float[B,L,3] y) {
      t, y = Scan <num_scan_inputs = 1,
        body = b (float[2] u, float[3] r) => (float[2] w, float[3] o) { w = Neg(u) o = Neg(r) }> (n, s, x) }""")
    feed = {"n": np.zeros(0, np.int64), "s": np.zeros((0, 2), np.float32), "x": np.zeros((0, 4, 3), np.float32)}
    for provider in PROVIDERS:
        assert [y.shape for y in run_model(model, feed, provider)] == [(0, 2), (0, 4, 3)]


def test_a_row_declared_as_an_output_alone():
    model = _undeclared("""<ir_version: 8, opset_import: ["": 18]> g (float[2] s, float x) => (float t, float y) {
      t, y = Scan <num_scan_inputs = 1,
                   body = b (float u, float r) => (float w, float[3,5] r) { w = Identity(u) }> (s, x) }""")
    feed = {"s": np.ones(2, np.float32), "x": np.ones((0, 3, 5), np.float32)}
    for provider in PROVIDERS:
        assert run_model(model, feed, provider)[1].shape == (0, 3, 5)
