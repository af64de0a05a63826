"""A Scan over the distances of rows becomes CDist, which computes the same numbers; other bodies stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.optimize.models import agree, model, node, operators, outputs
from tests.optimize.test_activations import PROVIDERS

CODES = {np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE}


def body(dtype, opset, turned=False, axis=1, last="next_in", more=()):
    """What skl2onnx writes: the state is handed on, and what a row differs by is squared and summed up."""
    attributes = {"keepdims": 0} | ({"axes": [axis]} if opset < 18 else {})
    sub = ["next", "next_in"] if turned else ["next_in", "next"]
    nodes = [
        node("Identity", [last], ["next_out"]), node("Sub", sub, ["apart"]), *more,
        node("ReduceSumSquare", ["apart"] + (["axes"] if opset >= 18 else []), ["sums"], **attributes),
        node("Identity", ["sums"], ["scan_out"]),
    ]  # fmt: skip
    names = [("next_in", 2), ("next", 1), ("next_out", 2), ("scan_out", 1)]
    values = [helper.make_tensor_value_info(name, CODES[dtype], [None] * rank) for name, rank in names]
    constants = [numpy_helper.from_array(np.array([axis]), "axes")] if opset >= 18 else []
    return helper.make_graph(nodes, "body", values[:2], values[2:], constants)


def scan(x, y, opset, given, wanted=("state", "distances"), **attributes):
    made = node("Scan", ["y", "x"], ["state", "distances"], body=given, num_scan_inputs=1, **attributes)
    return model([made], {"x": x}, wanted, {"y": y}, opset=opset)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([np.float32, np.float64]), st.sampled_from([9, 11, 13, 17, 18]), st.booleans(), st.booleans(),
    st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4)), st.sampled_from([1, -1]), st.booleans(),
)  # fmt: skip
def test_distances(dtype, opset, turned, state, shape, axis, odd):
    draw = np.random.default_rng(shape[0])
    x, y = (draw.standard_normal((n, shape[2])).astype(dtype) for n in shape[:2])
    if odd:
        x[0, 0], y[0, 0] = np.inf, np.inf
    y[-1] = x[-1]
    wanted = ("state", "distances") if state else ("distances",)
    found = agree(scan(x, y, opset, body(dtype, opset, turned, axis), wanted), {"x": x}, 1e-5, 0)
    assert found["CDist"] == 1
    assert not found["Scan"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_near_rows_keep_their_digits(provider):
    """Squares less twice the product would give 0.25 here, or nothing."""
    x = np.array([[1000.0, 1000.25], [3.0, 4.0]], np.float32)
    y = np.array([[1000.0, 1000.0], [3.0, 4.0]], np.float32)
    found = agree(scan(x, y, 17, body(np.float32, 17)), {"x": x}, 1e-6, 0, providers=(provider,))
    assert found["CDist"] == 1


def test_no_rows():
    x, y = np.ones((0, 3), np.float32), np.ones((4, 3), np.float32)
    assert [v.shape for v in outputs(scan(x, y, 17, body(np.float32, 17)), {"x": x})] == [(4, 3), (0, 4)]


def test_the_numbers_are_onnxruntimes():
    onnxruntime = pytest.importorskip("onnxruntime")
    import ortlite

    draw = np.random.default_rng(1)
    x, y = draw.standard_normal((2, 9, 5)).astype(np.float32)
    proto = scan(x, y, 17, body(np.float32, 17)).SerializeToString()
    a, b = (L.InferenceSession(proto, providers=["CPUExecutionProvider"]) for L in (onnxruntime, ortlite))
    for one, other in zip(a.run(None, {"x": x}), b.run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_other_bodies_stay():
    x = y = np.ones((3, 3), np.float32)
    others = [
        (body(np.float32, 17, axis=0), {}),
        (body(np.float32, 17, last="apart"), {}),
        (body(np.float32, 17), {"scan_input_directions": [1]}),
        (body(np.float32, 17), {"scan_input_axes": [1]}),
    ]
    for other, attributes in others:
        found = operators(scan(x, y, 17, other, **attributes))
        assert found["Scan"] == 1
        assert not found["CDist"]
    assert operators(scan(x, y[:, :1], 17, body(np.float32, 17)))["Scan"] == 1, "a column is spread over the others"
    proto = scan(x, y, 17, body(np.float32, 17))
    proto.graph.input[0].type.tensor_type.shape.dim[1].Clear()
    assert operators(proto)["Scan"] == 1, "nobody knows how long the rows are"
