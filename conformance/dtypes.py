"""Every operator in every dtype that its schema allows, checked against the same kernel in float64 or int64.

    python -m conformance.dtypes [-k PATTERN] [--provider P] [--every]

An example of each operator (from the ONNX suite, or from EXAMPLES below) is converted to each dtype of each type
variable, run in a session, and compared with the kernel itself on wide values. Writes conformance/DTYPES.md.
With `--every` a provider must run every example that NumPy runs, not just one.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper

import ortlite
from conformance import forked, run_main
from conformance.cases import _array, by_steps, load_cases
from ortlite import dtypes
from ortlite.cli.bars import working
from ortlite.dtypes import DType
from ortlite.ops import registry
from ortlite.progress import each
from ortlite.provider import CPU, create
from ortlite.schema import plain

__all__ = ["check", "examples", "pairs", "table"]

HERE = Path(__file__).parent
F = np.float32


@dataclass(frozen=True)
class Example:
    """One call of an operator: a node, and a value (or None) for each of its inputs."""

    node: onnx.NodeProto
    values: tuple[Any, ...]
    gives: DType | None = None  # a dtype that one of the outputs must have
    before: tuple[onnx.NodeProto, ...] = ()  # nodes of the graph around it


def _example(op_type: str, *values: Any, domain: str = "", outputs: int = 1, **attributes: Any) -> Example:
    values = tuple(np.asarray(v) if isinstance(v, np.generic) else v for v in values)
    names = ["" if v is None else f"x{i}" for i, v in enumerate(values)]
    node = helper.make_node(op_type, names, [f"y{i}" for i in range(outputs)], domain=domain, **attributes)
    return Example(node, values)


def _ml(op_type: str, *values: Any, **attributes: Any) -> Example:
    return _example(op_type, *values, domain="ai.onnx.ml", **attributes)


TRIES = 12  # examples: some are for other dtypes alone (an attribute that is text, an index out of a range)
X = np.array([[1.0, -2.0, 3.0], [0.5, 2.0, -1.0]], F)
TREE = {
    "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [1, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.5, 0.0, 0.0],
    "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
}  # fmt: skip
MACHINE = {
    "coefficients": [0.5, -0.5, 1.0], "kernel_params": [0.1, 0.0, 3.0], "kernel_type": "RBF", "rho": [0.1],
    "support_vectors": [1.0, 2.0, 3.0, 0.0, 1.0, 0.0, -1.0, 0.5, 2.0],
}  # fmt: skip

# What the suite has no single-node case of.
EXAMPLES = [
    _example("ConcatFromSequence", [X, X], axis=0),
    _example("Scatter", X, np.array([[1, 0, 1]]), X[:1]),
    _example("Upsample", X, np.array([2, 1], F)),
    _example("DFT", X[..., None], np.array(4), np.array(1)),
    _example("Resize", X, np.array([0, 0, 1, 1], F), np.array([2, 1], F),
             coordinate_transformation_mode="tf_crop_and_resize"),
    _example("RNN", X[None], X[None], np.ones((1, 2, 2), F), None, np.array([1, 1], np.int32), hidden_size=2),
    _example("GRU", X[None], X[None].repeat(3, 1), np.ones((1, 6, 2), F), None, np.array([1, 1], np.int32),
             hidden_size=2),
    _example("QLinearConv", np.ones((1, 1, 3, 3), np.uint8), F(1), np.uint8(0), np.ones((1, 1, 2, 2), np.uint8), F(1),
             np.uint8(0), F(1), np.uint8(0), np.array([3], np.int32)),
    _example("GlobalLpPool", np.abs(X)[None, :, :, None], p=2),
    _example("MaxRoiPool", X.reshape(1, 1, 2, 3), np.array([[0, 0, 0, 2, 1]], F), pooled_shape=[1, 2]),
    _example("Multinomial", X, sample_size=4),
    _example("Optional", X),
    _example("Optional", [X, X]),
    _example("RandomNormal", shape=[2, 3], seed=1.0),
    _example("RandomUniform", shape=[2, 3], seed=1.0),
    _example("RandomNormalLike", X, seed=1.0),
    _example("RandomUniformLike", X, seed=1.0),
    _example("SequenceAt", [X, X], np.array(1)),
    _example("SequenceConstruct", X, X),
    _example("SequenceEmpty"),
    _example("SequenceErase", [X, X], np.array(1)),
    _example("SequenceLength", [X, X]),
    _ml("CastMap", {0: 1.0, 2: 3.0}),
    _ml("CategoryMapper", np.array(["a", "b"], object), cats_strings=["a"], cats_int64s=[4]),
    _ml("DictVectorizer", {"a": 1.0, "c": 3.0}, string_vocabulary=["a", "b", "c"], int64_vocabulary=None),
    _ml("FeatureVectorizer", X, X, inputdimensions=[3, 2]),
    _ml("Imputer", X, imputed_value_floats=[7.0], imputed_value_int64s=[7], replaced_value_float=2.0,
        replaced_value_int64=2),
    _ml("LinearClassifier", X, coefficients=[1.0, 2.0, 3.0, -1.0, 0.5, 2.0], classlabels_ints=[0, 1], outputs=2),
    _ml("LinearRegressor", X, coefficients=[1.0, 2.0, 3.0], intercepts=[0.5]),
    _ml("Normalizer", X, norm="L2"),
    _ml("OneHotEncoder", X, cats_int64s=[1, 2, 3]),
    _ml("OneHotEncoder", np.array([["a", "b"], ["c", "a"]], object), cats_strings=["a", "b"]),
    _ml("SVMClassifier", X, classlabels_ints=[0, 1], vectors_per_class=[2, 1], outputs=2, **MACHINE),
    _ml("SVMRegressor", X, n_supports=3, **MACHINE),
    _ml("Scaler", X, offset=[1.0, 2.0, 3.0], scale=[2.0, 3.0, 4.0]),
    _ml("TreeEnsembleClassifier", X, class_treeids=[0, 0], class_nodeids=[1, 2], class_ids=[0, 1], outputs=2,
        class_weights=[1.0, 2.0], classlabels_int64s=[0, 1], **TREE),
    _ml("TreeEnsembleRegressor", X, target_treeids=[0, 0], target_nodeids=[1, 2], target_ids=[0, 0],
        target_weights=[1.0, 2.0], **TREE),
    _ml("ZipMap", np.abs(X), classlabels_strings=["a", "b", "c"]),
    _ml("LabelEncoder", np.array([1.0, 2.0, 9.0], F), keys_floats=[1.0, 2.0], values_strings=["a", "b"]),
    _ml("LabelEncoder", np.array([1, 2, 9]), keys_int64s=[1, 2], values_strings=["a", "b"]),
    _ml("LabelEncoder", np.array(["a", "b"], object), keys_strings=["a", "b"], values_floats=[1.0, 2.0]),
    _ml("LabelEncoder", np.array(["a", "b"], object), keys_strings=["a", "b"], values_int64s=[1, 2]),
    *(_ml("LabelEncoder", np.array(["a"], object), keys_strings=["a"], values_tensor=onnx.numpy_helper.from_array(
        np.ones(1, t))) for t in (np.int32, np.int16, np.float64)),
    *(_ml("CastMap", {0: 1.0, 2: 3.0}, cast_to=to) for to in ("TO_STRING", "TO_INT64")),
    _ml("CategoryMapper", np.array([4, 5]), cats_strings=["a"], cats_int64s=[4]),
    *(_ml("DictVectorizer", {"a": one, "c": one}, string_vocabulary=["a", "b", "c"]) for one in (
        np.int64(1), np.float64(1))),
    _ml("DictVectorizer", {1: "u", 3: "v"}, int64_vocabulary=[1, 2, 3]),
    _ml("LinearClassifier", X, coefficients=[1.0, 2.0, 3.0, -1.0, 0.5, 2.0], classlabels_strings=["a", "b"], outputs=2),
    _ml("SVMClassifier", X, classlabels_strings=["a", "b"], vectors_per_class=[2, 1], outputs=2, **MACHINE),
    _ml("TreeEnsembleClassifier", X, class_treeids=[0, 0], class_nodeids=[1, 2], class_ids=[0, 1], outputs=2,
        class_weights=[1.0, 2.0], classlabels_strings=["a", "b"], **TREE),
    _example("TfIdfVectorizer", np.array(["a", "b", "a"], object), mode="TF", max_skip_count=0, min_gram_length=1,
             max_gram_length=1, ngram_counts=[0], ngram_indexes=[0, 1], pool_strings=["a", "b"]),
]  # fmt: skip


@cache
def examples() -> dict[tuple[str, str], list[Example]]:
    """(domain, operator) -> its examples."""
    found: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in EXAMPLES:
        found[example.node.domain, example.node.op_type].append(example)
    for kind, case in load_cases().values():
        if kind != "node" or case.model is None or len(case.model.graph.node) != 1:
            continue
        graph = case.model.graph
        (node,) = graph.node
        opset = {o.domain: o.version for o in case.model.opset_import}.get(node.domain, 1)
        newest = onnx.defs.get_schema(node.op_type, onnx.defs.onnx_opset_version(), node.domain)
        if newest.since_version > opset:
            continue
        known = {i.name: _array(v) for i, v in zip(graph.input, case.data_sets[0][0], strict=False)}
        known |= {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        values = tuple(known[n] if n else None for n in node.input)
        found["" if node.domain == "ai.onnx" else node.domain, node.op_type].append(Example(node, values))
    return found


# Attributes that say the dtype of an output's type variable.
SAID_BY = {"Cast": "to", "HannWindow": "output_datatype", "HammingWindow": "output_datatype"}
SAID_BY |= {"BlackmanWindow": "output_datatype", "MelWeightMatrix": "output_datatype", "QuantizeLinear": "output_dtype"}
SAID_BY |= dict.fromkeys(("RandomNormal", "RandomUniform", "Multinomial", "SequenceEmpty", "EyeLike"), "dtype")
SAID_BY |= dict.fromkeys(("Bernoulli", "RandomNormalLike", "RandomUniformLike"), "dtype")
SAID_BY |= {"DequantizeLinear": "output_dtype", "LayerNormalization": "stash_type"}

# Type variables of outputs that another one, of an input, decides.
FOLLOWS = {("SequenceConstruct", "S"): "T", ("SplitToSequence", "S"): "T", ("SequenceAt", "T"): "S"}
FOLLOWS |= {("ConcatFromSequence", "T"): "S", ("Optional", "O"): "V", ("OptionalGetElement", "V"): "O"}
FOLLOWS |= {("SequenceMap", "S"): "S"}

# Their values depend on the dtype itself, or on draws: that they run is checked here, their values in tests/.
WIDTH_MATTERS = set(
    "Cast CastLike BitCast QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearMatMul QLinearConv "
    "RandomNormal "
    "RandomUniform RandomNormalLike RandomUniformLike Bernoulli Multinomial Dropout Constant ConstantOfShape "
    "ImageDecoder TreeEnsemble DictVectorizer CastMap".split()
)
# Sums of texts have no meaning, whatever the schema allows.
MEANINGLESS = {("Col2Im", "string"), ("GridSample", "string")}


def _identity(dtype: DType, *before: str) -> onnx.GraphProto:
    """A subgraph that returns its last input."""
    typed = helper.make_tensor_type_proto(dtype.code, None)
    kinds = {"i": helper.make_tensor_type_proto(7, []), "c": helper.make_tensor_type_proto(9, [])}
    inputs = [helper.make_value_info(n, kinds[n]) for n in before] + [helper.make_value_info("v", typed)]
    nodes = [helper.make_node("Identity", ["v"], ["w"])]
    outputs = [helper.make_value_info("w", typed)]
    if "c" in before:
        nodes.append(helper.make_node("Identity", ["c"], ["d"]))
        outputs.insert(0, helper.make_value_info("d", kinds["c"]))
    return helper.make_graph(nodes, "identity", inputs, outputs)


def _if(dtype: DType) -> Example:
    branch = _identity(dtype)
    constant = onnx.numpy_helper.from_array(converted(np.ones(2, F), dtype), "v")
    del branch.input[:]
    branch.initializer.append(constant)
    return _example("If", np.array(True), then_branch=branch, else_branch=branch)


def _bit_cast(dtype: DType) -> Example:
    same = {2: "uint2", 4: "uint4", 6: "float6_e3m2fn", 8: "uint8", 16: "uint16", 32: "uint32", 64: "uint64"}
    partner = dtypes.by_name(same.get(dtype.bits, dtype.name))
    back = _example("BitCast", converted(np.ones(2, F), dtype), to=partner.code)
    return back if partner is dtype else _example("BitCast", converted(np.ones(2, F), partner), to=dtype.code)


def _gradient(dtype: DType) -> Example:
    """A product, differentiated at a value of the dtype: of it, or where that has no gradient, of its size."""
    node = helper.make_node
    domain = "ai.onnx.preview.training"
    before = [node("Size", ["x1"], ["n"]), node("Cast", ["n"], ["m"], to=1), node("Mul", ["x0", "m"], ["y"])]
    of = F if dtype.kind != "f" else dtypes.to_numpy(dtype)
    if dtype.kind == "f":
        before = [node("Mul", ["x0", "x1"], ["y"])]
    made = _example("Gradient", X.astype(of), converted(X, dtype), domain=domain, xs=["x0"], zs=["x1"], y="y")
    made.node.output[0] = "dy"
    return Example(made.node, made.values, None, tuple(before))


# Examples that must be made for the dtype that they are to show.
MADE = {
    "If": _if,
    "Gradient": _gradient,
    "BitCast": _bit_cast,
    "Loop": lambda d: _example("Loop", np.array(2), None, converted(X, d), body=_identity(d, "i", "c")),
    "Scan": lambda d: _example("Scan", converted(X, d), num_scan_inputs=1, body=_identity(d)),
    "SequenceInsert": lambda d: _example("SequenceInsert", [converted(X, d)], converted(X, d)),
    "SequenceMap": lambda d: _example("SequenceMap", [converted(X, d)], body=_identity(d)),
    "Optional": lambda d: _example("Optional", converted(X, d)),
    "OptionalGetElement": lambda d: _example("OptionalGetElement", converted(X, d)),
}


def pairs(schema: onnx.defs.OpSchema) -> list[tuple[str, DType]]:
    """(type variable, dtype) for every dtype that a schema's type constraints allow."""
    found = []
    for constraint in schema.type_constraints:
        for text in constraint.allowed_type_strs:
            inner = text.rpartition("tensor(")[2].rstrip(")") if "tensor(" in text else ""
            if inner:
                found.append((constraint.type_param_str, dtypes.by_ort_name(inner)))
    return list(dict.fromkeys(found))


def converted(value: Any, to: DType) -> Any:
    """A value of the same shape in another dtype: rounded, positive or non-zero where a dtype or divisor needs it."""
    if value is None or isinstance(value, dict):
        return value
    if isinstance(value, list):
        return [converted(v, to) for v in value]
    value = np.asarray(value)
    source = dtypes.of_numpy(value.dtype)
    native = dtypes.to_numpy(to)
    if source is to:
        return value
    if to.kind == "S":
        result = np.empty(value.shape, object)
        result.reshape(-1)[:] = [str(v) for v in value.reshape(-1)]
        return result
    if source.kind == "S":
        return np.arange(value.size).reshape(value.shape).astype(native)
    wide = value.astype(np.complex128 if source.kind == "c" else np.float64)
    wide = np.asarray(np.where(np.isfinite(wide), wide, 1.0))
    if source.kind == "c" and to.kind != "c":
        wide = wide.real
    if to.kind == "c":
        return np.asarray(wide * (1 + 0.5j)).astype(native)
    if to.kind == "b":
        return np.asarray(wide > 0)
    if to.kind == "f":
        if to.name == "float8_e8m0fnu":
            wide = np.asarray(np.abs(wide) + (wide == 0))
        limit = float(ml_dtypes.finfo(native).max)
        return np.asarray(np.clip(wide, -limit, limit)).astype(native)
    whole = np.round(wide * 2) if source.kind == "f" else wide
    low = -(2 ** (to.bits - 1)) if to.kind == "i" else 0
    whole = np.clip(whole if to.kind == "i" else np.abs(whole), low, low + 2.0**to.bits - 1)
    if source.kind == "f":
        whole = np.where(whole == 0, 1, whole)
    return np.asarray(whole.astype(np.int64 if to.name != "uint64" else np.uint64)).astype(native)


def wide(value: Any) -> Any:
    """The same numbers in float64, int64 or complex128; bool, text and uint64 as they are."""
    if value is None or isinstance(value, dict):
        return value
    if isinstance(value, list):
        return tuple(wide(v) for v in value)
    kind = dtypes.of_numpy(value.dtype)
    to = {"f": np.float64, "i": np.int64, "u": np.int64, "c": np.complex128}.get(kind.kind)
    return value if to is None or kind.name == "uint64" else value.astype(to)


def _input_variable(schema: onnx.defs.OpSchema, position: int) -> str:
    formal = schema.inputs[min(position, len(schema.inputs) - 1)]
    return formal.type_str


def instance(schema: onnx.defs.OpSchema, example: Example, variable: str, dtype: DType) -> Example:
    """The example with one type variable bound to a dtype; where only outputs show it, with that dtype among them."""
    node = onnx.NodeProto()
    node.CopyFrom(example.node)
    variable = FOLLOWS.get((schema.name, variable), variable)
    bound = [_input_variable(schema, i) == variable for i in range(len(example.values))]
    values = tuple(converted(v, dtype) if b else v for v, b in zip(example.values, bound, strict=True))
    if any(b and v is not None for b, v in zip(bound, example.values, strict=True)):
        if schema.name in {"RandomNormalLike", "RandomUniformLike"} and dtype.kind != "f":
            _set(node, "dtype", 1)
        return Example(node, values)
    if schema.name in {"Constant", "ConstantOfShape"}:
        del node.attribute[:]
        _set(node, "value", onnx.numpy_helper.from_array(converted(np.ones(1, F), dtype), "value"))
    elif schema.name in SAID_BY:
        _set(node, SAID_BY[schema.name], dtype.code)
        if schema.name == "QuantizeLinear":  # the zero point would say it otherwise
            values = values[:2]
            del node.input[2:]
    return Example(node, values, dtype)


def _set(node: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def check(schema: onnx.defs.OpSchema, example: Example, provider: str = CPU) -> None:
    """Run an example in a session; raise AssertionError when it disagrees with the kernel on wide values."""
    node = example.node
    outputs = _session_outputs(schema, example, provider)
    if example.gives is not None:
        shown = {n for value in outputs for n in _dtype_names(value)}
        assert example.gives.name in shown or schema.name == "SequenceEmpty", f"no output is {example.gives}"
    if schema.name in WIDTH_MATTERS or example.before or any(a.type == a.GRAPH for a in node.attribute):
        return
    kernel = registry.lookup(schema.domain, schema.name, schema.since_version)
    assert kernel is not None
    attributes = {}
    for attribute in node.attribute:
        value = plain(helper.get_attribute_value(attribute))
        param = kernel.accepts(attribute.name)
        if param is not None and param.kind == "DType":
            value = dtypes.by_code(value) if value else None
            value = dtypes.by_name("float64") if value is not None and value.kind == "f" else value
        if isinstance(value, onnx.TensorProto):
            value = onnx.numpy_helper.to_array(value)
        attributes[attribute.name] = value
    cpu = create(CPU)
    with np.errstate(all="ignore"):
        result = registry.call(
            kernel, cpu.xp, [wide(v) for v in example.values], attributes, n_outputs=len(node.output), rng=1
        )
    results = list(result) if kernel.multiple else [result]
    for name, got, wanted in zip(node.output, outputs, results, strict=False):
        if name:
            _compare(got, wanted)


def _dtype_names(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for item in value for name in _dtype_names(item)]
    return [dtypes.of_numpy(value.dtype).name] if isinstance(value, np.ndarray) else []


def _session_outputs(schema: onnx.defs.OpSchema, example: Example, provider: str) -> list[Any]:
    node = example.node
    named = {n: v for n, v in zip(node.input, example.values, strict=True) if n}
    infos = [helper.make_value_info(n, _type_of(v)) for n, v in named.items()]
    graph = helper.make_graph(
        [*example.before, node], "one", infos, [onnx.ValueInfoProto(name=n) for n in node.output if n]
    )
    newest = {schema.domain: 1} | {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": 5}
    if onnx.defs.get_schema(schema.name, newest[schema.domain], schema.domain).deprecated:
        newest[schema.domain] = schema.since_version
    imports = [helper.make_opsetid(d, newest[d]) for d in {"", schema.domain}]
    model = helper.make_model(graph, opset_imports=imports, ir_version=11)
    options = ortlite.SessionOptions()
    options.add_session_config_entry("ortlite.check_types", str(int(by_steps(provider))))
    session = ortlite.InferenceSession(model.SerializeToString(), options, [provider])
    values = session.run(None, named)
    for output, value in zip(session.get_outputs(), values, strict=True):
        for name in _dtype_names(value):
            kept = f"({dtypes.by_name(name).ort})" in output.type or not output.type  # ONNX infers none of Adam's
            assert kept, f"{name}, where {output.type} is promised"
    rest = iter(values)
    return [next(rest) if n else None for n in node.output]


def _type_of(value: Any) -> onnx.TypeProto:
    if isinstance(value, list):
        return helper.make_sequence_type_proto(_type_of(value[0]) if value else helper.make_tensor_type_proto(1, None))
    if isinstance(value, dict):
        key, item = next(iter(value.items()))
        name = "string" if isinstance(item, str) else "float32" if type(item) is float else item.dtype.name
        element = helper.make_tensor_type_proto(dtypes.by_name(name).code, None)
        return helper.make_map_type_proto(dtypes.by_name("string" if isinstance(key, str) else "int64").code, element)
    if value is None:
        return helper.make_optional_type_proto(helper.make_tensor_type_proto(1, None))
    return helper.make_tensor_type_proto(dtypes.of_numpy(value.dtype).code, None)


def _compare(got: Any, wanted: Any) -> None:
    """A result in its dtype beside the same in a wide one."""
    if wanted is None or got is None or isinstance(wanted, dict):
        return
    if isinstance(wanted, tuple) and isinstance(got, list):
        assert len(got) == len(wanted)
        for a, b in zip(got, wanted, strict=True):
            _compare(a, b)
        return
    wanted = np.asarray(wanted)
    dtype = dtypes.of_numpy(got.dtype)
    assert got.shape == wanted.shape, f"shape {got.shape}, not {wanted.shape}"
    if dtype.kind in "iub":
        with np.errstate(all="ignore"):
            expected = (
                wanted.astype(np.int64).astype(got.dtype) if wanted.dtype.kind == "f" else wanted.astype(got.dtype)
            )
        assert (got == expected).all(), f"{got.reshape(-1)[:6]}, not {expected.reshape(-1)[:6]}"
    elif dtype.kind == "S":
        assert (got == wanted).all(), f"{got.reshape(-1)[:4]}, not {wanted.reshape(-1)[:4]}"
    else:
        step = float(ml_dtypes.finfo(got.dtype if dtype.kind == "f" else np.zeros(1, got.dtype).real.dtype).eps)
        limit = float(ml_dtypes.finfo(got.dtype).max) if dtype.kind == "f" else np.inf
        exact = got.astype(np.complex128 if dtype.kind == "c" else np.float64)
        wanted = np.where(np.abs(wanted) >= limit, np.sign(wanted) * np.inf, wanted) if dtype.bits < 32 else wanted
        exact = np.where(np.abs(exact) >= limit, np.sign(exact) * np.inf, exact) if dtype.bits < 32 else exact
        scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-30)
        np.testing.assert_allclose(exact, wanted, rtol=max(8 * step, 1e-6), atol=max(8 * step, 1e-6) * float(scale))


def _problem(schema: onnx.defs.OpSchema, example: Example, provider: str) -> str:
    """What is wrong with an example in a session, or nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(schema, example, provider)
    except Exception as error:  # noqa: BLE001  (a result, whatever it is)
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return ""


def _first_problem(schema: onnx.defs.OpSchema, tried: Sequence[Example], provider: str, every: bool) -> str:
    problem = "no example shows it"
    for example in tried:
        problem = _problem(schema, example, provider)
        if every:
            if problem and not _problem(schema, example, CPU):
                return problem
            problem = ""
        elif not problem:
            break
    return problem


def results(pattern: str, provider: str, every: bool = False, jobs: int = 1) -> dict[tuple[str, str], dict[str, str]]:
    """(domain, operator) -> dtype -> "" when all is well, else what went wrong. In `jobs` processes: see run_suite."""
    examples()  # made once, before the fork
    names = sorted((s.domain, s.name) for s in onnx.defs.get_all_schemas() if re.search(pattern, s.name))
    row = partial(_row, provider=provider, every=every)
    if jobs == 1:
        return dict(zip(names, map(row, each("operators", names)), strict=True))
    with forked(jobs) as pool:
        return dict(zip(each("operators", names), pool.map(row, names), strict=True))


def _row(operator: tuple[str, str], provider: str, every: bool) -> dict[str, str]:
    """Each dtype -> "" when all is well, else what went wrong."""
    domain, name = operator
    schema = onnx.defs.get_schema(name, domain)
    if schema.deprecated:  # the last version that was not
        schema = onnx.defs.get_schema(name, schema.since_version - 1, domain)
    row: dict[str, str] = {}
    for variable, dtype in pairs(schema):
        if (name, dtype.name) in MEANINGLESS:
            continue
        if name in MADE:
            tried = [MADE[name](dtype)]
        else:
            tried = [instance(schema, e, variable, dtype) for e in examples().get(operator, ())]
        problem = _first_problem(schema, tried[:TRIES], provider, every)
        row[dtype.name] = row.get(dtype.name) or (problem and f"{variable}: {problem}")
    return row


def table(found: dict[tuple[str, str], dict[str, str]]) -> str:
    """The text of conformance/DTYPES.md."""
    columns = [d.name for d in dtypes.ALL if any(d.name in row for row in found.values())]
    cells = [bool(error) for row in found.values() for error in row.values()]
    lines = [
        "# Operators and dtypes",
        "",
        f"Made by `python -m conformance.dtypes` with onnx {onnx.__version__}, newest opset of each operator.",
        "",
        f"{len(cells) - sum(cells)} of {len(cells)} (operator, dtype) pairs run and give the right values on {CPU}:",
        "y does, n does not, nothing: the schema does not allow it.",
        "",
        f"| operator | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for (domain, name), row in found.items():
        shown = ["" if c not in row else "n" if row[c] else "y" for c in columns]
        lines.append(f"| {domain or 'ai.onnx'}::{name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m conformance.dtypes", description=__doc__.split("\n")[0])
    parser.add_argument("-k", dest="pattern", default="", help="regular expression: only operators whose name it finds")
    parser.add_argument("--provider", default=CPU)
    parser.add_argument("--every", action="store_true", help="every example that NumPy runs, not the first that runs")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    args = parser.parse_args()
    if args.every and args.provider == CPU:
        parser.error("--every compares another provider with NumPy")
    with working("operators"):
        found = results(args.pattern, args.provider, args.every, args.jobs)
    bad = [(f"{name} {dtype}", error) for (_, name), row in found.items() for dtype, error in row.items() if error]
    for what, error in bad:
        print(f"FAIL {what}: {error}", file=sys.stderr)
    total = sum(map(len, found.values()))
    print(f"{total - len(bad)} of {total} (operator, dtype) pairs", file=sys.stderr)
    if not args.pattern and args.provider == CPU:
        (HERE / "DTYPES.md").write_text(table(found))
    return 1 if bad else 0


if __name__ == "__main__":
    run_main(main)
