"""Real models give what onnxruntime gives. Get them with `python tests/real_models.py`; without, this is skipped."""

from __future__ import annotations

import numpy as np
import pytest
import real_models

import ortlite

NONE = pytest.mark.skip(reason=f"no models in {real_models.CACHE}: python tests/real_models.py gets them")
MODELS = real_models.found() or [pytest.param(real_models.CACHE, marks=NONE)]


@pytest.mark.parametrize("path", MODELS, ids=lambda p: "/".join(p.relative_to(real_models.CACHE).parts[::2]))
def test_same_as_onnxruntime(path):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    peer = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session = ortlite.InferenceSession(path)
    assert [(a.name, a.type) for a in session.get_inputs()] == [(a.name, a.type) for a in peer.get_inputs()]
    feed = real_models.feed(path, session.get_inputs())
    cases = [feed]
    if "use_cache_branch" in feed:  # both branches of the one If that such a file is
        cases.append(feed | {"use_cache_branch": ~feed["use_cache_branch"]})
    for case in cases:
        expected = peer.run(None, case)
        for _ in range(3):  # interpreted, then specialised
            for ours, theirs in zip(session.run(None, case), expected, strict=True):
                same(ours, theirs, chaotic="encoder_model_quantized" in path.name)


def same(ours, theirs, chaotic=False):
    """Equal but for rounding. Chaotic: an activation that is rounded the other way grows from layer to layer."""
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
