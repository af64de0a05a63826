"""Judging the models whose weights were left out.

The suite's "real" models come without weights: ConstantOfShape makes them, one number repeated. Every channel then
adds up the same terms, and the expected answer is 1,000 equal probabilities. That says next to nothing about a kernel:

- A wrong one passes. Whatever it does to a channel, it does to all of them.
- A right one fails when it adds up two channels in two orders, as at the end of a row of vector lanes or on another
  thread: a logit of 4e12 differs in its last bit, and Softmax makes zero or one of that.

So there are two rules, for every model in which a ConstantOfShape makes weights (`left_out`):

1. It also runs with *drawn* weights: no two channels are alike, and the logits are of the size that trained weights
   give. The answer must agree with onnxruntime's. Rounding moves it by less than a hundredth of the tolerance,
   in whatever order sums are taken; a tap, pad, bias or channel that is wrong by far more (tests/test_judge.py).
2. The suite's own values count as far as they are determined. Where the answer misses them, the model runs on the
   same provider with its weights *rounded* otherwise. An answer that stays is wrong. One that moves by more than the
   tolerance is a matter of rounding, and the first rule alone decides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["assert_agrees", "drawn", "expected", "left_out", "rounded"]

FILE = Path(__file__).parent / "expected" / "drawn_weights.npz"
PERIOD = 65521  # a prime: no two channels of any model begin at the same number of the table
ROUNDINGS = 2.0**-16  # more than what another order of a sum of thousands of equal terms makes


def left_out(model: onnx.ModelProto) -> dict[str, tuple[list[int], Any]]:
    """The weights that a ConstantOfShape makes of a stored shape: name -> shape and the number that is repeated."""
    stored = {t.name: t for t in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape" and node.input[0] in stored and node.attribute:
            shape = numpy_helper.to_array(stored[node.input[0]]).tolist()
            value = numpy_helper.to_array(node.attribute[0].t)[0]
            if value.dtype == np.float32 and prod(shape) > 1:
                found[node.output[0]] = (shape, value)
    return found


def drawn(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with drawn weights: vectors (biases, scales, variances) of 0.5 to 1.5, kernels that keep a size."""

    def draw(numbers: np.ndarray, shape: list[int], value: Any) -> np.ndarray:
        return numbers * np.float32(sqrt(3 / prod(shape[1:]))) if len(shape) > 1 else 1 + numbers / 2

    return _with_weights(model, draw)


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its own weights, each of them moved by some roundings."""
    return _with_weights(model, lambda numbers, _, value: value * (1 + numbers * ROUNDINGS))


def _with_weights(model: onnx.ModelProto, make: Callable[[np.ndarray, list[int], Any], np.ndarray]) -> onnx.ModelProto:
    """The model with weights made of numbers from -1 to 1. A table of them repeats: 143 million would take seconds."""
    table = np.random.RandomState(0).uniform(-1, 1, PERIOD).astype(np.float32)  # a stream that NumPy keeps
    weights = left_out(model)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for start, (name, (shape, value)) in enumerate(weights.items()):
        turns = np.empty((-(-prod(shape) // PERIOD), PERIOD), np.float32)
        turns[...] = make(np.roll(table, -start), shape, value)
        changed.graph.initializer.append(numpy_helper.from_array(turns.reshape(-1)[: prod(shape)].reshape(shape), name))
    del changed.graph.node[:]
    changed.graph.node.extend(n for n in model.graph.node if not weights.keys() & set(n.output))
    return changed


@cache
def expected() -> dict[str, np.ndarray]:
    """Case -> its model's answer with drawn weights, by onnxruntime."""
    with np.load(FILE) as stored:
        return dict(stored)


def assert_agrees(name: str, actual: np.ndarray, rtol: float) -> None:
    """Raise AssertionError unless `actual` is what the case's model answers with drawn weights.

    A value may be off by `rtol` of itself and of the average magnitude, which is what rounding errors go by.
    """
    if name not in expected():
        raise AssertionError(f"{FILE.name} has no {name}: python -m conformance.answers adds it")
    wanted = expected()[name]
    assert actual.dtype == wanted.dtype, f"with drawn weights: {actual.dtype}, expected {wanted.dtype}"
    atol = rtol * float(np.mean(np.abs(wanted)))
    np.testing.assert_allclose(actual, wanted, rtol, atol, err_msg="with drawn weights")
