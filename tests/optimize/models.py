"""Small models of drawn nodes, run as they are and optimised: what the tests of the optimiser share."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper

import ortlite
from ortlite import dtypes, load
from ortlite.optimize import ALL, optimize

CPU = "CPUExecutionProvider"
OFF = ortlite.GraphOptimizationLevel.ORT_DISABLE_ALL
node = helper.make_node


def info(name, value, dims=None):
    code = dtypes.of_numpy(np.asarray(value).dtype).code
    return helper.make_tensor_value_info(name, code, np.shape(value) if dims is None else dims)


def model(nodes, inputs, outputs, constants=None, opset=20, dims=None):
    """A model of `nodes`; `inputs` maps names to values that say dtype and shape, `dims` to other shapes."""
    graph = helper.make_graph(
        nodes,
        "g",
        [info(name, value, (dims or {}).get(name)) for name, value in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def operators(proto, level=ALL, disabled=(), pinned=()):
    """How often each operator occurs in the optimised graph."""
    graph = optimize(load.load(proto.SerializeToString()).graph, level, disabled, pinned)
    return Counter(n.op_type for n in graph.walk())


def outputs(proto, feed, level=None, provider=CPU):
    options = ortlite.SessionOptions()
    if level is not None:
        options.graph_optimization_level = level
    session = ortlite.InferenceSession(proto.SerializeToString(), options, providers=[provider])
    return session.run(None, feed)


def agree(proto, feed, rtol=1e-5, atol=1e-5, providers=(CPU,)):
    """The optimised model computes what the model does: shapes, dtypes and NaN too. Its operators are returned."""
    for provider in providers:
        before = outputs(proto, feed, OFF, provider)
        after = outputs(proto, feed, provider=provider)
        for a, b in zip(before, after, strict=True):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            if a.dtype.kind == "f":
                np.testing.assert_allclose(np.asarray(b, np.float64), np.asarray(a, np.float64), rtol, atol)
            else:
                np.testing.assert_array_equal(a, b)
    return operators(proto)
