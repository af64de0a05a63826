"""The CPU provider's program in place of a library's: for runs at signatures that nothing is compiled for.

A library whose calls are compiled for their shapes, one by one, takes a second for a run at shapes that are new to it.
Where its arrays lie in the host's memory, NumPy's kernels answer on the same memory at once, and a cache that grows by
a token a run compiles nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from ortlite.errors import NotImplemented as NoKernel
from ortlite.forks import renewed_after_fork
from ortlite.plan import Plan
from ortlite.provider import transfer

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

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...] | None:
        """The outputs; None where the CPU provider cannot run the graph, or before `prepare`."""
        made = self._made
        if made is None:
            return None
        plan, program = made
        self.runs += 1
        given = _moved(inputs, self.plan.input_providers, plan.input_providers)
        return tuple(_moved(program(given), plan.output_providers, self.plan.output_providers))

    def prepare(self) -> None:
        """Make the other program, if there is none."""
        if self._made is not None or self._lacking:
            return
        with self._lock:
            if self._made is None and not self._lacking:
                try:
                    self._made = self._make()
                except NoKernel:
                    self._lacking = True


def _moved(values: Sequence[Any], sources: Sequence[Any], targets: Sequence[Any]) -> list[Any]:
    return [transfer(value, a, b) for value, a, b in zip(values, sources, targets, strict=True)]
