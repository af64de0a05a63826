"""Train the digit classifier that `ortlite demo` ships, and write it with the scans it shows.

    python -m benchmarks.train_digits

A small convolutional network in plain NumPy, on the 1,797 real scans of scikit-learn's digits (8 × 8, ink 0 to 16).
A fixed fifth of the scans is held out and never trained on: the accuracy in the model's metadata is measured there,
by ortlite. Everything is seeded: the same versions of NumPy give the same model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

import ortlite
from conformance import run_main

FOLDER = Path(ortlite.__file__).parent / "demo"
EPOCHS, BATCH, RATE = 60, 64, 2e-3
SHOWN = 16


def columns(x):
    """(N, C, H, W) to the 3 × 3 windows around every place: (N, H, W, C · 9)."""
    windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3))
    n, c, h, w = x.shape
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n, h, w, c * 9)


def conv(x, w, b):
    """Convolution with 3 × 3 kernels and ReLU; also what the way back needs."""
    cols = columns(x)
    y = np.maximum((cols @ w.reshape(len(w), -1).T + b).transpose(0, 3, 1, 2), 0)
    return y, cols


def conv_back(grad, y, cols, w):
    """Gradients of conv: to its input, weights and bias."""
    grad = (grad * (y > 0)).transpose(0, 2, 3, 1)
    flat = grad.reshape(-1, len(w))
    turned = w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    back = columns(grad.transpose(0, 3, 1, 2)) @ turned.reshape(len(turned), -1).T
    return back.transpose(0, 3, 1, 2), (flat.T @ cols.reshape(len(flat), -1)).reshape(w.shape), flat.sum(0)


def pool(x):
    """The maximum of 2 × 2 blocks, and where it stands."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
    return blocks.max(-1), blocks.argmax(-1)


def pool_back(grad, where):
    n, c, h, w = grad.shape
    blocks = (np.arange(4) == where[..., None]) * grad[..., None]
    return blocks.reshape(n, c, h, w, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, 2 * h, 2 * w)


def gradients(p, x, labels):
    """Gradients of the mean cross entropy to every parameter."""
    a, cols_a = conv(x, p["w1"], p["b1"])
    b, cols_b = conv(a, p["w2"], p["b2"])
    c, where = pool(b)
    flat = c.reshape(len(x), -1)
    hidden = np.maximum(flat @ p["w3"].T + p["b3"], 0)
    logits = hidden @ p["w4"].T + p["b4"]
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    d = (probabilities - np.eye(10, dtype=np.float32)[labels]) / len(x)
    g = {"w4": d.T @ hidden, "b4": d.sum(0)}
    d = (d @ p["w4"]) * (hidden > 0)
    g |= {"w3": d.T @ flat, "b3": d.sum(0)}
    d = pool_back((d @ p["w3"]).reshape(c.shape), where)
    d, g["w2"], g["b2"] = conv_back(d, b, cols_b, p["w2"])
    _, g["w1"], g["b1"] = conv_back(d, a, cols_a, p["w1"])
    return g


def train(images, labels, epochs=EPOCHS):
    """Adam with a falling rate on scans that are shifted by up to one place."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (16, 1, 3, 3), "w2": (32, 16, 3, 3), "w3": (48, 512), "w4": (10, 48)}
    p = {k: (rng.standard_normal(s) * (2 / np.prod(s[1:])) ** 0.5).astype(np.float32) for k, s in shapes.items()}
    p |= {f"b{k[1]}": np.zeros(s[0], np.float32) for k, s in shapes.items()}
    first, second = ({k: np.zeros_like(v) for k, v in p.items()} for _ in range(2))
    steps = epochs * (len(images) // BATCH)
    order = np.empty(0, int)
    for step in range(1, steps + 1):
        if len(order) < BATCH:
            order = rng.permutation(len(images))
        chosen, order = order[:BATCH], order[BATCH:]
        shift = rng.integers(0, 3, 2)
        wide = np.pad(images[chosen], ((0, 0), (0, 0), (1, 1), (1, 1)))
        x = wide[:, :, shift[0] : shift[0] + 8, shift[1] : shift[1] + 8]
        rate = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
        for k, g in gradients(p, x, labels[chosen]).items():
            first[k] = 0.9 * first[k] + 0.1 * g
            second[k] = 0.999 * second[k] + 0.001 * g * g
            unbiased = first[k] / (1 - 0.9**step), second[k] / (1 - 0.999**step)
            p[k] = (p[k] - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)).astype(np.float32)
    return p


def model(p):
    """The network as ONNX: `scan` (batch, 1, 8, 8), ink 0 to 16, to `probabilities` (batch, 10)."""
    node = helper.make_node
    nodes = [
        node("Div", ["scan", "full_ink"], ["ink"], "scale"),
        node("Conv", ["ink", "w1", "b1"], ["a"], "conv1", pads=[1] * 4),
        node("Relu", ["a"], ["a_on"], "relu1"),
        node("Conv", ["a_on", "w2", "b2"], ["b"], "conv2", pads=[1] * 4),
        node("Relu", ["b"], ["b_on"], "relu2"),
        node("MaxPool", ["b_on"], ["c"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["c"], ["flat"], "flatten"),
        node("Gemm", ["flat", "w3", "b3"], ["h"], "hidden", transB=1),
        node("Relu", ["h"], ["h_on"], "relu3"),
        node("Gemm", ["h_on", "w4", "b4"], ["logits"], "classes", transB=1),
        node("Softmax", ["logits"], ["probabilities"], "softmax"),
    ]
    weights = [numpy_helper.from_array(v, k) for k, v in sorted(p.items())]
    weights.append(numpy_helper.from_array(np.float32(16), "full_ink"))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "digits",
        [info("scan", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    return helper.make_model(graph, producer_name="ortlite", ir_version=8, opset_imports=[helper.make_opsetid("", 18)])


def held_out_fifth(count):
    """Which scans are never trained on, in a fixed random order: the file's order goes by digit."""
    return np.random.RandomState(0).permutation(count)[: count // 5 + 1]


def main():
    data = load_digits()
    scans, labels = data.images[:, None].astype(np.float32), data.target
    chosen = held_out_fifth(len(scans))
    held_out = np.isin(np.arange(len(scans)), chosen)
    made = model(train(scans[~held_out] / 16, labels[~held_out]))
    (probabilities,) = ortlite.InferenceSession(made.SerializeToString()).run(None, {"scan": scans[held_out]})
    right = int((probabilities.argmax(1) == labels[held_out]).sum())
    facts = {
        "accuracy": f"{right / held_out.sum():.4f}",
        "held_out": f"a fifth of the scans, the same ones always: {right} of {len(chosen)} right",
        "training": "python -m benchmarks.train_digits",
        "data": "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI, CC BY 4.0",
    }
    for key, value in facts.items():
        made.metadata_props.add(key=key, value=value)
    FOLDER.mkdir(exist_ok=True)
    onnx.save(made, FOLDER / "digits.onnx")
    shown = chosen[:SHOWN]
    np.savez_compressed(FOLDER / "scans.npz", scan=data.images[shown].astype(np.uint8), label=labels[shown])
    print(*(f"{key}: {value}" for key, value in facts.items()), sep="\n")
    print(f"{FOLDER / 'digits.onnx'}: {(FOLDER / 'digits.onnx').stat().st_size} bytes")


if __name__ == "__main__":
    run_main(main)
