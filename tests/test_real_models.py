"""Real models give what onnxruntime gives, and the same on every library.

Get them with `python tests/real_models.py`; without, this is skipped.
"""

from __future__ import annotations

from fnmatch import fnmatch

import numpy as np
import pytest
import real_models
from onnx import TensorProto, helper, numpy_helper

import ortlite

NONE = pytest.mark.skip(reason=f"no models in {real_models.CACHE}: python tests/real_models.py gets them")
MODELS = real_models.found() or [pytest.param(real_models.CACHE, marks=NONE)]


NAMES = {"ids": lambda p: "/".join(p.relative_to(real_models.CACHE).parts[::2])}
# What JAX takes half of its time for: XLA compiles every node, and then all of them together.
SLOW = "*/320n.onnx */PP-OCRv6_*.onnx */ch_ppocr*.onnx */tashkeel/* *_model_*quantized.onnx".split()
# Activations are rounded to 8 bits, one the other way by another order of a sum; that grows from layer to layer.
CHAOTIC = ["*/encoder_model_quantized.onnx", "*/hibari.onnx"]
SATURATED = ["*/decoder_model_merged_quantized.onnx"]  # whose products overflow 16 bits on the way
CHAOTIC_ELSEWHERE = [*CHAOTIC, "*/minimind2*/model_quantized.onnx"]


@pytest.mark.parametrize("path", MODELS, **NAMES)
def test_same_as_onnxruntime(path):
    onnxruntime = pytest.importorskip("onnxruntime")
    if matches(path, SATURATED) and saturates(onnxruntime):
        pytest.skip("onnxruntime's products of bytes saturate on this processor")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    peer = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session = ortlite.InferenceSession(path)
    assert [(a.name, a.type) for a in session.get_inputs()] == [(a.name, a.type) for a in peer.get_inputs()]
    compare(session, peer, path, CHAOTIC)


@pytest.mark.parametrize("provider", ["TorchExecutionProvider", "JAXExecutionProvider"])
@pytest.mark.parametrize("path", MODELS, **NAMES)
def test_same_on_every_library(path, provider):
    if provider not in ortlite.get_available_providers():
        pytest.skip(f"the library of {provider} is not installed")
    if provider.startswith("JAX") and matches(path, SLOW):
        pytest.skip("XLA compiles it for too long")
    session = ortlite.InferenceSession(path, providers=[provider, "CPUExecutionProvider"])
    compare(session, ortlite.InferenceSession(path), path, CHAOTIC_ELSEWHERE)


def saturates(onnxruntime):
    """Whether onnxruntime adds products of bytes in 16 bits, as on processors without VNNI."""
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 1])],
        [numpy_helper.from_array(np.full((64, 1), 127, np.int8), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"a": np.full((1, 64), 255, np.uint8)})[0][0, 0] != 64 * 255 * 127


def matches(path, patterns):
    return any(fnmatch(str(path), pattern) for pattern in patterns)


def compare(session, peer, path, chaotic):
    """Both give the same, every time: interpreted first, then specialised."""
    feed = real_models.feed(path, session.get_inputs())
    cases = [feed]
    if "use_cache_branch" in feed:  # both branches of the one If that such a file is
        cases.append(feed | {"use_cache_branch": ~feed["use_cache_branch"]})
    for case in cases:
        expected = peer.run(None, case)
        for _ in range(3):
            for ours, theirs in zip(session.run(None, case), expected, strict=True):
                same(ours, theirs, chaotic=matches(path, chaotic))


def same(ours, theirs, chaotic=False):
    """Equal but for rounding; where that grows, correlated."""
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    elif isinstance(theirs, dict):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    else:
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        if theirs.dtype.kind not in "fc":
            np.testing.assert_array_equal(ours, theirs)
        elif theirs.size:
            assert np.array_equal(np.isfinite(ours), np.isfinite(theirs))
            if chaotic:
                assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99
                return
            scale = float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0))
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * max(scale, 1e-3))
