"""Gradients of every operator on torch, JAX and our own tape, checked against differences in float64.

    python -m conformance.gradients [-k PATTERN] [--write]

Examples of each operator are converted to float64 where its schema allows it, made models of one node, and called as
`ortlite.function`. The derivative of a random sum of the results along a random direction is compared with central
differences of the same function on NumPy, at points where these show that it is smooth. With `--write` the results
become conformance/GRADIENTS.md.

Where a function is not smooth, the derivative is that of torch's own operator, on torch, JAX and the tape alike
(tests/test_kinks.py compares all three with it):

| at | the derivative |
|---|---|
| Relu, ThresholdedRelu, HardSigmoid, Shrink at a kink | 0, as beyond it where it is flat |
| LeakyRelu, PRelu at 0 | the slope; by the slope itself 0 |
| Elu, Celu, Selu at 0 | that of the exponential: alpha, 1, alpha · gamma |
| HardSwish at -3 and 3 | 0 and 1 |
| Abs, Sign at 0; Round, Floor, Ceil everywhere | 0 |
| Clip at a bound | 1 by the input, 0 by the bound |
| Max, Min of two equals | a half each |
| ReduceMax, ReduceMin, ScatterElements and ScatterND by max or min, of n equals | 1 / n each |
| MaxPool, GlobalMaxPool, TopK, of equals | 1 by the first, 0 by the others |
| a norm at 0 (ReduceL1, ReduceL2, LpPool, GlobalLpPool, inside the normalisations) | 0 |
| LpNormalization of a row of zeros; Normalizer of one | 0; 1, for it is divided by 1 |
| Pow by a base of 0 | infinite below power 1; 0 at power 0 |
| Pow by the exponent, where the base is 0 | 0 |
| ReduceLogSumExp of -inf alone | 0, where torch has NaN |
| GridSample's grid, where border or reflection hold it, the outermost pixels included | 0 |
| GridSample's grid at other pixels, linear | that to the right |
| Sqrt, ReduceLogSum at 0 | infinite |
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

import ortlite
from conformance import dtypes as matrix
from conformance import run_main
from conformance.dtypes import Example, _example, _type_of, converted
from ortlite import dtypes
from ortlite.cli.bars import working
from ortlite.ops import registry
from ortlite.ops.registry import Kernel
from ortlite.progress import each

__all__ = ["LIBRARIES", "Case", "Point", "cases", "judge", "smooth_point", "table"]

HERE = Path(__file__).parent
TRAINING = "ai.onnx.preview.training"
MS = "com.microsoft"
VERSIONS = {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": 5}
LIBRARIES = ("torch", "jax", "tape")
DEPRECATED = {"Scatter", "Upsample"}
AS_THEY_ARE = {"BitCast"}
SHOWN = 6  # examples of each operator that the table is made of
F = np.float32


def _rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape)


def _caches() -> tuple[np.ndarray, np.ndarray]:
    angle = np.outer(np.arange(8), 0.5 ** np.arange(4))
    return np.cos(angle), np.sin(angle)


def _ms(op_type: str, *values: Any, **attributes: Any) -> Example:
    return _example(op_type, *values, domain=MS, **attributes)


X, V = _rows(2, 3, 8), _rows(8)
ONE = np.array(0.02, F)  # a scale
Q8 = np.arange(48, dtype=np.uint8).reshape(2, 3, 8)
ZERO = np.array(3, np.uint8)
BYTES = np.arange(256, dtype=np.uint8).reshape(2, 16, 8)

# What the ONNX suite has no example of, or none that a gradient goes through.
EXAMPLES = [
    _ms("Gelu", X), _ms("FastGelu", X, V), _ms("QuickGelu", X), _ms("BiasGelu", X, V),
    *(_ms("FusedConv", _rows(1, 2, 5, 5), _rows(3, 2, 3, 3), _rows(3), _rows(1, 3, 3, 3), activation=a, **more)
      for a, more in (("Tanh", {}), ("LeakyRelu", {"activation_params": [0.2]}))),
    _ms("FusedMatMul", _rows(2, 3, 4), _rows(2, 4, 5), alpha=0.5),
    _ms("FusedMatMul", _rows(2, 4, 3), _rows(2, 5, 4), transA=1, transB=1),
    _ms("SkipLayerNormalization", X, X[::-1], V, V[::-1], V + 1),
    _ms("SkipSimplifiedLayerNormalization", X, X[::-1], V, V + 1),
    _example("SimplifiedLayerNormalization", X, V),
    _ms("EmbedLayerNormalization", np.array([[1, 2]], np.int32), np.array([[0, 1]], np.int32), _rows(4, 8), _rows(3, 8),
        _rows(2, 8), V, V + 1, outputs=2),
    _ms("Attention", X, _rows(8, 24), _rows(24), num_heads=2),
    _ms("Attention", X, _rows(8, 24), _rows(24), np.array([3, 2], np.int32), num_heads=2, unidirectional=1),
    _ms("Attention", X, _rows(8, 24), _rows(24), None, _rows(2, 2, 2, 4, 4), num_heads=2, outputs=2),
    _ms("MultiHeadAttention", X, X + 1, X - 1, num_heads=2),
    _ms("MultiHeadAttention", X, X + 1, X - 1, _rows(24), np.array([[1, 1, 0], [1] * 3], np.int32), num_heads=2),
    _ms("MultiHeadAttention", X, X + 1, X - 1, None, None, _rows(1, 2, 3, 7), _rows(2, 2, 4, 4),
        _rows(2, 2, 4, 4)[::-1], num_heads=2, scale=0.3),
    _ms("GroupQueryAttention", _rows(2, 3, 32), _rows(2, 3, 16), _rows(2, 3, 16), np.zeros((2, 2, 0, 8)),
        np.zeros((2, 2, 0, 8)), np.array([2, 2], np.int32), np.array(3, np.int32), *_caches(), num_heads=4,
        kv_num_heads=2, do_rotary=1, outputs=3),
    _ms("GroupQueryAttention", _rows(2, 1, 32), _rows(2, 1, 16), _rows(2, 1, 16), _rows(2, 2, 3, 8), _rows(2, 2, 3, 8),
        np.array([3, 3], np.int32), np.array(4, np.int32), num_heads=4, kv_num_heads=2, softcap=1.5, outputs=3),
    _ms("RotaryEmbedding", X, np.array([[0, 1, 2]] * 2), *_caches()),
    _ms("MatMulNBits", _rows(2, 16), Q8.reshape(6, 1, 8), _rows(6), K=16, N=6, block_size=16),
    _ms("GatherBlockQuantized", Q8[0, :2], np.array([1, 0]), _rows(2, 1), block_size=16, bits=4),
    _ms("ConvTransposeWithDynamicPads", _rows(1, 2, 4, 4), _rows(2, 3, 3, 3), np.array([0, 1, 0, 1]), _rows(3)),
    _ms("SparseToDenseMatMul", _rows(3, 4), _rows(4, 2)),
    _ms("Inverse", _rows(3, 3) + 3 * np.eye(3)), _ms("Trilu", _rows(3, 3)), _ms("Unique", V),
    _ms("ExpandDims", V, np.array(0)),
    _ms("Range", np.array(1.0), np.array(2.0), np.array(0.3)),
    _ms("GridSample", _rows(1, 2, 4, 4), np.tanh(_rows(1, 3, 3, 2))),
    _ms("CropAndResize", _rows(1, 2, 4, 4), np.array([[0.1, 0.0, 0.8, 0.7]]), np.array([0], np.int32),
        np.array([3, 3])),
    _ms("NhwcMaxPool", _rows(1, 4, 4, 2), kernel_shape=[2, 2]),
    _ms("BifurcationDetector", np.array([1, 2]), np.array([1, 2, 3]), np.array([1]), outputs=2),
    _ms("NGramRepeatBlock", np.array([[1, 2, 1]]), _rows(1, 4), ngram_size=2),
    *(_ms(f"QLinear{name}", Q8, ONE, ZERO, Q8, ONE, ZERO, ONE, ZERO) for name in ("Add", "Mul")),
    _ms("QLinearSigmoid", Q8, ONE, ZERO, ONE, ZERO), _ms("QLinearLeakyRelu", Q8, ONE, ZERO, ONE, ZERO),
    _ms("QLinearSoftmax", Q8, ONE, ZERO, ONE, ZERO, opset=13),
    _ms("QLinearConcat", ONE, ZERO, Q8, ONE, ZERO, axis=0),
    _ms("QLinearAveragePool", Q8[None], ONE, ZERO, ONE, ZERO, kernel_shape=[2, 2]),
    _ms("QLinearGlobalAveragePool", Q8[None], ONE, ZERO, ONE, ZERO),
    _ms("QGemm", Q8[0], ONE, ZERO, Q8[0].T, ONE, ZERO), _ms("MatMulIntegerToFloat", Q8[0], Q8[0].T, ONE, ONE),
    _ms("DynamicQuantizeMatMul", X[0].astype(F), Q8[0].T, ONE),
    _ms("QAttention", Q8, np.arange(192, dtype=np.uint8).reshape(8, 24), _rows(24).astype(F), ONE, ONE, None, ZERO,
        ZERO, num_heads=2),
    # one step: what the second would round depends on the scales
    _ms("DynamicQuantizeLSTM", X[:1].astype(F), np.arange(128, dtype=np.int8).reshape(1, 8, 16) - 64,
        np.arange(64, dtype=np.int8).reshape(1, 4, 16) - 32, None, None, X[:1, :, :4].astype(F), None, None,
        np.full(1, 0.01, F), np.zeros(1, np.int8), np.full(1, 0.01, F), np.zeros(1, np.int8), hidden_size=4),
    _ms("MoE", X[0], _rows(3, 4), _rows(4, 5, 8), _rows(4, 5), _rows(4, 8, 5), k=2, activation_type="gelu"),
    _ms("MoE", X[0], _rows(3, 4), _rows(4, 10, 8), _rows(4, 10), _rows(4, 8, 5), _rows(4, 8), k=2, swiglu_fusion=1,
        activation_type="swiglu", normalize_routing_weights=1),
    _ms("QMoE", _rows(3, 16), _rows(3, 2), BYTES, _rows(2, 16), _rows(2, 16), BYTES, _rows(2, 16),
        activation_type="silu"),
    _ms("MoEGroupRouter", _rows(2, 12), _rows(12), n_group=3, topk_group=2, top_k=3, router_sentinel=-9.0),
    _ms("MatMulBnb4", _rows(2, 16), Q8.reshape(48), _rows(6), K=16, N=6, block_size=16, quant_type=1),
    _ms("LinearAttention", X, X + 1, X - 1, _rows(2, 2, 4, 4), -np.abs(_rows(2, 3, 2)), _rows(2, 3, 2) ** 2,
        q_num_heads=2, kv_num_heads=2, outputs=2),
    _ms("LinearAttention", X, X[..., :4] + 1, X[..., :4] - 1, q_num_heads=4, kv_num_heads=2, update_rule="linear",
        outputs=2),
    _ms("LinearAttentionGate", X, V, V[::-1], X + 1, outputs=2),
    _ms("GatedDeltaNet", _rows(2, 3, 2, 4), _rows(2, 3, 2, 4) + 1, _rows(2, 3, 4, 5), None, _rows(2, 3, 4, 4),
        _rows(2, 3, 4), _rows(2, 4, 5, 4), _rows(4), _rows(4, 4), gate_activation="softplus", beta_activation="sigmoid",
        qk_l2_norm=1),
    _ms("CausalConvWithState", X, _rows(3, 1, 3), V[:3], _rows(2, 3, 2), activation="silu", outputs=2),
    _ms("VarlenCausalConvWithState", _rows(6, 4), _rows(4, 1, 3), np.array([0, 2, 3, 6], np.int32), _rows(4),
        _rows(3, 4, 2), activation="silu", outputs=2),
    _ms("BranchwiseRMSNorm", X, V, num_branches=2), _ms("GatedRMSNorm", X, V, X + 1),
    _ms("GatedAdd", X, X + 1, X[..., :1]), _ms("ScaledSiLU", X, np.array([0.7])),
    _ms("HyperConnectionPreMix", X, _rows(2, 3)), _ms("HyperConnectionPreMix", X, _rows(2, 3, 2), num_branches=2),
    _ms("HyperConnectionPostMix", X, _rows(2, 8), _rows(2, 3), _rows(2, 3, 3)),
    _ms("EngramGate", _rows(2, 3, 2, 4), _rows(2, 3, 2, 4) + 1, _rows(2, 3, 4), _rows(2, 4), _rows(2, 4) + 1,
        _rows(2, 4) - 1, outputs=2),
    _ms("MRotaryEmbedding", X, np.array([[[0, 1, 2], [3, 1, 0]]] * 3), *_caches(), mrope_section=[1, 2, 1]),
    _ms("DecoderMaskedMultiHeadAttention", X[:, :1], X[:, :1] + 1, X[:, :1] - 1, None, None, _rows(2, 2, 4, 4),
        _rows(2, 2, 4, 4)[::-1], num_heads=2, outputs=3),
    _ms("SparseAttention", _rows(2, 3, 16), X, X + 1, _rows(2, 1, 16, 8), _rows(2, 1, 16, 8) + 1,
        np.array([[0, 1]], np.int32), np.array([[0]], np.int32), np.array([3], np.int32), np.array([3, 3], np.int32),
        num_heads=2, kv_num_heads=1, sparse_block_size=16, outputs=3),
    _ms("AttnLSTM", _rows(3, 2, 3), _rows(1, 16, 9), _rows(1, 16, 4), None, None, None, None, None, _rows(1, 4, 5),
        _rows(1, 6, 5), _rows(1, 5), _rows(2, 4, 6), hidden_size=4, outputs=3),
    _example("Dropout", X, None, np.array(False)), _example("Trilu", X), _example("SequenceInsert", [X, X], X),
    _example("Clip", X, np.array(-0.4), np.array(0.6)),
    *(_example(f"Reduce{name}", X, np.array([1]), keepdims=0) for name in ("Max", "Min")),
    _example("Range", np.array(1.0), np.array(2.0), np.array(0.3)),
]  # fmt: skip

# Operators with subgraphs, whose bodies would keep the suite's float32.
GRAPHS = {
    "If": """g (bool c, double[3] a, double[3] b) => (y) { y = If (c) <
        then_branch = t () => (double[3] z) { z = Mul(a, b) }, else_branch = e () => (double[3] z) { z = Sin(a) }> }""",
    "Loop": """g (int64 n, bool c, double[3] a, double[3] b) => (y, z) { y, z = Loop (n, c, a) <
        body = l (int64 i, bool k, double[3] s) => (bool k2, double[3] s2, double[3] r)
        { k2 = Identity(k) s2 = Mul(s, b) r = Sin(s2) }> }""",
    "Scan": """g (double[3] a, double[4, 3] b) => (y, z) { y, z = Scan <num_scan_inputs = 1,
        body = l (double[3] s, double[3] x) => (double[3] s2, double[3] r)
        { s2 = Mul(s, x) r = Sin(s2) }> (a, b) }""",
    "SequenceMap": """g (seq(double[3]) a, double[3] b) => (y) { y = SequenceMap (a, b) <
        body = l (double[3] s, double[3] b) => (double[3] r) { r = Mul(s, b) }> }""",
    "Gradient": f"""g (double[3] a, double[3] b) => (y, z) {{ p = Mul(a, b) q = Sin(p)
        y, z = {TRAINING}.Gradient <xs = ["a", "b"], y = "q"> (a, b) }}""",
}
VALUES = {"n": np.array(3), "c": np.array(True)}

# Why some float inputs have no gradient where the signature does not show it. Everything else is checked.
STAIRS = "rounded to 8 bits: a staircase"
UNDEFINED = {
    ("Bernoulli", "input"): "random", ("RandomNormalLike", "input"): "random", ("RandomUniformLike", "input"): "random",
    ("CastLike", "target_type"): "only its dtype is read",
    ("DynamicQuantizeMatMul", "A"): STAIRS, ("DynamicQuantizeLSTM", "X"): STAIRS,
    ("DynamicQuantizeLSTM", "initial_h"): STAIRS,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One call of an operator: a model of one node, values for its inputs, and which of them are floats."""

    domain: str
    op_type: str
    model: onnx.ModelProto
    values: Mapping[str, Any]
    inputs: Mapping[str, int]  # name of a float input -> its position

    def __str__(self) -> str:
        given = ", ".join(f"{n}: {_shape(v)}" for n, v in self.values.items())
        node = self.model.graph.node[-1]
        shown = [a for a in node.attribute if a.type != a.GRAPH]
        attributes = ", ".join(f"{a.name}={helper.get_attribute_value(a)!r}"[:60] for a in shown)
        return f"{self.op_type}({given}; {attributes})"

    @cached_property
    def fn(self) -> Callable[..., Any]:
        """The model as a function."""
        return ortlite.function(self.model.SerializeToString())

    @property
    def kernel(self) -> Kernel:
        """The operator's kernel."""
        opset = next(o.version for o in self.model.opset_import if o.domain == self.domain)
        kernel = registry.lookup(self.domain, self.op_type, opset)
        assert kernel is not None
        return kernel

    def label(self, name: str) -> str:
        """What the schema calls an input."""
        param = self.kernel.param(self.inputs[name])
        return name if param is None else param.name

    def undefined(self, name: str) -> str:
        """Why there is no gradient to a float input; empty where there should be one."""
        param = self.kernel.param(self.inputs[name])
        if why := UNDEFINED.get((self.op_type, self.label(name))):
            return why
        if param is not None and param.host:
            return "read on the host, as a number"
        if self.kernel.python_objects:
            return "works on Python objects"
        kinds = [dtypes.of_numpy(v.dtype).name for v in _leaves(self.results) if hasattr(v, "dtype")]
        if "string" in kinds:
            return "a result is text, which only NumPy holds"
        if not {"float32", "float64"}.intersection(kinds):
            return f"the result is {', '.join(dict.fromkeys(kinds)) or 'no tensor'}"
        return ""

    @cached_property
    def results(self) -> Any:
        """What the function gives for the example's own values."""
        with np.errstate(all="ignore"):
            return self.fn(**self.values)


def _shape(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else repr(value)[:40]


def _is_float(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_is_float, value))
    return isinstance(value, np.ndarray) and value.dtype in (np.float32, np.float64)


def _leaves(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, tuple | list) else [value]


def _schema(node: onnx.NodeProto) -> onnx.defs.OpSchema | None:
    """The newest schema of a node's operator, the last one that was not deprecated; None where onnx knows none."""
    try:
        schema = onnx.defs.get_schema(node.op_type, VERSIONS.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return None
    if not schema.deprecated:
        return schema
    return onnx.defs.get_schema(node.op_type, schema.since_version - 1, node.domain)


def _wide(example: Example) -> list[Any]:
    """An example's values, the floats in float64 where the schema allows it."""
    schema = _schema(example.node)
    if schema is None or schema.name in AS_THEY_ARE:
        return list(example.values)
    double = dtypes.by_name("float64")
    allowed = set(matrix.pairs(schema))
    return [
        converted(v, double) if _is_float(v) and (matrix._input_variable(schema, i), double) in allowed else v
        for i, v in enumerate(example.values)
    ]


def _case(example: Example) -> Case | None:
    node = example.node
    if example.before or any(a.type == a.GRAPH for a in node.attribute):
        return None
    values = {n: tuple(v) if isinstance(v, list) else v for n, v in zip(node.input, _wide(example), strict=True) if n}
    floats = {n: i for i, n in enumerate(node.input) if n and _is_float(values[n])}
    if not floats or any(_elsewhere(v) for v in _leaves(list(values.values()))):
        return None
    made = onnx.NodeProto()
    made.CopyFrom(node)
    for attribute in made.attribute:  # a result in half precision would say little
        if attribute.name in {"dtype", "to", "stash_type"} and attribute.i in {1, 10, 16}:
            attribute.i = 11 if attribute.name != "stash_type" else 1
    infos = [helper.make_value_info(n, _type_of(list(v) if isinstance(v, tuple) else v)) for n, v in values.items()]
    graph = helper.make_graph([made], node.op_type, infos, [onnx.ValueInfoProto(name=n) for n in node.output if n])
    schema = _schema(node)
    versions = {**VERSIONS, node.domain: VERSIONS.get(node.domain, 1)}
    if schema is not None and node.op_type in DEPRECATED:
        versions[node.domain] = schema.since_version
    imports = [helper.make_opsetid(d, versions[d]) for d in {"", node.domain}]
    return Case(
        node.domain, node.op_type, helper.make_model(graph, opset_imports=imports, ir_version=11), values, floats
    )


def _elsewhere(value: Any) -> bool:
    """Whether a value's dtype keeps a node on NumPy: that is placement, not differentiation."""
    dtype = dtypes.of_numpy(value.dtype) if hasattr(value, "dtype") else None
    return dtype is not None and (dtype.narrow or dtype.name == "uint64")


def _graph_case(op_type: str, text: str) -> Case:
    domain = TRAINING if op_type == "Gradient" else ""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 21, "{TRAINING}": 1]> {text}')
    values = {i.name: VALUES.get(i.name) for i in model.graph.input}
    for info in model.graph.input:
        if values[info.name] is None:
            inner = info.type.sequence_type.elem_type if info.type.HasField("sequence_type") else info.type
            value = 0.5 + _rows(*(d.dim_value for d in inner.tensor_type.shape.dim)) ** 2
            values[info.name] = (value, value + 1) if info.type.HasField("sequence_type") else value
    return Case(domain, op_type, model, values, {n: 99 if n == "b" else 0 for n in values if n in {"a", "b"}})


@cache
def cases() -> dict[tuple[str, str], tuple[Case, ...]]:
    """(domain, operator) -> its examples with float inputs, other attributes first."""
    found: dict[tuple[str, str], list[Case]] = {}
    known = {**matrix.examples()}
    for example in EXAMPLES:
        known[example.node.domain, example.node.op_type] = [
            *known.get((example.node.domain, example.node.op_type), []),
            example,
        ]
    for key, listed in known.items():
        made = [case for example in reversed(listed) if (case := _case(example)) is not None]
        if made:
            found[key] = made
    for op_type, text in GRAPHS.items():
        case = _graph_case(op_type, text)
        found.setdefault((case.domain, op_type), []).append(case)
    return {key: tuple(_different_first(found[key])) for key in sorted(found)}


def _different_first(listed: Sequence[Case]) -> list[Case]:
    """Small ones before large ones, empty ones last; each set of attributes and inputs once before any comes again."""
    seen: Counter[str] = Counter()
    ranked = []
    for case in sorted(
        listed, key=lambda c: sum(v.size for v in _leaves(list(c.values.values())) if hasattr(v, "size"))
    ):
        node = case.model.graph.node[-1]
        key = f"{[a.name for a in node.attribute]} {list(case.inputs)} {[a.s for a in node.attribute]}"
        seen[key] += 1
        empty = any(leaf.size == 0 for leaf in _leaves(list(case.values.values())) if hasattr(leaf, "size"))
        ranked.append((empty, seen[key], len(ranked), case))
    return [case for *_, case in sorted(ranked, key=lambda r: r[:3])]


@dataclass(frozen=True)
class Point:
    """Where a case is smooth: values, a direction for each float input, and the derivative along it by differences.

    The function is the sum of the float results times `weights`, one for each leaf of the results (None: no float).
    """

    values: Mapping[str, Any]
    directions: Mapping[str, Any]
    weights: Sequence[np.ndarray | None]
    differences: Mapping[str, float]
    scale: float
    tolerance: float


def smooth_point(
    case: Case, rng: np.random.Generator, names: Sequence[str] | None = None, tries: int = 24
) -> Point | None:
    """A point near the example's values where differences say that a derivative exists to all of `names`."""
    names = [n for n in case.inputs if not case.undefined(n)] if names is None else names
    for attempt in range(tries):
        jitter = (0.1, 0.02, 0.5)[attempt % 3]
        values = {n: _jittered(v, rng, jitter) if n in names else v for n, v in case.values.items()}
        with np.errstate(all="ignore"):
            try:
                results = _leaves(case.fn(**values))
            except Exception:  # noqa: BLE001  (outside of the domain)
                continue
        if _holes(results) > _holes(_leaves(case.results)):
            continue
        wide = any(getattr(y, "dtype", None) == np.float64 for y in results)
        counted = np.float64 if wide else np.float32
        weights = [
            np.where(np.isfinite(y), rng.standard_normal(y.shape), 0) if getattr(y, "dtype", None) == counted else None
            for y in results
        ]
        fine = wide and all(v.dtype == np.float64 for n in names for v in _leaves(values[n]))
        directions = {n: _direction(values[n], rng) for n in names}
        with np.errstate(invalid="ignore"):
            scale = sum(
                float(np.abs(w * y).sum(where=w != 0)) for w, y in zip(weights, results, strict=True) if w is not None
            )
        differences = {}
        for name in names:
            found = _difference(case, values, name, directions[name], weights, scale, fine)
            if found is None:
                break
            differences[name] = found
        else:
            return Point(values, directions, weights, differences, scale, 1e-6 if fine else 1e-2)
    return None


def _holes(results: Sequence[Any]) -> int:
    """Elements that are not finite: an example may have some, a step out of the domain makes more."""
    return sum(int((~np.isfinite(y)).sum()) for y in results if getattr(y, "dtype", None) in (np.float32, np.float64))


def _jittered(value: Any, rng: np.random.Generator, jitter: float) -> Any:
    if isinstance(value, tuple):
        return tuple(_jittered(v, rng, jitter) for v in value)
    finite = np.isfinite(value)
    spread = float(np.abs(value[finite]).mean()) if finite.any() else 1.0
    size = np.abs(np.where(finite, value, 0)) + 0.1 * (spread or 1.0)
    moved = value + jitter * size * rng.uniform(-1, 1, value.shape)
    return np.where(finite, moved, value).astype(value.dtype)


def _direction(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, tuple):
        return tuple(_direction(v, rng) for v in value)
    return np.where(np.isfinite(value), rng.standard_normal(value.shape), 0).astype(value.dtype)


def _moved(value: Any, direction: Any, step: float) -> Any:
    if isinstance(value, tuple):
        return tuple(_moved(v, d, step) for v, d in zip(value, direction, strict=True))
    return (value + step * direction).astype(value.dtype)


def _total(results: Any, weights: Sequence[np.ndarray | None]) -> float:
    leaves = _leaves(results)
    if [getattr(y, "shape", None) for y, w in zip(leaves, weights, strict=True) if w is not None] != [
        w.shape for w in weights if w is not None
    ]:
        return float("nan")
    return sum(float((w * y).sum(where=w != 0)) for w, y in zip(weights, leaves, strict=True) if w is not None)


def _difference(
    case: Case, values: Mapping[str, Any], name: str, direction: Any, weights: Sequence[Any], scale: float, fine: bool
) -> float | None:
    """The derivative along a direction; None where two steps, or the two sides, do not give the same."""
    largest = max((float(np.abs(v[np.isfinite(v)]).max(initial=0)) for v in _leaves(values[name])), default=0)
    step = (2e-6 if fine else 1e-2) * min(max(largest, 1e-3), 1.0)
    with np.errstate(all="ignore"):
        try:
            at = {
                k: _total(case.fn(**{**values, name: _moved(values[name], direction, k * step)}), weights)
                for k in (-1, -0.5, 0, 0.5, 1)
            }
        except Exception:  # noqa: BLE001  (outside of the domain)
            return None
    one, half = (at[1] - at[-1]) / (2 * step), (at[0.5] - at[-0.5]) / step
    right, left = (at[1] - at[0]) / step, (at[0] - at[-1]) / step
    noise = (1e-15 if fine else 1e-6) * scale / step
    near = 1e-7 * abs(half) if fine else 2e-3 * abs(half)
    if not np.isfinite([one, half]).all() or abs(one - half) > noise + near + 1e-12:
        return None
    if abs(right - left) > 0.02 * (abs(half) + 1e-3 * scale) + 4 * noise:
        return None
    return (4 * half - one) / 3


def judge(case: Case, point: Point, library: str) -> dict[str, str]:
    """For each float input "agrees", "zero", or what is wrong, in one library."""
    if library == "tape" and not all(hasattr(leaf, "shape") for leaf in case.values.values()):
        return dict.fromkeys(point.differences, NO_TENSOR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = {"torch": _torch, "jax": _jax, "tape": _tape}[library](case, point)
        except Exception as error:  # noqa: BLE001  (a result, whatever it is)
            if library == "tape" and "there is no rule" in str(error):
                return dict.fromkeys(point.differences, NO_RULE)
            if library == "jax" and "has no value under a trace" in str(error):
                return dict.fromkeys(point.differences, DECIDES)
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            return dict.fromkeys(point.differences, problem)
    gradients, along = found
    verdicts = {name: _verdict(point, name, gradients[name]) for name in point.differences}
    wanted = sum(point.differences.values())
    if along is not None and abs(along - wanted) > len(verdicts) * _limit(point, gradients.values(), wanted):
        wrong = f"forwards {along:.9g}, differences {wanted:.9g}"
        return {name: wrong if verdict in WORDS else verdict for name, verdict in verdicts.items()}
    return verdicts


def _limit(point: Point, gradients: Iterable[Any], wanted: float) -> float:
    steepest = sum(float(np.abs(g).sum(where=np.isfinite(g))) for gradient in gradients for g in _leaves(gradient))
    return point.tolerance * (abs(wanted) + 0.1 * point.scale + steepest) + 1e-9


def _verdict(point: Point, name: str, gradient: Any) -> str:
    wanted, gradients = point.differences[name], _leaves(gradient)
    if any(w is not None and (w == 0).any() for w in point.weights):  # nothing to say where results are not finite
        gradients = [np.where(np.isfinite(g), g, 0) for g in gradients]
    if not all(np.isfinite(g).all() for g in gradients):
        return "the gradient is not finite"
    along = sum(float((g * d).sum()) for g, d in zip(gradients, _leaves(point.directions[name]), strict=True))
    if abs(along - wanted) > _limit(point, gradients, wanted):
        return f"the gradient says {along:.9g}, differences {wanted:.9g}"
    return "zero" if wanted == 0 and not any(np.any(g) for g in gradients) else "agrees"


def _torch(case: Case, point: Point) -> tuple[dict[str, Any], float | None]:
    """Gradients by torch.autograd, and the derivative along all directions at once by torch.func.jvp."""
    import torch

    names = list(point.differences)
    weights = [None if w is None else torch.from_numpy(w) for w in point.weights]

    def total(*given: Any) -> Any:
        results = _leaves(case.fn(**{**point.values, **_packed(names, point.values, given)}))
        parts = [torch.where(w != 0, y, 0).mul(w).sum() for y, w in zip(results, weights, strict=True) if w is not None]
        return sum(p.to(torch.float64) for p in parts)

    leaves = [torch.tensor(v, requires_grad=True) for n in names for v in _leaves(point.values[n])]
    y = total(*leaves)
    if y.requires_grad:
        gradients = torch.autograd.grad(y, leaves, materialize_grads=True)
    else:  # torch's own way of saying that nothing flows
        gradients = [torch.zeros_like(v) for v in leaves]
    tangents = tuple(torch.from_numpy(d) for n in names for d in _leaves(point.directions[n]))
    try:
        along = float(torch.func.jvp(total, tuple(v.detach() for v in leaves), tangents)[1])
    except NotImplementedError:  # torch has no forward mode for one of its functions
        along = None
    return _packed(names, point.values, [g.numpy() for g in gradients]), along


def _packed(names: Sequence[str], like: Mapping[str, Any], leaves: Sequence[Any]) -> dict[str, Any]:
    """Flat leaves as the values of the inputs `names` are made up of them."""
    rest = iter(leaves)
    return {n: tuple(next(rest) for _ in like[n]) if isinstance(like[n], tuple) else next(rest) for n in names}


def _jax(case: Case, point: Point) -> tuple[dict[str, Any], float | None]:
    """Gradients by jax.grad, and the derivative along all directions at once by jax.jvp, both under jax.jit."""
    import jax

    def total(given: dict[str, Any]) -> Any:
        results = _leaves(case.fn(**{**point.values, **given}))
        pairs = [(y, w) for y, w in zip(results, point.weights, strict=True) if w is not None]
        return sum(jax.numpy.sum(jax.numpy.where(w != 0, y, 0) * w) for y, w in pairs)

    def both(at: dict[str, Any], along: dict[str, Any]) -> Any:
        return jax.grad(total)(at), jax.jvp(total, (at,), (along,))[1]

    with jax.enable_x64(True):
        at = {n: jax.tree.map(jax.numpy.asarray, point.values[n]) for n in point.differences}
        gradients, along = (both if case.kernel.data_dependent_shape else jax.jit(both))(at, dict(point.directions))
        return jax.tree.map(np.asarray, gradients), float(along)


def _tape(case: Case, point: Point) -> tuple[dict[str, Any], None]:
    """The operator Gradient on NumPy, of the sum written as nodes."""
    graph = onnx.GraphProto()
    graph.CopyFrom(case.model.graph)
    names, parts, rest = list(point.differences), [], iter(point.weights)
    outputs = case.model.graph.output
    for result, value in zip(outputs, [case.results] if len(outputs) == 1 else case.results, strict=True):
        for index in range(len(value)) if isinstance(value, tuple) else [None]:
            weight = next(rest)
            if weight is None:
                continue
            tag = f"{result.name}_{index or 0}"
            source = result.name
            if index is not None:
                graph.initializer.append(numpy_helper.from_array(np.array(index), f"i_{tag}"))
                graph.node.append(helper.make_node("SequenceAt", [result.name, f"i_{tag}"], [f"at_{tag}"]))
                source = f"at_{tag}"
            dtype = (value if index is None else value[index]).dtype
            graph.initializer.append(numpy_helper.from_array(weight.astype(dtype), f"w_{tag}"))
            graph.node.append(helper.make_node("Mul", [source, f"w_{tag}"], [f"m_{tag}"]))
            graph.node.append(helper.make_node("ReduceSum", [f"m_{tag}"], [f"s_{tag}"], keepdims=0))
            parts.append(f"s_{tag}")
    graph.node.append(helper.make_node("Sum", parts, ["total"]))
    others = [n for n in point.values if n not in names]
    results = [f"d_{n}" for n in names]
    given = {"xs": names, "zs": others} if others else {"xs": names}
    graph.node.append(helper.make_node("Gradient", [*names, *others], results, domain=TRAINING, y="total", **given))
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=n) for n in results)
    imports = [*(o for o in case.model.opset_import if o.domain != TRAINING), helper.make_opsetid(TRAINING, 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=11)
    gradients = ortlite.function(model.SerializeToString())(**point.values)
    return dict(zip(names, gradients if len(names) > 1 else [gradients], strict=True)), None


@dataclass(frozen=True)
class Row:
    """What was found of one input of one operator: a word for each library, or why there is no gradient."""

    domain: str
    op_type: str
    label: str
    undefined: str
    verdicts: Mapping[str, str]
    examples: int


def results(pattern: str = "", libraries: Sequence[str] = LIBRARIES, shown: int = SHOWN) -> Iterator[Row]:
    """A row for every float input of every operator whose name matches."""
    chosen = [(key, listed) for key, listed in cases().items() if re.search(pattern, key[1])]
    for (domain, op_type), listed in each("gradients", chosen):
        found: dict[str, dict[str, list[str]]] = {}
        why: dict[str, str] = {}
        for case in listed[:shown]:
            for name in case.inputs:
                found.setdefault(case.label(name), {library: [] for library in libraries})
                if reason := case.undefined(name):
                    why[case.label(name)] = reason
            names = [n for n in case.inputs if not case.undefined(n)]
            if not names:
                continue
            point = smooth_point(case, np.random.default_rng(0), names)
            for library in libraries:
                rough = dict.fromkeys(names, "no smooth point found")
                for name, verdict in (rough if point is None else judge(case, point, library)).items():
                    found[case.label(name)][library].append(verdict if verdict in WORDS else f"{verdict} in {case}")
        for label, by_library in found.items():
            count = max(map(len, by_library.values()))
            verdicts = {library: _worst(words) for library, words in by_library.items() if words}
            yield Row(domain, op_type, label, "" if count else why.get(label, ""), verdicts, count)


NO_RULE, NO_TENSOR, DECIDES = "no rule", "no tensor", "decides a shape"
WORDS = (NO_RULE, NO_TENSOR, DECIDES, "agrees", "zero")


def _worst(words: Sequence[str]) -> str:
    """One word for several examples: the first problem, else whether any had a gradient."""
    problem = next((w for w in words if w not in WORDS), None)
    return problem or next(w for w in ("agrees", *WORDS) if w in words)


HEAD = """# Gradients

Made by `python -m conformance.gradients --write` with onnx {version}: {inputs} float inputs of {operators} operators,
in float64 where the schema allows it, from up to {shown} examples of each. Gradients flow through {through} operators.

For each input and each way to differentiate: reverse and forward mode of torch, the same of JAX (under `jax.jit`), and
the tape of the operator Gradient on NumPy.

- *agrees*: with central differences of the same function on NumPy, at points where these say that it is smooth.
- *zero*: the result is constant around almost every point, and the gradient is 0, as differences say.
- *no rule*: the tape has none, and says so when it is asked. *no tensor*: Gradient takes tensors, no sequences.
- *decides a shape*: a tracer has no values; the error says so, and names the node.
- Where there is no gradient, the last column says why. Results that are no floats have none in any library. To an
  input that is read on the host torch says "no gradient flows through NumPy" and JAX "needed on the host"; both name
  the node or the input.

| | torch | JAX | tape |
|---|---:|---:|---:|
"""


def table(rows: Sequence[Row]) -> str:
    """The text of conformance/GRADIENTS.md."""
    given = [r for r in rows if not r.undefined]
    counts = {library: Counter(r.verdicts.get(library, "") for r in given) for library in LIBRARIES}
    names = {(r.domain, r.op_type) for r in rows}
    through = {(r.domain, r.op_type) for r in given if "agrees" in r.verdicts.values()}
    lines = HEAD.format(
        version=onnx.__version__, inputs=len(rows), operators=len(names), shown=SHOWN, through=len(through)
    ).splitlines()
    for word in ("agrees", "zero", NO_RULE, NO_TENSOR, DECIDES):
        lines.append(f"| {word} | {' | '.join(str(counts[library][word]) for library in LIBRARIES)} |")
    wrong = [sum(n for word, n in counts[library].items() if word not in WORDS) for library in LIBRARIES]
    lines.append(f"| disagrees | {' | '.join(map(str, wrong))} |")
    lines += ["", f"There is no gradient to {len(rows) - len(given)} inputs:", ""]
    lines += [f"- {n} × {why}" for why, n in Counter(r.undefined for r in rows if r.undefined).most_common()]
    lines += ["", "| operator | input | torch | JAX | tape | why there is none |", "|---|---|---|---|---|---|"]
    for row in rows:
        shown = [("" if row.undefined else _cell(row.verdicts.get(library, ""))) for library in LIBRARIES]
        operator = f"{row.domain or 'ai.onnx'}::{row.op_type}"
        lines.append(f"| {operator} | {row.label} | {' | '.join(shown)} | {row.undefined} |")
    return "\n".join(lines) + "\n"


def _cell(verdict: str) -> str:
    return verdict if verdict in WORDS or not verdict else "disagrees"


def main() -> int:
    cli = argparse.ArgumentParser(prog="python -m conformance.gradients", description=__doc__.split("\n")[0])
    cli.add_argument("-k", dest="pattern", default="", help="regular expression: only operators whose name it finds")
    cli.add_argument("--examples", type=int, default=SHOWN, help="at most so many examples of each operator")
    cli.add_argument("--library", choices=LIBRARIES, action="append", help="may be given several times; default: all")
    cli.add_argument("--write", action="store_true", help="write conformance/GRADIENTS.md")
    args = cli.parse_args()
    rows, bad = [], 0
    with working("gradients"):
        for row in results(args.pattern, args.library or LIBRARIES, args.examples):
            rows.append(row)
            for library, verdict in row.verdicts.items():
                if verdict not in WORDS:
                    bad += 1
                    print(f"FAIL {row.op_type} {row.label} on {library}: {verdict}", file=sys.stderr)
    operators = len({(r.domain, r.op_type) for r in rows})
    print(f"{len(rows)} inputs of {operators} operators, {bad} problems", file=sys.stderr)
    if args.write:
        (HERE / "GRADIENTS.md").write_text(table(rows))
    return 1 if bad else 0


if __name__ == "__main__":
    run_main(main)
