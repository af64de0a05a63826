"""AttnLSTM: a recurrent network that looks at a memory in every step."""

from __future__ import annotations

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Flag, Float, Floats, Int, Text, Texts
from ortlite.ops.helpers import require_rank, require_shape
from ortlite.ops.recurrent import attentive_lstm
from ortlite.ops.registry import op

MS = "com.microsoft"


@op("AttnLSTM", domain=MS)
def attn_lstm(
    xp: Namespace,
    X: Array,
    W: Array,
    R: Array,
    B: Array | None = None,
    sequence_lens: Array | None = None,
    initial_h: Array | None = None,
    initial_c: Array | None = None,
    P: Array | None = None,
    QW: Array | None = None,
    MW: Array | None = None,
    V: Array | None = None,
    M: Array | None = None,
    memory_seq_lens: Array | None = None,
    AW: Array | None = None,
    *,
    activation_alpha: Floats | None = None,
    activation_beta: Floats | None = None,
    activations: Texts | None = None,
    clip: Float = 0.0,
    direction: Text = "forward",
    hidden_size: Int | None = None,
    input_forget: Flag = 0,
) -> tuple[Array, Array, Array]:
    """LSTM with Bahdanau's attention to a memory `M` (batch, places, depth), of which `memory_seq_lens` count.

    The output of a step, times `QW` (directions, hidden, size), meets the memory, times `MW` (directions, depth, size):
    `V` (directions, size) · tanh of their sum says how much each place counts. What is read, or output and that times
    `AW` (directions, hidden + depth, width), stands behind the input of the next step, so `W` is wider by it.
    """
    if QW is None or MW is None or V is None or M is None:
        raise ValueError("AttnLSTM needs QW, MW, V and M")
    require_rank(3, X=X, W=W, R=R, QW=QW, MW=MW, M=M, AW=AW)
    count, hidden, size = QW.shape
    batch, places, depth = M.shape
    require_shape("QW", QW, R.shape[0], R.shape[2], size)
    require_shape("MW", MW, count, depth, size)
    require_shape("V", V, count, size)
    require_shape("M", M, X.shape[1], places, depth)
    require_shape("memory_seq_lens", memory_seq_lens, batch)
    width = depth
    if AW is not None:
        width = AW.shape[2]
        require_shape("AW", AW, count, hidden + depth, width)
    memory, inside = M, None
    if memory_seq_lens is not None:
        inside = xp.arange(places, dtype=memory_seq_lens.dtype) < xp.expand_dims(memory_seq_lens, axis=1)
        memory = xp.where(xp.expand_dims(inside, axis=2), M, xp.zeros_like(M))
    keys = [xp.matmul(memory, MW[d, ...]) for d in range(count)]

    def attend(d: int, h: Array) -> Array:
        query = xp.expand_dims(xp.matmul(h, QW[d, ...]), axis=1)
        scores = xp.sum(xp.tanh(keys[d] + query) * V[d, ...], axis=2, dtype=h.dtype)
        if inside is not None:
            scores = xp.where(inside, scores, xp.asarray(float("-inf"), dtype=h.dtype))
        read = xp.squeeze(xp.matmul(xp.expand_dims(xp.softmax(scores, -1), axis=1), memory), axis=1)
        return read if AW is None else xp.matmul(xp.concat([h, read], axis=1), AW[d, ...])

    Y, Y_h, Y_c, _ = attentive_lstm(
        xp, X, W, R, B, sequence_lens, [initial_h, initial_c], P, activations, activation_alpha, activation_beta, clip,
        direction, hidden_size, input_forget, width, attend,
    )  # fmt: skip
    return Y, Y_h, Y_c
