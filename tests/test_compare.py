"""`ortlite compare`: differences, the float64 judge, and reducing a model to what shows a difference."""

from __future__ import annotations

import io
import re
import shlex
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper, parser
from rich.console import Console

import ortlite
from ortlite import evaluate, load, plan, provider
from ortlite.cli import main
from ortlite.cli.compare import compare_model, show
from ortlite.compare import ProviderSide, Tolerance, compare, difference, judge, reduce
from ortlite.compare.difference import BLOCK, furthest, ulps
from ortlite.compare.reference import SecondJudge, Verdict, verdict
from ortlite.errors import Fail, InvalidArgument
from ortlite.namespace import Namespace
from ortlite.ops import registry
from ortlite.ops.annotations import Array, Float
from ortlite.save import to_proto
from ortlite_numpy import CPUExecutionProvider

CPU = "CPUExecutionProvider"
JUDGE = sys.modules[judge.__module__]
NUMBERS = count()
STRICT = "StrictExecutionProvider"
X = np.linspace(-2, 2, 48, dtype=np.float32).reshape(4, 12)


def model(text, opset=18):
    return parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')


def data(text, opset=18):
    return model(text, opset).SerializeToString()


@pytest.fixture
def broken(monkeypatch):
    """Registers a provider: NumPy under another name, with some kernels replaced; gives the name."""
    classes = {}
    known = provider._provider_class

    def register(**kernels):
        name = f"Broken{next(NUMBERS)}ExecutionProvider"  # instances are shared by name
        since = {op: registry.lookup("", op, 18).since for op in kernels}
        overrides = {("", op, since[op]): fn for op, fn in kernels.items()}
        body = {"name": name, "overrides": property(lambda self: overrides), "library": "numpy"}
        classes[name] = type("Broken", (CPUExecutionProvider,), body)
        return name

    monkeypatch.setattr(provider, "_provider_class", lambda name: classes.get(name) or known(name))
    installed = provider.usable()
    monkeypatch.setattr(provider, "usable", lambda: [*classes, *installed])
    return register


def invoke(*args):
    return CliRunner().invoke(main, ["compare", *map(str, args)])


# --- differences


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_ulps_are_steps_of_nextafter(dtype):
    info = np.finfo(dtype)
    starts = np.array([0, -0.0, 1, -1, 3.14, info.tiny, -info.tiny, info.smallest_subnormal, 1000, info.max], dtype)
    for steps in (0, 1, 7):
        ends = starts
        for _ in range(steps):
            ends = np.nextafter(ends, dtype(-np.inf))
        assert ulps(starts, ends).tolist() == [steps] * len(starts)
        assert ulps(ends, starts).tolist() == [steps] * len(starts)


def test_ulps_across_zero_and_to_infinity():
    tiny = np.finfo(np.float32).smallest_subnormal
    a = np.array([-tiny, 0.0, -0.0, np.finfo(np.float32).max, np.nan, -np.inf], np.float32)
    b = np.array([tiny, -0.0, tiny, np.inf, 1.0, -np.inf], np.float32)
    assert ulps(a, b).tolist() == [2, 0, 1, 1, 0, 0]
    far = ulps(np.array([-np.inf]), np.array([np.inf]))  # more than an int64 holds
    assert int(far[0]) == 2 * 0x7FF0000000000000


@pytest.mark.parametrize(
    ("dtype", "a", "b", "steps"),
    [
        (ml_dtypes.bfloat16, 0x3F80, 0x3F83, 3),
        (ml_dtypes.bfloat16, 0x8001, 0x0002, 3),  # across zero, where -0 and 0 are one
        (ml_dtypes.float8_e4m3fn, 0x38, 0x3A, 2),
        (ml_dtypes.float8_e4m3fn, 0x81, 0x01, 2),
        (ml_dtypes.float8_e5m2, 0x7B, 0x7C, 1),  # the largest number, and infinity
        (ml_dtypes.float8_e5m2fnuz, 0x81, 0x01, 2),
        (ml_dtypes.float4_e2m1fn, 0x9, 0x1, 2),
        (ml_dtypes.float8_e8m0fnu, 0x7F, 0x82, 3),
    ],
)
def test_ulps_of_narrow_floats(dtype, a, b, steps):
    bits = np.uint16 if dtype is ml_dtypes.bfloat16 else np.uint8
    x, y = (np.array([code], bits).view(dtype) for code in (a, b))
    assert ulps(x, y).tolist() == [steps]
    assert difference(x, y).ulps == steps
    assert difference(x, x).ulps == 0


def test_floats():
    a = np.array([[1.0, 2.0], [np.nan, -np.inf]], np.float32)
    b = np.array([[1.0, 2.5], [np.nan, -np.inf]], np.float32)
    d = difference(a, b)
    assert (d.dtype, d.shape, d.absolute, d.relative, d.worst) == (
        "float32",
        "[2, 2]",
        0.5,
        pytest.approx(0.2),
        "[0, 1]",
    )
    assert (d.size, d.unequal, d.beyond, d.odd, d.exceeds) == (4, 1, 1, 0, True)
    assert d.excess == pytest.approx(0.5 / (1e-5 + 1e-4 * 2.5), rel=1e-6)
    assert not difference(a, b, Tolerance(atol=0.6)).exceeds
    assert not difference(a, b, Tolerance(rtol=0.2)).exceeds
    assert not difference(a, a.copy()).unequal


@pytest.mark.parametrize(
    ("a", "b", "odd"), [([np.nan], [1.0], 1), ([np.inf], [-np.inf], 1), ([1.0], [np.inf], 1), ([0.0], [-0.0], 0)]
)
def test_nan_and_infinity_on_one_side(a, b, odd):
    for dtype in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16):
        d = difference(np.array(a, dtype), np.array(b, dtype), Tolerance(1e30, 1e30))
        assert (d.odd, d.exceeds) == (odd, bool(odd))


def test_long_arrays_are_compared_in_blocks():
    a = np.zeros((3, BLOCK), np.float32)
    b = a.copy()
    b[0, 5], b[1, 7], b[2, BLOCK - 1] = 1, np.nan, 3
    d = difference(a, b)
    assert (d.unequal, d.odd, d.absolute, d.worst, d.size) == (3, 1, 3.0, f"[1, {7}]", 3 * BLOCK)
    b[1, 7] = 0
    assert difference(a, b).worst == f"[2, {BLOCK - 1}]"
    assert difference(a, b, Tolerance(0, 2)).beyond == 1
    wide = b.astype(np.float64)
    assert furthest(a, wide) == 3.0
    wide[0, 0] = np.nan
    assert furthest(a, wide) == np.inf
    a[0, 0] = np.nan
    assert furthest(a, wide) == 3.0
    a[1, 1] = wide[1, 1] = -np.inf
    assert furthest(a, wide) == 3.0
    wide[1, 1] = np.inf
    assert furthest(a, wide) == np.inf
    assert furthest(a[:0], wide[:0]) == 0.0


def test_integers_booleans_strings_complex():
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    assert difference(np.array([low, 5]), np.array([high, 5])).absolute == 2.0**64
    assert difference(np.array([0], np.uint64), np.array([2**64 - 1], np.uint64)).absolute == 2.0**64
    d = difference(np.array([1, 2, 9], np.uint8), np.array([1, 3, 7], np.uint8))
    assert (d.absolute, d.unequal, d.beyond, d.ulps, d.worst) == (2.0, 2, 2, None, "[2]")
    assert not difference(np.array([7], np.int8), np.array([8], np.int8), Tolerance(atol=1)).exceeds
    assert difference(np.array([7], np.int8), np.array([8], np.int8), Tolerance(rtol=1)).exceeds
    d = difference(np.array([True, False]), np.array([True, True]))
    assert (d.unequal, d.exceeds) == (1, True)
    d = difference(np.array([["a", "b", "c"]], object), np.array([["a", "x", "y"]], object))
    assert (d.dtype, d.unequal, d.exceeds, d.worst) == ("string", 2, True, "[0, 1]")
    d = difference(np.array([[1 + 2j, 3]], np.complex64), np.array([[1 + 2j, 3 + 1j]], np.complex64))
    assert (d.absolute, d.size, d.worst, d.exceeds) == (1.0, 2, "[0, 1]", True)
    assert difference(np.array(1.5, np.float32), np.array(2.5, np.float32)).worst == "[]"
    assert not difference(np.zeros((0, 3)), np.zeros((0, 3))).exceeds


def test_containers_element_by_element():
    one, two = np.array([1.0, 2.0], np.float32), np.array([1.0, 4.0], np.float32)
    d = difference([one, one], [one, two])
    assert (d.dtype, d.shape, d.absolute, d.size, d.beyond, d.worst) == ("seq(float32)", "2", 2.0, 4, 1, "[1][1]")
    assert not difference([one, [two]], [one, [two]]).exceeds
    d = difference([{"a": 1.0, "b": 2.0}], [{"a": 1.0, "b": 2.5}])
    assert (d.absolute, d.worst, d.exceeds) == (0.5, "[0][b][]", True)
    assert not difference({1: "x"}, {1: "x"}).exceeds
    assert not difference(None, None).exceeds
    assert not difference([], []).exceeds
    for a, b, problem in [
        ([one], [one, one], "1 and 2 elements"),
        ({"a": 1.0}, {"b": 1.0}, "other keys"),
        (None, one, "absent on one side"),
        ([one], one, "list and ndarray"),
        (one, one.astype(np.float64), "float32 and float64"),
        (one, one[:1], "shapes [2] and [1]"),
        ([one], [one[:1]], "[0]: shapes"),
    ]:
        d = difference(a, b)
        assert d.exceeds
        assert problem in d.problem


def test_every_floating_dtype_has_a_default_tolerance():
    from ortlite import dtypes

    for dtype in dtypes.ALL:
        rtol, atol = Tolerance().of(dtype)
        assert (rtol > 0) == (dtype.kind in "fc"), dtype
        assert atol >= 0


# --- the judge


@pytest.mark.parametrize("large", [1, 2**16])
def test_the_judge_computes_in_float64(large, monkeypatch):
    monkeypatch.setattr(JUDGE, "LARGE", large)
    text = """g (float[4, 12] x) => (float[4, 12] y)
        <float[12] s = {1.5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}>
        { e = Exp(x)  h = Cast<to=10>(e)  f = Cast<to=1>(h)  n = LayerNormalization(f, s)
          k = Shape(x)  z = ConstantOfShape(k)  y = Add(n, z) }"""
    found = judge(load.load(data(text)), {"x": X}, ["e", "h", "f", "n", "y", "k"])
    assert not found.reasons
    e = np.exp(X.astype(np.float64))
    scale = np.array([1.5] + [1] * 11)
    n = (e - e.mean(-1, keepdims=True)) / np.sqrt(e.var(-1, keepdims=True) + 1e-5) * scale
    for name, expected in {"e": e, "h": e, "f": e, "n": n, "y": n}.items():
        assert found.values[name].dtype == np.float64
        np.testing.assert_allclose(found.values[name], expected, rtol=1e-13)
    assert found.values["k"].tolist() == [4, 12]


def test_large_constants_are_widened_where_they_are_read(monkeypatch):
    """Read twice, by a branch, handed out, and in float16; and none that is large by another."""
    text = """g (float[4, 12] x, bool c) => (float[4, 12] y, float[12] o)
        <float[12] s = {1.1,2,3,4,5,6,7,8,9,10,11,12}, float[12] o = {1.1,2,3,4,5,6,7,8,9,10,11,12},
         float[12] k = {1.1,2,3,4,5,6,7,8,9,10,11,12}, float16[12] h = {1,2,3,4,5,6,7,8,9,10,11,12}>
        { a = Mul(x, s)  b = Add(a, s)  d = Cast<to = 1>(h)  e = Add(b, d)  f = Add(e, o)
          y = If(c) <then_branch = t () => (float[4, 12] p) { p = Add(f, k) },
                     else_branch = u () => (float[4, 12] q) { q = Identity(f) }> }"""
    loaded = load.load(data(text))
    feed = {"x": X, "c": np.array(True)}
    names = ["a", "b", "d", "e", "f", "y"]
    expected = judge(loaded, feed, names)
    monkeypatch.setattr(JUDGE, "LARGE", 12)
    seen = []
    real = evaluate.evaluate
    keep = lambda graph, *a, **k: seen.append(graph) or real(graph, *a, **k)  # noqa: E731
    monkeypatch.setattr(JUDGE, "evaluate", keep)
    found = judge(loaded, feed, names)
    assert not found.reasons
    assert {name: value.dtype.name for name, value in seen[0].constants.items()} == {
        "s": "float32", "h": "float16", "o": "float64" if "o" in seen[0].outputs else "float32", "k": "float64"
    }  # fmt: skip
    for name in names:
        np.testing.assert_array_equal(found.values[name], expected.values[name])


def test_the_judge_says_what_it_cannot_compute():
    text = """g (float[4, 12] x) => (float[4, 12] y)
        { a = Exp(x)  b = BitCast<to=6>(a)  c = Add(b, b)  y = Sqrt(a) }"""
    found = judge(load.load(data(text, 26)), {"x": X}, ["a", "b", "c", "y"])
    assert found.values.keys() == {"a", "y"}
    assert "BitCast keeps the width" in found.reasons["b"]
    assert found.reasons["c"] == "needs 'b'"
    result = compare(data(text, 26), {"x": X}, (CPU, STRICT))
    assert result.first is None
    assert "not judged: 1: fails in float64" in str(result)


def test_the_judge_knows_kernels_that_stay_in_float32():
    proto = model("g (float[4, 12] x) => (float[4, 12] y) { a = Exp(x)  y = Neg(a) }")
    node = helper.make_node("Normalizer", ["a"], ["n"], domain="ai.onnx.ml", norm="L2")
    proto.graph.node.append(node)
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    found = judge(load.load(proto.SerializeToString()), {"x": X}, ["a", "n"])
    assert found.reasons == {"n": "its kernel computes in float32"}


# --- comparing


CHAIN = "g (float[4, 12] x) => (float[4, 12] y) { " + "  ".join(
    [
        *(f"a{i + 1} = Mul(a{i}, h)" if i else "a1 = Mul(x, h)" for i in range(9)),
        "b = Exp(a9)",
        *(f"c{i + 1} = Add(c{i}, x)" if i else "c1 = Add(b, x)" for i in range(9)),
        "y = Tanh(c9)",
    ]
)
CHAIN = CHAIN.replace("=> (float[4, 12] y) {", "=> (float[4, 12] y) <float h = {0.9}> {") + " }"


def wrong_exp(xp, input):
    return xp.exp(input) * np.float32(1.001)


def test_a_wrong_kernel_is_found_judged_and_reduced(broken):
    name = broken(Exp=wrong_exp)
    source = data(CHAIN)
    assert len(load.load(source).graph.nodes) == 20
    for sides, guilty in (((CPU, name), name), ((name, CPU), name), ((name, STRICT), name)):
        result = compare(source, {"x": X}, sides)
        assert result.first.name == "b"
        assert result.first.op_type == "Exp"
        assert result.first.further == guilty.removesuffix("ExecutionProvider")
        assert result.first.difference.relative == pytest.approx(1e-3, rel=0.01)
        truth = np.exp(X.astype(np.float64) * np.float64(np.float32(0.9)) ** 9)
        assert max(result.first.errors) == pytest.approx(np.abs(truth * 1e-3).max(), rel=1e-3)
        assert min(result.first.errors) < 1e-6
        assert [row.exceeds for row in result.rows[:9]] == [False] * 9
        assert all(row.exceeds for row in result.rows[9:19])
    assert re.search(r"FIRST +b +Exp +float32\[4, 12\] ", str(result))
    assert "first beyond tolerance: 'b', made by Exp" in str(result)

    small = reduce(source, {"x": X}, (CPU, name), "b")
    assert [node.op_type for node in small.model.graph.nodes] == ["Exp"]
    assert small.elements == 1
    assert small.difference.exceeds
    assert small.difference.relative == pytest.approx(1e-3, rel=0.01)
    assert "1 node, 1 element" in str(small)


STEPS = """g (float[4, 12] x, float[3] h) => (float[4, 12] y, float[3] t)
    <float s = {0.5}, int8 z = {0}> {
    p = Abs(h)  q = QuantizeLinear(p, s, z)  d = DequantizeLinear(q, s, z)  t = Sqrt(d)
    e = Exp(x)  y = Tanh(e) }"""
TIPPING = np.array([1.25, 0.75, 3.0], np.float32)  # 2.5 and 1.5 steps: one more bit in h, and a step tips over


def one_bit_more(xp, X):
    return np.nextafter(np.abs(X), np.float32(np.inf))


def wrong_tanh(xp, input):
    return xp.tanh(input) * np.float32(1.001)


def test_rounding_does_not_hide_the_node_that_is_wrong(broken):
    name = broken(Abs=one_bit_more, Tanh=wrong_tanh)
    result = compare(data(STEPS, 20), {"x": X, "h": TIPPING}, (CPU, name))
    assert [row.name for row in result.rows if row.exceeds] == ["q", "d", "t", "y"]
    assert (result.first.name, result.first.difference.absolute) == ("q", 1.0)
    assert (result.alone.name, result.alone.node.op_type) == ("y", "Tanh")
    assert result.alone.further == name.removesuffix("ExecutionProvider")
    assert result.suspect == "y"
    assert result.alone.difference.relative == pytest.approx(1e-3, rel=0.01)
    assert "first beyond tolerance: 'q', made by QuantizeLinear" in str(result)
    assert "first that differs on what CPU gave it: 'y', made by Tanh, 0.001 apart" in str(result)


def test_rounding_alone_is_nobodys_fault(broken):
    result = compare(data(STEPS, 20), {"x": X, "h": TIPPING}, (CPU, broken(Abs=one_bit_more)))
    assert [row.name for row in result.rows if row.exceeds] == ["q", "d", "t"]
    assert result.alone is None
    assert result.suspect == "q"
    assert "on what CPU gave it, no node is off by more than rounding" in str(result)


def test_what_cancels_leaves_the_rounding_of_large_numbers(broken):
    text = "g (float[4, 12] x) => (float[4, 12] y) { y = Add(x, x) }"
    x = np.full((4, 12), 3000, np.float32)
    x[0, 0] = 0  # one element near zero among large ones: 1e-4 there is their rounding
    little, much = (lambda xp, A, B: A + B + np.float32(1e-4)), (lambda xp, A, B: A + B + np.float32(1))
    for add, alone in ((little, None), (much, "y")):
        result = compare(data(text), {"x": x}, (CPU, broken(Add=add)))
        assert result.first.name == "y"
        assert (result.alone and result.alone.name) == alone


def right_elu(xp, X, *, alpha=1.0):
    return np.where(X < 0, np.float32(alpha) * np.expm1(X), X)


def wrong_elu(xp: Namespace, X: Array, *, alpha: Float = 1.0) -> Array:
    return xp.where(X < 0, X * alpha, X)


ELU = "g (float[4, 12] x) => (float[4, 12] y) { a = Abs(x)  n = Neg(a)  e = Elu(n)  y = Add(e, x) }"


def test_a_fault_of_our_own_kernel_is_not_the_other_sides(broken, monkeypatch):
    """The CPU provider and the first judge run the same wrong kernel; the other side is right."""
    name = broken(Elu=right_elu)
    kernels = [replace(kernel, fn=wrong_elu) for kernel in registry._TABLE["", "Elu"]]
    monkeypatch.setitem(registry._TABLE, ("", "Elu"), kernels)
    monkeypatch.setattr(plan, "_overrides", lambda provider: {} if provider.name == CPU else provider.overrides)
    for sides in ((CPU, name), (name, CPU)):
        result = compare(data(ELU), {"x": X}, sides)
        assert result.first.name == result.alone.name == "e"
        assert result.first.further == result.alone.further == ""
        assert result.first.disputed
        assert result.alone.verdict.disputed
        text = str(result)
        assert "further off" not in text.splitlines()[1]
        assert re.search(r"FIRST +e +Elu .* the judges disagree", text)
        says = "the judges disagree: ortlite's kernels in float64 and onnx.reference are 1.1.* apart; the kernel of Elu"
        assert len(re.findall(f"{says} itself is suspect", text)) == 2


def test_the_verdict_says_which_judges_agreed(broken):
    name = broken(Elu=wrong_elu)
    short = name.removesuffix("ExecutionProvider")
    result = compare(data(ELU), {"x": X}, (CPU, name))
    assert result.first.further == result.alone.further == short
    agree = "both judges agree, ortlite's kernels in float64 and onnx.reference"
    assert f"{short} is further off from float64 ({agree})" in str(result)


def test_one_judge_alone_says_so():
    loaded = load.load(data(ELU))
    node = loaded.graph.nodes[2]
    truth = np.expm1(-np.abs(X.astype(np.float64)))
    values = {"n": -np.abs(X)}
    found, why = SecondJudge().value(loaded, node, "e", values)
    assert why == ""
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, truth, rtol=1e-14)
    assert SecondJudge().value(loaded, node, "e", {}) == (None, "its input 'n' has no value")
    full = SecondJudge(left=X.size)
    assert full.value(loaded, node, "e", values)[1] == ""
    assert full.value(loaded, node, "e", values) == (None, "there is too much to read")
    right, wrong = truth.astype(np.float32), X
    one = verdict(right, wrong, (truth, ""), (None, "it fails: no such operator"), ("A", "B"), node)
    assert (one.further, one.disputed) == ("B", False)
    assert one.says == "ortlite's kernels in float64 alone judge: onnx.reference does not, it fails: no such operator"
    other = verdict(right, wrong, (None, "fails in float64: why"), (truth, ""), ("A", "B"), node)
    assert (other.further, other.says) == ("B", "onnx.reference alone judges: fails in float64: why")
    assert verdict(right, wrong, (None, "a"), (None, "b"), ("A", "B"), node) == Verdict()
    shapes = verdict(right, wrong, (truth, ""), (truth[:1], ""), ("A", "B"), node)
    assert (shapes.further, shapes.disputed) == ("", True)


def test_the_second_judge_knows_what_it_does_not_have():
    text = """<ir_version: 8, opset_import: ["": 18, "com.microsoft": 1]>
        g (float[4, 12] x) => (float[4, 12] y) { y = com.microsoft.QuickGelu(x) }"""
    loaded = load.load(parser.parse_model(text).SerializeToString())
    found, why = SecondJudge().value(loaded, loaded.graph.nodes[0], "y", {"x": X})
    assert found is None
    assert "QuickGelu" in why


def test_the_second_judge_runs_branches():
    text = """g (float[4, 12] x, bool c) => (float[4, 12] y) { a = Neg(x)
        y = If (c) <then_branch = t () => (float[4, 12] p) { p = Abs(a) },
                    else_branch = e () => (float[4, 12] q) { q = Exp(a) }> }"""
    loaded = load.load(data(text))
    found, why = SecondJudge().value(loaded, loaded.graph.nodes[1], "y", {"a": X, "c": np.array(False)})
    assert why == ""
    np.testing.assert_allclose(found, np.exp(X.astype(np.float64)), rtol=1e-14)


def test_nodes_that_cannot_run_alone_are_told(broken):
    class Stubborn(ProviderSide):
        def run(self, model, feed, names):
            if any("alone" in name for name in names):
                raise ValueError("not on my watch")
            return super().run(model, feed, names)

    result = compare(data(CHAIN), {"x": X}, (CPU, Stubborn(broken(Exp=wrong_exp))))
    assert result.suspect == result.first.name == "b"
    assert "whether a node differs on what CPU gave it is not known: not on my watch" in str(result)


def test_captures_and_several_outputs_run_alone(broken):
    text = """g (float[4, 12] x) => (float[4, 12] y, float[?, ?] v)
        <int64 n = {3}, bool yes = {1}, int64[1] k = {2}> {
        w = Abs(x)
        y = Loop (n, yes, x) <body = b (int64 i, bool go, float[4, 12] d) => (bool go2, float[4, 12] e)
                                       { go2 = Identity(go)  q = Mul(d, w)  e = Exp(q) }>
        v, j = TopK(w, k) }"""
    result = compare(data(text), {"x": X * np.float32(0.1)}, (CPU, broken(Exp=wrong_exp)))
    assert (result.first.name, result.alone.name, result.alone.node.op_type) == ("y", "y", "Loop")
    assert "that node differs on what CPU gave it, too" in str(result)

    def top_k(xp, X, K=None, **given):
        values, indices = registry.lookup("", "TopK", 18).fn(xp, X, K, **given)
        return values + 1, indices

    bad = broken(TopK=top_k)
    result = compare(data(text), {"x": X}, (CPU, bad))
    assert result.alone.name == "v"


def test_the_command_writes_what_repeats_it(broken, tmp_path):
    name = broken(Exp=wrong_exp)
    path, folder = tmp_path / "chain.onnx", tmp_path / "out"
    onnx.save(model(CHAIN), path)
    np.save(tmp_path / "x.npy", X)
    done = invoke(path, "--providers", CPU, name, "--input", f"x={tmp_path / 'x.npy'}", "--reduce", folder)
    assert done.exit_code == 1, done.output
    assert re.search(r"FIRST +b +Exp", done.output)
    assert "reduced to 1 node, 1 element (Exp)" in done.output
    assert {p.name for p in folder.iterdir()} == {"model.onnx", "inputs.npz", "README.md"}
    onnx.checker.check_model(onnx.load(folder / "model.onnx"), full_check=True)
    readme = (folder / "README.md").read_text()
    assert len(readme.strip().splitlines()) == 3
    command = shlex.split(readme.strip().splitlines()[-1])
    assert command[:2] == ["ortlite", "compare"]
    again = invoke(*command[2:])
    assert again.exit_code == 1, again.output
    assert re.search(r"FIRST +b +Exp", again.output)
    with np.load(folder / "inputs.npz") as inputs:
        assert {n: a.size for n, a in inputs.items()} == {"a9": 1}


def test_a_difference_that_adds_up_needs_its_nodes(broken):
    name = broken(Add=lambda xp, A, B: A + B + np.float32(4e-6))
    steps = "  ".join(f"s{i + 1} = Add(s{i}, q)" if i else "s1 = Add(p, q)" for i in range(12))
    source = data(f"g (float[6] x) => (float[6] y) {{ p = Abs(x)  n = Neg(x)  q = Relu(n)  {steps}  y = Abs(s12) }}")
    x = np.linspace(-0.01, 0.01, 6, dtype=np.float32)
    result = compare(source, {"x": x}, (CPU, name), rtol=0, atol=1e-5)
    assert result.first.name == "s3"  # 4e-6 and 8e-6 are within 1e-5, 12e-6 is not
    for target in ("s3", "y"):
        small = reduce(source, {"x": x}, (CPU, name), target, rtol=0, atol=1e-5)
        kinds = [node.op_type for node in small.model.graph.nodes]
        assert kinds == ["Add"] * 3 + (["Abs"] if target == "y" else [])
        assert small.elements <= 2


def test_axes_shrink_together(broken):
    name = broken(MatMul=lambda xp, A, B: xp.matmul(A, B) * np.float32(1.01))
    weights = np.random.default_rng(0).standard_normal((12, 32)).astype(np.float32)
    proto = model("g (float[N, 12] x) => (float[N, 32] y) { y = MatMul(x, w) }")
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    small = reduce(proto.SerializeToString(), {"x": np.tile(X, (8, 1))}, (CPU, name), "y")
    assert small.inputs["x"].shape == (1, 1)
    assert small.model.graph.constants["w"].shape == (1, 1)
    assert small.inputs["x"].item() in {1.0, round(small.inputs["x"].item(), 2)}


MIXED = """g (float[4, 12] x, string[3] s, bool c) => (float[4, 12] y, string[3] t, int64[4] i, float[4, 12] l)
    <int64 n = {3}, bool yes = {1}> {
    t = StringConcat(s, s)
    i = ArgMax<axis=1, keepdims=0>(x)
    y = If (c) <then_branch = g1 () => (float[4, 12] u) { v = Exp(x)  u = Neg(v) },
                else_branch = g2 () => (float[4, 12] w) { w = Abs(x) }>
    l = Loop (n, yes, x) <body = b (int64 k, bool go, float[4, 12] d) => (bool go2, float[4, 12] e)
                                   { go2 = Identity(go)  q = Mul(d, x)  e = Add(q, d) }>
    q = SequenceConstruct(x, y)
    m = SequenceAt(q, zero)
    zero = Constant<value_int: int = 1>()
    }"""
FEED = {"x": X, "s": np.array(["a", "", "ü"], object)}


@pytest.mark.parametrize("taken", [True, False])
def test_control_flow_strings_integers_and_sequences(broken, taken):
    feed = {**FEED, "c": np.array(taken)}
    source = data(MIXED, 20)
    result = compare(source, feed, (CPU, STRICT))
    assert result.first is None
    rows = {row.name: row for row in result.rows}
    assert rows["t"].difference.dtype == "string"
    assert rows["i"].difference.dtype == "int64"
    assert rows["q"].difference.dtype == "seq(float32)"
    assert rows["l"].op_type == "Loop"
    assert ("y/v" in rows) is taken  # the branch taken lies open
    assert not any(row.unjudged for row in result.rows)
    assert "run on CPU in place of Strict" in str(result)

    name = broken(ArgMax=lambda xp, data, **options: xp.argmax(data, axis=1) - 1)
    result = compare(source, feed, (CPU, name))
    assert result.first.name == "i"
    assert (result.first.difference.absolute, result.first.difference.beyond) == (1.0, 4)
    assert result.first.further == name.removesuffix("ExecutionProvider")
    assert compare(source, feed, (CPU, name), atol=1).first is None


def test_an_inner_node_of_an_if_is_found(broken):
    name = broken(Exp=wrong_exp)
    result = compare(data(MIXED, 20), {**FEED, "c": np.array(True)}, (CPU, name))
    assert result.first.name == "y/v"
    small = reduce(data(MIXED, 20), {**FEED, "c": np.array(True)}, (CPU, name), "y/v")
    assert (small.nodes, small.elements) == (1, 1)


def test_branches_of_two_nodes_of_one_name():
    text = """g (float[4, 12] x, bool c) => (float[4, 12] y, float[4, 12] z) {
        y = If (c) <then_branch = t () => (float[4, 12] u) { v = Exp(x)  u = Neg(v) },
                    else_branch = e () => (float[4, 12] u) { u = Abs(x) }>
        z = If (c) <then_branch = t () => (float[4, 12] u) { v = Abs(x)  u = Neg(v) },
                    else_branch = e () => (float[4, 12] u) { u = Abs(x) }> }"""
    proto = model(text)
    for node in proto.graph.node:
        node.name = "same"
    result = compare(proto.SerializeToString(), {"x": X, "c": np.array(True)}, (CPU, STRICT))
    assert [row.op_type for row in result.rows] == ["Exp", "Neg", "Identity", "Abs", "Neg", "Identity"]
    assert len({row.name for row in result.rows}) == 6


def test_what_a_file_cannot_hold_is_computed_in_the_reduced_model(broken):
    name = broken(Exp=wrong_exp, SequenceAt=lambda xp, s, position: s[position] * np.float32(1.01))
    small = reduce(data(MIXED, 20), {**FEED, "c": np.array(False)}, (CPU, name), "m")
    assert [node.op_type for node in small.model.graph.nodes] == ["SequenceConstruct", "SequenceAt"]
    assert all(isinstance(value, np.ndarray) for value in small.inputs.values())


def test_random_numbers_are_not_compared():
    text = """g (float[4, 12] x) => (float[4, 12] y)
        { r = RandomNormalLike(x)  d, k = Dropout(x, half, no)  e = Exp(r)  f = Add(e, d)  y = Neg(f) }"""
    text = text.replace("=> (float[4, 12] y)", "=> (float[4, 12] y) <float half = {0.5}, bool no = {0}>")
    result = compare(data(text), {"x": X}, (CPU, STRICT))
    notes = {row.name: row.note for row in result.rows}
    assert notes == {"r": "random", "d": "", "k": "", "e": "", "f": "", "y": ""}  # Dropout does not draw here
    assert result.first is None
    assert "1 random" in str(result)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "double"])
def test_other_floats_are_judged_reduced_and_repeated(broken, tmp_path, dtype):
    name = broken(Exp=lambda xp, x: xp.exp(x) * np.asarray(1.25, x.dtype))
    text = f"g ({dtype}[4, 12] x) => ({dtype}[4, 12] y) {{ a = Abs(x)  b = Exp(a)  y = Neg(b) }}"
    onnx.save(model(text), tmp_path / "m.onnx")
    done = invoke(tmp_path / "m.onnx", "--providers", name, CPU, "--reduce", tmp_path / "out")
    assert done.exit_code == 1, done.output
    assert re.search(r"FIRST +b +Exp .* is further off", done.output)
    assert "1 node, 1 element" in done.output
    command = shlex.split((tmp_path / "out" / "README.md").read_text().strip().splitlines()[-1])
    assert re.search(r"FIRST +b +Exp", invoke(*command[2:]).output)


def test_wrong_arguments(broken):
    source = data("g (float[4, 12] x) => (float[4, 12] y) { y = Exp(x) }")
    with pytest.raises(ValueError, match="two providers"):
        compare(source, {"x": X}, (CPU,))
    with pytest.raises(RuntimeError, match="NopeProvider"):
        compare(source, {"x": X}, (CPU, "NopeProvider"))
    with pytest.raises(InvalidArgument, match="z"):
        compare(source, {"x": X, "z": X}, (CPU, STRICT))
    with pytest.raises(ValueError, match="missing"):
        compare(source, {}, (CPU, STRICT))
    with pytest.raises(ValueError, match="does not show again"):
        reduce(source, {"x": X}, (CPU, STRICT), "y")

    def fails(xp, input):
        raise ValueError("no such thing")

    with pytest.raises(Fail, match=r"Exp node.*no such thing"):
        compare(source, {"x": X}, (CPU, broken(Exp=fails)))


def test_intermediates_can_be_given():
    source = data("g (float[4, 12] x) => (float[4, 12] y) { a = Exp(x)  y = Neg(a) }")
    assert [row.name for row in compare(source, {"a": X}, (CPU, STRICT)).rows] == ["y"]


# --- onnxruntime as the other side


def test_against_onnxruntime(broken, tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "chain.onnx"
    onnx.save(model(CHAIN), path)
    done = invoke(path, "--providers", CPU, "--against", "onnxruntime")
    assert done.exit_code == 0, done.output
    assert re.search(r"CPU against onnxruntime, 20 values: 20 within tolerance", done.output)
    name = broken(Exp=wrong_exp)
    done = invoke(path, "--against", "onnxruntime", "--providers", name, "--reduce", tmp_path / "out")
    assert done.exit_code == 1, done.output
    assert re.search(r"FIRST +b +Exp", done.output)
    assert f"{name.removesuffix('ExecutionProvider')} is further off from float64" in done.output
    command = shlex.split((tmp_path / "out" / "README.md").read_text().strip().splitlines()[-1])
    assert re.search(r"FIRST +b +Exp", invoke(*command[2:]).output)


def test_against_onnxruntime_with_branches_loops_and_random_numbers(tmp_path):
    pytest.importorskip("onnxruntime")
    text = MIXED.replace("t = StringConcat", "r = RandomNormalLike(x)  o = Exp(r)  t = StringConcat")
    onnx.save(model(text, 20), tmp_path / "m.onnx")
    done = invoke(tmp_path / "m.onnx", "--providers", CPU, "--against", "onnxruntime", "--all")
    assert done.exit_code == 0, done.output
    assert re.search(r"r +RandomNormalLike .*random", done.output)
    for name in "toilqmy":
        assert re.search(rf"\n +{name} +\w+ +\S*(float32|string|int64)", done.output), name


def test_a_written_model_is_the_same_model():
    """Onnxruntime gives for the model that we wrote what it gives for the file."""
    onnxruntime = pytest.importorskip("onnxruntime")
    proto = model(MIXED, 20)
    extra = [
        helper.make_node("LpPool", ["four"], ["p"], name="n", kernel_shape=[2, 2], auto_pad="SAME_UPPER", p=1),
        helper.make_node("Upsample_", ["four"], ["h"], domain="mine"),
        helper.make_node("Scan", ["zeros", "x"], ["last", "sums"], num_scan_inputs=1, name="s", body=_sums()),
    ]
    proto.graph.node.extend(extra)
    shape = numpy_helper.from_array(np.array([1, 1, 4, 12]), "shape")
    proto.graph.initializer.extend([shape, numpy_helper.from_array(np.zeros(12, np.float32), "zeros")])
    proto.graph.node.insert(0, helper.make_node("Reshape", ["x", "shape"], ["four"]))
    body = [helper.make_node("HardSigmoid", ["a"], ["b"], alpha=0.3, beta=0.25)]
    imports = [helper.make_opsetid("", 20)]
    proto.functions.append(helper.make_function("mine", "Upsample_", ["a"], ["b"], body, imports))
    proto.opset_import.append(helper.make_opsetid("mine", 1))
    proto.graph.node.extend(helper.make_node("Identity", [n], [f"{n}_out"]) for n in ("p", "h", "last", "sums"))
    proto.graph.output.extend(onnx.ValueInfoProto(name=f"{n}_out") for n in ("p", "h", "last", "sums"))
    source = proto.SerializeToString()
    written = to_proto(load.load(source))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for taken in (True, False):
        feed = {**FEED, "c": np.array(taken)}
        ours, theirs = (
            onnxruntime.InferenceSession(m, options, providers=[CPU]).run(None, feed)
            for m in (written.SerializeToString(), source)
        )
        assert len(ours) == 8
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_names_that_two_nodes_have_are_left_out():
    onnxruntime = pytest.importorskip("onnxruntime")
    proto = model("g (float[2] x) => (float[2] y) { a = Abs(x)  b = Neg(a)  y = Exp(b) }")
    for node in proto.graph.node:
        node.name = "same"
    written = to_proto(load.load(proto.SerializeToString()))
    assert [node.name for node in written.graph.node] == ["same", "", ""]
    onnxruntime.InferenceSession(written.SerializeToString(), providers=[CPU])


def _sums():
    return parser.parse_graph(
        "sums (float[12] state, float[12] row) => (float[12] next, float[12] out)"
        "{ next = Add(state, row)  out = Identity(next) }"
    )


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4, np.float16, np.bool_])
def test_constants_of_every_kind_are_written(dtype):
    proto = model("g () => (y) { y = Identity(w) }", 21)
    weights = np.array([[1, 0, 1]]).astype(dtype)
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    written = to_proto(load.load(proto.SerializeToString()))
    (back,) = (numpy_helper.to_array(t) for t in written.graph.initializer)
    assert back.dtype == weights.dtype
    assert back.tolist() == weights.tolist()


def test_opsets_that_contradict_each_other_are_not_written():
    proto = model("g (float[4, 12] x) => (float[4, 12] y) { s = Softmax(x)  y = F(s) }", 13)
    proto.graph.node[1].domain = "mine"
    body = [helper.make_node("Softmax", ["a"], ["b"])]
    proto.functions.append(helper.make_function("mine", "F", ["a"], ["b"], body, [helper.make_opsetid("", 11)]))
    proto.opset_import.append(helper.make_opsetid("mine", 1))
    with pytest.raises(ValueError, match="no one opset means the same"):
        to_proto(load.load(proto.SerializeToString()))


# --- the command line


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        (["{model}", "--providers", CPU, STRICT], 0, ""),
        (["--providers", CPU, STRICT, "{model}"], 0, ""),
        (["--providers", CPU, "--providers", STRICT, "{model}"], 0, ""),
        (["{model}", "--providers", CPU, CPU, "--rtol", "0", "--atol", "0"], 0, ""),
        (["{model}", "--providers", CPU, STRICT, "--reduce", "{tmp}/out"], 0, ""),
        (["{model}", "--providers", CPU], 2, "two providers"),
        (["{model}"], 2, "two providers"),
        (["{model}", "--providers", CPU, STRICT, "--against", "onnxruntime"], 2, "extra argument"),
        (["--against", "onnxruntime", "{model}"], 2, "one provider beside"),
        (["{model}", "--providers", CPU, STRICT, "--against", "tvm"], 2, "--against"),
        (["{model}", "--providers", CPU, STRICT, "--rtol", "-1"], 2, "--rtol"),
        (["--providers", CPU, STRICT], 2, "MODEL"),
        (["nope.onnx", "--providers", CPU, STRICT], 1, "nope.onnx"),
        (["{model}", "--providers", CPU, "NopeProvider"], 1, "NopeProvider"),
        (["{model}", "--providers", CPU, STRICT, "--input", "z=a.npy"], 1, "the model has no input z"),
        (["{model}", "--providers", CPU, STRICT, "--shape", "x=1,2"], 1, "x: 1,2 given, the model wants ['N', 12]"),
    ],
)
def test_exit_statuses(tmp_path, arguments, status, problem):
    path = tmp_path / "m.onnx"
    onnx.save(model("g (float[N, 12] x) => (float[N, 12] y) { a = Abs(x)  y = Neg(a) }"), path)
    done = invoke(*(a.format(model=path, tmp=tmp_path) for a in arguments))
    assert done.exit_code == status, done.output
    assert problem in done.output
    if status:
        assert done.output.strip().splitlines()[-1].startswith("Error: ")
        assert status == 2 or len(done.output.strip().splitlines()) == 1
    elif "--reduce" in arguments:
        assert "nothing to reduce" in done.output


def test_a_long_model_is_readable(broken, tmp_path):
    name = broken(Exp=wrong_exp)
    steps = "  ".join(f"a{i + 1} = Abs(a{i})" if i else "a1 = Exp(x)" for i in range(300))
    onnx.save(model(f"g (float[4, 12] x) => (float[4, 12] y) {{ {steps}  y = Neg(a300) }}"), tmp_path / "m.onnx")
    short = invoke(tmp_path / "m.onnx", "--providers", CPU, name)
    assert short.exit_code == 1
    assert len(short.output.splitlines()) < 25
    assert "301 beyond tolerance" in short.output
    long = invoke(tmp_path / "m.onnx", "--providers", CPU, name, "--all")
    assert len(long.output.splitlines()) > 301


@pytest.mark.parametrize("width", [70, 100, 200])
def test_the_table_fits_a_terminal(broken, tmp_path, width):
    name = "a/very/long/prefix/of/the/kind/that/exporters/like/to/write/layer_7/attention"
    text = "g (float[4, 12] x) => (float[4, 12] y) { a = Abs(x)  b = Exp(a)  y = Neg(b) }"
    proto = model(text)
    proto.graph.node[1].output[0] = proto.graph.node[2].input[0] = name
    onnx.save(proto, tmp_path / "m.onnx")
    found = compare_model(tmp_path / "m.onnx", {}, {}, (CPU, broken(Exp=wrong_exp)), False, None, None)
    out = Console(force_terminal=True, width=width, color_system=None, file=io.StringIO())
    show(out, found, False)
    table = [line for line in out.file.getvalue().splitlines() if line.startswith("│")]
    assert len(table) >= 2
    assert "FIRST" in table[0]
    assert "attention" in table[0] or width < 100
    assert max(map(len, table)) <= width


@pytest.mark.parametrize("name", ["JAXExecutionProvider", STRICT, "TorchExecutionProvider"])
def test_the_demo_model_on_every_library(name):
    if name not in provider.usable():
        pytest.skip(f"{name} is not available")
    scans = np.random.default_rng(0).uniform(0, 16, (5, 1, 8, 8)).astype(np.float32)
    result = compare(Path(ortlite.__file__).parent / "demo" / "digits.onnx", {"scan": scans}, (CPU, name))
    assert result.first is None
    assert len(result.rows) == 11
    for row in result.rows:
        assert not row.unjudged
        assert max(row.errors) < 1e-4


def test_a_side_can_be_anything_that_runs_a_model():
    class Zeros:
        name = "zeros"

        def run(self, model, feed, names):
            return {name: np.zeros((4, 12), np.float32) for name in names if name != "a"}

    source = data("g (float[4, 12] x) => (float[4, 12] y) { a = Abs(x)  b = Exp(a)  y = Neg(b) }")
    result = compare(source, {"x": X}, (CPU, Zeros()))
    assert [row.note for row in result.rows] == ["not handed out by zeros", "", ""]
    assert (result.first.name, result.first.further) == ("b", "zeros")
    np.testing.assert_allclose(result.first.errors[1], np.exp(2.0))


@pytest.mark.parametrize(
    "pair",
    [
        ["--providers", "CPU", "Strict"],
        ["--providers=CPU", "Strict"],
        ["--providers=CPU", "--providers=StrictExecutionProvider"],
    ],
)
def test_providers_may_be_named_shortly(tmp_path, pair):
    onnx.save(model(CHAIN), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", X)
    done = invoke(tmp_path / "m.onnx", *pair)
    assert done.exit_code == 0, done.output
    assert "made up, as no --input gives them: x float32[4, 12]" in done.output
    assert "CPU against Strict, 20 values: 20 within tolerance" in done.output
    given = invoke(tmp_path / "m.onnx", *pair, "--input", f"x={tmp_path / 'x.npy'}")
    assert "made up" not in given.output


def test_a_provider_that_is_not_there_is_named_with_those_that_are(tmp_path):
    onnx.save(model(CHAIN), tmp_path / "m.onnx")
    done = invoke(tmp_path / "m.onnx", "--providers", "Tensorrt", "CPU")
    assert done.exit_code == 1
    assert re.search(
        r"^Error: no provider 'Tensorrt' is available here; there are .*Strict.*, CPU$", done.output.strip()
    )


def test_a_node_that_fails_says_on_which_side(broken):
    def failing(xp, input):
        raise ValueError("no such luck")

    name = broken(Exp=failing)
    with pytest.raises(
        Fail, match=f"{name.removesuffix('ExecutionProvider')}: Non-zero status .* Exp node.*no such luck"
    ):
        compare(data(CHAIN), {"x": X}, (CPU, name))


def test_bodies_and_kernels_shrink_with_their_arrays(broken, tmp_path):
    text = """g (float[1, 12] x, float[1, 2, 9] p) => (float[1, 12] y, float[1, 3, 5] z)
        <int64 n = {2}, bool yes = {1}> {
        y = Loop (n, yes, x) <body = b (int64 i, bool go, float[1, 12] d) => (bool go2, float[1, 12] e)
                                       { go2 = Identity(go)  q = MatMul(d, w)  e = Tanh(q) }>
        z = Conv<kernel_shape = [5]>(p, k) }"""
    proto = model(text)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (12, 12)), ("k", (3, 2, 5))):
        proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    feed = {"x": X[:1], "p": rng.standard_normal((1, 2, 9)).astype(np.float32)}
    conv = registry.lookup("", "Conv", 18).fn
    name = broken(Tanh=wrong_tanh, Conv=lambda xp, X, W, B=None, **given: conv(xp, X, W, B, **given) * np.float32(1.01))
    for target, elements in (("y", 4), ("z", 2)):  # d, w, n and yes; p and k
        small = reduce(proto.SerializeToString(), feed, (CPU, name), target)
        assert (small.nodes, small.elements) == (1, elements)
        onnx.checker.check_model(to_proto(small.model), full_check=True)
        assert compare(to_proto(small.model).SerializeToString(), small.inputs, (CPU, name)).first.name == target
