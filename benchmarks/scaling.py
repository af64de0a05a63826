"""How the time of loading and of running grows with the model: t(4n) / t(n) as an exponent of n.

    python -m benchmarks.scaling [SHAPE ...]

1 is linear, 2 quadratic. Times are the least of a few, in seconds of one processor; the peer is onnxruntime, where it
runs the shape.
"""

from __future__ import annotations

import importlib
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from conformance import run_main

__all__ = ["SHAPES", "Shape", "measure"]

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
X, Y = helper.make_tensor_value_info("x", FLOAT, [1]), helper.make_tensor_value_info("y", FLOAT, None)
OPSETS = [helper.make_opsetid("", 18)]
Feed = Mapping[str, np.ndarray]
node = helper.make_node


@dataclass(frozen=True)
class Shape:
    """A family of models: `build(n)`, and what the models are fed. `runs`: the size is in the feed, not in the file."""

    n: int
    build: Callable[[int], ModelProto]
    feed: Callable[[int], Feed] = field(default=lambda n: {"x": np.ones(1, np.float32)})
    runs: bool = False


def model(nodes, inputs=(X,), outputs=(Y,), constants=None, functions=()):
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", list(inputs), list(outputs), weights)
    opsets = [*OPSETS, helper.make_opsetid("local", 1)] if functions else OPSETS
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))


def info(name, dtype=FLOAT, dims=None):
    return helper.make_tensor_value_info(name, dtype, dims)


def body(nodes, outputs, inputs=(), constants=None):
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    return helper.make_graph(nodes, "body", list(inputs), list(outputs), weights)


def chain_of(n):
    return [node("Relu", [f"v{i}" if i else "x"], [f"v{i + 1}" if i < n - 1 else "y"]) for i in range(n)]


def chain(n):
    return model(chain_of(n))


def reversed_chain(n):
    return model(chain_of(n)[::-1])


def fan_out(n):
    branches = [node("Relu", ["x"], [f"v{i}"]) for i in range(n)]
    return model([*branches, node("Sum", [f"v{i}" for i in range(n)], ["y"])])


def identities(n):
    """Outputs that are copies of what nodes compute."""
    nodes = [m for i in range(n) for m in (node("Relu", ["x"], [f"a{i}"]), node("Identity", [f"a{i}"], [f"y{i}"]))]
    return model(nodes, outputs=[info(f"y{i}") for i in range(n)])


def identity_chain(n):
    """Identities in a row, each of which another node reads, too."""
    nodes = [node("Identity", [f"v{i}" if i else "x"], [f"v{i + 1}"]) for i in range(n)]
    return model([*nodes, node("Sum", [f"v{i + 1}" for i in range(n)], ["y"])])


def calls(n):
    """Calls of a local function of two nodes."""
    inner = [node("Relu", ["a"], ["t"]), node("Neg", ["t"], ["b"])]
    twice = helper.make_function("local", "twice", ["a"], ["b"], inner, OPSETS)
    steps = [node("twice", [f"v{i}"], [f"v{i + 1}"], domain="local", name=f"call{i}") for i in range(n)]
    return model([node("Relu", ["x"], ["v0"]), *steps, node("Relu", [f"v{n}"], ["y"])], functions=[twice])


def failing(n):
    """Constants that cannot be folded: the node fails, which only a run can tell."""
    nodes = [node("Gather", ["c", "bad"], [f"f{i}"]) for i in range(n)]
    constants = {"c": np.ones(6, np.float32), "bad": np.array([7])}
    return model([*nodes, node("Concat", [f"f{i}" for i in range(n)], ["y"], axis=0)], constants=constants)


def folding(n):
    """A chain of constants."""
    nodes = [node("Neg", [f"c{i}"], [f"c{i + 1}"]) for i in range(n)]
    return model([*nodes, node("Add", ["x", f"c{n}"], ["y"])], constants={"c0": np.ones(1, np.float32)})


def ifs(n):
    """Ifs one after the other, each with two branches that read what is around them."""

    def one(i):
        then = body([node("Add", [f"v{i}", "x"], ["p"])], [info("p")])
        other = body([node("Mul", [f"v{i}", "x"], ["q"])], [info("q")])
        return node("If", ["c"], [f"v{i + 1}"], then_branch=then, else_branch=other)

    nodes = [node("Relu", ["x"], ["v0"]), *map(one, range(n)), node("Relu", [f"v{n}"], ["y"])]
    return model(nodes, inputs=[X, info("c", BOOL, [])])


def constant_ifs(n):
    """Ifs whose branch is known."""

    def one(i):
        then = body([node("Add", [f"v{i}", "k"], ["p"])], [info("p")], constants={"k": np.ones(1, np.float32)})
        other = body([node("Mul", [f"v{i}", "x"], ["q"])], [info("q")])
        return node("If", ["c"], [f"v{i + 1}"], then_branch=then, else_branch=other)

    nodes = [node("Relu", ["x"], ["v0"]), *map(one, range(n)), node("Relu", [f"v{n}"], ["y"])]
    return model(nodes, constants={"c": np.array(True)})


def nested(n):
    """Ifs one in the other, to a depth of n."""
    nodes, name = [node("Relu", ["x"], ["e"])], "e"
    for i in range(n):
        other = body([node("Neg", ["x"], [f"q{i}"])], [info(f"q{i}")])
        then = body(nodes, [info(name)])
        name = f"y{i}" if i < n - 1 else "y"
        nodes = [node("Relu", ["x"], [f"w{i}"]), node("If", ["c"], [name], then_branch=then, else_branch=other)]
    return model(nodes, inputs=[X, info("c", BOOL, [])])


def captures(n):
    """A branch that reads many values around it."""
    around = [node("Relu", ["x"], [f"v{i}"]) for i in range(n)]
    then = body([node("Sum", [f"v{i}" for i in range(n)], ["p"])], [info("p")])
    other = body([node("Max", [f"v{i}" for i in range(n)], ["q"])], [info("q")])
    branch = node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    return model([*around, branch], inputs=[X, info("c", BOOL, [])])


def few_captures(n):
    """Many values, and many branches that each read one of them."""
    around = [node("Relu", ["x"], [f"v{i}"]) for i in range(n)]

    def one(i):
        then = body([node("Relu", [f"v{i}"], ["p"])], [info("p")])
        other = body([node("Neg", ["x"], ["q"])], [info("q")])
        return node("If", ["c"], [f"r{i}"], then_branch=then, else_branch=other)

    last = node("Sum", [f"r{i}" for i in range(n)], ["y"])
    return model([*around, *map(one, range(n)), last], inputs=[X, info("c", BOOL, [])])


def initializers(n):
    nodes = [node("Add", [f"v{i}" if i else "x", f"w{i}"], [f"v{i + 1}" if i < n - 1 else "y"]) for i in range(n)]
    return model(nodes, constants={f"w{i}": np.full(1, i, np.float32) for i in range(n)})


def branch_initializers(n):
    """Many constants around many branches."""

    def one(i):
        then = body([node("Add", ["x", f"w{i}"], ["p"])], [info("p")])
        other = body([node("Neg", ["x"], ["q"])], [info("q")])
        return node("If", ["c"], [f"r{i}"], then_branch=then, else_branch=other)

    last = node("Sum", [f"r{i}" for i in range(n)], ["y"])
    weights = {f"w{i}": np.full(1, i, np.float32) for i in range(n)}
    return model([*map(one, range(n)), last], inputs=[X, info("c", BOOL, [])], constants=weights)


def borders(n):
    """Many inputs and outputs."""
    nodes = [node("Add", [f"x{i}", f"x{(i + 1) % n}"], [f"y{i}"]) for i in range(n)]
    return model(nodes, inputs=[info(f"x{i}", FLOAT, [1]) for i in range(n)], outputs=[info(f"y{i}") for i in range(n)])


def borders_feed(n):
    return {f"x{i}": np.ones(1, np.float32) for i in range(n)}


def branch_feed(n):
    return {"x": np.ones(1, np.float32), "c": np.array(True)}


STATE = [info("i", INT64, []), info("go", BOOL, [])]
GO = node("Identity", ["go"], ["on"])
ON = info("on", BOOL, [])
TRIPS = info("m", INT64, [])
RELU_BEFORE, RELU_AFTER = node("Relu", ["x"], ["s0"]), node("Relu", ["r"], ["y"])


def trips(n):
    return {"x": np.ones(1, np.float32), "m": np.array(n)}


def loop_of(nodes, before, after, state, outputs=()):
    """A Loop of `m` trips over one state value."""
    inner = body([GO, *nodes], [ON, state, *outputs], [*STATE, helper.make_value_info("s", state.type)])
    results = ["r", *(f"z{i}" for i in range(len(outputs)))]
    return model([*before, node("Loop", ["m", "", "s0"], results, body=inner), *after], inputs=[X, TRIPS])


def loop(n):
    return loop_of([node("Add", ["s", "x"], ["t"])], [RELU_BEFORE], [RELU_AFTER], info("t"))


def loop_index(n):
    """A Loop whose body computes with the number of the trip: its signature is another one in every trip."""
    nodes = [
        node("Cast", ["i"], ["f"], to=FLOAT),
        node("Reshape", ["s", "minus"], ["u"]),
        node("Unsqueeze", ["i", "zero"], ["j"]),
        node("Expand", ["f", "one"], ["e"]),
        node("Min", ["j", "zero"], ["k"]),
        node("Gather", ["u", "k"], ["g"]),
        node("Add", ["g", "e"], ["t"]),
    ]
    constants = {"zero": np.array([0]), "one": np.array([1]), "minus": np.array([-1])}
    made = loop_of(nodes, [RELU_BEFORE], [RELU_AFTER], info("t"))
    made.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return made


def loop_rows(n):
    rows = [node("Add", ["s", "x"], ["t"]), node("Neg", ["t"], ["row"])]
    return loop_of(rows, [RELU_BEFORE], [node("ReduceSum", ["z0"], ["y"])], info("t"), [info("row")])


SEQUENCE = helper.make_tensor_sequence_value_info("t", FLOAT, None)
EMPTY = node("SequenceEmpty", [], ["s0"])


def inserts(n):
    nodes = [node("SequenceInsert", ["s", "x"], ["t"])]
    return loop_of(nodes, [EMPTY], [node("ConcatFromSequence", ["r"], ["y"], axis=0)], SEQUENCE)


def front_inserts(n):
    nodes = [node("Constant", [], ["first"], value_int=0), node("SequenceInsert", ["s", "x", "first"], ["t"])]
    return loop_of(nodes, [EMPTY], [node("ConcatFromSequence", ["r"], ["y"], axis=0)], SEQUENCE)


def pieces(n):
    """A tensor cut into a sequence, and joined again."""
    nodes = [node("SplitToSequence", ["x"], ["s"], axis=0), node("ConcatFromSequence", ["s"], ["y"], axis=0)]
    return model(nodes, inputs=[info("x", FLOAT, ["n"])])


def erase(n):
    """A Loop that takes every element of a sequence away again."""
    cut = node("SplitToSequence", ["w"], ["s0"], axis=0)
    row = [node("SequenceAt", ["s", "last"], ["row"]), node("SequenceErase", ["s", "last"], ["t"])]
    inner = body([GO, *row], [ON, SEQUENCE, info("row")], [*STATE, helper.make_value_info("s", SEQUENCE.type)])
    nodes = [cut, node("Loop", ["m", "", "s0"], ["r", "z"], body=inner), node("ReduceSum", ["z"], ["y"])]
    made = model(nodes, inputs=[info("w", FLOAT, ["n"]), TRIPS])
    made.graph.initializer.append(numpy_helper.from_array(np.array(-1), "last"))
    return made


def scan(n):
    steps = [node("Add", ["s", "row"], ["t"]), node("Neg", ["t"], ["out"])]
    inner = body(steps, [info("t"), info("out")], [info("s"), info("row")])
    nodes = [node("Scan", ["s0", "x"], ["r", "z"], body=inner, num_scan_inputs=1), node("ReduceSum", ["z"], ["y"])]
    return model(nodes, inputs=[info("x", FLOAT, ["n", 1])], constants={"s0": np.zeros(1, np.float32)})


def concat(n):
    """One Concat of n values."""
    return model([node("Concat", ["x"] * n, ["y"], axis=0)])


def many(n):
    return {"x": np.ones(n, np.float32)}


SHAPES = {
    "chain": Shape(500, chain),
    "chain, reversed": Shape(500, reversed_chain),
    "fan-out": Shape(500, fan_out),
    "identities to outputs": Shape(300, identities),
    "identities in a row": Shape(500, identity_chain),
    "function calls": Shape(200, calls),
    "constants that fail to fold": Shape(200, failing),
    "constants that fold": Shape(500, folding),
    "Ifs": Shape(150, ifs, branch_feed),
    "Ifs, nested": Shape(7, nested, branch_feed),
    "Ifs whose branch is known": Shape(150, constant_ifs),
    "captures of one branch": Shape(500, captures, branch_feed),
    "captures of many branches": Shape(150, few_captures, branch_feed),
    "initializers": Shape(500, initializers),
    "initializers around branches": Shape(150, branch_initializers, branch_feed),
    "inputs and outputs": Shape(500, borders, borders_feed),
    "inputs of one node": Shape(1000, concat),
    "Loop, trips": Shape(2000, loop, trips, runs=True),
    "Loop, its index read": Shape(500, loop_index, trips, runs=True),
    "Loop, scan outputs": Shape(2000, loop_rows, trips, runs=True),
    "Scan, steps": Shape(2000, scan, lambda n: {"x": np.ones((n, 1), np.float32)}, runs=True),
    "sequence inserts": Shape(1000, inserts, trips, runs=True),
    "sequence inserts in front": Shape(1000, front_inserts, trips, runs=True),
    "sequence erased": Shape(1000, erase, lambda n: {"w": np.ones(n, np.float32), "m": np.array(n)}, runs=True),
    "sequence of pieces": Shape(5000, pieces, many, runs=True),
}


def session(engine: str, data: bytes):
    module = importlib.import_module(engine)
    options = module.SessionOptions()
    options.intra_op_num_threads = 1
    return module.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def least(fn: Callable[[], object], repeats: int = 5) -> float:
    """The least time of a few calls; of one, where that takes long. Of this process: other work does not count."""
    times: list[float] = []
    while len(times) < repeats and sum(times) < 2:
        start = time.process_time()
        fn()
        times.append(time.process_time() - start)
    return min(times)


def measure(shape: Shape, n: int, engine: str) -> tuple[float, float]:
    """Seconds to load the model of size n, and to run it; NaN for what the engine does not do."""
    data = shape.build(n).SerializeToString()
    try:
        loading = least(lambda: session(engine, data))
    except Exception:  # noqa: BLE001  (whatever a peer says of a model)
        return math.nan, math.nan
    made, feed = session(engine, data), shape.feed(n)
    try:
        return loading, least(lambda: made.run(None, feed))
    except Exception:  # noqa: BLE001  (constants that fail to fold fail when they run)
        return loading, math.nan


def exponent(small: float, large: float) -> float:
    return math.log(large / small, 4)


def main(names: list[str]) -> None:
    measure(SHAPES["chain"], 10, "ortlite"), measure(SHAPES["chain"], 10, "onnxruntime")  # imports
    columns = "n", "ms", "at 4n", "exponent", "onnxruntime ms", "at 4n", "exponent"
    print("".join(f"{column:>15}" for column in columns), " shape")
    for name in names or SHAPES:
        shape = SHAPES[name]
        sizes = shape.n, 4 * shape.n
        ours, peer = ([measure(shape, n, engine) for n in sizes] for engine in ("ortlite", "onnxruntime"))
        for index, what in enumerate(("load", "run")):
            if shape.runs and what == "load":
                continue
            cells = [str(shape.n)]
            for small, large in (ours, peer):
                cells += [f"{small[index] * 1e3:.1f}", f"{large[index] * 1e3:.1f}"]
                cells.append(f"{exponent(small[index], large[index]):.2f}")
            if not math.isnan(ours[0][index]):
                print("".join(f"{cell:>15}" for cell in cells), f" {what}: {name}", flush=True)


if __name__ == "__main__":
    logging.getLogger("ortlite").setLevel(logging.ERROR)
    importlib.import_module("onnxruntime").set_default_logger_severity(4)
    run_main(lambda: main(sys.argv[1:]))
