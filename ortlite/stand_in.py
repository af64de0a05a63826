"""The CPU provider's program in place of a library's: for runs at signatures that nothing is compiled for.

A library whose calls are compiled for their shapes, one by one, takes a second for a run at shapes that are new to it;
another's calls take longer than what they compute for one token. Where its arrays lie in the host's memory, NumPy's
kernels answer on the same memory at once, and a cache that grows by a token a run compiles nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from ortlite.errors import NotImplemented as NoKernel
from ortlite.forks import renewed_after_fork
from ortlite.plan import Plan
from ortlite.transfer import transfer

__all__ = ["StandIn"]


class StandIn:
    """A function of the inputs of `plan` that gives what its program gives.

    `make` makes the other plan and its program. `runs` counts.
    """

    _lock: threading.Lock

    def __init__(self, plan: Plan, make: Callable[[], tuple[Plan, Callable[..., tuple[Any, ...]]]]):
        self.plan, self.runs = plan, 0
        self._make = make
        self._made: tuple[Plan, Callable[..., tuple[Any, ...]]] | None = None
        self._lacking = False
        renewed_after_fork(self, "_lock", threading.Lock)

    def prepare(self) -> bool:
        """Make the other program, if there is none; False where the CPU provider cannot run the graph."""
        if self._made is None and not self._lacking:
            with self._lock:
                try:
                    self._made = self._made or self._make()
                except NoKernel:
                    self._lacking = True
        return self._made is not None

    def __call__(self, inputs: Sequence[Any], *, on_host: bool = False) -> tuple[Any, ...]:
        """The outputs, once it is prepared. `on_host`: the inputs are NumPy's still."""
        assert self._made is not None
        plan, program = self._made
        self.runs += 1
        given = inputs if on_host else _moved(inputs, self.plan.input_providers, plan.input_providers)
        return tuple(_moved(program(given), plan.output_providers, self.plan.output_providers))


def _moved(values: Sequence[Any], sources: Sequence[Any], targets: Sequence[Any]) -> list[Any]:
    return [transfer(value, a, b) for value, a, b in zip(values, sources, targets, strict=True)]
