"""LSTM, GRU and RNN in float32: one product for all inputs, then all steps of some examples in one kernel.

An item of the kernels' work is a direction and some examples, as many as leave one to every thread: what a step reads
of the state's weights serves all of them. `projected`, the inputs' product, is (time, batch, directions, gates ·
hidden); the state's weights are rows `R` (directions, hidden, gates · hidden) or panels, `tiles`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ortlite.derived import at_once
from ortlite_numpy.compiled import functions
from ortlite_numpy.compiled.functions import larger, sigmoid, smaller, tanh
from ortlite_numpy.compiled.jit import FREE, loops, most_threads, own, owned, share, wide, with_names
from ortlite_numpy.compiled.products import filled, multiplied, multiply_rows, sizes, turned_panels
from ortlite_numpy.compiled.table import Call, override
from ortlite_numpy.record import numpy as np
from ortlite_numpy.recurrent import DIRECTIONS

MS = "com.microsoft"
F = np.float32
PRODUCT, ACTIVATION = 0.06e-9, 1.2e-9  # seconds for a product of two numbers, for an activation
TOGETHER = 48  # examples at most whose states are multiplied in one pass over the weights
DEEP = 256  # numbers of a state whose products are added up in registers
INFINITY = F(np.inf)


@loops(FREE)
def add_product(h, R, first, width, y):
    """Add h @ R to y, columns from `first` on; R may be of int8."""
    count = h.size
    y = y[:width]
    for block in range(count // 8):
        k = block * 8
        a, b, c, d = h[k], h[k + 1], h[k + 2], h[k + 3]
        e, f, g, i = h[k + 4], h[k + 5], h[k + 6], h[k + 7]
        m, n, o, p = R[k, first:], R[k + 1, first:], R[k + 2, first:], R[k + 3, first:]
        q, r, s, t = R[k + 4, first:], R[k + 5, first:], R[k + 6, first:], R[k + 7, first:]
        for j in range(width):
            u = a * F(m[j]) + b * F(n[j]) + (c * F(o[j]) + d * F(p[j]))
            y[j] += u + (e * F(q[j]) + f * F(r[j]) + (g * F(s[j]) + i * F(t[j])))
    for k in range(count - count % 8, count):
        a, m = h[k], R[k, first:]
        for j in range(width):
            y[j] += a * F(m[j])


@loops()
def state_products(h, R, tiles, tall, bias, first, y):
    """Put bias + h @ R into y, of R the columns from `first` on; where there are any, `tiles` are these columns."""
    rows, hidden, width = h.shape[0], h.shape[1], y.shape[1]
    if tiles.size:
        flat = y.reshape(y.size)
        multiply_rows(
            h.reshape(h.size), hidden, 1, tiles, bias, flat[:0], -INFINITY, INFINITY, flat, width, rows, width,
            tall, DEEP, TOGETHER, False, 0, tiles.shape[0],
        )  # fmt: skip
    else:
        for r in range(rows):
            row = y[r]
            for j in range(width):
                row[j] = bias[j]
            add_product(h[r], R, first, width, row)


@loops()
def examples(item, batch, together):
    """The direction that an item of the kernels' work is about, its first example and where its examples end."""
    groups = (batch + together - 1) // together
    first = item % groups * together
    return item // groups, first, min(first + together, batch)


@loops()
def limited(x, clip):
    """Hold x between -`clip` and `clip`."""
    return smaller(larger(x, -clip), clip)


@loops()
def sigmoids(x, clip):
    """Put the sigmoid of every element, held within `clip` unless that is 0, in its place."""
    for j in range(x.size):
        x[j] = sigmoid(limited(x[j], clip) if clip > 0 else x[j])


@loops()
def lstm_cell(x, P, clip, coupled, c, h):
    """The next state of an example, from the sums `x` of its gates, which change. `P` may be empty, `clip` be 0.

    One loop does one thing: of more arrays at once LLVM cannot tell whether they overlap.
    """
    hidden = h.size
    enter, leave, stay, new = x[:hidden], x[hidden : 2 * hidden], x[2 * hidden : 3 * hidden], x[3 * hidden :]
    if P.size:
        for j in range(hidden):
            enter[j] += P[j] * c[j]
            stay[j] += P[2 * hidden + j] * c[j]
    sigmoids(enter, clip)
    if coupled:
        for j in range(hidden):
            stay[j] = F(1) - enter[j]
    else:
        sigmoids(stay, clip)
    for j in range(hidden):
        new[j] = tanh(limited(new[j], clip) if clip > 0 else new[j])
    for j in range(hidden):
        c[j] = stay[j] * c[j] + enter[j] * new[j]
    if P.size:
        for j in range(hidden):
            leave[j] += P[hidden + j] * c[j]
    sigmoids(leave, clip)
    for j in range(hidden):
        h[j] = leave[j] * tanh(limited(c[j], clip) if clip > 0 else c[j])


@loops()
def lstm_steps(projected, R, tiles, scale, P, lens, backward, clip, coupled, Y, hs, cs, tall, together, start, stop):
    """All steps of LSTMs; gates in the order input, output, forget, cell. `P` may be empty.

    R may be bytes, which are a `scale` of each column times as much; else that is empty.
    """
    wide()
    time, batch, hidden = Y.shape[0], Y.shape[2], Y.shape[3]
    limit, peepholes = F(clip), P.reshape(P.size)
    x, nothing = np.empty((together, 4 * hidden), F), np.zeros(4 * hidden, F)
    for item in range(start, stop):
        d, first, end = examples(item, batch, together)
        for step in range(time):
            t = time - 1 - step if backward[d] else step
            state_products(hs[d, first:end], R[d], tiles[d], tall, nothing, 0, x[: end - first])
            for b in range(first, end):
                y, h, row, gates = Y[t, d, b], hs[d, b], projected[t, b, d], x[b - first]
                if t >= lens[b]:
                    for j in range(hidden):
                        y[j] = F(0)
                    continue
                if scale.size:
                    for j in range(4 * hidden):
                        gates[j] = gates[j] * scale[d, j] + row[j]
                else:
                    for j in range(4 * hidden):
                        gates[j] += row[j]
                lstm_cell(gates, peepholes[3 * hidden * d : 3 * hidden * (d + 1)], limit, coupled, cs[d, b], h)
                for j in range(hidden):
                    y[j] = h[j]


@loops()
def gru_steps(projected, R, tiles, rest_tiles, rest, lens, backward, clip, linear, Y, hs, tall, together, start, stop):
    """All steps of GRUs; gates in the order update, reset, hidden; `rest` is the last bias, if `linear`."""
    wide()
    time, batch, hidden = Y.shape[0], Y.shape[2], Y.shape[3]
    limit = F(clip)
    x, n = np.empty((together, 2 * hidden), F), np.empty((together, hidden), F)
    weighed, nothing = np.empty((together, hidden), F), np.zeros(2 * hidden, F)
    for item in range(start, stop):
        d, first, end = examples(item, batch, together)
        states, count = hs[d, first:end], end - first
        for step in range(time):
            t = time - 1 - step if backward[d] else step
            state_products(states, R[d], tiles[d], tall, nothing, 0, x[:count])
            for i in range(count):
                h, row, gates, left = states[i], projected[t, first + i, d], x[i], weighed[i]
                for j in range(2 * hidden):
                    gates[j] += row[j]
                sigmoids(gates, limit)
                for j in range(hidden):
                    left[j] = h[j] if linear else gates[hidden + j] * h[j]
            state_products(weighed[:count], R[d], rest_tiles[d], tall, rest[d], 2 * hidden, n[:count])
            for i in range(count):
                y, h, row, gates, sums = Y[t, d, first + i], states[i], projected[t, first + i, d], x[i], n[i]
                if t >= lens[first + i]:
                    for j in range(hidden):
                        y[j] = F(0)
                    continue
                for j in range(hidden):
                    sums[j] = (sums[j] * gates[hidden + j] if linear else sums[j]) + row[2 * hidden + j]
                for j in range(hidden):
                    sums[j] = tanh(limited(sums[j], limit) if clip > 0 else sums[j])
                for j in range(hidden):
                    h[j] = sums[j] + gates[j] * (h[j] - sums[j])
                for j in range(hidden):
                    y[j] = h[j]


def function(x: Any) -> Any:
    """Stands for the activation in the kernel below."""


@loops()
def rnn_steps(projected, R, tiles, lens, backward, clip, Y, hs, tall, together, start, stop):
    """All steps of plain recurrent networks."""
    wide()
    time, batch, hidden = Y.shape[0], Y.shape[2], Y.shape[3]
    limit = F(clip)
    x, nothing = np.empty((together, hidden), F), np.zeros(hidden, F)
    for item in range(start, stop):
        d, first, end = examples(item, batch, together)
        for step in range(time):
            t = time - 1 - step if backward[d] else step
            state_products(hs[d, first:end], R[d], tiles[d], tall, nothing, 0, x[: end - first])
            for b in range(first, end):
                y, h, row, sums = Y[t, d, b], hs[d, b], projected[t, b, d], x[b - first]
                if t >= lens[b]:
                    for j in range(hidden):
                        y[j] = F(0)
                    continue
                for j in range(hidden):
                    sums[j] += row[j]
                for j in range(hidden):
                    h[j] = function(limited(sums[j], limit) if clip > 0 else sums[j])
                for j in range(hidden):
                    y[j] = h[j]


RNN = {n: with_names(rnn_steps, f"rnn_steps_{n}", function=getattr(functions, n)) for n in ("tanh", "relu", "sigmoid")}


NONE = np.empty((2, 0, 0, 0), F)


class Weights(NamedTuple):
    """Weights as the kernels take them: the inputs', of all directions and gates in panels, with the bias; the state's.

    These stand in rows or, for several examples at once, in the panels `tiles`: of all gates, or, of GRUs, of the
    first two, with the third one's in `rest_tiles`.
    """

    inputs: Any
    bias: Any
    state: Any
    rest: Any
    tiles: Any = NONE
    rest_tiles: Any = NONE
    scale: Any = np.empty((0, 0), F)


def prepared(W: Any, R: Any, B: Any, linear: int, tiled: bool, edge: int) -> Weights:
    """Transposed weights and the sum of both biases, of which GRUs keep one apart if `linear`.

    `tiled`: for several examples at once; columns from `edge` on are in panels of their own.
    """
    directions, width, size = W.shape
    hidden = R.shape[2]
    both = np.zeros((directions, 2 * width), F) if B is None else B
    bias = both[:, :width] + both[:, width:]
    rest = np.zeros((directions, hidden), F)
    if linear:
        rest = both[:, 2 * width - hidden :].copy()
        bias[:, width - hidden :] = both[:, width - hidden : width]
    state = np.ascontiguousarray(R.transpose(0, 2, 1))
    tiles, rest_tiles = NONE, NONE
    if tiled:
        tiles = np.stack([turned_panels(r[:edge, :, None], 1) for r in R])
        rest_tiles = np.stack([turned_panels(r[edge:, :, None], 1) for r in R]) if edge < width else NONE
        state = np.empty((directions, 0, 0), F)
    inputs = turned_panels(W.reshape(-1, size, 1), 1)
    return Weights(inputs, filled(bias, bias.size, bias.dtype), own(state), rest, tiles, rest_tiles)


class Run(NamedTuple):
    """What the three kernels have in common."""

    weights: Weights
    projected: Any
    lens: Any
    backward: Any
    states: list[Any]
    Y: Any
    together: tuple[int, int]
    items: int
    seconds: float


def _ready(
    xp: Any, X: Any, shapes: tuple[Any, Any, int], weights: Any, lens: Any, initial: Sequence[Any], direction: str,
    hidden_size: int | None, layout: int,
) -> Run | None:  # fmt: skip
    """The inputs' product, states and room for the outputs; None where shapes or dtypes are others than they must be.

    `shapes` are those of W and R, and the number of gates; `weights` makes them ready.
    """
    directions = DIRECTIONS.get(direction.lower())
    (count, width, size), (also, high, hidden), gates = shapes
    if directions is None or X.ndim != 3 or X.dtype.char != "f" or 0 in X.shape or not hidden:
        return None
    if layout:
        X = X.transpose(1, 0, 2)
        initial = [None if s is None else s.transpose(1, 0, 2) for s in initial]
    time, batch = X.shape[:2]
    fits = count == also == len(directions) and width == high == gates * hidden and size == X.shape[2]
    if not fits or hidden_size not in {None, hidden}:
        return None
    state = (count, batch, hidden)
    if any(s is not None and (s.shape != state or s.dtype.char != "f") for s in initial):
        return None
    if lens is None:
        lens = np.full(batch, time, np.int64)
    elif lens.shape != (batch,) or lens.min() < 0 or lens.max() > time:
        return None
    apart = max(most_threads(xp) // count, 1)  # parts of the batch, so that every thread has one
    together = min(-(-batch // apart), TOGETHER)
    made = weights(together > 1)
    projected = multiplied(xp, X.reshape(time * batch, size), made.inputs, made.bias, count * width)
    states = [np.zeros(state, F) if s is None else np.array(s, order="C") for s in initial]
    seconds = count * batch * time * (width * hidden * PRODUCT / min(together, 4) + width * ACTIVATION)
    return Run(
        made, projected.reshape(time, batch, count, width), own(lens.astype(np.int64, copy=False)),
        np.array(directions, np.int64), states, np.empty((time, count, batch, hidden), F),
        (sizes()[0], together), count * -(-batch // together), seconds,
    )  # fmt: skip


def _finished(run: Run, layout: int) -> tuple[Any, ...]:
    if not layout:
        return run.Y, *run.states
    return run.Y.transpose(2, 0, 1, 3), *(s.transpose(1, 0, 2) for s in run.states)


def _usual(names: Any, alphas: Any, betas: Any, clip: float, usual: tuple[str, ...], directions: int) -> bool:
    """Whether the activations are those that the kernel has."""
    if alphas or betas or clip < 0:
        return False
    return names is None or tuple(name.lower() for name in names) == usual * directions


def _floats(*arrays: Any) -> bool:
    return all(a is None or a.dtype.char == "f" for a in arrays)


def _example(gates: int) -> Any:
    def examples(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
        count = 2 if attributes.get("direction") == "bidirectional" else 1
        kept = {k: v for k, v in attributes.items() if k in {"direction", "activations", "linear_before_reset", "clip"}}
        x = [np.zeros(s, dtype) for s in ((1, 1, 1), (count, gates, 1), (count, gates, 1))]
        yield tuple(x), kept

    return examples


def _biased(B: Any, W: Any) -> bool:
    return B is None or B.shape == (W.shape[0], 2 * W.shape[1])


@override("RNN", examples=_example(1))
def rnn(
    xp: Any,
    X: Any,
    W: Any,
    R: Any,
    B: Any = None,
    sequence_lens: Any = None,
    initial_h: Any = None,
    *,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    activations: Any = ("Tanh", "Tanh"),
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    output_sequence: int = 0,
    derived: Any = at_once,
) -> Any:
    """All steps in one kernel, for tanh, relu and sigmoid."""
    name = activations[0].lower() if activations else ""
    usual = name in RNN and not activation_alpha and not activation_beta and clip >= 0
    if not usual or any(n.lower() != name for n in activations[: W.shape[0]]) or len(activations) < W.shape[0]:
        return NotImplemented
    if not _floats(W, R, B) or not _biased(B, W) or W.ndim != 3 or R.ndim != 3:
        return NotImplemented
    run = _ready(
        xp, X, (W.shape, R.shape, 1), lambda tiled: derived(prepared, W, R, B, 0, tiled, R.shape[1]), sequence_lens,
        [initial_h], direction, hidden_size, layout,
    )  # fmt: skip
    if run is None:
        return NotImplemented
    w = run.weights
    args = (run.projected, w.state, w.tiles, run.lens, run.backward, float(clip), run.Y, *run.states, *run.together)
    share(xp, RNN[name], args, run.items, run.seconds)
    return _finished(run, layout)


@override("GRU", examples=_example(3))
def gru(
    xp: Any,
    X: Any,
    W: Any,
    R: Any,
    B: Any = None,
    sequence_lens: Any = None,
    initial_h: Any = None,
    *,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    activations: Any = None,
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    output_sequence: int = 0,
    derived: Any = at_once,
) -> Any:
    """All steps in one kernel, for the usual activations."""
    if not _usual(activations, activation_alpha, activation_beta, clip, ("sigmoid", "tanh"), W.shape[0]):
        return NotImplemented
    if not _floats(W, R, B) or not _biased(B, W) or W.ndim != 3 or R.ndim != 3:
        return NotImplemented
    linear, edge = int(bool(linear_before_reset)), 2 * R.shape[2]
    run = _ready(
        xp, X, (W.shape, R.shape, 3), lambda tiled: derived(prepared, W, R, B, linear, tiled, edge),
        sequence_lens, [initial_h], direction, hidden_size, layout,
    )  # fmt: skip
    if run is None:
        return NotImplemented
    w = run.weights
    args = (
        run.projected, w.state, w.tiles, w.rest_tiles, w.rest, run.lens, run.backward, float(clip), linear,
        run.Y, *run.states, *run.together,
    )  # fmt: skip
    share(xp, gru_steps, args, run.items, run.seconds)
    return _finished(run, layout)


def _lstm(xp: Any, run: Run | None, P: Any, clip: float, input_forget: int, layout: int, derived: Any) -> Any:
    if run is None:
        return NotImplemented
    w = run.weights
    directions, _, hidden = run.states[0].shape
    if P is not None and (P.shape != (directions, 3 * hidden) or P.dtype.char != "f"):
        return NotImplemented
    peeppeepholes = np.empty((0, 0), F) if P is None else owned(P, derived)
    args = (
        run.projected, w.state, w.tiles, w.scale, peeppeepholes, run.lens, run.backward, float(clip),
        int(bool(input_forget)), run.Y, *run.states, *run.together,
    )  # fmt: skip
    share(xp, lstm_steps, args, run.items, run.seconds)
    return _finished(run, layout)


@override("LSTM", examples=_example(4))
def lstm(
    xp: Any,
    X: Any,
    W: Any,
    R: Any,
    B: Any = None,
    sequence_lens: Any = None,
    initial_h: Any = None,
    initial_c: Any = None,
    P: Any = None,
    *,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    activations: Any = None,
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
    output_sequence: int = 0,
    derived: Any = at_once,
) -> Any:
    """All steps in one kernel, for the usual activations."""
    if not _usual(activations, activation_alpha, activation_beta, clip, ("sigmoid", "tanh", "tanh"), W.shape[0]):
        return NotImplemented
    if not _floats(W, R, B) or not _biased(B, W) or W.ndim != 3 or R.ndim != 3:
        return NotImplemented
    run = _ready(
        xp, X, (W.shape, R.shape, 4), lambda tiled: derived(prepared, W, R, B, 0, tiled, R.shape[1]), sequence_lens,
        [initial_h, initial_c], direction, hidden_size, layout,
    )  # fmt: skip
    return _lstm(xp, run, P, clip, input_forget, layout, derived)


def dequantised(W: Any, scale: Any, zero: Any, R: Any, R_scale: Any, R_zero: Any, B: Any) -> Weights:
    """Quantised weights (directions, features, gates · hidden) as the kernels take them.

    Those of the state stay bytes, which every step reads, where their zero points let them.
    """

    def centred(x: Any, zero: Any) -> Any:
        return x.astype(np.int16) - _by_column(zero)

    floats = (centred(W, zero).astype(F) * _by_column(scale)).transpose(0, 2, 1)
    state = centred(R, R_zero)
    made = prepared(floats, (state.astype(F) * _by_column(R_scale)).transpose(0, 2, 1), B, 0, False, R.shape[2])
    if state.min() < -128 or state.max() > 127:
        return made
    factors = np.broadcast_to(_by_column(R_scale), (R.shape[0], 1, R.shape[2]))[:, 0]
    return made._replace(state=state.astype(np.int8), scale=np.array(factors, F, order="C"))


def _by_column(x: Any) -> Any:
    """A number for each direction, or each of its columns, as (directions, 1, columns or 1)."""
    return (x.astype(np.int16) if x.dtype.kind in "iu" else x).reshape(len(x), 1, -1)


def _quantised_example(dtype: Any, attributes: Mapping[str, Any]) -> Iterator[Call]:
    count = 2 if attributes.get("direction") == "bidirectional" else 1
    weights, scale, zero = np.zeros((count, 1, 4), np.int8), np.ones(count, np.float32), np.zeros(count, np.int8)
    kept = {k: v for k, v in attributes.items() if k in {"direction", "clip"}}
    yield (np.zeros((1, 1, 1), dtype), weights, weights, *[None] * 5, scale, zero, scale, zero), kept


@override((MS, "DynamicQuantizeLSTM", 1), examples=_quantised_example)
def dynamic_quantize_lstm(
    xp: Any,
    X: Any,
    W: Any,
    R: Any,
    B: Any,
    sequence_lens: Any,
    initial_h: Any,
    initial_c: Any,
    P: Any,
    W_scale: Any,
    W_zero_point: Any,
    R_scale: Any,
    R_zero_point: Any,
    *,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    activations: Any = None,
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    derived: Any = at_once,
) -> Any:
    """LSTM's kernel, with weights that were made floats once a session."""
    if not _usual(activations, activation_alpha, activation_beta, clip, ("sigmoid", "tanh", "tanh"), W.shape[0]):
        return NotImplemented
    if W.ndim != 3 or R.ndim != 3 or not _floats(B, W_scale, R_scale) or W.dtype.kind not in "iu":
        return NotImplemented
    (count, size, width), (also, hidden, high) = W.shape, R.shape
    if B is not None and B.shape != (count, 2 * width):
        return NotImplemented
    if any(v.shape not in {(count,), (count, width)} for v in (W_scale, W_zero_point, R_scale, R_zero_point)):
        return NotImplemented
    run = _ready(
        xp, X, ((count, width, size), (also, high, hidden), 4),
        lambda _: derived(dequantised, W, W_scale, W_zero_point, R, R_scale, R_zero_point, B),
        sequence_lens, [initial_h, initial_c], direction, None, 0,
    )  # fmt: skip
    return _lstm(xp, run, P, clip, input_forget, 0, derived)
