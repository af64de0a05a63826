"""What holds for every model: placement, optimisation level, the number of threads and of runs change no result.

Models are drawn: operators over 3 by 3 matrices, with shape arithmetic, integers, booleans, sequences, branches and
loops among them. The judge is NumPy alone on the graph as it was drawn.
"""

from __future__ import annotations

import importlib.util
import shutil
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import ortlite
from ortlite import errors

CPU = "CPUExecutionProvider"
INSTALLED = ["StrictExecutionProvider"] + [
    f"{name}ExecutionProvider" for name in ("Torch", "JAX") if importlib.util.find_spec(name.lower())
]
MISSING = {"TorchExecutionProvider", "JAXExecutionProvider"} - set(INSTALLED)

UNARY = "Tanh Abs Neg Relu Sigmoid Exp Softmax Floor Identity Erf Transpose LogSoftmax".split()
BINARY = "Add Sub Mul Max Min MatMul PRelu".split()


def constant(name, value):
    return numpy_helper.from_array(np.asarray(value), name)


def branch(name, op, value, out):
    return helper.make_graph(
        [helper.make_node(op, [value], [out], name=f"{name}/{op}")], name, [],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
    )  # fmt: skip


def body(name, outer):
    """The body s = tanh(s + outer)."""
    nodes = [
        helper.make_node("Add", [f"{name}/s", outer], [f"{name}/t"], name=f"{name}/add"),
        helper.make_node("Tanh", [f"{name}/t"], [f"{name}/u"], name=f"{name}/tanh"),
        helper.make_node("Identity", [f"{name}/c"], [f"{name}/d"], name=f"{name}/go"),
    ]
    infos = [(f"{name}/i", TensorProto.INT64, []), (f"{name}/c", TensorProto.BOOL, []), (f"{name}/s", 1, [3, 3])]
    ins = [helper.make_tensor_value_info(*info) for info in infos]
    outs = [helper.make_tensor_value_info(f"{name}/d", TensorProto.BOOL, [])]
    return helper.make_graph(nodes, name, ins, [*outs, helper.make_tensor_value_info(f"{name}/u", 1, [3, 3])])


@st.composite
def models(draw):
    """(model, names of its nodes): every value asked for is a float matrix of 3 rows and 3 columns."""
    values, nodes = ["x", "w"], []

    def node(op, inputs, outputs, **attributes):
        nodes.append(helper.make_node(op, inputs, outputs, name=f"n{len(nodes)}", **attributes))

    for step in range(draw(st.integers(2, 9))):
        a, b, y = draw(st.sampled_from(values)), draw(st.sampled_from(values)), f"v{step}"
        kind = draw(st.sampled_from(["unary", "binary", "shape", "integers", "sequence", "if", "loop"]))
        if kind == "unary":
            node(draw(st.sampled_from(UNARY)), [a], [y])
        elif kind == "binary":
            node(draw(st.sampled_from(BINARY)), [a, b], [y])
        elif kind == "shape":
            node("Shape", [a], [f"{y}/s"])
            node("Gather", [f"{y}/s", "flip"], [f"{y}/g"])
            node("Reshape", [b, f"{y}/g"], [y])
        elif kind == "integers":
            node("Cast", [a], [f"{y}/i"], to=TensorProto.INT32)
            node("Mul", [f"{y}/i", "two"], [f"{y}/m"])
            node("Greater", [f"{y}/m", f"{y}/i"], [f"{y}/b"])
            node("Where", [f"{y}/b", a, b], [y])
        elif kind == "sequence":
            node("SequenceConstruct", [a, b], [f"{y}/q"])
            node("SequenceAt", [f"{y}/q", "one"], [y])
        elif kind == "if":
            node("ReduceMax", [a], [f"{y}/r"], keepdims=0)
            node("Greater", [f"{y}/r", "zero"], [f"{y}/c"])
            branches = {"then_branch": branch(f"{y}/then", "Tanh", a, f"{y}/p")}
            node("If", [f"{y}/c"], [y], **branches, else_branch=branch(f"{y}/else", "Neg", b, f"{y}/q"))
        else:
            node("Loop", ["trips", "", a], [y], body=body(y, b))
        values.append(y)
    wanted = values[-2:] if len(values) > 3 else values[-1:]
    graph = helper.make_graph(
        nodes, "drawn",
        [helper.make_tensor_value_info(n, 1, [3, 3]) for n in ("x", "w")],
        [helper.make_tensor_value_info(n, 1, [3, 3]) for n in wanted],
        [constant("flip", [1, 0]), constant("two", np.int32(2)), constant("one", 1), constant("zero", np.float32(0)),
         constant("trips", 2)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString(), [node.name for node in nodes]


def feeds(seed):
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(3, 3)).astype(np.float32), "w": rng.normal(size=(3, 3)).astype(np.float32)}


def alone(data):
    """NumPy, no optimisation: what the others must agree with."""
    options = ortlite.SessionOptions()
    options.graph_optimization_level = ortlite.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ortlite.InferenceSession(data, options, [CPU])


def agree(actual, expected):
    for got, wanted in zip(actual, expected, strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)


def test_libraries_that_are_missing_are_said():
    if MISSING:
        pytest.skip(f"not installed, so not drawn: {', '.join(sorted(MISSING))}")


def placed(data, pins):
    """A session with as many of the pins as the providers can keep: a sequence cannot live everywhere."""
    while True:
        try:
            return ortlite.InferenceSession(data, providers=[*INSTALLED, CPU], placement=pins, enable_fallback=0)
        except errors.NotImplemented as refused:
            name = str(refused).split("node with name '")[1].split("'")[0]
            pins = {node: where for node, where in pins.items() if node != name}


@given(drawn=models(), data=st.data(), seed=st.integers(0, 99))
def test_any_assignment_of_nodes_to_providers_gives_what_numpy_gives(drawn, data, seed):
    model, names = drawn
    pins = {name: data.draw(st.sampled_from([*INSTALLED, CPU])) for name in names}
    session = placed(model, pins)
    agree(session.run(None, feeds(seed)), alone(model).run(None, feeds(seed)))
    runs = {node.name: node.provider for node in session.explain().nodes if node.pinned}
    assert runs.items() <= pins.items()


@given(drawn=models(), seed=st.integers(0, 99))
def test_results_do_not_depend_on_the_optimisation_level(drawn, seed):
    model, _ = drawn
    expected = alone(model).run(None, feeds(seed))
    for level in ("ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"):
        options = ortlite.SessionOptions()
        options.graph_optimization_level = getattr(ortlite.GraphOptimizationLevel, level)
        session = ortlite.InferenceSession(model, options, [CPU])
        for _ in range(3):  # interpreted, specialising, specialised
            agree(session.run(None, feeds(seed)), expected)


@pytest.mark.parametrize("provider", [CPU, *INSTALLED])
@given(drawn=models(), data=st.data())
@settings(max_examples=10)
def test_eight_threads_get_what_one_gets(provider, drawn, data):
    model, _ = drawn
    session = ortlite.InferenceSession(model, providers=[provider])
    expected = [alone(model).run(None, feeds(seed)) for seed in range(8)]
    failures = []

    def work(seed):
        try:
            for _ in range(4):
                agree(session.run(None, feeds(seed)), expected[seed])
        except Exception as error:  # noqa: BLE001  (it would be lost in the thread)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


COMPILED = {
    "JAXExecutionProvider": ({"stand_in": "0"}, 15),
    "TorchExecutionProvider": ({"compile": "always"}, 5),  # seconds of g++ each
}


@pytest.mark.parametrize("name", [name for name in INSTALLED if name in COMPILED])
def test_what_a_library_compiles_gives_what_its_calls_give(name):
    options, count = COMPILED[name]
    if name.startswith("Torch") and shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    regions = 0

    @given(drawn=models(), seed=st.integers(0, 99))
    @settings(max_examples=count)
    def check(drawn, seed):
        nonlocal regions
        model, _ = drawn
        judge, session = alone(model), ortlite.InferenceSession(model, providers=[(name, options)])
        for other in range(4):  # of the signature, the third run at the latest is compiled
            agree(session.run(None, feeds(seed + other)), judge.run(None, feeds(seed + other)))
        regions += len(session.explain().compilations)

    check()
    assert regions


@given(drawn=models(), data=st.data(), seed=st.integers(0, 99))
def test_any_value_can_be_tapped_and_fed(drawn, data, seed):
    model, _ = drawn
    session = ortlite.InferenceSession(model, providers=[CPU])
    expected, tapped = session.run(None, feeds(seed), taps="v[0-9]+")
    agree(expected, alone(model).run(None, feeds(seed)))
    name = data.draw(st.sampled_from(sorted(tapped)))
    np.testing.assert_array_equal(session.run([name], feeds(seed))[0], tapped[name])
    fed = {**feeds(seed), name: tapped[name]}
    agree(session.run(None, fed), expected)
