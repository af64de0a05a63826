"""Fuzzing: damaged models, each made into a session and run once within `Limits`, and beside onnxruntime.

Whatever is raised must be one of our errors, and what both engines compute must be equal. `python -m tests.fuzz
--minutes 5` (or `nox -s fuzz -- --minutes 5`) works in child processes with limits of memory and time: one for each
engine, so that either may crash. A mutant that raises anything else, crashes the process, takes too long or gives
another answer than onnxruntime is written to `--out` with its seed and its story. `mutant(seed)` makes the same model
every time; what was found, and mended, lies in `tests/fuzz_cases`, and `test_fuzz.py` runs it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import helper, numpy_helper, parser

from conformance import run_main

SECONDS, ROUNDS = 20, 15  # of the clock, after which the processor's are looked at, so many times
OF_RUN = 10.0  # of a session and of a run: `Limits.seconds`
BYTES = 2**30
LARGEST = 4000  # bytes of a model that mutants are made of

NUMBERS = [0, 1, -1, 2, 3, 7, -2, 16, 127, 255, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan")]
WORDS = ["", "x", "y", "nope", "ai.onnx", "ai.onnx.ml", "com.microsoft", "a/b", "\x00", "é", "n" * 300]
WORDS += ["Add", "Relu", "If", "Loop", "Constant", "Reshape", "Gradient", "location", "offset", "length", "../x", "-1"]

BASE = '<ir_version: 9, opset_import: ["": 21, "my": 1, "ai.onnx.ml": 4, "com.microsoft": 1]> '
TEXTS = [
    "g (float[2,3] x) => (float[2,3] y) { t = Relu(x) y = Add(t, x) }",
    "g (float[2,3] x) => (float[?,?] y) <int64[2] s = {3, 2}> { y = Reshape(x, s) }",
    ("g (bool c, float[2] x) => (float[2] y) { y = If (c) <then_branch = a () => (float[2] p) { p = Neg(x) }, "
    "else_branch = b () => (float[2] q) { q = Abs(x) }> }"),
    ("g (int64 n, float[2] x) => (float[2] y, float[?,2] z) { c = Constant <value = bool {1}> () "
    "y, z = Loop (n, c, x) <body = b (int64 i, bool go, float[2] s) => (bool on, float[2] t, float[2] o) "
    "{ on = Identity(go) t = Mul(s, s) o = Identity(t) }> }"),
    ("g (float[3,2] x) => (float[2] y, float[3,2] z) { i = Constant <value_floats = [0.0, 0.0]> () "
    "y, z = Scan <num_scan_inputs = 1, body = b (float[2] s, float[2] r) => (float[2] t, float[2] o) "
    "{ t = Add(s, r) o = Identity(t) }> (i, x) }"),
    ("g (float[2] x) => (float[2] y) { t = my.twice <k = 3.0> (x) y = my.twice (t) } "
    '<domain: "my", opset_import: ["": 21, "my": 1]> twice <k: float = 2.0> (a, l) => (c) '
    "{ s = Constant <value_float: float = @k> () m = my.times(a, s) c = Clip(m, l) } "
    '<domain: "my", opset_import: ["": 21]> times (a, b) => (c) { c = Mul(a, b) }'),
    "g (float[2,4] x, float[4,4] w) => (float[2,4] y) { y = com.microsoft.FusedMatMul <alpha = 2.0> (x, w) }",
    "g (float[1,2,5,5] x, float[3,2,3,3] w) => (float[?,?,?,?] y) { y = Conv <pads = [1,1,1,1]> (x, w) }",
    ("g (float[4] x) => (float[?] y) { s = SplitToSequence <keepdims = 0> (x) y = ConcatFromSequence <axis = 0, "
    "new_axis = 1> (s) }"),
    ("g (float[2,3] x) => (float[?,?] y) { q, k = TopK <axis = 1> (x, n) y = Cast <to = 1> (k) n = Constant "
    "<value_ints = [2]> () }"),
]  # fmt: skip


@cache
def few() -> list[bytes]:
    """Small models, one of every kind of structure, and one of each operator that PyTorch's exporter was tried on."""
    made = [parser.parse_model(BASE + text) for text in TEXTS]
    made.append(_external(parser.parse_model(BASE + TEXTS[1])))
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data"
    read = [path.read_bytes() for path in sorted(folder.glob("*/*/model.onnx"))]
    return [m.SerializeToString() for m in made] * 20 + [data for data in read if len(data) <= LARGEST]


@cache
def seeds() -> list[bytes]:
    """Those, and the models of the ONNX suite; making its data takes a while."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from conformance.cases import load_cases

        models = [case.model for kind, case in load_cases().values() if kind == "node" and case.model is not None]
    return few() * 2 + [data for m in models if len(data := m.SerializeToString()) <= LARGEST]


def _external(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model with a tensor in a file that is not there, and a sparse one."""
    tensor = model.graph.initializer.add(name="out", data_type=1, dims=[2], data_location=1)
    for key, value in {"location": "weights", "offset": "0", "length": "8"}.items():
        tensor.external_data.add(key=key, value=value)
    sparse = model.graph.sparse_initializer.add(dims=[2, 3])
    sparse.values.CopyFrom(numpy_helper.from_array(np.float32([1, 2]), "sparse"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.int64([1, 4])))
    return model


def mutant(seed: int, models: list[bytes] | None = None) -> bytes:
    """A damaged model, made of one of `models` (`seeds()`), always the same for a seed."""
    rng = random.Random(seed)
    proto = onnx.ModelProto()
    proto.ParseFromString(rng.choice(seeds() if models is None else models))
    for _ in range(rng.choice([1, 1, 1, 2, 3, 5])):
        messages = list(_messages(proto))
        rng.choice(CHANGES)(rng, rng.choice(messages), messages)
    data = proto.SerializeToString()
    if rng.random() < 0.1 and data:  # bytes: names that are not UTF-8, cut-off fields
        at = rng.randrange(len(data))
        data = data[:at] + bytes([rng.randrange(256)]) + data[at + rng.randrange(2) :]
    return data


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for inner in value if descriptor.is_repeated else [value]:
                yield from _messages(inner)


def _value(rng: random.Random, descriptor: Any) -> Any:
    kind = descriptor.cpp_type
    if kind == descriptor.CPPTYPE_ENUM:
        return rng.choice([v.number for v in descriptor.enum_type.values])
    if kind in {descriptor.CPPTYPE_FLOAT, descriptor.CPPTYPE_DOUBLE}:
        return rng.choice(FLOATS)
    if kind == descriptor.CPPTYPE_STRING:
        word = rng.choice(WORDS)
        return word.encode() if descriptor.type == descriptor.TYPE_BYTES else word
    low, high = {
        descriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
        descriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
        descriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    }.get(kind, (0, 1))
    return min(max(rng.choice(NUMBERS), low), high)


def _change(rng: random.Random, message: Message, _: list[Message]) -> None:
    """Give a field, set or not, another value."""
    descriptor = rng.choice([f for f, _ in message.ListFields()] or list(message.DESCRIPTOR.fields))
    if rng.random() < 0.2:
        descriptor = rng.choice(list(message.DESCRIPTOR.fields))
    if descriptor.message_type is not None:
        return
    value = _value(rng, descriptor)
    if descriptor.is_repeated:
        values = getattr(message, descriptor.name)
        if len(values) and rng.random() < 0.7:
            values[rng.randrange(len(values))] = value
        else:
            values.append(value)
    else:
        setattr(message, descriptor.name, value)


def _drop(rng: random.Random, message: Message, _: list[Message]) -> None:
    """Take a field, or one entry of it, away."""
    if fields := message.ListFields():
        descriptor, value = rng.choice(fields)
        if descriptor.is_repeated and len(value) > 1:
            del value[rng.randrange(len(value))]
        else:
            message.ClearField(descriptor.name)


def _repeat(rng: random.Random, message: Message, _: list[Message]) -> None:
    """Write one entry of a field twice, or the entries in another order."""
    if fields := [(d, v) for d, v in message.ListFields() if d.is_repeated]:
        descriptor, value = rng.choice(fields)
        entries = list(value)
        copies = [type(e).FromString(e.SerializeToString()) if isinstance(e, Message) else e for e in entries]
        if rng.random() < 0.5:
            copies.append(rng.choice(copies))
        else:
            rng.shuffle(copies)
        message.ClearField(descriptor.name)
        getattr(message, descriptor.name).extend(copies)


def _transplant(rng: random.Random, message: Message, messages: list[Message]) -> None:
    """Put what one message says in place of another of its kind."""
    others = [m for m in messages if m.DESCRIPTOR is message.DESCRIPTOR]
    other = type(message).FromString(rng.choice(others).SerializeToString())
    if len(messages) < 3000:
        message.CopyFrom(other)


CHANGES: list[Callable[[random.Random, Message, list[Message]], None]] = [_change] * 4 + [_drop, _repeat, _transplant]


def feeds(session: Any, seed: int) -> dict[str, Any]:
    """Values for a session's inputs, small whatever the file declares."""
    rng = np.random.default_rng(seed)
    given: dict[str, Any] = {}
    for entry in session.get_inputs():
        if entry.type.startswith(("seq(", "optional(")):
            given[entry.name] = []
            continue
        if not entry.type.startswith("tensor("):
            raise TypeError(entry.type)
        kind = entry.type[len("tensor(") : -1]
        dims = [d if isinstance(d, int) and 0 <= d <= 16 else 2 for d in entry.shape or ()]
        dims = [min(d, 4) for d in dims] if np.prod(dims) > 10_000 else dims
        if kind == "string":
            given[entry.name] = np.full(dims, "a", object)
        else:
            dtype = helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(_NAMES.get(kind, kind).upper()))
            given[entry.name] = rng.integers(0, 4, dims).astype(dtype)
    return given


_NAMES = {"float8e4m3fn": "FLOAT8E4M3FN", "float4e2m1": "FLOAT4E2M1"}


def bounds() -> Any:
    """What a mutant may take: a tenth of what a stranger's model may, so that many fit into an hour."""
    from ortlite import Limits

    return Limits.untrusted(
        elements=2**24, total_bytes=2**28, loop_trips=1000, sequence_length=10_000, string_bytes=2**20, seconds=OF_RUN
    )


def attempt(data: bytes, seed: int = 0) -> str | None:
    """What is wrong with how a model fails, or None: it runs, or says with one of our errors why it does not."""
    return tried(data, seed)[0]


def tried(data: bytes, seed: int, compiled: str = "0") -> tuple[str | None, Any]:
    """The same, and what it was fed and computed: (feed, names, outputs, operators); None where it did not run.

    `compiled` "1": with the kernels that numba compiles.
    """
    import ortlite
    from ortlite.errors import OrtError

    stage, providers = "session", [("CPUExecutionProvider", {"compiled": compiled})]
    options = ortlite.SessionOptions()
    options.limits = bounds()
    try:
        session = ortlite.InferenceSession(data, options, providers=providers, enable_fallback=0)
        try:
            given = feeds(session, seed)
        except (ValueError, TypeError, KeyError):  # a type that the generator of feeds cannot make
            return None, None
        stage = "run"
        outputs = session.run(None, given)
    except OrtError as error:
        return None, type(error).__name__
    except Exception as error:  # noqa: BLE001  (that is what is looked for)
        where = traceback.extract_tb(error.__traceback__)[-1]
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "/ortlite" in f.filename]
        place = f"{Path((ours or [where])[-1].filename).name}:{(ours or [where])[-1].lineno}"
        return f"{stage}: {type(error).__name__} at {place}: {str(error)[:200]}", None
    operators = sorted({node.op_type for node in session.model.graph.walk()})
    names = [entry.name for entry in session.get_outputs()]
    return None, (given, names, outputs, operators)


# Operators whose results two engines need not share: they draw numbers, or the specification leaves cases open (windows
# of one element; the shape of a scan output of no iterations).
OPEN = set(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli Dropout ImageDecoder "
    "BlackmanWindow HammingWindow HannWindow Loop".split()
)


# How far onnxruntime may be away, in the bounds of `difference`: it sums a DFT one term after the other in float32.
ROUGH = {"DFT": 10.0}

HUGE = 1e30  # of an attribute: what is made of it on the way to a result may overflow, or all but vanish

Inputs = list["np.ndarray | None"]  # of a node, as far as they are known before it runs
# Calls whose result two engines need not share: whether one is, by the attributes and the inputs of its node.
OPEN_CALLS: dict[str, Callable[[dict[str, onnx.AttributeProto], Inputs], bool]] = {
    # Which numbers one point "from -1 to 1" is: onnxruntime says 1, PyTorch and we 0, ONNX's function NaN.
    "AffineGrid": lambda a, x: "align_corners" in a and a["align_corners"].i != 0 and _has(x, 1, 1, 2),
    # More queries than keys that count: some see nothing, and onnxruntime lets them see any key. A cap below 0: ONNX's
    # function and we cap, onnxruntime and onnx.reference do not (conformance/PEER_BUGS.md).
    "Attention": lambda a, x: (
        ("softcap" in a and a["softcap"].f < 0) or (bool(x) and x[0] is not None and _below(x, 6, x[0].shape[-2]))
    ),
    # Divides by alpha: ONNX's function and we say NaN, onnxruntime x.
    "Celu": lambda a, _: "alpha" in a and a["alpha"].f == 0,
    # A stride beyond the kernel: onnxruntime's output is not "input * stride" long, as the specification says.
    "ConvTranspose": lambda a, x: (
        "auto_pad" in a
        and a["auto_pad"].s.startswith(b"SAME")
        and len(x) > 1
        and x[1] is not None
        and any(s > (k - 1) * d + 1 for s, k, d in _windows(a, x[1].shape[2:]))
    ),
    # "Produces output shape (0, N)" of a scalar; onnxruntime's is (1, N).
    "NonZero": lambda _, x: bool(x) and x[0] is not None and x[0].ndim == 0,
    # What the integer nearest to 0 / 0 is.
    "QLinearConv": lambda _, x: _has(x, 6, 0),
    "QLinearMatMul": lambda _, x: _has(x, 6, 0),
    "QuantizeLinear": lambda _, x: _has(x, 1, 0),
    # A mean of nothing is "undefined": onnxruntime's is 0, ours NaN.
    "ReduceMean": lambda _, x: bool(x) and x[0] is not None and x[0].size == 0,
    # A region to crop to: onnxruntime does not crop an axis that keeps its length. Nor does it take a negative axis for
    # one whose aspect ratio is kept.
    "Resize": lambda a, _: (
        ("coordinate_transformation_mode" in a and a["coordinate_transformation_mode"].s == b"tf_crop_and_resize")
        or ("keep_aspect_ratio_policy" in a and "axes" in a and min(a["axes"].ints, default=0) < 0)
    ),
    # "Must be one of 0 (default), or 1": a negative one counts from the end here, in onnxruntime it is another axis.
    "ReverseSequence": lambda a, _: any(name in a and a[name].i not in {0, 1} for name in ("time_axis", "batch_axis")),
    # "If axes is not provided" all go; onnxruntime takes axes that are given, and none, for not provided.
    "Squeeze": lambda a, x: (
        ("axes" in a and not a["axes"].ints) or (len(x) > 1 and x[1] is not None and x[1].size == 0)
    ),
}


def _has(inputs: Inputs, position: int, number: float, start: int = 0) -> bool:
    """Whether a number is among the elements of an input, from the one at `start` on."""
    x = inputs[position] if position < len(inputs) else None
    return x is not None and bool((x.reshape(-1)[start:] == number).any())


def _below(inputs: Inputs, position: int, number: float) -> bool:
    """Whether an input has elements below a number."""
    x = inputs[position] if position < len(inputs) else None
    return x is not None and bool((x < number).any())


def _windows(attributes: dict[str, onnx.AttributeProto], kernel: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Stride, size and dilation of a kernel along each of its axes."""
    steps = [
        list(attributes[name].ints) if name in attributes else [1] * len(kernel) for name in ("strides", "dilations")
    ]
    return zip(steps[0], kernel, steps[1], strict=False)


def peculiar(data: bytes, given: Any) -> bool:
    """Whether a model, fed with `given`, says what no specification gives a meaning, or one that both engines share.

    Attributes that are no numbers, near the largest one, or refer to none; a name for two initializers, of which
    onnxruntime takes the first and we the last; one value as two outputs of a Scan's body, of which onnxruntime writes
    only one, or one that is an input of it as well, which onnxruntime does not write; `OPEN_CALLS`.
    """
    proto = onnx.ModelProto()
    proto.ParseFromString(data)
    messages = list(_messages(proto))
    attributes = [m for m in _messages(proto.graph) if isinstance(m, onnx.AttributeProto)]
    if any(a.ref_attr_name or not (np.abs([a.f, *a.floats]) < HUGE).all() for a in attributes):
        return True
    if any(_repeats(t.name for t in m.initializer) for m in messages if isinstance(m, onnx.GraphProto)):
        return True
    nodes = [m for m in messages if isinstance(m, onnx.NodeProto)]
    bodies = [a.g for node in nodes if node.op_type == "Scan" for a in node.attribute if a.name == "body"]
    if any(_repeats([*(v.name for v in b.output), *{v.name for v in b.input}]) for b in bodies):
        return True
    values = _constants(proto.graph) | given
    return any(
        node.op_type in OPEN_CALLS
        and OPEN_CALLS[node.op_type]({a.name: a for a in node.attribute}, [values.get(name) for name in node.input])
        for node in nodes
    )


def _repeats(names: Iterable[str]) -> bool:
    return max(Counter(names).values(), default=0) > 1


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """The constants of a graph that can be read."""
    tensors = [(t.name, t) for t in graph.initializer]
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            tensors += [(node.output[0], a.t) for a in node.attribute if a.name == "value"]
    found = {}
    for name, tensor in tensors:
        with contextlib.suppress(Exception):  # whatever is wrong with it
            found[name] = numpy_helper.to_array(tensor)
    return found


def theirs(data: bytes, given: Any, names: list[str]) -> Any:
    """What onnxruntime computes, or the text of its error."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return session.run(names, given)
    except Exception as error:  # noqa: BLE001  (whatever it raises, it does not run)
        return f"{type(error).__name__}: {error}"


def judged(ours: Any, other: Any) -> str | None:
    """What is different, or None."""
    from ortlite.compare.difference import difference

    _, names, outputs, operators = ours
    if OPEN.intersection(operators) or isinstance(other, str):
        return None
    for name, a, b in zip(names, outputs, other, strict=True):
        if isinstance(a, np.ndarray) and a.dtype.isbuiltin != 1 and b.dtype == np.uint8:  # as it hands narrow types on
            a = a.astype(a.dtype).view(np.uint8) if a.dtype.itemsize == 1 else a
        if "Clip" in operators:  # a bound that is not given is the largest number (text) or none (ONNX's function)
            a, b = _finite(a), _finite(b)
        if "ReduceMean" in operators:  # of nothing that a node before it leaves
            a = _zero_for_nan(a, b)
        found = difference(a, b)
        if found.problem or found.odd or found.excess > max([1.0, *(ROUGH.get(op, 1.0) for op in operators)]):
            return f"differs: {' '.join(operators)}: output {name}: {found}"[:400]
    return None


def _finite(x: Any) -> Any:
    """Infinities as the largest number."""
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
        return x
    limits = np.finfo(x.dtype)
    return np.asarray(np.clip(x, limits.min, limits.max))  # of an array without axes NumPy makes a number


def _zero_for_nan(a: Any, b: Any) -> Any:
    """`a` with zeros for NaN where b has them."""
    both = isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.dtype.kind == "f" and a.shape == b.shape
    return np.where(np.isnan(a) & (b == 0), b, a) if both else a


def _child(pipe: Connection, work: str) -> None:
    """Try the models that the parent sends until it says no more, with ours or with onnxruntime."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    if work == "ours":
        attempt(few()[0])  # imports
    else:
        theirs(b"", {}, [])
    used = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    )
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe.send(None)
    while (task := pipe.recv()) is not None:
        try:
            pipe.send(tried(*task, compiled=str(task[1] % 2)) if work == "ours" else theirs(*task))
        except MemoryError:
            pipe.send((None, "MemoryError") if work == "ours" else "MemoryError")


class Worker:
    """A child process that tries mutants; a new one takes its place when it dies or hangs."""

    def __init__(self, work: str = "ours") -> None:
        self.work = work
        self.start()

    def start(self) -> None:
        """Start a process and wait until it is ready."""
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_child, args=(other, self.work), daemon=True)
        self.process.start()
        other.close()
        if not self.pipe.poll(10 * SECONDS):
            raise TimeoutError("a child process does not start")
        self.pipe.recv()

    def processor(self) -> float:
        """Seconds of the processor that the child has taken; all there are where nobody can tell."""
        if sys.platform != "linux":
            return time.monotonic()
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def run(self, task: Any) -> Any:
        """What the child answers, or, as a text in the place of a problem, how it ended."""
        self.pipe.send(task)
        began, answered = self.processor(), False
        for _ in range(ROUNDS):  # other processes may be in the way
            answered = answered or self.pipe.poll(SECONDS)
            if answered or self.processor() - began > OF_RUN:
                break
        if not answered:
            problem = f"hangs after {self.processor() - began:.0f} s of the processor"
        else:
            try:
                return self.pipe.recv()
            except EOFError:
                self.process.join()
                problem = f"the process ends with {self.process.exitcode}"
        self.process.kill()
        self.process.join()
        self.start()
        return (problem, None) if self.work == "ours" else problem


def main() -> int:
    """Fuzz for some minutes; the exit code says whether anything was found."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=5)
    options.add_argument("--start", type=int, default=0, help="the first seed")
    options.add_argument("--count", type=int, default=10**9, help="how many mutants at most")
    options.add_argument("--out", type=Path, default=Path("fuzz-findings"))
    options.add_argument("--alone", action="store_true", help="not beside onnxruntime")
    args = options.parse_args()
    seeds()
    worker, end = Worker(), time.monotonic() + 60 * args.minutes
    other = None if args.alone or importlib.util.find_spec("onnxruntime") is None else Worker("theirs")
    fuzzed = Fuzzed(args.start, args.out)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):  # what was tried until then is told, for tests/fuzz_cases/README.md
        while fuzzed.tried < args.count and time.monotonic() < end:
            fuzzed.one(worker, other)
            if fuzzed.tried % 1000 == 0:
                print(fuzzed, flush=True)
    print(f"{fuzzed}; {dict(fuzzed.fates.most_common())}")
    return bool(fuzzed.findings)


class Fuzzed:
    """Which mutants were tried, and what was found."""

    def __init__(self, start: int, out: Path) -> None:
        self.start, self.out, self.tried = start, out, 0
        self.findings: Counter[str] = Counter()  # of each kind
        self.fates: Counter[str] = Counter()

    def __str__(self) -> str:
        seeds = f"seeds {self.start} to {self.start + self.tried - 1}: {self.tried} mutants"
        return f"{seeds}, {self.findings.total()} findings of {len(self.findings)} kinds"

    def one(self, worker: Worker, other: Worker | None) -> None:
        """Try the next mutant, and beside `other`, where that is not None."""
        seed = self.start + self.tried
        data = mutant(seed)
        problem, ours = worker.run((data, seed))
        fates = [ours if isinstance(ours, str) else "runs" if ours else "none"]
        if other is not None and isinstance(ours, tuple) and problem is None:
            answer = other.run((data, ours[0], ours[1]))
            fates.append("onnxruntime crashes" if isinstance(answer, str) and "process ends" in answer else
                         "only we run it" if isinstance(answer, str) else "both run it")  # fmt: skip
            problem = None if peculiar(data, ours[0]) else judged(ours, answer)
        self.tried += 1
        self.fates.update(fates)
        if problem is not None:
            self._found(seed, data, problem)

    def _found(self, seed: int, data: bytes, problem: str) -> None:
        """Count a finding; the first of its kind is kept."""
        key = problem.partition(": ")[0] + problem.partition(" at ")[2].split(": ")[0] or problem
        key = ": ".join(problem.split(": ")[:2]) if problem.startswith("differs") else key
        self.findings[key] += 1
        if self.findings[key] > 1:
            print(f"{seed}: again {key}", flush=True)
        else:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / f"{seed}.onnx").write_bytes(data)
            (self.out / f"{seed}.txt").write_text(problem + "\n")
            print(f"{seed}: {problem}", flush=True)


if __name__ == "__main__":
    run_main(main)
