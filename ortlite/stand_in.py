"""The CPU provider's program in place of a library's: where nothing is compiled for a signature, or it is faster.

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

    `make` makes the other plan and its program. `runs` counts the calls.
    """

    _lock: threading.Lock

    def __init__(self, plan: Plan, make: Callable[[], tuple[Plan, Any]]):
        self.plan, self.runs = plan, 0
        self._make = make
        self._made: tuple[Plan, Any] | None = None
        self._lacking = False
        renewed_after_fork(self, "_lock", threading.Lock)

    def prepare(self) -> bool:
        """Make the other program, if there is none; False where the CPU provider cannot run the graph."""
        if not self._lacking:
            try:
                self._other()
            except NoKernel:
                self._lacking = True
        return not self._lacking

    def _other(self) -> tuple[Plan, Any]:
        made = self._made
        if made is None:
            with self._lock:
                made = self._made = self._made or self._make()
        return made

    def __call__(self, inputs: Sequence[Any], *, on_host: bool = False) -> tuple[Any, ...]:
        """The outputs, once it is prepared. `on_host`: the inputs are NumPy's still."""
        self.runs += 1
        return self.answer(inputs if on_host else self.given(inputs))

    def given(self, inputs: Sequence[Any]) -> list[Any]:
        """The inputs, carried to NumPy."""
        return _moved(inputs, self.plan.input_providers, self._other()[0].input_providers)

    def answer(self, given: Sequence[Any]) -> tuple[Any, ...]:
        """The outputs, where they are wanted, of inputs that are NumPy's; not counted."""
        plan, program = self._other()
        return tuple(_moved(program(given), plan.output_providers, self.plan.output_providers))

    def at_one_signature(self) -> Callable[..., tuple[Any, ...]]:
        """The same as a function of inputs that are alike in all calls: the first call makes code for them."""
        ready = False

        def call(*inputs: Any) -> tuple[Any, ...]:
            nonlocal ready
            given = self.given(inputs)
            if not ready:
                self._other()[1].specialise(given)
                ready = True
            return self.answer(given)

        return call

    def release(self) -> None:
        """Let go of the other program, if it has answered no run: it holds the weights in an order of its own."""
        with self._lock:
            if not self.runs:
                self._made = None


def _moved(values: Sequence[Any], sources: Sequence[Any], targets: Sequence[Any]) -> list[Any]:
    return [transfer(value, a, b) for value, a, b in zip(values, sources, targets, strict=True)]
