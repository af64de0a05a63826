"""LSTM, GRU and RNN on NumPy, all directions side by side, against the kernels' own bodies in float64."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ortlite.derived import Derived
from ortlite.ops import registry
from ortlite.provider import create
from ortlite_numpy.recurrent import OVERRIDES

CPU = create("CPUExecutionProvider")
BODY = create("StrictExecutionProvider").xp
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
CASES = list(product(GATES, ["forward", "reverse", "bidirectional"], [0, 1], [None, "lens"], range(2)))


def case(name, direction, layout, lens, seed, dtype=np.float32):
    """Inputs and attributes; with a seed of 1 there are biases and initial states."""
    draw = np.random.default_rng(seed)
    time, batch, features, hidden = draw.integers(1, 9, 4).tolist()
    count = 2 if direction == "bidirectional" else 1

    def floats(*shape):
        x = draw.standard_normal(shape).astype(dtype)
        x.flags.writeable = False
        return x

    width = GATES[name] * hidden
    state = (batch, count, hidden) if layout else (count, batch, hidden)
    inputs = [
        floats(*((batch, time, features) if layout else (time, batch, features))), floats(count, width, features),
        floats(count, width, hidden), floats(count, 2 * width) if seed else None,
        draw.integers(0, time + 1, batch).astype(np.int32) if lens else None,
    ]  # fmt: skip
    inputs += [floats(*state) if seed else None for _ in range(2 if name == "LSTM" else 1)]
    return inputs, {"direction": direction, "layout": layout, "hidden_size": hidden}


def agree(name, inputs, given, dtype=np.float32, **more):
    with CPU.context():
        actual = OVERRIDES["", name, 1](CPU.xp, *inputs, **given, **more)
    assert actual is not NotImplemented
    wide = [
        None if x is None else BODY.asarray(x.astype(np.float64) if x.dtype.kind == "f" else x.copy()) for x in inputs
    ]
    wanted = registry.lookup("", name, 1).fn(BODY, *wide, **given)
    assert len(actual) == len(wanted)
    bound = 2e-6 if dtype == np.float32 else 1e-13
    for got, want in zip(actual, wanted, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, np.asarray(want), rtol=bound * 10, atol=bound)
    return actual


@pytest.mark.parametrize(("name", "direction", "layout", "lens", "seed"), CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_networks(name, direction, layout, lens, seed, dtype):
    inputs, given = case(name, direction, layout, lens, seed, dtype)
    agree(name, inputs, given, dtype)
    if name == "GRU":
        agree(name, inputs, given | {"linear_before_reset": 1}, dtype)


def test_weights_are_prepared_once_and_outputs_share_nothing():
    for name in GATES:
        inputs, given = case(name, "bidirectional", 0, None, 1)
        derived = Derived([x for x in inputs[1:4] if x is not None])
        first = agree(name, inputs, given, derived=derived)
        size = derived.nbytes
        assert size
        agree(name, inputs, given, derived=derived)
        assert derived.nbytes == size
        for i, a in enumerate(first):
            assert not any(np.shares_memory(a, b) for b in [*first[:i], *(x for x in inputs if x is not None)])


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("LSTM", {"clip": 0.5}), ("LSTM", {"input_forget": 1}), ("LSTM", {"activations": ["Sigmoid", "Relu", "Tanh"]}),
        ("GRU", {"activations": ["HardSigmoid", "Tanh"]}), ("RNN", {"activations": ["Relu"]}),
        ("RNN", {"hidden_size": 99}), ("GRU", {"direction": "sideways"}),
    ],
)  # fmt: skip
def test_what_is_unusual_is_left_to_the_kernel(name, more):
    inputs, given = case(name, "forward", 0, None, 1)
    assert OVERRIDES["", name, 1](CPU.xp, *inputs, **given | more) is NotImplemented
    assert OVERRIDES["", name, 1](CPU.xp, inputs[0][..., :0], *inputs[1:], **given) is NotImplemented


def test_a_derived_gru_knows_on_which_side_the_reset_is():
    inputs, given = case("GRU", "forward", 0, None, 1)
    derived = Derived(inputs[1:4])
    for linear in (0, 1, 0):
        agree("GRU", inputs, given | {"linear_before_reset": linear}, derived=derived)
