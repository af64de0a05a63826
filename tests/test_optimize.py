"""The passes one by one, and that loading costs as much per node in a large model as in a small one."""

from __future__ import annotations

import math
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from onnx import numpy_helper, parser

import ortlite
from benchmarks.scaling import SHAPES
from ortlite import load, pipeline
from ortlite.optimize import optimize
from ortlite.optimize.fold_constants import fold_constants
from ortlite.optimize.identity import remove_identities
from ortlite.optimize.inline_if import inline_constant_if
from ortlite.partition import partition
from ortlite.plan import plan
from ortlite.provider import create

CPU = "CPUExecutionProvider"
HEAD = '<ir_version: 9, opset_import: ["": 20, "com.microsoft": 1]> '


def model(text, **constants):
    proto = parser.parse_model(HEAD + text)
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items())
    return load.load(proto.SerializeToString())


def operators(graph):
    return [node.op_type for node in graph.nodes]


def run(loaded, *inputs):
    return pipeline.build(loaded, [create(CPU)]).program([np.asarray(x, np.float32) for x in inputs])


def calls(fn):
    """How many calls of Python functions and of functions written in C `fn` makes."""
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        fn()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if not shape.runs])
def test_loading_is_linear(name):
    shape = SHAPES[name]
    n = min(shape.n, 40)
    small, large = (shape.build(size).SerializeToString() for size in (n, 4 * n))
    ortlite.InferenceSession(large, providers=[CPU])  # what is computed once a process
    few, many = (calls(lambda data=data: ortlite.InferenceSession(data, providers=[CPU])) for data in (small, large))
    assert math.log(many / few, 4) < 1.3, (few, many)


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.runs])
def test_running_is_linear(name):
    shape = SHAPES[name]
    session = ortlite.InferenceSession(shape.build(1).SerializeToString(), providers=[CPU])
    for n in (40, 160):  # what is counted is the second run of each: the one that specialises
        session.run(None, shape.feed(n))
    few, many = (calls(lambda n=n: session.run(None, shape.feed(n))) for n in (40, 160))
    assert math.log(many / few, 4) < 1.3, (few, many)


def test_what_copies_whole_tables_is_linear_too():
    """A subgraph gets what it captures of the tables around it, not the tables: calls do not count what is copied."""
    graph = load.load(SHAPES["captures of many branches"].build(60).SerializeToString()).graph
    parts = partition(graph, [create(CPU)])
    assert all(len(part.locations) <= 4 for part in parts.subgraphs.values())
    assert len(plan(parts).steps) == 60 + 60 + 1


def test_a_producer_takes_the_name_of_the_output():
    g = model("""g (float[2] x) => (float[2] y, float[2] z, float[2] u) {
        a = Relu(x)  b = Neg(a)  y = Identity(a)  c = Identity(a)  z = Identity(c)  u = Add(b, c) }""")
    done = remove_identities(g.graph)
    assert [str(node) for node in done.nodes] == ["y = Relu(x)", "b = Neg(y)", "z = Identity(y)", "u = Add(b, y)"]
    assert [v.tolist() for v in run(g, [-1, 2])] == [[0, 2], [0, 2], [0, 0]]


BRANCHES = """y = If (c) <then_branch = t () => (float[2] p) { %s },
                        else_branch = e () => (float[2] q) { q = Neg(a) }>"""


def test_branches_read_the_new_names():
    g = model(
        "g (float[2] x, bool c) => (float[2] y, float[2] z) { k = Relu(x)  a = Identity(k)  "
        + BRANCHES % "i = Identity(a)  j = Add(i, a)  p = Identity(j)"
        + " z = Identity(k) }"
    )
    done = remove_identities(g.graph)
    assert operators(done) == ["Relu", "If"]
    branches = done.nodes[1].subgraphs
    assert [str(node) for node in branches["then_branch"].nodes] == ["p = Add(z, z)"]
    assert done.nodes[1].captures == branches["else_branch"].captures == ("z",)
    program = pipeline.build(g, [create(CPU)]).program
    for c in (True, False):
        y, z = program([np.array([-1, 2], np.float32), np.array(c)])
        assert y.tolist() == ([0, 4] if c else [0, -2])
        assert z.tolist() == [0, 2]


def test_a_branch_that_hands_out_what_is_around_it_reads_the_new_name():
    g = model("""g (float[2] x, bool c) => (float[2] y, float[2] z) {
        k = Relu(x)  a = Identity(k)
        y = If (c) <then_branch = t () => (float[2] a) {}, else_branch = e () => (float[2] q) { q = Neg(a) }>
        z = Identity(k) }""")
    y, _ = pipeline.build(g, [create(CPU)]).program([np.array([-1, 2], np.float32), np.array(True)])
    assert y.tolist() == [0, 2]


def test_a_name_that_a_branch_defines_is_not_given_to_what_it_reads():
    g = model(
        "g (float[2] x, bool c) => (float[2] y, float[2] z) { a = Relu(x)  "
        + BRANCHES % "z = Neg(a)  p = Add(z, a)"
        + " z = Identity(a) }"
    )
    y, z = pipeline.build(g, [create(CPU)]).program([np.array([-1, 2], np.float32), np.array(True)])
    assert y.tolist() == [0, 0]
    assert z.tolist() == [0, 2]


def test_an_if_in_the_branch_taken_is_inlined_too():
    inner = BRANCHES % "p = Abs(a)"
    around = """g (float[2] a) => (float[2] w) {
        w = If (c) <then_branch = o () => (float[2] y) %s, else_branch = n () => (float[2] r) { r = Exp(a) }> }"""
    g = model(around % f"{{ {inner} }}", c=np.array(True))
    outer = model(around % f"<bool d = {{1}}> {{ {inner.replace('(c)', '(d)')} }}", c=np.array(True))
    for each in (g, outer):
        assert operators(optimize(inline_constant_if(each.graph))) == ["Abs"]
        assert run(each, [-1, 2])[0].tolist() == [1, 2]


def folding(body, **constants):
    return model("g (float[1] x) => (float[?] y) { " + body + " }", **constants)


def test_only_what_the_rest_reads_becomes_a_constant():
    g = folding("a = Neg(k)  b = Exp(a)  c = Abs(b)  bad = Gather(c, n)  d = Neg(c)  y = Sum(x, d, bad)",
                k=np.ones(2, np.float32), n=np.array([7]))  # fmt: skip
    done = fold_constants(g.graph)
    assert operators(done) == ["Gather", "Sum"]
    assert set(done.constants) == {"k", "n", "c", "d"}
    assert done.types["d"].shape == (2,)


def test_what_fails_does_not_start_folding_again(monkeypatch):
    runs = []
    module = sys.modules[fold_constants.__module__]
    monkeypatch.setattr(module, "evaluate", lambda *a, real=module.evaluate, **k: runs.append(1) or real(*a, **k))
    bad = " ".join(f"f{i} = Gather(k, n)" for i in range(5))
    g = folding(f"{bad}  a = Neg(k)  y = Sum(x, a, f0, f1, f2, f3, f4)", k=np.ones(2, np.float32), n=np.array([7]))
    assert operators(fold_constants(g.graph)) == ["Gather"] * 5 + ["Sum"]
    assert runs == [1]


def test_dead_code_is_not_folded():
    g = folding("dead = Neg(k)  y = Relu(x)", k=np.ones(2, np.float32))
    ran = calls_of("Neg", lambda: optimize(g.graph))
    assert ran == 0


def calls_of(op_type, fn):
    """How often `fn` runs the kernel of an operator."""
    from ortlite.ops import registry

    code = registry.lookup("", op_type, 20).fn.__code__
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event == "call" and frame.f_code is code

    sys.setprofile(profile)
    try:
        fn()
    finally:
        sys.setprofile(None)
    return count


def test_a_chain_is_folded_without_holding_it():
    w = np.ones(1 << 20, np.float32)
    g = folding(" ".join(f"v{i + 1} = Neg({f'v{i}' if i else 'w'})" for i in range(12)) + " y = Add(x, v12)", w=w)
    assert calls_of("Neg", lambda: fold_constants(g.graph)) == 12
    tracemalloc.start()
    done = fold_constants(g.graph)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert operators(done) == ["Add"]
    assert peak < 3 * w.nbytes


BIG, ONE = np.array([1 << 16, 1 << 16]), np.ones((1, 1), np.float32)
DOUBLES = "z0 = Neg(k) " + " ".join(f"z{i + 1} = Concat<axis = 0>(z{i}, z{i})" for i in range(40)) + " z = Neg(z40)"
MANY = " ".join(f"z{i} = ConstantOfShape(row)" for i in range(99))
MANY += f" z = Sum({', '.join(f'z{i}' for i in range(99))})"
BOMBS = {
    "Expand": "z = Expand(k, n)",
    "ConstantOfShape": "z = ConstantOfShape(n)",
    "Tile": "z = Tile(k, n)",
    "Range": "i = Range(zero, many, one)  z = Cast<to = 1>(i)",
    "Pad": "z = Pad(k, pads)",
    "OneHot": "z = OneHot(zero, many, values)",
    "Resize": "z = Resize(k, , , n)",
    "broadcast": "a = Expand(k, row)  b = Transpose(a)  z = Add(a, b)",
    "product": "a = Expand(k, row)  b = Transpose(a)  z = MatMul(b, a)",
    "Gather": "a = Expand(k, row)  i = ConstantOfShape <value = int64[1] {0}> (row)  z = Gather(a, i)",
    "window": "z = HannWindow(many)",
    "EyeLike": "a = ConstantOfShape(n)  z = EyeLike(a)",
    "Concat": DOUBLES,
    "many": MANY,
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_of_constants_is_left_to_run_time(name):
    constants = {"k": ONE, "n": BIG, "row": np.array([1, 1 << 18]), "zero": np.array(0), "one": np.array(1),
                 "many": np.array(1 << 34), "pads": np.array([1 << 16] * 4),
                 "values": np.zeros(2, np.float32)}  # fmt: skip
    g = folding(BOMBS[name] + "  y = Add(x, z)", **constants)
    optimize(g.graph)
    tracemalloc.start()
    done = optimize(g.graph)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "Add" in operators(done)
    assert len(done.nodes) > 1
    assert sum(value.nbytes for value in done.constants.values()) < 5 << 20
    assert peak < 1 << 24


def test_branches_share_one_budget():
    branches = " ".join(
        f"z{i} = If (c) <then_branch = t () => (float[?] p{i}) {{ p{i} = ConstantOfShape(row) }},"
        f" else_branch = e () => (float[?] q{i}) {{ q{i} = Neg(x) }}>"
        for i in range(20)
    )
    total = ", ".join(f"z{i}" for i in range(20))
    g = model(f"g (float[1] x, bool c) => (float[?] y) {{ {branches} y = Sum({total}) }}", row=np.array([1 << 18]))
    done = optimize(g.graph)
    kept = [part.constants for node in done.nodes for part in node.subgraphs.values()]
    assert sum(value.nbytes for constants in kept for value in constants.values()) == 1 << 22


def test_long_work_on_little_memory_is_left_to_run_time():
    """One mebibyte at a time, a thousand times."""
    steps = " ".join(f"v{i + 1} = Neg(v{i})" for i in range(1000))
    g = folding(f"v0 = ConstantOfShape(row)  {steps}  y = Add(x, v1000)", row=np.array([1 << 18]))
    assert 10 < calls_of("Neg", lambda: fold_constants(g.graph)) < 100


def test_narrow_constants_keep_their_dtype():
    k = np.array([1.5, 3], ml_dtypes.bfloat16)
    g = folding("a = Mul(k, k)  b = Add(a, k)  bad = Gather(b, n)  c = Cast<to = 1>(bad)  y = Add(x, c)",
                k=k, n=np.array([7]))  # fmt: skip
    done = fold_constants(g.graph)
    assert operators(done) == ["Gather", "Cast", "Add"]
    assert done.constants["b"].dtype == ml_dtypes.bfloat16
    assert done.constants["b"].tolist() == [3.75, 12]


def test_text_is_left_to_run_time():
    """A string doubles at each step, and the array that holds it does not."""
    steps = " ".join(f"s{i + 1} = StringConcat(s{i}, s{i})" for i in range(40))
    g = model(f"g (float[1] x) => (string[1] s40) {{ {steps} }}", s0=np.array(["ab"], object))
    assert len(optimize(g.graph).nodes) == 40


def test_what_chooses_among_elements_is_folded():
    g = folding("o = ConstantOfShape(n)  i = NonZero(o)  t = Transpose(i)  c = Cast<to = 1>(t)  y = Sub(x, c)",
                n=np.array([3]))  # fmt: skip
    assert operators(optimize(g.graph)) == ["Sub"]
