"""LSTM, GRU and RNN with their usual activations: both directions side by side, every step in place.

The product of all inputs comes first, that of the state is one call a step. A sigmoid is half a hyperbolic tangent of
half its argument, and the halves are in the prepared weights: one call is the nonlinearity of all gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ortlite.derived import at_once
from ortlite.namespace import Namespace
from ortlite_numpy import products
from ortlite_numpy.elementwise import FLOATS
from ortlite_numpy.record import numpy as np

__all__ = ["OVERRIDES"]

DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def prepared(W: Any, R: Any, B: Any, halved: int, apart: int) -> tuple[Any, ...]:
    """Transposed weights of the inputs and of the state, and the bias of their sum; the first `halved` gates halved.

    The biases that R has for the last `apart` gates are kept apart, as the fourth.
    """
    count, width, hidden = R.shape
    bias = np.zeros((count, 2 * width), R.dtype) if B is None else B
    scale = np.ones((width, 1), R.dtype)
    scale[: halved * hidden] = 0.5
    edge = width - apart * hidden
    total = bias[:, :width].copy()
    total[:, :edge] += bias[:, width : width + edge]
    total *= scale[:, 0]
    turned = [np.ascontiguousarray((weights * scale).transpose(0, 2, 1)) for weights in (W, R)]
    return *turned, total, bias[:, None, width + edge :].copy()


def _given(
    X: Any,
    W: Any,
    R: Any,
    B: Any,
    lens: Any,
    initial: Sequence[Any],
    gates: int,
    direction: str,
    size: Any,
    layout: int,
) -> Any:
    """The directions and X by time where this module takes the call, else None: the kernel says what is wrong."""
    backward = DIRECTIONS.get(direction.lower())
    if backward is None or X.dtype not in FLOATS or X.ndim != 3 or W.ndim != 3 or R.ndim != 3:
        return None
    X = X.transpose(1, 0, 2) if layout else X
    (time, batch, features), count, hidden = X.shape, len(backward), R.shape[2]
    state = (batch, count, hidden) if layout else (count, batch, hidden)
    wanted = [
        (W, (count, gates * hidden, features)), (R, (count, gates * hidden, hidden)),
        (B, (count, 2 * gates * hidden)), *((s, state) for s in initial),
    ]  # fmt: skip
    if any(v is not None and (v.shape != shape or v.dtype != X.dtype) for v, shape in wanted):
        return None
    if size not in {None, hidden} or 0 in {time, batch, hidden} or (lens is not None and lens.shape != (batch,)):
        return None
    if lens is not None and (lens.min() < 0 or lens.max() > time):
        return None
    return backward, X


def _run(
    backward: Sequence[bool],
    X: Any,
    weights: tuple[Any, ...],
    lens: Any,
    initial: Sequence[Any],
    layout: int,
    threads: int,
    step: Callable[..., None],
) -> tuple[Any, ...]:
    """All outputs and every last state. `step(x, h, after, cells, rest)` writes the state after `x`, of one time."""
    wt, _, bias, rest = weights
    (time, batch, features), count, hidden = X.shape, len(backward), weights[1].shape[1]
    rows = np.ascontiguousarray(X).reshape(time * batch, features)
    xs = np.empty((time, count, batch, wt.shape[2]), X.dtype)
    for d, turned in enumerate(backward):
        y = products.multiply(rows, wt[d], np.empty((time * batch, wt.shape[2]), X.dtype), threads)
        np.add(y.reshape(time, batch, -1)[:: -1 if turned else 1], bias[d], out=xs[:, d])
    hs = np.empty((time, count, batch, hidden), X.dtype)
    state = [np.zeros((count, batch, hidden), X.dtype) if s is None else _by_direction(s, layout) for s in initial]
    others = [np.array(s, order="C") for s in state[1:]]  # cells are changed in place
    h = state[0]
    if lens is None:
        for t in range(time):
            step(xs[t], h, hs[t], others, rest)
            h = hs[t]
    else:
        order = np.stack([np.arange(time)[:: -1 if turned else 1] for turned in backward], axis=1)
        resting = order[:, :, None, None] >= lens[:, None]
        h = h.copy()
        for t in range(time):
            before = [s.copy() for s in others]
            step(xs[t], h, hs[t], others, rest)
            for s, old in zip(others, before, strict=True):
                np.copyto(s, old, where=resting[t])
            np.copyto(h, hs[t], where=~resting[t])
            hs[t][np.broadcast_to(resting[t], hs[t].shape)] = 0
    last = [h.copy(), *others]  # turning the outputs around must not change it
    for d, turned in enumerate(backward):
        if turned:
            hs[:, d] = hs[::-1, d].copy()
    if layout:
        return hs.transpose(2, 0, 1, 3), *(s.transpose(1, 0, 2) for s in last)
    return hs, *last


def _by_direction(state: Any, layout: int) -> Any:
    return state.transpose(1, 0, 2) if layout else state


def _usual(names: Any, usual: Sequence[str], count: int) -> bool:
    """Whether the activations are the usual ones."""
    return names is None or [name.lower() for name in names][: len(usual) * count] == [*usual] * count


def lstm(
    xp: Namespace,
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
    hidden_size: Any = None,
    input_forget: int = 0,
    layout: int = 0,
    output_sequence: int = 0,
    derived: Any = at_once,
) -> Any:
    """Without peepholes, clipping and coupled gates."""
    given = _given(X, W, R, B, sequence_lens, (initial_h, initial_c), 4, direction, hidden_size, layout)
    if given is None or P is not None or clip or input_forget:
        return NotImplemented
    if not _usual(activations, ("sigmoid", "tanh", "tanh"), len(given[0])):
        return NotImplemented
    weights = derived(prepared, W, R, B, 3, 0)
    hidden, half = R.shape[2], X.dtype.type(0.5)
    gates = np.empty((R.shape[0], given[1].shape[1], 4 * hidden), X.dtype)
    open_, i, o, f, g = (gates[..., a * hidden : b * hidden] for a, b in ((0, 3), (0, 1), (1, 2), (2, 3), (3, 4)))
    matmul, add, multiply, tanh = np.matmul, np.add, np.multiply, np.tanh
    turned = weights[1]

    def step(x: Any, h: Any, after: Any, cells: Any, _: Any) -> None:
        (c,) = cells
        matmul(h, turned, out=gates)
        add(gates, x, out=gates)
        tanh(gates, out=gates)
        multiply(open_, half, out=open_)
        add(open_, half, out=open_)
        multiply(c, f, out=c)
        multiply(i, g, out=g)
        add(c, g, out=c)
        tanh(c, out=after)
        multiply(after, o, out=after)

    return _run(given[0], given[1], weights, sequence_lens, (initial_h, initial_c), layout, xp.threads, step)


def gru(
    xp: Namespace,
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
    hidden_size: Any = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    output_sequence: int = 0,
    derived: Any = at_once,
) -> Any:
    """Without clipping; the reset gate on either side of the product."""
    given = _given(X, W, R, B, sequence_lens, (initial_h,), 3, direction, hidden_size, layout)
    if given is None or clip or not _usual(activations, ("sigmoid", "tanh"), len(given[0])):
        return NotImplemented
    apart = 1 if linear_before_reset else 0
    weights = derived(prepared, W, R, B, 2, apart)
    hidden, half = R.shape[2], X.dtype.type(0.5)
    product = np.empty((R.shape[0], given[1].shape[1], 3 * hidden), X.dtype)
    both, z, r, n = (product[..., a * hidden : b * hidden] for a, b in ((0, 2), (0, 1), (1, 2), (2, 3)))
    turned, first = weights[1], 2 * hidden
    gates, candidate = turned[..., :first], turned[..., first:]
    weighed = np.empty((R.shape[0], given[1].shape[1], hidden), X.dtype)

    def step(x: Any, h: Any, after: Any, _: Any, rest: Any) -> None:
        if linear_before_reset:
            np.matmul(h, turned, out=product)
        else:
            np.matmul(h, gates, out=both)
        np.add(both, x[..., :first], out=both)
        np.tanh(both, out=both)
        np.multiply(both, half, out=both)
        np.add(both, half, out=both)
        if linear_before_reset:
            np.add(n, rest, out=n)
            np.multiply(n, r, out=n)
        else:
            np.multiply(r, h, out=weighed)
            np.matmul(weighed, candidate, out=n)
        np.add(n, x[..., first:], out=n)
        np.tanh(n, out=n)
        np.subtract(h, n, out=after)
        np.multiply(after, z, out=after)
        np.add(after, n, out=after)

    return _run(given[0], given[1], weights, sequence_lens, (initial_h,), layout, xp.threads, step)


def rnn(
    xp: Namespace,
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
    hidden_size: Any = None,
    layout: int = 0,
    output_sequence: int = 0,
    derived: Any = at_once,
) -> Any:
    """With hyperbolic tangents, without clipping."""
    given = _given(X, W, R, B, sequence_lens, (initial_h,), 1, direction, hidden_size, layout)
    if given is None or clip or not _usual(activations, ("tanh",), len(given[0])):
        return NotImplemented
    weights = derived(prepared, W, R, B, 0, 0)
    turned = weights[1]

    def step(x: Any, h: Any, after: Any, _: Any, rest: Any) -> None:
        np.matmul(h, turned, out=after)
        np.add(after, x, out=after)
        np.tanh(after, out=after)

    return _run(given[0], given[1], weights, sequence_lens, (initial_h,), layout, xp.threads, step)


OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "LSTM", 1): lstm,
    ("", "GRU", 1): gru,
    ("", "RNN", 1): rnn,
}
