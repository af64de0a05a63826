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
