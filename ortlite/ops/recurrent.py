"""Recurrent networks: RNN, GRU and LSTM. One product for all inputs beforehand, then a loop over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ortlite.namespace import Namespace
from ortlite.ops.annotations import Array, Flag, Float, Floats, Int, Text, Texts
from ortlite.ops.helpers import require_shape
from ortlite.ops.registry import op

Activation = Callable[[Any], Any]
State = tuple[Any, ...]
Step = Callable[[State, State], tuple[State, State]]  # state and a slice of the inputs -> state and (output,)

# Names of activations in lower case -> defaults of alpha and beta; None: takes none.
ALPHA_BETA: dict[str, tuple[float | None, float | None]] = {
    "relu": (None, None),
    "tanh": (None, None),
    "sigmoid": (None, None),
    "softsign": (None, None),
    "softplus": (None, None),
    "affine": (1.0, 0.0),
    "leakyrelu": (0.01, None),
    "thresholdedrelu": (1.0, None),
    "scaledtanh": (1.0, 1.0),
    "hardsigmoid": (0.2, 0.5),
    "elu": (1.0, None),
}


def activation(xp: Namespace, name: str, a: float, b: float) -> Activation:
    """The activation of that name, whatever its case, with its alpha and beta."""
    functions: dict[str, Activation] = {
        "relu": xp.relu,
        "tanh": xp.tanh,
        "sigmoid": xp.sigmoid,
        "softsign": lambda x: x / (1.0 + xp.abs(x)),
        "softplus": lambda x: xp.logaddexp(x, xp.zeros_like(x)),
        "affine": lambda x: x * a + b,
        "leakyrelu": lambda x: xp.leaky_relu(x, a),
        "thresholdedrelu": lambda x: xp.where(x > a, x, xp.zeros_like(x)),
        "scaledtanh": lambda x: xp.tanh(x * b) * a,
        "hardsigmoid": lambda x: xp.hardtanh(x * a + b, 0.0, 1.0),
        "elu": lambda x: xp.where(x > 0, x, xp.expm1(xp.clip(x, None, 0.0)) * a),
    }
    return functions[name.lower()]


def _activations(
    xp: Namespace,
    names: Sequence[str],
    alphas: Sequence[float] | None,
    betas: Sequence[float] | None,
    clip: float,
    count: int,
) -> list[Activation]:
    """The functions, which consume alphas and betas in order; their argument is clipped to ±`clip` unless that is 0.

    Raises ValueError for a negative `clip`, for an unknown function, and unless there are `count` of them.
    """
    if clip < 0 or len(names) < count:
        raise ValueError(f"clip {clip} must not be negative, and {list(names)} must be {count} activations")
    left = [list(alphas or ()), list(betas or ())]
    found = []
    for name in (n.lower() for n in names):
        if name not in ALPHA_BETA:
            raise ValueError(f"unknown activation {name!r}; there are {', '.join(sorted(ALPHA_BETA))}")
        a, b = (
            0.0 if default is None else given.pop(0) if given else default
            for default, given in zip(ALPHA_BETA[name], left, strict=True)
        )
        found.append(_clipped(xp, activation(xp, name, a, b), clip))
    return found


def _clipped(xp: Namespace, fn: Activation, clip: float) -> Activation:
    return (lambda x: fn(xp.clip(x, -clip, clip))) if clip else fn


def _recurrent(
    xp: Namespace,
    X: Array,
    W: Array,
    R: Array,
    sequence_lens: Array | None,
    initial: Sequence[Array | None],
    step: Callable[[int], tuple[Array, Step]],
    gates: int,
    hidden_size: int | None,
    direction: str,
    layout: int,
) -> tuple[Array, ...]:
    """Run over time in each direction: all outputs (time, direction, batch, hidden), then every last state.

    `step(d)` gives the bias of the inputs' product and the function that takes the state and one row of it to the next
    state and the output. Examples rest in their state beyond `sequence_lens`; their outputs are 0
    there. With `layout` 1 the batch comes first everywhere. Raises ValueError for shapes that do not fit.
    """
    directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(direction.lower())
    if directions is None:
        raise ValueError(f"direction is forward, reverse or bidirectional, not {direction!r}")
    if layout:
        X = xp.permute_dims(X, (1, 0, 2))
        initial = [None if s is None else xp.permute_dims(s, (1, 0, 2)) for s in initial]
    time, batch, size = X.shape
    hidden = R.shape[-1] if hidden_size is None else hidden_size
    count = len(directions)
    if tuple(W.shape) != (count, gates * hidden, size) or tuple(R.shape) != (count, gates * hidden, hidden):
        raise ValueError(
            f"W {list(W.shape)} and R {list(R.shape)} do not fit a {direction} network with hidden_size {hidden} for X "
            f"{list(X.shape)}: they must be {[count, gates * hidden, size]} and {[count, gates * hidden, hidden]}"
        )
    for name, state in zip(("initial_h", "initial_c"), initial, strict=False):
        require_shape(name, state, count, batch, hidden)
    require_shape("sequence_lens", sequence_lens, batch)
    if sequence_lens is not None:
        xp.require_range("sequence_lens", sequence_lens, 0, time)
    rows, lasts = [], []
    for d, backward in enumerate(directions):
        bias, advance = step(d)
        projected = xp.matmul(xp.reshape(X, (time * batch, size)), W[d, ...].T) + bias
        projected = xp.reshape(projected, (time, batch, W.shape[1]))
        state = tuple(
            xp.zeros((batch, hidden), dtype=X.dtype) if s is None else xp.astype(s[d, ...], X.dtype) for s in initial
        )
        xs = [projected]
        if sequence_lens is not None:
            steps = xp.reshape(xp.arange(time, dtype=sequence_lens.dtype), (time, 1, 1))
            xs.append(steps < xp.reshape(sequence_lens, (1, batch, 1)))
            advance = partial(_while_running, xp, advance)
        state, outputs = xp.scan(advance, state, xs, backward)
        rows.append(outputs[0] if time else xp.zeros((0, batch, hidden), dtype=X.dtype))
        lasts.append(state)
    if layout:
        rows = [xp.permute_dims(row, (1, 0, 2)) for row in rows]
    Y = xp.stack(rows, axis=2 if layout else 1)
    return (Y, *(xp.stack(list(column), axis=layout) for column in zip(*lasts, strict=True)))


def _while_running(xp: Namespace, advance: Step, state: State, row: State) -> tuple[State, State]:
    """A step of the examples that are still running; the others rest in their state and put out 0."""
    x, running = row
    after, (output,) = advance(state, (x,))
    output = xp.where(running, output, xp.zeros_like(output))
    return tuple(xp.where(running, new, old) for new, old in zip(after, state, strict=True)), (output,)


def _biases(xp: Namespace, B: Array | None, d: int, R: Array) -> tuple[Array, Array]:
    """The biases of the inputs' and the state's product in one direction; zeros when there are none."""
    width = R.shape[1]
    if B is None:
        return xp.zeros((width,), dtype=R.dtype), xp.zeros((width,), dtype=R.dtype)
    if tuple(B.shape) != (R.shape[0], 2 * width):
        raise ValueError(f"B must be {(R.shape[0], 2 * width)}, not {tuple(B.shape)}")
    return B[d, :width], B[d, width:]


def _split(x: Array, count: int) -> list[Array]:
    """Gates side by side in the last axis, apart."""
    width = x.shape[-1] // count
    return [x[..., i * width : (i + 1) * width] for i in range(count)]


@op("RNN")
def rnn(
    xp: Namespace,
    X: Array,
    W: Array,
    R: Array,
    B: Array | None = None,
    sequence_lens: Array | None = None,
    initial_h: Array | None = None,
    *,
    activation_alpha: Floats | None = None,
    activation_beta: Floats | None = None,
    activations: Texts = ("Tanh", "Tanh"),
    clip: Float = 0.0,
    direction: Text = "forward",
    hidden_size: Int | None = None,
    layout: Flag = 0,
    output_sequence: Flag = 0,
) -> tuple[Array, Array]:
    """H = f(X W' + H R' + biases) over time; see the LSTM for the shapes."""
    fs = _activations(xp, activations, activation_alpha, activation_beta, clip, W.shape[0])

    def step(d: int) -> tuple[Array, Step]:
        wb, rb = _biases(xp, B, d, R)
        weights = R[d, ...].T

        def advance(state: State, row: State) -> tuple[State, State]:
            after = (fs[d](row[0] + xp.matmul(state[0], weights)),)
            return after, after

        return wb + rb, advance

    Y, Y_h = _recurrent(xp, X, W, R, sequence_lens, [initial_h], step, 1, hidden_size, direction, layout)
    return Y, Y_h


@op("GRU")
def gru(
    xp: Namespace,
    X: Array,
    W: Array,
    R: Array,
    B: Array | None = None,
    sequence_lens: Array | None = None,
    initial_h: Array | None = None,
    *,
    activation_alpha: Floats | None = None,
    activation_beta: Floats | None = None,
    activations: Texts | None = None,
    clip: Float = 0.0,
    direction: Text = "forward",
    hidden_size: Int | None = None,
    layout: Flag = 0,
    linear_before_reset: Flag = 0,
    output_sequence: Flag = 0,
) -> tuple[Array, Array]:
    """Gated recurrent units, gates in the order update, reset, hidden; see the LSTM for the shapes.

    `linear_before_reset`: the reset gate weighs the state's product instead of the state.
    """
    names = activations or ("Sigmoid", "Tanh") * W.shape[0]
    fs = _activations(xp, names, activation_alpha, activation_beta, clip, 2 * W.shape[0])

    def step(d: int) -> tuple[Array, Step]:
        wb, rb = _biases(xp, B, d, R)
        f, g = fs[2 * d], fs[2 * d + 1]
        hidden = R.shape[2]
        gates, candidate = R[d, : 2 * hidden, :].T, R[d, 2 * hidden :, :].T
        zeros = xp.zeros((hidden,), dtype=R.dtype)
        rest = rb[2 * hidden :] if linear_before_reset else zeros
        bias = wb + (xp.concat([rb[: 2 * hidden], zeros]) if linear_before_reset else rb)

        def advance(state: State, row: State) -> tuple[State, State]:
            (h,), (x,) = state, row
            z, r = _split(f(x[:, : 2 * hidden] + xp.matmul(h, gates)), 2)
            weighed = r * (xp.matmul(h, candidate) + rest) if linear_before_reset else xp.matmul(r * h, candidate)
            new = g(x[:, 2 * hidden :] + weighed)
            after = (new + z * (h - new),)
            return after, after

        return bias, advance

    Y, Y_h = _recurrent(xp, X, W, R, sequence_lens, [initial_h], step, 3, hidden_size, direction, layout)
    return Y, Y_h


@op("LSTM")
def lstm(
    xp: Namespace,
    X: Array,
    W: Array,
    R: Array,
    B: Array | None = None,
    sequence_lens: Array | None = None,
    initial_h: Array | None = None,
    initial_c: Array | None = None,
    P: Array | None = None,
    *,
    activation_alpha: Floats | None = None,
    activation_beta: Floats | None = None,
    activations: Texts | None = None,
    clip: Float = 0.0,
    direction: Text = "forward",
    hidden_size: Int | None = None,
    input_forget: Flag = 0,
    layout: Flag = 0,
    output_sequence: Flag = 0,
) -> tuple[Array, Array, Array]:
    """Long short-term memory, gates in the order input, output, forget, cell; peepholes `P` input, output, forget.

    `X` is (time, batch, features), `W` (directions, gates · hidden, features), `R` (directions, gates · hidden,
    hidden), `B` both biases side by side, states (directions, batch, hidden). Returns all outputs (time, directions,
    batch, hidden) and the last states; with `layout` 1 the batch comes first. `input_forget`: the forget gate is 1 -
    the input gate.
    """
    names = activations or ("Sigmoid", "Tanh", "Tanh") * W.shape[0]
    fs = _activations(xp, names, activation_alpha, activation_beta, clip, 3 * W.shape[0])

    def step(d: int) -> tuple[Array, Step]:
        wb, rb = _biases(xp, B, d, R)
        weights, cell = R[d, ...].T, _lstm_cell(fs[3 * d : 3 * d + 3], P, d, R, input_forget)

        def advance(state: State, row: State) -> tuple[State, State]:
            h, c = state
            h, c = cell(row[0] + xp.matmul(h, weights), c)
            return (h, c), (h,)

        return wb + rb, advance

    Y, Y_h, Y_c = _recurrent(
        xp, X, W, R, sequence_lens, [initial_h, initial_c], step, 4, hidden_size, direction, layout
    )
    return Y, Y_h, Y_c


def _lstm_cell(
    fs: Sequence[Activation], P: Array | None, d: int, R: Array, input_forget: int
) -> Callable[[Array, Array], tuple[Array, Array]]:
    """From the gates before their activations and the cell to the next output and cell, in direction `d`."""
    f, g, h_of = fs
    hidden = R.shape[2]
    require_shape("P", P, R.shape[0], 3 * hidden)
    peep_i, peep_o, peep_f = (None,) * 3 if P is None else _split(P[d, ...], 3)

    def cell(gates: Array, c: Array) -> tuple[Array, Array]:
        if P is None:
            i, o, forget = _split(f(gates[:, : 3 * hidden]), 3)
        else:
            i, o, forget, _ = _split(gates, 4)
            i, forget = f(i + peep_i * c), f(forget + peep_f * c)
        if input_forget:
            forget = 1.0 - i
        c = forget * c + i * g(gates[:, 3 * hidden :])
        if P is not None:
            o = f(o + peep_o * c)
        return o * h_of(c), c

    return cell


def attentive_lstm(
    xp: Namespace,
    X: Array,
    W: Array,
    R: Array,
    B: Array | None,
    sequence_lens: Array | None,
    initial: Sequence[Array | None],
    P: Array | None,
    activations: Texts | None,
    alphas: Floats | None,
    betas: Floats | None,
    clip: float,
    direction: str,
    hidden_size: int | None,
    input_forget: int,
    width: int,
    attend: Callable[[int, Array], Array],
) -> tuple[Array, ...]:
    """The LSTM whose input at each step has what it attended to in the step before at its end, `width` numbers.

    `attend(d, h)` says from the output what that is, in direction `d`. Returns all outputs, and the last states.
    """
    size = X.shape[2]
    if W.ndim != 3 or W.shape[2] != size + width:
        raise ValueError(f"W {list(W.shape)} does not fit inputs of {size} and an attention of {width}")
    fs = _activations(
        xp, activations or ("Sigmoid", "Tanh", "Tanh") * W.shape[0], alphas, betas, clip, 3 * W.shape[0]
    )  # fmt: skip

    def step(d: int) -> tuple[Array, Step]:
        wb, rb = _biases(xp, B, d, R)
        weights, attended = R[d, ...].T, W[d, :, size:].T
        cell = _lstm_cell(fs[3 * d : 3 * d + 3], P, d, R, input_forget)

        def advance(state: State, row: State) -> tuple[State, State]:
            h, c, seen = state
            h, c = cell(row[0] + xp.matmul(h, weights) + xp.matmul(seen, attended), c)
            return (h, c, attend(d, h)), (h,)

        return wb + rb, advance

    start = xp.zeros((W.shape[0], X.shape[1], width), dtype=X.dtype)
    return _recurrent(
        xp, X, W[:, :, :size], R, sequence_lens, [*initial, start], step, 4, hidden_size, direction, 0
    )  # fmt: skip
