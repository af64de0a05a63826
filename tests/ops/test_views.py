"""`@op(..., views=True)`: a result may share memory with an argument. Nothing else does, and what is flagged can."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache, partial, wraps
from typing import Any

import numpy as np
import pytest
from test_schemas import ELSEWHERE, SCHEMAS, examples, older
from test_traceable import Body, Call, _attributes, calls, moved

from ortlite.ops import registry
from ortlite.provider import CPU, create

PROVIDERS = [CPU, "StrictExecutionProvider"] + ["TorchExecutionProvider"] * bool(importlib.util.find_spec("torch"))
X = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
IMAGE = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
HEADS = np.ones((1, 2, 3, 4), np.float32)
SEQUENCE = np.ones((1, 3, 8), np.float32)
ONES4 = np.ones(4, np.float32)
NO_STEPS, STATE = np.zeros((0, 1, 2), np.float32), np.ones((1, 1, 2), np.float32)
ANGLES = np.ones((3, 2), np.float32)
MS, ML = "com.microsoft", "ai.onnx.ml"

# Calls in which little is done, so that a library may hand on what it was given: (operator, opset, inputs, attributes).
IDLE: list[tuple[str, int, tuple[Any, ...], dict[str, Any]]] = [
    ("Abs", 25, (X.astype(np.uint8),), {}),
    ("Attention", 25, (HEADS, HEADS, HEADS), {}),
    ("AveragePool", 25, (IMAGE,), {"kernel_shape": (1, 1)}),
    ("BatchNormalization", 25, (IMAGE, *[np.ones(1, np.float32)] * 4), {}),
    ("BlackmanWindow", 25, (np.array(3),), {}),
    ("CenterCropPad", 25, (X, np.array([1, 2])), {}),
    ("Clip", 25, (X,), {}),
    ("Clip", 5, (X,), {}),
    ("Dropout", 6, (X,), {"is_test": 1, "outputs": 2}),
    ("Col2Im", 25, (np.ones((1, 1, 4), np.float32), np.array([2, 2]), np.array([1, 1])), {}),
    ("Compress", 25, (X, np.array([True, True])), {"axis": 0}),
    ("Concat", 25, (X,), {"axis": 0}),
    ("Concat", 3, (X,), {"axis": 0}),
    ("ConcatFromSequence", 25, ([X],), {"axis": 0}),
    ("CumProd", 26, (X, np.array(0)), {}),
    ("CumSum", 25, (X[:1], np.array(0)), {}),
    ("DepthToSpace", 25, (IMAGE,), {"blocksize": 1}),
    ("DequantizeLinear", 25, (X.astype(np.int32), np.float32(1)), {}),
    ("DFT", 25, (np.ones((1, 1, 2), np.float32),), {}),
    ("Einsum", 25, (X,), {"equation": "ij->ji"}),
    ("EyeLike", 25, (X,), {}),
    ("Gather", 25, (X, np.array(1)), {}),
    ("Gather", 25, (X, np.array([0, 1])), {}),
    ("GatherElements", 25, (X, np.zeros((1, 3), np.int64)), {}),
    ("GatherND", 25, (X, np.array([[0]])), {}),
    ("Gemm", 25, (X, X.T), {}),
    ("Gemm", 6, (X, X.T, np.zeros((2, 2), np.float32)), {}),
    ("GlobalAveragePool", 25, (IMAGE[..., :1, :1],), {}),
    ("GlobalLpPool", 25, (IMAGE[..., :1, :1],), {"p": 1}),
    ("GlobalMaxPool", 25, (IMAGE[..., :1, :1],), {}),
    ("GRU", 25, (NO_STEPS, *[np.ones((1, 6, 2), np.float32)] * 2, None, None, STATE), {"hidden_size": 2}),
    ("LSTM", 25, (NO_STEPS, *[np.ones((1, 8, 2), np.float32)] * 2, None, None, STATE, STATE), {"hidden_size": 2}),
    ("RNN", 25, (NO_STEPS, *[np.ones((1, 2, 2), np.float32)] * 2, None, None, STATE), {"hidden_size": 2}),
    ("If", 25, (np.array([True]),), {"then_branch": Body(lambda xp: (GIVEN[0],)), "else_branch": Body(lambda xp: ())}),
    ("LpPool", 25, (IMAGE,), {"kernel_shape": (1, 1), "p": 1}),
    ("LpPool", 1, (IMAGE,), {"kernel_shape": (1, 1), "p": 1}),
    ("LRN", 25, (IMAGE,), {"size": 1}),
    ("Max", 25, (X,), {}),
    ("Max", 7, (X,), {}),
    ("MaxPool", 25, (IMAGE,), {"kernel_shape": (1, 1)}),
    ("MaxPool", 25, (IMAGE,), {"kernel_shape": (1, 1), "outputs": 2}),
    ("MaxPool", 25, (IMAGE,), {"kernel_shape": (4, 1)}),
    ("MaxUnpool", 25, (IMAGE, IMAGE.astype(np.int64)), {"kernel_shape": (1, 1)}),
    ("Mean", 25, (X,), {}),
    ("Mean", 7, (X,), {}),
    ("Min", 25, (X,), {}),
    ("Min", 7, (X,), {}),
    ("Mod", 25, (X.astype(np.int64), np.array(9)), {}),
    ("Neg", 25, (X,), {}),
    ("OneHot", 25, (np.array([0]), np.array(1), X[0, :2]), {}),
    ("Optional", 25, (X,), {}),
    ("Pad", 25, (X, np.array([0, 0, 0, 0])), {}),
    ("Pad", 25, (X, np.array([0, 0, 0, -1])), {}),
    ("Pad", 10, (X,), {"pads": (0, 0, 0, 0)}),
    ("Pad", 1, (X,), {"paddings": (0, 0, 0, 0)}),
    ("Pow", 25, (X, np.float32(1)), {}),
    ("QuantizeLinear", 25, (X, np.float32(1), np.uint8(0)), {}),
    *((f"Reduce{name}", 25, (X, None), {"noop_with_empty_axes": 1}) for name in
      ("Sum", "Max", "Min", "Mean", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")),
    *((f"Reduce{name}", 25, (np.float32(3),), {}) for name in
      ("Sum", "Max", "Min", "Mean", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")),
    *((f"Reduce{name}", 25, (X[:1], np.array([0])), {}) for name in ("Sum", "Max", "Min", "Mean", "Prod")),
    ("ReduceMax", 25, (np.array([[True]]), np.array([0])), {}),
    ("ReduceMax", 25, (np.array(True),), {}),
    ("ReduceMin", 25, (np.array(True),), {}),
    ("Resize", 25, (X, None, np.float32([1, 1])), {}),
    ("Resize", 10, (X, np.float32([1, 1])), {}),
    ("ReverseSequence", 25, (X, np.array([1, 1, 1])), {}),
    ("RotaryEmbedding", 25, (HEADS, ANGLES, ANGLES, np.zeros((1, 3), np.int64)), {}),
    ("Round", 25, (X,), {}),
    ("Scan", 25, (X[0], X), {"body": Body(lambda xp, s, row: (s, row), 2), "num_scan_inputs": 1}),
    ("Scan", 25, (X[0], X[:1]), {"body": Body(lambda xp, s, row: (s, row), 2), "num_scan_inputs": 1}),
    ("Scan", 8, (None, X[:1], X[None]), {"body": Body(lambda xp, s, row: (s, row), 2), "num_scan_inputs": 1}),
    ("Loop", 25, (np.array(2), None, X), {"body": Body(lambda xp, i, go, s: (go, s), 2)}),
    ("ScatterElements", 25, (X, np.zeros((0, 3), np.int64), np.zeros((0, 3), np.float32)), {}),
    ("Scatter", 10, (X, np.zeros((0, 3), np.int64), np.zeros((0, 3), np.float32)), {}),
    ("ScatterND", 25, (X, np.zeros((0, 1), np.int64), np.zeros((0, 3), np.float32)), {}),
    ("SequenceMap", 25, ([X, X],), {"body": Body(lambda xp, a: (a,))}),
    ("Softmax", 25, (X[:, :1],), {}),
    ("SpaceToDepth", 25, (IMAGE,), {"blocksize": 1}),
    ("SplitToSequence", 25, (X,), {"keepdims": 0}),
    ("STFT", 25, (np.ones((1, 4, 1), np.float32), np.array(4), None, np.array(4)), {}),
    ("TensorScatter", 25, (HEADS, HEADS[:, :, :0]), {}),
    ("TensorScatter", 25, (HEADS, HEADS), {}),
    ("ThresholdedRelu", 25, (X,), {"alpha": -1.0}),
    ("Tile", 25, (X, np.array([1, 1])), {}),
    ("Tile", 5, (X, np.array(1), np.array(0)), {}),
    ("TopK", 25, (X, np.array([3])), {}),
    ("Trilu", 25, (X, np.array(-9)), {}),
    ("Upsample", 9, (X, np.float32([1, 1])), {}),
    ("Upsample", 7, (X,), {"scales": (1.0, 1.0)}),
    ("Upsample", 1, (IMAGE,), {"height_scale": 1.0, "width_scale": 1.0}),
    ("Unique", 25, (X[0],), {}),
    ("Where", 25, (np.array(True), X, X), {}),
    (f"{ML}.ArrayFeatureExtractor", 1, (X, np.array([[0]])), {}),
    (f"{ML}.FeatureVectorizer", 1, (X,), {}),
    (f"{ML}.Scaler", 1, (X,), {}),
    (f"{ML}.Imputer", 1, (X,), {"imputed_value_floats": (1.0,)}),
    (f"{ML}.Normalizer", 1, (np.zeros((0, 2), np.float32),), {}),
    (f"{MS}.Attention", 1, (SEQUENCE, np.ones((8, 24), np.float32), np.ones(24, np.float32)), {"num_heads": 2}),
    (f"{MS}.MultiHeadAttention", 1, (SEQUENCE, SEQUENCE, SEQUENCE), {"num_heads": 2, "outputs": 3}),
    (f"{MS}.GroupQueryAttention", 1, (SEQUENCE, SEQUENCE, SEQUENCE, np.zeros((1, 2, 0, 4), np.float32),
        np.zeros((1, 2, 0, 4), np.float32), np.array([2], np.int32), np.array(3, np.int32)),
        {"num_heads": 2, "kv_num_heads": 2, "outputs": 3}),
    (f"{MS}.RotaryEmbedding", 1, (HEADS, np.array([[0, 1, 2]]), ANGLES, ANGLES), {}),
    (f"{MS}.BifurcationDetector", 1, (np.arange(4), np.array([0]), np.array(0)), {}),
    (f"{MS}.ExpandDims", 1, (X, np.array(0, np.int32)), {}),
    (f"{MS}.Trilu", 1, (X, np.array(-9)), {"upper": 1}),
    (f"{MS}.Unique", 1, (X[0],), {"outputs": 3}),
    (f"{MS}.NhwcMaxPool", 1, (IMAGE,), {"kernel_shape": (1, 1)}),
    (f"{MS}.NGramRepeatBlock", 1, (np.array([[1, 2]]), X[:1]), {"ngram_size": 5}),
    (f"{MS}.SkipLayerNormalization", 1, (SEQUENCE, SEQUENCE, np.ones(8, np.float32)), {"outputs": 4}),
    (f"{MS}.EmbedLayerNormalization", 1,
        (*[np.zeros((1, 3), np.int32)] * 2, *[np.ones((5, 4), np.float32)] * 3, ONES4, ONES4), {"outputs": 3}),
    (f"{MS}.FusedMatMul", 1, (X, X.T), {}),
    (f"{MS}.Pad", 1, (X, np.zeros(4, np.int64)), {}),
    (f"{MS}.SampleOp", 1, (X,), {}),
    (f"{MS}.UnfoldTensor", 1, (X,), {"size": 1}),
    (f"{MS}.LinearAttention", 1, (SEQUENCE[:, :0], SEQUENCE[:, :0], SEQUENCE[:, :0], np.ones((1, 2, 4, 4), np.float32)),
     {"q_num_heads": 2, "kv_num_heads": 2, "update_rule": "linear", "outputs": 2}),
    (f"{MS}.CausalConvWithState", 1, (SEQUENCE[:, :0], np.ones((0, 1, 2), np.float32)), {"outputs": 2}),
    (f"{MS}.MoE", 1, (X[:1], X[:1, :1], np.ones((1, 1, X.shape[1]), np.float32), np.ones((1, 1), np.float32),
                      np.ones((1, X.shape[1], 1), np.float32)), {}),
    (f"{MS}.Inverse", 1, (np.eye(2, dtype=np.float32),), {}),
]  # fmt: skip
GIVEN: list[Any] = [None]  # what the branch of If captures


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value] if hasattr(value, "dtype") and hasattr(value, "shape") else []


@cache
def every_call() -> list[Call]:
    """Calls of the newest kernels, of all older ones, and the idle ones."""
    found = [call for group in calls().values() for call in group]
    for schema in SCHEMAS:
        kernel = registry.lookup(schema.domain, schema.name, schema.since_version)
        if (schema.name, schema.since_version) in ELSEWHERE or kernel.python_objects:
            continue
        for example in examples()[schema.domain, schema.name][:3]:
            node, values = older(schema, example)
            if not any(a.type == a.GRAPH for a in node.attribute):
                found.append(Call(kernel, tuple(values), _attributes(kernel, node), len(node.output)))
    for name, opset, values, attributes in IDLE:
        domain, _, op_type = name.rpartition(".")
        kernel = registry.lookup(domain, op_type, opset)
        assert kernel is not None, name
        given = {key: value for key, value in attributes.items() if key != "outputs"}
        found.append(Call(kernel, values, tuple(given.items()), attributes.get("outputs", 1)))
    return found


def shares(call: Call, name: str) -> bool:
    """Whether a result shares memory with an argument, tensors among the attributes included."""
    provider, kernel = create(name), call.kernel
    override = provider.overrides.get((kernel.domain, kernel.op_type, kernel.since))
    if override is not None:
        kernel = replace(kernel, fn=wraps(kernel.fn)(partial(override)))

    def enter(value: Any) -> Any:
        return moved(value, lambda array: provider.from_numpy(np.array(array)))

    def on_host(value: Any) -> list[np.ndarray]:
        return [leaf if isinstance(leaf, np.ndarray) else provider.to_numpy(leaf) for leaf in _leaves(value)]

    with provider.context():
        GIVEN[0] = enter(X)
        params = [kernel.param(i) for i in range(len(call.values))]
        values = [v if p is None or p.host else enter(v) for p, v in zip(params, call.values, strict=True)]
        attributes = {}
        for key, value in call.attributes:
            param = kernel.accepts(key)
            attributes[key] = value.on(provider.xp) if isinstance(value, Body) else value
            if param is not None and param.kind == "Array":
                attributes[key] = enter(np.asarray(value))
        results = registry.call(kernel, provider.xp, values, attributes, n_outputs=call.outputs, rng=1)
        given = on_host([*values, *attributes.values(), GIVEN[0]])
        return any(np.may_share_memory(x, y) for x in given for y in on_host(results))


@cache
def sharing(name: str) -> set[registry.Kernel]:
    """The kernels that share memory in one of the calls; one that is an error for that version or library does not."""
    found = set()
    for call in every_call():
        try:
            if call.kernel not in found and shares(call, name):
                found.add(call.kernel)
        except (TypeError, ValueError, NotImplementedError, RuntimeError, AttributeError):
            continue
    return found


@pytest.mark.parametrize("name", PROVIDERS)
def test_what_shares_memory_with_an_argument_is_flagged(name):
    found = sharing(name)
    assert len(found) > 40
    assert not sorted(str(kernel) for kernel in found if not kernel.views)


@pytest.mark.skipif(len(PROVIDERS) < 3, reason="torch, on which alone a few kernels share memory, is not installed")
def test_what_is_flagged_shares_memory_in_some_call():
    found = set().union(*map(sharing, PROVIDERS))
    assert not sorted(str(kernel) for kernel in registry.kernels() if kernel.views and kernel not in found)


@pytest.mark.parametrize("name", PROVIDERS)
def test_every_idle_call_runs(name):
    for call in every_call()[-len(IDLE) :]:
        if not create(name).supports(call.kernel, []):
            shares(call, name)
