"""A convolution of every pixel and the depthwise one after it become one operator where a provider asks for it."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest

import ortlite
from tests.optimize.models import CPU, OFF, agree, operators, outputs
from tests.optimize.test_activations import Writer, values

RULE, ONE = "PointwiseDepthwiseFusion", "PointwiseDepthwiseConv"
FAST = importlib.util.find_spec("numba") is not None


def drawn(w, case=""):
    """Conv, Relu, depthwise Conv, Clip of x (2, 4, 6, 5), with one thing that is not as it should be."""
    w.constants |= {
        "W": values((8, 2 if case == "groups" else 4, 1, 3 if case == "wide" else 1), seed=1), "B": values(8, seed=2),
        "V": values((16 if case == "more" else 8, 2 if case == "pairs" else 1, 3, 3), seed=3), "C": values(8, seed=4),
    }  # fmt: skip
    first = {"groups": {"group": 2}, "strides": {"strides": [2, 2]}, "pads": {"pads": [0, 1, 0, 0]}}.get(case, {})
    wide = w("Conv", "x", "W", "B", **first)
    if case == "sum":
        wide = w("Add", wide, "z")
    wide = w("Relu", wide)
    v = w("Identity", w("Add", "V", "one")) if case == "changing" else "V"
    y = w("Conv", wide, v, *(["C"] if case != "more" else []), group=4 if case == "pairs" else 8, pads=[1, 1, 0, 0])
    if case == "twice":
        y = w("Add", y, w("ReduceMax", wide))
    return w("Clip", y, 0.0, 6.0), wide


def used(proto, **options):
    """How often the session of a model runs the operator."""
    session = ortlite.InferenceSession(proto.SerializeToString(), **{"providers": [CPU], **options})
    return sum(node.op_type == ONE for node in session.explain().nodes)


@pytest.mark.skipif(not FAST, reason="the kernel is compiled")
def test_they_are_one_operator_of_a_session_whose_provider_asks():
    w = Writer()
    y, wide = drawn(w)
    feed = {"x": values((2, 4, 6, 5))}
    proto = w.model(feed, y)
    assert agree(proto, feed) == {"FusedConv": 2}, "the graph that all providers have stays"
    assert used(proto) == 1
    for off in ({"disabled_optimizers": [RULE]}, {"providers": [(CPU, {"compiled": "0"})]}):
        assert used(proto, **off) == 0
    options = ortlite.SessionOptions()
    options.graph_optimization_level = ortlite.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    assert used(proto, sess_options=options) == 0
    wanted = w.model(feed, y, [wide])
    assert agree(wanted, feed) == {"FusedConv": 2}
    assert used(wanted) == 0, "what lies between is an output"


@pytest.mark.skipif(not FAST, reason="the kernel is compiled")
@pytest.mark.parametrize("case", ["groups", "wide", "strides", "pads", "more", "pairs", "sum", "changing", "twice"])
def test_others_stay_two(case):
    w = Writer()
    y, _ = drawn(w, case)
    feed = {"x": values((2, 4, 6, 5))}
    if case == "sum":
        feed["z"] = values((2, 8, 6, 5), seed=5)
    if case == "changing":
        feed["one"] = np.ones((), np.float32)
    proto = w.model(feed, y)
    agree(proto, feed)
    assert used(proto) == 0


@pytest.mark.parametrize("level", [OFF, None])
def test_batches_of_any_size(level):
    w = Writer()
    y, _ = drawn(w)
    proto = w.model({"x": values((2, 4, 6, 5))}, y, dims={"x": ["n", 4, "h", "w"]})
    for shape in ((1, 4, 6, 5), (3, 4, 30, 41), (2, 4, 2, 2), (0, 4, 6, 5)):
        x = values(shape)
        whole = outputs(proto, {"x": x}, level)[0]
        parts = [outputs(proto, {"x": image[None]}, OFF)[0] for image in x]
        for one, part in zip(whole, parts, strict=True):
            np.testing.assert_allclose(one[None], part, 1e-5, 1e-5)


def test_files_have_the_two(tmp_path):
    w = Writer()
    proto = w.model({"x": values((2, 4, 6, 5))}, drawn(w)[0])
    options = ortlite.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "made.onnx")
    ortlite.InferenceSession(proto.SerializeToString(), options, providers=[CPU])
    assert ONE not in {node.op_type for node in onnx.load(tmp_path / "made.onnx").graph.node}
    assert operators(proto)["FusedConv"] == 2
