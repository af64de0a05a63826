"""compile=1: what goes to torch.compile, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser

import ortlite

torch = pytest.importorskip("torch")
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


def provider(name):
    """One of its own: providers are shared by their options."""
    from ortlite import provider

    provider._shared.cache_clear()
    return [(name, {"compile": "1"})]


def test_a_small_graph_is_one_region_with_its_weights_in_it(given):
    session = ortlite.InferenceSession(source(), providers=provider("TorchExecutionProvider"))
    assert session.explain().compilations == ()
    for rows in (2, 2, 2, 5, 5, 2):
        x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) - 3
        np.testing.assert_allclose(session.run(None, {"x": x})[0], np.maximum(x @ W, 0), rtol=1e-5, atol=1e-5)
    assert len(given) == 2  # one a signature
    for module, options in given:
        assert [tuple(buffer.shape) for buffer in module.buffers()] == [(3, 4)]
        assert options == {"dynamic": False, "options": {"freezing": True}}
    explained = session.explain()
    assert len(explained.compilations) == 2
    assert "2 regions compiled in 0." in str(explained)


def test_without_a_compiler_it_says_so(monkeypatch):
    from torch._inductor import cpp_builder, exc

    def lacking():
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", lacking)
    with pytest.raises(
        (RuntimeError, ortlite.capi.onnxruntime_pybind11_state.Fail), match=r"compile=1 .* needs a C\+\+ compiler"
    ):
        ortlite.InferenceSession(source(), providers=provider("TorchExecutionProvider"), enable_fallback=0)


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
