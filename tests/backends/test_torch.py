"""Torch's primitives beside the default bodies, its operators beside the kernels, both on bare NumPy; derivatives."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import array_api_compat.numpy
import numpy as np
import pytest
from onnx import parser

import ortlite
from ortlite import dtypes, namespace
from ortlite.ops import registry
from ortlite.primitives import DEFAULTS
from ortlite.provider import create

torch = pytest.importorskip("torch")
ops = pytest.importorskip("ortlite_torch.ops")
primitives = pytest.importorskip("ortlite_torch.primitives")

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
NUMBERS = {d.name: dtypes.to_numpy(d) for d in dtypes.ALL if d.kind in "biufc"}
PLAIN = namespace.build(array_api_compat.numpy, NUMBERS, {})
R = np.random.default_rng(0)
INF, NAN = float("inf"), float("nan")


def floats(*shape):
    return R.standard_normal(shape)


def whole(low, high, *shape, dtype=np.int64):
    return R.integers(low, high, shape).astype(dtype)


def windows(strides, pads, dilations, **more):
    return {"strides": strides, "pads": pads, "dilations": dilations, **more}


X1, X2, X3, X4 = floats(2, 4, 11), floats(2, 4, 9, 7), floats(2, 2, 5, 4, 6), floats(1, 2, 3, 3, 3, 3)
ONES, NONE = (1, 1), ((0, 0), (0, 0))
TIED = np.array([[2.0, NAN, 2, -INF, 0.0, -0.0, INF, NAN], [1.0, 1, 1, 1, 3, 3, 0, 0]], np.float32)
ROWS = np.array([[0], [-1], [2]])
PLACES = np.array([3, -1, 0])  # the last twice
CROP = ((0, 0), (-1, 2), (3, -2))
AROUND = ((0, 0), (0, 0), (1, 3), (2, 0))

# name, arguments, keywords; all floats are of one dtype
PRIMITIVES = [
    ("conv", (X1, floats(6, 4, 3)), windows((2,), ((1, 1),), (1,))),
    ("conv", (X2, floats(6, 4, 3, 2)), windows((2, 1), ((1, 2), (0, 3)), (1, 2))),
    ("conv", (X2, floats(6, 2, 3, 3)), windows(ONES, ((1, 1), (1, 1)), ONES, groups=2)),
    ("conv", (X2, floats(4, 1, 3, 3)), windows((2, 2), ((-1, 2), (1, -1)), ONES, groups=4)),
    ("conv", (X2, floats(6, 4, 9, 9)), windows(ONES, NONE, ONES)),
    ("conv", (X2[:0], floats(6, 4, 3, 3)), windows(ONES, NONE, ONES)),
    ("conv", (X2[:, :0], floats(6, 0, 3, 3)), windows(ONES, NONE, ONES)),
    ("conv", (X3, floats(2, 2, 2, 3, 2)), windows((1, 2, 1), ((0, 1), (1, 1), (2, 0)), (2, 1, 1))),
    ("conv", (X4, floats(3, 2, 2, 2, 2, 2)), windows((1,) * 4, ((0, 0),) * 4, (1,) * 4)),
    ("conv", (whole(-9, 9, 1, 2, 5, 5), whole(-9, 9, 3, 2, 3, 3)), windows(ONES, ((1, 0), (0, 1)), ONES)),
    ("conv_transpose", (X1, floats(4, 3, 3)), windows((2,), ((1, 0),), (2,))),
    ("conv_transpose", (X2, floats(4, 3, 3, 2)), windows((2, 3), ((1, -1), (-2, 1)), (1, 2))),
    ("conv_transpose", (X2, floats(4, 2, 3, 3)), windows(ONES, ((1, 1), (0, 2)), ONES, groups=2)),
    ("conv_transpose", (X2[:0], floats(4, 2, 3, 3)), windows(ONES, NONE, ONES)),
    ("conv_transpose", (X3, floats(2, 3, 2, 2, 2)), windows((2, 1, 1), ((0, 1), (0, 0), (1, 1)), (1, 1, 2))),
    ("max_pool", (X1, (3,)), windows((2,), ((1, 1),), (1,))),
    ("max_pool", (X1, (3,)), windows((2,), ((0, 3),), (2,))),
    ("max_pool", (X2, (3, 2)), windows((2, 1), ((1, 1), (1, 1)), ONES)),
    ("max_pool", (X2, (9, 7)), windows(ONES, ((0, 1), (5, 0)), ONES)),
    ("max_pool", (X2, (9, 7)), windows(ONES, ((2, 2), (1, 1)), ONES)),
    ("max_pool", (X2, (3, 2)), windows((2, 1), ((-1, 1), (0, 1)), (2, 1), indices=True)),
    ("max_pool", (X2[:0], (3, 3)), windows(ONES, NONE, ONES)),
    ("max_pool", (X2, (10, 2)), windows(ONES, NONE, ONES)),
    ("max_pool", (X3, (5, 4, 6)), windows((1, 1, 1), ((0, 1), (0, 0), (0, 0)), (1, 1, 1))),
    ("max_pool", (whole(-99, 99, 1, 2, 5, 5, dtype=np.int8), (5, 5)), windows(ONES, ((1, 1), (0, 0)), ONES)),
    ("max_pool", (whole(0, 200, 1, 2, 5, 5, dtype=np.uint8), (2, 2)), windows(ONES, ((2, 2), (0, 0)), ONES)),
    ("sum_pool", (X2, (3, 2)), windows((2, 1), ((1, 1), (0, 2)), ONES)),
    ("sum_pool", (X2, (9, 7)), windows(ONES, ((1, 1), (1, 1)), ONES)),
    ("sum_pool", (X2, (9, 7)), windows(ONES, ((0, 2), (-1, 1)), ONES)),
    ("sum_pool", (X2, (3, 2)), windows((2, 1), NONE, (2, 2))),
    ("sum_pool", (X3, (5, 4, 6)), windows((1, 1, 1), ((2, 2), (0, 0), (0, 0)), (1, 1, 1))),
    ("pad", (X1, CROP), {}),
    ("pad", (X1, CROP, "constant", 2.5), {}),
    ("pad", (X2, AROUND, "edge"), {}),
    ("pad", (X2, AROUND, "reflect"), {}),
    ("pad", (X2, AROUND, "wrap"), {}),
    ("pad", (X2, ((0, 0), (0, 0), (9, 20), (0, 0)), "reflect"), {}),
    ("pad", (X2, ((0, 0), (0, 0), (-2, 1), (0, -1)), "edge"), {}),
    ("pad", (X2[:0], AROUND, "edge"), {}),
    ("pad", (X1, ((1, 0), (0, 0), (0, 0)), "edge"), {}),
    ("pad", (whole(0, 9, 3), ((1, 2),), "constant", -7), {}),
    ("pad", (R.random(3) > 0.5, ((1, 2),), "constant", True), {}),
    ("pad", (np.array(1.5), ()), {}),
    ("erf", (np.array([-INF, -7, -2.5, -0.3, -0.0, 0.1, 1, 4, INF, NAN]),), {}),
    ("sigmoid", (np.array([-INF, -800, -1, 0, 3, 800, INF, NAN]),), {}),
    ("fmod", (np.array([5.5, -5.5, 5.5, INF, 1, -0.0, 3, NAN]), np.array([2.0, 2, -2, 2, INF, 3, 0, 1])), {}),
    ("fmod", (whole(-20, 20, 30), np.repeat([3, -3, 7], 10)), {}),
    ("fmod", (whole(0, 20, 30, dtype=np.uint8), np.repeat([3, 5, 7], 10).astype(np.uint8)), {}),
    ("softmax", (X2, 1), {}),
    ("softmax", (np.array([[-INF, -INF], [INF, 1], [900, 800]]), -1), {}),
    ("softmax", (X2[:, :0], 1), {}),
    ("einsum", ("bij,bjk->bik", floats(2, 3, 4), floats(2, 4, 5)), {}),
    ("einsum", ("...ii,b...->ib", floats(3, 4, 4), floats(2, 3)), {}),
    ("einsum", ("ij,Jk,kj", floats(2, 3), floats(3, 4), floats(4, 3)), {}),
    ("einsum", ("ij,jk", whole(-9, 9, 2, 3), whole(-9, 9, 3, 2)), {}),
    ("gather_nd", (X2, np.array([[0, 1], [-1, -4]])), {}),
    ("gather_nd", (X2, np.array([[[0, 1, 8, -1]]])), {}),
    ("gather_nd", (X2, ROWS[:2]), {}),
    ("gather_nd", (X2, np.zeros((2, 0), np.int64)), {}),
    ("one_hot", (np.array([[0, 3], [5, -1]]), 4, 1, np.array(2.5), np.array(-1.0)), {}),
    ("one_hot", (np.array([0, 2], np.int32), 3, 0, np.array(True), np.array(False)), {}),
    ("one_hot", (np.array([0, 2]), 0, 0, np.array(1.0), np.array(0.0)), {}),
    ("scatter_flat", (floats(5), np.array([4, 0]), floats(2), "none"), {}),
    ("scatter_flat", (floats(5), np.zeros(0, np.int64), floats(0), "add"), {}),
    ("scatter", (floats(4, 3), np.array([[0, -1, 2], [3, 0, 0]]), floats(2, 3), 0), {}),
    ("scatter", (floats(4, 3), np.array([[0, -1], [2, 0]], np.int32), floats(2, 2), 1), {}),
    ("scatter_nd", (floats(4, 3), ROWS, floats(3, 3)), {}),
    ("scatter_nd", (floats(4, 3), np.array([[[0, -1], [-4, 0]]]), floats(1, 2)), {}),
    ("scatter_nd", (floats(4, 3), np.zeros((0, 1), np.int64), floats(0, 3)), {}),
    ("scatter_nd", (floats(4, 0), ROWS, floats(3, 0)), {}),
    ("scatter_nd", (np.array([True, False]), np.array([[1]]), np.array([True])), {}),
    *(("scatter_flat", (floats(4), np.array([3, 3, 0]), floats(3), r), {}) for r in ("add", "mul", "max", "min")),
    *(("scatter", (floats(4), PLACES, floats(3), 0, r), {}) for r in ("add", "mul", "max", "min")),
    *(("scatter_nd", (x, np.array([[0], [-1], [0]]), y, r), {}) for r in ("add", "mul", "max", "min")
      for x, y in ((floats(4, 3), floats(3, 3)), (whole(-9, 9, 4, 3), whole(-9, 9, 3, 3)))),
    ("scatter", (np.array([1.0, NAN, 2]), np.array([0, 1, 2]), np.array([NAN, 1, INF]), 0, "max"), {}),
    ("integer_matmul", (whole(-9, 9, 3, 4), whole(-9, 9, 4, 2), np.int64), {}),
    *(("top_k", (x, k, axis, largest, True), {}) for x, axis in ((TIED, 1), (X2, -2), (whole(-3, 3, 4, 5), 0),
      (whole(0, 3, 9, dtype=np.uint8), 0)) for k in (0, 1, 3) for largest in (True, False)),
    ("top_k", (TIED, 8, 1, True, True), {}),
]  # fmt: skip

Q, K, V = floats(2, 4, 5, 8), floats(2, 4, 6, 8), floats(2, 4, 6, 3)
HIDDEN = R.random((2, 1, 5, 6)) > 0.4
HIDDEN[:, :, 2] = False
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
GRID = floats(2, 3, 4, 2) * 0.8
VOLUME = floats(2, 3, 2, 2, 3) * 0.8
BYTES = {n: whole(0, 255, *shape, dtype=np.uint8) for n, shape in (("a", (5, 600)), ("b", (600, 7)))}
SIGNED = whole(-128, 127, 2, 5, 600, dtype=np.int8)
SCALE, ZERO = np.float32(0.1), np.uint8(3)


def network(op, directions, bias=True, layout=0):
    gates, (batch, time) = GATES[op], (2, 3)
    x = floats(batch, time, 4) if layout else floats(time, batch, 4)
    b = floats(directions, 2 * gates * 2) if bias else None
    start = floats(batch, directions, 2) if layout else floats(directions, batch, 2)
    return (x, floats(directions, gates * 2, 4), floats(directions, gates * 2, 2), b, None, start)


# operator, opset, inputs, attributes
OPERATORS = [
    *((op, 28, (np.array([[-INF, -50, -20, -2, -0.0, 0.0, 1e-8, 3, 30, 60, INF], floats(11)]),), given)
      for op, given in (
          ("Relu", {}), ("LeakyRelu", {"alpha": 0.3}), ("LeakyRelu", {"alpha": -0.3}), ("Elu", {"alpha": 0.7}),
          ("Celu", {"alpha": 0.7}), ("Selu", {}), ("Selu", {"alpha": 0.3, "gamma": 2.0}), ("Softplus", {}),
          ("Gelu", {"approximate": "tanh"}))),
    *((op, 28, (np.array([[-50, -20, -2, -0.0, 0.0, 1e-8, 2.5, 30, 60], floats(9)]),), given)
      for op, given in (("HardSwish", {}), ("Mish", {}), ("Gelu", {}), ("Swish", {}), ("Swish", {"alpha": 0.7}))),
    ("Gelu", 28, (np.array([INF, -30, 0.5, INF] * 5),), {}),  # enough for oneDNN, which makes NaN of infinity
    ("Relu", 28, (whole(-9, 9, 7),), {}),
    ("PRelu", 28, (X2, floats(4, 1, 1)), {}),
    ("PRelu", 28, (X2, floats(1)), {}),
    ("PRelu", 28, (X2, floats(7)), {}),
    ("PRelu", 28, (X1[0, 0], floats(11)), {}),
    ("LogSoftmax", 28, (X2 * 100,), {"axis": 1}),
    ("LogSoftmax", 28, (X2[:0],), {}),
    ("LayerNormalization", 28, (X2, floats(7), floats(7)), {}),
    ("LayerNormalization", 28, (X2, floats(9, 7)), {"axis": 2, "epsilon": 0.1}),
    ("LayerNormalization", 28, (X2, floats(1), floats(9, 7)), {"axis": 2}),
    ("InstanceNormalization", 28, (X2, floats(4), floats(4)), {}),
    ("InstanceNormalization", 28, (X2[:, :, :1, :1], floats(4), floats(4)), {}),
    ("GroupNormalization", 28, (X2, floats(4), floats(4)), {"num_groups": 2}),
    ("BatchNormalization", 28, (X2, *(R.random(4) + 0.1 for _ in range(4))), {"epsilon": 1e-2}),
    ("BatchNormalization", 28, (X2, *(R.random(4) + 0.1 for _ in range(4))), {"training_mode": 1}),
    ("Attention", 28, (Q, K, V), {}),
    ("Attention", 28, (Q, K, V), {"is_causal": 1, "scale": 0.3}),
    ("Attention", 28, (Q, K, V, HIDDEN), {}),
    ("Attention", 28, (Q, K, V, np.where(HIDDEN, floats(2, 1, 5, 6), -INF)), {}),
    ("Attention", 28, (Q, K, V, floats(5, 6)), {"is_causal": 1}),
    ("Attention", 28, (Q, K, V, floats(5, 1)), {}),
    ("Attention", 28, (Q, K, V, floats(1, 1, 1, 4)), {}),
    ("Attention", 28, (Q, K, V, None, floats(2, 4, 2, 8), floats(2, 4, 2, 3)), {"is_causal": 1}),
    *(("Attention", 28, (Q[:, :, :1], K[:, :, :n], V[:, :, :n], None, floats(2, 4, 2, 8), floats(2, 4, 2, 3)),
       {"is_causal": 1}) for n in (1, 6)),
    ("Attention", 28, (Q, K[:, :2], V[:, :2]), {}),
    ("Attention", 28, (Q, K, V), {"softcap": 2.0, "left_window_size": 1}),
    ("Attention", 28, (floats(2, 5, 32), floats(2, 6, 16), floats(2, 6, 6)), {"q_num_heads": 4, "kv_num_heads": 2}),
    *(("GridSample", 28, (X2, GRID), {"mode": mode, "padding_mode": padding, "align_corners": align})
      for mode in ("nearest", "linear", "cubic") for padding in ("zeros", "border", "reflection") for align in (0, 1)),
    *(("GridSample", 28, (X3, VOLUME), {"mode": mode}) for mode in ("nearest", "linear", "cubic")),
    ("GridSample", 16, (X2, GRID), {"mode": "bicubic"}),
    *(("Resize", 28, (x, None, None, np.array(sizes)), {"mode": mode, **more}) for x, sizes, mode, more in (
        (X2, (2, 4, 18, 28), "linear", {}), (X2, (2, 4, 18, 28), "cubic", {}), (X2, (2, 4, 18, 28), "nearest", {}),
        (X2, (2, 4, 3, 7), "linear", {}), (X2, (2, 4, 27, 21), "linear", {}), (X2, (2, 4, 4, 20), "nearest", {}),
        (X2, (2, 4, 27, 7), "nearest", {"nearest_mode": "round_prefer_ceil"}), (X2, (2, 4, 3, 1), "cubic", {}),
        (X2, (2, 4, 18, 7), "nearest", {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
        (X2, (2, 4, 18, 7), "nearest", {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil"}),
        (X2, (2, 4, 18, 7), "linear", {"coordinate_transformation_mode": "align_corners"}),
        (X2, (4, 4, 9, 7), "nearest", {}), (X1, (2, 4, 22), "linear", {}), (X3, (2, 2, 10, 8, 6), "linear", {}),
        (X2, (2, 4, 3, 7), "linear", {"antialias": 1}), (X2[:0], (0, 4, 18, 7), "linear", {}))),
    ("Resize", 28, (X2, None, np.array([1, 1, 2, 0.5], np.float32)), {"mode": "linear"}),
    ("Resize", 28, (X2, None, np.array([1, 1, 1.3, 2], np.float32)), {"mode": "linear"}),
    *((op, 28, network(op, 2 if way == "bidirectional" else 1, bias, layout),
       {"direction": way, "layout": layout, "hidden_size": 2, **({"linear_before_reset": 1} if op == "GRU" else {})})
      for op in GATES for way, bias, layout in (
          ("forward", True, 0), ("reverse", False, 0), ("bidirectional", True, 0), ("bidirectional", True, 1))),
    *((op, 28, network(op, 1), {
        "activation_alpha": [], "activation_beta": [], "clip": 0.0, "direction": "forward", "hidden_size": 2,
        "layout": 0, "output_sequence": 1, **more})
      for op, more in (("RNN", {}), ("GRU", {"linear_before_reset": 1}), ("LSTM", {"input_forget": 0}))),
    ("RNN", 28, network("RNN", 1), {"activations": ["Relu"]}),
    ("RNN", 28, network("RNN", 2), {"activations": ["Tanh", "Relu"], "direction": "bidirectional"}),
    ("GRU", 28, network("GRU", 1), {}),
    ("LSTM", 28, (*network("LSTM", 1)[:4], np.array([3, 0], np.int32)), {}),
    ("LSTM", 28, (*network("LSTM", 1)[:4], None, None, floats(1, 2, 2), floats(1, 6)), {"clip": 2.0}),
    ("MatMulInteger", 28, (BYTES["a"], BYTES["b"], ZERO, whole(0, 9, 7, dtype=np.uint8)), {}),
    ("MatMulInteger", 28, (SIGNED, BYTES["b"]), {}),
    ("MatMulInteger", 28, (BYTES["a"][0], BYTES["b"]), {}),
    ("MatMulInteger", 28, (BYTES["a"][:, :0], BYTES["b"][:0]), {}),
    ("QLinearMatMul", 28, (BYTES["a"], SCALE, ZERO, BYTES["b"], SCALE, ZERO, np.float32(99), ZERO), {}),
]  # fmt: skip
SMOOTH = (
    "conv conv_transpose max_pool sum_pool pad erf sigmoid softmax einsum gather_nd scatter scatter_nd top_k".split()
)


def floating(x):
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def converted(values, dtype=np.float64):
    return [v.astype(dtype) if floating(v) and v.dtype == np.float64 else v for v in values]


def tensors(provider, values):
    """NumPy arrays as tensors on the provider's device, NumPy dtypes as torch's."""
    return [
        provider.from_numpy(v)
        if isinstance(v, np.ndarray | np.generic)
        else provider.xp.dtype(np.dtype(v).name)
        if isinstance(v, type)
        else v
        for v in values
    ]


def compare(got, wanted, rtol=1e-10, atol=1e-12):
    if isinstance(wanted, tuple):
        for a, b in zip(got, wanted, strict=True):
            compare(a, b, rtol, atol)
    elif wanted is None:
        assert got is None
    else:
        wanted, got = np.asarray(wanted), got.detach().cpu()
        assert str(got.dtype).removeprefix("torch.") == wanted.dtype.name
        assert tuple(got.shape) == wanted.shape
        np.testing.assert_allclose(got.numpy(), wanted, rtol=rtol, atol=atol)


def default(name, args, keywords):
    with np.errstate(all="ignore"):
        return DEFAULTS[name](PLAIN, *args, **keywords)


def torch_provider(device):
    return create("TorchExecutionProvider", {} if device == "cpu" else {"device": device})


def cases(rows):
    return [pytest.param(*row, id=f"{row[0]}-{number}") for number, row in enumerate(rows)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "args", "keywords"), cases(PRIMITIVES))
def test_primitives_do_what_the_default_bodies_do(name, args, keywords, device):
    provider = torch_provider(device)
    fn = getattr(provider.xp, name)
    compare(fn(*tensors(provider, args), **keywords), default(name, args, keywords))
    if any(map(floating, args)):
        single = converted(args, np.float32)
        compare(fn(*tensors(provider, single), **keywords), default(name, single, keywords), 1e-5, 1e-5)


@pytest.mark.parametrize("name", ["pad", "gather_nd", "one_hot"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_only_moves_elements_takes_half_precision(name, dtype):
    provider = torch_provider("cpu")
    for _, args, keywords in [row for row in PRIMITIVES if row[0] == name and any(map(floating, row[1]))]:
        half = tensors(provider, converted(args, NUMBERS[dtype]))
        wide = [v.double() if torch.is_tensor(v) and v.is_floating_point() else v for v in half]
        fn = getattr(provider.xp, name)
        got, wanted = fn(*half, **keywords), fn(*wide, **keywords)
        assert str(got.dtype) == f"torch.{dtype}"
        assert torch.equal(got.double(), wanted)


def bound(op, opset, inputs, attributes):
    """An operator's kernel, and positional arguments (host values plain) and keywords for it."""
    kernel = registry.lookup("", op, opset)
    seen = []
    shadow = SimpleNamespace(**vars(kernel), inputs=kernel.inputs)
    shadow.fn = lambda xp, *args, **keywords: seen.append((args, keywords))
    shadow.param, shadow.accepts, shadow.injected = kernel.param, kernel.accepts, kernel.injected
    outputs = {"MaxPool": 1, "Attention": 3}.get(op, 1)
    registry.call(shadow, PLAIN, inputs, attributes, n_outputs=outputs)
    return kernel, *seen[0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("op", "opset", "inputs", "attributes"), cases(OPERATORS))
def test_operators_do_what_the_kernels_do(op, opset, inputs, attributes, device):
    provider = torch_provider(device)
    kernel, args, keywords = bound(op, opset, inputs, attributes)
    override = replace(kernel, override=ops.OVERRIDES.get(("", op, kernel.since))).body
    with np.errstate(all="ignore"):
        wanted = kernel.fn(PLAIN, *args, **keywords)
    with torch.no_grad():
        got = override(provider.xp, *tensors(provider, args), **keywords)
    loose = op == "LayerNormalization"  # its mean and deviation are float32
    compare(got, wanted, *((1e-6, 1e-6) if loose else (1e-9, 1e-11)))


def differentiable(values):
    return [i for i, v in enumerate(values) if floating(v) and v.dtype == np.float64 and v.size]


def finite(values):
    return all(np.isfinite(v).all() for v in values if floating(v))


def as_function(fn, provider, args, keywords):
    """A function of the float64 arguments alone, and those; its result is all its float64 outputs."""
    places = differentiable(args)
    values = tensors(provider, args)

    def function(*variables):
        given = list(values)
        for place, variable in zip(places, variables, strict=True):
            given[place] = variable
        y = fn(*given, **keywords)
        outputs = tuple(v for v in (y if isinstance(y, tuple) else (y,)) if v is not None and v.dtype == torch.float64)
        return outputs if len(outputs) > 1 else outputs[0]

    return function, [values[i] for i in places]


ROUGH = {"Relu", "LeakyRelu"}  # have no derivative at 0, which the examples hold


def smooth():
    """Every example that can be differentiated, as a function of its float64 arguments, and those."""
    provider = torch_provider("cpu")
    for number, (name, args, keywords) in enumerate(PRIMITIVES):
        if name in SMOOTH and finite(args) and differentiable(args):
            function = as_function(getattr(provider.xp, name), provider, args, keywords)
            yield pytest.param(*function, id=f"{name}-{number}")
    for number, (op, opset, inputs, attributes) in enumerate(OPERATORS):
        kernel, args, keywords = bound(op, opset, inputs, attributes)
        if op not in ROUGH and differentiable(args) and finite(args):
            override = partial(replace(kernel, override=ops.OVERRIDES["", op, kernel.since]).body, provider.xp)
            yield pytest.param(*as_function(override, provider, args, keywords), id=f"{op}-{number}")


DERIVED = list(smooth())


@pytest.mark.parametrize(("function", "values"), DERIVED)
def test_derivatives_agree_with_differences(function, values):
    variables = [v.clone().requires_grad_() for v in values]
    assert torch.autograd.gradcheck(function, variables, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, variables, fast_mode=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own business
@pytest.mark.parametrize(("function", "values"), DERIVED)
def test_forward_derivatives_and_batches(function, values):
    """A derivative along a direction is the product with the gradient; a batch is its examples."""
    tangents = tuple(torch.linspace(-1, 1, v.numel(), dtype=v.dtype).reshape(v.shape) for v in values)
    y, along = torch.func.jvp(function, tuple(values), tangents)
    ys, alongs = (v if isinstance(v, tuple) else (v,) for v in (y, along))
    _, back = torch.func.vjp(function, *values)
    weights = tuple(torch.cos(torch.arange(v.numel(), dtype=v.dtype)).reshape(v.shape) for v in ys)
    gradients = back(weights if len(ys) > 1 else weights[0])
    forwards = sum((w * a).sum() for w, a in zip(weights, alongs, strict=True))
    backwards = sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))
    torch.testing.assert_close(torch.as_tensor(forwards), torch.as_tensor(backwards), rtol=1e-8, atol=1e-9)
    batch = [torch.stack([v, v * 0.5]) for v in values]
    together = torch.func.vmap(function)(*batch)
    apart = [function(*(b[i] for b in batch)) for i in range(2)]
    torch.testing.assert_close(together, torch.utils._pytree.tree_map(lambda *v: torch.stack(v), *apart))


FIRST = {row.id.partition("-")[0]: row for row in reversed(DERIVED)}


@pytest.mark.parametrize(("function", "values"), FIRST.values())
def test_compiles_without_a_break(function, values):
    torch._dynamo.reset()
    with torch.no_grad():
        wanted = function(*values)
        compiled = torch.compile(function, fullgraph=True, backend="eager", dynamic=False)
        torch.testing.assert_close(compiled(*values), wanted)


LEFT = """<ir_version: 10, opset_import: ["": 24]>
g (float[3, 4, 5] x) => (float[3, 4, 5] y, float[3, 1, 4, 2] z, float[1, 4, 2] h, float[1, 4, 2] c) {
    slope = Constant <value_floats = [-0.1, 0.2, 0.3, 0.4, 0.5]> ()  p = PRelu(x, slope)
    y, k, v = Attention <softcap = 2.0, q_num_heads = 1, kv_num_heads = 1> (p, x, x)
    w = ConstantOfShape <value = float[1] {0.3}> (ws)  r = ConstantOfShape <value = float[1] {0.2}> (rs)
    z, h, c = LSTM <hidden_size = 2, clip = 0.5> (y, w, r)
}"""


def test_a_model_of_which_torch_leaves_all_to_the_kernels_can_be_transformed():
    shapes = "<int64[3] ws = {1, 8, 5}, int64[3] rs = {1, 8, 2}>"
    model = parser.parse_model(LEFT.replace(") {\n", f") {shapes} {{\n", 1)).SerializeToString()
    x = R.standard_normal((3, 4, 5)).astype(np.float32)
    session = ortlite.InferenceSession(model, providers=["TorchExecutionProvider"], fallback="error")
    wanted = ortlite.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    for _ in range(3):  # interpreted, then specialised
        for a, b in zip(session.run(None, {"x": x}), wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    f, tensor = ortlite.function(model), torch.from_numpy(x)
    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, backend="eager")
    batch = torch.func.vmap(f)(torch.stack([tensor, tensor * 2]))
    slopes = torch.func.grad(lambda t: f(t)[0].sum())(tensor)
    with torch.no_grad():
        for got in (compiled(tensor), [v[0] for v in batch]):
            for a, b in zip(got, wanted, strict=True):
                np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-6)
    assert slopes.shape == x.shape
    assert slopes.abs().sum() > 0


def test_products_of_integers_where_only_floats_are_multiplied():
    for dtype in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8):
        limits = torch.iinfo(dtype)
        a, b = (torch.randint(limits.min, limits.max, shape, dtype=dtype) for shape in ((2, 3, 40), (40, 5)))
        assert torch.equal(primitives.pieces_matmul(a, b), torch.matmul(a, b))


@pytest.mark.parametrize("name", ["uint16", "uint32", "uint64"])
def test_unsigned_integers_can_be_taken(name):
    provider = torch_provider("cpu")
    x = whole(0, 2**15, 3, 4).astype(name)
    indices = np.array([[2, 0, 1, 1]])
    compare(provider.xp.take(*tensors(provider, [x, indices[0]]), axis=1), np.take(x, indices[0], axis=1))
    got = provider.xp.take_along_axis(*tensors(provider, [x, indices]), axis=0)
    compare(got, np.take_along_axis(x, indices, axis=0))


def test_gradient_is_torchs_own_and_can_be_differentiated_again():
    provider = torch_provider("cpu")
    body = SimpleNamespace(on=lambda xp: lambda x, w: (xp.sum(xp.pow(x, 3.0) * w) + xp.sum(xp.erf(x)),))
    x, w = torch.linspace(-1, 1, 5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    slope = 2 / np.sqrt(np.pi) * torch.exp(-x * x)
    with torch.no_grad():
        (first,) = provider.xp.gradient(body, (x, w), 1)
    torch.testing.assert_close(first, 3 * x * x + slope)
    second = torch.func.grad(lambda v: provider.xp.gradient(body, (v, w), 1)[0].sum())(x)
    torch.testing.assert_close(second, 6 * x - 2 * x * slope)


@pytest.mark.skipif("cuda" not in DEVICES, reason="no CUDA device")
def test_integers_are_multiplied_on_cuda():
    a, b = whole(-(2**31), 2**31, 3, 40, dtype=np.int32), whole(-(2**31), 2**31, 40, 5, dtype=np.int32)
    provider = torch_provider("cuda")
    compare(provider.xp.matmul(*tensors(provider, [a, b])), np.matmul(a, b))


def test_a_transform_in_single_precision_is_numpys_where_the_session_may_choose():
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[1, 10, 2] x) => (float[1, 10, 2] y)
    { y = DFT <inverse=1> (x) }"""
    model = parser.parse_model(text).SerializeToString()
    x = R.standard_normal((1, 10, 2), dtype=np.float32)

    def placed(**how):
        session = ortlite.InferenceSession(model, providers=["TorchExecutionProvider"], **how)
        (node,) = session.explain().nodes
        return node, session.run(None, {"x": x})[0]

    (node, on_numpy), (forced, on_torch) = placed(), placed(fallback="error")
    assert node.provider == "CPUExecutionProvider"
    assert "expected values" in node.reasons[0]
    assert forced.provider == placed(placement={"y": "TorchExecutionProvider"})[0].provider == "TorchExecutionProvider"
    np.testing.assert_array_equal(on_numpy, ortlite.InferenceSession(model).run(None, {"x": x})[0])
    np.testing.assert_allclose(on_torch, on_numpy, rtol=1e-5, atol=1e-6)
    assert torch.func.grad(lambda v: ortlite.function(model)(v).sum())(torch.from_numpy(x)).shape == x.shape


def test_an_option_that_torch_has_not_is_named():
    known = "compile, cudnn_conv_algo_search, device, enable_cuda_graph, intra_op_num_threads, loops, precision"
    with pytest.warns(UserWarning, match=f"no option devise, which is ignored; it has {known}, stand_in, use_tf32"):
        create("TorchExecutionProvider", {"devise": "cpu"})


def test_the_sign_of_nan_is_nan():
    xp = create("TorchExecutionProvider").xp
    x = torch.tensor([-2.0, -0.0, 0.0, 3.0, torch.inf, torch.nan])
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        found = xp.sign(x.to(dtype))
        assert found.dtype == dtype
        torch.testing.assert_close(found, torch.tensor([-1, 0, 0, 1, 1, torch.nan], dtype=dtype), equal_nan=True)
    assert xp.sign(torch.tensor([-3, 0, 9])).tolist() == [-1, 0, 1]


def test_what_is_compiled_hands_out_no_constant():
    text = """<ir_version: 9, opset_import: ["": 18]>
    g (float[2, 3] x) => (float[3, 2] y, float[2, 3] z, float[2] k, float[2, 3] e)
    <float[2, 3] w = {1, 2, 3, 4, 5, 6}, int64[2] s = {3, 2}>
    { y = Reshape(w, s)  z = Relu(x)  sh = Shape(x)  k = Cast <to = 1> (sh)  e = Expand(w, sh) }"""
    fn = ortlite.function(parser.parse_model(text).SerializeToString())
    x = torch.ones(2, 3)
    expected = [t.clone() for t in fn(x)]
    compiled = torch.compile(fn, backend="aot_eager")
    for outputs in (compiled(x), compiled(x), fn(x), torch.func.vmap(fn, out_dims=(None, 0, None, None))(x[None])):
        for y, wanted in zip(outputs, expected, strict=True):
            assert torch.equal(y.reshape(wanted.shape), wanted)
            y.add_(1)


def test_a_gradient_flows_through_the_copy_of_a_result():
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[2] x) => (float[2] y, float[2] z)
    { y = Exp(x)  z = Identity(y) }"""
    fn = ortlite.function(parser.parse_model(text).SerializeToString())
    x = torch.zeros(2, requires_grad=True)
    y, z = fn(x)
    (gradient,) = torch.autograd.grad((y + z).sum(), x)
    assert gradient.tolist() == [2, 2]


@pytest.mark.parametrize("shape", [(1,), (3, 1), (0,), (4,)])
def test_strides_that_torch_has_not(shape):
    place = create("TorchExecutionProvider")
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)[..., ::-1]
    y = place.to_numpy(place.from_numpy(x))
    np.testing.assert_array_equal(y, x)
    mixed = np.zeros(4, [("a", np.float32), ("b", np.uint8)])["a"]  # five bytes from one to the next
    np.testing.assert_array_equal(place.to_numpy(place.from_numpy(mixed)), mixed)


@pytest.mark.parametrize("mask", [(0, 0, 0), (0, -np.inf, -1), (-np.inf,) * 3, (np.nan, 0, 0), (0, -3.4e38, -3.4e38)])
@pytest.mark.parametrize("value", [1, np.nan, np.inf, 3e38])
@pytest.mark.parametrize("place", ["q", "k", "v"])
def test_one_token_attends_as_the_kernel_says(mask, value, place):
    provider = create("TorchExecutionProvider")
    rng = np.random.default_rng(0)
    given = {
        "q": rng.standard_normal((2, 4, 1, 5), np.float32),
        "k": rng.standard_normal((2, 2, 3, 5), np.float32),
        "v": rng.standard_normal((2, 2, 3, 5), np.float32),
    }
    given[place][1, 1, -1, 2] = value
    q, k, v = map(torch.from_numpy, given.values())
    mask = torch.tensor(mask, dtype=torch.float32).reshape(1, 1, 1, 3)
    with provider.context():
        for key in (("", "Attention", 23), ("", "Attention", 24)):
            for scale in (None, 0.3):
                y, keys, values, _ = provider.overrides[key](provider.xp, q, k, v, mask, scale=scale)
                wanted = registry.lookup(*key).fn(provider.xp, q, k, v, mask, scale=scale)[0]
                torch.testing.assert_close(y, wanted, equal_nan=True, rtol=1e-5, atol=1e-5)
                assert keys is k
                assert values is v
