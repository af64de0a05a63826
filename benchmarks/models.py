"""Models the benchmarks make themselves: real architectures with random weights, so that anyone can repeat them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["MODELS", "build"]

OPSETS = [helper.make_opsetid("", 18)]


class _Net:
    """Collects nodes and weights."""

    def __init__(self):
        self.nodes, self.weights, self.rng = [], [], np.random.default_rng(0)

    def weight(self, *shape, scale=1.0, shift=0.0):
        name = f"w{len(self.weights)}"
        values = (self.rng.standard_normal(shape) * scale + shift).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def op(self, op_type, *inputs, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], f"{op_type}_{len(self.nodes)}", **attributes))
        return name

    def conv(self, x, cin, cout, k, stride=1, relu=True):
        w = self.weight(cout, cin, k, k, scale=(2 / (cin * k * k)) ** 0.5)
        pads = [k // 2] * 4
        x = self.op("Conv", x, w, kernel_shape=[k, k], strides=[stride, stride], pads=pads)
        one = [self.weight(cout, scale=0.1, shift=shift) for shift in (1, 0, 0)]
        variance = self.weight(cout, scale=0.01, shift=1)
        x = self.op("BatchNormalization", x, *one, variance)
        return self.op("Relu", x) if relu else x


def resnet50():
    """ResNet-50 (He et al. 2015), batch normalisation not folded: 25.6 M parameters."""
    net = _Net()
    x = net.op("MaxPool", net.conv("x", 3, 64, 7, 2), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    cin = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            shortcut = x if block else net.conv(x, cin, 4 * width, 1, stride, relu=False)
            y = net.conv(net.conv(x, cin, width, 1), width, width, 3, stride)
            x = net.op("Relu", net.op("Add", net.conv(y, width, 4 * width, 1, relu=False), shortcut))
            cin = 4 * width
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    x = net.op("Gemm", x, net.weight(1000, 2048, scale=0.02), net.weight(1000, scale=0.01), transB=1)
    return _model(net, "resnet50", ["N", 3, 224, 224], x, ["N", 1000])


def adds():
    """A chain of 100 Adds on 8 floats: what a step costs."""
    net = _Net()
    x = "x"
    for _ in range(100):
        x = net.op("Add", x, "x")
    return _model(net, "adds", [8], x, [8])


def one():
    """One Add of 8 floats: what a call costs."""
    net = _Net()
    return _model(net, "one", [8], net.op("Add", "x", "x"), [8])


def heavy(width=3536):
    """500 MB of weights in ten MatMuls: what loading costs."""
    net = _Net()
    x = "x"
    for _ in range(10):
        x = net.op("MatMul", x, net.weight(width, width, scale=0.02))
    return _model(net, "heavy", ["N", width], x, ["N", width])


def light():
    """The same with hardly any weights."""
    return heavy(8)


def _model(net, name, shape, output, output_shape):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        net.nodes,
        name,
        [info("x", TensorProto.FLOAT, shape)],
        [info(output, TensorProto.FLOAT, output_shape)],
        net.weights,
    )
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=8)


MODELS = {"resnet50": resnet50, "adds": adds, "one": one, "heavy": heavy, "light": light}


def build(name: str, folder: Path, external: bool = False) -> Path:
    """Write a model into `folder` unless it is there, and return its path."""
    path = folder / f"{name}{'-external' if external else ''}.onnx"
    if not path.exists():
        options = {"save_as_external_data": True, "location": f"{path.stem}.data"} if external else {}
        onnx.save(MODELS[name](), path, **options)
    return path
