"""Recurrent networks by torch's own. On the CPU, oneDNN's LSTM gets weights in its layout, made once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch

from ortlite.derived import at_once
from ortlite.namespace import Namespace
from ortlite_torch.onednn import Kept, inferring, onednn
from ortlite_torch.primitives import differentiated
from ortlite_torch.threads import fit

__all__ = ["OVERRIDES"]

layer: Any = torch.ops.aten.mkldnn_rnn_layer.default
LSTM = 2  # among the networks of oneDNN
PACKS = torch.backends.mkldnn.is_available() and hasattr(onednn, "_reorder_mkldnn_rnn_layer_weight")


@contextmanager
def _without_advice(x: Any) -> Iterator[None]:
    """Every call of cuDNN's networks warns that their weights are not one block: here they are gathered anyway."""
    if not x.is_cuda:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
        yield


def _fused(
    run: Callable[..., Any],
    order: tuple[int, ...],
    X: Any,
    W: Any,
    R: Any,
    B: Any,
    lengths: Any,
    initial: list[Any],
    *,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    output_sequence: int = 0,
    derived: Any = at_once,
) -> Any:
    """One of torch's recurrent networks: all outputs (time, directions, batch, hidden) and the last states.

    `order` says which of ONNX's gates stands at each of torch's places. The usual activations know no alpha and beta.
    """
    backward, both = direction == "reverse", direction == "bidirectional"
    count = 2 if both else 1
    start = (X.shape[0], count, R.shape[2]) if layout else (count, X.shape[1], R.shape[2])
    fits = (  # torch ends the process where a state has another shape
        lengths is None
        and not clip
        and direction in {"forward", "reverse", "bidirectional"}
        and W.shape[0] == R.shape[0] == count
        and W.shape[2] == X.shape[2]
        and W.shape[1] == R.shape[1]
        and hidden_size in (None, R.shape[2])
        and W.shape[1] == len(order) * R.shape[2]
        and (B is None or tuple(B.shape) == (count, 2 * W.shape[1]))
        and 0 not in X.shape
        and all(s is None or tuple(s.shape) == start for s in initial)
        and all(s is None or s.dtype == X.dtype for s in (W, R, B, *initial))
    )
    if not fits or differentiated(X, W, R, B, *initial):  # it has no second derivatives
        return NotImplemented
    if layout:
        X, initial = X.transpose(0, 1), [None if s is None else s.transpose(0, 1) for s in initial]
    hidden = R.shape[2]
    derived = at_once if torch.compiler.is_compiling() else derived
    states = [X.new_zeros(count, X.shape[1], hidden) if s is None else s.contiguous() for s in initial]
    if run is torch.lstm and PACKS and inferring(X, W, R, B, *initial):
        y, last = _onednn_lstm(X, derived(packings, W, R, B, order, backward).of(tuple(X.shape)), states, direction)
    else:
        weights = derived(arranged, W, R, B, order)
        x = X.flip(0) if backward else X
        with _without_advice(x):
            step = 2 * x.shape[1] * prod(R.shape[1:])
            before = states if len(states) > 1 else states[0]
            y, *last = fit(run, step, x)(x, before, weights, True, 1, 0.0, False, both, False)
        y = y.flip(0) if backward else y
    y = y.reshape(*y.shape[:2], count, hidden)
    if layout:
        return y.transpose(0, 1), *(s.transpose(0, 1) for s in last)
    return y.transpose(1, 2), *last


def arranged(W: Any, R: Any, B: Any, order: tuple[int, ...]) -> tuple[Any, ...]:
    """Torch's weights of a network: of each direction those of the input, those of the state, and their biases."""
    hidden = R.shape[2]
    places = torch.cat([torch.arange(g * hidden, (g + 1) * hidden, device=W.device) for g in order])
    weights: list[Any] = []
    for d in range(W.shape[0]):
        biases = W.new_zeros(2, W.shape[1]) if B is None else B[d].reshape(2, -1)
        weights += [W[d][places], R[d][places], biases[0][places], biases[1][places]]
    return tuple(weights)


def packings(W: Any, R: Any, B: Any, order: tuple[int, ...], backward: bool) -> Kept:
    """The weights of every direction as oneDNN wants them for inputs of some sizes."""
    weights = arranged(W, R, B, order)
    directions = [weights[i : i + 4] for i in range(0, len(weights), 4)]

    def of(size: tuple[int, ...]) -> Any:
        return [
            (*onednn._reorder_mkldnn_rnn_layer_weight(w, r, r.shape[1], backward or d > 0, True, False, size), b, c)  # noqa: SLF001
            for d, (w, r, b, c) in enumerate(directions)
        ]

    return Kept(of)


def _onednn_lstm(X: Any, packed: Any, states: Any, direction: str) -> tuple[Any, list[Any]]:
    """All outputs, directions side by side, and the last states. oneDNN reads backwards by itself."""
    X = X.contiguous()  # it reads another layout as if it were this one
    found: list[Any] = []
    step = 8 * X.shape[1] * states[0].shape[2] * (X.shape[2] + states[0].shape[2])  # each of them waits for the last
    for d, weights in enumerate(packed):
        h, c = (state[d : d + 1] for state in states)
        backward = direction == "reverse" or d > 0
        given = (X, *weights, h, c, backward, [], LSTM, h.shape[2], 1, True, False, False, False)
        found.append(fit(layer, step, X)(*given)[:3])
    if len(found) == 1:
        y, *last = found[0]
        return y, last
    return torch.cat([y for y, _, _ in found], 2), [torch.cat(pair) for pair in list(zip(*found, strict=True))[1:]]


def rnn(
    xp: Namespace,
    X: Any,
    W: Any,
    R: Any,
    B: Any = None,
    sequence_lens: Any = None,
    initial_h: Any = None,
    *,
    activations: Any = ("Tanh", "Tanh"),
    derived: Any = at_once,
    **rest: Any,
) -> Any:
    """torch.rnn_tanh and torch.rnn_relu."""
    names = {name.lower() for name in activations}
    if names not in ({"tanh"}, {"relu"}):
        return NotImplemented
    run = torch.rnn_tanh if names == {"tanh"} else torch.rnn_relu
    return _fused(run, (0,), X, W, R, B, sequence_lens, [initial_h], derived=derived, **rest)


def gru(
    xp: Namespace,
    X: Any,
    W: Any,
    R: Any,
    B: Any = None,
    sequence_lens: Any = None,
    initial_h: Any = None,
    *,
    activations: Any = None,
    linear_before_reset: int = 0,
    derived: Any = at_once,
    **rest: Any,
) -> Any:
    """torch.gru, whose reset gate comes after the product."""
    if activations or not linear_before_reset:
        return NotImplemented
    return _fused(torch.gru, (1, 0, 2), X, W, R, B, sequence_lens, [initial_h], derived=derived, **rest)


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
    activations: Any = None,
    input_forget: int = 0,
    derived: Any = at_once,
    **rest: Any,
) -> Any:
    """torch.lstm."""
    if activations or P is not None or input_forget:
        return NotImplemented
    return _fused(torch.lstm, (0, 2, 3, 1), X, W, R, B, sequence_lens, [initial_h, initial_c], derived=derived, **rest)


OVERRIDES: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("", "RNN", 1): rnn,
    ("", "GRU", 1): gru,
    ("", "LSTM", 1): lstm,
}
