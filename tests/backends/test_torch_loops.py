"""Operators of TorchExecutionProvider by the loops that are compiled for NumPy, on torch's threads."""

from __future__ import annotations

import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx import parser

import ortlite
from ortlite.derived import Derived
from ortlite.provider import create
from tests.optimize.models import model, node

torch = pytest.importorskip("torch")
pytest.importorskip("numba")
loops = pytest.importorskip("ortlite_torch.loops")
products = pytest.importorskip("ortlite_torch.products")
if not loops._team():
    pytest.skip("this torch has no OpenMP like GNU's", allow_module_level=True)

R = np.random.default_rng(0)
TORCH = "TorchExecutionProvider"
Asked = loops.Asked


def floats(*shape):
    return R.standard_normal(shape).astype(np.float32)


def source(weights, op_type="Conv", more="", rank=4, **attributes):
    domain = "com.microsoft" if op_type == "FusedConv" else ""
    nodes = [node(op_type, ["X", *weights, *more], ["Y"], domain=domain, **attributes)]
    given = dict.fromkeys(("X", *more), np.float32(0))
    return model(nodes, given, ["Y"], weights, dims=dict.fromkeys(given, [None] * rank)).SerializeToString()


def session(source, provider=TORCH, **options):
    return ortlite.InferenceSession(source, providers=[(provider, options)])


@pytest.fixture
def called(monkeypatch):
    """The inputs' shapes of all calls of the loops, and whether they took the case."""
    found = []
    run = loops.Operator.__call__

    def noted(self, *inputs):
        y = run(self, *inputs)
        found.append((tuple(inputs[0].shape), y is not NotImplemented))
        return y

    monkeypatch.setattr(loops.Operator, "__call__", noted)
    return found


@pytest.mark.parametrize("activation", ["", "Relu", "LeakyRelu", "Tanh"])
@pytest.mark.parametrize("attributes", [
    {"pads": [1, 1, 1, 1]}, {"strides": [2, 1], "pads": [0, 1, 2, 1]}, {"group": 8, "pads": [2, 2, 2, 2]},
    {"group": 2, "strides": [2, 2]}, {"dilations": [2, 2], "auto_pad": "SAME_LOWER"},
], ids=str)  # fmt: skip
def test_it_convolves_as_the_kernel_does(attributes, activation, called):
    weights = {"W": floats(8, 8 // attributes.get("group", 1), 3, 3), "B": floats(8)}
    kind, named = "FusedConv" if activation else "Conv", {"activation": activation} if activation else {}
    params = {"activation_params": [0.1]} if activation == "LeakyRelu" else {}
    proto = source(weights, kind, **named, **params, **attributes)
    ours, kernel = session(proto), session(proto, "StrictExecutionProvider")
    for size in [(9, 7), (9, 7), (8, 8), (9, 7), (3, 12)]:
        for channels_last in (False, True):
            x = floats(2, 8, *size)
            x = x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2) if channels_last else x
            np.testing.assert_allclose(ours.run(None, {"X": x})[0], kernel.run(None, {"X": x})[0], rtol=1e-4, atol=1e-5)
    assert called
    assert all(taken for _, taken in called)


@pytest.mark.parametrize("by_mkl", [True, False])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_products_are_the_loops_where_mkl_is_slow(rows, by_mkl, called, monkeypatch):
    monkeypatch.setattr(products, "BY_MKL", by_mkl)
    x, b, bias = floats(rows, 600), floats(600, 700), floats(700)
    given = [*map(torch.from_numpy, (x, b, np.ascontiguousarray(b.T), bias))]
    taken, kept = loops.before(products.OVERRIDES), Derived(given[1:])
    xp = create(TORCH).xp
    with torch.no_grad():
        for _ in range(2):
            y = taken["", "MatMul", 1](xp, given[0], given[1], derived=kept)
            z = taken["", "Gemm", 7](xp, given[0], given[2], given[3], transB=1, derived=kept)
            if not by_mkl or rows == 40:  # for so few rows torch.matmul is left to answer
                np.testing.assert_allclose(y.numpy(), x @ b, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(z.numpy(), x @ b + bias, rtol=1e-4, atol=1e-4)
    assert [took for _, took in called] == [] if by_mkl else [True] * 4


def test_it_adds_a_residual():
    proto = source({"W": floats(8, 8, 3, 3), "B": floats(8)}, "FusedConv", "Z", activation="Relu", pads=[1, 1, 1, 1])
    ours, kernel = session(proto), session(proto, "StrictExecutionProvider")
    for _ in range(3):
        feed = {"X": floats(1, 8, 6, 5), "Z": floats(1, 8, 6, 5)}
        np.testing.assert_allclose(ours.run(None, feed)[0], kernel.run(None, feed)[0], rtol=1e-4, atol=1e-5)


def test_infinity_and_nan_stay_where_they_are():
    proto = source({"W": floats(8, 1, 3, 3)}, group=8)
    x = floats(1, 8, 9, 9)
    x[0, 2, 1, 1], x[0, 3, 7, 7] = np.inf, np.nan
    ours, kernel = session(proto), session(proto, "StrictExecutionProvider")
    for _ in range(3):
        np.testing.assert_allclose(ours.run(None, {"X": x})[0], kernel.run(None, {"X": x})[0], rtol=1e-4, atol=1e-5)


def test_a_signature_is_recorded_when_it_comes_again():
    operator = loops.Operator(loops_of("Conv"), (1, 2), (("group", 8),), torch.randn(8, 1, 3, 3), None)
    x = torch.randn(1, 8, 9, 9)
    expected = torch.nn.functional.conv2d(x, torch.from_numpy(operator.constants[0]), groups=8)
    for count in range(3):
        torch.testing.assert_close(operator(x), expected, rtol=1e-4, atol=1e-5)
        (made,) = operator.made.values()
        assert (made is not None) == (count > 0)
    for height in range(3, 3 + 2 * loops.SIGNATURES):
        operator(torch.randn(1, 8, height, 9))
    assert len(operator.made) == loops.SIGNATURES


@pytest.mark.parametrize("written", [True, False])
def test_no_circle_holds_the_weights(written, monkeypatch):
    if not written:
        monkeypatch.setattr(loops.Operator, "_recorded", lambda *given: None)
    operator = loops.Operator(loops_of("Conv"), (1, 2), (("group", 8),), torch.randn(8, 1, 3, 3), None)
    x = torch.randn(1, 8, 9, 9)
    results = [operator(x) for _ in range(3)]
    weights = weakref.ref(operator.constants[0])
    del operator
    assert weights() is None
    torch.testing.assert_close(results[0], results[2])


def test_what_is_written_down_for_a_layout_takes_others_too():
    operator = loops.Operator(loops_of("Conv"), (1, 2), (("group", 8),), torch.randn(8, 1, 3, 3), None)
    x = torch.randn(2, 8, 9, 9)
    last = x.contiguous(memory_format=torch.channels_last)
    for given in (x, last):
        run = operator.at([given])
        assert run is not operator
        for other in (x, last, last.requires_grad_()):
            torch.testing.assert_close(run(other), operator(x), rtol=1e-4, atol=1e-5)


def loops_of(op_type):
    from ortlite_numpy.compiled import table

    return table.OVERRIDES["", op_type, 1]


def test_what_the_loops_leave_is_torchs(called):
    few = source({"W": floats(4, 1, 3, 3)}, group=4)  # of so few channels one by one only some layouts are theirs
    volumes = source({"W": floats(6, 3, 3, 3, 3)}, rank=5)
    for one, x in ((few, floats(1, 4, 5, 5)), (volumes, floats(1, 3, 5, 5, 5))):
        ours, kernel = session(one), session(one, "StrictExecutionProvider")
        for _ in range(3):
            np.testing.assert_allclose(ours.run(None, {"X": x})[0], kernel.run(None, {"X": x})[0], rtol=1e-4, atol=1e-5)
    assert not called[-1][1]


def test_weights_that_are_computed_are_torchs(called):
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N,8,H,W] X, float[8,1,3,3] w) => (float[a,b,c,d] Y) { Y = Conv <group = 8> (X, w) }"""
    ours = session(parser.parse_model(text).SerializeToString())
    x, w = floats(1, 8, 5, 5), floats(8, 1, 3, 3)
    expected = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(w), groups=8)
    for _ in range(3):
        np.testing.assert_allclose(ours.run(None, {"X": x, "w": w})[0], expected, rtol=1e-4, atol=1e-5)
    assert not called


def test_an_option_leaves_all_to_torch(called, monkeypatch):
    proto, x = source({"W": floats(8, 1, 3, 3)}, group=8), floats(1, 8, 5, 5)
    without = session(proto, loops="0").run(None, {"X": x})[0]
    assert not called
    np.testing.assert_allclose(session(proto).run(None, {"X": x})[0], without, rtol=1e-4, atol=1e-5)
    assert called.pop()
    monkeypatch.setitem(vars(create("CPUExecutionProvider")), "compiles_ahead", False)
    assert loops.before({}) == {}


def test_gradients_are_torchs(called):
    fn = ortlite.function(source({"W": floats(8, 1, 3, 3)}, group=8), provider=TORCH)
    x = torch.randn(1, 8, 5, 5, requires_grad=True)
    fn(x).sum().backward()
    assert x.grad is not None
    assert not called
    with torch.no_grad():
        assert torch.func.vmap(fn)(torch.randn(2, 1, 8, 5, 5)).shape == (2, 1, 8, 3, 3)
        fn(x)  # of which nobody takes the gradient now
        fn(x)


def test_what_watches_operators_sees_torchs(called):
    from torch.fx.experimental.proxy_tensor import make_fx

    fn = ortlite.function(source({"W": floats(8, 1, 3, 3)}, group=8), provider=TORCH)
    with torch.no_grad():
        graph = make_fx(fn, tracing_mode="real")(torch.randn(1, 8, 5, 5))
    assert not called
    assert any("conv" in str(node.target) for node in graph.graph.nodes)


def test_many_threads_ask_at_once():
    proto = source({"W": floats(16, 16, 3, 3), "B": floats(16)}, pads=[1, 1, 1, 1])
    ours, kernel = session(proto), session(proto, "StrictExecutionProvider")
    feeds = [{"X": floats(1, 16, n, 24)} for n in (8, 16, 24, 32)]
    expected = [kernel.run(None, feed)[0] for feed in feeds]

    def same(i):
        return np.allclose(ours.run(None, feeds[i % 4])[0], expected[i % 4], rtol=1e-4, atol=1e-4)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(same, range(80)))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_as_many_threads_as_a_session_asks_for(count, monkeypatch):
    asked = []
    monkeypatch.setattr(loops, "Asked", lambda *given: asked.append(given[0]) or Asked(*given))
    options = ortlite.SessionOptions()
    options.intra_op_num_threads = count
    ours = ortlite.InferenceSession(source({"W": floats(8, 8, 3, 3)}), options, providers=[TORCH])
    x = floats(1, 8, 64, 64)
    results = [ours.run(None, {"X": x})[0] for _ in range(3)]
    assert set(asked) == {count}
    for y in results[1:]:
        np.testing.assert_array_equal(y, results[0])


def bytes_of(*shape):
    return R.integers(0, 256, shape, np.uint8)


def signed(*shape):
    return R.integers(-128, 128, shape, np.int8)


def number(value, dtype=np.float32):
    return np.array(value, dtype)


ZERO = number(7, np.uint8)
QUANTISED = [
    ("MatMulInteger", (bytes_of(4, 40),), (signed(40, 24), ZERO, number(3, np.int8)), {}),
    (
        "QLinearMatMul",
        (bytes_of(4, 40), number(0.1), ZERO),
        (signed(40, 24), number(0.2), number(3, np.int8), number(2.0), ZERO),
        {},
    ),
    ("ConvInteger", (bytes_of(1, 8, 9, 9),), (bytes_of(16, 8, 3, 3), ZERO, ZERO), {"pads": [1, 1, 1, 1]}),
    (
        "QLinearConv",
        (bytes_of(1, 8, 9, 9),),
        (number(0.1), ZERO, signed(16, 8, 3, 3), number(0.2), number(0, np.int8), number(3.0), ZERO),
        {},
    ),
    ("DynamicQuantizeLinear", (floats(6, 50),), (), {}),
    ("DynamicQuantizeLinear", (floats(60, 1000),), (), {}),
    ("QuantizeLinear", (floats(6, 50),), (number(0.05), ZERO), {}),
    ("DequantizeLinear", (bytes_of(6, 50),), (number(0.05), ZERO), {}),
    (
        "com.microsoft:QGemm",
        (bytes_of(4, 40), number(0.1), ZERO),
        (signed(40, 24), number(0.2), number(0, np.int8)),
        {},
    ),
    (
        "com.microsoft:QLinearAdd",
        (bytes_of(4, 40),),
        (number(0.1), ZERO, bytes_of(4, 40), number(0.1), ZERO, number(0.2), ZERO),
        {},
    ),
    (
        "com.microsoft:QLinearMul",
        (bytes_of(4, 40),),
        (number(0.1), ZERO, bytes_of(4, 40), number(0.1), ZERO, number(2.0), ZERO),
        {},
    ),
    ("com.microsoft:QLinearGlobalAveragePool", (bytes_of(2, 8, 5, 5),), (number(0.1), ZERO, number(0.1), ZERO), {}),
    (
        "com.microsoft:MatMulIntegerToFloat",
        (bytes_of(4, 40),),
        (signed(40, 24), number(0.1), number(0.2), ZERO, number(3, np.int8)),
        {},
    ),
    ("com.microsoft:DynamicQuantizeMatMul", (floats(4, 40),), (signed(40, 24), number(0.2), number(3, np.int8)), {}),
    (
        "com.microsoft:DynamicQuantizeMatMul",
        (floats(60, 1000),),
        (signed(1000, 24), number(0.2), number(3, np.int8)),
        {},
    ),
    (
        "com.microsoft:MatMulNBits",
        (floats(4, 64),),
        (bytes_of(24, 2, 16), np.abs(floats(48))),
        {"K": 64, "N": 24, "bits": 4, "block_size": 32},
    ),
    (
        "com.microsoft:DynamicQuantizeLSTM",
        (floats(5, 2, 8),),
        (
            signed(1, 8, 16),
            signed(1, 4, 16),
            None,
            None,
            None,
            None,
            None,
            number([0.02]),
            number([0], np.int8),
            number([0.02]),
            number([0], np.int8),
        ),
        {"hidden_size": 4},
    ),
]


@pytest.mark.parametrize(
    ("op_type", "given", "constants", "attributes"), QUANTISED, ids=lambda v: v if isinstance(v, str) else ""
)
def test_what_is_quantised_is_what_the_kernels_give(op_type, given, constants, attributes):
    domain, _, name = op_type.rpartition(":")
    kept = {f"c{i}": v for i, v in enumerate(constants) if v is not None}
    names = [f"x{i}" for i in range(len(given))] + [f"c{i}" if f"c{i}" in kept else "" for i in range(len(constants))]
    count = 3 if name in {"DynamicQuantizeLinear", "DynamicQuantizeLSTM"} else 1
    outputs = [f"y{i}" for i in range(count)]
    nodes = [node(name, names, outputs, domain=domain, **attributes)]
    feed = {f"x{i}": v for i, v in enumerate(given)}
    proto = model(nodes, feed, outputs, kept, opset=21, dims={x: [None] * v.ndim for x, v in feed.items()})
    ours, kernel = (session(proto.SerializeToString(), provider) for provider in (TORCH, "StrictExecutionProvider"))
    wanted = kernel.run(None, feed)
    for _ in range(3):
        for a, b in zip(ours.run(None, feed), wanted, strict=True):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            if a.dtype.kind == "f":
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
            else:
                np.testing.assert_array_equal(a, b)
