"""Every operator on about a million elements, beside onnx.reference and onnxruntime: the ratio is what counts.

    python -m benchmarks.operators [-k PATTERN] [--rounds N] [--write]

Each engine runs in processes of its own, by turns, every operator at its newest version in a graph of its own; a
figure is the median of N processes (5 by default), each the median of several runs after two that are not counted. It
is the operator that is measured, not the border of a session: a session's `run` also copies results that share memory
with its inputs, where onnx.reference hands out views. onnxruntime's session copies all of its results, which is part
of its figure. `--write` puts the table, worst first, into benchmarks/OPERATORS.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from conformance import run_main

HERE = Path(__file__).parent
R = np.random.default_rng(0)
F = np.float32
N = 1 << 20
NOISE = 0.95
PEERS = ("reference", "onnxruntime")


def floats(*shape):
    return (R.random(shape, F) * 1.8 - 0.9).astype(F)


def positive(*shape):
    return R.random(shape, F) * 0.8 + 0.1


def ints(high, *shape, dtype=np.int64):
    return R.integers(0, high, shape).astype(dtype)


def bytes_(*shape):
    return ints(255, *shape, dtype=np.uint8)


def words(n):
    result = np.empty(n, object)
    result[:] = [f"word {i % 97} of {i % 13}" for i in range(n)]
    return result


BOXES = np.sort(R.random((1, 400, 4), F), axis=-1)[..., [0, 1, 2, 3]]
TREES = {
    "nodes_treeids": [t for t in range(100) for _ in range(3)], "nodes_nodeids": [0, 1, 2] * 100,
    "nodes_featureids": [t % 10 for t in range(100) for _ in range(3)],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"] * 100,
    "nodes_values": [0.1, 0.0, 0.0] * 100, "nodes_truenodeids": [1, 0, 0] * 100, "nodes_falsenodeids": [2, 0, 0] * 100,
}  # fmt: skip
LEAVES = {"treeids": [t for t in range(100) for _ in range(2)], "nodeids": [1, 2] * 100, "ids": [0, 1] * 100}
LEAVES["weights"] = [0.1, -0.1] * 100


def typed(array, name):
    import ml_dtypes

    return array.astype(getattr(ml_dtypes, name, None) or name)


def cases():
    """Operator -> (inputs, attributes); made when it is measured, since together they are large."""
    made = {}
    for op in (
        "Abs Acos Asin Atan Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN "
        "LeakyRelu Mish Neg Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh "
        "ThresholdedRelu Asinh Atanh Shrink Dropout"
    ).split():
        made[op] = lambda: ([positive(N)], {})
    made["Log"] = made["Sqrt"] = lambda: ([positive(N)], {})
    made["Acosh"] = lambda: ([positive(N) + 1], {})
    made["Not"] = lambda: ([floats(N) > 0], {})
    made["BitwiseNot"] = lambda: ([ints(99, N)], {})
    for op in "Add Sub Mul Div Pow Max Min Mean Sum PRelu Equal Greater GreaterOrEqual Less LessOrEqual".split():
        made[op] = lambda: ([positive(1024, 1024), positive(1024)], {})
    for op in "And Or Xor".split():
        made[op] = lambda: ([floats(N) > 0, floats(N) > 0], {})
    for op in "BitwiseAnd BitwiseOr BitwiseXor".split():
        made[op] = lambda: ([ints(99, N), ints(99, N)], {})
    for op in (
        "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
        "ReduceSumSquare"
    ).split():
        made[op] = lambda: ([positive(1024, 1024), np.array([1])], {})
    for op in "ArgMax ArgMin Softmax LogSoftmax Hardmax LpNormalization".split():
        made[op] = lambda: ([floats(1024, 1024)], {"axis": 1})
    for op in "GlobalAveragePool GlobalMaxPool GlobalLpPool".split():
        made[op] = lambda: ([floats(4, 64, 64, 64)], {})
    image = {"kernel_shape": [3, 3], "strides": [2, 2]}
    for op in "MaxPool AveragePool LpPool".split():
        made[op] = lambda: ([floats(4, 16, 128, 128)], image)
    for op in "HannWindow HammingWindow BlackmanWindow".split():
        made[op] = lambda: ([np.array(N)], {})
    for op, g in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
        made[op] = lambda g=g: (
            [floats(64, 16, 128), floats(1, 128 * g, 128), floats(1, 128 * g, 128)],
            {"hidden_size": 128},
        )
    made |= {
        "Clip": lambda: ([floats(N), F(-0.5), F(0.5)], {}),
        "Mod": lambda: ([ints(999, N), ints(9, N) + 1], {}),
        "BitShift": lambda: ([ints(9, N, dtype=np.uint32), ints(9, N, dtype=np.uint32)], {"direction": "LEFT"}),
        "Where": lambda: ([floats(N) > 0, floats(N), floats(N)], {}),
        "Cast": lambda: ([floats(N)], {"to": 7}),
        "CastLike": lambda: ([floats(N), np.array([1])], {}),
        "BitCast": lambda: ([floats(N)], {"to": 6}),
        "CumSum": lambda: ([floats(1024, 1024), np.array(1)], {}),
        "CumProd": lambda: ([positive(1024, 1024), np.array(1)], {}),
        "TopK": lambda: ([floats(1024, 1024), np.array([10])], {}),
        "Unique": lambda: ([ints(1000, N)], {}),
        "NonZero": lambda: ([floats(1024, 1024) > 0], {}),
        "Transpose": lambda: ([floats(64, 128, 128)], {"perm": [2, 0, 1]}),
        "Reshape": lambda: ([floats(1024, 1024), np.array([-1, 64])], {}),
        "Flatten": lambda: ([floats(64, 128, 128)], {}),
        "Squeeze": lambda: ([floats(1024, 1, 1024)], {}),
        "Unsqueeze": lambda: ([floats(1024, 1024), np.array([1])], {}),
        "Shape": lambda: ([floats(1024, 1024)], {}),
        "Size": lambda: ([floats(1024, 1024)], {}),
        "Expand": lambda: ([floats(1024, 1), np.array([1024, 1024])], {}),
        "Tile": lambda: ([floats(256, 256), np.array([4, 4])], {}),
        "Concat": lambda: ([floats(512, 1024), floats(512, 1024)], {"axis": 1}),
        "Split": lambda: ([floats(1024, 1024)], {"axis": 1, "num_outputs": 4, "outputs": 4}),
        "Slice": lambda: ([floats(1024, 1024), np.array([1]), np.array([-1]), np.array([1]), np.array([2])], {}),
        "Pad": lambda: ([floats(1024, 1024), np.array([1, 2, 3, 4])], {}),
        "DepthToSpace": lambda: ([floats(4, 64, 64, 64)], {"blocksize": 2}),
        "SpaceToDepth": lambda: ([floats(4, 64, 64, 64)], {"blocksize": 2}),
        "Trilu": lambda: ([floats(1024, 1024)], {}),
        "ReverseSequence": lambda: ([floats(1024, 64, 16), ints(1024, 64) + 1], {}),
        "Compress": lambda: ([floats(1024, 1024), floats(1024) > 0], {"axis": 0}),
        "Gather": lambda: ([floats(10000, 64), ints(10000, 128, 128)], {}),
        "GatherElements": lambda: ([floats(1024, 1024), ints(1024, 1024, 1024)], {"axis": 1}),
        "GatherND": lambda: ([floats(256, 256, 16), ints(256, 256, 256, 2)], {}),
        "ScatterElements": lambda: ([floats(1024, 1024), ints(1024, 256, 1024), floats(256, 1024)], {}),
        "ScatterND": lambda: ([floats(4096, 256), R.permutation(4096)[:1024, None], floats(1024, 256)], {}),
        "TensorScatter": lambda: ([floats(8, 512, 256), floats(8, 16, 256), ints(400, 8)], {"axis": 1}),
        "OneHot": lambda: ([ints(64, 16384), np.array(64), np.array([0, 1], F)], {}),
        "EyeLike": lambda: ([floats(1024, 1024)], {}),
        "ConstantOfShape": lambda: ([np.array([1024, 1024])], {}),
        "Range": lambda: ([np.array(0), np.array(N), np.array(1)], {}),
        "MatMul": lambda: ([floats(512, 512), floats(512, 512)], {}),
        "Gemm": lambda: ([floats(512, 512), floats(512, 512), floats(512)], {}),
        "Einsum": lambda: ([floats(16, 128, 128), floats(16, 128, 128)], {"equation": "bij,bjk->bik"}),
        "Det": lambda: ([floats(1024, 16, 16)], {}),
        "Conv": lambda: ([floats(1, 64, 64, 64), floats(64, 64, 3, 3)], {"pads": [1] * 4}),
        "ConvTranspose": lambda: ([floats(1, 16, 64, 64), floats(16, 16, 3, 3)], {"strides": [2, 2]}),
        "ConvInteger": lambda: ([bytes_(1, 16, 64, 64), bytes_(16, 16, 3, 3)], {}),
        "DeformConv": lambda: ([floats(1, 4, 32, 32), floats(4, 4, 3, 3), floats(1, 18, 30, 30)], {}),
        "Col2Im": lambda: ([floats(1, 9 * 16, 64 * 64), np.array([66, 66]), np.array([3, 3])], {}),
        "MaxUnpool": lambda: ([floats(4, 16, 64, 64), np.arange(4 * 16 * 64 * 64).reshape(4, 16, 64, 64) * 4],
                              {"kernel_shape": [2, 2], "strides": [2, 2]}),
        "Resize": lambda: ([floats(1, 3, 256, 256), None, None, np.array([1, 3, 512, 512])], {"mode": "linear"}),
        "GridSample": lambda: ([floats(1, 4, 64, 64), floats(1, 64, 64, 2)], {}),
        "AffineGrid": lambda: ([floats(4, 2, 3), np.array([4, 3, 256, 256])], {}),
        "RoiAlign": lambda: ([floats(1, 16, 64, 64), positive(16, 4) * 60, ints(1, 16)],
                             {"output_height": 7, "output_width": 7}),
        "NonMaxSuppression": lambda: ([BOXES, R.random((1, 4, 400), F), np.array([50]), F(0.5), F(0.2)], {}),
        "BatchNormalization": lambda: ([floats(4, 64, 64, 64), *(positive(64) for _ in range(4))], {}),
        "InstanceNormalization": lambda: ([floats(4, 64, 64, 64), positive(64), positive(64)], {}),
        "LayerNormalization": lambda: ([floats(1024, 1024), floats(1024), floats(1024)], {}),
        "RMSNormalization": lambda: ([floats(1024, 1024), floats(1024)], {}),
        "GroupNormalization": lambda: ([floats(4, 64, 64, 64), positive(64), positive(64)], {"num_groups": 8}),
        "MeanVarianceNormalization": lambda: ([floats(4, 64, 64, 64)], {}),
        "LRN": lambda: ([floats(4, 64, 64, 64)], {"size": 5}),
        "QuantizeLinear": lambda: ([floats(N), F(0.01), np.uint8(128)], {}),
        "DequantizeLinear": lambda: ([ints(255, N, dtype=np.uint8), F(0.01), np.uint8(128)], {}),
        "DynamicQuantizeLinear": lambda: ([floats(N)], {"outputs": 3}),
        "MatMulInteger": lambda: ([ints(255, 256, 512, dtype=np.uint8), ints(255, 512, 256, dtype=np.uint8)], {}),
        "QLinearMatMul": lambda: (
            [ints(255, 256, 512, dtype=np.uint8), F(0.1), np.uint8(3), ints(255, 512, 256, dtype=np.uint8), F(0.1),
             np.uint8(3), F(9), np.uint8(3)], {}),
        "QLinearConv": lambda: (
            [bytes_(1, 16, 32, 32), F(0.1), np.uint8(3), bytes_(16, 16, 3, 3), F(0.1), np.uint8(3), F(9), np.uint8(3)],
                {}),
        "Attention": lambda: ([floats(1, 8, 256, 64), floats(1, 8, 256, 64), floats(1, 8, 256, 64)], {"is_causal": 1}),
        "RotaryEmbedding": lambda: ([floats(4, 16, 256, 64), floats(4, 256, 32), floats(4, 256, 32)], {}),
        "LinearAttention": lambda: ([floats(1, 64, 512), floats(1, 64, 512), floats(1, 64, 512)],
                                    {"q_num_heads": 8, "kv_num_heads": 8, "update_rule": "linear"}),
        "CausalConvWithState": lambda: ([floats(4, 256, 1024), floats(256, 1, 4)], {}),
        "DFT": lambda: ([floats(64, 16384, 1), None, np.array(1)], {}),
        "STFT": lambda: ([floats(1, 65536, 1), np.array(256), floats(512)], {}),
        "MelWeightMatrix": lambda: ([np.array(v) for v in (128, 4096, 16000)] + [F(20), F(8000)], {}),
        "NegativeLogLikelihoodLoss": lambda: ([floats(4096, 256), ints(256, 4096)], {}),
        "SoftmaxCrossEntropyLoss": lambda: ([floats(4096, 256), ints(256, 4096)], {}),
        "StringConcat": lambda: ([words(N // 8), words(N // 8)], {}),
        "StringSplit": lambda: ([words(N // 8)], {"delimiter": " ", "outputs": 2}),
        "StringNormalizer": lambda: ([words(N // 8)], {"case_change_action": "UPPER", "stopwords": ["word 1 of 1"]}),
        "RegexFullMatch": lambda: ([words(N // 8)], {"pattern": "word [0-9]+ of 1"}),
        "TfIdfVectorizer": lambda: (
            [ints(50, 256, 1024)], {"mode": "TF", "max_skip_count": 1, "min_gram_length": 1, "max_gram_length": 2,
             "ngram_counts": [0, 20], "ngram_indexes": list(range(40)), "pool_int64s": [*range(20), *range(40)]}),
        "Bernoulli": lambda: ([positive(N)], {}),
        "RandomUniform": lambda: ([], {"shape": [1024, 1024]}),
        "RandomNormal": lambda: ([], {"shape": [1024, 1024]}),
        "RandomUniformLike": lambda: ([floats(N)], {}),
        "RandomNormalLike": lambda: ([floats(N)], {}),
        "ai.onnx.ml::ArrayFeatureExtractor": lambda: ([floats(1024, 1024), ints(1024, 256)], {}),
        "ai.onnx.ml::Binarizer": lambda: ([floats(N)], {}),
        "ai.onnx.ml::Imputer": lambda: (
            [floats(1024, 1024)], {"imputed_value_floats": [1.0], "replaced_value_float": 0.5}),
        "ai.onnx.ml::LabelEncoder": lambda: (
            [ints(200, N)], {"keys_int64s": list(range(200)), "values_floats": [float(i) for i in range(200)]}),
        "ai.onnx.ml::LinearRegressor": lambda: ([floats(4096, 256)], {"coefficients": [0.1] * 256}),
        "ai.onnx.ml::LinearClassifier": lambda: (
            [floats(4096, 256)],
            {"coefficients": [0.1, -0.1] * 256, "intercepts": [0.1, 0.2], "classlabels_ints": [0, 1], "outputs": 2}),
        "ai.onnx.ml::Normalizer": lambda: ([floats(1024, 1024)], {"norm": "L2"}),
        "ai.onnx.ml::Scaler": lambda: ([floats(1024, 1024)], {"offset": [1.0], "scale": [2.0]}),
        "ai.onnx.ml::OneHotEncoder": lambda: ([ints(64, 16384)], {"cats_int64s": list(range(64))}),
        "ai.onnx.ml::SVMRegressor": lambda: (
            [floats(1024, 64)],
            {"coefficients": [0.1] * 64, "support_vectors": [0.1] * 4096, "n_supports": 64, "rho": [0.1],
             "kernel_type": "RBF", "kernel_params": [0.1, 0.0, 3.0]}),
        "ai.onnx.ml::TreeEnsembleRegressor": lambda: (
            [floats(1000, 10)], {**TREES, **{f"target_{k}": v for k, v in LEAVES.items()}, "n_targets": 2}),
        "ai.onnx.ml::TreeEnsembleClassifier": lambda: (
            [floats(1000, 10)], {**TREES, **{f"class_{k}": v for k, v in LEAVES.items()}, "classlabels_int64s": [0, 1],
             "outputs": 2}),
    }  # fmt: skip
    return made


def model(name, inputs, attributes):
    """A model of one node."""
    domain, _, op = name.rpartition("::")
    attributes = dict(attributes)
    outputs = [f"y{i}" for i in range(attributes.pop("outputs", 1))]
    names = ["" if v is None else f"x{i}" for i, v in enumerate(inputs)]
    node = helper.make_node(op, names, outputs, domain=domain, **attributes)
    infos = [
        helper.make_value_info(
            n,
            helper.make_tensor_type_proto(
                8 if v.dtype == object else helper.np_dtype_to_tensor_dtype(v.dtype), v.shape
            ),
        )
        for n, v in zip(names, inputs, strict=True)
        if n
    ]
    graph = helper.make_graph([node], "one", infos, [onnx.ValueInfoProto(name=o) for o in outputs])
    since = onnx.defs.get_schema(op, domain=domain).since_version  # the newest that there is: not all know later opsets
    imports = [helper.make_opsetid(domain, since)]
    return helper.make_model(graph, opset_imports=imports, ir_version=11)


def measure(engine, pattern, seconds=0.25):
    """Median milliseconds of every operator on one engine; None where it cannot run it."""
    for name, make in sorted(cases().items()):
        if not re.search(pattern, name):
            continue
        inputs, attributes = make()
        inputs = [v if v is None else np.asarray(v) for v in inputs]
        feeds = {f"x{i}": v for i, v in enumerate(inputs) if v is not None}
        proto = model(name, inputs, attributes)
        try:
            if engine == "ortlite":
                import ortlite

                session = ortlite.InferenceSession(proto.SerializeToString())
                program, given = session.stages.program, [feeds[a.name] for a in session.get_inputs()]
                run = partial(program, given)
            elif engine == "onnxruntime":
                import onnxruntime

                options = onnxruntime.SessionOptions()
                options.log_severity_level = 4
                peer = onnxruntime.InferenceSession(
                    proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
                )
                run = partial(peer.run, None, feeds)
            else:
                from onnx.reference import ReferenceEvaluator

                run = partial(ReferenceEvaluator(proto).run, None, feeds)
            times, start = [], time.perf_counter()
            while len(times) < 3 or (time.perf_counter() - start < seconds and len(times) < 30):
                before = time.perf_counter()
                with np.errstate(all="ignore"):
                    run()
                times.append((time.perf_counter() - before) * 1e3)
                if times[0] > 5000:
                    break
            found = statistics.median(times[2:] or times)
        except Exception as error:  # noqa: BLE001  (a row without a figure)
            print(f"{name} on {engine}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
            found = None
        print(json.dumps([name, found]), flush=True)


def middle(times):
    """The median of what was measured; None when nothing was."""
    return statistics.median(times) if all(times) else None


def mean(ratios):
    """The geometric mean."""
    return math.exp(statistics.fmean(map(math.log, ratios)))


def table(found, rounds):
    """The rows as Markdown, those that are slowest beside onnx.reference first, and the ratios."""
    rows = []
    for name, ours in found["ortlite"].items():
        theirs = [found[peer].get(name) for peer in PEERS]
        rows.append((name, ours, *((t, t / ours if ours and t else None) for t in theirs)))
    rows.sort(key=lambda row: (row[2][1] is None, row[2][1] or 0))
    packages = ("numpy", *(["numba"] if importlib.util.find_spec("numba") else []), "onnx", "onnxruntime")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    where = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"
    processes = f"Medians of {rounds} processes for each engine, by turns." if rounds > 1 else "One process each."
    text = [
        "# Operators on a million elements, beside onnx.reference and onnxruntime",
        "",
        f"`python -m benchmarks.operators --write`, {where}. {processes}",
        "",
    ]
    for place, peer in enumerate(("onnx.reference", "onnxruntime"), 2):
        ratios = [row[place][1] for row in rows if row[place][1]]
        if ratios:
            slower = sum(ratio < NOISE for ratio in ratios)
            text.append(
                f"{len(ratios)} operators beside {peer}: geometric mean {mean(ratios):.1f} × as fast; {slower} slower."
            )
    text += [
        f"A ratio from {NOISE} counts as equal: two measurements of one NumPy call differ by that much here.",
        "",
        "| operator | ortlite ms | onnx.reference ms | times as fast | onnxruntime ms | times as fast |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, ours, *peers in rows:
        cells = [f"{ours:.3f}" if ours else "-"]
        for theirs, ratio in peers:
            cells += [f"{theirs:.3f}" if theirs else "-", f"{ratio:.2f}" if ratio else "-"]
        text.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operators", description=__doc__.split("\n")[0])
    parser.add_argument("-k", dest="pattern", default="", help="regular expression: only operators whose name it finds")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/OPERATORS.md")
    parser.add_argument("--engine", choices=("ortlite", *PEERS), help="measure one, in this process")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each engine")
    args = parser.parse_args()
    if args.engine:
        measure(args.engine, args.pattern)
        return
    from ortlite.cli.bars import working  # not where one engine is measured
    from ortlite.progress import each

    runs = {engine: [] for engine in ("ortlite", *PEERS)}
    with working("processes"):
        for engine in each("processes", [*runs] * args.rounds):  # by turns: what else the machine does hits both
            command = [sys.executable, "-m", "benchmarks.operators", "--engine", engine, "-k", args.pattern]
            lines = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parent)
            print(lines.stderr, end="", file=sys.stderr)
            runs[engine].append(dict(map(json.loads, lines.stdout.splitlines())))
    text = table(
        {engine: {n: middle([r[n] for r in each]) for n in each[0]} for engine, each in runs.items()}, args.rounds
    )
    print(text)
    if args.write:
        (HERE / "OPERATORS.md").write_text(text)


if __name__ == "__main__":
    run_main(main)
