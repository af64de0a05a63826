"""What a library compiled against its own calls: whichever takes less time answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

from ortlite.forks import renewed_after_fork

__all__ = ["Race"]

ROUNDS = 4  # of both at least, the first not counted
SECONDS = 0.1  # in which there are more: what takes a millisecond is easily disturbed
CLEAR = 1.5  # times as long: no more rounds, if that time is over


class Race:
    """Two functions of which the first call finds out which is faster; that one answers from then on.

    They give the same but for rounding. `told` hears whether it is the compiled one. Other threads wait for the first
    call.
    """

    def __init__(self, compiled: Callable[..., Any], plain: Callable[..., Any], told: Callable[[bool], None]):
        self.both = compiled, plain
        self.told = told
        self.chosen: Callable[..., Any] | None = None
        renewed_after_fork(self, "_lock", threading.Lock)

    _lock: threading.Lock

    def __call__(self, *inputs: Any) -> Any:
        """Call the faster one."""
        if self.chosen is None:
            with self._lock:
                if self.chosen is None:
                    self.chosen = self._faster(inputs)
                    self.both = self.chosen, self.chosen  # what the other one holds may go
        return self.chosen(*inputs)

    def _faster(self, inputs: tuple[Any, ...]) -> Callable[..., Any]:
        best = [float("inf"), float("inf")]
        for fn in self.both:
            fn(*inputs)
        spent, count = 0.0, 1
        while spent < SECONDS or (count < ROUNDS and max(best) <= CLEAR * min(best)):
            for index, fn in enumerate(self.both):
                began = perf_counter()
                fn(*inputs)
                took = perf_counter() - began
                best[index] = min(best[index], took)
                spent += took
            count += 1
        self.told(best[0] <= best[1])
        return self.both[best[0] > best[1]]
