"""The stages between loading and running: what each makes of a small model."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

import ortlite
from ortlite import compile as compile_
from ortlite import load, pipeline, run, specialise
from ortlite.compile import Shared
from ortlite.optimize import ALL, BASIC, DISABLED, optimize
from ortlite.partition import partition
from ortlite.plan import Call, Host, Transfer, plan
from ortlite.provider import create
from ortlite.signatures import KEPT, SEEN, SHARE, Budget
from ortlite_strict import StrictExecutionProvider

CPU = "CPUExecutionProvider"
STRICT = "StrictExecutionProvider"
HEAD = '<ir_version: 8, opset_import: ["": 18]> '
UNFOLDED = ("ShapeFolding", "ReshapeFusion")  # the optimiser sees that `SHAPES` flattens
SHAPES = (
    HEAD
    + """g (float[A, B] x) => (float[C] y) {
    s = Shape(x)  a = Gather <axis = 0> (s, zero)  b = Gather <axis = 0> (s, one)  n = Mul(a, b)
    u = Unsqueeze(n, zero1)  t = Relu(x)  y = Reshape(t, u) }"""
)


def graph(text, **constants):
    proto = parser.parse_model(text)
    from onnx import numpy_helper

    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items())
    return load.load(proto.SerializeToString())


def shapes():
    return graph(SHAPES, zero=np.int64(0), one=np.int64(1), zero1=np.array([0]))


def test_every_stage_prints():
    stages = pipeline.build(shapes(), [create(STRICT), create(CPU)], disabled=UNFOLDED)
    for stage in (stages.model, stages.partitions, stages.plan, stages.program):
        assert "g" in str(stage)
    assert "CPU host" in str(stages.partitions)
    assert "free" in str(stages.plan)


def test_constants_are_folded_and_dead_code_removed():
    g = graph(
        HEAD
        + """g (float[2] x) => (float[2] y) { a = Add(k, k)  b = Mul(a, k)  dead = Exp(x)
        i = Identity(x)  y = Add(i, b) }""",
        k=np.array([1, 2], np.float32),
    ).graph
    assert [n.op_type for n in optimize(g, ALL).nodes] == ["Add"]
    assert [n.op_type for n in optimize(g, BASIC).nodes] == ["Add"]
    assert len(optimize(g, DISABLED).nodes) == 5
    assert [n.op_type for n in optimize(g, ALL, {"EliminateDeadCode"}).nodes] == ["Exp", "Add"]
    folded = optimize(g, ALL)
    assert folded.constants["b"].tolist() == [2, 8]
    assert set(folded.constants) == {"b"}


def test_folding_does_not_make_a_small_file_large():
    g = graph(
        HEAD + "g (float[1] x) => (float[?] y) { big = ConstantOfShape(n)  y = Add(big, x) }", n=np.array([10_000_000])
    ).graph
    assert "ConstantOfShape" in {n.op_type for n in optimize(g).nodes}


def test_a_node_that_cannot_be_folded_fails_when_it_runs():
    g = graph(
        HEAD + "g (float[1] x) => (float[?] y) { m = Abs(n)  [bad] r = Reshape(k, m)  y = Add(r, x) }",
        n=np.array([5]),
        k=np.ones(2, np.float32),
    )
    stages = pipeline.build(g, [create(CPU)])
    with pytest.raises(ortlite.errors.Fail, match="'bad'"):
        stages.program([np.ones(1, np.float32)])


def test_an_overridable_initializer_is_not_folded():
    proto = parser.parse_model(HEAD + "g (float[2] x, float[2] k) => (float[2] y) { a = Add(k, k)  y = Add(a, x) }")
    from onnx import numpy_helper

    proto.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "k"))
    assert len(optimize(load.load(proto.SerializeToString()).graph).nodes) == 2


def test_an_if_with_a_constant_condition_is_inlined():
    g = graph(
        HEAD
        + """g (float[N] x) => (float[N] y) {
        y = If (c) <then_branch = a () => (float[N] p) { t = Add(x, x)  p = Mul(t, x) },
                    else_branch = b () => (float[N] q) { q = Neg(x) }> }""",
        c=np.array(True),
    )
    assert [n.op_type for n in optimize(g.graph).nodes] == ["Add", "Mul"]
    assert pipeline.build(g, [create(CPU)]).program([np.array([3], np.float32)])[0].tolist() == [18]


def test_inlined_branches_of_nodes_with_one_name_stay_apart():
    branch = "then_branch = a () => (float[N] p) {{ p = {op}(x) }}, else_branch = b () => (float[N] q) {{ q = Neg(x) }}"
    ifs = " ".join(f"[same] {y} = If (c) <{branch.format(op=op)}>" for y, op in (("u", "Abs"), ("v", "Exp")))
    g = graph(HEAD + f"g (float[N] x) => (float[N] y) {{ {ifs} y = Sub(u, v) }}", c=np.array(True))
    (y,) = pipeline.build(g, [create(CPU)]).program([np.array([-2], np.float32)])
    np.testing.assert_allclose(y, 2 - np.exp(np.float32(-2)), rtol=1e-6)


def test_shape_arithmetic_is_host_and_costs_no_crossing():
    parts = partition(shapes().graph, [create(STRICT), create(CPU)])
    where = {n.op_type: (p.host, p.provider) for n, p in zip(parts.graph.nodes, parts.placements, strict=True)}
    assert where["Gather"] == where["Mul"] == where["Unsqueeze"] == (True, 1)
    assert where["Relu"] == where["Reshape"] == (False, 0)
    crossings = [s for s in plan(parts).steps if isinstance(s, Transfer)]
    assert [c.value for c in crossings] == ["y"]  # the model's output alone comes back


def test_shape_arithmetic_with_a_constant_without_a_type_is_host():
    """Optimising makes such constants: fused attention picks with one the axes that a shape goes to."""
    g = shapes().graph
    bare = g.with_nodes(g.nodes, types={name: type_ for name, type_ in g.types.items() if name not in g.constants})
    parts = partition(bare, [create(STRICT), create(CPU)])
    where = {n.op_type: p.host for n, p in zip(parts.graph.nodes, parts.placements, strict=True)}
    assert where["Gather"]
    assert not where["Reshape"]


def test_what_the_host_wants_is_computed_there_from_inputs_and_in_branches_too():
    g = graph(
        HEAD
        + """g (float[N, M] x, int64[2] least, bool c) => (float[A, B] y)
        {
          s = Shape(x)  more = Max(s, least)  missing = Sub(more, s)
          y = If (c) <then_branch = a () => (float[A, B] p) {
              rank = Shape(least)  before = ConstantOfShape<value = int64[1] {0}>(rank)
              pads = Concat<axis = 0>(before, missing)  p = Pad(x, pads) },
            else_branch = b () => (float[A, B] q) { q = Expand(x, more) }>
        }"""
    )
    parts = partition(g.graph, [create(STRICT), create(CPU)])
    host = {n.op_type for n, p in zip(parts.graph.nodes, parts.placements, strict=True) if p.host}
    assert host == {"Max", "Sub"}
    branch = parts.subgraphs[len(parts.graph.nodes) - 1, "then_branch"]
    where = {n.op_type: p.host for n, p in zip(branch.graph.nodes, branch.placements, strict=True)}
    assert where["ConstantOfShape"]
    assert where["Concat"]
    assert not where["Pad"]
    program = pipeline.build(g, [create(STRICT), create(CPU)]).program
    x = create(STRICT).from_numpy(np.ones((1, 2), np.float32))
    for _ in range(3):
        (padded,) = program([x, np.array([2, 3]), create(STRICT).from_numpy(np.array(True))])
        assert padded.tolist() == [[1, 1, 0], [0, 0, 0]]


def test_a_condition_that_the_host_knows_reaches_the_kernel_as_a_bool():
    g = graph(
        HEAD
        + """g (float[N] x) => (float[N] y) <int64 two = {2}> {
          n = Size(x)  c = Greater(n, two)
          y = If (c) <then_branch = a () => (float[N] p) { p = Neg(x) },
                      else_branch = b () => (float[N] q) { q = Abs(x) }>
        }"""
    )
    built = pipeline.build(g, [create(STRICT), create(CPU)])
    (call,) = (s for s in built.plan.steps if isinstance(s, Call) and s.node.op_type == "If")
    assert isinstance(call.arguments[0], Host)
    for values in ([1, -2], [1, -2, 3], [1, -2], [1, -2, 3]):
        (y,) = built.program([create(STRICT).from_numpy(np.array(values, np.float32))])
        assert y.tolist() == [-v if len(values) > 2 else abs(v) for v in values]


def test_a_cast_like_of_a_constant_is_folded_where_the_dtype_is_known():
    text = """g (float16[N] x) => (float16[N] y) <float k = {2}> { two = CastLike(k, x)  y = Mul(x, two) }"""
    folded = optimize(graph(HEAD.replace("18", "19") + text).graph)
    assert [n.op_type for n in folded.nodes] == ["Mul"]
    assert folded.constants["two"].dtype == np.float16
    kept = optimize(graph(HEAD + text).graph, ALL, {"CastLikeToCast"})
    assert [n.op_type for n in kept.nodes] == ["CastLike", "Mul"]


def test_specialised_programs_bake_shapes_in():
    program = pipeline.build(shapes(), [create(CPU)], disabled=UNFOLDED).program
    for size in ((2, 3), (2, 3), (2, 3), (4, 5), (2, 3)):
        x = np.arange(size[0] * size[1], dtype=np.float32).reshape(size) - 3
        np.testing.assert_array_equal(program([x])[0], np.maximum(x, 0).reshape(-1))
    assert len(program._signatures.entries) == 1  # (4, 5) came up only once
    (fast,) = (entry.function for entry in program._signatures.entries.values())
    assert "Shape" not in fast.source.__code__.co_names
    assert fast.source.__code__.co_consts.count((6,)) == 1


@pytest.fixture
def no_time(monkeypatch):
    """Nothing takes time: what is specialised depends on how often a signature comes up alone."""
    monkeypatch.setattr(compile_, "perf_counter", lambda: 0.0)
    monkeypatch.setattr(specialise, "perf_counter", lambda: 0.0)


@pytest.mark.usefixtures("no_time")
def test_a_program_specialises_on_the_values_of_host_inputs():
    program = pipeline.build(
        graph(HEAD + "g (float[N] x, int64[K] s) => (float[?, ?] y) { y = Reshape(x, s) }"), [create(CPU)]
    ).program
    x = np.arange(6, dtype=np.float32)
    for shape in ([2, 3], [2, 3], [3, 2], [2, 3], [3, 2], [3, 2]):
        assert program([x, np.array(shape)])[0].shape == tuple(shape)
    assert len(program._signatures.entries) == 2


def test_a_data_dependent_shape_is_not_baked_in():
    program = pipeline.build(
        graph(HEAD + "g (float[N] x) => (int64[1, M] i, int64[2] s) { i = NonZero(x)  s = Shape(i) }"), [create(CPU)]
    ).program
    for values in ([1, 0, 1], [1, 0, 1], [1, 0, 1], [0, 0, 1], [1, 1, 1]):
        i, s = program([np.array(values, np.float32)])
        assert i.tolist() == [list(np.flatnonzero(values))]
        assert s.tolist() == [1, sum(values)]


def branching(then):
    """An If that takes a branch by the length of its input, and what reads the shape of its result."""
    text = """g (float[N] x) => (float[?] y, int64[?] s) {
        d = Shape(x)  f = Squeeze(d)  long = Less(two, f)
        b = If (long) <then_branch = t () => (float[?] p) { THEN },
                       else_branch = e () => (float[?] q) { q = Neg(x) }>
        y = Abs(b)  s = Shape(b) }"""
    return pipeline.build(
        graph(HEAD + text.replace("THEN", then), two=np.int64(2), flat=np.array([-1])), [create(CPU)]
    ).program


@pytest.mark.parametrize(
    "then",
    ["p = Concat <axis = 0> (x, x)", "u = Concat <axis = 0> (d, d)  r = Expand(x, u)  p = Flatten <axis = 0> (r)"],
)
def test_the_shape_of_what_a_known_branch_gives_is_baked_in(then):
    program = branching(then)
    for x in ([1, -2, 3], [1, -2, 3], [1, -2], [1, -2], [-1, 2, 3]):
        y, s = program([np.array(x, np.float32)])
        many = 1 if len(x) < 3 else 2 if then.startswith("p") else 3
        np.testing.assert_array_equal(y.reshape(-1), np.abs(x * many))
        assert s.tolist() == list(y.shape)
    entry = next(iter(program._signatures.entries.values()))
    assert "Shape" not in entry.function.source.__code__.co_names
    assert len(entry.kernels) == 1  # what is done behind the branch is written out


def test_the_shape_that_values_give_in_a_known_branch_is_not_baked_in():
    program = branching("n = NonZero(x)  i = Reshape(n, flat)  p = Gather(x, i)")
    for x in ([1, -2, 3], [1, -2, 3], [1, -2, 3], [0, -2, 3], [0, 0, 3, 0], [1, 0, 0]):
        y, s = program([np.array(x, np.float32)])
        assert y.tolist() == [abs(v) for v in x if v]
        assert s.tolist() == [np.count_nonzero(x)]


def specialisations(monkeypatch):
    """Counts the functions that are generated from here on."""
    made = []
    generate = specialise.generate
    monkeypatch.setattr(specialise, "generate", lambda *args, **given: made.append(1) or generate(*args, **given))
    return made


@pytest.mark.parametrize("sizes", [KEPT, KEPT + 1, 3 * KEPT, 2 * SEEN])
@pytest.mark.parametrize("order", ["rotation", "random"])
def test_the_cache_of_signatures_does_not_thrash(sizes, order, monkeypatch):
    made = specialisations(monkeypatch)
    program = pipeline.build(graph(HEAD + "g (float[N] x) => (float[N] y) { y = Neg(x) }"), [create(CPU)]).program
    feeds = [np.ones(size, np.float32) for size in range(sizes)]
    random = np.random.default_rng(0)
    for _ in range(20):
        for index in range(sizes) if order == "rotation" else random.permutation(sizes):
            x = feeds[index]
            np.testing.assert_array_equal(program([x])[0], -x)
    assert len(program._signatures.entries) <= KEPT
    assert len(made) <= 2 * KEPT


@pytest.mark.usefixtures("no_time")
def test_new_shapes_take_the_place_of_those_that_come_no_more(monkeypatch):
    made = specialisations(monkeypatch)
    program = pipeline.build(graph(HEAD + "g (float[N] x) => (float[N] y) { y = Neg(x) }"), [create(CPU)]).program
    for phase in range(3):
        for _ in range(2 * SEEN):
            for size in range(KEPT):
                program([np.ones(100 * phase + size, np.float32)])
        kept = {key[0][1][0] for key in program._signatures.entries}
        assert kept == {100 * phase + size for size in range(KEPT)}
    assert len(made) == 3 * KEPT + 1  # and one for all that have none


class Clock:
    """Interpreting takes 1 s a run, and making a function `cost`; the time is what was spent on both."""

    def __init__(self, monkeypatch, cost):
        self.now, self.spent, self.functions = 0.0, 0.0, 0
        interpret, generate, any_shape = run.interpret, specialise.generate, compile_._Any.__call__

        def running(*args):
            self.now += 1.0
            return interpret(*args)

        def for_any_shape(function, *inputs):
            began = self.now
            results = any_shape(function, *inputs)
            self.now = began + 1.0  # by the loop or by code
            return results

        def making(plan, steps, values, *rest, **given):
            if rest:  # not the function for all shapes
                self.now, self.spent, self.functions = self.now + cost, self.spent + cost, self.functions + 1
            return generate(plan, steps, values, *rest, **given)

        monkeypatch.setattr(run, "interpret", running)
        monkeypatch.setattr(specialise, "generate", making)
        monkeypatch.setattr(compile_._Any, "__call__", for_any_shape)
        for module in (compile_, specialise):
            monkeypatch.setattr(module, "perf_counter", lambda: self.now)


GROWING = """
g (float[1, N] x, float[1, M] past) => (float[1, K] present, float[1] total) {
    present = Concat<axis = 1>(past, x)
    axes = Constant<value = int64[1] {1}>()
    total = ReduceSum<keepdims = 0>(present, axes)
}
"""
ORDERS = {
    "growing": lambda n: [*range(n)] * 6,
    "twice each": lambda n: [size for size in range(n) for _ in range(2)],
    "up and down": lambda n: [*range(n), *reversed(range(n))] * 3,
    "random": lambda n: np.random.default_rng(0).integers(0, n, 6 * n).tolist(),
    "a few": lambda n: [*range(3)] * n,
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("cost", [0.5, 5.0, 50.0])
def test_specialising_takes_no_more_than_its_share_of_the_time(order, cost, monkeypatch):
    clock = Clock(monkeypatch, cost)
    program = pipeline.build(graph(HEAD + GROWING), [create(CPU)]).program
    for size in ORDERS[order](64):
        past = np.arange(size, dtype=np.float32)[None]
        present, total = program([np.ones((1, 1), np.float32), past])
        np.testing.assert_array_equal(present, np.append(past, np.float32(1))[None])
        assert total.tolist() == [past.sum() + 1]
        assert clock.spent <= cost + SHARE * clock.now  # the first function is made before anything is known
    assert clock.functions >= 1
    if cost == 50.0:
        assert clock.functions == 1  # 384 runs of a second do not pay for another


def test_a_signature_whose_runs_took_as_long_as_a_function_gets_one(monkeypatch):
    clock = Clock(monkeypatch, 5.0)
    program = pipeline.build(graph(HEAD + "g (float[N] x) => (float[N] y) { y = Neg(x) }"), [create(CPU)]).program
    program([np.ones(1, np.float32)])
    program([np.ones(1, np.float32)])
    assert clock.functions == 1  # at once: most programs have one signature
    for _ in range(200):
        program([np.ones(2, np.float32)])
    assert clock.functions == 2
    assert program._signatures.runs == 1 + 124  # 125 s of runs pay for two functions of 5 s at 0.08
    program([np.ones(3, np.float32)])
    program([np.ones(3, np.float32)])
    assert clock.functions == 2  # two runs of a second are less than 5 s


def test_a_short_session_of_growing_lengths_makes_no_function(monkeypatch):
    clock = Clock(monkeypatch, 5.0)
    program = pipeline.build(graph(HEAD + "g (float[N] x) => (float[N] y) { y = Neg(x) }"), [create(CPU)]).program
    for size in [*range(40)] * 2:
        program([np.ones(size, np.float32)])
    assert clock.functions == 0


def test_growing_lengths_give_what_a_fresh_program_gives():
    model = graph(HEAD + GROWING)
    kept = pipeline.build(model, [create(CPU)]).program
    for _ in range(3):
        past = np.zeros((1, 0), np.float32)
        for step in range(40):
            feed = [np.full((1, 1 + step % 2), step / 7, np.float32), past]
            found = kept(feed)
            for array, wanted in zip(found, pipeline.build(model, [create(CPU)]).program(feed), strict=True):
                np.testing.assert_array_equal(array, wanted)
            past = found[0]


@pytest.mark.usefixtures("no_time")
def test_baked_values_keep_within_the_budget_of_a_session():
    text = HEAD + "g (float[N] x) => (float[?] y) { s = Shape(x)  c = ConstantOfShape(s)  y = Neg(c) }"
    budget = Budget(50_000)
    program = pipeline.build(graph(text), [create(CPU)], shared=Shared(budget)).program
    for size in range(1000, 1000 + 2 * KEPT):
        for _ in range(3):
            y = program([np.zeros(size, np.float32)])[0]
            assert y.shape == (size,)
            assert not y.any()
    held = sum(entry.bytes for entry in program._signatures.entries.values())
    assert 0 < held <= 50_000
    assert budget.left == 50_000 - held


def test_sequences_are_part_of_a_signature_while_they_are_short():
    program = pipeline.build(graph(HEAD + "g (float[N] x) => (float[N] y) { y = Neg(x) }"), [create(CPU)]).program
    x = np.ones(2, np.float32)
    assert program.signature([(x, x)]) == program.signature([(x, -x)]) != program.signature([(x,)])
    assert program.signature([(x,) * 1000]) is None


LOOP = (
    HEAD
    + """g (int64 n, float[N] x, float w) => (float[N] y, float[?, N] all) {
    c = Constant <value = bool {1}> ()
    y, all = Loop (n, c, x) <body = b (int64 i, bool go, float[N] s) => (bool on, float[N] t, float[N] o)
      { on = Identity(go)  t = Mul(s, w)  o = Identity(t) }> }"""
)


@pytest.mark.parametrize("provider", [CPU, STRICT])
def test_loop_with_captures_and_scan_outputs(provider):
    program = pipeline.build(graph(LOOP), [create(provider)] + [create(CPU)] * (provider != CPU))
    session = ortlite.InferenceSession(parser.parse_model(LOOP).SerializeToString(), providers=[provider])
    x, w = np.array([1, 3], np.float32), np.array(2, np.float32)
    for trips in (3, 3, 3, 1, 0):
        y, everything = session.run(None, {"n": np.array(trips), "x": x, "w": w})
        np.testing.assert_array_equal(y, x * 2**trips)
        assert everything.shape == ((trips, 2) if trips else (0, 0))
        np.testing.assert_array_equal(everything[-1:], y[None] if trips else np.zeros((0, 0)))
    assert "body" in str(program.plan)


def test_results_do_not_depend_on_the_optimisation_level():
    x = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)
    results = [pipeline.build(shapes(), [create(CPU)], level=level).program([x])[0] for level in (DISABLED, BASIC, ALL)]
    for result in results:
        np.testing.assert_array_equal(result, np.maximum(x, 0).reshape(-1))


def test_random_operators_follow_the_seed():
    text = (
        HEAD
        + """g () => (float[4] a, float[4] b) {
        a = RandomNormal <shape = [4]> ()  b = RandomNormal <shape = [4], seed = 1.0> () }"""
    )
    runs = [pipeline.build(graph(text), [create(CPU)], seed=7).program for _ in range(2)]
    first, second = (run([]) for run in runs)
    again = runs[0]([])
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[0], again[0])
    assert not np.array_equal(first[1], again[1])
    other = pipeline.build(graph(text), [create(CPU)], seed=8).program([])
    assert not np.array_equal(first[0], other[0])
    np.testing.assert_array_equal(first[1], other[1])


def test_the_length_of_a_range_follows_its_start():
    g = graph(
        HEAD + "g (int64 x) => (int64[1] n) { r = Range(x, ten, one)  n = Shape(r) }", ten=np.int64(10), one=np.int64(1)
    )
    program = pipeline.build(g, [create(CPU)]).program
    assert [program([np.asarray(start)])[0].tolist() for start in range(5)] == [[10], [9], [8], [7], [6]]


def test_a_plan_does_not_change_when_it_runs():
    """What transfers were like is noted beside the bound steps, not in the plan."""
    from ortlite.plan import Transfer

    assert "stats" not in Transfer._fields


def test_a_lazy_library_settles_what_a_session_keeps():
    """Constants that follow from shapes are computed before later runs, perhaps of other threads, read them."""
    settled = []

    class Lazy(StrictExecutionProvider):
        def settle(self, arrays):
            settled.extend(arrays)

    text = (
        HEAD
        + """g (float[N] x) => (float[N] y) {
        shape = Shape(x)
        twos = ConstantOfShape <value = float[1] {2.0}> (shape)
        roots = Sqrt(twos)
        y = Mul(x, roots)
    }"""
    )
    program = pipeline.build(graph(text), [Lazy(), create(CPU)]).program
    for _ in range(SEEN + 2):
        (y,) = program([create(STRICT).from_numpy(np.ones(3, np.float32))])
    np.testing.assert_allclose(np.from_dlpack(y), [2**0.5] * 3, rtol=1e-6)
    assert 1.414214 in {round(float(v), 6) for array in settled for v in np.from_dlpack(array)}


def test_weights_are_settled_before_anything_runs():
    """The first run may be on another thread or stream than the one that carried them to the device."""
    settled = []

    class Lazy(StrictExecutionProvider):
        def settle(self, arrays):
            settled.extend(arrays)

    text = HEAD + "g (float[N] x) => (float[N] y) <float w = {2.5}> { y = Mul(x, w) }"
    pipeline.build(graph(text), [Lazy(), create(CPU)])
    assert [float(array) for array in settled] == [2.5]
