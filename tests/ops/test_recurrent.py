"""RNN, GRU and LSTM beside onnxruntime, in all their variants."""

from __future__ import annotations

import numpy as np
import pytest
from opcheck import check, onnxruntime_op, run_op

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
T, N, I, H = 5, 3, 4, 6


def network(op, direction, seed=0):
    """Inputs X, W, R, B, sequence_lens, initial states and peepholes."""
    rng = np.random.default_rng(seed)
    d = 2 if direction == "bidirectional" else 1
    g = GATES[op]
    shapes = [(T, N, I), (d, g * H, I), (d, g * H, H), (d, 2 * g * H)]
    x, w, r, b = (rng.standard_normal(s).astype(np.float32) * 0.5 for s in shapes)
    state = [rng.standard_normal((d, N, H)).astype(np.float32) for _ in range(2 if op == "LSTM" else 1)]
    peepholes = [rng.standard_normal((d, 3 * H)).astype(np.float32)] if op == "LSTM" else []
    return [x, w, r, b, np.array([5, 2, 3], np.int32), *state, *peepholes]


def outputs(op):
    return 3 if op == "LSTM" else 2


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [False, True])
def test_directions_lengths_and_states(op, direction, lengths):
    inputs = network(op, direction)
    if not lengths:
        inputs[4] = None
    check(op, *inputs, outputs=outputs(op), direction=direction, hidden_size=H, opset=14, rtol=1e-4, atol=1e-5)
    check(op, *inputs[:3], outputs=outputs(op), direction=direction, hidden_size=H, opset=7, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "given"),
    [
        ("GRU", {"linear_before_reset": 1}),
        ("GRU", {"clip": 0.3}),
        ("RNN", {"activations": ["Relu"], "clip": 0.4}),
        ("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [0.3]}),
        ("RNN", {"activations": ["HardSigmoid"], "activation_alpha": [0.4], "activation_beta": [0.1]}),
        ("RNN", {"activations": ["ScaledTanh"], "activation_alpha": [0.4], "activation_beta": [0.9]}),
        ("RNN", {"activations": ["Softsign"]}),
        ("RNN", {"activations": ["ThresholdedRelu"], "activation_alpha": [0.2]}),
        ("RNN", {"activations": ["Elu"], "activation_alpha": [0.7]}),
        ("LSTM", {"activations": ["HardSigmoid", "Relu", "Tanh"]}),
        ("LSTM", {"input_forget": 1}),
    ],
    ids=str,
)
def test_variants(op, given):
    check(op, *network(op, "forward"), outputs=outputs(op), hidden_size=H, opset=14, rtol=1e-4, atol=1e-5, **given)


@pytest.mark.parametrize("op", GATES)
def test_the_batch_may_come_first(op):
    x, w, r, b, lengths, *rest = network(op, "bidirectional")
    given = {"outputs": outputs(op), "direction": "bidirectional", "hidden_size": H, "opset": 22}
    time_first = onnxruntime_op(op, x, w, r, b, lengths, *rest, **given)  # which has no other layout
    states, peepholes = rest[: outputs(op) - 1], rest[outputs(op) - 1 :]
    turned = [s.transpose(1, 0, 2) for s in states]
    expected = [time_first[0].transpose(2, 0, 1, 3), *(s.transpose(1, 0, 2) for s in time_first[1:])]
    check(op, x.transpose(1, 0, 2), w, r, b, lengths, *turned, *peepholes, layout=1, expected=expected, rtol=1e-4,
          atol=1e-5, **given)  # fmt: skip


def test_clip_bounds_the_argument_of_every_activation():
    """ONNX says so; onnxruntime leaves out the one of the LSTM's output."""
    x, w, r = network("LSTM", "forward")[:3]
    start = np.full((1, N, H), 9.0, np.float32)
    y, *_ = run_op("LSTM", x, w * 0, r * 0, None, None, None, start, outputs=3, hidden_size=H, clip=0.5, opset=14)
    np.testing.assert_allclose(y[0], 0.5 * np.tanh(0.5), rtol=1e-5)


def test_shapes_that_do_not_fit():
    x, w, r = network("GRU", "forward")[:3]
    with pytest.raises(Exception, match=r"the_node.*do not fit"):
        run_op("GRU", x[..., :2], w, r, hidden_size=H)
    with pytest.raises(Exception, match=r"the_node.*sideways"):
        run_op("GRU", x, w, r, hidden_size=H, direction="sideways")
    with pytest.raises(Exception, match=r"the_node.*activation"):
        run_op("RNN", *network("RNN", "forward")[:3], hidden_size=H, activations=["Bent"])
