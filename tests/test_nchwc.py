"""Models that onnxruntime optimised for one kind of processor, beside what they were made from."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from ort_files import by_onnxruntime

import ortlite
from ortlite import load
from ortlite.errors import InvalidGraph, OrtError
from ortlite.load import nchwc

NODE = helper.make_node
R = np.random.default_rng(0)


def floats(*shape):
    return R.standard_normal(shape).astype(np.float32)


def model(nodes, constants, shape=("N", 8, "H", "W"), outputs=("y",), opset=18, blocked=False):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(nchwc.DOMAIN, 1)][: 1 + blocked]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, results, held), opset_imports=imports, ir_version=8)


def conv(source, target, weights, **attributes):
    kernel = 3 if attributes.pop("pads", True) else 1
    return NODE("Conv", [source, weights, f"{weights}b"], [target], name=target, pads=[kernel // 2] * 4, **attributes)


def weights(outputs, inputs, kernel=3):
    return floats(outputs, inputs, kernel, kernel), floats(outputs)


def filters(**wanted):
    held = {}
    for name, sizes in wanted.items():
        held[name], held[f"{name}b"] = weights(*sizes)
    return held


CASES = {
    "padding": (
        [conv("x", "a", "u"), NODE("Relu", ["a"], ["r"]), conv("r", "y", "w")],
        filters(u=(12, 3), w=(20, 12)), ("N", 3, "H", "W"),
    ),
    "padded inputs": ([conv("x", "y", "w")], filters(w=(12, 12)), ("N", 12, "H", "W")),
    "padded inputs of any number": (
        [NODE("Neg", ["x"], ["n"]), conv("n", "y", "w")], filters(w=(12, 12)), ("N", "C", "H", "W"),
    ),
    "depthwise": (
        [
            conv("x", "a", "u"), conv("a", "b", "w", group=12), NODE("Add", ["a", "b"], ["t"]),
            NODE("Relu", ["t"], ["y"]),
        ],
        filters(u=(12, 12), w=(12, 1)), ("N", 12, "H", "W"),
    ),
    "groups": (
        [conv("x", "a", "u"), conv("a", "y", "w", group=2)], filters(u=(16, 16), w=(32, 8)), ("N", 16, "H", "W"),
    ),
    "pools": (
        [
            conv("x", "a", "u"),
            NODE("MaxPool", ["a"], ["m"], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
            NODE("AveragePool", ["m"], ["v"], kernel_shape=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1),
            NODE("GlobalAveragePool", ["v"], ["g"]),
            NODE("Mul", ["v", "g"], ["y"]),
        ],
        filters(u=(16, 8)), ("N", 8, "H", "W"),
    ),
    "channels last": (
        [
            NODE("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), conv("t", "a", "u"),
            NODE("Transpose", ["a"], ["y"], perm=[0, 2, 3, 1]),
        ],
        filters(u=(16, 8)), ("N", "H", "W", 8),
    ),
    "sums of unknown shapes": (
        [
            NODE("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
            conv("t", "a", "u"), conv("t", "b", "v"), conv("a", "c", "w", strides=[2, 2]),
            conv("b", "d", "z", strides=[2, 2]), NODE("Add", ["c", "d"], ["e"]), NODE("Relu", ["e"], ["y"]),
        ],
        filters(u=(16, 8), v=(16, 8), w=(24, 16), z=(24, 16)), ("N", "A", "B", 8),
    ),
    "concatenated": (
        [conv("x", "a", "u"), conv("x", "b", "v"), NODE("Concat", ["a", "b"], ["c"], axis=1), conv("c", "y", "w")],
        filters(u=(16, 8), v=(8, 8), w=(8, 24)), ("N", 8, "H", "W"),
    ),
    "activations": (
        [
            conv("x", "a", "u"), NODE("HardSigmoid", ["a"], ["h"]), conv("h", "b", "w"),
            NODE("Clip", ["b", "l", "m"], ["y"]),
        ],
        filters(u=(16, 8), w=(16, 16)) | {"l": np.float32(0), "m": np.float32(6)}, ("N", 8, "H", "W"),
    ),
    "upsampled": (
        [
            conv("x", "a", "u"),
            NODE("Resize", ["a", "", "s"], ["y"], coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        ],
        filters(u=(16, 8)) | {"s": np.array([1, 1, 2, 3], np.float32)}, ("N", 8, "H", "W"),
    ),
    "upsampled linearly": (
        [
            conv("x", "a", "u"),
            NODE("Resize", ["a", "", "s"], ["y"], mode="linear", coordinate_transformation_mode="half_pixel"),
        ],
        filters(u=(16, 8)) | {"s": np.array([1, 1, 2, 2], np.float32)}, ("N", 8, "H", "W"),
    ),
}  # fmt: skip
SIZES = {"N": 2, "H": 9, "W": 10, "C": 12, "A": 8, "B": 10}


@pytest.mark.parametrize("suffix", [".onnx", ".ort"])
@pytest.mark.parametrize("case", CASES)
def test_what_onnxruntime_writes(case, suffix, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    nodes, constants, shape = CASES[case]
    path = by_onnxruntime(model(nodes, constants, shape=shape).SerializeToString(), tmp_path / f"m{suffix}")
    theirs = onnxruntime.InferenceSession(str(path))
    feed = {"x": floats(*(SIZES.get(d, d) for d in shape))}
    (wanted,) = theirs.run(None, feed)
    for level in (0, 99):
        options = ortlite.SessionOptions()
        options.graph_optimization_level = ortlite.GraphOptimizationLevel(level)
        ours = ortlite.InferenceSession(path, options)
        np.testing.assert_allclose(ours.run(None, feed)[0], wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
        assert {node.domain for node in ours.model.graph.nodes} <= {"", "com.microsoft"}


@pytest.mark.parametrize("opset", [7, 9, 10, 11])
def test_older_opsets(opset, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    nodes, constants = [conv("x", "a", "u")], filters(u=(12, 12))
    if opset in {9, 10}:
        constants["s"] = np.array([1, 1, 2, 2], np.float32)
        nodes.append(NODE("Upsample" if opset == 9 else "Resize", ["a", "s"], ["y"], mode="nearest"))
    else:
        nodes.append(NODE("Relu", ["a"], ["y"]))
    made = model(nodes, constants, shape=("N", 12, "H", "W"), opset=opset).SerializeToString()
    path = by_onnxruntime(made, tmp_path / "m.ort")
    feed = {"x": floats(1, 12, 5, 6)}
    (wanted,) = onnxruntime.InferenceSession(str(path)).run(None, feed)
    np.testing.assert_allclose(ortlite.InferenceSession(path).run(None, feed)[0], wanted, rtol=1e-4, atol=1e-4)


def blocked(array, size, direct):
    """Filters as onnxruntime stores them in blocks of `size`, with zeros where channels are missing."""
    outputs, inputs, height, width = array.shape
    more = -outputs % size, 0 if direct else -inputs % size
    array = np.pad(array, [(0, more[0]), (0, more[1]), (0, 0), (0, 0)])
    if direct:
        apart = array.reshape(-1, size, inputs, height, width).transpose(0, 2, 3, 4, 1)
    else:
        apart = array.reshape(-1, size, array.shape[1] // size, size, height, width).transpose(0, 2, 4, 5, 3, 1)
    return np.ascontiguousarray(apart).reshape(array.shape)


def two_layers(size, u, w, channels):
    """Two convolutions in blocks of `size`: of three channels as they are, then of blocks."""
    nodes = [
        NODE("Conv", ["x", "u"], ["a"], domain=nchwc.DOMAIN, pads=[1] * 4, activation="Relu"),
        NODE("Conv", ["a", "w"], ["b"], domain=nchwc.DOMAIN, pads=[1] * 4),
        NODE("ReorderOutput", ["b"], ["y"], domain=nchwc.DOMAIN, channels=channels),
    ]
    held = {"u": blocked(u, size, True), "w": blocked(w, size, False)}
    return model(nodes, held, shape=("N", 3, "H", "W"), blocked=True)


def plainly(u, w):
    nodes = [
        NODE("Conv", ["x", "u"], ["a"], pads=[1] * 4),
        NODE("Relu", ["a"], ["r"]),
        NODE("Conv", ["r", "w"], ["y"], pads=[1] * 4),
    ]
    return model(nodes, {"u": u, "w": w}, shape=("N", 3, "H", "W"))


@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize(("middle", "last"), [(24, 16), (16, 20), (16, 24), (32, 32)])
def test_blocks_of_either_size_on_any_processor(size, middle, last):
    # of trained filters some are stronger than others, which tells where it does not show in the shapes
    rng = np.random.default_rng(0)
    u, w = (
        (rng.standard_normal((count, inputs, 3, 3)) * rng.permutation(np.linspace(0.3, 2, count)).reshape(-1, 1, 1, 1))
        for count, inputs in ((middle, 3), (last, middle))
    )
    u, w = u.astype(np.float32), w.astype(np.float32)
    feed = {"x": floats(2, 3, 6, 7)}
    (wanted,) = ortlite.InferenceSession(plainly(u, w).SerializeToString()).run(None, feed)
    (got,) = ortlite.InferenceSession(two_layers(size, u, w, last).SerializeToString()).run(None, feed)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_blocks_that_nothing_tells_are_this_processors(monkeypatch, caplog):
    u, w, feed = floats(16, 3, 3, 3), floats(16, 16, 3, 3), {"x": floats(2, 3, 6, 7)}
    (wanted,) = ortlite.InferenceSession(plainly(u, w).SerializeToString()).run(None, feed)
    for size in (8, 16):
        monkeypatch.setattr(nchwc, "block_here", lambda size=size: size)
        (got,) = ortlite.InferenceSession(two_layers(size, u, w, 16).SerializeToString()).run(None, feed)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
        assert "optimised for one kind of processor" in caplog.text


def test_what_onnxruntime_never_writes():
    u, w = floats(24, 3, 3, 3), floats(16, 24, 3, 3)
    made = two_layers(8, u, w, 16)
    for change, message in [
        (lambda m: m.graph.initializer.pop(), "has no constant filters"),
        (lambda m: setattr(m.graph.node[2], "op_type", "Foo"), "Nobody knows"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, 12), "in no blocks"),
    ]:
        wrong = onnx.ModelProto()
        wrong.CopyFrom(made)
        change(wrong)
        with pytest.raises(InvalidGraph, match=message):
            load.load(wrong.SerializeToString())
    both = two_layers(8, u, floats(16, 24, 3, 3), 16)
    both.graph.node[2].attribute[0].i = 4
    with pytest.raises(InvalidGraph, match=r"blocks of \[8, 16\]"):
        load.load(both.SerializeToString())


def test_damaged_nodes():
    u, w = floats(24, 3, 3, 3), floats(16, 24, 3, 3)
    data = bytearray(two_layers(8, u, w, 16).SerializeToString())
    for place in range(400):
        damaged = bytearray(data)
        damaged[place] ^= 0x15
        with contextlib.suppress(OrtError):
            load.load(bytes(damaged))
