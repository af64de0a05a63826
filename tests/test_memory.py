"""The memory plan: what it predicts is what tracemalloc sees, and views hold what they look at."""

import json
import tracemalloc
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from onnx import parser

import ortlite
from ortlite.errors import InvalidArgument
from ortlite.memory import Tensor, arrange

HEAD = """<ir_version: 8, opset_import: ["": 18]> """
MODELS = {
    "elementwise": """g (float[n,256] x) => (float[n,256] y) {
        a = Exp(x) b = Mul(a, x) c = Sigmoid(b) d = Add(c, a) y = Softmax(d) }""",
    "views": """g (float[n,256] x) => (float[k,n] y) {
        a = Relu(x) t = Transpose<perm = [1, 0]>(a) s = Shape(t) r = Reshape(t, s) b = Neg(x) c = Add(a, b)
        m = ReduceSum<keepdims = 0>(c) y = Mul(r, m) }""",
    "branches": """g (float[n,256] x) => (float[n,256] y, float[n,256] z) {
        a = Relu(x) b = Tanh(a) c = Mul(a, b) z = Identity(c) d = Concat<axis = 1>(a, b, c)
        p, q, y = Split<axis = 1, num_outputs = 3>(d) }""",
    "convolutions": """g (float[n,4,32,32] x) => (float[n,m] y)
        <float[8,4,3,3] w = {WEIGHTS}> {
        a = Conv<pads = [1, 1, 1, 1]>(x, w) b = Relu(a) p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b)
        q = Sub(p, p) y = Flatten(q) }""",
    "loop": """g (float[n,256] x) => (float[n,256] y) {
        k = Constant<value: tensor = int64 {3}>()
        y = Loop(k, , x) <body = b (int64 i, bool c, float[n,256] s) => (bool d, float[n,256] t) {
            d = Identity(c) e = Exp(s) f = Mul(e, e) t = Tanh(f) }> }""",
}  # fmt: skip


def session(name):
    text = MODELS[name].replace("WEIGHTS", ", ".join(["0.1"] * 288))
    model = parser.parse_model(HEAD + text).SerializeToString()
    options = {"compiled": "0", "intra_op_num_threads": "1"}
    return ortlite.InferenceSession(model, providers=[("CPUExecutionProvider", options)])


def feed(name, rows=400):
    shape = (8, 4, 32, 32) if name == "convolutions" else (rows, 256)
    return {"x": np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)}


@pytest.mark.parametrize("name", MODELS)
def test_the_peak_is_what_tracemalloc_sees(name):
    one, given = session(name), feed(name)
    for _ in range(3):
        one.run(None, given)
    plan = one.memory_plan(given)
    tracemalloc.start()
    try:
        one.run(None, given)
        seen = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert abs(plan.peak - seen) <= 0.05 * seen
    again = one.memory_plan()  # zeros of the same signature
    assert abs(again.peak - plan.peak) <= 0.02 * plan.peak
    assert again.signature == plan.signature


def test_views_hold_the_memory_that_they_look_at():
    plan = session("views").memory_plan(feed("views"))
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    assert "t" not in tensors
    assert "a" in tensors
    last = len(plan.steps) - 1
    reader = next(i for i, step in enumerate(plan.steps) if step.name.startswith("Mul"))
    assert tensors["a"].last == reader  # which reads a view of a view of it
    assert tensors["y"].last == last
    assert sum(tensor.nbytes for tensor in plan.at_peak()) <= plan.peak
    assert "x" not in tensors  # an input is the caller's


def test_a_plan_says_who_holds_the_peak():
    plan = session("branches").memory_plan(feed("branches"))
    held = plan.at_peak()
    text = str(plan)
    assert all(tensor.name in text for tensor in held)
    assert plan.steps[plan.peak_step].name in text
    assert plan.peak == max(step.nbytes for step in plan.steps)
    found = json.loads(json.dumps(plan.to_dict()))
    assert found["peak"] == plan.peak
    assert len(found["tensors"]) == len(plan.tensors)
    drawing = ET.fromstring(plan.svg())
    boxes = drawing.findall("{http://www.w3.org/2000/svg}rect")
    assert len(boxes) == 1 + len(plan.tensors)


def test_a_larger_batch_has_a_plan_of_its_own():
    one = session("elementwise")
    small, large = one.memory_plan(feed("elementwise", 100)), one.memory_plan(feed("elementwise", 400))
    assert large.peak > 3.5 * small.peak
    assert one.memory_plan().signature == large.signature


def test_without_a_run_there_is_no_last_signature():
    with pytest.raises(InvalidArgument, match="feed"):
        session("elementwise").memory_plan()


@pytest.mark.parametrize("seed", range(20))
def test_tensors_that_live_at_once_do_not_overlap_in_an_arena(seed):
    draw = np.random.default_rng(seed)
    tensors = []
    for i in range(40):
        first = int(draw.integers(0, 30))
        size = int(draw.integers(1, 1000))
        tensors.append(Tensor(f"t{i}", (size,), "uint8", size, first, first + int(draw.integers(0, 8))))
    placed = arrange(tensors)
    assert sorted(t.name for t in placed) == sorted(t.name for t in tensors)
    for i, a in enumerate(placed):
        for b in placed[:i]:
            together = a.first <= b.last and b.first <= a.last
            assert not together or a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset
    most = max(sum(t.nbytes for t in tensors if t.first <= i <= t.last) for i in range(40))
    assert most <= max(t.offset + t.nbytes for t in placed) <= 1.5 * most
