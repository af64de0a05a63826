"""What does not fit is refused, by name, instead of being answered with something: shapes, attributes, indices."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper
from opcheck import PROVIDERS, check, make_model, run_op

import ortlite
from ortlite.api.errors import Fail, InvalidArgument, InvalidGraph
from ortlite.ops import index
from ortlite.provider import create


def f(*shape):
    return np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)


def i(*values):
    return np.array(values, np.int64)


def u(*shape):
    return np.ones(shape, np.uint8)


X, W = f(1, 2, 4), f(3, 2, 2)
RNN = {"X": f(3, 2, 4), "W": f(1, 20, 4), "R": f(1, 20, 5)}  # 3 steps of 2 examples of 4 features, 5 hidden: an LSTM
LSTM = tuple(RNN.values())

CAUSAL = {"outputs": 2}
POOLS = ("MaxPool", "AveragePool", "LpPool")

# operator, inputs, attributes, what the message says
SHAPES = [
    ("Conv", (X, W, f(1)), {}, "B must have the shape [3], not [1]"),
    ("Conv", (X, W, f(2)), {}, "B must have the shape [3], not [2]"),
    ("Conv", (X, f(1, 2, 2), f(3)), {}, "B must have the shape [1], not [3]"),
    ("Conv", (X, W), {"group": 0}, "group 0"),
    ("Conv", (X, W), {"group": -1}, "group -1"),
    ("Conv", (X, f(3, 1, 2)), {"group": 2}, "group 2"),
    ("Conv", (X, W), {"kernel_shape": [3]}, "kernel_shape [3]"),
    ("Conv", (X, f(3, 2, 0)), {}, "kernel_shape"),  # onnx's own words
    ("ConvInteger", (u(1, 2, 4), u(3, 2, 0)), {}, "kernel_shape [0] must all be 1 or more"),
    ("Conv", (X, W), {"strides": [0]}, "strides [0] must all be 1 or more"),
    ("Conv", (X, W), {"dilations": [-1]}, "dilations [-1] must all be 1 or more"),
    ("Conv", (X, W), {"pads": [1]}, "pads [1]"),
    ("Conv", (X, W), {"auto_pad": "SAME"}, "auto_pad"),
    ("Conv", (f(1, 2, 1), W), {}, "a kernel of 2 is larger than an axis of 1"),
    ("Conv", (X, W), {"dilations": [4]}, "a kernel of 5 is larger than an axis of 4"),
    ("ConvTranspose", (X, f(2, 3, 2), f(1)), {}, "B must have the shape [3], not [1]"),
    ("ConvTranspose", (X, f(2, 3, 2)), {"strides": [-1]}, "strides [-1]"),
    ("ConvTranspose", (X, f(2, 3, 2)), {"group": 0}, "group 0"),
    ("ConvTranspose", (X, f(2, 3, 2)), {"kernel_shape": [3]}, "kernel_shape [3]"),
    ("ConvTranspose", (X, f(2, 3, 0)), {}, "kernel_shape [0] must all be 1 or more"),
    ("ConvTranspose", (X, f(2, 3, 2)), {"output_padding": [-1]}, "output_padding [-1]"),
    ("ConvTranspose", (X, f(2, 3, 2)), {"output_shape": [-1]}, "output_shape [-1]"),
    ("ConvInteger", (u(1, 2, 4), u(3, 2, 2), u(1), u(2)), {}, "2 scales or zero points for axis 0"),
    ("MatMulInteger", (u(1, 3), u(3, 2), u(3)), {}, "a_zero_point must have the shape [1], not [3]"),
    ("MatMulInteger", (u(2, 3), u(3, 1), u(1), u(2)), {}, "b_zero_point must have the shape [1], not [2]"),
    ("QuantizeLinear", (f(2, 3), f(3), u(1)), {"axis": 1}, "the zero point must have the shape [3], not [1]"),
    ("QuantizeLinear", (f(2, 3), f(2), u(2)), {"axis": 1}, "2 scales or zero points for axis 1"),
    ("DequantizeLinear", (u(2, 3), f(3), u(3)), {"axis": 2}, "axis 2 is not an axis"),
    ("MaxPool", (X,), {"kernel_shape": [0]}, "kernel_shape [0]"),
    ("AveragePool", (X,), {"kernel_shape": [-1]}, "kernel_shape [-1]"),
    ("LpPool", (X,), {"kernel_shape": [2, 2]}, "kernel_shape [2, 2]"),
    ("MaxPool", (X,), {"kernel_shape": [2], "strides": [0]}, "strides [0]"),
    *((op, (X,), {"kernel_shape": [6]}, "a window of 6 is larger than an axis of 4") for op in POOLS),
    ("MaxPool", (X,), {"kernel_shape": [2], "pads": [2, 0]}, "less than the kernel [2]"),
    ("AveragePool", (X,), {"kernel_shape": [2], "pads": [0, 3]}, "less than the kernel [2]"),
    ("LpPool", (X,), {"kernel_shape": [2], "pads": [-1, 0]}, "must be 0 or more"),
    ("BatchNormalization", (f(2, 3, 2), f(1), f(3), f(3), f(3)), {}, "scale must have the shape [3], not [1]"),
    ("BatchNormalization", (f(2, 3, 2), f(3), f(1), f(3), f(3)), {}, "B must have the shape [3], not [1]"),
    ("BatchNormalization", (f(2, 3, 2), f(3), f(3), f(3), f(1)), {}, "variance must have the shape [3], not [1]"),
    ("BatchNormalization", (f(2, 1, 2), f(3), f(3), f(3), f(3)), {}, "scale must have the shape [1], not [3]"),
    ("InstanceNormalization", (f(2, 3, 2), f(1), f(3)), {}, "scale must have the shape [3], not [1]"),
    ("InstanceNormalization", (f(2, 3, 2), f(3), f(1)), {}, "B must have the shape [3], not [1]"),
    ("GroupNormalization", (f(2, 4, 2), f(1), f(4)), {"num_groups": 2}, "scale must have the shape [4], not [1]"),
    ("GroupNormalization", (f(2, 4, 2), f(4), f(4)), {"num_groups": 3}, "4 channels cannot be divided into 3 groups"),
    ("GroupNormalization", (f(2, 4, 2), f(4), f(4)), {"num_groups": 0}, "4 channels cannot be divided into 0 groups"),
    ("LayerNormalization", (f(2, 1), f(3)), {}, "Scale of shape [3] cannot be broadcast to [2, 1]"),
    ("LayerNormalization", (f(2, 3), f(3), f(4, 2, 3)), {}, "B of shape [4, 2, 3] cannot be broadcast to [2, 3]"),
    ("RMSNormalization", (f(2, 1), f(3)), {}, "scale of shape [3] cannot be broadcast to [2, 1]"),
    ("PRelu", (f(2, 1), f(3)), {}, "slope of shape [3] cannot be broadcast to [2, 1]"),
    ("PRelu", (f(3), f(2, 3)), {}, "slope of shape [2, 3] cannot be broadcast to [3]"),
    ("LRN", (f(1, 3, 2),), {"size": 0}, "size must be 1 or more"),
    ("LpNormalization", (f(2, 3),), {"axis": 2}, "axis 2 is not an axis"),
    ("MeanVarianceNormalization", (f(2, 3),), {"axes": [0, -2]}, "twice"),
    ("Clip", (f(3), f(2)), {}, "min must be a scalar"),
    ("Gemm", (f(2, 3), f(2, 3)), {}, "cannot be multiplied"),
    ("Gemm", (f(2, 3), f(3, 2), f(3)), {}, "C of shape [3] cannot be broadcast to [2, 2]"),
    ("Gemm", (f(1, 3), f(3, 2), f(2, 2)), {}, "C of shape [2, 2] cannot be broadcast to [1, 2]"),
    ("Gemm", (f(2, 3), f(3, 2), f(3, 1, 1)), {}, "C of shape [3, 1, 1] cannot be broadcast to [2, 2]"),
    ("Gemm", (f(2, 2, 3), f(3, 2)), {}, "cannot be multiplied"),
    ("Einsum", (f(2, 3), f(2, 3)), {"equation": "ij,jk->ik"}, "the axis 'j' has different lengths"),
    ("Einsum", (f(2, 3),), {"equation": "ii->i"}, "the axis 'i' has different lengths"),
    ("Einsum", (f(2, 3),), {"equation": "ij->ik"}, "no operand has the axes ['k']"),
    ("Einsum", (f(2, 3),), {"equation": "ij->ii"}, "an axis twice"),
    ("Einsum", (f(2, 3), f(3, 2)), {"equation": "ij,ij->ij"}, "the axis 'i' has different lengths"),
    ("Transpose", (f(2, 3),), {"perm": [0, 0]}, "perm [0, 0] is no permutation"),
    ("Transpose", (f(2, 3),), {"perm": [0]}, "perm [0] is no permutation"),
    ("Transpose", (f(2, 3),), {"perm": [-1, 0]}, "perm [-1, 0] is no permutation"),
    ("Flatten", (f(2, 3),), {"axis": 3}, "axis 3 is not an axis"),
    ("Flatten", (f(2, 3),), {"axis": -3}, "axis -3 is not an axis"),
    ("Concat", (f(2, 3), f(2, 2)), {"axis": 0}, "differ in more than axis 0"),
    ("Concat", (f(2, 3), f(2)), {"axis": 0}, "differ in more than axis 0"),
    ("Concat", (f(2, 3), f(2, 3)), {"axis": 2}, "axis 2 is not an axis"),
    ("DepthToSpace", (f(1, 4, 1, 1),), {"blocksize": 0}, "blocks of 0 by 0"),
    ("DepthToSpace", (f(1, 4, 1, 1),), {"blocksize": -2}, "blocks of -2 by -2"),
    ("SpaceToDepth", (f(1, 1, 2, 2),), {"blocksize": 0}, "blocks of 0 by 0"),
    ("ReverseSequence", (f(3, 2), i(1)), {"time_axis": 0, "batch_axis": 1}, "sequence_lens must have the shape [2]"),
    ("ReverseSequence", (f(3, 2), i(1, 1)), {"time_axis": 1, "batch_axis": 1}, "twice"),
    ("Trilu", (f(3),), {}, "no diagonal"),
    ("EyeLike", (f(3),), {}, "like a matrix"),
    ("GatherElements", (f(2, 3), np.zeros((3, 1), np.int64)), {"axis": 1}, "do not lie within data [2, 3]"),
    ("GatherElements", (f(2, 3), i(0)), {"axis": 1}, "do not lie within data [2, 3]"),
    ("GatherND", (f(2, 3), np.zeros((1, 3), np.int64)), {}, "tuples of 3"),
    ("GatherND", (f(2, 3), np.zeros((3, 1), np.int64)), {"batch_dims": 1}, "do not share 1 batch axes"),
    ("ScatterElements", (f(2, 3), np.array([[0, 1]]), f(2, 1)), {"axis": 1}, "updates must have the shape [1, 2]"),
    ("ScatterElements", (f(2, 3), i(0), f(1)), {"axis": 1}, "do not lie within data [2, 3]"),
    ("ScatterElements", (f(2, 3), np.zeros((3, 1), np.int64), f(3, 1)), {"axis": 1}, "do not lie within data [2, 3]"),
    ("ScatterND", (f(2, 3), np.array([[0]]), f(1)), {}, "updates must have the shape [1, 3], not [1]"),
    ("ScatterND", (f(2, 3), np.array([[0, 1, 1]]), f(1)), {}, "tuples of 3"),
    ("OneHot", (i(0), np.int64(3), f(3)), {}, "values must have the shape [2], not [3]"),
    ("OneHot", (i(0), np.int64(-1), f(2)), {}, "depth must be 1 or more, not -1"),
    ("TopK", (f(3), i(-1)), {"outputs": 2}, "no top -1"),
    ("TopK", (f(3), i(4)), {"outputs": 2}, "no top 4"),
    ("NegativeLogLikelihoodLoss", (f(2, 3), i(0, 1), f(2)), {}, "weight must have the shape [3], not [2]"),
    ("Reshape", (f(2, 3), i(-2, 3)), {}, "one -1 and no other negative dimension"),
    ("Reshape", (f(2, 3), i(-1, -1)), {}, "one -1 and no other negative dimension"),
    ("Reshape", (f(0, 3), i(0, -1)), {"allowzero": 1}, "allowzero"),
    ("Reshape", (f(2, 3), i(4, -1)), {}, "4"),
    ("Expand", (f(1, 3), i(-1, 3)), {}, "must not be negative"),
    ("Tile", (f(2, 3), i(-1, 1)), {}, "repeats [-1, 1] must not be negative"),
    ("ConstantOfShape", (i(-1, 2),), {}, "must not be negative"),
    ("ConstantOfShape", (i(2),), {"value": numpy_helper.from_array(i(1, 2))}, "value must hold one element"),
    ("Pad", (f(3), i(-2, -2)), {}, "crop 4 elements from an axis of 3"),
    ("Pad", (f(3), i(1, 1)), {"mode": "mirror"}, "mode"),
    ("Pad", (f(3, 3), i(1, 1, 1, 1), None, i(0, -2)), {}, "twice"),
    ("Split", (f(4), i(1, 2)), {"outputs": 2}, "do not add up to the 4 elements"),
    ("Split", (f(4), i(-1, 5)), {"outputs": 2}, "do not add up to the 4 elements"),
    ("Split", (f(4), i(2, 2)), {"outputs": 3}, "3 pieces"),
    ("Split", (f(4), i(1, 1, 2)), {"outputs": 2}, "2 pieces"),
    ("Split", (f(4),), {"outputs": 3, "num_outputs": 2}, "num_outputs is 2"),
    ("Squeeze", (f(2, 3), i(0)), {}, "not all of length 1"),
    ("Squeeze", (f(1, 3), i(0, -2)), {}, "twice"),
    ("Unsqueeze", (f(1, 3), i(0, -4)), {}, "twice"),
    ("ReduceSum", (f(2, 3), i(0, -2)), {}, "twice"),
    ("ReduceMax", (f(2, 3), i(2)), {}, "axis 2 is not an axis"),
    ("ReduceMax", (np.float32(2), i(1)), {}, "axis 1 is not an axis"),
    ("ArgMax", (f(2, 3),), {"axis": 2}, "axis 2 is not an axis"),
    ("ArgMin", (np.float32(2),), {"axis": 1}, "axis 1 is not an axis"),
    ("CumSum", (f(2, 3), np.int64(2)), {}, "axis 2 is not an axis"),
    ("Softmax", (f(2, 3),), {"axis": 2}, "axis 2 is not an axis"),
    ("Softmax", (f(2, 3),), {"axis": 2, "opset": 11}, "axis 2 is not an axis"),
    ("LogSoftmax", (f(2, 3),), {"axis": -3, "opset": 11}, "axis -3 is not an axis"),
    ("Hardmax", (f(2, 3),), {"axis": 3}, "axis 3 is not an axis"),
    ("Slice", (f(3), i(0, 0), i(2, 2), i(0, 0)), {}, "twice"),
    ("Slice", (f(3), i(0, 0), i(2), i(0)), {}, "differ in length"),
    ("Slice", (f(3), i(0), i(2), i(0), i(0)), {}, "a step of 0"),
    ("RoiAlign", (f(1, 1, 4, 4), f(2, 4), i(0)), {}, "rois must have the shape [1, 4], not [2, 4]"),
    ("Range", (np.int64(0), np.int64(1), np.int64(0)), {}, "delta is 0"),
    ("CenterCropPad", (f(2, 3), i(1)), {}, "one length for each of the axes"),
    ("CenterCropPad", (f(2, 3), i(-1), ), {"axes": [0]}, "must not be negative"),
    ("Resize", (f(1, 1, 2), None, np.float32([1, 1, -1])), {}, "must not be negative"),
    ("Resize", (f(1, 1, 2), None, None, i(1, 1)), {}, "one for each of the axes"),
    ("Resize", (f(1, 1, 2), f(0), f(0)), {"opset": 13}, "neither scales nor sizes"),
    ("Resize", (f(1, 1, 2), f(0)), {"opset": 10}, "neither scales nor sizes"),
    ("Upsample", (f(1, 1, 2), f(0)), {"opset": 9}, "neither scales nor sizes"),
    ("Upsample", (f(1, 1, 2), f(2)), {"opset": 9}, "one for each of the axes"),
    ("CausalConvWithState", (X, f(2, 1, 0)), CAUSAL, "weight [2, 1, 0] must be (2, 1, kernel), with a kernel of 1"),
    ("CausalConvWithState", (X, f(4, 1, 2)), CAUSAL, "weight [4, 1, 2] must be (2, 1, kernel)"),
    ("CausalConvWithState", (X, f(2, 1)), CAUSAL, "weight [2, 1] must be (2, 1, kernel)"),
    ("CausalConvWithState", (f(1, 2, 4, 4), f(2, 1, 2)), CAUSAL, "(batch, channels, time)"),
    ("CausalConvWithState", (X, f(2, 1, 2), f(3)), CAUSAL, "bias must have the shape [2], not [3]"),
    ("CausalConvWithState", (X, f(2, 1, 2), f(2), f(1, 2, 3)), CAUSAL, "past_state must have the shape [1, 2, 1]"),
    ("LSTM", LSTM, {"hidden_size": 4, "outputs": 3}, "hidden_size 4"),
    ("LSTM", (LSTM[0], f(1, 10, 4), f(1, 10, 5)), {"hidden_size": 5, "outputs": 3}, "must be [1, 20, 4] and"),
    ("LSTM", (*LSTM, f(1, 20)), {"outputs": 3}, "B must be (1, 40)"),
    ("LSTM", (*LSTM, None, np.int32([3])), {"outputs": 3}, "sequence_lens must have the shape [2], not [1]"),
    ("LSTM", (*LSTM, None, None, f(1, 1, 5)), {"outputs": 3}, "initial_h must have the shape [1, 2, 5]"),
    ("LSTM", (*LSTM, None, None, None, f(1, 2, 1)), {"outputs": 3}, "initial_c must have the shape [1, 2, 5]"),
    ("LSTM", (*LSTM, None, None, None, None, f(1, 3)), {"outputs": 3}, "P must have the shape [1, 15], not [1, 3]"),
    ("LSTM", LSTM, {"outputs": 3, "clip": -1.0}, "clip -1.0"),
    ("LSTM", LSTM, {"outputs": 3, "activations": ["Tanh"]}, "must be 3 activations"),
    ("GRU", LSTM, {"outputs": 2}, "must be [1, 15, 4] and [1, 15, 5]"),
    ("RNN", LSTM, {"outputs": 2}, "must be [1, 5, 4] and [1, 5, 5]"),
]  # fmt: skip

# the same, of values: refused where they can be read in passing (backends/README.md), on JAX in an interpreted run
VALUES = [
    ("Gather", (f(3), i(3)), {}, "3"),
    ("Gather", (f(3), i(-4)), {}, "-4"),
    ("Gather", (f(0, 3), i(3)), {"axis": 1}, "from -3 to 2, not be 3"),
    ("Gather", (f(3, 0), i(-4)), {}, "from -3 to 2, not be -4"),
    ("Gather", (f(0, 0), np.int64(0)), {}, "from 0 to -1, not be 0"),
    ("GatherElements", (f(0, 3), np.array([[0, 0, 0]])), {}, "from 0 to -1, not be 0"),
    ("GatherElements", (f(2, 3), np.array([[-4]])), {"axis": 1}, "from -3 to 2, not be -4"),
    ("GatherElements", (f(2, 3), np.array([[3]])), {"axis": 1}, "from -3 to 2, not be 3"),
    ("GatherND", (f(2, 3), np.array([[0, -4]])), {}, "from -3 to 2, not be -4"),
    ("GatherND", (f(2, 3), np.array([[0, 3]])), {}, "from -3 to 2, not be 3"),
    ("GatherND", (f(3, 0), np.array([[3]])), {}, "from -3 to 2, not be 3"),
    ("GatherND", (f(2, 3, 0), np.array([[0], [3]])), {"batch_dims": 1}, "from -3 to 2, not be 3"),
    ("ScatterElements", (f(0, 3), np.array([[0, 0, 0]]), f(1, 3)), {}, "from 0 to -1, not be 0"),
    ("ScatterElements", (f(2, 3), np.array([[-4]]), f(1, 1)), {"axis": 1}, "from -3 to 2, not be -4"),
    ("ScatterElements", (f(2, 3), np.array([[3]]), f(1, 1)), {"axis": 1}, "from -3 to 2, not be 3"),
    ("ScatterElements", (f(2, 3), np.array([[3]]), f(1, 1)), {"axis": 1, "reduction": "add"}, "from -3 to 2, not be 3"),
    ("ScatterND", (f(2, 3), np.array([[0, -4]]), f(1)), {}, "from -3 to 2, not be -4"),
    ("ScatterND", (f(2, 3), np.array([[0, 3]]), f(1)), {"reduction": "mul"}, "from -3 to 2, not be 3"),
    ("ScatterND", (f(3, 0), np.array([[3]]), f(1, 0)), {}, "from -3 to 2, not be 3"),
    ("TensorScatter", (f(2, 4, 0), f(2, 2, 0), i(0, 3)), {}, "write_indices must lie from 0 to 2, not be 3"),
    ("Compress", (f(3), np.array([1, 0, 0, 1], bool)), {}, "where condition is true must lie from 0 to 2, not be 3"),
    ("Compress", (f(0, 3), np.array([0, 0, 0, 1], bool)), {"axis": 1}, "from 0 to 2, not be 3"),
    ("TensorScatter", (f(2, 4, 3), f(2, 2, 3), i(0, 3)), {}, "write_indices must lie from 0 to 2, not be 3"),
    ("NegativeLogLikelihoodLoss", (f(2, 3), i(0, 3)), {}, "targets must lie from 0 to 2"),
    ("NegativeLogLikelihoodLoss", (f(2, 3), i(0, -1)), {}, "targets must lie from 0 to 2"),
    ("NegativeLogLikelihoodLoss", (f(2, 3), i(5, -1)), {"ignore_index": -1}, "targets must lie from 0 to 2"),
    ("SoftmaxCrossEntropyLoss", (f(2, 3), i(0, 3)), {}, "targets must lie from 0 to 2"),
    ("ReverseSequence", (f(3, 2), i(4, 1)), {"time_axis": 0, "batch_axis": 1}, "from 0 to 3, not be 4"),
    ("LSTM", (*LSTM, None, np.int32([4, 1])), {"outputs": 3}, "sequence_lens must lie from 0 to 3, not be 4"),
    ("RoiAlign", (f(1, 1, 4, 4), f(2, 4), i(0, 1)), {}, "batch_indices must lie from 0 to 0, not be 1"),
    ("MaxUnpool", (f(1, 1, 2), np.array([[[0, 9]]])), {"kernel_shape": [2], "strides": [2]}, "from 0 to 3, not be 9"),
]  # fmt: skip


def refused(op, inputs, given, message, provider):
    with pytest.raises((Fail, InvalidArgument), match="the_node") as caught:
        run_op(op, *inputs, provider=provider, **given)
    assert message in str(caught.value)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("op", "inputs", "given", "message"), SHAPES)
def test_shapes_and_attributes_that_do_not_fit(op, inputs, given, message, provider):
    # a library's own check may come first and say it in its own words
    own = provider not in {"CPUExecutionProvider", "StrictExecutionProvider"}
    refused(op, inputs, given, "" if own else message, provider)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("op", "inputs", "given", "message"), VALUES)
def test_values_out_of_range(op, inputs, given, message, provider):
    own = provider not in {"CPUExecutionProvider", "StrictExecutionProvider"}
    refused(op, inputs, given, "" if own else message, provider)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("dtype", "int8 int16 int32 int64 uint8 uint16 uint32 uint64".split())
@pytest.mark.parametrize("shape", [(), (1,), (100,)])
def test_integers_divided_by_zero(dtype, shape, provider):
    a, b = np.full(shape, 7, dtype), np.full(shape, 2, dtype)
    b[(-1,) * b.ndim] = 0
    for op, given in (("Div", {}), ("Mod", {}), ("Mod", {"fmod": 1})):
        refused(op, (a, b), given, "integer division by zero", provider)


@pytest.mark.parametrize("dtype", "int8 int16 int32 int64".split())
def test_the_most_negative_integer_divided_by_minus_one(dtype):
    low = np.iinfo(dtype).min
    a, b = np.array([low] * 40, dtype), np.array([-1] * 40, dtype)
    check("Div", a, b, expected=a)
    check("Mod", a, b, expected=np.zeros_like(a))
    check("Mod", a, b, fmod=1, expected=np.zeros_like(a))


FLAGS = [
    ("ReduceSum", (f(2, 3),), {}, "keepdims"),
    ("ArgMax", (f(2, 3),), {}, "keepdims"),
    ("ArgMax", (f(2, 3),), {}, "select_last_index"),
    ("CumSum", (f(3), np.int64(0)), {}, "exclusive"),
    ("CumSum", (f(3), np.int64(0)), {}, "reverse"),
    ("Gemm", (f(3, 3), f(3, 3)), {}, "transA"),
    ("MaxPool", (X,), {"kernel_shape": [2]}, "ceil_mode"),
    ("AveragePool", (X,), {"kernel_shape": [2]}, "count_include_pad"),
    ("TopK", (f(3), i(1)), {"outputs": 2}, "largest"),
    ("Mod", (f(3), f(3)), {}, "fmod"),
    ("Trilu", (f(3, 3),), {}, "upper"),
    ("Reshape", (f(2, 3), i(3, 2)), {}, "allowzero"),
    ("FusedMatMul", (f(3, 3), f(3, 3)), {"domain": "com.microsoft"}, "transB"),
]


@pytest.mark.parametrize("value", [2, -1])
@pytest.mark.parametrize(("op", "inputs", "given", "flag"), FLAGS)
def test_a_flag_is_0_or_1(op, inputs, given, flag, value):
    """Other values are read by onnxruntime now as yes, now as no, now as an error (as of CumSum and Mod)."""
    with pytest.raises(InvalidGraph, match=rf"the_node.*{flag} is 0 or 1, not {value}"):
        run_op(op, *inputs, **given, **{flag: value})


def test_what_a_compiled_program_reads_out_of_range_is_not_promised_but_safe():
    """As backends/README.md says: no error, and nothing outside of the arrays."""
    compiling = [p for p in PROVIDERS if create(p).compiler]
    if not compiling:
        pytest.skip("no provider compiles")
    for provider in compiling:
        for op, inputs in [
            ("Gather", (f(3), np.full(100, 7))),
            ("ScatterElements", (f(100), np.full(100, 700), f(100))),
        ]:
            session = ortlite.InferenceSession(make_model(op, *inputs).SerializeToString(), providers=[provider])
            (y,) = session.run(None, {f"x{k}": x for k, x in enumerate(inputs)})
            assert y.shape == (100,)


@pytest.mark.skipif("JAXExecutionProvider" not in PROVIDERS, reason="not on JAX")
def test_jax_refuses_what_it_computes_eagerly():
    import jax.numpy as jnp

    xp = create("JAXExecutionProvider").xp
    for place in (3, -4):
        with pytest.raises(ValueError, match=f"from -3 to 2, not be {place}"):
            index.gather_elements(xp, jnp.arange(3.0), jnp.asarray([place]))
