"""compile=1: what goes to torch.compile, and what is said of it."""

from __future__ import annotations

import gc
import re

import numpy as np
import pytest
from onnx import numpy_helper, parser

import ortlite
from ortlite.api.explain import WAYS

torch = pytest.importorskip("torch")
products = pytest.importorskip("ortlite_torch.products")
pytest.importorskip("torch._inductor.cpp_builder")
W = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[N,3] x) => (float[N,4] y) {
    m = MatMul(x, W)  s = Shape(m)  f = Relu(m)  t = Transpose(f)  u = Transpose(t)  y = Reshape(u, s) }"""


def source():
    model = parser.parse_model(TEXT)
    model.graph.initializer.append(numpy_helper.from_array(W, "W"))
    return model.SerializeToString()


@pytest.fixture
def given(monkeypatch):
    """What torch.compile is given; it gives it back."""
    from torch._inductor import cpp_builder

    found = []
    monkeypatch.setattr(torch, "compile", lambda module, **options: found.append((module, options)) or module)
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", lambda: "g++")
    return found


def provider(name, compile="always"):
    """One of its own: providers are shared by their options."""
    from ortlite import provider

    provider._shared.cache_clear()
    return [(name, {"compile": compile})]


def test_a_small_graph_is_one_region_with_its_weights_in_it(given):
    session = ortlite.InferenceSession(source(), providers=provider("TorchExecutionProvider"))
    assert session.explain().compilations == ()
    for rows in (2, 2, 2, 5, 5, 2):
        x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) - 3
        np.testing.assert_allclose(session.run(None, {"x": x})[0], np.maximum(x @ W, 0), rtol=1e-5, atol=1e-5)
    assert len(given) == 2  # one a signature
    for module, options in given:
        assert [tuple(buffer.shape) for buffer in module.buffers()] == [(3, 4)]
        assert options["dynamic"] is False
        assert options["backend"].options["freezing"] is True
    explained = session.explain()
    assert len(explained.compilations) == 2
    assert re.search(r"2 regions compiled in \d", str(explained))


@pytest.mark.parametrize("compile", ["1", "always"])
def test_a_cache_that_grows_compiles_nothing(given, compile):
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[1, 3] x, float[N, 4] past) => (float[M, 4] present,
    float[1, 4] y) { m = MatMul(x, W)  present = Concat<axis = 0>(past, m)  e = ReduceMax<keepdims = 1>(present)
    y = Mul(e, m) }"""
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(W, "W"))
    session = ortlite.InferenceSession(model.SerializeToString(), providers=provider("TorchExecutionProvider", compile))
    x = np.ones((1, 3), np.float32)
    for _ in range(4):
        past = np.zeros((0, 4), np.float32)
        for _ in range(40):
            before = past
            past, y = session.run(None, {"x": x, "past": past})
            np.testing.assert_array_equal(past, np.concatenate([before, x @ W]))
            np.testing.assert_allclose(y, past.max() * (x @ W), rtol=1e-5)
    assert session.explain().compilations == ()
    for _ in range(4):  # as where the same prompt comes again
        session.run(None, {"x": x, "past": past})
    assert len(session.explain().compilations) == 1


def test_what_cannot_be_called_from_cpp_is_called_from_python(monkeypatch):
    from ortlite_torch.region import Inductor

    compiled, tried = Inductor.__call__, []

    def refuses(self, *given):
        tried.append(self.options.get("cpp_wrapper", False))
        if tried[-1]:
            raise NotImplementedError("no such call from C++")
        return compiled(self, *given)

    monkeypatch.setattr(Inductor, "__call__", refuses)
    session = ortlite.InferenceSession(source(), providers=provider("TorchExecutionProvider"))
    for i in range(4):
        x = np.arange(6, dtype=np.float32).reshape(2, 3) - i
        np.testing.assert_allclose(session.run(None, {"x": x})[0], np.maximum(x @ W, 0), rtol=1e-5, atol=1e-5)
    assert tried == [True, False]


def test_what_torch_compile_refuses_runs_as_it_is(given, monkeypatch, caplog):
    from torch._dynamo.exc import TorchDynamoException

    def refuses(*arrays):
        raise TorchDynamoException("inductor raised:\nno such thing\nand its stack")

    monkeypatch.setattr(torch, "compile", lambda module, **options: refuses)
    session = ortlite.InferenceSession(source(), providers=provider("TorchExecutionProvider"))
    for i in range(4):
        x = np.arange(6, dtype=np.float32).reshape(2, 3) - i
        np.testing.assert_allclose(session.run(None, {"x": x})[0], np.maximum(x @ W, 0), rtol=1e-5, atol=1e-5)
    (record,) = [r for r in caplog.records if "torch.compile says" in r.getMessage()]
    assert record.getMessage().endswith("inductor raised: no such thing")


@pytest.mark.skipif(not hasattr(torch.compiler, "skip_all_guards_unsafe"), reason="this torch has no such option")
def test_a_call_looks_at_its_arguments_and_at_no_code():
    from ortlite_torch.region import looked_at, region

    scale, kept = {"by": 2.0}, []

    def noted(guards):
        kept.append([g.orig_guard.name for g, keep in zip(guards, looked_at(guards), strict=True) if keep])
        return looked_at(guards)

    made = region(lambda a, b, w: a @ w * scale["by"] + b, {2: torch.ones(3, 3)})
    compiled = torch.compile(made, backend="eager", dynamic=False, options={"guard_filter_fn": noted})
    x, y = torch.arange(9.0).reshape(3, 3), torch.ones(3, 3)
    for a, b in ((x, y), (x, x), (x.T, y), (x[:, :1].expand(3, 3), x.T)):  # other strides, one tensor twice
        torch.testing.assert_close(compiled(a, b), a @ torch.ones(3, 3) * 2 + b)
    for names in kept:
        assert {"L['arrays'][0]", "L['arrays'][1]", ""} <= set(names)
        assert not [name for name in names if name.startswith(("G[", "L['self']"))]


@pytest.mark.parametrize("fastest", ["compiled", "called", "NumPy"])
def test_the_fastest_way_stays(given, fastest, monkeypatch):
    """What is compiled, torch's own calls, or NumPy's loops, where there are any."""
    from ortlite import race
    from ortlite.provider import create

    loops = create("CPUExecutionProvider").compiles_ahead
    ways = ["compiled", "called", *["NumPy"] * loops]
    if fastest not in ways:
        pytest.skip("needs ortlite[fast]")
    timed = []

    def seconds(way, inputs):
        way(*inputs)
        timed.append(way)
        return 1.0 if ways[(len(timed) - 1) % len(ways)] == fastest else 1.4

    session = ortlite.InferenceSession(source(), providers=provider("TorchExecutionProvider", "1"))
    x = np.arange(6, dtype=np.float32).reshape(2, 3) - 3
    x[0, 0] = np.nan
    wanted = ortlite.InferenceSession(source(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    monkeypatch.setattr(race, "_seconds", seconds)
    called = []
    for _ in range(5):
        np.testing.assert_allclose(session.run(None, {"x": x})[0], wanted, rtol=1e-5, atol=1e-5)
        if given and not called:
            given[0][0].register_forward_hook(lambda *_: called.append(1))
    explained = session.explain()
    assert len(timed) == race.ROUNDS * len(ways)
    assert explained.races == (fastest,)
    assert f"{WAYS[fastest]} at 1 of 1 signatures" in str(explained)
    assert explained.stood_in == 0
    before = len(called)
    session.run(None, {"x": x})
    assert len(called) == before + (fastest == "compiled")
    from_torch = session.run(None, {"x": torch.from_numpy(x)})[0]
    np.testing.assert_allclose(np.asarray(from_torch), wanted, rtol=1e-5, atol=1e-5)


def test_the_first_call_after_another_way_decides_nothing(monkeypatch):
    """Threads that are still awake disturb it."""
    from ortlite import race

    ways, calls, before = {"one": lambda x: x + 1, "other": lambda x: x + 2}, [], []

    def seconds(way, inputs):
        took = 0.012 if way is ways["one"] else 0.008 if before == [way] else 0.02
        before[:] = [way]
        return took

    monkeypatch.setattr(race, "_seconds", seconds)
    raced = race.Race(lambda: ways, lambda name, inputs: calls.append((name, *inputs)))
    assert [raced(1), raced(2)] == [3, 4]
    assert calls == [("other", 1)]


@pytest.mark.parametrize("compile", ["1", "always"])
def test_without_a_compiler_it_says_so(monkeypatch, compile):
    from torch._inductor import cpp_builder, exc

    def lacking():
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", lacking)
    with pytest.raises(
        (RuntimeError, ortlite.capi.onnxruntime_pybind11_state.Fail), match=r"compile=1 .* needs a C\+\+ compiler"
    ):
        ortlite.InferenceSession(source(), providers=provider("TorchExecutionProvider", compile), enable_fallback=0)


def images(activations):
    """Convolutions of single elements, each with something behind it."""
    text = "".join(
        f" c{i} = Conv(x, W{i}) s{i} = Add(c{i}, z) y{i} = {kind.format(i=i)}" for i, kind in enumerate(activations)
    )
    outputs = ", ".join(f"float[1,8,4,4] y{i}" for i in range(len(activations)))
    model = parser.parse_model(f"""<ir_version: 9, opset_import: ["": 20]> g (float[1,8,4,4] x, float[1,8,4,4] z)
    => ({outputs}) <float low = {{-0.5}}, float high = {{0.7}}> {{ {text} }}""")
    for i in range(len(activations)):
        weights = np.eye(8, dtype=np.float32).reshape(8, 8, 1, 1) * (1 + i)  # the same ones would be computed once
        model.graph.initializer.append(numpy_helper.from_array(weights, f"W{i}"))
    return model.SerializeToString()


@pytest.fixture
def compiler():
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        pytest.skip("no C++ compiler")


@pytest.fixture
def seen(monkeypatch):
    """The nodes of every graph that inductor compiles, each as its kind and what it calls; none is found on disk."""
    from torch._inductor import config

    from ortlite_torch.epilogues import Apart

    found, real = [], Apart.__call__

    def looks(self, graph):
        real(self, graph)
        found.append([(node.op, str(node.target)) for node in graph.nodes])

    monkeypatch.setattr(Apart, "__call__", looks)
    with config.patch(fx_graph_cache=False):
        yield found


def test_relu_and_its_kin_are_not_fused_into_onednns(compiler, seen):
    """Which make numbers of NaN; and weights are constants, or there would be nothing to fuse."""
    kinds = ["Relu(c{i})", "Relu(s{i})", "Clip(c{i}, low, high)", "Gelu(c{i})", "HardSwish(c{i})", "LeakyRelu(c{i})"]
    kinds += ["HardSigmoid<alpha = 0.16666667, beta = 0.5>(c{i})", "Sigmoid(c{i})", "Mul(c{i}, z)", "Tanh(s{i})"]
    source = images(kinds)
    x = np.linspace(-4, 4, 128, dtype=np.float32).reshape(1, 8, 4, 4)
    # 3e38 becomes infinity in most of the convolutions; infinity itself would be NaN at once, by weights of 0
    x[0, 0, 0, 1], x[0, 0, 1, 1], x[0, :, 1, 2], x[0, :, 2, 0] = np.nan, -0.0, 3e38, -30
    feed = {"x": x, "z": np.zeros_like(x)}
    compiled, plain = (
        ortlite.InferenceSession(source, providers=p)
        for p in (provider("TorchExecutionProvider"), ["CPUExecutionProvider"])
    )
    wanted = plain.run(None, feed)
    for _ in range(3):
        found = compiled.run(None, feed)
        for kind, ours, theirs in zip(kinds, found, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=kind)
    (nodes,) = seen
    assert sum(op == "placeholder" for op, _ in nodes) == 2
    assert any("mkldnn" in target for _, target in nodes) or not torch.backends.mkldnn.is_available()


@pytest.mark.parametrize(
    ("precision", "by_mkl"), [("float32", False), ("float32", products.HAS_MKL), ("bfloat16", False)]
)
def test_what_follows_products_where_torch_compiles(compiler, precision, by_mkl, monkeypatch, seen):
    """Layers of rows with an activation or a residual behind them, of odd numbers too, each in lines of its own."""
    monkeypatch.setattr(products, "BY_MKL", by_mkl)
    lines = ["Relu(p)", "Relu(s)", "Clip(p, low, high)", "Gelu(p)", 'Gelu<approximate = "tanh">(p)', "HardSwish(p)"]
    lines += ["LeakyRelu(p)", "Sigmoid(p)", "Tanh(s)", "Mul(p, z)", "HardSigmoid(p)", "Identity(s)"]
    text = "".join(
        f" p{i} = Gemm(x, W{i}, b) s{i} = Add(p{i}, z) y{i} = {line.replace('(p', f'(p{i}').replace('(s', f'(s{i}')}"
        for i, line in enumerate(lines)
    )
    outputs = ", ".join(f"float[24,32] y{i}" for i in range(len(lines)))
    model = parser.parse_model(f"""<ir_version: 9, opset_import: ["": 20]> g (float[24,32] x, float[24,32] z)
    => ({outputs}) <float low = {{-0.5}}, float high = {{0.7}}> {{ {text} }}""")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(32, np.float32), "b"))
    draw = np.random.default_rng(3)
    for i in range(len(lines)):  # small whole numbers: exact in bfloat16
        weights = np.eye(32, dtype=np.float32) * (1 + i) + draw.integers(0, 2, (32, 32)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weights, f"W{i}"))
    x = draw.integers(-4, 5, (24, 32)).astype(np.float32) / 4
    x[0, 0], x[1, 1], x[2, 2], x[3], x[4] = np.nan, np.inf, -np.inf, -30, 1e30
    z = draw.integers(-4, 5, (24, 32)).astype(np.float32)
    z[5, 0], z[6, 0] = np.nan, np.inf
    source = model.SerializeToString()
    options = {"compile": "always", "precision": precision}
    [(name, _)] = provider("TorchExecutionProvider")
    compiled = ortlite.InferenceSession(source, providers=[(name, options)])
    with np.errstate(invalid="ignore", over="ignore"):
        wanted = ortlite.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, {"x": x, "z": z})
    for _ in range(3):
        found = compiled.run(None, {"x": x, "z": z})
        for line, ours, theirs in zip(lines, found, wanted, strict=True):
            np.testing.assert_allclose(
                ours, theirs, rtol=1e-2 if precision == "bfloat16" else 1e-4, atol=1e-4, err_msg=line
            )
    assert len(compiled.explain().compilations) == 1
    (nodes,) = seen
    called = {target for _, target in nodes}
    assert ("mkl._mkl_linear" in called) == by_mkl
    assert ("mkldnn._linear_pointwise.default" in called) == (products.PACKS and not by_mkl)


@pytest.mark.parametrize("shape", [(5, 64), (2, 3, 64), (64,), (3, 0)])
def test_integers_times_constants_are_compiled(compiler, caplog, shape):
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-99, 99, s).astype(np.int32) for s in (shape, (shape[-1], 32)))
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
        g (int32[{",".join(map(str, shape))}] x) => (int32[{",".join("N" * len(shape))}] y)
        {{ m = MatMul(x, W)  y = Neg(m) }}""")
    model.graph.initializer.append(numpy_helper.from_array(w, "W"))
    session = ortlite.InferenceSession(model.SerializeToString(), providers=provider("TorchExecutionProvider"))
    for _ in range(3):
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], -(x @ w))
    assert not [record.getMessage() for record in caplog.records if record.name == "ortlite"]


GROWS = """<ir_version: 8, opset_import: ["": 17]>
    g (float[P,2] past, float[1,2] x) => (float[Q,2] present, float[1,2] y)
    <int64[1] zero = {0}> { present = Concat<axis = 0>(past, x)  e = Exp(present)  y = ReduceSum(e, zero) }"""


@pytest.mark.parametrize(
    ("options", "stands_in"),
    [({}, True), ({"stand_in": "0"}, False), ({"loops": "0"}, False), ({"precision": "bfloat16"}, False)],
)
def test_numpys_loops_answer_where_nothing_is_compiled(compiler, options, stands_in, monkeypatch):
    from ortlite.provider import create
    from ortlite_torch import borders

    (name, own), *_ = provider("TorchExecutionProvider", "1")
    session = ortlite.InferenceSession(parser.parse_model(GROWS).SerializeToString(), providers=[(name, own | options)])
    past, carried, from_numpy = np.zeros((0, 2), np.float32), [], borders.from_numpy
    monkeypatch.setattr(borders, "from_numpy", lambda *given: carried.append(given) or from_numpy(*given))
    for n in range(6):
        before, x = past, np.full((1, 2), n / 8, np.float32)
        past, y = session.run(None, {"past": past, "x": x})
        np.testing.assert_array_equal(past, np.concatenate([before, x]))
        np.testing.assert_allclose(y, np.exp(past).sum(0, keepdims=True), rtol=1e-6)
    explained = session.explain()
    assert explained.compilations == ()
    stood_in = stands_in and create("CPUExecutionProvider").compiles_ahead
    assert explained.stood_in == 6 * stood_in
    assert bool(carried) is not stood_in


def test_a_function_of_growing_inputs_has_gradients_under_compile(compiler):
    (name, options), *_ = provider("TorchExecutionProvider", "1")
    fn = ortlite.function(parser.parse_model(GROWS).SerializeToString(), provider=(name, options))
    for n in range(1, 5):
        past = torch.zeros(n, 2, requires_grad=True)
        fn(past, torch.ones(1, 2))[1].sum().backward()
        np.testing.assert_allclose(past.grad.numpy(), np.ones((n, 2)))


@pytest.mark.parametrize("size", [8, 300])
def test_attention_in_a_short_type_is_part_of_its_region(compiler, size):
    from torch._dynamo.utils import counters

    model = parser.parse_model("""<ir_version: 10, opset_import: ["": 23]>
        g (float[1,4,N,64] q, float[1,4,N,64] k, float[1,4,N,64] v, float[N,N] m) => (float[1,4,N,64] y)
        { s = Sin(q)  a = Attention(s, k, v, m)  y = Cos(a) }""")
    before, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    (name, options), *rest = provider("TorchExecutionProvider")
    session = ortlite.InferenceSession(
        model.SerializeToString(), providers=[(name, options | {"precision": "bfloat16"}), *rest]
    )
    rng = np.random.default_rng(0)
    feed = {n: rng.standard_normal((1, 4, size, 64)).astype(np.float32) for n in "qkv"}
    feed["m"] = np.zeros((size, size), np.float32)
    wanted = ortlite.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)
    for _ in range(3):
        np.testing.assert_allclose(session.run(None, feed)[0], wanted[0], atol=0.02)
    assert counters["stats"]["unique_graphs"] == before + 1
    assert sum(counters["graph_break"].values()) == breaks


def test_a_process_compiles_any_number_of_regions(compiler):
    from torch._dynamo.utils import counters

    compiled = counters["stats"]["unique_graphs"]
    for number in range(10):
        model = parser.parse_model(f"""<ir_version: 9, opset_import: ["": 20]> g (float[N] x) => (float[N] y)
        <float c = {{{number}.0}}> {{ s = Add(x, c)  y = Sin(s) }}""")
        session = ortlite.InferenceSession(model.SerializeToString(), providers=provider("TorchExecutionProvider"))
        x = np.arange(3, dtype=np.float32)
        for _ in range(2):
            np.testing.assert_allclose(session.run(None, {"x": x})[0], np.sin(x + number), rtol=1e-5)
    assert counters["stats"]["unique_graphs"] == compiled + 10


def test_weights_go_with_the_session_that_compiled_them(compiler):
    def tensors():
        for _ in range(2):  # what goes in the first may let go of more
            gc.collect()
        return sum(type(value) is torch.Tensor and value.numel() == 123 * 57 for value in gc.get_objects())

    model = parser.parse_model("""<ir_version: 9, opset_import: ["": 20]> g (float[N,123] x) => (float[N,57] y)
    { m = MatMul(x, W)  y = Sigmoid(m) }""")
    weights = np.random.default_rng(0).standard_normal((123, 57)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "W"))
    before = tensors()
    session = ortlite.InferenceSession(model.SerializeToString(), providers=provider("TorchExecutionProvider"))
    for rows in (2, 2, 5, 5):
        session.run(None, {"x": np.ones((rows, 123), np.float32)})
    assert len(session.explain().compilations) == 2
    assert tensors() > before
    del session
    assert tensors() == before


class Called(torch.nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, *tensors):
        return self.fn(*tensors)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("traced", ["compiled", "exported"])
def test_keys_that_causality_hides_count_where_torch_compiles(bad, traced):
    """As in ONNX, where -inf is added to the scores: NaN and infinity of them become NaN."""
    text = """<ir_version: 10, opset_import: ["": 23]>
    g (float[1,2,6,4] q, float[1,1,6,4] k, float[1,1,6,4] v) => (float[1,2,6,4] y)
    { y = Attention<is_causal=1>(q, k, v) }"""
    fn = ortlite.function(parser.parse_model(text).SerializeToString())
    draw = np.random.default_rng(0)
    q, k, v = (draw.standard_normal((1, heads, 6, 4)).astype(np.float32) for heads in (2, 1, 1))
    tensors = tuple(map(torch.from_numpy, (q, k, v)))
    if traced == "compiled":
        made = torch.compile(fn, fullgraph=True, backend="aot_eager")
    else:
        made = torch.export.export(Called(fn), tensors).module()
    for place in (None, 5, 2):  # the tensors have NumPy's memory
        if place is not None:
            k[0, 0, place, 1] = bad
        with np.errstate(invalid="ignore"):
            scores = q @ k.swapaxes(2, 3) * np.float32(0.5)
            scores += np.where(np.tri(6, dtype=bool), np.float32(0), -np.float32(np.inf))
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            wanted = weights / weights.sum(-1, keepdims=True) @ v
        np.testing.assert_allclose(made(*tensors), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("text", "shapes"), [
    (("(float[B,2,S,4] q, float[B,1,S,4] k, float[B,1,S,4] v) => (float[B,2,S,4] y) "
     "{ y = Attention <is_causal = 1> (q, k, v) }"),
     [(1, 2, 6, 4), (1, 1, 6, 4), (1, 1, 6, 4)]),
    ("(float[B,2,S,4] x, float[B,S,2] c, float[B,S,2] s) => (float[B,2,S,4] y) { y = RotaryEmbedding(x, c, s) }",
     [(2, 2, 6, 4), (2, 6, 2), (2, 6, 2)]),
    (("(float[T,N,5] x, float[1,16,5] w, float[1,16,4] r) => (float[T,1,N,4] y) "
     "{ y = LSTM <hidden_size = 4> (x, w, r) }"),
     [(3, 2, 5), (1, 16, 5), (1, 16, 4)]),
], ids=["attention", "rotary", "lstm"])  # fmt: skip
@pytest.mark.parametrize("whole", [False, True])
def test_a_function_may_be_compiled_for_all_lengths(text, shapes, whole):
    """Lengths that torch.compile traces are no numbers: they have no hash, and their comparisons are no bools."""
    fn = ortlite.function(parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]> g {text}').SerializeToString())
    given = [torch.randn(*shape) for shape in shapes]
    torch._dynamo.reset()  # which compiles a function's code eight times a process
    made = torch.compile(fn, fullgraph=whole, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(made(*given), fn(*given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("fn", "short"), [
    (lambda a, b: (a @ b, a + 1), True),
    (lambda a, b: (b - a,), True),  # in the other order
    (lambda a, b: (a * 2, (a * 2)), True),
    (lambda a, b: (a + b, b), False),  # Dynamo hands an argument back by itself
    (lambda a, b: [a + b], False),
])  # fmt: skip
def test_later_calls_go_past_dynamo(fn, short, monkeypatch):
    from ortlite_torch.region import Inductor, frozen_at_first, region

    compile_fx = pytest.importorskip("torch._inductor.compile_fx")
    monkeypatch.setattr(compile_fx, "compile_fx", lambda graph, inputs, config_patches: graph.forward)
    inductor, plain = Inductor({}), region(fn, {})
    through = torch.compile(plain, dynamic=False, backend=inductor)
    dynamo = []

    def counted(*arrays):
        dynamo.append(arrays)
        return through(*arrays)

    call = frozen_at_first(counted, plain, inductor)
    a, b = torch.randn(3, 3), torch.randn(3, 3)
    with torch.no_grad():
        for x, y, calls in [(a, b, 1), (b, a, 1 if short else 2), (a.T, b, 2 if short else 3)]:
            for got, wanted in zip(call(x, y), fn(x, y), strict=True):
                torch.testing.assert_close(got, wanted)
            assert len(dynamo) == calls
    assert inductor.calls is None  # no array is held
    x = torch.randn(3, 3, requires_grad=True)
    sum(y.sum() for y in call(x, b)).backward()
    assert x.grad is not None


@pytest.mark.parametrize("places", ["aab", "aba", "baa", "aaa"])
def test_what_the_first_call_gave_twice_may_differ_later(places):
    from ortlite_torch.region import Inductor, frozen_at_first, region

    inductor, plain = Inductor({}), region(lambda x, y, z: (x - 2 * y, x * z), {})
    call = frozen_at_first(torch.compile(plain, dynamic=False, backend=inductor), plain, inductor)
    a, b, c = torch.randn(3, 3, 3)
    with torch.no_grad():
        for given in ([{"a": a, "b": b}[place] for place in places], (a, b, c), (c, a, b), (b, b, c)):
            for got, wanted in zip(call(*given), plain(*given), strict=True):
                torch.testing.assert_close(got, wanted)
