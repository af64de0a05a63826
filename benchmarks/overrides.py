"""Every primitive and operator that a provider replaces, beside what it replaces, on the same library and inputs.

    python -m benchmarks.overrides [-k PATTERN] [--provider P] [--write]

Both run in one process, a process a provider, by turns, call by call, on one thread; a figure is the median of its
calls, of which the table says how many. JAX runs both under jax.jit and waits for results; GPUs are synchronised.
`--write` puts the tables, worst first, into benchmarks/OVERRIDES.md. What need not be faster says why it is there.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial, wraps
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks import operators
from benchmarks.operators import bytes_, floats, ints, positive
from conformance import run_main
from ortlite import provider
from ortlite.cli.bars import working
from ortlite.derived import Derived, takes_derived
from ortlite.namespace import or_default
from ortlite.ops import registry
from ortlite.primitives import DEFAULTS
from ortlite.primitives.resample import Filter, taps
from ortlite.progress import each

HERE = Path(__file__).parent
R = np.random.default_rng(0)
F = np.float32
SECONDS = 0.5  # for one comparison
MOST, LEAST = 200, 7  # calls
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
ONE_THREAD["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
OPTIONS = {"CPUExecutionProvider": {"intra_op_num_threads": "1"}}

ONE = {"strides": (1, 1), "pads": ((1, 1), (1, 1)), "dilations": (1, 1)}
TWO = {"strides": (2, 2), "pads": ((1, 1), (1, 1)), "dilations": (1, 1)}
HOLES = {"strides": (1, 1), "pads": ((2, 2), (2, 2)), "dilations": (2, 2)}
LINE = {"strides": (2,), "pads": ((1, 1),), "dilations": (1,)}
BORDER = ((0, 0), (0, 0), (1, 1), (1, 1))


def _body():
    """What a Gradient node hands to the primitive: a small network as a function in any namespace."""

    def on(xp):
        return lambda x, w: (xp.sum(xp.tanh(xp.matmul(xp.tanh(xp.matmul(x, w)), w))),)

    return SimpleNamespace(on=on)


def _taps(n, out):
    return taps(Filter("linear"), n, out, out / n, (0.0, 1.0))


def _scattered(name):
    """Cases of each reduction for one of the scatters."""
    shapes = {
        "scatter": lambda: (floats(1024, 256), ints(1024, 256, 256), floats(256, 256), 0),
        "scatter_flat": lambda: (floats(1 << 18), ints(1 << 18, 1 << 15), floats(1 << 15)),
        "scatter_nd": lambda: (floats(4096, 64), R.permutation(4096)[:1024, None], floats(1024, 64)),
    }
    return {r: lambda r=r: ((*shapes[name](), r), {}) for r in ("none", "add", "mul", "max")}


# Primitive -> case -> its arguments and keywords, made when it is measured.
PRIMITIVES = {
    "integer_matmul": {"128 × 768 by 768 × 768": lambda: (
        (ints(255, 128, 768, dtype=np.int32), ints(255, 768, 768, dtype=np.int32), "int32"), {})},
    "erf": {"128 × 3072": lambda: ((floats(128, 3072) * 3,), {})},
    "fmod": {"128 × 3072": lambda: ((floats(128, 3072) * 9, positive(128, 3072)), {}),
             "int64": lambda: ((ints(999, 128, 3072), ints(9, 128, 3072) + 1), {})},
    "trunc_divide": {"int64": lambda: ((ints(999, 128, 3072) - 500, ints(9, 128, 3072) + 1), {})},
    "relu": {"128 × 3072": lambda: ((floats(128, 3072),), {})},
    "leaky_relu": {"128 × 3072": lambda: ((floats(128, 3072), 0.01), {}),
                   "by channel": lambda: ((floats(128, 3072), positive(3072)), {})},
    "hardtanh": {"128 × 3072": lambda: ((floats(128, 3072), -0.5, 0.5), {})},
    "root": {"128 × 3072": lambda: ((positive(128, 3072),), {}),
             "128 × 3072, cubic": lambda: ((positive(128, 3072), 1 / 3), {}),
             "64": lambda: ((positive(64),), {})},
    "sigmoid": {"128 × 3072": lambda: ((floats(128, 3072) * 9,), {})},
    "softmax": {"12 × 128 × 128": lambda: ((floats(12, 128, 128), -1), {})},
    "einsum": {"bhid,bhjd->bhij": lambda: (("bhid,bhjd->bhij", floats(2, 8, 64, 64), floats(2, 8, 64, 64)), {}),
               "i,j->ij": lambda: (("i,j->ij", floats(1000), floats(1000)), {})},
    "pad": {"constant": lambda: ((floats(1, 64, 56, 56), BORDER), {}),
            "reflect": lambda: ((floats(1, 64, 56, 56), BORDER, "reflect"), {})},
    "conv": {"3 × 3": lambda: ((floats(1, 64, 56, 56), floats(64, 64, 3, 3)), ONE),
             "3 × 3, batch of 8": lambda: ((floats(8, 128, 28, 28), floats(128, 128, 3, 3)), ONE),
             "3 × 3, few windows": lambda: ((floats(1, 512, 7, 7), floats(512, 512, 3, 3)), ONE),
             "3 × 3, dilated": lambda: ((floats(1, 64, 56, 56), floats(64, 64, 3, 3)), HOLES),
             "7 × 7 by 2": lambda: ((floats(1, 3, 224, 224), floats(64, 3, 7, 7)), {**TWO, "pads": ((3, 3), (3, 3))}),
             "1 × 1": lambda: ((floats(1, 256, 56, 56), floats(64, 256, 1, 1)), {**ONE, "pads": ((0, 0), (0, 0))}),
             "3, sound": lambda: ((floats(1, 80, 3000), floats(384, 80, 3)), {**LINE, "strides": (1,)}),
             "4 groups": lambda: ((floats(1, 128, 28, 28), floats(128, 32, 3, 3)), {**ONE, "groups": 4}),
             "depthwise": lambda: ((floats(1, 64, 56, 56), floats(64, 1, 3, 3)), {**ONE, "groups": 64})},
    "conv_transpose": {
        "4 × 4 by 2": lambda: ((floats(1, 64, 28, 28), floats(64, 32, 4, 4)), TWO),
        "2 × 2 by 2": lambda: (
            (floats(1, 64, 56, 56), floats(64, 64, 2, 2)), {**TWO, "pads": ((0, 0), (0, 0))}),
        "16 by 8, sound": lambda: (
            (floats(1, 256, 100), floats(256, 128, 16)), {**LINE, "strides": (8,), "pads": ((4, 4),)}),
    },
    "max_pool": {"3 × 3 by 2": lambda: ((floats(1, 64, 112, 112), (3, 3)), TWO),
                 "3 by 2, sound": lambda: ((floats(4, 64, 4096), (3,)), LINE),
                 "whole image": lambda: ((floats(1, 512, 7, 7), (7, 7)), {**ONE, "pads": ((0, 0), (0, 0))})},
    "sum_pool": {"3 × 3 by 2": lambda: ((floats(1, 64, 112, 112), (3, 3)), TWO),
                 "whole image": lambda: ((floats(1, 512, 7, 7), (7, 7)), {**ONE, "pads": ((0, 0), (0, 0))})},
    "resample": {"56 to 112": lambda: (
        (floats(1, 64, 56, 56), 2, _taps(56, 112).indices, _taps(56, 112).weights), {})},
    "gather_nd": {"single elements": lambda: ((floats(100, 100, 100), ints(100, 100_000, 3)), {}),
                  "few rows": lambda: ((floats(4, 100, 64), ints(4, 8, 2)), {})},
    "one_hot": {"16384 of 64": lambda: ((ints(64, 16384), 64, 1, np.ones((), F), np.zeros((), F)), {})},
    **{name: _scattered(name) for name in ("scatter", "scatter_flat", "scatter_nd")},
    "top_k": {"10 of 1024": lambda: ((floats(256, 1024), 10, 1, True, True), {}),
              "50 of 50000": lambda: ((floats(4, 50_000), 50, 1, True, True), {})},
    "random_uniform": {"1024 × 1024": lambda: ((7, (1024, 1024), "float32"), {}),
                       "64": lambda: ((7, (64,), "float32"), {})},
    "random_normal": {"1024 × 1024": lambda: ((7, (1024, 1024), "float32"), {}),
                      "64": lambda: ((7, (64,), "float32"), {})},
    "gradient": {"two layers of 256": lambda: ((_body(), (floats(64, 256), floats(256, 256)), 2), {})},
}  # fmt: skip

HEADS = {"q_num_heads": 12, "kv_num_heads": 12}


def _network(gates, time, batch, **attributes):
    inputs = [floats(time, batch, 128), floats(1, 128 * gates, 128) * 0.1, floats(1, 128 * gates, 128) * 0.1]
    return [*inputs, floats(1, 256 * gates) * 0.1], {"hidden_size": 128, **attributes}


def _forest(kind, trees=100, depth=6):
    """The attributes of complete trees, whose nodes are numbered level by level."""
    inner, count = 2**depth - 1, 2 ** (depth + 1) - 1
    split = [n < inner for n in range(count)] * trees
    nodes = list(range(count)) * trees
    of = [tree for tree in range(trees) for _ in range(count)]
    leaves = [i for i, is_split in enumerate(split) if not is_split]
    return {
        "nodes_treeids": of,
        "nodes_nodeids": nodes,
        "nodes_featureids": ints(30, len(of)).tolist(),
        "nodes_modes": ["BRANCH_LEQ" if s else "LEAF" for s in split],
        "nodes_values": floats(len(of)).tolist(),
        "nodes_truenodeids": [2 * n + 1 if s else 0 for n, s in zip(nodes, split, strict=True)],
        "nodes_falsenodeids": [2 * n + 2 if s else 0 for n, s in zip(nodes, split, strict=True)],
        f"{kind}_treeids": [of[i] for i in leaves],
        f"{kind}_nodeids": [nodes[i] for i in leaves],
        f"{kind}_ids": ints(3, len(leaves)).tolist(),
        f"{kind}_weights": floats(len(leaves)).tolist(),
        "memo": {},
    }


def _forest_5(trees=100, depth=6):
    """The same as TreeEnsemble-5 has it."""
    inner, leaves = 2**depth - 1, 2**depth
    level = [2 * n + 1 for n in range(inner)]
    last = [int(child >= inner) for child in level]
    pairs = [(leaves, n - inner) if at else (inner, n) for n, at in zip(level, last, strict=True)]
    true = [t * count + n for t in range(trees) for count, n in pairs]
    return {
        "nodes_featureids": ints(30, trees * inner).tolist(),
        "nodes_splits": floats(trees * inner),
        "nodes_modes": np.zeros(trees * inner, np.uint8),
        "nodes_truenodeids": true,
        "nodes_trueleafs": last * trees,
        "nodes_falsenodeids": [n + 1 for n in true],
        "nodes_falseleafs": last * trees,
        "tree_roots": [t * inner for t in range(trees)],
        "leaf_targetids": ints(3, trees * leaves).tolist(),
        "leaf_weights": floats(trees * leaves),
        "n_targets": 3,
        "memo": {},
    }


# Operator -> case -> its inputs and attributes, where benchmarks.operators has none or another is more natural.
OPERATORS = {
    "LinearRegressor": {"one row": lambda: (
        [floats(1, 30)], {"coefficients": floats(90).tolist(), "targets": 3, "memo": {}})},
    "LinearClassifier": {"one row": lambda: (
        [floats(1, 30)], {"coefficients": floats(90).tolist(), "classlabels_ints": [0, 1, 2], "memo": {}})},
    "Scaler": {"one row": lambda: ([floats(1, 30)], {"offset": [1.0] * 30, "scale": [2.0] * 30, "memo": {}})},
    "Normalizer": {"one row": lambda: ([floats(1, 30)], {"norm": "L2"})},
    "SVMRegressor": {"one row": lambda: (
        [floats(1, 10)],
        {"coefficients": floats(99).tolist(), "support_vectors": floats(990).tolist(), "n_supports": 99, "memo": {}})},
    "SVMClassifier": {"one row": lambda: (
        [floats(1, 10)],
        {"coefficients": floats(198).tolist(), "support_vectors": floats(990).tolist(), "rho": [0.1, 0.2, 0.3],
         "vectors_per_class": [33, 33, 33], "classlabels_ints": [0, 1, 2], "prob_a": [-1.0] * 3, "prob_b": [0.1] * 3,
         "kernel_type": "RBF", "kernel_params": [0.1, 0.0, 3.0], "memo": {}})},
    "QuickGelu": {"197 × 3072": lambda: ([floats(197, 3072)], {})},
    "FastGelu": {"197 × 3072": lambda: ([floats(197, 3072), floats(3072)], {})},
    "BiasGelu": {"197 × 3072": lambda: ([floats(197, 3072), floats(3072)], {})},
    "FusedConv": {"3 × 3, Relu": lambda: (
        [floats(1, 64, 56, 56), floats(64, 64, 3, 3), floats(64)], {"pads": [1] * 4, "activation": "Relu"}),
        "depthwise": lambda: (
        [floats(1, 96, 56, 56), floats(96, 1, 3, 3), floats(96)],
        {"group": 96, "pads": (1, 1, 1, 1), "activation": "Relu"})},
    "Linear": {"197 × 768 by 768 × 768": lambda: ([floats(1, 197, 768), floats(768, 768), floats(768)], {})},
    "PointwiseDepthwiseConv": {"24 to 144 channels": lambda: (
        [floats(1, 24, 56, 56), floats(144, 24, 1, 1), floats(144, 1, 3, 3), floats(144)],
        {"pads": [1] * 4, "activation": "Relu", "last_activation": "Relu"})},
    "MatMulNBits": {f"{rows} × 768 by 768 × 3072": lambda rows=rows: (
        [floats(rows, 768), bytes_(3072, 24, 16), floats(3072 * 24)],
        {"K": 768, "N": 3072, "block_size": 32, "bits": 4})
        for rows in (1, 64)},
    "MatMulBnb4": {"64 × 768 by 768 × 3072": lambda: (
        [floats(64, 768), bytes_(768 * 1536), positive(3072 * 24)],
        {"K": 768, "N": 3072, "block_size": 32, "quant_type": 1})},
    "QMoE": {"64 × 256, 2 of 8 experts": lambda: (
        [floats(64, 256), floats(64, 8), bytes_(8, 512, 128), positive(8, 512), floats(8, 512), bytes_(8, 256, 256),
         positive(8, 256)], {"k": 2})},
    "DynamicQuantizeLSTM": {"a sentence": lambda: (
        [floats(64, 1, 128), bytes_(1, 128, 512), bytes_(1, 128, 512), floats(1, 1024), np.array([64], np.int32),
         floats(1, 1, 128), floats(1, 1, 128), floats(1, 384), *[positive(1) / 99, bytes_(1)] * 2], {})},
    "SimplifiedLayerNormalization": {"197 × 768": lambda: ([floats(1, 197, 768), floats(768)], {"outputs": 2})},
    "SkipLayerNormalization": {"197 × 768": lambda: (
        [floats(1, 197, 768), floats(1, 197, 768), floats(768), floats(768), floats(768)], {"outputs": 4})},
    "SkipSimplifiedLayerNormalization": {"197 × 768": lambda: (
        [floats(1, 197, 768), floats(1, 197, 768), floats(768)], {"outputs": 4})},
    "TreeEnsembleRegressor": {f"{rows} rows": lambda rows=rows: (
        [floats(rows, 30)], {**_forest("target"), "n_targets": 3}) for rows in (1, 10_000)},
    "TreeEnsembleClassifier": {f"{rows} rows": lambda rows=rows: (
        [floats(rows, 30)], {**_forest("class"), "classlabels_int64s": [0, 1, 2]}) for rows in (1, 10_000)},
    "TreeEnsemble": {f"{rows} rows": lambda rows=rows: ([floats(rows, 30)], _forest_5()) for rows in (1, 10_000)},
    "Attention": {
        "12 heads, 128 tokens": lambda: ([floats(1, 128, 768) for _ in range(3)], HEADS),
        "masked": lambda: ([*(floats(1, 128, 768) for _ in range(3)), floats(1, 1, 1, 128) > -0.8], HEADS),
        "one token, past 512": lambda: (
            [*(floats(1, 12, 1, 64) for _ in range(3)), None, *(floats(1, 12, 512, 64) for _ in range(2))],
            {"is_causal": 1}),
    },
    "GridSample": {
        mode: lambda mode=mode: ([floats(1, 4, 64, 64), floats(1, 64, 64, 2)], {"mode": mode})
        for mode in ("nearest", "linear", "cubic")
    },
    "Resize": {
        mode: lambda mode=mode: ([floats(1, 3, 128, 128), None, None, np.array([1, 3, 256, 256])], {"mode": mode})
        for mode in ("nearest", "linear", "cubic")
    },
    "LSTM": {"a sentence": lambda: _network(4, 64, 1), "16 of them": lambda: _network(4, 64, 16)},
    "GRU": {"a sentence": lambda: _network(3, 64, 1, linear_before_reset=1),
            "16 of them": lambda: _network(3, 64, 16, linear_before_reset=1)},
    "RNN": {"a sentence": lambda: _network(1, 64, 1), "16 of them": lambda: _network(1, 64, 16)},
    "Relu": {"64 × 56 × 56": lambda: ([floats(1, 64, 56, 56)], {}),
             "256 × 14 × 14": lambda: ([floats(1, 256, 14, 14)], {})},
    **{name: {"128 × 3072": lambda: ([floats(128, 3072), floats(3072)], {})} for name in ("BiasGelu", "FastGelu")},
    "MatMul": {
        "128 × 768 by 768 × 3072": lambda: ([floats(128, 768), floats(768, 3072)], {}),
        "one row": lambda: ([floats(1, 768), floats(768, 3072)], {}),
        "two rows": lambda: ([floats(2, 768), floats(768, 3072)], {}),
        "8 × 16 rows, one matrix": lambda: ([floats(8, 16, 768), floats(768, 768)], {}),
        "12 heads": lambda: ([floats(1, 12, 128, 64), floats(1, 12, 64, 128)], {}),
    },
    "FusedMatMul": {"12 heads": lambda: (
        [floats(1, 12, 128, 64), floats(1, 12, 128, 64)], {"transB": 1, "alpha": 0.125})},
    "PRelu": {"by channel": lambda: ([floats(1, 64, 56, 56), positive(64, 1, 1)], {})},
    "QLinearMatMul": {"256 × 512 by 512 × 256": lambda: (
        [bytes_(256, 512), F(0.1), np.uint8(3), bytes_(512, 256), F(0.1), np.uint8(3), F(9), np.uint8(3)], {})},
    "MatMulIntegerToFloat": {"48 × 768 by 768 × 3072": lambda: (
        [bytes_(48, 768), bytes_(768, 3072), F(0.1), F(0.1)], {})},
    "QGemm": {"48 × 768 by 768 × 3072": lambda: (
        [bytes_(48, 768), F(0.1), np.uint8(3), bytes_(768, 3072), F(0.1), np.uint8(3)], {})},
    "DynamicQuantizeMatMul": {"48 × 768 by 768 × 3072": lambda: ([floats(48, 768), bytes_(768, 3072), F(0.1)], {})},
    "MatMulInteger": {"48 × 768 by 768 × 3072": lambda: ([bytes_(48, 768), bytes_(768, 3072)], {})},
    **{name: {"64 × 56 × 56": lambda: (
        [bytes_(1, 64, 56, 56), F(0.1), np.uint8(3), bytes_(1, 64, 56, 56), F(0.2), np.uint8(4), F(0.3), np.uint8(5)],
        {})} for name in ("QLinearAdd", "QLinearMul")},
    "QLinearGlobalAveragePool": {"512 × 7 × 7": lambda: (
        [bytes_(1, 512, 7, 7), F(0.1), np.uint8(3), F(0.1), np.uint8(3)], {})},
    "CDist": {"100 by 1000 of 16": lambda: ([floats(100, 16), floats(1000, 16)], {"metric": "euclidean"})},
}  # fmt: skip
RENAMED = {16: {"linear": "bilinear", "cubic": "bicubic"}}  # what GridSample calls its modes below opset 20

# Why something is replaced that need not be faster, on one library or all; what has no case cannot be measured.
SLICES = "for CUDA: on the CPU, images go to the default body"
KINKS = "for its derivative at kinks, which is that of torch"
THREADS = "for a second thread: on one, it takes what the kernel does"
PREPARED = "for weights that are prepared once, which a single call does not show"
REASONS = {
    **{("numpy", name): THREADS for name in ("Softplus-1", "Mish-18", "Elu-1", "Selu-6", "Celu-12", "Tanh-1")},
    **{("numpy", name): THREADS for name in ("MatMul-1", "Gemm-7", "FusedMatMul-1")},
    **{
        ("numpy", name): PREPARED
        for name in (
            "Conv-1",
            "FusedConv-1",
            "PointwiseDepthwiseConv-1",
            "ConvInteger-10",
            "QLinearConv-10",
            "MatMulNBits-1",
            "MatMulBnb4-1",
            "QMoE-1",
        )
    },
    **{("torch", name): PREPARED for name in ("Conv-1", "FusedConv-1", "MatMul-1", "Gemm-7")},
    ("torch", "max_pool"): SLICES,
    ("torch", "sum_pool"): SLICES,
    **{("jax", name): KINKS for name in ("relu", "leaky_relu", "hardtanh", "max_pool", "HardSwish-14")},
    ("torch", "hardtanh"): KINKS,
    ("jax", "conv"): "on the CPU, groups, small kernels and few windows go to the default body, which is faster there",
    ("jax", "scatter_nd"): "products go to the default body, and by it to scatter_flat",
    ("numpy", "scatter_nd"): "reductions go to the default body, and by it to scatter_flat",
    "bit_view": "the standard has no such function, so there is no default body",
    "concrete_value": "under a tracer there may be no value to know",
    "require_range": "where a kernel is recorded, the check becomes a line of its own",
    "readable": "only values in the host's memory can be looked at in passing",
    "cond": "a tracer must see the branch",
    "while_loop": "a tracer must see the loop",
    "scan": "a tracer must see the loop",
    "gradient": "differentiates what has no rule in the default body",
}


@dataclass(frozen=True)
class Row:
    """One comparison, in milliseconds; None where there is only a reason."""

    name: str
    case: str
    before: float | None
    after: float | None
    calls: int
    reason: str = ""

    @property
    def gain(self):
        return self.before / self.after if self.before and self.after else None


def replaced(where):
    """What a provider replaces: primitives by name, kernels of operators by (domain, operator, since)."""
    package = type(where).__module__.partition(".")[0]
    found = []
    for module, table in (("primitives", "PRIMITIVES"), ("ops", "OVERRIDES")):
        there = importlib.util.find_spec(f"{package}.{module}") is not None
        found.append(getattr(importlib.import_module(f"{package}.{module}"), table, {}) if there else {})
    return found


def compiled(where):
    """What a provider compiles in place of its own overrides and of kernels, by (domain, operator, since)."""
    package = type(where).__module__.partition(".")[0]
    if importlib.util.find_spec(f"{package}.compiled") is None or not where.compiles_ahead:
        return {}
    return importlib.import_module(f"{package}.compiled").OVERRIDES


def cases_of(key):
    """Case -> (inputs, attributes) or (arguments, keywords), unmade, of a primitive or an operator."""
    if isinstance(key, str):
        return PRIMITIVES.get(key, {})
    if key == ("", "GroupNormalization", 18):  # one scale a group, not a channel
        return {"8 groups": lambda: ([floats(4, 64, 64, 64), positive(8), positive(8)], {"num_groups": 8})}
    if key == ("com.microsoft", "RotaryEmbedding", 1):
        heads, angles = (4, 16, 256, 64), (1024, 32)
        return {
            "256 positions": lambda: (
                [floats(*heads), np.arange(1024).reshape(4, 256), floats(*angles), floats(*angles)],
                {},
            )
        }
    if key in {("", "Resize", 10), ("", "Upsample", 7)}:  # scales alone
        return {
            mode: lambda mode=mode: ([floats(1, 3, 128, 128), np.array([1, 1, 2, 2], np.float32)], {"mode": mode})
            for mode in ("nearest", "linear")
        }
    _, name, _ = key
    general = operators.cases()
    return OPERATORS.get(name) or ({"as in benchmarks.operators": general[name]} if name in general else {})


def missing(where):
    """Names of what a provider replaces without a case here or a reason not to have one."""
    primitives, ops = replaced(where)
    names = [name for name in primitives if not cases_of(name) and name not in REASONS]
    return names + ["::".join(map(str, key)) for key in {**ops, **compiled(where)} if not cases_of(key)]


def arrays(where, values):
    """NumPy arrays as the library's own, on its device; names of dtypes as its dtypes."""
    made = []
    for value in values:
        if isinstance(value, np.ndarray | np.generic):
            made.append(where.from_numpy(np.asarray(value)))
        elif isinstance(value, tuple) and any(isinstance(v, np.ndarray) for v in value):
            made.append(tuple(arrays(where, value)))
        else:
            named = isinstance(value, str) and value in {"float32", "int32"}
            made.append(where.xp.dtype(value) if named else value)
    return made


def operator_call(where, key, inputs, attributes):
    """A kernel, and the arguments and keywords of a call of it, on the provider's arrays."""
    domain, name, since = key
    kernel = registry.lookup(domain, name, since)
    assert kernel is not None
    assert kernel.since == since, f"{key} replaces no kernel"
    seen = []

    @wraps(kernel.fn)
    def catch(*args, **keywords):
        seen.append((args[1:], keywords))

    attributes = {n: RENAMED.get(since, {}).get(v, v) if n == "mode" else v for n, v in attributes.items()}
    outputs, memo = attributes.pop("outputs", 1), attributes.pop("memo", None)
    device = [
        value if value is None or getattr(kernel.param(i), "host", False) else where.from_numpy(np.asarray(value))
        for i, value in enumerate(inputs)
    ]
    registry.call(replace(kernel, fn=catch), where.xp, device, attributes, n_outputs=outputs, memo=memo)
    return kernel.fn, *seen[0]


def _leaves(value):
    return [v for item in value for v in _leaves(item)] if isinstance(value, tuple | list) else [value]


def runner(where, fn, args, keywords):
    """A call without arguments that ends when the result is there."""
    if where.library == "jax":
        import jax

        places = [i for i, v in enumerate(args) if any(isinstance(leaf, jax.Array) for leaf in _leaves(v))]

        def of_arrays(*given):
            filled = list(args)
            for place, value in zip(places, given, strict=True):
                filled[place] = value
            return fn(where.xp, *filled, **keywords)

        compiled, given = jax.jit(of_arrays), [args[i] for i in places]
        return lambda: jax.block_until_ready(compiled(*given))

    def wait():
        """Nothing: on the CPU a call ends with its work."""

    if where.library == "torch" and where.device.type == "cuda":
        import torch

        wait = torch.cuda.synchronize
    elif where.library == "cupy":
        import cupy

        wait = cupy.cuda.get_current_stream().synchronize

    def run():
        where.settle(_leaves((fn(where.xp, *args, **keywords),)))
        wait()

    return run


def compare(before, after):
    """Median milliseconds of two calls by turns, and how many there were of each."""
    times = ([], [])
    for call in (before, after) * 2:
        call()
    start = time.perf_counter()
    while len(times[0]) < LEAST or (time.perf_counter() - start < SECONDS and len(times[0]) < MOST):
        for call, found in zip((before, after), times, strict=True):
            began = time.perf_counter()
            call()
            found.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times[0]), statistics.median(times[1]), len(times[0])


def measure(where, pattern):
    """The rows of one provider, worst first."""
    if absent := missing(where):
        raise SystemExit(f"{where.name}: no case in benchmarks/overrides.py for {', '.join(absent)}")
    rows = []
    with where.context(), np.errstate(all="ignore"):
        for key, fn in (*replaced(where)[0].items(), *replaced(where)[1].items()):
            name = key if isinstance(key, str) else f"{key[1]}-{key[2]}"
            reason = REASONS.get((where.library, name), REASONS.get(name, ""))
            if not re.search(pattern, name):
                continue
            for case, make in cases_of(key).items():
                if isinstance(key, str):
                    args, keywords = make()
                    original, args = DEFAULTS[key], arrays(where, args)
                else:
                    original, args, keywords = operator_call(where, key, *make())
                calls = [runner(where, f, args, keywords) for f in (original, or_default(fn, original))]
                try:
                    rows.append(Row(name, case, *compare(*calls), reason))
                except Exception as error:
                    raise RuntimeError(f"{name} ({case}) on {where.name}") from error
            if not cases_of(key):
                rows.append(Row(name, "", None, None, 0, reason))
        for key, fn in compiled(where).items():
            if re.search(pattern, key[1]):
                rows += [_compiled_row(where, key, fn, case, make) for case, make in cases_of(key).items()]
    return sorted(rows, key=lambda r: (r.gain is None, r.gain or 0))


def _compiled_row(where, key, fn, case, make):
    """A compiled kernel beside what runs without it: the library's override, or the kernel."""
    kernel, args, keywords = operator_call(where, key, *make())
    if takes_derived(fn):
        fn = partial(fn, derived=Derived(args))
    other = replaced(where)[1].get(key)
    without = kernel if other is None else or_default(other, kernel)
    calls = [runner(where, f, args, keywords) for f in (without, or_default(fn, without))]
    return Row(f"{key[1]}-{key[2]}, compiled", case, *compare(*calls))


def device_of(where):
    """What a provider computes on, in words."""
    if where.library == "torch" and where.device.type == "cuda":
        import torch

        return str(torch.cuda.get_device_name(where.device))
    if where.library == "cupy":
        import cupy

        return str(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
    return platform.processor() or platform.machine()


def version_of(library):
    """The version of an installed library, whose package may be called after its CUDA."""
    try:
        return version(library)
    except PackageNotFoundError:
        return str(importlib.import_module(library).__version__)


def table(where, rows):
    """One provider's rows as Markdown."""
    text = [
        f"## {where.name}", "", f"{where.library} {version_of(where.library)} on {device_of(where)}.", "",
        "| replaced | case | default ms | replacement ms | gain | calls | reason |",
        "|---|---|---:|---:|---:|---:|---|",
    ]  # fmt: skip
    for row in rows:
        figures = [f"{v:.3f}" if v is not None else "-" for v in (row.before, row.after)]
        gain = f"{row.gain:.2f}" if row.gain else "-"
        text.append(f"| {row.name} | {row.case} | {' | '.join(figures)} | {gain} | {row.calls or '-'} | {row.reason} |")
    return "\n".join(text)


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overrides", description=__doc__.split("\n")[0])
    parser.add_argument("-k", dest="pattern", default="", help="regular expression: only names that it finds")
    parser.add_argument("--provider", help="measure one (default: all that are here)")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/OVERRIDES.md")
    parser.add_argument("--measure", metavar="P", help="measure one provider in this process")
    args = parser.parse_args()
    if args.measure:
        where = provider.create(args.measure, OPTIONS.get(args.measure))
        print(table(where, measure(where, args.pattern)))
        return
    if args.write and (args.pattern or args.provider):
        parser.error("--write is for all of it")
    text = [
        "# What providers replace, and what it gains",
        "",
        f"`python -m benchmarks.overrides --write`, {datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}.",
        "",
        "Default bodies of primitives, and pure kernels of operators, beside what a provider has in their place, on",
        f"the same inputs: medians of {LEAST} to {MOST} calls each, by turns in one process and thread; on JAX under",
        "jax.jit.",
        "",
    ]
    names = [args.provider] if args.provider else provider.available()[::-1]
    env = {**os.environ, **ONE_THREAD}
    with working("providers"):
        for name in each("providers", [name for name in names if any(replaced(provider.create(name)))]):
            command = [sys.executable, "-m", "benchmarks.overrides", "--measure", name, "-k", args.pattern]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=HERE.parent, env=env)
            print(done.stdout, flush=True)
            text.append(done.stdout)
    if args.write:
        (HERE / "OVERRIDES.md").write_text("\n".join(text))


if __name__ == "__main__":
    run_main(main)
