"""Blockwise quantisation is onnxruntime's, bit for bit, and its tools run on it."""

import importlib
import itertools
import subprocess
import sys

import numpy as np
import pytest

from ortlite.capi import _pybind_state as ours

# K fills whole bytes: what else is in the last one, onnxruntime reads behind the weights
SIZES = [(64, 8, 32), (52, 7, 16), (128, 5, 128), (36, 3, 32), (16, 1, 16), (96, 4, 64)]


def quantized(module, bits, weights, block, symmetric):
    (k, n), blocks = weights.shape, -(-weights.shape[0] // block)
    packed = np.zeros((n, blocks, block * bits // 8), np.uint8)
    scales, zeros = np.zeros((n, blocks), weights.dtype), np.zeros((n, -(-blocks * bits // 8)), np.uint8)
    getattr(module, f"quantize_matmul_{bits}bits")(packed, weights, scales, zeros, block, n, k, symmetric)
    return packed, scales, zeros


def kinds(k, n, dtype):
    rng = np.random.default_rng(k)
    drawn = (3 * rng.normal(size=(k, n))).astype(dtype)
    return [drawn, abs(drawn), -abs(drawn), 0 * drawn]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_bytes_are_onnxruntimes(bits, symmetric):
    pytest.importorskip("onnxruntime")
    theirs = importlib.import_module("onnxruntime.capi._pybind_state")
    for (k, n, block), dtype in itertools.product(SIZES, (np.float32, np.float16)):
        for weights in kinds(k, n, dtype):
            pairs = zip(*(quantized(m, bits, weights, block, symmetric) for m in (ours, theirs)), strict=True)
            for mine, wanted in pairs:
                np.testing.assert_array_equal(mine, wanted)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_bytes_for_dequantize_linear_are_onnxruntimes(symmetric):
    pytest.importorskip("onnxruntime")
    theirs = importlib.import_module("onnxruntime.capi._pybind_state")
    for k, n, block in SIZES:  # of float16 a few numbers between two differ by one
        for weights in kinds(k, n, np.float32):
            blocks, said = -(-k // block), []
            for module in (ours, theirs):
                packed, zeros = (np.zeros(-(-size // 2), np.uint8) for size in (k * n, blocks * n))
                scales = np.zeros((blocks, n), np.float32)
                signed = module.quantize_qdq_matmul_4bits(packed, weights, scales, zeros, block, n, k, symmetric)
                said.append((packed.tolist(), scales.tolist(), zeros.tolist(), signed))
            assert said[0] == said[1]


def test_what_was_quantized_is_near():
    (weights, *_) = kinds(64, 8, np.float32)
    packed, scales, zeros = quantized(ours, 4, weights, 32, False)
    numbers = np.stack([packed & 15, packed >> 4], axis=-1).reshape(8, 2, 32).astype(np.float32)
    points = np.stack([zeros & 15, zeros >> 4], axis=-1).reshape(8, 2).astype(np.float32)
    again = ((numbers - points[..., None]) * scales[..., None]).reshape(8, 64).T
    assert np.abs(again - weights).max() <= scales.max() * 0.51


PROGRAM = """
import numpy as np, onnx
from onnx import helper, numpy_helper
from onnxruntime import InferenceSession
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
W = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
graph = helper.make_graph([helper.make_node("MatMul", ["X", "W"], ["Y"], "n")], "g",
    [helper.make_tensor_value_info("X", 1, [3, 64])], [helper.make_tensor_value_info("Y", 1, [3, 16])],
    [numpy_helper.from_array(W, "W")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
tool = MatMulNBitsQuantizer(model, block_size=32, is_symmetric=False)
tool.process()
(y,) = InferenceSession(tool.model.model.SerializeToString()).run(None, {"X": X})
assert InferenceSession.__module__.startswith("ortlite")
print([node.op_type for node in tool.model.model.graph.node], bool(np.abs(y - X @ W).max() < 3))
"""


def test_onnxruntimes_tool_quantizes_by_it(tmp_path):
    pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "ortlite.as_onnxruntime", "program.py"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['MatMulNBits'] True"
