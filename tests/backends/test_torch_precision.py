"""The option `precision` of TorchExecutionProvider: products in bfloat16, all else in float32."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper, parser

import ortlite
from ortlite.derived import Derived
from ortlite.provider import create

torch = pytest.importorskip("torch")
precision = pytest.importorskip("ortlite_torch.precision")
NAME = "TorchExecutionProvider"
SHORT = create(NAME, {"precision": "bfloat16"})
LIMITS = precision.PRODUCT, precision.ATTENTION
MS = "com.microsoft"
BOUND = 3.1 * 2**-8  # of the sum of the sizes of the terms: three roundings to 8 bits and float32's own
HEAD = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>\n'


def session(text, options=None, **weights):
    model = parser.parse_model(HEAD + text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return ortlite.InferenceSession(model.SerializeToString(), providers=[(NAME, options or {"precision": "bfloat16"})])


@pytest.fixture(autouse=True, scope="module")
def small_ones_too():
    """Small products are short, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "PRODUCT", 0)
        patch.setattr(precision, "ATTENTION", 0)
        yield


def floats(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(key, *args, **keywords):
    with SHORT.context():
        given_ = [SHORT.from_numpy(a) if isinstance(a, np.ndarray) else a for a in args]
        return SHORT.overrides[key](SHORT.xp, *given_, **keywords)


def near(y, exact, sizes):
    """Within bfloat16's bounds, and not float32's own product."""
    assert y.dtype == torch.float32
    error = np.abs(y.numpy() - exact)
    assert (error <= BOUND * sizes + 1e-30).all()
    return error


@given(st.integers(0, 9), st.integers(1, 40), st.integers(1, 70), st.integers(1, 30), st.booleans())
def test_products(seed, rows, depth, columns, constant):
    a, b = floats(seed, 2, rows, depth), floats(seed + 1, depth, columns)
    tensors = [SHORT.from_numpy(x) for x in (a, b)]
    more = {"derived": Derived([tensors[1]])} if constant else {}
    y = run(("", "MatMul", 1), *tensors, **more)
    near(y, a.astype(float) @ b, np.abs(a).astype(float) @ np.abs(b))


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("beta", [0.0, 1.0, 0.5])
def test_gemm(rows, turned, beta):
    a, b, c = floats(0, rows, 600), floats(1, 600, 500), floats(2, 500)
    w = SHORT.from_numpy(np.ascontiguousarray(b.T) if turned else b)
    for _ in range(2):
        y = run(("", "Gemm", 7), a, w, c, transB=turned, alpha=0.5, beta=beta, derived=Derived([w]))
        error = near(y, 0.5 * (a.astype(float) @ b) + beta * c, np.abs(a).astype(float) @ np.abs(b))
        assert error.max() > 1e-4


@pytest.mark.parametrize("shape", [(5,), (2, 3), (0, 4)])
def test_a_product_and_a_row(shape):
    a, b, c = floats(0, *shape, 600), floats(1, 600, 500), floats(2, 500)
    w = SHORT.from_numpy(b)
    for _ in range(2):
        y = run(("ortlite", "Linear", 1), a, w, c, derived=Derived([w]))
        error = near(y, a.astype(float) @ b + c, np.abs(a).astype(float) @ np.abs(b))
        assert error.max(initial=1) > 1e-4


@pytest.mark.parametrize("shape", [(1, 6, 9), (2, 6, 9, 8), (1, 6, 5, 4, 6)])
@pytest.mark.parametrize("group", [1, 2])
def test_convolutions(shape, group):
    kernel = (3,) * (len(shape) - 2)
    x, w, b = floats(0, *shape), floats(1, 4, 6 // group, *kernel), floats(2, 4)
    keywords = {"group": group, "pads": (1,) * (2 * len(kernel))}
    y = run(("", "Conv", 1), x, w, b, **keywords)
    conv = getattr(torch.nn.functional, f"conv{len(kernel)}d")
    wide = [torch.from_numpy(v).double() for v in (x, w)]
    exact = conv(*wide, padding=1, groups=group).numpy() + b.reshape(-1, *(1,) * len(kernel))
    sizes = conv(*(v.abs() for v in wide), padding=1, groups=group).numpy()
    assert near(y, exact, sizes).max() > 1e-4


def test_what_is_not_float32_is_left_alone():
    a, b = floats(0, 3, 4).astype(np.float64), floats(1, 4, 5).astype(np.float64)
    assert run(("", "MatMul", 1), a, b) is NotImplemented
    y = run(("", "Einsum", 12), a, b, equation="ij,jk->ik")
    np.testing.assert_allclose(y.numpy(), a @ b, rtol=1e-12)


@pytest.mark.parametrize("key", [(MS, "FusedMatMul", 1), (MS, "TransposeMatMul", 1)])
def test_products_of_what_was_computed(key):
    a, b = floats(0, 3, 40, 5), floats(1, 3, 40, 6)
    exact = np.swapaxes(a, 1, 2).astype(float) @ b
    assert near(run(key, a, b, transA=1), exact, np.swapaxes(np.abs(a), 1, 2).astype(float) @ np.abs(b)).max() > 1e-4


def test_attention():
    q, k, v = (floats(i, 1, 2, 7, 16) for i in range(3))
    exact = torch.nn.functional.scaled_dot_product_attention(*(torch.from_numpy(x).double() for x in (q, k, v))).numpy()
    y = run(("", "Attention", 23), q, k, v)[0]
    assert y.dtype == torch.float32
    error = np.abs(y.numpy() - exact).max()
    assert 1e-5 < error < 0.05
    past = [floats(9 + i, 1, 2, 3, 16) for i in range(2)]
    found = run(("", "Attention", 23), q, k, v, None, *(SHORT.from_numpy(p) for p in past), n_outputs=3)
    np.testing.assert_array_equal(found[1].numpy(), np.concatenate([past[0], k], 2))  # a cache keeps its bits
    assert found[0].dtype == torch.float32


def test_what_is_small_stays_in_float32(monkeypatch):
    monkeypatch.setattr(precision, "PRODUCT", LIMITS[0])
    monkeypatch.setattr(precision, "ATTENTION", LIMITS[1])
    q, k, v = (floats(i, 1, 2, 7, 16) for i in range(3))
    wide = [torch.from_numpy(x) for x in (q, k, v)]
    exact = torch.nn.functional.scaled_dot_product_attention(*(x.double() for x in wide)).numpy()
    np.testing.assert_allclose(run(("", "Attention", 23), q, k, v)[0].numpy(), exact, atol=1e-5)
    y = run((MS, "FusedMatMul", 1), q, k, transB=1)
    np.testing.assert_allclose(y.numpy(), q @ np.swapaxes(k, 2, 3), rtol=1e-4, atol=1e-5)
    assert run(("", "MatMul", 1), q, np.swapaxes(k, 2, 3)) is NotImplemented
    a, large = floats(3, 1, 600), floats(4, 600, 500)  # of which there is less to read
    exact, sizes = a.astype(float) @ large, np.abs(a).astype(float) @ np.abs(large)
    assert near(run(("", "MatMul", 1), a, large), exact, sizes).max() > 1e-4
    assert near(run(("", "Gemm", 7), a, large), exact, sizes).max() > 1e-4
    a, b = floats(5, 2, 300, 300), floats(6, 2, 300, 300)
    assert near(run(("", "MatMul", 1), a, b), a.astype(float) @ b, np.abs(a).astype(float) @ np.abs(b)).max() > 1e-4


NET = """net (float[N, 600] X) => (float[N, 300] Y) {
    P = MatMul(X, A)  Q = Relu(P)  R = MatMul(Q, B)  Y = Softmax(R)
}"""


def weights():
    return {"A": floats(1, 600, 500) / 25, "B": floats(2, 500, 300) / 20}


def test_a_mask_is_added_in_float32(monkeypatch):
    """Also where the processor computes in bfloat16, in which float32's lowest number would become -inf."""
    monkeypatch.setattr(precision, "computes", lambda dtype, device: True)
    q, k, v = (torch.from_numpy(floats(seed, 1, 2, 4, 8)) for seed in range(3))
    mask = torch.zeros(4, 4)
    mask[2] = torch.finfo(torch.float32).min
    attention = precision.overrides(torch.bfloat16, torch.device("cpu"))["", "Attention", 23]
    y = attention(SHORT.xp, q, k, v, mask)[0]
    assert torch.allclose(y[:, :, 2], v.mean(2), atol=0.02)


def test_a_session_says_so_and_answers_the_same_in_every_way(monkeypatch):
    cut, made = precision.cutting(torch.bfloat16, precision.computes(torch.bfloat16, SHORT.device)), []
    short = session(NET, **weights())
    monkeypatch.setattr("ortlite_torch.products.packed", _counted(made))
    feed = {"X": floats(0, 5, 600)}
    answers = [short.run(None, feed)[0] for _ in range(4)]  # interpreted, recorded, specialised
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])
    short.run(None, {"X": floats(0, 6, 600)})
    assert [tuple(shape) for shape in made].count((600, 500)) <= 1
    exact = session(NET, {"precision": "float32"}, **weights()).run(None, feed)[0]
    error = np.abs(answers[0] - exact).max()
    assert 0 < error < 0.01
    text = str(short.explain())
    assert "ortlite_torch.precision" in text
    assert "precision=bfloat16" in text
    assert cut(torch.ones(1)).dtype in {torch.bfloat16, torch.float32}


def _counted(made):
    from ortlite_torch import products

    pack = products.packed
    return lambda B, *rest: made.append(B.shape) or pack(B, *rest)


def test_gradients():
    fn = ortlite.function(session(NET, **weights())._model_bytes, provider=(NAME, {"precision": "bfloat16"}))
    x = torch.from_numpy(floats(0, 5, 600)).requires_grad_()
    y = fn(x)
    (y * y).sum().backward()
    wide = [torch.from_numpy(w).double() for w in weights().values()]
    exact = torch.from_numpy(floats(0, 5, 600)).double().requires_grad_()
    z = torch.softmax(torch.relu(exact @ wide[0]) @ wide[1], -1)
    (z * z).sum().backward()
    scale = exact.grad.abs().max()
    assert 0 < (x.grad - exact.grad).abs().max() < 0.1 * scale


def test_refusals():
    with pytest.raises(Exception, match="is for device='cuda'"):
        session(NET, {"precision": "float16"}, **weights())
    with pytest.raises(Exception, match="one of float32, bfloat16, float16, not 'int4'"):
        session(NET, {"precision": "int4"}, **weights())


def test_compare_reports_the_error():
    from ortlite.cli.compare import _side
    from ortlite.compare import compare
    from ortlite.load import load

    side = _side("Torch:precision=bfloat16")
    assert side.name == "Torch:precision=bfloat16"
    model = parser.parse_model(HEAD + NET)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights().items())
    found = compare(load(model.SerializeToString()), {"X": floats(0, 5, 600)}, ("CPUExecutionProvider", side))
    assert found.notable()
