"""Products of TorchExecutionProvider with constant matrices, and recurrent networks: packed once by MKL or oneDNN."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

import ortlite
from ortlite.derived import Derived

torch = pytest.importorskip("torch")
products = pytest.importorskip("ortlite_torch.products")
recurrent = pytest.importorskip("ortlite_torch.recurrent")
R = np.random.default_rng(0)
HEAD = '<ir_version: 8, opset_import: ["": 17]>\n'


def floats(*shape):
    return R.standard_normal(shape).astype(np.float32)


def sessions(text, provider="TorchExecutionProvider", **weights):
    """The model on torch and by the kernels, `weights` its constants."""
    model = parser.parse_model(HEAD + text)
    model.graph.initializer.extend(onnx_tensor(array, name) for name, array in weights.items())
    source = model.SerializeToString()
    return [ortlite.InferenceSession(source, providers=[one]) for one in (provider, "StrictExecutionProvider")]


def onnx_tensor(array, name):
    from onnx import numpy_helper

    return numpy_helper.from_array(array, name)


@pytest.fixture
def packs(monkeypatch):
    """How often a matrix was packed."""
    found = []

    def noted(name):
        pack = getattr(products, name)

        def packed(B, *rest):
            found.append((name, *B.shape, *rest[1:2]))
            return pack(B, *rest)

        monkeypatch.setattr(products, name, packed)

    noted("packed")
    noted("packed_by_mkl")
    noted("transposed")
    return found


@pytest.fixture
def intel(monkeypatch):
    """A processor of Intel's, whatever this one is."""
    monkeypatch.setattr(products, "BY_MKL", True)


@pytest.mark.skipif(not products.PACKS, reason="torch has no oneDNN here")
@pytest.mark.parametrize("by_mkl", [False, products.HAS_MKL])
def test_a_constant_matrix_is_packed_once_whatever_comes(by_mkl, packs, monkeypatch):
    monkeypatch.setattr(products, "BY_MKL", by_mkl)
    text = "g (float[B,M,512] x) => (float[B,M,600] y) { y = MatMul(x, W) }"
    both = sessions(text, ("TorchExecutionProvider", {"loops": "0"}), W=floats(512, 600))
    for shape in [(1, 1), (2, 3), (1, 40), (0, 4), (3, 1), (2, 5), (1, 16), (1, 8), (1, 17), (1, 1)] * 3:
        x = floats(*shape, 512)
        x[..., :1, 0] = np.nan if shape == (2, 3) else 1
        ours, theirs = (session.run(None, {"x": x})[0] for session in both)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    few = [("packed_by_mkl", 512, 600, size) for size in (8, 16, 40)] if by_mkl else []
    assert sorted(packs) == [("packed", 512, 600, None), *few, *([("transposed", 512, 600)] if few else [])]


def test_a_matrix_that_is_computed_is_not_packed(packs):
    both = sessions("g (float[M,512] x, float[512,600] w) => (float[M,600] y) { y = MatMul(x, w) }")
    for _ in range(3):
        feed = {"x": floats(3, 512), "w": floats(512, 600)}
        ours, theirs = (session.run(None, feed)[0] for session in both)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert packs == []


@pytest.mark.skipif(not products.HAS_MKL, reason="torch has no MKL here")
@pytest.mark.usefixtures("intel")
@pytest.mark.parametrize("rows", [2, 3, 4, 8, 9, 16, 17, 200])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_few_rows_by_mkl(rows, turned, biased, packs):
    W, bias, a = floats(1100, 1024), floats(1024), floats(1, rows, 1100)
    a[0, 0, 3], a[0, 1, 4] = np.nan, np.inf
    given = torch.from_numpy(np.ascontiguousarray(W.T) if turned else W)
    kept = Derived([given])
    with torch.no_grad():
        y = products.packed_product(
            torch.from_numpy(a), given, torch.from_numpy(bias) if biased else None, turned, kept
        )
    packed = ["packed_by_mkl"] if rows > products.ROWS else [] if turned else ["transposed"]
    assert [name for name, *_ in packs] == packed
    with np.errstate(invalid="ignore"):
        wanted = a.astype(float) @ W + (bias if biased else 0)
    np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.skipif(not products.HAS_MKL, reason="torch has no MKL here")
@pytest.mark.usefixtures("intel")
def test_the_first_number_of_rows_is_mkls(packs):
    """What it has packed is for one number; oneDNN's serves the others."""
    B = torch.from_numpy(floats(700, 512))
    kept = Derived([B])
    with torch.no_grad():
        for rows in (30, 20, 30, 40, 1000):
            a = torch.from_numpy(floats(rows, 700))
            y = products.packed_product(a, B, None, False, kept)
            np.testing.assert_allclose(y.numpy(), a.numpy() @ B.numpy(), rtol=1e-4, atol=1e-3)
    assert packs == [("packed_by_mkl", 700, 512, 30), ("packed", 700, 512, None)]
    assert kept.nbytes >= 2 * B.nbytes


@pytest.mark.skipif(not products.HAS_MKL, reason="torch has no MKL here")
@pytest.mark.usefixtures("intel")
@pytest.mark.parametrize(("depth", "by"), [(64, "packed"), (128, "packed_by_mkl")])
def test_sums_of_128_terms_are_mkls(depth, by, packs):
    """As those of the last layer of a small model; oneDNN's are slower by a fifth."""
    B, a = torch.from_numpy(floats(depth, 5000)), torch.from_numpy(floats(2, 12, depth))
    a[0, 0, 3], a[1, 2, 4] = torch.nan, torch.inf
    with torch.no_grad():
        y = products.packed_product(a, B, None, False, Derived([B]))
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(y.numpy(), a.numpy().astype(float) @ B.numpy(), rtol=1e-4, atol=1e-3)
    assert [name for name, *_ in packs] == [by]


@pytest.mark.skipif(not products.HAS_MKL, reason="torch has no MKL here")
@pytest.mark.usefixtures("intel")
def test_rows_of_zeros_are_added_only_where_the_matrix_is_large(packs):
    a, B = torch.from_numpy(floats(5, 700)), torch.from_numpy(floats(700, 512))
    with torch.no_grad():
        assert products.packed_product(a, B, None, False, Derived([B])) is NotImplemented
    assert packs == []


@pytest.mark.parametrize("bias", [None, (), (1,), (640,), (1, 640), (5, 1), (5, 640)])
@pytest.mark.parametrize(
    "attributes",
    [{}, {"transB": 1}, {"transA": 1}, {"beta": 0.5}, {"beta": 0.0, "transB": 1}, {"alpha": 2.0}, {"beta": 1.0}],
)
@pytest.mark.parametrize("depth", [8, 512])
def test_gemm_adds_what_it_is_given(bias, attributes, depth):
    text = ", ".join(f"{name}: {'int' if isinstance(v, int) else 'float'} = {v}" for name, v in attributes.items())
    given = f"<{text}>" if text else ""
    b = floats(*((640, depth) if attributes.get("transB") else (depth, 640)))
    weights = {"B": b} if bias is None else {"B": b, "C": floats(*bias)}
    rows = f"{depth},5" if attributes.get("transA") else f"5,{depth}"
    operands = ", ".join(["A", *weights])
    both = sessions(f"g (float[{rows}] A) => (float[5,640] y) {{ y = Gemm {given} ({operands}) }}", **weights)
    a = floats(*map(int, rows.split(",")))
    for _ in range(3):
        ours, theirs = (session.run(None, {"A": a})[0] for session in both)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 8), (0, 3)])
@pytest.mark.parametrize("depth", [0, 8, 512])
def test_a_product_and_a_row(shape, depth):
    text = f"g (float[M,N,{depth}] A) => (float[M,N,640] y) {{ a = MatMul(A, B)  y = Add(a, C) }}"
    both = sessions(text, B=floats(depth, 640), C=floats(640))
    assert [n.op_type for n in both[0].explain().nodes] == ["Linear"]
    a = floats(*shape, depth)
    for _ in range(3):
        ours, theirs = (session.run(None, {"A": a})[0] for session in both)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_derivatives_flow_through_the_kernel():
    model = parser.parse_model(HEAD + "g (float[M,512] x) => (float[M,600] y) { y = MatMul(x, W) }")
    w = floats(512, 600)
    model.graph.initializer.append(onnx_tensor(w, "W"))
    fn = ortlite.function(model.SerializeToString())
    x = torch.randn(3, 512, requires_grad=True)
    fn(x).sum().backward()
    np.testing.assert_allclose(x.grad, np.broadcast_to(w.sum(1), (3, 512)), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert torch.func.vmap(fn)(torch.randn(2, 3, 512)).shape == (2, 3, 600)


@pytest.fixture(params=["0", "1"], ids=["torch", "loops"])
def provider(request):
    """By what networks are run."""
    if request.param == "1":
        pytest.importorskip("numba")
    return "TorchExecutionProvider", {"loops": request.param}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_a_network_takes_sequences_of_all_lengths(direction, provider):
    count, hidden = (2 if direction == "bidirectional" else 1), 6
    weights = {"W": floats(count, 4 * hidden, 5), "R": floats(count, 4 * hidden, hidden)}
    weights["B"] = floats(count, 8 * hidden)
    both = sessions(
        f"g (float[N,T,5] t, float[{count},N,{hidden}] h) => (float[T,{count},N,{hidden}] y, float[a,b,c] last, "
        f"float[d,e,f] cell) {{ x = Transpose <perm = [1, 0, 2]> (t) "
        f'y, last, cell = LSTM <direction = "{direction}", hidden_size = {hidden}> '
        "(x, W, R, B, , h) }",
        provider,
        **weights,
    )
    for time, batch in [(3, 1), (7, 2), (1, 1), (2, 5), (11, 1), (4, 3), (3, 1)] * 2:
        feed = {"t": floats(batch, time, 5), "h": floats(count, batch, hidden)}
        for ours, theirs in zip(*(session.run(None, feed) for session in both), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize(("op_type", "gates", "more"), [
    ("LSTM", 4, {}), ("GRU", 3, {"linear_before_reset": 1}), ("RNN", 1, {}), ("RNN", 1, {"activations": "Relu"}),
])  # fmt: skip
def test_networks_agree_with_the_kernel(op_type, gates, more, layout, direction, provider):
    count, hidden = (2 if direction == "bidirectional" else 1), 6
    state = f"float[N,{count},{hidden}] h" if layout else f"float[{count},N,{hidden}] h"
    given = {"hidden_size": hidden, "layout": layout, "direction": f'"{direction}"', **more}
    if "activations" in more:
        given["activations"] = "[" + ", ".join(['"Relu"'] * count) + "]"
    text = ", ".join(f"{name} = {value}" for name, value in given.items())
    model = parser.parse_model(
        HEAD + f"g (float[M,T,5] x, {state}) => (float[a,b,c,d] y, float[e,f,i] last) "
        f"{{ y, last = {op_type} <{text}> (x, W, R, B, , h) }}"
    )
    weights = {"W": floats(count, gates * hidden, 5), "R": floats(count, gates * hidden, hidden)}
    weights["B"] = floats(count, 2 * gates * hidden)
    model.graph.initializer.extend(onnx_tensor(array, name) for name, array in weights.items())
    source = model.SerializeToString()
    ours = ortlite.InferenceSession(source, providers=[provider])
    kernel = ortlite.InferenceSession(source, providers=["StrictExecutionProvider"])
    for time, batch in [(4, 2)] * 3 + [(1, 1), (5, 3), (4, 2), (3, 60)]:
        feed = {"x": floats(*((batch, time) if layout else (time, batch)), 5)}
        feed["h"] = floats(*((batch, count) if layout else (count, batch)), hidden)
        for a, b in zip(ours.run(None, feed), kernel.run(None, feed), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
