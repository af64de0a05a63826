"""Contiguous partitions, and the regions of a specialised program that go to a library's compiler."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from onnx import numpy_helper, parser

from ortlite import load, pipeline
from ortlite.errors import Fail
from ortlite.partition import partition
from ortlite.plan import Transfer, plan
from ortlite.provider import Compiler, create
from ortlite.signatures import KEPT
from ortlite_strict import StrictExecutionProvider

CPU, STRICT = "CPUExecutionProvider", "StrictExecutionProvider"
HEAD = '<ir_version: 8, opset_import: ["": 20]> '


class Compiling(StrictExecutionProvider):
    """array-api-strict with a compiler: it notes what it is given, and what the compiled functions are called with."""

    name = "Compiling"

    def __init__(self):
        super().__init__()
        self.given, self.calls = [], []

    @property
    def compiler(self):
        return Noting(self)


class Noting(Compiler):
    def __init__(self, provider):
        self.provider = provider

    def compile(self, fn):
        self.provider.given.append(fn)

        def compiled(*arrays):
            self.provider.calls.append(arrays)
            return fn(*arrays)

        return compiled


def model(text, **constants):
    proto = parser.parse_model(HEAD + text)
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items())
    return load.load(proto.SerializeToString())


def run(stages, provider, *inputs, times=3):
    for _ in range(times):
        results = stages.program([provider.from_numpy(x) for x in inputs])
    return results


X = np.array([[1, -2, 3], [4, -5, 6]], np.float32)


def test_more_shapes_than_are_kept_are_not_compiled_again_and_again():
    provider = Compiling()
    stages = pipeline.build(model("g (float[N] x) => (float[N] y) { a = Abs(x)  y = Neg(a) }"), [provider, create(CPU)])
    for _ in range(10):
        for size in range(1, KEPT + 4):
            (y,) = run(stages, provider, np.ones(size, np.float32), times=1)
            assert y.tolist() == [-1] * size
    assert len(provider.given) == KEPT


def test_a_graph_of_one_library_is_one_region():
    provider = Compiling()
    stages = pipeline.build(
        model("""g (float[A, B] x) => (float[C] y, float[A, B] z) {
            s = Shape(x)  n = ReduceProd <keepdims = 1> (s)
            a = Abs(x)  b = Mul(a, w)  y = Reshape(b, n)  z = Neg(a) }""",
              w=np.float32(2)),
        [provider, create(CPU)],
    )  # fmt: skip
    y, z = run(stages, provider, X)
    np.testing.assert_array_equal(y, np.abs(X).reshape(-1) * 2)
    np.testing.assert_array_equal(z, -np.abs(X))
    assert len(provider.given) == 1  # shape arithmetic was baked in
    assert [len(arrays) for arrays in provider.calls] == [2, 2]  # x, and the constant w as an argument


def test_within_a_region_an_override_leaves_to_the_kernel_what_it_cannot_do():
    asked = []

    class Overriding(Compiling):
        @property
        def overrides(self):
            return {("", "Softmax", 13): softmax, ("", "Dropout", 12): dropout}

    def softmax(xp, input, *, axis=-1):
        asked.append("Softmax")
        return xp.zeros_like(input) if axis == 0 else NotImplemented

    def dropout(xp, data, *args, **rest):
        asked.append("Dropout")
        return NotImplemented

    provider = Overriding()
    stages = pipeline.build(
        model("""g (float[A, B] x) => (float[A, B] y, float[A, B] z) {
            a = Abs(x)  b = Softmax <axis = 0> (a)  d, m = Dropout(a)  c = Softmax(d)  y = Neg(c)  z = Exp(b) }"""),
        [provider, create(CPU)],
        disabled={"EliminateDropout"},
    )  # fmt: skip
    y, z = run(stages, provider, X, times=4)
    e = np.exp(np.abs(X))
    np.testing.assert_allclose(np.asarray(y), -e / e.sum(1, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(z), np.ones_like(X))
    assert len(provider.calls) >= 2
    assert set(asked) == {"Softmax", "Dropout"}


def test_what_needs_values_stands_between_regions():
    provider = Compiling()
    stages = pipeline.build(
        model("""g (float[A, B] x) => (int64[R, N] y, float[A, B] z) {
            a = Abs(x)  b = Floor(a)  n = NonZero(b)  y = Neg(n)  z = Sqrt(a) }"""),
        [provider, create(CPU)],
    )  # fmt: skip
    y, z = run(stages, provider, X)
    np.testing.assert_array_equal(y, -np.stack(np.nonzero(X)))
    np.testing.assert_allclose(z, np.sqrt(np.abs(X)))
    names = [fn.__code__.co_varnames for fn in provider.given]
    assert len(names) == 2  # NonZero's shape depends on values


def test_an_error_within_a_region_names_the_node():
    provider = Compiling()
    stages = pipeline.build(
        model("g (float[A, B] x, float[C] k) => (float[A, B] y) { a = Abs(x)  [culprit] b = Add(a, k)  y = Neg(b) }"),
        [provider, create(CPU)],
    )
    good, bad = np.ones(3, np.float32), np.ones(4, np.float32)
    run(stages, provider, X, good)
    (fast,) = (entry.function for entry in stages.program._signatures.entries.values())
    with pytest.raises(Fail, match=r"(?s)'culprit'.*a: .*float32\[2, 3\], k: .*float32\[4\]"):
        fast(provider.from_numpy(X), provider.from_numpy(bad))


def test_neighbours_of_one_provider_stand_together():
    # a comb: every other node is pinned, but no chain runs through both kinds
    lines = "".join(f"a{i + 1} = Abs(a{i})  b{i + 1} = Neg(b{i})  " for i in range(20))
    graph = model(f"g (float[3] a0, float[3] b0) => (float[3] y) {{ {lines} y = Add(a20, b20) }}").graph
    pinned = {f"b{i + 1}": CPU for i in range(20)}
    parts = partition(graph, [create(STRICT), create(CPU)], pinned=pinned)
    where = [place.provider for place in parts.placements]
    assert sum(a != b for a, b in pairwise(where)) == 2
    steps = plan(parts).steps
    assert sum(isinstance(step, Transfer) for step in steps) == 2  # b20 over, y back


def test_the_order_respects_what_nodes_need():
    rng = np.random.default_rng(0)
    for _ in range(20):
        names, lines, pinned = ["x"], [], {}
        for i in range(30):
            a, b = rng.choice(names, 2)
            lines.append(f"v{i} = Add({a}, {b})")
            names.append(f"v{i}")
            if rng.random() < 0.5:
                pinned[f"v{i}"] = CPU
        graph = model(f"g (float[3] x) => (float[3] v29) {{ {' '.join(lines)} }}").graph
        parts = partition(graph, [create(STRICT), create(CPU)], pinned=pinned)
        seen = {"x"}
        for node, place in zip(parts.graph.nodes, parts.placements, strict=True):
            assert seen.issuperset(node.reads())
            assert (place.provider == 1) == (node.outputs[0] in pinned)
            seen.update(node.outputs)
        assert len(parts.graph.nodes) == 30


def test_a_branch_that_one_provider_cannot_run_is_partitioned_too():
    graph = model("""g (bool c, float[N] x, string[N] s) => (float[N] y, string[N] t) {
        y, t = If (c) <then_branch = p () => (float[N] a, string[N] u) { a = Abs(x)  u = StringConcat(s, s) },
                       else_branch = q () => (float[N] b, string[N] v) { b = Neg(x)  v = Identity(s) }> }""").graph
    parts = partition(graph, [create(STRICT), create(CPU)])
    inner = next(part for (_, branch), part in parts.subgraphs.items() if branch == "then_branch")
    where = {node.op_type: place.provider for node, place in zip(inner.graph.nodes, inner.placements, strict=True)}
    assert where == {"StringConcat": 1, "Abs": 0}
