"""Small recurrent networks by the loops that `pip install 'ortlite[fast]'` compiles for NumPy.

oneDNN sets up every call anew, 40 of the 135 microseconds of a layer of 96, and torch's GRU and RNN are a call a
product: up to a size the compiled loops take a quarter to three quarters of the time. They read the tensors' memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import prod
from typing import Any

import torch

from ortlite.derived import Derived, lasting
from ortlite.provider import CPU, create
from ortlite_torch.onednn import inferring
from ortlite_torch.record import opaque

__all__ = ["small", "smaller"]

SMALL = 1 << 18  # products of a step of one direction


@cache
def _there() -> bool:
    return bool(create(CPU).compiles_ahead)


def smaller(X: Any, W: Any, R: Any, B: Any, batch: int, derived: Any) -> bool:
    """Whether a network of X (time, batch, features) is one for `small`."""
    return batch * prod(R.shape[1:]) <= SMALL and inferring(X, W, R, B) and lasting(derived, W) and _there()


class _Network:
    """A network with its weights: a function of the input and the first states, all of them tensors."""

    def __init__(self, op_type: str, W: Any, R: Any, B: Any, attributes: tuple[tuple[str, Any], ...]):
        self.provider = create(CPU, {"intra_op_num_threads": "1"})  # two threads and torch's would want two cores
        self.fn = self.provider.overrides["", op_type, 1]
        self.weights = [None if w is None else w.numpy() for w in (W, R, B)]
        self.given: Mapping[str, Any] = dict(attributes)
        self.derived = Derived([w for w in self.weights if w is not None])
        if (warm := getattr(self.fn, "warm", None)) is not None:
            warm(("float32",), self.given)

    def __call__(self, X: Any, initial: Any) -> tuple[Any, ...]:
        states = [None if s is None else s.numpy() for s in initial]
        with self.provider.context():
            found = self.fn(
                self.provider.xp, X.numpy(), *self.weights, None, *states, derived=self.derived, **self.given
            )
        return tuple(map(torch.from_numpy, found))


def small(
    op_type: str, X: Any, W: Any, R: Any, B: Any, initial: Any, derived: Any, **attributes: Any
) -> tuple[Any, ...]:
    """All outputs (time, directions, batch, hidden) and the last states."""
    found: tuple[Any, ...] = _run(derived(_Network, op_type, W, R, B, tuple(attributes.items())), X, tuple(initial))
    return found


@opaque
def _run(network: _Network, X: Any, initial: Any) -> Any:
    return network(X, initial)
