"""Operators drawn from their schemas, beside onnxruntime and, where it has no kernel, ONNX's ReferenceEvaluator.

A draw takes an example of an operator (its shapes fit together) and changes what the schema leaves open: the dtype of
each type variable, which optional inputs there are, flags among the attributes, all values. What both peers refuse is
not a case. Where a peer is wrong stands in conformance/PEER_BUGS.md; those operators are left out for that peer.
"""

from __future__ import annotations

import os
import warnings
from functools import cache

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

import ortlite
from conformance import dtypes as matrix
from ortlite import dtypes

# Operators in which a peer is wrong or does otherwise: see conformance/PEER_BUGS.md.
NOT_ONNXRUNTIME = {"Gather", "MaxUnpool", "ReduceProd"}
NOT_REFERENCE = set(
    "CenterCropPad Pad GridSample OneHot Unique QLinearMatMul DictVectorizer LinearRegressor LinearClassifier "
    "SVMRegressor SVMClassifier".split()
)
# Draws, subgraphs, pictures; no peer has them; attributes and inputs must agree in a way that the schema does not say.
LEFT_OUT = set(
    "RandomNormal RandomUniform RandomNormalLike RandomUniformLike Bernoulli Multinomial If Loop Scan SequenceMap "
    "Gradient ImageDecoder Dropout Constant GlobalLpPool MaxRoiPool BitCast Optional TfIdfVectorizer LabelEncoder "
    "OneHotEncoder TreeEnsemble CategoryMapper Resize LinearClassifier FlexAttention MeanVarianceNormalization".split()
)
FLAGS = set(
    "keepdims select_last_index exclusive reverse transA transB align_corners largest allowzero upper fmod "
    "ceil_mode count_include_pad noop_with_empty_axes onesided inverse periodic interleaved is_causal centered".split()
)
# Signed bytes have 7 bits here: on a processor without VNNI, onnxruntime's sums of two products saturate.
PRODUCTS_OF_BYTES = {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
OPTIONAL = onnx.defs.OpSchema.FormalParameterOption.Optional


def schemas():
    found = {}
    for schema in onnx.defs.get_all_schemas():
        if (
            not schema.deprecated
            and schema.name not in LEFT_OUT
            and matrix_examples().get((schema.domain, schema.name))
        ):
            found[schema.domain, schema.name] = schema
    return [found[key] for key in sorted(found)]


@cache
def matrix_examples():
    return matrix.examples()


def fresh(value, seed):
    """Other values of the same kind: floats redrawn; integers shuffled, since they may be indices."""
    rng = np.random.default_rng(seed)
    if isinstance(value, list):
        return [fresh(v, seed + i) for i, v in enumerate(value)]
    if not isinstance(value, np.ndarray) or value.dtype == object or value.size == 0 or value.dtype.kind == "c":
        return value
    if value.dtype.kind == "f" or dtypes.of_numpy(value.dtype).kind == "f":
        drawn = rng.standard_normal(value.shape) * rng.choice([0.5, 1.0, 4.0])
        return np.asarray(np.abs(drawn) if (np.asarray(value, np.float64) >= 0).all() else drawn).astype(value.dtype)
    return np.asarray(rng.permutation(value.reshape(-1)).reshape(value.shape))


@st.composite
def calls(draw, schema):
    example = draw(st.sampled_from(matrix_examples()[schema.domain, schema.name]))
    variables = sorted({v for v, _ in matrix.pairs(schema)})
    for variable in variables:
        choices = [
            d for v, d in matrix.pairs(schema) if v == variable and (schema.name, d.name) not in matrix.MEANINGLESS
        ]
        if draw(st.booleans()) and any(
            matrix._input_variable(schema, i) == variable for i, v in enumerate(example.values) if v is not None
        ):
            example = matrix.instance(schema, example, variable, draw(st.sampled_from(choices)))
    node = onnx.NodeProto()
    node.CopyFrom(example.node)
    seed = draw(st.integers(0, 2**32 - 1))
    values = [fresh(v, seed + i) for i, v in enumerate(example.values)] if draw(st.booleans()) else list(example.values)
    if schema.name in PRODUCTS_OF_BYTES:
        values = [np.asarray(v // 2) if isinstance(v, np.ndarray) and v.dtype == np.int8 else v for v in values]
    for i, formal in enumerate(schema.inputs):
        if i < len(values) and formal.option == OPTIONAL and values[i] is not None and draw(st.integers(0, 3)) == 0:
            values[i] = None
            node.input[i] = ""
    for attribute in node.attribute:
        if attribute.name in FLAGS and draw(st.booleans()):
            attribute.i = 1 - attribute.i
    while node.input and not node.input[-1]:
        node.input.pop()
        values.pop()
    return node, values


def model(schema, node, values):
    named = {n: v for n, v in zip(node.input, values, strict=True) if n}
    infos = [helper.make_value_info(n, matrix._type_of(v)) for n, v in named.items()]
    graph = helper.make_graph([node], "one", infos, [onnx.ValueInfoProto(name=n) for n in node.output if n])
    imports = [helper.make_opsetid("", min(26, onnx.defs.onnx_opset_version()))]
    if schema.domain:
        imports.append(helper.make_opsetid(schema.domain, 5 if schema.domain == "ai.onnx.ml" else 1))
    elif schema.since_version > 26:
        imports[0].version = onnx.defs.onnx_opset_version()
    return helper.make_model(graph, opset_imports=imports, ir_version=11), named


def _valid(proto):
    """Whether the types are what the schema allows."""
    try:
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    except Exception:  # noqa: BLE001
        return False
    return True


def expected(schema, proto, feeds):
    """What a peer gives, and which; None when no peer runs it."""
    integer_mask = schema.name == "Attention" and any(v.dtype.kind in "iu" for v in feeds.values())
    if schema.name not in NOT_ONNXRUNTIME and not integer_mask:
        try:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            return "onnxruntime", onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, feeds)
        except Exception:  # noqa: BLE001  (whatever it cannot do)
            pass
    narrow = coarsest(feeds.values()) > 1e-5  # it adds up in the narrow type itself
    if schema.name not in NOT_REFERENCE and not narrow:
        try:
            return "onnx.reference", ReferenceEvaluator(proto).run(None, feeds)
        except Exception:  # noqa: BLE001
            pass
    return None, None


def coarsest(values):
    """The largest step of a float dtype among values: peers may round to it on the way."""
    steps = [1e-6]
    for value in values:
        if isinstance(value, list):
            steps.append(coarsest(value))
        elif isinstance(value, np.ndarray) and value.dtype != object and dtypes.of_numpy(value.dtype).kind == "f":
            steps.append(float(ml_dtypes.finfo(value.dtype).eps))
    return max(steps)


def agree(ours, theirs, peer, step):
    if isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            agree(a, b, peer, step)
        return
    if theirs is None or isinstance(theirs, dict):
        assert ours == theirs or theirs is None
        return
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape
    if theirs.dtype == np.uint8 and ours.dtype.itemsize == 1:  # onnxruntime gives float8 out as bytes
        theirs = theirs.view(ours.dtype)
    logical = dtypes.of_numpy(ours.dtype)
    if logical.kind not in "fc":
        assert (ours == theirs).all(), f"{ours.reshape(-1)[:8]}, {peer} {theirs.reshape(-1)[:8]}"
        return
    wide = np.complex128 if logical.kind == "c" else np.float64
    a, b = ours.astype(wide), theirs.astype(wide)
    scale = np.abs(b[np.isfinite(b)]).max(initial=1.0)
    np.testing.assert_allclose(a, b, rtol=max(1e-3, 8 * step), atol=max(1e-4, 8 * step) * float(scale), err_msg=peer)


@pytest.mark.parametrize("schema", schemas(), ids=lambda s: f"{s.domain or 'ai.onnx'}-{s.name}")
@settings(
    max_examples=int(os.environ.get("ORTLITE_ORACLE_EXAMPLES", "6")),
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    deadline=None,
    derandomize=not os.environ.get("ORTLITE_ORACLE_EXAMPLES"),
    database=None,
)
@given(data=st.data())
def test_same_as_a_peer(schema, data):
    node, values = data.draw(calls(schema))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        proto, feeds = model(schema, node, values)
        assume(_valid(proto))
        peer, theirs = expected(schema, proto, feeds)
        assume(peer is not None)
        ours = ortlite.InferenceSession(proto.SerializeToString()).run(None, feeds)
        agree(ours, theirs, peer, coarsest([*values, *ours]))
